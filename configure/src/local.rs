//! Scripts that run on this machine: manifests, what generates code, and code for here.
//!
//! One that is executable is run as what its first line says, any other by `/bin/sh -e`. It has a process group of its own, which
//! ends with it: with its deadline, when the run is called off, and when it says more than it may.

use crate::environment::Variables;
use crate::error::{Error, ErrorKind, Result};
use camino::Utf8Path;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::{OnceLock, mpsc};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

/// How much a script may say.
const MOST: u64 = 64 << 20;
/// How often it is looked how much it has said.
const LOOK: Duration = Duration::from_millis(200);

/// How scripts of this machine are run.
#[derive(Debug, Clone)]
pub struct Runner {
    /// How long one may take.
    pub limit: Duration,
    /// Ends them all.
    pub stop: CancellationToken,
}

/// Ends a process group when nobody waits for it any more.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended by itself.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
    }
}

/// What the thread that starts scripts does, one after the other.
type Start = Box<dyn FnOnce() + Send>;

/// Starts a script. What it makes is its owner's alone, as cdist has it: secrets are among it, and what is copied to a target
/// keeps its mode. The mask is a process's, and this process has others to make files for; so scripts are started by a thread
/// that has a mask of its own, and inherit that.
async fn spawn(mut command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Result<mpsc::Sender<Start>, String>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (starts, queue) = mpsc::channel::<Start>();
        let (tell, ready) = mpsc::channel();
        let thread = std::thread::Builder::new().name("scripts".into()).spawn(move || {
            #[expect(
                deprecated,
                reason = "what is unsafe about it concerns file descriptors, which stay shared"
            )]
            let own = rustix::thread::unshare(rustix::thread::UnshareFlags::FS);
            if own.is_ok() {
                rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
            }
            let _ = tell.send(own);
            queue.into_iter().for_each(|start| start());
        });
        thread.map_err(|error| error.to_string())?;
        match ready.recv() {
            Ok(Ok(())) => Ok(starts),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    });
    let starter =
        starter.as_ref().map_err(|why| io::Error::other(format!("there is no thread to start it: {why}")))?;
    let (tell, started) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let start: Start = Box::new(move || {
        let _inside = runtime.enter();
        let _ = tell.send(command.spawn());
    });
    starter.send(start).map_err(|_| io::Error::other("the thread that starts it has ended"))?;
    started.await.map_err(io::Error::other)?
}

impl Runner {
    /// Runs a script, with what it says in two files: behind what is in them, if it goes `on` with what another has begun.
    ///
    /// # Errors
    /// It ends with another code than 0, takes too long, says too much, or cannot be started.
    pub async fn run(
        &self,
        script: &Utf8Path,
        variables: &Variables,
        stdout: &Utf8Path,
        stderr: &Utf8Path,
        on: bool,
    ) -> Result<()> {
        let metadata =
            std::fs::metadata(script).map_err(|error| Error::io(format!("looking at {script}"), error))?;
        let mut command = if metadata.permissions().mode() & 0o111 == 0 {
            let mut sh = Command::new("/bin/sh");
            sh.arg("-e").arg(script);
            sh
        } else {
            // By its real place: a script finds what lies beside it.
            Command::new(
                script
                    .canonicalize_utf8()
                    .map_err(|error| Error::io(format!("following {script}"), error))?,
            )
        };
        let made = |path: &Utf8Path| {
            let file = File::options().create(true).write(true).append(on).truncate(!on).open(path);
            file.map_err(|error| Error::io(format!("making {path}"), error))
        };
        command.stdin(Stdio::null()).stdout(made(stdout)?).stderr(made(stderr)?);
        command.envs(variables).process_group(0).kill_on_drop(true);
        let mut child =
            spawn(command).await.map_err(|error| Error::io(format!("starting {script}"), error))?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let mut group = Group(group);
        let refuse = |kind, why: String| Err(Error::new(kind, format!("{script}: {why}")));
        let watched = async {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    status = child.wait() => {
                        let status = status.map_err(|error| Error::io(format!("waiting for {script}"), error))?;
                        // What it left running is meant to run: cdist leaves it too.
                        group.0 = None;
                        return if status.success() { Ok(()) } else { refuse(ErrorKind::Failed, status.to_string()) };
                    }
                    () = self.stop.cancelled() => {
                        return refuse(ErrorKind::Cancelled, "the run was called off".into());
                    }
                    _ = look.tick() => {
                        let said = [stdout, stderr].map(|file| std::fs::metadata(file).map_or(0, |m| m.len()));
                        if said.into_iter().any(|size| size > MOST) {
                            return refuse(ErrorKind::Failed, format!("it said more than {} MiB", MOST >> 20));
                        }
                    }
                }
            }
        };
        tokio::time::timeout(self.limit, watched).await.unwrap_or_else(|_| {
            refuse(ErrorKind::Deadline, format!("it has not ended after {} s", self.limit.as_secs()))
        })
    }
}
