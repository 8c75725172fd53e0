//! What a test of a revision would do.

use super::{part, step};
use crate::flow::CLONES;
use crate::node::{Node, Refusal, RefusalKind};
use vcl_provisioning::Work;
use vcl_types::ImageRef;
use vcl_types::api::PlannedStep;

impl Node {
    pub(super) async fn test_plan(
        &self,
        image: &ImageRef,
        steps: &mut Vec<PlannedStep>,
    ) -> Result<(), Refusal> {
        let revision = self.here_or_coming(steps, image).await?;
        let spare = self.spare(&revision.manifest).await?;
        if spare.computers.len() < CLONES {
            let message = format!("a test takes two spare computers, and {}", spare.in_words());
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let image = revision.manifest.image_ref();
        for clone in &spare.computers[..CLONES] {
            let computer = self.queue.computer(&clone.computer).await?.computer;
            let plan = self.backend_plan(Work::Load, &computer, &revision)?;
            steps.push(step("start clones", format!("a job of its own loads {computer} with {image}")));
            steps.extend(part(&format!("load {computer}"), plan));
        }
        steps.push(step("read identity", "of both guests, while both run"));
        for script in self.test_scripts(revision.manifest.os)? {
            steps.push(step("run test script", format!("{} in both guests", script.name)));
        }
        steps.push(step("record test", format!("what was found out is kept with {image}")));
        steps.push(step("give clones back", "a job of its own unloads each"));
        Ok(())
    }
}
