//! Capturing and unloading a computer.

use super::Libvirt;
use super::description::Description;
use super::load::{FileCopy, remove_directory, remove_file};
use crate::{Captured, CapturedDisk, CapturedFirmware, Provisioning, Target};
use camino::Utf8PathBuf;
use std::time::Duration;
use vcl_images::{Format, Progress, Staging, qemu_img};
use vcl_job::{Error, Job, Kind, Step, TRANSIENT};
use vcl_types::{Computer, DirectBoot};

const LONG: Duration = Duration::from_secs(24 * 3600);

pub(super) const READ: Step<Libvirt, String> = Step::new("read domain").retry(TRANSIENT);
pub(super) const WAIT_OFF: Step<Libvirt, String> =
    Step::new("wait for power off").deadline(LONG).retry(TRANSIENT);
pub(super) const COPY: Step<Libvirt, FileCopy> =
    Step::new("copy disk").deadline(LONG).undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
pub(super) const COPY_FILE: Step<Libvirt, FileCopy> =
    Step::new("copy file").undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
/// Unloading takes things away for good: there is no way back, only forward.
pub(super) const STOP: Step<Libvirt, String> = Step::new("power off").retry(TRANSIENT);
pub(super) const UNDEFINE: Step<Libvirt, String> = Step::new("undefine domain").retry(TRANSIENT);
pub(super) const DELETE: Step<Libvirt, Utf8PathBuf> = Step::new("delete files");

fn utf8(path: std::path::PathBuf) -> vcl_job::Result<String> {
    path.into_os_string()
        .into_string()
        .map_err(|path| Error::new(Kind::Fatal, format!("{path:?} is not UTF-8")))
}

impl Libvirt {
    pub(super) async fn capture_computer(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let domain = Self::domain_name(&target.computer.name);
        let Some(endpoint) = target.endpoint else {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is not loaded; there is nothing to capture", target.computer),
            ));
        };
        let machine = self.read(job, &domain).await?;
        let end = Provisioning::end_state(self);
        target.os.pre_capture(&mut job.part("pre_capture"), target.guest(endpoint), end).await?;
        self.off(job, &domain, target.limits.shutdown).await?;
        self.copy_machine(job, machine, staging, target.limits.copy).await
    }

    pub(super) async fn read(&self, job: &mut Job, domain: &str) -> vcl_job::Result<Description> {
        job.step(self, &READ, domain.to_owned())
            .run(async |domain, _| {
                self.describe(&domain).await?.ok_or_else(|| {
                    Error::new(
                        Kind::NotFound,
                        format!("domain {domain} is gone: somebody removed it behind vcld's back"),
                    )
                })
            })
            .await
    }

    pub(super) async fn off(&self, job: &mut Job, domain: &str, limit: Duration) -> vcl_job::Result<()> {
        job.step(self, &WAIT_OFF, domain.to_owned())
            .run(async |domain, cx| {
                // Whether it had to be cut stands in the events; what matters to the copy is that it is off.
                self.wait_off_or_cut(&domain, &cx, limit).await.map(drop)
            })
            .await
    }

    /// Copies what a machine that is off consists of into the staging.
    pub(super) async fn copy_machine(
        &self,
        job: &mut Job,
        machine: Description,
        staging: &Staging,
        limit: Duration,
    ) -> vcl_job::Result<Captured> {
        let mut disks = Vec::new();
        for (n, disk) in machine.disks.iter().filter(|d| !d.read_only).enumerate() {
            let copy = FileCopy { from: disk.path.clone(), to: utf8(staging.disk(n))? };
            job.step(self, &COPY, copy)
                .key(n)
                .run(async |copy, cx| {
                    // A copy that an earlier life began is worth nothing: qemu-img cannot go on in the middle.
                    remove_file(&copy.to)?;
                    let from = qemu_img::ConvertFrom { path: copy.from.as_ref(), format: Format::Qcow2 };
                    let (progress, options) = (Progress::of(&cx), qemu_img::ConvertOptions::default());
                    let convert =
                        qemu_img::convert(&cx, from, copy.to.as_ref(), Format::Qcow2, &progress, &options);
                    match tokio::time::timeout(limit, convert).await {
                        Ok(result) => Ok(result?),
                        Err(_) => Err(Error::new(
                            Kind::Deadline,
                            format!("copying {} took longer than {} s", copy.from, limit.as_secs()),
                        )),
                    }
                })
                .await?;
            disks.push(CapturedDisk { file: Staging::disk_name(n), format: "qcow2".into() });
        }
        let firmware = match &machine.variables {
            Some(path) => {
                self.copy_file(job, "variables", path, staging).await?;
                Some(CapturedFirmware { file: "variables".into(), format: "raw".into() })
            }
            None => None,
        };
        let boot = match machine.boot {
            Some(boot) => {
                self.copy_file(job, "kernel", &boot.kernel, staging).await?;
                if let Some(initrd) = &boot.initrd {
                    self.copy_file(job, "initrd", initrd, staging).await?;
                }
                let initrd = boot.initrd.map(|_| "initrd".to_owned());
                Some(DirectBoot { kernel: "kernel".into(), initrd, cmdline: boot.cmdline })
            }
            None => None,
        };
        Ok(Captured { disks, firmware, boot, hardware: machine.hardware })
    }

    async fn copy_file(
        &self,
        job: &mut Job,
        name: &str,
        from: &str,
        staging: &Staging,
    ) -> vcl_job::Result<()> {
        let copy = FileCopy { from: from.to_owned(), to: utf8(staging.path(name)?)? };
        job.step(self, &COPY_FILE, copy)
            .key(name)
            .run(async |copy, cx| {
                cx.check().await?;
                remove_file(&copy.to)?;
                let copied = tokio::fs::copy(&copy.from, &copy.to).await;
                copied.map(drop).map_err(|e| {
                    let kind =
                        if e.kind() == std::io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
                    Error::caused(kind, format!("copying {} to {}", copy.from, copy.to), e)
                })
            })
            .await
    }

    pub(super) async fn unload_computer(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        let domain = Self::domain_name(&computer.name);
        self.take_away(job, &domain, self.computer_directory(&computer.name)).await
    }

    /// Removes a machine of ours and its files.
    pub(super) async fn take_away(
        &self,
        job: &mut Job,
        domain: &str,
        directory: Utf8PathBuf,
    ) -> vcl_job::Result<()> {
        job.step(self, &STOP, domain.to_owned())
            .run(async |domain, cx| {
                cx.check().await?;
                if self.ours(&domain).await?.is_none() {
                    return Ok(());
                }
                Ok(self.cut_power(&domain).await?)
            })
            .await?;
        job.step(self, &UNDEFINE, domain.to_owned())
            .run(async |domain, cx| {
                cx.check().await?;
                Ok(self.remove(&domain).await?)
            })
            .await?;
        job.step(self, &DELETE, directory)
            .run(async |directory, cx| {
                cx.check().await?;
                remove_directory(&directory)
            })
            .await
    }
}
