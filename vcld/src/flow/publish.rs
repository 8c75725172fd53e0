//! From a filled staging to a published, recorded revision: the same for captures, imports and machines that an admin
//! made. Verifying, digesting, publishing and recording are the daemon's, once.

use super::Running;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_images::{Format, StagedDisk, Staging, seal, seal_boot, seal_firmware, with_room};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_provisioning::{Captured, CapturedFirmware};
use vcl_types::{
    BackendName, ByteSize, DirectBoot, DiskRecord, FileRecord, FirmwareRecord, Hardware, ImageName, ImageRef,
    Manifest, OsName,
};

const LONG: Duration = Duration::from_secs(24 * 3600);

/// Which revision a job is making. Part of the job's input.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Making {
    pub(super) image: ImageName,
    pub(super) revision: u32,
    pub(super) staging: String,
    pub(super) parent: Option<ImageRef>,
    pub(super) os: OsName,
    pub(super) backend: Option<BackendName>,
    pub(super) created: chrono::DateTime<chrono::Utc>,
    pub(super) note: Option<String>,
}

/// Makes the directory that the revision is put together in. Its name is the job's and the token's alone.
pub(super) const STAGE: Step<Running, String> = Step::new("make staging").undo(|run, name| {
    Box::pin(async move {
        run.node.library.discard_staging(&name).await?;
        Ok(())
    })
});
/// Makes the disks durable, checks and digests them.
pub(super) const SEAL: Step<Running, String> = Step::new("verify and digest").deadline(LONG);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Publication {
    staging: String,
    image: ImageRef,
}
/// Renames the staging onto its name in the library, which must not exist.
pub(super) const PUBLISH: Step<Running, Publication> = Step::new("publish").undo(|run, publication| {
    Box::pin(async move {
        run.node.library.unpublish(&publication.image, run.job()).await?;
        Ok(())
    })
});
/// Records that the revision exists.
pub(super) const RECORD: Step<Running, ImageRef> =
    Step::new("record revision").retry(TRANSIENT).undo(|run, image| {
        Box::pin(async move {
            run.node.queue.delete_revision(&run.claim, &image).await?;
            run.no_longer_holds(&image).await
        })
    });

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sealed {
    disks: Vec<DiskRecord>,
    firmware: Option<FirmwareRecord>,
    #[serde(default)]
    boot: Vec<FileRecord>,
}

impl Running {
    /// What a job that makes a revision starts from.
    pub(super) async fn making(
        &self,
        image: &ImageName,
        parent: Option<ImageRef>,
        backend: Option<BackendName>,
        note: Option<String>,
    ) -> Result<Making> {
        Ok(Making {
            image: image.clone(),
            revision: self.node.queue.next_revision(image).await?,
            staging: vcl_images::staging_name(self.job(), self.claim.token),
            parent,
            os: OsName::Linux,
            backend,
            created: chrono::Utc::now(),
            note,
        })
    }

    pub(super) async fn stage(&self, job: &mut Job, making: &Making) -> Result<Staging> {
        job.step(self, &STAGE, making.staging.clone())
            .run(async |name, cx| {
                cx.check().await?;
                self.node.library.staging(&name)?;
                Ok(())
            })
            .await?;
        // The same directory in every life: its name is in the journal. A life that begins after publishing has none.
        Ok(self.node.library.staging_made(&making.staging)?)
    }

    /// Verifies, digests, publishes and records what the staging holds.
    pub(super) async fn publish(
        &self,
        job: &mut Job,
        making: &Making,
        staging: &Staging,
        captured: Captured,
        generalised: bool,
    ) -> Result<ImageRef> {
        let Captured { disks, firmware, boot, hardware } = captured;
        let staged: Vec<_> = disks
            .iter()
            .map(|disk| Ok(StagedDisk { file: disk.file.clone(), format: format(&disk.format)? }))
            .collect::<Result<_>>()?;
        let sealed = job
            .step(self, &SEAL, making.staging.clone())
            .run(async |_, cx| {
                with_room(&cx, staging.directory(), nobody_knows, async || {
                    let disks = seal(&cx, staging, &staged).await?;
                    let firmware = match &firmware {
                        Some(CapturedFirmware { file, format: f }) => {
                            Some(seal_firmware(&cx, staging, file, format(f)?).await?)
                        }
                        None => None,
                    };
                    let boot = match &boot {
                        Some(boot) => seal_boot(&cx, staging, boot).await?,
                        None => Vec::new(),
                    };
                    Ok(Sealed { disks, firmware, boot })
                })
                .await
            })
            .await?;
        let manifest = manifest(making, self.job(), sealed, hardware, boot, generalised);
        let image = manifest.image_ref();
        let size = ByteSize(manifest.disks.iter().map(|d| d.file_size.bytes()).sum());
        job.step(self, &PUBLISH, Publication { staging: making.staging.clone(), image: image.clone() })
            .run(async |publication, cx| {
                cx.check().await?;
                // Little is written, and the last block of a file system may be taken by somebody else.
                with_room(&cx, self.node.library.root(), nobody_knows, async || {
                    self.node.library.publish(&cx, &publication.staging, &manifest).await?;
                    Ok(())
                })
                .await
            })
            .await?;
        job.step(self, &RECORD, image.clone())
            .run(async |image, _| {
                self.node.queue.record_revision(&self.claim, &manifest, size).await?;
                self.holds(&image).await
            })
            .await?;
        job.event("published", format!("{image} is published: {} in {size}", manifest.hardware));
        Ok(image)
    }
}

/// How much room it takes is not known beforehand.
async fn nobody_knows() -> Option<u64> {
    None
}

fn format(name: &str) -> Result<Format> {
    name.parse().map_err(|_| Error::new(Kind::Fatal, format!("`{name}` is not a disk format")))
}

fn manifest(
    making: &Making,
    job: vcl_types::JobId,
    sealed: Sealed,
    hardware: Hardware,
    boot: Option<DirectBoot>,
    generalised: bool,
) -> Manifest {
    Manifest {
        version: Manifest::version_for(&sealed.disks),
        image: making.image.clone(),
        revision: making.revision,
        parent: making.parent.clone(),
        os: making.os,
        generalised,
        hardware,
        disks: sealed.disks,
        firmware: sealed.firmware,
        boot_files: sealed.boot,
        boot,
        backend: making.backend.clone(),
        job: Some(job),
        created: making.created,
        note: making.note.clone(),
    }
}
