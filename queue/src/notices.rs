//! The outbox: what people are to be told by mail and webhook.
//!
//! A notice is written by the transaction that makes true what it tells, so it is there exactly if that is. Sending is
//! somebody else's: a node takes what is due, which keeps other nodes from it for a while, and says what came of it. One that
//! dies while it sends leaves the notice to whoever comes next, itself or another node; it is then told a second time,
//! under the same [`NoticeRow::name`], rather than never.

use crate::database::{Db, DbRow, json, now, parsed, time, to_json};
use crate::engine::number;
use crate::reservations::ReservationRow;
use crate::{Error, Queue, Result};
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::Row;
use std::collections::BTreeMap;
use vcl_types::notices::NoticeKind;

/// How many bytes of one fact are kept. It may quote what a guest has sent.
const FACT: usize = 2 * 1024;
/// How much later a notice is looked at that cannot be read.
const UNREADABLE: TimeDelta = TimeDelta::hours(1);
/// For how long a notice that was tried says that somebody sends them.
const SENDS: TimeDelta = TimeDelta::days(30);

/// What a notice speaks of: texts by name, times in RFC 3339. Never a secret.
pub type Facts = BTreeMap<String, String>;

/// Something that somebody is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNotice {
    /// What.
    pub kind: NoticeKind,
    /// Whom: a user, or the administrators.
    pub to: Option<String>,
    /// The group whose texts it has.
    pub group: Option<String>,
    /// What it speaks of.
    pub facts: Facts,
}

/// A notice in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoticeRow {
    /// Its number.
    pub id: i64,
    /// What it tells.
    pub kind: NoticeKind,
    /// Whom: a user, or the administrators.
    pub to: Option<String>,
    /// The group whose texts it has.
    pub group: Option<String>,
    /// What it speaks of.
    pub facts: Facts,
    /// When it came true.
    pub at: DateTime<Utc>,
    /// How often it was tried before.
    pub tries: u32,
    /// Whether it needs no mail any more.
    pub mailed: bool,
    /// Whether the webhook needs it no more.
    pub hooked: bool,
}

impl NoticeRow {
    /// What names it, the same each time it is sent.
    #[must_use]
    pub fn name(&self) -> String {
        format!("vcld-{}-{}", self.id, self.at.timestamp_millis())
    }
    fn read(row: &DbRow) -> Result<Self> {
        let is = |column| Ok::<_, Error>(row.try_get::<Option<i64>, _>(column)?.is_some());
        Ok(Self {
            id: row.try_get("id")?,
            kind: parsed(row, "kind")?,
            to: row.try_get("recipient")?,
            group: row.try_get("people")?,
            facts: json(row, "facts")?,
            at: time(row.try_get("at")?),
            tries: number(row, "tries")?,
            mailed: is("mailed_at")?,
            hooked: is("hooked_at")?,
        })
    }
}

/// What came of sending a notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sending {
    /// Everybody has it who is to have it.
    Sent,
    /// It is tried again then.
    Again {
        /// When.
        at: DateTime<Utc>,
        /// What went wrong.
        error: String,
    },
    /// It is not tried again.
    GivenUp {
        /// What went wrong the last time.
        error: String,
    },
}

/// How the outbox stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbox {
    /// How many notices are to be sent.
    pub waiting: u64,
    /// Since when the oldest of them is.
    pub oldest: Option<DateTime<Utc>>,
    /// How many were given up, of those that are still kept.
    pub given_up: u64,
    /// What went wrong last, of those that wait or were given up.
    pub error: Option<String>,
}

fn cut(mut text: String) -> String {
    if text.len() > FACT {
        let at = (0..=FACT).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(at);
        text.push('…');
    }
    text
}

/// Writes a notice, inside the transaction that makes it true.
pub(crate) async fn put(db: &mut Db, new: NewNotice) -> Result<()> {
    let facts: Facts = new.facts.into_iter().map(|(name, text)| (name, cut(text))).collect();
    let at = now();
    let insert = sqlx::query(
        "INSERT INTO notices (kind, recipient, people, facts, at, next_at) VALUES (?, ?, ?, ?, ?, ?)",
    );
    insert
        .bind(new.kind.as_str())
        .bind(new.to)
        .bind(new.group)
        .bind(to_json(&facts)?)
        .bind(at)
        .bind(at)
        .execute(db)
        .await?;
    Ok(())
}

/// Facts with these values, without those that there are none of.
pub(crate) fn facts<const N: usize>(all: [(&str, Option<String>); N]) -> Facts {
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Tells the user of a reservation something of it. Seats that are nobody's and loads by an admin's hand have none.
pub(crate) async fn of_reservation(
    db: &mut Db,
    kind: NoticeKind,
    row: &ReservationRow,
    more: impl IntoIterator<Item = (&'static str, String)>,
) -> Result<()> {
    use vcl_types::lending::Purpose;
    if matches!(row.purpose, Purpose::Direct | Purpose::Seat) {
        return Ok(());
    }
    let time = |at: Option<DateTime<Utc>>| at.map(|at| at.to_rfc3339());
    let mut facts = facts([
        ("reservation", Some(row.id.to_string())),
        ("owner", Some(row.owner.clone())),
        ("group", row.group.clone()),
        ("purpose", Some(row.purpose.to_string())),
        ("image", Some(row.image.to_string())),
        ("computer", row.computer.as_ref().map(ToString::to_string)),
        ("start", time(row.start)),
        ("end", time(row.end)),
    ]);
    facts.extend(more.into_iter().map(|(name, value)| (name.to_owned(), value)));
    put(db, NewNotice { kind, to: Some(row.owner.clone()), group: row.group.clone(), facts }).await
}

impl Queue {
    /// Takes notices that are due, the oldest first, at most `limit`. For so long as `hold` nobody else takes them. One that
    /// cannot be read is looked at again an hour later.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn take_notices(&self, sender: &str, hold: TimeDelta, limit: u32) -> Result<Vec<NoticeRow>> {
        // Most looks find nothing, and need not wait for whoever writes.
        let due = sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM notices WHERE next_at <= ?").bind(now());
        if due.fetch_one(self.readers()).await? == 0 {
            return Ok(Vec::new());
        }
        let sender = sender.to_owned();
        self.write(move |db| {
            let sender = sender.clone();
            Box::pin(async move {
                crate::engine::exclusive(&mut *db).await?;
                let at = now();
                let rows =
                    sqlx::query("SELECT * FROM notices WHERE next_at <= ? ORDER BY next_at, id LIMIT ?");
                let mut taken = Vec::new();
                for row in &rows.bind(at).bind(i64::from(limit)).fetch_all(&mut *db).await? {
                    match NoticeRow::read(row) {
                        Ok(row) => taken.push(row),
                        // Another version has written it, perhaps. It is no reason to tell nothing else.
                        Err(e) => {
                            let id: i64 = row.try_get("id")?;
                            tracing::warn!(notice = id, error = %e, "a notice cannot be read; it is looked at later");
                            let later = sqlx::query("UPDATE notices SET next_at = ?, error = ? WHERE id = ?");
                            let later = later.bind(at + UNREADABLE.num_milliseconds());
                            later.bind(cut(format!("it cannot be read: {e}"))).bind(id).execute(&mut *db).await?;
                        }
                    }
                }
                for row in &taken {
                    let take = sqlx::query(
                        "UPDATE notices SET next_at = ?, sender = ?, tries = tries + 1 WHERE id = ?",
                    );
                    let take = take.bind(at + hold.num_milliseconds()).bind(&sender).bind(row.id);
                    take.execute(&mut *db).await?;
                }
                Ok(taken)
            })
        })
        .await
    }

    /// What an earlier life of this node was sending is due at once.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn resume_notices(&self, sender: &str) -> Result<()> {
        let sender = sender.to_owned();
        self.write(move |db| {
            let sender = sender.clone();
            Box::pin(async move {
                let due = sqlx::query(
                    "UPDATE notices SET next_at = ?, sender = NULL WHERE sender = ? AND next_at IS NOT NULL",
                );
                due.bind(now()).bind(sender).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// One channel has it, whatever becomes of the other: it is not told there again.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn notice_reached(&self, id: i64, by_mail: bool) -> Result<()> {
        self.write(move |db| {
            Box::pin(async move {
                let set = sqlx::query(match by_mail {
                    true => "UPDATE notices SET mailed_at = ? WHERE id = ?",
                    false => "UPDATE notices SET hooked_at = ? WHERE id = ?",
                });
                set.bind(now()).bind(id).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// Says what came of sending one that was taken.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn notice_sending(&self, id: i64, outcome: Sending) -> Result<()> {
        let at = now();
        let (next, settled, given_up, error) = match outcome {
            Sending::Sent => (None, Some(at), None, None),
            Sending::Again { at, error } => (Some(at.timestamp_millis()), None, None, Some(error)),
            Sending::GivenUp { error } => (None, Some(at), Some(at), Some(error)),
        };
        let error = error.map(cut);
        self.write(move |db| {
            let error = error.clone();
            Box::pin(async move {
                let set = sqlx::query(
                    "UPDATE notices SET next_at = ?, settled_at = ?, given_up_at = ?, error = ?, sender = NULL WHERE id = ?",
                );
                set.bind(next).bind(settled).bind(given_up).bind(error).bind(id).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// How the outbox stands.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn outbox(&self) -> Result<Outbox> {
        let row = sqlx::query(
            "SELECT COUNT(next_at) AS waiting, MIN(CASE WHEN next_at IS NOT NULL THEN at END) AS oldest, \
             COUNT(given_up_at) AS given_up FROM notices WHERE next_at IS NOT NULL OR given_up_at IS NOT NULL",
        );
        let row = row.fetch_one(self.readers()).await?;
        let error = sqlx::query_scalar::<_, Option<String>>(
            "SELECT error FROM notices WHERE error IS NOT NULL AND (next_at IS NOT NULL OR given_up_at IS NOT NULL) \
             ORDER BY id DESC LIMIT 1",
        );
        let error = error.fetch_optional(self.readers()).await?.flatten();
        Ok(Outbox {
            waiting: number(&row, "waiting")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(time),
            given_up: number(&row, "given_up")?,
            error,
        })
    }

    /// Forgets notices that were settled before a moment.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn forget_notices(&self, settled_before: DateTime<Utc>) -> Result<()> {
        let before = settled_before.timestamp_millis();
        self.write(move |db| {
            Box::pin(async move {
                sqlx::query("DELETE FROM notices WHERE settled_at < ?").bind(before).execute(db).await?;
                Ok(())
            })
        })
        .await
    }

    /// Forgets what came true before a moment and that nobody has tried to send: where no node sends notices, which shows by
    /// none having been tried for a month.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn forget_untold(&self, before: DateTime<Utc>) -> Result<()> {
        let before = before.timestamp_millis();
        self.write(move |db| {
            Box::pin(async move {
                let tried: i64 = sqlx::query_scalar(
                    "SELECT COUNT(*) FROM notices WHERE tries > 0 AND (settled_at > ? OR next_at > ?)",
                )
                .bind(now() - SENDS.num_milliseconds())
                .bind(now() - SENDS.num_milliseconds())
                .fetch_one(&mut *db)
                .await?;
                if tried > 0 {
                    return Ok(());
                }
                let old =
                    sqlx::query("DELETE FROM notices WHERE at < ? AND tries = 0 AND next_at IS NOT NULL");
                old.bind(before).execute(db).await?;
                Ok(())
            })
        })
        .await
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    async fn queue() -> (Queue, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        (Queue::open(dir.path().join("vcl.db")).await.unwrap(), dir)
    }
    fn new(owner: &str) -> NewNotice {
        let facts = facts([("owner", Some(owner.to_owned())), ("group", None)]);
        NewNotice { kind: NoticeKind::Ready, to: Some(owner.into()), group: None, facts }
    }

    async fn tell(queue: &Queue, new: NewNotice) -> Result<()> {
        queue.write(move |db| Box::pin(put(db, new.clone()))).await
    }

    #[tokio::test]
    async fn a_notice_is_one_nodes_until_it_is_settled_or_its_time_is_over() {
        let (queue, _dir) = queue().await;
        for owner in ["a", "b", "c"] {
            tell(&queue, new(owner)).await.unwrap();
        }
        let hold = TimeDelta::minutes(1);
        let ours = queue.take_notices("n1", hold, 2).await.unwrap();
        let names: Vec<_> = ours.iter().map(|row| row.to.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b"], "the oldest first");
        assert_eq!(ours[0].facts.len(), 1);
        let theirs = queue.take_notices("n2", hold, 9).await.unwrap();
        assert_eq!(theirs.len(), 1);
        assert_eq!(queue.take_notices("n2", hold, 9).await.unwrap(), []);
        // One channel has it; it fails on the other and is due again.
        queue.notice_reached(ours[0].id, true).await.unwrap();
        let again = Sending::Again { at: Utc::now(), error: "away".into() };
        queue.notice_sending(ours[0].id, again).await.unwrap();
        queue.notice_sending(theirs[0].id, Sending::Sent).await.unwrap();
        let outbox = queue.outbox().await.unwrap();
        assert_eq!((outbox.waiting, outbox.given_up, outbox.error.as_deref()), (2, 0, Some("away")));
        assert_eq!(outbox.oldest, Some(ours[0].at));
        // The node dies; in its next life it has what it had, under the same name.
        queue.resume_notices("n1").await.unwrap();
        let back = queue.take_notices("n1", hold, 9).await.unwrap();
        let seen: Vec<_> = back.iter().map(|row| (row.id, row.tries, row.mailed, row.hooked)).collect();
        assert_eq!(seen, [(ours[0].id, 1, true, false), (ours[1].id, 1, false, false)]);
        assert_eq!(back[0].name(), ours[0].name());
        for row in back {
            queue.notice_sending(row.id, Sending::GivenUp { error: "x".repeat(5000) }).await.unwrap();
        }
        let outbox = queue.outbox().await.unwrap();
        assert_eq!((outbox.waiting, outbox.given_up, outbox.oldest), (0, 2, None));
        assert!(outbox.error.unwrap().len() < 2100, "what a server says is bounded");
        queue.forget_notices(Utc::now() + hold).await.unwrap();
        assert_eq!(queue.outbox().await.unwrap(), Outbox::default());
        queue.close().await;
    }

    #[tokio::test]
    async fn where_nobody_sends_what_nobody_tried_is_forgotten() {
        let (queue, _dir) = queue().await;
        let forget = async || queue.forget_untold(Utc::now() + TimeDelta::seconds(1)).await.unwrap();
        tell(&queue, new("untold")).await.unwrap();
        forget().await;
        assert_eq!(queue.outbox().await.unwrap(), Outbox::default());
        // Another node sends, and has been away since.
        tell(&queue, new("told")).await.unwrap();
        let told = queue.take_notices("n1", TimeDelta::zero(), 9).await.unwrap();
        queue.notice_sending(told[0].id, Sending::Sent).await.unwrap();
        tell(&queue, new("untold")).await.unwrap();
        forget().await;
        assert_eq!(queue.outbox().await.unwrap().waiting, 1);
        queue.close().await;
    }

    #[tokio::test]
    async fn a_notice_that_cannot_be_read_keeps_none_from_being_sent() {
        let (queue, _dir) = queue().await;
        for owner in ["a", "b", "c"] {
            tell(&queue, new(owner)).await.unwrap();
        }
        let spoil = queue.write(|db| {
            Box::pin(async move {
                sqlx::query("UPDATE notices SET kind = 'of-tomorrow' WHERE recipient = 'a'")
                    .execute(&mut *db)
                    .await?;
                sqlx::query("UPDATE notices SET facts = '{' WHERE recipient = 'b'").execute(db).await?;
                Ok(())
            })
        });
        spoil.await.unwrap();
        let hold = TimeDelta::minutes(1);
        let mut taken = queue.take_notices("n1", hold, 2).await.unwrap();
        taken.extend(queue.take_notices("n1", hold, 2).await.unwrap());
        assert_eq!(taken.iter().map(|row| row.to.as_deref().unwrap()).collect::<Vec<_>>(), ["c"]);
        let outbox = queue.outbox().await.unwrap();
        assert_eq!(outbox.waiting, 3);
        assert!(outbox.error.unwrap().contains("it cannot be read"));
        queue.close().await;
    }
}
