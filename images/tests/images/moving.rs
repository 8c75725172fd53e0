//! Sealing, taking in, giving out, verifying.

use crate::fixture::{MIB, Shelf, cx, cx_of, in_all_formats, noise, qemu_img, raw_disk, text};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use vcl_images::{
    ErrorKind, Fault, Format, Progress, StagedDisk, digest, discard_export, import_disk, seal, seal_firmware,
};
use vcl_job::{Kind, MemoryJournal};
use vcl_types::FirmwareRecord;

#[tokio::test]
async fn every_format_that_is_taken_in_shows_the_same_bytes() {
    let shelf = Shelf::new();
    let raw = shelf.path("disk.raw");
    raw_disk(&raw, 12 * MIB, &[(0, noise(MIB as usize, 1)), (7 * MIB, b"text ".repeat(50_000))]);
    let mut digests = Vec::new();
    for (n, (name, path, format)) in in_all_formats(shelf.dir.path(), &raw).into_iter().enumerate() {
        let staging = shelf.library.staging("import").unwrap();
        let imported = import_disk(&cx(), &path, &staging, n, &Progress::none()).await.unwrap();
        assert_eq!((imported.from, imported.virtual_size), (format, 12 * MIB), "{name}");
        let record = seal(&cx(), &staging, &[imported.disk]).await.unwrap().remove(0);
        assert_eq!(record.file_size.bytes(), std::fs::metadata(staging.disk(n)).unwrap().len());
        assert!(staging.path(&format!("disk{n}.chunks")).unwrap().exists());
        digests.push(record.content_digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1);
}

#[tokio::test]
async fn sealing_counts_what_it_hashes_and_may_run_again() {
    let shelf = Shelf::new();
    let staging = shelf.staged("s", 1);
    std::fs::copy(staging.disk(0), staging.disk(1)).unwrap();
    // Left by a process that died.
    std::fs::write(staging.path("disk0.qcow2.1-0.raw-copy").unwrap(), b"x").unwrap();
    let disks = [StagedDisk::qcow2(0), StagedDisk::qcow2(1)];
    let first = seal(&cx(), &staging, &disks).await.unwrap();
    assert_eq!(first, seal(&cx(), &staging, &disks).await.unwrap());
    assert_eq!(first[0].content_digest, first[1].content_digest);
    assert_eq!(first[0].virtual_size.bytes(), 9 * MIB + 512);
    let mut names: Vec<_> = staging
        .directory()
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["disk0.chunks", "disk0.qcow2", "disk1.chunks", "disk1.qcow2"]);

    let token = CancellationToken::new();
    token.cancel();
    let stopped = cx_of(Arc::new(MemoryJournal::default()), token);
    let e = vcl_job::Error::from(seal(&stopped, &staging, &disks).await.unwrap_err());
    assert_eq!(e.kind, Kind::Cancelled);
}

#[tokio::test]
async fn damage_is_found_when_sealing() {
    let shelf = Shelf::new();
    let staging = shelf.staged("s", 1);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(staging.disk(0)).unwrap();
    let mut table = [0; 8];
    file.read_exact_at(&mut table, 48).unwrap();
    let mut block = [0; 8];
    file.read_exact_at(&mut block, u64::from_be_bytes(table)).unwrap();
    // The refcounts of the first clusters.
    file.write_all_at(&[0; 16], u64::from_be_bytes(block)).unwrap();
    let e = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e:?}");
}

#[tokio::test]
async fn exports_are_whole_and_replace_nothing() {
    let shelf = Shelf::new();
    let (_, manifest) = shelf.sealed("job1-token1", "debian@1", 1).await;
    let revision = shelf.library.publish(&cx(), "job1-token1", &manifest).await.unwrap();
    let record = &manifest.disks[0];
    for (name, format) in [("o.qcow2", Format::Qcow2), ("o.raw", Format::Raw), ("o.vmdk", Format::Vmdk)] {
        let to = shelf.path(name);
        // Left by one that was cut short.
        std::fs::write(shelf.path(&format!(".{name}.part")), b"half").unwrap();
        shelf.library.export(&cx(), &revision, 0, &to, format, &Progress::none()).await.unwrap();
        let content = digest::content(&cx(), &to, format, shelf.dir.path(), &Progress::none()).await.unwrap();
        assert_eq!(content.digest(), record.content_digest, "{name}");
        let e = shelf.library.export(&cx(), &revision, 0, &to, format, &Progress::none()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Exists);
        assert!(!shelf.path(&format!(".{name}.part")).exists());
    }
    let same = digest::file(&cx(), &shelf.path("o.qcow2"), &Progress::none()).await.unwrap();
    assert_eq!(same.digest, record.file_digest);
    let to = shelf.path("absent/x");
    let e = shelf.library.export(&cx(), &revision, 0, &to, Format::Raw, &Progress::none()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound, "{e:?}");
    let e = shelf.library.export(&cx(), &revision, 7, &to, Format::Raw, &Progress::none()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound);
    std::fs::write(shelf.path(".y.part"), b"half").unwrap();
    assert!(discard_export(&shelf.path("y")).await.unwrap());
    assert!(!discard_export(&shelf.path("y")).await.unwrap());
}

#[tokio::test]
async fn verifying_names_what_is_wrong() {
    let shelf = Shelf::new();
    let (staging, mut manifest) = shelf.sealed("s", "debian@1", 1).await;
    std::fs::write(staging.path("vars.fd").unwrap(), noise(10_000, 7)).unwrap();
    let firmware: FirmwareRecord = seal_firmware(&cx(), &staging, "vars.fd", Format::Raw).await.unwrap();
    manifest.firmware = Some(firmware);
    let revision = shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
    let counted = Arc::new(Mutex::new((0, 0)));
    let progress = Progress::to({
        let counted = counted.clone();
        move |done, total| *counted.lock().unwrap() = (done, total)
    });
    assert_eq!(shelf.library.verify(&cx(), &revision, &progress).await.unwrap(), []);
    let (done, total) = *counted.lock().unwrap();
    assert!(done == total && total > manifest.disks[0].file_size.bytes(), "{done} of {total}");

    // One byte of the guest's, in its second chunk.
    let disk = revision.path("disk0.qcow2");
    let length = std::fs::metadata(&disk).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(b"!!", length - 70_000).unwrap();
    let found = shelf.library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
    assert!(matches!(&found[0].fault, Fault::File { .. }), "{found:?}");
    assert!(matches!(&found[1].fault, Fault::Content { chunks, .. } if *chunks == [1]), "{found:?}");
    assert!(found[1].to_string().contains("disk0.qcow2"));

    file.write_all_at(b"XXXX", 0).unwrap();
    std::fs::write(revision.path("vars.fd"), b"other").unwrap();
    let found = shelf.library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
    assert!(matches!(&found[0].fault, Fault::Unreadable(_)), "{found:?}");
    assert!(found[1].file == "vars.fd" && matches!(&found[1].fault, Fault::File { .. }), "{found:?}");
    std::fs::remove_file(&disk).unwrap();
    let found = shelf.library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
    assert_eq!(found[0].fault, Fault::Missing);
}

#[tokio::test]
async fn two_verifications_of_a_compressed_disk_do_not_meet() {
    let shelf = Shelf::new();
    let staging = shelf.library.staging("s").unwrap();
    let raw = shelf.path("r");
    raw_disk(&raw, 9 * MIB, &[(0, b"text ".repeat(500_000))]);
    qemu_img(&["convert", "-c", "-f", "raw", "-O", "qcow2", text(&raw), text(&staging.disk(0))]);
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    let manifest = crate::fixture::manifest("packed@1", 1, disks);
    let revision = shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
    let (cx, none) = (cx(), Progress::none());
    let (a, b) = tokio::join!(
        shelf.library.verify(&cx, &revision, &none),
        shelf.library.verify(&cx, &revision, &none)
    );
    assert_eq!((a.unwrap(), b.unwrap()), (vec![], vec![]));
    assert_eq!(shelf.library.leftovers().unwrap(), []);
}
