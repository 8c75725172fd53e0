//! What the scheduler does with reservations: it takes them in, finds that one is due, gives it a computer, ends it.
//!
//! Whoever decides (which computer, whose turn) has looked at the tables a moment before, from outside of any transaction;
//! what is promised to everybody is checked again here, where it is written: a computer is given out only if it is
//! available, no job has it, nobody else's reservation has it or has it booked for a time that overlaps, and the limits
//! hold. So any number of nodes may decide at the same time, and a decision that came too late is refused as
//! [`Kind::Busy`] and taken anew.

use crate::database::{Db, millis, seconds, to_json};
use crate::engine::{exclusive, insert, numbered};
use crate::forsaken::captures_given_up;
use crate::jobs::{self, holder_of};
use crate::lent::tainted;
use crate::limits::{Places, in_the_way, taken, within, within_hours};
use crate::reservations::{self, ReservationRow, finish, set_state};
use crate::submit::submit;
use crate::{Admission, Error, Kind, NewJob, Queue, Result, claim, computers, notices};
use chrono::{DateTime, Utc};
use vcl_types::lending::{Purpose, ReservationRequest, Times};
use vcl_types::notices::NoticeKind;
use vcl_types::state::reservation::{Event, State};
use vcl_types::state::{computer, job};
use vcl_types::{ComputerName, ImageRef, JobId, JobRequest, ReservationId};

/// A reservation to be taken in.
#[derive(Debug, Clone)]
pub struct NewReservation {
    /// Whose it is.
    pub owner: String,
    /// The group whose times and limits it has.
    pub group: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// The class whose seat it is.
    pub class: Option<i64>,
    /// What was asked.
    pub asked: ReservationRequest,
    /// Its times.
    pub times: Times,
    /// When it was asked for.
    pub now: DateTime<Utc>,
    /// When it begins; one that begins later than now is scheduled.
    pub start: DateTime<Utc>,
    /// When it ends, where that is fixed: of one that begins later.
    pub end: Option<DateTime<Utc>>,
    /// How long it is to last; `None` for one without an end.
    pub length_s: Option<u64>,
    /// The computer that is kept for it.
    pub booked: Option<ComputerName>,
    /// The waiting time that is shown, in seconds.
    pub shown: Option<(u64, u64)>,
    /// How many hours its owner may have in seven days, where that is limited.
    pub hours: Option<u32>,
}

/// A computer for a reservation.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The reservation.
    pub reservation: ReservationId,
    /// The computer.
    pub computer: ComputerName,
    /// The revision it gets.
    pub image: ImageRef,
    /// Now.
    pub now: DateTime<Utc>,
    /// When it is to end; `None` for one without an end.
    pub end: Option<DateTime<Utc>>,
    /// The limits it has to keep. Seats of classes count for their image alone.
    pub places: Places,
    /// The hypervisor host of the computer, where it has a limit of its own.
    pub host: Option<String>,
}

/// What came of ending a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is over.
    Over,
    /// Its computer is taken back by this job.
    Ending(JobId),
    /// It was ending or had ended already.
    Already,
}

impl Queue {
    /// Takes a reservation in. When this returns it survives a power cut.
    ///
    /// # Errors
    /// [`Kind::Busy`] when the computer that is to be kept for it is somebody else's at that time, naming them.
    pub async fn reserve(&self, new: NewReservation) -> Result<ReservationId> {
        let queue = self.clone();
        let after = move |id| {
            queue.wake();
            id
        };
        self.write_map(move |db| Box::pin(take_in(db, new.clone())), after).await
    }

    /// Reservations in these states, the oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reservations_open(&self) -> Result<Vec<ReservationRow>> {
        let rows = sqlx::query(
            "SELECT * FROM reservations WHERE state IN ('scheduled', 'queued', 'loading', 'ready', 'in-use', 'ending') \
             ORDER BY id",
        );
        rows.fetch_all(self.readers()).await?.iter().map(ReservationRow::read).collect()
    }

    /// Reservations, the newest first: of one owner or of all, only those that are not over or all, those with a number
    /// below `before`, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn reservations_of(
        &self,
        owner: Option<&str>,
        open_only: bool,
        before: Option<ReservationId>,
        limit: u32,
    ) -> Result<Vec<ReservationRow>> {
        let rows = sqlx::query(
            "SELECT * FROM reservations WHERE (? = 1 OR owner = ?) AND (? = 0 OR state <> 'ended') AND id < ? \
             ORDER BY id DESC LIMIT ?",
        );
        let rows = rows
            .bind(i64::from(owner.is_none()))
            .bind(owner.unwrap_or_default())
            .bind(i64::from(open_only))
            .bind(before.map_or(i64::MAX, |id| id.0))
            .bind(i64::from(limit));
        rows.fetch_all(self.readers()).await?.iter().map(ReservationRow::read).collect()
    }

    /// Has everybody look again who waits for a change.
    pub fn look_again(&self) {
        self.wake();
    }

    /// The time of one that was scheduled has come: it is queued.
    ///
    /// # Errors
    /// [`Kind::Refused`] when it is not scheduled any more.
    pub async fn reservation_due(&self, id: ReservationId) -> Result<()> {
        self.write(move |db| {
            Box::pin(async move {
                let row = reservations::get(&mut *db, id).await?;
                set_state(db, id, row.after(Event::Due)?).await
            })
        })
        .await
    }

    /// Keeps a computer for one that has not begun, or none.
    ///
    /// # Errors
    /// [`Kind::Busy`] when it is somebody else's at that time; [`Kind::Refused`] when the reservation has a computer.
    pub async fn book(&self, id: ReservationId, computer: Option<&ComputerName>) -> Result<()> {
        let computer = computer.cloned();
        self.write(move |db| {
            let computer = computer.clone();
            Box::pin(async move {
                exclusive(&mut *db).await?;
                let row = reservations::get(&mut *db, id).await?;
                if !matches!(row.state, State::Scheduled | State::Queued) {
                    return Err(Error::new(Kind::Refused, format!("reservation {id} is {}", row.state)));
                }
                if let (Some(computer), Some(start)) = (&computer, row.start)
                    && let Some(other) = in_the_way(&mut *db, computer, Some(id), start, row.end).await?
                {
                    return Err(taken(computer, &other));
                }
                let set = sqlx::query("UPDATE reservations SET booked = ? WHERE id = ?");
                set.bind(computer.as_ref().map(|c| c.as_str())).bind(id.0).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// Gives a computer to a reservation that waits for one, and queues the job that lends it.
    ///
    /// # Errors
    /// [`Kind::Busy`] when somebody else has the computer, or has it booked, or a limit would not hold;
    /// [`Kind::Refused`] when the reservation does not wait any more, or the computer is not available.
    pub async fn assign(&self, assignment: Assignment) -> Result<JobId> {
        let queue = self.clone();
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(move |db| Box::pin(assign(db, assignment.clone())), after).await
    }

    /// Ends a class's seat that its class needs no more, wherever it is, unless somebody has taken it: then that is theirs,
    /// and the answer [`Ended::Already`].
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be written.
    pub async fn end_seat(&self, id: ReservationId, because: &str, now: DateTime<Utc>) -> Result<Ended> {
        let (queue, because) = (self.clone(), because.to_owned());
        let after = move |ended| queue.ends(ended);
        self.write_map(
            move |db| {
                let because = because.clone();
                Box::pin(async move { end_seat(db, id, &because, now).await })
            },
            after,
        )
        .await
    }

    /// Whoever waits for a computer looks again, and so does the job that lends this one, whether it is called off.
    fn ends(&self, ended: Ended) -> Ended {
        self.wake();
        self.0.cancelled.send_modify(|n| *n = n.wrapping_add(1));
        ended
    }

    /// Ends a reservation: one that has no computer is over; of one that has, a job takes the computer back, after whatever
    /// job has it now, and the job that lends it is called off. One that is ending and is to be captured is not captured
    /// any more with `discard`; without, capturing it is tried again where that was given up. `told` is what its user is
    /// told; `None` tells nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Refused`] for a load that an admin asked for, which is unloaded instead.
    pub async fn end_telling(
        &self,
        id: ReservationId,
        because: &str,
        now: DateTime<Utc>,
        discard: bool,
        told: Option<NoticeKind>,
    ) -> Result<Ended> {
        let (queue, because) = (self.clone(), because.to_owned());
        let after = move |ended| queue.ends(ended);
        self.write_map(
            move |db| {
                let because = because.clone();
                Box::pin(async move {
                    let ended = end(&mut *db, id, &because, now, discard).await?;
                    if let (Some(kind), true) = (told, ended != Ended::Already) {
                        let row = reservations::get(&mut *db, id).await?;
                        notices::of_reservation(db, kind, &row, [("because", because)]).await?;
                    }
                    Ok(ended)
                })
            },
            after,
        )
        .await
    }

    /// Its user is told that it ends in so many seconds; of what lies before that they need not be told any more. Whether
    /// nobody has told them before.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn reservation_told(&self, id: ReservationId, notice_s: u64) -> Result<bool> {
        self.write(move |db| {
            Box::pin(async move {
                let row = reservations::get(&mut *db, id).await?;
                if row.told.contains(&notice_s) {
                    return Ok(false); // another node was faster
                }
                let left = [("left_s", notice_s.to_string())];
                notices::of_reservation(&mut *db, NoticeKind::EndsSoon, &row, left).await?;
                let mut told = row.told;
                told.extend(row.times.notices_s.iter().filter(|s| **s >= notice_s));
                told.sort_unstable();
                told.dedup();
                let set = sqlx::query("UPDATE reservations SET told = ? WHERE id = ?");
                set.bind(to_json(&told)?).bind(id.0).execute(db).await?;
                Ok(true)
            })
        })
        .await
    }

    /// Gives a reservation another end. `hours` is how many its owner may have in seven days.
    ///
    /// # Errors
    /// [`Kind::Busy`] when its computer is somebody else's by then, naming them; [`Kind::Refused`] when it is ending or
    /// over, or its owner would have too many hours.
    pub async fn extend(
        &self,
        id: ReservationId,
        end: DateTime<Utc>,
        now: DateTime<Utc>,
        hours: Option<u32>,
    ) -> Result<()> {
        let queue = self.clone();
        let after = move |()| queue.wake();
        self.write_map(move |db| Box::pin(extend(db, id, end, now, hours)), after).await
    }

    /// Loads the computer of a reservation anew, for the same user.
    ///
    /// # Errors
    /// [`Kind::Refused`] when it has no usable computer.
    pub async fn reload(&self, id: ReservationId, image: &ImageRef, host: Option<String>) -> Result<JobId> {
        let (queue, image) = (self.clone(), image.clone());
        let after = move |job| {
            queue.wake();
            job
        };
        self.write_map(
            move |db| {
                let (image, host) = (image.clone(), host.clone());
                Box::pin(async move {
                    exclusive(&mut *db).await?;
                    let row = reservations::get(&mut *db, id).await?;
                    let state = row.after(Event::Reload)?;
                    let computer = has(&row)?;
                    set_state(&mut *db, id, state).await?;
                    let request = JobRequest::Lend { reservation: id, computer, image, anew: true };
                    work(db, &row, request, host).await
                })
            },
            after,
        )
        .await
    }
}

pub(crate) fn has(row: &ReservationRow) -> Result<ComputerName> {
    let none = || Error::new(Kind::Refused, format!("reservation {} has no computer", row.id));
    row.computer.clone().ok_or_else(none)
}

/// Queues a job that works for a reservation; it waits for whatever job has the computer now.
pub(crate) async fn work(
    db: &mut Db,
    row: &ReservationRow,
    request: JobRequest,
    host: Option<String>,
) -> Result<JobId> {
    let new = NewJob { request, requester: row.owner.clone(), backend: None, host };
    let job = submit(&mut *db, new, Admission { bound_to: None, wait: true }).await?;
    let set = sqlx::query("UPDATE reservations SET job_id = ?, attempt = 1 WHERE id = ?");
    set.bind(job.0).bind(row.id.0).execute(db).await?;
    Ok(job)
}

/// The host that the computer's last job ran on, which is where its next one runs.
pub(crate) async fn host_of(db: &mut Db, computer: &ComputerName) -> Result<Option<String>> {
    let host = sqlx::query_scalar("SELECT host FROM jobs WHERE computer = ? ORDER BY id DESC LIMIT 1");
    Ok(host.bind(computer.as_str()).fetch_optional(db).await?.flatten())
}

pub(crate) async fn take_in(db: &mut Db, new: NewReservation) -> Result<ReservationId> {
    exclusive(&mut *db).await?;
    if let Some(most) = new.hours {
        within_hours(&mut *db, &new.owner, most, new.length_s, new.now, None).await?;
    }
    if let Some(computer) = &new.booked
        && let Some(other) = in_the_way(&mut *db, computer, None, new.start, new.end).await?
    {
        return Err(taken(computer, &other));
    }
    let state = if new.start > new.now { State::Scheduled } else { State::Queued };
    let row = sqlx::query(numbered!(
        db,
        "INSERT INTO reservations (owner, group_name, purpose, class_id, booked, image, revision, asked, times, state, \
         since, start_at, end_at, length_s, address, p10_s, p90_s) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))
    .bind(&new.owner)
    .bind(&new.group)
    .bind(new.purpose.as_str())
    .bind(new.class)
    .bind(new.booked.as_ref().map(|c| c.as_str()))
    .bind(new.asked.image.name.as_str())
    .bind(new.asked.image.revision.map(i64::from))
    .bind(to_json(&new.asked)?)
    .bind(to_json(&new.times)?)
    .bind(state.as_str())
    .bind(millis(new.now))
    .bind(millis(new.start))
    .bind(new.end.map(millis))
    .bind(new.length_s.map(seconds))
    .bind(new.asked.from.map(|a| a.to_string()))
    .bind(new.shown.map(|(low, _)| seconds(low)))
    .bind(new.shown.map(|(_, high)| seconds(high)));
    Ok(ReservationId(insert(db, row).await?))
}

async fn assign(db: &mut Db, a: Assignment) -> Result<JobId> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, a.reservation).await?;
    let state = row.after(Event::Start)?;
    let seat = computers::get(&mut *db, &a.computer).await?;
    let name = &a.computer;
    if seat.state != computer::State::Available {
        return Err(Error::new(Kind::Busy, format!("{name} is {}", seat.state)));
    }
    if let Some(holder) = holder_of(&mut *db, name).await? {
        return Err(holder.holds(name));
    }
    if let Some(other) = in_the_way(&mut *db, name, Some(row.id), a.now, a.end).await? {
        return Err(taken(name, &other));
    }
    within(&mut *db, &row, &a.places).await?;
    let set = sqlx::query(
        "UPDATE reservations SET state = ?, computer = ?, booked = NULL, revision = ?, start_at = ?, end_at = ?, \
         assigned_at = ? WHERE id = ?",
    );
    set.bind(state.as_str())
        .bind(name.as_str())
        .bind(a.image.revision.map(i64::from))
        .bind(millis(a.now))
        .bind(a.end.map(millis))
        .bind(millis(a.now))
        .bind(row.id.0)
        .execute(&mut *db)
        .await?;
    let request =
        JobRequest::Lend { reservation: row.id, computer: name.clone(), image: a.image.clone(), anew: false };
    work(db, &row, request, a.host).await
}

async fn end(
    db: &mut Db,
    id: ReservationId,
    because: &str,
    now: DateTime<Utc>,
    discard: bool,
) -> Result<Ended> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    match row.state {
        State::Ending => return end_again(db, &row, discard).await,
        State::Ended => return Ok(Ended::Already),
        _ => {}
    }
    if row.purpose == Purpose::Direct {
        let on = row.computer.map(|c| c.to_string()).unwrap_or_default();
        let message =
            format!("reservation {id} is a load by {}; take it back: vclctl unload {on}", row.owner);
        return Err(Error::new(Kind::Refused, message));
    }
    if row.computer.is_none() {
        finish(db, &row, because, millis(now)).await?;
        return Ok(Ended::Over);
    }
    let set = sqlx::query("UPDATE reservations SET discard = ? WHERE id = ?");
    set.bind(i64::from(discard)).bind(id.0).execute(&mut *db).await?;
    // What still lends it, or lets somebody in, need not go on.
    call_off(&mut *db, &row).await?;
    take_back(db, &row, because).await.map(Ended::Ending)
}

/// Calls off the job that works for a reservation, unless it is over or stuck.
async fn call_off(db: &mut Db, row: &ReservationRow) -> Result<()> {
    let Some(job) = row.job else { return Ok(()) };
    let job = jobs::get(&mut *db, job).await?;
    if !job.state.is_final() && job.state != job::State::Stuck {
        claim::cancel(db, job.id).await?;
    }
    Ok(())
}

/// Ends a reservation that has a computer: a job takes that back, after whatever job has it now.
pub(crate) async fn take_back(db: &mut Db, row: &ReservationRow, because: &str) -> Result<JobId> {
    // What counted loads that failed counts captures from now on.
    let set = sqlx::query("UPDATE reservations SET state = ?, ended_because = ?, tries = 0 WHERE id = ?");
    set.bind(row.after(Event::End)?.as_str()).bind(because).bind(row.id.0).execute(&mut *db).await?;
    return_it(db, row).await
}

/// Queues the job that takes back the computer of a reservation that is ending.
pub(crate) async fn return_it(db: &mut Db, row: &ReservationRow) -> Result<JobId> {
    let computer = has(row)?;
    let host = host_of(&mut *db, &computer).await?;
    work(db, row, JobRequest::Return { reservation: row.id, computer }, host).await
}

/// Ends one that is ending already. Who does so may not want it captured any more; and where capturing it was given up it
/// is tried again. Anything else is on its way.
async fn end_again(db: &mut Db, row: &ReservationRow, discard: bool) -> Result<Ended> {
    let (Some(name), true) = (&row.computer, row.is_to_be_captured()) else { return Ok(Ended::Already) };
    let given_up = captures_given_up(row, &computers::get(&mut *db, name).await?);
    if !given_up && !discard {
        return Ok(Ended::Already);
    }
    if given_up {
        // Its machine is the reservation's still, and nobody else gets it.
        computers::set_state(&mut *db, name, computer::State::Available).await?;
        computers::set_reason(&mut *db, name, None).await?;
        tainted(&mut *db, name, true).await?;
    }
    let set = sqlx::query("UPDATE reservations SET discard = ?, tries = 0, retry_at = NULL WHERE id = ?");
    set.bind(i64::from(discard)).bind(row.id.0).execute(&mut *db).await?;
    call_off(&mut *db, row).await?;
    return_it(db, row).await.map(Ended::Ending)
}

/// Ends a seat that nobody has taken.
async fn end_seat(db: &mut Db, id: ReservationId, because: &str, now: DateTime<Utc>) -> Result<Ended> {
    exclusive(&mut *db).await?;
    if reservations::get(&mut *db, id).await?.purpose != Purpose::Seat {
        return Ok(Ended::Already);
    }
    end(db, id, because, now, true).await
}

async fn extend(
    db: &mut Db,
    id: ReservationId,
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    hours: Option<u32>,
) -> Result<()> {
    exclusive(&mut *db).await?;
    let row = reservations::get(&mut *db, id).await?;
    if matches!(row.state, State::Ending | State::Ended) || row.purpose == Purpose::Direct {
        return Err(Error::new(
            Kind::Refused,
            format!("reservation {id} is {} and has no end to move", row.state),
        ));
    }
    if let Some(computer) = row.computer.as_ref().or(row.booked.as_ref())
        && let Some(other) =
            in_the_way(&mut *db, computer, Some(id), row.start.unwrap_or(now), Some(until)).await?
    {
        return Err(taken(computer, &other));
    }
    if let (Some(most), Some(end), None) = (hours, row.end, row.class)
        && until > end
    {
        let whole = match row.usable {
            // What was had of it counts already; what is left is told anew.
            Some(usable) => (until - usable.max(now - chrono::TimeDelta::days(7))).num_seconds(),
            None => (until - row.start.unwrap_or(now)).num_seconds(),
        };
        let whole = u64::try_from(whole).unwrap_or(0);
        within_hours(&mut *db, &row.owner, most, Some(whole), now, Some(id)).await?;
    }
    // Of what lies ahead again they are told again.
    let ahead = |s: &u64| until - chrono::TimeDelta::seconds(seconds(*s)) > now;
    let told: Vec<u64> = row.told.iter().copied().filter(|s| !ahead(s)).collect();
    let from = row.usable.or(row.start).unwrap_or(now);
    let length = (until - from).num_seconds().max(0);
    let set = sqlx::query("UPDATE reservations SET end_at = ?, length_s = ?, told = ? WHERE id = ?");
    set.bind(millis(until)).bind(length).bind(to_json(&told)?).bind(id.0).execute(db).await?;
    Ok(())
}
