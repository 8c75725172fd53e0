//! The two digests.

use crate::fixture::{MIB, cx, cx_of, in_all_formats, noise, qemu_img, raw_disk, text};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use vcl_images::digest::{CHUNK, Content, content, file};
use vcl_images::{ErrorKind, Format, Progress};
use vcl_job::MemoryJournal;

async fn of(path: &Path, format: Format) -> Content {
    let scratch = tempfile::tempdir().unwrap();
    let content = content(&cx(), path, format, scratch.path(), &Progress::none()).await.unwrap();
    assert_eq!(scratch.path().read_dir().unwrap().count(), 0, "a raw copy was left");
    content
}

/// As the definition says, from a raw disk, without any of the crate's code.
fn by_hand(raw: &Path) -> String {
    let bytes = std::fs::read(raw).unwrap();
    let mut sha = Sha256::new();
    sha.update(format!("vcl-content-1 {} 4194304\n", bytes.len()));
    bytes.chunks(4_194_304).for_each(|chunk| sha.update(Sha256::digest(chunk)));
    sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn content_is_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("disk.raw");
    let writes = [
        (0, noise(512, 1)),
        (3 * MIB, vec![0; MIB as usize]),
        (CHUNK - 700, noise(1400, 2)),
        (5 * CHUNK + 4096, b"text that compresses ".repeat(20_000)),
        (22 * MIB + 512, noise(1024, 3)),
    ];
    raw_disk(&raw, 22 * MIB + 1536, &writes);
    let expected = by_hand(&raw);
    let mut all = in_all_formats(dir.path(), &raw);
    let flat = dir.path().join("flat.vmdk");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        text(&raw),
        text(&flat),
    ]);
    all.push(("flat.vmdk", flat, Format::Vmdk));
    for (name, path, format) in all {
        assert_eq!(of(&path, format).await.digest().as_str(), expected, "{name}");
    }
}

#[tokio::test]
async fn content_is_that_of_the_whole_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, base) = (dir.path().join("disk.raw"), dir.path().join("base.raw"));
    // The base is shorter than what lies on it, and compressed in one of two cases.
    raw_disk(&base, 6 * MIB, &[(0, noise(3 * MIB as usize, 4)), (5 * MIB, b"abc".repeat(100_000))]);
    let packed = dir.path().join("packed.qcow2");
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", "-c", text(&base), text(&packed)]);
    for (below, format) in [(&base, "raw"), (&packed, "qcow2")] {
        let (middle, top) = (dir.path().join("middle.qcow2"), dir.path().join("top.qcow2"));
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", format, "-b", text(below), text(&middle), "9M"]);
        qemu_io(&middle, &["write -P 7 1M 2M", "write -z 2M 64k", "discard 5M 128k"]);
        // A name relative to the overlay, too.
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle.qcow2", text(&top), "13M"]);
        qemu_io(&top, &["write -P 9 3M 70000", "write -P 1 12M 1M", "write -z 1M 64k"]);
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", text(&top), text(&raw)]);
        assert_eq!(of(&top, Format::Qcow2).await.digest().as_str(), by_hand(&raw), "on {format}");
    }
}

fn qemu_io(disk: &Path, commands: &[&str]) {
    let mut io = std::process::Command::new("qemu-io");
    for command in commands {
        io.args(["-c", command]);
    }
    let output = io.args(["-f", "qcow2"]).arg(disk).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn zeros_cost_nothing_and_count_like_written_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (sparse, full) = (dir.path().join("sparse"), dir.path().join("full"));
    raw_disk(&sparse, 9 * MIB, &[]);
    raw_disk(&full, 9 * MIB, &[(0, vec![0; 9 * MIB as usize])]);
    let (a, b) = (of(&sparse, Format::Raw).await, of(&full, Format::Raw).await);
    assert_eq!((a.digest(), a.chunks.len()), (b.digest(), 3));
    // A terabyte of nothing.
    let huge = dir.path().join("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&huge), "1T"]);
    assert_eq!(of(&huge, Format::Qcow2).await.chunks.len(), 1 << 18);
    // The size is part of it.
    raw_disk(&full, 9 * MIB + 512, &[]);
    assert_ne!(of(&full, Format::Raw).await.digest(), a.digest());
}

#[tokio::test]
async fn a_file_has_the_digest_that_sha256sum_gives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, noise(3_000_001, 5)).unwrap();
    let ours = file(&cx(), &path, &Progress::none()).await.unwrap();
    let theirs = std::process::Command::new("sha256sum").arg(&path).output().unwrap();
    assert!(String::from_utf8(theirs.stdout).unwrap().starts_with(ours.digest.as_str()));
    assert_eq!(ours.size, 3_000_001);
}

#[tokio::test]
async fn chunk_digests_are_kept_and_tell_where_disks_differ() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, chunks) = (dir.path().join("r"), dir.path().join("disk0.chunks"));
    raw_disk(&raw, 13 * MIB, &[(MIB, noise(100, 1))]);
    let before = of(&raw, Format::Raw).await;
    before.write(&chunks).unwrap();
    assert_eq!(Content::read(&chunks, 13 * MIB).unwrap(), before);
    assert_eq!(Content::read(&chunks, 17 * MIB).unwrap_err().kind, ErrorKind::Corrupt);
    raw_disk(&raw, 13 * MIB, &[(MIB, noise(100, 1)), (12 * MIB + 5, vec![1])]);
    assert_eq!(before.differences(&of(&raw, Format::Raw).await), [3]);
}

#[tokio::test]
async fn hashing_stops_when_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("r");
    raw_disk(&raw, 256 * MIB, &[(0, noise(256 * MIB as usize, 1))]);
    let token = CancellationToken::new();
    let cx = cx_of(Arc::new(MemoryJournal::default()), token.clone());
    // Told at the first bytes that are hashed.
    let progress = Progress::to(move |done, total| {
        assert!(done <= 64 * MIB && total == 256 * MIB, "{done} of {total} after it was told");
        if done > 0 {
            token.cancel();
        }
    });
    let e = content(&cx, &raw, Format::Raw, dir.path(), &progress).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Job(vcl_job::Kind::Cancelled));
    let e = file(&cx, &raw, &Progress::none()).await.unwrap_err();
    assert_eq!(vcl_job::Error::from(e).kind, vcl_job::Kind::Cancelled);
}

fn writes() -> impl Strategy<Value = (u64, Vec<(u64, Vec<u8>)>)> {
    // Around the borders of sectors, clusters and chunks, where mistakes are.
    let place = prop_oneof![
        (0u64..4, -3i64..3).prop_map(|(chunk, off)| (chunk * CHUNK).saturating_add_signed(off * 512)),
        (0u64..200, -700i64..700).prop_map(|(cluster, off)| (cluster * 65536).saturating_add_signed(off)),
        0u64..13 * MIB,
    ];
    let bytes = (prop_oneof![1usize..5000, Just(65536), Just(200_000)], 0u64..1000)
        .prop_map(|(length, seed)| if seed < 200 { vec![0; length] } else { noise(length, seed) });
    ((1u64..26_000), prop::collection::vec((place, bytes), 0..8)).prop_map(|(sectors, writes)| {
        let size = sectors * 512;
        let writes = writes.into_iter().filter(|(at, _)| *at < size);
        (
            size,
            writes
                .map(|(at, mut b)| {
                    b.truncate((size - at) as usize);
                    (at, b)
                })
                .collect(),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 40, ..ProptestConfig::default() })]
    #[test]
    fn whatever_is_written_content_is_as_defined((size, writes) in writes()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("r");
        raw_disk(&raw, size, &writes);
        let expected = by_hand(&raw);
        let forms: [(&str, &[&str]); 3] = [("qcow2", &[]), ("packed", &["-c"]), ("sparse", &["-S", "512"])];
        prop_assert_eq!(runtime.block_on(of(&raw, Format::Raw)).digest().to_string(), expected.clone());
        for (name, options) in forms {
            let path: PathBuf = dir.path().join(name);
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
            args.extend(options);
            args.extend([text(&raw), text(&path)]);
            qemu_img(&args);
            prop_assert_eq!(runtime.block_on(of(&path, Format::Qcow2)).digest().to_string(), expected.clone(), "{}", name);
        }
    }
}
