//! What all parts of one running job share: its journal, who watches it, how it is told to stop, and what was recorded.

use crate::doing::{Doing, during};
#[cfg(feature = "faults")]
use crate::faults::paced;
use crate::journal::left_of;
use crate::observe::Harmless;
use crate::process::Group;
use crate::seeded::{Fault, seeded};
use crate::step::UNDO_AGAIN;
use crate::{Control, Error, Failure, Journal, Kind, Observer, Record, Result, Silent, journal};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long to wait before something is tried again. The fault kit may be in a hurry.
#[cfg(not(feature = "faults"))]
fn paced(wait: Duration) -> Duration {
    wait
}

/// Why a running step is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Lost,
    Interrupted,
    Cancelled,
    /// The job's own deadline.
    Overdue,
    /// The step's.
    Deadline,
}

/// Why a job ends, mildest first: of parts that ran side by side the hardest reason counts.
#[derive(Debug, Clone)]
pub(crate) enum Stop {
    Back(Failure),
    Interrupted,
    Stuck(Failure),
    Lost(Failure),
}
impl Stop {
    pub(crate) fn of(e: &Error) -> Self {
        match e.kind {
            Kind::LeaseLost => Self::Lost(e.failure()),
            Kind::UndoFailed | Kind::Diverged => Self::Stuck(e.failure()),
            Kind::Interrupted => Self::Interrupted,
            _ => Self::Back(e.failure()),
        }
    }
    fn rank(&self) -> u8 {
        match self {
            Self::Back(_) => 0,
            Self::Interrupted => 1,
            Self::Stuck(_) => 2,
            Self::Lost(_) => 3,
        }
    }
}

#[derive(Clone)]
pub(crate) enum Seen {
    Started(Value),
    Done(Value, Value),
    Failed(Value, Failure),
}
impl Seen {
    pub(crate) fn intent(&self) -> &Value {
        let (Self::Started(intent) | Self::Done(intent, _) | Self::Failed(intent, _)) = self;
        intent
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) seen: BTreeMap<String, Seen>,
    pub(crate) order: Vec<String>,
    pub(crate) used: BTreeSet<String>,
    pub(crate) undone: BTreeSet<String>,
    pub(crate) processes: BTreeMap<String, Vec<Group>>,
    /// When each step first began, by the wall clock.
    pub(crate) since: BTreeMap<String, i64>,
    /// The parts that somebody holds, with how many hold each.
    live: BTreeMap<String, usize>,
    stop: Option<Stop>,
}

pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) observer: Harmless,
    pub(crate) control: Control,
    pub(crate) version: u32,
    /// Calling the job off comes too late.
    pub(crate) committed: AtomicBool,
    /// It has ended before: this is a replay for its result alone.
    pub(crate) finished: bool,
    /// When the job as a whole has to be done.
    pub(crate) deadline: Option<(Duration, Instant)>,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn new(
        journal: Arc<dyn Journal>,
        observer: Arc<dyn Observer>,
        control: Control,
        state: State,
    ) -> Self {
        Self {
            journal,
            observer: Harmless(observer),
            control,
            version: 0,
            committed: AtomicBool::new(false),
            finished: false,
            deadline: None,
            state: Mutex::new(state),
        }
    }
    pub(crate) fn bare(journal: Arc<dyn Journal>) -> Self {
        Self::new(journal, Arc::new(Silent), Control::default(), State::default())
    }
    pub(crate) fn until(&mut self, limit: Option<Duration>, begun: Option<i64>) {
        self.deadline = limit.map(|limit| {
            let left = begun.map_or(limit, |at| left_of(limit, at));
            (limit, Instant::now() + left)
        });
    }
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps why the job ends; whatever the author makes of the error on its way up, this is what counts.
    pub(crate) fn halt(&self, stop: Stop) {
        let mut state = self.state();
        if state.stop.as_ref().is_none_or(|had| had.rank() < stop.rank()) {
            state.stop = Some(stop);
        }
    }
    pub(crate) fn halted(&self) -> Option<Stop> {
        self.state().stop.clone()
    }

    /// Makes a record durable. One that cannot be ends this life of the job, whatever the reason: nothing may be done
    /// that the journal does not know, and what it does not take is no failure of the step's.
    pub(crate) async fn append(&self, record: &Record) -> Result<()> {
        self.still_held()?;
        match self.journal.append(record).await {
            Err(e) if seeded(Fault::LeaseIgnored) && e.kind == Kind::LeaseLost => Ok(()),
            Ok(()) => {
                self.observer.recorded(record);
                Ok(())
            }
            Err(e) => Err(self.cut_off(e)),
        }
    }
    /// That the journal is out of reach, or another's.
    fn cut_off(&self, e: Error) -> Error {
        self.halt(Stop::Lost(e.failure()));
        let kind = if e.kind == Kind::LeaseLost { Kind::LeaseLost } else { Kind::Interrupted };
        e.within("the job cannot go on").of_kind(kind)
    }
    pub(crate) fn still_held(&self) -> Result<()> {
        let lost = |why: &str| Err(Error::new(Kind::LeaseLost, why));
        if seeded(Fault::LeaseIgnored) {
            return Ok(());
        }
        if self.control.lost.is_cancelled() {
            return lost("the job's lease ran out");
        }
        self.journal.held()?;
        match self.halted() {
            Some(Stop::Lost(failure)) => lost(&failure.message),
            _ => Ok(()),
        }
    }
    /// Whether a step may go on: it was not told to stop, and the job is this process's.
    pub(crate) async fn still_ours(&self, stop: &CancellationToken) -> Result<()> {
        let told = || Error::new(Kind::Cancelled, "told to stop");
        self.still_held()?;
        if stop.is_cancelled() {
            return Err(told());
        }
        let mut wait = Duration::from_millis(500);
        for left in (0..3).rev() {
            match self.journal.check().await {
                Err(e) if seeded(Fault::LeaseIgnored) && e.kind == Kind::LeaseLost => return Ok(()),
                Ok(()) => return Ok(()),
                // A database that is away for a moment says nothing of the lease.
                Err(e) if left > 0 && matches!(e.kind, Kind::Transient | Kind::Busy | Kind::Unreachable) => {}
                Err(e) => return Err(self.cut_off(e)),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(told()),
                () = tokio::time::sleep(paced(wait)) => wait *= 2, // why: a database that is away tells nobody when it is back
            }
        }
        Ok(())
    }

    /// What the journal knows of a step that is asked for now.
    pub(crate) fn meet(&self, key: &str, prefix: &str) -> Result<Option<Seen>> {
        let mut state = self.state();
        if !state.used.insert(key.to_owned()) {
            return Err(Error::new(
                Kind::Diverged,
                format!("step `{key}` is asked for twice; give it a .key()"),
            ));
        }
        let hit = state.seen.get(key).cloned();
        if hit.is_none() {
            // A new step while recorded ones of this part were not asked for again: the function is not the one that
            // wrote the journal, or the code between its steps depends on something that was not recorded.
            let mine = |k: &str| k.strip_prefix(prefix).is_some_and(|rest| !name_of(rest).0.contains('/'));
            let other = state.seen.keys().find(|k| mine(k) && !state.used.contains(*k));
            let before = other.map(|other| format!("before the recorded `{other}`"));
            let ended = self.finished.then(|| "of a job that has ended".to_owned());
            if let Some(what) = before.or(ended) {
                return Err(Error::new(Kind::Diverged, format!("new step `{key}` {what}")));
            }
        }
        Ok(hit)
    }
    /// A recorded step that the function did not ask for.
    pub(crate) fn unasked(&self) -> Option<String> {
        let state = self.state();
        state.order.iter().find(|key| !state.used.contains(*key)).cloned()
    }
    /// Notes that a part is held, or is not any more.
    pub(crate) fn hold(&self, prefix: &str, held: bool) {
        let mut state = self.state();
        let count = state.live.entry(prefix.to_owned()).or_default();
        *count = if held { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            state.live.remove(prefix);
        }
    }
    /// Whether the job has left the part of a recorded step behind: a step outside of it was begun after it, and not in
    /// a part that is held beside it. What the part did may have been superseded on purpose since, as a start is by a
    /// shutdown.
    pub(crate) fn left_behind(&self, key: &str) -> bool {
        let part = &key[..name_of(key).0.rfind('/').map_or(0, |slash| slash + 1)];
        let state = self.state();
        let beside: Vec<_> = state.live.keys().filter(|live| !part.starts_with(live.as_str())).collect();
        let mut after = state.order.iter().skip_while(|k| *k != key).skip(1);
        after.any(|later| {
            !later.starts_with(part) && !beside.iter().any(|live| later.starts_with(live.as_str()))
        })
    }
    pub(crate) fn begun(&self, key: &str, intent: Value, at: i64) {
        let mut state = self.state();
        state.order.push(key.to_owned());
        state.since.insert(key.to_owned(), at);
        state.seen.insert(key.to_owned(), Seen::Started(intent));
    }

    /// Waits until a running step is to stop, and says why.
    pub(crate) async fn why_stop(&self) -> Why {
        // Once a job has committed, neither may take it back.
        let unless_committed = async || {
            if self.committed.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        };
        let called_off = async {
            self.control.cancel.cancelled().await;
            unless_committed().await;
        };
        let overdue = async {
            match self.deadline {
                Some((_, at)) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
            unless_committed().await;
        };
        tokio::select! {
            biased;
            () = self.lost() => Why::Lost,
            () = self.control.stop.cancelled() => Why::Interrupted,
            () = called_off => Why::Cancelled,
            () = overdue => Why::Overdue,
        }
    }
    async fn lost(&self) {
        self.control.lost.cancelled().await;
        if seeded(Fault::LeaseIgnored) {
            std::future::pending::<()>().await;
        }
    }
    pub(crate) fn overdue(&self) -> Option<Error> {
        let (limit, at) = self.deadline?;
        let late = Instant::now() >= at && !self.committed.load(Ordering::SeqCst);
        late.then(|| Error::new(Kind::Deadline, format!("the job was not done within {}", shorter(limit))))
    }
    /// Whether a step may run now.
    pub(crate) fn may_begin(&self) -> Result<()> {
        self.still_held()?;
        if self.control.cancel.is_cancelled() && !self.committed.load(Ordering::SeqCst) {
            Err(Error::new(Kind::Cancelled, "called off"))
        } else if self.control.stop.is_cancelled() || self.control.drain.is_cancelled() {
            Err(stopping())
        } else {
            self.overdue().map_or(Ok(()), Err)
        }
    }
    pub(crate) async fn wait_or_stop(&self, wait: Duration) -> Result<()> {
        tokio::select! {
            biased;
            why = self.why_stop() => Err(match why {
                Why::Lost => Error::new(Kind::LeaseLost, "the job's lease ran out"),
                Why::Cancelled => Error::new(Kind::Cancelled, "called off"),
                Why::Overdue => self.overdue().unwrap_or_else(stopping),
                Why::Interrupted | Why::Deadline => stopping(),
            }),
            () = tokio::time::sleep(paced(wait)) => Ok(()), // why: what failed is given time before the next try
        }
    }

    /// Ends the processes of a step that are on record. Until they are gone nothing else may touch what they write to.
    pub(crate) async fn end_processes(&self, key: &str) -> Result<()> {
        let left = self.state().processes.remove(key).unwrap_or_default();
        for group in left.into_iter().filter(|_| !seeded(Fault::ProcessesLeft)) {
            if let Err(e) = group.end().await {
                let context = format!("ending process group {} of `{key}`", group.id);
                return Err(self.stuck(key, Error::caused(Kind::UndoFailed, context, e)).await);
            }
        }
        Ok(())
    }
    /// Records that somebody has to look.
    pub(crate) async fn stuck(&self, key: &str, error: Error) -> Error {
        let failure = error.failure();
        if let Err(e) = self.append(&Record::Stuck { key: key.to_owned(), error: failure.clone() }).await {
            return e;
        }
        self.failing(key, &failure).await;
        error
    }
    /// Lets the observer look at a failure before anything is taken back.
    pub(crate) async fn failing(&self, key: &str, failure: &Failure) {
        let enough = async {
            tokio::select! {
                () = self.control.stop.cancelled() => {}
                () = self.control.lost.cancelled() => {}
            }
        };
        self.observer.failing(key, failure, enough).await;
    }

    /// Undoes a step and records it. What passes by itself is tried again a few times; after that the job is stuck.
    /// When the daemon stops or the lease is lost the undo is told so and waited for.
    pub(crate) async fn undo<F, Fut>(self: &Arc<Self>, key: &str, back: F) -> Result<()>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        self.end_processes(key).await?;
        let mut left = UNDO_AGAIN.times;
        let mut wait = UNDO_AGAIN.first;
        if seeded(Fault::UndoneBeforeUndo) {
            self.append(&Record::Undone { key: key.to_owned() }).await?;
        }
        loop {
            self.may_undo()?;
            let Err(e) = self.undo_once(key, back()).await else { break };
            self.may_undo()?;
            if seeded(Fault::UndoErrorSwallowed) {
                break;
            } else if matches!(e.kind, Kind::LeaseLost | Kind::Interrupted) {
                return Err(e);
            } else if left > 0 && UNDO_AGAIN.kinds.contains(&e.kind) {
                left -= 1;
                let why = e.failure();
                self.observer.event("undo-again", &format!("undoing `{key}` is tried again: {why}"));
                tokio::select! {
                    biased;
                    () = self.lost() => {}
                    () = self.control.stop.cancelled() => {}
                    () = tokio::time::sleep(paced(wait)) => {} // why: as before the next try of a step
                }
                wait = (wait * 2).min(Duration::from_secs(60));
            } else {
                let e = e.within(format!("undoing `{key}`")).of_kind(Kind::UndoFailed);
                return Err(self.stuck(key, e).await);
            }
        }
        if !seeded(Fault::UndoneBeforeUndo) && !seeded(Fault::UndoneNotRecorded) {
            self.append(&Record::Undone { key: key.to_owned() }).await?;
        }
        self.state().undone.insert(key.to_owned());
        Ok(())
    }
    async fn undo_once(self: &Arc<Self>, key: &str, back: impl Future<Output = Result<()>>) -> Result<()> {
        let stop = CancellationToken::new();
        let back = during(Doing::new(self, key, true, stop.clone()), back);
        tokio::pin!(back);
        tokio::select! {
            biased;
            result = &mut back => return result,
            () = self.lost() => {}
            () = self.control.stop.cancelled() => {}
        }
        stop.cancel();
        back.await
    }
    fn may_undo(&self) -> Result<()> {
        self.still_held()?;
        if self.control.stop.is_cancelled() { Err(stopping()) } else { Ok(()) }
    }
}

fn stopping() -> Error {
    Error::new(Kind::Interrupted, "the daemon is stopping")
}

/// The step's name, its path in front and its key behind: `load/disk 0/convert[2]` → (`load/disk 0/convert`, `[2]`).
pub(crate) fn name_of(key: &str) -> (&str, &str) {
    key.split_at(key.find('[').unwrap_or(key.len()))
}

/// A limit as one would say it.
pub(crate) fn shorter(limit: Duration) -> String {
    let s = limit.as_secs();
    if s >= 120 && s.is_multiple_of(60) {
        format!("{} min", s / 60)
    } else {
        format!("{:.0} s", limit.as_secs_f64())
    }
}

/// Refuses a record that is too large to be kept, and says so before anything is done.
pub(crate) fn fits(record: &Record) -> Result<()> {
    journal::check_size(record)
}
