//! Reservations whose job ended without what it was for: refused before it began, failed, called off by an admin.
//!
//! The undo of a lending puts its reservation back by itself; what ends before it has given anything has nothing to undo.
//! Without somebody who looks, such a reservation would wait for ever for a load that nobody does, or never be over.

use crate::database::{Db, DbRow};
use crate::engine::exclusive;
use crate::lending::{host_of, work};
use crate::lent::turned_away;
use crate::reservations::{self, finish, set_state};
use crate::{Queue, Result, computers, jobs};
use chrono::{DateTime, Utc};
use sqlx::Row;
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
    /// Nothing: somebody has taken it up already.
    Nothing,
}

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
    /// taken back by another job, or is over when somebody has taken that out of service.
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
            set_state(db, id, row.after(Event::Loaded)?).await?;
            Ok(TakenUp::Kept)
        }
        State::Loading => {
            turned_away(db, &row, &name, now).await?;
            Ok(TakenUp::Waits)
        }
        State::Ending if its => {
            let host = host_of(&mut *db, &name).await?;
            work(db, &row, JobRequest::Return { reservation: id, computer: name }, host)
                .await
                .map(TakenUp::Again)
        }
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
