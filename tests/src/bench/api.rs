//! What the API costs: a real daemon over TCP, with TLS and a token, asked by `wrk`, and watched by two hundred at once.
//!
//! Lists are asked for over and over on a few connections, as fast as they are answered: so a p99 is that of a
//! daemon which has no moment to itself. The peer of each rate is `/healthz` on the same connections, which takes TLS and the
//! way through the server and nothing else. Client and daemon share the machine. What each case is, [`CASES`] says.

mod events;
mod load_tool;

use super::queue::{done, submitted, tiny};
use super::{Line, quantile};
use crate::certificates::certificates;
use crate::daemon::{Daemon, Setup, Simulated};
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use load_tool::{Measured, Tool};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};
use vcl_types::api::{JobView, TokenMade};
use vcl_types::{ComputerName, JobRequest};
use vclctl::{Client, Place};

/// How many connections ask at the same time.
const CONNECTIONS: u32 = 8;
/// How long each is asked, and how often all of them.
const ASKED: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;
const COMPUTERS: usize = 1000;
const JOBS: usize = 10_000;

/// The cases, with what each measures.
pub const CASES: &[(&str, &str)] = &[
    (
        "list_computers",
        "p99 in ms and answers per second of all 1,000 computers at once, by somebody who sees all",
    ),
    ("list_jobs", "the same of the newest 50 of 10,000 jobs, which is what is answered if nothing is said"),
    ("list_jobs_1000", "the same of a thousand jobs from the middle of 10,000: the largest part of a list"),
    ("list_jobs_few", "the newest 50 jobs for somebody who sees one computer of the thousand"),
    ("event_p99", "ms from a step's record to each of 200 subscribers, eight loads at once"),
];

/// Runs the bench, or one case of it.
///
/// # Errors
///
/// When there is no such case, `wrk` is not installed, or a daemon fails.
pub fn run(case: Option<&str>) -> Result<()> {
    if let Some(case) = case
        && CASES.iter().all(|(name, _)| *name != case)
    {
        let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
        bail!("the bench api has no case {case}; it has {}, and all without a word", known.join(", "));
    }
    // On a real disk, as a database is: /tmp may be memory. The configuration takes no `..`.
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-api-").tempdir_in(target)?;
    let path = Utf8Path::from_path(directory.path()).context("not UTF-8")?;
    if case.is_none_or(|case| case.starts_with("list")) {
        lists(&path.join("lists"), case)?;
    }
    if case.is_none_or(|case| case.starts_with("event")) {
        // In memory, because the clock begins before a record is on the disk, and the disk's time is `step_sqlite`'s.
        let memory = tempfile::Builder::new().prefix("bench-api-").tempdir_in("/dev/shm")?;
        let path = Utf8Path::from_path(memory.path()).context("not UTF-8")?;
        events::run(&path.join("events"))?;
    }
    Ok(())
}

/// A daemon with a TLS door, its administrator on the socket, and a user with a token who sees everything.
struct Site {
    daemon: Daemon,
    directory: Utf8PathBuf,
    url: String,
    /// The token of whoever sees everything.
    token: String,
    runtime: tokio::runtime::Runtime,
}

/// The simulated machines.
enum Machines {
    /// All of whose steps take as long.
    Even(Simulated),
    /// What stands under the backend.
    Own(String),
}

impl Site {
    fn start(directory: &Utf8Path, computers: &str, machines: Machines) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let key = directory.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen failed");
        certificates(directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut setup = Setup::new(directory, &key, &[computers]);
        match machines {
            Machines::Even(simulated) => setup.simulated = Some(simulated),
            Machines::Own(backend) => setup.backend = Some(backend),
        }
        setup.more_computers =
            "seen = { backend = \"kvm\", memory = \"256M\", networks = [\"net\"], tags = [\"few\"] }\n"
                .into();
        setup.api = format!(
            "listen = \"127.0.0.1:{port}\"\ncertificate = \"{directory}/server.pem\"\n\
             key = {{ file = \"{directory}/server.key\" }}\n"
        );
        // As it is shipped, not as tests want it.
        setup.environment.push(("RUST_LOG".into(), "info".into()));
        let daemon = Daemon::start(setup)?;
        let _: JobView = daemon.json(&["image", "import", "tiny", tiny(directory)?.as_str()])?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (directory, url) = (directory.to_owned(), format!("https://127.0.0.1:{port}"));
        let mut site = Self { daemon, directory, url, token: String::new(), runtime };
        site.token = site.user("watcher", "all")?;
        Ok(site)
    }

    /// A user who sees what is in the scope; answers a token of his.
    fn user(&self, name: &str, scope: &str) -> Result<String> {
        let group = format!("{name}s");
        for words in [
            &["user", "add", name][..],
            &["group", "add", &group],
            &["group", "member", "add", &group, name],
            &["grant", "add", &group, "look", scope],
        ] {
            let _: serde_json::Value = self.daemon.json(words)?;
        }
        let made: TokenMade = self.daemon.json(&["token", "create", "bench", "--owner", name])?;
        Ok(made.secret)
    }

    /// As vclctl comes over TLS.
    fn client(&self, token: &str) -> Result<Client> {
        let place =
            Place::Url { url: self.url.clone(), ca: Some(self.directory.join("ca.pem").into_std_path_buf()) };
        Ok(Client::at(place, Some(token.to_owned()))?)
    }
    /// As the administrator comes over the socket.
    fn socket(&self) -> Result<Client> {
        Ok(Client::new(self.directory.join("vcld.sock").as_std_path())?)
    }
}

/// One thing that is asked for.
struct Question {
    case: &'static str,
    path: String,
    token: Option<String>,
    measured: Vec<Measured>,
}

fn lists(directory: &Utf8Path, case: Option<&str>) -> Result<()> {
    let tool = Tool::find()?;
    // With the one that few see they are a thousand.
    let machines = Machines::Even(Simulated { at_once: 200, delay: "0s" });
    let mut site = Site::start(directory, "sim-[0001-0999]", machines)?;
    let few = site.user("few", "computers:few")?;
    history(&site)?;
    site.runtime.block_on(as_asked(&site, &few))?;
    let question = |case, path: &str, token: Option<&String>| Question {
        case,
        path: path.to_owned(),
        token: token.cloned(),
        measured: Vec::new(),
    };
    let mut questions = vec![
        question("list_computers", "/v1/computers", Some(&site.token)),
        question("list_jobs", "/v1/jobs", Some(&site.token)),
        question("list_jobs_1000", "/v1/jobs?limit=1000&before=5001", Some(&site.token)),
        question("list_jobs_few", "/v1/jobs", Some(&few)),
    ];
    questions.retain(|question| case.is_none_or(|case| case == question.case));
    let mut peer = question("healthz", "/healthz", None);
    for round in 1..=ROUNDS {
        eprintln!("lists: round {round} of {ROUNDS}");
        for question in questions.iter_mut().chain([&mut peer]) {
            let url = format!("{}{}", site.url, question.path);
            let measured = tool.ask(&site.directory, &url, question.token.as_deref())?;
            let Measured { rate, p50_ms, p99_ms } = measured;
            eprintln!("  {}: {rate:.0} 1/s, p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms", question.case);
            question.measured.push(measured);
        }
    }
    let median = |question: &Question, of: fn(&Measured) -> f64| {
        quantile(&mut question.measured.iter().map(of).collect::<Vec<_>>(), 0.5)
    };
    for question in &questions {
        for (unit, of) in [("ms, p99", (|m| m.p99_ms) as fn(&Measured) -> f64), ("1/s", |m| m.rate)] {
            let (ours, peers) = (median(question, of), median(&peer, of));
            Line {
                bench: "api",
                case: question.case,
                unit,
                ours,
                peer: Some(peers),
                peer_name: Some("/healthz"),
                ratio: Some(ours / peers),
                n: ROUNDS,
            }
            .print();
        }
    }
    site.daemon.stop()
}

/// Ten thousand jobs that were done, each with its journal and its events; all computers are loaded at the end.
fn history(site: &Site) -> Result<()> {
    let began = Instant::now();
    let image: vcl_types::ImageRef = "tiny@1".parse()?;
    let mut computers = vec!["seen".parse::<ComputerName>()?];
    for n in 1..COMPUTERS {
        computers.push(format!("sim-{n:04}").parse()?);
    }
    let client = site.socket()?;
    site.runtime.block_on(async {
        for half in 0..JOBS / COMPUTERS {
            let request = |computer: &ComputerName| match half % 2 {
                0 => JobRequest::Load { computer: computer.clone(), image: image.clone() },
                _ => JobRequest::Unload { computer: computer.clone() },
            };
            let jobs = submitted(&client, computers.iter().map(request)).await?;
            done(&client, &jobs).await?;
        }
        let jobs = submitted(
            &client,
            computers
                .iter()
                .map(|computer| JobRequest::Load { computer: computer.clone(), image: image.clone() }),
        );
        done(&client, &jobs.await?).await
    })?;
    eprintln!("{} jobs were done in {:.0} s", JOBS + COMPUTERS, began.elapsed().as_secs_f64());
    Ok(())
}

/// That what is about to be measured is what it is said to be.
async fn as_asked(site: &Site, few: &str) -> Result<()> {
    let all = site.client(&site.token)?;
    let computers = all.computers().await?;
    ensure!(computers.len() == COMPUTERS, "{} computers", computers.len());
    ensure!(computers.iter().all(|computer| computer.loaded.is_some()), "not all are loaded");
    let (newest, most) = (all.jobs(None, 50).await?, all.jobs(None, 1000).await?);
    ensure!((newest.len(), most.len()) == (50, 1000), "{} and {} jobs", newest.len(), most.len());
    // Jobs are numbered without a gap.
    ensure!(newest.iter().all(|job| job.id.0 > JOBS as i64 - 50), "{:?} is among the newest", newest.last());
    let own = site.client(few)?.jobs(None, 50).await?;
    ensure!((5..50).contains(&own.len()), "{} jobs are seen by who sees one computer", own.len());
    Ok(())
}
