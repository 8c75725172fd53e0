//! The library over years: chains stay short, rules for keeping are applied, the trash is emptied.

use crate::flow::keep::rules;
use crate::node::{Node, Refusal, RefusalKind};
use crate::retention::days;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeSet;
use vcl_images::{Discarded, flatten_candidates};
use vcl_queue::JobFilter;
use vcl_types::state::job::State;
use vcl_types::{ImageName, JobRequest};

/// Who asks for what nobody asked for.
const ITSELF: &str = "vcld";

/// How long after a job that rewrites a revision has begun its exchange may have been. The name in the trash has the
/// job's beginning.
const EXCHANGING: TimeDelta = TimeDelta::days(1);

/// How long what failed is left alone, unless somebody asks for it.
const PAUSE: TimeDelta = TimeDelta::hours(1);

/// Queues a job, unless somebody else is at the image: then the next look does it.
async fn ask(node: &Node, request: JobRequest) -> Result<(), Refusal> {
    match node.submit(request, ITSELF).await {
        Ok(_) => Ok(()),
        Err(busy) if busy.kind == RefusalKind::Busy => Ok(()),
        Err(refusal) => Err(refusal),
    }
}

/// Rewrites whole what makes a chain longer than `library.chain_limit`.
pub(super) async fn shorten_chains(node: &Node) -> Result<(), Refusal> {
    let known: Vec<_> = node.queue.standings().await?.into_iter().map(|s| s.manifest).collect();
    for image in flatten_candidates(&known, node.config.library.chain_limit) {
        let here = node.library.get(&image).is_ok_and(|r| r.manifest.lies_on().is_some());
        // One that others have a copy of stays as it is.
        let alone = node.config.library.shared
            || node.queue.holders(&image).await?.iter().all(|holder| *holder == node.name);
        let same =
            |asked: &JobRequest| matches!(asked, JobRequest::Flatten { image: other } if *other == image);
        if here && alone && !failed_lately(node, same).await? {
            ask(node, JobRequest::Flatten { image }).await?;
        }
    }
    Ok(())
}

/// Whether the newest job of this kind that was asked for by itself failed a short time ago: asked for at once, it would
/// fail again, and again.
async fn failed_lately(node: &Node, same: impl Fn(&JobRequest) -> bool) -> Result<bool, Refusal> {
    let filter = JobFilter { limit: 1000, ..JobFilter::default() };
    // The newest come first.
    let jobs = node.queue.jobs(&filter).await?;
    let newest = jobs.iter().find(|job| job.requester == ITSELF && same(&job.request));
    Ok(newest.is_some_and(|job| match job.state {
        State::Stuck => true,
        State::Failed => job.ended.is_none_or(|at| Utc::now() - at < PAUSE),
        _ => false,
    }))
}

/// Prunes each image of which `library.retention` lets something go.
pub(super) async fn apply_retention(node: &Node) -> Result<(), Refusal> {
    let configured = node.config.library.retention;
    let older_than_s = configured.older_than_days.map(days);
    let rules = rules(configured.keep, older_than_s, None);
    if rules.is_empty() {
        return Ok(());
    }
    let kept = node.kept().await?;
    let images: BTreeSet<&ImageName> = kept.iter().map(|k| &k.image.name).collect();
    for image in images {
        let same =
            |asked: &JobRequest| matches!(asked, JobRequest::Prune { image: other, .. } if other == image);
        let goes = vcl_images::retention::prune(&kept, image, &rules, Utc::now()).goes;
        if !goes.is_empty() && !failed_lately(node, same).await? {
            let image = image.clone();
            let request =
                JobRequest::Prune { image, keep: rules.keep, older_than_s, owner: None, now: false };
            ask(node, request).await?;
        }
    }
    Ok(())
}

/// Removes from the trash what is over its time, what was deleted for good, and exchanged deltas that no computer can
/// have open, since none that is loaded was when they were exchanged.
pub(super) async fn empty_trash(node: &Node) -> Result<(), Refusal> {
    let library = node.library.clone();
    let trash = tokio::task::spawn_blocking(move || library.trash());
    let trash = trash.await.map_err(|e| Refusal::new(RefusalKind::Internal, e.to_string()))??;
    let keep = TimeDelta::days(i64::from(node.config.library.trash_days));
    for thing in trash {
        let Some(name) = &thing.name else { continue };
        let (due, owner_lives) = (name.at + keep <= Utc::now(), lives(node, name.job).await);
        let goes = match name.why {
            // The job that is at it may still take it back.
            _ if owner_lives => false,
            Discarded::ForGood => true,
            Discarded::Deleted => due,
            Discarded::Exchanged => !loaded_before(node, name.at + EXCHANGING).await?,
        };
        if goes && node.library.remove_discarded(&thing.path).await? {
            let message = format!("{} is gone from the trash; {} are freed", name.image, thing.size);
            node.queue.post_event("trash-emptied", None, None, &message);
        }
    }
    Ok(())
}

/// Whether a job is not over, or could not take back all that it did: what it threw away may be wanted again. One that
/// cannot be asked after may live.
async fn lives(node: &Node, job: vcl_types::JobId) -> bool {
    match node.queue.job(job).await {
        Ok(job) => !job.state.is_final() || job.state == State::Stuck,
        Err(e) => e.kind != vcl_queue::Kind::NotFound,
    }
}

/// Whether a computer was loaded before this time and still is: its machine may have a file open that was exchanged
/// then. One that was loaded later has opened the new file.
async fn loaded_before(node: &Node, at: DateTime<Utc>) -> Result<bool, Refusal> {
    let computers = node.queue.computers().await?;
    Ok(computers.iter().filter_map(|row| row.loaded.as_ref()).any(|loaded| loaded.since <= at))
}
