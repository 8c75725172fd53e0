//! A file system that is full. It takes root, for a small one of its own.

use crate::fixture::{MIB, cx, noise, raw_disk};
use std::path::{Path, PathBuf};
use std::process::Command;
use vcl_images::qemu_img::{ConvertFrom, ConvertOptions, convert};
use vcl_images::{ErrorKind, Format, Library, Progress, import_disk};

struct Small(PathBuf);
impl Small {
    /// `None`, with the reason said, where nothing may be mounted.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at).output().unwrap();
        if !mount.status.success() {
            eprintln!("skipped: cannot mount a tmpfs: {}", String::from_utf8_lossy(&mount.stderr));
            return None;
        }
        Some(Self(at.to_owned()))
    }
}
impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_no_space_and_leaves_nothing_published() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("small")) else { return };
    let library = Library::open(&small.0).unwrap();
    let staging = library.staging("s").unwrap();
    let raw = dir.path().join("r");
    raw_disk(&raw, 16 * MIB, &[(0, noise(8 * MIB as usize, 1))]);

    // It is known beforehand that it cannot fit.
    let e = import_disk(&cx(), &raw, &staging, 0, &Progress::none()).await.unwrap_err();
    assert!(e.kind == ErrorKind::NoSpace && e.to_string().contains("8.0 MiB"), "{e}");
    assert!(!staging.disk(0).exists());
    // It shows while it is copied.
    let from = ConvertFrom { path: &raw, format: Format::Raw };
    let (to, options) = (staging.disk(0), ConvertOptions::default());
    let e = convert(&cx(), from, &to, Format::Qcow2, &Progress::none(), &options).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NoSpace, "{e:?}");
    assert_eq!(vcl_job::Error::from(e).kind, vcl_job::Kind::NoSpace);
    assert!(library.space().unwrap().free < MIB);
    assert!(library.discard_staging("s").await.unwrap());
    assert!(library.space().unwrap().free > 3 * MIB);

    // An export to it: no target, and its rest can be removed.
    let shelf = crate::fixture::Shelf::new();
    let staging = shelf.library.staging("job1-token1").unwrap();
    import_disk(&cx(), &raw, &staging, 0, &Progress::none()).await.unwrap();
    let disks = vcl_images::seal(&cx(), &staging, &[vcl_images::StagedDisk::qcow2(0)]).await.unwrap();
    let manifest = crate::fixture::manifest("big@1", 1, disks);
    let revision = shelf.library.publish(&cx(), "job1-token1", &manifest).await.unwrap();
    for format in [Format::Qcow2, Format::Raw] {
        let to = small.0.join("out");
        let e = shelf.library.export(&cx(), &revision, 0, &to, format, &Progress::none()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::NoSpace, "{format}: {e:?}");
        assert!(!to.exists() && vcl_images::discard_export(&to).await.unwrap());
    }
}
