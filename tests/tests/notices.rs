//! A real daemon tells people by a real mail server and a real receiver of posts: none of what it has to tell is lost when
//! it dies or these are away, and nothing is told twice.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_types::api::{JobView, Readiness};
use vcl_types::lending::ReservationView;
use vcl_types::usage::UsageReport;

const LONG: Duration = Duration::from_secs(60);
const SECRET: &str = "a-secret-that-both-know";

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A Python with aiosmtpd, made once, in the cache.
fn python() -> Result<Utf8PathBuf> {
    let cache = std::env::var("VCL_CACHE").ok().filter(|path| !path.is_empty());
    let cache =
        cache.map_or_else(|| Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache"), Utf8PathBuf::from);
    let venv = cache.join("tools/aiosmtpd");
    let python = venv.join("bin/python");
    let known = |python: &Utf8Path| run(Command::new(python).args(["-c", "import aiosmtpd"])).is_ok();
    if !known(&python) {
        run(Command::new("python3").args(["-m", "venv", venv.as_str()]))?;
        run(Command::new(&python).args(["-m", "pip", "install", "-q", "aiosmtpd==1.4.6"]))?;
    }
    Ok(python)
}

/// The mail server and the receiver of posts.
struct Office {
    child: Child,
}
impl Office {
    fn open(site: &Site) -> Result<Self> {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/notices/office.py");
        let mut child = Command::new(&site.python)
            .args([script, &site.smtp.to_string(), &site.http.to_string()])
            .args([site.path.join("cert.pem"), site.path.join("cert.key")])
            .arg(SECRET)
            .arg(site.path.join("told.jsonl"))
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)?;
        ensure!(line == "open\n", "the office does not open: {line}");
        Ok(Self { child })
    }
}
impl Drop for Office {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A request that is answered with `connection: close`: its status and body.
fn ask(
    mut stream: impl std::io::Read + std::io::Write,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String)> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, body.to_owned()))
}

struct Site {
    daemon: Daemon,
    path: Utf8PathBuf,
    python: Utf8PathBuf,
    smtp: u16,
    http: u16,
    metrics: u16,
    _directory: tempfile::TempDir,
}

impl Site {
    fn new() -> Result<Self> {
        let python = python()?;
        let directory = tempfile::Builder::new().prefix("vcl-told-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap().to_owned();
        let key = path.join("id");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]))?;
        let disk = path.join("tiny.qcow2");
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"]))?;
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        std::fs::write(path.join("cert.pem"), own.cert.pem())?;
        std::fs::write(path.join("cert.key"), own.signing_key.serialize_pem())?;
        std::fs::create_dir_all(path.join("credentials"))?;
        std::fs::write(path.join("credentials/smtp"), "wordpass\n")?;
        std::fs::write(path.join("credentials/hook"), SECRET)?;
        std::fs::create_dir_all(path.join("texts"))?;
        std::fs::write(
            path.join("texts/ended.txt"),
            "Schluß mit {{ computer }} für {{ owner }}\nWeil: {{ because }}\n",
        )?;
        let (smtp, http, metrics) = (free_port()?, free_port()?, free_port()?);
        let mut setup = Setup::new(&path, &key, &["sim-[01-02]"]);
        setup.simulated = Some(Simulated { at_once: 10, delay: "0s" });
        setup.environment = vec![("CREDENTIALS_DIRECTORY".into(), path.join("credentials").to_string())];
        setup.more = format!(
            "[reservations]\nafter_use = \"nothing\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
             [notices]\nadmins = \"gone@example.org ops@example.org\"\ntemplates = \"{path}/texts\"\n\
             [notices.smtp]\nserver = \"localhost\"\nport = {smtp}\nca = \"{path}/cert.pem\"\n\
             from = \"VCL <vcl@example.org>\"\nuser = \"vcl\"\npassword = {{ credential = \"smtp\" }}\n\
             [notices.webhook]\nurl = \"http://127.0.0.1:{http}/hook\"\nsecret = {{ credential = \"hook\" }}\n"
        );
        let daemon = Daemon::start(setup)?;
        let _: JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
        Ok(Self { daemon, path, python, smtp, http, metrics, _directory: directory })
    }
    fn api(&self, method: &str, path: &str, body: &Value) -> Result<String> {
        let stream = UnixStream::connect(self.path.join("vcld.sock"))?;
        let (status, said) = ask(stream, method, path, &body.to_string())?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {said}");
        Ok(said)
    }
    fn watch(&self, path: &str) -> Result<(u16, String)> {
        ask(TcpStream::connect(("127.0.0.1", self.metrics))?, "GET", path, "")
    }
    /// The value of a metric.
    fn metric(&self, line: &str) -> Result<f64> {
        let (_, text) = self.watch("/metrics")?;
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        Ok(found.with_context(|| format!("no {line} in {text}"))?.parse()?)
    }
    /// What was told so far.
    fn told(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path.join("told.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
    fn of(&self, channel: &str, kind: &str) -> Vec<Value> {
        self.told().into_iter().filter(|t| t["channel"] == channel && t["kind"] == kind).collect()
    }
    fn until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LONG;
        while !holds()? {
            ensure!(Instant::now() < deadline, "{what}: {:?}\n{}", self.told(), self.daemon.log_tail());
            std::thread::sleep(Duration::from_millis(50)); // why: a file and another process's tables tell nobody
        }
        Ok(())
    }
    fn nothing_waits(&self) -> Result<()> {
        self.until("the outbox is empty", || Ok(self.metric("vcld_notices{state=\"waiting\"}")? == 0.0))
    }
    fn reserve(&self) -> Result<ReservationView> {
        self.daemon.json(&["reserve", "tiny", "--for", "alice"])
    }
}

#[test]
fn what_came_true_is_told_once_whoever_was_away_or_died_meanwhile() -> Result<()> {
    let mut site = Site::new()?;
    site.api("POST", "/v1/users", &json!({ "name": "alice", "mail": "alice@example.org" }))?;
    assert_eq!(site.watch("/healthz")?, (200, "alive\n".into()));
    site.until("it is ready", || Ok(site.watch("/readyz")?.0 == 200))?;

    // It dies while it speaks to a mail server that has taken the connection and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", site.smtp))?;
    let first = site.reserve()?;
    let (held, _) = silent.accept()?;
    site.daemon.kill()?;
    drop((held, silent));
    assert_eq!(site.told(), Vec::<Value>::new());

    // It lives again, and nobody is there.
    site.daemon.up()?;
    site.until("it has tried", || {
        let failed = "vcld_notices_sent_total{channel=\"webhook\",outcome=\"failed\"}";
        Ok(site.metric("vcld_notices{state=\"waiting\"}")? >= 1.0
            && site.metric(failed).unwrap_or(0.0) >= 1.0)
    })?;

    // They are there.
    let office = Office::open(&site)?;
    site.until("both have it", || {
        Ok(!site.of("mail", "ready").is_empty() && !site.of("hook", "ready").is_empty())
    })?;
    site.nothing_waits()?;
    let (mails, posts) = (site.of("mail", "ready"), site.of("hook", "ready"));
    assert_eq!((mails.len(), posts.len()), (1, 1), "{mails:?} {posts:?}");
    assert_eq!(mails[0]["to"], json!(["alice@example.org"]));
    assert_eq!(mails[0]["encrypted"], true);
    assert!(mails[0]["text"].as_str().unwrap().contains(&format!("vclctl connect {}", first.id)));
    assert_eq!(posts[0]["signed"], true);
    assert_eq!(mails[0]["id"], format!("<{}@example.org>", posts[0]["id"].as_str().unwrap()));

    // They go away, something comes true, they come back.
    drop(office);
    let id = first.id.to_string();
    let _: ReservationView = site.daemon.json(&["release", &id])?;
    site.until("it waits", || Ok(site.metric("vcld_notices{state=\"waiting\"}")? == 1.0))?;
    let office = Office::open(&site)?;
    site.until("both have it", || {
        Ok(!site.of("mail", "ended").is_empty() && !site.of("hook", "ended").is_empty())
    })?;
    let mail = site.of("mail", "ended").remove(0);
    assert!(mail["subject"].as_str().unwrap().starts_with("Schluß mit sim-0"), "{mail}");
    assert!(mail["text"].as_str().unwrap().contains("given back by"), "{mail}");

    // Whoever wants no mails gets none; programs are told all the same.
    site.api("PATCH", "/v1/users/alice", &json!({ "notices": false }))?;
    let second = site.reserve()?;
    let _: ReservationView = site.daemon.json(&["release", &second.id.to_string()])?;
    site.until("the receiver has them", || Ok(site.of("hook", "ended").len() == 2))?;
    site.nothing_waits()?;
    assert_eq!(site.of("mail", "ready").len() + site.of("mail", "ended").len(), 2);
    let mut ids: Vec<String> = site.told().iter().map(|t| t["id"].to_string()).collect();
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((all, ids.len()), (6, 6), "told twice: {:?}", site.told());
    let secrets =
        [std::fs::read_to_string(site.path.join("told.jsonl"))?, std::fs::read_to_string(site.daemon.log())?]
            .concat();
    assert!(!secrets.contains("wordpass") && !secrets.contains(SECRET));
    drop(office);

    // What it came to, in the end.
    let by = |owner: &str| -> Result<UsageReport> { site.daemon.json(&["report", "usage", "--by", owner]) };
    let report = by("owner")?;
    let alice = report.lines.iter().find(|line| line.key.as_deref() == Some("alice")).unwrap();
    assert_eq!((alice.reservations, alice.no_shows, alice.peak), (2, 2, 1));
    assert!(alice.wait_p90_s.is_some());
    assert_eq!(by("image")?.lines[0].key.as_deref(), Some("tiny"));
    let table = site.daemon.vclctl(&["report", "usage", "--by", "owner", "--csv"])?;
    assert!(String::from_utf8_lossy(&table.stdout).contains("\nalice,2,2,"), "{table:?}");
    for line in [
        "vcld_build_info{version=",
        "vcld_backend_up{backend=\"kvm\"} 1",
        "vcld_reservation_wait_seconds_count 1",
    ] {
        assert!(site.watch("/metrics")?.1.contains(line), "{line}");
    }
    assert_eq!(site.metric("vcld_computers{state=\"available\"}")?, 2.0);

    // One administrator's address is gone: the others are told, once, and it is not tried again.
    let office = Office::open(&site)?;
    let body = json!({ "image": "tiny", "purpose": "server" });
    site.api("POST", "/v1/reservations", &body)?;
    site.daemon.vclctl(&[
        "class",
        "add",
        "GIS",
        "--seats",
        "2",
        "--image",
        "tiny",
        "--weekly",
        "Mon 10-12",
    ])?;
    site.until("the administrators are told", || Ok(!site.of("mail", "seats-missing").is_empty()))?;
    site.nothing_waits()?;
    let mails = site.of("mail", "seats-missing");
    assert!(mails.iter().all(|mail| mail["to"] == json!(["ops@example.org"])), "{mails:?}");
    assert_eq!(mails.len(), site.of("hook", "seats-missing").len());
    assert!(mails[0]["text"].as_str().unwrap().contains("has 1 of its 2 seats"), "{mails:?}");
    let log = std::fs::read_to_string(site.daemon.log())?;
    assert!(log.contains("has not reached everybody") && log.contains("gone@example.org"));
    drop(office);

    // A library that cannot be written to, as far as whoever is not held back by permissions can say.
    let readiness: Readiness = serde_json::from_str(&site.watch("/readyz")?.1)?;
    assert_eq!(readiness, Readiness { ready: true, reasons: Vec::new() });
    site.daemon.stop()
}

#[test]
fn a_text_that_is_wrong_is_found_before_anything_runs() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    std::fs::write(path.join("ready.txt"), "Hello {{ nobody_knows }}\n")?;
    let file = path.join("vcld.toml");
    std::fs::write(
        &file,
        format!("[library]\npath = \"{path}/library\"\n[notices]\ntemplates = \"{path}\"\n"),
    )?;
    let output =
        Command::new(vcl_tests::daemon::binary("vcld")?).args(["check-config", file.as_str()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("ready.txt") && said.contains("line 1"), "{said}");
    Ok(())
}
