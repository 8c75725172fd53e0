//! The one place that says what time it is for reservations. A test turns it.

use chrono::{DateTime, Utc};
use tokio::sync::watch;

/// What time it is.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<watch::Sender<DateTime<Utc>>>);

impl Clock {
    /// One that stands still until it is turned.
    #[must_use]
    pub fn turned(at: DateTime<Utc>) -> Self {
        Self(Some(watch::Sender::new(at)))
    }
    /// Now.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.0.as_ref().map_or_else(Utc::now, |turned| *turned.borrow())
    }
    /// Turns one that stands still. The machine's own clock is nobody's to turn.
    pub fn turn(&self, to: DateTime<Utc>) {
        if let Some(turned) = &self.0 {
            turned.send_replace(to);
        }
    }
    /// Waits until it is that time.
    pub(crate) async fn until(&self, at: DateTime<Utc>) {
        match &self.0 {
            Some(turned) => {
                // It ends only with the clock.
                let _ = turned.subscribe().wait_for(|now| *now >= at).await;
            }
            None => {
                let left = (at - Utc::now()).to_std().unwrap_or_default();
                tokio::time::sleep(left).await;
            }
        }
    }
}
