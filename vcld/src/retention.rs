//! What can be asked about keeping revisions: what is in production, why one stays, what is in the trash.

use crate::node::{Node, Refusal, RefusalKind};
use chrono::TimeDelta;
use vcl_images::{Discarded, retention};
use vcl_types::ImageRef;
use vcl_types::api::{RevisionView, TrashView, WhyKept};

impl Node {
    /// Puts a revision in production.
    ///
    /// # Errors
    /// There is no such revision, or this node does not hold it.
    pub async fn promote(&self, image: &ImageRef, requester: &str) -> Result<RevisionView, Refusal> {
        if image.revision.is_some() {
            self.library.get(&self.queue.revision(image).await?.manifest.image_ref())?;
        }
        self.queue.promote(image, requester).await?;
        let message = format!("{image} is in production, says {requester}");
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

/// So many days, in seconds.
pub(crate) fn days(days: u32) -> u64 {
    u64::from(days) * 86_400
}
