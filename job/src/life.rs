//! One life of one step: what the journal knows of it, its tries, how it is told to stop, its way back.

use crate::doing::{Doing, during};
use crate::journal::{left_of, now_ms};
use crate::seeded::{Fault, seeded};
use crate::shared::{Seen, Shared, Why, fits, shorter};
use crate::{Cx, Error, Failure, Kind, Record, Result, Step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a step that was told to stop may take to return before its job is reported stuck.
const GRACE: Duration = Duration::from_secs(60);

/// A step of a job in this process.
pub(crate) struct Life<'a, On: ?Sized, I> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) key: &'a str,
    pub(crate) on: &'a On,
    pub(crate) step: &'a Step<On, I>,
}

/// Says so when a step's future is dropped before its end: nobody knows then what still works for it.
struct Whole<'a>(&'a Shared, &'a str, bool);
impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if !self.2 {
            let context = format!(
                "`{}` was dropped while it was under way; steps are joined or told to stop, never dropped",
                self.1
            );
            self.0.halt(crate::shared::Stop::Stuck(Error::new(Kind::UndoFailed, context).failure()));
        }
    }
}

impl<On: ?Sized + Sync, I: Serialize + DeserializeOwned + Clone + Send + Sync> Life<'_, On, I> {
    /// Runs it, or returns what is recorded of it. The outer error ends the job; the inner one is the step's own, and it
    /// has been undone.
    pub(crate) async fn live<O, F, Fut>(&self, prefix: &str, intent: I, work: F) -> Result<Result<O>>
    where
        F: Fn(I, Cx) -> Fut + Send,
        Fut: Future<Output = Result<O>> + Send,
        O: Serialize + DeserializeOwned + Send,
    {
        let (shared, key) = (self.shared, self.key);
        let seen = shared.meet(key, prefix)?;
        let mut whole = Whole(shared, key, false);
        let result = self.from(seen, intent, work).await;
        whole.2 = true;
        result
    }

    async fn from<O, F, Fut>(&self, seen: Option<Seen>, today: I, work: F) -> Result<Result<O>>
    where
        F: Fn(I, Cx) -> Fut + Send,
        Fut: Future<Output = Result<O>> + Send,
        O: Serialize + DeserializeOwned + Send,
    {
        let (shared, key) = (self.shared, self.key);
        let mut again = true;
        let intent = match seen {
            Some(Seen::Done(recorded, output)) => {
                let recorded = self.read(recorded)?;
                // What an earlier life of a step that ran again left running must be gone whatever the answer is.
                shared.end_processes(key).await?;
                if !seeded(Fault::DoneRunsAgain) && self.holds(&recorded, &output).await? {
                    let output = serde_json::from_value(output).map_err(|e| {
                        Error::caused(Kind::Diverged, format!("reading the output of `{key}`"), e)
                    })?;
                    return Ok(Ok(output));
                }
                shared.may_begin()?;
                let message = format!("what `{key}` did no longer holds; it runs again");
                shared.observer.event("step-again", &message);
                recorded
            }
            Some(Seen::Failed(recorded, failure)) if !seeded(Fault::FailedRunsAgain) => {
                if !shared.state().undone.contains(key) {
                    // The process died between the failure and the end of its undo.
                    self.take_back(&self.read(recorded)?, &failure).await?;
                }
                return self.failed(failure.into());
            }
            Some(Seen::Started(recorded) | Seen::Failed(recorded, _)) => {
                shared.may_begin()?;
                // What an earlier life left running must be gone before two of them write to one file.
                shared.end_processes(key).await?;
                if seeded(Fault::IntentOfToday) { today } else { self.read(recorded)? }
            }
            None => {
                shared.may_begin()?;
                again = false;
                match self.begin(&today).await? {
                    Ok(()) => today,
                    Err(e) => return Ok(Err(e)),
                }
            }
        };
        match self.tries(&intent, again, &work).await?.and_then(|output| self.done(output)) {
            Ok((record, output)) => {
                if seeded(Fault::StartedAfterRun) {
                    let _ = self.started(&intent, now_ms()).await?;
                }
                if !seeded(Fault::DoneBeforeRun) {
                    shared.append(&record).await?;
                }
                Ok(Ok(output))
            }
            Err(e) => {
                let failure = e.failure();
                shared.append(&Record::Failed { key: key.to_owned(), error: failure.clone() }).await?;
                if !seeded(Fault::FailedNotUndone) {
                    self.take_back(&intent, &failure).await?;
                }
                self.failed(e)
            }
        }
    }

    fn read(&self, recorded: Value) -> Result<I> {
        serde_json::from_value(recorded).map_err(|e| {
            Error::caused(Kind::Diverged, format!("reading the recorded intent of `{}`", self.key), e)
        })
    }
    /// A failure that is recorded and taken back: does it end the job?
    fn failed<O>(&self, e: Error) -> Result<Result<O>> {
        let overdue = e.kind == Kind::Deadline && self.shared.overdue().is_some();
        if e.kind.ends_the_job() || overdue { Err(e) } else { Ok(Err(e)) }
    }
    async fn started(&self, intent: &I, at: i64) -> Result<Result<()>> {
        let key = self.key.to_owned();
        let value = match serde_json::to_value(intent) {
            Ok(value) => value,
            Err(e) => {
                let context = format!("recording the intent of `{key}`");
                return Ok(Err(Error::caused(Kind::Fatal, context, e)));
            }
        };
        let record = Record::Started { key, intent: value.clone(), at: Some(at) };
        if let Err(e) = fits(&record) {
            return Ok(Err(e));
        }
        self.shared.append(&record).await?;
        self.shared.begun(self.key, value, at);
        Ok(Ok(()))
    }
    async fn begin(&self, intent: &I) -> Result<Result<()>> {
        if !seeded(Fault::StartedAfterRun)
            && let Err(e) = self.started(intent, now_ms()).await?
        {
            return Ok(Err(e));
        }
        if seeded(Fault::DoneBeforeRun) {
            self.shared.append(&Record::Done { key: self.key.to_owned(), output: Value::Null }).await?;
        }
        Ok(Ok(()))
    }
    /// The record of its end, which has to be one that can be kept.
    fn done<O: Serialize>(&self, output: O) -> Result<(Record, O)> {
        let key = self.key.to_owned();
        let value = serde_json::to_value(&output)
            .map_err(|e| Error::caused(Kind::Fatal, format!("recording the output of `{key}`"), e))?;
        let value = if seeded(Fault::OutputNotRecorded) { Value::Null } else { value };
        let record = Record::Done { key, output: value };
        fits(&record)?;
        Ok((record, output))
    }
    /// Whether what it did still holds, as far as the job still cares.
    async fn holds(&self, intent: &I, output: &Value) -> Result<bool> {
        let shared = self.shared;
        if shared.finished
            || !self.step.asks()
            || shared.left_behind(self.key)
            || seeded(Fault::HoldsNeverAsked)
        {
            return Ok(true);
        }
        let ask = |stop: CancellationToken| {
            let ask = self.step.still(self.on, intent.clone(), output.clone());
            during(Doing::new(shared, self.key, false, stop), ask)
        };
        let limit = self.step.deadline;
        match self.watch(Instant::now() + limit, limit, ask).await? {
            Ok(holds) => Ok(holds),
            Err(e) if e.kind == Kind::Cancelled => Err(e),
            Err(e) => {
                tracing::info!(step = self.key, error = %e.failure(), "cannot tell whether it holds; it runs again");
                Ok(false)
            }
        }
    }
    /// Undoes it, after whoever watches had a look.
    async fn take_back(&self, intent: &I, failure: &Failure) -> Result<()> {
        self.shared.failing(self.key, failure).await;
        self.shared.undo(self.key, || self.step.back(self.on, intent.clone())).await
    }

    async fn tries<O, F, Fut>(&self, intent: &I, mut again: bool, work: &F) -> Result<Result<O>>
    where
        F: Fn(I, Cx) -> Fut,
        Fut: Future<Output = Result<O>>,
    {
        let (shared, step, key) = (self.shared, self.step, self.key);
        let since = shared.state().since.get(key).copied().unwrap_or_else(now_ms);
        let (mut limit, mut left_in_all) = (step.deadline, step.deadline);
        if let Some(in_all) = step.in_all {
            let left = left_of(in_all, since);
            if left < left_in_all {
                (limit, left_in_all) = (in_all, left);
            }
        }
        let deadline = Instant::now() + left_in_all;
        let (mut wait, mut left) = (step.retry.first, step.retry.times);
        loop {
            let run = |stop: CancellationToken| {
                let doing = Doing::new(shared, key, false, stop.clone());
                let cx = Cx { key: key.to_owned(), shared: shared.clone(), token: stop, deadline, again };
                during(doing, work(intent.clone(), cx))
            };
            let result = self.watch(deadline, limit, run).await;
            // Whatever the step made of it: nothing of it may be at work when it is over.
            shared.end_processes(key).await?;
            match result? {
                Err(e)
                    if left > 0 && step.retry.kinds.contains(&e.kind) && Instant::now() + wait < deadline =>
                {
                    left -= 1;
                    again = true;
                    let (error, wait_s) = (e.failure(), wait.as_secs_f32());
                    tracing::info!(step = key, %error, wait_s, "step failed, trying again");
                    match shared.wait_or_stop(wait).await {
                        Err(e) if matches!(e.kind, Kind::LeaseLost | Kind::Interrupted) => return Err(e),
                        Err(e) => return Ok(Err(e)),
                        Ok(()) => {}
                    }
                    wait = (wait * 2).min(Duration::from_secs(60));
                }
                result => return Ok(result),
            }
        }
    }

    /// Runs one try. It is told to stop when the job is called off, its lease is lost, the daemon stops or a deadline
    /// passes, and is then waited for: no future of a step is dropped half way. The outer error is none of the step's:
    /// the next life, or the other node, goes on from `started`.
    async fn watch<O, W, Fut>(&self, deadline: Instant, limit: Duration, run: W) -> Result<Result<O>>
    where
        W: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = Result<O>>,
    {
        let stop = CancellationToken::new();
        let work = run(stop.clone());
        tokio::pin!(work);
        let why = tokio::select! {
            biased;
            result = &mut work => return self.sort(result, None, limit),
            why = self.shared.why_stop() => why,
            () = tokio::time::sleep_until(deadline) => Why::Deadline,
        };
        if seeded(Fault::CancelDropsStep) && why == Why::Cancelled {
            return Ok(Err(Error::new(Kind::Cancelled, "called off")));
        }
        stop.cancel();
        let result = tokio::select! {
            biased;
            result = &mut work => result,
            // why: it is a deadline
            () = tokio::time::sleep(GRACE) => {
                // It cannot be stopped. Undoing under its hands would be worse than waiting: say so, and wait.
                let context =
                    format!("`{}` was told to stop and has not returned for {} s", self.key, GRACE.as_secs());
                if matches!(why, Why::Lost | Why::Interrupted) {
                    // The next life finds it as it is. Until then this one keeps its hands where they are.
                    self.shared.observer.event("step-does-not-stop", &context);
                    work.await
                } else {
                    let error = self.shared.stuck(self.key, Error::new(Kind::UndoFailed, context)).await;
                    let _ = work.await;
                    return Err(error);
                }
            }
        };
        self.sort(result, Some(why), limit)
    }
    /// Whose matter is the end of a try: the step's, or that of the whole job?
    fn sort<O>(&self, result: Result<O>, why: Option<Why>, limit: Duration) -> Result<Result<O>> {
        match (result, why) {
            // Whatever it did or did not do is the next life's to find out.
            (_, Some(Why::Lost)) => Err(Error::new(Kind::LeaseLost, "the job's lease ran out")),
            // It was done before it noticed.
            (Ok(output), _) => Ok(Ok(output)),
            (Err(e), _) if matches!(e.kind, Kind::LeaseLost | Kind::Interrupted | Kind::UndoFailed) => Err(e),
            (Err(e), None) => Ok(Err(e)),
            (Err(_), Some(Why::Cancelled)) => Ok(Err(Error::new(Kind::Cancelled, "called off"))),
            (Err(_), Some(Why::Interrupted)) => Err(Error::new(Kind::Interrupted, "the daemon is stopping")),
            (Err(e), Some(why @ (Why::Deadline | Why::Overdue))) => {
                let late = if why == Why::Overdue { self.shared.overdue() } else { None };
                let late = late.unwrap_or_else(|| {
                    Error::new(Kind::Deadline, format!("not done within {}", shorter(limit)))
                });
                // What it says to being told to stop is nothing new.
                let told = e.kind == Kind::Cancelled;
                Ok(Err(if told { late } else { Error::caused(late.kind, late.context, e) }))
            }
        }
    }
}
