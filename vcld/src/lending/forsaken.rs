//! Going on with reservations whose job ended without what it was for.

use super::Memory;
use crate::node::{Node, Refusal, chain};
use chrono::{DateTime, TimeDelta, Utc};
use std::sync::PoisonError;
use vcl_queue::TakenUp;
use vcl_types::ReservationId;

/// How long one is left alone after it was taken up, so that what cannot succeed does not keep anybody busy.
const AGAIN: TimeDelta = TimeDelta::minutes(2);

impl Memory {
    /// Whether it is time to take the reservation up, which counts as done then.
    fn take_up(&self, id: ReservationId, now: DateTime<Utc>) -> bool {
        let mut taken = self.taken_up.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|_, at| *at + AGAIN > now);
        if taken.contains_key(&id) {
            return false;
        }
        taken.insert(id, now);
        true
    }
}

impl Node {
    /// Goes on with each reservation that waits for a job that is over. Whether there was one.
    ///
    /// # Errors
    /// The database does not answer.
    pub(super) async fn take_up_forsaken(&self, now: DateTime<Utc>) -> Result<bool, Refusal> {
        let mut any = false;
        for (id, left_by) in self.queue.forsaken().await? {
            if !self.insight.lending.take_up(id, now) {
                continue;
            }
            let (job, told) = match self.queue.take_up(id, left_by, now).await {
                Ok(TakenUp::Nothing) => continue,
                Ok(TakenUp::Waits) => (left_by, "it goes on without that computer".to_owned()),
                Ok(TakenUp::Kept) => (left_by, "its computer is as it was".to_owned()),
                Ok(TakenUp::Over) => {
                    (left_by, "it is over; its computer stays out of service as it is".to_owned())
                }
                Ok(TakenUp::GivenUp) => {
                    (left_by, "capturing it is given up; its computer is in maintenance as it is".to_owned())
                }
                Ok(TakenUp::Again(job)) => (job, format!("job {job} does it again")),
                Err(e) => {
                    tracing::warn!(reservation = id.0, error = chain(&e), "it is not taken up yet");
                    continue;
                }
            };
            any = true;
            let message = format!("job {left_by} ended without reservation {id}: {told}");
            self.queue.post_event("reservation-taken-up", Some(job), None, &message);
        }
        Ok(any)
    }
}
