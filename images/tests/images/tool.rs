//! The wrappers of `qemu-img`.

use crate::fixture::{MIB, cx, cx_of, noise, qemu_img, raw_disk, text};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use vcl_images::qemu_img::{
    ConvertFrom, ConvertOptions, Limits, chain, check, convert, create_overlay, info, map, resize,
};
use vcl_images::{ErrorKind, Format, Progress};
use vcl_job::{MemoryJournal, Record};

#[tokio::test]
async fn a_conversion_is_sparse_counted_in_bytes_and_journaled() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, qcow2) = (dir.path().join("a.raw"), dir.path().join("a.qcow2"));
    raw_disk(&raw, 64 * MIB, &[(MIB, noise(4 * MIB as usize, 1)), (40 * MIB, noise(MIB as usize, 2))]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::to({
        let seen = seen.clone();
        move |done, total| seen.lock().unwrap().push((done, total))
    });
    let journal = Arc::new(MemoryJournal::default());
    let cx = cx_of(journal.clone(), CancellationToken::new());
    let from = ConvertFrom { path: &raw, format: Format::Raw };
    convert(&cx, from, &qcow2, Format::Qcow2, &progress, &ConvertOptions::default()).await.unwrap();

    let seen = seen.lock().unwrap().clone();
    assert!(seen.windows(2).all(|w| w[0].0 <= w[1].0), "{seen:?}");
    assert_eq!(seen.last(), Some(&(5 * MIB, 5 * MIB)));
    let records = vcl_job::Journal::read(&*journal).await.unwrap();
    assert!(records.iter().all(|r| matches!(r, Record::Process { .. })) && records.len() == 2, "{records:?}");

    let info = info(&cx, &qcow2, Format::Qcow2).await.unwrap();
    assert_eq!((info.virtual_size, info.backing, info.encrypted, info.snapshots), (64 * MIB, None, false, 0));
    assert!(info.actual_size < 8 * MIB, "{}", info.actual_size);
    assert!(check(&cx, &qcow2, Format::Qcow2).await.unwrap().is_sound());
    let extents = map(&cx, &qcow2, Format::Qcow2).await.unwrap();
    assert_eq!(extents.iter().map(|e| e.length).sum::<u64>(), 64 * MIB);
    assert_eq!(extents.iter().filter(|e| e.data && !e.zero).map(|e| e.length).sum::<u64>(), 5 * MIB);
}

#[tokio::test]
async fn an_overlay_names_its_backing_file_and_format() {
    let dir = tempfile::tempdir().unwrap();
    let (base, overlay) = (dir.path().join("base.qcow2"), dir.path().join("over.qcow2"));
    qemu_img(&["create", "-q", "-f", "qcow2", text(&base), "8M"]);
    let cx = cx();
    create_overlay(&cx, &overlay, &base, Format::Qcow2, Some(16 * MIB)).await.unwrap();
    // A step may run again.
    create_overlay(&cx, &overlay, &base, Format::Qcow2, Some(16 * MIB)).await.unwrap();
    let layers = chain(&cx, &overlay, Format::Qcow2).await.unwrap();
    assert_eq!(layers.iter().map(|l| l.virtual_size).collect::<Vec<_>>(), [16 * MIB, 8 * MIB]);
    let backing = layers[0].backing.clone().unwrap();
    assert_eq!((backing.full.as_deref(), backing.format.as_deref()), (base.to_str(), Some("qcow2")));

    let absent = dir.path().join("absent.qcow2");
    let e = create_overlay(&cx, &overlay, &absent, Format::Qcow2, None).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NotFound, "{e:?}");
}

#[tokio::test]
async fn a_disk_grows_and_is_not_shrunk() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("d.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&disk), "8M"]);
    let cx = cx();
    for size in [8, 12, 12] {
        resize(&cx, &disk, Format::Qcow2, size * MIB).await.unwrap();
        assert_eq!(info(&cx, &disk, Format::Qcow2).await.unwrap().virtual_size, size * MIB);
    }
    let e = resize(&cx, &disk, Format::Qcow2, 8 * MIB).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused);
}

#[tokio::test]
async fn errors_say_of_what_kind_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let cx = cx();
    let absent = dir.path().join("absent");
    assert_eq!(info(&cx, &absent, Format::Qcow2).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(check(&cx, &absent, Format::Qcow2).await.unwrap_err().kind, ErrorKind::NotFound);
    let raw = dir.path().join("x.raw");
    raw_disk(&raw, MIB, &[(0, noise(1000, 3))]);
    // Not taken for raw because it is not what was said.
    assert_eq!(info(&cx, &raw, Format::Qcow2).await.unwrap_err().kind, ErrorKind::Corrupt);
    for path in ["x.raw", "nbd:unix:/x", "json:{}"] {
        assert_eq!(
            info(&cx, Path::new(path), Format::Raw).await.unwrap_err().kind,
            ErrorKind::Refused,
            "{path}"
        );
    }
    let stopped = CancellationToken::new();
    stopped.cancel();
    let cx = cx_of(Arc::new(MemoryJournal::default()), stopped);
    let e: vcl_job::Error = info(&cx, &raw, Format::Raw).await.unwrap_err().into();
    assert_eq!(e.kind, vcl_job::Kind::Cancelled);
    assert_eq!(e.failure().message.matches("told to stop").count(), 1);
}

#[tokio::test]
async fn leaks_are_no_corruption() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("d.qcow2");
    raw_disk(&dir.path().join("r"), 4 * MIB, &[(0, noise(MIB as usize, 9))]);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&dir.path().join("r")), text(&disk)]);
    let sound = check(&cx(), &disk, Format::Qcow2).await.unwrap();
    assert!(sound.is_sound() && sound.leaks == 0 && sound.image_end_offset > MIB, "{sound:?}");
    // The first refcount block: a cluster behind the used ones is counted, then the last used one is not.
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.set_len(sound.image_end_offset + 65536).unwrap();
    let at = u64::from_be_bytes(read_at(&disk, u64::from_be_bytes(read_at(&disk, 48))));
    let clusters = sound.image_end_offset / 65536;
    write_at(&disk, at + 2 * clusters, &1u16.to_be_bytes());
    let leaky = check(&cx(), &disk, Format::Qcow2).await.unwrap();
    assert!(leaky.is_sound() && leaky.leaks == 1, "{leaky:?}");
    write_at(&disk, at + 2 * (clusters - 1), &0u16.to_be_bytes());
    let broken = check(&cx(), &disk, Format::Qcow2).await.unwrap();
    assert!(!broken.is_sound() && broken.corruptions > 0, "{broken:?}");
}

#[tokio::test]
async fn limits_are_the_childs() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, out) = (dir.path().join("x.raw"), dir.path().join("x.out"));
    raw_disk(&raw, 8 * MIB, &[(0, noise(8 * MIB as usize, 4))]);
    let from = ConvertFrom { path: &raw, format: Format::Raw };
    let tight = Limits { file_size: MIB, ..Limits::copy(8 * MIB) };
    let options = ConvertOptions { foreign: Some(tight), ..ConvertOptions::default() };
    assert!(convert(&cx(), from, &out, Format::Raw, &Progress::none(), &options).await.is_err());
    assert!(std::fs::metadata(&out).map_or(0, |m| m.len()) <= MIB);
    let small = Limits { memory: 16 << 20, ..Limits::copy(8 * MIB) };
    let options = ConvertOptions { foreign: Some(small), ..ConvertOptions::default() };
    assert!(convert(&cx(), from, &out, Format::Raw, &Progress::none(), &options).await.is_err());
    let options = ConvertOptions { foreign: Some(Limits::copy(8 * MIB)), ..ConvertOptions::default() };
    convert(&cx(), from, &out, Format::Raw, &Progress::none(), &options).await.unwrap();
}

fn read_at(path: &Path, at: u64) -> [u8; 8] {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 8];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
    bytes
}
fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}
