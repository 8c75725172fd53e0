//! Files made to be misread.

use crate::fixture::{MIB, Shelf, cx, noise, qemu_img, raw_disk, text};
use std::os::unix::fs::FileExt;
use std::path::Path;
use vcl_images::sniff::{Sniffed, sniff};
use vcl_images::{Error, ErrorKind, Format, Progress, StagedDisk, import_disk, seal};

async fn import(shelf: &Shelf, file: &Path) -> Result<vcl_images::Imported, Error> {
    let staging = shelf.library.staging("import").unwrap();
    import_disk(&cx(), file, &staging, 0, &Progress::none()).await
}

/// It is refused, by its own bytes alone and by the import, and the message names `names`.
async fn refused(shelf: &Shelf, file: &Path, names: &str) {
    let e = sniff(file).unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused, "{e}");
    assert!(e.to_string().contains(names), "{e}");
    assert_eq!(import(shelf, file).await.unwrap_err().kind, ErrorKind::Refused);
    assert!(!shelf.library.staging("import").unwrap().disk(0).exists());
}

fn patch(file: &Path, at: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

#[tokio::test]
async fn a_qcow2_that_reads_another_file_is_refused() {
    let shelf = Shelf::new();
    let file = shelf.path("x.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd", text(&file), "1M"]);
    refused(&shelf, &file, "/etc/passwd").await;

    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-u",
        "-F",
        "raw",
        "-b",
        "json:{\"driver\":\"file\"}",
        text(&file),
        "1M",
    ]);
    refused(&shelf, &file, "json:").await;

    let data = shelf.path("data.raw");
    let option = format!("data_file={},data_file_raw=on", text(&data));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, text(&file), "1M"]);
    refused(&shelf, &file, text(&data)).await;
    // Nor when only one of the two marks of it is there.
    patch(&file, 72, &0u64.to_be_bytes());
    refused(&shelf, &file, text(&data)).await;
}

#[tokio::test]
async fn an_encrypted_disk_is_refused() {
    let shelf = Shelf::new();
    let file = shelf.path("x.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&file), "1M"]);
    patch(&file, 32, &2u32.to_be_bytes());
    refused(&shelf, &file, "encrypted").await;
}

#[tokio::test]
async fn a_vmdk_that_reads_another_file_is_refused() {
    let shelf = Shelf::new();
    let file = shelf.path("x.vmdk");
    std::fs::write(
        &file,
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
         RW 8 FLAT \"/etc/shadow\" 0\n",
    )
    .unwrap();
    refused(&shelf, &file, "/etc/shadow").await;

    // The same, inside a sparse one that says it has no sectors of its own.
    qemu_img(&["create", "-q", "-f", "vmdk", text(&file), "1M"]);
    assert_eq!(sniff(&file).unwrap(), Sniffed { format: Format::Vmdk, virtual_size: MIB });
    patch(&file, 12, &0u64.to_le_bytes());
    refused(&shelf, &file, "ovftool").await;

    // A parent, and a second extent.
    for (line, names) in [
        ("parentFileNameHint=\"/etc/shadow\"\n", "/etc/shadow"),
        ("parentCID=12345678\n", "difference"),
        ("RW 8 FLAT \"/etc/passwd\" 0\nRW 8 FLAT \"/etc/shadow\" 0\n", "/etc/passwd"),
    ] {
        qemu_img(&["create", "-q", "-f", "vmdk", text(&file), "1M"]);
        let mut descriptor = vec![0; 20 * 512];
        std::fs::File::open(&file).unwrap().read_exact_at(&mut descriptor, 512).unwrap();
        let end = descriptor.iter().position(|b| *b == 0).unwrap();
        let mut changed = String::from_utf8(descriptor[..end].to_vec()).unwrap();
        changed = changed.replace("parentCID=ffffffff\n", "") + line;
        patch(&file, 512, changed.as_bytes());
        refused(&shelf, &file, names).await;
    }
}

#[tokio::test]
async fn a_raw_disk_stays_raw_whatever_it_holds() {
    let shelf = Shelf::new();
    let (evil, file) = (shelf.path("evil.qcow2"), shelf.path("x.raw"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd", text(&evil), "1M"]);
    let inner = std::fs::read(&evil).unwrap();
    raw_disk(&file, 4 * MIB, &[(512, inner.clone()), (2 * MIB, noise(5000, 1))]);
    assert_eq!(sniff(&file).unwrap(), Sniffed { format: Format::Raw, virtual_size: 4 * MIB });
    let imported = import(&shelf, &file).await.unwrap();
    assert_eq!((imported.from, imported.virtual_size), (Format::Raw, 4 * MIB));

    // A disk of the library whose guest writes a qcow2 header to its first sector is still read as what it is.
    let staging = shelf.library.staging("sealed").unwrap();
    raw_disk(&staging.path("disk0.raw").unwrap(), 4 * MIB, &[(0, inner)]);
    let disk = StagedDisk { file: "disk0.raw".into(), format: Format::Raw };
    let record = seal(&cx(), &staging, &[disk]).await.unwrap().remove(0);
    assert_eq!((record.format.as_str(), record.virtual_size.bytes()), ("raw", 4 * MIB));
}

#[tokio::test]
async fn a_disk_that_is_cut_off_is_damaged() {
    let shelf = Shelf::new();
    let (raw, file) = (shelf.path("r"), shelf.path("x.qcow2"));
    raw_disk(&raw, 16 * MIB, &[(0, noise(8 * MIB as usize, 1))]);
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", text(&raw), text(&file)]);
    let whole = std::fs::metadata(&file).unwrap().len();
    for length in [whole - 200_000, whole / 2, 400_000, 70_000, 100] {
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(length).unwrap();
        let e = import(&shelf, &file).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{length}: {e:?}");
    }
    // And so is one that a backend left behind.
    let staging = shelf.staged("cut", 1);
    std::fs::OpenOptions::new().write(true).open(staging.disk(0)).unwrap().set_len(400_000).unwrap();
    let e = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e:?}");
}

#[tokio::test]
async fn what_is_no_disk_is_refused_with_the_way_out() {
    let shelf = Shelf::new();
    let file = shelf.path("x");
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let mut iso = vec![0; 0x9000];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let mut vhd = vec![0; 4096];
    vhd[3584..3592].copy_from_slice(b"conectix");
    for (bytes, way_out) in [
        (b"vhdxfile".repeat(64), "qemu-img convert"),
        (b"\x1f\x8b\x08".repeat(300), "gunzip"),
        (b"\xfd7zXZ\0".to_vec(), "unxz"),
        (b"LUKS\xba\xbe".to_vec(), "decrypted"),
        (tar, "tar -xf"),
        (iso, "capture"),
        (vhd, "vhd"),
        (b"hello".to_vec(), "truncate"),
        (b"QFI\xfb\0\0\0\x01".repeat(64), "version 1"),
        (Vec::new(), "empty"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        refused(&shelf, &file, way_out).await;
    }
    for (name, size) in [("vdi", "1M"), ("vhdx", "1M"), ("vpc", "1M"), ("qed", "1M")] {
        qemu_img(&["create", "-q", "-f", name, text(&file), size]);
        refused(&shelf, &file, "qemu-img convert").await;
    }
    assert_eq!(sniff(Path::new("/dev/null")).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(sniff(shelf.dir.path()).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(sniff(&shelf.path("absent")).unwrap_err().kind, ErrorKind::NotFound);
    let huge = shelf.path("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", text(&huge), "65T"]);
    refused(&shelf, &huge, "at most").await;
}

#[tokio::test]
async fn a_staged_disk_that_lies_on_another_is_not_sealed() {
    let shelf = Shelf::new();
    let staging = shelf.library.staging("s").unwrap();
    let base = shelf.path("base.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&base), "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&base), text(&staging.disk(0))]);
    let e = seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap_err();
    assert!(e.kind == ErrorKind::Refused && e.to_string().contains("base.qcow2"), "{e}");
    std::fs::remove_file(staging.disk(0)).unwrap();
    std::os::unix::fs::symlink(&base, staging.disk(0)).unwrap();
    assert_eq!(seal(&cx(), &staging, &[StagedDisk::qcow2(0)]).await.unwrap_err().kind, ErrorKind::Refused);
    assert!(staging.path("../x").is_err() && shelf.library.staging("../x").is_err());
}
