//! Waiting until a guest lets us in.

use crate::answer::Answer;
use crate::{Command, Error, ErrorKind, Guest, Remote, Remotes, Result};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use vcl_job::Cx;
use vcl_types::Endpoint;

/// For a guest that was there a moment ago, and that nobody waits for.
pub(crate) const NOW: Duration = Duration::from_secs(30);
/// For a guest that was there a moment ago, by a job that may as well wait: the daemon may have been away for a while.
pub(crate) const AGAIN: Duration = Duration::from_secs(120);

/// One try. A server that is there answers in far less; what swallows connections is better asked anew.
const TRY: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(150);
/// After a login was refused: each try costs the guest a key exchange, and a newer sshd shuts out who fails too often.
const SLOW_POLL: Duration = Duration::from_secs(5);
/// An account's keys may be put there after the ssh server is up (cloud-init does).
const LOGIN_GRACE: Duration = Duration::from_secs(30);

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// How long.
    limit: Duration,
    /// Whether another host key may pass by itself: the server has just been told to use new ones.
    keys_change: bool,
    /// How long an account may refuse us.
    grace: Duration,
}

impl Patience {
    pub(crate) fn of(limit: Duration) -> Self {
        Self { limit, keys_change: false, grace: LOGIN_GRACE }
    }
    /// For a server that was just told to use new host keys.
    pub(crate) fn for_new_keys(limit: Duration) -> Self {
        Self { limit, keys_change: true, grace: LOGIN_GRACE }
    }
    /// For a guest that sets itself up and whose accounts come last.
    pub(crate) fn for_accounts(limit: Duration) -> Self {
        Self { limit, keys_change: false, grace: limit }
    }
}

/// A connection, as soon as the guest lets us in.
pub(crate) async fn reach(
    remotes: &dyn Remotes,
    to: &Endpoint,
    patience: Patience,
    cancel: &CancellationToken,
) -> Result<Arc<dyn Remote>> {
    let began = Instant::now();
    let until = began + patience.limit;
    let mut refused: Option<(Instant, Error)> = None;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match remotes.connect(to, left.min(TRY), cancel).await {
            Ok(remote) => return Ok(remote),
            Err(error) => error,
        };
        let now = Instant::now();
        // A server that has refused us a few times may not even listen any more; the reason is still that.
        if let Some((since, first)) =
            refused.take_if(|(since, _)| now.duration_since(*since) >= patience.grace)
        {
            let waited = now.duration_since(since).as_secs();
            return Err(first.within(format!("{to} did not let us in for {waited} s")));
        }
        let (may_pass, wait) = match error.kind {
            ErrorKind::LoginRefused => (true, SLOW_POLL),
            ErrorKind::HostKeyChanged => (patience.keys_change, POLL),
            kind => (kind.may_pass(), POLL),
        };
        if !may_pass {
            return Err(error);
        }
        if now + wait >= until {
            let waited = patience.limit.as_secs_f32();
            return Err(error.within(format!("{to} did not let us in within {waited:.0} s")));
        }
        if error.kind == ErrorKind::LoginRefused && refused.is_none() {
            refused = Some((now, error));
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, format!("waiting for {to} was given up")));
            }
            () = sleep(wait) => {} // why: a guest that boots tells nobody when its ssh server is up
        }
    }
}

/// Has a guest run a script in a step, and reads what it said.
///
/// # Errors
/// It does not let us in, the job is not ours any more, or the script failed.
pub(crate) async fn in_step(
    guest: Guest<'_>,
    to: &Endpoint,
    command: Command,
    what: &str,
    cx: &Cx,
) -> Result<Answer, vcl_job::Error> {
    let patience = Patience::of(guest.limits.boot.min(AGAIN));
    let remote = reach(guest.remotes, to, patience, cx.token()).await?;
    // The guest may have had us wait: is the job still ours?
    cx.check().await?;
    let command = command.limit(guest.limits.command).cancel(cx.token());
    Ok(Answer::of(remote.run(command).await?, to, what)?)
}

/// The same outside of a job, for somebody who waits for it.
///
/// # Errors
/// It does not let us in, or the script failed.
pub(crate) async fn at_once(guest: Guest<'_>, command: Command, what: &str) -> Result<Answer> {
    let (cancel, limit) = (CancellationToken::new(), guest.limits.command);
    let patience = Patience::of(limit.min(NOW));
    let remote = reach(guest.remotes, guest.endpoint, patience, &cancel).await?;
    Answer::of(remote.run(command.limit(limit)).await?, guest.endpoint, what)
}
