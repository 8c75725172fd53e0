//! Waiting for a server that is away: restarted, upgraded, without a network.
//!
//! Machines run on while their server is away, and so does a job. An error that says so is handed on only when the server
//! answers again; by then whoever called may ask again, and every step may be tried again from its beginning. That a job
//! waits, for whom and since when stands in its events, once when it begins to wait and once when that is over. What
//! ends the wait otherwise: the job is called off, the daemon stops, or [`PATIENCE`]. Outside of any job nothing is
//! waited for.

use super::client::Client;
use super::task::stopped;
use crate::{Error, ErrorKind};
use std::time::Duration;
use vcl_job::doing;

/// How long a server is waited for, the same as a host of libvirt's.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);
/// How often it is asked whether it is back, and how long an answer may take.
const ASK: Duration = Duration::from_secs(1);
const ANSWER: Duration = Duration::from_secs(20);

impl Client {
    /// Waits until the server answers that this error says does not. Other errors are handed on at once.
    pub(super) async fn outlast(&self, error: Error) -> Error {
        let Some(doing) = doing().filter(|_| error.kind == ErrorKind::Unreachable) else { return error };
        let (address, began) = (self.address(), tokio::time::Instant::now());
        let mut told = false;
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
                if told {
                    let away = began.elapsed().as_secs();
                    doing.event("host-back", format!("{address} answers again after {away} s"));
                }
                return error;
            }
            if began.elapsed() >= PATIENCE {
                let hours = PATIENCE.as_secs() / 3600;
                return Error::caused(ErrorKind::Away, format!("waited {hours} h for {address}"), error);
            }
            if !told {
                told = true;
                let since = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
                let why = error.chain();
                let message =
                    format!("waiting for {address} since {since}; the job goes on when it answers ({why})");
                doing.event("host-away", message);
            }
            tokio::select! {
                () = doing.stopped() => return stopped(&error.context),
                () = tokio::time::sleep(ASK) => {} // why: nobody tells us when it is back
            }
        }
    }
}
