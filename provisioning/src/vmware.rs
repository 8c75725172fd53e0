//! The vmware backend: computers are virtual machines of a vCenter.
//!
//! Two ways to make a machine, by setting: `clone` makes a template over the revision's disk once and clones it, `copy`
//! copies the disk and makes a machine over it, as on a host of its own. A server that cannot clone is told so by an event
//! and its machines are copied. Two ways to capture: `template` makes the captured machine the new revision's template,
//! `disk` puts its disk among the images. Either way its bytes go into the library too: the library has the images,
//! a vCenter has copies of them.

mod template;

use crate::vim25::{CAPABILITIES, STEPS, ServerKind, Settings, Site, bootable};
use crate::{Capabilities, Captured, Provisioning, Result, Target, Work};
use async_trait::async_trait;
use std::collections::BTreeMap;
use vcl_images::Staging;
use vcl_job::{AnyStep, Job, Undo, undo_in};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmView};
use vcl_types::{Computer, ComputerName, Endpoint};

/// How a computer's machine is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Cloned from a template over the revision's disk.
    Clone,
    /// Made over a copy of the revision's disk.
    Copy,
}

/// What a capture leaves at the vCenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureTo {
    /// A template, from which later loads clone.
    Template,
    /// A disk among the images, which later loads copy.
    Disk,
}

/// A vCenter as a backend.
pub struct Vmware {
    site: Site,
    method: Method,
    capture: CaptureTo,
}

impl Vmware {
    /// A backend on that vCenter. Nothing is connected yet: a server that does not answer is found out by
    /// [`findings`](Provisioning::findings) and by the first job.
    ///
    /// # Errors
    /// The directory cannot be made, or the authority's certificate cannot be read.
    pub fn new(settings: Settings, method: Method, capture: CaptureTo) -> Result<Self> {
        Ok(Self { site: Site::new(settings, ServerKind::VirtualCenter)?, method, capture })
    }
}

/// The steps that only a vCenter has, those no longer used included.
const OWN_STEPS: &[&dyn AnyStep<Site>] = &[
    &template::FIND,
    &template::MAKE,
    &template::CLONE,
    &template::CONFIGURE,
    &template::KEEP,
    &template::ENTER,
];

#[async_trait]
impl Undo for Vmware {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        let own = OWN_STEPS.iter().any(|s| s.name() == step);
        undo_in(if own { OWN_STEPS } else { STEPS }, &self.site, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Vmware {
    fn kind(&self) -> &'static str {
        "vmware"
    }
    fn is_shared(&self) -> bool {
        true
    }
    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let make = match (work, self.method, self.capture) {
            (Work::Load, Method::Copy, _) => self.site.planned_copies(target),
            (Work::Load, Method::Clone, _) => template::planned_clone(target),
            (Work::Capture, _, CaptureTo::Disk) => self.site.planned_fetches(target),
            (Work::Capture, _, CaptureTo::Template) => template::planned_capture(target),
            _ => Vec::new(),
        };
        self.site.planned(work, target, make)
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        if self.method == Method::Copy {
            return self.site.load_by_copy(job, target).await;
        }
        bootable(&target)?;
        let machine = Site::machine_name(&target.computer.name);
        self.site.prepare(job, &machine).await?;
        let template = self.site.template(job, &target).await?;
        let cloned = match template {
            Some(template) => self.site.machine_by_clone(job, &target, &template, &machine).await?,
            None => false,
        };
        if !cloned {
            // A part of its own: the images may have been sent for the template already.
            self.site.machine_by_copy(&mut job.part("copied"), &target, &machine).await?;
        }
        self.site.boot(job, target, &machine).await
    }
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        match self.capture {
            CaptureTo::Disk => self.site.capture_by_copy(job, target, staging).await,
            CaptureTo::Template => self.site.capture_to_template(job, target, staging).await,
        }
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
