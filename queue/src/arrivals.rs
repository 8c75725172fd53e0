//! People who come to their reservations: they say so, are let in, are seen, take a seat, bring others along.

use crate::database::{Db, millis, to_json};
use crate::engine::exclusive;
use crate::lending::{has, host_of, work};
use crate::lent::tainted;
use crate::reservations::{self, ReservationRow, set_state};
use crate::{Error, Kind, Queue, Result, computers, jobs};
use chrono::{DateTime, Utc};
use std::net::IpAddr;
use vcl_types::lending::{Purpose, ReservationRequest};
use vcl_types::state::reservation::{Event, State};
use vcl_types::state::{computer, job};
use vcl_types::{JobId, JobRequest, ReservationId};

impl Queue {
    /// Its user says that they come, from that address where it is known. If the computer is usable already and the
    /// address is news, a job lets it in.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] when the reservation is ending or over.
    pub async fn acknowledge(
        &self,
        id: ReservationId,
        from: Option<IpAddr>,
        now: DateTime<Utc>,
    ) -> Result<Option<JobId>> {
        let queue = self.clone();
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(move |db| Box::pin(acknowledge(db, id, from, now)), after).await
    }

    /// Queues a job that lets in on a lent computer whoever may be let in now.
    ///
    /// # Errors
    /// [`Kind::Refused`] when the reservation has no usable computer.
    pub async fn admit(&self, id: ReservationId) -> Result<JobId> {
        let queue = self.clone();
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(
            move |db| {
                Box::pin(async move {
                    let row = reservations::get(&mut *db, id).await?;
                    admit(db, &row).await
                })
            },
            after,
        )
        .await
    }

    /// Whether its user was just seen connected. Answers the state that it has now.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn seen(&self, id: ReservationId, connected: bool, now: DateTime<Utc>) -> Result<State> {
        self.write(move |db| Box::pin(seen(db, id, connected, now))).await
    }

    /// Makes a seat of a class somebody's. Its image, which computers will do for it and when it begins stay the class's;
    /// it is waited for from now on.
    ///
    /// # Errors
    /// [`Kind::Busy`] when somebody has it already, or they have another seat of the class at that time.
    pub async fn take_seat(
        &self,
        id: ReservationId,
        owner: &str,
        asked: &ReservationRequest,
        now: DateTime<Utc>,
    ) -> Result<Option<JobId>> {
        let (queue, owner, asked) = (self.clone(), owner.to_owned(), asked.clone());
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(
            move |db| {
                let (owner, asked) = (owner.clone(), asked.clone());
                Box::pin(async move { take_seat(db, id, &owner, asked, now).await })
            },
            after,
        )
        .await
    }

    /// Changes what was asked about who is let in; a job lets them in, or out, where the computer is lent already.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] when it is ending or over, or is a load.
    pub async fn change_access(
        &self,
        id: ReservationId,
        with: Option<Vec<String>>,
        keys: Option<Vec<String>>,
    ) -> Result<Option<JobId>> {
        let queue = self.clone();
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(
            move |db| {
                let (with, keys) = (with.clone(), keys.clone());
                Box::pin(async move {
                    exclusive(&mut *db).await?;
                    let row = reservations::get(&mut *db, id).await?;
                    let over = matches!(row.state, State::Ending | State::Ended);
                    let Some(mut asked) = row.asked.clone().filter(|_| !over) else {
                        let message =
                            format!("reservation {id} is {}; nobody can be let in any more", row.state);
                        return Err(Error::new(Kind::Refused, message));
                    };
                    asked.with = with.unwrap_or(asked.with);
                    asked.keys = keys.unwrap_or(asked.keys);
                    let set = sqlx::query("UPDATE reservations SET asked = ? WHERE id = ?");
                    set.bind(to_json(&asked)?).bind(id.0).execute(&mut *db).await?;
                    match row.state {
                        State::Ready | State::InUse => admit(db, &row).await.map(Some),
                        _ => Ok(None),
                    }
                })
            },
            after,
        )
        .await
    }
}

async fn take_seat(
    db: &mut Db,
    id: ReservationId,
    owner: &str,
    asked: ReservationRequest,
    now: DateTime<Utc>,
) -> Result<Option<JobId>> {
    // Whether they have another is read, and must be true when this is written.
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    let free = matches!(row.state, State::Scheduled | State::Queued | State::Loading | State::Ready);
    if row.purpose != Purpose::Seat || !free {
        return Err(Error::new(Kind::Busy, format!("seat {id} is taken or over")));
    }
    // One that is loaded ahead has its start moved to that moment.
    let start = row.asked.as_ref().and_then(|asked| asked.start).or(row.start);
    let other: Option<i64> = sqlx::query_scalar(
        "SELECT MIN(id) FROM reservations WHERE class_id = ? AND owner = ? AND purpose <> 'seat' \
         AND state NOT IN ('ending', 'ended') AND start_at < ? AND (end_at IS NULL OR end_at > ?)",
    )
    .bind(row.class)
    .bind(owner)
    .bind(row.end.map_or(i64::MAX, millis))
    .bind(start.map_or(i64::MIN, millis))
    .fetch_one(&mut *db)
    .await?;
    if let Some(other) = other {
        let message = format!("{owner} has a seat of the class at that time: reservation {other}");
        return Err(Error::new(Kind::Busy, message));
    }
    let asked = match &row.asked {
        // What is looked for when its load fails is what the class needs.
        Some(seat) => ReservationRequest {
            image: seat.image.clone(),
            wish: seat.wish.clone(),
            start: seat.start,
            ..asked
        },
        None => asked,
    };
    let set = sqlx::query(
        "UPDATE reservations SET owner = ?, purpose = 'use', asked = ?, since = ?, acknowledged_at = ?, address = ? \
         WHERE id = ?",
    );
    let set = set.bind(owner).bind(to_json(&asked)?).bind(millis(now)).bind(millis(now));
    set.bind(asked.from.map(|a| a.to_string())).bind(id.0).execute(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    match row.state {
        State::Ready => admit(db, &row).await.map(Some),
        _ => Ok(None),
    }
}

async fn acknowledge(
    db: &mut Db,
    id: ReservationId,
    from: Option<IpAddr>,
    now: DateTime<Utc>,
) -> Result<Option<JobId>> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    if matches!(row.state, State::Ending | State::Ended) {
        return Err(Error::new(Kind::Refused, format!("reservation {id} is {}", row.state)));
    }
    let set = sqlx::query(
        "UPDATE reservations SET acknowledged_at = COALESCE(acknowledged_at, ?), address = COALESCE(?, address) \
         WHERE id = ?",
    );
    let address = from.map(|a| a.to_string());
    set.bind(millis(now)).bind(&address).bind(id.0).execute(&mut *db).await?;
    // Who was not let in when they came first is let in when they come again.
    let failed = match row.job {
        Some(job) => {
            let job = jobs::get(&mut *db, job).await?;
            matches!(job.request, JobRequest::Admit { .. })
                && matches!(job.state, job::State::Failed | job::State::Cancelled)
        }
        None => false,
    };
    let news = failed || row.acknowledged.is_none() || (from.is_some() && from != row.from);
    match row.state {
        State::Ready | State::InUse if news => admit(db, &row).await.map(Some),
        _ => Ok(None),
    }
}

async fn admit(db: &mut Db, row: &ReservationRow) -> Result<JobId> {
    if !matches!(row.state, State::Ready | State::InUse) {
        return Err(Error::new(Kind::Refused, format!("reservation {} is {}", row.id, row.state)));
    }
    let computer = has(row)?;
    let host = host_of(&mut *db, &computer).await?;
    work(db, row, JobRequest::Admit { reservation: row.id, computer }, host).await
}

async fn seen(db: &mut Db, id: ReservationId, connected: bool, now: DateTime<Utc>) -> Result<State> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    let event = match (row.state, connected) {
        (State::Ready, true) => Some(Event::Connect),
        (State::InUse, false) => Some(Event::Disconnect),
        _ => None,
    };
    if !matches!(row.state, State::Ready | State::InUse) {
        return Ok(row.state);
    }
    if connected {
        let set = sqlx::query(
            "UPDATE reservations SET connected_at = COALESCE(connected_at, ?), seen_at = ?, \
             acknowledged_at = COALESCE(acknowledged_at, ?) WHERE id = ?",
        );
        set.bind(millis(now)).bind(millis(now)).bind(millis(now)).bind(id.0).execute(&mut *db).await?;
    }
    if !connected {
        let said = sqlx::query("UPDATE reservations SET nobody_at = ? WHERE id = ?");
        said.bind(millis(now)).bind(id.0).execute(&mut *db).await?;
    }
    if event == Some(Event::Disconnect) {
        // Nobody looked while a job had the computer, or the guest was silent: that was no absence of theirs.
        let gone = sqlx::query("UPDATE reservations SET seen_at = ? WHERE id = ?");
        gone.bind(millis(now)).bind(id.0).execute(&mut *db).await?;
    }
    let state = match event {
        Some(event) => {
            let state = row.after(event)?;
            set_state(&mut *db, id, state).await?;
            state
        }
        None => row.state,
    };
    let name = has(&row)?;
    let seat = computers::get(&mut *db, &name).await?;
    if connected && !seat.tainted {
        tainted(&mut *db, &name, true).await?;
    }
    let on_computer = if connected { computer::Event::Connect } else { computer::Event::Disconnect };
    // While a job has the computer, what state it is in is that job's; it is caught up with at the next look.
    if seat.job.is_none()
        && let Ok(next) = computer::next(seat.state, on_computer)
    {
        computers::set_state(db, &name, next).await?;
    }
    Ok(state)
}
