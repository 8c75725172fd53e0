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
//! * A lost lease and a journal out of reach stop a job where it is: nothing more is undone or recorded, and the next
//!   life, here or on another node, goes on from `started`. Neither is ever taken for a failure of the step.
//! * A failure can be looked at before anything is taken back ([`Observer::failing`]). An undo that fails for a reason
//!   that passes is tried again; then the job is stuck, for somebody to look.
//!
//! Code that a step calls and that does not get its [`Cx`], undo functions above all, asks [`doing`].
//!
//! The executor ([`execute`]) is the only place that runs steps and owns a job's state while it runs. What it writes
//! goes through a [`Journal`], which guards it with a lease; `vcl-queue` has the one on SQL.

mod doing;
mod error;
mod execute;
#[cfg(feature = "faults")]
pub mod faults;
mod journal;
mod life;
mod observe;
mod process;
mod run;
mod seeded;
mod shared;
mod step;

pub use doing::{Doing, doing, held};
pub use error::{Error, Failure, Kind, Result, chain};
pub use execute::{Control, Flow, Outcome, Owners, Run, execute, unwind};
pub use journal::{Journal, MemoryJournal, RECORD_LIMIT, Record};
pub use observe::{LOOK, Observer, Silent};
pub use process::{ChildOutput, Process, boot_id, end_group, start_time};
pub use run::{Cx, Job, StepRun};
#[cfg(feature = "seeded-faults")]
pub use seeded::{Fault, with as with_fault};
pub use step::{AnyStep, BoxFuture, Retry, Step, TRANSIENT, Undo, minutes, seconds, undo_in};
