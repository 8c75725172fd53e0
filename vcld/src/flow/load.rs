//! Loading a revision on a computer.

use super::configure::Named;
use super::fetch::Lacking;
use super::unload::Lent;
use super::{Made, Running};
use serde::{Deserialize, Serialize};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_types::lending::Purpose;
use vcl_types::state::computer;
use vcl_types::{Computer, ComputerName, Endpoint, ImageRef, Loaded, ReservationId, Revision};

/// What a load starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LoadInput {
    computer: Computer,
    revision: Revision,
    owner: String,
    /// What it holds already and has to be taken off it first.
    holds: Option<ImageRef>,
    /// What it was lent with, where that is known.
    #[serde(default)]
    lent: Option<Lent>,
    /// What has to come from other nodes first.
    #[serde(default)]
    lacking: Vec<Lacking>,
    /// By what it is configured then.
    #[serde(default)]
    recipes: Vec<Named>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Taken {
    computer: ComputerName,
    image: ImageRef,
    owner: String,
}

/// Takes the computer: it is loading, and somebody's.
pub(super) const TAKE: Step<Running, Taken> =
    Step::new("take computer").retry(TRANSIENT).undo(|run, taken| {
        Box::pin(async move {
            let (queue, claim) = (&run.node.queue, &run.claim);
            let row = queue.computer(&taken.computer).await?;
            let event = match row.state {
                computer::State::Loading => Some(computer::Event::LoadFailed),
                // The last step failed after it had said that the computer is ready.
                computer::State::Reserved => Some(computer::Event::Release),
                _ => None,
            };
            if let Some(event) = event {
                queue.computer_event(claim, "untake computer", &taken.computer, event).await?;
            }
            queue.set_loaded(claim, &taken.computer, None).await?;
            if let Some(id) = row.reservation {
                queue.end_reservation(claim, id, "the load failed").await?;
            }
            Ok(())
        })
    });

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ready {
    computer: ComputerName,
    reservation: ReservationId,
    loaded: Loaded,
}

/// Records that the computer is ready. Its undo is the taking's: this is the load's last step.
pub(super) const RECORD: Step<Running, Ready> = Step::new("record load").retry(TRANSIENT);

impl Running {
    pub(super) async fn begin_load(&self, name: &ComputerName, image: &ImageRef) -> Result<LoadInput> {
        let row = self.node.queue.computer(name).await?;
        let state = row.state;
        use computer::State as S;
        match state {
            S::Available | S::Reserved => {}
            S::Loading => {}
            S::InUse => {
                let message = format!("{name} is in use; unload it first: vclctl unload {name}");
                return Err(Error::new(Kind::Refused, message));
            }
            S::Maintenance | S::Broken => {
                let why = row.reason.map(|r| format!(" ({r})")).unwrap_or_default();
                let message =
                    format!("{name} is in {state}{why}; when it is well again: vclctl unload {name}");
                return Err(Error::new(Kind::Refused, message));
            }
        }
        if let Some(id) = row.reservation {
            let lent = self.node.queue.reservation(id).await?;
            if lent.purpose != Purpose::Direct {
                let owner = lent.owner;
                let message = format!(
                    "{name} is lent to {owner} (reservation {id}); end that first: vclctl release {id}"
                );
                return Err(Error::new(Kind::Refused, message));
            }
        }
        let manifest = self.node.queue.manifest(image).await?;
        self.node.check_imaging(&row.computer, &manifest)?;
        let (revision, lacking) = self.here_or_lacking(&manifest).await?;
        // A host that does not answer is found out before anything is made on it.
        self.backend(&row.computer.backend)?.state(&row.computer).await?;
        self.node.os(revision.manifest.os)?;
        let recipes =
            self.node.recipes(&row.computer, &revision.manifest.image_ref(), revision.manifest.os)?;
        Ok(LoadInput {
            recipes,
            computer: row.computer,
            revision,
            owner: self.claim.job.requester.clone(),
            holds: row.loaded.as_ref().map(|l| l.image.clone()),
            lent: self.lent(row.loaded).await,
            lacking,
        })
    }

    pub(super) async fn load(&self, mut job: Job, input: LoadInput) -> Result<Made> {
        let job = &mut job;
        let LoadInput { computer, revision, owner, holds, lent, lacking, recipes } = input;
        if !lacking.is_empty() {
            // Before anything is taken off the computer: what it has is not given up for a revision that nobody has.
            self.fetch_all(&mut job.part("fetch"), lacking, false).await?;
        }
        let backend = self.backend(&computer.backend)?;
        if let Some(old) = holds {
            job.event("taken-off", format!("{old} is taken off {computer}"));
            self.take_traces(job, &computer, lent.as_ref()).await?;
            self.take_back(job, &computer, "another image is loaded").await?;
        }
        let image = revision.manifest.image_ref();
        let taken = Taken { computer: computer.name.clone(), image: image.clone(), owner };
        let reservation = job
            .step(self, &TAKE, taken)
            .run(async |taken, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                let Taken { computer, image, owner } = taken;
                Ok(queue.begin_load(claim, "take computer", &owner, &computer, &image).await?)
            })
            .await?;
        let target = self.node.target(&computer, &revision, None)?;
        let endpoint = backend.load(&mut job.part("load"), target).await?;
        self.configured_by(job, (&computer, &endpoint), recipes).await?;
        let loaded = Loaded { image: image.clone(), endpoint: endpoint.clone(), since: chrono::Utc::now() };
        job.step(self, &RECORD, Ready { computer: computer.name.clone(), reservation, loaded })
            .run(async |ready, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                let Ready { computer, reservation, loaded } = ready;
                Ok(queue.end_load(claim, "record load", &computer, &loaded, reservation).await?)
            })
            .await?;
        self.announce(&computer.name, &image, &endpoint);
        Ok(Some(format!("{image} on {computer} ({})", endpoint.ssh_command())))
    }

    /// Tells everybody where the computer answers.
    pub(super) fn announce(&self, computer: &ComputerName, image: &ImageRef, endpoint: &Endpoint) {
        let keys =
            endpoint.host_keys.keys.iter().map(vcl_os::ssh::fingerprint).collect::<Vec<_>>().join(", ");
        let message = format!("{image} is ready on {computer}: {}  host keys {keys}", endpoint.ssh_command());
        self.node.queue.post_event("ready", Some(self.job()), Some(computer), &message);
    }
}
