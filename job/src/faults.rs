//! The fault kit: proves of any job, on any world, that nothing is lost whatever dies, fails or is called off.
//!
//! A **world** is what the job's steps change: a simulated host, a directory, a database. It tells the kit of each
//! change through [`Points::effect`], and the job's journal is wrapped in a [`FaultyJournal`]. Those are the *points*:
//! before and after each change, before each record is sent and after it is durable. A [`Scene`] is one such world with
//! one job in it, and knows how to run one life of the process. The [`Matrix`] builds a fresh scene for each
//! [`History`] and plays it:
//!
//! | kind | what happens |
//! |---|---|
//! | `kill`, `kill; kill` | `kill -9` at every point; again at every point of the life after it |
//! | `fail`, `blip` | every change fails, before and after it was made; for good, or for a moment |
//! | `cut` | the journal is out of reach at every record, before and after it became durable |
//! | `cancel`, `cancel unwritten` | called off at every point; the wish may die with the process |
//! | `… kill`, `… kill; kill` | and then killed at every later point, and once more |
//! | `cancel … fail`, `cancel … blip` | called off, and every undo fails |
//! | `stop`, `drain` | the daemon is told to stop at every point |
//! | `lose`, `freeze` | the process freezes at every point until another has claimed the job, then goes on: told, or not |
//! | `… thaw`, `freeze; kill` | it goes on at each point of its successor's life; the successor is killed too |
//!
//! That every step runs twice is `kill` at the point before its `done`; that every undo does, `cancel … kill` at the
//! point before its `undone`.
//!
//! After each: the job has ended, once, in an end that this history may have; the world is that of the undisturbed run,
//! or the one there was before where it was taken back; nothing is left over; the journal and the order of effects keep
//! the executor's rules; no two claims worked on one computer by turns. What is not so is a [`Violation`] with its
//! history, to be played again by [`Matrix::replay`].
//!
//! Retries wait: run it under `#[tokio::test(start_paused = true)]`, or [`Matrix::hasty`] where the world lives on real
//! time.
//!
//! ```
//! use std::{collections::BTreeSet, sync::{Arc, Mutex}};
//! use vcl_job::{faults::*, *};
//!
//! /// A world of names, and the owner of the steps.
//! struct Host { names: Mutex<BTreeSet<String>>, fence: Fence, points: Points, journal: Arc<MemoryJournal> }
//!
//! const MAKE: Step<Host, String> = Step::new("make").undo(|on, name| Box::pin(async move {
//!     on.change("unmake", |names| names.remove(&name)).await.map(drop)
//! }));
//! impl Host {
//!     async fn change(&self, what: &str, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> Result<bool> {
//!         // No check of the lease helps a process that freezes after it: the world itself has to refuse it then.
//!         let guarded = async || { self.fence.enter("host")?; Ok(change(&mut self.names.lock().unwrap())) };
//!         self.points.effect("host", what, guarded).await
//!     }
//! }
//! #[async_trait::async_trait]
//! impl Undo for Host {
//!     async fn undo(&self, step: &str, intent: serde_json::Value) -> Result<()> {
//!         undo_in(&[&MAKE], self, step, intent).await
//!     }
//! }
//! #[async_trait::async_trait]
//! impl Scene for Host {
//!     async fn live(&self, life: &Life) -> Ended {
//!         // A journal in memory has no lease; what is on SQL claims the job here.
//!         let journal = Arc::new(FaultyJournal::new(life.claim(self.journal.clone()), self.points.clone()));
//!         let control = life.control.clone();
//!         let owners = Owners { flow: self, parts: &[] };
//!         let flow = Flow { name: "example", version: 1, deadline: None };
//!         let work = async |mut job: Job, ()| {
//!             for name in ["a", "b"] {
//!                 job.step(self, &MAKE, name.to_owned()).key(name).run(async |name, cx| {
//!                     cx.check().await?;
//!                     self.change("make", |names| names.insert(name)).await
//!                 }).await?;
//!             }
//!             Ok(())
//!         };
//!         let run = Run { journal, observer: Arc::new(Silent), control, owners };
//!         execute(run, flow, async { Ok(()) }, work).await.into()
//!     }
//!     async fn world(&self) -> serde_json::Value {
//!         serde_json::json!(*self.names.lock().unwrap())
//!     }
//!     async fn left(&self, _: &Ended) -> Vec<String> {
//!         Vec::new()
//!     }
//!     async fn records(&self) -> Result<Vec<Record>> {
//!         self.journal.read().await
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let make = async |points| Host {
//!     names: Mutex::default(), fence: Fence::default(), points, journal: Arc::default(),
//! };
//! let report = Matrix::of("example", make).run().await;
//! assert!(report.steps >= 2 && report.histories > 500);
//! println!("{}", report.expect_clean());
//! # });
//! ```

mod history;
mod judge;
mod matrix;
mod points;
mod report;

pub use history::{Act, Budget, History};
pub use matrix::{Ended, Life, Matrix, Scene};
pub(crate) use points::paced;
pub use points::{FaultyJournal, Fence, Passed, Point, Points};
pub use report::{Played, Report, Violation};
