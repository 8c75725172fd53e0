//! Lending a computer to whom a reservation is for, and preparing one that is nobody's yet.
//!
//! A computer that holds the wanted revision and that nobody has used is given out as it is; any other is loaded first.
//! What lets its user in (`access`) is the OS module's, in a part of its own; from before its first step on the computer
//! counts as used, whether its user comes or not, because nobody can know for sure that they did not. Who is let in is a
//! step's output ([`LOOK`]): what changes while the job is at work is seen when it is done, and another job lets them in.

use super::configure::Named;
use super::fetch::Lacking;
use super::unload::Lent;
use super::{Made, Running};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_queue::{Lending, ReservationRow};
use vcl_types::api::PowerState;
use vcl_types::lending::Purpose;
use vcl_types::state::{computer, reservation};
use vcl_types::{Computer, ComputerName, Endpoint, ImageRef, Loaded, ReservationId, Revision};

/// What a lending starts from, and a preparing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LendInput {
    computer: Computer,
    revision: Revision,
    /// For whom; nobody yet when it is only prepared.
    reservation: Option<ReservationId>,
    /// Where it answers, when it holds the revision and nobody has used it.
    warm: Option<Endpoint>,
    /// What it holds and has to be taken off it first.
    holds: Option<ImageRef>,
    lent: Option<Lent>,
    lacking: Vec<Lacking>,
    /// The reservation has had it already, and gets it anew.
    again: bool,
    /// By what it is configured after it is loaded.
    #[serde(default)]
    recipes: Vec<Named>,
    /// By what the reservation wants it to be configured, loaded or not.
    #[serde(default)]
    wanted: Option<Named>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Given {
    computer: ComputerName,
    reservation: ReservationId,
    as_it_is: bool,
    /// What is on it when this is undone stays known, for somebody to take it off.
    keep: bool,
}

/// The computer is the reservation's. Undone it is nobody's, and the reservation waits for another.
pub(super) const GIVE: Step<Running, Given> =
    Step::new("give computer").retry(TRANSIENT).undo(|run, given| {
        Box::pin(async move {
            let (queue, claim) = (&run.node.queue, &run.claim);
            let Given { computer, reservation, keep, .. } = given;
            let now = run.node.clock.now();
            Ok(queue
                .unlend(claim, "take computer from reservation", reservation, &computer, keep, now)
                .await?)
        })
    });

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Emptied {
    computer: ComputerName,
}
/// The computer is being filled and nobody's. Undone it is empty.
pub(super) const TAKE: Step<Running, Emptied> =
    Step::new("take idle computer").retry(TRANSIENT).undo(|run, emptied| {
        Box::pin(async move {
            let (queue, claim) = (&run.node.queue, &run.claim);
            queue
                .computer_event(claim, "untake idle computer", &emptied.computer, computer::Event::LoadFailed)
                .await?;
            Ok(queue.set_loaded(claim, &emptied.computer, None).await?)
        })
    });

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Filled {
    computer: ComputerName,
    loaded: Loaded,
    idle: bool,
}
/// Records what the computer holds.
pub(super) const FILLED: Step<Running, Filled> = Step::new("record fill").retry(TRANSIENT);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Usable {
    computer: ComputerName,
    reservation: ReservationId,
}
/// Who may come, as far as it changes what is granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Comers {
    owner: String,
    purpose: Purpose,
    from: Option<IpAddr>,
    with: Vec<String>,
    keys: Vec<String>,
}
impl Comers {
    fn of(row: &ReservationRow) -> Self {
        let (with, keys) =
            row.asked.as_ref().map(|asked| (asked.with.clone(), asked.keys.clone())).unwrap_or_default();
        Self { owner: row.owner.clone(), purpose: row.purpose, from: row.from, with, keys }
    }
}
/// Finds out who comes.
pub(super) const LOOK: Step<Running, Usable> = Step::new("look who comes").retry(TRANSIENT);

/// Says that the computer can be used.
pub(super) const USABLE: Step<Running, Usable> = Step::new("hand over").retry(TRANSIENT);
/// Says that somebody may be on the computer.
pub(super) const TAINT: Step<Running, Usable> = Step::new("mark as used").retry(TRANSIENT);

impl Running {
    pub(super) async fn begin_lend(
        &self,
        name: &ComputerName,
        image: &ImageRef,
        reservation: Option<ReservationId>,
        anew: bool,
    ) -> Result<LendInput> {
        let row = self.node.queue.computer(name).await?;
        let fit = match reservation {
            Some(_) => matches!(
                row.state,
                computer::State::Available | computer::State::Reserved | computer::State::InUse
            ),
            None => row.state == computer::State::Available,
        };
        if !fit {
            let why = row.reason.map(|r| format!(" ({r})")).unwrap_or_default();
            return Err(Error::new(Kind::Refused, format!("{name} is {}{why}", row.state)));
        }
        if let Some(id) = reservation {
            self.works_for(id, name, &[reservation::State::Loading]).await?;
        }
        let manifest = self.node.queue.manifest(image).await?;
        self.node.check_imaging(&row.computer, &manifest)?;
        let (revision, lacking) = self.here_or_lacking(&manifest).await?;
        // A host that does not answer is found out before anything is changed.
        let power = self.backend(&row.computer.backend)?.state(&row.computer).await?;
        self.node.os(revision.manifest.os)?;
        let image = revision.manifest.image_ref();
        let fresh = row.loaded.as_ref().filter(|l| {
            l.image == image
                && !row.tainted
                && power == PowerState::On
                && row.state == computer::State::Available
                && !anew
        });
        let again = match reservation {
            Some(id) if anew => self.node.queue.reservation(id).await?.usable.is_some(),
            _ => false,
        };
        let os = revision.manifest.os;
        let recipes = self.node.recipes(&row.computer, &image, os)?;
        let asked = match reservation {
            Some(id) => self.node.queue.reservation(id).await?.asked,
            None => None,
        };
        let wanted = asked.and_then(|asked| asked.configure);
        let wanted = wanted.map(|name| self.node.recipe_for(&name, &image, os)).transpose()?;
        let warm = fresh.map(|loaded| loaded.endpoint.clone());
        let holds = row.loaded.as_ref().filter(|_| warm.is_none()).map(|l| l.image.clone());
        Ok(LendInput {
            computer: row.computer,
            revision,
            reservation,
            lent: if warm.is_none() { self.lent(row.loaded).await } else { None },
            warm,
            holds,
            lacking,
            again,
            recipes,
            wanted,
        })
    }

    /// Loads a computer that is nobody's.
    pub(super) async fn prepare(&self, mut job: Job, input: LendInput) -> Result<Made> {
        let job = &mut job;
        let LendInput { computer, revision, warm, holds, lent, lacking, recipes, .. } = input;
        let image = revision.manifest.image_ref();
        if warm.is_some() {
            return Ok(Some(format!("{image} was on {computer} already")));
        }
        self.clear(job, &computer, holds, lent.as_ref(), lacking).await?;
        let taken = Emptied { computer: computer.name.clone() };
        job.step(self, &TAKE, taken)
            .run(async |taken, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                queue
                    .computer_event(claim, "take idle computer", &taken.computer, computer::Event::Load)
                    .await?;
                Ok(())
            })
            .await?;
        self.fill(job, (&computer, &revision), recipes, true).await?;
        Ok(Some(format!("{image} on {computer}")))
    }

    /// Gives a computer to a reservation.
    pub(super) async fn lend(&self, mut job: Job, input: LendInput) -> Result<Made> {
        let job = &mut job;
        let LendInput { computer, revision, reservation, warm, holds, lent, lacking, again, recipes, wanted } =
            input;
        let Some(reservation) = reservation else {
            return Err(Error::new(Kind::Fatal, "a lending without a reservation"));
        };
        let image = revision.manifest.image_ref();
        let reloaded = again && holds.is_some();
        if warm.is_none() && !reloaded {
            self.clear(job, &computer, holds.clone(), lent.as_ref(), lacking).await?;
        }
        let as_it_is = warm.is_some();
        let keep = as_it_is || reloaded;
        let given = Given { computer: computer.name.clone(), reservation, as_it_is, keep };
        job.step(self, &GIVE, given)
            .run(async |given, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                let how = if given.as_it_is { Lending::AsItIs } else { Lending::Load };
                Ok(queue
                    .begin_lending(claim, "give computer", given.reservation, &given.computer, how)
                    .await?)
            })
            .await?;
        if reloaded {
            let backend = self.backend(&computer.backend)?;
            self.take_traces(job, &computer, lent.as_ref()).await?;
            backend.unload(&mut job.part("unload"), &computer).await?;
        }
        let endpoint = match warm {
            Some(endpoint) => endpoint,
            None => self.fill(job, (&computer, &revision), recipes, false).await?,
        };
        if let Some(recipe) = wanted {
            // It is nobody else's as it is, also when this fails.
            let usable = Usable { computer: computer.name.clone(), reservation };
            job.step(self, &TAINT, usable)
                .key("configure")
                .run(async |usable, _| Ok(self.node.queue.taint(&self.claim, &usable.computer).await?))
                .await?;
            self.configured_as_wanted(job, (&computer, &endpoint), recipe).await?;
        }
        let let_in = self.let_in(job, &computer, &revision, &endpoint, reservation, "lend").await?;
        let usable = Usable { computer: computer.name.clone(), reservation };
        job.step(self, &USABLE, usable)
            .run(async |usable, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                let now = self.node.clock.now();
                queue.usable(claim, "hand over", usable.reservation, now).await?;
                // It may have been usable before: loaded anew, or told by a life that died since.
                if let Ok(row) = queue.reservation(usable.reservation).await
                    && row.usable.is_some_and(|at| at.timestamp_millis() == now.timestamp_millis())
                {
                    let begun = row.asked.as_ref().and_then(|asked| asked.start);
                    let begun = begun.map_or(row.since, |start| start.max(row.since));
                    self.node.insight.metrics.waited(now - begun);
                }
                Ok(())
            })
            .await?;
        // What was changed after that was looked at, and before anybody saw that it is usable, queued no job.
        let queue = &self.node.queue;
        if let Ok(row) = queue.reservation(reservation).await
            && Comers::of(&row) != let_in
            && let Err(e) = queue.admit(reservation).await
        {
            tracing::debug!(reservation = reservation.0, error = %e, "nobody else is let in");
        }
        self.announce(&computer.name, &image, &endpoint);
        Ok(Some(format!("{image} on {computer} for reservation {reservation}")))
    }

    /// Lets in whoever may be let in now.
    pub(super) async fn admit(&self, mut job: Job, input: LendInput) -> Result<Made> {
        let LendInput { computer, revision, reservation, warm, .. } = input;
        let (Some(reservation), Some(endpoint)) = (reservation, warm) else {
            return Err(Error::new(
                Kind::Refused,
                format!("{computer} holds nothing that anybody could be let in to"),
            ));
        };
        self.let_in(&mut job, &computer, &revision, &endpoint, reservation, "admit").await?;
        Ok(None)
    }

    pub(super) async fn begin_admit(
        &self,
        name: &ComputerName,
        reservation: ReservationId,
    ) -> Result<LendInput> {
        let row = self.node.queue.computer(name).await?;
        self.works_for(reservation, name, &[reservation::State::Ready, reservation::State::InUse]).await?;
        let Some(loaded) = row.loaded else {
            return Err(Error::new(Kind::Refused, format!("{name} holds nothing any more")));
        };
        let manifest = self.node.queue.manifest(&loaded.image).await?;
        Ok(LendInput {
            computer: row.computer,
            revision: self.node.library.future(&manifest)?,
            reservation: Some(reservation),
            warm: Some(loaded.endpoint),
            holds: None,
            lent: None,
            lacking: Vec::new(),
            again: false,
            recipes: Vec::new(),
            wanted: None,
        })
    }

    /// Refuses what an old job would do to a computer that is somebody else's by now.
    async fn works_for(
        &self,
        id: ReservationId,
        name: &ComputerName,
        states: &[reservation::State],
    ) -> Result<()> {
        let row = self.node.queue.reservation(id).await?;
        let has = self.node.queue.computer(name).await?.reservation;
        if row.computer.as_ref() == Some(name) && has == Some(id) && states.contains(&row.state) {
            return Ok(());
        }
        let on = row.computer.map(|c| format!(" on {c}")).unwrap_or_default();
        Err(Error::new(
            Kind::Refused,
            format!("reservation {id} is {}{on}, and waits for this no more", row.state),
        ))
    }

    /// Has what is lacking and takes off what the computer holds.
    async fn clear(
        &self,
        job: &mut Job,
        computer: &Computer,
        holds: Option<ImageRef>,
        lent: Option<&Lent>,
        lacking: Vec<Lacking>,
    ) -> Result<()> {
        if !lacking.is_empty() {
            self.fetch_all(&mut job.part("fetch"), lacking, false).await?;
        }
        if let Some(old) = holds {
            job.event("taken-off", format!("{old} is taken off {computer}"));
            self.take_traces(job, computer, lent).await?;
            self.take_back(job, computer, "another image is loaded").await?;
        }
        Ok(())
    }

    /// Has the backend load the computer, configures it, and records what it holds.
    async fn fill(
        &self,
        job: &mut Job,
        (computer, revision): (&Computer, &Revision),
        recipes: Vec<Named>,
        idle: bool,
    ) -> Result<Endpoint> {
        let backend = self.backend(&computer.backend)?;
        let target = self.node.target(computer, revision, None)?;
        let endpoint = backend.load(&mut job.part("load"), target).await?;
        self.configured_by(job, (computer, &endpoint), recipes).await?;
        let image = revision.manifest.image_ref();
        let loaded = Loaded { image, endpoint: endpoint.clone(), since: self.node.clock.now() };
        job.step(self, &FILLED, Filled { computer: computer.name.clone(), loaded, idle })
            .run(async |filled, _| {
                let (queue, claim) = (&self.node.queue, &self.claim);
                Ok(queue.filled(claim, "record fill", &filled.computer, &filled.loaded, filled.idle).await?)
            })
            .await?;
        Ok(endpoint)
    }

    /// Opens the computer to the reservation's users, and answers to whom. It counts as used from before anybody could have
    /// come: a guest may have no firewall, and its user may come by a way that is open to whoever looks after it.
    pub(super) async fn let_in(
        &self,
        job: &mut Job,
        computer: &Computer,
        revision: &Revision,
        endpoint: &Endpoint,
        reservation: ReservationId,
        key: &str,
    ) -> Result<Comers> {
        let row = self.node.queue.reservation(reservation).await?;
        // An admin's load lets in whom the image lets in, and stays what it is.
        if row.purpose == Purpose::Direct {
            return Ok(Comers::of(&row));
        }
        let usable = Usable { computer: computer.name.clone(), reservation };
        let comers = job
            .step(self, &LOOK, usable.clone())
            .key(key)
            .run(async |usable, _| Ok(Comers::of(&self.node.queue.reservation(usable.reservation).await?)))
            .await?;
        // A seat that nobody has taken yet is ready, and closed.
        if comers.purpose == Purpose::Seat {
            return Ok(comers);
        }
        job.step(self, &TAINT, usable)
            .key(key)
            .run(async |usable, _| Ok(self.node.queue.taint(&self.claim, &usable.computer).await?))
            .await?;
        let row = self.node.queue.reservation(reservation).await?;
        let access = self.node.access_of(&row, revision.manifest.os).await?;
        let target = self.node.target(computer, revision, Some(endpoint))?;
        let inside = self.node.with_gateway(self.behind_nat(&computer.name, &access));
        target.os.grant(&mut job.part("access"), target.guest(endpoint), &inside).await?;
        // One that was usable before has its ports and keeps them, whatever becomes of this.
        let keep = key != "lend" || row.usable.is_some();
        self.open_ports(job, (computer, endpoint), &access, (key, keep)).await?;
        Ok(comers)
    }
}
