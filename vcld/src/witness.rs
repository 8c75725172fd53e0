//! Watches one run of a job for what is learned from it: how long its steps took, and what is kept when it fails.

use crate::evidence;
use crate::node::Node;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use vcl_job::{Failure, Kind, Record};
use vcl_queue::Claim;
use vcl_types::state::job::Event;

/// How often evidence is gathered in one run at most: a step that may fail on the way is no reason to gather for ever.
const MOST: u32 = 3;

#[derive(Default)]
struct Seen {
    open: HashMap<String, Instant>,
    took: Vec<(String, Duration)>,
    gathered: u32,
    kept: bool,
    /// The newest failure that evidence was gathered for.
    failure: Option<String>,
}

/// One run's witness.
pub(crate) struct Witness {
    node: Arc<Node>,
    claim: Claim,
    began: Instant,
    /// A run that goes on where another stopped has not seen all of the job.
    whole: bool,
    stop: CancellationToken,
    seen: Mutex<Seen>,
}

impl Witness {
    /// A witness of a run that begins now; `again` when an earlier one has begun the job, `stop` when the daemon has to
    /// go and nobody has time for evidence.
    pub(crate) fn new(node: Arc<Node>, claim: Claim, again: bool, stop: CancellationToken) -> Self {
        Self { node, claim, began: Instant::now(), whole: !again, stop, seen: Mutex::default() }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A record was written.
    pub(crate) fn recorded(&self, record: &Record) {
        match record {
            Record::Started { key, .. } => {
                self.seen().open.insert(key.clone(), Instant::now());
            }
            Record::Done { key, .. } => {
                let mut seen = self.seen();
                if let Some(began) = seen.open.remove(key) {
                    let took = began.elapsed();
                    let kind = self.claim.job.request.kind();
                    self.node.insight.metrics.stepped(kind.as_str(), key, took);
                    seen.took.push((key.clone(), took));
                }
            }
            _ => {}
        }
    }

    /// Something failed and nothing has been cleaned up.
    pub(crate) async fn failing(&self, key: &str, failure: &Failure) {
        if failure.kind.ends_the_job() && failure.kind != Kind::Diverged {
            return;
        }
        {
            let mut seen = self.seen();
            // The job unwinds for a step's failure, which was looked at when the machine was still there.
            if key.is_empty() && seen.kept
                || seen.gathered >= MOST
                || seen.failure.as_ref() == Some(&failure.message)
            {
                return;
            }
            seen.gathered += 1;
            seen.failure = Some(failure.message.clone());
        }
        let kept = tokio::select! {
            kept = evidence::collect(&self.node, &self.claim, key, failure) => kept,
            () = self.stop.cancelled() => false,
        };
        self.seen().kept |= kept;
    }

    /// The run is over: what it teaches is remembered, and the reason gets its hint.
    pub(crate) fn ended(&self, event: Event, reason: Option<String>) -> Option<String> {
        if event == Event::Done {
            let steps = std::mem::take(&mut self.seen().took);
            self.node.queue.post_timings(&self.claim, self.whole.then(|| self.began.elapsed()), steps);
        }
        if matches!(event, Event::Fail | Event::Stick) {
            self.node.insight.look_again.notify_one();
            if self.seen().kept {
                let id = self.claim.id();
                return reason.map(|reason| format!("{reason}; evidence: vclctl job evidence {id}"));
            }
        }
        reason
    }
}
