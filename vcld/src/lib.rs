//! The daemon: it pulls jobs from the queue and hands control to the backend of the computer concerned.
//!
//! ```text
//!  http (unix socket) ──► Node ──► queue ──wakes──► worker ──► flow (one function a kind of job) ──► backend ──► OS
//! ```
//!
//! * [`node::Node`] is what a management node has: its configuration, queue, library, backends and OS modules. Whatever
//!   can be asked of the daemon is a method of it; the HTTP API is a thin layer over these.
//! * `flow` holds one function a kind of job, made of durable steps.
//! * `worker` claims jobs and runs them; it owns their tasks.
//! * A binary of a few lines starts it: `Vcld::builder().backend(...).run()`; so an author of a backend ships a daemon
//!   of their own with it.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

mod backends;
mod cli;
mod daemon;
mod doctor;
mod flow;
pub mod http;
pub mod node;
mod notify;
mod plan;
mod reconcile;
mod requests;
mod telemetry;
mod worker;

pub use backends::{Factory, Making};
pub use cli::Arguments;
pub use daemon::{Builder, Vcld};
