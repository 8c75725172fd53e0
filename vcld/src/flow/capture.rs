//! Capturing a computer as the next revision.
//!
//! The flow lends the backend a staging and calls it; the backend drives the capture and calls the OS module itself.
//! A capture that fails or is called off resumes the computer: that is the undo of holding it.

use super::publish::Making;
use super::{Made, Running};
use serde::{Deserialize, Serialize};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_provisioning::Capability;
use vcl_types::api::PowerState;
use vcl_types::state::computer;
use vcl_types::{After, CaptureInto, Computer, ComputerName, ImageName, ImageRef, Loaded, Revision};

/// What a capture starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct CaptureInput {
    computer: Computer,
    /// What it was loaded from.
    revision: Revision,
    loaded: Loaded,
    making: Making,
    after: After,
    /// It is off and is to be powered on first.
    power_on: bool,
    /// Whether only what differs from the revision is to be stored: it is at hand, and nobody wants it otherwise.
    #[serde(default)]
    delta: bool,
}

/// What it takes to bring a computer back after a failed capture.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) computer: Computer,
    pub(super) revision: Revision,
    pub(super) loaded: Loaded,
}

/// Holds the computer for the capture. Undoing it resumes the computer; if that fails it goes to maintenance.
pub(super) const HOLD: Step<Running, Held> =
    Step::new("hold computer").undo(|run, held| Box::pin(async move { run.bring_back(held).await }));

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Known {
    computer: ComputerName,
    loaded: Loaded,
}
/// Records where the computer answers now.
pub(super) const NOTE_ENDPOINT: Step<Running, Known> = Step::new("record endpoint").retry(TRANSIENT);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Trouble {
    computer: ComputerName,
    reason: String,
}
/// Takes the computer out of use.
pub(super) const MAINTENANCE: Step<Running, Trouble> = Step::new("to maintenance").retry(TRANSIENT);

/// How what is on a computer is captured.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Whether only what differs from its revision is stored.
    pub(super) delta: bool,
    /// Whether it is off and has to be started first.
    pub(super) power_on: bool,
}

impl Running {
    pub(super) async fn begin_capture(
        &self,
        name: &ComputerName,
        into: &CaptureInto,
        after: After,
        power_on: bool,
        note: Option<String>,
        whole: bool,
    ) -> Result<CaptureInput> {
        let row = self.node.queue.computer(name).await?;
        let refuse = |message: String| Err(Error::new(Kind::Refused, message));
        if !matches!(row.state, computer::State::Reserved | computer::State::InUse) {
            let (state, why) = (row.state, row.reason.map(|r| format!(" ({r})")).unwrap_or_default());
            return refuse(format!(
                "{name} is {state}{why}; only a computer that holds an image can be captured"
            ));
        }
        let Some(loaded) = row.loaded else {
            return refuse(format!("{name} holds no image; load one first: vclctl load {name} IMAGE"));
        };
        let backend = self.backend(&row.computer.backend)?;
        backend.capabilities().require(Capability::Capture, &format!("backend {}", row.computer.backend))?;
        let power = backend.state(&row.computer).await?;
        match power {
            PowerState::On => {}
            PowerState::Off if power_on => {}
            PowerState::Off => {
                return refuse(format!(
                    "{name} is off; capture it with --power-on, or start it first: vclctl computer power {name} on"
                ));
            }
            PowerState::Paused => return refuse(format!("{name} is paused; resume it on its host first")),
            PowerState::Absent => {
                return refuse(format!(
                    "{name}'s machine is gone from its host; take it back: vclctl unload {name}"
                ));
            }
        }
        let image: ImageName = match into {
            CaptureInto::Next => loaded.image.name.clone(),
            CaptureInto::New(image) => image.clone(),
        };
        let revision = self.node.library.get(&loaded.image)?;
        let mut making =
            self.making(&image, Some(loaded.image.clone()), Some(row.computer.backend.clone()), note).await?;
        making.os = revision.manifest.os;
        let power_on = power == PowerState::Off;
        let delta = !whole
            && match self.node.library.base(&loaded.image) {
                Ok(_) => true,
                Err(e) => {
                    let why = Error::from(e).failure().message;
                    let message =
                        format!("its disks are stored whole: {} is not at hand: {why}", loaded.image);
                    self.node.queue.post_event("whole-capture", Some(self.job()), Some(name), &message);
                    false
                }
            };
        Ok(CaptureInput { computer: row.computer, revision, loaded, making, after, power_on, delta })
    }

    pub(super) async fn capture(&self, mut job: Job, input: CaptureInput) -> Result<Made> {
        let job = &mut job;
        let CaptureInput { computer, revision, mut loaded, making, after, power_on, delta } = input;
        let backend = self.backend(&computer.backend)?;
        let how = How { delta, power_on };
        let image = self.capture_into(job, &computer, &revision, &mut loaded, &making, how).await?;
        let endpoint = loaded.endpoint.clone();

        // The revision is there, whatever becomes of the computer: trouble from here on is the computer's, and a wish to
        // call the job off comes too late to lose what was captured.
        job.commit();
        let released = match after {
            After::KeepOff => Ok(()),
            After::Release => self.take_back(job, &computer, "captured").await,
            After::Resume => {
                // It was generalised: it makes itself a new identity and prints its new keys when it boots.
                let mut again = revision.clone();
                again.manifest.generalised = true;
                let target = self.node.target(&computer, &again, Some(&endpoint))?;
                match backend.resume(&mut job.part("after").part("resume"), target).await {
                    Ok(endpoint) => {
                        let now = Loaded { endpoint: endpoint.clone(), ..loaded.clone() };
                        self.note_endpoint(job, "resumed", &computer.name, &now).await?;
                        self.announce(&computer.name, &loaded.image, &endpoint);
                        // What its users had went with the capture: it is no part of an image.
                        match self.node.queue.computer(&computer.name).await?.reservation {
                            Some(id) => {
                                self.let_in(job, &computer, &revision, &endpoint, id, "after").await.map(drop)
                            }
                            None => Ok(()),
                        }
                    }
                    Err(e) => Err(e),
                }
            }
        };
        match released {
            Ok(()) => {}
            Err(e) if e.kind.ends_the_job() => return Err(e),
            Err(e) => self.after_capture_failed(job, &computer.name, &image, &e).await?,
        }
        Ok(Some(image.to_string()))
    }

    /// Takes a computer out of service that was captured well and did not come to what was to become of it.
    pub(super) async fn after_capture_failed(
        &self,
        job: &mut Job,
        computer: &ComputerName,
        image: &ImageRef,
        error: &Error,
    ) -> Result<()> {
        let reason = format!("{image} was captured, and then: {}", error.failure());
        job.event("after-capture-failed", &reason);
        self.to_maintenance(job, computer, reason).await
    }

    /// Holds the computer, starts it if it is off, and captures what is on it: everything of a capture but what becomes of
    /// the computer. Where it answers afterwards is in `loaded`.
    pub(super) async fn capture_into(
        &self,
        job: &mut Job,
        computer: &Computer,
        revision: &Revision,
        loaded: &mut Loaded,
        making: &Making,
        How { delta, power_on }: How,
    ) -> Result<ImageRef> {
        let backend = self.backend(&computer.backend)?;
        let held = Held { computer: computer.clone(), revision: revision.clone(), loaded: loaded.clone() };
        job.step(self, &HOLD, held).run(async |_, _| Ok(())).await?;
        if power_on {
            let target = self.node.target(computer, revision, Some(&loaded.endpoint))?;
            loaded.endpoint = backend.resume(&mut job.part("power on").part("resume"), target).await?;
            self.note_endpoint(job, "powered on", &computer.name, loaded).await?;
        }
        let mut staging = self.stage(job, making).await?;
        if delta {
            staging = staging.over(self.node.library.base(&loaded.image)?);
        }
        let endpoint = &loaded.endpoint;
        let target = self.node.target(computer, revision, Some(endpoint))?;
        let captured = backend.capture(&mut job.part("capture"), target, &staging).await?;
        self.node.remotes.forget(endpoint).await;
        self.publish(job, making, &staging, captured, true).await
    }

    async fn note_endpoint(
        &self,
        job: &mut Job,
        when: &str,
        computer: &ComputerName,
        loaded: &Loaded,
    ) -> Result<()> {
        let known = Known { computer: computer.clone(), loaded: loaded.clone() };
        job.step(self, &NOTE_ENDPOINT, known)
            .key(when)
            .run(async |known, _| {
                Ok(self.node.queue.set_loaded(&self.claim, &known.computer, Some(&known.loaded)).await?)
            })
            .await
    }

    async fn to_maintenance(&self, job: &mut Job, computer: &ComputerName, reason: String) -> Result<()> {
        job.step(self, &MAINTENANCE, Trouble { computer: computer.clone(), reason })
            .run(async |trouble, _| self.out_of_use(&trouble.computer, &trouble.reason).await)
            .await
    }

    /// Takes a computer out of use and says why.
    pub(super) async fn out_of_use(&self, computer: &ComputerName, reason: &str) -> Result<()> {
        let (queue, claim) = (&self.node.queue, &self.claim);
        queue.computer_event(claim, "to maintenance", computer, computer::Event::Maintain).await?;
        queue.set_computer_reason(claim, computer, Some(reason)).await?;
        queue.post_event("maintenance", Some(self.job()), Some(computer), reason);
        Ok(())
    }
}
