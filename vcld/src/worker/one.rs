//! One job: run, ended as its outcome says, and told to whoever watches.
//!
//! What a job ends as is decided by its outcome alone.

use super::Life;
use crate::admission::Admission;
use crate::flow;
use crate::node::Node;
use crate::witness::Witness;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use vcl_job::{Control, Failure, Kind, Observer, Outcome, Record};
use vcl_queue::{Claim, Queue, WaitFor};
use vcl_types::JobId;
use vcl_types::state::job::{Event, State};

/// Runs one claimed job. `before` is what the queue's [`cancels`](Queue::cancels) had announced when it was not claimed
/// yet.
pub(super) async fn run(life: Arc<Life>, claim: Claim, before: u64) {
    let (node, id) = (life.node.clone(), claim.id());
    let span = tracing::info_span!("job", id = id.0, kind = claim.job.request.kind().as_str());
    let cancel = CancellationToken::new();
    if claim.job.cancel_wanted {
        cancel.cancel();
    }
    let known = Known::new(&life, id, cancel.clone());
    let computer = claim.job.request.computer().cloned();
    async {
        // A first claim finds nothing written.
        let again = claim.token > 1
            && node.queue.journal(&claim).read().await.is_ok_and(|records| !records.is_empty());
        tracing::info!(title = %claim.job.request, token = claim.token, "job claimed");
        // One that was called off is not to wait for anything.
        let admission = match cancel.is_cancelled() && !again {
            true => Admission::Admitted,
            false => node.take_room(&claim, again).await,
        };
        if let Admission::Waits { place, .. } = &admission {
            let reason = admission.reason().unwrap_or_default();
            return wait(&node, &claim, &place.name, &reason, &life).await;
        }
        let kind = if again { "job-resumed" } else { "job-started" };
        let message = if again { "goes on where it was" } else { "begins" };
        node.queue.post_event(kind, Some(id), computer.as_ref(), message);
        // It may have been called off between its claim and now, when nobody listened for it. Who has the database to
        // itself announces each of these.
        let quiet = node.alone() && *node.queue.cancels().borrow() == before;
        if !quiet && node.queue.cancel_wanted(id).await.unwrap_or(false) {
            cancel.cancel();
        }
        let control =
            Control { cancel, drain: life.drain.clone(), stop: life.stop.clone(), lost: life.lost.clone() };
        let witness = Arc::new(Witness::new(node.clone(), claim.clone(), again, life.stop.clone()));
        let observer = Arc::new(Watcher::new(node.queue.clone(), &claim, witness.clone()));
        let outcome = flow::run(node.clone(), claim.clone(), observer, control).await;
        // Whatever it is going to write is written or taken back.
        node.leave_room(id);
        end(&node, &claim, outcome, &life, &witness).await;
    }
    .instrument(span)
    .await;
    drop(known);
}

/// It does not fit, and waits for room. It has done nothing.
async fn wait(node: &Node, claim: &Claim, place: &str, reason: &str, life: &Life) {
    let (id, computer) = (claim.id(), claim.job.request.computer());
    match node.queue.wait_for(claim, WaitFor::Space(place.to_owned()), reason).await {
        Ok(State::Waiting) => {
            tracing::info!(reason, "job waits for room");
            node.queue.post_event("job-waiting", Some(id), computer, reason);
        }
        // It was called off meanwhile, and is claimed again for that.
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(error = %error, "the job cannot be put off; it is tried again");
            // why: nothing tells when a full disk or a locked database is usable again
            tokio::time::sleep(Duration::from_secs(1)).await;
            record(node, claim, Event::Lost, Some(reason), None, life).await;
        }
    }
    // What was in its way may have gone while it was put off.
    node.insight.room.nudged.notify_one();
}

/// A job in the life's list of what is under way, for as long as this lives.
struct Known<'a> {
    life: &'a Life,
    id: JobId,
}
impl<'a> Known<'a> {
    fn new(life: &'a Life, id: JobId, cancel: CancellationToken) -> Self {
        life.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id, cancel);
        Self { life, id }
    }
}
impl Drop for Known<'_> {
    fn drop(&mut self) {
        self.life.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

async fn end(node: &Node, claim: &Claim, outcome: Outcome<Option<String>>, life: &Life, witness: &Witness) {
    let id = claim.id();
    if claim.lease.as_ref().is_some_and(|lease| lease.check().is_err()) {
        tracing::warn!("the node's lease was lost; whoever claims the job next goes on with it");
        return;
    }
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
    let reason = witness.ended(event, reason);
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
        if !life.drain.is_cancelled() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    if record(node, claim, event, reason.as_deref(), made.as_deref(), life).await {
        node.queue.post_event(word, Some(id), computer.as_ref(), &message);
    }
}

/// Records what became of a job, as soon as the database takes it. `false` when it is not this life's any more.
async fn record(
    node: &Node,
    claim: &Claim,
    event: Event,
    reason: Option<&str>,
    made: Option<&str>,
    life: &Life,
) -> bool {
    let mut wait = Duration::from_secs(1);
    loop {
        match node.queue.finish(claim, event, reason, made).await {
            Ok(_) => return true,
            Err(e) if e.kind == vcl_queue::Kind::LeaseLost => return false,
            // Giving up would leave the job running with nobody at it. A life that ends gives up: the next one, here or
            // on another node, finds the job in its journal.
            Err(_) if life.drain.is_cancelled() || life.lost.is_cancelled() => return false,
            Err(e) => {
                tracing::error!(error = %e, "the job's end cannot be recorded; trying again");
                tokio::time::sleep(wait).await; // why: nothing tells when the database is usable again
                wait = (wait * 2).min(Duration::from_secs(30));
            }
        }
    }
}

/// Tells the queue, and so everybody who watches, what a job does.
struct Watcher {
    queue: Queue,
    job: JobId,
    computer: Option<vcl_types::ComputerName>,
    witness: Arc<Witness>,
    last: Mutex<Option<Instant>>,
}

impl Watcher {
    fn new(queue: Queue, claim: &Claim, witness: Arc<Witness>) -> Self {
        Self {
            queue,
            job: claim.id(),
            computer: claim.job.request.computer().cloned(),
            witness,
            last: Mutex::new(None),
        }
    }
}

#[async_trait::async_trait]
impl Observer for Watcher {
    async fn failing(&self, key: &str, failure: &Failure) {
        self.witness.failing(key, failure).await;
    }
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
        self.witness.recorded(record);
        match record {
            Record::Started { key, .. } => tracing::debug!(step = key, "step started"),
            Record::Done { key, .. } => tracing::debug!(step = key, "step done"),
            Record::Failed { key, error } => tracing::warn!(step = key, error = %error, "step failed"),
            Record::Undone { key } => tracing::info!(step = key, "step undone"),
            _ => return,
        }
        // The journal holds it; whoever watches is told to look.
        self.queue.changed(self.job);
    }
}
