//! A run: the stages, one after the other, for one target.
//!
//! The machine is explored; the initial manifest defines objects; then, as long as there are objects that can be, they are
//! prepared (explored for, and their types' manifests run) and done (their code generated and run). What can be done at the same
//! time is: the explorers of all objects that wait for nothing travel together, and manifests and what generates code run beside
//! each other. Code runs in the order in which its objects were defined, one after the other, so that what a manifest says first
//! happens first wherever nothing else was said.
//!
//! Code that does nothing on this machine but copy files is not waited for: it is sent after that of the object before, and is
//! not done where that fails.
//!
//! The files of a run are its own until it is over; whoever started it owns them then. A run that fails ends with the first
//! object that failed, and leaves everything that was generated for whoever looks, and for a run that goes on with it: one that
//! finds such files in its directory does what is left. So does one whose connection broke. Of what was under way then nobody
//! knows what was done of it; so its object is explored for again, and its code generated anew, as cdist would in its next run.

use crate::command::{REMOTE_COPY, REMOTE_EXEC};
use crate::conf::Conf;
use crate::emulator::Emulator;
use crate::environment::{Environment, Host};
use crate::error::{Error, ErrorKind, Result};
use crate::link::Link;
use crate::local::Runner;
use crate::name::ObjectName;
use crate::notes::Notes;
use crate::outcome::{self, Outcome};
use crate::scripts::{Scripts, read, token, write};
use crate::secrets::Secrets;
use crate::server::{Desk, Server};
use crate::stages::Run;
use crate::target::Transport;
use crate::tree::Tree;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whom it is for.
    pub host: Host,
    /// How to get there.
    pub transport: Transport,
    /// The configuration.
    pub conf: Conf,
    /// The manifest that it begins with.
    pub manifest: Utf8PathBuf,
    /// A directory for its files: an empty one, or that of a run of the same that did not come to its end.
    pub directory: Utf8PathBuf,
    /// The directory on the target.
    pub base: String,
    /// The program that is the types' commands: see [`crate::command::run`].
    pub command: Utf8PathBuf,
    /// How many scripts run at the same time, of this machine, and explorers there.
    pub jobs: usize,
    /// A directory where generated code is kept, and taken from where nothing has changed that goes into it. `None`: all of it is
    /// generated.
    pub memo: Option<Utf8PathBuf>,
    /// Files with values that stand in nothing that leaves the run, by the names that scripts find them under. See the crate's
    /// `secrets.rs`.
    pub secrets: BTreeMap<String, Utf8PathBuf>,
    /// Code is generated and not run.
    pub dry_run: bool,
    /// Types for installing are used, and no others; without it, these are left out.
    pub install: bool,
    /// How long a script may take.
    pub limit: Duration,
    /// How long the run may take; `None` is as long as it takes.
    pub within: Option<Duration>,
    /// How long it is tried to reach a target again whose connection broke.
    pub patience: Duration,
    /// Ends the run.
    pub stop: CancellationToken,
    /// Who is told how it goes. Whoever does not listen is not waited for.
    pub progress: Option<mpsc::UnboundedSender<Progress>>,
}

/// How often what a dying script still writes is removed again.
const DYING: usize = 100;

/// How a run goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The machine was explored.
    Explored {
        /// With so many explorers.
        explorers: usize,
    },
    /// Manifests have defined so many objects so far.
    Defined {
        /// All of them.
        objects: usize,
    },
    /// An object is done.
    Done(Done),
    /// It is over, well or not: what became of each object.
    Over(Vec<Outcome>),
    /// The connection broke, and it is tried to connect again.
    Lost {
        /// What is known of it.
        why: String,
    },
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The object.
    pub object: ObjectName,
    /// Whether there was code to run, so that it was not what it should be.
    pub changed: bool,
    /// What it told others.
    pub messages: Vec<String>,
    /// How long its own scripts took.
    pub took: Duration,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The objects, in the order in which they were done.
    pub objects: Vec<Done>,
}

/// Does what is wished.
///
/// # Errors
/// The first thing that went wrong, with the object and the script that it was.
pub async fn run(wish: Wish) -> Result<Report> {
    let notes = Notes::of(&wish.directory);
    notes.begin_with(&told(&wish))?;
    let secrets = Secrets::read(&wish.secrets, &wish.directory, notes.defined())?;
    let ended = with_secrets(wish, &secrets).await;
    ended.map_err(|error| secrets.mask_error(error)).map(|report| Report {
        objects: report.objects.into_iter().map(|done| secrets.mask_done(done)).collect(),
    })
}

async fn with_secrets(wish: Wish, secrets: &Secrets) -> Result<Report> {
    let notes = Notes::of(&wish.directory);
    let tree = if notes.defined() { found(&wish)? } else { prepared(&wish)? };
    let (bin, socket) = (wish.directory.join("bin"), wish.directory.join("socket"));
    // What a run that was killed has left running there would go on beside this one, and behind its socket is nobody.
    if let Some(started) = notes.connection() {
        started.kill(&wish.transport, &wish.base).await;
    }
    let _ = fs::remove_file(&socket);
    let desk = Arc::new(Desk {
        emulator: Emulator::new(tree.clone()).with_secrets(secrets.clone()),
        link: Link::open(&wish.transport, &wish.base).await?,
        name: wish.host.name.clone(),
        limit: wish.limit,
    });
    notes.set_connection(&desk.link.now().started())?;
    let server = Server::begin(socket, desk.clone())?;
    let environment = Environment {
        host: wish.host.clone(),
        tree,
        base: wish.base.clone(),
        dry_run: wish.dry_run,
        remote_exec: bin.join(REMOTE_EXEC).into_string(),
        remote_copy: bin.join(REMOTE_COPY).into_string(),
        socket: server.path().to_owned(),
        secrets: secrets.directory().map(Utf8Path::to_owned),
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()),
    };
    let report = Report { objects: notes.done(&environment.tree)? };
    let begun = notes.begun(&environment.tree)?;
    let runner = Runner { limit: wish.limit, stop: wish.stop.clone() };
    let scripts = Scripts {
        environment,
        runner,
        directory: wish.directory.clone(),
        told: Arc::default(),
        memo: None,
        secrets: secrets.clone(),
    };
    let (sent, postponed, again) = (BTreeSet::new(), BTreeMap::new(), BTreeSet::new());
    let (within, losses, failing) = (wish.within, Vec::new(), None);
    let mut run = Run { wish, desk, scripts, notes, sent, postponed, again, begun, losses, failing, report };
    let data = run.tree().global().to_owned();
    let ended = match within {
        Some(within) => tokio::time::timeout(within, run.all()).await.unwrap_or_else(|_| {
            let context = format!("the run has not ended after {} s", within.as_secs());
            Err(Error::new(ErrorKind::Deadline, context))
        }),
        None => run.all().await,
    };
    if run.wish.progress.is_some() {
        // What cannot be told of a run is no reason to fail.
        let failed = ended.as_ref().is_err_and(|error| error.kind != ErrorKind::Cancelled);
        let failing = run.failing.as_ref().filter(|_| failed);
        if let Ok(all) = outcome::of_all(run.tree(), &run.report.objects, failing, secrets) {
            run.tell(Progress::Over(all));
        }
    }
    let ended = match ended {
        Ok(()) if !secrets.is_empty() => run.forget().await.and_then(|()| secrets.mask_files(&data)),
        ended => ended,
    };
    server.end().await;
    let channel = run.desk.link.now();
    match &ended {
        Ok(()) => channel.close().await,
        Err(_) => {
            channel.kill().await;
        }
    }
    ended.map(|()| run.report)
}

/// Ends what a run that was killed has left running on its target; its files stay, for one that goes on with it. It says whether
/// nothing is left there, as far as the run has noted.
pub async fn end(directory: &Utf8Path, transport: &Transport, base: &str) -> bool {
    match Notes::of(directory).connection() {
        Some(started) => started.kill(transport, base).await,
        None => true,
    }
}

/// Makes the files that a run begins with. What there is of one that has not come so far goes away.
fn prepared(wish: &Wish) -> Result<Tree> {
    // Parameters may be secrets.
    fs::set_permissions(&wish.directory, fs::Permissions::from_mode(0o700))
        .map_err(|error| Error::io(format!("making {} private", wish.directory), error))?;
    let (global, bin) = (wish.directory.join("data"), wish.directory.join("bin"));
    for directory in [&global, &bin] {
        if directory.exists() {
            remove(directory)?;
        }
    }
    let inside = ["explorer", "object", "stdout", "stderr"].map(|name| global.join(name));
    for directory in inside.iter().chain([&bin]) {
        fs::create_dir_all(directory).map_err(|error| Error::io(format!("making {directory}"), error))?;
    }
    for name in [REMOTE_EXEC, REMOTE_COPY] {
        std::os::unix::fs::symlink(&wish.command, bin.join(name))
            .map_err(|error| Error::io(format!("linking {bin}/{name}"), error))?;
    }
    let marker = format!(".cdist-{}", &token()?[..8]);
    write(&global.join("messages"), b"")?;
    write(&global.join("object_marker"), format!("{marker}\n").as_bytes())?;
    wish.conf.link(&global, &wish.command)?;
    Ok(Tree::new(global, marker, wish.conf.types().clone()))
}

/// Removes a directory of a try before, whose scripts were killed a moment ago: one that is still dying may make one more file in it.
fn remove(directory: &Utf8Path) -> Result<()> {
    let failed = |error| Error::io(format!("removing {directory}"), error);
    let gone = Utf8PathBuf::from(format!("{directory}.{}", token()?));
    fs::rename(directory, &gone).map_err(failed)?;
    for _ in 0..DYING {
        match fs::remove_dir_all(&gone) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            ended => return ended.map_err(failed),
        }
    }
    fs::remove_dir_all(&gone).map_err(failed)
}

/// The files of a run that has come so far that its objects are defined.
fn found(wish: &Wish) -> Result<Tree> {
    let global = wish.directory.join("data");
    let file = global.join("object_marker");
    let marker = String::from_utf8_lossy(&read(&file)?).trim().to_owned();
    if !marker.starts_with(".cdist-") || marker.contains('/') {
        return Err(Error::new(ErrorKind::Invalid, format!("{file} has no marker of a run: `{marker}`")));
    }
    Ok(Tree::new(global, marker, wish.conf.types().clone()))
}

/// What a run is of, for whoever goes on with it.
fn told(wish: &Wish) -> String {
    let dry = if wish.dry_run { ", dry" } else { "" };
    let install = if wish.install { ", for installing" } else { "" };
    format!("{} by {}{dry}{install}", wish.transport.name(), wish.manifest)
}
