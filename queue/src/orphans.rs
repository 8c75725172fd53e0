//! What was seen to belong to nobody: since when, and what somebody said about it.
//!
//! A row says that a look found the thing so, no more; a look that finds it no longer forgets it, ignored or not.

use crate::database::{Db, now, time};
use crate::{Error, Kind, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use std::collections::HashMap;
use vcl_types::api::Ignored;

/// A thing at its place, as a look found it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sight {
    /// Where: a backend, or a node's own.
    pub place: String,
    /// What it is.
    pub kind: String,
    /// Its name there.
    pub name: String,
}

/// What is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// When it was first seen so.
    pub since: DateTime<Utc>,
    /// Whether somebody wants to hear no more of it.
    pub ignored: Option<Ignored>,
    /// Whether no look had seen it before.
    pub new: bool,
}

impl Queue {
    /// Remembers what a look at some places found, and forgets what was there before and is no longer. Answers what is
    /// remembered of each.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn note_orphans(&self, places: Vec<String>, seen: Vec<Sight>) -> Result<HashMap<Sight, Noted>> {
        self.write(move |db| Box::pin(note(db, places, seen))).await
    }

    /// Somebody wants to hear no more of an orphan. Answers whether it was known.
    ///
    /// # Errors
    /// [`Kind::Refused`] without a reason; when the database cannot be used.
    pub async fn ignore_orphan(&self, sight: &Sight, by: &str, reason: &str) -> Result<bool> {
        if reason.trim().is_empty() {
            let message = "whoever ignores an orphan says why, for those who come later: --reason TEXT";
            return Err(Error::new(Kind::Refused, message));
        }
        let (sight, by, reason) = (sight.clone(), by.to_owned(), reason.to_owned());
        self.write(move |db| {
            Box::pin(async move {
                let done = sqlx::query(
                    "UPDATE orphans SET ignored_by = ?, ignored_reason = ?, ignored_at = ? \
                     WHERE place = ? AND kind = ? AND name = ?",
                )
                .bind(by)
                .bind(reason)
                .bind(now())
                .bind(&sight.place)
                .bind(&sight.kind)
                .bind(&sight.name)
                .execute(db)
                .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
    }
}

async fn note(db: &mut Db, places: Vec<String>, seen: Vec<Sight>) -> Result<HashMap<Sight, Noted>> {
    let mut before: HashMap<Sight, Noted> = HashMap::new();
    for place in &places {
        let rows = sqlx::query("SELECT * FROM orphans WHERE place = ?").bind(place);
        for row in rows.fetch_all(&mut *db).await? {
            let sight =
                Sight { place: place.clone(), kind: row.try_get("kind")?, name: row.try_get("name")? };
            let ignored_at: Option<i64> = row.try_get("ignored_at")?;
            let ignored = match ignored_at {
                Some(at) => Some(Ignored {
                    by: row.try_get("ignored_by")?,
                    reason: row.try_get("ignored_reason")?,
                    at: time(at),
                }),
                None => None,
            };
            before.insert(sight, Noted { since: time(row.try_get("first_seen")?), ignored, new: false });
        }
    }
    let mut now_there = HashMap::new();
    for sight in seen {
        let noted = match before.remove(&sight) {
            Some(noted) => noted,
            None => {
                let at = now();
                let insert =
                    sqlx::query("INSERT INTO orphans (place, kind, name, first_seen) VALUES (?, ?, ?, ?)");
                insert
                    .bind(&sight.place)
                    .bind(&sight.kind)
                    .bind(&sight.name)
                    .bind(at)
                    .execute(&mut *db)
                    .await?;
                Noted { since: time(at), ignored: None, new: true }
            }
        };
        now_there.insert(sight, noted);
    }
    for gone in before.keys() {
        let forget = sqlx::query("DELETE FROM orphans WHERE place = ? AND kind = ? AND name = ?");
        forget.bind(&gone.place).bind(&gone.kind).bind(&gone.name).execute(&mut *db).await?;
    }
    Ok(now_there)
}
