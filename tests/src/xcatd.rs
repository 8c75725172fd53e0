//! An xCAT management node that nobody has to install: its REST interface as it was recorded, and nodes that are real
//! guests.
//!
//! ```text
//!  client ── https ──► [server] ──► [cgi]  what Apache and xcatws.cgi would say: routes, tokens, 400, 404, 405
//!                                     │
//!                                  [xcatd] what the daemon behind would say: objects, power, nodeset; 403 for all errors
//!                                     │ state
//!                                  [keeper] one thread a node: its qemu, what it boots, what it does when the guest resets
//!                                     │
//!                    qemu (TCG, user networking)  ── "next", "installstatus …" ──► [monitor] one port a node
//! ```
//!
//! It knows nothing of the client that it is asked by. What it answers was recorded on xCAT 2.19.0 (`recorded/*.json`:
//! request, status, body), and a test plays every recorded request against it again: that is its proof. Where nothing was
//! recorded it follows xCAT's source (`xcatws.cgi`, `destiny.pm`, `doxcat`), and says so beside the code.
//!
//! What it keeps of a real site:
//!
//! - every call takes its time ([`Latency`]), a dead BMC sixteen seconds of it;
//! - each node boots from the network first: what it boots is decided by `currstate` at that moment, also when the guest
//!   resets itself. `boot` is its own disk, `runimage=URL` the imaging environment, an osimage an installer;
//! - the imaging environment ([`crate::guest::Genesis`]) does what `doxcat` does, in its order: it asks for the next destiny
//!   *before* it fetches and runs the task, so `currstate` says `boot` while the disk is still being written; and what the
//!   task's exit status was is lost;
//! - `status` becomes `installing`, `booting` and `booted` only where an installer or an installed system with xCAT's
//!   postscripts says so. A `runimage` task says nothing.
//!
//! What it does not: no DHCP and TFTP, for qemu is handed kernel and initrd; the nodes speak to a line protocol (that
//! of xCAT's port 3002, with the two words of port 3001 that genesis needs) on one port a node, because user networking
//! hides who asks.
//!
//! The state belongs to the server, behind one lock that is never held across an await; a keeper's thread owns its qemu. All
//! ends with the [`Xcatd`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use tokio::runtime::Runtime;

use crate::guest::{DirectBoot, Genesis};

mod answer;
mod cgi;
mod commands;
mod destiny;
mod faults;
mod keeper;
mod monitor;
mod objects;
mod server;
mod state;

pub use faults::Fault;
use keeper::Keeper;
use state::Shared;

/// What an account may be called and what its password is, for tests that need no other.
const USER: (&str, &str) = ("wsuser", "wspass");

/// What a management node is made of.
#[derive(Debug)]
pub struct Setup {
    /// Where its certificate and what its nodes write lies; it exists.
    pub directory: Utf8PathBuf,
    /// Accounts and their passwords.
    pub users: BTreeMap<String, String>,
    /// The nodes.
    pub nodes: Vec<NodeSetup>,
    /// The osimages.
    pub osimages: Vec<Osimage>,
    /// How long calls take.
    pub latency: Latency,
    /// Whether a DHCP server is configured. Without, arming a node is an error although it is armed (recorded).
    pub dhcp: bool,
    /// Rows of the table `site`.
    pub site: BTreeMap<String, String>,
    /// What the host of a task's URL is for this machine: a node sees its host as 10.0.2.2, which is nobody here. The
    /// beginning of the URL's authority and what stands for it.
    pub spider: Vec<(String, String)>,
    /// The kernel and initrd of a fast guest, from which the imaging environment is made. Needed by nodes with a disk.
    pub genesis: Option<DirectBoot>,
}

impl Setup {
    /// A management node without nodes, quick, for the account `wsuser` with the password `wspass`.
    #[must_use]
    pub fn new(directory: &Utf8Path) -> Self {
        let (user, password) = USER;
        Self {
            directory: directory.to_owned(),
            users: BTreeMap::from([(user.to_owned(), password.to_owned())]),
            nodes: Vec::new(),
            osimages: Vec::new(),
            latency: Latency::scaled(0.01),
            dhcp: true,
            site: [("master", "10.77.0.1"), ("tftpdir", "/tftpboot"), ("installdir", "/install")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            spider: vec![("10.0.2.2".into(), "127.0.0.1".into())],
            genesis: None,
        }
    }
}

/// What the disk of a node that is played is called for its tasks.
pub const PLAYED_DISK: &str = "/mnt/disk";

/// How a node's BMC answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bmc {
    /// As it should.
    #[default]
    Good,
    /// Power works, a boot order is refused (OpenIPMI's simulator, and real ones).
    NoBootOrder,
    /// `Incorrect password provided`, which BMCs of some ciphers say of a right one too.
    WrongPassword,
    /// Not at all: `timeout`, after a long while.
    Dead,
}

/// One node.
#[derive(Debug, Clone)]
pub struct NodeSetup {
    /// Its name.
    pub name: String,
    /// What the tables know of it; `status` and `currstate` too, where it has had a past.
    pub attributes: BTreeMap<String, String>,
    /// How its BMC answers.
    pub bmc: Bmc,
    /// What `nodestat` finds of a node without a machine; otherwise that it answers a ping.
    pub answers: Option<String>,
    /// The machine it is, if it is one; without, power is a word in a table.
    pub machine: Option<MachineSetup>,
}

/// A node's machine.
#[derive(Debug, Clone)]
pub struct MachineSetup {
    /// Its disk, a qcow2 or raw file that is written in place.
    pub disk: Utf8PathBuf,
    /// Where its port 22 is found, an address of the loopback network.
    pub address: Ipv4Addr,
    /// What its own disk is booted with; without, by the disk's boot loader.
    pub direct_boot: Option<DirectBoot>,
    /// Memory in MiB.
    pub memory: u32,
    /// Whether a system that was put on the disk by a task tells xCAT that it is up, as one with xCAT's postscripts does.
    pub tells_booted: bool,
    /// Whether it is played: no guest boots, and what a booted system would say is said for it.
    pub played: bool,
}

impl NodeSetup {
    /// A node that is a guest with this disk, reached at `address`, off.
    #[must_use]
    pub fn new(name: &str, disk: &Utf8Path, address: Ipv4Addr) -> Self {
        let mut node = Self::hollow(name);
        node.attributes.insert("ip".into(), address.to_string());
        let [.., last] = address.octets();
        node.attributes.insert("mac".into(), format!("52:54:00:00:02:{last:02x}"));
        node.machine = Some(MachineSetup {
            disk: disk.to_owned(),
            address,
            direct_boot: None,
            memory: 256,
            tells_booted: false,
            played: false,
        });
        node
    }

    /// A node that is played, with this raw disk, off: it runs the imaging task that it is armed with, in namespaces of its
    /// own, on its disk at [`PLAYED_DISK`], and has an ssh server that says what it is and no more when it has booted from
    /// its disk. It has no installer, and its digests are right.
    #[must_use]
    pub fn played(name: &str, disk: &Utf8Path, address: Ipv4Addr) -> Self {
        let mut node = Self::new(name, disk, address);
        if let Some(machine) = &mut node.machine {
            machine.played = true;
        }
        node
    }

    /// A node that is rows in tables and no machine.
    #[must_use]
    pub fn hollow(name: &str) -> Self {
        let bmc = format!("{name}-bmc");
        let attributes = [
            ("arch", "x86_64"),
            ("bmc", &bmc),
            ("bmcpassword", "admin"),
            ("bmcusername", "ADMIN"),
            ("currstate", "boot"),
            ("groups", "all,compute,ipmi"),
            ("mgt", "ipmi"),
            ("netboot", "pxe"),
            ("postbootscripts", "otherpkgs"),
            ("postscripts", "syslog,remoteshell,syncfiles"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            name: name.to_owned(),
            attributes: attributes.into(),
            bmc: Bmc::Good,
            answers: None,
            machine: None,
        }
    }

    /// The same with this attribute.
    #[must_use]
    pub fn with(mut self, attribute: &str, value: &str) -> Self {
        self.attributes.insert(attribute.to_owned(), value.to_owned());
        self
    }

    /// The same, its own disk booted by this kernel and not by its boot loader.
    #[must_use]
    pub fn direct_boot(mut self, boot: DirectBoot) -> Self {
        if let Some(machine) = &mut self.machine {
            machine.direct_boot = Some(boot);
        }
        self
    }

    /// The same, whatever is on its disk telling xCAT when it is up.
    #[must_use]
    pub fn tells_booted(mut self) -> Self {
        if let Some(machine) = &mut self.machine {
            machine.tells_booted = true;
        }
        self
    }
}

/// An operating system that xCAT can put on a node.
#[derive(Debug, Clone)]
pub struct Osimage {
    /// Its name, such as `rocky9.4-x86_64-install-compute`.
    pub name: String,
    /// Its attributes; `provmethod`, `osvers`, `osarch` and `profile` make up the boot state.
    pub attributes: BTreeMap<String, String>,
    /// What the installer leaves on a node's disk: a disk image that is no larger. Without, its installer never begins.
    pub disk: Option<Utf8PathBuf>,
}

impl Osimage {
    /// An osimage that installs; its name is `OS-ARCH-install-PROFILE`.
    #[must_use]
    pub fn new(name: &str, disk: Option<&Utf8Path>) -> Self {
        let words: Vec<&str> = name.split('-').collect();
        let word = |at: usize, or: &'static str| words.get(at).copied().unwrap_or(or).to_owned();
        let (os, arch, method, profile) =
            (word(0, "linux"), word(1, "x86_64"), word(2, "install"), word(3, "compute"));
        let attributes = [
            ("imagetype", "linux".to_owned()),
            ("osarch", arch.clone()),
            ("osdistroname", format!("{os}-{arch}")),
            ("osname", "Linux".to_owned()),
            ("osvers", os.clone()),
            ("pkgdir", format!("/install/{os}/{arch}")),
            ("profile", profile),
            ("provmethod", method),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        Self { name: name.to_owned(), attributes: attributes.into(), disk: disk.map(Utf8Path::to_owned) }
    }
}

/// How long calls take: what was measured, times a factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latency(f64);

impl Latency {
    /// No longer than it takes.
    pub const NONE: Self = Self(0.0);

    /// This part of what was measured: 1.0 is a real management node, at 0.5 to 3 s a call, and 16 s for a dead BMC.
    #[must_use]
    pub fn scaled(factor: f64) -> Self {
        Self(factor)
    }

    fn of(self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.0)
    }
}

/// What a node boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// Its own disk.
    Disk,
    /// The imaging environment.
    Genesis,
    /// An osimage's installer.
    Installer,
}

/// One call that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// The path, without the base and the query.
    pub path: String,
    /// The status; none where the connection was dropped.
    pub status: Option<u16>,
}

/// A management node that runs. It ends with this, and its nodes with it.
#[derive(Debug)]
pub struct Xcatd {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca: Utf8PathBuf,
    keepers: Vec<Keeper>,
    runtime: Option<Runtime>,
}

impl Xcatd {
    /// Starts it on a port of 127.0.0.1, its nodes off.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, a port not be had, or a node has a disk and there is nothing to image it with.
    pub fn start(setup: Setup) -> Result<Self> {
        let directory = setup.directory.clone();
        let certificate = server::Certificate::make(&directory)?;
        let genesis = match &setup.genesis {
            Some(base) => Some(Genesis::make(base, &directory)?),
            None => None,
        };
        ensure!(
            genesis.is_some()
                || setup.nodes.iter().all(|node| node.machine.as_ref().is_none_or(|machine| machine.played)),
            "a node with a disk needs Setup::genesis, the kernel and initrd of a fast guest"
        );
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("xcatd")
            .enable_all()
            .build()
            .context("failed to start a runtime")?;
        let nodes = setup.nodes.clone();
        let shared = Arc::new(Shared::new(setup));
        let mut keepers = Vec::new();
        for node in nodes {
            let Some(machine) = node.machine else { continue };
            let port = runtime.block_on(monitor::listen(shared.clone(), &node.name))?;
            let keeper =
                Keeper::start(shared.clone(), &node.name, machine, genesis.clone(), &directory, port)?;
            shared.with(|state| {
                if let Some(known) = state.nodes.get_mut(&node.name) {
                    known.machine = Some(keeper.orders());
                }
            });
            keepers.push(keeper);
        }
        let address = runtime.block_on(server::listen(shared.clone(), &certificate))?;
        Ok(Self { shared, address, ca: certificate.ca, keepers, runtime: Some(runtime) })
    }

    /// The base of its URLs.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}{}", self.address, cgi::BASE)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file with the certificate of its authority, PEM. Its own is for `localhost` and 127.0.0.1.
    #[must_use]
    pub fn ca(&self) -> &Utf8Path {
        &self.ca
    }

    /// The account that [`Setup::new`] makes.
    #[must_use]
    pub fn user(&self) -> &'static str {
        USER.0
    }

    /// Its password.
    #[must_use]
    pub fn password(&self) -> &'static str {
        USER.1
    }

    /// An attribute of a node, as the tables have it now.
    #[must_use]
    pub fn attribute(&self, node: &str, attribute: &str) -> Option<String> {
        self.shared.with(|state| state.nodes.get(node)?.attributes.get(attribute).cloned())
    }

    /// Sets an attribute of a node, as an administrator would behind everybody's back.
    pub fn set_attribute(&self, node: &str, attribute: &str, value: &str) {
        self.shared.with(|state| {
            if let Some(node) = state.nodes.get_mut(node) {
                node.attributes.insert(attribute.to_owned(), value.to_owned());
            }
        });
    }

    /// Whether a node is on.
    #[must_use]
    pub fn is_on(&self, node: &str) -> bool {
        self.shared.with(|state| state.nodes.get(node).is_some_and(|node| node.on))
    }

    /// Has the system on a node start again by itself, as a guest does that is told to reboot; for nodes that are played.
    ///
    /// # Errors
    ///
    /// When it is off, or has no machine.
    pub fn reboots(&self, node: &str) -> Result<()> {
        let keeper = self.keepers.iter().find(|keeper| keeper.name() == node);
        keeper.with_context(|| format!("{node} has no machine"))?.reboots()
    }

    /// What a node has booted, in order.
    #[must_use]
    pub fn boots(&self, node: &str) -> Vec<Boot> {
        self.shared.with(|state| state.nodes.get(node).map(|node| node.boots.clone()).unwrap_or_default())
    }

    /// What a node has written to its serial console, over all its boots, and what its qemu had to say.
    #[must_use]
    pub fn console(&self, node: &str) -> String {
        let keeper = self.keepers.iter().find(|keeper| keeper.name() == node);
        keeper.map(Keeper::console).unwrap_or_default()
    }

    /// What was asked so far, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Asked> {
        self.shared.with(|state| state.asked.clone())
    }

    /// From now on, this goes wrong.
    pub fn fault(&self, fault: Fault) {
        self.shared.with(|state| faults::add(state, fault));
    }

    /// Takes all faults back that are still to come.
    pub fn mend(&self) {
        self.shared.with(|state| state.faults.clear());
    }

    /// Waits until `done` says so of the node, which it is asked after every change.
    ///
    /// # Errors
    ///
    /// When `patience` ends first; the message names `what` and ends with the node's console.
    pub fn wait(
        &self,
        node: &str,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<()> {
        let start = Instant::now();
        while !done(self) {
            ensure!(
                start.elapsed() < patience,
                "waited {} s for {what} of {node}, which is {:?}; its console ends:\n{}",
                patience.as_secs(),
                self.shared.with(|state| state.nodes.get(node).map(|node| node.attributes.clone())),
                last_lines(&self.console(node), 30)
            );
            self.shared.changed(Duration::from_millis(200));
        }
        Ok(())
    }
}

impl Drop for Xcatd {
    fn drop(&mut self) {
        // The keepers first: each ends its qemu, and waits for it.
        self.keepers.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
