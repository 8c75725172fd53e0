//! Giving out a disk of a revision.

use crate::blocking::blocking;
use crate::names::part_of;
use crate::qemu_img::{self, ConvertFrom, ConvertOptions, Format};
use crate::store::rename_new;
use crate::{Error, ErrorKind, Library, Progress, Result, digest};
use std::fs::File;
use std::path::{Path, PathBuf};
use vcl_job::Cx;
use vcl_types::Revision;

impl Library {
    /// Writes a revision's disk, counted from 0, to a new file `to`, which is absolute and must not exist. It is there whole
    /// or not at all; until then it grows beside it as `.NAME.part`, which [`discard_export`] removes. In the format that
    /// the library has it in, it is the stored file itself; of a disk that lies on its parent's, all of it is copied, so
    /// that what is given out never lies on anything. Progress counts bytes.
    ///
    /// It may run again: in a second run a target that shows a guest the same bytes is taken for the first run's. Two
    /// exports to one target at a time are not kept apart before the end, where one of them fails.
    ///
    /// # Errors
    /// [`Exists`](ErrorKind::Exists), [`NotFound`](ErrorKind::NotFound) for the disk or the target's directory,
    /// [`NoSpace`](ErrorKind::NoSpace), or told to stop.
    pub async fn export(
        &self,
        cx: &Cx,
        revision: &Revision,
        disk: usize,
        to: &Path,
        format: Format,
        progress: &Progress,
    ) -> Result<()> {
        let image = revision.manifest.image_ref();
        let Some(record) = revision.manifest.disks.get(disk) else {
            return Err(Error::new(ErrorKind::NotFound, format!("{image} has no disk {disk}")));
        };
        let part = part_of(to)?;
        let from = PathBuf::from(revision.path(&record.file));
        let stored: Format = record.format.parse()?;
        if to.symlink_metadata().is_ok() {
            let same = cx.again()
                && digest::content(cx, to, format, self.staging_root().as_path(), &Progress::none())
                    .await
                    .is_ok_and(|c| c.digest() == record.content_digest);
            let exists = || Error::new(ErrorKind::Exists, format!("{} is there already", to.display()));
            return if same { Ok(()) } else { Err(exists()) };
        }
        remove(&part)?;
        if stored == format && record.over.is_none() {
            let (store, stop, progress) = (self.store().clone(), cx.token().child_token(), progress.clone());
            let _guard = stop.clone().drop_guard();
            let (from, part) = (from.clone(), part.clone());
            blocking(move || store.clone_file(&from, &part, &stop, &progress)).await?;
        } else {
            // Only a vmdk in one file can be moved about.
            let subformat = (format == Format::Vmdk).then_some("streamOptimized");
            let options = ConvertOptions { subformat, ..ConvertOptions::default() };
            let from = ConvertFrom { path: &from, format: stored };
            qemu_img::convert(cx, from, &part, format, progress, &options).await?;
        }
        cx.check().await.map_err(|e| Error::job(format!("exporting {image}"), e))?;
        let to = to.to_owned();
        blocking(move || {
            let finish = || {
                File::open(&part)?.sync_all()?;
                rename_new(&part, &to)
            };
            finish().map_err(|e| Error::io(format!("giving the export the name {}", to.display()), e))
        })
        .await
    }
}

/// Removes what an export to `to` that was cut short has left, for its undo; says whether there was anything. A finished
/// export is left alone.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) when `to` is not the absolute path of a file, [`Io`](ErrorKind::Io).
pub async fn discard_export(to: &Path) -> Result<bool> {
    let part = part_of(to)?;
    blocking(move || remove(&part)).await
}

fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(format!("removing {}", path.display()), e)),
    }
}
