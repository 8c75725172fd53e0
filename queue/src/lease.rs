//! Leases by one's own clock.
//!
//! Clocks of several machines are never compared. The holder counts from the moment at which its last successful renewal
//! *began*, and stops its hands a margin before its lease is over; an observer counts from the moment at which it *saw*
//! the beat change, and waits a margin longer than the lease. So whoever is given up has stopped by its own clock, as long
//! as both clocks run at about the same speed. The clock is `CLOCK_BOOTTIME`: it goes on while the machine sleeps.
//!
//! A claim's lease is the lease of its node's life: it is renewed once a node rather than once a job, and ten thousand jobs
//! cost one row. What a claim has of its own is its fencing token, which every write in the job's name carries.

use crate::{Error, Kind, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The shortest lease that is given.
pub const SHORTEST_LEASE: Duration = Duration::from_secs(3);

/// A moment of this machine's `CLOCK_BOOTTIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = Duration::from_secs(now.tv_sec.unsigned_abs());
        let whole = seconds + Duration::from_nanos(now.tv_nsec.unsigned_abs());
        Self(u64::try_from(whole.as_millis()).unwrap_or(u64::MAX))
    }
    /// So much later.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
    }
    /// How long it is from `earlier` to this; nothing when that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// How long before its end the holder stops: a fifth.
#[must_use]
pub fn own_end(lease: Duration) -> Duration {
    lease - lease / 5
}

/// How long an observer waits for a change of the beat before it gives a life up: a third longer than the lease.
#[must_use]
pub fn given_up_after(lease: Duration) -> Duration {
    lease + lease / 3
}

/// The lease of one life of a node, as its holder knows it. Once it was found lost it stays lost.
#[derive(Debug)]
pub struct Lease {
    node: String,
    life: i64,
    span: Duration,
    good_until: AtomicU64,
    lost: watch::Sender<bool>,
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        (&self.node, self.life) == (&other.node, other.life)
    }
}

impl Lease {
    /// One whose first renewal began at that moment.
    pub(crate) fn new(node: &str, life: i64, span: Duration, begun: Moment) -> Self {
        let good_until = AtomicU64::new(begun.after(own_end(span)).0);
        Self { node: node.to_owned(), life, span, good_until, lost: watch::Sender::new(false) }
    }
    /// Which life of the node it is.
    #[must_use]
    pub fn life(&self) -> i64 {
        self.life
    }
    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }
    /// How long it is given for.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.span
    }
    /// How long it is good if nothing renews it.
    #[must_use]
    pub fn left(&self) -> Duration {
        Moment(self.good_until.load(Ordering::SeqCst)).since(Moment::now())
    }
    /// Whether something may be done in its name; the clock is looked at, nothing else.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`], from the first time on that it was.
    pub fn check(&self) -> Result<()> {
        if *self.lost.borrow() {
            return Err(self.error());
        }
        if self.left().is_zero() {
            self.lose();
            return Err(self.error());
        }
        Ok(())
    }
    /// Waits until somebody has found it lost.
    pub async fn lost(&self) {
        let mut lost = self.lost.subscribe();
        // The sender lives as long as `self`.
        let _ = lost.wait_for(|lost| *lost).await;
    }
    /// From here on nothing is done in its name.
    pub fn lose(&self) {
        self.lost.send_replace(true);
    }
    pub(crate) fn renewed(&self, begun: Moment) {
        self.good_until.fetch_max(begun.after(own_end(self.span)).0, Ordering::SeqCst);
    }
    fn error(&self) -> Error {
        let (node, life) = (&self.node, self.life);
        Error::new(Kind::LeaseLost, format!("the lease of node {node} (life {life}) is over"))
    }
}

/// What an observer has seen of other nodes' beats.
#[derive(Debug, Default)]
pub struct Observer {
    seen: HashMap<String, (i64, i64, Moment)>,
    changes: HashMap<String, u64>,
}

impl Observer {
    /// Looks at a node's life and beat, and answers for how long it has seen them unchanged.
    pub fn look(&mut self, node: &str, life: i64, beat: i64, now: Moment) -> Duration {
        match self.seen.get(node) {
            Some((l, b, since)) if (*l, *b) == (life, beat) => now.since(*since),
            _ => {
                if self.seen.insert(node.to_owned(), (life, beat, now)).is_some() {
                    *self.changes.entry(node.to_owned()).or_default() += 1;
                }
                Duration::ZERO
            }
        }
    }
    /// How often it has seen a node's life or beat change.
    #[must_use]
    pub fn changes(&self, node: &str) -> u64 {
        self.changes.get(node).copied().unwrap_or(0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(15);

    #[test]
    fn a_lease_is_good_from_the_beginning_of_its_renewal_and_lost_for_good() {
        let long_ago = Moment(Moment::now().0 - 20_000);
        let lease = Lease::new("n", 1, SPAN, Moment::now());
        lease.check().unwrap();
        assert!(lease.left() <= own_end(SPAN));
        lease.renewed(long_ago);
        lease.check().unwrap();
        let late = Lease::new("n", 1, SPAN, long_ago);
        assert_eq!(late.check().unwrap_err().kind, Kind::LeaseLost);
        late.renewed(Moment::now());
        assert_eq!(late.check().unwrap_err().kind, Kind::LeaseLost, "whoever was told to stop has been told");
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_a_check_finds_it_lost() {
        let lease = Lease::new("n", 1, SPAN, Moment(0));
        assert!(lease.check().is_err());
        lease.lost().await;
    }

    /// For every way in which renewals, sights and the two clocks' beginnings may fall: when the observer gives the life
    /// up, the holder has stopped.
    #[test]
    fn who_is_given_up_has_stopped() {
        let (own, given_up) = (own_end(SPAN).as_millis(), given_up_after(SPAN).as_millis());
        for sent in (0..30_000_u128).step_by(500) {
            for on_the_way in [0, 1000, 20_000] {
                // The renewal began at `sent`, took effect `on_the_way` later and was seen after that at the earliest.
                let stops = sent + own;
                let buried = sent + on_the_way + given_up;
                assert!(stops < buried);
            }
        }
    }

    #[test]
    fn an_observer_counts_from_when_it_saw_a_change() {
        let mut observer = Observer::default();
        let at = |s: u64| Moment(s * 1000);
        assert_eq!(observer.look("n", 1, 7, at(100)), Duration::ZERO);
        assert_eq!(observer.look("n", 1, 7, at(110)), Duration::from_secs(10));
        assert_eq!(observer.look("n", 1, 8, at(111)), Duration::ZERO);
        assert_eq!(observer.look("n", 2, 8, at(120)), Duration::ZERO, "a new life is a change");
        assert_eq!(observer.look("n", 2, 8, at(190)), Duration::from_secs(70));
    }
}
