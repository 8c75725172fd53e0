//! Who is connected, and what users are told on their consoles.
//!
//! A guest that does not answer says nothing about its user: a reservation only ends for want of a connection when the
//! guest itself said that nobody is there, after its user's time to come was over. The node that has the guest notes it in
//! the table, for whichever node decides.

use super::Memory;
use crate::node::{Node, Refusal, RefusalKind, chain};
use chrono::{DateTime, TimeDelta, Utc};
use futures::stream::{FuturesUnordered, StreamExt};
use std::collections::HashSet;
use std::sync::PoisonError;
use std::time::Duration;
use vcl_queue::ReservationRow;
use vcl_types::ReservationId;
use vcl_types::lending::{Due, Moments, Purpose, due};
use vcl_types::state::reservation::State;

/// How often it is looked whether a first connection has come (VCL: 15 s).
const FIRST: u64 = 15;
/// How often it is seen to whether a look is due.
const TICK: Duration = Duration::from_secs(5);
/// How long a guest may take to say who is connected.
const ASK: Duration = Duration::from_secs(30);
/// How many guests are asked at once.
const AT_ONCE: usize = 32;

impl Memory {
    fn due(&self, row: &ReservationRow, now: DateTime<Utc>) -> bool {
        let every =
            if row.connected.is_some() && row.state == State::InUse { row.times.check_s } else { FIRST };
        let every = TimeDelta::seconds(i64::try_from(every).unwrap_or(i64::MAX / 1000));
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let due = watched.get(&row.id).is_none_or(|at| *at + every <= now);
        if due {
            watched.insert(row.id, now);
        }
        due
    }
    /// The notices that were given since this was asked last, by whichever node, the last one of each reservation.
    pub(super) fn news<'a>(&self, rows: &'a [ReservationRow]) -> Vec<(&'a ReservationRow, u64)> {
        let told = rows.iter().map(|row| (row.id, row.told.clone())).collect();
        let before = self.said.lock().unwrap_or_else(PoisonError::into_inner).replace(told);
        // What was told before this life of the daemon is not said again.
        let Some(before) = before else { return Vec::new() };
        let newest = |row: &'a ReservationRow| {
            let said = before.get(&row.id).map(Vec::as_slice).unwrap_or_default();
            Some((row, *row.told.iter().filter(|s| !said.contains(s)).min()?))
        };
        rows.iter().filter_map(newest).collect()
    }
}

/// Learns what was told before anything is told in this life.
pub(super) async fn begin(node: &Node) {
    if let Ok(rows) = node.queue.reservations_open().await {
        node.insight.lending.news(&rows);
    }
}

pub(super) async fn run(node: &Node) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(refusal) = node.look_at_connections().await {
            tracing::debug!(reason = refusal.message, "nobody could look who is connected");
        }
    }
}

impl Node {
    /// Says on consoles what their users were told, and asks every lent guest that is due who is connected.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn look_at_connections(&self) -> Result<(), Refusal> {
        let now = self.clock.now();
        let rows = self.queue.reservations_open().await?;
        self.tell_consoles(&rows).await;
        {
            let open: HashSet<ReservationId> = rows.iter().map(|row| row.id).collect();
            let mut watched = self.insight.lending.watched.lock().unwrap_or_else(PoisonError::into_inner);
            watched.retain(|id, _| open.contains(id));
        }
        let lent: Vec<ReservationRow> = rows
            .into_iter()
            .filter(|row| matches!(row.state, State::Ready | State::InUse))
            .filter(|row| !matches!(row.purpose, Purpose::Direct | Purpose::Seat))
            .filter(|row| self.insight.lending.due(row, now))
            .collect();
        let mut asking = FuturesUnordered::new();
        for row in lent {
            if asking.len() >= AT_ONCE {
                let _: Option<()> = asking.next().await;
            }
            asking.push(async move {
                let connected = match tokio::time::timeout(ASK, self.is_connected(&row)).await {
                    Ok(Ok(Some(connected))) => connected,
                    Ok(Ok(None)) | Err(_) => return,
                    Ok(Err(refusal)) => {
                        tracing::debug!(
                            reservation = row.id.0,
                            reason = refusal.message,
                            "a guest does not say who is connected"
                        );
                        return;
                    }
                };
                match self.queue.seen(row.id, connected, now).await {
                    Ok(state) if state != row.state => {
                        let what = if connected { "is connected" } else { "has gone" };
                        let message = format!("{} {what} ({})", row.owner, row.id);
                        self.queue.post_event(
                            "reservation-connection",
                            None,
                            row.computer.as_ref(),
                            &message,
                        );
                        self.queue.look_again();
                    }
                    Ok(_) => {
                        // Its user's patience was over before, and this was waited for.
                        let word = Moments { nobody: Some(now), ..row.moments(self.since) };
                        if !connected && matches!(due(&word, now), Some(Due::NotConnected | Due::Inactive)) {
                            self.queue.look_again();
                        }
                    }
                    Err(e) => {
                        tracing::debug!(reservation = row.id.0, error = %e, "not noted who is connected");
                    }
                }
            });
        }
        while let Some(()) = asking.next().await {}
        Ok(())
    }

    /// Whether somebody of a reservation is connected; `None` where this node cannot ask.
    async fn is_connected(&self, row: &ReservationRow) -> Result<Option<bool>, Refusal> {
        let Some(lent) = self.lent_guest(row).await? else { return Ok(None) };
        let target = self.target(&lent.computer, &lent.revision, Some(&lent.endpoint))?;
        let mut guest = target.guest(&lent.endpoint);
        guest.limits.boot = ASK;
        let sessions = target.os.sessions(guest).await.map_err(silent)?;
        Ok(Some(!sessions.is_empty()))
    }

    /// Says on the consoles of this node's guests what their users were told since the last time.
    async fn tell_consoles(&self, rows: &[ReservationRow]) {
        for some in self.insight.lending.news(rows).chunks(AT_ONCE) {
            let telling = some.iter().map(|(row, seconds)| async move {
                let left = crate::why::span(seconds * 1000);
                let text = format!("Your reservation ends in {left}. Save your work, or extend it.");
                self.tell_console(row, &text).await;
            });
            futures::future::join_all(telling).await;
        }
    }

    /// Says something on a lent guest's consoles, if it listens.
    async fn tell_console(&self, row: &ReservationRow, text: &str) {
        let telling = async {
            let Some(lent) = self.lent_guest(row).await? else { return Ok(()) };
            let target = self.target(&lent.computer, &lent.revision, Some(&lent.endpoint))?;
            let mut guest = target.guest(&lent.endpoint);
            guest.limits.boot = ASK;
            target.os.tell(guest, text).await.map_err(silent)
        };
        match tokio::time::timeout(ASK, telling).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                tracing::debug!(
                    reservation = row.id.0,
                    reason = refusal.message,
                    "nothing was said on its console"
                );
            }
            Err(_) => tracing::debug!(reservation = row.id.0, "its guest does not listen"),
        }
    }
}

fn silent(e: vcl_os::Error) -> Refusal {
    Refusal::new(RefusalKind::Unavailable, chain(&e))
}
