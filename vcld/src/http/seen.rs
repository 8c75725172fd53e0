//! What of a list, of events and of the stream somebody may see.

use crate::node::{Node, Refusal};
use crate::rights::{Subject, Tagged, Who};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use vcl_types::api::*;
use vcl_types::people::Verb;
use vcl_types::state::job;
use vcl_types::{JobId, JobRequest};

/// How many jobs are read for one page of those that somebody may see.
const LOOKED_AT: usize = 20_000;
/// How many jobs a stream remembers whether they may be seen.
const REMEMBERED: usize = 4096;
/// How often a stream looks whether its reader still has the rights it began with.
const RECHECK: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Which jobs somebody may see, as far as it was asked.
#[derive(Default)]
pub(super) struct Jobs(HashMap<JobId, bool>);

/// All computers that he may see.
pub(super) async fn computers(node: &Node, who: &Who) -> Result<Vec<ComputerView>, Refusal> {
    let mut all = node.computers().await?;
    if !who.sees_all() {
        all.retain(|view| who.sees_computer(view));
    }
    Ok(all)
}

/// All images that he may see, with the computers that he may see of those that are loaded from them.
pub(super) async fn images(node: &Node, who: &Who) -> Result<Vec<ImageView>, Refusal> {
    let mut all = node.images().await?;
    if !who.sees_all() {
        all.retain(|view| who.sees_image(&view.name));
        for image in &mut all {
            cut_image(node, who, image).await?;
        }
    }
    Ok(all)
}

/// Leaves in an image what he may see of it.
pub(super) async fn cut_image(node: &Node, who: &Who, image: &mut ImageView) -> Result<(), Refusal> {
    if who.sees_all() {
        return Ok(());
    }
    let tags = node.tags().await?;
    for revision in &mut image.revisions {
        let seen =
            |name: &vcl_types::ComputerName| who.can(Verb::Look, &Subject::Computer(Tagged::of(name, &tags)));
        revision.used_by.retain(seen);
    }
    cut_lease(node, who, &mut image.lease).await
}

/// Leaves out what a job has a thing for where he may not see the job: that he may use the thing says nothing of it.
pub(super) async fn cut_lease(node: &Node, who: &Who, lease: &mut Option<LeaseView>) -> Result<(), Refusal> {
    if let Some(held) = lease
        && !who.can(Verb::Look, &node.job_touched(held.job).await?)
    {
        *lease = None;
    }
    Ok(())
}

/// Jobs that he may see, newest first, before one, at most so many.
pub(super) async fn jobs(
    node: &Node,
    who: &Who,
    state: Option<job::State>,
    before: Option<JobId>,
    limit: u32,
) -> Result<Vec<JobView>, Refusal> {
    if who.sees_all() {
        return node.jobs_before(state, before, limit, None).await;
    }
    if !who.sees_others() {
        return node.jobs_before(state, before, limit, Some(&who.name)).await;
    }
    let tags = node.tags().await?;
    let (mut seen, mut before, mut looked) = (Vec::new(), before, 0);
    while seen.len() < limit as usize && looked < LOOKED_AT {
        let page = node.jobs_before(state, before, 1000, None).await?;
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        looked += page.len();
        seen.extend(page.into_iter().filter(|job| who.sees_job(job, &tags)));
    }
    seen.truncate(limit as usize);
    Ok(seen)
}

/// What jobs hold, as far as he may see it.
pub(super) async fn leases(node: &Node, who: &Who) -> Result<Vec<LeaseView>, Refusal> {
    let mut all = node.leases().await?;
    if !who.sees_all() {
        let mut jobs = Jobs::default();
        let mut seen = Vec::new();
        for lease in all {
            if jobs.has(node, who, lease.job).await? {
                seen.push(lease);
            }
        }
        all = seen;
    }
    Ok(all)
}

/// What is in the trash of images that he may see.
pub(super) async fn trash(node: &Node, who: &Who) -> Result<Vec<TrashView>, Refusal> {
    let mut all = node.trash().await?;
    if !who.sees_all() {
        all.retain(|view| who.sees_image(&view.image.name));
    }
    Ok(all)
}

/// One screen of what he may see.
pub(super) async fn status(node: &Node, who: &Who) -> Result<Status, Refusal> {
    let mut status = node.status().await?;
    if who.sees_all() {
        return Ok(status);
    }
    let tags = node.tags().await?;
    status.running.retain(|job| who.sees_job(job, &tags));
    let mut counts: std::collections::BTreeMap<String, u64> = std::collections::BTreeMap::new();
    for view in computers(node, who).await? {
        *counts.entry(view.state.to_string()).or_default() += 1;
    }
    status.computers = counts.into_iter().map(|(name, count)| Count { name, count }).collect();
    // How much others do, and on what, is not for everybody.
    (status.jobs, status.backends, status.nodes) = (Vec::new(), Vec::new(), Vec::new());
    (status.library, status.revisions) = (String::new(), images(node, who).await?.len() as u64);
    status.free = vcl_types::ByteSize(0);
    Ok(status)
}

impl Jobs {
    /// Whether he may see a job.
    pub(super) async fn has(&mut self, node: &Node, who: &Who, id: JobId) -> Result<bool, Refusal> {
        if let Some(known) = self.0.get(&id) {
            return Ok(*known);
        }
        let has = who.can(Verb::Look, &node.job_touched(id).await?);
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(id, has);
        Ok(has)
    }

    /// Whether he may see an event: its job's, or what is about a computer that he may look after.
    pub(super) async fn has_event(
        &mut self,
        node: &Node,
        who: &Who,
        event: &EventView,
    ) -> Result<bool, Refusal> {
        if who.sees_all() {
            return Ok(true);
        }
        match (event.job, &event.computer) {
            (Some(job), _) => self.has(node, who, job).await,
            (None, Some(name)) => {
                let tags = node.tags().await?;
                let (requester, computer) = (String::new(), Some(Tagged::of(name, &tags)));
                Ok(who.can(Verb::Look, &Subject::Job { requester, computer, image: None }))
            }
            (None, None) => Ok(false),
        }
    }

    /// The events among these that he may see.
    pub(super) async fn of(
        &mut self,
        node: &Node,
        who: &Who,
        events: Vec<EventView>,
    ) -> Result<Vec<EventView>, Refusal> {
        let mut seen = Vec::new();
        for event in events {
            if self.has_event(node, who, &event).await? {
                seen.push(event);
            }
        }
        Ok(seen)
    }

    /// What he sees of an item of the stream. Where that cannot be found out, that he missed something.
    pub(super) async fn seen(&mut self, node: &Node, who: &Who, item: StreamItem) -> Option<StreamItem> {
        if who.sees_all() {
            return Some(item);
        }
        let has = match &item {
            StreamItem::Event(event) => self.has_event(node, who, event).await,
            StreamItem::Progress { job, .. } | StreamItem::Changed { job } => self.has(node, who, *job).await,
            StreamItem::Missed => Ok(true),
        };
        match has {
            Ok(true) => Some(item),
            Ok(false) => None,
            Err(_) => Some(StreamItem::Missed),
        }
    }
}

/// Returns when somebody has not the rights any more that he came with, or his token has ended: a stream ends then, and
/// whoever reads it comes again as what he is now.
pub(super) async fn until_changed(node: Arc<Node>, who: Who) {
    if who.admin && who.token.is_none() {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(RECHECK).await; // why: nothing tells what another node has changed
        if who.expires.is_some_and(|end| end <= chrono::Utc::now()) {
            return;
        }
        match node.queue.people_version().await {
            Ok(version) if version == who.rights.version() => {}
            _ => return,
        }
    }
}

/// A job's title, for the record.
pub(super) fn about(request: &JobRequest) -> super::access::About {
    super::access::About(request.to_string())
}
