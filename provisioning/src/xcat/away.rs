//! Waiting for a management node that is away: restarted, upgraded, or its REST service is.
//!
//! What a node does meanwhile it does without xCAT: it images, installs, boots. So a job waits, asks again, and says in its
//! events that it does. What ends the wait otherwise: the job is called off, the daemon stops, or [`PATIENCE`]. A service
//! processor that does not answer is no reason to wait so long: the client has tried it a few times, and that is it.

use super::Xcat;
use super::answer::{Fault, Trouble};
use std::future::Future;
use std::time::Duration;
use vcl_job::doing;

/// How long a management node is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// Room for a step's own calls beside the waiting.
pub(super) const STEP: Duration = Duration::from_secs(2 * 3600 + 1800);
/// How often it is asked whether it is back.
const ASK: Duration = Duration::from_secs(2);

impl Xcat {
    /// Asks xCAT something for the step that this task runs or undoes, and waits while it is away. `work` is done again
    /// from its beginning.
    pub(super) async fn waiting<T, Fut>(&self, work: impl Fn() -> Fut + Send) -> vcl_job::Result<T>
    where
        Fut: Future<Output = Result<T, Fault>> + Send,
    {
        let began = tokio::time::Instant::now();
        let mut told = false;
        loop {
            vcl_job::held()?;
            let (doing, fault) = match (doing(), work().await) {
                (Some(doing), Err(fault)) if fault.trouble == Trouble::Away => (doing, fault),
                (doing, result) => {
                    if let Some(doing) = doing.filter(|_| told) {
                        let (url, away) = (&self.settings.url, began.elapsed().as_secs());
                        doing.event("host-back", format!("xCAT at {url} answers again after {away} s"));
                    }
                    return Ok(result?);
                }
            };
            if began.elapsed() >= PATIENCE {
                let hours = PATIENCE.as_secs() / 3600;
                let error = vcl_job::Error::from(fault);
                return Err(error.within(format!("waited {hours} h for xCAT at {}", self.settings.url)));
            }
            if !told {
                told = true;
                let since = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
                let message = format!(
                    "waiting for xCAT at {} since {since}; the job goes on when it answers ({})",
                    self.settings.url, fault.said
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
