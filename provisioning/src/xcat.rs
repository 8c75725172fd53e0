//! The xcat backend: computers are nodes that an xCAT management node provisions, over its REST service.
//!
//! ```text
//!  load     image named under `osimages`   arm osimage ─► power ─► xCAT installs it ─► booted
//!           any other                      open box ─► arm runimage ─► power ─► runme.sh restores the disk ─► boot it
//!  capture  open box ─► arm runimage ─► Os::pre_capture(Reboot) ─► runme.sh sends the disk ─► off ─► checked, qcow2
//! ```
//!
//! xCAT itself captures no disks any more. What is left of it for that is `runimage`: at its next boot from the network a
//! node starts xCAT's service system, which fetches an archive from a URL and runs the script in it. Here that is ours
//! ([`task`], `runme.sh`), fetched from a box of the daemon's [inbox](crate::inbox). What becomes of the script is told to
//! that box and to nobody else: the service system moves the node on to `boot` before it fetches anything, so xCAT's
//! `currstate` says nothing about it.
//!
//! What the imaging task needs of the service system, and that the newest one runs only signed actions, stands in the
//! guide. A node has one disk that counts; firmware variables are not captured.
//!
//! State is xCAT's and the box's: this type holds a connection and its settings, nothing else.

mod answer;
mod away;
mod boot;
mod capture;
mod client;
mod imaging;
mod load;
mod look;
pub mod task;

use crate::inbox::Inbox;
use crate::{Capabilities, Capability, Captured, Error, ErrorKind, Provisioning, Result, Target, Work};
use async_trait::async_trait;
use client::Client;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{AnyStep, Job, Undo, undo_in};
use vcl_os::EndState;
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmView};
use vcl_types::{BackendName, ByteSize, Computer, ComputerName, Endpoint, Secret};

/// What an xcat backend instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// The REST service, `https://HOST/xcatws`.
    pub url: String,
    /// The certificate, in PEM, of the authority that the service's is checked against.
    pub ca: Vec<u8>,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// Computers whose node has another name.
    pub nodes: BTreeMap<String, String>,
    /// Images that xCAT installs by itself, by their names, each with its osimage.
    pub osimages: BTreeMap<String, String>,
    /// The computers that are known to be this instance's.
    pub computers: Vec<ComputerName>,
    /// The daemon's inbox, where it has one.
    pub inbox: Option<Arc<dyn Inbox>>,
    /// The disk that is imaged, as the service system calls it; `None` is the only one.
    pub disk: Option<String>,
    /// The largest disk that is captured.
    pub largest_disk: ByteSize,
    /// Whether a node has to be told to boot from the network.
    pub net_boot: bool,
    /// Whether nodes that hold nothing are powered off.
    pub power_off: bool,
    /// How often a node is looked at.
    pub poll: Duration,
    /// How long a call may take.
    pub call: Duration,
    /// Until a task or an installer is heard of.
    pub contact: Duration,
    /// How long one may show no progress.
    pub no_progress: Duration,
    /// How long an installation may take.
    pub install: Duration,
}

/// An xCAT management node as a backend.
pub struct Xcat {
    settings: Settings,
    client: Client,
    /// What nodes were when they were last asked, for those whose service processor does not answer now.
    powers: Mutex<BTreeMap<ComputerName, PowerState>>,
    /// Who switches a node's power now, outside of any job: one after the other, for each waits to see what it asked for.
    switching: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Xcat {
    /// A backend on that management node. Nothing is connected yet: one that does not answer is found out by
    /// [`findings`](Provisioning::findings) and by the first job.
    ///
    /// # Errors
    /// `ca` holds no certificate; two computers are one node; `nodes` names a computer that there is not.
    pub fn new(settings: Settings) -> Result<Self> {
        one_computer_a_node(&settings)?;
        let client = Client::new(&settings)?;
        Ok(Self { settings, client, powers: Mutex::default(), switching: Mutex::default() })
    }

    /// The node that a computer is.
    fn node(&self, computer: &ComputerName) -> String {
        let name = computer.as_str();
        self.settings.nodes.get(name).map_or_else(|| name.to_owned(), Clone::clone)
    }

    /// The computer that a node is.
    fn computer(&self, node: &str) -> Option<ComputerName> {
        let named =
            self.settings.nodes.iter().find(|(_, n)| *n == node).map(|(computer, _)| computer.as_str());
        named.unwrap_or(node).parse().ok()
    }

    fn remember(&self, computer: &ComputerName, power: PowerState) -> PowerState {
        let mut powers = self.powers.lock().unwrap_or_else(PoisonError::into_inner);
        powers.insert(computer.clone(), power);
        power
    }
}

/// Refuses what would have one lender cut the power of what another has lent.
fn one_computer_a_node(settings: &Settings) -> Result<()> {
    let refused = |text| Err(Error::new(ErrorKind::Refused, text));
    let mut taken: BTreeMap<&str, &ComputerName> = BTreeMap::new();
    for computer in &settings.computers {
        let name = computer.as_str();
        let node = settings.nodes.get(name).map_or(name, String::as_str);
        if let Some(other) = taken.insert(node, computer) {
            return refused(format!(
                "backend {}: the computers {other} and {computer} are both the node {node}; give each one of its own under `nodes`",
                settings.name
            ));
        }
    }
    for (name, node) in &settings.nodes {
        if !settings.computers.iter().any(|computer| computer.as_str() == name) {
            return refused(format!(
                "backend {}: `nodes` says that {name} is the node {node}, and no computer {name} is of this backend; take it out, or add the computer under [computers]",
                settings.name
            ));
        }
    }
    Ok(())
}

/// What it can do with an inbox.
const CAPABILITIES: Capabilities = Capabilities::all()
    .without(
        Capability::CaptureVm,
        "it makes images of its own computers: load one on the node, change it, capture it",
    )
    .without(Capability::Console, "xCAT's REST service reads none; use xCAT's own, rcons NODE")
    .without(Capability::Screenshot, "nodes have no displays that xCAT could look at")
    .without(Capability::FreeSpace, "nodes write to disks of their own")
    .without(Capability::Written, "a node's disk does not tell what was written to it since it was loaded")
    .without(Capability::HostKeys, "xCAT knows no host keys: those of the first connection are taken");

/// Every step of the backend, those no longer used included.
const STEPS: &[&dyn AnyStep<Xcat>] = &[
    &imaging::CHOOSE_BOX,
    &imaging::OPEN_BOX,
    &imaging::CLOSE_BOX,
    &load::FLATTEN,
    &load::PACK,
    &load::LOOK,
    &load::ARM,
    &load::BOOT_ARMED,
    &load::INSTALL,
    &load::DISARM,
    &load::POWER_ON,
    &load::RESTART,
    &load::RESTORE,
    &capture::SEND,
    &capture::POWER_OFF,
    &capture::CHECK,
    &capture::STORE,
    &boot::ADDRESS,
    &boot::WAIT_FOR_SSH,
];

#[async_trait]
impl Undo for Xcat {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Xcat {
    fn kind(&self) -> &'static str {
        "xcat"
    }
    fn end_state(&self) -> EndState {
        EndState::Reboot
    }
    fn capabilities(&self) -> Capabilities {
        match self.settings.inbox.is_some() {
            true => CAPABILITIES,
            false => CAPABILITIES.without(Capability::Capture, "the configuration has no [inbox]"),
        }
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
        self.list_nodes().await
    }
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        self.change_power(&computer.name, action).await
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        self.power_state(&computer.name).await
    }
    async fn description(&self, computer: &Computer) -> Result<String> {
        self.masked_definition(&computer.name).await
    }
    async fn things(&self) -> Result<Vec<Thing>> {
        let mut things = self.armed_nodes().await?;
        things.extend(self.open_boxes()?);
        Ok(things)
    }
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        self.remove(thing).await
    }
    async fn powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        self.all_powers().await
    }
    async fn version(&self) -> Result<Option<String>> {
        let nodes = self.client.nodes().await?;
        Ok(Some(format!("xCAT's REST service, {} nodes", nodes.len())))
    }
    async fn findings(&self) -> Vec<Finding> {
        self.look().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance of that name with these computers, whose management node is nowhere.
    pub(super) fn settings(name: &str, computers: &[&str]) -> Settings {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let patience = Duration::from_secs(20);
        Settings {
            name: name.parse().unwrap(),
            url: "https://localhost:1/xcatws".into(),
            ca: ca.pem().into_bytes(),
            user: "wsuser".into(),
            password: Secret::new("hunter2".into()),
            nodes: <_>::default(),
            osimages: <_>::default(),
            computers: computers.iter().map(|name| name.parse().unwrap()).collect(),
            inbox: None,
            disk: None,
            largest_disk: ByteSize::gibibytes(1),
            net_boot: true,
            power_off: true,
            poll: Duration::from_millis(10),
            call: patience,
            contact: patience,
            no_progress: patience,
            install: patience,
        }
    }

    fn refusal(nodes: &[(&str, &str)]) -> Option<String> {
        let nodes = nodes.iter().map(|(computer, node)| ((*computer).into(), (*node).into())).collect();
        let made = Xcat::new(Settings { nodes, ..settings("rack", &["lab-1", "n7"]) });
        made.err().map(|e| {
            assert_eq!(e.kind, ErrorKind::Refused, "{e}");
            e.to_string()
        })
    }

    #[test]
    fn two_computers_that_are_one_node_are_refused() {
        assert_eq!(refusal(&[("lab-1", "n1")]), None);
        assert_eq!(
            refusal(&[("lab-1", "n7")]).unwrap(),
            "backend rack: the computers lab-1 and n7 are both the node n7; give each one of its own under `nodes`"
        );
        assert_eq!(
            refusal(&[("lab-1", "n1"), ("n7", "n1")]).unwrap(),
            "backend rack: the computers lab-1 and n7 are both the node n1; give each one of its own under `nodes`"
        );
    }

    #[test]
    fn a_node_for_a_computer_that_there_is_not_is_refused() {
        assert_eq!(
            refusal(&[("lab-2", "n2")]).unwrap(),
            "backend rack: `nodes` says that lab-2 is the node n2, and no computer lab-2 is of this backend; take it \
             out, or add the computer under [computers]"
        );
    }
}
