//! Reservations: rows, and what loading and unloading by an admin's hand make and end. What the scheduler does with those
//! that somebody asked for is `lending`'s; what jobs that work for them change is `lent`'s.

use crate::database::{Db, DbRow, now, parsed, parsed_or_null, time};
use crate::engine::{flag, insert, locked, number, number_or_null, numbered};
use crate::{Claim, Error, Kind, Queue, Result, guard, notices, usage};
use chrono::{DateTime, Utc};
use sqlx::Row;
use std::net::IpAddr;
use vcl_types::lending::{Moments, Purpose, ReservationRequest, ReservationView, Times};
use vcl_types::notices::NoticeKind;
use vcl_types::state::reservation::{Event, State, next};
use vcl_types::{ComputerName, ImageRef, JobId, ReservationId};

/// A reservation as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReservationRow {
    /// Its number.
    pub id: ReservationId,
    /// Whose it is.
    pub owner: String,
    /// The group whose times and limits it has.
    pub group: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// The class whose seat it is.
    pub class: Option<i64>,
    /// Its computer, when it has one.
    pub computer: Option<ComputerName>,
    /// The computer that is kept for it from its start to its end.
    pub booked: Option<ComputerName>,
    /// The image; its revision is settled when it gets a computer.
    pub image: ImageRef,
    /// What was asked; `None` for a load.
    pub asked: Option<ReservationRequest>,
    /// Its times.
    pub times: Times,
    /// Where it is.
    pub state: State,
    /// The job that opened it or works for it.
    pub job: Option<JobId>,
    /// When it was asked for.
    pub since: DateTime<Utc>,
    /// When it begins.
    pub start: Option<DateTime<Utc>>,
    /// When it ends.
    pub end: Option<DateTime<Utc>>,
    /// How long it is to last, in seconds.
    pub length_s: Option<u64>,
    /// When it got its computer.
    pub assigned: Option<DateTime<Utc>>,
    /// When its computer became usable.
    pub usable: Option<DateTime<Utc>>,
    /// When its user said that they come.
    pub acknowledged: Option<DateTime<Utc>>,
    /// When its user was first connected.
    pub connected: Option<DateTime<Utc>>,
    /// When its user was last seen connected.
    pub seen: Option<DateTime<Utc>>,
    /// When its guest last said that nobody is connected.
    pub nobody: Option<DateTime<Utc>>,
    /// Where its user comes from.
    pub from: Option<IpAddr>,
    /// How long before its end its user was told of it, in seconds.
    pub told: Vec<u64>,
    /// How many loads failed for it; of one that is ending, how often capturing it failed.
    pub tries: u32,
    /// When taking its computer back with a capture is tried again, after one that failed.
    pub retry: Option<DateTime<Utc>>,
    /// Computers whose loads failed for it.
    pub avoid: Vec<ComputerName>,
    /// Whether an imaging one is not to be captured at its end.
    pub discard: bool,
    /// The waiting time that was shown when it was asked for, in seconds: one in ten less, nine in ten less.
    pub shown: Option<(u64, u64)>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Why it ended.
    pub ended_because: Option<String>,
}

fn stored<T: serde::de::DeserializeOwned>(row: &DbRow, column: &'static str) -> Result<Option<T>> {
    let text: Option<&str> = row.try_get(column)?;
    let read = |text| serde_json::from_str(text).map_err(|e| Error::corrupt(format!("a `{column}`"), e));
    text.map(read).transpose()
}

impl ReservationRow {
    pub(crate) fn read(row: &DbRow) -> Result<Self> {
        let at = |column| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(time));
        let shown = (number_or_null(row, "p10_s")?, number_or_null(row, "p90_s")?);
        Ok(Self {
            id: ReservationId(row.try_get("id")?),
            owner: row.try_get("owner")?,
            group: row.try_get("group_name")?,
            purpose: parsed(row, "purpose")?,
            class: row.try_get("class_id")?,
            computer: parsed_or_null(row, "computer")?,
            booked: parsed_or_null(row, "booked")?,
            image: ImageRef { name: parsed(row, "image")?, revision: number_or_null(row, "revision")? },
            asked: stored(row, "asked")?,
            times: stored(row, "times")?.unwrap_or_default(),
            state: parsed(row, "state")?,
            job: row.try_get::<Option<i64>, _>("job_id")?.map(JobId),
            since: time(row.try_get("since")?),
            start: at("start_at")?,
            end: at("end_at")?,
            length_s: number_or_null(row, "length_s")?,
            assigned: at("assigned_at")?,
            usable: at("usable_at")?,
            acknowledged: at("acknowledged_at")?,
            connected: at("connected_at")?,
            seen: at("seen_at")?,
            nobody: at("nobody_at")?,
            from: parsed_or_null(row, "address")?,
            told: stored(row, "told")?.unwrap_or_default(),
            tries: number(row, "tries")?,
            retry: at("retry_at")?,
            avoid: stored(row, "avoid")?.unwrap_or_default(),
            discard: flag(row, "discard")?,
            shown: shown.0.zip(shown.1),
            ended: at("ended_at")?,
            ended_because: row.try_get("ended_because")?,
        })
    }
    /// What its times depend on, for a daemon that listens since then.
    #[must_use]
    pub fn moments(&self, listening: DateTime<Utc>) -> Moments {
        Moments {
            state: self.state,
            purpose: self.purpose,
            start: self.start,
            // Its time counts from when its computer is usable; until then this is where it would end at the earliest.
            end: self
                .end
                .filter(|_| self.state != State::Loading || self.usable.is_some() || self.is_fixed()),
            usable: self.usable,
            acknowledged: self.acknowledged,
            connected: self.connected,
            seen: self.seen,
            nobody: self.nobody,
            told: self.told.clone(),
            listening,
            times: self.times.clone(),
        }
    }
    /// As the API shows it, without what has to be computed: its class's name, its waiting time, how to connect.
    #[must_use]
    pub fn view(self) -> ReservationView {
        ReservationView {
            id: self.id,
            owner: self.owner,
            group: self.group,
            purpose: self.purpose,
            class: None,
            computer: self.computer,
            booked: self.booked,
            image: self.image,
            state: self.state,
            since: self.since,
            start: self.start,
            end: self.end,
            length_s: self.length_s,
            usable: self.usable,
            acknowledged: self.acknowledged,
            connected: self.connected,
            seen: self.seen,
            from: self.from,
            waiting: None,
            job: self.job,
            connect: Vec::new(),
            ended: self.ended,
            ended_because: self.ended_because,
        }
    }
    /// Whether its end does not depend on when its computer becomes usable: a seat's, and one's that was asked for a time.
    pub(crate) fn is_fixed(&self) -> bool {
        self.class.is_some() || self.asked.as_ref().is_some_and(|asked| asked.start.is_some())
    }
    /// Whether what its user may have made is to be captured before its computer is taken back.
    pub fn is_to_be_captured(&self) -> bool {
        self.purpose == Purpose::Imaging && !self.discard
    }
    /// The event, or why it cannot happen.
    pub(crate) fn after(&self, event: Event) -> Result<State> {
        next(self.state, event)
            .map_err(|e| Error::caused(Kind::Refused, format!("reservation {}", self.id), e))
    }
}

/// The reservation, inside somebody's transaction, which keeps others from changing it.
pub(crate) async fn get(db: &mut Db, id: ReservationId) -> Result<ReservationRow> {
    let row = sqlx::query(locked!(db, "SELECT * FROM reservations WHERE id = ?"));
    let row = row.bind(id.0).fetch_optional(db).await?;
    let unknown = || {
        Error::new(
            Kind::NotFound,
            format!("there is no reservation {id}; `vclctl reservation list` shows yours"),
        )
    };
    ReservationRow::read(&row.ok_or_else(unknown)?)
}

/// [`guard::check`], and that the job holds the reservation's computer.
pub(crate) async fn held(db: &mut Db, claim: &Claim, id: ReservationId) -> Result<ReservationRow> {
    guard::check(&mut *db, claim).await?;
    let reservation = get(&mut *db, id).await?;
    let Some(computer) = &reservation.computer else {
        return Err(Error::new(Kind::Refused, format!("reservation {id} has no computer")));
    };
    guard::holding(db, claim, computer).await?;
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

    /// Ends a reservation of the computer that the job holds, whatever its state, and says why, to its user too unless he
    /// asked for the job. One that is over stays as it ended.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::NotFound`]; [`Kind::Refused`] when the job does not hold its computer.
    pub async fn end_reservation(&self, claim: &Claim, id: ReservationId, reason: &str) -> Result<()> {
        let (claim, reason) = (claim.clone(), reason.to_owned());
        self.write(move |db| {
            Box::pin(async move {
                let reservation = held(&mut *db, &claim, id).await?;
                finish(&mut *db, &reservation, &reason, now()).await?;
                // Of one that was ending its user knows; and what somebody ends himself he need not be told.
                let known = matches!(reservation.state, State::Ending | State::Ended)
                    || claim.job.requester == reservation.owner;
                if known {
                    return Ok(());
                }
                notices::of_reservation(db, NoticeKind::Ended, &reservation, [("because", reason)]).await
            })
        })
        .await
    }

    /// A reservation.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be read.
    pub async fn reservation(&self, id: ReservationId) -> Result<ReservationRow> {
        let row = sqlx::query("SELECT * FROM reservations WHERE id = ?").bind(id.0);
        let row = row.fetch_optional(self.readers()).await?;
        let unknown = || Error::new(Kind::NotFound, format!("there is no reservation {id}"));
        ReservationRow::read(&row.ok_or_else(unknown)?)
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
    reservation: &ReservationRow,
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
        "INSERT INTO reservations (owner, computer, image, revision, state, job_id, attempt, since, start_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))
    .bind(owner)
    .bind(computer.as_str())
    .bind(image.name.as_str())
    .bind(image.revision.map(i64::from))
    .bind(state.as_str())
    .bind(claim.job.id.0)
    .bind(i64::from(claim.job.attempt))
    .bind(now())
    .bind(now());
    Ok(ReservationId(insert(db, row).await?))
}

/// Ends a reservation, whatever its state, and writes its usage. One that is over stays as it ended.
pub(crate) async fn finish(db: &mut Db, reservation: &ReservationRow, because: &str, at: i64) -> Result<()> {
    let id = reservation.id;
    let mut state = reservation.state;
    let refused = |e| Error::caused(Kind::Refused, format!("reservation {id}"), e);
    if state == State::Ended {
        return Ok(());
    }
    if state != State::Ending {
        state = next(state, Event::End).map_err(refused)?;
    }
    state = next(state, Event::Ended).map_err(refused)?;
    // Why it was to end was said when that began.
    let because = reservation.ended_because.as_deref().unwrap_or(because);
    let set = sqlx::query("UPDATE reservations SET state = ?, ended_at = ?, ended_because = ? WHERE id = ?");
    set.bind(state.as_str()).bind(at).bind(because).bind(id.0).execute(&mut *db).await?;
    usage::write(db, reservation, because, at).await
}

pub(crate) async fn set_state(db: &mut Db, id: ReservationId, state: State) -> Result<()> {
    let set = sqlx::query("UPDATE reservations SET state = ? WHERE id = ?");
    set.bind(state.as_str()).bind(id.0).execute(db).await?;
    Ok(())
}
