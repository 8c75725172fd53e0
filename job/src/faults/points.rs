//! The points at which a process can die, and what happens at them.

use super::history::Act;
use crate::{Control, Error, Journal, Kind, Record, Result, doing};
use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static LIFE: Arc<LifeState>;
}

/// A moment in which the world or the journal is about to change, or just has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Point {
    /// A record is about to be written.
    BeforeAppend {
        /// Which kind of record.
        record: &'static str,
        /// The step it is of.
        key: String,
    },
    /// A record is durable.
    AfterAppend {
        /// Which kind of record.
        record: &'static str,
        /// The step it is of.
        key: String,
    },
    /// The world is about to be changed.
    BeforeEffect {
        /// The computer, or the image, that it belongs to: what only one process at a time may work on.
        on: String,
        /// What is done to it.
        what: String,
    },
    /// The world has been changed.
    AfterEffect {
        /// As in [`BeforeEffect`](Self::BeforeEffect).
        on: String,
        /// As in [`BeforeEffect`](Self::BeforeEffect).
        what: String,
    },
}

/// A point that a life of the process came by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// Which life, from 0.
    pub life: usize,
    /// The how manieth point of it, from 1.
    pub nth: usize,
    /// What it was.
    pub point: Point,
    /// The step that was under way in this task, if any.
    pub step: Option<String>,
    /// The fencing token it ran under.
    pub token: i64,
    /// Whether the step was being undone.
    pub undoing: bool,
    /// Whether this life had lost its lease and gone on.
    pub thawed: bool,
}

/// One life's state, shared by its points and the kit.
pub(crate) struct LifeState {
    pub(crate) number: usize,
    pub(crate) control: Control,
    plan: Vec<(usize, Act)>,
    count: AtomicUsize,
    dead: AtomicBool,
    pub(crate) died: Notify,
    frozen: AtomicBool,
    pub(crate) freezing: Notify,
    pub(crate) thaw: CancellationToken,
    pub(crate) ended: CancellationToken,
    /// Whether tries follow each other at once.
    hasty: bool,
}

/// How long the executor waits before it tries again, in a life of a matrix that is in a hurry.
pub(crate) fn paced(wait: Duration) -> Duration {
    if LIFE.try_with(|life| life.hasty).unwrap_or(false) { Duration::ZERO } else { wait }
}

impl LifeState {
    pub(crate) fn new(number: usize, plan: Vec<(usize, Act)>, control: Control, hasty: bool) -> Arc<Self> {
        Arc::new(Self {
            number,
            control,
            plan,
            count: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen: AtomicBool::new(false),
            freezing: Notify::new(),
            thaw: CancellationToken::new(),
            ended: CancellationToken::new(),
            hasty,
        })
    }
    pub(crate) fn passed(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
    pub(crate) async fn scope<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        LIFE.scope(self, work).await
    }
}

#[derive(Default)]
struct Inner {
    trace: Vec<Passed>,
    now: Option<Arc<LifeState>>,
    /// The life that lost its lease and does not know yet.
    zombie: Option<Arc<LifeState>>,
    wish: bool,
}

/// What a world and a journal tell the kit, and through which it strikes. All clones are one.
///
/// Outside of a [`Matrix`](super::Matrix) it does nothing.
#[derive(Clone, Default)]
pub struct Points(Arc<Mutex<Inner>>);

impl Points {
    /// Around every change of the world: before, the change, after. `on` is the computer or image it belongs to.
    ///
    /// # Errors
    /// That of the change, or a failure that the kit wants here: the world may or may not have changed then.
    pub async fn effect<T>(
        &self,
        on: &str,
        what: &str,
        change: impl AsyncFnOnce() -> Result<T>,
    ) -> Result<T> {
        self.at(Point::BeforeEffect { on: on.to_owned(), what: what.to_owned() }).await?;
        let done = change().await?;
        self.at(Point::AfterEffect { on: on.to_owned(), what: what.to_owned() }).await?;
        Ok(done)
    }

    /// Comes by a point. It may never return: the process has died here.
    ///
    /// # Errors
    /// A failure that the kit wants here.
    pub async fn at(&self, point: Point) -> Result<()> {
        let Some(life) = LIFE.try_with(Clone::clone).ok().or_else(|| self.inner().now.clone()) else {
            return Ok(());
        };
        if life.dead.load(Ordering::SeqCst) {
            pending::<()>().await;
        }
        if life.frozen.load(Ordering::SeqCst) {
            life.thaw.cancelled().await;
        }
        let nth = life.count.fetch_add(1, Ordering::SeqCst) + 1;
        let doing = doing();
        self.inner().trace.push(Passed {
            life: life.number,
            nth,
            token: doing.as_ref().map_or(0, |d| d.token),
            undoing: doing.as_ref().is_some_and(|d| d.undoing),
            step: doing.map(|d| d.key),
            thawed: life.frozen.load(Ordering::SeqCst),
            point: point.clone(),
        });
        for (_, act) in life.plan.iter().filter(|(at, _)| *at == nth) {
            self.strike(&life, &point, *act).await?;
        }
        Ok(())
    }

    async fn strike(&self, life: &Arc<LifeState>, point: &Point, act: Act) -> Result<()> {
        let effect = matches!(point, Point::BeforeEffect { .. } | Point::AfterEffect { .. });
        match act {
            Act::Kill => {
                life.dead.store(true, Ordering::SeqCst);
                life.died.notify_one();
                pending::<()>().await;
            }
            Act::Fail if effect => {
                return Err(Error::new(Kind::Fatal, format!("failed on purpose: {point:?}")));
            }
            Act::Fail | Act::Blip => {
                return Err(Error::new(Kind::Transient, format!("out of reach on purpose: {point:?}")));
            }
            Act::Cancel => {
                self.inner().wish = true;
                life.control.cancel.cancel();
            }
            Act::CancelUnwritten => life.control.cancel.cancel(),
            Act::Stop => life.control.stop.cancel(),
            Act::Drain => life.control.drain.cancel(),
            Act::Lose | Act::Freeze => {
                life.frozen.store(true, Ordering::SeqCst);
                self.inner().zombie = Some(life.clone());
                life.freezing.notify_one();
                life.thaw.cancelled().await;
                if act == Act::Lose {
                    life.control.lost.cancel();
                }
            }
            Act::Thaw => {
                let zombie = self.inner().zombie.clone();
                if let Some(zombie) = zombie {
                    zombie.thaw.cancel();
                    zombie.ended.cancelled().await;
                }
            }
        }
        // Whoever waits for such a thing sees it now.
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Somebody called the job off, and that was written down: later lives know it too.
    #[must_use]
    pub fn called_off(&self) -> bool {
        self.inner().wish
    }
    pub(crate) fn begin(&self, life: &Arc<LifeState>) {
        self.inner().now = Some(life.clone());
    }
    pub(crate) fn zombie(&self) -> Option<Arc<LifeState>> {
        self.inner().zombie.clone()
    }
    pub(crate) fn trace(&self) -> Vec<Passed> {
        std::mem::take(&mut self.inner().trace)
    }
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Any journal, with a point before each record is sent and one after it is durable.
pub struct FaultyJournal {
    inner: Arc<dyn Journal>,
    points: Points,
}
impl FaultyJournal {
    /// Puts points around a journal.
    #[must_use]
    pub fn new(inner: Arc<dyn Journal>, points: Points) -> Self {
        Self { inner, points }
    }
}
#[async_trait::async_trait]
impl Journal for FaultyJournal {
    async fn append(&self, record: &Record) -> Result<()> {
        let (word, key) = (record.word(), record.key().unwrap_or_default());
        self.points.at(Point::BeforeAppend { record: word, key: key.to_owned() }).await?;
        self.inner.append(record).await?;
        self.points.at(Point::AfterAppend { record: word, key: key.to_owned() }).await
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.inner.read().await
    }
    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }
    fn held(&self) -> Result<()> {
        self.inner.held()
    }
    fn token(&self) -> i64 {
        self.inner.token()
    }
    fn job(&self) -> i64 {
        self.inner.job()
    }
}

/// A world's own guard: it takes no change under a lower token than it has seen on that computer. A real one is a
/// storage that fences, or a publish that does not replace.
#[derive(Debug, Default)]
pub struct Fence(Mutex<BTreeMap<String, i64>>);
impl Fence {
    /// Lets a change of `on` in, under the token of what this task does.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when a later claim has changed it already, [`Kind::Fatal`] outside of any step.
    pub fn enter(&self, on: &str) -> Result<()> {
        let Some(doing) = doing() else {
            return Err(Error::new(Kind::Fatal, format!("a change of {on} outside of any step")));
        };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = seen.entry(on.to_owned()).or_insert(doing.token);
        if doing.token < *highest {
            let (late, by) = (doing.token, *highest);
            return Err(Error::new(
                Kind::LeaseLost,
                format!("{on} was changed under token {by}, not {late}"),
            ));
        }
        *highest = doing.token;
        Ok(())
    }
}
