//! The one place that executes: replay, run, unwind.

use crate::{Error, Failure, Job, Journal, Kind, Observer, Record, Result, Silent, Undo, journal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a job is told to stop.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// Somebody called the job off: it is taken back.
    pub cancel: CancellationToken,
    /// The daemon is stopping: no further step begins, the one under way may end.
    pub drain: CancellationToken,
    /// The daemon stops now: the step under way is told to stop too, and runs again at the next start.
    pub stop: CancellationToken,
}

/// Why a running step is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Cancelled,
    Interrupted,
    Deadline,
}

#[derive(Clone)]
pub(crate) enum Seen {
    Started(Value),
    Done(Value, Value),
    Failed(Value, Failure),
}

#[derive(Default)]
pub(crate) struct State {
    seen: BTreeMap<String, Seen>,
    order: Vec<String>,
    used: BTreeSet<String>,
    pub(crate) undone: BTreeSet<String>,
    pub(crate) processes: BTreeMap<String, Vec<(i32, u64)>>,
    pub(crate) stop: Option<Failure>,
}

/// What all parts of one running job share.
pub(crate) struct Shared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) control: Control,
    pub(crate) version: u32,
    /// Calling the job off comes too late.
    pub(crate) committed: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    pub(crate) fn bare(journal: Arc<dyn Journal>) -> Self {
        Self {
            journal,
            observer: Arc::new(Silent),
            control: Control::default(),
            version: 0,
            committed: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(crate) async fn append(&self, record: &Record) -> Result<()> {
        journal::check_size(record)?;
        self.journal.append(record).await?;
        self.observer.recorded(record);
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
            if let Some(other) = state.seen.keys().find(|k| mine(k) && !state.used.contains(*k)) {
                return Err(Error::new(
                    Kind::Diverged,
                    format!("new step `{key}` before the recorded `{other}`"),
                ));
            }
        }
        Ok(hit)
    }
    /// Whether the job has left the part of a recorded step behind: a step outside of it was begun after it. What the
    /// part did may have been superseded on purpose since, as a start is by a shutdown.
    pub(crate) fn left_behind(&self, key: &str) -> bool {
        let part = &key[..name_of(key).0.rfind('/').map_or(0, |slash| slash + 1)];
        let state = self.state();
        let after = state.order.iter().skip_while(|k| *k != key).skip(1);
        after.into_iter().any(|later| !later.starts_with(part))
    }
    /// Waits until a running step is to stop, and says why.
    pub(crate) async fn why_stop(&self) -> Why {
        let called_off = async {
            self.control.cancel.cancelled().await;
            if self.committed.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = self.control.stop.cancelled() => Why::Interrupted,
            () = called_off => Why::Cancelled,
        }
    }
    pub(crate) fn may_begin(&self) -> Result<()> {
        if self.control.cancel.is_cancelled() && !self.committed.load(Ordering::SeqCst) {
            Err(Error::new(Kind::Cancelled, "called off"))
        } else if self.control.stop.is_cancelled() || self.control.drain.is_cancelled() {
            Err(Error::new(Kind::Interrupted, "the daemon is stopping"))
        } else {
            Ok(())
        }
    }
    pub(crate) fn begun(&self, key: &str, intent: Value) {
        let mut state = self.state();
        state.order.push(key.to_owned());
        state.seen.insert(key.to_owned(), Seen::Started(intent));
    }
    pub(crate) async fn wait_or_stop(&self, wait: Duration) -> Result<()> {
        tokio::select! {
            biased;
            why = self.why_stop() => Err(match why {
                Why::Cancelled => Error::new(Kind::Cancelled, "called off"),
                _ => Error::new(Kind::Interrupted, "the daemon is stopping"),
            }),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }
    /// Records how an undo ended.
    pub(crate) async fn undone(&self, key: &str, result: Result<()>) -> Result<()> {
        match result {
            Ok(()) => {
                self.append(&Record::Undone { key: key.to_owned() }).await?;
                self.state().undone.insert(key.to_owned());
                Ok(())
            }
            Err(e) if e.kind == Kind::LeaseLost => Err(e),
            Err(e) => {
                let error = e.within(format!("undoing `{key}`")).of_kind(Kind::UndoFailed);
                self.append(&Record::Stuck { key: key.to_owned(), error: error.failure() }).await?;
                Err(error)
            }
        }
    }
}

/// The step's name, its path in front and its key behind: `load/disk 0/convert[2]` → (`load/disk 0/convert`, `[2]`).
fn name_of(key: &str) -> (&str, &str) {
    key.split_at(key.find('[').unwrap_or(key.len()))
}

/// Who undoes the steps of which part.
#[derive(Clone, Copy)]
pub struct Owners<'a> {
    /// The owner of steps that lie in no named part: the daemon's flow.
    pub flow: &'a dyn Undo,
    /// Part names and their owners: (`load`, the backend), (`post_load`, the OS module). A step belongs to the innermost
    /// part of its path that stands here.
    pub parts: &'a [(&'a str, &'a dyn Undo)],
}

impl Owners<'_> {
    fn find<'k>(&self, key: &'k str) -> (&dyn Undo, &'k str) {
        let path = name_of(key).0;
        let (parts, name) = path.rsplit_once('/').unwrap_or(("", path));
        let owner = parts.rsplit('/').find_map(|part| self.parts.iter().find(|(p, _)| *p == part));
        (owner.map_or(self.flow, |(_, owner)| *owner), name)
    }
}

/// Which function a job runs.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Its name.
    pub name: &'static str,
    /// Its version, raised when a change of the function would read old journals wrongly.
    pub version: u32,
}

/// What a run needs beside the function.
pub struct Run<'a> {
    /// Where it writes.
    pub journal: Arc<dyn Journal>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// How it is told to stop.
    pub control: Control,
    /// Who undoes what.
    pub owners: Owners<'a>,
}

impl Run<'_> {
    fn share(&self, state: State, version: u32) -> Shared {
        Shared {
            journal: self.journal.clone(),
            observer: self.observer.clone(),
            control: self.control.clone(),
            version,
            committed: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }
}

/// How a run of a job ended.
#[derive(Debug, PartialEq)]
pub enum Outcome<T> {
    /// It did what was asked.
    Done(T),
    /// It did not, and everything was taken back. The kind tells a cancelled one from a failed one.
    RolledBack(Failure),
    /// Something could not be taken back, or the journal does not fit the function.
    Stuck(Failure),
    /// The daemon is stopping; the job goes on at the next start.
    Interrupted,
    /// Another process has the job, or the journal could not be written: nothing more was done.
    Lost(Failure),
}

/// Runs a job to its end, from wherever its journal says that it is.
///
/// `begin` is asked for the input once in the job's life; its answer is the first record, and `work` gets that record
/// ever after.
pub async fn execute<In, T, B, F, Fut>(run: Run<'_>, flow: Flow, begin: B, work: F) -> Outcome<T>
where
    In: Serialize + DeserializeOwned,
    B: Future<Output = Result<In>>,
    F: FnOnce(Job, In) -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let records = match run.journal.read().await {
        Ok(records) => records,
        Err(e) => return Outcome::Lost(e.failure()),
    };
    let read = match replay(&records) {
        Ok(read) => read,
        Err(outcome) => return outcome.into(),
    };
    if let Some(cause) = read.unwinding {
        return take_back(&run.share(read.state, 0), run.owners, cause).await.into();
    }
    let (input, version) = match read.begun {
        Some((name, version, _)) if name != flow.name || version > flow.version => {
            let (have, known) = (flow.name, flow.version);
            let message = format!(
                "the job began as `{name}` version {version}; this program has `{have}` up to {known}"
            );
            return Outcome::Stuck(Failure { kind: Kind::Diverged, message });
        }
        Some((_, version, input)) => match serde_json::from_value(input) {
            Ok(input) => (input, version),
            Err(e) => {
                let e = Error::caused(Kind::Diverged, "reading what the job started from", e);
                return Outcome::Stuck(e.failure());
            }
        },
        None => match first(&run, flow, begin).await {
            Ok(input) => (input, flow.version),
            Err(outcome) => return outcome.into(),
        },
    };
    let shared = Arc::new(run.share(read.state, version));
    let result = work(Job { shared: shared.clone(), prefix: String::new() }, input).await;
    let stop = shared.state().stop.clone();
    let cause = match (result, stop) {
        (Ok(value), None) => {
            return match shared.append(&Record::Finished { error: None }).await {
                Ok(()) => Outcome::Done(value),
                Err(e) => Outcome::Lost(e.failure()),
            };
        }
        // Whatever the author made of the error: what ends a job ends it.
        (_, Some(stop)) => stop,
        (Err(e), None) => e.failure(),
    };
    match cause.kind {
        Kind::LeaseLost => return Outcome::Lost(cause),
        Kind::Interrupted => return Outcome::Interrupted,
        Kind::UndoFailed | Kind::Diverged => return Outcome::Stuck(cause),
        _ => {}
    }
    if let Err(e) = shared.append(&Record::Unwinding { cause: cause.clone() }).await {
        return Outcome::Lost(e.failure());
    }
    take_back(&shared, run.owners, cause).await.into()
}

/// Takes a job back from its journal alone, without calling its function: for an operator, and for a later binary.
/// A job that was not unwinding yet is given up with `cause`.
pub async fn unwind(run: Run<'_>, cause: Failure) -> Outcome<()> {
    let records = match run.journal.read().await {
        Ok(records) => records,
        Err(e) => return Outcome::Lost(e.failure()),
    };
    let read = match replay(&records) {
        Ok(read) => read,
        Err(outcome) => return outcome.into(),
    };
    let shared = run.share(read.state, 0);
    let cause = match read.unwinding {
        Some(cause) => cause,
        None => {
            if let Err(e) = shared.append(&Record::Unwinding { cause: cause.clone() }).await {
                return Outcome::Lost(e.failure());
            }
            cause
        }
    };
    take_back(&shared, run.owners, cause).await.into()
}

/// An outcome that is not `Done`.
enum Ended {
    RolledBack(Failure),
    Stuck(Failure),
    Interrupted,
    Lost(Failure),
}
impl<T> From<Ended> for Outcome<T> {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::RolledBack(f) => Self::RolledBack(f),
            Ended::Stuck(f) => Self::Stuck(f),
            Ended::Interrupted => Self::Interrupted,
            Ended::Lost(f) => Self::Lost(f),
        }
    }
}

struct Replayed {
    state: State,
    begun: Option<(String, u32, Value)>,
    unwinding: Option<Failure>,
}

fn replay(records: &[Record]) -> Result<Replayed, Ended> {
    let mut read = Replayed { state: State::default(), begun: None, unwinding: None };
    let state = &mut read.state;
    for record in records.iter().cloned() {
        match record {
            Record::Begun { flow, version, input } => read.begun = Some((flow, version, input)),
            Record::Started { key, intent } => {
                state.order.push(key.clone());
                state.seen.insert(key, Seen::Started(intent));
            }
            Record::Process { key, group, start_time } => {
                state.processes.entry(key).or_default().push((group, start_time));
            }
            Record::Done { key, output } => {
                state.processes.remove(&key);
                if let Some(Seen::Started(i) | Seen::Done(i, _)) = state.seen.get(&key).cloned() {
                    state.seen.insert(key, Seen::Done(i, output));
                }
            }
            Record::Failed { key, error } => {
                if let Some(Seen::Started(i) | Seen::Done(i, _)) = state.seen.get(&key).cloned() {
                    state.seen.insert(key, Seen::Failed(i, error));
                }
            }
            Record::Unwinding { cause } => read.unwinding = Some(cause),
            Record::Undone { key } => {
                state.undone.insert(key);
            }
            Record::Finished { error: Some(error) } => return Err(Ended::RolledBack(error)),
            // A job that is stuck is claimed again only when somebody wants it tried again.
            Record::Finished { error: None } | Record::Stuck { .. } => {}
        }
    }
    Ok(read)
}

async fn first<In: Serialize + DeserializeOwned>(
    run: &Run<'_>,
    flow: Flow,
    begin: impl Future<Output = Result<In>>,
) -> Result<In, Ended> {
    let lost = |e: Error| Ended::Lost(e.failure());
    let input = match begin.await {
        Ok(input) => input,
        Err(e) if e.kind == Kind::Interrupted => return Err(Ended::Interrupted),
        Err(e) if e.kind == Kind::LeaseLost => return Err(lost(e)),
        Err(e) => {
            let failure = e.failure();
            let record = Record::Finished { error: Some(failure.clone()) };
            run.journal.append(&record).await.map_err(lost)?;
            return Err(Ended::RolledBack(failure));
        }
    };
    let value = serde_json::to_value(&input)
        .map_err(|e| lost(Error::caused(Kind::Fatal, "recording what the job starts from", e)))?;
    let record = Record::Begun { flow: flow.name.into(), version: flow.version, input: value.clone() };
    journal::check_size(&record).map_err(lost)?;
    run.journal.append(&record).await.map_err(lost)?;
    // From the record, as every later life will: what does not survive the round trip shows at once.
    serde_json::from_value(value)
        .map_err(|e| lost(Error::caused(Kind::Diverged, "reading back what the job starts from", e)))
}

async fn take_back(shared: &Shared, owners: Owners<'_>, cause: Failure) -> Ended {
    let todo: Vec<(String, Value)> = {
        let state = shared.state();
        let open = state.order.iter().rev().filter(|key| !state.undone.contains(*key));
        open.map(|key| match &state.seen[key] {
            Seen::Started(intent) | Seen::Done(intent, _) | Seen::Failed(intent, _) => {
                (key.clone(), intent.clone())
            }
        })
        .collect()
    };
    for (key, intent) in todo {
        if shared.control.stop.is_cancelled() {
            return Ended::Interrupted;
        }
        let left = shared.state().processes.remove(&key).unwrap_or_default();
        let mut result = Ok(());
        for (group, start_time) in left {
            if let Err(e) = crate::process::end_group(group, start_time).await {
                result = Err(Error::caused(Kind::Fatal, format!("ending process group {group}"), e));
            }
        }
        if result.is_ok() {
            let (owner, name) = owners.find(&key);
            result = owner.undo(name, intent).await;
        }
        if let Err(e) = shared.undone(&key, result).await {
            let failure = e.failure();
            return if e.kind == Kind::UndoFailed { Ended::Stuck(failure) } else { Ended::Lost(failure) };
        }
    }
    match shared.append(&Record::Finished { error: Some(cause.clone()) }).await {
        Ok(()) => Ended::RolledBack(cause),
        Err(e) => Ended::Lost(e.failure()),
    }
}
