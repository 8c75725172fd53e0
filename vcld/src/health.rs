//! Whether the daemon lives, and whether it can do its work.

use crate::node::Node;
use crate::reconcile::Insight;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use vcl_types::BackendName;
use vcl_types::api::Readiness;

/// How long the database may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How often backends are asked whether they answer, and how long they may take.
const ASK: Duration = Duration::from_secs(60);
const REACH: Duration = Duration::from_secs(30);

/// What is known of the daemon's state.
#[derive(Debug, Default)]
pub(crate) struct Health {
    recovered: AtomicBool,
    stopping: AtomicBool,
    backends: Mutex<BTreeMap<BackendName, bool>>,
}

impl Insight {
    /// What an earlier life left is found, and jobs are claimed from now on.
    pub(crate) fn see_recovered(&self) {
        self.health.recovered.store(true, Ordering::Relaxed);
    }
    /// The daemon was asked to stop.
    pub(crate) fn see_stopping(&self) {
        self.health.stopping.store(true, Ordering::Relaxed);
    }
    /// A backend was asked.
    pub(crate) fn see_backend(&self, name: &BackendName, answers: bool) {
        let mut all = self.health.backends.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(name.clone(), answers);
    }
    /// Which backends answered when they were last asked.
    pub(crate) fn backends_up(&self) -> BTreeMap<BackendName, bool> {
        self.health.backends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Node {
    /// Whether the daemon can do its work, and if not, why. It is told to anybody, so it names no thing of the site.
    pub async fn readiness(&self) -> Readiness {
        let health = &self.insight.health;
        let mut reasons = Vec::new();
        if !health.recovered.load(Ordering::Relaxed) {
            reasons.push("it still looks at what an earlier life left");
        }
        if health.stopping.load(Ordering::Relaxed) {
            reasons.push("it was asked to stop");
        }
        let asked = self.insight.backends_up();
        if self.backends.keys().any(|name| !asked.contains_key(name)) {
            reasons.push("not all backends have been asked yet");
        }
        let root = self.library.root();
        if rustix::fs::access(root, rustix::fs::Access::WRITE_OK).is_err() {
            reasons.push("the library cannot be written to");
        }
        match tokio::time::timeout(ANSWER, self.queue.computer_counts()).await {
            Ok(Ok(_)) => {}
            _ => reasons.push("the database does not answer"),
        }
        Readiness { ready: reasons.is_empty(), reasons: reasons.into_iter().map(str::to_owned).collect() }
    }
}

/// Asks backends now and then whether they answer.
pub(crate) async fn watch(node: &Arc<Node>) {
    let mut ticks = tokio::time::interval(ASK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asking = node.backends.iter().map(async |(name, backend)| {
            let answer = tokio::time::timeout(REACH, backend.version()).await;
            node.insight.see_backend(name, matches!(answer, Ok(Ok(_))));
        });
        futures::future::join_all(asking).await;
    }
}
