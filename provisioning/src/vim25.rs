//! What the two VMware backends share: a thin client of the SOAP API `vim25`, and what is done with it.
//!
//! ```text
//!  esx, vmware      flows: which steps, in which order
//!  steps            the steps both have: images to the datastore, machines, power, captures
//!  disks machines files transfer inventory     one thing of the server each, idempotent (pieces: of local disks)
//!  task properties client away                 tasks, properties, the session, waiting for the server
//!  request dom fault tls                       XML out, XML in, what went wrong, whom we talk to
//! ```
//!
//! Standalone hosts and vCenters of every version speak it. State is the server's: a `Site` holds a session, its
//! settings and what it has looked up with that session.
//!
//! A machine of ours is called `vcl-COMPUTER`, lies in a directory of that name on the datastore, and carries the keys
//! `vcl.owner` and `vcl.backend` in its extra configuration. No machine without the first is ever changed, nor one whose
//! second names another backend; one that has lost only the second counts as ours. Images lie in `vcl-images/CONTENT/`,
//! named after the digest of what a guest sees: a cache, made when it is needed first, that may be deleted any time.

mod away;
mod boot;
mod client;
mod datastore;
mod disks;
mod dom;
mod fault;
mod files;
mod images;
mod inventory;
mod look;
mod machines;
mod pieces;
mod properties;
mod request;
mod steps;
mod task;
mod things;
mod tls;
mod transfer;

pub use client::Server;
pub use datastore::Datastore;
pub use tls::{Fingerprint, Trust};

pub(crate) use client::{Client, ServerKind, fault_of};
#[cfg(feature = "vmware")]
pub(crate) use images::{FETCH as FETCH_DISK, SEND as SEND_IMAGE};
#[cfg(feature = "vmware")]
pub(crate) use machines::{BECOMING, IMAGE, JOB, Machine, TEMPLATE, extra, unless_others};
pub(crate) use machines::{Card, MachineSpec};
#[cfg(feature = "vmware")]
pub(crate) use request::Request;
pub(crate) use steps::{Copied, STEPS};
#[cfg(feature = "vmware")]
pub(crate) use steps::{LONG, Made, PATIENT, bootable, loaded};
pub(crate) use task::Watcher;
#[cfg(feature = "vmware")]
pub(crate) use task::{Patience, busy};

use crate::{Capabilities, Capability, Error, ErrorKind, Network, Networks, Result};
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use vcl_types::{BackendName, ComputerName, NetworkName};

/// What both backends can do.
pub(crate) const CAPABILITIES: Capabilities = Capabilities::all()
    .without(
        Capability::CaptureVm,
        "a machine at a VMware server is exported there, and its disk imported: image import",
    )
    .without(Capability::Console, "a serial console over the network needs a licence and a proxy of its own")
    .without(Capability::Screenshot, "a machine's display is shown by the server's own pages")
    .without(
        Capability::Written,
        "a machine has whole disks, and the server does not say what was written to them",
    )
    .without(Capability::HostKeys, "there is no serial console to read them from");

/// What an instance of either backend is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// The server.
    pub server: Server,
    /// The datacenter, where there are several.
    pub datacenter: Option<String>,
    /// The cluster or host whose resources are used, where there are several.
    pub cluster: Option<String>,
    /// The folder of machines in which ours are made, as a path; the datacenter's own where there is none.
    pub folder: Option<String>,
    /// The datastore for machines and images.
    pub datastore: String,
    /// The directory of images on it.
    pub images: String,
    /// Where raw copies of disks are for a while on this node.
    pub directory: Utf8PathBuf,
    /// How many copies and transfers a host and a datastore get at once.
    pub parallel: usize,
    /// The site's networks.
    pub networks: Networks,
}

/// A server, and where on it an instance works.
pub(crate) struct Site {
    pub(crate) settings: Settings,
    pub(crate) client: Client,
    place: tokio::sync::Mutex<inventory::Found>,
    ranges: OnceCell<bool>,
    /// Who makes an image at the datastore: one at a time; others wait and find it. Other instances and other nodes do not
    /// wait; whoever is late throws away what it has made.
    making: Mutex<BTreeMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// How many at once, for everything that names the same host or datastore, whichever instance it is.
static TURNS: Mutex<BTreeMap<String, Arc<Semaphore>>> = Mutex::new(BTreeMap::new());

impl Site {
    pub(crate) fn new(settings: Settings, kind: ServerKind) -> Result<Self> {
        let directory = &settings.directory;
        std::fs::create_dir_all(directory).map_err(|e| {
            Error::caused(ErrorKind::Failed, format!("making the backend's directory {directory}"), e)
        })?;
        let client = Client::new(settings.server.clone(), kind)?;
        let (place, ranges, making) = <_>::default();
        Ok(Self { settings, client, place, ranges, making })
    }

    pub(crate) fn network(&self, name: &NetworkName) -> Result<&Network> {
        self.settings.networks.get(name).ok_or_else(|| {
            let known: Vec<_> = self.settings.networks.keys().map(NetworkName::as_str).collect();
            let known = known.join(", ");
            let message = format!("no network `{name}` in the configuration; it has: {known}");
            Error::new(ErrorKind::NotFound, message)
        })
    }

    /// `vcl-gis-01`: a prefix keeps our machines together in other tools' lists, and apart from an admin's own.
    pub(crate) fn machine_name(computer: &ComputerName) -> String {
        format!("vcl-{computer}")
    }

    /// Waits for a turn at the host and at the datastore.
    pub(crate) async fn turn(
        &self,
        watcher: &Watcher,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let address = self.client.address();
        let compute = self.settings.cluster.as_deref().unwrap_or_default();
        let host = self.gate(format!("{address} host {compute}"));
        let datastore = self.gate(format!("{address} datastore {}", self.settings.datastore));
        // Always in this order, so that nobody holds one and waits for another who holds the other.
        let both = async {
            Ok::<_, tokio::sync::AcquireError>((
                host.acquire_owned().await?,
                datastore.acquire_owned().await?,
            ))
        };
        tokio::select! {
            turn = both => turn.map_err(|e| Error::caused(ErrorKind::Failed, "waiting for a turn", e)),
            () = watcher.stop.cancelled() => Err(task::stopped("waiting for a turn at the datastore")),
        }
    }
    fn gate(&self, name: String) -> Arc<Semaphore> {
        let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(name).or_insert_with(|| Arc::new(Semaphore::new(self.settings.parallel.max(1)))).clone()
    }

    /// The lock under which an image is made at the datastore.
    pub(crate) fn making(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        making.retain(|_, lock| lock.strong_count() > 0);
        let lock = making.get(key).and_then(Weak::upgrade).unwrap_or_default();
        making.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
