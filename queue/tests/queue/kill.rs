//! What was answered is there after kill -9.

use super::world::{World, load, open};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use vcl_job::Record;
use vcl_queue::{Claim, ClaimLimits};
use vcl_types::state::job::State;

const DATABASE: &str = "VCL_QUEUE_KILLED_DATABASE";

fn record(n: usize) -> Record {
    Record::Done { key: n.to_string(), output: serde_json::Value::Null }
}

/// Not a test of its own: the process that is killed. It says each record's number when it is durable.
#[tokio::test]
async fn the_process_that_is_killed() {
    let Ok(address) = std::env::var(DATABASE) else { return };
    let queue = open(&address).await.unwrap();
    let claim = queue.claim("killed", &ClaimLimits::default()).await.unwrap().unwrap();
    let journal = queue.journal(&claim);
    for n in 0.. {
        journal.append(&record(n)).await.unwrap();
        // The test harness keeps what is printed through println.
        std::io::Write::write_all(&mut std::io::stderr(), format!("durable {n}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    let mut world = World::new().await;
    let id = world.submit(load("a", "debian")).await.unwrap();
    world.queue.close().await;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .arg(format!("{}::the_process_that_is_killed", module_path!().trim_start_matches("queue::")))
        .arg("--nocapture")
        .env(DATABASE, &world.address)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(child.stderr.take().unwrap());
    let mut last = None;
    for line in said.lines() {
        let line = line.unwrap();
        let Some(n) = line.strip_prefix("durable ") else { continue };
        last = n.parse::<usize>().ok();
        if last == Some(20) {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    let last = last.unwrap();
    assert!(last >= 20);
    // The lock of the dead process does not keep the next one out.
    world.reopen().await;
    let job = world.queue.job(id).await.unwrap();
    assert_eq!(job.state, State::Running);
    let records = world.queue.journal(&Claim { token: job.token, job, lease: None }).read().await.unwrap();
    assert!(records.len() > last, "{} records, {last} was answered", records.len());
    assert_eq!(records, (0..records.len()).map(record).collect::<Vec<_>>());
    assert_eq!(world.queue.recover("killed").await.unwrap(), [id]);
    assert_eq!(world.claim().await.unwrap().token, 2);
}
