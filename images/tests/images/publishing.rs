//! Publishing, its undo and deleting: at every point a crash can leave them, and against each other.

use crate::fixture::{Shelf, cx, cx_of};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use vcl_images::{Directory, Error, ErrorKind, Library, Progress, Result, Space, Store};
use vcl_job::{Journal, Kind, Record};
use vcl_types::{ImageRef, JobId};

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_revision_is_there_whole_and_read_only() {
    let shelf = Shelf::new();
    let (staging, manifest) = shelf.sealed("job1-token1", "debian@1", 1).await;
    let revision = shelf.library.publish(&cx(), "job1-token1", &manifest).await.unwrap();
    assert!(!staging.directory().exists());
    assert_eq!(shelf.library.get(&image("debian@1")).unwrap(), revision);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    let directory = Path::new(&revision.directory);
    assert_eq!(mode(directory), 0o755);
    for name in ["manifest.json", "disk0.qcow2", "disk0.chunks"] {
        assert_eq!(mode(&directory.join(name)), 0o444, "{name}");
    }
    // The step runs again: the same work is done already. Other work is not taken for it.
    assert_eq!(shelf.library.publish(&cx(), "job1-token1", &manifest).await.unwrap(), revision);
    let (_, other) = shelf.sealed("job2-token1", "debian@1", 2).await;
    let e = shelf.library.publish(&cx(), "job2-token1", &other).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Exists, "{e:?}");
    assert!(shelf.library.staging("job2-token1").unwrap().disk(0).exists());
    assert_eq!(shelf.library.get(&image("debian@1")).unwrap(), revision);
}

#[tokio::test]
async fn what_cannot_be_published_is_not() {
    let shelf = Shelf::new();
    let (staging, manifest) = shelf.sealed("s", "debian@1", 1).await;
    let publish = async |manifest| shelf.library.publish(&cx(), "s", manifest).await.unwrap_err().kind;
    let mut bad = manifest.clone();
    bad.disks[0].file = "../disk0.qcow2".into();
    assert_eq!(publish(&bad).await, ErrorKind::Refused);
    let mut bad = manifest.clone();
    bad.disks[0].file_size.0 += 1;
    assert_eq!(publish(&bad).await, ErrorKind::Corrupt);
    let mut bad = manifest.clone();
    bad.disks.clear();
    assert_eq!(publish(&bad).await, ErrorKind::Refused);
    std::os::unix::fs::symlink("/etc/passwd", staging.path("extra").unwrap()).unwrap();
    assert_eq!(publish(&manifest).await, ErrorKind::Refused);
    std::fs::remove_file(staging.path("extra").unwrap()).unwrap();
    assert_eq!(
        shelf.library.publish(&cx(), "absent", &manifest).await.unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert!(shelf.library.revisions().unwrap().revisions.is_empty());
    shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
}

/// What is installed on a machine that no image is put on has no disks, and nothing lies beside its manifest.
#[tokio::test]
async fn a_revision_without_disks_is_one_like_others() {
    let shelf = Shelf::new();
    let (_, mut manifest) = shelf.sealed("s", "debian@1", 1).await;
    manifest.disks.clear();
    shelf.library.staging("empty").unwrap();
    let revision = shelf.library.publish(&cx(), "empty", &manifest).await.unwrap();
    assert_eq!(shelf.library.get(&image("debian@1")).unwrap(), revision);
    let scan = shelf.library.revisions().unwrap();
    assert_eq!((scan.revisions.len(), scan.findings.len()), (1, 0), "{:?}", scan.findings);
    assert!(shelf.library.verify(&cx(), &revision, &Progress::none()).await.unwrap().is_empty());
    assert!(shelf.library.delete(&image("debian@1")).await.unwrap());
}

/// Behind a library, dies at its `n`th call: what a process killed there leaves is what stands on the disk.
#[derive(Debug)]
struct Dying(Mutex<u32>);
impl Dying {
    fn alive(&self) -> Result<()> {
        let mut left = self.0.lock().unwrap();
        *left = left.checked_sub(1).ok_or_else(|| Error::new(ErrorKind::Fatal, "died"))?;
        Ok(())
    }
}
impl Store for Dying {
    fn clone_file(
        &self,
        from: &Path,
        to: &Path,
        stop: &CancellationToken,
        progress: &Progress,
    ) -> Result<()> {
        self.alive()?;
        Directory.clone_file(from, to, stop, progress)
    }
    fn publish(&self, from: &Path, to: &Path) -> Result<()> {
        self.alive()?;
        // Without its flushes, which count for themselves.
        std::fs::rename(from, to).map_err(|e| Error::io("renaming", e))?;
        self.alive()
    }
    fn flush_names(&self, directory: &Path) -> Result<()> {
        self.alive()?;
        Directory.flush_names(directory)
    }
    fn size(&self, path: &Path) -> Result<u64> {
        Directory.size(path)
    }
    fn space(&self, path: &Path) -> Result<Space> {
        Directory.space(path)
    }
    fn remove(&self, path: &Path) -> Result<bool> {
        self.alive()?;
        Directory.remove(path)
    }
}

#[tokio::test]
async fn publishing_goes_on_or_is_undone_from_wherever_it_died() {
    for point in 0.. {
        for go_on in [true, false] {
            let shelf = Shelf::new();
            let (_, manifest) = shelf.sealed("job1-token1", "debian@1", 1).await;
            let dying = Library::on(shelf.library.root(), Arc::new(Dying(Mutex::new(point)))).unwrap();
            let first = dying.publish(&cx(), "job1-token1", &manifest).await;
            // Seen by others, it is whole or not there.
            let scan = shelf.library.revisions().unwrap();
            assert!(scan.findings.is_empty(), "{point}: {:?}", scan.findings);
            if go_on {
                let revision = shelf.library.publish(&cx(), "job1-token1", &manifest).await.unwrap();
                let found = shelf.library.verify(&cx(), &revision, &Progress::none()).await.unwrap();
                assert_eq!(found, [], "{point}");
                assert_eq!(shelf.library.leftovers().unwrap(), [], "{point}");
            } else {
                for again in [false, true] {
                    let undone = shelf.library.unpublish(&image("debian@1"), JobId(1)).await.unwrap();
                    let discarded = shelf.library.discard_staging("job1-token1").await.unwrap();
                    assert_eq!(undone || discarded, !again, "{point}");
                }
                assert!(shelf.library.revisions().unwrap().revisions.is_empty(), "{point}");
            }
            if first.is_ok() && !go_on {
                assert!(point >= 5, "only {point} points at which it can die");
                return;
            }
        }
    }
}

#[tokio::test]
async fn deleting_goes_on_from_wherever_it_died() {
    for point in 0.. {
        let shelf = Shelf::new();
        let (_, manifest) = shelf.sealed("s", "debian@1", 1).await;
        shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
        let dying = Library::on(shelf.library.root(), Arc::new(Dying(Mutex::new(point)))).unwrap();
        let first = dying.delete(&image("debian@1")).await;
        assert!(shelf.library.revisions().unwrap().findings.is_empty(), "{point}");
        shelf.library.delete(&image("debian@1")).await.unwrap();
        shelf.library.empty_trash().await.unwrap();
        assert!(!shelf.library.delete(&image("debian@1")).await.unwrap());
        assert_eq!(shelf.library.get(&image("debian@1")).unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(shelf.library.root().join(".trash").read_dir().unwrap().count(), 0, "{point}");
        if first.is_ok() {
            assert!(point >= 2);
            return;
        }
    }
}

#[tokio::test]
async fn only_the_job_that_published_takes_it_back() {
    let shelf = Shelf::new();
    let (_, manifest) = shelf.sealed("s", "debian@1", 1).await;
    shelf.library.publish(&cx(), "s", &manifest).await.unwrap();
    let e = shelf.library.unpublish(&image("debian@1"), JobId(2)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Refused);
    assert!(shelf.library.unpublish(&image("debian@1"), JobId(1)).await.unwrap());
    assert!(!shelf.library.unpublish(&image("debian@1"), JobId(1)).await.unwrap());
    assert!(!shelf.library.root().join("debian").exists());
    assert_eq!(shelf.library.delete(&image("debian")).await.unwrap_err().kind, ErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_several_that_publish_one_name_one_does() {
    let shelf = Shelf::new();
    let mut racers = Vec::new();
    for job in 1..=6 {
        let name = format!("job{job}-token1");
        let (_, manifest) = shelf.sealed(&name, "debian@1", job).await;
        racers.push((name, manifest));
    }
    let start = Arc::new(tokio::sync::Barrier::new(racers.len()));
    let tasks: Vec<_> = racers
        .into_iter()
        .map(|(name, manifest)| {
            let (library, start) = (shelf.library.clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                library.publish(&cx(), &name, &manifest).await
            })
        })
        .collect();
    let mut won = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            Ok(revision) => won.push(revision),
            Err(e) => assert_eq!(e.kind, ErrorKind::Exists, "{e:?}"),
        }
    }
    assert_eq!(won.len(), 1);
    assert_eq!(shelf.library.get(&image("debian@1")).unwrap(), won[0]);
    assert_eq!(shelf.library.leftovers().unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishing_and_deleting_of_one_image_do_not_disturb_each_other() {
    let shelf = Shelf::new();
    for round in 1..=20i64 {
        let (_, old) = shelf.sealed("old", "debian@1", round).await;
        shelf.library.publish(&cx(), "old", &old).await.unwrap();
        let (_, new) = shelf.sealed("new", "debian@2", round).await;
        let (deleter, publisher) = (shelf.library.clone(), shelf.library.clone());
        let delete = tokio::spawn(async move { deleter.delete(&image("debian@1")).await });
        let publish = tokio::spawn(async move { publisher.publish(&cx(), "new", &new).await });
        assert!(delete.await.unwrap().unwrap());
        publish.await.unwrap().unwrap();
        assert!(shelf.library.delete(&image("debian@2")).await.unwrap());
    }
}

/// A journal whose lease another process has taken.
#[derive(Debug)]
struct Lost;
#[async_trait::async_trait]
impl Journal for Lost {
    async fn append(&self, _: &Record) -> vcl_job::Result<()> {
        Ok(())
    }
    async fn read(&self) -> vcl_job::Result<Vec<Record>> {
        Ok(Vec::new())
    }
    async fn check(&self) -> vcl_job::Result<()> {
        Err(vcl_job::Error::new(Kind::LeaseLost, "another node has it"))
    }
}

#[tokio::test]
async fn nothing_is_published_without_the_lease() {
    let shelf = Shelf::new();
    let (_, manifest) = shelf.sealed("s", "debian@1", 1).await;
    let lost = cx_of(Arc::new(Lost), CancellationToken::new());
    let e = shelf.library.publish(&lost, "s", &manifest).await.unwrap_err();
    assert_eq!(vcl_job::Error::from(e).kind, Kind::LeaseLost);
    assert!(shelf.library.revisions().unwrap().revisions.is_empty());
}

#[test]
fn a_name_that_is_taken_is_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::create_dir(&from).unwrap();
    // Not even an empty directory, which a plain rename would replace.
    std::fs::create_dir(&to).unwrap();
    assert_eq!(Directory.publish(&from, &to).unwrap_err().kind, ErrorKind::Exists);
    assert!(from.exists());
}
