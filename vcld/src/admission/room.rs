//! Room for the jobs of this node: set apart before one begins, given back when it ends.
//!
//! What is set apart lives in memory. A daemon that starts again has jobs that go on, and each has its room set apart
//! again; one that has begun is never kept from going on. A job that does not fit waits as a row of the queue. This
//! node looks at those that wait when a job of its own has ended, when its trash was emptied, and every half a minute,
//! for what somebody else made room for.

use super::demand::{At, Need};
use super::{Admission, admit};
use crate::node::{Node, Refusal, chain};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use vcl_images::{ErrorKind, Store as _};
use vcl_queue::{Claim, WaitFor};
use vcl_types::{BackendName, JobId};

/// How often it is looked whether there is room, when nobody says so.
const LOOK: Duration = Duration::from_secs(30);

/// What the jobs under way on this node were promised.
#[derive(Default)]
pub(crate) struct Room {
    /// Places are measured and promised by one job at a time.
    turn: tokio::sync::Mutex<()>,
    jobs: Mutex<HashMap<JobId, Promise>>,
    /// There may be room where there was none.
    pub(crate) nudged: Notify,
}

#[derive(Default)]
struct Promise {
    /// The newest claim's number, which the names of its directories have.
    token: i64,
    /// Whether it was promised something in the library.
    library: bool,
    /// What the library's ledger knows to be written.
    written: u64,
    backends: Vec<(BackendName, u64)>,
}

impl Room {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Promise>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What jobs under way were promised at a backend.
    pub(super) fn promised(&self, backend: &BackendName) -> u64 {
        let jobs = self.jobs();
        let all = jobs.values().flat_map(|promise| &promise.backends);
        all.filter(|(name, _)| name == backend).fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Node {
    /// Sets apart what a job is going to write, or says why it has to wait, and where. One that has begun goes on in any
    /// case. What cannot be measured keeps nobody waiting: the job finds out itself.
    pub(crate) async fn take_room(&self, claim: &Claim, begun: bool) -> Admission {
        let taken = async {
            let needs = self.needs(&claim.job.request, claim.job.backend.as_ref()).await?;
            if needs.is_empty() {
                return Ok(Admission::Admitted);
            }
            let room = &self.insight.room;
            let _turn = room.turn.lock().await;
            if needs.iter().any(|need| need.at == At::Library) {
                self.count_written().await;
            }
            let admission = admit(&self.measured(&needs).await?);
            if admission == Admission::Admitted || begun {
                self.promise(claim, &needs)?;
                return Ok(Admission::Admitted);
            }
            Ok::<_, Refusal>(admission)
        };
        taken.await.unwrap_or_else(|refusal| {
            tracing::debug!(reason = refusal.message, "how much room the job needs is not known");
            Admission::Admitted
        })
    }

    fn promise(&self, claim: &Claim, needs: &[Need]) -> Result<(), Refusal> {
        let mut promise = Promise { token: claim.token, ..Promise::default() };
        for Need { at, bytes } in needs {
            match at {
                At::Library => {
                    match self.library.reserve(claim.id(), *bytes, self.config.library.keep_free) {
                        // A job that goes on where there is less than it needs takes what there is.
                        Err(e) if e.kind == ErrorKind::NoSpace => {}
                        done => done?,
                    }
                    promise.library = true;
                }
                At::Backend(name) => promise.backends.push((name.clone(), *bytes)),
            }
        }
        self.insight.room.jobs().insert(claim.id(), promise);
        Ok(())
    }

    /// What jobs have written into the library is no longer free, so it is not promised any more.
    async fn count_written(&self) {
        let jobs: Vec<_> = {
            let jobs = self.insight.room.jobs();
            jobs.iter().filter(|(_, p)| p.library).map(|(id, p)| (*id, p.token)).collect()
        };
        let library = self.library.clone();
        let measure = move || {
            let size = |(id, token): (JobId, i64)| {
                let names = (1..=token).map(|token| vcl_images::staging_name(id, token));
                let made = names.filter_map(|name| library.staging_made(&name).ok());
                let sizes = made.map(|s| vcl_images::Directory.size(s.directory()).unwrap_or(0));
                (id, sizes.sum::<u64>())
            };
            jobs.into_iter().map(size).collect::<Vec<_>>()
        };
        let Ok(sizes) = tokio::task::spawn_blocking(measure).await else { return };
        let mut jobs = self.insight.room.jobs();
        for (id, size) in sizes {
            if let Some(promise) = jobs.get_mut(&id) {
                self.library.written(id, size.saturating_sub(promise.written));
                promise.written = promise.written.max(size);
            }
        }
    }

    /// A job that is over needs no room; others may have it.
    pub(crate) fn leave_room(&self, id: JobId) {
        self.insight.room.jobs().remove(&id);
        self.library.release(id);
        self.insight.room.nudged.notify_one();
    }

    /// Wakes those that wait for room and fit now. Each asks again when it is claimed.
    pub(crate) async fn wake_who_fits(&self) -> Result<u64, Refusal> {
        let mut woken = 0;
        let mut done: Vec<WaitFor> = Vec::new();
        for job in self.queue.waiting_for_room().await? {
            let Some(what) = job.waits_for else { continue };
            let mine = job.bound_to.as_ref().is_none_or(|node| *node == self.name);
            if !mine || done.contains(&what) {
                continue;
            }
            // What cannot be told the job finds out itself.
            if !matches!(self.admission(&job.request).await, Ok(Admission::Waits { .. })) {
                woken += self.queue.wake_waiting(&what).await?;
                done.push(what);
            }
        }
        Ok(woken)
    }
}

/// Wakes who waits for room, as long as the daemon lives.
pub(crate) async fn watch(node: &Arc<Node>) {
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What the configuration keeps free, and where things are, may be otherwise than in an earlier life.
    if let Err(error) = node.queue.wake_all().await {
        tracing::warn!(error = chain(&error), "nobody could wake those that wait for room");
    }
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.insight.room.nudged.notified() => {}
        }
        if let Err(refusal) = node.wake_who_fits().await {
            tracing::warn!(error = refusal.message, "nobody could look who waits for room");
        }
    }
}
