//! A private world to lend machines in: own processes, own mounts, own network, own libvirtd.
//!
//! As root, every libvirt URI of a host leads to the host's one libvirtd and to whatever somebody keeps in it. A test
//! or a demo must never meet those domains, so it runs inside a world:
//!
//! ```text
//! vcl-world                        outside; waits, passes signals in and the exit code out
//! └─ unshare --pid --mount --net
//!    └─ vcl-world --inside         process 1 of the world: prepares it, reaps orphans
//!       ├─ CMD                     what the world is for
//!       ├─ libvirtd                re-parented here, as are the next three
//!       ├─ qemu-system-x86_64 …
//!       ├─ swtpm …
//!       └─ dnsmasq …
//! ```
//!
//! The PID namespace is what makes the end certain: when process 1 exits, the kernel kills everything else in the
//! world, whoever started it, and with the last process go its mounts, interfaces and listening sockets.
//!
//! [`run`] builds a world around a command; code that runs in one finds it with [`World::current`].

use std::env;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use crate::command::output_of;

mod host;
mod inside;
mod outside;

pub use host::{Host, hold_host};
pub use inside::{run_inside, start_and_become};
pub use outside::run;

/// The environment variable that names the directory of the world a process runs in.
pub const WORLD_VARIABLE: &str = "VCL_WORLD";

/// Names the world's directory too. It lies in the world's own `/run`, so it proves that a process is inside, which an
/// inherited variable does not.
const MARKER: &str = "/run/vcl-world";

const LIBVIRT_SOCKET: &str = "/run/libvirt/libvirt-sock";
const LIBVIRT_URI: &str = "qemu:///system";

/// How long libvirtd may take to come up or go down. A quiet machine needs two seconds the first time (it asks qemu
/// what it can do) and a tenth of one after.
const PATIENCE: Duration = Duration::from_secs(120);

/// The world that this process runs in.
#[derive(Debug, Clone)]
pub struct World {
    directory: Utf8PathBuf,
}

/// A libvirt network of the world: a bridge with DHCP and no way out.
#[derive(Debug, Clone)]
pub struct Network {
    /// The name libvirt knows it by.
    pub name: String,
    /// The bridge interface in the world's network namespace.
    pub bridge: String,
    /// The bridge's own address. DHCP hands out `.100` to `.199` of the same /24.
    pub gateway: Ipv4Addr,
}

impl World {
    /// The world around this process.
    ///
    /// # Errors
    ///
    /// When this process does not run under `vcl-world`.
    pub fn current() -> Result<Self> {
        let directory = env::var(WORLD_VARIABLE).ok().filter(|directory| !directory.is_empty());
        let Some(directory) = directory else {
            bail!("not inside a private world: run this under `vcl-world -- …`");
        };
        let marked = fs::read_to_string(MARKER).unwrap_or_default();
        ensure!(
            marked == directory,
            "{WORLD_VARIABLE} says {directory}, but this process runs outside of that world: \
             run it under `vcl-world -- …`"
        );
        Ok(Self { directory: directory.into() })
    }

    /// For a test that wants a world: the one around it, or else `None` after the test was run in a new one.
    ///
    /// `vcl_world` is the path of that binary, `env!("CARGO_BIN_EXE_vcl-world")`, and `test` the full name of the
    /// calling test function. A test begins with it and returns on `None`:
    ///
    /// ```ignore
    /// let Some(world) = World::around_test(VCL_WORLD, "domains_start")? else { return Ok(()) };
    /// ```
    ///
    /// # Errors
    ///
    /// When the world does not come up, or the test failed in it.
    pub fn around_test(vcl_world: &str, test: &str) -> Result<Option<Self>> {
        if env::var_os(WORLD_VARIABLE).is_some() {
            return Self::current().map(Some);
        }
        let binary = env::current_exe().context("failed to find the test's binary")?;
        // A name that is none would run nothing, and pass.
        let listed = Command::new(&binary).args([test, "--exact", "--include-ignored", "--list"]).output()?;
        ensure!(
            String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == format!("{test}: test")),
            "{test} is not the full name of a test of {}",
            binary.display()
        );
        let status = Command::new(vcl_world)
            .arg("--")
            .arg(binary)
            .args([test, "--exact", "--include-ignored", "--nocapture"])
            .status()
            .with_context(|| format!("failed to run {vcl_world}"))?;
        ensure!(status.success(), "{test} failed in its world ({status}); its output is above");
        Ok(None)
    }

    /// The directory with everything the world writes: logs, definitions, sockets, `libvirtd.pid`.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// The process id of the world's libvirtd, if it runs.
    #[must_use]
    pub fn libvirtd_pid(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        is_libvirtd(pid).then_some(pid)
    }

    /// Starts libvirtd and waits until it answers. One that runs already is left as it is.
    ///
    /// Domains that outlived the previous libvirtd are found again by the new one.
    ///
    /// # Errors
    ///
    /// When libvirtd does not start or does not answer in time; the message ends with its log.
    pub fn start_libvirtd(&self) -> Result<()> {
        if self.libvirtd_pid().is_none() {
            self.spawn_libvirtd()?;
        }
        self.wait_for_libvirtd().with_context(|| format!("libvirtd's log ends:\n{}", self.log_tail()))
    }

    /// Ends libvirtd the way an administrator would and waits until it is gone. Domains keep running.
    ///
    /// # Errors
    ///
    /// When it is still there after the patience of a test.
    pub fn stop_libvirtd(&self) -> Result<()> {
        self.end_libvirtd("-TERM")
    }

    /// Kills libvirtd as a crash would and waits until it is gone. Domains keep running.
    ///
    /// # Errors
    ///
    /// When it is still there after the patience of a test.
    pub fn kill_libvirtd(&self) -> Result<()> {
        self.end_libvirtd("-KILL")
    }

    /// Defines and starts an isolated libvirt network with DHCP on `subnet`, the first address of a /24.
    ///
    /// # Errors
    ///
    /// When the name does not fit an interface, the subnet is no /24 base, or libvirt refuses.
    pub fn libvirt_network(&self, name: &str, subnet: Ipv4Addr) -> Result<Network> {
        let bridge = format!("vb-{name}");
        // The kernel keeps interface names in 16 bytes, the last of them zero.
        ensure!(bridge.len() <= 15, "network name {name:?} is longer than an interface name may be");
        ensure!(
            name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "network name {name:?} is no plain word"
        );
        let [a, b, c, last] = subnet.octets();
        ensure!(last == 0, "{subnet} is not the base of a /24");
        let network = Network { name: name.into(), bridge, gateway: Ipv4Addr::new(a, b, c, 1) };
        let definition = self.directory.join(format!("network-{name}.xml"));
        let xml = network_xml(name, &network.bridge, subnet, None);
        fs::write(&definition, xml).with_context(|| format!("failed to write {definition}"))?;
        self.virsh(&["net-define", definition.as_str()])?;
        self.virsh(&["net-start", name])?;
        Ok(network)
    }

    /// Runs virsh against the world's libvirtd and returns what it printed.
    ///
    /// # Errors
    ///
    /// When virsh fails; the message is what it wrote to standard error.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("virsh");
        output_of(command.args(["--quiet", "--connect", LIBVIRT_URI]).args(arguments))
    }

    fn pid_file(&self) -> Utf8PathBuf {
        self.directory.join("libvirtd.pid")
    }

    fn spawn_libvirtd(&self) -> Result<()> {
        // A killed libvirtd leaves both: a socket that refuses, and a number that may be another process's by now.
        for stale in [LIBVIRT_SOCKET.into(), self.pid_file()] {
            let _ = fs::remove_file(stale);
        }
        let pid_file = self.pid_file();
        output_of(Command::new("libvirtd").args(["--daemon", "--pid-file", pid_file.as_str()]))?;
        Ok(())
    }

    fn wait_for_libvirtd(&self) -> Result<()> {
        until("libvirtd to listen", || UnixStream::connect(LIBVIRT_SOCKET).is_ok())?;
        // It listens before its drivers are up, and answers after.
        self.virsh(&["version"]).context("libvirtd listens but does not answer")?;
        Ok(())
    }

    fn end_libvirtd(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.libvirtd_pid() else { return Ok(()) };
        output_of(Command::new("kill").args([signal, &pid.to_string()]))?;
        until("libvirtd to end", || !is_libvirtd(pid))
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string("/var/log/libvirt/libvirtd.log").unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// A network with DHCP on the /24 that begins with `subnet`; with a way out where `forward` says which.
fn network_xml(name: &str, bridge: &str, subnet: Ipv4Addr, forward: Option<&str>) -> String {
    let [a, b, c, _] = subnet.octets();
    let forward = forward.map(|mode| format!("<forward mode='{mode}'/>")).unwrap_or_default();
    // dnsmasq would ping each address for three seconds before it first hands it out, and in here nobody can have taken
    // one behind its back.
    format!(
        "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>\n  <name>{name}</name>\n  \
         {forward}<bridge name='{bridge}' stp='off' delay='0'/>\n  \
         <ip address='{a}.{b}.{c}.1' netmask='255.255.255.0'>\n    \
         <dhcp><range start='{a}.{b}.{c}.100' end='{a}.{b}.{c}.199'/></dhcp>\n  </ip>\n  \
         <dnsmasq:options><dnsmasq:option value='no-ping'/></dnsmasq:options>\n</network>\n"
    )
}

fn is_libvirtd(pid: u32) -> bool {
    // A zombie has a name still, and an ended libvirtd is one until process 1 has reaped it.
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.contains("(libvirtd)") && !stat.contains("(libvirtd) Z"))
}

/// Polls until `done`; an error names what was waited for.
fn until(what: &str, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < PATIENCE, "waited {} s for {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
