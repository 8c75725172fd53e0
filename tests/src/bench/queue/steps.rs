//! The journal alone: what a step writes before it runs and when it is done, durable before it goes on. The same on
//! either engine.

use super::super::{Line, quantile};
use anyhow::{Context, Result};
use camino::Utf8Path;
use std::sync::Arc;
use std::time::Instant;
use vcl_job::{Journal, Record};
use vcl_queue::testing::MariaDbServer;
use vcl_queue::{ClaimLimits, NewJob, Queue};
use vcl_types::JobRequest;

const STEPS: usize = 400;
const JOBS: usize = 100;

/// On SQLite, `synchronous=FULL`.
pub(super) async fn sqlite(directory: &Utf8Path) -> Result<()> {
    let queue = Queue::open(directory.join("steps.db")).await?;
    measure(queue, ["step_sqlite", "step_sqlite_burst"]).await
}

/// On a MariaDB of its own, `innodb_flush_log_at_trx_commit=1`, over TCP on this machine.
pub(super) async fn mariadb(directory: &Utf8Path) -> Result<()> {
    let server = MariaDbServer::start_in(directory.as_std_path())?;
    let queue = Queue::connect(&server.database().await).await?;
    measure(queue, ["step_mariadb", "step_mariadb_burst"]).await
}

async fn measure(queue: Queue, [alone, burst]: [&'static str; 2]) -> Result<()> {
    let limits = ClaimLimits { node_max: 1000, ..ClaimLimits::default() };
    let mut journals = Vec::new();
    for n in 0..JOBS {
        let image = format!("i{n}").parse()?;
        let request = JobRequest::Import {
            image,
            path: "/x".into(),
            boot: None,
            hardware: None,
            os: vcl_types::OsName::Linux,
            note: None,
        };
        queue.submit(NewJob { request, requester: "bench".into(), backend: None, host: None }).await?;
        journals.push(queue.journal(&queue.claim("bench", &limits).await?.context("no job")?));
    }
    let mut took = steps(journals[0].clone(), STEPS).await?;
    Line::alone("queue", alone, "µs", quantile(&mut took, 0.5), took.len()).print();
    let begin = Instant::now();
    let mut writing = tokio::task::JoinSet::new();
    for journal in journals {
        writing.spawn(steps(journal, 20));
    }
    let mut done = 0;
    while let Some(took) = writing.join_next().await {
        done += took??.len();
    }
    let each = begin.elapsed().as_secs_f64() * 1e6 / done as f64;
    Line::alone("queue", burst, "µs", each, done).print();
    queue.close().await;
    Ok(())
}

/// Writes steps one after the other and answers what each took, in µs.
async fn steps(journal: Arc<dyn Journal>, count: usize) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for n in 0..count {
        let key = format!("load/step {n}");
        let begin = Instant::now();
        // As much as an overlay's step has to say.
        let intent = serde_json::json!({ "path": "/var/lib/vcld/kvm1/gis-01/disk0.qcow2", "backing": "/srv/vcl/debian/1/disk0.qcow2", "format": "qcow2" });
        journal
            .append(&Record::Started {
                key: key.clone(),
                intent: intent.clone(),
                at: Some(1_700_000_000_000),
            })
            .await?;
        journal.append(&Record::Done { key, output: intent }).await?;
        took.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}
