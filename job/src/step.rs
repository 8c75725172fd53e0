//! Declared steps: a name, a deadline, how often it is tried, and its way back.

use crate::{Error, Kind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future, as a declared undo returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type UndoFn<On, I> = for<'a> fn(&'a On, I) -> BoxFuture<'a, Result<()>>;
type HoldsFn<On, I> = for<'a> fn(&'a On, I, Value) -> BoxFuture<'a, Result<bool>>;

/// When a step is tried again instead of failing.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// How often, after the first time.
    pub times: u32,
    /// How long to wait before the first of them; each further wait is twice as long, up to a minute.
    pub first: Duration,
    /// For which kinds of error.
    pub kinds: &'static [Kind],
}

/// Never again.
const NONE: Retry = Retry { times: 0, first: Duration::ZERO, kinds: &[] };
/// What passes by itself: three more tries, after 1, 2 and 4 seconds.
pub const TRANSIENT: Retry =
    Retry { times: 3, first: Duration::from_secs(1), kinds: &[Kind::Transient, Kind::Busy] };

/// How often an undo is tried again before the job is stuck.
pub(crate) const UNDO_AGAIN: Retry = Retry {
    times: 4,
    first: Duration::from_secs(2),
    kinds: &[Kind::Transient, Kind::Busy, Kind::Unreachable],
};

/// So many minutes, for step declarations.
#[must_use]
pub const fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}
/// So many seconds, for step declarations.
#[must_use]
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A step, declared as a constant. `On` is whose it is (a backend, an OS module); `I` is its intent: the names and
/// paths it is about to make, recorded before it runs.
pub struct Step<On: ?Sized, I> {
    pub(crate) name: &'static str,
    pub(crate) deadline: Duration,
    pub(crate) in_all: Option<Duration>,
    pub(crate) retry: Retry,
    undo: Option<UndoFn<On, I>>,
    holds: Option<HoldsFn<On, I>>,
}

impl<On: ?Sized, I> Step<On, I> {
    /// A step with this name, a deadline of five minutes, no retry and nothing to undo. The name stands in journals for
    /// years: once released it is never given to another step.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, deadline: minutes(5), in_all: None, retry: NONE, undo: None, holds: None }
    }
    /// How long one life of the step may take, all tries together. Past it the step is told to stop.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
    /// How long all lives of the step may take together, counted by the wall clock from when it first began. Without it
    /// only each life has a deadline.
    #[must_use]
    pub const fn in_all(mut self, deadline: Duration) -> Self {
        self.in_all = Some(deadline);
        self
    }
    /// When it is tried again.
    #[must_use]
    pub const fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
    /// Its way back. It gets the intent, never the output, and must do for a step that is done, half done or not begun.
    /// What passes by itself is tried again a few times. [`doing`](crate::doing) tells it whether it is to stop, and takes
    /// what it wants to say.
    #[must_use]
    pub const fn undo(mut self, undo: UndoFn<On, I>) -> Self {
        self.undo = Some(undo);
        self
    }
    /// Asked once when a replay meets this step done: does what it did still hold (intent, recorded output)? `false`
    /// runs it again: the host was rebooted meanwhile, the domain it started is off. So does an error: a step may
    /// always run again, and if the other side is away, that shows there.
    ///
    /// It is asked only while the job is in the step's part. Once a step outside of that part has begun, what the part
    /// did is no longer for it to keep: a later step may have undone it on purpose. Parts that are held side by side, to
    /// be joined, do not end each other. So what is started and then shut
    /// down in one job is started in a part of its own.
    #[must_use]
    pub const fn holds(mut self, holds: HoldsFn<On, I>) -> Self {
        self.holds = Some(holds);
        self
    }
    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
    pub(crate) async fn back(&self, on: &On, intent: I) -> Result<()> {
        match self.undo {
            Some(undo) => undo(on, intent).await,
            None => Ok(()),
        }
    }
    /// Whether it declares that question.
    pub(crate) const fn asks(&self) -> bool {
        self.holds.is_some()
    }
    pub(crate) async fn still(&self, on: &On, intent: I, output: Value) -> Result<bool> {
        match self.holds {
            Some(holds) => holds(on, intent, output).await,
            None => Ok(true),
        }
    }
}

/// A step with its intent's type forgotten, for its owner's table.
pub trait AnyStep<On: ?Sized>: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Undoes it from the intent that the journal holds.
    fn undo<'a>(&self, on: &'a On, intent: Value) -> BoxFuture<'a, Result<()>>;
}

impl<On: ?Sized + Sync, I: Serialize + DeserializeOwned + Send> AnyStep<On> for Step<On, I> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn undo<'a>(&self, on: &'a On, intent: Value) -> BoxFuture<'a, Result<()>> {
        let Some(undo) = self.undo else { return Box::pin(async { Ok(()) }) };
        match serde_json::from_value(intent) {
            Ok(intent) => undo(on, intent),
            Err(e) => {
                let error = Error::caused(
                    Kind::Diverged,
                    format!("reading the recorded intent of `{}`", self.name),
                    e,
                );
                Box::pin(async move { Err(error) })
            }
        }
    }
}

/// Whose steps can be undone: a backend, an OS module, the daemon's own flows. Object safe; most implement it with one
/// line, `undo_in(STEPS, self, step, intent).await`.
#[async_trait::async_trait]
pub trait Undo: Send + Sync {
    /// Undoes the step of that name from its recorded intent.
    ///
    /// # Errors
    /// Whatever keeps it from being undone; the job is stuck then. A name that is in no table is [`Kind::Diverged`].
    async fn undo(&self, step: &str, intent: Value) -> Result<()>;
}

/// Finds the step in a table and undoes it.
///
/// # Errors
/// [`Kind::Diverged`] when the table lacks the step: a retired one was taken out of it.
pub async fn undo_in<On: ?Sized + Sync>(
    steps: &[&dyn AnyStep<On>],
    on: &On,
    step: &str,
    intent: Value,
) -> Result<()> {
    match steps.iter().find(|s| s.name() == step) {
        Some(found) => found.undo(on, intent).await,
        None => Err(Error::new(
            Kind::Diverged,
            format!("no step `{step}` in the table; retired steps must stay in it"),
        )),
    }
}
