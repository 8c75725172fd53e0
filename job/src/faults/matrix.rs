//! Plays histories on scenes and compares what they end in.

use super::history::{Act, Budget, History};
use super::judge;
use super::points::{LifeState, Passed, Point, Points};
use super::report::{Played, Report, Violation};
use crate::{Control, Error, Journal, Kind, Outcome, Record, Result};
use futures::future::LocalBoxFuture;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

/// How long one life may take, by the runtime's clock.
const LIFE: Duration = Duration::from_secs(600);
/// How many undisturbed lives a job may need to end after all that was to befall it.
const MORE_LIVES: usize = 6;

/// How one life of the process ended, as far as the kit compares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The job is done, with this result. What differs from run to run by chance must be made equal.
    Done(String),
    /// It was taken back for an error of this kind.
    RolledBack(Kind),
    /// Somebody has to look.
    Stuck(String),
    /// The daemon was told to stop.
    Interrupted,
    /// The job may be another's, or the journal is out of reach.
    Lost(String),
}
impl Ended {
    fn is_final(&self) -> bool {
        matches!(self, Self::Done(_) | Self::RolledBack(_))
    }
}
impl<T: Debug> From<Outcome<T>> for Ended {
    fn from(outcome: Outcome<T>) -> Self {
        match outcome {
            Outcome::Done(value) => Self::Done(format!("{value:?}")),
            Outcome::RolledBack(failure) => Self::RolledBack(failure.kind),
            Outcome::Stuck(failure) => Self::Stuck(failure.message),
            Outcome::Interrupted => Self::Interrupted,
            Outcome::Lost(failure) => Self::Lost(failure.message),
        }
    }
}

/// One life of the process that runs the job.
#[derive(Debug, Clone)]
pub struct Life {
    /// The how manieth, from 0.
    pub number: usize,
    /// How the job is told to stop in it. A wish to call it off that an earlier life wrote down stands in it already.
    pub control: Control,
    claims: Arc<AtomicI64>,
}
impl Life {
    /// Claims the job for this life where no queue does it: a journal that takes nothing from earlier lives any more.
    #[must_use]
    pub fn claim(&self, journal: Arc<dyn Journal>) -> Arc<dyn Journal> {
        let token = i64::try_from(self.number).unwrap_or(i64::MAX).saturating_add(1);
        self.claims.fetch_max(token, Ordering::SeqCst);
        Arc::new(Claimed { journal, token, claims: self.claims.clone() })
    }
}

struct Claimed {
    journal: Arc<dyn Journal>,
    token: i64,
    claims: Arc<AtomicI64>,
}
#[async_trait::async_trait]
impl Journal for Claimed {
    async fn append(&self, record: &Record) -> Result<()> {
        self.check().await?;
        self.journal.append(record).await
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.journal.read().await
    }
    async fn check(&self) -> Result<()> {
        self.held()
    }
    /// Nobody claims a job before its lease is over, which the clock of its last holder says too.
    fn held(&self) -> Result<()> {
        match self.claims.load(Ordering::SeqCst) {
            now if now == self.token => Ok(()),
            now => Err(Error::new(Kind::LeaseLost, format!("claimed under token {now} by now"))),
        }
    }
    fn token(&self) -> i64 {
        self.token
    }
    fn job(&self) -> i64 {
        self.journal.job()
    }
}

/// One world with one job in it, which survives the process.
#[async_trait::async_trait]
pub trait Scene: Send + Sync {
    /// One life: claims the job, with a higher token than any life before, and runs it until it ends. Its journal is
    /// wrapped in a [`FaultyJournal`](super::FaultyJournal). The future may be dropped: that is a `kill -9`.
    async fn live(&self, life: &Life) -> Ended;
    /// The world, with what differs by chance (random names, times, tokens) made equal.
    async fn world(&self) -> Value;
    /// What is there though nothing needs it, now that the job ended so.
    async fn left(&self, ended: &Ended) -> Vec<String>;
    /// The job's journal.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn records(&self) -> Result<Vec<Record>>;
    /// Whether a job that is taken back leaves the world as it was before. One for which it does not has to end as
    /// some history with one fault ended.
    fn restores(&self) -> bool {
        true
    }
    /// Whether the world tells a person of what could not be taken back, so that a job whose undo fails need not be stuck:
    /// a computer is put out of use, say.
    fn set_aside(&self, _world: &Value) -> bool {
        false
    }
    /// Whether steps may find that what they did holds no longer, and run again.
    fn reruns(&self) -> bool {
        false
    }
}

/// Every history of a job that the budget allows.
pub struct Matrix<F> {
    name: String,
    make: F,
    budget: Budget,
    most: usize,
    hasty: bool,
    #[cfg(feature = "seeded-faults")]
    fault: Option<crate::Fault>,
}

/// What a history with one fault ended in.
#[derive(Clone, PartialEq)]
struct Seen(Ended, Value);

/// What a history may end in.
enum Expect<'a> {
    /// As the undisturbed one.
    Calm,
    /// Or taken back, or as the same fault ends without a crash.
    Or(Option<&'a Seen>),
}

enum Turn {
    Died,
    Frozen,
    Over(Ended),
}

impl<F, Fut, S> Matrix<F>
where
    F: Fn(Points) -> Fut,
    Fut: Future<Output = S>,
    S: Scene,
{
    /// The matrix of one job: `make` builds a fresh scene that tells these points of its changes.
    pub fn of(name: impl Into<String>, make: F) -> Self {
        Self {
            name: name.into(),
            make,
            budget: Budget::default(),
            most: 20,
            hasty: false,
            #[cfg(feature = "seeded-faults")]
            fault: None,
        }
    }
    /// With this budget.
    #[must_use]
    pub fn budget(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }
    /// Stops when so many violations were found; 20 unless told.
    #[must_use]
    pub fn at_most(mut self, violations: usize) -> Self {
        self.most = violations;
        self
    }
    /// Lets the executor try again without waiting: for a world that lives on real time.
    #[must_use]
    pub fn hasty(mut self) -> Self {
        self.hasty = true;
        self
    }
    /// With a bug in the executor.
    #[cfg(feature = "seeded-faults")]
    #[must_use]
    pub fn seeded(mut self, fault: crate::Fault) -> Self {
        self.fault = Some(fault);
        self
    }
    /// Plays one history, as a [`Violation`] prints it.
    ///
    /// # Errors
    /// When that is no history.
    pub async fn replay(&self, history: &str) -> Result<Played, String> {
        Ok(self.play(&history.parse()?).await)
    }

    /// Plays all.
    pub async fn run(&self) -> Report {
        let began = Instant::now();
        let mut all =
            All { matrix: self, report: Report::default(), calm: None, before: Value::Null, known: vec![] };
        all.run().await;
        all.report.name.clone_from(&self.name);
        all.report.seed = self.budget.seed;
        all.report.took = began.elapsed();
        all.report
    }

    async fn begin<'s>(&self, scene: &'s S, life: Life, state: Arc<LifeState>) -> LocalBoxFuture<'s, Ended> {
        #[cfg(feature = "seeded-faults")]
        let fault = self.fault;
        Box::pin(async move {
            let live = async { scene.live(&life).await };
            #[cfg(feature = "seeded-faults")]
            let live: LocalBoxFuture<'_, Ended> = match fault {
                Some(fault) => Box::pin(crate::with_fault(fault, live)),
                None => Box::pin(live),
            };
            let end = state.clone().scope(live).await;
            state.ended.cancel();
            end
        })
    }

    async fn play(&self, history: &History) -> Played {
        let points = Points::default();
        let scene = (self.make)(points.clone()).await;
        let before = scene.world().await;
        let claims = Arc::new(AtomicI64::new(0));
        let (mut wrong, mut ends, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        let mut frozen: Option<LocalBoxFuture<'_, Ended>> = None;
        let mut zombie_end = None;
        for number in 0.. {
            let control = Control::default();
            if points.called_off() {
                control.cancel.cancel();
            }
            let plan = history.0.get(number).cloned().unwrap_or_default();
            let state = LifeState::new(number, plan, control.clone(), self.hasty);
            points.begin(&state);
            let mut life =
                self.begin(&scene, Life { number, control, claims: claims.clone() }, state.clone()).await;
            let turn = tokio::time::timeout(LIFE, async {
                loop {
                    let zombie = async {
                        match frozen.as_mut() {
                            Some(zombie) => zombie.await,
                            None => pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = state.died.notified() => break Turn::Died,
                        () = state.freezing.notified() => break Turn::Frozen,
                        ended = &mut life => break Turn::Over(ended),
                        ended = zombie => {
                            zombie_end = Some(ended);
                            frozen = None;
                        }
                    }
                }
            });
            let turn = turn.await;
            counts.push(state.passed());
            match turn {
                Err(_) => {
                    wrong.push(format!("life {} hangs", number + 1));
                    break;
                }
                Ok(Turn::Died) => ends.push(None),
                Ok(Turn::Frozen) => {
                    ends.push(None);
                    frozen = Some(life);
                }
                Ok(Turn::Over(end)) => {
                    let over = end.is_final();
                    ends.push(Some(end));
                    if over {
                        break;
                    }
                }
            }
            if number > history.0.len() + MORE_LIVES {
                wrong.push(format!("the job does not end: {ends:?}"));
                break;
            }
        }
        if let (Some(zombie), Some(state)) = (frozen.take(), points.zombie()) {
            state.thaw.cancel();
            match tokio::time::timeout(LIFE, zombie).await {
                Ok(end) => zombie_end = Some(end),
                Err(_) => wrong.push("the process that lost its lease hangs".to_owned()),
            }
        }
        let trace = points.trace();
        if let (Some(end), Some(state)) = (zombie_end, points.zombie()) {
            let ended = Point::AfterAppend { record: "finished", key: String::new() };
            let ended = trace.iter().any(|p| p.life == state.number && p.point == ended);
            if !matches!(end, Ended::Lost(_)) && !ended {
                wrong.push(format!("a process that had lost its lease says: {end:?}"));
            }
        }
        wrong.extend(odd_ends(history, &ends, &trace));
        wrong.extend(judge::trace(&trace, scene.reruns()));
        match scene.records().await {
            Ok(records) => wrong.extend(judge::journal(&records, scene.reruns())),
            Err(e) => wrong.push(e.failure().message),
        }
        let after = scene.world().await;
        let undo_failed = trace.iter().any(|p| p.undoing && history.strikes(p.life, p.nth, Act::Fail));
        let aside = undo_failed && scene.set_aside(&after);
        if let Some(Some(end)) = ends.last() {
            wrong.extend(scene.left(end).await.into_iter().map(|what| format!("left over: {what}")));
            if scene.restores() && matches!(end, Ended::RolledBack(_)) && after != before && !aside {
                wrong.push(format!("taken back, and the world has {}", differing(&after, &before)));
            }
        }
        Played { ends, points: counts, trace, worlds: (before, after), aside, wrong }
    }
}

/// Where two worlds differ.
fn differing(is: &Value, should: &Value) -> String {
    fn look(at: &str, is: &Value, should: &Value, found: &mut Vec<String>) {
        match (is, should) {
            (Value::Object(one), Value::Object(other)) => {
                let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
                for key in keys {
                    let of = |all: &serde_json::Map<String, Value>| all.get(key).cloned().unwrap_or_default();
                    look(&format!("{at}/{key}"), &of(one), &of(other), found);
                }
            }
            _ if is == should => {}
            _ => found.push(format!("{at} {is} instead of {should}")),
        }
    }
    let mut found = Vec::new();
    look("", is, should, &mut found);
    found.join(", ")
}

/// Ends of lives that nothing in the history explains.
fn odd_ends(history: &History, ends: &[Option<Ended>], trace: &[Passed]) -> Vec<String> {
    let struck = |p: &Passed, act: Act| history.strikes(p.life, p.nth, act);
    let undo_failed = trace.iter().any(|p| p.undoing && (struck(p, Act::Fail) || struck(p, Act::Blip)));
    let explained = |end: &Ended| match end {
        Ended::Done(_) | Ended::RolledBack(_) => true,
        Ended::Stuck(_) => undo_failed,
        Ended::Interrupted => history.has(&[Act::Stop, Act::Drain]),
        Ended::Lost(_) => history.has(&[Act::Fail, Act::Blip, Act::Lose, Act::Freeze]),
    };
    let odd = ends.iter().flatten().filter(|end| !explained(end));
    odd.map(|end| format!("a life ended without reason as {end:?}")).collect()
}

/// A matrix under way.
struct All<'m, F> {
    matrix: &'m Matrix<F>,
    report: Report,
    calm: Option<Seen>,
    before: Value,
    known: Vec<Seen>,
}

impl<F, Fut, S> All<'_, F>
where
    F: Fn(Points) -> Fut,
    Fut: Future<Output = S>,
    S: Scene,
{
    async fn one(&mut self, kind: &'static str, history: History, expect: Expect<'_>) -> Option<Played> {
        if self.report.violations.len() >= self.matrix.most {
            return None;
        }
        let mut played = self.matrix.play(&history).await;
        self.report.histories += 1;
        self.report.lives += played.ends.len();
        self.report.kinds.entry(kind).or_default().0 += 1;
        if let Some(end) = played.end().filter(|end| end.is_final()) {
            let got = Seen(end.clone(), played.worlds.1.clone());
            let calm = self.calm.get_or_insert_with(|| got.clone());
            let fine = match expect {
                _ if got == *calm => true,
                _ if played.aside && matches!(got.0, Ended::RolledBack(_)) => true,
                Expect::Calm => false,
                // The first with its fault: the rules alone can judge it.
                Expect::Or(None) => {
                    self.known.push(got.clone());
                    true
                }
                Expect::Or(Some(same)) => {
                    got == *same
                        || matches!(got.0, Ended::RolledBack(_))
                            && (got.1 == self.before || self.known.contains(&got))
                }
            };
            if !fine {
                let (Seen(end, world), Seen(calm, usual)) = (&got, &*calm);
                played.wrong.push(if end == calm {
                    format!("the world has {}", differing(world, usual))
                } else {
                    format!("the job ended as {end:?} instead of {calm:?}")
                });
            }
        }
        for what in &played.wrong {
            self.report.violations.push(Violation { history: history.clone(), what: what.clone() });
        }
        Some(played)
    }

    /// Plays what the budget draws from these; gives how many points the second life of each had.
    async fn drawn(
        &mut self,
        kind: &'static str,
        all: Vec<(History, Option<Seen>)>,
        calm: bool,
    ) -> Vec<(History, usize, Option<Seen>)> {
        self.report.kinds.entry(kind).or_default().1 += all.len();
        let mut second = Vec::new();
        for (history, same) in self.matrix.budget.draw(all) {
            let expect = if calm { Expect::Calm } else { Expect::Or(same.as_ref()) };
            let Some(played) = self.one(kind, history.clone(), expect).await else { break };
            second.push((history, played.points.get(1).copied().unwrap_or(0), same));
        }
        second
    }

    async fn run(&mut self) {
        let Some(calm) = self.one("undisturbed", History::default(), Expect::Calm).await else { return };
        self.report.kinds.entry("undisturbed").or_default().1 = 1;
        self.before = calm.worlds.0.clone();
        let count = calm.points.first().copied().unwrap_or(0);
        let is_effect =
            |p: &Passed| matches!(p.point, Point::BeforeEffect { .. } | Point::AfterEffect { .. });
        let first: BTreeMap<usize, bool> = calm.trace.iter().map(|p| (p.nth, is_effect(p))).collect();
        let started = |p: &&Passed| matches!(p.point, Point::AfterAppend { record: "started", .. });
        self.report.steps = calm.trace.iter().filter(started).count();
        self.report.effect_points = first.values().filter(|effect| **effect).count();
        self.report.journal_points = count - self.report.effect_points;
        let of = |effect: bool| first.iter().filter(move |(_, e)| **e == effect).map(|(n, _)| *n);
        let (effects, records): (Vec<_>, Vec<_>) = (of(true).collect(), of(false).collect());
        let every: Vec<usize> = (1..=count).collect();

        self.calmly(&every, Act::Kill, "kill", "kill; kill").await;
        self.calmly(&records, Act::Fail, "cut", "cut; kill").await;
        self.calmly(&every, Act::Stop, "stop", "stop; kill").await;
        self.calmly(&every, Act::Drain, "drain", "drain; kill").await;
        self.calmly(&every, Act::Lose, "lose", "lose; kill").await;
        self.calmly(&every, Act::Freeze, "freeze", "freeze; kill").await;
        self.undoing(&effects, Act::Fail, ["fail", "fail kill", "fail kill; kill"]).await;
        self.undoing(&effects, Act::Blip, ["blip", "blip kill", "blip kill; kill"]).await;
        self.undoing(&every, Act::Cancel, ["cancel", "cancel kill", "cancel kill; kill"]).await;
        let unwritten = ["cancel unwritten", "cancel unwritten, kill", "cancel unwritten, kill; kill"];
        self.undoing(&every, Act::CancelUnwritten, unwritten).await;
    }

    /// What may change nothing, alone, and with a crash of the life after it. A frozen one thaws beside that, too.
    async fn calmly(&mut self, at: &[usize], act: Act, alone: &'static str, twice: &'static str) {
        self.report.kinds.entry(alone).or_default().1 = at.len();
        let (mut pairs, mut beside) = (Vec::new(), Vec::new());
        for n in &self.matrix.budget.draw_points(at, act) {
            let history = History::of(&[(*n, act)]);
            let Some(played) = self.one(alone, history.clone(), Expect::Calm).await else { return };
            let second = 1..=played.points.get(1).copied().unwrap_or(0);
            pairs.extend(second.clone().map(|m| (history.clone().then(&[(m, Act::Kill)]), None)));
            beside.extend(second.map(|m| (history.clone().then(&[(m, Act::Thaw)]), None)));
        }
        self.drawn(twice, pairs, true).await;
        match act {
            Act::Lose => drop(self.drawn("lose; thaw", beside, true).await),
            Act::Freeze => drop(self.drawn("freeze; thaw", beside, true).await),
            _ => {}
        }
    }

    /// What may make the job take itself back: alone, with a crash after it, with a crash of the life after that; and
    /// each undo fails.
    async fn undoing(&mut self, at: &[usize], act: Act, [alone, kill, twice]: [&'static str; 3]) {
        self.report.kinds.entry(alone).or_default().1 = at.len();
        let (mut crashes, mut undo) = (Vec::new(), Vec::new());
        for n in &self.matrix.budget.draw_points(at, act) {
            let Some(played) = self.one(alone, History::of(&[(*n, act)]), Expect::Or(None)).await else {
                return;
            };
            let same = played.end().map(|end| Seen(end.clone(), played.worlds.1.clone()));
            let later = n + 1..=played.points.first().copied().unwrap_or(0);
            crashes.extend(later.map(|m| (History::of(&[(*n, act), (m, Act::Kill)]), same.clone())));
            let undoes = played.trace.iter().filter(|p| p.undoing && p.life == 0 && p.nth > *n);
            let undoes: BTreeSet<usize> = undoes.map(|p| p.nth).collect();
            for m in undoes {
                for fails in [Act::Fail, Act::Blip] {
                    undo.push((History::of(&[(*n, act), (m, fails)]), same.clone()));
                }
            }
        }
        let seconds = self.drawn(kill, crashes, false).await;
        // One second crash for each first one that was drawn, at a point drawn by the same seed.
        let mut state = self.matrix.budget.seed;
        let mut twos = Vec::new();
        for (history, points, same) in seconds.into_iter().filter(|(_, points, _)| *points > 0) {
            let draw = super::history::next(&mut state) % (points as u64);
            let m = usize::try_from(draw).unwrap_or(0) + 1;
            twos.push((history.then(&[(m, Act::Kill)]), same));
        }
        self.drawn(twice, twos, false).await;
        if act == Act::Cancel {
            self.drawn("cancel, undo fails", undo, false).await;
        }
    }
}
