//! A row for each reservation that has ended, written by the transaction that ends it: what reports are made of, and from
//! which waiting times are foretold.

use crate::database::{Db, DbRow, millis, parsed, parsed_or_null, seconds, time};
use crate::engine::number_or_null;
use crate::reservations::ReservationRow;
use crate::{Error, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use vcl_types::lending::Purpose;
use vcl_types::{ComputerName, ImageName, ImageRef, ReservationId};

/// What became of a reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRow {
    /// Which.
    pub reservation: ReservationId,
    /// Whose it was.
    pub owner: String,
    /// The group whose times and limits it had.
    pub group: Option<String>,
    /// What it was for.
    pub purpose: Purpose,
    /// The class whose seat it was.
    pub class: Option<i64>,
    /// The image.
    pub image: ImageRef,
    /// The computer, if it had one.
    pub computer: Option<ComputerName>,
    /// When it was asked for.
    pub since: DateTime<Utc>,
    /// When it was to begin.
    pub start: Option<DateTime<Utc>>,
    /// When it got its computer.
    pub assigned: Option<DateTime<Utc>>,
    /// When its computer became usable.
    pub usable: Option<DateTime<Utc>>,
    /// When its user was first connected.
    pub connected: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// How long it was to last, in seconds.
    pub length_s: Option<u64>,
    /// The waiting time that was shown when it was asked for, in seconds.
    pub shown: Option<(u64, u64)>,
    /// Why it ended.
    pub because: Option<String>,
}

fn read(row: &DbRow) -> Result<UsageRow> {
    let at = |column| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.map(time));
    let shown: (Option<u64>, Option<u64>) = (number_or_null(row, "p10_s")?, number_or_null(row, "p90_s")?);
    Ok(UsageRow {
        reservation: ReservationId(row.try_get("reservation_id")?),
        owner: row.try_get("owner")?,
        group: row.try_get("group_name")?,
        purpose: parsed(row, "purpose")?,
        class: row.try_get("class_id")?,
        image: ImageRef { name: parsed(row, "image")?, revision: number_or_null(row, "revision")? },
        computer: parsed_or_null(row, "computer")?,
        since: time(row.try_get("since")?),
        start: at("start_at")?,
        assigned: at("assigned_at")?,
        usable: at("usable_at")?,
        connected: at("connected_at")?,
        ended: time(row.try_get("ended_at")?),
        length_s: number_or_null(row, "length_s")?,
        shown: shown.0.zip(shown.1),
        because: row.try_get("ended_because")?,
    })
}

pub(crate) async fn write(db: &mut Db, r: &ReservationRow, because: &str, at: i64) -> Result<()> {
    // The row's own is moved to the moment it gets its computer; what was waited for is what was asked.
    let begin = r.asked.as_ref().and_then(|asked| asked.start).or(r.start);
    let insert = sqlx::query(
        "INSERT INTO usage_rows (reservation_id, owner, group_name, purpose, class_id, image, revision, computer, \
         since, start_at, assigned_at, usable_at, connected_at, ended_at, length_s, p10_s, p90_s, ended_because) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    );
    insert
        .bind(r.id.0)
        .bind(&r.owner)
        .bind(&r.group)
        .bind(r.purpose.as_str())
        .bind(r.class)
        .bind(r.image.name.as_str())
        .bind(r.image.revision.map(i64::from))
        .bind(r.computer.as_ref().map(|c| c.as_str()))
        .bind(millis(r.since))
        .bind(begin.map(millis))
        .bind(r.assigned.map(millis))
        .bind(r.usable.map(millis))
        .bind(r.connected.map(millis))
        .bind(at)
        .bind(r.length_s.map(seconds))
        .bind(r.shown.map(|(low, _)| seconds(low)))
        .bind(r.shown.map(|(_, high)| seconds(high)))
        .bind(because)
        .execute(db)
        .await?;
    Ok(())
}

impl Queue {
    /// What ended between two moments, the earliest first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage(
        &self,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: u32,
    ) -> Result<Vec<UsageRow>> {
        let rows = sqlx::query(
            "SELECT * FROM usage_rows WHERE ended_at >= ? AND ended_at < ? ORDER BY ended_at, reservation_id LIMIT ?",
        );
        let rows = rows.bind(from.timestamp_millis()).bind(until.timestamp_millis()).bind(i64::from(limit));
        rows.fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// What ended since `from` and was asked for before `until`, of one owner or of all, without loads by an admin's hand;
    /// the earliest end first, at most `limit`. So a report of a time long ago reads what there was then.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn usage_within(
        &self,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        owner: Option<&str>,
        limit: u32,
    ) -> Result<Vec<UsageRow>> {
        const ALL: &str = "SELECT * FROM usage_rows WHERE ended_at >= ? AND since < ? AND purpose <> 'direct' \
             ORDER BY ended_at, reservation_id LIMIT ?";
        const ONES: &str = "SELECT * FROM usage_rows WHERE ended_at >= ? AND since < ? AND purpose <> 'direct' \
             AND owner = ? ORDER BY ended_at, reservation_id LIMIT ?";
        let (from, until) = (from.timestamp_millis(), until.timestamp_millis());
        let rows = sqlx::query(if owner.is_some() { ONES } else { ALL }).bind(from).bind(until);
        let rows = if let Some(owner) = owner { rows.bind(owner) } else { rows };
        rows.bind(i64::from(limit)).fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// How many reservations of an image were asked for at once between these moments and are over: not booked for later, and no
    /// class's seats. What was to begin within five minutes counts as at once.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn asked_at_once(
        &self,
        image: &ImageName,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<usize> {
        // The start of one that asked for now is when it got its computer.
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT COUNT(*) FROM usage_rows WHERE ended_at >= ? AND since >= ? AND since < ? AND image = ? AND class_id IS NULL \
             AND purpose IN (?, ?) AND (start_at IS NULL OR start_at = assigned_at OR start_at <= since + 300000)",
        );
        let count = count
            .bind(from.timestamp_millis())
            .bind(from.timestamp_millis())
            .bind(to.timestamp_millis())
            .bind(image.as_str());
        let count = count.bind(Purpose::Use.to_string()).bind(Purpose::Imaging.to_string());
        Ok(usize::try_from(count.fetch_one(self.readers()).await?).unwrap_or(0))
    }

    /// When the first reservation ended of which anything is known.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn first_usage(&self) -> Result<Option<DateTime<Utc>>> {
        let first = sqlx::query_scalar::<_, Option<i64>>("SELECT MIN(ended_at) FROM usage_rows");
        Ok(first.fetch_one(self.readers()).await?.map(time))
    }

    /// The newest rows, the newest first, at most `limit`: what waiting times are foretold from.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_usage(&self, limit: u32) -> Result<Vec<UsageRow>> {
        let rows =
            sqlx::query("SELECT * FROM usage_rows ORDER BY ended_at DESC, reservation_id DESC LIMIT ?");
        rows.bind(i64::from(limit)).fetch_all(self.readers()).await?.iter().map(read).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_asked_for_at_once_is_counted_by_its_image_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path().join("vcl.db")).await.unwrap();
        assert_eq!(queue.first_usage().await.unwrap(), None);
        let minute = 60_000_i64;
        let none = None::<i64>;
        // Purpose, class, image, since, start, assigned.
        let rows = [
            ("use", none, "gis", 0, none, none),
            ("use", none, "gis", minute, Some(minute), Some(minute)),
            // One that waited for an hour, one that was not served, one that had a computer a minute after its time.
            ("imaging", none, "gis", 2 * minute, Some(62 * minute), Some(62 * minute)),
            ("use", none, "gis", 3 * minute, Some(3 * minute), none),
            ("use", none, "gis", 4 * minute, Some(5 * minute), Some(6 * minute)),
            // Booked, a class's, a server, another image's, too late.
            ("use", none, "gis", 5 * minute, Some(90 * minute), Some(60 * minute)),
            ("use", Some(1), "gis", 6 * minute, none, none),
            ("server", none, "gis", 7 * minute, none, none),
            ("use", none, "cad", 8 * minute, none, none),
            ("use", none, "gis", 60 * minute, none, none),
        ];
        for (id, (purpose, class, image, since, start, assigned)) in (1_i64..).zip(rows) {
            let put = queue.write(move |db| {
                Box::pin(async move {
                    let insert = sqlx::query(
                        "INSERT INTO usage_rows (reservation_id, owner, purpose, class_id, image, since, start_at, assigned_at, \
                         ended_at) VALUES (?, 'alice', ?, ?, ?, ?, ?, ?, ?)",
                    );
                    let insert = insert.bind(id).bind(purpose).bind(class).bind(image).bind(since);
                    insert.bind(start).bind(assigned).bind(100 * minute + id).execute(db).await?;
                    Ok(())
                })
            });
            put.await.unwrap();
        }
        let count = queue.asked_at_once(&"gis".parse().unwrap(), time(0), time(60 * minute)).await.unwrap();
        assert_eq!(count, 5);
        assert_eq!(queue.first_usage().await.unwrap(), Some(time(100 * minute + 1)));
        queue.close().await;
    }

    #[tokio::test]
    async fn a_report_of_a_time_long_ago_reads_what_there_was_then() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path().join("vcl.db")).await.unwrap();
        let put = |id: i64, owner: &'static str, purpose: &'static str, since: i64, ended: i64| {
            queue.write(move |db| {
                Box::pin(async move {
                    let insert = sqlx::query(
                        "INSERT INTO usage_rows (reservation_id, owner, purpose, image, since, ended_at) \
                         VALUES (?, ?, ?, 'gis', ?, ?)",
                    );
                    insert.bind(id).bind(owner).bind(purpose).bind(since).bind(ended).execute(db).await?;
                    Ok(())
                })
            })
        };
        for (id, owner, purpose, since, ended) in [
            (1, "ann", "use", 0, 9),      // over before
            (2, "ann", "use", 5, 10),     // ends as it begins
            (3, "bob", "use", 5, 500),    // goes on for long after it
            (4, "ann", "direct", 11, 12), // an admin's load
            (5, "ann", "use", 20, 30),    // after it
        ] {
            put(id, owner, purpose, since, ended).await.unwrap();
        }
        let at = time;
        let read = async |owner: Option<&'static str>, limit| {
            let rows = queue.usage_within((at(10), at(20)), owner, limit).await.unwrap();
            rows.into_iter().map(|row| row.reservation.0).collect::<Vec<_>>()
        };
        assert_eq!(read(None, 9).await, [2, 3]);
        assert_eq!(read(Some("ann"), 9).await, [2]);
        assert_eq!(read(None, 1).await, [2]);
        queue.close().await;
    }
}
