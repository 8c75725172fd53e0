//! Waiting for a server that is away: restarted, upgraded, without a network.
//!
//! Machines run on while their server is away, and so does a job. An error that says so is handed on only when the
//! server answers again; by then whoever called may ask again, and every step may be tried again from its beginning.
//! How a job waits is told in [`away`](crate::away).

use super::client::Client;
use super::task::stopped;
use crate::away::{Away, Over};
use crate::{Error, ErrorKind};
use std::time::Duration;
use vcl_job::doing;

/// How often it is asked whether it is back, and how long an answer may take.
const ASK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(20);

impl Client {
    /// Waits until the server answers that this error says does not. Other errors are handed on at once.
    pub(super) async fn outlast(&self, error: Error) -> Error {
        let Some(doing) = doing().filter(|_| error.kind == ErrorKind::Unreachable) else { return error };
        let (mut away, why) = (Away::new(self.address(), ASK), error.chain());
        loop {
            // The next life of the job waits, if this one is over.
            if doing.held().is_err() {
                return error;
            }
            let answers = tokio::select! {
                answers = self.answers(ANSWER) => answers,
                () = doing.stopped() => return stopped(&error.context),
            };
            if answers {
                away.answers();
                return error;
            }
            match away.outlast(&why).await {
                Ok(()) => {}
                Err(Over::NoJob) => return error,
                Err(Over::Stopped(_)) => return stopped(&error.context),
                Err(Over::Patience(text)) => return Error::caused(ErrorKind::Away, text, error),
            }
        }
    }
}
