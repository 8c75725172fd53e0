//! Backends with something wrong: sim, but for one thing each.

use async_trait::async_trait;
use camino::Utf8PathBuf;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{Job, Kind, Step, Undo, undo_in};
use vcl_os::{EndState, Os};
use vcl_provisioning::sim::{Effect, Sim, machine_name};
use vcl_provisioning::{
    Capabilities, Capability, Captured, Error, ErrorKind, Provisioning, Result, Target, VmTarget, Work,
};
use vcl_types::api::{Finding, PlannedStep, PowerAction, PowerState, Thing, VmPreview, VmView};
use vcl_types::{Computer, ComputerName, Endpoint, HostKeys};

/// What a crooked description tells.
pub(crate) const SECRET: &str = "correct-horse-battery-staple";

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    UnloadLeavesPlace,
    UndoForgotten,
    UndoNeedsMemory,
    UndoOnlyOnce,
    StepNotIdempotent,
    EffectOutsideStep,
    PreCaptureTwice,
    WrongEndState,
    LeavesOn,
    Publishes,
    CopiesSomethingElse,
    CopiesWhatWasLoaded,
    CopyGoesOnAfterCancel,
    CopyLimitIgnored,
    TakesForeign,
    RemovesForeign,
    ThingsBlind,
    AllMachinesManaged,
    SeesNeighbours,
    PowersLie,
    OnTwiceFails,
    PlanImpure,
    PlanLacksStep,
    OneEndpoint,
    KeysNotPinned,
    SecretDescribed,
    SecretToldByTheDying,
    UnreachableIsFailed,
    NoFindings,
    ConsoleUnbounded,
    DarkScreenshot,
    UnknownStepUndone,
    ResumeSkipsGuest,
    LacksButAnswers,
    LosesMachineInRace,
    FollowsNames,
}

/// Each fault and the case that has to catch it, behind those that it needs to have run.
pub(crate) const FAULTS: &[(Fault, &str)] = &[
    (Fault::UnloadLeavesPlace, "unload-twice"),
    (Fault::UndoForgotten, "load-called-off"),
    (Fault::UndoNeedsMemory, "load-killed-then-called-off"),
    (Fault::UndoOnlyOnce, "undo-twice"),
    (Fault::StepNotIdempotent, "load-killed"),
    (Fault::EffectOutsideStep, "load-replayed"),
    (Fault::PreCaptureTwice, "capture-contract"),
    (Fault::WrongEndState, "capture-contract"),
    (Fault::LeavesOn, "capture-contract"),
    (Fault::Publishes, "capture-publishes-nothing"),
    (Fault::CopiesSomethingElse, "capture-equals-source"),
    (Fault::CopiesWhatWasLoaded, "capture-equals-source"),
    (Fault::CopyGoesOnAfterCancel, "capture-cancelled-in-mid-copy"),
    (Fault::CopyLimitIgnored, "capture-copy-deadline"),
    (Fault::TakesForeign, "foreign-untouched"),
    (Fault::RemovesForeign, "things-are-vclds"),
    (Fault::ThingsBlind, "things-find-leaks"),
    (Fault::AllMachinesManaged, "machines-are-listed"),
    (Fault::SeesNeighbours, "two-instances"),
    (Fault::PowersLie, "powers-are-states"),
    (Fault::OnTwiceFails, "power-states"),
    (Fault::PlanImpure, "plan-is-what-happens"),
    (Fault::PlanLacksStep, "plan-is-what-happens"),
    (Fault::OneEndpoint, "many-at-once"),
    (Fault::KeysNotPinned, "guest-answers"),
    (Fault::SecretDescribed, "description,secrets-kept"),
    (Fault::SecretToldByTheDying, "load-killed,secrets-kept"),
    (Fault::UnreachableIsFailed, "unreachable"),
    (Fault::NoFindings, "findings"),
    (Fault::ConsoleUnbounded, "console-bounded"),
    (Fault::DarkScreenshot, "screenshot"),
    (Fault::UnknownStepUndone, "undo-unknown-step"),
    (Fault::ResumeSkipsGuest, "resume-after-capture"),
    (Fault::LacksButAnswers, "lacking-refused"),
    (Fault::LosesMachineInRace, "power-races"),
    (Fault::FollowsNames, "things-are-vclds"),
];

/// Sim, with that.
pub(crate) struct Crooked {
    sim: Sim,
    /// Where files of its own go.
    copies: Utf8PathBuf,
    fault: Fault,
    /// What this process has loaded.
    loaded: Mutex<BTreeSet<String>>,
    calls: Mutex<u32>,
}

/// A step that is done once and not again.
const MARK: Step<Crooked, String> = Step::new("mark").undo(|crooked, path| {
    Box::pin(async move {
        match std::fs::remove_file(&path) {
            Err(e) if crooked.is(Fault::UndoOnlyOnce) => {
                Err(vcl_job::Error::caused(Kind::Fatal, "unmarking", e))
            }
            _ => Ok(()),
        }
    })
});

/// Tells a secret if it is dropped with somebody to tell it to: in a process that dies.
struct LastWords(Mutex<Option<vcl_job::Doing>>);
impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some(doing) = self.0.lock().unwrap().take() {
            doing.event("dying", SECRET);
        }
    }
}

impl Crooked {
    pub(crate) fn new(sim: Sim, copies: Utf8PathBuf, fault: Fault) -> Self {
        Self { sim, copies, fault, loaded: Mutex::default(), calls: Mutex::default() }
    }
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
    fn file(&self, name: &str) -> String {
        std::fs::create_dir_all(&self.copies).unwrap();
        self.copies.join(name).into()
    }
    /// Where what was loaded on a computer lies, raw; it is not one of the files that count as left over.
    fn plain(&self, computer: &Computer) -> Utf8PathBuf {
        self.copies.with_file_name(format!("loaded-{computer}"))
    }
    async fn by_hand(&self, computer: &Computer, effects: &[Effect]) {
        for effect in effects {
            self.sim.world().by_hand(&machine_name(&computer.name), effect.clone()).await.unwrap();
        }
    }
    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| match e.kind {
            ErrorKind::Unreachable if self.is(Fault::UnreachableIsFailed) => {
                Error::new(ErrorKind::Failed, e.context)
            }
            _ => e,
        })
    }
}

#[async_trait]
impl Undo for Crooked {
    async fn undo(&self, step: &str, intent: Value) -> vcl_job::Result<()> {
        if step == MARK.name() {
            return undo_in(&[&MARK], self, step, intent).await;
        }
        let known = intent.as_str().is_some_and(|machine| self.loaded.lock().unwrap().contains(machine));
        match self.fault {
            Fault::UndoForgotten if step == "prepare host" => Ok(()),
            Fault::UndoNeedsMemory if step == "prepare host" && !known => Ok(()),
            Fault::UnknownStepUndone => match self.sim.undo(step, intent).await {
                Err(e) if e.kind == Kind::Diverged => Ok(()),
                other => other,
            },
            _ => self.sim.undo(step, intent).await,
        }
    }
}

#[async_trait]
impl Provisioning for Crooked {
    fn kind(&self) -> &'static str {
        "crooked"
    }
    fn os(&self) -> Option<&dyn Os> {
        // The stand-in leaves a disk as it is, so that nothing but what was written tells it from what was loaded.
        self.sim.os().filter(|_| !self.is(Fault::CopiesWhatWasLoaded))
    }
    fn capabilities(&self) -> Capabilities {
        match self.fault {
            Fault::LacksButAnswers => self.sim.capabilities().without(Capability::Console, "it says so"),
            _ => self.sim.capabilities(),
        }
    }
    fn end_state(&self) -> EndState {
        if self.is(Fault::WrongEndState) { EndState::Reboot } else { self.sim.end_state() }
    }
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let mut plan = self.sim.plan(work, target);
        let mut calls = self.calls.lock().unwrap();
        *calls += 1;
        match self.fault {
            Fault::PlanImpure => plan.push(PlannedStep { name: "count".into(), what: format!("to {calls}") }),
            Fault::PlanLacksStep => drop(plan.remove(0)),
            _ => {}
        }
        plan
    }
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let computer = target.computer;
        self.loaded.lock().unwrap().insert(machine_name(&computer.name));
        if self.is(Fault::EffectOutsideStep) {
            let n = self.copies.read_dir_utf8().map_or(0, Iterator::count);
            std::fs::write(self.file(&format!("call-{n}")), "").unwrap();
        }
        if matches!(self.fault, Fault::StepNotIdempotent | Fault::UndoOnlyOnce) {
            let path = self.file(&format!("mark-{computer}"));
            job.step(self, &MARK, path)
                .run(async |path, _| match self.fault {
                    Fault::StepNotIdempotent => std::fs::File::create_new(&path)
                        .map(drop)
                        .map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("making {path}"), e)),
                    _ => std::fs::write(&path, "").map_err(|e| vcl_job::Error::caused(Kind::Fatal, path, e)),
                })
                .await?;
        }
        if self.is(Fault::TakesForeign) && self.state(computer).await? != PowerState::Absent {
            self.by_hand(computer, &[Effect::CutPower, Effect::Undefine]).await;
        }
        let dying = LastWords(Mutex::default());
        if self.is(Fault::SecretToldByTheDying) {
            let path = self.file(&format!("mark-{computer}"));
            job.step(self, &MARK, path)
                .run(async |_, _| {
                    *dying.0.lock().unwrap() = vcl_job::doing();
                    Ok(())
                })
                .await?;
        }
        let loaded = self.sim.load(job, target).await;
        dying.0.lock().unwrap().take();
        let mut at = loaded?;
        if self.is(Fault::CopiesWhatWasLoaded) {
            let plain = self.plain(computer);
            self.sim.world().lay_out(&machine_name(&computer.name), 0, &plain).unwrap();
        }
        match self.fault {
            Fault::OneEndpoint => at.address = [10, 0, 0, 1].into(),
            Fault::KeysNotPinned => at.host_keys = HostKeys::first_use(),
            _ => {}
        }
        Ok(at)
    }
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let mut target = target;
        let endpoint = target.endpoint;
        if let (Fault::PreCaptureTwice, Some(at)) = (self.fault, endpoint) {
            let mut part = job.part("first").part("pre_capture");
            target.os.pre_capture(&mut part, target.guest(at), EndState::On).await?;
        }
        if self.is(Fault::CopyLimitIgnored) {
            target.limits.copy = Duration::from_secs(3600);
        }
        let captured = self.sim.capture(job, target, staging).await;
        match self.fault {
            Fault::LeavesOn => self.by_hand(target.computer, &[Effect::Start]).await,
            Fault::Publishes => {
                let library = staging.directory().parent().and_then(std::path::Path::parent).unwrap();
                std::fs::create_dir_all(library.join("fresh/1")).unwrap();
            }
            Fault::CopiesSomethingElse => {
                std::fs::copy(target.revision.path(&target.revision.manifest.disks[0].file), staging.disk(0))
                    .unwrap();
            }
            Fault::CopiesWhatWasLoaded => {
                let converted = std::process::Command::new("qemu-img")
                    .args(["convert", "-f", "raw", "-O", "qcow2", self.plain(target.computer).as_str()])
                    .arg(staging.disk(0))
                    .status();
                assert!(converted.unwrap().success());
            }
            Fault::CopyGoesOnAfterCancel if captured.is_err() => {
                // Whoever writes was not told, and is done after everything was taken back.
                let disk = staging.disk(0);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await; // why: it writes on
                    std::fs::write(disk, "the rest").unwrap();
                })
                .await
                .unwrap();
            }
            _ => {}
        }
        captured
    }
    async fn resume(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        match (self.fault, target.endpoint) {
            (Fault::ResumeSkipsGuest, Some(at)) => {
                self.by_hand(target.computer, &[Effect::Start]).await;
                Ok(at.clone())
            }
            _ => self.sim.resume(job, target).await,
        }
    }
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()> {
        self.sim.unload(job, computer).await?;
        let _ = std::fs::remove_file(self.copies.join(format!("mark-{computer}")));
        if self.is(Fault::UnloadLeavesPlace) {
            self.by_hand(computer, &[Effect::MakePlace]).await;
        }
        Ok(())
    }
    async fn vms(&self) -> Result<Vec<VmView>> {
        let mut vms = self.explained(self.sim.vms().await)?;
        if self.is(Fault::AllMachinesManaged) {
            vms.iter_mut().for_each(|vm| vm.managed = vm.name.trim_start_matches("vcl-").parse().ok());
        }
        Ok(vms)
    }
    async fn preview_vm(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        self.sim.preview_vm(target).await
    }
    async fn capture_vm(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.sim.capture_vm(job, target, staging).await
    }
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        let on = self.is(Fault::OnTwiceFails) && action == PowerAction::On;
        if on && self.state(computer).await? == PowerState::On {
            return Err(Error::new(ErrorKind::Refused, format!("{computer} is on")));
        }
        let answer = self.explained(self.sim.power(computer, action).await);
        if self.is(Fault::LosesMachineInRace) {
            let calls = {
                let mut calls = self.calls.lock().unwrap();
                *calls += 1;
                *calls
            };
            // The ninth is the first of the race.
            if calls == 9 {
                std::fs::write(self.file("lost-in-the-race"), "").unwrap();
            }
        }
        answer
    }
    async fn state(&self, computer: &Computer) -> Result<PowerState> {
        self.explained(self.sim.state(computer).await)
    }
    async fn console(&self, computer: &Computer, lines: usize) -> Result<String> {
        let lines = if self.is(Fault::ConsoleUnbounded) { usize::MAX } else { lines };
        self.sim.console(computer, lines).await
    }
    async fn screenshot(&self, computer: &Computer) -> Result<Vec<u8>> {
        match self.sim.screenshot(computer).await {
            Err(_) if self.is(Fault::DarkScreenshot) => Ok(b"\x89PNG\r\n\x1a\n".to_vec()),
            other => other,
        }
    }
    async fn description(&self, computer: &Computer) -> Result<String> {
        let text = self.sim.description(computer).await?;
        Ok(if self.is(Fault::SecretDescribed) { format!("{text} password {SECRET}") } else { text })
    }
    async fn things(&self) -> Result<Vec<Thing>> {
        let mut things = self.explained(self.sim.things().await)?;
        if self.is(Fault::ThingsBlind) {
            things.retain(|thing| thing.kind == "domain");
        }
        Ok(things)
    }
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        if self.is(Fault::FollowsNames)
            && let Some(name) = thing.name.strip_prefix("elsewhere/../")
        {
            for effect in [Effect::CutPower, Effect::Undefine] {
                self.sim.world().by_hand(name, effect).await?;
            }
        }
        match self.sim.remove_thing(thing).await {
            Err(_) if self.is(Fault::RemovesForeign) && thing.kind == "domain" => {
                for effect in [Effect::CutPower, Effect::Undefine, Effect::RemovePlace] {
                    self.sim.world().by_hand(&thing.name, effect).await?;
                }
                Ok(())
            }
            other => other,
        }
    }
    async fn powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        let mut powers = self.explained(self.sim.powers().await)?;
        if self.is(Fault::PowersLie) {
            powers.values_mut().for_each(|power| *power = PowerState::On);
        }
        Ok(powers)
    }
    async fn findings(&self) -> Vec<Finding> {
        if self.is(Fault::NoFindings) { Vec::new() } else { self.sim.findings().await }
    }
}
