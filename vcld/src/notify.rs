//! What systemd is told, and the sockets it hands over.

use sd_notify::NotifyState;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Tells systemd something; without systemd nothing happens.
pub(crate) fn tell(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!(error = %e, "systemd could not be told");
    }
}

/// Feeds systemd's watchdog, if it has one for us, as long as the runtime turns and the database answers.
pub(crate) async fn watchdog(stop: CancellationToken, queue: vcl_queue::Queue) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let every = (limit / 3).max(Duration::from_millis(500));
    let mut ticks = tokio::time::interval(every);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => if queue.job_counts().await.is_ok() { tell(&[NotifyState::Watchdog]) },
        }
    }
}

/// The listening unix socket that systemd opened for us, if it did.
#[expect(unsafe_code, reason = "a file descriptor's number is all that systemd gives")]
pub(crate) fn listener() -> anyhow::Result<Option<std::os::unix::net::UnixListener>> {
    let Some(fd) = sd_notify::listen_fds()?.next() else { return Ok(None) };
    // SAFETY: systemd passed this descriptor to this process for it to own, and it is taken only here.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Some(std::os::unix::net::UnixListener::from(owned)))
}
