//! The libvirt backend: computers are virtual machines of a libvirt host.
//!
//! A computer's machine exists while it is loaded: a domain `vcl-NAME` over overlays in `DIRECTORY/NAME/`, which is also
//! where its console log and its firmware variables are. The library's revision lies beneath and is never opened for
//! writing. On a host that does not share this node's file system all of that is in a storage pool of the host, and the
//! revision is a copy that is sent there once; `disks` is the seam between the two. Only domains that carry vcld's owner
//! tag are ever changed; a domain of another owner under a name that is needed is an error.
//!
//! State is libvirt's and the file system's: this type holds a connection and its settings, nothing else.

mod away;
mod boot;
mod capture;
mod connection;
mod console;
mod definition;
mod description;
mod disks;
mod domain;
mod inspect;
mod load;
mod pool;
#[cfg(test)]
mod tests;
mod things;
mod vm;

use crate::{Captured, Error, ErrorKind, Network, Networks, Provisioning, Result, Target, VmTarget, Work};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use connection::Connection;
use pool::Pool;
use pool::copies::Desk;
use std::collections::BTreeMap;
use vcl_images::Staging;
use vcl_job::{AnyStep, Job, Undo, undo_in};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmPreview, VmView};
use vcl_types::{Accelerator, BackendName, Computer, ComputerName, Endpoint, Manifest, NetworkName};

/// What a libvirt backend instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// The host's URI, such as `qemu:///system` or `qemu+ssh://root@kvm2/system`. Without a pool it is a host that shares
    /// this node's file system.
    pub uri: String,
    /// Whether the hypervisor is this machine: then its ports of 127.0.0.1 are ours, and its bridges and processors are
    /// looked at here.
    pub local: bool,
    /// Where overlays, consoles and firmware variables go; not used with a pool.
    pub directory: Utf8PathBuf,
    /// The storage pool of the host that they go to, if the host does not share this node's file system.
    pub pool: Option<PoolSettings>,
    /// How processors are run.
    pub accelerator: Accelerator,
    /// The site's networks.
    pub networks: Networks,
}

/// A storage pool of a host.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// Its name.
    pub name: String,
    /// The directory on the host to make it in when it is missing; `None` where somebody else makes it.
    pub path: Option<Utf8PathBuf>,
    /// This node's library, whose revisions are sent there.
    pub library: Utf8PathBuf,
}

/// A libvirt host as a backend.
pub struct Libvirt {
    settings: Settings,
    connection: Connection,
    pool: Option<Pool>,
}

impl Libvirt {
    /// A backend on that host. Nothing is connected yet: a host that does not answer is found out by
    /// [`findings`](Provisioning::findings) and by the first job.
    ///
    /// # Errors
    /// The directory cannot be made, or no threads can be started.
    pub fn new(settings: Settings) -> Result<Self> {
        let io = |what: String| move |e: std::io::Error| Error::caused(ErrorKind::Failed, what, e);
        let directory = &settings.directory;
        if settings.pool.is_none() {
            std::fs::create_dir_all(directory)
                .map_err(io(format!("making the backend's directory {directory}")))?;
        }
        let connection = Connection::new(settings.name.as_str(), &settings.uri)
            .map_err(io("starting the libvirt threads".to_owned()))?;
        let pool = settings.pool.clone().map(|pool| Pool {
            desk: Desk::of(&settings.uri, &pool.name),
            name: pool.name,
            path: pool.path,
            library: pool.library,
        });
        Ok(Self { settings, connection, pool })
    }

    fn network(&self, name: &NetworkName) -> Result<&Network> {
        self.settings.networks.get(name).ok_or_else(|| {
            let known: Vec<_> = self.settings.networks.keys().map(NetworkName::as_str).collect();
            let known = known.join(", ");
            Error::new(
                ErrorKind::NotFound,
                format!("no network `{name}` in the configuration; it has: {known}"),
            )
        })
    }

    /// `vcl-gis-01`: a prefix keeps our machines together in other tools' lists, and apart from an admin's own.
    fn domain_name(computer: &ComputerName) -> String {
        format!("vcl-{computer}")
    }
}

/// Every step of the backend, those no longer used included.
const STEPS: &[&dyn AnyStep<Libvirt>] = &[
    &load::PREPARE,
    &pool::bring::CHOOSE,
    &pool::copies::SEND,
    &load::OVERLAY,
    &load::VARIABLES,
    &load::PORTS,
    &load::DEFINE,
    &load::START,
    &boot::ADDRESS,
    &boot::HOST_KEYS,
    &capture::READ,
    &capture::LOOK,
    &capture::WAIT_OFF,
    &capture::COPY,
    &capture::COPY_FILE,
    &capture::STOP,
    &capture::UNDEFINE,
    &capture::DELETE,
    &vm::READ_SOURCE,
    &vm::SHUT_SOURCE,
    &vm::START_SOURCE,
    &vm::WAIT_LOGIN,
];

#[async_trait]
impl Undo for Libvirt {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Libvirt {
    fn kind(&self) -> &'static str {
        "libvirt"
    }
    fn host(&self) -> Option<String> {
        Some(self.settings.uri.clone())
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        self.planned(work, target)
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.load_computer(job, target).await
    }
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.capture_computer(job, target, staging).await
    }
    async fn resume(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.resume_computer(job, target).await
    }
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.unload_computer(job, computer).await
    }
    async fn vms(&self) -> Result<Vec<VmView>> {
        self.list_vms().await
    }
    async fn preview_vm(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        self.preview_source(target).await
    }
    async fn capture_vm(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.capture_source(job, target, staging).await
    }
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        self.change_power(&Self::domain_name(&computer.name), action).await
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        self.power_state(&Self::domain_name(&computer.name)).await
    }
    async fn console(&self, computer: &Computer, lines: usize) -> Result<String> {
        self.console_tail(&computer.name, lines).await
    }
    async fn screenshot(&self, computer: &Computer) -> Result<Vec<u8>> {
        self.display(&Self::domain_name(&computer.name)).await
    }
    async fn description(&self, computer: &Computer) -> Result<String> {
        self.live_xml(&Self::domain_name(&computer.name)).await
    }
    async fn things(&self) -> Result<Vec<Thing>> {
        self.made_things().await
    }
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        self.unmake(thing).await
    }
    async fn powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        self.all_powers().await
    }
    async fn free_space(&self) -> Result<Option<u64>> {
        self.free().await.map(Some)
    }
    fn keeps_copies(&self) -> bool {
        self.pool.is_some()
    }
    async fn to_send(&self, chain: &[Manifest]) -> Result<u64> {
        self.bytes_to_send(chain).await
    }
    async fn written(&self, computer: &Computer) -> Result<Option<u64>> {
        self.written_by(&computer.name).await
    }
    async fn version(&self) -> Result<Option<String>> {
        self.ask_version().await.map(Some)
    }
    async fn findings(&self) -> Vec<Finding> {
        self.look().await
    }
}
