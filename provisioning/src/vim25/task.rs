//! Tasks: what a server does in the background, waited for with their progress, and called off when a step is to stop.

use super::client::Content;
use super::client::{Client, failed, fault_of};
use super::dom::Element;
use super::fault::Fault;
use super::request::{Reference, Request};
use crate::{Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const WATCHED: &[&str] = &["info.state", "info.progress", "info.error", "info.result"];
/// How long a task may take to end after it was called off.
const ENDING: Duration = Duration::from_secs(600);

/// Who waits for something long: when it is to stop, and whom its progress is told.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) stop: CancellationToken,
    limit: Duration,
    told: Option<(vcl_images::Progress, u64)>,
}

impl Watcher {
    /// A step that runs.
    pub(crate) fn of(cx: &vcl_job::Cx) -> Self {
        Self { stop: cx.token().clone(), limit: LONG, told: Some((vcl_images::Progress::of(cx), 100)) }
    }
    /// Whatever this task does, an undo above all: it stops when that is to stop.
    pub(crate) fn doing() -> Self {
        let stop = vcl_job::doing().map(|doing| doing.stop().clone()).unwrap_or_default();
        Self { stop, limit: LONG, told: None }
    }
    /// The same, with at most so long.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
    /// The same; its progress is told in bytes of so many.
    pub(crate) fn bytes(mut self, bytes: u64) -> Self {
        if let Some((_, total)) = &mut self.told {
            *total = bytes;
        }
        self
    }
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
    /// Tells that so many bytes of all are done.
    pub(crate) fn tell(&self, done: u64, total: u64) {
        if let Some((progress, _)) = &self.told {
            progress.report(done, total);
        }
    }
    fn percent(&self, percent: u64) {
        if let Some((progress, total)) = &self.told {
            let done = u128::from(*total) * u128::from(percent.min(100)) / 100;
            progress.report(u64::try_from(done).unwrap_or(*total), *total);
        }
    }
}

/// What nothing else limits.
const LONG: Duration = Duration::from_secs(24 * 3600);

impl Client {
    /// Calls a method that answers with a task, and waits until that has ended. A watcher that is to stop calls the task
    /// off and waits for its end: what it works on is not touched by it afterwards.
    pub(crate) async fn task(
        &self,
        what: &str,
        watcher: &Watcher,
        make: impl Fn(&Content) -> Request + Send,
    ) -> Result<Element> {
        if watcher.stop.is_cancelled() {
            return Err(stopped(what));
        }
        let answer = self.change(what, make).await?;
        let missing = || Error::new(ErrorKind::Corrupt, format!("{what}: the server answers with no task"));
        let task = answer.reference_at("returnval").ok_or_else(missing)?;
        self.await_task(what, watcher, &task).await
    }

    async fn await_task(&self, what: &str, watcher: &Watcher, task: &Reference) -> Result<Element> {
        let mut watch = self.watch(task, WATCHED);
        let mut seen: BTreeMap<String, Element> = BTreeMap::new();
        let mut deadline = tokio::time::Instant::now() + watcher.limit;
        // Why it was called off, once it was.
        let mut off: Option<Error> = None;
        let mut away = 0;
        let ended = loop {
            let next = tokio::select! {
                next = watch.next() => next,
                () = watcher.stop.cancelled(), if off.is_none() => {
                    off = Some(stopped(what));
                    self.call_off(task).await;
                    deadline = tokio::time::Instant::now() + ENDING;
                    continue;
                }
                () = tokio::time::sleep_until(deadline) => {
                    if let Some(why) = off {
                        let ending = ENDING.as_secs();
                        let message = format!("{what}: {task} was called off and has not ended in {ending} s");
                        return Err(Error::caused(ErrorKind::Deadline, message, why));
                    }
                    let limit = watcher.limit.as_secs();
                    off = Some(Error::new(ErrorKind::Deadline, format!("{what}: not done within {limit} s")));
                    self.call_off(task).await;
                    deadline = tokio::time::Instant::now() + ENDING;
                    continue;
                }
            };
            match next {
                Ok(changed) => {
                    away = 0;
                    for (name, value) in changed {
                        match value {
                            Some(value) => seen.insert(name, value),
                            None => seen.remove(&name),
                        };
                    }
                }
                // The task goes on while nobody can look at it.
                Err(e) if matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Deadline) && away < AWAY => {
                    away += 1;
                    tokio::select! {
                        () = watcher.stop.cancelled(), if off.is_none() => {}
                        () = tokio::time::sleep(Duration::from_secs(1) * away) => {} // why: nobody tells us when it is back
                    }
                    continue;
                }
                // The task, not what it works on: after a restart a server does not know its tasks any more. What has
                // come of it is seen by who does it again.
                Err(e) if e.kind == ErrorKind::NotFound => {
                    let message = format!("{what}: the server has forgotten {task}");
                    return Err(Error::caused(ErrorKind::Unreachable, message, e));
                }
                Err(e) => return Err(e),
            }
            if let Some(percent) = seen.get("info.progress").and_then(|e| e.text.trim().parse().ok()) {
                watcher.percent(percent);
            }
            match seen.get("info.state").map(|e| e.text.as_str()) {
                Some("success") => break Ok(seen.remove("info.result").unwrap_or_default()),
                Some("error") => {
                    let fault = seen.get("info.error").map(Fault::of_task);
                    break Err(match fault {
                        Some(fault) => failed(what, fault),
                        None => {
                            Error::new(ErrorKind::Failed, format!("{what}: the server does not say why not"))
                        }
                    });
                }
                _ => {}
            }
        };
        watch.close().await;
        match (ended, off) {
            // It was quicker than our wish to have it stopped.
            (Ok(result), _) => Ok(result),
            (Err(_), Some(why)) => Err(why),
            (Err(e), None) => Err(e),
        }
    }

    async fn call_off(&self, task: &Reference) {
        let asked = self.call("calling a task off", |_| Request::new("CancelTask", task, |_| {})).await;
        if let Err(e) = asked
            && !matches!(fault_of(&e), Some("InvalidState" | "NotSupported" | "MethodNotFound"))
        {
            tracing::warn!(error = e.chain(), %task, "a task cannot be called off; it is waited for");
        }
    }
}

/// How long a server may be busy with what has to be undone.
const UNDOING: Duration = Duration::from_secs(2 * 3600);
/// How often it is asked again.
const ASK: Duration = Duration::from_secs(1);
const ASK_AT_MOST: Duration = Duration::from_secs(15);

/// Patience with a server that is busy with what an earlier life of ours has begun there: a task goes on without whoever
/// asked for it, for as long as the copying takes, and until then its files and its name are taken.
pub(crate) struct Patience<'w> {
    watcher: &'w Watcher,
    until: tokio::time::Instant,
    wait: Duration,
}

impl<'w> Patience<'w> {
    /// A step's: at most `limit`, where it is done again, and none where it is done first.
    pub(crate) fn of(cx: &vcl_job::Cx, watcher: &'w Watcher, limit: Duration) -> Self {
        let limit = if cx.again() { limit } else { Duration::ZERO };
        Self { watcher, until: tokio::time::Instant::now() + limit, wait: ASK }
    }
    /// An undo's.
    pub(crate) fn undoing(watcher: &'w Watcher) -> Self {
        Self { watcher, until: tokio::time::Instant::now() + UNDOING, wait: ASK }
    }
    /// Waits before what failed so is tried again.
    ///
    /// # Errors
    /// This one, where that is of no use: the server is not busy, or has been for too long.
    pub(crate) async fn outwait(&mut self, error: Error) -> Result<()> {
        if error.kind != ErrorKind::Busy || tokio::time::Instant::now() >= self.until {
            return Err(error);
        }
        if self.wait == ASK
            && let Some(doing) = vcl_job::doing()
        {
            let message =
                format!("waiting for what an earlier try has begun at the server: {}", error.chain());
            doing.event("host-busy", message);
        }
        tokio::select! {
            () = self.watcher.stop.cancelled() => return Err(stopped(&error.context)),
            () = tokio::time::sleep(self.wait) => {} // why: nobody tells us when a file or a name is free
        }
        self.wait = (self.wait * 2).min(ASK_AT_MOST);
        Ok(())
    }
}

/// A name of ours is taken by what an earlier try goes on making at the server.
pub(crate) fn busy(mut e: Error) -> Error {
    if e.kind == ErrorKind::Exists {
        e.kind = ErrorKind::Busy;
    }
    e
}

/// How often in a row a server that is away is asked again.
const AWAY: u32 = 20;

pub(super) fn stopped(what: &str) -> Error {
    Error::new(ErrorKind::Cancelled, format!("{what}: told to stop"))
}
