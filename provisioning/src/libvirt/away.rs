//! Waiting for a libvirtd that is away: restarted, upgraded, crashed, or not up yet after a boot of the node.
//!
//! A guest runs on while its libvirtd is away, and so does a job: what it asked for is asked again when libvirtd is back,
//! and every call may be made twice. That it waits, for whom and since when stands in the job's events, once when it
//! begins to wait and once when that is over. What ends the wait otherwise: the job is called off, the daemon stops, or
//! [`PATIENCE`].

use super::Libvirt;
use crate::{ErrorKind, Result};
use std::future::Future;
use std::time::Duration;
use vcl_job::{Kind, doing};

/// How long a host is waited for. A node that is upgraded or repaired is back within that; a job that waits longer for one
/// that stays away keeps a computer from everybody.
pub(super) const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// Room for a step's own work beside the waiting.
pub(super) const STEP: Duration = Duration::from_secs(2 * 3600 + 600);
/// How long a call that is under way when its step is told to stop is waited for; a stream ends before that by itself. A
/// step has a minute to return, or its job is stuck.
const STOPPING: Duration = Duration::from_secs(40);
/// How often it is asked whether it is back.
const ASK: Duration = Duration::from_millis(500);

/// What a step that was told to stop returns when what it does has had its time to end; never outside of a job.
async fn overdue() -> vcl_job::Error {
    let Some(doing) = doing() else { return std::future::pending().await };
    doing.stopped().await;
    tokio::time::sleep(STOPPING).await; // why: it is a deadline
    doing.stop_error()
}

impl Libvirt {
    /// Does something with libvirt for the step that this task runs, undoes or asks about, and waits while libvirt is
    /// away. `work` is done again from its beginning. Told to stop, it gives up on a call that does not come back. Outside
    /// of any job nothing is waited for.
    pub(super) async fn waiting<T, Fut>(&self, work: impl Fn() -> Fut + Send) -> vcl_job::Result<T>
    where
        Fut: Future<Output = Result<T>> + Send,
    {
        let began = tokio::time::Instant::now();
        let mut told = false;
        loop {
            vcl_job::held()?;
            let result = tokio::select! {
                biased;
                result = work() => result,
                late = overdue() => return Err(late),
            };
            let (doing, error) = match (doing(), result) {
                (Some(doing), Err(e)) if e.kind == ErrorKind::Unreachable => (doing, e),
                (doing, result) => {
                    if let Some(doing) = doing.filter(|_| told) {
                        let (uri, away) = (&self.settings.uri, began.elapsed().as_secs());
                        doing.event("host-back", format!("libvirtd at {uri} answers again after {away} s"));
                    }
                    return Ok(result?);
                }
            };
            if began.elapsed() >= PATIENCE {
                let hours = PATIENCE.as_secs() / 3600;
                let error = vcl_job::Error::from(error).of_kind(Kind::Unreachable);
                return Err(error.within(format!("waited {hours} h for libvirtd at {}", self.settings.uri)));
            }
            if !told {
                told = true;
                let since = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
                let message = format!(
                    "waiting for libvirtd at {} since {since}; the job goes on when it answers ({})",
                    self.settings.uri,
                    error.chain()
                );
                doing.event("host-away", message);
            }
            tokio::select! {
                () = doing.stopped() => return Err(doing.stop_error()),
                () = tokio::time::sleep(ASK) => {} // why: nobody tells us when it is back
            }
        }
    }
}
