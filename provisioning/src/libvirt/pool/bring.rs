//! A revision's way to the host: which files, in which order, and where they lie there then.
//!
//! A load goes by what the library said when it began, which is recorded: a revision may be rewritten (`image flatten`)
//! while it waits or is sent, and a job that goes on asks for the files that it asked for before. Their contents for a
//! guest are the same. One that is not sent yet when its file is replaced cannot be had any more; that load ends.

use super::super::Libvirt;
use super::copies::{Hold, Wanted};
use super::named::{Filed, files};
use serde::{Deserialize, Serialize};
use vcl_images::Library;
use vcl_job::{Job, Kind, Step};
use vcl_types::{DirectBoot, ImageRef, Manifest, Revision};

/// A revision where the host can open it.
#[derive(Debug)]
pub(in super::super) struct Brought {
    /// The disks' paths on the host, in the guest's order.
    pub(in super::super) disks: Vec<String>,
    /// Kernel and initrd by their paths on the host.
    pub(in super::super) boot: Option<DirectBoot>,
    /// Until there are overlays.
    _held: Vec<Hold>,
}

/// A file of a revision or of what it lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Part {
    /// By which its transfer is told from those of the others.
    key: String,
    /// What goes over; not yet where that lies on the host beneath which it is.
    wanted: Wanted,
    /// The copy that it lies on.
    under: Option<String>,
    /// Its name, if it is the revision's own.
    own: Option<String>,
}

/// Which files a revision consists of, the lowest first. Nothing to undo.
pub(in super::super) const CHOOSE: Step<Libvirt, ImageRef> = Step::new("choose files");

/// The files of a chain, topmost first, the lowest file first.
fn parts(chain: &[Revision]) -> Vec<Part> {
    let manifests: Vec<Manifest> = chain.iter().map(|r| r.manifest.clone()).collect();
    let part = |filed: Filed| {
        let path = chain.get(filed.depth)?.path(&filed.file);
        Some(Part {
            key: format!("{} {}", filed.image, filed.file),
            wanted: Wanted {
                copy: filed.copy,
                path,
                size: filed.size,
                digest: Some(filed.digest),
                over: None,
            },
            under: filed.under,
            own: (filed.depth == 0).then_some(filed.file),
        })
    };
    files(&manifests).into_iter().filter_map(part).collect()
}

impl Libvirt {
    /// Brings a revision to where the host can open it.
    pub(in super::super) async fn bring(
        &self,
        job: &mut Job,
        revision: &Revision,
    ) -> vcl_job::Result<Brought> {
        let manifest = &revision.manifest;
        let Some(pool) = &self.pool else {
            let boot = manifest.boot.as_ref().map(|boot| DirectBoot {
                kernel: revision.path(&boot.kernel),
                initrd: boot.initrd.as_ref().map(|i| revision.path(i)),
                cmdline: boot.cmdline.clone(),
            });
            let disks = manifest.disks.iter().map(|d| revision.path(&d.file)).collect();
            return Ok(Brought { disks, boot, _held: Vec::new() });
        };
        let parts = job
            .step(self, &CHOOSE, manifest.image_ref())
            .run(async |image, _| Ok(parts(&Library::open(&pool.library)?.ancestry(&image)?)))
            .await?;
        let held = parts.iter().map(|part| pool.hold(&part.wanted.copy)).collect();
        // The lowest first: each says where the one below it lies.
        let mut sent: Vec<(String, String)> = Vec::new();
        let mut top: Vec<(String, String)> = Vec::new();
        for Part { key, mut wanted, under, own } in parts {
            let over = under.and_then(|under| sent.iter().find(|(copy, _)| *copy == under));
            wanted.over = over.map(|(_, path)| path.clone());
            let copy = wanted.copy.clone();
            let path = self.send_step(job, &key, wanted).await?;
            top.extend(own.map(|file| (file, path.clone())));
            sent.push((copy, path));
        }
        let there = |file: &str| {
            let found = top.iter().find(|(name, _)| name == file).map(|(_, path)| path.clone());
            found.ok_or_else(|| {
                let image = manifest.image_ref();
                let context =
                    format!("the manifest of {image} has no digest of {file}, which is not sent without");
                vcl_job::Error::new(Kind::Refused, context)
            })
        };
        let disks = manifest.disks.iter().map(|d| there(&d.file)).collect::<vcl_job::Result<_>>()?;
        let boot = match &manifest.boot {
            None => None,
            Some(boot) => Some(DirectBoot {
                kernel: there(&boot.kernel)?,
                initrd: boot.initrd.as_deref().map(there).transpose()?,
                cmdline: boot.cmdline.clone(),
            }),
        };
        Ok(Brought { disks, boot, _held: held })
    }
}
