//! The sim backend: computers are simulated machines.
//!
//! It takes the steps that a hypervisor takes, in the same order and with the same ways back, in a [`World`] of files
//! where they cost microseconds. Machines have disks with something on them, identities, a console; delays and failures
//! come from a seed. What no real machine would do is refused, so that a job that goes wrong here would have gone wrong
//! there. It is for trying vcld out without a hypervisor, for rehearsing a site, and for tests at scale.
//!
//! State is the world's alone: this type holds its settings and the world's place. Its guests are reached by an OS
//! module of its own ([`SimOs`]), since no ssh server answers in them.

mod capture;
mod chance;
mod disk;
mod hand;
mod load;
mod look;
mod machine;
mod os;
#[cfg(test)]
mod tests;
mod users;
mod vm;
mod world;

pub use chance::{Chance, Failures, Throw};
pub use machine::{Content, Domain, Effect, Hand, Identity, Machine, Overlay};
pub use os::SimOs;
pub use users::User;
pub use world::{Hook, Line, Moment, Refusal, World, fold};

use crate::{
    Capabilities, Capability, Captured, Error, ErrorKind, Provisioning, Result, Target, VmTarget, Work,
};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use std::net::IpAddr;
use std::sync::Arc;
use vcl_images::Staging;
use vcl_job::{AnyStep, Cx, Job, Undo, undo_in};
use vcl_os::{EndState, Os};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmPreview, VmView};
use vcl_types::{BackendName, Computer, ComputerName, Endpoint, HostKey};

/// What a sim backend instance is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The instance's name.
    pub name: BackendName,
    /// Where its world lives.
    pub directory: Utf8PathBuf,
    /// Whether other nodes use the same world.
    pub shared: bool,
    /// Delays and failures.
    pub chance: Chance,
    /// In what state its captures want the OS to leave the computer.
    pub end: EndState,
}

/// A simulated host as a backend.
pub struct Sim {
    settings: Settings,
    world: Arc<World>,
    os: SimOs,
}

impl Sim {
    /// A backend on the world in that directory, which gets some machines that are not vcld's when it is new.
    ///
    /// # Errors
    /// The world cannot be made.
    pub fn new(settings: Settings) -> Result<Self> {
        let failed = |e| {
            let directory = &settings.directory;
            Error::caused(ErrorKind::Failed, format!("making the simulated world in {directory}"), e)
        };
        let world = World::open(&settings.directory).map_err(failed)?;
        vm::found(&world).map_err(failed)?;
        let os = SimOs::new(world.clone(), settings.chance);
        Ok(Self { settings, world, os })
    }
    /// Its world.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }
}

/// The name of a computer's machine in the world.
#[must_use]
pub fn machine_name(computer: &ComputerName) -> String {
    format!("vcl-{computer}")
}

/// Where a machine answers, where its network says nothing: an address out of 10/8 that hangs on its name alone.
fn address(machine: &str) -> IpAddr {
    let bits = chance::mix(chance::hash(machine));
    IpAddr::from([10, bits as u8, (bits >> 8) as u8, ((bits >> 16) as u8).clamp(1, 254)])
}

/// The key that a machine's ssh server would show.
fn host_key(identity: &Identity) -> HostKey {
    HostKey { algorithm: "ssh-ed25519".into(), key: identity.host_key.clone() }
}

/// What a step begins with: is it to go on, how long does it take this time, and does it fail?
async fn pace(world: &World, chance: &Chance, cx: &Cx, machine: &str, step: &str) -> vcl_job::Result<()> {
    cx.check().await?;
    if chance.is_certain() {
        return Ok(());
    }
    let effects = world.machine(machine).await?.effects;
    let throw = chance.throw(machine, step, effects);
    tokio::select! {
        () = cx.stopped() => return Err(cx.stop_error()),
        () = tokio::time::sleep(throw.delay) => {} // why: the delay is what is simulated
    }
    let Some(kind) = throw.failure else { return Ok(()) };
    world.effect(machine, Effect::Failed { step: step.to_owned() }).await?;
    let rate = chance.failure_rate;
    Err(vcl_job::Error::new(kind, format!("`{step}` of {machine} fails by chance (failure_rate is {rate})")))
}

impl Sim {
    async fn pace(&self, cx: &Cx, machine: &str, step: &str) -> vcl_job::Result<()> {
        pace(&self.world, &self.settings.chance, cx, machine, step).await
    }
    /// Does something to a machine in a step.
    async fn put(&self, machine: &str, effect: Effect) -> vcl_job::Result<()> {
        self.world.effect(machine, effect).await.map(drop)
    }
    async fn machine(&self, machine: &str) -> Result<Machine> {
        self.world.machine(machine).await
    }
    /// A machine of vcld's, or of which there is nothing. One that vcld did not make is refused: it is never touched.
    async fn ours(&self, machine: &str) -> Result<Machine> {
        let there = self.machine(machine).await?;
        if there.is_foreign() {
            let context = format!("machine {machine} is there and vcld did not make it; rename the computer");
            return Err(Error::new(ErrorKind::NotOurs, context));
        }
        Ok(there)
    }
}

/// Every step of the backend, those no longer used included.
const STEPS: &[&dyn AnyStep<Sim>] = &[
    &load::PREPARE,
    &load::OVERLAY,
    &load::VARIABLES,
    &load::DEFINE,
    &load::START,
    &load::ADDRESS,
    &load::HOST_KEYS,
    &capture::READ,
    &capture::WAIT_OFF,
    &capture::COPY,
    &capture::COPY_FILE,
    &capture::STOP,
    &capture::UNDEFINE,
    &capture::DELETE,
    &vm::READ_SOURCE,
    &vm::SHUT_SOURCE,
    &vm::START_SOURCE,
];

#[async_trait]
impl Undo for Sim {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Provisioning for Sim {
    fn kind(&self) -> &'static str {
        "sim"
    }
    fn host(&self) -> Option<String> {
        Some(format!("sim:{}", self.settings.directory))
    }
    fn is_shared(&self) -> bool {
        self.settings.shared
    }
    fn os(&self) -> Option<&dyn Os> {
        Some(&self.os)
    }
    fn end_state(&self) -> EndState {
        self.settings.end
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
            .without(Capability::FreeSpace, "simulated disks take no room")
            .without(Capability::Written, "simulated disks take no room")
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        self.planned(work, target)
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.load_computer(job, target).await
    }
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.capture_computer(job, target, staging).await
    }
    async fn resume(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.boot(job, target, &machine_name(&target.computer.name)).await
    }
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.take_away(job, &machine_name(&computer.name)).await
    }
    async fn vms(&self) -> Result<Vec<VmView>> {
        self.list().await
    }
    async fn preview_vm(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        self.preview_source(target.vm).await
    }
    async fn capture_vm(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.capture_source(job, target, staging).await
    }
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        self.change_power(&machine_name(&computer.name), action).await
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        Ok(look::power_state(&self.machine(&machine_name(&computer.name)).await?))
    }
    async fn console(&self, computer: &Computer, lines: usize) -> Result<String> {
        self.console_tail(&machine_name(&computer.name), lines).await
    }
    async fn screenshot(&self, computer: &Computer) -> Result<Vec<u8>> {
        self.display(&machine_name(&computer.name)).await
    }
    async fn description(&self, computer: &Computer) -> Result<String> {
        self.describe(&machine_name(&computer.name)).await
    }
    async fn things(&self) -> Result<Vec<Thing>> {
        self.list_things().await
    }
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        self.remove_one(thing).await
    }
    async fn findings(&self) -> Vec<Finding> {
        self.look().await
    }
}
