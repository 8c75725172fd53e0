//! `configure`: the engine of vcl-configure on machines, without a daemon; or a job of the daemon's.

mod diff;

use crate::cli::{ConfigureArguments, ConfigureVerb, Submission};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::text;
use crate::screen::Screen;
use camino::{Utf8Path, Utf8PathBuf};
use futures::StreamExt as _;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use vcl_configure::conf::Conf;
use vcl_configure::environment::Host;
use vcl_configure::name::ObjectName;
use vcl_configure::outcome::Outcome;
use vcl_configure::run::{Done, Progress, Wish};
use vcl_configure::target::Transport;
use vcl_configure::tree::State;
use vcl_types::{ComputerName, JobRequest, ObjectReport, ObjectState, RunError, RunReport};

/// Where the Debian package has cdist's own types.
const PACKAGED: &str = "/usr/lib/python3/dist-packages/cdist/conf";

pub(super) async fn run(asked: ConfigureArguments, client: &Client, screen: &mut Screen) -> Result<()> {
    if let Some(ConfigureVerb::Diff { older, newer }) = asked.verb {
        return diff::run(&older, newer.as_deref(), client, screen).await;
    }
    match &asked.computer {
        Some(computer) => by_vcld(computer, &asked, client, screen).await,
        None => here(asked, screen).await,
    }
}

/// A job of the daemon's.
async fn by_vcld(
    computer: &ComputerName,
    asked: &ConfigureArguments,
    client: &Client,
    screen: &mut Screen,
) -> Result<()> {
    let name = asked.manifest.as_ref().map_or("init", |manifest| manifest.as_str());
    let manifest = name.parse().map_err(|bad: vcl_types::InvalidName| {
        let context = format!("--manifest: {bad}; for a computer of vcld's it is a name and no file");
        Error::new(ErrorKind::Local, context)
    })?;
    let request = JobRequest::Configure { computer: computer.clone(), manifest, dry_run: asked.dry_run };
    let how = Submission { dry_run: false, detach: asked.detach, wait: asked.wait };
    super::jobs::submit(client, screen, request, how).await
}

/// Where one run goes.
struct Target {
    transport: Transport,
    /// What it is called: what runs of several are told apart by.
    name: String,
    /// How it is called where there are several, in directories.
    below: Option<String>,
}

async fn here(asked: ConfigureArguments, screen: &mut Screen) -> Result<()> {
    // What a run makes is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if let Some(keep) = asked.keep.as_deref().filter(|keep| keep.exists()) {
        let context = format!("--keep `{keep}`: it is there already; name a directory that is not");
        return Err(Error::new(ErrorKind::Local, context));
    }
    let targets = targets(&asked)?;
    let several = targets.len() > 1;
    let stop = CancellationToken::new();
    let mut asked_to_end = signal(SignalKind::terminate())
        .map_err(|cause| Error::caused(ErrorKind::Local, "cannot listen to signals", cause))?;
    let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
    let runs = targets.iter().map(|target| one(&asked, target, stop.clone(), sender.clone()));
    let mut runs = futures::stream::iter(runs).buffer_unordered(asked.at_once.into());
    let mut views: Vec<RunReport> = Vec::new();
    loop {
        tokio::select! {
            biased;
            Some((name, progress)) = told.recv() => {
                if asked.lines {
                    screen.print(&line(&progress))?;
                } else {
                    tell(several.then_some(name.as_str()), &progress, screen);
                }
            }
            ended = runs.next() => match ended {
                Some(view) => views.push(view),
                None => break,
            },
            // What runs is ended, on the machine too; who is impatient asks again.
            _ = tokio::signal::ctrl_c() => {
                if stop.is_cancelled() {
                    return Err(Error::new(ErrorKind::Local, "called off; something may still run on the machine"));
                }
                stop.cancel();
            }
            _ = asked_to_end.recv() => stop.cancel(),
        }
    }
    views.sort_by_key(|view| targets.iter().position(|target| target.name == view.target));
    if let Some(file) = &asked.report {
        match views.as_slice() {
            [view] => reported(view, file)?,
            views => reported(&views, file)?,
        }
    }
    told_of_end(&views, &asked, screen)
}

/// Says how the runs have ended.
fn told_of_end(views: &[RunReport], asked: &ConfigureArguments, screen: &mut Screen) -> Result<()> {
    let failed: Vec<&RunReport> = views.iter().filter(|view| view.error.is_some()).collect();
    let said = |view: &RunReport| view.error.as_ref().map(|error| error.message.clone()).unwrap_or_default();
    let quiet = asked.lines || asked.end;
    match views {
        [view] if failed.is_empty() && !quiet => screen.answer(view, |view, _| summary(view)),
        [view] if !failed.is_empty() => Err(Error::new(ErrorKind::Local, said(view))),
        _ if quiet && failed.is_empty() => Ok(()),
        views => {
            screen.answer(&views, |views, _| {
                let well = views.iter().filter(|view| view.error.is_none());
                well.map(|view| format!("{}\n", summary(view))).collect()
            })?;
            if failed.is_empty() {
                return Ok(());
            }
            failed.iter().for_each(|view| screen.complain(&said(view)));
            let names: Vec<&str> = failed.iter().map(|view| view.target.as_str()).collect();
            let context = format!("{} of {} failed: {}", failed.len(), views.len(), names.join(", "));
            Err(Error::new(ErrorKind::Local, context))
        }
    }
}

/// Where the runs go.
fn targets(asked: &ConfigureArguments) -> Result<Vec<Target>> {
    let local = |context: String| Error::new(ErrorKind::Local, context);
    let mut hosts = asked.host.clone();
    if let Some(file) = &asked.file {
        let text = match file.as_str() {
            "-" => std::io::read_to_string(std::io::stdin()),
            path => std::fs::read_to_string(path),
        };
        let text =
            text.map_err(|cause| Error::caused(ErrorKind::Local, format!("--file `{file}`"), cause))?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        hosts.extend(lines.filter(|line| !line.is_empty()).map(str::to_owned));
        if let Some(bad) = hosts.iter().find(|host| host.contains(char::is_whitespace)) {
            return Err(local(format!(
                "--file `{file}`: `{bad}` is no host: write one a line, as in root@gis-01"
            )));
        }
        if hosts.is_empty() {
            return Err(local(format!("--file `{file}`: there is no host in it")));
        }
    }
    let options: Vec<String> =
        asked.ssh.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect();
    let mut all: Vec<Target> = Vec::new();
    for host in hosts {
        // A host's user is no part of a directory's name, and neither is what leads out of one.
        let below = host.replace('/', "-");
        if below.trim_matches('.').is_empty() {
            return Err(local(format!("`{host}` is no host")));
        }
        if all.iter().any(|other| other.name == host) {
            continue;
        }
        let transport = Transport::Ssh { options: options.clone(), host: host.clone() };
        all.push(Target { transport, name: host, below: Some(below) });
    }
    if let Some(root) = &asked.chroot {
        all.push(Target { transport: Transport::Chroot(root.clone()), name: root.to_string(), below: None });
    }
    if all.is_empty() {
        all.push(Target { transport: Transport::Local, name: Transport::Local.name(), below: None });
    }
    if all.len() > 1 && asked.name.is_some() {
        return Err(local("--name is for one machine, and there are several".into()));
    }
    if let [one] = all.as_mut_slice() {
        one.below = None;
    }
    Ok(all)
}

type Listener = tokio::sync::mpsc::UnboundedSender<(String, Progress)>;

/// One run, to its end. What it tells goes to who listens; that it fails stands in what is answered, for the others go on.
async fn one(
    asked: &ConfigureArguments,
    target: &Target,
    stop: CancellationToken,
    listener: Listener,
) -> RunReport {
    let begun = Instant::now();
    let (done, error) = match tried(asked, target, stop, listener).await {
        Ok(ended) => ended,
        Err(error) => (Vec::new(), Some(RunError { kind: "failed".into(), message: error.line() })),
    };
    let mut view = view(done, &target.name, asked.dry_run, begun.elapsed());
    view.error = error;
    view
}

/// What was done, and why no more was.
async fn tried(
    asked: &ConfigureArguments,
    target: &Target,
    stop: CancellationToken,
    listener: Listener,
) -> Result<(Vec<Outcome>, Option<RunError>)> {
    let place = |directory: &Utf8PathBuf| match &target.below {
        Some(below) => directory.join(below),
        None => directory.clone(),
    };
    let directory = working(asked.state.as_ref().map(place).as_deref())?;
    if asked.end {
        ended_there(&directory, target, asked.base.as_str()).await?;
        return Ok((Vec::new(), None));
    }
    if stop.is_cancelled() {
        let message = format!("{}: called off before it was begun", target.name);
        return Ok((Vec::new(), Some(RunError { kind: "cancelled".into(), message })));
    }
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let wish = wish(asked, target, directory.clone(), stop, progress).await.inspect_err(|_| {
        // It goes only where nothing is in it.
        let _ = std::fs::remove_dir(&directory);
    })?;
    let mut outcomes = Vec::new();
    let listening = async {
        while let Some(progress) = told.recv().await {
            if let Progress::Over(all) = progress {
                outcomes = all;
                continue;
            }
            // That nobody listens is no reason to leave a machine half-way.
            let _ = listener.send((target.name.clone(), progress));
        }
    };
    let ended = tokio::join!(vcl_configure::run::run(wish), listening).0;
    let error = match ended {
        Ok(_) => {
            if let Some(keep) = asked.keep.as_ref().map(place) {
                match kept(&directory, &keep) {
                    // For the daemon it is a convenience.
                    Err(error) if !asked.lines => return Ok((outcomes, Some(done_but(error.line())))),
                    _ => {}
                }
            }
            // What it has noted is of no use to the next run. It goes at once, so that nobody finds a part of it.
            let gone = Utf8PathBuf::from(format!("{directory}.gone"));
            let removed = std::fs::rename(&directory, &gone).and_then(|()| std::fs::remove_dir_all(&gone));
            match removed {
                // Its directory is the daemon's to clear away.
                Err(cause) if !asked.lines => {
                    Some(done_but(format!("it is done; cannot remove {directory}: {cause}")))
                }
                _ => None,
            }
        }
        Err(error) => {
            let said = error.chain();
            let name = &target.name;
            let said = if said.starts_with(name) { said } else { format!("{name}: {said}") };
            // The daemon knows where, and that is nothing for people to do.
            let way_on = format!("; what the run has noted is there: --state {directory} goes on with it");
            let message = if asked.lines { said } else { format!("{said}{way_on}") };
            Some(RunError { kind: error.kind.to_string(), message })
        }
    };
    Ok((outcomes, error))
}

/// The directory for a run's files: the one that was named, or one of its own.
fn working(state: Option<&Utf8Path>) -> Result<Utf8PathBuf> {
    if let Some(state) = state {
        let failed = |cause| Error::caused(ErrorKind::Local, format!("--state `{state}`"), cause);
        std::fs::create_dir_all(state).map_err(failed)?;
        let mut entries = state.read_dir_utf8().map_err(failed)?;
        // It is removed when the run is over, and so are not other people's files.
        if entries.next().is_some() && !state.join("of").is_file() {
            let context = format!(
                "--state `{state}`: it has something else in it than a run's notes; name another directory"
            );
            return Err(Error::new(ErrorKind::Local, context));
        }
        return state.canonicalize_utf8().map_err(failed);
    }
    let working = tempfile::Builder::new().prefix("vcl-configure-").tempdir();
    let working = working
        .map_err(|cause| Error::caused(ErrorKind::Local, "cannot make a directory to work in", cause))?
        .keep();
    Utf8PathBuf::from_path_buf(working).map_err(|path| {
        let context =
            format!("the directory for temporary files has a name that is not UTF-8: {}", path.display());
        Error::new(ErrorKind::Local, context)
    })
}

async fn wish(
    asked: &ConfigureArguments,
    target: &Target,
    directory: Utf8PathBuf,
    stop: CancellationToken,
    progress: tokio::sync::mpsc::UnboundedSender<Progress>,
) -> Result<Wish> {
    let local = |context: String| Error::new(ErrorKind::Local, context);
    let transport = target.transport.clone();
    let bare = match &transport {
        Transport::Ssh { host, .. } => Some(host.rsplit('@').next().unwrap_or(host).to_owned()),
        _ => None,
    };
    let name = asked.name.clone().or(bare).unwrap_or_else(|| "localhost".into());
    let conf = Conf::layer(&directories(asked)?).map_err(|error| local(error.chain()))?;
    let manifest = match &asked.manifest {
        Some(manifest) => manifest
            .canonicalize_utf8()
            .map_err(|cause| Error::caused(ErrorKind::Local, format!("--manifest `{manifest}`"), cause))?,
        None => conf.initial_manifest().map(Utf8Path::to_owned).ok_or_else(|| {
            local(
                "there is no manifest/init in the configuration directories: name a manifest with -i".into(),
            )
        })?,
    };
    let command = std::env::current_exe().ok().and_then(|path| Utf8PathBuf::from_path_buf(path).ok());
    let command = command.ok_or_else(|| local("this program does not know where it lies".into()))?;
    // What waits for a disk or another machine leaves room for others.
    let processors = std::thread::available_parallelism().map_or(1, usize::from).max(4);
    Ok(Wish {
        host: Host::resolved(&name, &asked.tag).await,
        transport,
        conf,
        manifest,
        directory,
        base: asked.base.clone().into_string(),
        command,
        jobs: asked.jobs.map_or(processors, usize::from),
        memo: asked.memo.clone(),
        secrets: asked.secret.iter().cloned().collect(),
        dry_run: asked.dry_run,
        install: asked.install,
        limit: Duration::from_secs(asked.deadline),
        within: asked.within.map(Duration::from_secs),
        patience: Duration::from_secs(asked.patience),
        stop,
        progress: Some(progress),
    })
}

fn directories(asked: &ConfigureArguments) -> Result<Vec<Utf8PathBuf>> {
    if !asked.conf.is_empty() {
        return Ok(asked.conf.clone());
    }
    let home = std::env::var("HOME").map(|home| Utf8PathBuf::from(home).join(".cdist"));
    let named = std::env::var("CDIST_PATH").unwrap_or_default();
    let mut all: Vec<Utf8PathBuf> = std::iter::once(Utf8PathBuf::from(PACKAGED))
        .chain(home)
        .filter(|directory| directory.is_dir())
        .collect();
    all.extend(named.split(':').filter(|directory| !directory.is_empty()).map(Utf8PathBuf::from));
    if all.is_empty() {
        let context = format!(
            "there is no configuration directory: name one with -c, or install the types of cdist (apt install cdist, which has \
             them in {PACKAGED})"
        );
        return Err(Error::new(ErrorKind::Local, context));
    }
    Ok(all)
}

fn tell(name: Option<&str>, progress: &Progress, screen: &mut Screen) {
    let told = match progress {
        Progress::Done(Done { object, changed: true, took, .. }) => {
            format!("changed  {object}  ({:.1} s)", took.as_secs_f64())
        }
        other => in_words(other),
    };
    if !told.is_empty() {
        let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
        screen.say(&format!("{name}{told}"));
    }
}

/// What a person is told; nothing of what was as it should be.
fn in_words(progress: &Progress) -> String {
    match progress {
        Progress::Explored { explorers } => {
            format!("explored, by {}", text::counted(*explorers as u64, "explorer"))
        }
        Progress::Defined { objects } => format!("{} defined", text::counted(*objects as u64, "object")),
        Progress::Done(Done { object, changed: true, .. }) => format!("changed {object}"),
        Progress::Done(_) | Progress::Over(_) => String::new(),
        Progress::Lost { why } => format!("{why}; connecting again"),
    }
}

/// For programs: one line for what a person is told in one.
fn line(progress: &Progress) -> String {
    match in_words(progress) {
        words if words.is_empty() => words,
        words => format!("{}\n", text::one_line(&words)),
    }
}

/// What went wrong after all was done.
fn done_but(message: String) -> RunError {
    RunError { kind: "failed".into(), message }
}

fn kept(directory: &Utf8Path, keep: &Utf8Path) -> Result<()> {
    let from = directory.join("data");
    if let Some(above) = keep.parent().filter(|above| *above != "") {
        std::fs::create_dir_all(above)
            .map_err(|cause| Error::caused(ErrorKind::Local, format!("--keep `{keep}`"), cause))?;
    }
    let output = std::process::Command::new("cp").arg("-a").arg("--").arg(&from).arg(keep).output();
    let failed =
        |why: String| Error::new(ErrorKind::Local, format!("cannot keep the run in `{keep}`: {why}"));
    let output = output.map_err(|cause| failed(cause.to_string()))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().into()))
    }
}

fn reported(view: &impl Serialize, file: &Utf8Path) -> Result<()> {
    let failed = |cause| Error::caused(ErrorKind::Local, format!("--report `{file}`"), cause);
    let text = serde_json::to_vec_pretty(view).map_err(|cause| failed(cause.into()))?;
    std::fs::write(file, text).map_err(failed)
}

/// Ends what is still running on the machine of a run that was killed.
async fn ended_there(directory: &Utf8Path, target: &Target, base: &str) -> Result<()> {
    match vcl_configure::run::end(directory, &target.transport, base).await {
        true => Ok(()),
        false => {
            let context = format!("{}: it did not answer; something may still run there", target.name);
            Err(Error::new(ErrorKind::Local, context))
        }
    }
}

fn view(objects: Vec<Outcome>, target: &str, dry_run: bool, took: Duration) -> RunReport {
    let names = |all: Vec<ObjectName>| all.iter().map(ToString::to_string).collect();
    let objects = objects.into_iter().map(|outcome| ObjectReport {
        object: outcome.object.to_string(),
        state: match outcome.state {
            _ if outcome.failed => ObjectState::Failed,
            State::Defined => ObjectState::Defined,
            State::Prepared => ObjectState::Prepared,
            State::Done => ObjectState::Done,
        },
        changed: outcome.changed,
        seconds: outcome.took.as_secs_f64(),
        messages: outcome.messages,
        requires: names(outcome.requires),
        defines: names(outcome.defines),
        defined_in: outcome.defined_in,
        parameters: outcome.parameters,
        output: outcome.output,
    });
    RunReport {
        target: target.to_owned(),
        dry_run,
        seconds: took.as_secs_f64(),
        objects: objects.collect(),
        error: None,
    }
}

fn summary(view: &RunReport) -> String {
    let done = || view.objects.iter().filter(|object| object.state == ObjectState::Done);
    let changed = done().filter(|object| object.changed).count();
    let did = if view.dry_run { "would change" } else { "changed" };
    let all = text::counted(done().count() as u64, "object");
    format!("{}: {all}, {changed} {did}, {:.1} s", view.target, view.seconds)
}
