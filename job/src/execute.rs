//! The one place that executes: replay, run, unwind.

use crate::journal::now_ms;
use crate::process::Group;
use crate::seeded::{Fault, seeded};
use crate::shared::{Seen, Shared, State, Stop, fits, name_of};
use crate::step::Undo;
use crate::{Error, Failure, Job, Journal, Kind, Observer, Record, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;
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
    /// The lease ran out: the job may be another's. The step under way is told to stop and waited for; nothing more
    /// begins, is undone or is recorded.
    pub lost: CancellationToken,
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
    /// How long a job of it may take in all its lives, counted by the wall clock from its first record. Past it the step
    /// under way is told to stop and the job is taken back.
    pub deadline: Option<Duration>,
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
    fn share(&self, state: State) -> Shared {
        Shared::new(self.journal.clone(), self.observer.clone(), self.control.clone(), state)
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
    let mut shared = run.share(read.state);
    if let Some(cause) = read.unwinding {
        return take_back(&Arc::new(shared), run.owners, cause).await.into();
    }
    let (input, begun) = match read.begun {
        Some(begun) => match begun.input(flow) {
            Ok(input) => (input, begun),
            Err(e) => return Outcome::Stuck(e.failure()),
        },
        None => match first(&shared, flow, begin).await {
            Ok(first) => first,
            Err(stop) => return stop.into(),
        },
    };
    shared.version = begun.version;
    shared.finished = read.finished;
    shared.until(flow.deadline, begun.at);
    let shared = Arc::new(shared);
    let result = work(Job::new(shared.clone(), String::new()), input).await;
    let cause = match (result, shared.halted()) {
        (Ok(value), None) => {
            return match finish(&shared).await {
                Ok(()) => Outcome::Done(value),
                Err(stop) => stop.into(),
            };
        }
        // Whatever the author made of the error: what ends a job ends it.
        (_, Some(stop)) => stop,
        (Err(e), None) => Stop::of(&e),
    };
    match cause {
        // It has ended well once, and nothing that it does to tell so again can change that.
        Stop::Back(failure) if shared.finished => Outcome::Stuck(failure),
        Stop::Back(cause) => give_up(&shared, run.owners, cause).await.into(),
        stop => stop.into(),
    }
}

/// The end of a function that returned well.
async fn finish(shared: &Shared) -> Result<(), Stop> {
    if let Some(key) = shared.unasked() {
        let context = format!("the job came to its end without asking for the recorded step `{key}`");
        return Err(Stop::of(&Error::new(Kind::Diverged, context)));
    }
    if shared.finished && !seeded(Fault::FinishedTwice) {
        return Ok(());
    }
    shared.append(&Record::Finished { error: None }).await.map_err(|e| ended(shared, &e))
}

/// Takes a job back from its journal alone, without calling its function: for an operator, and for a later binary.
/// A job that was not unwinding yet is given up with `cause`; one that has ended is left as it is.
pub async fn unwind(run: Run<'_>, cause: Failure) -> Outcome<()> {
    let records = match run.journal.read().await {
        Ok(records) => records,
        Err(e) => return Outcome::Lost(e.failure()),
    };
    let read = match replay(&records) {
        Ok(read) => read,
        Err(outcome) => return outcome.into(),
    };
    if read.finished {
        return Outcome::Done(());
    }
    let shared = Arc::new(run.share(read.state));
    match read.unwinding {
        Some(cause) => take_back(&shared, run.owners, cause).await.into(),
        None => give_up(&shared, run.owners, cause).await.into(),
    }
}

impl<T> From<Stop> for Outcome<T> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Back(f) => Self::RolledBack(f),
            Stop::Stuck(f) => Self::Stuck(f),
            Stop::Interrupted => Self::Interrupted,
            Stop::Lost(f) => Self::Lost(f),
        }
    }
}

/// What an error means for a job that is at its end: a journal out of reach counts before all else.
fn ended(shared: &Shared, e: &Error) -> Stop {
    match shared.halted() {
        Some(lost @ Stop::Lost(_)) => lost,
        _ => Stop::of(e),
    }
}

/// A job's first record.
struct Begun {
    flow: String,
    version: u32,
    input: Value,
    at: Option<i64>,
}
impl Begun {
    fn input<In: DeserializeOwned>(&self, flow: Flow) -> Result<In> {
        let Self { flow: name, version, input, .. } = self;
        if *name != flow.name || *version > flow.version {
            let (have, known) = (flow.name, flow.version);
            let message = format!(
                "the job began as `{name}` version {version}; this program has `{have}` up to {known}"
            );
            return Err(Error::new(Kind::Diverged, message));
        }
        serde_json::from_value(input.clone())
            .map_err(|e| Error::caused(Kind::Diverged, "reading what the job started from", e))
    }
}

#[derive(Default)]
struct Replayed {
    state: State,
    begun: Option<Begun>,
    unwinding: Option<Failure>,
    finished: bool,
}

fn replay(records: &[Record]) -> Result<Replayed, Stop> {
    let mut read = Replayed::default();
    let state = &mut read.state;
    for record in records.iter().cloned() {
        match record {
            Record::Begun { flow, version, input, at } => {
                read.begun = Some(Begun { flow, version, input, at });
            }
            Record::Started { key, intent, at } => {
                state.order.push(key.clone());
                if let Some(at) = at {
                    state.since.insert(key.clone(), at);
                }
                state.seen.insert(key, Seen::Started(intent));
            }
            Record::Process { key, group, start_time, boot } => {
                let group = Group { id: group, started: start_time, boot };
                state.processes.entry(key).or_default().push(group);
            }
            Record::Done { key, output } => {
                state.processes.remove(&key);
                if let Some(seen) = state.seen.get_mut(&key) {
                    *seen = Seen::Done(seen.intent().clone(), output);
                }
            }
            Record::Failed { key, error } => {
                if let Some(seen) = state.seen.get_mut(&key) {
                    *seen = Seen::Failed(seen.intent().clone(), error);
                }
            }
            Record::Unwinding { cause } => {
                let forgotten = seeded(Fault::CancelForgotten) && cause.kind == Kind::Cancelled;
                read.unwinding = (!forgotten).then_some(cause);
            }
            Record::Undone { key } => {
                state.undone.insert(key);
            }
            Record::Finished { error: Some(error) } => return Err(Stop::Back(error)),
            Record::Finished { error: None } => read.finished = true,
            // A job that is stuck is claimed again when somebody wants it tried again, or when the process died before
            // it could tell that it is stuck: one try more does no harm.
            Record::Stuck { .. } => {}
        }
    }
    Ok(read)
}

async fn first<In: Serialize + DeserializeOwned>(
    shared: &Shared,
    flow: Flow,
    begin: impl Future<Output = Result<In>>,
) -> Result<(In, Begun), Stop> {
    let asked = begin.await.and_then(|input| {
        let input = serde_json::to_value(&input)
            .map_err(|e| Error::caused(Kind::Fatal, "recording what the job starts from", e))?;
        let begun = Begun { flow: flow.name.into(), version: flow.version, input, at: Some(now_ms()) };
        // From the record, as every later life will: what does not survive the round trip shows at once.
        let input = begun.input(flow)?;
        let Begun { flow, version, input: value, at } = &begun;
        let record = Record::Begun { flow: flow.clone(), version: *version, input: value.clone(), at: *at };
        fits(&record)?;
        Ok((input, begun, record))
    });
    let (input, begun, record) = match asked {
        Ok(begun) => begun,
        Err(e) if matches!(e.kind, Kind::Interrupted | Kind::LeaseLost) => return Err(Stop::of(&e)),
        Err(e) => {
            let failure = e.failure();
            let record = Record::Finished { error: Some(failure.clone()) };
            shared.append(&record).await.map_err(|e| ended(shared, &e))?;
            return Err(Stop::Back(failure));
        }
    };
    shared.append(&record).await.map_err(|e| ended(shared, &e))?;
    Ok((input, begun))
}

/// Decides that a job is taken back, and does it.
async fn give_up(shared: &Arc<Shared>, owners: Owners<'_>, cause: Failure) -> Stop {
    if !seeded(Fault::UnwindingNotRecorded)
        && let Err(e) = shared.append(&Record::Unwinding { cause: cause.clone() }).await
    {
        return ended(shared, &e);
    }
    take_back(shared, owners, cause).await
}

async fn take_back(shared: &Arc<Shared>, owners: Owners<'_>, cause: Failure) -> Stop {
    let mut todo: Vec<(String, Value)> = {
        let state = shared.state();
        let open = state.order.iter().rev().filter(|key| !state.undone.contains(*key));
        open.map(|key| (key.clone(), state.seen[key].intent().clone())).collect()
    };
    if seeded(Fault::UndoForward) {
        todo.reverse();
    }
    shared.failing("", &cause).await;
    for (key, intent) in todo {
        if shared.control.drain.is_cancelled() {
            return Stop::Interrupted;
        }
        let (owner, name) = owners.find(&key);
        if let Err(e) = shared.undo(&key, || owner.undo(name, intent.clone())).await {
            return ended(shared, &e);
        }
    }
    match shared.append(&Record::Finished { error: Some(cause.clone()) }).await {
        Ok(()) => Stop::Back(cause),
        Err(e) => ended(shared, &e),
    }
}
