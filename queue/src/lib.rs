//! What vcld remembers: jobs, reservations, computers, images, events and the journals of jobs, in SQL.
//!
//! [`Queue`] is the only door. Nobody else writes to the database, and inside the crate every change of a process goes through
//! one task (`writer`), which is what makes each method's change whole and their order one. Each table belongs to one
//! module, and its SQL stands there:
//!
//! | module | tables |
//! |---|---|
//! | `submit`, `claim`, `lanes`, `waiting`, `jobs`, `holds` | `jobs`: what may be queued; who has a job; who is next; what waits; how it is looked at |
//! | `nodes`, `lease` | `nodes`: who takes part, and whether it lives |
//! | `journal` | `journal`: what a job's steps have done |
//! | `guard` | `effects`: what steps have changed in these tables; and the fencing token's check |
//! | `computers` | `computers` |
//! | `images` | `revisions` |
//! | `reservations` | `reservations` |
//! | `events` | `events`, and the stream of what happens |
//!
//! Two engines keep it: SQLite for one node, MariaDB or MySQL for several (`engine` says what differs). `sqlite` and
//! `mariadb` open them, `migrate` owns their schema, `server` is how a batch survives a server that goes away, `nearby`
//! how one node learns of what another does.
//!
//! Nodes [`join`](Queue::join) with a lease; a claim's lease is its node life's ([`Lease`]).
//!
//! A job belongs to whoever holds its newest [`Claim`]. Each claim raises the job's fencing token, and whatever is
//! written in a job's name is written only while the token is the job's: a process that was thought dead and comes back
//! changes nothing.

mod claim;
mod computers;
mod database;
mod engine;
mod error;
mod events;
mod guard;
mod holds;
mod images;
mod jobs;
mod journal;
mod lanes;
mod lease;
mod mariadb;
mod migrate;
mod names;
mod nearby;
mod nodes;
mod reservations;
mod server;
mod sqlite;
mod submit;
#[cfg(feature = "testing")]
pub mod testing;
mod waiting;
mod writer;

pub use claim::{CancelOutcome, Claim, ClaimLimits};
pub use computers::{ComputerRow, Site};
pub use database::Queue;
pub use engine::Engine;
pub use error::{Error, Kind, Result};
pub use images::{ImageRow, Rebuilt, RevisionRow};
pub use jobs::{JobFilter, JobRow};
pub use lease::{Lease, Moment, Observer, SHORTEST_LEASE, given_up_after};
pub use mariadb::MariaDb;
pub use nodes::{Membership, NewNode, NodeRow, PROTOCOL, Process};
pub use submit::{Admission, NewJob};
pub use waiting::WaitFor;
