//! The steps that both backends have for machines: clearing the way, disks, power, taking away.

use super::machines::{has_snapshot, unless_others};
use super::properties::Object;
use super::request::Reference;
use super::task::Patience;
use super::{Card, MachineSpec, Site, Watcher, boot, images};
use crate::{Captured, Result, Target};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{AnyStep, Job, Kind, Retry, Step};
use vcl_types::api::PowerState;
use vcl_types::{ByteSize, Computer, Endpoint, Hardware};

/// Waits that have a limit of their own get this much from the executor.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 3600);
/// For what passes by itself, which at a VMware server may take a while: a locked file, a task that another waits for, a
/// host that its vCenter has lost. Some two minutes in all; for a server that is away itself see `away`.
pub(crate) const PATIENT: Retry =
    Retry { times: 7, first: Duration::from_secs(1), kinds: &[Kind::Transient, Kind::Busy] };

/// A machine and its directory on the datastore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) machine: String,
    pub(crate) directory: String,
}
/// A disk that is copied on the datastore.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Copied {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) size: u64,
}
/// What a capture needs to know of a machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Described {
    /// Its disks on the datastore, and what a guest sees of each.
    pub(crate) disks: Vec<(String, u64)>,
    pub(crate) cpus: u32,
    pub(crate) memory: ByteSize,
}

/// Clears away what an earlier machine of that name left.
const PREPARE: Step<Site, Made> =
    Step::new("prepare host").deadline(LONG).retry(PATIENT).undo(|site, made| {
        Box::pin(async move {
            vcl_job::held()?;
            Ok(site.remove_ours(&made.machine, &Watcher::doing()).await?)
        })
    });
pub(super) const COPY_DISK: Step<Site, Copied> =
    Step::new("copy disk at host").deadline(LONG).retry(PATIENT).undo(|site, copied| {
        Box::pin(async move {
            vcl_job::held()?;
            // Somebody may have given the machine over it another name to keep it.
            let directory = copied.to.rsplit_once('/').map_or("", |(directory, _)| directory);
            if site.lodger(directory).await?.is_some() {
                return Ok(());
            }
            let watcher = Watcher::doing();
            let mut patience = Patience::undoing(&watcher);
            while let Err(e) = site.delete_disk(&copied.to, &watcher).await {
                patience.outwait(e).await?;
            }
            Ok(())
        })
    });
pub(super) const CREATE: Step<Site, Made> =
    Step::new("create machine").deadline(LONG).retry(PATIENT).undo(|site, made| {
        Box::pin(async move {
            vcl_job::held()?;
            Ok(unless_others(site.remove_machine(&made.machine, &Watcher::doing()).await)?)
        })
    });
const START: Step<Site, String> = Step::<Site, String>::new("start")
    .deadline(LONG)
    .retry(PATIENT)
    .undo(|site, machine| {
        Box::pin(async move {
            vcl_job::held()?;
            Ok(unless_others(site.cut_power(&machine, &Watcher::doing()).await)?)
        })
    })
    .holds(|site, machine, _| {
        Box::pin(async move { Ok(site.power_state(&machine).await? == PowerState::On) })
    });
const READ: Step<Site, String> = Step::new("read machine").deadline(LONG).retry(PATIENT);
/// The same once it is off, and nothing is written any more: what was there before may have changed since.
const READ_OFF: Step<Site, String> = Step::new("read machine again").deadline(LONG).retry(PATIENT);
/// Whether the machine is on, after `pre_capture` failed in it.
const LOOK: Step<Site, String> = Step::new("look at power").deadline(LONG).retry(PATIENT);
const WAIT_OFF: Step<Site, String> = Step::new("wait for power off").deadline(LONG).retry(PATIENT);
/// Unloading takes things away for good: there is no way back, only forward.
const STOP: Step<Site, String> = Step::new("power off").deadline(LONG).retry(PATIENT);
const REMOVE: Step<Site, String> = Step::new("remove machine").deadline(LONG).retry(PATIENT);
const DELETE: Step<Site, String> = Step::new("delete files").deadline(LONG).retry(PATIENT);

/// Every step of both backends.
pub(crate) const STEPS: &[&dyn AnyStep<Site>] = &[
    &PREPARE,
    &COPY_DISK,
    &CREATE,
    &START,
    &READ,
    &READ_OFF,
    &LOOK,
    &WAIT_OFF,
    &STOP,
    &REMOVE,
    &DELETE,
    &boot::ADDRESS,
    &boot::WAIT_SSH,
    &images::SEND,
    &images::KEEP,
    &images::FETCH,
    &images::ENTER,
];

/// How often a machine that loses its power in the middle of `pre_capture` is started again.
const RESTARTS: u32 = 2;

impl Site {
    /// The machine that a computer gets for a revision, without its disks.
    pub(crate) async fn spec(&self, target: &Target<'_>) -> Result<MachineSpec> {
        let (computer, manifest) = (target.computer, &target.revision.manifest);
        let name = Self::machine_name(&computer.name);
        let mut cards = Vec::new();
        for nic in &computer.nics {
            cards.push(Card { mac: nic.mac.clone(), plug: self.card_plug(&nic.network).await? });
        }
        Ok(MachineSpec {
            directory: name.clone(),
            tags: self.tags_for(computer.name.as_str()),
            note: format!("vcld: {} of {}", computer.name, manifest.image_ref()),
            os: manifest.os,
            hardware: machine_hardware(computer, &manifest.hardware),
            disks: Vec::new(),
            cards,
            name,
        })
    }

    /// Loads a computer by copying its disks and making a machine over them.
    pub(crate) async fn load_by_copy(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        bootable(&target)?;
        let machine = Self::machine_name(&target.computer.name);
        self.prepare(job, &machine).await?;
        self.machine_by_copy(job, &target, &machine).await?;
        self.boot(job, target, &machine).await
    }

    /// Makes a machine over copies of the revision's disks.
    pub(crate) async fn machine_by_copy(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        machine: &str,
    ) -> vcl_job::Result<()> {
        let mut disks = Vec::new();
        for (n, disk) in target.revision.manifest.disks.iter().enumerate() {
            let from = self.send_image(job, target, n, disk, true).await?;
            let to = format!("{machine}/disk{n}.vmdk");
            let copied = Copied { from, to: to.clone(), size: disk.virtual_size.bytes() };
            self.copy_step(job, n, copied, target.limits.copy).await?;
            disks.push(to);
        }
        self.create_step(job, target, disks).await
    }

    /// What a capture of a machine's disks is, from the guest's last steps to the disks in the staging.
    pub(crate) async fn capture_by_copy(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        loaded(&target)?;
        let machine = Self::machine_name(&target.computer.name);
        let described = self.pre_capture(job, target, &machine).await?;
        self.capture_disks(job, &target, &described, staging).await
    }

    pub(crate) async fn prepare(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        let made = Made { machine: machine.to_owned(), directory: machine.to_owned() };
        job.step(self, &PREPARE, made)
            .run(async |made, cx| {
                cx.check().await?;
                let watcher = Watcher::of(&cx);
                if self.ours(&made.machine).await?.is_some() {
                    let machine = &made.machine;
                    let message = format!("{machine} was there from an earlier load and is removed");
                    cx.event("cleared-leftover", message);
                    self.remove_machine(machine, &watcher).await?;
                }
                Ok(self.clear(&made.directory, &watcher).await?)
            })
            .await
    }

    pub(crate) async fn copy_step(
        &self,
        job: &mut Job,
        n: usize,
        copied: Copied,
        limit: Duration,
    ) -> vcl_job::Result<()> {
        job.step(self, &COPY_DISK, copied)
            .key(n)
            .run(async |copied, cx| {
                cx.check().await?;
                let directory = copied.to.rsplit_once('/').map_or("", |(directory, _)| directory);
                self.make_directory(directory).await?;
                let watcher = Watcher::of(&cx).within(limit);
                let mut patience = Patience::of(&cx, &watcher, limit);
                while let Err(e) = self.copy_disk(&copied.from, &copied.to, copied.size, &watcher).await {
                    patience.outwait(e).await?;
                }
                Ok(())
            })
            .await
    }

    async fn create_step(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        disks: Vec<String>,
    ) -> vcl_job::Result<()> {
        let machine = Self::machine_name(&target.computer.name);
        job.step(self, &CREATE, Made { directory: machine.clone(), machine })
            .run(async |_, cx| {
                let spec = MachineSpec { disks: disks.clone(), ..self.spec(target).await? };
                cx.check().await?;
                Ok(self.create_machine(&spec, &Watcher::of(&cx)).await?)
            })
            .await
    }

    pub(crate) async fn start_step(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &START, machine.to_owned())
            .run(async |machine, cx| {
                cx.check().await?;
                Ok(self.power_on(&machine, &Watcher::of(&cx)).await.map(drop)?)
            })
            .await
    }

    async fn read_step(
        &self,
        job: &mut Job,
        step: &'static Step<Site, String>,
        machine: &str,
    ) -> vcl_job::Result<Described> {
        job.step(self, step, machine.to_owned()).run(async |name, _| self.described(&name).await).await
    }
    /// What a capture needs to know of the machine.
    async fn described(&self, name: &str) -> vcl_job::Result<Described> {
        let refuse = |message: String| Err(vcl_job::Error::new(Kind::Refused, message));
        let machine = self.must(name).await?;
        if machine.snapshot {
            return refuse(has_snapshot(name));
        }
        let mut disks = Vec::new();
        for (path, size) in machine.disks() {
            let Some(disk) = self.name_of(&path) else {
                return refuse(format!("{name} has a disk on another datastore: {path}"));
            };
            disks.push((disk.to_owned(), size));
        }
        if disks.is_empty() {
            return refuse(format!("{name} has no disk to capture"));
        }
        Ok(Described { disks, cpus: machine.cpus, memory: machine.memory })
    }

    /// Runs `pre_capture` until the machine is off, and answers what there is to capture then. One that loses its power
    /// meanwhile, as one does that somebody switches off while nobody looks, is started again and made ready from the
    /// beginning.
    pub(crate) async fn pre_capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        machine: &str,
    ) -> vcl_job::Result<Described> {
        let endpoint = loaded(&target)?;
        // What cannot be captured is told before the guest is touched.
        self.read_step(job, &READ, machine).await?;
        let end = vcl_os::EndState::Off;
        let mut again = target.revision.clone();
        again.manifest.generalised = true;
        let mut endpoint = endpoint.clone();
        let mut n = 0;
        loop {
            let made = if n == 0 {
                target.os.pre_capture(&mut job.part("pre_capture"), target.guest(&endpoint), end).await
            } else {
                let mut part = job.part(&format!("again {n}"));
                let before = endpoint.clone();
                let resumed = Target { revision: &again, endpoint: Some(&before), ..target };
                endpoint = self.boot(&mut part.part("boot"), resumed, machine).await?;
                target.os.pre_capture(&mut part.part("pre_capture"), target.guest(&endpoint), end).await
            };
            let error = match made {
                Ok(()) => break,
                Err(e) if e.kind.ends_the_job() || n >= RESTARTS => return Err(e),
                Err(e) => e,
            };
            let power = job
                .step(self, &LOOK, machine.to_owned())
                .key(n)
                .run(async |machine, cx| {
                    let power = self.power_state(&machine).await?;
                    if power == PowerState::Off {
                        let why = error.failure();
                        let message =
                            format!("{machine} was powered off from outside; it is started again ({why})");
                        cx.event("power-lost", message);
                    }
                    Ok(power)
                })
                .await?;
            if power != PowerState::Off {
                return Err(error);
            }
            n += 1;
        }
        self.off(job, machine, target.limits.shutdown).await?;
        self.read_step(job, &READ_OFF, machine).await
    }

    /// Waits until the power is off, and cuts it after `limit`, which an event tells.
    async fn off(&self, job: &mut Job, machine: &str, limit: Duration) -> vcl_job::Result<()> {
        job.step(self, &WAIT_OFF, machine.to_owned())
            .run(async |name, cx| {
                let machine = self.must(&name).await?.reference;
                let watcher = Watcher::of(&cx);
                if self.goes_off(&machine, limit, &watcher).await? {
                    return Ok(());
                }
                let seconds = limit.as_secs();
                let message = format!(
                    "{name} was still on {seconds} s after it was told to shut down; its power is cut"
                );
                cx.event("forced-off", message);
                cx.check().await?;
                self.cut_power(&name, &watcher).await?;
                if self.goes_off(&machine, Duration::from_secs(60), &watcher).await? {
                    return Ok(());
                }
                let message = format!("{name} is still on a minute after its power was cut");
                Err(vcl_job::Error::new(Kind::Fatal, message))
            })
            .await
    }

    /// Whether a machine is off within a time.
    async fn goes_off(&self, machine: &Reference, limit: Duration, watcher: &Watcher) -> Result<bool> {
        let off = |seen: &Object| (seen.text("runtime.powerState") == Some("poweredOff")).then_some(());
        Ok(self.until(machine, &["runtime.powerState"], limit, watcher, off).await?.is_some())
    }

    /// Removes a machine of ours and its files.
    pub(crate) async fn take_away(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &STOP, machine.to_owned())
            .run(async |machine, cx| {
                cx.check().await?;
                Ok(self.cut_power(&machine, &Watcher::of(&cx)).await?)
            })
            .await?;
        job.step(self, &REMOVE, machine.to_owned())
            .run(async |machine, cx| {
                cx.check().await?;
                Ok(self.remove_machine(&machine, &Watcher::of(&cx)).await?)
            })
            .await?;
        job.step(self, &DELETE, machine.to_owned())
            .run(async |directory, cx| {
                cx.check().await?;
                Ok(self.clear(&directory, &Watcher::of(&cx)).await?)
            })
            .await
    }
}

/// Where the computer to capture is.
pub(crate) fn loaded<'t>(target: &Target<'t>) -> vcl_job::Result<&'t Endpoint> {
    target.endpoint.ok_or_else(|| {
        let message = format!("{} is not loaded; there is nothing to capture", target.computer);
        vcl_job::Error::new(Kind::Refused, message)
    })
}

/// Refuses a revision that a VMware machine cannot start.
pub(crate) fn bootable(target: &Target<'_>) -> vcl_job::Result<()> {
    let manifest = &target.revision.manifest;
    if manifest.boot.is_none() {
        return Ok(());
    }
    let message = format!(
        "{} is started by a kernel from outside, without a boot loader; a VMware machine starts from its disk only",
        manifest.image_ref()
    );
    Err(vcl_job::Error::new(Kind::Refused, message))
}

/// The revision's hardware with what the computer says otherwise.
pub(crate) fn machine_hardware(computer: &Computer, hardware: &Hardware) -> Hardware {
    Hardware {
        cpus: computer.cpus.unwrap_or(hardware.cpus),
        memory: computer.memory.unwrap_or(hardware.memory),
        ..hardware.clone()
    }
}
