use super::world::{World, chain, import, load};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use vcl_job::Record;
use vcl_queue::{Kind, Queue};
use vcl_types::JobId;

/// A database with a few hundred kilobytes in it, closed.
async fn filled() -> World {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let journal = world.queue.journal(&claim);
    let output = serde_json::Value::String("x".repeat(20_000));
    for n in 0..20 {
        journal.append(&Record::Done { key: n.to_string(), output: output.clone() }).await.unwrap();
    }
    world.queue.close().await;
    world
}

/// Whatever a damaged file does, it is an error that says so; nothing panics, and what is answered was written so.
async fn is_refused(path: &Path, what: &str) {
    let error = Queue::open(path).await.expect_err(what);
    assert_eq!(error.kind, Kind::Corrupt, "{what}: {}", chain(&error));
    assert!(error.context.contains("put back a copy"), "{what}: {error}");
}

#[tokio::test]
async fn a_truncated_database_is_corrupt() {
    let world = filled().await;
    let whole = std::fs::metadata(super::path(&world)).unwrap().len();
    for cut in [whole / 2, whole - 5000, 4096, 1000] {
        let copy = world.dir.path().join("cut.db");
        std::fs::copy(super::path(&world), &copy).unwrap();
        std::fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(cut).unwrap();
        is_refused(&copy, &format!("cut to {cut} of {whole}")).await;
    }
}

#[tokio::test]
async fn a_garbled_database_is_corrupt_or_still_right() {
    let world = filled().await;
    let whole = std::fs::metadata(super::path(&world)).unwrap().len();
    let mut refused = 0;
    for page in 0..whole / 4096 {
        let copy = world.dir.path().join(format!("garbled-{page}.db"));
        std::fs::copy(super::path(&world), &copy).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xA5; 2048]).unwrap();
        drop(file);
        match Queue::open(&copy).await {
            Err(error) => {
                assert_eq!(error.kind, Kind::Corrupt, "page {page}: {}", chain(&error));
                refused += 1;
            }
            // SQLite has no checksums: the inside of a long text can change unseen. Reading it must not panic.
            Ok(queue) => {
                let _ = queue.steps(JobId(1)).await.map_err(|e| assert_eq!(e.kind, Kind::Corrupt, "{e}"));
                let _ = queue.images().await;
                let _ = queue.computers().await;
                queue.close().await;
            }
        }
    }
    assert!(refused > 5, "{refused}");
}

#[tokio::test]
async fn what_is_not_a_database_is_not_made_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vcl.db");
    std::fs::write(&path, "a letter to somebody\n".repeat(400)).unwrap();
    is_refused(&path, "a text").await;
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("a letter"));
}

#[tokio::test]
async fn a_row_that_is_not_what_was_written_is_named() {
    let world = filled().await;
    let url = format!("sqlite://{}", super::path(&world).display());
    let mut db = <sqlx::SqliteConnection as sqlx::Connection>::connect(&url).await.unwrap();
    for sql in [
        "UPDATE journal SET record = '{' WHERE seq = 3",
        "UPDATE computers SET state = 'asleep' WHERE name = 'b'",
        "UPDATE revisions SET manifest = 'null'",
    ] {
        sqlx::query(sql).execute(&mut db).await.unwrap();
    }
    sqlx::Connection::close(db).await.unwrap();
    let queue = Queue::open(super::path(&world)).await.unwrap();
    let errors = [
        queue.steps(JobId(1)).await.unwrap_err(),
        queue.computers().await.unwrap_err(),
        queue.images().await.unwrap_err(),
    ];
    for (error, part) in errors.iter().zip(["journal of job 1", "asleep", "manifest"]) {
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(chain(error).contains(part), "{}", chain(error));
    }
}

/// A file system of two megabytes, for as long as it lives.
struct Small(std::path::PathBuf);
impl Small {
    fn mount(dir: &Path) -> Option<Self> {
        let at = dir.join("small");
        std::fs::create_dir(&at).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&at).output().ok()?;
        mounted.status.success().then_some(Self(at))
    }
}
impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_said_so_and_when_there_is_room_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(dir.path()) else {
        eprintln!("not checked: mounting a small file system needs root");
        return;
    };
    let path = small.0.join("vcl.db");
    let queue = Queue::open(&path).await.unwrap();
    let address = path.display().to_string();
    let world = World { queue: queue.clone(), dir: tempfile::tempdir().unwrap(), address };
    let claim = world.running(import("x")).await;
    let journal = queue.journal(&claim);
    let record = |n: usize| Record::Done { key: n.to_string(), output: "x".repeat(2_000).into() };
    let ballast = small.0.join("ballast");
    let mut written = Vec::new();
    for round in 0..3 {
        std::fs::write(&ballast, vec![0u8; 300 * 1024]).unwrap();
        // Filled to the last block, so that neither the log nor its index can grow.
        let mut file = std::fs::OpenOptions::new().append(true).open(&ballast).unwrap();
        while file.write_all(&[0u8; 4096]).is_ok() {}
        drop(file);
        let error = loop {
            let next = record(written.len());
            match journal.append(&next).await {
                Ok(()) => written.push(next),
                Err(error) => break error,
            }
            assert!(written.len() < 1000, "the disk does not fill up");
        };
        assert_eq!(error.kind, vcl_job::Kind::NoSpace, "{}", error.failure());
        // Alone, and several at once. One that comes after may find room in the log where nobody reads it any more.
        if let Err(error) = queue.event("noted", None, None, &"x".repeat(8000)).await {
            assert_eq!(error.kind, Kind::NoSpace, "{}", chain(&error));
        }
        let all = (0..5).map(|_| queue.event("noted", None, None, "x")).collect::<Vec<_>>();
        let all = futures::future::join_all(all).await;
        assert!(
            all.iter().all(|r| r.as_ref().err().is_none_or(|e| e.kind == Kind::NoSpace)),
            "round {round}"
        );
        // What was there can be read, and nothing that was refused is there.
        assert_eq!(journal.read().await.unwrap(), written);
        std::fs::remove_file(&ballast).unwrap();
        let next = record(written.len());
        journal.append(&next).await.unwrap();
        written.push(next);
        assert_eq!(journal.read().await.unwrap(), written);
    }
    drop(journal);
    queue.close().await;
    let queue = Queue::open(&path).await.unwrap();
    assert_eq!(queue.journal(&claim).read().await.unwrap(), written);
    queue.close().await;
}
