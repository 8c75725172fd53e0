//! A simulated world for the kit.

use crate::crooked::{Crooked, Fault};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use std::sync::Arc;
use vcl_images::{Format, Library, Progress, digest};
use vcl_job::{Cx, Job, MemoryJournal, Undo};
use vcl_os::{EndState, Os};
use vcl_provisioning::conformance::{Foreign, GuestImage, NoRemotes, Result, World};
use vcl_provisioning::sim::{self, Chance, Content, Effect, Overlay, Settings, Sim, machine_name};
use vcl_provisioning::{Capabilities, Limits, Provisioning, Target, Work};
use vcl_types::api::{Finding, PlannedStep, PowerState};
use vcl_types::{Computer, ComputerName, Digest, Endpoint, Nic, NicRole};

pub(crate) struct SimWorld {
    directory: tempfile::TempDir,
    end: EndState,
    world: Arc<sim::World>,
    /// What is wrong with the backend.
    fault: Option<Fault>,
}

impl SimWorld {
    pub(crate) fn new(end: EndState) -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let directory =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let root = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        std::fs::create_dir(root.join("library")).unwrap();
        let world = sim::World::open(root.join("sim")).unwrap();
        Self { directory, end, world, fault: None }
    }
    /// One whose backend has this wrong with it.
    pub(crate) fn with(fault: Fault) -> Self {
        Self { fault: Some(fault), ..Self::new(EndState::Off) }
    }
    /// An instance that declares these.
    pub(crate) fn only(&self, capabilities: Capabilities) -> Result<Arc<dyn Provisioning>> {
        Ok(Arc::new(Modest(self.instance("sim")?, capabilities)))
    }
    fn opened(&self, directory: &str) -> Result<Arc<dyn Provisioning>> {
        let sim = self.instance(directory)?;
        Ok(match self.fault {
            Some(fault) => Arc::new(Crooked::new(sim, self.root().join("sim/copies"), fault)),
            None => Arc::new(sim),
        })
    }
    fn root(&self) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.directory.path().to_owned()).unwrap()
    }
    fn instance(&self, directory: &str) -> Result<Sim> {
        Ok(Sim::new(Settings {
            name: "sim".parse()?,
            directory: self.root().join(directory),
            shared: true,
            chance: Chance::default(),
            end: self.end,
        })?)
    }
}

/// What a new world has in it that is not vcld's.
const FOUNDED: [&str; 3] = ["old-web", "template", "two-disks"];

#[async_trait]
impl World for SimWorld {
    fn name(&self) -> &str {
        "sim"
    }
    async fn open(&self) -> Result<Arc<dyn Provisioning>> {
        self.opened("sim")
    }
    fn computer(&self, name: ComputerName) -> Computer {
        let nic = Nic {
            network: "net".parse().unwrap(),
            role: NicRole::Management,
            mac: "52:54:00:00:00:01".into(),
            address: None,
        };
        let (cpus, memory) = (None, None);
        Computer { name, backend: "sim".parse().unwrap(), cpus, memory, nics: vec![nic], tags: Vec::new() }
    }
    async fn left(&self) -> Result<Vec<String>> {
        let ours = |name: &String, state: &serde_json::Value| {
            let foreign = state["domain"].is_object() && state["domain"]["owner"].is_null();
            !FOUNDED.contains(&name.as_str()) && !foreign
        };
        let machines = self.world.snapshot()?.into_iter().filter(|(name, state)| ours(name, state));
        let mut left: Vec<String> = machines.map(|(name, state)| format!("{name} {state}")).collect();
        // What no real machine would do is never to be tried; a process that lost its lease may try, and is refused.
        let refused = self.world.refusals()?.into_iter().filter(|r| !r.why.contains("comes back after"));
        left.extend(refused.map(|r| format!("{} refused {:?}: {}", r.machine, r.line.effect, r.why)));
        let copies = self.root().join("sim/copies");
        for file in copies.read_dir_utf8().into_iter().flatten() {
            left.push(format!("copy {}", file?.file_name()));
        }
        Ok(left)
    }
    fn library(&self) -> Option<Utf8PathBuf> {
        Some(self.root().join("library"))
    }
    async fn guest(&self, library: &Library) -> Result<Option<GuestImage>> {
        let revision = library.get(&"kit-disk@1".parse()?)?;
        let (remotes, user, limits) = (Arc::new(NoRemotes), "root".into(), Limits::default());
        Ok(Some(GuestImage { revision, os: None, remotes, user, limits }))
    }
    async fn on_disk(&self, computer: &Computer) -> Result<Option<Digest>> {
        let plain = self.root().join("on-disk");
        self.world.lay_out(&machine_name(&computer.name), 0, &plain)?;
        let cx = Cx::detached(Arc::new(MemoryJournal::default()), <_>::default(), Limits::default().copy);
        let (path, scratch) = (plain.as_std_path(), self.directory.path());
        Ok(Some(digest::content(&cx, path, Format::Raw, scratch, &Progress::none()).await?.digest()))
    }
    async fn write(&self, computer: &Computer) -> Result<bool> {
        let written = Effect::Write { path: "/root/marker".into(), text: "found-me".into() };
        self.world.by_hand(&machine_name(&computer.name), written).await?;
        Ok(true)
    }
    async fn foreign(&self, what: Foreign, computer: &Computer) -> Result<Option<String>> {
        let machine = machine_name(&computer.name);
        if what == Foreign::Put {
            let overlay = Overlay { on: "an admin's".into(), size: 1 << 20, content: Content::default() };
            for effect in [
                Effect::MakePlace,
                Effect::MakeOverlay { disk: 0, overlay },
                Effect::Define { disks: vec![0], owner: None },
                Effect::Start,
            ] {
                self.world.by_hand(&machine, effect).await?;
            }
        }
        let there = self.world.machine(&machine).await?;
        let foreign = there.domain.as_ref().is_some_and(|domain| domain.owner.is_none());
        if what == Foreign::Remove && foreign {
            for effect in [Effect::CutPower, Effect::Undefine, Effect::RemovePlace] {
                self.world.by_hand(&machine, effect).await?;
            }
        }
        Ok(foreign.then(|| format!("{there:?}")))
    }
    async fn source(&self) -> Result<Option<String>> {
        Ok(Some("old-web".into()))
    }
    async fn unreachable(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        let instance = self.opened("gone")?;
        std::fs::remove_dir_all(self.root().join("gone"))?;
        Ok(Some(instance))
    }
    async fn neighbour(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        // One that looks into the wrong world sees what is not its own.
        let directory = if self.fault == Some(Fault::SeesNeighbours) { "sim" } else { "other" };
        Ok(Some(Arc::new(self.instance(directory)?)))
    }
    fn secrets(&self) -> Vec<String> {
        self.fault.iter().map(|_| crate::crooked::SECRET.to_owned()).collect()
    }
}

/// Sim that can no more than it says, as one whose author wrote nothing else.
struct Modest(Sim, Capabilities);
#[async_trait]
impl Undo for Modest {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        self.0.undo(step, intent).await
    }
}
#[async_trait]
impl Provisioning for Modest {
    fn kind(&self) -> &'static str {
        "modest"
    }
    fn capabilities(&self) -> Capabilities {
        self.1
    }
    fn os(&self) -> Option<&dyn Os> {
        self.0.os()
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        self.0.plan(work, target)
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        self.0.load(job, target).await
    }
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.0.unload(job, computer).await
    }
    async fn state(&self, computer: &Computer) -> vcl_provisioning::Result<PowerState> {
        self.0.state(computer).await
    }
    async fn findings(&self) -> Vec<Finding> {
        self.0.findings().await
    }
}
