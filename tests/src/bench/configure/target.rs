//! A machine to configure: a copy of a Debian that forgets everything, with an sshd of its own on a loopback address.

use super::manifests;
use super::site::Site;
use crate::command::output_of;
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long its sshd may take to come up or to go.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is its sshd's, as it sees it.
const OWN: &str = "/run/bench";

/// A machine. It goes with this.
pub(super) struct Target {
    name: String,
    directory: Utf8PathBuf,
    root: Utf8PathBuf,
    sshd: Option<Pid>,
}

/// What a machine is called.
pub(super) fn name(n: u8) -> String {
    format!("target-{n}")
}

/// Where its sshd listens. Ports below 1024 are free in the world, and programs know this one.
pub(super) fn address(n: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 0, 1, n).into(), 22)
}

impl Target {
    /// A copy of the site's Debian.
    pub(super) fn start(site: &Site, n: u8) -> Result<Self> {
        Self::start_on(site, n, &site.debian)
    }

    /// A copy of what is in some directory.
    pub(super) fn start_on(site: &Site, n: u8, lower: &Utf8Path) -> Result<Self> {
        let name = name(n);
        let directory =
            tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&site.directory)?.keep();
        let directory = Utf8PathBuf::try_from(directory)?;
        let (root, changed, work) =
            (directory.join("root"), directory.join("changed"), directory.join("work"));
        for part in [&root, &changed, &work] {
            fs::create_dir(part)?;
        }
        let layers = format!("lowerdir={lower},upperdir={changed},workdir={work}");
        let mut target = Self { name, directory, root, sshd: None };
        target.mount(&["-t", "overlay", "-o", &layers, "overlay"], "")?;
        target.mount(&["--bind", "/dev"], "dev")?;
        target.mount(&["-t", "proc", "proc"], "proc")?;
        // What a user of this machine has for his shell is no part of what is measured.
        target.mount(&["-t", "tmpfs", "tmpfs"], "root")?;
        fs::create_dir_all(target.path(manifests::DIRECTORY))?;
        // Without PAM, sshd lets nobody in whose account is locked.
        target.inside(&["usermod", "--password", "*", "root"])?;
        target.start_sshd(site, n)?;
        Ok(target)
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether files are there as they should be; answers what would be other numbers if they had been written again.
    pub(super) fn has_files(&self, count: usize) -> Result<Vec<u64>> {
        let mut inodes = Vec::new();
        for n in 1..=count {
            let path = self.path(&format!("{}/f{n}", manifests::DIRECTORY));
            let text = fs::read_to_string(&path).with_context(|| format!("{path} was not made"))?;
            let meta = fs::metadata(&path)?;
            ensure!(
                text == manifests::content(n) && meta.mode() & 0o777 == 0o640,
                "{path} is not as it should be"
            );
            inodes.push(meta.ino());
        }
        Ok(inodes)
    }

    /// Whether everything is there that the mixed manifest makes.
    pub(super) fn has_mixed(&self) -> Result<()> {
        for path in manifests::left_by_mixed() {
            let path = self.path(&path);
            ensure!(fs::symlink_metadata(&path).is_ok(), "{path} was not made");
        }
        Ok(())
    }

    fn path(&self, of: &str) -> Utf8PathBuf {
        self.root.join(of.trim_start_matches('/'))
    }

    fn mount(&self, words: &[&str], at: &str) -> Result<()> {
        let at = if at.is_empty() { self.root.clone() } else { self.root.join(at) };
        output_of(Command::new("mount").args(words).arg(&at)).map(drop)
    }

    fn inside(&self, words: &[&str]) -> Result<()> {
        output_of(Command::new("chroot").arg(&self.root).args(words)).map(drop)
    }

    /// It goes into the background by itself, so that neither it nor its sessions are this process's children.
    fn start_sshd(&mut self, site: &Site, n: u8) -> Result<()> {
        for directory in [OWN, "/run/sshd"] {
            fs::create_dir_all(self.path(directory))?;
        }
        for file in ["host", "id.pub"] {
            fs::copy(site.directory.join(file), self.path(OWN).join(file))?;
        }
        let config = format!(
            "ListenAddress {}\nHostKey {OWN}/host\nAuthorizedKeysFile {OWN}/id.pub\nStrictModes no\nPidFile {OWN}/pid\n\
             UsePAM no\nPermitRootLogin yes\nSubsystem sftp /usr/lib/openssh/sftp-server\n",
            address(n).ip()
        );
        fs::write(self.path(OWN).join("config"), config)?;
        let log = format!("{OWN}/log");
        self.inside(&["/usr/sbin/sshd", "-f", &format!("{OWN}/config"), "-E", &log])?;
        let (file, until) = (self.path(OWN).join("pid"), Instant::now() + PATIENCE);
        // It writes that when it listens.
        self.sshd = loop {
            let text = fs::read_to_string(&file).unwrap_or_default();
            if text.ends_with('\n') {
                break Pid::from_raw(text.trim().parse()?);
            }
            ensure!(
                Instant::now() < until,
                "the sshd of {} does not come up: {}",
                self.name,
                fs::read_to_string(self.path(&log)).unwrap_or_default()
            );
            std::thread::yield_now();
        };
        Ok(())
    }

    /// Until its address is free again.
    fn end_sshd(&self, pid: Pid) {
        let _ = kill_process(pid, Signal::TERM);
        let until = Instant::now() + PATIENCE;
        let entry = format!("/proc/{}", pid.as_raw_nonzero());
        while Utf8Path::new(&entry).exists() && Instant::now() < until {
            std::thread::yield_now();
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(pid) = self.sshd.take() {
            self.end_sshd(pid);
        }
        // A session of it may have files open for a moment. What stays all the same ends with the world.
        let _ = Command::new("umount").args(["--lazy", "--recursive", self.root.as_str()]).status();
        // Not its root: should that be mounted still, this machine's devices are below it.
        for part in ["changed", "work"] {
            let _ = fs::remove_dir_all(self.directory.join(part));
        }
    }
}
