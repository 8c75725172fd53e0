//! Dead nodes: whoever has not renewed its lease for too long is given up, and its jobs go back to the queue.
//!
//! What is too long is counted by this machine's clock, from when the beat was last *seen* to change; no clocks are
//! compared. Giving up is conditional on the beat that was seen, so that a node that renews at the last moment lives on.

use crate::node::Node;
use std::sync::Arc;
use std::time::Duration;
use vcl_queue::{Membership, Moment, Observer, given_up_after};
use vcl_types::state::node::State;

/// Looks after the other nodes, as long as the own lease is good.
pub(crate) async fn watch(node: Arc<Node>, member: Membership) {
    let mut observer = Observer::default();
    let every = member.lease().span() / 3;
    loop {
        tokio::select! {
            () = member.lease().lost() => return,
            () = tokio::time::sleep(every) => {}
        }
        // Whoever is cut off from the database may be the one that is dead: it has seen nothing then, and judges nobody.
        if let Err(error) = look(&node, &member, &mut observer).await {
            observer = Observer::default();
            tracing::debug!(error = %error, "cannot look after the other nodes");
        }
    }
}

async fn look(node: &Node, member: &Membership, observer: &mut Observer) -> vcl_queue::Result<()> {
    let rows = node.queue.nodes().await?;
    // Taken before the rows would count time that a slow answer took as the other's silence.
    let now = Moment::now();
    for row in rows.iter().filter(|row| row.name != node.name && row.state == State::Alive) {
        let silent = observer.look(&row.name, row.life, row.beat, now);
        if silent < given_up_after(row.lease) || member.lease().check().is_err() {
            continue;
        }
        if let Some(jobs) = node.queue.bury(&row.name, row.life, row.beat).await? {
            let (name, count, silent) = (&row.name, jobs.len(), Duration::from_secs(silent.as_secs()));
            tracing::warn!(
                node = name,
                life = row.life,
                jobs = count,
                "a node is dead; its jobs go back to the queue"
            );
            let message = format!(
                "node {name} has not renewed its lease for {silent:?} and was given up by {}; {count} jobs of its go on \
                 where they can",
                node.name
            );
            node.queue.post_event("node-dead", None, None, &message);
            for job in jobs {
                node.queue.post_event("job-given-back", Some(job), None, &format!("node {name} died"));
            }
        }
    }
    Ok(())
}
