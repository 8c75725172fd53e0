//! The esx backend: computers are virtual machines of one ESXi host without a vCenter.
//!
//! Such a host cannot clone machines. A load sends the revision to the datastore unless it is there, copies its disk, and
//! makes a machine over the copy; a capture copies the disk back. All of it is in [`vim25`](crate::vim25); what is this
//! backend's own is the order.

use crate::vim25::{CAPABILITIES, STEPS, ServerKind, Settings, Site};
use crate::{Capabilities, Captured, Provisioning, Result, Target, Work};
use async_trait::async_trait;
use std::collections::BTreeMap;
use vcl_images::Staging;
use vcl_job::{Job, Undo, undo_in};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmView};
use vcl_types::{Computer, ComputerName, Endpoint};

/// An ESXi host as a backend.
pub struct Esx {
    site: Site,
}

impl Esx {
    /// A backend on that host. Nothing is connected yet: a host that does not answer is found out by
    /// [`findings`](Provisioning::findings) and by the first job.
    ///
    /// # Errors
    /// The directory cannot be made, or the authority's certificate cannot be read.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self { site: Site::new(settings, ServerKind::HostAgent)? })
    }
}

#[async_trait]
impl Undo for Esx {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, &self.site, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Esx {
    fn kind(&self) -> &'static str {
        "esx"
    }
    fn host(&self) -> Option<String> {
        Some(self.site.client.address().to_owned())
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let make = match work {
            Work::Load => self.site.planned_copies(target),
            Work::Capture => self.site.planned_fetches(target),
            _ => Vec::new(),
        };
        self.site.planned(work, target, make)
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.site.load_by_copy(job, target).await
    }
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.site.capture_by_copy(job, target, staging).await
    }
    async fn resume(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.site.boot(job, target, &Site::machine_name(&target.computer.name)).await
    }
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.site.take_away(job, &Site::machine_name(&computer.name)).await
    }
    async fn vms(&self) -> Result<Vec<VmView>> {
        self.site.list_vms().await
    }
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        self.site.change_power(&Site::machine_name(&computer.name), action).await
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        self.site.power_state(&Site::machine_name(&computer.name)).await
    }
    async fn description(&self, computer: &Computer) -> Result<String> {
        self.site.describe(&Site::machine_name(&computer.name)).await
    }
    async fn things(&self) -> Result<Vec<Thing>> {
        self.site.made_things().await
    }
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        self.site.unmake(thing).await
    }
    async fn powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        self.site.all_powers().await
    }
    async fn free_space(&self) -> Result<Option<u64>> {
        self.site.free_here().await
    }
    async fn findings(&self) -> Vec<Finding> {
        self.site.look().await
    }
    async fn close(&self) {
        self.site.client.close().await;
    }
}
