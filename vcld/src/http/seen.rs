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

/// Jobs that he may see, newest first, before one, at most so many; and before which one it goes on, where it may.
pub(super) async fn jobs(
    node: &Node,
    who: &Who,
    state: Option<job::State>,
    before: Option<JobId>,
    limit: u32,
) -> Result<(Vec<JobView>, Option<JobId>), Refusal> {
    if who.sees_others() && !who.sees_all() {
        return jobs_among(node, who, (state, before), limit, (LOOKED_AT, 1000)).await;
    }
    let owner = if who.sees_all() { None } else { Some(who.name.as_str()) };
    let jobs = node.jobs_before(state, before, limit, owner).await?;
    let next = jobs.last().filter(|_| jobs.len() >= limit as usize).map(|job| job.id);
    Ok((jobs, next))
}

/// The same for whoever sees some of others', which lie anywhere among all: `most` are looked at, so many at once.
async fn jobs_among(
    node: &Node,
    who: &Who,
    (state, before): (Option<job::State>, Option<JobId>),
    limit: u32,
    (most, at_once): (usize, u32),
) -> Result<(Vec<JobView>, Option<JobId>), Refusal> {
    let tags = node.tags().await?;
    let (mut seen, mut before, mut looked) = (Vec::new(), before, 0);
    while seen.len() < limit as usize && looked < most {
        let page = node.jobs_before(state, before, at_once, None).await?;
        let Some(last) = page.last() else {
            return Ok((seen, None));
        };
        before = Some(last.id);
        looked += page.len();
        seen.extend(page.into_iter().filter(|job| who.sees_job(job, &tags)));
    }
    seen.truncate(limit as usize);
    // Where it goes on is told by what was looked at, not by what of it may be seen.
    let full = seen.last().filter(|_| seen.len() >= limit as usize).map(|job| job.id);
    let next = full.or(before);
    Ok((seen, next))
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
    let mut seen = who.rights.version();
    loop {
        tokio::time::sleep(RECHECK).await; // why: nothing tells what another node has changed
        if who.expires.is_some_and(|end| end <= chrono::Utc::now()) {
            return;
        }
        match node.queue.people_version().await {
            Ok(version) if version == seen => {}
            // What has changed may be somebody else's: each who signs in or out changes something.
            Ok(version) if still(&node, &who).await => seen = version,
            _ => return,
        }
    }
}

/// Whether he has the rights that he came with.
async fn still(node: &Node, who: &Who) -> bool {
    let same = async {
        let rights = node.rights().await?;
        if let Some(token) = &who.token {
            let row = node.token_row(token, &rights).await?;
            if row.is_none_or(|row| row.view.revoked.is_some() || row.view.scopes != who.scopes) {
                return Ok(false);
            }
        }
        let standing = node.user_standing(&who.name, &rights).await?;
        let here = standing.is_some_and(|standing| !standing.disabled && standing.groups == who.groups);
        Ok::<_, Refusal>(here && rights.same_for(&who.rights, &who.groups))
    };
    same.await.unwrap_or(false)
}

/// A job's title, for the record.
pub(super) fn about(request: &JobRequest) -> super::access::About {
    super::access::About(request.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::Site;
    use super::*;
    use crate::rights::Rights;
    use crate::rights::tests::grant;
    use vcl_types::people::Via;

    /// Whoever sees one of many among which others' are looks at a part of them at once, and is told where it goes on.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_list_that_ended_early_says_where_it_goes_on() {
        let site = Site::furnished().await;
        let rows = site.node.queue.rights().await.unwrap();
        let rows = vcl_queue::RightsRows { grants: vec![grant("gis", Verb::Images, "images:gis")], ..rows };
        let (groups, rights) = (["gis".parse().unwrap()].into(), Arc::new(Rights::from(rows)));
        let who = Who { via: Via::Token, groups, rights, ..Who::nobody() }.named("gis");
        // Of 3, 2 and 1 the last is the one that he sees.
        let part = async |before: Option<i64>, most: usize| {
            let asked = (None, before.map(JobId));
            let (jobs, next) = jobs_among(&site.node, &who, asked, 1, (most, 1)).await.unwrap();
            (jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(), next.map(|id| id.0))
        };
        assert_eq!(part(None, 2).await, (vec![], Some(2)));
        assert_eq!(part(Some(2), 2).await, (vec![1], Some(1)));
        assert_eq!(part(Some(1), 2).await, (vec![], None));
        assert_eq!(part(None, 9).await, (vec![1], Some(1)));
    }
}
