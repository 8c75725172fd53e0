//! How fast a journal is written on this machine: `cargo test -p vcl-queue --release -- --ignored --nocapture speed`.

use super::world::{World, import};
use std::time::{Duration, Instant};
use vcl_job::Record;
use vcl_queue::ClaimLimits;

fn record(n: usize) -> Record {
    Record::Started { key: format!("load/step {n}"), intent: "x".repeat(300).into(), at: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn appending() {
    let world = World::new().await;
    let limits = ClaimLimits { node_max: 100, ..ClaimLimits::default() };
    let mut journals = Vec::new();
    for n in 0..64 {
        world.submit(import(&format!("i{n}"))).await.unwrap();
        journals.push(world.queue.journal(&world.queue.claim("n", &limits).await.unwrap().unwrap()));
    }
    for jobs in [1, 8, 64] {
        let each = 400 / jobs + 50;
        let begin = Instant::now();
        let writers = journals[..jobs].iter().cloned().map(|journal| {
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for n in 0..each {
                    let begin = Instant::now();
                    journal.append(&record(n)).await.unwrap();
                    took.push(begin.elapsed());
                }
                took
            })
        });
        let mut took: Vec<Duration> = Vec::new();
        for writer in futures::future::join_all(writers).await {
            took.extend(writer.unwrap());
        }
        let rate = took.len() as f64 / begin.elapsed().as_secs_f64();
        took.sort_unstable();
        let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
        println!("{jobs:3} jobs: {rate:6.0} records/s, each p50 {p50:.2?} p99 {p99:.2?}");
    }
    let mut file = std::fs::File::create(world.dir.path().join("plain")).unwrap();
    let begin = Instant::now();
    for _ in 0..200 {
        std::io::Write::write_all(&mut file, &[0; 4096]).unwrap();
        file.sync_data().unwrap();
    }
    println!("plain write and fdatasync: {:.2?}", begin.elapsed() / 200);
    let begin = Instant::now();
    for _ in 0..1000 {
        journals[0].check().await.unwrap();
    }
    println!("check: {:.2?}", begin.elapsed() / 1000);
    let begin = Instant::now();
    for _ in 0..20 {
        journals[0].read().await.unwrap();
    }
    println!("reading {} records: {:.2?}", journals[0].read().await.unwrap().len(), begin.elapsed() / 20);
}
