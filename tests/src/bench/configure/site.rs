//! What all runs have in common: names, keys, `ssh_config`, the programs and what they find around them.

use super::meter::{Spent, metered};
use super::{Side, manifests, target};
use crate::command::output_of;
use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

/// What the first machine is called by those who take the relay.
pub(super) const FAR: &str = "far-1";
/// Where the relay listens.
pub(super) const FAR_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, 0, 2, 1), 22));

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The world's side of all runs.
pub(super) struct Site {
    /// Everything of the bench, in memory.
    pub(super) directory: Utf8PathBuf,
    /// What machines are copies of.
    pub(super) debian: Utf8PathBuf,
    /// Where peers were installed.
    pub(super) people: Utf8PathBuf,
    vclctl: Utf8PathBuf,
    cdist: Utf8PathBuf,
    /// cdist's own types.
    types: Utf8PathBuf,
}

impl Site {
    /// Prepares the world around this process.
    pub(super) fn new(debian: &Utf8Path, people: &Utf8Path, hosts: u8) -> Result<Self> {
        // Mounts below are for a world alone.
        crate::world::World::current()?;
        let cdist = people.join("cdist-venv/bin/cdist");
        ensure!(cdist.is_file(), "there is no {cdist}: .ci/people-tools {people}");
        let library = people.join("cdist-venv/lib");
        let python =
            library.read_dir_utf8()?.next().with_context(|| format!("nothing is in {library}"))??;
        // In the own /run of the world.
        let site = Self {
            directory: "/run/bench-configure".into(),
            debian: debian.to_owned(),
            people: people.to_owned(),
            vclctl: crate::daemon::binary("vclctl")?,
            cdist,
            types: python.path().join("site-packages/cdist/conf"),
        };
        ensure!(site.types.is_dir(), "there is no {}", site.types);
        fs::create_dir_all(site.directory.join("conf/type").join(manifests::TYPE))?;
        for key in ["id", "host"] {
            crate::pc::keygen(&site.directory.join(key))?;
        }
        site.name_machines(hosts)?;
        site.configure_ssh()?;
        Ok(site)
    }

    fn name_machines(&self, hosts: u8) -> Result<()> {
        let mut text = format!("127.0.0.1 localhost\n{} {FAR}\n", FAR_ADDRESS.ip());
        for n in 1..=hosts {
            text.push_str(&format!("{} {}\n", target::address(n).ip(), target::name(n)));
        }
        self.put_over("hosts", &text, "/etc/hosts")
    }

    /// ssh looks for its user's configuration where the user's home is by `/etc/passwd`, whatever the variable says.
    fn configure_ssh(&self) -> Result<()> {
        let own = "/root/.ssh";
        if Utf8Path::new(own).is_dir() {
            output_of(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=700", "tmpfs", own]))?;
        }
        let text = format!(
            "Host *\n  IdentityFile {}/id\n  IdentitiesOnly yes\n  StrictHostKeyChecking no\n  \
             UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
            self.directory
        );
        self.put_over("ssh_config", &text, "/etc/ssh/ssh_config")
    }

    fn put_over(&self, name: &str, text: &str, over: &str) -> Result<()> {
        let file = self.directory.join(name);
        fs::write(&file, text)?;
        output_of(Command::new("mount").args(["--bind", file.as_str(), over]))?;
        Ok(())
    }

    /// A program with the few variables that all of them find.
    pub(super) fn program(&self, path: &Utf8Path) -> Command {
        let mut command = Command::new(path);
        command.current_dir(&self.directory).env_clear();
        command.env("PATH", PATH).env("LANG", "C.UTF-8");
        command.env("HOME", self.directory.join("home")).env("TMPDIR", self.directory.join("tmp"));
        command
    }

    /// Where our side keeps what it generates, when it does.
    pub(super) fn memo(&self) -> Utf8PathBuf {
        self.directory.join("memo")
    }

    /// Has a side apply a manifest to hosts at once.
    pub(super) fn configure(&self, side: Side, hosts: &[&str], manifest: &str) -> Result<Spent> {
        self.configure_with(side, hosts, manifest, &[])
    }

    /// The same, with more on our command line.
    pub(super) fn configure_with(
        &self,
        side: Side,
        hosts: &[&str],
        manifest: &str,
        words: &[&str],
    ) -> Result<Spent> {
        let file = self.directory.join("manifest");
        fs::write(&file, manifest)?;
        let more = self.directory.join("conf");
        match side {
            Side::Ours => {
                let mut command = self.program(&self.vclctl);
                command.args(["configure", "-i", file.as_str(), "-p", &hosts.len().to_string()]);
                command.args(["-c", self.types.as_str(), "-c", more.as_str()]).args(words);
                command.args(hosts.iter().map(|host| format!("--host=root@{host}")));
                self.measure(&mut [command])
            }
            Side::Cdist => {
                let mut command = self.program(&self.cdist);
                command.args(["config", "-i", file.as_str(), "-c", more.as_str()]);
                if hosts.len() > 1 {
                    command.args(["-p", &hosts.len().to_string()]);
                }
                command.args(hosts);
                self.measure(&mut [command])
            }
            other => bail!("{} knows no manifests", other.name()),
        }
    }

    /// Runs programs in an empty home.
    pub(super) fn measure(&self, commands: &mut [Command]) -> Result<Spent> {
        for name in ["home", "tmp"] {
            let directory = self.directory.join(name);
            if directory.exists() {
                fs::remove_dir_all(&directory)?;
            }
            fs::create_dir(&directory)?;
        }
        // pyinfra does not make it before it writes there.
        let ssh = self.directory.join("home/.ssh");
        fs::create_dir(&ssh)?;
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o700))?;
        metered(commands, &self.directory)
    }
}
