//! Reconcilers: what is looked at again and again, by a timer and when something nudges them.
//!
//! None of them has an input or retries inside: a look that fails is logged and the next one comes. They say what they
//! find (an event, a computer's reason, a finding of `doctor`); all that they do by themselves is to power a computer on
//! again, and that only where `node.restart_stopped` says so, and to take rules of nobody's off NAT hosts (`crate::nat`).

mod library;
pub(crate) mod nodes;
mod power;
pub(crate) mod replicas;

use crate::node::{Node, chain};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How often old rows are looked for.
const PURGE: Duration = Duration::from_secs(3600);
/// How long nobody may look at the library.
const LIBRARY: Duration = Duration::from_secs(3600);
/// A nudge is not answered at once: what was just left may be about to be cleaned up, and several come together.
const SETTLE: Duration = Duration::from_secs(5);

/// What the reconcilers of a node remember.
#[derive(Default)]
pub struct Insight {
    /// Something happened that may have left something behind.
    pub(crate) look_again: Notify,
    orphans: AtomicUsize,
    power: Mutex<power::Memory>,
    /// What the scheduler of reservations remembers.
    pub(crate) lending: crate::lending::Memory,
    /// What is counted as it passes by.
    pub(crate) metrics: crate::metrics::Metrics,
    /// Whether the daemon can do its work.
    pub(crate) health: crate::health::Health,
    /// What jobs under way were promised.
    pub(crate) room: crate::admission::Room,
}

impl Insight {
    /// How many orphans nobody ignores, as the newest look counted.
    pub(crate) fn orphans(&self) -> usize {
        self.orphans.load(Ordering::Relaxed)
    }
    pub(crate) fn see_orphans(&self, count: usize) {
        self.orphans.store(count, Ordering::Relaxed);
    }
    fn power(&self) -> std::sync::MutexGuard<'_, power::Memory> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs all reconcilers of a node until it closes.
pub(crate) async fn run(node: Arc<Node>, closing: CancellationToken) {
    let all = async {
        tokio::join!(
            orphans(&node),
            powers(&node),
            purge(&node),
            library(&node),
            crate::nat::run(&node),
            crate::guacamole::run(&node),
            crate::admission::watch(&node),
            crate::health::watch(&node)
        );
    };
    tokio::select! {
        () = closing.cancelled() => {}
        () = all => {}
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn orphans(node: &Node) {
    let mut ticks = every(node.config.node.upkeep.look);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.insight.look_again.notified() => {
                tokio::time::sleep_until(Instant::now() + SETTLE).await; // why: see SETTLE
            }
        }
        if let Err(refusal) = node.look_for_orphans().await {
            tracing::warn!(error = refusal.message, "nobody could look for orphans");
        }
    }
}

async fn powers(node: &Node) {
    let mut ticks = every(node.config.node.upkeep.look_power);
    loop {
        ticks.tick().await;
        if let Err(refusal) = node.look_at_powers().await {
            tracing::warn!(error = refusal.message, "nobody could look at the computers' power");
        }
    }
}

async fn purge(node: &Node) {
    let mut ticks = every(PURGE);
    loop {
        ticks.tick().await;
        let now = chrono::Utc::now();
        let days = |days: u32| now - chrono::TimeDelta::days(i64::from(days));
        let (history, evidence) =
            (days(node.config.node.upkeep.history_days), days(node.config.node.upkeep.evidence_days));
        if let Err(error) = node.queue.purge_deeds(days(node.config.api.audit_days)).await {
            tracing::warn!(error = chain(&error), "old deeds could not be forgotten");
        }
        match node.queue.purge(history, evidence).await {
            Ok(purged) if purged == vcl_queue::Purged::default() => {}
            Ok(p) => {
                tracing::info!(
                    journals = p.journals,
                    events = p.events,
                    evidence = p.evidence,
                    "old records are forgotten"
                );
            }
            Err(error) => tracing::warn!(error = chain(&error), "old records could not be forgotten"),
        }
    }
}

/// Looks after the library: at the start, every hour, and soon after a job has ended.
async fn library(node: &Node) {
    let mut changes = node.queue.submitted();
    let mut ticks = every(LIBRARY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {} // what is too old becomes so by time alone
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(SETTLE).await; // why: so that one look serves many changes
            }
        }
        changes.borrow_and_update();
        once(node).await;
        // Some of it may have made room.
        node.insight.room.nudged.notify_one();
    }
}

/// One look at the library by each of its reconcilers. What one cannot do is said, and the next goes on.
pub(crate) async fn once(node: &Node) {
    let done = [
        ("shorten chains", library::shorten_chains(node).await),
        ("apply retention", library::apply_retention(node).await),
        ("empty trash", library::empty_trash(node).await),
    ];
    for (what, result) in done {
        if let Err(refusal) = result {
            tracing::warn!(
                what,
                reason = refusal.message,
                "a reconciler could not do its work; it tries again"
            );
        }
    }
}
