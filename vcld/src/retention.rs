//! What can be asked about keeping revisions: what is in production, why one stays, what is in the trash.

use crate::node::{Node, Refusal, RefusalKind};
use chrono::TimeDelta;
use vcl_images::{Discarded, retention};
use vcl_types::api::{RevisionView, TrashView, WhyKept};
use vcl_types::{ImageRef, ImageTest};

impl Node {
    /// Puts a revision in production. Where the site wants it tested first, its newest test has to have passed.
    ///
    /// # Errors
    /// There is no such revision, this node does not hold it, or it was not tested or did not pass.
    pub async fn promote(&self, image: &ImageRef, requester: &str) -> Result<RevisionView, Refusal> {
        self.promote_as(image, requester, false).await
    }

    /// The same; with `force` whatever its test found out, which an event says.
    ///
    /// # Errors
    /// As [`promote`](Self::promote), but for the test.
    pub async fn promote_as(
        &self,
        image: &ImageRef,
        requester: &str,
        force: bool,
    ) -> Result<RevisionView, Refusal> {
        let mut lacks = None;
        if image.revision.is_some() {
            let row = self.queue.revision(image).await?;
            self.library.get(&row.manifest.image_ref())?;
            lacks = lacks_test(image, row.tested.as_ref()).filter(|_| self.config.lending.promote_needs_test);
        }
        let forced = match lacks {
            Some(lacks) if !force => return Err(Refusal::new(RefusalKind::Refused, lacks)),
            lacks => lacks.is_some(),
        };
        self.queue.promote(image, requester).await?;
        let anyway = if forced { ", although it has passed no test" } else { "" };
        let message = format!("{image} is in production, says {requester}{anyway}");
        self.queue.post_event("promoted", None, None, &message);
        Ok(self.queue.revision(image).await?.view(true))
    }

    /// Why a revision cannot be deleted, each reason in words.
    ///
    /// # Errors
    /// There is no such revision.
    pub async fn why_kept(&self, image: &ImageRef) -> Result<WhyKept, Refusal> {
        let image = self.queue.revision(image).await?.manifest.image_ref();
        let mut reasons = self.reasons(&image).await?;
        let rules = self.config.library.retention;
        if reasons.is_empty() && (rules.keep.is_some() || rules.older_than_days.is_some()) {
            let rules = crate::flow::keep::rules(rules.keep, rules.older_than_days.map(days), None);
            let pruning = self.pruning(&image.name, &rules).await?;
            let stays = pruning.stays.iter().find(|(stays, _)| *stays == image);
            let by_rule = stays.into_iter().flat_map(|(_, why)| why);
            reasons
                .extend(by_rule.map(|why| format!("{why}, by library.retention; it can be deleted by hand")));
        }
        Ok(WhyKept { image, reasons })
    }

    /// What keeps a revision whatever anybody wishes.
    pub(crate) async fn reasons(&self, image: &ImageRef) -> Result<Vec<String>, Refusal> {
        let kept = self.kept().await?;
        Ok(retention::why(&kept, image).iter().map(ToString::to_string).collect())
    }

    /// What is in the trash, the oldest first.
    ///
    /// # Errors
    /// The library cannot be read.
    pub async fn trash(&self) -> Result<Vec<TrashView>, Refusal> {
        let library = self.library.clone();
        let trash = tokio::task::spawn_blocking(move || library.trash());
        let trash = trash.await.map_err(|e| Refusal::new(RefusalKind::Internal, e.to_string()))??;
        let keep = TimeDelta::days(i64::from(self.config.library.trash_days));
        let view = |t: vcl_images::Trashed| {
            let name = t.name?;
            let (why, until) = match name.why {
                Discarded::Deleted => ("deleted", Some(name.at + keep)),
                Discarded::ForGood => ("for-good", Some(name.at)),
                Discarded::Exchanged => ("exchanged", None),
            };
            Some(TrashView { image: name.image, why: why.into(), since: name.at, until, size: t.size })
        };
        Ok(trash.into_iter().filter_map(view).collect())
    }
}

/// What a revision lacks to be made production where it has to be tested first, with the way out.
fn lacks_test(image: &ImageRef, test: Option<&ImageTest>) -> Option<String> {
    let again = format!("vclctl image test {image}");
    match test {
        None => Some(format!("{image} was not tested, and this site makes none production before: {again}")),
        Some(test) => test.verdict().map(|why| {
            let job = test.job;
            format!(
                "{image} did not pass its test (job {job}): {why}; mend it and test what was mended: {again}"
            )
        }),
    }
}

/// So many days, in seconds.
pub(crate) fn days(days: u32) -> u64 {
    u64::from(days) * 86_400
}
