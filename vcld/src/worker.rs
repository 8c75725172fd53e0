//! The worker: lives as a node, claims jobs and runs each in a task of its own.
//!
//! A life begins when the node has joined and ends when the daemon stops or the node's lease is lost. In between the
//! worker claims whatever there is room for: a submit and the end of a job wake it, and where other nodes share the
//! database it looks every few seconds too. It owns the tasks: they are counted, told to stop, and waited for. One task
//! for the whole life listens for jobs that are called off; a job's own task does nothing but run it.
//!
//! When the lease is lost, all jobs are told to stop: another node may have them by now. Only when the last of them has
//! stopped the node joins again, as its next life. Hands that do not stop in time are stopped by ending the process.

mod one;

use crate::node::Node;
use crate::reconcile;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use vcl_queue::{ClaimLimits, Kind, Membership, given_up_after, own_end};
use vcl_types::JobId;

/// How many jobs are claimed in one go.
const AT_ONCE: u32 = 64;
/// How often a node looks for what other nodes have submitted or called off.
const LOOK: Duration = Duration::from_secs(2);
/// How long jobs may take to stop when the lease is lost and nobody else can have them. Longer than a step may take to be
/// told stuck.
const HANDS: Duration = Duration::from_secs(90);
/// The same where others wait for them with a short lease: what a busy machine needs to stop at all.
const HANDS_AT_LEAST: Duration = Duration::from_secs(5);

/// How the worker is told to stop: first to begin nothing new, then to stop what is under way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    pub(crate) drain: CancellationToken,
    pub(crate) now: CancellationToken,
}

/// One life: who claims, and how its jobs are reached.
pub(crate) struct Life {
    node: Arc<Node>,
    member: Membership,
    drain: CancellationToken,
    /// Fires when the daemon stops at once.
    stop: CancellationToken,
    /// Fires when the lease is lost: another node may have the jobs.
    lost: CancellationToken,
    /// The jobs under way, and how each is called off.
    running: Mutex<HashMap<JobId, CancellationToken>>,
}

/// Lives and works until it is told to stop, and returns when the last job has.
///
/// # Errors
/// When jobs do not stop although the lease is lost: the process must end.
pub(crate) async fn work(node: Arc<Node>, first: Membership, stop: Stop) -> anyhow::Result<()> {
    let mut member = first;
    loop {
        let tasks = TaskTracker::new();
        let life = Arc::new(Life {
            node: node.clone(),
            member: member.clone(),
            drain: stop.drain.clone(),
            stop: stop.now.clone(),
            lost: CancellationToken::new(),
            running: Mutex::default(),
        });
        // Of its own, so that nothing the worker does holds it up.
        let keeping = tokio::spawn(keep(life.clone()));
        let listening = tokio::spawn(listen(life.clone()));
        let watching = tokio::spawn(reconcile::nodes::watch(node.clone(), member.clone()));
        claim(&life, &tasks).await;
        tasks.close();
        let lost = member.lease().check().is_err();
        if lost {
            // Others go on with its jobs when they have given it up. By then its hands are still, or the process is gone.
            let span = member.lease().span();
            let hands = match node.alone() {
                true => HANDS,
                false => (given_up_after(span) - own_end(span)).max(HANDS_AT_LEAST),
            };
            let (ended, jobs) = (tokio::time::timeout(hands, tasks.wait()).await, life.count());
            anyhow::ensure!(
                ended.is_ok(),
                "the node's lease is lost and {jobs} jobs do not stop; ending, so that they do"
            );
        } else {
            tasks.wait().await;
            if let Err(error) = member.leave().await {
                tracing::warn!(error = %error, "the node could not say that it leaves; others wait for its lease to end");
            }
        }
        for task in [keeping, listening, watching] {
            task.abort();
        }
        if stop.drain.is_cancelled() {
            return Ok(());
        }
        let Some(next) = join_again(&node, &stop).await else { return Ok(()) };
        member = next;
    }
}

/// Renews the lease; when it is lost, tells all jobs to stop.
async fn keep(life: Arc<Life>) {
    life.member.keep().await;
    if !life.drain.is_cancelled() {
        tracing::error!(jobs = life.count(), "the node's lease is lost: its jobs stop, and it joins again");
    }
    life.lost.cancel();
}

/// Joins as the next life, as soon as the database is there.
async fn join_again(node: &Arc<Node>, stop: &Stop) -> Option<Membership> {
    loop {
        match node.queue.join(&node.as_member()).await {
            Ok((member, resumed)) => {
                tracing::info!(
                    life = member.lease().life(),
                    jobs = resumed.len(),
                    "the node has joined again"
                );
                node.queue.post_event(
                    "node-joined",
                    None,
                    None,
                    &format!("node {} joined again; {} jobs go on", node.name, resumed.len()),
                );
                return Some(member);
            }
            Err(e) => {
                tracing::error!(error = %crate::node::chain(&e), "the node cannot join; trying again in 2 s");
            }
        }
        tokio::select! {
            () = stop.drain.cancelled() => return None,
            () = tokio::time::sleep(Duration::from_secs(2)) => {} // why: a database that is away tells nobody when it is back
        }
    }
}

/// Claims until the daemon stops or the lease is lost.
async fn claim(life: &Arc<Life>, tasks: &TaskTracker) {
    let node = &life.node;
    let limits = limits(node);
    let mut submitted = node.queue.submitted();
    let cancels = node.queue.cancels();
    loop {
        if life.drain.is_cancelled() || life.lost.is_cancelled() {
            return;
        }
        submitted.borrow_and_update();
        let before = *cancels.borrow();
        let wait = match life.member.claim_up_to(AT_ONCE, &limits).await {
            Ok(claims) => {
                let more = claims.len() == AT_ONCE as usize;
                for claim in claims {
                    tasks.spawn(one::run(life.clone(), claim, before));
                }
                if more {
                    continue;
                }
                if node.alone() { Duration::MAX } else { LOOK }
            }
            Err(e) if e.kind == Kind::LeaseLost => {
                life.lost.cancelled().await;
                return;
            }
            Err(e) => {
                tracing::error!(error = %vcl_job::Error::from(e).failure(), "no job can be claimed; trying again in 2 s");
                // A database that is away tells nobody when it is back.
                Duration::from_secs(2)
            }
        };
        tokio::select! {
            () = life.drain.cancelled() => return,
            () = life.lost.cancelled() => return,
            changed = submitted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Tells running jobs that they were called off: at once through this process, and where other nodes share the database
/// when it looks there.
async fn listen(life: Arc<Life>) {
    /// How often a node that is alone looks for what this process has not announced.
    const ALONE: Duration = Duration::from_secs(30);
    let queue = &life.node.queue;
    let mut cancels = queue.cancels();
    let look = if life.node.alone() { ALONE } else { LOOK };
    loop {
        tokio::select! {
            changed = cancels.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(look) => {}
        }
        if life.count() > 0 {
            match queue.called_off(&life.node.name).await {
                Ok(ids) => {
                    let running = life.running.lock().unwrap_or_else(PoisonError::into_inner);
                    ids.iter().filter_map(|id| running.get(id)).for_each(CancellationToken::cancel);
                }
                Err(error) => tracing::debug!(error = %error, "cannot look for jobs that were called off"),
            }
        }
    }
}

impl Life {
    fn count(&self) -> usize {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// How many jobs may run at once: on this node, of each backend instance, and on each host. Two instances on one host
/// together get no more than the larger of their limits.
fn limits(node: &Node) -> ClaimLimits {
    let mut limits = ClaimLimits {
        node_max: u32::try_from(node.config.node.max_jobs).unwrap_or(u32::MAX),
        per_backend: HashMap::new(),
        per_host: HashMap::new(),
    };
    for (name, table) in &node.config.backends {
        let most = u32::try_from(table.max_jobs).unwrap_or(u32::MAX);
        limits.per_backend.insert(name.clone(), most);
        if let Some(host) = node.backends.get(name).and_then(|backend| backend.host()) {
            let of_host = limits.per_host.entry(host).or_default();
            *of_host = most.max(*of_host);
        }
    }
    limits
}
