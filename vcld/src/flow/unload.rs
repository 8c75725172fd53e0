//! Taking a computer back.

use super::{Made, Running};
use serde::{Deserialize, Serialize};
use vcl_job::{Job, Result, Step, TRANSIENT};
use vcl_types::state::computer;
use vcl_types::{Computer, ComputerName, Endpoint, Loaded, Revision};

/// What an unload starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UnloadInput {
    computer: Computer,
    endpoint: Option<Endpoint>,
    #[serde(default)]
    revision: Option<Revision>,
}

/// What a computer has been lent with: for backends whose machines go on to the next user as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Lent {
    revision: Revision,
    endpoint: Endpoint,
}

impl Lent {
    pub(super) fn revision(&self) -> &Revision {
        &self.revision
    }
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Release {
    computer: ComputerName,
    because: String,
}

/// Records that the computer holds nothing. There is no way back, its machine is gone: one that was half recorded when the
/// job was given up is recorded to its end.
pub(super) const RELEASE: Step<Running, Release> = Step::new("release computer")
    .retry(TRANSIENT)
    .undo(|run, release| Box::pin(async move { run.release(&release.computer, &release.because).await }));

impl Running {
    pub(super) async fn begin_unload(&self, name: &ComputerName) -> Result<UnloadInput> {
        let row = self.node.queue.computer(name).await?;
        self.node.backend(&row.computer.backend)?;
        let endpoint = row.loaded.as_ref().map(|l| l.endpoint.clone());
        let revision = self.lent(row.loaded).await.map(|lent| lent.revision);
        Ok(UnloadInput { computer: row.computer, endpoint, revision })
    }

    /// What a computer was lent with. A revision of which nobody knows anything any more keeps none from being taken back.
    pub(super) async fn lent(&self, loaded: Option<Loaded>) -> Option<Lent> {
        let Loaded { image, endpoint, .. } = loaded?;
        let manifest = self.node.queue.manifest(&image).await.ok()?;
        Some(Lent { revision: self.node.library.future(&manifest).ok()?, endpoint })
    }

    pub(super) async fn unload(&self, mut job: Job, input: UnloadInput) -> Result<Made> {
        let because = format!("unloaded by {}", self.claim.job.requester);
        let UnloadInput { computer, endpoint, revision } = input;
        if let (Some(endpoint), Some(revision)) = (&endpoint, revision) {
            let lent = Lent { revision, endpoint: endpoint.clone() };
            self.take_traces(&mut job, &computer, Some(&lent)).await?;
        }
        if let Some(endpoint) = &endpoint {
            self.node.remotes.forget(endpoint).await;
        }
        self.backend(&computer.backend)?.unload(&mut job.part("unload"), &computer).await?;
        // What is left is to say so, and that is no time to be called off.
        job.commit();
        self.record_release(&mut job, &computer, &because).await?;
        Ok(None)
    }

    /// Takes a user's traces off a computer whose machine goes on to the next.
    pub(super) async fn take_traces(
        &self,
        job: &mut Job,
        computer: &Computer,
        lent: Option<&Lent>,
    ) -> Result<()> {
        let Some(Lent { revision, endpoint }) = lent else { return Ok(()) };
        let target = self.node.target(computer, revision, Some(endpoint))?;
        self.backend(&computer.backend)?.sanitize(&mut job.part("unload"), target).await
    }

    /// Removes a computer's machine and records that it holds nothing.
    pub(super) async fn take_back(&self, job: &mut Job, computer: &Computer, because: &str) -> Result<()> {
        let backend = self.backend(&computer.backend)?;
        backend.unload(&mut job.part("unload"), computer).await?;
        self.record_release(job, computer, because).await
    }

    async fn record_release(&self, job: &mut Job, computer: &Computer, because: &str) -> Result<()> {
        job.step(self, &RELEASE, Release { computer: computer.name.clone(), because: because.to_owned() })
            .run(async |release, _| self.release(&release.computer, &release.because).await)
            .await
    }

    async fn release(&self, name: &ComputerName, because: &str) -> Result<()> {
        let (queue, claim) = (&self.node.queue, &self.claim);
        let row = queue.computer(name).await?;
        queue.set_loaded(claim, name, None).await?;
        // What is taken off for a reservation is not that reservation's.
        if let Some(id) = row.reservation.filter(|id| self.claim.job.request.reservation() != Some(*id)) {
            queue.end_reservation(claim, id, because).await?;
        }
        if row.state == computer::State::Broken {
            queue.computer_event(claim, "release computer", name, computer::Event::Fix).await?;
        }
        queue.computer_event(claim, "release computer", name, computer::Event::Release).await?;
        queue.set_computer_reason(claim, name, None).await?;
        Ok(())
    }
}
