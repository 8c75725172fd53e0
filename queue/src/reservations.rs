//! Reservations, as far as loading and unloading make and end them.

use crate::database::{Db, DbRow, now, parsed, time};
use crate::engine::{insert, number, number_or_null, numbered};
use crate::{Claim, Error, Kind, Queue, Result, guard};
use sqlx::Row;
use vcl_types::api::ReservationView;
use vcl_types::state::reservation::{Event, State, next};
use vcl_types::{ComputerName, ImageRef, ReservationId};

fn read(row: &DbRow) -> Result<ReservationView> {
    Ok(ReservationView {
        id: ReservationId(row.try_get("id")?),
        owner: row.try_get("owner")?,
        computer: parsed(row, "computer")?,
        image: ImageRef { name: parsed(row, "image")?, revision: number_or_null(row, "revision")? },
        state: parsed(row, "state")?,
        since: time(row.try_get("since")?),
        ended_because: row.try_get("ended_because")?,
    })
}

pub(crate) async fn get(db: &mut Db, id: ReservationId) -> Result<ReservationView> {
    let row = sqlx::query("SELECT * FROM reservations WHERE id = ?").bind(id.0).fetch_optional(db).await?;
    let unknown = || Error::new(Kind::NotFound, format!("there is no reservation {id}"));
    read(&row.ok_or_else(unknown)?)
}

/// [`guard::check`], and that the job holds the reservation's computer.
async fn held(db: &mut Db, claim: &Claim, id: ReservationId) -> Result<ReservationView> {
    guard::check(&mut *db, claim).await?;
    let reservation = get(&mut *db, id).await?;
    guard::holding(db, claim, &reservation.computer).await?;
    Ok(reservation)
}

impl Queue {
    /// Opens a reservation of the computer that the job holds, whose load begins now. The same job gets the same one
    /// when it asks again.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer; [`Kind::Busy`] when another
    /// reservation has the computer, naming it.
    pub async fn open_reservation(
        &self,
        claim: &Claim,
        owner: &str,
        computer: &ComputerName,
        image: &ImageRef,
    ) -> Result<ReservationId> {
        let (claim, owner) = (claim.clone(), owner.to_owned());
        let (computer, image) = (computer.clone(), image.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding(&mut *db, &claim, &computer).await?;
                open(db, &claim, &owner, &computer, &image).await
            })
        })
        .await
    }

    /// Something happens to a reservation of the computer that the job holds. `key` is the step's; an event that this
    /// job's step has had before changes nothing, nor does one whose outcome the reservation is in already.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::NotFound`]; [`Kind::Refused`] when the job does not hold its computer, or when the
    /// event is not possible in its state.
    pub async fn reservation_event(
        &self,
        claim: &Claim,
        key: &str,
        id: ReservationId,
        event: Event,
    ) -> Result<State> {
        let (claim, key) = (claim.clone(), key.to_owned());
        self.write(move |db| {
            Box::pin(async move {
                let reservation = held(&mut *db, &claim, id).await?;
                happen(db, &claim, &key, &reservation, event).await
            })
        })
        .await
    }

    /// Ends a reservation of the computer that the job holds, whatever its state, and says why. One that is over stays
    /// as it ended.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::NotFound`]; [`Kind::Refused`] when the job does not hold its computer.
    pub async fn end_reservation(&self, claim: &Claim, id: ReservationId, reason: &str) -> Result<()> {
        let (claim, reason) = (claim.clone(), reason.to_owned());
        self.write(move |db| {
            Box::pin(async move {
                let mut state = held(&mut *db, &claim, id).await?.state;
                let refused = |e| Error::caused(Kind::Refused, format!("reservation {id}"), e);
                if state == State::Ended {
                    return Ok(());
                }
                if state != State::Ending {
                    state = next(state, Event::End).map_err(refused)?;
                }
                state = next(state, Event::Ended).map_err(refused)?;
                set_state(&mut *db, id, state).await?;
                let because = sqlx::query("UPDATE reservations SET ended_because = ? WHERE id = ?");
                because.bind(reason).bind(id.0).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// A reservation.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn reservation(&self, id: ReservationId) -> Result<ReservationView> {
        get(&mut *self.readers().acquire().await?, id).await
    }

    /// Reservations, newest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reservations(&self, open_only: bool, limit: u32) -> Result<Vec<ReservationView>> {
        let rows = sqlx::query(
            "SELECT * FROM reservations WHERE ? = 0 OR state <> 'ended' ORDER BY id DESC LIMIT ?",
        );
        let rows = rows.bind(i64::from(open_only)).bind(i64::from(limit)).fetch_all(self.readers()).await?;
        rows.iter().map(read).collect()
    }
}

/// Whether `state` is what `event` leads to from wherever it is possible.
fn leads_to(event: Event, state: State) -> bool {
    State::ALL.iter().any(|from| next(*from, event) == Ok(state))
}

/// Something happens to a reservation, once a step, inside a transaction that has asked whether the job holds its
/// computer.
pub(crate) async fn happen(
    db: &mut Db,
    claim: &Claim,
    key: &str,
    reservation: &ReservationView,
    event: Event,
) -> Result<State> {
    let id = reservation.id;
    let effect = format!("reservation {id} {event}");
    if let Some(state) = guard::effect(&mut *db, claim, key, &effect).await? {
        return state.parse().map_err(|e: String| Error::corrupt("an effect's state", e));
    }
    let state = match next(reservation.state, event) {
        Ok(state) => state,
        Err(_) if leads_to(event, reservation.state) => reservation.state,
        Err(e) => return Err(Error::caused(Kind::Refused, format!("reservation {id}"), e)),
    };
    set_state(&mut *db, id, state).await?;
    guard::remember(db, claim, key, &effect, state.as_str()).await?;
    Ok(state)
}

/// Opens a reservation, inside such a transaction.
pub(crate) async fn open(
    db: &mut Db,
    claim: &Claim,
    owner: &str,
    computer: &ComputerName,
    image: &ImageRef,
) -> Result<ReservationId> {
    let there = sqlx::query(
        "SELECT id, owner, job_id, attempt FROM reservations WHERE computer = ? AND state <> 'ended' ORDER BY id LIMIT 1",
    )
    .bind(computer.as_str())
    .fetch_optional(&mut *db)
    .await?;
    if let Some(row) = there {
        let id: i64 = row.try_get("id")?;
        let opened: (i64, u32) = (row.try_get("job_id")?, number(&row, "attempt")?);
        if opened == (claim.job.id.0, claim.job.attempt) {
            return Ok(ReservationId(id));
        }
        let owner: &str = row.try_get("owner")?;
        let message = format!("{computer} is reserved for {owner} (reservation {id}); unload it first");
        return Err(Error::new(Kind::Busy, message));
    }
    let refused = |e| Error::caused(Kind::Refused, format!("a reservation of {computer}"), e);
    let state = next(State::Queued, Event::Start).map_err(refused)?;
    let row = sqlx::query(numbered!(
        db,
        "INSERT INTO reservations (owner, computer, image, revision, state, job_id, attempt, since) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    ))
    .bind(owner)
    .bind(computer.as_str())
    .bind(image.name.as_str())
    .bind(image.revision.map(i64::from))
    .bind(state.as_str())
    .bind(claim.job.id.0)
    .bind(i64::from(claim.job.attempt))
    .bind(now());
    Ok(ReservationId(insert(db, row).await?))
}

async fn set_state(db: &mut Db, id: ReservationId, state: State) -> Result<()> {
    let ended = (state == State::Ended).then(now);
    let set = sqlx::query("UPDATE reservations SET state = ?, ended_at = ? WHERE id = ?");
    set.bind(state.as_str()).bind(ended).bind(id.0).execute(db).await?;
    Ok(())
}
