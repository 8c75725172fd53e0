//! Revisions stored over their parents: captured, read, given out, rewritten whole, deleted and brought back.

use crate::fixture::{MIB, Shelf, cx, manifest, noise, qemu_img, raw_disk, text};
use std::path::{Path, PathBuf};
use vcl_images::qemu_img::{chain, convert_over, create_overlay};
use vcl_images::{
    Discarded, ErrorKind, Fault, Format, Library, Progress, StagedDisk, TrashName, copy_whole, digest,
    estimate, flatten_candidates, seal, with_disks,
};
use vcl_types::{ByteSize, DiskRecord, ImageRef, JobId, Manifest, Revision};

pub fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

pub fn qemu_io(file: &Path, commands: &[&str]) {
    let mut io = std::process::Command::new("qemu-io");
    io.args(["-f", "qcow2"]);
    for command in commands {
        io.args(["-c", command]);
    }
    let output = io.arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A revision with one disk of these bytes.
pub async fn whole(shelf: &Shelf, name: &str, size: u64, writes: &[(u64, Vec<u8>)]) -> Revision {
    let staging = shelf.library.staging("whole").unwrap();
    let raw = shelf.path("whole.raw");
    raw_disk(&raw, size, writes);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&staging.disk(0))]);
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    shelf.library.publish(&cx(), "whole", &manifest(name, 1, disks)).await.unwrap()
}

/// An overlay on a revision, as a load makes it.
pub async fn overlay(shelf: &Shelf, on: &Revision, size: Option<u64>) -> PathBuf {
    let path = shelf.path(&format!("overlay-{}.qcow2", on.manifest.image_ref()));
    let backing = PathBuf::from(on.path("disk0.qcow2"));
    create_overlay(&cx(), &path, &backing, Format::Qcow2, size).await.unwrap();
    path
}

/// A capture of an overlay over its revision, up to its records.
async fn sealed(library: &Library, staging: &str, on: &ImageRef, overlay: &Path) -> Vec<DiskRecord> {
    let base = library.base(on).unwrap();
    let staging = library.staging(staging).unwrap().over(base);
    let (reference, _) = staging.base().unwrap().disk(0).unwrap();
    convert_over(&cx(), overlay, &staging.disk(0), &reference, &Progress::none()).await.unwrap();
    seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap()
}

pub async fn delta(library: &Library, name: &str, on: &ImageRef, overlay: &Path) -> Revision {
    let disks = sealed(library, "delta", on, overlay).await;
    let version = Manifest::version_for(&disks);
    let made = Manifest { version, parent: Some(on.clone()), ..manifest(name, 1, disks) };
    library.publish(&cx(), "delta", &made).await.unwrap()
}

pub async fn shows(path: &Path, scratch: &Path) -> vcl_types::Digest {
    digest::content(&cx(), path, Format::Qcow2, scratch, &Progress::none()).await.unwrap().digest()
}

/// `debian@1` whole, `debian@2` over it, `debian@3` over that.
async fn three(shelf: &Shelf) -> Vec<Revision> {
    let writes = [(5 * MIB, noise(200_000, 1)), (30 * MIB + 77, noise(3_000_000, 2))];
    let one = whole(shelf, "debian@1", 40 * MIB + 512, &writes).await;
    let over = overlay(shelf, &one, None).await;
    qemu_io(&over, &["write -P 7 6M 64k", "write -z 31M 1M", "write -P 9 40M 512"]);
    let two = delta(&shelf.library, "debian@2", &image("debian@1"), &over).await;
    let over = overlay(shelf, &two, None).await;
    qemu_io(&over, &["write -P 8 6M 4k", "discard 5M 1M"]);
    let three = delta(&shelf.library, "debian@3", &image("debian@2"), &over).await;
    vec![one, two, three]
}

#[tokio::test]
async fn a_delta_holds_what_changed_and_its_digest_is_of_all_that_a_guest_sees() {
    let shelf = Shelf::new();
    let all = three(&shelf).await;
    for revision in &all {
        let disk = &revision.manifest.disks[0];
        let path = PathBuf::from(revision.path(&disk.file));
        assert_eq!(shows(&path, shelf.dir.path()).await, disk.content_digest);
        let flat = shelf.path("flat.qcow2");
        qemu_img(&["convert", "-f", "qcow2", "-O", "qcow2", text(&path), text(&flat)]);
        assert_eq!(shows(&flat, shelf.dir.path()).await, disk.content_digest);
        let kept = digest::Content::read(&path.with_file_name("disk0.chunks"), disk.virtual_size.bytes());
        assert_eq!(kept.unwrap().digest(), disk.content_digest);
        assert!(shelf.library.verify(&cx(), revision, &Progress::none()).await.unwrap().is_empty());
    }
    assert!(all[1].manifest.disks[0].file_size < ByteSize(MIB), "{:?}", all[1].manifest.disks[0].file_size);
    assert_eq!(all[1].manifest.version, 2);
    let over = all[2].manifest.disks[0].over.clone().unwrap();
    assert_eq!(over.reference(), "../../debian/2/disk0.qcow2");
    let layers = chain(&cx(), Path::new(&all[2].path("disk0.qcow2")), Format::Qcow2).await.unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[0].backing.as_ref().unwrap().name, over.reference());
}

#[tokio::test]
async fn a_delta_may_show_more_or_less_than_its_parent() {
    let shelf = Shelf::new();
    let one = whole(&shelf, "debian@1", 10 * MIB + 512, &[(0, noise(10 << 20, 3))]).await;
    for (n, size) in [(2, 25 * MIB), (3, 7 * MIB + 1024), (4, 8 * MIB), (5, 12 * MIB)] {
        let over = overlay(&shelf, &one, Some(size)).await;
        qemu_io(&over, &["write -P 3 1M 64k"]);
        let name = format!("debian@{n}");
        let made = delta(&shelf.library, &name, &image("debian@1"), &over).await;
        let (disk, path) = (&made.manifest.disks[0], PathBuf::from(made.path("disk0.qcow2")));
        assert_eq!(disk.virtual_size, ByteSize(size));
        let flat = shelf.path("flat.qcow2");
        qemu_img(&["convert", "-f", "qcow2", "-O", "qcow2", text(&over), text(&flat)]);
        assert_eq!(shows(&flat, shelf.dir.path()).await, disk.content_digest, "{name}");
        assert_eq!(shows(&path, shelf.dir.path()).await, disk.content_digest, "{name}");
    }
}

#[tokio::test]
async fn a_disk_lies_on_exactly_its_parents_file_or_is_refused() {
    let shelf = Shelf::new();
    let one = whole(&shelf, "debian@1", 9 * MIB, &[(0, noise(100_000, 1))]).await;
    let other = whole(&shelf, "other@1", 9 * MIB, &[(0, noise(100_000, 2))]).await;
    let parent = PathBuf::from(one.path("disk0.qcow2"));
    let mut refused = 0;
    for backing in [
        one.path("disk0.qcow2"),
        other.path("disk0.qcow2"),
        "../../other/1/disk0.qcow2".into(),
        "../../debian/../debian/1/disk0.qcow2".into(),
        "/etc/hostname".into(),
    ] {
        let staging = shelf.library.staging("job1-token1").unwrap();
        let disk = staging.disk(0);
        qemu_img(&["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &backing, text(&disk), "9M"]);
        for staging in [staging.clone(), staging.over(shelf.library.base(&image("debian@1")).unwrap())] {
            let error = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Refused, "{backing}: {error}");
            refused += 1;
        }
    }
    assert_eq!(refused, 10);
    // As an import, a delta of the library's own is as foreign as any.
    let over = overlay(&shelf, &one, None).await;
    let two = delta(&shelf.library, "debian@2", &image("debian@1"), &over).await;
    let sniffed = vcl_images::sniff::sniff(Path::new(&two.path("disk0.qcow2"))).unwrap_err();
    assert_eq!(sniffed.kind, ErrorKind::Refused);
    // A header that was changed behind the manifest's back is found each time the revision is got.
    let file = two.path("disk0.qcow2");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    qemu_img(&["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", &other.path("disk0.qcow2"), &file]);
    let error = shelf.library.get(&image("debian@2")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
    assert!(shelf.library.base(&image("debian@2")).is_err());
    assert!(parent.exists());
}

#[tokio::test]
async fn a_broken_parent_is_reported_on_each_child_with_the_reason() {
    let shelf = Shelf::new();
    let all = three(&shelf).await;
    let parent = PathBuf::from(all[0].path("disk0.qcow2"));
    std::fs::set_permissions(&parent, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    qemu_io(&parent, &["write -P 1 30M 4k"]);
    for child in &all[1..] {
        let found = shelf.library.verify(&cx(), child, &Progress::none()).await.unwrap();
        let parents: Vec<_> = found.iter().filter(|m| matches!(m.fault, Fault::Parent { .. })).collect();
        assert_eq!(parents.len(), 1, "{found:?}");
        assert!(
            parents[0].to_string().contains("debian@1, which is broken: disk0.qcow2 has digest"),
            "{found:?}"
        );
        assert!(found.iter().any(|m| matches!(m.fault, Fault::Content { .. })), "{found:?}");
    }
    // One that is gone: each child says so, and none can be used.
    std::fs::rename(&all[0].directory, shelf.path("away")).unwrap();
    let scan = shelf.library.revisions().unwrap();
    assert!(scan.revisions.is_empty());
    assert_eq!(scan.findings.len(), 2);
    for finding in &scan.findings {
        assert!(
            finding.problem.contains("stored over debian@1, which cannot be used"),
            "{}",
            finding.problem
        );
    }
}

#[tokio::test]
async fn what_is_given_out_lies_on_nothing_and_shows_the_same() {
    let shelf = Shelf::new();
    let all = three(&shelf).await;
    let to = shelf.path("out.qcow2");
    shelf.library.export(&cx(), &all[2], 0, &to, Format::Qcow2, &Progress::none()).await.unwrap();
    let layers = chain(&cx(), &to, Format::Qcow2).await.unwrap();
    assert_eq!((layers.len(), layers[0].backing.clone()), (1, None));
    assert_eq!(shows(&to, shelf.dir.path()).await, all[2].manifest.disks[0].content_digest);
}

#[tokio::test]
async fn a_revision_rewritten_whole_shows_the_same_to_everybody_at_any_point() {
    let shelf = Shelf::new();
    let library = &shelf.library;
    let all = three(&shelf).await;
    let computer = overlay(&shelf, &all[1], None).await;
    qemu_io(&computer, &["write -P 5 2M 64k"]);
    let before = shows(&computer, shelf.dir.path()).await;
    let staging = library.staging("job9-token1").unwrap();
    for _ in 0..2 {
        copy_whole(&cx(), &all[1], 0, &staging, &Progress::none()).await.unwrap();
    }
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    let new = with_disks(&all[1].manifest, disks).unwrap();
    assert_eq!((new.version, new.lies_on()), (1, None));
    assert!(!library.swapped("job9-token1", &new).unwrap());
    assert!(!library.swap_back("job9-token1", &new).await.unwrap());
    // There, again, back, again, and there for good: as crashes would have it.
    for _ in 0..2 {
        library.swap(&cx(), "job9-token1", &new).await.unwrap();
    }
    assert_eq!(shows(&computer, shelf.dir.path()).await, before);
    let half = library.leftovers().unwrap();
    assert_eq!(half[0].holds, Some(image("debian@2")));
    for expected in [true, false] {
        assert_eq!(library.swap_back("job9-token1", &new).await.unwrap(), expected);
    }
    assert_eq!(library.get(&image("debian@2")).unwrap().manifest, all[1].manifest);
    library.swap(&cx(), "job9-token1", &new).await.unwrap();
    assert!(library.swapped("job9-token1", &new).unwrap());
    let name = TrashName {
        image: image("debian@2"),
        why: Discarded::Exchanged,
        at: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
        job: JobId(9),
    };
    for _ in 0..2 {
        assert!(library.retire("job9-token1", &name).await.unwrap());
    }
    library.swap(&cx(), "job9-token1", &new).await.unwrap();
    assert!(!library.swap_back("job9-token1", &new).await.unwrap());
    // The parent can go now, and nobody notices.
    std::fs::rename(&all[0].directory, shelf.path("away")).unwrap();
    assert_eq!(shows(&computer, shelf.dir.path()).await, before);
    for name in ["debian@2", "debian@3"] {
        let revision = library.get(&image(name)).unwrap();
        let found = library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
        assert!(found.is_empty(), "{name}: {found:?}");
    }
    assert!(library.discarded(&image("debian@2")).is_err(), "what was exchanged was not deleted");
    let trash = library.trash().unwrap();
    assert_eq!(trash[0].name, Some(name));
    assert!(library.remove_discarded(&trash[0].path).await.unwrap());
    assert!(library.trash().unwrap().is_empty());
}

#[tokio::test]
async fn other_bytes_are_never_put_in_a_revisions_place() {
    let shelf = Shelf::new();
    let all = three(&shelf).await;
    let staging = shelf.library.staging("job9-token1").unwrap();
    copy_whole(&cx(), &all[0], 0, &staging, &Progress::none()).await.unwrap();
    let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    assert_eq!(with_disks(&all[1].manifest, disks).unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn what_is_deleted_comes_back_unless_what_it_lies_on_is_gone() {
    let shelf = Shelf::new();
    let library = &shelf.library;
    let all = three(&shelf).await;
    let name = |text: &str, job| TrashName {
        image: image(text),
        why: Discarded::Deleted,
        at: chrono::DateTime::from_timestamp(1_700_000_000 + job, 0).unwrap(),
        job: JobId(job),
    };
    for _ in 0..2 {
        assert!(library.discard(&name("debian@3", 1)).await.unwrap());
    }
    assert!(library.get(&image("debian@3")).is_err());
    assert!(!library.discard(&name("debian@9", 1)).await.unwrap());
    assert!(library.discard(&name("debian@2", 2)).await.unwrap());
    let (found, manifest) = library.discarded(&image("debian@3")).unwrap();
    assert_eq!((&found, &manifest), (&name("debian@3", 1), &all[2].manifest));
    let error = library.bring_back(&found, &manifest).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    for text in ["debian@2", "debian@3"] {
        let (found, manifest) = library.discarded(&image(text)).unwrap();
        for _ in 0..2 {
            library.bring_back(&found, &manifest).await.unwrap();
        }
    }
    let found = library.verify(&cx(), &all[2], &Progress::none()).await.unwrap();
    assert!(found.is_empty(), "{found:?}");
    assert!(library.trash().unwrap().is_empty());
    assert!(library.remove_discarded(Path::new(&all[2].directory)).await.is_err());
}

#[tokio::test]
async fn the_lowest_of_each_chain_that_is_too_long_is_rewritten() {
    let shelf = Shelf::new();
    let manifests: Vec<Manifest> = three(&shelf).await.into_iter().map(|r| r.manifest).collect();
    assert_eq!(flatten_candidates(&manifests, 3), []);
    assert_eq!(flatten_candidates(&manifests, 2), [image("debian@3")]);
    assert_eq!(flatten_candidates(&manifests, 1), [image("debian@2")]);
    assert_eq!(flatten_candidates(&manifests, 0), [image("debian@2")]);
    let chain: Vec<Manifest> = manifests.iter().rev().cloned().collect();
    assert!(estimate::flatten(&chain) < 41 * MIB + 3 * MIB);
    assert!(estimate::capture_delta(&[ByteSize(MIB)]) < 3 * MIB);
    assert!(estimate::fetch(&manifests[1]) < 3 * MIB);
}

#[test]
fn two_jobs_do_not_count_the_same_free_space() {
    let shelf = Shelf::new();
    let (library, none) = (&shelf.library, ByteSize(0));
    let free = library.space().unwrap().free;
    library.reserve(JobId(1), free / 10 * 6, none).unwrap();
    let error = library.reserve(JobId(2), free / 10 * 6, none).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace);
    assert!(error.context.contains("set apart for other"), "{error}");
    assert_eq!(library.clone().space().unwrap().reserved, free / 10 * 6);
    // The same job may say another number, and what it has written is no longer set apart.
    library.reserve(JobId(1), free / 10 * 7, none).unwrap();
    library.written(JobId(1), free / 10 * 6);
    assert_eq!(library.space().unwrap().reserved, free / 10 * 7 - free / 10 * 6);
    library.reserve(JobId(2), free / 10 * 6, none).unwrap();
    let most = library.space().unwrap().available(none);
    assert!(library.reserve(JobId(3), 1 << 20, ByteSize(most)).is_err());
    library.release(JobId(1));
    library.release(JobId(2));
    assert_eq!(library.space().unwrap().reserved, 0);
}
