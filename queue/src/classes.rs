//! Classes: so many seats of an image at times of the week.
//!
//! A seat is a reservation of the class, and its owner's until somebody takes it. Which seats a time needs is found out
//! from the seats there are, in the transaction that adds them: any number of nodes may do it. `class_times` says which
//! times were called off.

use crate::database::{Db, DbRow, json, millis, parsed, time, to_json};
use crate::engine::{exclusive, flag, insert, locked, number, number_or_null, numbered};
use crate::lending::{NewReservation, take_in};
use crate::notices::{self, NewNotice};
use crate::{Error, Kind, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use vcl_types::ImageRef;
use vcl_types::lending::{Weekly, Wish};
use vcl_types::notices::NoticeKind;

/// A class as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassRow {
    /// Its number; one that was ended and made again has another.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// The image.
    pub image: ImageRef,
    /// How many seats.
    pub seats: u32,
    /// Its times.
    pub weekly: Weekly,
    /// Which computers will do.
    pub wish: Wish,
    /// The group whose members take the seats; anybody without one.
    pub group: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// From when on it takes place.
    pub from: DateTime<Utc>,
    /// Until when.
    pub until: Option<DateTime<Utc>>,
}

/// A class to be kept; its number is not looked at.
pub type NewClass = ClassRow;

/// A time of a class for which something was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassTimeRow {
    /// Which class.
    pub class: i64,
    /// When it begins.
    pub start: DateTime<Utc>,
    /// Whether it was called off.
    pub called_off: bool,
}

fn class(row: &DbRow) -> Result<ClassRow> {
    Ok(ClassRow {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        image: ImageRef { name: parsed(row, "image")?, revision: number_or_null(row, "revision")? },
        seats: number(row, "seats")?,
        weekly: parsed(row, "weekly")?,
        wish: json(row, "wish")?,
        group: row.try_get("group_name")?,
        owner: row.try_get("owner")?,
        from: time(row.try_get("from_at")?),
        until: row.try_get::<Option<i64>, _>("until_at")?.map(time),
    })
}

fn class_time(row: &DbRow) -> Result<ClassTimeRow> {
    Ok(ClassTimeRow {
        class: row.try_get("class_id")?,
        start: time(row.try_get("start_at")?),
        called_off: flag(row, "called_off")?,
    })
}

fn unknown(name: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no class `{name}`; `vclctl class list` shows what there is"))
}

async fn by_name(db: &mut Db, name: &str) -> Result<Option<ClassRow>> {
    let row = sqlx::query("SELECT * FROM classes WHERE name = ? AND ended_at IS NULL").bind(name);
    row.fetch_optional(db).await?.as_ref().map(class).transpose()
}

/// A class that is not over, by its number.
async fn by_id(db: &mut Db, id: i64) -> Result<Option<ClassRow>> {
    let row = sqlx::query(locked!(db, "SELECT * FROM classes WHERE id = ? AND ended_at IS NULL")).bind(id);
    row.fetch_optional(db).await?.as_ref().map(class).transpose()
}

/// How many seats of a class are had or kept at a time, those that are being taken back left out.
async fn there(db: &mut Db, id: i64, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<u32> {
    let count: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM reservations WHERE class_id = ? AND state NOT IN ('ending', 'ended') \
         AND start_at < ? AND (end_at IS NULL OR end_at > ?)",
    )
    .bind(id)
    .bind(millis(end))
    .bind(millis(start))
    .fetch_one(db)
    .await?;
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Tells the administrators that a time of a class has fewer computers than seats.
async fn short(
    db: &mut Db,
    class: &ClassRow,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    because: Option<String>,
) -> Result<()> {
    let found: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM reservations WHERE class_id = ? AND state NOT IN ('ending', 'ended') \
         AND start_at < ? AND (end_at IS NULL OR end_at > ?) AND (booked IS NOT NULL OR computer IS NOT NULL)",
    )
    .bind(class.id)
    .bind(millis(end))
    .bind(millis(start))
    .fetch_one(&mut *db)
    .await?;
    let facts = notices::facts([
        ("class", Some(class.name.clone())),
        ("group", class.group.clone()),
        ("owner", Some(class.owner.clone())),
        ("image", Some(class.image.to_string())),
        ("start", Some(start.to_rfc3339())),
        ("end", Some(end.to_rfc3339())),
        ("seats", Some(class.seats.to_string())),
        ("found", Some(found.to_string())),
        ("because", because),
    ]);
    let kind = NoticeKind::SeatsMissing;
    notices::put(db, NewNotice { kind, to: None, group: class.group.clone(), facts }).await
}

async fn is_off(db: &mut Db, id: i64, start: DateTime<Utc>) -> Result<bool> {
    let off: Option<i64> =
        sqlx::query_scalar("SELECT called_off FROM class_times WHERE class_id = ? AND start_at = ?")
            .bind(id)
            .bind(millis(start))
            .fetch_optional(db)
            .await?;
    Ok(off.is_some_and(|off| off != 0))
}

async fn seat(db: &mut Db, class: &ClassRow, new: NewReservation) -> Result<bool> {
    let booked = new.booked.is_some();
    match take_in(&mut *db, new.clone()).await {
        Ok(_) => Ok(booked),
        // Somebody was faster: a seat without a computer is better than none, one is looked for again.
        Err(e) if e.kind == Kind::Busy => {
            let class = Some(class.id);
            take_in(db, NewReservation { booked: None, class, ..new }).await.map(|_| false)
        }
        Err(e) => Err(e),
    }
}

impl Queue {
    /// The name of a class.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn class_name(&self, id: i64) -> Result<Option<String>> {
        let name = sqlx::query_scalar("SELECT name FROM classes WHERE id = ?").bind(id);
        Ok(name.fetch_optional(self.readers()).await?)
    }

    /// All classes that are not over, by their names.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn classes(&self) -> Result<Vec<ClassRow>> {
        let rows = sqlx::query("SELECT * FROM classes WHERE ended_at IS NULL ORDER BY name");
        rows.fetch_all(self.readers()).await?.iter().map(class).collect()
    }

    /// A class that is not over.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; or the database cannot be read.
    pub async fn class(&self, name: &str) -> Result<ClassRow> {
        let row = sqlx::query("SELECT * FROM classes WHERE name = ? AND ended_at IS NULL").bind(name);
        let row = row.fetch_optional(self.readers()).await?;
        row.as_ref().map(class).transpose()?.ok_or_else(|| unknown(name))
    }

    /// Times of classes that something was settled for and that are not over at that moment.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn class_times(&self, now: DateTime<Utc>) -> Result<Vec<ClassTimeRow>> {
        let rows = sqlx::query("SELECT * FROM class_times WHERE end_at > ? ORDER BY start_at, class_id");
        rows.bind(millis(now)).fetch_all(self.readers()).await?.iter().map(class_time).collect()
    }

    /// Keeps a class, or changes the one of its name. Answers its number.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn keep_class(&self, new: NewClass) -> Result<i64> {
        let queue = self.clone();
        let after = move |id| {
            queue.wake();
            id
        };
        self.write_map(move |db| Box::pin(keep(db, new.clone())), after).await
    }

    /// Ends a class; its seats are its owner's to end.
    ///
    /// # Errors
    /// [`Kind::NotFound`].
    pub async fn end_class(&self, name: &str, now: DateTime<Utc>) -> Result<ClassRow> {
        let name = name.to_owned();
        self.write(move |db| {
            let name = name.clone();
            Box::pin(async move {
                // Who adds seats of it has done so before, or sees that it is over.
                exclusive(&mut *db).await?;
                let class = by_name(&mut *db, &name).await?.ok_or_else(|| unknown(&name))?;
                // Its name is free for another one; the number keeps what was.
                let set = sqlx::query("UPDATE classes SET ended_at = ?, name = ? WHERE id = ?");
                let over = format!("{} ({})", name.chars().take(100).collect::<String>(), class.id);
                set.bind(millis(now)).bind(over).bind(class.id).execute(db).await?;
                Ok(class)
            })
        })
        .await
    }

    /// A time of a class does not take place.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn call_off(&self, class: i64, start: DateTime<Utc>, end: DateTime<Utc>) -> Result<()> {
        self.write(move |db| {
            Box::pin(async move {
                exclusive(&mut *db).await?;
                let set = sqlx::query(
                    "UPDATE class_times SET called_off = 1, end_at = ? WHERE class_id = ? AND start_at = ?",
                );
                let set = set.bind(millis(end)).bind(class).bind(millis(start));
                if set.execute(&mut *db).await?.rows_affected() == 0 {
                    let add = sqlx::query(
                        "INSERT INTO class_times (class_id, start_at, end_at, called_off) VALUES (?, ?, ?, 1)",
                    );
                    add.bind(class).bind(millis(start)).bind(millis(end)).execute(db).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Adds seats of a time of a class until there are as many as it has. Of those that are offered the first are taken.
    /// Answers how many were added, and for how many of them a computer is kept.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn add_seats(
        &self,
        class: &ClassRow,
        start: DateTime<Utc>,
        end: DateTime<Utc>,
        offered: Vec<NewReservation>,
        lacking: Option<String>,
    ) -> Result<(u32, u32)> {
        let (class, queue) = (class.clone(), self.clone());
        let after = move |added: (u32, u32)| {
            if added.0 > 0 {
                queue.wake();
            }
            added
        };
        self.write_map(
            move |db| {
                let (class, offered, lacking) = (class.clone(), offered.clone(), lacking.clone());
                Box::pin(async move {
                    exclusive(&mut *db).await?;
                    // Who offers them has read the class before: it may have ended since.
                    let Some(class) = by_id(&mut *db, class.id).await? else { return Ok((0, 0)) };
                    if is_off(&mut *db, class.id, start).await? {
                        return Ok((0, 0));
                    }
                    let room = class.seats.saturating_sub(there(&mut *db, class.id, start, end).await?);
                    let (mut added, mut booked) = (0, 0);
                    for new in offered.into_iter().take(room as usize) {
                        booked += u32::from(seat(&mut *db, &class, new).await?);
                        added += 1;
                    }
                    if booked < added {
                        short(db, &class, start, end, lacking).await?;
                    }
                    Ok((added, booked))
                })
            },
            after,
        )
        .await
    }
}

async fn keep(db: &mut Db, new: NewClass) -> Result<i64> {
    exclusive(&mut *db).await?;
    if let Some(old) = by_name(&mut *db, &new.name).await? {
        let set = sqlx::query(
            "UPDATE classes SET image = ?, revision = ?, seats = ?, weekly = ?, wish = ?, group_name = ?, owner = ?, \
             from_at = ?, until_at = ? WHERE id = ?",
        );
        set.bind(new.image.name.as_str())
            .bind(new.image.revision.map(i64::from))
            .bind(i64::from(new.seats))
            .bind(new.weekly.to_string())
            .bind(to_json(&new.wish)?)
            .bind(&new.group)
            .bind(&new.owner)
            .bind(millis(new.from))
            .bind(new.until.map(millis))
            .bind(old.id)
            .execute(db)
            .await?;
        return Ok(old.id);
    }
    let row = sqlx::query(numbered!(
        db,
        "INSERT INTO classes (name, image, revision, seats, weekly, wish, group_name, owner, from_at, until_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))
    .bind(&new.name)
    .bind(new.image.name.as_str())
    .bind(new.image.revision.map(i64::from))
    .bind(i64::from(new.seats))
    .bind(new.weekly.to_string())
    .bind(to_json(&new.wish)?)
    .bind(&new.group)
    .bind(&new.owner)
    .bind(millis(new.from))
    .bind(new.until.map(millis));
    insert(db, row).await
}
