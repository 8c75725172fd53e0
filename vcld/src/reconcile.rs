//! What the daemon does by itself, again and again, until things are as they should be.
//!
//! Each reconciler is one function that looks and does what is missing; it may be called at any time and as often as
//! one likes. All run when the daemon begins, every hour, and soon after a job has ended.

mod library;

use crate::node::Node;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long nothing may look.
const EVERY: Duration = Duration::from_secs(3600);
/// How long after a change it is looked: many jobs that end at once are one change.
const SETTLE: Duration = Duration::from_secs(5);

/// Runs the reconcilers until told to stop.
pub(crate) async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut changes = node.queue.submitted();
    loop {
        changes.borrow_and_update();
        once(&node).await;
        let nudged = async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(SETTLE).await; // why: so that one look serves many changes
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = nudged => {}
            () = tokio::time::sleep(EVERY) => {} // why: what is too old becomes so by time alone
        }
    }
}

/// One look of each. What one cannot do is said, and the next goes on.
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
