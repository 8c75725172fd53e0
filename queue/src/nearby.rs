//! What other nodes do to the same database. Within a process whoever waits is told at once; of what another process
//! has written, a look every half second tells, and only while somebody here waits for something.
//!
//! The look is at `writers`: each process's row there has the number of its newest batch. Where one has moved, workers
//! are told that a claim might find something, those who wait for a job to be called off look again, and watchers get
//! the events that are new, and word that the jobs which run read differently. How far a step is stays within its process.
//! On SQLite there are no other processes, and none of this runs.

use crate::database::now;
use crate::{Queue, Result};
use futures::FutureExt;
use sqlx::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use vcl_types::JobId;
use vcl_types::api::{EventView, StreamItem};

/// How long another node's doing may stay unseen.
const LOOK: Duration = Duration::from_millis(500);
/// A number that another node was given and has not committed by then is taken for one that it never will.
const GAP: Duration = Duration::from_secs(60);
/// How many events one look takes.
const EVENTS: u32 = 1000;

/// What is known of other nodes' doings.
#[derive(Default)]
pub(crate) struct Nearby {
    events: Mutex<Told>,
    stop: Arc<Notify>,
}

/// Which events watchers were told of. Numbers are given out before they are committed, so a smaller one may appear
/// after a greater one.
#[derive(Default)]
struct Told {
    /// All up to this one.
    floor: i64,
    /// And these above it.
    above: BTreeSet<i64>,
    /// Since when the floor's next number is missing.
    gap: Option<Instant>,
}

impl Told {
    /// Whether it is new.
    fn tell(&mut self, id: i64) -> bool {
        id > self.floor && self.above.insert(id)
    }
    /// Raises the floor over what is told of, and over numbers that were missing for too long.
    fn settle(&mut self) {
        loop {
            while self.above.remove(&(self.floor + 1)) {
                self.floor += 1;
                self.gap = None;
            }
            let Some(next) = self.above.first() else {
                self.gap = None;
                return;
            };
            if self.gap.get_or_insert_with(Instant::now).elapsed() < GAP {
                return;
            }
            self.floor = next - 1;
        }
    }
}

impl Nearby {
    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }
}

impl Queue {
    /// Tells watchers of an event, once.
    pub(crate) fn tell(&self, event: &EventView) {
        let mut told = self.0.nearby.events.lock().unwrap_or_else(PoisonError::into_inner);
        // Where nobody else writes there is nothing to be told of twice.
        if self.engine() == crate::Engine::Sqlite || told.tell(event.id) {
            let _ = self.0.stream.send(StreamItem::Event(event.clone()));
        }
    }

    /// Starts the task that looks; it ends with the last handle, or when the queue is closed.
    pub(crate) fn watch_others(&self, writer: i64) {
        let weak = Arc::downgrade(&self.0);
        let stop = self.0.nearby.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.notified() => {}
                () = watch(weak, writer) => {}
            }
        });
    }

    /// Begins to tell of events after the newest one.
    async fn first_look(&self) -> Result<()> {
        let newest: Option<i64> = self
            .read(|db| {
                async move { Ok(sqlx::query_scalar("SELECT MAX(id) FROM events").fetch_one(db).await?) }
                    .boxed()
            })
            .await?;
        let mut told = self.0.nearby.events.lock().unwrap_or_else(PoisonError::into_inner);
        told.floor = told.floor.max(newest.unwrap_or(0));
        Ok(())
    }

    /// Whether another process has written since `seen`.
    async fn others_moved(&self, writer: i64, seen: &mut BTreeMap<i64, i64>) -> Result<bool> {
        let rows = sqlx::query("SELECT id, batch FROM writers WHERE id <> ?").bind(writer);
        let rows = rows.fetch_all(self.readers()).await?;
        let newest: BTreeMap<i64, i64> = rows
            .iter()
            .map(|row| Ok((row.try_get("id")?, row.try_get("batch")?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let moved = newest != *seen;
        *seen = newest;
        Ok(moved)
    }

    async fn look(&self, running: &mut BTreeSet<i64>) -> Result<()> {
        self.wake();
        self.0.cancelled.send_modify(|n| *n = n.wrapping_add(1));
        loop {
            let floor = self.0.nearby.events.lock().unwrap_or_else(PoisonError::into_inner).floor;
            let events = self.events(floor, EVENTS).await?;
            for event in &events {
                self.tell(event);
            }
            let mut told = self.0.nearby.events.lock().unwrap_or_else(PoisonError::into_inner);
            told.settle();
            if events.len() < EVENTS as usize || told.floor == floor {
                break;
            }
        }
        if self.0.stream.receiver_count() > 0 {
            let now: Vec<i64> = sqlx::query_scalar("SELECT id FROM jobs WHERE state = 'running'")
                .fetch_all(self.readers())
                .await?;
            let now: BTreeSet<i64> = now.into_iter().collect();
            for job in running.union(&now) {
                self.changed(JobId(*job));
            }
            *running = now;
        }
        Ok(())
    }
}

async fn watch(queue: Weak<crate::database::Inner>, writer: i64) {
    let mut seen = BTreeMap::new();
    let mut running = BTreeSet::new();
    let mut begun = false;
    let mut ticks = tokio::time::interval(LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(queue) = queue.upgrade().map(Queue) else { return };
        let looked = async {
            if !begun {
                queue.first_look().await?;
                begun = true;
            }
            let watched = [
                queue.0.submitted.receiver_count(),
                queue.0.cancelled.receiver_count(),
                queue.0.stream.receiver_count(),
            ];
            if watched.iter().any(|n| *n > 0) && queue.others_moved(writer, &mut seen).await? {
                queue.look(&mut running).await?;
            }
            Ok::<_, crate::Error>(())
        };
        if let Err(error) = looked.await {
            // The writer says it louder; the next look finds what this one did not.
            tracing::debug!(at = now(), error = %error, "other nodes cannot be looked at");
            seen.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_smaller_number_that_comes_late_is_told_and_one_that_never_comes_is_passed_over() {
        let mut told = Told { floor: 10, ..Told::default() };
        assert!(told.tell(12) && !told.tell(12) && !told.tell(10));
        told.settle();
        assert_eq!(told.floor, 10);
        assert!(told.tell(11));
        told.settle();
        assert_eq!((told.floor, told.above.len()), (12, 0));
        assert!(told.tell(15));
        told.settle();
        tokio::time::advance(GAP).await;
        told.settle();
        assert_eq!(told.floor, 15);
        assert!(!told.tell(13));
    }
}
