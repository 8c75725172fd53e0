//! Who did what to what: the table `audit`; and what was answered to requests that may come again: the table `answers`.

use crate::database::{DbRow, now, time};
use crate::engine::{number, number_or_null};
use crate::{Error, Kind, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use vcl_types::api::AuditView;
use vcl_types::people::Via;

/// How long an answer is kept, in milliseconds: a day.
const KEPT: i64 = 86_400_000;
/// How many answers are kept of a caller who is no administrator.
pub const ANSWERS: u32 = 10_000;

/// Something somebody did, or tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// Who.
    pub who: String,
    /// How he came in.
    pub via: Via,
    /// From which address.
    pub from: Option<String>,
    /// The method and the path, with its parameters' names.
    pub action: String,
    /// To what.
    pub subject: String,
    /// How it ended, as HTTP's status.
    pub status: u16,
    /// The request's number.
    pub request: String,
}

/// Which deeds are wanted; the newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeedFilter {
    /// Only of this one.
    pub who: Option<String>,
    /// Only to this.
    pub subject: Option<String>,
    /// Only before this number.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

/// What is known of a request that may have come before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it is this caller's to do, and to tell what came of it.
    Never,
    /// It was done, and this was the answer.
    Answered(u16, String),
    /// It is being done, or nobody knows how it ended.
    Begun,
    /// Another request had the same key.
    Other,
}

/// At most so many bytes of a text, whole characters.
fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn read(row: &DbRow) -> Result<AuditView> {
    let via: &str = row.try_get("via")?;
    Ok(AuditView {
        id: row.try_get("id")?,
        at: time(row.try_get("at")?),
        who: row.try_get("who")?,
        via: via.parse().map_err(|e: String| Error::corrupt("a `via`", e))?,
        from: row.try_get("address")?,
        action: row.try_get("action")?,
        subject: row.try_get("subject")?,
        status: number(row, "status")?,
        request: row.try_get("request")?,
    })
}

impl Queue {
    /// Records a deed.
    ///
    /// # Errors
    /// When the database cannot be written to.
    pub async fn record_deed(&self, deed: Deed) -> Result<()> {
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let row = sqlx::query(
                        "INSERT INTO audit (at, who, via, address, action, subject, status, request) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    );
                    row.bind(now())
                        .bind(cut(&deed.who, 255))
                        .bind(deed.via.as_str())
                        .bind(deed.from.as_deref().map(|from| cut(from, 64)))
                        .bind(cut(&deed.action, 255))
                        .bind(cut(&deed.subject, 255))
                        .bind(i64::from(deed.status))
                        .bind(cut(&deed.request, 64))
                        .execute(db)
                        .await?;
                    Ok(())
                })
            },
            |value| value,
        )
        .await
    }

    /// What was done, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn deeds(&self, filter: &DeedFilter) -> Result<Vec<AuditView>> {
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE (? IS NULL OR who = ?) AND (? IS NULL OR subject = ?) AND (? IS NULL OR id < ?) \
             ORDER BY id DESC LIMIT ?",
        );
        let rows = rows
            .bind(filter.who.as_deref())
            .bind(filter.who.as_deref())
            .bind(filter.subject.as_deref())
            .bind(filter.subject.as_deref())
            .bind(filter.before)
            .bind(filter.before)
            .bind(i64::from(filter.limit));
        rows.fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// Forgets deeds from before a time, tokens that were over or taken back by then, and answers that were kept long
    /// enough.
    ///
    /// # Errors
    /// When the database cannot be written to.
    pub async fn purge_deeds(&self, before: DateTime<Utc>) -> Result<u64> {
        let before = before.timestamp_millis();
        self.write(move |db| {
            Box::pin(async move {
                let old = sqlx::query("DELETE FROM answers WHERE expires_at < ?").bind(now());
                old.execute(&mut *db).await?;
                let dead = sqlx::query("DELETE FROM tokens WHERE COALESCE(revoked_at, expires_at) < ?");
                dead.bind(before).execute(&mut *db).await?;
                let gone = sqlx::query("DELETE FROM audit WHERE at < ?").bind(before).execute(db).await?;
                Ok(gone.rows_affected())
            })
        })
        .await
    }

    /// Begins a request that carries a key of its caller's, unless it came before. Of the caller no more than `most` are kept,
    /// where that is said.
    ///
    /// # Errors
    /// [`Kind::Refused`] when the caller has too many of them.
    pub async fn begin_answer(
        &self,
        who: &str,
        key: &str,
        digest: &str,
        most: Option<u32>,
    ) -> Result<Before> {
        let (who, key, digest) = (who.to_owned(), key.to_owned(), digest.to_owned());
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let at = now();
                    let old =
                        sqlx::query("DELETE FROM answers WHERE who = ? AND request = ? AND expires_at < ?");
                    old.bind(&who).bind(&key).bind(at).execute(&mut *db).await?;
                    let row = sqlx::query("SELECT * FROM answers WHERE who = ? AND request = ?")
                        .bind(&who)
                        .bind(&key);
                    if let Some(row) = row.fetch_optional(&mut *db).await? {
                        if row.try_get::<&str, _>("digest")? != digest {
                            return Ok(Before::Other);
                        }
                        let Some(status) = number_or_null(&row, "status")? else { return Ok(Before::Begun) };
                        let body: Option<String> = row.try_get("body")?;
                        return Ok(Before::Answered(status, body.unwrap_or_default()));
                    }
                    if let Some(most) = most {
                        let count = sqlx::query_scalar(
                            "SELECT COUNT(*) FROM answers WHERE who = ? AND expires_at >= ?",
                        );
                        let count: i64 = count.bind(&who).bind(at).fetch_one(&mut *db).await?;
                        if count >= i64::from(most) {
                            let message = format!(
                                "{who} has used {most} idempotency keys within a day; leave them out"
                            );
                            return Err(Error::new(Kind::Refused, message));
                        }
                    }
                    let row = sqlx::query(
                        "INSERT INTO answers (who, request, digest, expires_at) VALUES (?, ?, ?, ?)",
                    );
                    row.bind(&who).bind(&key).bind(&digest).bind(at + KEPT).execute(db).await?;
                    Ok(Before::Never)
                })
            },
            |value| value,
        )
        .await
    }

    /// Keeps what was answered; `None` says that nothing was done and that it may be tried again under its key. A request
    /// that this is never called for stays begun.
    ///
    /// # Errors
    /// When the database cannot be written to.
    pub async fn end_answer(&self, who: &str, key: &str, answer: Option<(u16, String)>) -> Result<()> {
        let (who, key) = (who.to_owned(), key.to_owned());
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    match answer {
                        Some((status, body)) => {
                            let set = sqlx::query(
                                "UPDATE answers SET status = ?, body = ? WHERE who = ? AND request = ?",
                            );
                            set.bind(i64::from(status)).bind(body).bind(who).bind(key).execute(db).await?;
                        }
                        None => {
                            let gone = sqlx::query("DELETE FROM answers WHERE who = ? AND request = ?");
                            gone.bind(who).bind(key).execute(db).await?;
                        }
                    }
                    Ok(())
                })
            },
            |value| value,
        )
        .await
    }
}

/// That a caller's key can be one.
///
/// # Errors
/// [`Kind::Refused`], with what it may be.
pub fn check_key(key: &str) -> Result<()> {
    let plain = (1..=128).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    if plain {
        return Ok(());
    }
    let message = "Idempotency-Key: use 1 to 128 printable ASCII characters without spaces, such as a UUID";
    Err(Error::new(Kind::Refused, message))
}
