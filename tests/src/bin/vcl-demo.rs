//! The main job, for real: a guest is made, imported, loaded, changed, captured, and the capture loaded elsewhere.
//!
//! Outside of a private world it makes the guest, for which it needs Debian's packages, and runs itself again inside
//! one; there it starts a vcld and drives it with vclctl, as a person would. In the middle of the second load the daemon
//! is killed with SIGKILL and started again: the load goes on.

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup, binary, import_arguments};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;
use vcl_types::api::{JobView, StepState};

/// Loads a machine, captures it and loads the capture: with a real libvirt and a real guest.
#[derive(Debug, Parser)]
struct Arguments {
    /// Write what was found out as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<Utf8PathBuf>,
    /// Leave the two machines and the daemon running until Enter is pressed
    #[arg(long)]
    keep: bool,
    /// The stages that were done before the world was entered
    #[arg(long, hide = true)]
    inside: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stage {
    name: String,
    seconds: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    marker_found: bool,
    machine_ids: Vec<String>,
    host_keys: Vec<String>,
    stages: Vec<Stage>,
    leftovers: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.inside {
        None => outside(&arguments),
        Some(stages) => inside(&arguments, stages),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("the demo failed: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Lines that are shown while something goes on, and what remains of them.
struct Screen {
    stages: Vec<Stage>,
    shown: usize,
}

impl Screen {
    fn stage<T>(&mut self, name: &str, work: impl FnOnce(&ProgressBar) -> Result<(T, String)>) -> Result<T> {
        self.shown += 1;
        let number = self.shown;
        let bar =
            if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(ProgressStyle::with_template("{spinner} {prefix} {wide_msg} {elapsed}")?);
        bar.set_prefix(format!("{number} {name}"));
        bar.enable_steady_tick(Duration::from_millis(120));
        let begun = Instant::now();
        let result = work(&bar);
        bar.finish_and_clear();
        let (value, said) = result.with_context(|| name.to_owned())?;
        let seconds = begun.elapsed().as_secs_f64();
        self.done(number, name, seconds, &said);
        Ok(value)
    }
    fn done(&mut self, number: usize, name: &str, seconds: f64, said: &str) {
        let label = if said.is_empty() { name.to_owned() } else { said.to_owned() };
        println!("{number:>2} {label:<58} {seconds:>5.1} s");
        self.stages.push(Stage { name: name.to_owned(), seconds });
    }
}

fn outside(arguments: &Arguments) -> Result<ExitCode> {
    let mut screen = Screen { stages: Vec::new(), shown: 0 };
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    screen.stage("guest", |bar| {
        let public = fs::read_to_string(format!("{key}.pub"))?;
        let mut progress = |p: guest::Progress<'_>| {
            if let guest::Progress::Started(stage) = p {
                bar.set_message(stage.to_owned());
            }
        };
        let guest = Guest::make(Kind::Fast, &cache, &public, &mut progress)?;
        let size = fs::metadata(guest.disk())?.len() / 1024 / 1024;
        Ok(((), format!("guest made from Debian packages, {size} MiB")))
    })?;
    let directory = tempfile::Builder::new().prefix("vcl-demo-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).context("the temporary directory is not UTF-8")?;
    let mut command = Command::new(binary("vcl-world")?);
    command.args(["--dir", path.join("world").as_str(), "--"]).arg(std::env::current_exe()?);
    command.args(["--inside", &serde_json::to_string(&screen.stages)?]);
    if let Some(json) = &arguments.json {
        command.arg("--json").arg(camino::absolute_utf8(json)?);
    }
    if arguments.keep {
        command.arg("--keep");
    }
    let status = command.env("VCL_DEMO_DIRECTORY", path).status()?;
    let path = path.to_owned();
    directory.close().context("removing the demo's directory")?;
    ensure!(!path.exists(), "{path} is left");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a verb of vclctl to its end and shows what it says meanwhile.
fn verb(daemon: &Daemon, bar: &ProgressBar, arguments: &[&str]) -> Result<JobView> {
    let all: Vec<_> = ["--json"].iter().chain(arguments).copied().collect();
    let mut child = daemon.command(&all)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut last = String::new();
    for line in BufReader::new(child.stderr.take().context("no standard error")?).lines() {
        last = line?;
        bar.set_message(last.clone());
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "vclctl {}: {last}\nvcld's log:\n{}",
        arguments.join(" "),
        daemon.log_tail()
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The step that a job is in.
fn under_way(job: &JobView) -> Option<&str> {
    job.steps.iter().rev().find(|step| step.state == StepState::Running).map(|step| step.name.as_str())
}

fn short(text: &str, length: usize) -> String {
    text.chars().take(length).collect::<String>() + "…"
}

/// What tells one machine from another.
struct Identity {
    machine_id: String,
    host_key: String,
}

fn identity(daemon: &Daemon, computer: &str) -> Result<Identity> {
    let machine_id = daemon.ssh(computer, "cat /etc/machine-id")?;
    let key = daemon.ssh(computer, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")?;
    let host_key = key.split_whitespace().nth(1).unwrap_or_default().to_owned();
    ensure!(
        machine_id.len() == 32 && host_key.starts_with("SHA256:"),
        "no identity: {machine_id} {host_key}"
    );
    Ok(Identity { machine_id, host_key })
}

fn digests(daemon: &Daemon) -> Result<Vec<String>> {
    let image = daemon.image("debian")?;
    let first = image.revisions.first().context("debian has no revision")?;
    Ok(first.manifest.disks.iter().map(|d| format!("{} {}", d.file_digest, d.content_digest)).collect())
}

fn inside(arguments: &Arguments, before: &str) -> Result<ExitCode> {
    let begun = Instant::now();
    let world = World::current()?;
    let stages: Vec<Stage> = serde_json::from_str(before)?;
    let already: f64 = stages.iter().map(|s| s.seconds).sum();
    let mut screen = Screen { shown: stages.len(), stages };
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(Kind::Fast, &cache, &public, &mut |_| {})?;
    let directory = Utf8PathBuf::from(std::env::var("VCL_DEMO_DIRECTORY")?);
    let mut daemon = Daemon::start(Setup::new(&directory.join("node"), &key, &["a", "b"]))?;

    screen.stage("import", |bar| {
        let words = import_arguments(&guest, "debian", "")?;
        verb(&daemon, bar, &words.iter().map(String::as_str).collect::<Vec<_>>())?;
        let digest = daemon.image("debian")?.revisions[0].manifest.disks[0].file_digest.to_string();
        Ok(((), format!("image debian@1 published, sha256 {}", short(&digest, 8))))
    })?;
    let original = digests(&daemon)?;
    let a = screen.stage("load", |bar| {
        verb(&daemon, bar, &["load", "a", "debian@1"])?;
        let id = identity(&daemon, "a")?;
        let said = format!(
            "loaded on a   machine-id {}  host key {}",
            short(&id.machine_id, 4),
            short(&id.host_key, 12)
        );
        Ok((id, said))
    })?;
    let marker = format!("written by the demo at {:?}", std::time::SystemTime::now());
    screen.stage("capture", |bar| {
        daemon.ssh("a", &format!("echo '{marker}' > /root/marker; sync"))?;
        verb(&daemon, bar, &["capture", "a", "--after", "resume"])?;
        let size = daemon.image("debian")?.revisions.last().map(|r| r.size).unwrap_or_default();
        Ok(((), format!("marker written in a; captured as debian@2, {size}; a runs again")))
    })?;
    // The power goes in the middle of this one.
    let killed = screen.stage("kill", |bar| {
        let job = daemon.queue(&["load", "b", "debian@2"])?;
        let job = daemon.wait_job(job, Duration::from_secs(300), |job| {
            bar.set_message(
                under_way(job).map(|step| format!("load debian@2 on b: {step}")).unwrap_or_default(),
            );
            under_way(job).is_some_and(|step| step.contains("wait for ssh"))
        })?;
        daemon.kill()?;
        let done = job.steps.iter().filter(|step| step.state == StepState::Done).count();
        let step = under_way(&job).unwrap_or_default().to_owned();
        daemon.up()?;
        let said =
            format!("vcld killed with SIGKILL in step {} of its load, `{step}`; started again", done + 1);
        Ok((job.id, said))
    })?;
    let b = screen.stage("load the capture", |bar| {
        let job = daemon.wait_end_with(killed, Duration::from_secs(900), |job| {
            bar.set_message(under_way(job).map(|step| format!("goes on: {step}")).unwrap_or_default());
        })?;
        ensure!(
            job.state == vcl_types::state::job::State::Done,
            "job {killed} is {}: {:?}",
            job.state,
            job.reason
        );
        let id = identity(&daemon, "b")?;
        let said = format!(
            "it went on; loaded on b   machine-id {}  host key {}",
            short(&id.machine_id, 4),
            short(&id.host_key, 12)
        );
        Ok((id, said))
    })?;
    // a was generalised for the capture and has made itself a new identity since.
    let again = identity(&daemon, "a")?;
    let marker_found = daemon.ssh("b", "cat /root/marker")? == marker;
    let differ = [&a, &again, &b].iter().enumerate().all(|(n, x)| {
        [&a, &again, &b][..n].iter().all(|y| x.machine_id != y.machine_id && x.host_key != y.host_key)
    });
    let unchanged =
        digests(&daemon)? == original && daemon.vclctl(&["image", "verify", "debian@1"])?.status.success();
    if arguments.keep {
        // Process ids are the world's own in here, so the way in is looked up from outside.
        println!("\nboth machines run; in another terminal:");
        println!("  world=\"nsenter -a -t $(pgrep -nf 'vcl-demo --inside')\"");
        println!("  $world {} --socket {}/vcld.sock status", binary("vclctl")?, daemon.directory());
        for name in ["a", "b"] {
            println!("  $world {} -i {key}", daemon.endpoint(name)?.ssh_command());
        }
        println!("press Enter to take everything away");
        std::io::stdin().read_line(&mut String::new())?;
    }
    let left = screen.stage("clean up", |bar| {
        for name in ["a", "b"] {
            verb(&daemon, bar, &["unload", name])?;
        }
        for revision in ["debian@2", "debian@1"] {
            verb(&daemon, bar, &["image", "delete", revision, "--now", "--yes"])?;
        }
        let domains = world.virsh(&["list", "--all", "--name"])?.split_whitespace().count();
        let files = daemon.leftovers()?.len()
            + fs::read_dir(daemon.library().join("debian")).map_or(0, Iterator::count);
        daemon.stop()?;
        let ports = listening()?;
        let said = format!("everything taken away (domains {domains}, files {files}, ports {ports})");
        Ok((domains + files + ports, said))
    })?;
    let mark = |good: bool| if good { "✓" } else { "✗" };
    let total = already + begun.elapsed().as_secs_f64();
    println!(
        "{} marker found in b   {} no identity shared   {} debian@1 unchanged   {} nothing left   {:.0} s",
        mark(marker_found),
        mark(differ),
        mark(unchanged),
        mark(left == 0),
        total
    );
    let ok = marker_found && differ && unchanged && left == 0;
    let report = Report {
        ok,
        marker_found,
        machine_ids: vec![again.machine_id, b.machine_id],
        host_keys: vec![again.host_key, b.host_key],
        stages: screen.stages,
        leftovers: left,
    };
    if let Some(path) = &arguments.json {
        fs::write(path, serde_json::to_string(&report)? + "\n").with_context(|| format!("writing {path}"))?;
    }
    if !ok {
        bail!("not all of it holds; see the marks above");
    }
    Ok(ExitCode::SUCCESS)
}

/// How many TCP ports listen in this world. In a network namespace of its own nobody else's are among them.
fn listening() -> Result<usize> {
    let mut count = 0;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        count += fs::read_to_string(table)?
            .lines()
            .skip(1)
            .filter(|l| l.split_whitespace().nth(3) == Some("0A"))
            .count();
    }
    Ok(count)
}
