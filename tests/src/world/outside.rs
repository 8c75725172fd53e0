//! The half of a world that stays outside: makes the namespaces, passes signals in and the exit code out.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{CWD, FileType, FlockOperation, Mode};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use super::WORLD_VARIABLE;

/// Runs `command` in a world of its own and returns its exit code; 128 and the signal's number if one ended it.
///
/// With a `directory`, what the world wrote stays there, and the next world in it finds its libvirt definitions again,
/// as a machine does after a power cut. Without, a temporary directory takes it and goes with the world.
///
/// This process must be `vcl-world`, because it starts itself again as process 1 of the world.
///
/// # Errors
///
/// When the caller is not root, the directory is in use by another world, or the namespaces cannot be made.
pub async fn run(directory: Option<&Utf8Path>, command: &[String]) -> Result<u8> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "a private world takes root, for its mounts and its network"
    );
    ensure!(
        env::var_os(WORLD_VARIABLE).is_none(),
        "this is inside a world already ({WORLD_VARIABLE} is set); worlds do not nest"
    );
    let (_temporary, directory) = match directory {
        Some(directory) => {
            fs::create_dir_all(directory).with_context(|| format!("failed to make {directory}"))?;
            (None, directory.canonicalize_utf8().with_context(|| format!("failed to resolve {directory}"))?)
        }
        None => {
            let temporary = tempfile::Builder::new().prefix("vcl-world-").tempdir()?;
            let path = Utf8PathBuf::try_from(temporary.path().canonicalize()?)?;
            (Some(temporary), path)
        }
    };
    ensure!(
        !directory.starts_with("/run"),
        "{directory}: a world has its own /run, so its directory lies elsewhere"
    );
    let _lock = lock(&directory)?;
    let mut control = control_pipe(&directory)?;

    let own_binary = env::current_exe().context("failed to find this binary")?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut child = Command::new("unshare")
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount",
            "--propagation",
            "private",
            "--mount-proc",
            "--net",
        ])
        .arg(own_binary)
        .args(["--inside", directory.as_str(), "--"])
        .args(command)
        .spawn()
        .context("failed to run unshare (package util-linux)")?;

    loop {
        let number = tokio::select! {
            status = child.wait() => {
                let status = status.context("failed to wait for the world")?;
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
                return Ok(u8::try_from(code).unwrap_or(1));
            }
            _ = interrupt.recv() => rustix::process::Signal::INT,
            _ = terminate.recv() => rustix::process::Signal::TERM,
            _ = hangup.recv() => rustix::process::Signal::HUP,
        };
        // The world may be gone already, and then the wait above tells.
        let _ = control.write_all(&[u8::try_from(number.as_raw()).unwrap_or(15)]);
    }
}

/// Two worlds in one directory would overwrite each other's libvirt state.
fn lock(directory: &Utf8Path) -> Result<File> {
    let path = directory.join("lock");
    let file = File::create(&path).with_context(|| format!("failed to make {path}"))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("another world runs in {directory}"))?;
    Ok(file)
}

/// The named pipe by which signals reach process 1: one byte each, the signal's number.
///
/// `unshare` blocks signals while it waits, and process 1's id is known only inside. A pipe needs neither, and its end
/// tells process 1 that this process died, even by SIGKILL.
fn control_pipe(directory: &Utf8Path) -> Result<File> {
    let path = directory.join("control");
    let _ = fs::remove_file(&path);
    rustix::fs::mknodat(CWD, path.as_std_path(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .with_context(|| format!("failed to make the pipe {path}"))?;
    // Reading too, because to open it for writing alone would wait for the reader.
    OpenOptions::new().read(true).write(true).open(&path).with_context(|| format!("failed to open {path}"))
}
