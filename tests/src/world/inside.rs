//! Process 1 of a world: mounts what is private, starts the rest, reaps, and by its exit ends all.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{LIBVIRT_URI, MARKER, WORLD_VARIABLE, World};
use crate::command::output_of;

/// How long the command may take to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(10);

/// Directories that libvirt and swtpm write to, and where each lies in the world's directory.
const PRIVATE: [(&str, &str); 6] = [
    ("etc", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("swtpm-log", "/var/log/swtpm"),
    ("swtpm-ca", "/var/lib/swtpm-localca"),
];

/// No `virtlogd`, no change of users or owners, no cgroups, nothing that takes a booted host around libvirtd.
const QEMU_CONF: &str = r#"user = "root"
group = "root"
swtpm_user = "root"
swtpm_group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"#;

/// Prepares the world in `directory` and runs `command` in it; `vcl-world` calls this as process 1 of a fresh PID,
/// mount and network namespace. Returns the exit code of the command.
///
/// # Errors
///
/// When a mount does not work or the command cannot be started.
pub async fn run_inside(directory: &Utf8Path, command: &[String]) -> Result<u8> {
    let requests = listen_outside(directory)?;
    mount_private(directory)?;
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))?;

    // Already libvirtd's start leaves orphans (it asks several qemus what they can do) and waits until they are
    // reaped, so that start is not for this process, which reaps.
    let own_binary = env::current_exe().context("failed to find this binary")?;
    let child = Command::new(own_binary)
        .args(["--start", directory.as_str(), "--"])
        .args(command)
        .env(WORLD_VARIABLE, directory)
        .env("LIBVIRT_DEFAULT_URI", LIBVIRT_URI)
        // It lies in the host's /run, which is not this one.
        .env_remove("XDG_RUNTIME_DIR")
        .spawn()
        .context("failed to run this binary again")?;
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("the command has no process id")?;
    wait_for(pid, requests).await
}

/// Starts libvirtd and turns into `command`; returns only with an error.
///
/// # Errors
///
/// When libvirtd does not come up, or there is no such command.
pub fn start_and_become(command: &[String]) -> Result<std::convert::Infallible> {
    World::current()?.start_libvirtd()?;
    let (program, arguments) = command.split_first().context("no command to run in the world")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("failed to run {program}"))
}

/// Reaps every child until the command is among them. A request from outside asks the command to end; a second one,
/// or time, ends it and the world with it.
async fn wait_for(command: Pid, mut requests: mpsc::UnboundedReceiver<Request>) -> Result<u8> {
    let mut child_ended = signal(SignalKind::child())?;
    let mut deadline: Option<(Instant, u8)> = None;
    loop {
        // Signals of one kind merge, so each stands for any number of ended children. `wait` and not tokio's
        // `Child`, because orphans of others are re-parented here and must be reaped too.
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid == command {
                return Ok(exit_code(status));
            }
        }
        let too_late = async {
            match deadline {
                Some((at, code)) => {
                    sleep_until(at).await;
                    code
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = child_ended.recv() => {}
            code = too_late => return Ok(code),
            request = requests.recv() => match request {
                Some(Request::Signal(number)) if deadline.is_none() => {
                    let signal = Signal::from_named_raw(i32::from(number)).unwrap_or(Signal::TERM);
                    let _ = kill_process(command, signal);
                    deadline = Some((Instant::now() + GRACE, 128 + number));
                }
                Some(Request::Signal(number)) => return Ok(128 + number),
                Some(Request::OutsideIsGone) | None => return Ok(1),
            },
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
    u8::try_from(code.unwrap_or(1)).unwrap_or(1)
}

#[derive(Debug)]
enum Request {
    Signal(u8),
    OutsideIsGone,
}

/// Follows the control pipe in a thread of its own, because a named pipe's end is not worth an asynchronous reader.
fn listen_outside(directory: &Utf8Path) -> Result<mpsc::UnboundedReceiver<Request>> {
    let path = directory.join("control");
    let mut control = File::open(&path).with_context(|| format!("failed to open {path}"))?;
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        let mut byte = [0];
        while control.read_exact(&mut byte).is_ok() {
            let _ = sender.send(Request::Signal(byte[0]));
        }
        let _ = sender.send(Request::OutsideIsGone);
    });
    Ok(receiver)
}

/// Puts the world's directories over the host's. The mount namespace is private, so the host sees none of it.
pub(super) fn mount_private(directory: &Utf8Path) -> Result<()> {
    // The host's /run has the sockets of its libvirtd, D-Bus and systemd, and libvirt would use each of them.
    mount(["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    for empty in ["/run/libvirt", "/run/lock", "/run/sshd"] {
        fs::create_dir(empty).with_context(|| format!("failed to make {empty}"))?;
    }
    fs::write(MARKER, directory.as_str()).with_context(|| format!("failed to write {MARKER}"))?;

    // The /sys of the host shows the host's network interfaces, and libvirt looks bridges up there. It comes without
    // cgroups: they are the host's, and domains of two worlds could have one name.
    let _ = output_of(Command::new("umount").args(["--recursive", "/sys"]));
    mount(["-t", "sysfs", "sysfs", "/sys"])?;

    for (name, over) in PRIVATE {
        let private = directory.join(name);
        fs::create_dir_all(&private).with_context(|| format!("failed to make {private}"))?;
        fs::create_dir_all(over).with_context(|| format!("failed to make {over}"))?;
        if over == "/etc/libvirt" {
            configure_libvirt(&private)?;
        }
        // dnsmasq and others drop root before they read below these.
        fs::set_permissions(&private, fs::Permissions::from_mode(0o755))?;
        mount(["--bind", private.as_str(), over])?;
    }
    Ok(())
}

/// Copies the host's libvirt configuration, but none of its domains, networks, pools and secrets.
fn configure_libvirt(private: &Utf8Path) -> Result<()> {
    let filters = private.join("nwfilter");
    fs::create_dir_all(&filters).with_context(|| format!("failed to make {filters}"))?;
    for (from, to) in [("/etc/libvirt", private), ("/etc/libvirt/nwfilter", &filters)] {
        for entry in Utf8Path::new(from).read_dir_utf8().with_context(|| format!("failed to list {from}"))? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let target = to.join(entry.file_name());
                fs::copy(entry.path(), &target).with_context(|| format!("failed to write {target}"))?;
            }
        }
    }
    let defaults: [(&str, &str); 2] = [
        ("qemu.conf", QEMU_CONF),
        // The host may have turned on TCP, TLS or Polkit. In here nobody else can reach the socket.
        ("libvirtd.conf", "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n"),
    ];
    for (name, text) in defaults {
        let path: Utf8PathBuf = private.join(name);
        fs::write(&path, text).with_context(|| format!("failed to write {path}"))?;
    }
    Ok(())
}

pub(super) fn mount<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>) -> Result<()> {
    output_of(Command::new("mount").args(arguments)).map(drop)
}
