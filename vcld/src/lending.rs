//! Reservations: what is due, whose turn it is, what idle computers are loaded with.
//!
//! One reconciler, woken by time, by every change of a job or reservation, and once a minute. It looks at the tables, lets
//! pure functions decide (`choose`, `idle`, the agenda of vcl-types), and asks the queue for each decision by itself, where
//! everything that must hold is checked again. So it may die anywhere, and every node of a site runs it.
//!
//! | what | where |
//! |---|---|
//! | which computer, whose turn | `choose` |
//! | what is kept for those who have waited long | `turns` |
//! | which computers are spare, for a test of an image | `spare` |
//! | what idle computers are loaded with | `idle` |
//! | how long one has to wait | `estimate` |
//! | seats of classes; other computers for those that are kept and lost | `classes` |
//! | maintenance windows, hosts | `closures` |
//! | what can be asked | `requests`, and `in_use` of a computer that is lent |
//! | how many are kept warm | `pools`; what idle computers are loaded with: `idle` |
//! | who is let in | `access` |
//! | who is connected | `watch` |
//! | what a job that failed has left | `forsaken` |

mod access;
mod choose;
mod classes;
mod closures;
mod estimate;
mod forsaken;
mod idle;
mod in_use;
mod pools;
mod requests;
mod spare;
#[cfg(all(test, feature = "sim"))]
mod tests;
mod turns;
mod view;
mod watch;

use crate::node::{Node, Refusal, chain};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_queue::{Assignment, Ended, Kind, ReservationRow, UsageRow};
use vcl_types::lending::{Due, agenda, due};
use vcl_types::notices::NoticeKind;
use vcl_types::state::reservation::State;
use vcl_types::{ComputerName, ImageRef, ReservationId};

pub(crate) use access::account_of;
use turns::Outlook;
pub(crate) use view::{Asker, Sight};

/// How often everything is looked at, whatever happens: other nodes' doings, backends that answer again.
const LOOK: Duration = Duration::from_secs(60);
/// How many idle computers are loaded at once, so that reservations and people find the backends free.
const IDLE_AT_ONCE: usize = 3;
/// The same for those that somebody gets soon, a class's seats above all: what a backend takes at once is its own to say.
const SOON_AT_ONCE: usize = 64;
/// How long an idle computer is left alone whose load failed.
const LEFT_ALONE: TimeDelta = TimeDelta::minutes(10);

/// For how long it is taken to be so what a guest has said: it is asked far more often.
const WORD: TimeDelta = TimeDelta::minutes(2);

/// What the reconciler remembers: nothing that is not found out again after a restart.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Idle computers whose load was queued, and when.
    asked: Mutex<HashMap<(ComputerName, ImageRef), DateTime<Utc>>>,
    /// When each reservation's connections were last looked at.
    pub(crate) watched: Mutex<HashMap<ReservationId, DateTime<Utc>>>,
    /// How many are asked for in this hour of the week, and when that was looked up.
    weekly: Mutex<Option<pools::Weekly>>,
    /// What ended of late, the newest first.
    pub(crate) past: Mutex<Arc<Vec<UsageRow>>>,
    /// Which notices were given of each reservation when that was last looked at; `None` before it was.
    said: Mutex<Option<HashMap<ReservationId, Vec<u64>>>>,
    /// Reservations that were taken up after their job had left them, and when.
    taken_up: Mutex<HashMap<ReservationId, DateTime<Utc>>>,
    /// Held by whoever looks: what one look has half made, the seats of a class above all, another would take for missing.
    looking: tokio::sync::Mutex<Looked>,
    /// How many looks have begun.
    looks: AtomicU64,
    /// For what a computer was looked for in vain, and when.
    tried: Mutex<HashMap<classes::Tried, DateTime<Utc>>>,
}

/// The newest look that came to its end.
#[derive(Debug, Default)]
struct Looked {
    number: u64,
    /// When something is due next.
    next: Option<DateTime<Utc>>,
}

/// Runs until the daemon closes.
pub(crate) async fn run(node: Arc<Node>, closing: CancellationToken) {
    let all = async {
        watch::begin(&node).await;
        tokio::join!(decide(&node), watch::run(&node));
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = all => {}
    }
}

async fn decide(node: &Node) {
    let mut changes = node.queue.submitted();
    loop {
        changes.borrow_and_update();
        let next = match node.look_at_reservations().await {
            Ok(next) => next,
            Err(refusal) => {
                tracing::warn!(
                    reason = refusal.message,
                    "nobody could look at the reservations; it is tried again"
                );
                None
            }
        };
        let due = async {
            match next {
                Some(at) => node.clock.until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = due => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

impl Node {
    /// One look at all reservations and idle computers, or what one came to that has begun since this was called. Answers when
    /// the next thing is due.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn look_at_reservations(&self) -> Result<Option<DateTime<Utc>>, Refusal> {
        let memory = &self.insight.lending;
        let before = memory.looks.load(Ordering::SeqCst);
        let mut looked = memory.looking.lock().await;
        // One that has begun since has seen what this was asked for.
        if looked.number > before {
            return Ok(looked.next);
        }
        let number = memory.looks.fetch_add(1, Ordering::SeqCst) + 1;
        let next = self.look_at_all().await?;
        *looked = Looked { number, next };
        Ok(next)
    }

    /// One look for whoever has just asked for something. That is durable already and theirs, whatever fails here for somebody
    /// else; the reconciler goes on with it.
    async fn look_now(&self) {
        if let Err(refusal) = self.look_at_reservations().await {
            tracing::warn!(reason = refusal.message, "what was just asked for is looked at later");
        }
    }

    async fn look_at_all(&self) -> Result<Option<DateTime<Utc>>, Refusal> {
        let now = self.clock.now();
        let mut rows = self.queue.reservations_open().await?;
        let mut acted = false;
        for row in &rows {
            if let Some(due) = due(&row.moments(self.since), now) {
                acted = true;
                if let Err(refusal) = self.act(row, due, now).await {
                    tracing::debug!(
                        reservation = row.id.0,
                        reason = refusal.message,
                        "what was due is not done"
                    );
                }
            }
        }
        if acted | self.take_up_forsaken(now).await? {
            rows = self.queue.reservations_open().await?;
        }
        let mut sight = self.sight_of(rows, now).await?;
        if self.look_after_windows(&sight, now).await? | self.book_classes(&mut sight, now).await? {
            sight = self.sight(now).await?;
        }
        self.rebook_lost(&mut sight, now).await?;
        self.give_out(&mut sight, now).await?;
        self.fill_idle(&sight, now).await?;
        let ahead = sight.rows.iter().filter(|row| row.state == State::Scheduled && row.booked.is_some());
        let ahead = ahead.filter_map(|row| {
            let ahead = i64::try_from(row.times.ahead_s).unwrap_or(i64::MAX / 1000);
            Some(row.start? - TimeDelta::seconds(ahead))
        });
        let times = sight.rows.iter().flat_map(|row| agenda(&row.moments(self.since))).map(|(at, _)| at);
        let windows = sight.windows.iter().flat_map(|window| [Some(window.start), window.end]).flatten();
        Ok(times.chain(ahead).chain(windows).filter(|at| *at > now).min())
    }

    /// Does what is due for a reservation.
    async fn act(&self, row: &ReservationRow, due: Due, now: DateTime<Utc>) -> Result<(), Refusal> {
        let (because, told) = match due {
            Due::Begin => return Ok(self.queue.reservation_due(row.id).await?),
            Due::Notice(seconds) => {
                if self.queue.reservation_told(row.id, seconds).await? {
                    self.notice(row, seconds);
                }
                return Ok(());
            }
            Due::NotAcknowledged => ("its user did not say that they come", NoticeKind::NotAcknowledged),
            Due::NotConnected => ("its user did not connect", NoticeKind::NotConnected),
            Due::Inactive => ("nobody was connected any more", NoticeKind::Inactive),
            Due::End if row.computer.is_none() => {
                ("its time was over before a computer was free", NoticeKind::Ended)
            }
            Due::End => ("its time is over", NoticeKind::Ended),
        };
        // Nobody has made anything on a computer to which nobody ever came, as it says itself.
        let never = row.connected.is_none() && row.nobody.is_some_and(|said| said + WORD >= now);
        let discard = never && matches!(due, Due::NotAcknowledged | Due::NotConnected);
        self.finish(row.id, because, now, discard, Some(told)).await.map(drop)
    }

    /// Ends a reservation and says so; `told` is what its user is mailed.
    pub(crate) async fn finish(
        &self,
        id: ReservationId,
        because: &str,
        now: DateTime<Utc>,
        discard: bool,
        told: Option<NoticeKind>,
    ) -> Result<Ended, Refusal> {
        let ended = self.queue.end_telling(id, because, now, discard, told).await?;
        self.say_ended(id, because, &ended);
        Ok(ended)
    }

    fn say_ended(&self, id: ReservationId, because: &str, ended: &Ended) {
        let job = match ended {
            Ended::Already => return,
            Ended::Ending(job) => Some(*job),
            Ended::Over => None,
        };
        self.queue.post_event("reservation-ends", job, None, &format!("reservation {id} ends: {because}"));
    }

    /// Says that a reservation's user was told that it ends. On its consoles the node says it that has its guest.
    fn notice(&self, row: &ReservationRow, seconds: u64) {
        let left = crate::why::span(seconds * 1000);
        let computer = row.computer.as_ref();
        let message = format!("reservation {} of {} ends in {left}", row.id, row.owner);
        self.queue.post_event("reservation-notice", None, computer, &message);
    }

    /// Gives computers to those that wait, in their order. Who is over a limit keeps nobody waiting.
    async fn give_out(&self, sight: &mut Sight, now: DateTime<Utc>) -> Result<(), Refusal> {
        sight.plan(&self.config.lending);
        for (id, outlook) in &sight.outlooks {
            let (id, Outlook::Now(choice)) = (*id, outlook) else { continue };
            let Some(row) = sight.row(id) else { continue };
            let Some(image) = sight.to_lend(&row.image) else { continue };
            let assignment = Assignment {
                reservation: id,
                computer: choice.computer.clone(),
                image: image.clone(),
                now,
                end: row.end,
                places: turns::places(&self.config.lending, &Asker::from(row)),
                host: self.host_of(sight, &choice.computer),
            };
            match self.queue.assign(assignment).await {
                Ok(job) => {
                    let message = format!(
                        "reservation {id} of {} gets {} with {image}: {}",
                        row.owner, choice.computer, choice.because
                    );
                    self.queue.post_event(
                        "reservation-assigned",
                        Some(job),
                        Some(&choice.computer),
                        &message,
                    );
                }
                // Somebody was faster.
                Err(e) if matches!(e.kind, Kind::Busy | Kind::Refused | Kind::NotFound) => {
                    tracing::debug!(reservation = id.0, reason = chain(&e), "not given out");
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Loads what idle computers are to hold.
    async fn fill_idle(&self, sight: &Sight, now: DateTime<Utc>) -> Result<(), Refusal> {
        let mut room = IDLE_AT_ONCE.saturating_sub(sight.preparing());
        let mut soon = SOON_AT_ONCE.saturating_sub(sight.preparing());
        if soon == 0 {
            return Ok(());
        }
        for (computer, image, urgent) in sight.idle(&self.config.lending, now) {
            let room = if urgent { &mut soon } else { &mut room };
            if *room == 0 {
                continue;
            }
            let key = (computer.clone(), image.clone());
            {
                let mut asked = self.insight.lending.asked.lock().unwrap_or_else(PoisonError::into_inner);
                // What was asked for and came about did not fail.
                asked.retain(|(name, image), at| {
                    let there = sight.seats.iter().find(|seat| seat.computer.name == *name);
                    let holds = there.and_then(|seat| seat.holds.as_ref()) == Some(image);
                    *at + LEFT_ALONE > now && !holds
                });
                if asked.contains_key(&key) {
                    continue;
                }
                asked.insert(key, now);
            }
            let request = vcl_types::JobRequest::Prepare { computer: computer.clone(), image };
            match self.submit(request, "vcld").await {
                Ok(_) => *room -= 1,
                Err(refusal) => tracing::debug!(%computer, reason = refusal.message, "it is not prepared"),
            }
        }
        Ok(())
    }

    /// The revision that a reservation gets now: the one that was asked for, or that in production, or the newest.
    pub(crate) async fn to_lend(&self, image: &ImageRef) -> Result<Option<ImageRef>, Refusal> {
        if image.revision.is_some() {
            return Ok(Some(image.clone()));
        }
        match self.queue.image(&image.name).await {
            Ok(row) => {
                let produced = row.revisions.iter().find(|r| r.production).or(row.revisions.last());
                Ok(produced.map(|r| r.manifest.image_ref()))
            }
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn host_of(&self, sight: &Sight, computer: &ComputerName) -> Option<String> {
        let backend = sight.backend_of(computer)?;
        self.backends.get(backend).and_then(|backend| backend.host())
    }
}

/// What a row says about its times.
trait Times {
    fn end_if_begun(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>>;
}
impl Times for ReservationRow {
    /// When it ends if it gets its computer now.
    fn end_if_begun(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.end.or_else(|| {
            let length = i64::try_from(self.length_s?).ok()?;
            now.checked_add_signed(TimeDelta::try_seconds(length)?)
        })
    }
}
