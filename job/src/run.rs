//! A job as its author sees it: steps, parts, progress, cancellation.

use crate::execute::{Seen, Shared, Why};
use crate::{Error, Journal, Kind, Record, Result, Step, process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a step that was told to stop may take to return before its job is reported stuck.
const GRACE: Duration = Duration::from_secs(60);

/// Who watches a job: the daemon, for the progress bar and the event log. Calls must not block.
pub trait Observer: Send + Sync {
    /// A step counts bytes.
    fn progress(&self, step: &str, done: u64, total: u64);
    /// Something that a person may want to know; kept with the job.
    fn event(&self, kind: &str, message: &str);
    /// A step began, ended, failed or was undone.
    fn recorded(&self, record: &Record);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;
impl Observer for Silent {
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, _: &str, _: &str) {}
    fn recorded(&self, _: &Record) {}
}

/// A job, or a part of one. Taking `&mut self` for a step makes the compiler refuse steps that overlap or nest.
pub struct Job {
    pub(crate) shared: Arc<Shared>,
    pub(crate) prefix: String,
}

impl Job {
    /// A part of the job with step names of its own: `post_load` inside a load, one disk of several, one machine of
    /// many. Parts are values, so they can be `join!`ed; each is in order inside.
    #[must_use]
    pub fn part(&mut self, name: &str) -> Job {
        let name: String = name.chars().map(|c| if matches!(c, '/' | '[') { '-' } else { c }).collect();
        Job { shared: self.shared.clone(), prefix: format!("{}{name}/", self.prefix) }
    }
    /// A step of `on`'s with its intent. Nothing happens before [`StepRun::run`] or [`StepRun::attempt`].
    pub fn step<'j, On: ?Sized, I>(
        &'j mut self,
        on: &'j On,
        step: &'j Step<On, I>,
        intent: I,
    ) -> StepRun<'j, On, I> {
        StepRun { job: self, on, step, key: String::new(), intent }
    }
    /// Tells a person something that is kept with the job.
    pub fn event(&self, kind: &str, message: impl AsRef<str>) {
        self.shared.observer.event(kind, message.as_ref());
    }
    /// From here on calling the job off comes too late: what it has made stays, and it goes on to its end. A replay
    /// comes by here again, so nothing needs to be recorded.
    pub fn commit(&mut self) {
        self.shared.committed.store(true, Ordering::SeqCst);
    }
    /// The flow version that the job began with, which may be an older one than the program's.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.shared.version
    }
}
impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// What a running step gets: cancellation in, progress and events out.
#[derive(Clone)]
pub struct Cx {
    pub(crate) key: String,
    pub(crate) shared: Arc<Shared>,
    pub(crate) token: CancellationToken,
    pub(crate) deadline: Instant,
    pub(crate) again: bool,
}

impl Cx {
    /// Fires when the step is to stop: called off, past its deadline, or the daemon is stopping. The step should
    /// return soon, leaving things as its undo or its next run can take them.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
    /// Waits until the step is to stop.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }
    /// The error to return when the step was told to stop.
    #[must_use]
    pub fn stop_error(&self) -> Error {
        Error::new(Kind::Cancelled, "told to stop")
    }
    /// To be asked before each effect on the outside: is the step to go on, and is the job still ours?
    ///
    /// # Errors
    /// [`Kind::Cancelled`] or [`Kind::LeaseLost`].
    pub async fn check(&self) -> Result<()> {
        if self.token.is_cancelled() {
            return Err(self.stop_error());
        }
        self.shared.journal.check().await
    }
    /// Runs a future of the outside world until it is done, the step is to stop, or `limit` is over. The future is
    /// dropped in the latter two cases, so it must be one that may be.
    ///
    /// # Errors
    /// [`Kind::Cancelled`], or [`Kind::Deadline`] naming `what`.
    pub async fn within<T>(&self, what: &str, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(self.stop_error()),
            done = tokio::time::timeout(limit, work) => done.map_err(|_| {
                Error::new(Kind::Deadline, format!("{what} took longer than {limit:?}"))
            }),
        }
    }
    /// When the step's own deadline is.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }
    /// Whether an earlier life of the process, or an earlier try, has begun this step: something may be there already.
    #[must_use]
    pub fn again(&self) -> bool {
        self.again
    }
    /// Counts bytes.
    pub fn progress(&self, done: u64, total: u64) {
        self.shared.observer.progress(&self.key, done, total);
    }
    /// Tells a person something that is kept with the job.
    pub fn event(&self, kind: &str, message: impl AsRef<str>) {
        self.shared.observer.event(kind, message.as_ref());
    }
    pub(crate) async fn record_process(&self, group: i32, start_time: u64) -> Result<()> {
        let record = Record::Process { key: self.key.clone(), group, start_time };
        self.shared.append(&record).await
    }
    /// A context outside any job, for a process that nothing needs to resume: a tool's look at a file, a test.
    #[must_use]
    pub fn detached(journal: Arc<dyn Journal>, token: CancellationToken, limit: Duration) -> Self {
        let shared = Shared::bare(journal);
        Self {
            key: "detached".into(),
            shared: Arc::new(shared),
            token,
            deadline: Instant::now() + limit,
            again: false,
        }
    }
}
impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx").field("key", &self.key).field("again", &self.again).finish_non_exhaustive()
    }
}

/// A step about to run.
#[must_use = "a step does nothing before it is run"]
pub struct StepRun<'j, On: ?Sized, I> {
    job: &'j mut Job,
    on: &'j On,
    step: &'j Step<On, I>,
    key: String,
    intent: I,
}

impl<On: ?Sized + Sync, I: Serialize + DeserializeOwned + Clone + Send + Sync> StepRun<'_, On, I> {
    /// Tells apart several runs of one step in one part: a disk's number, a loop's count.
    pub fn key(mut self, key: impl fmt::Display) -> Self {
        self.key = format!("[{key}]");
        self
    }
    /// Runs the step, or returns what it recorded when it was done before.
    ///
    /// # Errors
    /// The step's error, after the step was undone; or what ends the job.
    pub async fn run<O, F, Fut>(self, work: F) -> Result<O>
    where
        F: Fn(I, Cx) -> Fut + Send,
        Fut: Future<Output = Result<O>> + Send,
        O: Serialize + DeserializeOwned + Send,
    {
        self.attempt(work).await?
    }
    /// As [`run`](Self::run), but an error of the step itself comes as the inner result: the step has been undone and
    /// the caller may go another way. The outer error ends the job: pass it on with `?`.
    ///
    /// # Errors
    /// What ends the job ([`Kind::ends_the_job`]).
    pub async fn attempt<O, F, Fut>(self, work: F) -> Result<Result<O>>
    where
        F: Fn(I, Cx) -> Fut + Send,
        Fut: Future<Output = Result<O>> + Send,
        O: Serialize + DeserializeOwned + Send,
    {
        let shared = self.job.shared.clone();
        match self.go(work).await {
            Err(e) if e.kind.ends_the_job() => {
                // Kept aside: whatever the author makes of the error on its way up, this is why the job stops.
                shared.state().stop.get_or_insert_with(|| e.failure());
                Err(e)
            }
            other => Ok(other),
        }
    }

    async fn go<O, F, Fut>(self, work: F) -> Result<O>
    where
        F: Fn(I, Cx) -> Fut + Send,
        Fut: Future<Output = Result<O>> + Send,
        O: Serialize + DeserializeOwned + Send,
    {
        let StepRun { job, on, step, key, intent } = self;
        let key = format!("{}{}{key}", job.prefix, step.name);
        let shared = job.shared.clone();
        let seen = shared.meet(&key, &job.prefix)?;
        let read = |v: Value| {
            serde_json::from_value::<I>(v).map_err(|e| {
                Error::caused(Kind::Diverged, format!("reading the recorded intent of `{key}`"), e)
            })
        };
        let mut again = true;
        let intent: I = match seen {
            Some(Seen::Done(recorded, output)) => {
                let recorded = read(recorded)?;
                if shared.left_behind(&key) || step.still(on, recorded.clone(), output.clone()).await? {
                    return serde_json::from_value(output).map_err(|e| {
                        Error::caused(Kind::Diverged, format!("reading the output of `{key}`"), e)
                    });
                }
                shared
                    .observer
                    .event("step-again", &format!("what `{key}` did no longer holds; it runs again"));
                recorded
            }
            Some(Seen::Failed(recorded, failure)) => {
                if !shared.state().undone.contains(&key) {
                    // The process died between the failure and the end of its undo.
                    let back = step.back(on, read(recorded)?).await;
                    shared.undone(&key, back).await?;
                }
                return Err(failure.into());
            }
            Some(Seen::Started(recorded)) => read(recorded)?,
            None => {
                shared.may_begin()?;
                let value = serde_json::to_value(&intent)
                    .map_err(|e| Error::caused(Kind::Fatal, format!("recording the intent of `{key}`"), e))?;
                shared.append(&Record::Started { key: key.clone(), intent: value.clone() }).await?;
                shared.begun(&key, value);
                again = false;
                intent
            }
        };
        // What an earlier life left running must be gone before two of them write to one file.
        let left: Vec<_> = shared.state().processes.remove(&key).unwrap_or_default();
        for (group, start_time) in left {
            process::end_group(group, start_time).await.map_err(|e| {
                let context = format!("ending process group {group} that an earlier run of `{key}` left");
                Error::caused(Kind::UndoFailed, context, e)
            })?;
        }
        match try_and_retry(&shared, &key, step, &intent, again, &work).await {
            Ok(output) => {
                let value = serde_json::to_value(&output)
                    .map_err(|e| Error::caused(Kind::Fatal, format!("recording the output of `{key}`"), e))?;
                shared.append(&Record::Done { key, output: value }).await?;
                Ok(output)
            }
            // Neither is the step's failure: the next life, or the other node, goes on from `started`.
            Err(e) if matches!(e.kind, Kind::LeaseLost | Kind::Interrupted | Kind::UndoFailed) => Err(e),
            Err(e) => {
                shared.append(&Record::Failed { key: key.clone(), error: e.failure() }).await?;
                let back = step.back(on, intent).await;
                shared.undone(&key, back).await?;
                Err(e)
            }
        }
    }
}

async fn try_and_retry<On, I, O, F, Fut>(
    shared: &Arc<Shared>,
    key: &str,
    step: &Step<On, I>,
    intent: &I,
    mut again: bool,
    work: &F,
) -> Result<O>
where
    On: ?Sized,
    I: Clone,
    F: Fn(I, Cx) -> Fut,
    Fut: Future<Output = Result<O>>,
{
    let deadline = Instant::now() + step.deadline;
    let mut wait = step.retry.first;
    let mut left = step.retry.times;
    loop {
        let token = CancellationToken::new();
        let cx = Cx { key: key.to_owned(), shared: shared.clone(), token: token.clone(), deadline, again };
        let result = watch(shared, key, &token, deadline, step.deadline, work(intent.clone(), cx)).await;
        match result {
            Err(e) if left > 0 && step.retry.kinds.contains(&e.kind) && Instant::now() + wait < deadline => {
                left -= 1;
                again = true;
                tracing::info!(step = key, error = %e.failure(), wait_s = wait.as_secs_f32(), "step failed, trying again");
                shared.wait_or_stop(wait).await?;
                wait = (wait * 2).min(Duration::from_secs(60));
            }
            result => return result,
        }
    }
}

/// Runs one try. It is told to stop when the job is called off, the daemon stops or the deadline passes, and is then
/// waited for: no future of a step is dropped half way.
async fn watch<O>(
    shared: &Shared,
    key: &str,
    token: &CancellationToken,
    deadline: Instant,
    limit: Duration,
    work: impl Future<Output = Result<O>>,
) -> Result<O> {
    tokio::pin!(work);
    let why = tokio::select! {
        biased;
        result = &mut work => return result,
        why = shared.why_stop() => why,
        () = tokio::time::sleep_until(deadline) => Why::Deadline,
    };
    token.cancel();
    let result = tokio::select! {
        biased;
        result = &mut work => result,
        () = tokio::time::sleep(GRACE) => {
            // It cannot be stopped. Undoing under its hands would be worse than waiting: say so, and wait.
            let context = format!("`{key}` was told to stop and has not returned for {} s", GRACE.as_secs());
            let error = Error::new(Kind::UndoFailed, context);
            shared.append(&Record::Stuck { key: key.to_owned(), error: error.failure() }).await?;
            let _ = work.await;
            return Err(error);
        }
    };
    match (result, why) {
        // It was done before it noticed.
        (Ok(output), _) => Ok(output),
        (Err(e), _) if matches!(e.kind, Kind::LeaseLost | Kind::UndoFailed) => Err(e),
        (Err(_), Why::Cancelled) => Err(Error::new(Kind::Cancelled, "called off")),
        (Err(_), Why::Interrupted) => Err(Error::new(Kind::Interrupted, "the daemon is stopping")),
        (Err(e), Why::Deadline) => {
            let context = format!("not done within {}", shorter(limit));
            Err(if e.kind == Kind::Cancelled {
                Error::new(Kind::Deadline, context)
            } else {
                Error::caused(Kind::Deadline, context, e)
            })
        }
    }
}

fn shorter(limit: Duration) -> String {
    let s = limit.as_secs();
    if s >= 120 && s.is_multiple_of(60) {
        format!("{} min", s / 60)
    } else {
        format!("{:.0} s", limit.as_secs_f64())
    }
}
