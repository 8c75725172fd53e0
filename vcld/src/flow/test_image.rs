//! A test of a revision: two clones of it run side by side, and are compared.
//!
//! The job has no computer of its own. It queues two loads, each a job like those that an administrator asks for, so that
//! whoever looks sees two computers that are somebody's, and nobody else gets them; both run before either is looked into.
//! Then it reads who the guests are, runs the site's scripts in both, keeps what it found out with the revision, and
//! queues two unloads.
//!
//! What its jobs are stands in the queue, where each names this one (`vcl_queue`'s `children`): a job that died finds them
//! there, and so does its undo, which calls loads off and unloads what they have loaded. Which computers have to be given
//! back is asked of the reservations that the loads opened, not remembered.
//!
//! A revision that does not pass makes the job fail, after everything was recorded and given back.

mod scripts;

use super::fetch::Lacking;
use super::{Made, Running};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vcl_job::{Cx, Error, Job, Kind, Result, Step, TRANSIENT, doing, minutes};
use vcl_os::SiteScript;
use vcl_queue::{JobRow, Part};
use vcl_types::state::job::State;
use vcl_types::{
    ComparedItem, Computer, ComputerName, Endpoint, Identity, ImageRef, ImageTest, JobId, JobKind, Revision,
    ScriptRun,
};

pub(crate) use scripts::TestScript;

/// How many clones there are.
pub(crate) const CLONES: usize = 2;
/// How often it is tried to have two computers that others took in the same moment.
const TAKEN_FROM_US: u32 = 20;
/// How often is looked for what nobody tells of: jobs that end on other nodes, times that come.
const LOOK: Duration = Duration::from_secs(2);

/// What a test starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct TestInput {
    revision: Revision,
    wait: bool,
    scripts: Vec<TestScript>,
    lacking: Vec<Lacking>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Begin {
    image: ImageRef,
    wait: bool,
}

/// A computer with its load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Started {
    computer: ComputerName,
    job: JobId,
}

/// A clone: where it answers, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Loaded {
    computer: Computer,
    at: std::result::Result<Endpoint, String>,
}

/// What is asked of one guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Asked {
    computer: ComputerName,
    script: Option<TestScript>,
    number: usize,
}

/// Queues the loads. It may have to wait for computers for as long as a site is busy. Undone, no computer is loaded for the
/// job any more.
pub(super) const START: Step<Running, Begin> = Step::new("start clones")
    .deadline(minutes(7 * 24 * 60))
    .retry(TRANSIENT)
    .undo(|run, _| Box::pin(async move { run.take_clones_back().await }));
/// Waits until both are loaded; what a load takes is the load's to limit.
pub(super) const LOADED: Step<Running, Vec<Started>> =
    Step::new("load clones").deadline(minutes(24 * 60)).retry(TRANSIENT);
/// Asks a guest who it is.
pub(super) const IDENTITY: Step<Running, Asked> =
    Step::new("read identity").deadline(minutes(15)).retry(TRANSIENT);
/// Runs one of the site's scripts in a guest. What one takes is limited by `deadlines.command`.
pub(super) const SCRIPT: Step<Running, Asked> =
    Step::new("run test script").deadline(minutes(24 * 60)).retry(TRANSIENT);
/// Keeps what was found out with the revision.
pub(super) const RECORD: Step<Running, ImageRef> = Step::new("record test").retry(TRANSIENT);
/// Has the computers unloaded.
pub(super) const GIVE_BACK: Step<Running, ImageRef> =
    Step::new("give clones back").deadline(minutes(24 * 60)).retry(TRANSIENT);

impl Running {
    pub(super) async fn begin_test(&self, image: &ImageRef, wait: bool) -> Result<TestInput> {
        let manifest = self.node.queue.manifest(image).await?;
        let (revision, lacking) = self.here_or_lacking(&manifest).await?;
        let scripts = self.node.test_scripts(revision.manifest.os)?;
        Ok(TestInput { revision, wait, scripts, lacking })
    }

    pub(super) async fn test_image(
        &self,
        mut job: Job,
        input: TestInput,
        drain: &CancellationToken,
    ) -> Result<Made> {
        let job = &mut job;
        let TestInput { revision, wait, scripts, lacking } = input;
        let image = revision.manifest.image_ref();
        if !lacking.is_empty() {
            // Once, before two loads fetch the same.
            self.fetch_all(&mut job.part("fetch"), lacking, false).await?;
        }
        let started = job
            .step(self, &START, Begin { image: image.clone(), wait })
            .run(async |begin, cx| self.start_clones(&revision, &begin, &cx, drain).await)
            .await?;
        let clones = job
            .step(self, &LOADED, started)
            .run(async |started, cx| self.clones_loaded(&image, &started, &cx, drain).await)
            .await?;
        let found = self.examine(job, &revision, &clones, &scripts).await?;
        let test = job
            .step(self, &RECORD, image.clone())
            .run(async |image, cx| {
                let test = ImageTest { at: self.node.clock.now(), ..found.clone() };
                cx.check().await?;
                self.node.queue.record_image_test(&self.claim, &image, &test).await?;
                let said = match test.verdict() {
                    None => format!("{image} passed its test"),
                    Some(why) => format!("{image} did not pass its test: {why}"),
                };
                self.node.queue.post_event("image-tested", Some(self.job()), None, &said);
                Ok(test)
            })
            .await?;
        job.step(self, &GIVE_BACK, image.clone()).run(async |_, _| self.take_clones_back().await).await?;
        match test.verdict() {
            None => Ok(Some(format!("{image} passed"))),
            Some(why) => Err(Error::new(Kind::Refused, format!("{image} did not pass: {why}"))),
        }
    }

    /// Finds two spare computers and queues their loads, unless it has before.
    async fn start_clones(
        &self,
        revision: &Revision,
        begin: &Begin,
        cx: &Cx,
        drain: &CancellationToken,
    ) -> Result<Vec<Started>> {
        let Begin { image, wait } = begin;
        let queue = &self.node.queue;
        let mut changes = queue.submitted();
        let (mut lost, mut told) = (0, false);
        loop {
            changes.borrow_and_update();
            cx.check().await?;
            let mut spare = self.node.spare(&revision.manifest).await?;
            // What this job has queued is found also where nothing is spare any more.
            let enough = spare.computers.len() >= CLONES;
            let two = if enough { spare.computers.drain(..CLONES).collect() } else { Vec::new() };
            match queue.load_clones(&self.claim, image, two, spare.between).await {
                Ok(jobs) if !jobs.is_empty() => return self.started(&jobs, cx).await,
                Ok(_) => {}
                Err(e) if e.kind == vcl_queue::Kind::Busy && lost < TAKEN_FROM_US => {
                    lost += 1;
                    continue;
                }
                Err(e) => return Err(e.into()),
            }
            let why = format!("a test of {image} takes two spare computers, and {}", spare.in_words());
            if !wait {
                let out = format!("free one, or wait for them: vclctl image test {image} --wait");
                return Err(Error::new(Kind::Refused, format!("{why}; {out}")));
            }
            if !told {
                cx.event("test-waits", format!("{why}; it waits for them"));
                told = true;
            }
            look_again(&mut changes, cx.token(), Some(drain)).await?;
        }
    }

    async fn started(&self, jobs: &[JobId], cx: &Cx) -> Result<Vec<Started>> {
        let mut started = Vec::new();
        for job in jobs {
            let row = self.node.queue.job(*job).await?;
            let none = || Error::new(Kind::Fatal, format!("job {job} is no load"));
            started.push(Started { computer: row.request.computer().ok_or_else(none)?.clone(), job: *job });
        }
        let all: Vec<String> = started.iter().map(|s| format!("{} by job {}", s.computer, s.job)).collect();
        cx.event("clones-started", format!("loaded for the test: {}", all.join(", ")));
        Ok(started)
    }

    /// Waits for the loads, and says where the clones answer.
    async fn clones_loaded(
        &self,
        image: &ImageRef,
        started: &[Started],
        cx: &Cx,
        drain: &CancellationToken,
    ) -> Result<Vec<Loaded>> {
        let jobs: Vec<JobId> = started.iter().map(|clone| clone.job).collect();
        let ended = self.all_ended(&jobs, cx.token(), Some(drain)).await?;
        let mut clones = Vec::new();
        for (clone, job) in started.iter().zip(ended) {
            let row = self.node.queue.computer(&clone.computer).await?;
            let held = self.holds_for(&row, clone.job).await?;
            let at = match row.loaded {
                Some(loaded) if held && loaded.image == *image => Ok(loaded.endpoint),
                _ if job.state == State::Done => {
                    Err(format!("somebody took {} away from the test", clone.computer))
                }
                _ => Err(format!("{} was not loaded: {}", clone.computer, ended_how(&job))),
            };
            clones.push(Loaded { computer: row.computer, at });
        }
        Ok(clones)
    }

    /// Whether a computer is reserved by that load.
    async fn holds_for(&self, row: &vcl_queue::ComputerRow, load: JobId) -> Result<bool> {
        match row.reservation {
            Some(id) => Ok(self.node.queue.reservation(id).await?.job == Some(load)),
            None => Ok(false),
        }
    }

    /// Looks into both guests. It writes nothing; what it found is the answer.
    async fn examine(
        &self,
        job: &mut Job,
        revision: &Revision,
        clones: &[Loaded],
        scripts: &[TestScript],
    ) -> Result<ImageTest> {
        let mut test = ImageTest {
            job: self.job(),
            at: chrono::DateTime::UNIX_EPOCH,
            passed: false,
            computers: clones.iter().map(|clone| clone.computer.name.clone()).collect(),
            compared: Vec::new(),
            shared: Vec::new(),
            scripts: Vec::new(),
            problems: clones.iter().filter_map(|clone| clone.at.clone().err()).collect(),
        };
        let up: Vec<(&Computer, &Endpoint)> =
            clones.iter().filter_map(|clone| Some((&clone.computer, clone.at.as_ref().ok()?))).collect();
        let [first, second] = up[..] else { return Ok(test) };
        let mut who = Vec::new();
        for (number, guest) in [first, second].into_iter().enumerate() {
            let name = guest.0.name.clone();
            match self.who_is_it(job, revision, guest, number).await? {
                Ok(identity) if identity.is_empty() => {
                    test.problems.push(format!("{name} told nothing of who it is"));
                }
                Ok(identity) => who.push(identity),
                Err(e) => {
                    test.problems
                        .push(format!("{name} could not be asked who it is: {}", vcl_job::chain(&e)));
                }
            }
        }
        if let [first, second] = &who[..] {
            test.compared = compared(first, second);
            test.shared = first.shared(second);
        }
        // Each in the order of their names, the clones side by side.
        let (mut one, mut two) = (job.part("first"), job.part("second"));
        let (one, two) = tokio::join!(
            self.run_scripts(&mut one, revision, first, second.0, scripts, 0),
            self.run_scripts(&mut two, revision, second, first.0, scripts, 1),
        );
        for (runs, problems) in [one?, two?] {
            test.scripts.extend(runs);
            test.problems.extend(problems);
        }
        test.passed = test.problems.is_empty()
            && test.shared.is_empty()
            && test.scripts.iter().all(|run| run.status == 0);
        Ok(test)
    }

    async fn who_is_it(
        &self,
        job: &mut Job,
        revision: &Revision,
        (computer, endpoint): (&Computer, &Endpoint),
        number: usize,
    ) -> Result<Result<Identity>> {
        let asked = Asked { computer: computer.name.clone(), script: None, number };
        job.step(self, &IDENTITY, asked)
            .key(&computer.name)
            .attempt(async |_, cx| {
                let target = self.node.target(computer, revision, Some(endpoint))?;
                cx.check().await?;
                let asked = target.os.identity(target.guest(endpoint));
                Ok(cx.within("asking a guest who it is", minutes(5), asked).await??)
            })
            .await
    }

    /// Runs the scripts in one guest. What a script said is evidence of the job's.
    async fn run_scripts(
        &self,
        job: &mut Job,
        revision: &Revision,
        (computer, endpoint): (&Computer, &Endpoint),
        other: &Computer,
        scripts: &[TestScript],
        number: usize,
    ) -> Result<(Vec<ScriptRun>, Vec<String>)> {
        let (mut runs, mut problems) = (Vec::new(), Vec::new());
        for script in scripts {
            let asked = Asked { computer: computer.name.clone(), script: Some(script.clone()), number };
            let ran = job
                .step(self, &SCRIPT, asked)
                .key(&script.name)
                .attempt(async |asked, cx| {
                    self.run_script(revision, (computer, endpoint), other, asked, cx).await
                })
                .await?;
            match ran {
                Ok(run) => runs.push(run),
                Err(e) => {
                    let (name, why) = (&script.name, vcl_job::chain(&e));
                    problems.push(format!("the script {name} could not be run on {}: {why}", computer.name));
                }
            }
        }
        Ok((runs, problems))
    }

    async fn run_script(
        &self,
        revision: &Revision,
        (computer, endpoint): (&Computer, &Endpoint),
        other: &Computer,
        asked: Asked,
        cx: Cx,
    ) -> Result<ScriptRun> {
        let Some(TestScript { name, path }) = asked.script else {
            return Err(Error::new(Kind::Fatal, "no script to run"));
        };
        let unread = |e| Error::caused(Kind::Fatal, format!("reading {path}"), e);
        let text = tokio::fs::read(&path).await.map_err(unread)?;
        let target = self.node.target(computer, revision, Some(endpoint))?;
        let variables = [
            ("VCLD_IMAGE", revision.manifest.image_ref().to_string()),
            ("VCLD_CLONE", (asked.number + 1).to_string()),
            ("VCLD_OTHER_COMPUTER", other.name.to_string()),
        ];
        let script = SiteScript { name: &name, text: &text, stage: scripts::STAGE, variables: &variables };
        cx.check().await?;
        let began = Instant::now();
        let output = target.os.run_script(target.guest(endpoint), script, cx.token()).await?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (status, said) = (output.status, scripts::said(&output));
        let mut kept = format!("{}-{name}.txt", computer.name);
        kept.truncate(63);
        let evidence = Part { name: kept, media_type: "text/plain".into(), bytes: output.stdout };
        self.node.queue.keep_evidence(&self.claim, vec![evidence]).await?;
        Ok(ScriptRun { name, computer: computer.name.clone(), status, took_ms, said })
    }

    /// Calls loads off that are under way, and unloads what they have loaded. Where there is nothing to give back it does
    /// nothing. Called by a step and by an undo.
    async fn take_clones_back(&self) -> Result<()> {
        let queue = &self.node.queue;
        let stop = doing().map(|doing| doing.stop().clone()).unwrap_or_default();
        let is = |kind: JobKind| move |row: &JobRow| row.request.kind() == kind;
        let children = queue.children(self.job()).await?;
        let loads: Vec<JobRow> = children.iter().filter(|row| is(JobKind::Load)(row)).cloned().collect();
        for load in &loads {
            if !load.state.is_final() && load.state != State::Stuck {
                queue.cancel(load.id).await?;
            }
        }
        let ids: Vec<JobId> = loads.iter().map(|load| load.id).collect();
        for load in self.all_ended(&ids, &stop, None).await? {
            if load.state == State::Stuck {
                let message = format!("{}; look at it: vclctl why {}", ended_how(&load), load.id);
                return Err(Error::new(Kind::Fatal, message));
            }
        }
        // One that is under way from before is waited for instead of another.
        let mut unloads = Vec::new();
        for load in &loads {
            let Some(name) = load.request.computer() else { continue };
            let row = queue.computer(name).await?;
            if !self.holds_for(&row, load.id).await? {
                continue;
            }
            let under_way = children.iter().find(|child| {
                is(JobKind::Unload)(child)
                    && child.request.computer() == Some(name)
                    && !child.state.is_final()
                    && child.state != State::Stuck
            });
            if let Some(doing) = doing() {
                doing.check().await?;
            }
            let host = self.backend(&row.computer.backend)?.host();
            unloads.push(match under_way {
                Some(child) => child.id,
                None => queue.unload_for(&self.claim, name, host).await?,
            });
        }
        for unload in self.all_ended(&unloads, &stop, None).await? {
            if unload.state != State::Done {
                let message = format!(
                    "a clone could not be given back: {}; look at it: vclctl why {}",
                    ended_how(&unload),
                    unload.id
                );
                return Err(Error::new(Kind::Fatal, message));
            }
        }
        Ok(())
    }

    /// Waits until these jobs have ended or are stuck, and answers them in the same order.
    async fn all_ended(
        &self,
        jobs: &[JobId],
        stop: &CancellationToken,
        drain: Option<&CancellationToken>,
    ) -> Result<Vec<JobRow>> {
        let mut changes = self.node.queue.submitted();
        loop {
            changes.borrow_and_update();
            let mut ended = Vec::new();
            for job in jobs {
                let row = self.node.queue.job(*job).await?;
                if row.state.is_final() || row.state == State::Stuck {
                    ended.push(row);
                }
            }
            if ended.len() == jobs.len() {
                return Ok(ended);
            }
            look_again(&mut changes, stop, drain).await?;
        }
    }
}

/// Waits until something may have changed. While the daemon stops, nothing that is waited for will: the step begins again
/// with the next start.
async fn look_again(
    changes: &mut watch::Receiver<u64>,
    stop: &CancellationToken,
    drain: Option<&CancellationToken>,
) -> Result<()> {
    let drained = async {
        match drain {
            Some(drain) => drain.cancelled().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Error::new(Kind::Cancelled, "told to stop")),
        () = drained => Err(Error::new(Kind::Interrupted, "the daemon is stopping")),
        changed = changes.changed() => {
            changed.map_err(|e| Error::caused(Kind::Transient, "the database is closed", e))
        }
        // why: what ends on another node, and computers that become spare with time, tell nobody here
        () = tokio::time::sleep(LOOK) => Ok(()),
    }
}

fn ended_how(job: &JobRow) -> String {
    let reason = job.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("job {} ({}) is {}{reason}", job.id, job.request, job.state)
}

/// How many values of each item the two have.
fn compared(first: &Identity, second: &Identity) -> Vec<ComparedItem> {
    let mut items: Vec<&str> = first.items().chain(second.items()).map(|(item, _)| item).collect();
    items.sort_unstable();
    items.dedup();
    let count = |of: &Identity, item: &str| u32::try_from(of.of(item).len()).unwrap_or(u32::MAX);
    let one = |item: &str| ComparedItem {
        item: item.to_owned(),
        first: count(first, item),
        second: count(second, item),
    };
    items.into_iter().map(one).collect()
}
