//! Boots a guest with bare qemu: no libvirt, no vcld, so that what fails here is the guest's fault.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;

use super::{Guest, Kind};
use crate::command::output_of;

const UEFI_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const UEFI_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// An emulated machine on a busy host boots an ordinary Debian in minutes.
const BOOT_PATIENCE: Duration = Duration::from_secs(600);
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(180);

/// A running guest in an emulated machine with user networking. Its writes go to an overlay that ends with it.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    /// qemu's monitor; it stays open as long as qemu reads it.
    monitor: ChildStdin,
    private_key: Utf8PathBuf,
    ssh_port: u16,
    directory: TempDir,
    started: Instant,
}

impl Machine {
    /// Starts `guest`; `private_key` belongs to the authorized key that it was made with.
    ///
    /// The machine ends with the thread that calls this, at the latest: so a killed test leaves none behind.
    ///
    /// # Errors
    ///
    /// When the overlay or qemu fails.
    pub fn start(guest: &Guest, private_key: &Utf8Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-machine-").tempdir()?;
        let path =
            Utf8Path::from_path(directory.path()).context("the temporary directory's path is not UTF-8")?;
        let overlay = path.join("disk.qcow2");
        let disk =
            guest.disk().canonicalize_utf8().with_context(|| format!("failed to find {}", guest.disk()))?;
        output_of(Command::new("qemu-img").args([
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "qcow2",
            "-b",
            disk.as_str(),
            overlay.as_str(),
        ]))?;
        let ssh_port = free_port()?;

        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-accel", "tcg", "-machine", "pc", "-cpu", "max", "-smp", "1", "-display", "none"])
            .args(["-m", if guest.kind() == Kind::Fast { "256" } else { "512" }])
            .args(["-drive", &format!("if=virtio,format=qcow2,file={overlay}")])
            .args(["-netdev", &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{ssh_port}-:22")])
            // Without a network boot ROM the firmware does not spend time on it.
            .args(["-device", "virtio-net-pci,netdev=n0,romfile="])
            .args(["-device", "virtio-rng-pci"])
            .args(["-serial", &format!("file:{}", path.join("console.log"))])
            .args(["-monitor", "stdio"]);
        if let Some(boot) = guest.direct_boot()? {
            command.args([
                "-kernel",
                boot.kernel.as_str(),
                "-initrd",
                boot.initrd.as_str(),
                "-append",
                &boot.cmdline,
            ]);
        }
        if guest.kind() == Kind::Uefi {
            let variables = path.join("variables.fd");
            fs::copy(UEFI_VARIABLES, &variables).context("failed to copy UEFI variables (package ovmf)")?;
            command
                .args(["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={UEFI_CODE}")])
                .args(["-drive", &format!("if=pflash,format=raw,unit=1,file={variables}")]);
        }
        let log = File::create(path.join("qemu.log"))?;
        let mut qemu = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("failed to run setpriv (package util-linux)")?;
        let monitor = qemu.stdin.take().context("qemu has no standard input")?;
        let private_key = private_key.to_owned();
        Ok(Self { qemu, monitor, private_key, ssh_port, directory, started: Instant::now() })
    }

    /// Waits until root can log in and returns how long that took from the start.
    ///
    /// # Errors
    ///
    /// When qemu ends before, or patience does; the message ends with the guest's console.
    pub fn wait_for_login(&mut self) -> Result<Duration> {
        while !self.greets() || self.ssh("true").is_err() {
            if let Some(status) = self.qemu.try_wait()? {
                bail!("qemu ended: {status}\n{}\n{}", self.tail("qemu.log"), self.tail("console.log"));
            }
            if self.started.elapsed() > BOOT_PATIENCE {
                let last = self.ssh("true").err().map(|error| format!("{error:#}")).unwrap_or_default();
                bail!("no login within {} s: {last}\n{}", BOOT_PATIENCE.as_secs(), self.tail("console.log"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(self.started.elapsed())
    }

    /// Runs a command in the guest as root and returns what it printed.
    ///
    /// # Errors
    ///
    /// When ssh or the command fails.
    pub fn ssh(&self, command: &str) -> Result<String> {
        output_of(Command::new("ssh").args(self.ssh_arguments()).arg(command))
    }

    /// The arguments by which `ssh` reaches the guest.
    #[must_use]
    pub fn ssh_arguments(&self) -> Vec<String> {
        let mut words: Vec<String> =
            vec!["-F".into(), "none".into(), "-i".into(), self.private_key.to_string()];
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "ConnectTimeout=20",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            words.extend(["-o".into(), option.into()]);
        }
        words.extend(["-p".into(), self.ssh_port.to_string(), "root@127.0.0.1".into()]);
        words
    }

    /// Presses the power button and returns how long the guest took to power off.
    ///
    /// # Errors
    ///
    /// When the guest is still there after the patience of a test.
    pub fn press_power_button(mut self) -> Result<Duration> {
        self.monitor.write_all(b"system_powerdown\n").context("qemu's monitor is closed")?;
        self.wait_for_power_off()
    }

    /// Waits until the guest has powered off and returns how long that took from now.
    ///
    /// # Errors
    ///
    /// When the guest is still there after the patience of a test.
    pub fn wait_for_power_off(mut self) -> Result<Duration> {
        let asked = Instant::now();
        loop {
            if let Some(status) = self.qemu.try_wait()? {
                ensure!(status.success(), "qemu: {status}\n{}", self.tail("qemu.log"));
                return Ok(asked.elapsed());
            }
            ensure!(
                asked.elapsed() < POWER_OFF_PATIENCE,
                "still on after {} s\n{}",
                POWER_OFF_PATIENCE.as_secs(),
                self.tail("console.log")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Whether sshd answers. qemu accepts the connection itself, long before the guest can, so only a byte counts.
    fn greets(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ssh_port)) else { return false };
        let mut start = [0; 4];
        stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
            && stream.read_exact(&mut start).is_ok()
            && &start == b"SSH-"
    }

    fn tail(&self, log: &str) -> String {
        let text = fs::read(self.directory.path().join(log)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        format!("{log} ends:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It fails if qemu has ended, and then nothing is left to do.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A port that was free a moment ago. Another process may take it before qemu does; then qemu says so and ends.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("failed to find a free port")?;
    Ok(listener.local_addr()?.port())
}
