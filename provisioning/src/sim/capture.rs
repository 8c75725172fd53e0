//! Capturing and unloading a computer.

use super::load::FileCopy;
use super::machine::{Content, Effect, Machine};
use super::{Sim, disk, machine_name};
use crate::{Captured, CapturedDisk, CapturedFirmware, Provisioning, Target};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_images::{Format, Progress, Staging, qemu_img};
use vcl_job::{Cx, Error, Job, Kind, Step, TRANSIENT};
use vcl_types::{DirectBoot, Hardware};

const LONG: Duration = Duration::from_secs(24 * 3600);

/// A disk's copy as the journal has it before it begins.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DiskCopy {
    pub(super) machine: String,
    pub(super) disk: u32,
    pub(super) to: String,
}

pub(super) const READ: Step<Sim, String> = Step::new("read domain").retry(TRANSIENT);
pub(super) const WAIT_OFF: Step<Sim, String> =
    Step::new("wait for power off").deadline(LONG).retry(TRANSIENT);
pub(super) const COPY: Step<Sim, DiskCopy> =
    Step::new("copy disk").deadline(LONG).retry(TRANSIENT).undo(|sim, copy| {
        Box::pin(async move {
            remove_file(&copy.to)?;
            remove_file(sim.plain_path(&copy).as_str())?;
            sim.put(&copy.machine, Effect::EndCopy { to: copy.to }).await
        })
    });
pub(super) const COPY_FILE: Step<Sim, FileCopy> =
    Step::new("copy file").retry(TRANSIENT).undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
/// Unloading takes things away for good: there is no way back, only forward.
pub(super) const STOP: Step<Sim, String> = Step::new("power off").retry(TRANSIENT);
pub(super) const UNDEFINE: Step<Sim, String> = Step::new("undefine domain").retry(TRANSIENT);
pub(super) const DELETE: Step<Sim, String> = Step::new("delete files").retry(TRANSIENT);

/// What a machine consists of that goes into an image.
pub(super) struct Source<'a> {
    pub(super) machine: &'a str,
    pub(super) disks: Vec<u32>,
    pub(super) variables: Option<String>,
    pub(super) boot: Option<DirectBoot>,
    pub(super) hardware: Hardware,
}

impl Sim {
    pub(super) async fn capture_computer(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let (computer, revision) = (target.computer, target.revision);
        let Some(endpoint) = target.endpoint else {
            let context = format!("{computer} is not loaded; there is nothing to capture");
            return Err(Error::new(Kind::Refused, context));
        };
        let machine = machine_name(&computer.name);
        let described = self.read(job, &machine).await?;
        let mut part = job.part("pre_capture");
        target.os.pre_capture(&mut part, target.guest(endpoint), self.end_state()).await?;
        self.off(job, &machine).await?;
        let hardware = Hardware {
            cpus: computer.cpus.unwrap_or(revision.manifest.hardware.cpus),
            memory: computer.memory.unwrap_or(revision.manifest.hardware.memory),
            ..revision.manifest.hardware.clone()
        };
        let boot = revision.manifest.boot.as_ref().map(|boot| DirectBoot {
            kernel: revision.path(&boot.kernel),
            initrd: boot.initrd.as_ref().map(|i| revision.path(i)),
            cmdline: boot.cmdline.clone(),
        });
        let (disks, variables) = (described.domain.map(|d| d.disks).unwrap_or_default(), described.variables);
        let source = Source { machine: &machine, disks, variables, boot, hardware };
        self.copy_machine(job, source, staging, target.limits.copy).await
    }

    pub(super) async fn read(&self, job: &mut Job, machine: &str) -> vcl_job::Result<Machine> {
        job.step(self, &READ, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, READ.name()).await?;
                let state = self.ours(&machine).await?;
                if state.domain.is_some() {
                    return Ok(state);
                }
                let context = format!("{machine} is gone: somebody removed it behind vcld's back");
                Err(Error::new(Kind::NotFound, context))
            })
            .await
    }

    /// Waits until a machine is off; one that its guest leaves on, or reboots, has its power cut.
    pub(super) async fn off(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &WAIT_OFF, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, WAIT_OFF.name()).await?;
                self.put(&machine, Effect::CutPower).await
            })
            .await
    }

    /// Copies what a machine that is off consists of into the staging.
    pub(super) async fn copy_machine(
        &self,
        job: &mut Job,
        source: Source<'_>,
        staging: &Staging,
        limit: Duration,
    ) -> vcl_job::Result<Captured> {
        let mut disks = Vec::new();
        for (n, number) in source.disks.iter().enumerate() {
            let to = utf8(staging.disk(n))?;
            let copy = DiskCopy { machine: source.machine.to_owned(), disk: *number, to };
            job.step(self, &COPY, copy)
                .key(n)
                .run(async |copy, cx| {
                    self.pace(&cx, &copy.machine, COPY.name()).await?;
                    match tokio::time::timeout(limit, self.copy_disk(&cx, &copy)).await {
                        Ok(result) => result,
                        Err(_) => Err(Error::new(
                            Kind::Deadline,
                            format!(
                                "copying disk {} of {} took longer than {limit:?}",
                                copy.disk, copy.machine
                            ),
                        )),
                    }
                })
                .await?;
            disks.push(CapturedDisk { file: Staging::disk_name(n), format: "qcow2".into() });
        }
        let firmware = match source.variables {
            Some(from) => {
                self.copy_file(job, source.machine, "variables", from, staging).await?;
                Some(CapturedFirmware { file: "variables".into(), format: "raw".into() })
            }
            None => None,
        };
        let boot = match source.boot {
            Some(DirectBoot { kernel, initrd, cmdline }) => {
                self.copy_file(job, source.machine, "kernel", kernel, staging).await?;
                let there = initrd.is_some();
                if let Some(initrd) = initrd {
                    self.copy_file(job, source.machine, "initrd", initrd, staging).await?;
                }
                let initrd = there.then(|| "initrd".to_owned());
                Some(DirectBoot { kernel: "kernel".into(), initrd, cmdline })
            }
            None => None,
        };
        Ok(Captured { disks, firmware, boot, hardware: source.hardware })
    }

    async fn copy_disk(&self, cx: &Cx, copy: &DiskCopy) -> vcl_job::Result<()> {
        // Before anything of an earlier life is removed: its writer must be gone.
        self.put(&copy.machine, Effect::BeginCopy { disk: copy.disk, to: copy.to.clone() }).await?;
        // One that stood still here may have been followed by another, whose files these are by now.
        cx.check().await?;
        remove_file(&copy.to)?;
        let (size, content) = self.on_disk(&copy.machine, copy.disk).await?;
        let plain = self.plain_path(copy);
        cx.check().await?;
        let written = plain.parent().map_or(Ok(()), std::fs::create_dir_all);
        written.and_then(|()| disk::write(&plain, size, &content)).map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
            Error::caused(kind, format!("writing {plain}"), e)
        })?;
        let from = qemu_img::ConvertFrom { path: plain.as_std_path(), format: Format::Raw };
        let (progress, options) = (Progress::of(cx), qemu_img::ConvertOptions::default());
        qemu_img::convert(cx, from, copy.to.as_ref(), Format::Qcow2, &progress, &options).await?;
        cx.check().await?;
        remove_file(plain.as_str())?;
        self.put(&copy.machine, Effect::EndCopy { to: copy.to.clone() }).await
    }

    async fn on_disk(&self, machine: &str, disk: u32) -> vcl_job::Result<(u64, Content)> {
        let state = self.machine(machine).await?;
        let overlay = state
            .overlays
            .get(&disk)
            .ok_or_else(|| Error::new(Kind::NotFound, format!("disk {disk} of {machine} is gone")))?;
        Ok((overlay.size, overlay.content.clone()))
    }

    /// Where a disk is laid out before it is copied.
    fn plain_path(&self, copy: &DiskCopy) -> Utf8PathBuf {
        self.world.directory().join(format!("copies/{}-disk{}", copy.machine, copy.disk))
    }

    async fn copy_file(
        &self,
        job: &mut Job,
        machine: &str,
        name: &str,
        from: String,
        staging: &Staging,
    ) -> vcl_job::Result<()> {
        let copy = FileCopy { machine: machine.to_owned(), from, to: utf8(staging.path(name)?)? };
        job.step(self, &COPY_FILE, copy)
            .key(name)
            .run(async |copy, cx| {
                self.pace(&cx, &copy.machine, COPY_FILE.name()).await?;
                remove_file(&copy.to)?;
                tokio::fs::copy(&copy.from, &copy.to).await.map(drop).map_err(|e| {
                    let kind =
                        if e.kind() == std::io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
                    Error::caused(kind, format!("copying {} to {}", copy.from, copy.to), e)
                })
            })
            .await
    }

    /// Removes a machine of ours and its files.
    pub(super) async fn take_away(&self, job: &mut Job, machine: &str) -> vcl_job::Result<()> {
        job.step(self, &STOP, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, STOP.name()).await?;
                self.ours(&machine).await?;
                self.put(&machine, Effect::CutPower).await
            })
            .await?;
        job.step(self, &UNDEFINE, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, UNDEFINE.name()).await?;
                self.put(&machine, Effect::Undefine).await
            })
            .await?;
        job.step(self, &DELETE, machine.to_owned())
            .run(async |machine, cx| {
                self.pace(&cx, &machine, DELETE.name()).await?;
                self.remove_all(&machine).await
            })
            .await
    }
}

fn utf8(path: std::path::PathBuf) -> vcl_job::Result<String> {
    Utf8PathBuf::try_from(path)
        .map(Utf8PathBuf::into_string)
        .map_err(|e| Error::caused(Kind::Fatal, "naming a file of the staging", e))
}

fn remove_file(path: &str) -> vcl_job::Result<()> {
    // As libvirt's: another may have made it anew.
    vcl_job::held()?;
    match std::fs::remove_file(Utf8Path::new(path)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}
