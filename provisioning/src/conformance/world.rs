//! What the author of a backend says of it: the world that it is tried in.

use super::Case;
use crate::{Limits, Provisioning};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use vcl_images::Library;
use vcl_os::{Os, Remotes};
use vcl_types::{BackendName, Computer, ComputerName, Digest, Revision};

/// What a world answers; any error will do.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What a world may have beside the backend, and may not: what is tried with it is skipped then, for the world's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// [`World::guest`].
    Guest,
    /// [`World::foreign`].
    Foreign,
    /// [`World::source`].
    Source,
    /// [`World::unreachable`].
    Unreachable,
    /// [`World::neighbour`].
    Neighbour,
    /// [`World::secrets`].
    Secrets,
}

impl Offer {
    /// Why something is skipped without it, where the world gives no reason of its own.
    #[must_use]
    pub const fn lacking(self) -> &'static str {
        match self {
            Self::Guest => "the world has no guest that boots",
            Self::Foreign => "nobody else's machine can stand under its names",
            Self::Source => "the world has no machine of others to make an image of",
            Self::Unreachable => "the world has no instance without a host",
            Self::Neighbour => "the world has no second instance",
            Self::Secrets => "the world has no credentials",
        }
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

/// The world that a backend is tried in. What the backend can do is what its own
/// [`capabilities`](Provisioning::capabilities) say. Three methods have to be written; each further one lets cases run that are
/// skipped without it.
#[async_trait]
pub trait World: Send + Sync {
    /// Its name in reports, such as `libvirt`.
    fn name(&self) -> &str;

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

    /// The names of its computers, where it cannot have any: a rack, a room. At least one. Their machines are there
    /// whether they are loaded or not; where this is `None`, a machine exists only while it is loaded.
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

    /// Writes something to the first disk of a computer that is loaded and on, as a guest does, that is on it when it is
    /// off; by other means than the backend's, where [`on_disk`](Self::on_disk) tells what is there. `false` where that
    /// cannot be: then a capture that takes what was loaded for what is on the disk goes unnoticed.
    async fn write(&self, computer: &Computer) -> Result<bool> {
        let _ = computer;
        Ok(false)
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

    /// The name of a foreign machine, under whatever name: it has to be listed, and with
    /// [`Capability::CaptureVm`](crate::Capability::CaptureVm) an image is made of it. It is looked at with
    /// [`vms`](Provisioning::vms) before and after.
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

    /// Why the world has none of this: half a sentence, for the table.
    fn why_not(&self, what: Offer) -> String {
        what.lacking().to_owned()
    }

    /// Why this case is left out of this run, where it is: one that takes long, say, and that another run has. The table
    /// shows it.
    fn leaves_out(&self, case: &Case) -> Option<String> {
        let _ = case;
        None
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
