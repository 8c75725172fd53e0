//! The daemon: it pulls jobs from the queue and hands control to the backend of the computer concerned.
//!
//! ```text
//!  http (unix socket) ──► Node ──► queue ──wakes──► worker ──► flow (one function a kind of job) ──► backend ──► OS
//! ```
//!
//! * [`node::Node`] is what a management node has: its configuration, queue, library, backends and OS modules. Whatever
//!   can be asked of the daemon is a method of it; the HTTP API is a thin layer over these.
//! * `flow` holds one function a kind of job, made of durable steps.
//! * `reconcile` holds what the daemon does by itself: chains kept short, rules for keeping applied, the trash emptied.
//! * `lending` decides about reservations: what is due, who gets which computer, what idle computers are loaded with.
//! * `worker` claims jobs and runs them; it owns their tasks.
//! * A binary of a few lines starts it: `Vcld::builder().backend(...).run()`; so an author of a backend ships a daemon
//!   of their own with it.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

mod admission;
mod backends;
mod backup;
mod cli;
pub mod clock;
mod daemon;
mod doctor;
mod dryrun;
mod evidence;
pub mod exchange;
mod flow;
pub mod guacamole;
mod health;
pub mod http;
pub mod inbox;
mod instances;
mod lending;
mod metrics;
pub mod nat;
pub mod node;
mod notices;
mod notify;
mod orphans;
pub mod people;
mod plan;
pub mod reconcile;
mod requests;
mod rescan;
mod retention;
pub mod rights;
mod telemetry;
#[cfg(test)]
mod testing;
mod usage;
mod why;
mod witness;
mod worker;

pub use backends::{Factory, Making};
pub use cli::Arguments;
pub use daemon::{Builder, Vcld};
