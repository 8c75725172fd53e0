//! What the jobs that work for a reservation change here: a transaction for each of their steps, in which the step's claim
//! is checked, computer and reservation change together, and what the step has done before is not done again.

use crate::database::{Db, millis, to_json};
use crate::engine::exclusive;
use crate::lending::take_back;
use crate::reservations::{self, ReservationRow, finish, happen};
use crate::{Claim, Error, Kind, Queue, Result, computers, guard, notices};
use chrono::{DateTime, Utc};
use vcl_types::notices::NoticeKind;
use vcl_types::state::computer;
use vcl_types::state::reservation::{Event, State};
use vcl_types::{ComputerName, Loaded, ReservationId};

/// How a computer comes to a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lending {
    /// It is loaded for it.
    Load,
    /// It holds what is wanted.
    AsItIs,
}

/// After so many loads that failed a reservation is given up.
const TRIES: u32 = 3;

impl Queue {
    /// The computer that the job holds is the reservation's from now on. `key` is the step's.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the reservation is not being loaded any more, or has another computer,
    /// or the event is not possible in the computer's state.
    pub async fn begin_lending(
        &self,
        claim: &Claim,
        key: &str,
        id: ReservationId,
        computer: &ComputerName,
        how: Lending,
    ) -> Result<()> {
        let (claim, key, name) = (claim.clone(), key.to_owned(), computer.clone());
        self.write(move |db| {
            let (claim, key, name) = (claim.clone(), key.clone(), name.clone());
            Box::pin(async move {
                let row = reservations::held(&mut *db, &claim, id).await?;
                if row.state != State::Loading {
                    let message = format!("reservation {id} is {} and waits for no load", row.state);
                    return Err(Error::new(Kind::Refused, message));
                }
                let there = computers::get(&mut *db, &name).await?.state;
                let event = match how {
                    Lending::AsItIs => computer::Event::Assign,
                    Lending::Load if there == computer::State::Available => computer::Event::Load,
                    Lending::Load => computer::Event::Reload,
                };
                computers::happen(db, &claim, &key, &name, event).await?;
                Ok(())
            })
        })
        .await
    }

    /// The computer that the job holds has `loaded` on it, which nobody has used. With `idle` it is nobody's, else it is
    /// reserved. `key` is the step's.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`].
    pub async fn filled(
        &self,
        claim: &Claim,
        key: &str,
        computer: &ComputerName,
        loaded: &Loaded,
        idle: bool,
    ) -> Result<()> {
        let (claim, key, name) = (claim.clone(), key.to_owned(), computer.clone());
        let loaded = loaded.clone();
        let event = if idle { computer::Event::Prepared } else { computer::Event::Loaded };
        self.write(move |db| {
            let (claim, key, name, loaded) = (claim.clone(), key.clone(), name.clone(), loaded.clone());
            Box::pin(async move {
                let held = computers::held(&mut *db, &claim, &key, &name, event).await?;
                held.happen_with(db, &claim, &key, &loaded).await
            })
        })
        .await
    }

    /// Somebody may be on the computer that the job holds from now on: nobody else gets what it holds.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer.
    pub async fn taint(&self, claim: &Claim, computer: &ComputerName) -> Result<()> {
        let (claim, name) = (claim.clone(), computer.clone());
        self.write(move |db| {
            let (claim, name) = (claim.clone(), name.clone());
            Box::pin(async move {
                guard::holding(&mut *db, &claim, &name).await?;
                tainted(db, &name, true).await
            })
        })
        .await
    }

    /// The computer of the reservation is usable: its time counts from now, unless its end is fixed by somebody who comes
    /// after it. `key` is the step's.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when it has ended meanwhile.
    pub async fn usable(&self, claim: &Claim, key: &str, id: ReservationId, at: DateTime<Utc>) -> Result<()> {
        let (claim, key) = (claim.clone(), key.to_owned());
        self.write(move |db| {
            let (claim, key) = (claim.clone(), key.clone());
            Box::pin(async move {
                // Until when the computer is had is read and moved: nobody may book it meanwhile.
                exclusive(&mut *db).await?;
                let row = reservations::held(&mut *db, &claim, id).await?;
                let again = row.usable;
                let state = row.state;
                happen(&mut *db, &claim, &key, &row, Event::Loaded).await?;
                if again.is_some() {
                    if state == State::Loading {
                        come_again(db, id, at).await?;
                    }
                    return Ok(());
                }
                let set = sqlx::query("UPDATE reservations SET usable_at = ? WHERE id = ?");
                set.bind(millis(at)).bind(id.0).execute(&mut *db).await?;
                if let (Some(length), Some(computer), false) = (row.length_s, &row.computer, row.is_fixed()) {
                    let wanted = i64::try_from(length).unwrap_or(i64::MAX / 2).saturating_mul(1000);
                    let wanted = millis(at).saturating_add(wanted);
                    let next: Option<i64> = sqlx::query_scalar(
                        "SELECT MIN(start_at) FROM reservations WHERE state <> 'ended' AND id <> ? AND booked = ? \
                         AND (end_at IS NULL OR end_at > ?)",
                    )
                    .bind(id.0)
                    .bind(computer.as_str())
                    .bind(millis(at))
                    .fetch_one(&mut *db)
                    .await?;
                    // One that began during the load has waited for this computer: its time is now.
                    let end = next.map_or(wanted, |next| wanted.min(next.max(millis(at))));
                    let set = sqlx::query("UPDATE reservations SET end_at = ? WHERE id = ?");
                    set.bind(end).bind(id.0).execute(&mut *db).await?;
                }
                let row = reservations::get(&mut *db, id).await?;
                notices::of_reservation(db, NoticeKind::Ready, &row, []).await
            })
        })
        .await
    }

    /// The undo of a lending: the computer is nobody's, and the reservation waits for another, unless it is ending or has
    /// been given up; one that was handed over ends. `key` is the step's.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer.
    pub async fn unlend(
        &self,
        claim: &Claim,
        key: &str,
        id: ReservationId,
        computer: &ComputerName,
        kept: bool,
        at: DateTime<Utc>,
    ) -> Result<()> {
        let (claim, key, name) = (claim.clone(), key.to_owned(), computer.clone());
        let queue = self.clone();
        let after = move |()| queue.wake();
        self.write_map(
            move |db| {
                let (claim, key, name) = (claim.clone(), key.clone(), name.clone());
                Box::pin(async move {
                    guard::holding(&mut *db, &claim, &name).await?;
                    if guard::effect(&mut *db, &claim, &key, "unlend").await?.is_some() {
                        return Ok(());
                    }
                    guard::remember(&mut *db, &claim, &key, "unlend", "done").await?;
                    let seat = computers::get(&mut *db, &name).await?;
                    let event = match seat.state {
                        computer::State::Loading => Some(computer::Event::LoadFailed),
                        computer::State::Reserved | computer::State::InUse => Some(computer::Event::Release),
                        _ => None,
                    };
                    if let Some(event) = event {
                        computers::happen(&mut *db, &claim, &key, &name, event).await?;
                    }
                    if kept {
                        // Nobody knows what was done on it before it failed.
                        tainted(&mut *db, &name, true).await?;
                    } else {
                        computers::set_loaded(&mut *db, &name, None).await?;
                    }
                    let row = reservations::get(&mut *db, id).await?;
                    match row.state {
                        _ if row.computer.as_ref() != Some(&name) => Ok(()),
                        State::Loading => turned_away(db, &row, &name, at).await,
                        // It was handed over, and a life that died did not come to know it: what its user has is gone.
                        State::Ready | State::InUse => {
                            give_up(db, &row, format!("{name} was taken back: its lending was called off"))
                                .await
                        }
                        _ => Ok(()),
                    }
                })
            },
            after,
        )
        .await
    }

    /// A reservation is over and its computer available: with what it holds if it was `kept` clean, else with nothing on
    /// it. A computer that is not the reservation's any more stays as it is. Whether it is available now by this. `key` is the
    /// step's.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer.
    pub async fn returned(
        &self,
        claim: &Claim,
        key: &str,
        id: ReservationId,
        computer: &ComputerName,
        kept: bool,
        at: DateTime<Utc>,
    ) -> Result<bool> {
        let (claim, key, name) = (claim.clone(), key.to_owned(), computer.clone());
        let queue = self.clone();
        let after = move |released| {
            queue.wake();
            released
        };
        self.write_map(
            move |db| {
                let (claim, key, name) = (claim.clone(), key.clone(), name.clone());
                Box::pin(async move {
                    guard::holding(&mut *db, &claim, &name).await?;
                    // One that is out of service, or was put back before, has nothing of what this job has done. When this
                    // step has run before, the reservation is over, and nothing is its.
                    let its = computers::get(&mut *db, &name).await?.is_lent_for(id);
                    if its {
                        computers::happen(&mut *db, &claim, &key, &name, computer::Event::Release).await?;
                        if !kept {
                            computers::set_loaded(&mut *db, &name, None).await?;
                        }
                        tainted(&mut *db, &name, false).await?;
                    }
                    let row = reservations::get(&mut *db, id).await?;
                    finish(db, &row, "given back", millis(at)).await?;
                    Ok(its)
                })
            },
            after,
        )
        .await
    }
}

/// A computer did not become usable for a reservation: it waits for another, or is given up after [`TRIES`] of them. One
/// that had been usable before is given up at once, and its computer taken back.
pub(crate) async fn turned_away(
    db: &mut Db,
    row: &ReservationRow,
    name: &ComputerName,
    at: DateTime<Utc>,
) -> Result<()> {
    let id = row.id;
    let tries = row.tries + 1;
    if row.usable.is_some() {
        return give_up(db, row, format!("{name} could not be loaded anew")).await;
    }
    if tries >= TRIES {
        let because = format!("{tries} loads for it failed, the last of {name}");
        let failed = sqlx::query("UPDATE reservations SET tries = ? WHERE id = ?");
        failed.bind(i64::from(tries)).bind(id.0).execute(&mut *db).await?;
        finish(&mut *db, row, &because, millis(at)).await?;
        return notices::of_reservation(db, NoticeKind::GivenUp, row, [("because", because)]).await;
    }
    let mut avoid = row.avoid.clone();
    avoid.push(name.clone());
    // Of one that was asked for a time, and of a seat, the end stays where it was.
    let end = row.end.filter(|_| row.is_fixed()).map(|end| end.timestamp_millis());
    // It waits since it was asked for, or since its time came, and for what was asked: not for the revision of that day.
    let asked = row.asked.as_ref();
    let start = asked.and_then(|asked| asked.start).map_or(row.since, |start| start.max(row.since));
    let revision = asked.and_then(|asked| asked.image.revision).map(i64::from);
    let back = sqlx::query(
        "UPDATE reservations SET state = ?, computer = NULL, revision = ?, start_at = ?, end_at = ?, assigned_at = NULL, \
         tries = ?, avoid = ? WHERE id = ?",
    );
    back.bind(row.after(Event::Requeue)?.as_str())
        .bind(revision)
        .bind(start.timestamp_millis())
        .bind(end)
        .bind(i64::from(tries))
        .bind(to_json(&avoid)?)
        .bind(id.0)
        .execute(db)
        .await?;
    Ok(())
}

/// Ends a reservation whose user had its computer and has it no more. What they had may still be on it, and is taken off.
async fn give_up(db: &mut Db, row: &ReservationRow, because: String) -> Result<()> {
    take_back(&mut *db, row, &because).await?;
    notices::of_reservation(db, NoticeKind::GivenUp, row, [("because", because)]).await
}

/// The user of a reservation could not be on its computer while that was to be loaded anew: they have the usual time to
/// come again.
pub(crate) async fn come_again(db: &mut Db, id: ReservationId, at: DateTime<Utc>) -> Result<()> {
    let anew = sqlx::query(
        "UPDATE reservations SET acknowledged_at = ?, \
         seen_at = CASE WHEN connected_at IS NULL THEN NULL ELSE ? END WHERE id = ?",
    );
    anew.bind(millis(at)).bind(millis(at)).bind(id.0).execute(db).await?;
    Ok(())
}

pub(crate) async fn tainted(db: &mut Db, name: &ComputerName, is: bool) -> Result<()> {
    let set = sqlx::query("UPDATE computers SET tainted = ? WHERE name = ?");
    set.bind(i64::from(is)).bind(name.as_str()).execute(db).await?;
    Ok(())
}
