//! Waiting for a management node that is away: restarted, upgraded, or its REST service is.
//!
//! What a node does meanwhile it does without xCAT: it images, installs, boots. How a job waits is told in
//! [`away`](crate::away). A service processor that does not answer is no reason to wait so long: the client has tried
//! it a few times, and that is it.

use super::Xcat;
use super::answer::{Fault, Trouble};
use crate::away::{Away, Over, PATIENCE};
use std::future::Future;
use std::time::Duration;

/// Room for a step's own calls beside the waiting.
pub(super) const STEP: Duration = PATIENCE.saturating_add(Duration::from_secs(1800));
/// How often it is asked whether it is back.
const ASK: Duration = Duration::from_secs(2);

impl Xcat {
    /// Asks xCAT something for the step that this task runs or undoes, and waits while it is away. `work` is done again
    /// from its beginning. Outside of any job nothing is waited for.
    pub(super) async fn waiting<T, Fut>(&self, work: impl Fn() -> Fut + Send) -> vcl_job::Result<T>
    where
        Fut: Future<Output = Result<T, Fault>> + Send,
    {
        let mut away = Away::new(format!("xCAT at {}", self.settings.url), ASK);
        loop {
            vcl_job::held()?;
            let fault = match work().await {
                Err(fault) if fault.trouble == Trouble::Away => fault,
                result => {
                    away.answers();
                    return Ok(result?);
                }
            };
            match away.outlast(&fault.said).await {
                Ok(()) => {}
                Err(Over::NoJob) => return Err(fault.into()),
                Err(Over::Stopped(e)) => return Err(e),
                Err(Over::Patience(text)) => return Err(vcl_job::Error::from(fault).within(text)),
            }
        }
    }
}
