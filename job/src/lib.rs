//! Durable steps: a job is an ordinary async function whose every side effect runs inside a journaled step.
//!
//! ```text
//!  started{intent} ──run──► done{output}
//!       │                     
//!       └──► failed{error} ──undo──► undone        (the caller may catch the error and go another way)
//!
//!  giving up:  unwinding{cause} ─► undo of every step in reverse, from the journal alone ─► finished{error}
//! ```
//!
//! * `started` is durable before the step runs and holds its **intent**: the names and paths it is about to make.
//!   `done` holds what came out. A name is in the journal before the thing it names exists.
//! * After a crash the same function is called again from the top. Steps that are done return what they recorded; the
//!   one under way runs again with the *recorded* intent. So a step must be idempotent, and code between steps may
//!   depend only on what steps returned and on the job's input, which is its first record.
//! * Undo takes the intent and nothing else, so that it works for a step that is half done, and so that any later
//!   binary can do it without calling the function: as long as a retired step stays in its owner's table.
//! * Cancelling signals the running step and waits for it to return. Only then is it undone.
//!
//! The executor ([`execute`]) is the only place that runs steps and owns a job's state while it runs. What it writes
//! goes through a [`Journal`], which guards it with a lease; `vcl-queue` has the one on SQL.

mod error;
mod execute;
mod journal;
mod process;
mod run;
mod step;

pub use error::{Error, Failure, Kind, Result};
pub use execute::{Control, Flow, Outcome, Owners, Run, execute, unwind};
pub use journal::{Journal, MemoryJournal, RECORD_LIMIT, Record};
pub use process::{ChildOutput, Process, end_group, start_time};
pub use run::{Cx, Job, Observer, Silent, StepRun};
pub use step::{AnyStep, BoxFuture, Retry, Step, TRANSIENT, Undo, minutes, seconds, undo_in};
