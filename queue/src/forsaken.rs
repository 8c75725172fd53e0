//! Reservations whose job ended without what it was for: refused before it began, failed, called off by an admin.
//!
//! The undo of a lending puts its reservation back by itself; what ends before it has given anything has nothing to undo.
//! Without somebody who looks, such a reservation would wait for ever for a load that nobody does, or never be over.

use crate::computers::{self, ComputerRow};
use crate::database::{Db, DbRow, millis};
use crate::engine::exclusive;
use crate::jobs::{self, JobRow};
use crate::lending::{has, return_it, work};
use crate::lent::{come_again, turned_away};
use crate::notices::{self, NewNotice};
use crate::reservations::{self, ReservationRow, finish, set_state};
use crate::{Queue, Result};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use vcl_types::notices::NoticeKind;
use vcl_types::state::computer;
use vcl_types::state::job;
use vcl_types::state::reservation::{Event, State};
use vcl_types::{JobId, JobRequest, ReservationId};

/// What became of a reservation whose job had left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenUp {
    /// It waits for another computer, or was given up after several.
    Waits,
    /// Its computer was not loaded anew, and is as it was.
    Kept,
    /// It is over; its computer is not its any more.
    Over,
    /// This job does it again.
    Again(JobId),
    /// It could not be captured too often: its computer is in maintenance with everything on it.
    GivenUp,
    /// Nothing: somebody has taken it up already, or it is too early to try it again.
    Nothing,
}

/// After so many captures that failed a computer is left to somebody who looks at it.
const CAPTURES: u32 = 6;
/// How long a capture that failed once is not tried again; after each further one that fails it is twice as long.
const REST: TimeDelta = TimeDelta::minutes(2);

/// In the first two states a job works for a reservation; in the others one may have failed to let its user in. A job that
/// is stuck waits for somebody, and has the computer until then.
const LEFT: &str = "SELECT r.id, r.job_id FROM reservations r JOIN jobs j ON j.id = r.job_id \
     WHERE r.purpose <> 'direct' AND j.state IN ('done', 'failed', 'cancelled') \
     AND (r.state IN ('loading', 'ending') \
          OR (r.state IN ('ready', 'in-use') AND j.kind = 'admit' AND j.state <> 'done')) \
     ORDER BY r.id";

impl Queue {
    /// The reservations that wait for a job that is over, with that job.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn forsaken(&self) -> Result<Vec<(ReservationId, JobId)>> {
        let rows = sqlx::query(LEFT).fetch_all(self.readers()).await?;
        let read = |row: &DbRow| Ok((ReservationId(row.try_get("id")?), JobId(row.try_get("job_id")?)));
        rows.iter().map(read).collect()
    }

    /// Goes on with a reservation that `job` has left. One that was being loaded waits for another computer; one whose
    /// computer was to be loaded anew keeps it as it is, if nothing was done to it yet; one that is ending has its computer
    /// taken back by another job, or is over when somebody has taken that out of service. Capturing one for imaging is tried
    /// again later and later, and given up in the end: its computer goes to maintenance, which the administrators are told.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound), or when the database cannot be written.
    pub async fn take_up(&self, id: ReservationId, job: JobId, now: DateTime<Utc>) -> Result<TakenUp> {
        let queue = self.clone();
        let after = move |taken| {
            queue.wake();
            taken
        };
        self.write_map(move |db| Box::pin(take_up(db, id, job, now)), after).await
    }
}

async fn take_up(db: &mut Db, id: ReservationId, left_by: JobId, now: DateTime<Utc>) -> Result<TakenUp> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    let left = jobs::get(&mut *db, left_by).await?;
    let over = left.state.is_final() && left.state != job::State::Stuck;
    let Some(name) = row.computer.clone().filter(|_| row.job == Some(left_by) && over) else {
        return Ok(TakenUp::Nothing);
    };
    let seat = computers::get(&mut *db, &name).await?;
    let its = seat.is_lent_for(id) && seat.loaded.is_some();
    match row.state {
        State::Loading if its && seat.state != computer::State::Available && row.usable.is_some() => {
            set_state(&mut *db, id, row.after(Event::Loaded)?).await?;
            come_again(db, id, now).await?;
            Ok(TakenUp::Kept)
        }
        State::Loading => {
            turned_away(db, &row, &name, now).await?;
            Ok(TakenUp::Waits)
        }
        State::Ending if its && row.is_to_be_captured() => capture_again(db, &row, &left, now).await,
        State::Ending if its => return_it(db, &row).await.map(TakenUp::Again),
        State::Ending if captures_given_up(&row, &seat) => Ok(TakenUp::Nothing),
        State::Ending => {
            finish(db, &row, "its computer was taken out of service", now.timestamp_millis()).await?;
            Ok(TakenUp::Over)
        }
        State::Ready | State::InUse if left.state != job::State::Done && its => match left.request {
            request @ JobRequest::Admit { .. } => {
                work(db, &row, request, left.host).await.map(TakenUp::Again)
            }
            _ => Ok(TakenUp::Nothing),
        },
        _ => Ok(TakenUp::Nothing),
    }
}

/// Whether captures of it failed so often that its computer was put into maintenance, where it still is.
pub(crate) fn captures_given_up(row: &ReservationRow, seat: &ComputerRow) -> bool {
    row.tries >= CAPTURES && seat.state == computer::State::Maintenance
}

/// What its user made is there still: taking its computer back with a capture is tried again when it is time, or given up.
async fn capture_again(
    db: &mut Db,
    row: &ReservationRow,
    left: &JobRow,
    now: DateTime<Utc>,
) -> Result<TakenUp> {
    match row.retry {
        Some(at) if at > now => Ok(TakenUp::Nothing),
        Some(_) => {
            let again = sqlx::query("UPDATE reservations SET retry_at = NULL WHERE id = ?");
            again.bind(row.id.0).execute(&mut *db).await?;
            return_it(db, row).await.map(TakenUp::Again)
        }
        None => {
            let tries = row.tries + 1;
            let at = (tries < CAPTURES).then(|| millis(now + REST * 2_i32.pow(tries - 1)));
            let failed = sqlx::query("UPDATE reservations SET tries = ?, retry_at = ? WHERE id = ?");
            failed.bind(i64::from(tries)).bind(at).bind(row.id.0).execute(&mut *db).await?;
            if at.is_some() {
                return Ok(TakenUp::Nothing);
            }
            give_captures_up(db, row, tries, left).await.map(|()| TakenUp::GivenUp)
        }
    }
}

async fn give_captures_up(db: &mut Db, row: &ReservationRow, tries: u32, left: &JobRow) -> Result<()> {
    let (id, name) = (row.id, has(row)?);
    let why = left.reason.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
    let reason = format!(
        "reservation {id} is over, and what is on it could not be captured {tries} times{why}; to try it again: \
         vclctl release {id}; to throw it away: vclctl release {id} --discard"
    );
    computers::set_state(&mut *db, &name, computer::State::Maintenance).await?;
    computers::set_reason(&mut *db, &name, Some(reason.clone())).await?;
    let facts = notices::facts([
        ("computer", Some(name.to_string())),
        ("job", Some(left.id.to_string())),
        ("title", Some(left.request.to_string())),
        ("owner", Some(row.owner.clone())),
        ("because", Some(reason)),
    ]);
    notices::put(db, NewNotice { kind: NoticeKind::Maintenance, to: None, group: None, facts }).await
}
