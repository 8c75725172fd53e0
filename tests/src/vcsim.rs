//! A vCenter or an ESXi host for tests: govmomi's simulator behind a front of our own (`tests/vcsim`, in Go), which
//! refuses what real servers refuse, keeps real bytes in its disks, takes orders for faults, and boots a machine's
//! disk under qemu when the machine is powered on.
//!
//! It knows nothing of the code that it is there to test. What it was never compared with is a real vCenter or ESXi
//! host: none was at hand. What it models of them beyond the simulator comes from VMware's documents and from what
//! others saw, as the Go files say where they do it.
//!
//! | who | owns |
//! |---|---|
//! | [`Vcsim`] | the process, its temporary directory with datastores and consoles; both end with it |
//! | the Go program | all state: inventory, sessions, faults to come, guests |
//!
//! A test steers it by a unix socket ([`Vcsim::inject`] and others), which clients of the API do not see.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdin, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::command::output_of;
use crate::guest::{DirectBoot, Guest};

mod build;
mod builder;
mod fault;

pub use build::program;
pub use builder::Builder;
pub use fault::Fault;

/// How long the double may take to answer its test; it does in milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which of the two servers it plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// vCenter: datacenter `DC0`, cluster `DC0_C0` of three hosts and a host `DC0_H0` beside it.
    VCenter,
    /// One ESXi host: datacenter `ha-datacenter`.
    Esx,
}

/// What a PUT with `Content-Range` meets at a datastore. No server of VMware's is known to take one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutRange {
    /// Status 400, and the file stays as it is.
    Refused,
    /// The header is not looked at: what was sent becomes the whole file.
    Ignored,
    /// What was sent is written at its place.
    Honoured,
}

/// Real guests behind the machines' power.
#[derive(Debug, Clone, Default)]
pub struct Guests {
    /// Kernel, initrd and command line for every machine; without it, each boots from its disk.
    pub boot: Option<DirectBoot>,
    /// Where port 22 of a machine is reached, by the MAC address of one of its cards.
    pub addresses: Vec<(String, Ipv4Addr)>,
    /// Whether machines without such an address have no guest: they are on or off, and nothing runs.
    pub only: bool,
    /// Whether they shut down when they are asked to, as with VMware Tools inside; there are none, the power button does it.
    pub tools: bool,
}

impl Guests {
    /// Machines whose disks are made from `guest`.
    ///
    /// # Errors
    ///
    /// When the guest's files cannot be read.
    pub fn of(guest: &Guest) -> Result<Self> {
        Ok(Self { boot: guest.direct_boot()?, ..Self::default() })
    }

    /// The machine with the card `mac` answers ssh at `address`, an address of the loopback network.
    #[must_use]
    pub fn at(mut self, mac: &str, address: Ipv4Addr) -> Self {
        self.addresses.push((mac.to_owned(), address));
        self
    }

    /// No other machine has a guest.
    #[must_use]
    pub fn and_no_others(mut self) -> Self {
        self.only = true;
        self
    }

    /// They shut down when they are asked to.
    #[must_use]
    pub fn with_tools(mut self) -> Self {
        self.tools = true;
        self
    }
}

/// A call that the double was sent.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Call {
    /// A SOAP method, or `GET`, `HEAD`, `PUT` or `DELETE` of a datastore's file.
    pub method: String,
    /// `ok`, the name of the fault it was answered, `dropped` or `lost`; for a file's, the HTTP status or `dropped`.
    pub outcome: String,
}

/// A virtual machine as the double has it, asked for by no way of the API.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct VirtualMachine {
    /// Its name.
    pub name: String,
    /// Its managed object's identity.
    pub id: String,
    /// `poweredOn`, `poweredOff` or `suspended`.
    pub power: String,
    /// Whether it is a template.
    pub template: bool,
    /// Datastore path of its `.vmx`.
    pub path: String,
    /// MAC addresses of its cards.
    pub macs: Vec<String>,
    /// Datastore paths of its disks' descriptors.
    pub disks: Vec<String>,
    /// Where its guest's serial console is written.
    pub console: Utf8PathBuf,
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What the program says once it listens.
#[derive(Debug, Default, Deserialize)]
struct Facts {
    address: Option<SocketAddr>,
    sha1: String,
    sha256: String,
    datastores: std::collections::BTreeMap<String, Utf8PathBuf>,
}

/// A running double. It ends when this is dropped or its process ends, its guests with it.
#[derive(Debug)]
pub struct Vcsim {
    mode: Mode,
    user: String,
    password: String,
    child: Child,
    /// The double lives for as long as this is open.
    input: Option<ChildStdin>,
    path: Utf8PathBuf,
    facts: Facts,
    _directory: TempDir,
}

impl Vcsim {
    /// What can be said before the start.
    #[must_use]
    pub fn builder(mode: Mode) -> Builder {
        Builder::new(mode)
    }

    /// Starts one with nothing particular about it.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub fn start(mode: Mode) -> Result<Self> {
        Self::builder(mode).start()
    }

    /// Which server it plays.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.facts.address.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// The API's address, `https://…/sdk`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}/sdk", self.address())
    }

    /// The user that is let in.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// That user's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// SHA-256 of its certificate's DER, `AB:CD:…`.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.facts.sha256
    }

    /// SHA-1 of its certificate's DER, `AB:CD:…`, as VMware's own tools print it.
    #[must_use]
    pub fn sha1(&self) -> &str {
        &self.facts.sha1
    }

    /// Its self-signed certificate as a PEM file; it is its own authority, for `127.0.0.1` and `localhost`.
    #[must_use]
    pub fn ca_file(&self) -> Utf8PathBuf {
        self.path.join("ca.pem")
    }

    /// The name of its datacenter, which is `dcPath` in a datastore's URL too.
    #[must_use]
    pub fn datacenter(&self) -> &'static str {
        match self.mode {
            Mode::VCenter => "DC0",
            Mode::Esx => "ha-datacenter",
        }
    }

    /// The name of its first datastore.
    #[must_use]
    pub fn datastore(&self) -> &'static str {
        "LocalDS_0"
    }

    /// The directory of this machine that is behind its first datastore.
    #[must_use]
    pub fn datastore_directory(&self) -> Utf8PathBuf {
        self.facts.datastores.get(self.datastore()).cloned().unwrap_or_default()
    }

    /// The directory behind another one of its datastores, if it has that.
    #[must_use]
    pub fn directory_of(&self, datastore: &str) -> Option<&Utf8Path> {
        self.facts.datastores.get(datastore).map(Utf8PathBuf::as_path)
    }

    /// Puts the disk image `source` into the first datastore as `name`.vmdk, a descriptor and a flat file, and returns
    /// the datastore path of the descriptor. Directories in `name` are made.
    ///
    /// # Errors
    ///
    /// When `qemu-img` or a file fails.
    pub fn put_disk(&self, name: &str, source: &Utf8Path) -> Result<String> {
        let descriptor = self.datastore_directory().join(format!("{name}.vmdk"));
        let flat = self.datastore_directory().join(format!("{name}-flat.vmdk"));
        let directory = descriptor.parent().context("a disk has a directory")?;
        fs::create_dir_all(directory).with_context(|| format!("failed to make {directory}"))?;
        output_of(Command::new("qemu-img").args(["convert", "-O", "raw", source.as_str(), flat.as_str()]))?;
        let extent = flat.file_name().context("a flat file has a name")?;
        let sectors = fs::metadata(&flat)?.len().div_ceil(512);
        File::options().write(true).open(&flat)?.set_len(sectors * 512)?;
        fs::write(
            &descriptor,
            format!(
                "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n\
                 # Extent description\nRW {sectors} VMFS \"{extent}\"\n\n# The Disk Data Base\n#DDB\n\n\
                 ddb.adapterType = \"lsilogic\"\nddb.virtualHWVersion = \"13\"\n"
            ),
        )
        .with_context(|| format!("failed to write {descriptor}"))?;
        Ok(format!("[{}] {name}.vmdk", self.datastore()))
    }

    /// Orders a fault for the calls to come.
    ///
    /// # Errors
    ///
    /// When the API has no such fault.
    pub fn inject(&self, fault: Fault) -> Result<()> {
        self.control::<bool>("POST", "/vcsim-fault", &serde_json::to_string(&fault)?).map(drop)
    }

    /// Forgets the faults that were not played yet.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn clear_faults(&self) -> Result<()> {
        self.control::<bool>("DELETE", "/vcsim-fault", "").map(drop)
    }

    /// Ends every session, as a restart of the server's services does. Tasks go on.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn expire_sessions(&self) -> Result<()> {
        self.control::<usize>("DELETE", "/sessions", "").map(drop)
    }

    /// How many sessions are live.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn sessions(&self) -> Result<usize> {
        self.control("GET", "/sessions", "")
    }

    /// From now on tasks of `method`, or of all others for `*`, take this long at least.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn task_time(&self, method: &str, time: Duration) -> Result<()> {
        let path = format!("/task-time?method={method}&milliseconds={}", milliseconds(time));
        self.control::<bool>("POST", &path, "").map(drop)
    }

    /// What it was asked for, in order of the answers.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn calls(&self) -> Result<Vec<Call>> {
        self.control("GET", "/calls", "")
    }

    /// How many calls of `method` were answered, one way or another.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn count(&self, method: &str) -> Result<usize> {
        Ok(self.calls()?.iter().filter(|call| call.method == method).count())
    }

    /// Forgets what it was asked for so far.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn forget_calls(&self) -> Result<()> {
        self.control::<Vec<Call>>("DELETE", "/calls", "").map(drop)
    }

    /// All virtual machines and templates.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn machines(&self) -> Result<Vec<VirtualMachine>> {
        self.control("GET", "/machines", "")
    }

    /// The virtual machine or template of that name, if there is one.
    ///
    /// # Errors
    ///
    /// When the double is gone.
    pub fn machine(&self, name: &str) -> Result<Option<VirtualMachine>> {
        Ok(self.machines()?.into_iter().find(|machine| machine.name == name))
    }

    /// What it logged: each call with its outcome, each guest's command line.
    #[must_use]
    pub fn log(&self) -> String {
        let text = fs::read(self.path.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn control<T: DeserializeOwned>(&self, method: &str, path: &str, body: &str) -> Result<T> {
        let answer = self.exchange(method, path, body).with_context(|| {
            format!("the double does not answer {method} {path}; it says:\n{}", self.log())
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").context("the double answers no HTTP")?;
        let status = head.lines().next().unwrap_or_default();
        ensure!(status.contains(" 200 "), "the double answers {method} {path}: {status}: {}", body.trim());
        serde_json::from_str(body).with_context(|| format!("the double answers {method} {path}: {body}"))
    }

    /// One exchange for each connection: HTTP 1.0 needs no more of its rules than this.
    fn exchange(&self, method: &str, path: &str, body: &str) -> Result<String> {
        let mut stream = UnixStream::connect(self.path.join("control"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: double\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        // The end of its standard input is its sign to end its guests and itself.
        drop(self.input.take());
        let asked = Instant::now();
        while asked.elapsed() < Duration::from_secs(10) {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It fails if the double has ended, and then nothing is left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
