//! The worker: claims jobs and runs each in a task of its own.
//!
//! A submit wakes it at once. It owns the tasks: they are counted, told to stop when the daemon stops, and waited for.
//! What a job ends as is decided by its outcome alone.

use crate::flow;
use crate::node::Node;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;
use vcl_job::{Control, Kind, Observer, Outcome, Record};
use vcl_queue::{Claim, ClaimLimits, Queue};
use vcl_types::JobId;
use vcl_types::state::job::Event;

/// How the worker is told to stop: first to begin nothing new, then to stop what is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    pub(crate) drain: CancellationToken,
    pub(crate) now: CancellationToken,
}

/// Claims and runs jobs until it is told to stop, and returns when the last of them has.
pub(crate) async fn work(node: Arc<Node>, stop: Stop) {
    let tasks = TaskTracker::new();
    let limits = limits(&node);
    let mut submitted = node.queue.submitted();
    loop {
        if stop.drain.is_cancelled() {
            break;
        }
        submitted.borrow_and_update();
        match node.queue.claim(&node.name, &limits).await {
            Ok(Some(claim)) => {
                tasks.spawn(one(node.clone(), claim, stop.clone()));
                continue;
            }
            Ok(None) => {
                tokio::select! {
                    () = stop.drain.cancelled() => break,
                    changed = submitted.changed() => if changed.is_err() { break },
                }
            }
            Err(e) => {
                tracing::error!(error = %vcl_job::Error::from(e).failure(), "no job can be claimed; trying again in 2 s");
                tokio::select! {
                    () = stop.drain.cancelled() => break,
                    () = tokio::time::sleep(Duration::from_secs(2)) => {} // why: a database that is away tells nobody when it is back
                }
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

/// How many jobs may run at once: on this node, of each backend instance, and on each host. Two instances on one host
/// together get no more than the larger of their limits.
fn limits(node: &Node) -> ClaimLimits {
    let mut limits = ClaimLimits {
        node_max: u32::try_from(node.config.node.max_jobs).unwrap_or(u32::MAX),
        per_backend: HashMap::new(),
        per_host: HashMap::new(),
    };
    for (name, table) in &node.config.backends {
        let most = u32::try_from(table.max_jobs).unwrap_or(u32::MAX);
        limits.per_backend.insert(name.clone(), most);
        if let Some(host) = node.backends.get(name).and_then(|backend| backend.host()) {
            let of_host = limits.per_host.entry(host).or_default();
            *of_host = most.max(*of_host);
        }
    }
    limits
}

/// Runs one claimed job.
async fn one(node: Arc<Node>, claim: Claim, stop: Stop) {
    let id = claim.id();
    let span = tracing::info_span!("job", id = id.0, kind = claim.job.request.kind().as_str());
    let computer = claim.job.request.computer().cloned();
    async {
        let again = node.queue.journal(&claim).read().await.is_ok_and(|records| !records.is_empty());
        tracing::info!(title = %claim.job.request, token = claim.token, "job claimed");
        let kind = if again { "job-resumed" } else { "job-started" };
        let message = if again { "goes on where it was" } else { "begins" };
        node.queue.post_event(kind, Some(id), computer.as_ref(), message);
        let control = Control {
            cancel: CancellationToken::new(),
            drain: stop.drain.clone(),
            stop: stop.now.clone(),
            lost: CancellationToken::new(),
        };
        let wish = control.cancel.clone();
        let queue = node.queue.clone();
        let listening = async {
            if queue.cancel_wish(id).await.is_ok() {
                wish.cancel();
            }
            std::future::pending::<std::convert::Infallible>().await
        };
        let observer = Arc::new(Watcher::new(node.queue.clone(), &claim));
        let outcome = tokio::select! {
            outcome = flow::run(node.clone(), claim.clone(), observer, control) => outcome,
            never = listening => match never {},
        };
        end(&node, &claim, outcome, &stop).await;
    }
    .instrument(span)
    .await;
}

async fn end(node: &Node, claim: &Claim, outcome: Outcome<Option<String>>, stop: &Stop) {
    let id = claim.id();
    let computer = claim.job.request.computer().cloned();
    let (event, reason, made) = match outcome {
        Outcome::Done(made) => (Event::Done, None, made),
        Outcome::RolledBack(f) if f.kind == Kind::Cancelled => (Event::RolledBack, Some(f.message), None),
        Outcome::RolledBack(f) => (Event::Fail, Some(f.message), None),
        Outcome::Stuck(f) => (Event::Stick, Some(f.message), None),
        // Back to the queue: this daemon's next start, or another node, goes on with it.
        Outcome::Interrupted => {
            (Event::Lost, Some("the daemon stopped; it goes on at the next start".to_owned()), None)
        }
        Outcome::Lost(f) if f.kind == Kind::LeaseLost => {
            tracing::warn!(reason = %f, "the job is another's now");
            return;
        }
        Outcome::Lost(f) => (Event::Lost, Some(f.message), None),
    };
    let word = match event {
        Event::Done => "job-done",
        Event::RolledBack => "job-cancelled",
        Event::Fail => "job-failed",
        Event::Stick => "job-stuck",
        _ => "job-interrupted",
    };
    match event {
        Event::Done => tracing::info!(made, "job done"),
        Event::Fail | Event::Stick => tracing::warn!(reason, "job {event}"),
        _ => tracing::info!(reason, "job {event}"),
    }
    let message = reason.as_deref().or(made.as_deref()).unwrap_or("done").to_owned();
    if event == Event::Lost {
        // A journal that cannot be written would only be found broken again at once.
        // why: nothing tells when a full disk or a locked database is usable again
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut wait = Duration::from_secs(1);
    loop {
        match node.queue.finish(claim, event, reason.as_deref(), made.as_deref()).await {
            Ok(_) => break,
            Err(e) if e.kind == vcl_queue::Kind::LeaseLost => return,
            // Giving up would leave the job running with nobody at it. A stopping daemon gives up: the next start
            // finds the job in its journal.
            Err(_) if stop.drain.is_cancelled() => return,
            Err(e) => {
                tracing::error!(error = %e, "the job's end cannot be recorded; trying again");
                tokio::time::sleep(wait).await; // why: as above
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
    node.queue.post_event(word, Some(id), computer.as_ref(), &message);
}

/// Tells the queue, and so everybody who watches, what a job does.
struct Watcher {
    queue: Queue,
    job: JobId,
    computer: Option<vcl_types::ComputerName>,
    last: Mutex<Option<Instant>>,
}

impl Watcher {
    fn new(queue: Queue, claim: &Claim) -> Self {
        Self {
            queue,
            job: claim.id(),
            computer: claim.job.request.computer().cloned(),
            last: Mutex::new(None),
        }
    }
}

impl Observer for Watcher {
    fn progress(&self, step: &str, done: u64, total: u64) {
        // A few times a second is what an eye can use.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if done < total && last.is_some_and(|at| at.elapsed() < Duration::from_millis(150)) {
            return;
        }
        *last = Some(Instant::now());
        self.queue.progress(self.job, step, done, total);
    }
    fn event(&self, kind: &str, message: &str) {
        tracing::info!(kind, message, "event");
        self.queue.post_event(kind, Some(self.job), self.computer.as_ref(), message);
    }
    fn recorded(&self, record: &Record) {
        match record {
            Record::Started { key, .. } => tracing::info!(step = key, "step started"),
            Record::Done { key, .. } => tracing::info!(step = key, "step done"),
            Record::Failed { key, error } => tracing::warn!(step = key, error = %error, "step failed"),
            Record::Undone { key } => tracing::info!(step = key, "step undone"),
            _ => return,
        }
        // The journal holds it; whoever watches is told to look.
        self.queue.changed(self.job);
    }
}
