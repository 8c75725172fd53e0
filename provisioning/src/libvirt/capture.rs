//! Capturing and unloading a computer.

use super::Libvirt;
use super::away::STEP;
use super::description::Description;
use super::disks::remove_file;
use super::load::FileCopy;
use crate::{Captured, CapturedDisk, CapturedFirmware, Provisioning, Target};
use camino::Utf8PathBuf;
use std::path::Path;
use std::time::Duration;
use vcl_images::{Format, Progress, Staging, qemu_img, with_room};
use vcl_job::{Cx, Error, Job, Kind, Step, TRANSIENT};
use vcl_types::api::PowerState;
use vcl_types::{Computer, DirectBoot, Endpoint, Revision};

const LONG: Duration = Duration::from_secs(24 * 3600);
/// How often a machine that loses its power in the middle is started again.
const RESTARTS: u32 = 2;
/// No firmware has more.
const VARIABLES_AT_MOST: u64 = 64 << 20;

pub(super) const READ: Step<Libvirt, String> = Step::new("read domain").deadline(STEP).retry(TRANSIENT);
/// Whether the machine is on, after `pre_capture` failed in it.
pub(super) const LOOK: Step<Libvirt, String> = Step::new("look at power").deadline(STEP).retry(TRANSIENT);
pub(super) const WAIT_OFF: Step<Libvirt, String> =
    Step::new("wait for power off").deadline(LONG).retry(TRANSIENT);
pub(super) const COPY: Step<Libvirt, FileCopy> =
    Step::new("copy disk").deadline(LONG).undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
pub(super) const COPY_FILE: Step<Libvirt, FileCopy> =
    Step::new("copy file").undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
/// Unloading takes things away for good: there is no way back, only forward.
pub(super) const STOP: Step<Libvirt, String> = Step::new("power off").deadline(STEP).retry(TRANSIENT);
pub(super) const UNDEFINE: Step<Libvirt, String> =
    Step::new("undefine domain").deadline(STEP).retry(TRANSIENT);
pub(super) const DELETE: Step<Libvirt, Utf8PathBuf> =
    Step::new("delete files").deadline(STEP).retry(TRANSIENT);

/// Copies a machine's disk: only what it holds itself where it lies right on the revision's that was lent for it,
/// everything otherwise.
async fn convert_disk(
    cx: &Cx,
    copy: &FileCopy,
    base: Option<&(String, std::path::PathBuf)>,
) -> vcl_images::Result<()> {
    let (from, to, progress): (&Path, &Path, _) = (copy.from.as_ref(), copy.to.as_ref(), Progress::of(cx));
    if let Some((reference, path)) = base {
        let info = qemu_img::info(cx, from, Format::Qcow2).await?;
        let under =
            info.backing.filter(|b| b.format.as_deref() == Some(Format::Qcow2.as_str())).and_then(|b| b.full);
        let same = under.is_some_and(|under| match (Path::new(&under).canonicalize(), path.canonicalize()) {
            (Ok(under), Ok(path)) => under == path,
            _ => false,
        });
        if same {
            return qemu_img::convert_over(cx, from, to, reference, &progress).await;
        }
    }
    let from = qemu_img::ConvertFrom { path: from, format: Format::Qcow2 };
    qemu_img::convert(cx, from, to, Format::Qcow2, &progress, &qemu_img::ConvertOptions::default()).await
}

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
        self.pre_capture(job, target, endpoint, &domain).await?;
        self.off(job, &domain, target.limits.shutdown).await?;
        self.copy_machine(job, machine, staging, Some(target.revision), target.limits.copy).await
    }

    /// Runs `pre_capture`. A machine that loses its power meanwhile, as one does that somebody switches off while nobody
    /// looks, is started again and made ready from the beginning: its disk has nothing that would be lost by that.
    async fn pre_capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        endpoint: &Endpoint,
        domain: &str,
    ) -> vcl_job::Result<()> {
        let end = Provisioning::end_state(self);
        // One that was generalised and boots again makes itself a new identity and tells it on its console.
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
                endpoint = self.resume_computer(&mut part.part("boot"), resumed).await?;
                target.os.pre_capture(&mut part.part("pre_capture"), target.guest(&endpoint), end).await
            };
            let error = match made {
                Ok(()) => return Ok(()),
                Err(e) if e.kind.ends_the_job() || n >= RESTARTS => return Err(e),
                Err(e) => e,
            };
            let off = job
                .step(self, &LOOK, domain.to_owned())
                .key(n)
                .run(async |domain, cx| {
                    let power = self.waiting(|| self.power_state(&domain)).await?;
                    if power == PowerState::Off {
                        let message = format!(
                            "{domain} was powered off from outside; it is started again ({})",
                            error.failure()
                        );
                        cx.event("power-lost", message);
                    }
                    Ok(power)
                })
                .await?;
            if off != PowerState::Off {
                return Err(error);
            }
            n += 1;
        }
    }

    pub(super) async fn read(&self, job: &mut Job, domain: &str) -> vcl_job::Result<Description> {
        job.step(self, &READ, domain.to_owned())
            .run(async |domain, _| {
                self.waiting(|| self.describe(&domain)).await?.ok_or_else(|| {
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

    /// Copies what a machine that is off consists of into the staging. `origin` is the revision that it was loaded with:
    /// where its files are in a pool, the disks come back as overlays on that.
    pub(super) async fn copy_machine(
        &self,
        job: &mut Job,
        machine: Description,
        staging: &Staging,
        origin: Option<&Revision>,
        limit: Duration,
    ) -> vcl_job::Result<Captured> {
        let far = origin.filter(|_| self.pool.is_some());
        let mut disks = Vec::new();
        for (n, disk) in machine.disks.iter().filter(|d| !d.read_only).enumerate() {
            let copy = FileCopy { from: disk.path.clone(), to: utf8(staging.disk(n))? };
            let base = staging.base().and_then(|base| base.disk(n));
            job.step(self, &COPY, copy)
                .key(n)
                .run(async |copy, cx| {
                    let staging = staging.directory();
                    let Some(origin) = far else {
                        let needs = || data_of(&cx, &copy.from, base.is_some());
                        return with_room(&cx, staging, needs, || {
                            copy_disk(&cx, &copy, base.as_ref(), limit)
                        })
                        .await;
                    };
                    // It comes as it is, and is then copied as if it had been here all the time.
                    let came = format!("{}.came", copy.to);
                    let here = FileCopy { from: came.clone(), to: copy.to.clone() };
                    with_room(
                        &cx,
                        staging,
                        async || None,
                        async || {
                            let fetched = self.fetch_disk(&cx, &copy.from, came.as_ref(), n, origin).await;
                            let made = match fetched {
                                Ok(()) => copy_disk(&cx, &here, base.as_ref(), limit).await,
                                Err(e) => Err(e),
                            };
                            // Whatever waits for room now must not hold any.
                            remove_file(&came)?;
                            made
                        },
                    )
                    .await
                })
                .await?;
            disks.push(CapturedDisk { file: Staging::disk_name(n), format: "qcow2".into() });
        }
        let firmware = match &machine.variables {
            Some(path) => {
                match far {
                    None => self.copy_file(job, "variables", path, staging).await?,
                    Some(_) => self.fetch_variables(job, path, staging).await?,
                }
                Some(CapturedFirmware { file: "variables".into(), format: "raw".into() })
            }
            None => None,
        };
        let boot = match machine.boot {
            // What it was started with is still in the library.
            Some(boot)
                if let (Some(origin), Some(made)) = (far, far.and_then(|o| o.manifest.boot.clone())) =>
            {
                self.copy_file(job, "kernel", &origin.path(&made.kernel), staging).await?;
                if let Some(initrd) = &made.initrd {
                    self.copy_file(job, "initrd", &origin.path(initrd), staging).await?;
                }
                let initrd = made.initrd.map(|_| "initrd".to_owned());
                Some(DirectBoot { kernel: "kernel".into(), initrd, cmdline: boot.cmdline })
            }
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
                let needs = async || std::fs::metadata(&copy.from).ok().map(|m| m.len());
                with_room(&cx, staging.directory(), needs, || copy_whole(&copy)).await
            })
            .await
    }

    async fn fetch_variables(&self, job: &mut Job, from: &str, staging: &Staging) -> vcl_job::Result<()> {
        let copy = FileCopy { from: from.to_owned(), to: utf8(staging.path("variables")?)? };
        job.step(self, &COPY_FILE, copy)
            .key("variables")
            .run(async |copy, cx| {
                cx.check().await?;
                self.fetch_file(&cx, &copy.from, copy.to.as_ref(), VARIABLES_AT_MOST).await
            })
            .await
    }

    pub(super) async fn unload_computer(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        let domain = Self::domain_name(&computer.name);
        self.take_away(job, &domain, self.computer_place(&computer.name)).await
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
                if self.waiting(|| self.ours(&domain)).await?.is_none() {
                    return Ok(());
                }
                self.waiting(|| self.cut_power(&domain)).await
            })
            .await?;
        job.step(self, &UNDEFINE, domain.to_owned())
            .run(async |domain, cx| {
                cx.check().await?;
                self.waiting(|| self.remove(&domain)).await
            })
            .await?;
        job.step(self, &DELETE, directory)
            .run(async |directory, cx| {
                cx.check().await?;
                self.clear_place(&directory).await
            })
            .await
    }
}

/// What is to be copied of a disk, in bytes, when it can be told: what it holds for its guest, or only what it holds
/// itself.
async fn data_of(cx: &Cx, disk: &str, own: bool) -> Option<u64> {
    let map = qemu_img::map(cx, disk.as_ref(), Format::Qcow2).await.ok()?;
    Some(map.iter().filter(|e| e.data && !e.zero && (!own || e.depth == 0)).map(|e| e.length).sum())
}

async fn copy_disk(
    cx: &Cx,
    copy: &FileCopy,
    base: Option<&(String, std::path::PathBuf)>,
    limit: Duration,
) -> vcl_job::Result<()> {
    // A copy that an earlier life began is worth nothing: qemu-img cannot go on in the middle.
    remove_file(&copy.to)?;
    let convert = convert_disk(cx, copy, base);
    match tokio::time::timeout(limit, convert).await {
        Ok(Err(e)) => {
            // What is there of it is not to hold the room that may be waited for. If the job is another's by now, this
            // fails, and what is there is the other's.
            remove_file(&copy.to)?;
            Err(e.into())
        }
        Ok(Ok(())) => Ok(()),
        Err(_) => {
            let context = format!("copying {} took longer than {} s", copy.from, limit.as_secs());
            Err(Error::new(Kind::Deadline, context))
        }
    }
}

async fn copy_whole(copy: &FileCopy) -> vcl_job::Result<()> {
    remove_file(&copy.to)?;
    let copied = tokio::fs::copy(&copy.from, &copy.to).await;
    copied.map(drop).map_err(|e| {
        let _ = remove_file(&copy.to);
        let kind = if e.kind() == std::io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
        Error::caused(kind, format!("copying {} to {}", copy.from, copy.to), e)
    })
}
