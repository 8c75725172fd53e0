//! Taking a computer back at the end of a reservation.
//!
//! What its user may have made is captured first where the reservation is for imaging. Then the user's traces are taken off: by the
//! OS module, always, because a site's hooks have to undo what they did. A machine that nobody has used goes on to the
//! next as it is if that worked; any other is unloaded, so that nothing hangs on that cleaning. A machine that its user has
//! shut down is started to be captured. A capture that fails leaves the computer as it was, for this to be tried again, or
//! in maintenance with everything on it: nothing that somebody built is thrown away.

use super::capture::How;
use super::publish::Making;
use super::unload::Lent;
use super::{Made, Running};
use serde::{Deserialize, Serialize};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_provisioning::Capability;
use vcl_types::api::PowerState;
use vcl_types::state::reservation;
use vcl_types::{Computer, ComputerName, Endpoint, Loaded, ReservationId, Revision};

/// What taking back starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct ReturnInput {
    computer: Computer,
    reservation: ReservationId,
    /// What is on the computer, if the reservation got as far as that.
    lent: Option<Lent>,
    endpoint: Option<Endpoint>,
    /// It is on.
    on: bool,
    /// Nobody can have used it, and it is on.
    clean: bool,
    /// Its users came by ports of a NAT host.
    #[serde(default)]
    nat: bool,
    /// It is to be captured first.
    imaging: Option<Imaging>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Imaging {
    making: Making,
    revision: Revision,
    loaded: Loaded,
    delta: bool,
    /// Its user has shut it down.
    power_on: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Returned {
    computer: ComputerName,
    reservation: ReservationId,
    kept: bool,
}

/// Records that the reservation is over and the computer available. There is no way back: what was half recorded when the
/// job was given up is recorded to its end.
pub(super) const END: Step<Running, Returned> = Step::new("end reservation")
    .retry(TRANSIENT)
    .undo(|run, returned| Box::pin(async move { run.record_return(&returned).await }));

impl Running {
    pub(super) async fn begin_return(&self, name: &ComputerName, id: ReservationId) -> Result<ReturnInput> {
        let row = self.node.queue.computer(name).await?;
        let reservation = self.node.queue.reservation(id).await?;
        // A lending that was called off has put the computer back already; somebody else may even have it.
        let its = reservation.computer.as_ref() == Some(name) && row.is_lent_for(id);
        let loaded = row.loaded.filter(|_| its);
        let power = match &loaded {
            Some(_) => self.backend(&row.computer.backend)?.state(&row.computer).await?,
            None => PowerState::Absent,
        };
        // Whoever was never seen connected may have built something all the same: a guest may not have said so.
        let wanted = reservation.is_to_be_captured() && row.tainted;
        let imaging = match &loaded {
            Some(loaded) if wanted && matches!(power, PowerState::On | PowerState::Off) => {
                self.imaging(&row.computer, loaded, power == PowerState::Off).await?
            }
            Some(_) if wanted && power == PowerState::Paused => {
                let message = format!(
                    "{name} is paused and is to be captured; resume it on its host, or give up what is on it: \
                     vclctl release {id} --discard"
                );
                return Err(Error::new(Kind::Refused, message));
            }
            _ => None,
        };
        Ok(ReturnInput {
            endpoint: loaded.as_ref().map(|l| l.endpoint.clone()),
            on: power == PowerState::On,
            clean: !row.tainted && loaded.is_some() && power == PowerState::On,
            lent: self.lent(loaded).await,
            computer: row.computer,
            reservation: id,
            imaging,
            nat: !self.node.queue.ports_of(id).await?.is_empty(),
        })
    }

    async fn imaging(&self, computer: &Computer, loaded: &Loaded, power_on: bool) -> Result<Option<Imaging>> {
        let backend = self.backend(&computer.backend)?;
        if let Some(why) = backend.capabilities().lacks(Capability::Capture) {
            let message = format!("what is on {computer} is not captured: {why}");
            self.node.queue.post_event("not-captured", Some(self.job()), Some(&computer.name), &message);
            return Ok(None);
        }
        let revision = self.node.library.get(&loaded.image)?;
        let note = Some("captured at the end of a reservation for imaging".to_owned());
        let on = Some(computer.backend.clone());
        let mut making = self.making(&loaded.image.name, Some(loaded.image.clone()), on, note).await?;
        making.os = revision.manifest.os;
        let delta = self.node.library.base(&loaded.image).is_ok();
        Ok(Some(Imaging { making, revision, loaded: loaded.clone(), delta, power_on }))
    }

    pub(super) async fn give_back(&self, mut job: Job, input: ReturnInput) -> Result<Made> {
        let job = &mut job;
        let ReturnInput { computer, reservation, lent, endpoint, on, mut clean, nat, imaging } = input;
        let mut made = None;
        if nat {
            self.shut_nat(job, &computer.name, reservation).await?;
        }
        if let Some(Imaging { making, revision, mut loaded, delta, power_on }) = imaging {
            let how = How { delta, power_on };
            let image = self.capture_into(job, &computer, &revision, &mut loaded, &making, how).await?;
            made = Some(image.to_string());
            // What is on it now has no identity and no users any more. The revision is there, whatever becomes of it.
            job.commit();
            match self.unmake(job, &computer, Some(&loaded.endpoint)).await {
                Ok(()) => {}
                Err(e) if e.kind.ends_the_job() => return Err(e),
                Err(e) => self.after_capture_failed(job, &computer.name, &image, &e).await?,
            }
        } else if let Some(lent) = &lent {
            let cleaned = match on {
                true => self.take_users_off(job, &computer, lent).await,
                false => Ok(()),
            };
            clean &= match cleaned {
                Ok(()) => true,
                Err(e) if e.kind.ends_the_job() => return Err(e),
                // Its machine is removed with everything that is on it.
                Err(e) => {
                    let why = e.failure();
                    job.event(
                        "not-cleaned",
                        format!("{computer} is unloaded with a user's traces on it: {why}"),
                    );
                    false
                }
            };
            if !clean {
                self.take_traces(job, &computer, Some(lent)).await?;
                self.unmake(job, &computer, endpoint.as_ref()).await?;
            }
        } else if endpoint.is_some() {
            self.unmake(job, &computer, endpoint.as_ref()).await?;
        }
        job.commit();
        let kept = clean && made.is_none();
        let returned = Returned { computer: computer.name.clone(), reservation, kept };
        job.step(self, &END, returned).run(async |returned, _| self.record_return(&returned).await).await?;
        Ok(made)
    }

    async fn unmake(&self, job: &mut Job, computer: &Computer, endpoint: Option<&Endpoint>) -> Result<()> {
        if let Some(endpoint) = endpoint {
            self.node.remotes.forget(endpoint).await;
        }
        self.backend(&computer.backend)?.unload(&mut job.part("unload"), computer).await
    }

    /// Takes off what letting its users in has put on it.
    async fn take_users_off(&self, job: &mut Job, computer: &Computer, lent: &Lent) -> Result<()> {
        let target = self.node.target(computer, lent.revision(), Some(lent.endpoint()))?;
        let mut guest = target.guest(lent.endpoint());
        // A guest that its user has broken is not waited for as long as one that boots.
        guest.limits.boot = std::time::Duration::from_secs(30);
        target.os.sanitize(&mut job.part("sanitize"), guest).await
    }

    async fn record_return(&self, returned: &Returned) -> Result<()> {
        let (queue, claim) = (&self.node.queue, &self.claim);
        let Returned { computer, reservation, kept } = returned;
        let now = self.node.clock.now();
        let over = queue.reservation(*reservation).await?.state == reservation::State::Ended;
        let released = queue.returned(claim, "end reservation", *reservation, computer, *kept, now).await?;
        if !over {
            let available = if released { format!("; {computer} is available") } else { String::new() };
            let message = format!("reservation {reservation} is over{available}");
            queue.post_event("reservation-ended", Some(self.job()), Some(computer), &message);
        }
        Ok(())
    }
}
