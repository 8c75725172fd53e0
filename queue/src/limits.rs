//! What stands in the way of giving a computer out, asked inside the transaction that gives it: another's reservation of it,
//! and how many computers and hours may be had.

use crate::database::{Db, millis, seconds};
use crate::reservations::ReservationRow;
use crate::{Error, Kind, Result};
use chrono::{DateTime, Utc};
use vcl_types::state::reservation::State;
use vcl_types::{ComputerName, ReservationId};

/// How many may be had at once. A limit is left out where there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places {
    /// Computers that its owner may have at once.
    pub owner: Option<u32>,
    /// Computers that its group may have at once.
    pub group: Option<u32>,
    /// Computers that may hold its image for somebody at once: licences.
    pub image: Option<u32>,
}

/// Another reservation that has the computer, or has it booked, at a time that overlaps.
pub(crate) async fn in_the_way(
    db: &mut Db,
    computer: &ComputerName,
    own: Option<ReservationId>,
    from: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
) -> Result<Option<ReservationRow>> {
    let row = sqlx::query(
        "SELECT * FROM reservations WHERE state IN ('scheduled', 'queued', 'loading', 'ready', 'in-use', 'ending') AND id <> ? AND (computer = ? OR booked = ?) \
         AND (start_at IS NULL OR start_at < ?) AND (end_at IS NULL OR end_at > ?) ORDER BY id LIMIT 1",
    );
    let row = row
        .bind(own.map_or(0, |id| id.0))
        .bind(computer.as_str())
        .bind(computer.as_str())
        .bind(until.map_or(i64::MAX, millis))
        .bind(millis(from));
    row.fetch_optional(db).await?.as_ref().map(ReservationRow::read).transpose()
}

pub(crate) fn taken(computer: &ComputerName, other: &ReservationRow) -> Error {
    let at = |at: Option<DateTime<Utc>>| {
        at.map_or("open".to_owned(), |at| at.format("%Y-%m-%d %H:%M UTC").to_string())
    };
    let message = format!(
        "{computer} is {}'s from {} to {} (reservation {})",
        other.owner,
        at(other.start),
        at(other.end),
        other.id
    );
    Error::new(Kind::Busy, message)
}

/// Refuses what is over a limit. Counted are those that have a computer and are not being taken back; of a class's seats
/// only the licences that they take.
pub(crate) async fn within(db: &mut Db, row: &ReservationRow, places: &Places) -> Result<()> {
    let count = |column: &'static str| match column {
        "owner" => sqlx::query_scalar::<_, i64>(
            "SELECT COUNT(*) FROM reservations WHERE purpose <> 'direct' AND class_id IS NULL AND id <> ? AND owner = ? \
             AND state IN ('loading', 'ready', 'in-use')",
        ),
        "group" => sqlx::query_scalar::<_, i64>(
            "SELECT COUNT(*) FROM reservations WHERE purpose <> 'direct' AND class_id IS NULL AND id <> ? AND group_name = ? \
             AND state IN ('loading', 'ready', 'in-use')",
        ),
        _ => sqlx::query_scalar::<_, i64>(
            "SELECT COUNT(*) FROM reservations WHERE id <> ? AND image = ? \
             AND state IN ('loading', 'ready', 'in-use')",
        ),
    };
    let group = row.group.as_deref().unwrap_or_default();
    let own = row.class.is_none();
    for (what, limit, of) in [
        ("owner", places.owner.filter(|_| own), row.owner.as_str()),
        ("group", places.group.filter(|_| own && row.group.is_some()), group),
        ("image", places.image, row.image.name.as_str()),
    ] {
        let Some(limit) = limit else { continue };
        let have = count(what).bind(row.id.0).bind(of).fetch_one(&mut *db).await?;
        if have >= i64::from(limit) {
            let message =
                format!("{of} has {have} computers in use, and the limit of this {what} is {limit}");
            return Err(Error::new(Kind::Busy, message));
        }
    }
    Ok(())
}

/// What one without an end takes of the hours: all of the seven days to come.
const WEEK_S: i64 = 7 * 86_400;

/// Refuses what would give its owner more hours in seven days than they may have: those that they had, the rest of what
/// they have or wait for, and `asked` more.
pub(crate) async fn within_hours(
    db: &mut Db,
    owner: &str,
    most: u32,
    asked_s: Option<u64>,
    now: DateTime<Utc>,
    own: Option<ReservationId>,
) -> Result<()> {
    let week = millis(now - chrono::TimeDelta::seconds(WEEK_S));
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT usable_at, ended_at FROM usage_rows WHERE owner = ? AND ended_at > ? AND usable_at IS NOT NULL \
         AND class_id IS NULL AND purpose <> 'direct'",
    )
    .bind(owner)
    .bind(week)
    .fetch_all(&mut *db)
    .await?;
    let over: i64 = rows.iter().map(|(usable, ended)| (ended - (*usable).max(week)).max(0)).sum();
    let open = sqlx::query(
        "SELECT * FROM reservations WHERE owner = ? AND state <> 'ended' AND class_id IS NULL AND purpose <> 'direct' \
         AND id <> ?",
    );
    let open = open.bind(owner).bind(own.map_or(0, |id| id.0)).fetch_all(db).await?;
    let (mut had, mut coming) = (over, 0_i64);
    for row in &open {
        let row = ReservationRow::read(row)?;
        match row.usable {
            Some(usable) => {
                had += (millis(now) - millis(usable).max(week)).max(0);
                // Its computer is being taken back: nobody has it for longer, whenever it was to end.
                if row.state == State::Ending {
                    continue;
                }
                let left = row.end.map_or(WEEK_S * 1000, |end| (end - now).num_milliseconds().max(0));
                coming = coming.saturating_add(left);
            }
            None if row.state == State::Ending => {}
            None => coming = coming.saturating_add(row.length_s.map_or(WEEK_S, seconds).saturating_mul(1000)),
        }
    }
    let asked = asked_s.map_or(WEEK_S, seconds).saturating_mul(1000);
    let all = had.saturating_add(coming).saturating_add(asked);
    if all <= i64::from(most) * 3_600_000 {
        return Ok(());
    }
    let hours = |ms: i64| ms as f64 / 3_600_000.0;
    let message = format!(
        "{owner} had {:.1} hours in the last seven days and has {:.1} more to come; with the {:.1} asked for that is more than the {most} of a week",
        hours(had),
        hours(coming),
        hours(asked)
    );
    Err(Error::new(Kind::Refused, message))
}
