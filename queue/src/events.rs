//! Events: what happened, kept for a while, and the stream of it for whoever watches.

use crate::database::{Db, DbRow, now, parsed_or_null, time};
use crate::{Queue, Result, together};
use sqlx::Row;
use std::sync::PoisonError;
use tokio::sync::broadcast;
use vcl_types::api::{EventView, Progress, StreamItem};
use vcl_types::{ComputerName, JobId};

/// How many of the newest events are kept, and how many more there may be for a while.
const KEPT: i64 = 100_000;
const MORE: i64 = 1_000;
/// How many bytes of a message are kept. It may quote what a guest has sent.
const MESSAGE: usize = 8 * 1024;

fn read(row: &DbRow) -> Result<EventView> {
    Ok(EventView {
        id: row.try_get("id")?,
        at: time(row.try_get("at")?),
        kind: row.try_get("kind")?,
        job: row.try_get::<Option<i64>, _>("job_id")?.map(JobId),
        computer: parsed_or_null(row, "computer")?,
        message: row.try_get("message")?,
    })
}

impl Queue {
    /// Keeps an event and tells everybody who watches. `kind` is a word for programs, `message` a sentence for people;
    /// what is longer than 8 KiB of it is cut off.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn event(
        &self,
        kind: &str,
        job: Option<JobId>,
        computer: Option<&ComputerName>,
        message: &str,
    ) -> Result<EventView> {
        let event = new(kind, job, computer, message);
        let queue = self.clone();
        let tell = move |event: EventView| {
            queue.kept(&event, KEPT);
            event
        };
        self.0.writer.event(event, tell).await
    }

    /// As [`event`](Self::event), without waiting for anything: for callers that must not block. An event that cannot
    /// be kept is logged.
    pub fn post_event(&self, kind: &str, job: Option<JobId>, computer: Option<&ComputerName>, message: &str) {
        let event = new(kind, job, computer, message);
        let (queue, logged) = (self.clone(), event.clone());
        let posted = self.0.writer.post_event(event.clone(), move |kept| match kept {
            Ok(event) => queue.kept(&event, KEPT),
            Err(error) => not_kept(&event, &error),
        });
        if let Err(error) = posted {
            not_kept(&logged, &error);
        }
    }

    /// Tells everybody who watches of an event that is kept, and now and then has all but the newest `most` forgotten.
    fn kept(&self, event: &EventView, most: i64) {
        self.tell(event);
        let id = event.id;
        if id % MORE == 0
            && let Err(error) = self.post_one(move |db| Box::pin(forget(db, id, most)), |()| {})
        {
            tracing::debug!(error = %error, "the oldest events are forgotten later");
        }
    }

    /// Events after the one of this number, oldest first, at most `limit`; 0 is before the first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events(&self, after: i64, limit: u32) -> Result<Vec<EventView>> {
        let rows = sqlx::query("SELECT * FROM events WHERE id > ? ORDER BY id LIMIT ?");
        rows.bind(after).bind(i64::from(limit)).fetch_all(self.readers()).await?.iter().map(read).collect()
    }

    /// The newest events, the oldest of them first, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_events(&self, limit: u32) -> Result<Vec<EventView>> {
        let rows = sqlx::query("SELECT * FROM events ORDER BY id DESC LIMIT ?");
        rows.bind(i64::from(limit)).fetch_all(self.readers()).await?.iter().rev().map(read).collect()
    }

    /// A job's events, the oldest of them first, at most `limit`: those after the one of this number, or the newest.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn events_of(&self, job: JobId, after: Option<i64>, limit: u32) -> Result<Vec<EventView>> {
        let rows = match after {
            Some(after) => {
                let rows =
                    sqlx::query("SELECT * FROM events WHERE job_id = ? AND id > ? ORDER BY id LIMIT ?");
                rows.bind(job.0).bind(after).bind(i64::from(limit)).fetch_all(self.readers()).await?
            }
            None => {
                let rows = sqlx::query("SELECT * FROM events WHERE job_id = ? ORDER BY id DESC LIMIT ?");
                let mut rows = rows.bind(job.0).bind(i64::from(limit)).fetch_all(self.readers()).await?;
                rows.reverse();
                rows
            }
        };
        rows.iter().map(read).collect()
    }

    /// What happens from now on. A subscriber that is more than 1024 items behind misses some, and its channel says so.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<StreamItem> {
        self.0.stream.subscribe()
    }

    /// Tells everybody who watches that a job reads differently now. Nothing of it is kept.
    pub fn changed(&self, job: JobId) {
        let _ = self.0.stream.send(StreamItem::Changed { job });
    }

    /// Tells everybody who watches how far a step is, in bytes. Nothing of it is kept.
    pub fn progress(&self, job: JobId, step: &str, done: u64, total: u64) {
        let progress = Progress { done, total };
        let mut all = self.0.progress.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(job).or_default().insert(step.to_owned(), progress);
        drop(all);
        let _ = self.0.stream.send(StreamItem::Progress { job, step: step.to_owned(), progress });
    }
}

fn not_kept(event: &EventView, error: &crate::Error) {
    tracing::warn!(kind = event.kind, message = event.message, error = %error, "an event was not kept");
}

/// An event that has no number yet.
fn new(kind: &str, job: Option<JobId>, computer: Option<&ComputerName>, message: &str) -> EventView {
    let mut message = message.to_owned();
    if message.len() > MESSAGE {
        let cut = (0..=MESSAGE).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(cut);
        message.push('…');
    }
    let at = time(now());
    EventView { id: 0, at, kind: kind.chars().take(64).collect(), job, computer: computer.cloned(), message }
}

/// Keeps an event with what a transaction changes. Those who watch find it when they look next.
pub(crate) async fn note(
    db: &mut Db,
    kind: &str,
    job: Option<JobId>,
    computer: Option<&ComputerName>,
    message: &str,
) -> Result<()> {
    together::event(db, &mut new(kind, job, computer, message)).await
}

/// Forgets all but the newest `kept` up to the event of this number.
async fn forget(db: &mut Db, id: i64, kept: i64) -> Result<()> {
    sqlx::query("DELETE FROM events WHERE id <= ?").bind(id - kept).execute(db).await?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_are_forgotten_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path().join("vcl.db")).await.unwrap();
        let write = async |n: i64| {
            for _ in 0..n {
                let told = queue.clone();
                let event = new("noted", None, None, "x");
                let after = move |event: EventView| told.kept(&event, 500);
                queue.0.writer.event(event, after).await.unwrap();
            }
            // What the last one has posted comes before this.
            for _ in 0..2 {
                queue.write(|_| Box::pin(async { Ok(()) })).await.unwrap();
            }
        };
        write(MORE - 1).await;
        assert_eq!(queue.events(0, 9999).await.unwrap().len(), 999);
        write(1).await;
        let left = queue.events(0, 9999).await.unwrap();
        assert_eq!((left.len(), left[0].id), (500, 501));
        write(MORE).await;
        assert_eq!(queue.events(0, 9999).await.unwrap()[0].id, 1501, "numbers go on");
        queue.close().await;
    }
}
