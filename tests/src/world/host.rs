//! A second host inside a world: its own network, mounts and libvirtd, a cable between the two, and no sight of what the
//! first one has on its disks.
//!
//! ```text
//! the world                                the host
//! 10.77.0.1 vh-NAME ───────────────────── eth0 10.77.0.2     libvirtd listens here, on TCP
//!   route to each of its networks          its networks' bridges, forwarding between
//!   /tmp/…/library                         an empty directory
//! ```
//!
//! A process holds the host's namespaces; it goes with [`Host`], and with the world at the latest.

use std::env;
use std::fs;
use std::io::Read;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use super::inside::{mount, mount_private};
use super::{World, is_libvirtd, network_xml, until};
use crate::command::output_of;

/// The cable's end in the world.
const NEAR: &str = "10.77.0.1/24";
/// The host's.
const FAR: &str = "10.77.0.2";
const READY: &str = "ready";

/// A second host.
#[derive(Debug)]
pub struct Host {
    name: String,
    directory: Utf8PathBuf,
    holder: Child,
}

/// The half of a host that is inside it: prepares it and stays until standard input ends. `vcl-world --host` calls it in a
/// fresh mount and network namespace.
///
/// # Errors
///
/// When a mount does not work.
pub fn hold_host(directory: &Utf8Path, hide: &[String]) -> Result<()> {
    mount_private(directory)?;
    for path in hide {
        mount(["-t", "tmpfs", "-o", "size=1m", "tmpfs", path])?;
    }
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("failed to turn forwarding on")?;
    fs::write(directory.join(READY), "")?;
    let _ = std::io::stdin().read(&mut [0]);
    Ok(())
}

impl World {
    /// A second host. In it these directories are empty.
    ///
    /// # Errors
    ///
    /// When it or its libvirtd does not come up.
    pub fn host(&self, name: &str, vcl_world: &str, hide: &[&Utf8Path]) -> Result<Host> {
        let directory = self.directory().join(format!("host-{name}"));
        fs::create_dir_all(&directory)?;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--propagation",
            "private",
            vcl_world,
            "--host",
            directory.as_str(),
        ]);
        command.args(["--"]).args(hide.iter().map(|path| path.as_str())).stdin(Stdio::piped());
        // The holder's own variables say that it is in the world.
        command.env_remove("XDG_RUNTIME_DIR");
        let holder = command.spawn().context("failed to run unshare")?;
        let mut host = Host { name: name.to_owned(), directory, holder };
        let ready = host.directory.join(READY);
        let mut ended = None;
        until("the host to be ready", || {
            ended = host.holder.try_wait().ok().flatten();
            ready.exists() || ended.is_some()
        })?;
        ensure!(ended.is_none(), "the host ended at once: {ended:?}");
        let (cable, pid) = (host.cable(), host.holder.id().to_string());
        for words in [
            &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid] as &[&str],
            &["address", "add", NEAR, "dev", &cable],
            &["link", "set", &cable, "up"],
        ] {
            output_of(Command::new("ip").args(words))?;
        }
        let far = format!("{FAR}/24");
        host.run(&["ip", "address", "add", &far, "dev", "eth0"])?;
        host.run(&["ip", "link", "set", "eth0", "up"])?;
        // Guests there answer guests and people here.
        host.run(&["ip", "route", "add", "default", "via", "10.77.0.1"])?;
        let conf = host.directory.join("etc/libvirtd.conf");
        let text = fs::read_to_string(&conf)?;
        let listen =
            format!("listen_tls = 0\nlisten_tcp = 1\nlisten_addr = \"{FAR}\"\nauth_tcp = \"none\"\n");
        fs::write(&conf, format!("{text}{listen}"))?;
        host.start_libvirtd()?;
        Ok(host)
    }
}

impl Host {
    fn cable(&self) -> String {
        format!("vh-{}", self.name)
    }
    /// What it writes, as the world sees it: `lib` is its `/var/lib/libvirt`.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }
    /// How its libvirtd is reached over the cable.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("qemu+tcp://{FAR}/system")
    }

    /// Runs a command on it.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let pid = self.holder.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount", "--net", "--"]).args(words);
        output_of(&mut command)
    }
    /// Runs virsh on it.
    ///
    /// # Errors
    ///
    /// When virsh fails.
    pub fn virsh(&self, words: &[&str]) -> Result<String> {
        let all: Vec<_> =
            ["virsh", "--quiet", "--connect", "qemu:///system"].iter().chain(words).copied().collect();
        self.run(&all)
    }

    fn pid_file(&self) -> Utf8PathBuf {
        self.directory.join("libvirtd.pid")
    }
    /// The process id of its libvirtd, if it runs.
    #[must_use]
    pub fn libvirtd_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        is_libvirtd(pid).then_some(pid)
    }
    /// Starts its libvirtd and waits until it answers.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn start_libvirtd(&self) -> Result<()> {
        let _ = fs::remove_file(self.pid_file());
        let _ = self.run(&["rm", "-f", "/run/libvirt/libvirt-sock"]);
        self.run(&["libvirtd", "--daemon", "--listen", "--pid-file", self.pid_file().as_str()])?;
        until("the host's libvirtd to answer", || self.virsh(&["version"]).is_ok())
    }
    /// Kills its libvirtd as a crash would. Domains keep running.
    ///
    /// # Errors
    ///
    /// When it is still there after the patience of a test.
    pub fn kill_libvirtd(&self) -> Result<()> {
        let Some(pid) = self.libvirtd_pid() else { return Ok(()) };
        output_of(Command::new("kill").args(["-KILL", &pid.to_string()]))?;
        until("the host's libvirtd to end", || !is_libvirtd(pid))
    }
    /// Stops its libvirtd in the middle of whatever it does, or lets it go on.
    ///
    /// # Errors
    ///
    /// When it does not run.
    pub fn freeze_libvirtd(&self, frozen: bool) -> Result<()> {
        let pid = self.libvirtd_pid().context("the host's libvirtd does not run")?.to_string();
        output_of(Command::new("kill").args([if frozen { "-STOP" } else { "-CONT" }, &pid])).map(drop)
    }
    /// Pulls the cable, or plugs it in again.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub fn plug(&self, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        output_of(Command::new("ip").args(["link", "set", &self.cable(), state])).map(drop)
    }
    /// How many bytes have gone over the cable: to the host, and from it.
    ///
    /// # Errors
    ///
    /// When the cable is gone.
    pub fn traffic(&self) -> Result<(u64, u64)> {
        let read = |what: &str| -> Result<u64> {
            let path = format!("/sys/class/net/{}/statistics/{what}_bytes", self.cable());
            Ok(fs::read_to_string(&path).with_context(|| format!("failed to read {path}"))?.trim().parse()?)
        };
        Ok((read("tx")?, read("rx")?))
    }

    /// Defines and starts a network of its libvirt with DHCP on `subnet`, the first address of a /24, which the world has
    /// a way to.
    ///
    /// # Errors
    ///
    /// When libvirt refuses.
    pub fn libvirt_network(&self, name: &str, subnet: Ipv4Addr) -> Result<()> {
        let definition = self.directory.join(format!("network-{name}.xml"));
        fs::write(&definition, network_xml(name, &format!("vb-{name}"), subnet, Some("open")))?;
        self.virsh(&["net-define", definition.as_str()])?;
        self.virsh(&["net-start", name])?;
        let route = format!("{subnet}/24");
        output_of(Command::new("ip").args(["route", "add", &route, "via", FAR])).map(drop)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Its standard input ends with it.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
        if env::var_os(super::WORLD_VARIABLE).is_some() {
            let _ = self.kill_libvirtd();
        }
    }
}
