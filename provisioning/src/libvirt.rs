//! The libvirt backend: computers are virtual machines of a libvirt host.
//!
//! A computer's machine exists while it is loaded: a domain `vcl-NAME` over overlays in `DIRECTORY/NAME/`, which is also
//! where its console log and its firmware variables are. The library's revision lies beneath and is never opened for
//! writing. Only domains that carry vcld's owner tag are ever changed; a domain of another owner under a name that is
//! needed is an error.
//!
//! State is libvirt's and the file system's: this type holds a connection and its settings, nothing else.

mod away;
mod boot;
mod capture;
mod connection;
mod console;
mod definition;
mod description;
mod domain;
mod inspect;
mod load;
#[cfg(test)]
mod tests;
mod things;
mod vm;

use crate::{Captured, Error, ErrorKind, Network, Networks, Provisioning, Result, Target, VmTarget, Work};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use connection::Connection;
use std::collections::BTreeMap;
use vcl_images::Staging;
use vcl_job::{AnyStep, Job, Undo, undo_in};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmPreview, VmView};
use vcl_types::{Accelerator, BackendName, Computer, ComputerName, Endpoint, NetworkName};

/// What a libvirt backend instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// The host's URI, such as `qemu:///system`. Disks are made where vcld runs, so it is a host that shares this
    /// node's file system.
    pub uri: String,
    /// Where overlays, consoles and firmware variables go.
    pub directory: Utf8PathBuf,
    /// How processors are run.
    pub accelerator: Accelerator,
    /// The site's networks.
    pub networks: Networks,
}

/// A libvirt host as a backend.
pub struct Libvirt {
    settings: Settings,
    connection: Connection,
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
        std::fs::create_dir_all(directory)
            .map_err(io(format!("making the backend's directory {directory}")))?;
        let connection = Connection::new(settings.name.as_str(), &settings.uri)
            .map_err(io("starting the libvirt threads".to_owned()))?;
        Ok(Self { settings, connection })
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

    fn computer_directory(&self, computer: &ComputerName) -> Utf8PathBuf {
        self.settings.directory.join(computer.as_str())
    }
}

/// Every step of the backend, those no longer used included.
const STEPS: &[&dyn AnyStep<Libvirt>] = &[
    &load::PREPARE,
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
        self.console_tail(&computer.name, lines)
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
        self.free_here()
    }
    async fn written(&self, computer: &Computer) -> Result<Option<u64>> {
        Ok(self.written_here(&computer.name))
    }
    async fn version(&self) -> Result<Option<String>> {
        self.ask_version().await.map(Some)
    }
    async fn findings(&self) -> Vec<Finding> {
        self.look().await
    }
}
