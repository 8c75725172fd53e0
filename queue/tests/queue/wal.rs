//! A machine that stops in the middle of a write: the write-ahead log ends at any of its frames, or within one.

use super::world::{NODE, World, import, load, name};
use vcl_job::Record;
use vcl_queue::{ClaimLimits, JobFilter, Queue};
use vcl_types::JobId;

const HEADER: usize = 32;
const FRAME: usize = 24 + 4096;

fn record(job: i64, n: usize) -> Record {
    Record::Started { key: format!("{job}/{n}"), intent: "x".repeat(200 * n).into(), at: None }
}

#[tokio::test]
async fn a_log_that_ends_at_any_frame_opens_and_its_jobs_go_on() {
    let mut world = World::new().await;
    // The log begins anew: what was there before is in the database file.
    world.reopen().await;
    let mut claims = vec![world.running(load("a", "debian")).await];
    for image in ["x", "y"] {
        claims.push(world.running(import(image)).await);
    }
    world
        .queue
        .computer_event(&claims[0], "begin", &name("a"), vcl_types::state::computer::Event::Load)
        .await
        .unwrap();
    for n in 0..12 {
        for claim in &claims {
            world.queue.journal(claim).append(&record(claim.id().0, n)).await.unwrap();
        }
    }
    world.done(&claims[2]).await;
    // As the disk is at this moment: nothing was closed.
    let (db, wal) = (
        std::fs::read(super::path(&world)).unwrap(),
        std::fs::read(super::path(&world).with_extension("db-wal")).unwrap(),
    );
    let frames = (wal.len() - HEADER) / FRAME;
    assert!(frames > 60 && (wal.len() - HEADER).is_multiple_of(FRAME), "{frames} frames");
    let whole = (0..=frames).map(|n| HEADER + n * FRAME);
    let within = [
        0,
        7,
        HEADER - 1,
        HEADER + 11,
        HEADER + 24,
        HEADER + 30 * FRAME + 24,
        HEADER + 31 * FRAME - 1,
        wal.len() - 1,
        wal.len() - 2048,
    ];
    let mut longest = 0;
    for cut in whole.chain(within) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcl.db");
        std::fs::write(&path, &db).unwrap();
        std::fs::write(dir.path().join("vcl.db-wal"), &wal[..cut]).unwrap();
        // Opening reads all of it (`quick_check`).
        let queue = Queue::open(&path).await.unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        let jobs = queue.jobs(&JobFilter::default()).await.unwrap();
        let running = queue.recover(NODE).await.unwrap();
        for _ in &running {
            let claim = queue.claim(NODE, &ClaimLimits::default()).await.unwrap().unwrap();
            assert!(running.contains(&claim.id()) && claim.token == 2);
            let journal = queue.journal(&claim);
            let there = journal.read().await.unwrap();
            let expected: Vec<_> = (0..there.len()).map(|n| record(claim.id().0, n)).collect();
            assert_eq!(there, expected, "cut at {cut}");
            longest = longest.max(there.len());
            journal.append(&record(claim.id().0, there.len())).await.unwrap();
            assert_eq!(journal.read().await.unwrap().len(), there.len() + 1);
        }
        if cut == wal.len() {
            assert_eq!((jobs.len(), running), (3, vec![JobId(1), JobId(2)]), "the whole log has it all");
        }
        queue.close().await;
    }
    assert_eq!(longest, 12);
}
