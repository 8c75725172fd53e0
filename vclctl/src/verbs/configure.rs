//! `configure`: the engine of vcl-configure on one machine, without a daemon.

use crate::cli::ConfigureArguments;
use crate::error::{Error, ErrorKind, Result};
use crate::render::text;
use crate::screen::Screen;
use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use vcl_configure::conf::Conf;
use vcl_configure::environment::Host;
use vcl_configure::run::{Done, Progress, Report, Wish};
use vcl_configure::target::Transport;

/// Where the Debian package has cdist's own types.
const PACKAGED: &str = "/usr/lib/python3/dist-packages/cdist/conf";

/// An object, as `--json` tells it.
#[derive(Debug, Serialize)]
struct ObjectView {
    object: String,
    changed: bool,
    messages: Vec<String>,
    seconds: f64,
}

/// A run, as `--json` tells it.
#[derive(Debug, Serialize)]
struct RunView {
    target: String,
    dry_run: bool,
    seconds: f64,
    objects: Vec<ObjectView>,
}

pub(super) async fn run(asked: ConfigureArguments, screen: &mut Screen) -> Result<()> {
    // What a run makes is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    if let Some(keep) = asked.keep.as_deref().filter(|keep| keep.exists()) {
        let context = format!("--keep `{keep}`: it is there already; name a directory that is not");
        return Err(Error::new(ErrorKind::Local, context));
    }
    let directory = working(asked.state.as_deref())?;
    let stop = CancellationToken::new();
    let (progress, mut told) = tokio::sync::mpsc::unbounded_channel();
    let wish = wish(&asked, directory.clone(), stop.clone(), progress).await?;
    let (target, begun) = (wish.transport.name(), Instant::now());
    let ended = {
        let listening = async {
            while let Some(progress) = told.recv().await {
                tell(&progress, screen);
            }
        };
        let work = async { tokio::join!(vcl_configure::run::run(wish), listening).0 };
        tokio::pin!(work);
        loop {
            tokio::select! {
                ended = &mut work => break ended,
                // What runs is ended, on the machine too; who is impatient asks again.
                _ = tokio::signal::ctrl_c() => {
                    if stop.is_cancelled() {
                        return Err(Error::new(ErrorKind::Local, "called off; something may still run on the machine"));
                    }
                    stop.cancel();
                }
            }
        }
    };
    match ended {
        Ok(report) => {
            if let Some(keep) = &asked.keep {
                kept(&directory, keep)?;
            }
            // What it has noted is of no use to the next run.
            std::fs::remove_dir_all(&directory).map_err(|cause| {
                Error::caused(ErrorKind::Local, format!("it is done; cannot remove {directory}"), cause)
            })?;
            let view = view(report, target, asked.dry_run, begun.elapsed());
            screen.answer(&view, |view, _| summary(view))
        }
        Err(error) => {
            let said = error.chain();
            let said = if said.starts_with(&target) { said } else { format!("{target}: {said}") };
            let context =
                format!("{said}; what the run has noted is there: --state {directory} goes on with it");
            Err(Error::new(ErrorKind::Local, context))
        }
    }
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
    directory: Utf8PathBuf,
    stop: CancellationToken,
    progress: tokio::sync::mpsc::UnboundedSender<Progress>,
) -> Result<Wish> {
    let local = |context: String| Error::new(ErrorKind::Local, context);
    let transport = match (&asked.host, &asked.chroot) {
        (Some(host), _) => {
            let options =
                asked.ssh.iter().flat_map(|words| words.split_whitespace()).map(str::to_owned).collect();
            Transport::Ssh { options, host: host.clone() }
        }
        (None, Some(root)) => Transport::Chroot(root.clone()),
        (None, None) => Transport::Local,
    };
    let bare = asked.host.as_deref().map(|host| host.rsplit('@').next().unwrap_or(host).to_owned());
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
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
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

fn tell(progress: &Progress, screen: &mut Screen) {
    match progress {
        Progress::Explored { explorers } => {
            screen.say(&format!("explored, by {}", text::counted(*explorers as u64, "explorer")));
        }
        Progress::Defined { objects } => {
            screen.say(&format!("{} defined", text::counted(*objects as u64, "object")));
        }
        Progress::Done(Done { object, changed: true, took, .. }) => {
            screen.say(&format!("changed  {object}  ({:.1} s)", took.as_secs_f64()));
        }
        Progress::Done(_) => {}
        Progress::Lost { why } => screen.say(&format!("{why}; connecting again")),
    }
}

fn kept(directory: &Utf8Path, keep: &Utf8Path) -> Result<()> {
    let from = directory.join("data");
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

fn view(report: Report, target: String, dry_run: bool, took: Duration) -> RunView {
    let objects = report.objects.into_iter().map(|done| ObjectView {
        object: done.object.to_string(),
        changed: done.changed,
        messages: done.messages,
        seconds: done.took.as_secs_f64(),
    });
    RunView { target, dry_run, seconds: took.as_secs_f64(), objects: objects.collect() }
}

fn summary(view: &RunView) -> String {
    let changed = view.objects.iter().filter(|object| object.changed).count();
    let did = if view.dry_run { "would change" } else { "changed" };
    let all = text::counted(view.objects.len() as u64, "object");
    format!("{}: {all}, {changed} {did}, {:.1} s", view.target, view.seconds)
}
