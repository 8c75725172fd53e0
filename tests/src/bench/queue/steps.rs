//! The journal alone: what a step writes before it runs and when it is done, durable before it goes on.

use super::super::{Line, quantile};
use anyhow::{Context, Result};
use camino::Utf8Path;
use std::sync::Arc;
use std::time::Instant;
use vcl_job::{Journal, Record};
use vcl_queue::{ClaimLimits, NewJob, Queue};
use vcl_types::JobRequest;

const STEPS: usize = 400;
const JOBS: usize = 100;

/// On SQLite, `synchronous=FULL`.
pub(super) async fn sqlite(directory: &Utf8Path) -> Result<()> {
    let queue = Queue::open(directory.join("steps.db")).await?;
    let limits = ClaimLimits { node_max: 1000, ..ClaimLimits::default() };
    let mut journals = Vec::new();
    for n in 0..JOBS {
        let image = format!("i{n}").parse()?;
        let request = JobRequest::Import { image, path: "/x".into(), boot: None, hardware: None, note: None };
        queue.submit(NewJob { request, requester: "bench".into(), backend: None, host: None }).await?;
        journals.push(queue.journal(&queue.claim("bench", &limits).await?.context("no job")?));
    }
    let mut alone = steps(journals[0].clone(), STEPS).await?;
    Line::alone("queue", "step_sqlite", "µs", quantile(&mut alone, 0.5), alone.len()).print();
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
    Line::alone("queue", "step_sqlite_burst", "µs", each, done).print();
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
