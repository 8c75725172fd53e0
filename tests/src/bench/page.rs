//! What the page costs: a real daemon on simulated machines, a real Chromium, and two hundred pages that are open.
//!
//! Browser and daemon share the machine. What each case is, [`CASES`] says; `docs/benchmarks.md` has the aims.

use super::{Line, quantile};
use crate::browser::{Browser, Driver};
use crate::certificates::certificates;
use crate::daemon::{Daemon, Setup, Simulated};
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_types::api::{JobView, TokenMade};

/// The cases, with what each measures.
pub const CASES: &[(&str, &str)] = &[
    ("wall_fcp", "ms to first contentful paint of the wall with 1,000 computers"),
    ("step_to_screen", "ms from a step's record to its change in the job's view"),
    ("idle_200", "percent of a core that 200 open pages cost the daemon while nothing happens"),
];

const COMPUTERS: usize = 1000;
const PAINTS: usize = 9;
const LOADS: usize = 6;
const OPEN: usize = 200;
/// Whose they are.
const READERS: usize = 4;
/// How many of the kernel's ticks a second has, on every Linux there is.
const TICKS: f64 = 100.0;
/// For how long nothing happens.
const IDLE: Duration = Duration::from_secs(60);

/// Runs the bench, or one case of it.
///
/// # Errors
/// There is no such case, Chromium is not installed, or the daemon fails.
pub fn run(case: Option<&str>) -> Result<()> {
    if let Some(case) = case
        && CASES.iter().all(|(name, _)| *name != case)
    {
        let known: Vec<_> = CASES.iter().map(|(name, _)| *name).collect();
        bail!("the bench page has no case {case}; it has {}, and all without a word", known.join(", "));
    }
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-page-").tempdir_in(target)?;
    let mut site = Site::start(Utf8Path::from_path(directory.path()).context("not UTF-8")?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let wanted = |name: &str| case.is_none_or(|case| case == name);
    if wanted("wall_fcp") || wanted("step_to_screen") {
        let driver = Driver::start()?;
        runtime.block_on(async {
            let browser = Browser::open(&driver, &site.directory.join("browser"), &site.url).await?;
            site.sign_in(&browser).await?;
            if wanted("wall_fcp") {
                let mut paints = paints(&browser).await?;
                Line::alone("page", "wall_fcp", "ms", quantile(&mut paints, 0.5), PAINTS).print();
            }
            if wanted("step_to_screen") {
                let mut late = site.steps(&browser).await?;
                let n = late.len();
                Line::alone("page", "step_to_screen", "ms", quantile(&mut late, 0.5), n).print();
                Line::alone("page", "step_to_screen_p95", "ms", quantile(&mut late, 0.95), n).print();
            }
            browser.quit().await
        })?;
    }
    if wanted("idle_200") {
        Line::alone("page", "idle_200", "% of a core", site.idle()?, 1).print();
    }
    site.daemon.stop()
}

struct Site {
    daemon: Daemon,
    directory: Utf8PathBuf,
    url: String,
    /// Of each administrator; the first has the browser.
    tokens: Vec<String>,
}

impl Site {
    fn start(directory: &Utf8Path) -> Result<Self> {
        let key = directory.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen failed");
        certificates(directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut setup = Setup::new(directory, &key, &["sim-[0001-1000]"]);
        setup.simulated = Some(Simulated { at_once: 8, delay: "400ms" });
        setup.api = format!(
            "listen = \"127.0.0.1:{port}\"\ncertificate = \"{directory}/server.pem\"\n\
             key = {{ file = \"{directory}/server.key\" }}\nfiles = \"{directory}\"\n"
        );
        setup.environment.push(("RUST_LOG".into(), "info".into()));
        let daemon = Daemon::start(setup)?;
        let _: JobView =
            daemon.json(&["image", "import", "tiny", super::queue::tiny(directory)?.as_str()])?;
        let _: Value = daemon.json(&["group", "add", "bosses"])?;
        let _: Value = daemon.json(&["grant", "add", "bosses", "administer", "all"])?;
        let mut tokens = Vec::new();
        for n in 1..=READERS {
            let name = format!("boss-{n}");
            let _: Value = daemon.json(&["user", "add", &name])?;
            let _: Value = daemon.json(&["group", "member", "add", "bosses", &name])?;
            let made: TokenMade = daemon.json(&["token", "create", "bench", "--owner", &name])?;
            tokens.push(made.secret);
        }
        let url = format!("https://127.0.0.1:{port}");
        Ok(Self { daemon, directory: directory.to_owned(), url, tokens })
    }

    async fn sign_in(&self, browser: &Browser) -> Result<()> {
        browser.goto("/sign-in").await?;
        browser.click("details summary").await?;
        browser.fill("#token", &self.tokens[0]).await?;
        browser.click("form[action='/sign-in/token'] button").await?;
        browser.wait("the page", "return !!document.querySelector('.who bdi')").await
    }

    /// Loads are looked at in their own views: each step that is done is noted when it is seen to be.
    async fn steps(&self, browser: &Browser) -> Result<Vec<f64>> {
        let mut late = Vec::new();
        for n in 1..=LOADS {
            let submitted =
                self.daemon.command(&["--json", "load", &format!("sim-{n:04}"), "tiny", "--detach"])?;
            let job = submitted_job(submitted)?;
            browser.goto(&format!("/jobs/{job}")).await?;
            let watch = "window.done = {}; const note = () => document.querySelectorAll('.step').forEach((s) => {
                const name = s.children[1].lastChild.textContent.trim();
                if (s.querySelector('.dot.done') && !(name in window.done)) window.done[name] = Date.now(); });
                note(); window.first = new Set(Object.keys(window.done));
                new MutationObserver(note).observe(document.getElementById('main'),
                    { subtree: true, childList: true, attributes: true, characterData: true });
                return true";
            browser.wait("an observer", watch).await?;
            browser.wait_for("#job .head .state", "done").await?;
            let seen = browser
                .web
                .execute("return Object.entries(window.done).filter(([n]) => !window.first.has(n))", vec![])
                .await?;
            let seen: Vec<(String, f64)> = serde_json::from_value(seen.json().clone())?;
            let job: JobView = self.daemon.json(&["job", "show", &job])?;
            for (name, at) in seen {
                let ended = job.steps.iter().find(|step| step.name == name).and_then(|step| step.ended);
                let ended: DateTime<Utc> = ended.with_context(|| format!("{name} has not ended"))?;
                late.push(at - ended.timestamp_micros() as f64 / 1000.0);
            }
        }
        ensure!(late.len() >= LOADS * 4, "{} steps were seen", late.len());
        Ok(late)
    }

    /// What the daemon needs while pages are open and nothing happens, in percent of a core.
    fn idle(&self) -> Result<f64> {
        let mut pages: Vec<Page> = Vec::new();
        for n in 0..OPEN {
            // One address may have 128 connections, and one reader 64 streams.
            let from = format!("127.0.0.{}", 2 + n % READERS);
            let token = &self.tokens[n % READERS];
            let child = Command::new("curl")
                .args(["-sN", "--cacert", self.directory.join("ca.pem").as_str(), "--interface", &from])
                .args(["-b", &format!("__Host-vcld={token}"), &format!("{}/live", self.url)])
                .args(["-o", "/dev/null", "-f"])
                .stdin(Stdio::null())
                .spawn()
                .context("curl")?;
            pages.push(Page(child));
        }
        let pid = self.daemon.pid().context("the daemon has ended")?;
        // Until all have come, and what their coming cost is over.
        std::thread::sleep(Duration::from_secs(15)); // why: a connection that is quiet tells nothing
        let (before, began) = (used(pid)?, Instant::now());
        std::thread::sleep(IDLE); // why: it is what is measured
        let (after, took) = (used(pid)?, began.elapsed());
        for page in &mut pages {
            ensure!(page.0.try_wait()?.is_none(), "a page's stream has ended");
        }
        Ok((after - before) / took.as_secs_f64() * 100.0)
    }
}

/// Somebody who reads a page; he leaves when this goes.
struct Page(Child);

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn submitted_job(mut command: Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    let job = answer["job"].as_i64().or_else(|| answer["id"].as_i64());
    job.map(|job| job.to_string()).with_context(|| format!("no job in {answer}"))
}

/// How many seconds of a processor a process has used.
fn used(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit_once(") ").context("no name in stat")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).context("no times in stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// How long it took each time until something of the wall was painted.
async fn paints(browser: &Browser) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for _ in 0..PAINTS {
        browser.goto("/wall").await?;
        let painted = "return performance.getEntriesByName('first-contentful-paint').length === 1";
        browser.wait("a paint", painted).await?;
        let at = "return performance.getEntriesByName('first-contentful-paint')[0].startTime";
        let at = browser.web.execute(at, vec![]).await?;
        all.push(at.json().as_f64().context("no time of a paint")?);
        let tiles = browser.web.execute("return document.querySelectorAll('.tile').length", vec![]).await?;
        ensure!(tiles.json().as_u64() == Some(COMPUTERS as u64), "{} tiles", tiles.json());
    }
    Ok(all)
}
