//! Disks and libraries to test with.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vcl_images::{Format, Library, StagedDisk, Staging, seal};
use vcl_job::{Cx, Journal, MemoryJournal};
use vcl_types::{DiskRecord, Hardware, JobId, Manifest, OsName};

pub const MIB: u64 = 1 << 20;

pub fn cx() -> Cx {
    cx_of(Arc::new(MemoryJournal::default()), CancellationToken::new())
}
pub fn cx_of(journal: Arc<dyn Journal>, token: CancellationToken) -> Cx {
    Cx::detached(journal, token, Duration::from_secs(300))
}

/// Bytes that look random and are the same each time.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A sparse raw disk with these bytes at these places.
pub fn raw_disk(path: &Path, size: u64, writes: &[(u64, Vec<u8>)]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in writes {
        file.write_all_at(bytes, *at).unwrap();
    }
}

pub fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A library with a disk staged in it.
pub struct Shelf {
    pub dir: TempDir,
    pub library: Library,
}

impl Shelf {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("library");
        std::fs::create_dir(&root).unwrap();
        Self { library: Library::open(&root).unwrap(), dir }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// A staging directory with one small disk in it.
    pub fn staged(&self, name: &str, seed: u64) -> Staging {
        let staging = self.library.staging(name).unwrap();
        let raw = self.path("staged.raw");
        raw_disk(&raw, 9 * MIB + 512, &[(5 * MIB, noise(200_000, seed))]);
        qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&staging.disk(0))]);
        staging
    }
    /// A sealed one, and the manifest of `image` that goes with it.
    pub async fn sealed(&self, name: &str, image: &str, job: i64) -> (Staging, Manifest) {
        let staging = self.staged(name, job.cast_unsigned());
        let disks = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
        (staging, manifest(image, job, disks))
    }
}

/// A manifest of `image@revision`.
pub fn manifest(image: &str, job: i64, disks: Vec<DiskRecord>) -> Manifest {
    let image: vcl_types::ImageRef = image.parse().unwrap();
    Manifest {
        version: 1,
        image: image.name,
        revision: image.revision.unwrap(),
        parent: None,
        os: OsName::Linux,
        generalised: true,
        hardware: Hardware::default(),
        disks,
        firmware: None,
        boot: None,
        boot_files: Vec::new(),
        backend: None,
        job: Some(JobId(job)),
        created: "2026-11-21T10:00:00.123456789Z".parse().unwrap(),
        note: None,
    }
}

/// All formats in which one disk's bytes can come, with their files.
pub fn in_all_formats(dir: &Path, raw: &Path) -> Vec<(&'static str, PathBuf, Format)> {
    let mut made = vec![("raw", raw.to_owned(), Format::Raw)];
    let forms: &[(&str, Format, &[&str])] = &[
        ("qcow2", Format::Qcow2, &["-O", "qcow2"]),
        ("old.qcow2", Format::Qcow2, &["-O", "qcow2", "-o", "compat=0.10"]),
        ("packed.qcow2", Format::Qcow2, &["-O", "qcow2", "-c"]),
        ("small.qcow2", Format::Qcow2, &["-O", "qcow2", "-o", "cluster_size=512"]),
        ("sub.qcow2", Format::Qcow2, &["-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k"]),
        ("full.qcow2", Format::Qcow2, &["-O", "qcow2", "-S", "0", "-o", "preallocation=metadata"]),
        ("vmdk", Format::Vmdk, &["-O", "vmdk"]),
        ("stream.vmdk", Format::Vmdk, &["-O", "vmdk", "-o", "subformat=streamOptimized"]),
    ];
    for (name, format, options) in forms {
        let path = dir.join(format!("disk.{name}"));
        let mut args = vec!["convert", "-f", "raw"];
        args.extend(*options);
        args.extend([text(raw), text(&path)]);
        qemu_img(&args);
        made.push((name, path, *format));
    }
    made
}
