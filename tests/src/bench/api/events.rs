//! How long it takes until whoever watches has a step.
//!
//! Two hundred streams are open, half of them over TLS with a token and half on the socket, while eight computers at once are
//! loaded, each step taking [`STEP`]. The database lies in memory. The clock of an item starts at the time that the journal
//! gives its record, and stops when the typed client has read it. Items of a job come in the order of its records, and none
//! may be missing.

use super::{Machines, Site, done, submitted};
use crate::bench::{Line, quantile};
use anyhow::{Result, ensure};
use camino::Utf8Path;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use tokio::task::JoinSet;
use vcl_types::api::StreamItem;
use vcl_types::{JobId, JobRequest};
use vclctl::{Client, Stream};

const SUBSCRIBERS: usize = 200;
/// How many computers are loaded, how many at once, and how long each of a load's steps takes at least and at most: about
/// what they do on a hypervisor, and not all the same, or all subscribers would get all of them at the same moments.
const LOADS: usize = 40;
const AT_ONCE: u32 = 8;
const STEP: [&str; 2] = ["500ms", "1500ms"];

/// When a subscriber heard of each job.
type Heard = HashMap<JobId, Vec<DateTime<Utc>>>;

pub(super) fn run(directory: &Utf8Path) -> Result<()> {
    let [least, most] = STEP;
    let backend = format!(
        "type = \"sim\"\ndirectory = \"{directory}/machines\"\nmax_jobs = {AT_ONCE}\n\
         delay_min = \"{least}\"\ndelay_max = \"{most}\""
    );
    let mut site = Site::start(directory, "sim-[0001-0040]", Machines::Own(backend))?;
    let watcher = site.client(&site.token)?;
    let mut late = site.runtime.block_on(watched(&watcher, &site.socket()?))?;
    let n = late.len();
    for (case, q) in [("event_p50", 0.5), ("event_p99", 0.99), ("event_max", 1.0)] {
        Line::alone("api", case, "ms", quantile(&mut late, q), n).print();
    }
    site.daemon.stop()
}

async fn watched(watcher: &Client, admin: &Client) -> Result<Vec<f64>> {
    let mut streams = Vec::new();
    // One address may have 128 connections over TLS.
    for _ in 0..SUBSCRIBERS / 2 {
        streams.push(watcher.stream(None, None).await?);
        streams.push(admin.stream(None, None).await?);
    }
    let (end, _) = tokio::sync::watch::channel(false);
    let mut watching = JoinSet::new();
    for stream in streams {
        watching.spawn(listen(stream, end.subscribe()));
    }
    let image: vcl_types::ImageRef = "tiny@1".parse()?;
    let computers = (1..=LOADS).map(|n| format!("sim-{n:04}").parse());
    let computers: Vec<vcl_types::ComputerName> = computers.collect::<Result<_, _>>()?;
    let request = |computer| JobRequest::Load { computer, image: image.clone() };
    let jobs = submitted(admin, computers.into_iter().map(request)).await?;
    done(admin, &jobs).await?;
    let mut told: HashMap<JobId, Vec<DateTime<Utc>>> = HashMap::new();
    for id in &jobs {
        let steps = admin.job(*id).await?.steps;
        let mut times: Vec<_> = steps.iter().flat_map(|step| [step.started, step.ended]).flatten().collect();
        times.sort();
        told.insert(*id, times);
    }
    end.send_replace(true);
    let mut late = Vec::new();
    while let Some(heard) = watching.join_next().await {
        let heard = heard??;
        for id in &jobs {
            let heard = heard.get(id).map(Vec::as_slice).unwrap_or_default();
            let told = told.get(id).map(Vec::as_slice).unwrap_or_default();
            ensure!(heard.len() == told.len(), "job {id}: {} of {} records came", heard.len(), told.len());
            late.extend(
                told.iter().zip(heard).map(|(told, heard)| (*heard - *told).as_seconds_f64() * 1000.0),
            );
        }
    }
    Ok(late)
}

/// Notes when each item came.
async fn listen(mut stream: Stream, mut end: tokio::sync::watch::Receiver<bool>) -> Result<Heard> {
    let mut heard = Heard::new();
    loop {
        let item = tokio::select! {
            biased;
            item = stream.next() => item?,
            _ = end.wait_for(|end| *end) => return Ok(heard),
        };
        match item {
            Some(StreamItem::Changed { job }) => heard.entry(job).or_default().push(Utc::now()),
            Some(StreamItem::Missed) => anyhow::bail!("a subscriber was too slow and has missed something"),
            Some(StreamItem::Event(_) | StreamItem::Progress { .. }) => {}
            None => anyhow::bail!("a stream ended"),
        }
    }
}
