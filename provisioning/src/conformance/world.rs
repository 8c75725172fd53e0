//! What the author of a backend says of it: the world that it is tried in.

use crate::{Limits, Provisioning};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use vcl_images::Library;
use vcl_os::{Os, Remotes};
use vcl_types::{BackendName, Computer, ComputerName, Digest, Revision};

/// What a world answers; any error will do.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What a backend can do. A case that needs what is not declared is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Can {
    /// `load` and `unload`: every backend can.
    Load,
    /// A load puts the revision's disks on the computer. A lab PC is lent as it is.
    Image,
    /// A machine exists only while it is loaded; before and after its state is absent. A rack of nodes is always there.
    Create,
    /// `capture`.
    Capture,
    /// `resume` after a capture.
    Resume,
    /// `preview_vm` and `capture_vm`.
    CaptureVm,
    /// `power`.
    Power,
    /// `vms` lists machines.
    List,
    /// `things` and `remove_thing`.
    Things,
    /// `console`.
    Console,
    /// `screenshot`.
    Screenshot,
    /// `description`.
    Describe,
    /// `free_space`.
    FreeSpace,
    /// `written`.
    Written,
}

impl Can {
    /// The word for it in reports.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Image => "image",
            Self::Create => "create",
            Self::Capture => "capture",
            Self::Resume => "resume",
            Self::CaptureVm => "capture-vm",
            Self::Power => "power",
            Self::List => "list",
            Self::Things => "things",
            Self::Console => "console",
            Self::Screenshot => "screenshot",
            Self::Describe => "describe",
            Self::FreeSpace => "free-space",
            Self::Written => "written",
        }
    }
}
impl fmt::Display for Can {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// What is to be done about a machine that is not vcld's and stands where a computer's machine would be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Make one, running if it can, with a disk, if there is none.
    Put,
    /// Look at it: the answer is a text that changes when anybody touches the machine, its disks or its power.
    Look,
    /// Take it away, if it is there.
    Remove,
}

/// A guest that boots, for the few cases that want one.
pub struct GuestImage {
    /// What it is loaded from, in the library that [`World::guest`] was given.
    pub revision: Revision,
    /// The OS module for it; `None` for the backend's own.
    pub os: Option<Arc<dyn Os>>,
    /// Connections to it.
    pub remotes: Arc<dyn Remotes>,
    /// The account to log in as.
    pub user: String,
    /// How long things may take with it.
    pub limits: Limits,
}

/// The world that a backend is tried in. Three methods have to be written; each further one lets cases run that are
/// skipped without it.
#[async_trait]
pub trait World: Send + Sync {
    /// Its name in reports, such as `libvirt`.
    fn name(&self) -> &str;

    /// What the backend can do. [`Can::Load`] goes without saying; without it, it makes machines of images and nothing
    /// else.
    fn can(&self) -> &[Can] {
        &[Can::Image, Can::Create]
    }

    /// Opens the backend instance as a process does when it starts. It is called for each "process" of the kit's, often
    /// while an earlier one is still open: all of them are the same instance, on the same machines.
    async fn open(&self) -> Result<Arc<dyn Provisioning>>;

    /// The computer of this name, as the configuration would describe it. A backend that makes machines has one of any
    /// name; one that has certain computers only is asked for those of [`only`](Self::only).
    /// Without it, one without network interfaces.
    fn computer(&self, name: ComputerName) -> Computer {
        let backend = BackendName::from_str("kit").unwrap_or_else(|_| unreachable!("it is a name"));
        Computer { name, backend, cpus: None, memory: None, nics: Vec::new(), tags: Vec::new() }
    }

    /// Everything that is there of vcld's, found by other means than the backend's: machines, disks, files, half-made
    /// ones included, a line for each that says what it is and what state it is in. The same state must give the same
    /// lines: nothing that differs from run to run (ports, identities, times) may stand in them. What was there before
    /// the kit began may stand in them; what is foreign should not.
    async fn left(&self) -> Result<Vec<String>>;

    /// The names of its computers, where it cannot have any: a rack, a room. At least one.
    fn only(&self) -> Option<Vec<ComputerName>> {
        None
    }

    /// How long things may take where no guest boots. `shutdown` is waited for in full by backends that wait for a guest
    /// to go off, since a stand-in never does.
    fn limits(&self) -> Limits {
        Limits {
            boot: Duration::from_secs(30),
            shutdown: Duration::from_millis(300),
            copy: Duration::from_secs(120),
            command: Duration::from_secs(30),
        }
    }

    /// An OS module that costs next to nothing, in place of the kit's stand-in: where a load or a capture needs something
    /// of the guest for the backend to go on. Without it, the backend's own where it has one, else the stand-in, whose
    /// `post_load` says that the guest is ready and whose `pre_capture` does nothing.
    fn os(&self) -> Option<Arc<dyn Os>> {
        None
    }

    /// Where the kit makes its library, when it must not be a temporary directory: the backend's host has to read it. It
    /// must be empty, and be there.
    fn library(&self) -> Option<Utf8PathBuf> {
        None
    }

    /// Connections for the OS module of [`os`](Self::os), where it needs any.
    fn remotes(&self) -> Option<Arc<dyn Remotes>> {
        None
    }

    /// What is loaded where no guest boots; `None` for a small disk of the kit's with a pattern on it.
    async fn revision(&self, library: &Library) -> Result<Option<Revision>> {
        let _ = library;
        Ok(None)
    }

    /// A guest that boots; `None` skips the cases that need one.
    async fn guest(&self, library: &Library) -> Result<Option<GuestImage>> {
        let _ = library;
        Ok(None)
    }

    /// The computer of this name where a guest is to boot on it; the same as otherwise unless this says so: on another
    /// network, say, than the one on which nobody answers.
    fn guest_computer(&self, name: ComputerName) -> Computer {
        self.computer(name)
    }

    /// The content digest (see [`vcl_images::digest`]) of a computer's first disk as it is now, while it is off, made by
    /// other means than the backend's. `None` has a capture compared with what was loaded, which no guest has written to.
    async fn on_disk(&self, computer: &Computer) -> Result<Option<Digest>> {
        let _ = computer;
        Ok(None)
    }

    /// About a machine that is not vcld's, under the name at which this computer's machine would be made. Answers the
    /// text of [`Foreign::Look`] for it; `None` where there can be no such thing.
    async fn foreign(&self, what: Foreign, computer: &Computer) -> Result<Option<String>> {
        let _ = (what, computer);
        Ok(None)
    }

    /// The name of that machine in [`vms`](Provisioning::vms).
    fn foreign_name(&self, computer: &Computer) -> String {
        format!("vcl-{}", computer.name)
    }

    /// The name of a foreign machine that an image can be made of, under whatever name, for cases of
    /// [`Can::CaptureVm`]. It is looked at with [`vms`](Provisioning::vms) before and after.
    async fn source(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// An instance whose host does not answer: nobody listens there, or its directory cannot be used.
    async fn unreachable(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        Ok(None)
    }

    /// Another instance of the same type, with machines of its own.
    async fn neighbour(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        Ok(None)
    }

    /// Texts that nobody may read in descriptions, findings, journals, events and errors: the credentials' values.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// How many points of each kind of interruption are played, spread over all: where machines cost seconds, some must
    /// do.
    fn points(&self) -> usize {
        usize::MAX
    }

    /// How many machines there are at once in the case that tries many.
    fn crowd(&self) -> usize {
        20
    }
}
