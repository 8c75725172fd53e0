//! Waiting for a libvirtd that is away: restarted, upgraded, crashed, or not up yet after a boot of the node.
//!
//! A guest runs on while its libvirtd is away, and so does a job: what it asked for is asked again when libvirtd is
//! back, and every call may be made twice. How it waits is told in [`away`](crate::away).

use super::Libvirt;
use crate::away::{Away, Over, PATIENCE};
use crate::{ErrorKind, Result};
use std::future::Future;
use std::time::Duration;
use vcl_job::{Kind, doing};

/// Room for a step's own work beside the waiting.
pub(super) const STEP: Duration = PATIENCE.saturating_add(Duration::from_secs(600));
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
        let mut away = Away::new(format!("libvirtd at {}", self.settings.uri), ASK);
        loop {
            vcl_job::held()?;
            let result = tokio::select! {
                biased;
                result = work() => result,
                late = overdue() => return Err(late),
            };
            let error = match result {
                Err(e) if e.kind == ErrorKind::Unreachable => e,
                result => {
                    away.answers();
                    return Ok(result?);
                }
            };
            match away.outlast(&error.chain()).await {
                Ok(()) => {}
                Err(Over::NoJob) => return Err(error.into()),
                Err(Over::Stopped(e)) => return Err(e),
                Err(Over::Patience(text)) => {
                    return Err(vcl_job::Error::from(error).of_kind(Kind::Unreachable).within(text));
                }
            }
        }
    }
}
