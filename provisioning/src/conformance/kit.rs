//! The kit at work on one world: what it has prepared, the jobs it runs, and how it takes everything back.

use super::cases::Case;
use super::deed::{Deed, Ended, Made, Process, Work};
use super::disk;
use super::journals::{Cut, Ear, Numbered};
use super::stand_in::{Lent, Manner, NoRemotes};
use super::world::{Foreign, GuestImage, Offer, World};
use crate::{Capability, Captured, ErrorKind, Limits, Provisioning, Target, VmTarget};
use camino::Utf8Path;
use std::any::Any;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vcl_images::{Format, Library, Staging, staging_name};
use vcl_job::{Control, Flow, Journal, Kind, Outcome, Owners, Record, Run, Undo, execute};
use vcl_os::{Os, Remotes};
use vcl_types::{Computer, ComputerName, Digest, Endpoint, JobId, KeySource, Revision};

/// Why a case ends before its end.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    Skipped(String),
}
impl<E: std::error::Error> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(vcl_job::chain(&error))
    }
}
/// What a case comes to.
pub(super) type Verdict<T = ()> = Result<T, Stop>;

pub(super) fn failed<T>(why: impl Into<String>) -> Verdict<T> {
    Err(Stop::Failed(why.into()))
}
pub(super) fn skipped<T>(why: impl Into<String>) -> Verdict<T> {
    Err(Stop::Skipped(why.into()))
}
fn world_failed(error: Box<dyn std::error::Error + Send + Sync>) -> Stop {
    Stop::Failed(format!("the world itself: {}", vcl_job::chain(&*error)))
}

/// Ends the case unless that is so.
macro_rules! ensure {
    ($so:expr, $($why:tt)+) => {
        if !$so {
            return $crate::conformance::kit::failed(format!($($why)+));
        }
    };
}
pub(super) use ensure;

/// What a panic said.
pub(super) fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned()
}

/// What the cases work with.
pub(super) struct Kit<'w> {
    pub(super) world: &'w dyn World,
    /// The first process, which lives through all cases.
    pub(super) backend: Arc<dyn Provisioning>,
    pub(super) library: Library,
    pub(super) revision: Revision,
    guest: Option<GuestImage>,
    os: Option<Arc<dyn Os>>,
    remotes: Option<Arc<dyn Remotes>>,
    /// What was there before.
    before: Mutex<BTreeSet<String>>,
    jobs: AtomicI64,
    now: Mutex<Now>,
    /// Secrets that were read where they must not be.
    leaks: Mutex<BTreeSet<String>>,
    /// Where the host keys of guests were from when they were handed over.
    keys: Mutex<Vec<KeySource>>,
    _directory: Option<tempfile::TempDir>,
}

/// Reads what a life has told when that is over, however it ends: one that dies is dropped where it stands.
struct Reading<'k, 'w> {
    kit: &'k Kit<'w>,
    ear: Arc<Ear>,
}
impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        self.ear.events().iter().for_each(|event| self.kit.read("an event", event));
    }
}

/// The case under way.
#[derive(Default)]
struct Now {
    number: usize,
    computers: Vec<Computer>,
}

impl<'w> Kit<'w> {
    pub(super) async fn new(world: &'w dyn World) -> super::Result<Self> {
        let before = world.left().await?.into_iter().collect();
        let backend = world.open().await?;
        let (directory, root) = match world.library() {
            Some(root) => (None, root),
            None => {
                let directory = tempfile::Builder::new().prefix("vcl-conformance-").tempdir()?;
                let path =
                    Utf8Path::from_path(directory.path()).ok_or("the temporary directory is not UTF-8")?;
                let path = path.to_owned();
                (Some(directory), path)
            }
        };
        let library = Library::open(&root)?;
        let revision = match world.revision(&library).await? {
            Some(revision) => revision,
            None => disk::publish(&library, backend.capabilities().has(Capability::Imaging)).await?,
        };
        let guest = world.guest(&library).await?;
        Ok(Self {
            world,
            backend,
            library,
            revision,
            guest,
            os: world.os(),
            remotes: world.remotes(),
            before: Mutex::new(before),
            jobs: AtomicI64::new(1),
            now: Mutex::default(),
            leaks: Mutex::default(),
            keys: Mutex::default(),
            _directory: directory,
        })
    }
    pub(super) fn kind(&self) -> &'static str {
        self.backend.kind()
    }
    /// Whether the backend declares that.
    pub(super) fn can(&self, what: Capability) -> bool {
        self.backend.capabilities().has(what)
    }
    /// Why a case is not tried at all.
    pub(super) fn left_out(&self, case: &Case) -> Option<String> {
        let capabilities = self.backend.capabilities();
        let lacking =
            case.of.iter().chain(case.needs).find_map(|what| Some((what, capabilities.lacks(*what)?)));
        match lacking {
            Some((what, why)) => Some(format!("the backend lacks `{what}`: {why}")),
            None => self.world.leaves_out(case),
        }
    }
    /// Whether its machines exist only while they are loaded.
    pub(super) fn makes(&self) -> bool {
        self.world.only().is_none()
    }
    /// Skips a case that is about machines which are not there.
    pub(super) fn must_make(&self) -> Verdict {
        if self.makes() { Ok(()) } else { skipped("its machines are always there") }
    }
    /// Skips a case for what the world has not.
    pub(super) fn without<T>(&self, what: Offer) -> Verdict<T> {
        skipped(self.world.why_not(what))
    }
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn enter(&self, _: &Case) {
        let mut now = self.now();
        now.number += 1;
        now.computers.clear();
    }
    pub(super) fn guest(&self) -> Verdict<&GuestImage> {
        self.guest.as_ref().map_or_else(|| self.without(Offer::Guest), Ok)
    }

    // ── computers ──

    /// A computer that holds nothing and that this case has not had yet.
    pub(super) fn computer(&self) -> Verdict<Computer> {
        Ok(self.named(self.fresh()?))
    }
    /// One for a guest to boot on.
    pub(super) fn guest_computer(&self) -> Verdict<Computer> {
        let computer = self.world.guest_computer(self.fresh()?);
        self.now().computers.push(computer.clone());
        Ok(computer)
    }
    fn fresh(&self) -> Verdict<ComputerName> {
        let (case, nth) = {
            let now = self.now();
            (now.number, now.computers.len())
        };
        match self.world.only() {
            None => Ok(format!("kit{case}x{nth}").parse()?),
            Some(names) => match names.get(nth) {
                Some(name) => Ok(name.clone()),
                None => skipped(format!("the world has only {} computers", names.len())),
            },
        }
    }
    /// The computer of a name.
    pub(super) fn named(&self, name: ComputerName) -> Computer {
        let computer = self.world.computer(name);
        self.now().computers.push(computer.clone());
        computer
    }
    /// What there is beyond what was there before.
    pub(super) async fn left(&self) -> Verdict<Vec<String>> {
        let left = self.world.left().await.map_err(world_failed)?;
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(left.into_iter().filter(|line| !before.contains(line)).collect())
    }
    /// Fails if there is anything of the case's.
    pub(super) async fn nothing_left(&self) -> Verdict {
        let left = self.left().await?;
        ensure!(left.is_empty(), "left over: {}", left.join("; "));
        let now: BTreeSet<String> = self.world.left().await.map_err(world_failed)?.into_iter().collect();
        let before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<&String> = before.difference(&now).collect();
        ensure!(gone.is_empty(), "gone or changed: {gone:?}");
        Ok(())
    }
    /// Takes what is there for what was there before, so that what one case left is not said of all others.
    pub(super) async fn accept(&self) {
        if let Ok(now) = self.world.left().await {
            *self.before.lock().unwrap_or_else(PoisonError::into_inner) = now.into_iter().collect();
        }
    }
    pub(super) async fn foreign(&self, what: Foreign, computer: &Computer) -> Verdict<Option<String>> {
        self.world.foreign(what, computer).await.map_err(world_failed)
    }
    pub(super) async fn source(&self) -> Verdict<String> {
        match self.world.source().await.map_err(world_failed)? {
            Some(name) => Ok(name),
            None => self.without(Offer::Source),
        }
    }

    /// Another process opens the instance.
    pub(super) async fn open(&self) -> Verdict<Arc<dyn Provisioning>> {
        self.world.open().await.map_err(world_failed)
    }

    /// Takes back what a case left, and says if it should not have left it.
    pub(super) async fn tidy(&self) -> Verdict {
        let computers = std::mem::take(&mut self.now().computers);
        for computer in &computers {
            self.foreign(Foreign::Remove, computer).await?;
        }
        let mut first = None;
        for computer in computers {
            match self.run(&self.unload_of(&computer)).await {
                Outcome::Done(_) => {}
                other => drop(first.get_or_insert(format!("unloading {computer} ended as {other:?}"))),
            }
        }
        if self.can(Capability::Things) && !self.left().await?.is_empty() {
            self.remove_things().await?;
        }
        for leftover in self.library.leftovers()? {
            self.library.discard_staging(&leftover.name).await?;
        }
        first.map_or(Ok(()), failed)?;
        self.nothing_left().await
    }
    /// Removes all that the backend says is vcld's, as often as that helps.
    pub(super) async fn remove_things(&self) -> Verdict {
        let mut most = None;
        loop {
            let things = self.backend.things().await?;
            if things.is_empty() || most.is_some_and(|most| things.len() >= most) {
                return Ok(());
            }
            most = Some(things.len());
            for thing in &things {
                // Some are in the way of others, which is why it is tried again.
                let _ = self.backend.remove_thing(thing).await;
            }
        }
    }

    // ── jobs ──

    pub(super) fn job(&self) -> i64 {
        self.jobs.fetch_add(1, Ordering::SeqCst)
    }
    /// A staging of a job of its own.
    pub(super) fn staging(&self) -> Verdict<Staging> {
        Ok(self.library.staging(&staging_name(JobId(self.job()), 1))?)
    }
    fn deed(&self, work: Work, computer: &Computer) -> Deed {
        Deed {
            work,
            computer: computer.clone(),
            revision: self.revision.clone(),
            endpoint: None,
            limits: self.world.limits(),
            manner: Manner::Well,
            guest: false,
            counter: <_>::default(),
        }
    }
    pub(super) fn load_of(&self, computer: &Computer) -> Deed {
        self.deed(Work::Load, computer)
    }
    pub(super) fn unload_of(&self, computer: &Computer) -> Deed {
        self.deed(Work::Unload, computer)
    }
    pub(super) fn resume_of(&self, computer: &Computer, at: &Endpoint) -> Deed {
        self.deed(Work::Resume, computer).at(at)
    }
    pub(super) fn capture_of(&self, computer: &Computer, at: &Endpoint, to: &Staging) -> Deed {
        self.deed(Work::Capture(to.clone()), computer).at(at)
    }
    pub(super) fn capture_vm_of(&self, computer: &Computer, vm: &str, to: &Staging) -> Deed {
        self.deed(Work::CaptureVm { vm: vm.to_owned(), staging: to.clone() }, computer)
    }
    /// The same with the world's guest behind it.
    pub(super) fn with_guest(&self, mut deed: Deed) -> Verdict<Deed> {
        let guest = self.guest()?;
        deed.revision = guest.revision.clone();
        deed.limits = guest.limits;
        deed.guest = true;
        Ok(deed)
    }
    fn limits_user(&self, deed: &Deed) -> (Limits, &str) {
        let user = self.guest.as_ref().filter(|_| deed.guest).map_or("root", |guest| &guest.user);
        (deed.limits, user)
    }

    /// Runs a job from its beginning to its end.
    pub(super) async fn run(&self, deed: &Deed) -> Ended {
        self.run_on(Numbered::new(self.job()), deed).await
    }
    /// Runs a job that this journal is of.
    pub(super) async fn run_on(&self, journal: Arc<dyn Journal>, deed: &Deed) -> Ended {
        let (backend, observer) = (self.backend.clone(), Ear::new());
        self.live(Process { backend, journal, observer, control: Control::default() }, deed).await
    }
    /// One life of a job.
    pub(super) async fn live(&self, process: Process, deed: &Deed) -> Ended {
        let Process { backend, journal, observer, control } = process;
        let _reading = Reading { kit: self, ear: observer.clone() };
        let lent_os = self.guest.as_ref().filter(|_| deed.guest).map_or(&self.os, |guest| &guest.os);
        let os = Lent {
            inner: lent_os.as_deref().or(backend.os()),
            manner: deed.manner,
            counter: deed.counter.clone(),
        };
        let remotes: &dyn Remotes = match (&self.guest, &self.remotes) {
            (Some(guest), _) if deed.guest => &*guest.remotes,
            (_, Some(remotes)) => &**remotes,
            _ => &NoRemotes,
        };
        let parts: [(&str, &dyn Undo); 3] = [("work", &*backend), ("post_load", &os), ("pre_capture", &os)];
        let owners = Owners { flow: &*backend, parts: &parts };
        let run = Run { journal: journal.clone(), observer, control, owners };
        let flow = Flow { name: "conformance", version: 1, deadline: None };
        let (limits, user) = self.limits_user(deed);
        let target = Target {
            computer: &deed.computer,
            revision: &deed.revision,
            os: &os,
            remotes,
            user,
            hooks: None,
            limits,
            endpoint: deed.endpoint.as_ref(),
        };
        let ended = execute(run, flow, async { Ok(()) }, |job, ()| work(&*backend, job, deed, target)).await;
        if let Ok(records) = journal.read().await
            && let Ok(text) = serde_json::to_string(&records)
        {
            self.read("a journal", &text);
        }
        ended
    }
    /// Runs a job in a process that dies at one of its writes; `None` when it did.
    pub(super) async fn run_until(&self, cut: Arc<Cut>, deed: &Deed) -> Verdict<Option<Ended>> {
        let backend = self.open().await?;
        let process =
            Process { backend, journal: cut.clone(), observer: Ear::new(), control: Control::default() };
        tokio::select! {
            biased;
            () = cut.died.notified() => Ok(None),
            ended = self.live(process, deed) => Ok(Some(ended)),
        }
    }
    /// A plan for what a deed would do.
    pub(super) fn plan(&self, work: crate::Work, deed: &Deed) -> Vec<vcl_types::api::PlannedStep> {
        let os = Lent {
            inner: self.os.as_deref().or(self.backend.os()),
            manner: deed.manner,
            counter: deed.counter.clone(),
        };
        let (limits, user) = self.limits_user(deed);
        let target = Target {
            computer: &deed.computer,
            revision: &deed.revision,
            os: &os,
            remotes: &NoRemotes,
            user,
            hooks: None,
            limits,
            endpoint: deed.endpoint.as_ref(),
        };
        self.backend.plan(work, &target)
    }

    /// Loads a computer with the kit's disk.
    pub(super) async fn load(&self, computer: &Computer) -> Verdict<Endpoint> {
        self.endpoint(&self.load_of(computer)).await
    }
    /// Runs what answers an endpoint.
    pub(super) async fn endpoint(&self, deed: &Deed) -> Verdict<Endpoint> {
        match done(self.run(deed).await)? {
            Made::Endpoint(endpoint) => {
                if deed.guest {
                    let met = deed.counter.calls().keys;
                    self.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(met);
                }
                Ok(endpoint)
            }
            other => failed(format!("no endpoint but {other:?}")),
        }
    }
    pub(super) async fn captured(&self, deed: &Deed) -> Verdict<Captured> {
        match done(self.run(deed).await)? {
            Made::Captured(captured) => Ok(captured),
            other => failed(format!("no capture but {other:?}")),
        }
    }
    pub(super) async fn unload(&self, computer: &Computer) -> Verdict {
        done(self.run(&self.unload_of(computer)).await).map(drop)
    }

    // ── disks ──

    /// Has something written to a computer's first disk; `false` where the world cannot.
    pub(super) async fn write(&self, computer: &Computer) -> Verdict<bool> {
        self.world.write(computer).await.map_err(world_failed)
    }
    /// What a captured computer's first disk must hold.
    pub(super) async fn expected(&self, computer: &Computer) -> Verdict<Digest> {
        let there = self.world.on_disk(computer).await.map_err(world_failed)?;
        let record = self.revision.manifest.disks.first();
        match (there, record) {
            (Some(digest), _) => Ok(digest),
            (None, Some(record)) => Ok(record.content_digest.clone()),
            (None, None) => skipped("the revision has no disk"),
        }
    }
    /// What the first disk that was captured holds.
    pub(super) async fn got(&self, staging: &Staging, captured: &Captured) -> Verdict<Digest> {
        let Some(disk) = captured.disks.first() else { return failed("a capture without a disk") };
        let format: Format = disk.format.parse()?;
        disk::content(&staging.path(&disk.file)?, format).await.map_err(world_failed)
    }

    // ── secrets ──

    /// Looks for what nobody may read.
    pub(super) fn read(&self, place: &str, text: &str) {
        let secrets = self.world.secrets();
        let told = secrets.iter().any(|secret| !secret.is_empty() && text.contains(secret.as_str()));
        if told || text.contains("PRIVATE KEY-----") {
            self.leaks.lock().unwrap_or_else(PoisonError::into_inner).insert(place.to_owned());
        }
    }
    /// Where the host keys of each guest so far were from that makes itself new ones.
    pub(super) fn keys(&self) -> Vec<KeySource> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    pub(super) fn leaks(&self) -> Vec<String> {
        self.leaks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

async fn work(
    backend: &dyn Provisioning,
    mut job: vcl_job::Job,
    deed: &Deed,
    target: Target<'_>,
) -> vcl_job::Result<Made> {
    let job = &mut job.part("work");
    match &deed.work {
        Work::Load => backend.load(job, target).await.map(Made::Endpoint),
        Work::Resume => backend.resume(job, target).await.map(Made::Endpoint),
        Work::Unload => {
            // As the daemon does it: what has been lent, and where it answered, is cleaned first.
            if target.endpoint.is_some() {
                backend.sanitize(job, target).await?;
            }
            backend.unload(job, target.computer).await.map(|()| Made::Nothing)
        }
        Work::Capture(staging) => backend.capture(job, target, staging).await.map(Made::Captured),
        Work::CaptureVm { vm, staging } => {
            let Target { os, remotes, user, hooks, limits, .. } = target;
            let target = VmTarget { vm, os, remotes, user, hooks, limits };
            backend.capture_vm(job, target, staging).await.map(Made::Captured)
        }
    }
}

/// What a job came to that had to be done.
pub(super) fn done(ended: Ended) -> Verdict<Made> {
    match ended {
        Outcome::Done(made) => Ok(made),
        Outcome::RolledBack(failure) => failed(format!("taken back ({}): {failure}", failure.kind)),
        other => failed(format!("ended as {other:?}")),
    }
}

/// Why a job was taken back that had to be, for one of these reasons.
pub(super) fn refused(what: &str, ended: Ended, kinds: &[Kind]) -> Verdict<String> {
    match ended {
        Outcome::RolledBack(failure) if kinds.contains(&failure.kind) => Ok(failure.message),
        Outcome::RolledBack(failure) => {
            failed(format!("{what} is refused as `{}` instead of one of {kinds:?}: {failure}", failure.kind))
        }
        other => failed(format!("{what} ended as {other:?}")),
    }
}

/// That a call was refused, for one of these reasons.
pub(super) fn is_error<T: std::fmt::Debug>(
    what: &str,
    result: crate::Result<T>,
    kinds: &[ErrorKind],
) -> Verdict {
    match result {
        Err(e) if kinds.contains(&e.kind) => Ok(()),
        Err(e) => failed(format!("{what} is {:?} instead of one of {kinds:?}: {}", e.kind, e.chain())),
        Ok(answer) => failed(format!("{what} answers {answer:?}")),
    }
}

/// A call that has to come back.
pub(super) async fn within<T>(what: &str, seconds: u64, call: impl Future<Output = T>) -> Verdict<T> {
    let limit = std::time::Duration::from_secs(seconds);
    tokio::time::timeout(limit, call)
        .await
        .or_else(|_| failed(format!("{what} does not come back in {seconds} s")))
}

/// The steps that a journal has begun, without their parts of the kit's.
pub(super) fn steps(records: &[Record]) -> Vec<String> {
    let started = records.iter().filter(|r| matches!(r, Record::Started { .. })).filter_map(Record::key);
    started.map(|key| key.strip_prefix("work/").unwrap_or(key).to_owned()).collect()
}
