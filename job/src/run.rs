//! A job as its author sees it: steps, parts, progress, cancellation.

use crate::life::Life;
use crate::process::{Group, boot_id};
use crate::shared::{Shared, Stop};
use crate::{Error, Journal, Kind, Record, Result, Step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
        Job::new(self.shared.clone(), format!("{}{name}/", self.prefix))
    }
    pub(crate) fn new(shared: Arc<Shared>, prefix: String) -> Self {
        shared.hold(&prefix, true);
        Self { shared, prefix }
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
    /// The job's number, for the names of what its steps are going to make; 0 where it has none.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.shared.journal.job()
    }
    /// The flow version that the job began with, which may be an older one than the program's.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.shared.version
    }
}
impl Drop for Job {
    fn drop(&mut self) {
        self.shared.hold(&self.prefix, false);
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
    /// Fires when the step is to stop: called off, past its deadline, the lease lost, or the daemon is stopping. The step should
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
        self.shared.still_ours(&self.token).await
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
    /// Puts a process group of this step on record, so that it is ended when the step is over, and before the next life
    /// runs it again or undoes it. [`Process`](crate::Process) does this by itself.
    ///
    /// # Errors
    /// When the journal does not take it; the process must be ended then.
    pub async fn record_process(&self, group: i32, start_time: u64) -> Result<()> {
        let boot = boot_id().map(str::to_owned);
        let key = self.key.clone();
        self.shared.append(&Record::Process { key, group, start_time, boot: boot.clone() }).await?;
        let group = Group { id: group, started: start_time, boot };
        self.shared.state().processes.entry(self.key.clone()).or_default().push(group);
        Ok(())
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
        let StepRun { job, on, step, key, intent } = self;
        let key = format!("{}{}{key}", job.prefix, step.name);
        let result = Life { shared: &job.shared, key: &key, on, step }.live(&job.prefix, intent, work).await;
        // Kept aside: whatever the author makes of the error on its way up, this is why the job stops.
        result.inspect_err(|e| job.shared.halt(Stop::of(e)))
    }
}
