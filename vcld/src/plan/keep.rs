//! What deleting, bringing back, pruning and rewriting whole would do.

use super::step;
use crate::flow::keep::rules;
use crate::node::{Node, Refusal, RefusalKind};
use vcl_images::Discarded;
use vcl_types::api::PlannedStep;
use vcl_types::{ByteSize, ImageRef, JobRequest};

impl Node {
    pub(super) async fn keep_plan(
        &self,
        request: &JobRequest,
        steps: &mut Vec<PlannedStep>,
    ) -> Result<(), Refusal> {
        match request {
            JobRequest::DeleteImage { image, now } => {
                let known = self.queue.revision(image).await?;
                let reasons = self.reasons(image).await?;
                if !reasons.is_empty() {
                    let message =
                        format!("{image} stays: {}; see vclctl image why {image}", reasons.join("; "));
                    return Err(Refusal::new(RefusalKind::Refused, message));
                }
                self.deletion(steps, image, known.size, *now);
            }
            JobRequest::Undelete { image } => {
                let (name, manifest) = self.library.discarded(image)?;
                if let Some(parent) = manifest.lies_on() {
                    self.queue.revision(parent).await?;
                }
                steps.push(step(
                    "bring files back",
                    format!("{image}, deleted {}", name.at.format("%F %T UTC")),
                ));
                steps.push(step("remember revision", image.to_string()));
            }
            JobRequest::Flatten { image } => {
                let known = self.queue.revision(image).await?;
                let exact = known.manifest.image_ref();
                let chain = self.library.ancestry(&exact)?;
                if chain.len() == 1 {
                    let message = format!("{exact} is whole already");
                    return Err(Refusal::new(RefusalKind::Refused, message));
                }
                let manifests: Vec<_> = chain.into_iter().map(|r| r.manifest).collect();
                let bytes = ByteSize(vcl_images::estimate::flatten(&manifests));
                let under = manifests.len() - 1;
                steps.push(step("make staging", "in the library"));
                steps.push(step("copy whole", format!("{exact} with {under} it lies on, {bytes} at most")));
                steps.push(step("digest whole", "and compare with what a guest saw before"));
                steps.push(step("exchange", format!("the whole {exact} for the delta; nobody notices")));
                steps.push(step("record files", exact.to_string()));
                steps.push(step("retire delta", format!("{} stay until no computer reads them", known.size)));
            }
            JobRequest::Prune { image, keep, older_than_s, owner, now } => {
                let rules = rules(*keep, *older_than_s, owner.clone());
                self.queue.image(image).await?;
                let pruning = self.pruning(image, &rules).await?;
                let sizes = self.kept().await?;
                for gone in &pruning.goes {
                    let size = sizes.iter().find(|k| k.image == *gone).map(|k| k.size);
                    self.deletion(steps, gone, size.unwrap_or_default(), *now);
                }
                for (image, why) in &pruning.stays {
                    let why: Vec<String> = why.iter().map(ToString::to_string).collect();
                    steps.push(step("stays", format!("{image}: {}", why.join("; "))));
                }
                let (goes, freed) = (pruning.goes.len(), pruning.freed);
                steps.push(step("in all", format!("{goes} go, which frees {freed}")));
            }
            _ => {}
        }
        Ok(())
    }

    fn deletion(&self, steps: &mut Vec<PlannedStep>, image: &ImageRef, size: ByteSize, now: bool) {
        steps.push(step("forget revision", image.to_string()));
        if self.deleting(now) == Discarded::ForGood {
            steps.push(step("delete for good", format!("{image}, {size} are freed")));
        } else {
            let days = self.config.library.trash_days;
            steps.push(step("move to trash", format!("{image}, {size} are freed in {days} days")));
        }
    }
}
