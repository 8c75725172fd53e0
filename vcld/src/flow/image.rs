//! Images without a computer: import, from an admin's machine, export, verify.

use super::publish::Making;
use super::{Made, Running};
use crate::rights::{is_below, real_below};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcl_images::{Format, Progress};
use vcl_job::{Error, Job, Kind, Result, Step};
use vcl_provisioning::{Captured, CapturedDisk, VmTarget};
use vcl_types::{BackendName, DirectBoot, Hardware, ImageName, ImageRef, OsName, Revision};

const LONG: Duration = Duration::from_secs(24 * 3600);

/// What an import starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ImportInput {
    making: Making,
    path: PathBuf,
    boot: Option<DirectBoot>,
    hardware: Hardware,
    /// Out of which no link leads that lies in it.
    #[serde(default)]
    files: Option<PathBuf>,
}
/// What an image from a machine starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FromVmInput {
    making: Making,
    backend: BackendName,
    vm: String,
}
/// What an export starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ExportInput {
    revision: Revision,
    path: PathBuf,
    format: Format,
    /// Out of which no link leads that lies in it.
    #[serde(default)]
    files: Option<PathBuf>,
}

/// Copies a foreign disk into the staging. What it writes goes with the staging.
pub(super) const IMPORT: Step<Running, PathBuf> = Step::new("import disk").deadline(LONG);
/// Copies kernel and initrd into the staging.
pub(super) const IMPORT_BOOT: Step<Running, PathBuf> = Step::new("import boot file");
pub(super) const EXPORT: Step<Running, PathBuf> = Step::new("export disk").deadline(LONG).undo(|_, path| {
    Box::pin(async move {
        vcl_images::discard_export(&path).await?;
        Ok(())
    })
});
pub(super) const VERIFY: Step<Running, ImageRef> = Step::new("read again").deadline(LONG);
fn absolute(path: String) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::new(Kind::Refused, format!("{} is not an absolute path", path.display())))
}

/// What a file of this node is opened as. Whoever is no administrator names one below `files`, where a link may have been put in
/// its way since he asked; so what lies there leads nowhere else, whoever names it.
fn opened(files: Option<&Path>, path: &Path) -> Result<PathBuf> {
    let Some(files) = files.filter(|files| is_below(files, path)) else { return Ok(path.to_owned()) };
    match real_below(files, path) {
        Ok(Some(real)) => Ok(real),
        Ok(None) => {
            let message = format!("{} leads out of {}", path.display(), files.display());
            Err(Error::new(Kind::Refused, message))
        }
        Err(e) => {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let kind = if missing { Kind::NotFound } else { Kind::Fatal };
            Err(Error::caused(kind, format!("looking where {} leads", path.display()), e))
        }
    }
}

impl Running {
    /// The directory of files that are somebody's.
    fn files(&self) -> PathBuf {
        self.node.config.api.files.clone().into()
    }

    pub(super) async fn begin_import(
        &self,
        image: &ImageName,
        path: String,
        boot: Option<DirectBoot>,
        hardware: Option<Hardware>,
        (os, note): (OsName, Option<String>),
    ) -> Result<ImportInput> {
        let path = absolute(path)?;
        let files = boot.iter().flat_map(|b| [Some(&b.kernel), b.initrd.as_ref()]).flatten();
        for file in files {
            absolute(file.clone())?;
        }
        // Before anything is made: what is there, and is it a disk we take?
        let files = Some(self.files());
        vcl_images::sniff::sniff(&opened(files.as_deref(), &path)?)?;
        let mut making = self.making(image, None, None, note).await?;
        making.os = os;
        Ok(ImportInput { making, path, boot, hardware: hardware.unwrap_or_default(), files })
    }

    pub(super) async fn import(&self, mut job: Job, input: ImportInput) -> Result<Made> {
        let job = &mut job;
        let ImportInput { making, path, boot, hardware, files } = input;
        let files = files.as_deref();
        let staging = self.stage(job, &making).await?;
        let disk = job
            .step(self, &IMPORT, path)
            .key(0)
            .run(async |path, cx| {
                let path = opened(files, &path)?;
                let imported = vcl_images::import_disk(&cx, &path, &staging, 0, &Progress::of(&cx)).await?;
                Ok(CapturedDisk { file: imported.disk.file, format: imported.disk.format.to_string() })
            })
            .await?;
        let boot = match boot {
            Some(boot) => {
                self.import_boot(job, &staging, "kernel", (files, &boot.kernel)).await?;
                if let Some(initrd) = &boot.initrd {
                    self.import_boot(job, &staging, "initrd", (files, initrd)).await?;
                }
                let initrd = boot.initrd.map(|_| "initrd".to_owned());
                Some(DirectBoot { kernel: "kernel".into(), initrd, cmdline: boot.cmdline })
            }
            None => None,
        };
        let captured = Captured { disks: vec![disk], firmware: None, boot, hardware };
        // Nobody knows whether a foreign disk was generalised: its machines are given an identity when they are loaded.
        let image = self.publish(job, &making, &staging, captured, false).await?;
        Ok(Some(image.to_string()))
    }

    async fn import_boot(
        &self,
        job: &mut Job,
        staging: &vcl_images::Staging,
        name: &str,
        (files, from): (Option<&Path>, &str),
    ) -> Result<()> {
        let to = staging.path(name)?;
        job.step(self, &IMPORT_BOOT, PathBuf::from(from))
            .key(name)
            .run(async |from, cx| {
                cx.check().await?;
                let from = opened(files, &from)?;
                match tokio::fs::copy(&from, &to).await {
                    Ok(_) => Ok(()),
                    Err(e) => {
                        let kind = match e.kind() {
                            std::io::ErrorKind::NotFound => Kind::NotFound,
                            std::io::ErrorKind::StorageFull => Kind::NoSpace,
                            _ => Kind::Fatal,
                        };
                        Err(Error::caused(kind, format!("copying {} into the library", from.display()), e))
                    }
                }
            })
            .await
    }

    pub(super) async fn begin_from_vm(
        &self,
        image: &ImageName,
        backend: BackendName,
        vm: String,
        os: OsName,
        note: Option<String>,
    ) -> Result<FromVmInput> {
        self.node.backend(&backend)?;
        let mut making = self.making(image, None, Some(backend.clone()), note).await?;
        making.os = os;
        Ok(FromVmInput { making, backend, vm })
    }

    pub(super) async fn image_from_vm(&self, mut job: Job, input: FromVmInput) -> Result<Made> {
        let job = &mut job;
        let FromVmInput { making, backend, vm } = input;
        let backend = self.backend(&backend)?;
        let staging = self.stage(job, &making).await?;
        let target = VmTarget {
            vm: &vm,
            os: self.os(making.os)?,
            remotes: &*self.node.remotes,
            user: self.node.user(making.os),
            hooks: Some(&self.node.config.hooks.directory),
            limits: self.node.limits(),
        };
        let captured = backend.capture_vm(&mut job.part("capture"), target, &staging).await?;
        let image = self.publish(job, &making, &staging, captured, true).await?;
        Ok(Some(image.to_string()))
    }

    pub(super) async fn begin_export(
        &self,
        image: &ImageRef,
        path: String,
        format: &str,
    ) -> Result<ExportInput> {
        let format = format.parse().map_err(|_| {
            Error::new(
                Kind::Refused,
                format!("`{format}` is not a format to export to; use qcow2, raw or vmdk"),
            )
        })?;
        let known = self.node.queue.revision(image).await?;
        let revision = self.node.library.get(&known.manifest.image_ref())?;
        if revision.manifest.disks.is_empty() {
            let message =
                format!("{image} has no disks: it says what is installed on a PC that is lent as it is");
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(ExportInput { revision, path: absolute(path)?, format, files: Some(self.files()) })
    }

    pub(super) async fn export(&self, mut job: Job, input: ExportInput) -> Result<Made> {
        let ExportInput { revision, path, format, files } = input;
        let disks = revision.manifest.disks.len();
        for n in 0..disks {
            let to = if disks == 1 { path.clone() } else { numbered(&path, n) };
            job.step(self, &EXPORT, to)
                .key(n)
                .run(async |to, cx| {
                    let to = opened(files.as_deref(), &to)?;
                    Ok(self.node.library.export(&cx, &revision, n, &to, format, &Progress::of(&cx)).await?)
                })
                .await?;
        }
        Ok(Some(path.display().to_string()))
    }

    pub(super) async fn begin_verify(&self, image: &ImageRef) -> Result<Revision> {
        let known = self.node.queue.revision(image).await?;
        Ok(self.node.library.get(&known.manifest.image_ref())?)
    }

    pub(super) async fn verify(&self, mut job: Job, revision: Revision) -> Result<Made> {
        let image = revision.manifest.image_ref();
        job.step(self, &VERIFY, image.clone())
            .run(async |image, cx| {
                let found = self.node.library.verify(&cx, &revision, &Progress::of(&cx)).await?;
                if found.is_empty() {
                    return Ok(());
                }
                let list: Vec<_> = found.iter().map(ToString::to_string).collect();
                let message = format!(
                    "{image} is not what was published: {}; restore it from a copy and delete it here",
                    list.join("; ")
                );
                Err(Error::new(Kind::Corrupt, message))
            })
            .await?;
        Ok(Some(format!("{image} is as it was published")))
    }
}

/// `disk.qcow2` → `disk-1.qcow2`, for a revision of several disks.
fn numbered(path: &Path, n: usize) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = match path.extension() {
        Some(extension) => format!("{stem}-{n}.{}", extension.to_string_lossy()),
        None => format!("{stem}-{n}"),
    };
    path.with_file_name(name)
}
