//! Loading: overlays on the revision, a definition over them, power, an address, host keys, `post_load`. The steps are
//! those of a hypervisor's load, under the same names.

use super::machine::{Effect, Overlay};
use super::{Sim, address, disk, host_key, machine_name};
use crate::{Provisioning, Result, Target, Work};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use vcl_job::{Job, Kind, Step, TRANSIENT};
use vcl_types::api::PlannedStep;
use vcl_types::{DiskRecord, Endpoint, HostKeys, KeySource};

/// An overlay as the journal has it before it is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NewOverlay {
    pub(super) machine: String,
    pub(super) disk: u32,
    /// The revision's file, its format, what its guest sees, and what is said of it when it is none of this world's.
    pub(super) on: String,
    pub(super) format: String,
    pub(super) size: u64,
    pub(super) base: String,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct NewDomain {
    pub(super) machine: String,
    pub(super) owner: String,
    pub(super) disks: Vec<u32>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileCopy {
    pub(super) machine: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// Makes the machine's directory, and clears away what an earlier machine of that name left.
pub(super) const PREPARE: Step<Sim, String> =
    Step::new("prepare host").retry(TRANSIENT).undo(|sim, machine| {
        Box::pin(async move {
            // What another has there is why it failed.
            if sim.machine(&machine).await?.is_foreign() { Ok(()) } else { sim.remove_all(&machine).await }
        })
    });
pub(super) const OVERLAY: Step<Sim, NewOverlay> =
    Step::new("create overlay").retry(TRANSIENT).undo(|sim, new| {
        Box::pin(async move { sim.put(&new.machine, Effect::DeleteOverlay { disk: new.disk }).await })
    });
pub(super) const VARIABLES: Step<Sim, FileCopy> = Step::new("copy firmware variables")
    .retry(TRANSIENT)
    .undo(|sim, copy| Box::pin(async move { sim.put(&copy.machine, Effect::DeleteVariables).await }));
pub(super) const DEFINE: Step<Sim, NewDomain> = Step::new("define domain")
    .retry(TRANSIENT)
    .undo(|sim, new| Box::pin(async move { sim.remove_domain(&new.machine).await }));
pub(super) const START: Step<Sim, String> = Step::<Sim, String>::new("start")
    .retry(TRANSIENT)
    .undo(|sim, machine| Box::pin(async move { sim.put(&machine, Effect::CutPower).await }))
    .holds(|sim, machine, _| Box::pin(async move { Ok(sim.machine(&machine).await?.is_running()) }));
pub(super) const ADDRESS: Step<Sim, String> = Step::new("find address").retry(TRANSIENT);
pub(super) const HOST_KEYS: Step<Sim, String> = Step::new("wait for ssh").retry(TRANSIENT);

impl Sim {
    pub(super) async fn load_computer(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let manifest = &target.revision.manifest;
        let machine = machine_name(&target.computer.name);
        self.prepare(job, &machine).await?;
        let mut disks = Vec::new();
        for (n, record) in manifest.disks.iter().enumerate() {
            let on = target.revision.path(&record.file);
            disks.push(self.overlay(job, new_overlay(&machine, n, on, record)).await?);
        }
        if let Some(firmware) = &manifest.firmware {
            self.variables(job, &machine, target.revision.path(&firmware.file)).await?;
        }
        let owner = target.computer.name.to_string();
        self.define(job, NewDomain { machine: machine.clone(), owner, disks }).await?;
        self.boot(job, target, &machine).await
    }

    pub(super) async fn prepare(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &PREPARE, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, PREPARE.name()).await?;
                if self.ours(&machine).await?.domain.is_some() {
                    cx.event(
                        "cleared-leftover",
                        format!("domain {machine} was there from an earlier load and is removed"),
                    );
                }
                self.remove_all(&machine).await?;
                self.put(&machine, Effect::MakePlace).await
            })
            .await
    }

    pub(super) async fn overlay(&self, job: &mut Job, new: NewOverlay) -> vcl_job::Result<u32> {
        let n = new.disk;
        job.step(self, &OVERLAY, new)
            .key(n)
            .run(async |new, cx| {
                self.pace(&cx, &new.machine, OVERLAY.name()).await?;
                let content = disk::content(new.on.as_ref(), &new.format, &new.base).map_err(|e| {
                    let kind =
                        if e.kind() == std::io::ErrorKind::NotFound { Kind::NotFound } else { Kind::Fatal };
                    vcl_job::Error::caused(kind, format!("reading what is on {}", new.on), e)
                })?;
                let overlay = Overlay { on: new.on, size: new.size, content };
                self.put(&new.machine, Effect::MakeOverlay { disk: new.disk, overlay }).await?;
                Ok(new.disk)
            })
            .await
    }

    pub(super) async fn variables(&self, job: &mut Job, machine: &str, from: String) -> vcl_job::Result<()> {
        let copy = FileCopy { machine: machine.to_owned(), from, to: "variables".into() };
        job.step(self, &VARIABLES, copy)
            .run(async |copy, cx| {
                self.pace(&cx, &copy.machine, VARIABLES.name()).await?;
                self.put(&copy.machine, Effect::CopyVariables { from: copy.from }).await
            })
            .await
    }

    pub(super) async fn define(&self, job: &mut Job, new: NewDomain) -> vcl_job::Result<()> {
        job.step(self, &DEFINE, new)
            .run(async |new, cx| {
                self.pace(&cx, &new.machine, DEFINE.name()).await?;
                self.put(&new.machine, Effect::Define { disks: new.disks, owner: Some(new.owner) }).await
            })
            .await
    }

    pub(super) async fn start(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &START, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, START.name()).await?;
                self.put(&machine, Effect::Start).await
            })
            .await
    }

    pub(super) async fn boot(
        &self,
        job: &mut Job,
        target: Target<'_>,
        machine: &str,
    ) -> vcl_job::Result<Endpoint> {
        self.start(job, machine).await?;
        let fixed = target.computer.management().and_then(|nic| nic.address);
        let address = self.find_address(job, machine, fixed).await?;
        let host_keys = self.host_keys(job, machine).await?;
        let endpoint = Endpoint { address, port: 22, user: target.user.to_owned(), host_keys };
        target.os.post_load(&mut job.part("post_load"), target.guest(&endpoint)).await
    }

    pub(super) async fn find_address(
        &self,
        job: &mut Job,
        machine: &str,
        fixed: Option<IpAddr>,
    ) -> vcl_job::Result<IpAddr> {
        job.step(self, &ADDRESS, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, ADDRESS.name()).await?;
                Ok(fixed.unwrap_or_else(|| address(&machine)))
            })
            .await
    }

    pub(super) async fn host_keys(&self, job: &mut Job, machine: &str) -> vcl_job::Result<HostKeys> {
        job.step(self, &HOST_KEYS, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, HOST_KEYS.name()).await?;
                let state = self.machine(&machine).await?;
                let booted = state.domain.as_ref().and_then(|d| d.booted.as_ref());
                let Some(identity) = booted else {
                    let context = format!("no ssh server speaks on {machine}: it is not up");
                    return Err(vcl_job::Error::new(Kind::Transient, context));
                };
                Ok(HostKeys { keys: vec![host_key(identity)], source: KeySource::Console })
            })
            .await
    }

    /// Removes a machine with its files, off or on, whole or half made.
    pub(super) async fn remove_all(&self, machine: &str) -> vcl_job::Result<()> {
        self.remove_domain(machine).await?;
        for to in self.machine(machine).await?.copying.into_keys() {
            self.put(machine, Effect::EndCopy { to }).await?;
        }
        self.put(machine, Effect::RemovePlace).await
    }
    async fn remove_domain(&self, machine: &str) -> vcl_job::Result<()> {
        self.put(machine, Effect::CutPower).await?;
        self.put(machine, Effect::Undefine).await
    }

    pub(super) fn planned(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let machine = machine_name(&target.computer.name);
        let manifest = &target.revision.manifest;
        let guest = |end: bool| {
            let part = if end { "pre_capture" } else { "post_load" };
            let steps = target.os.plan(end.then(|| self.end_state()));
            steps
                .into_iter()
                .map(move |(name, what)| PlannedStep { name: format!("{part}/{name}"), what: what.into() })
        };
        let boot = || {
            [
                step(START.name(), format!("power {machine} on")),
                step(ADDRESS.name(), "wait for its address".into()),
                step(HOST_KEYS.name(), "wait for its ssh server".into()),
            ]
        };
        match work {
            Work::Load => {
                let mut steps = vec![step(PREPARE.name(), format!("make the place of {machine}"))];
                for disk in &manifest.disks {
                    let on = target.revision.path(&disk.file);
                    steps.push(step(OVERLAY.name(), format!("on {on} ({})", disk.virtual_size)));
                }
                if manifest.firmware.is_some() {
                    steps.push(step(VARIABLES.name(), "of the revision, for this machine".into()));
                }
                steps.push(step(DEFINE.name(), machine.clone()));
                steps.into_iter().chain(boot()).chain(guest(false)).collect()
            }
            Work::Resume => boot().into_iter().chain(guest(false)).collect(),
            Work::Capture => {
                let mut steps: Vec<_> = guest(true).collect();
                steps
                    .push(step("wait for power off", "cut it where the guest does not go off itself".into()));
                for (n, disk) in manifest.disks.iter().enumerate() {
                    let what = format!("{} at most, into the library's staging", disk.virtual_size);
                    steps.push(step(&format!("copy disk[{n}]"), what));
                }
                steps
            }
            Work::Unload => vec![
                step("power off", format!("cut the power of {machine}")),
                step("undefine domain", machine.clone()),
                step("delete files", format!("of {machine}")),
            ],
        }
    }
}

fn new_overlay(machine: &str, n: usize, on: String, record: &DiskRecord) -> NewOverlay {
    NewOverlay {
        machine: machine.to_owned(),
        disk: n as u32,
        on,
        format: record.format.clone(),
        size: record.virtual_size.bytes(),
        base: record.content_digest.to_string(),
    }
}

/// What is refused before a step, as a job's error.
pub(super) fn refused<T>(context: impl Into<String>) -> Result<T> {
    Err(crate::Error::new(crate::ErrorKind::Refused, context))
}
