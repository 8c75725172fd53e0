//! Opening, scanning and naming.

use crate::fixture::{Shelf, cx};
use std::os::unix::fs::symlink;
use vcl_images::{ErrorKind, Library, staging_name};
use vcl_types::{ImageName, ImageRef, JobId};

#[test]
fn opening_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let e = Library::open(&absent).unwrap_err();
    assert!(e.kind == ErrorKind::NotFound && e.to_string().contains("install -d"), "{e}");
    assert_eq!(Library::open("library").unwrap_err().kind, ErrorKind::Refused);
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert_eq!(Library::open(&file).unwrap_err().kind, ErrorKind::Refused);
    // A link in place of the staging directory leads elsewhere.
    std::fs::create_dir(&absent).unwrap();
    symlink("/tmp", absent.join(".staging")).unwrap();
    assert_eq!(Library::open(&absent).unwrap_err().kind, ErrorKind::Refused);
    std::fs::remove_file(absent.join(".staging")).unwrap();
    let library = Library::open(&absent).unwrap();
    Library::open(&absent).unwrap();
    assert!(library.space().unwrap().free <= library.space().unwrap().total);
    assert_eq!(library.root(), absent);
}

#[tokio::test]
async fn revisions_are_found_and_what_is_none_is_reported() {
    let shelf = Shelf::new();
    let library = &shelf.library;
    for (image, job) in [("debian@1", 1), ("debian@2", 2), ("debian@10", 3), ("win-11@1", 4)] {
        let (_, manifest) = shelf.sealed("s", image, job).await;
        library.publish(&cx(), "s", &manifest).await.unwrap();
    }
    let debian: ImageName = "debian".parse().unwrap();
    let scan = library.revisions().unwrap();
    let names: Vec<_> = scan.revisions.iter().map(|r| r.manifest.image_ref().to_string()).collect();
    assert_eq!(names, ["debian@1", "debian@2", "debian@10", "win-11@1"]);
    assert!(scan.findings.is_empty(), "{:?}", scan.findings);
    assert_eq!(library.newest(&debian).unwrap().manifest.revision, 10);
    assert_eq!(library.get(&"debian".parse().unwrap()).unwrap().manifest.revision, 10);
    assert_eq!(library.next_revision(&debian).unwrap(), 11);
    assert_eq!(library.next_revision(&"new".parse().unwrap()).unwrap(), 1);
    assert_eq!(library.get(&"debian@3".parse().unwrap()).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(library.newest(&"new".parse().unwrap()).unwrap_err().kind, ErrorKind::NotFound);
    assert!(library.used().await.unwrap() > 4 * 200_000);

    let root = library.root();
    // Damage of every sort, one in each revision; and things that are no revision.
    edit(&shelf, "debian/1", |text| text.replace("\"version\": 1", "\"version\": 9"));
    edit(&shelf, "debian/2", |text| text.replace("disk0.qcow2", "../../../etc/shadow"));
    std::fs::remove_file(root.join("debian/10/disk0.qcow2")).unwrap();
    edit(&shelf, "win-11/1", |text| text[..50].to_owned());
    std::fs::create_dir_all(root.join("debian/011")).unwrap();
    std::fs::create_dir_all(root.join("debian/11")).unwrap();
    std::fs::write(root.join("README"), "x").unwrap();
    std::fs::create_dir(root.join("lost+found")).unwrap();
    let scan = library.revisions().unwrap();
    assert_eq!(scan.revisions.len(), 0);
    let problems: Vec<_> = scan.findings.iter().map(|f| f.problem.as_str()).collect();
    assert_eq!(problems.len(), 7, "{problems:?}");
    for part in ["version 9", "is not a file name", "missing", "parsing", "no manifest"] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:?}");
    }
    assert_eq!(library.get(&"debian@1".parse().unwrap()).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(library.get(&"debian@2".parse().unwrap()).unwrap_err().kind, ErrorKind::Corrupt);
    // The newest is damaged; no older one stands in for it.
    assert_eq!(library.newest(&debian).unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_manifest_is_read_as_a_strangers() {
    let shelf = Shelf::new();
    let (_, manifest) = shelf.sealed("s", "debian@1", 1).await;
    shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
    let image: ImageRef = "debian@1".parse().unwrap();
    let good = std::fs::read_to_string(shelf.library.root().join("debian/1/manifest.json")).unwrap();
    for (from, to) in [
        ("\"revision\": 1", "\"revision\": 2"),
        ("\"revision\": 1", "\"revision\": 0"),
        ("\"image\": \"debian\"", "\"image\": \"../x\""),
        ("\"image\": \"debian\"", "\"image\": \"ubuntu\""),
        ("\"format\": \"qcow2\"", "\"format\": \"host_device\""),
        ("\"virtual_size\": 9437696", "\"virtual_size\": 9437697"),
        ("\"virtual_size\": 9437696", "\"virtual_size\": 18446744073709551104"),
        ("\"file_size\": ", "\"file_size\": 1"),
        ("\"file\": \"disk0.qcow2\"", "\"file\": \"manifest.json\""),
        ("\"file\": \"disk0.qcow2\"", "\"file\": \"..\""),
        (
            "\"firmware\": null",
            "\"firmware\": {\"file\": \"/etc/shadow\", \"file_digest\": \"00\", \"format\": \"raw\"}",
        ),
        ("\"boot\": null", "\"boot\": {\"kernel\": \"/etc/shadow\"}"),
        ("\"boot\": null", "\"boot\": {\"kernel\": \"disk0.qcow2\"}"),
        ("\"boot\": null", "\"boot\": {\"kernel\": \"absent\"}"),
    ] {
        assert!(good.contains(from), "{from} in {good}");
        edit(&shelf, "debian/1", |_| good.replacen(from, to, 1));
        assert_eq!(shelf.library.get(&image).unwrap_err().kind, ErrorKind::Corrupt, "{to}");
    }
    edit(&shelf, "debian/1", |_| " ".repeat(2 << 20));
    assert_eq!(shelf.library.get(&image).unwrap_err().kind, ErrorKind::Corrupt);
    let path = shelf.library.root().join("debian/1/manifest.json");
    std::fs::remove_file(&path).unwrap();
    symlink("/etc/passwd", &path).unwrap();
    assert_eq!(shelf.library.get(&image).unwrap_err().kind, ErrorKind::Corrupt);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, good).unwrap();
    shelf.library.get(&image).unwrap();
    // A disk that is a link is none.
    let disk = shelf.library.root().join("debian/1/disk0.qcow2");
    std::fs::rename(&disk, shelf.path("elsewhere")).unwrap();
    symlink(shelf.path("elsewhere"), &disk).unwrap();
    assert_eq!(shelf.library.get(&image).unwrap_err().kind, ErrorKind::Corrupt);
}

#[tokio::test]
async fn staging_is_made_once_found_again_and_discarded() {
    let shelf = Shelf::new();
    let name = staging_name(JobId(12), 3);
    let staging = shelf.library.staging(&name).unwrap();
    std::fs::write(staging.path("disk0.qcow2").unwrap(), "x").unwrap();
    assert_eq!(shelf.library.staging(&name).unwrap(), staging);
    assert!(staging.disk(0).exists());
    shelf.library.staging("other").unwrap();
    let left = shelf.library.leftovers().unwrap();
    assert_eq!(
        left.iter().map(|l| (l.name.as_str(), l.job)).collect::<Vec<_>>(),
        [("job12-token3", Some(JobId(12))), ("other", None)]
    );
    assert!(shelf.library.discard_staging(&name).await.unwrap());
    assert!(!shelf.library.discard_staging(&name).await.unwrap());
    for bad in ["", ".", "..", "a/b", ".x", "/x"] {
        assert_eq!(shelf.library.staging(bad).unwrap_err().kind, ErrorKind::Refused, "{bad}");
        assert_eq!(shelf.library.discard_staging(bad).await.unwrap_err().kind, ErrorKind::Refused, "{bad}");
    }
    // What a file in the staging directory's place would be.
    std::fs::write(shelf.library.root().join(".staging/file"), "").unwrap();
    assert_eq!(shelf.library.staging("file").unwrap_err().kind, ErrorKind::Refused);
    assert!(shelf.library.discard_staging("file").await.unwrap());
}

fn edit(shelf: &Shelf, revision: &str, change: impl FnOnce(&str) -> String) {
    let path = shelf.library.root().join(revision).join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(&text)).unwrap();
}
