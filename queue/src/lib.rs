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
//! | `retention` | `production`, and which of `revisions` may go |
//! | `image_tests` | `image_tests`: what tests of revisions found out |
//! | `children` | which of `jobs` work for another |
//! | `holdings` | `holdings`: which node has the files of which revision |
//! | `restored` | all: what becomes of a database that was put back from a backup |
//! | `reservations` | `reservations`: rows, and those of loads by an admin's hand |
//! | `lending` | what the scheduler does with reservations that somebody asked for |
//! | `limits` | what stands in the way of it: others' reservations, limits |
//! | `arrivals` | people who come to their reservations |
//! | `lent` | what the jobs that work for them change |
//! | `forsaken` | going on with reservations that a job has left |
//! | `classes` | `classes`, `class_times`: seats of an image at times of the week |
//! | `closures` | maintenance windows, drained hosts |
//! | `usage` | `usage_rows`: a row for each reservation that has ended |
//! | `notices` | `notices`: what people are to be told by mail and webhook |
//! | `events` | `events`, and the stream of what happens |
//! | `evidence` | `evidence`: what was kept of a failure |
//! | `timings` | `timings`: how long steps took in jobs that ended well |
//! | `orphans` | `orphans`: what was seen to belong to nobody, and what somebody said about it |
//! | `people` | `users`, `people`, `members`: who there is, and who is in which group; `people_version` |
//! | `grants` | `grants`, `image_groups`, `image_group_images`: what groups may |
//! | `nat_ports` | `nat_ports`: which ports of NAT hosts are whose |
//! | `tokens` | `tokens`: what lets somebody in, without its secret |
//! | `audit` | `audit`: who did what; `answers`: what was answered to requests that may come again |
//! | `upkeep` | what reconcilers change: old rows, what is said of a computer's power |
//!
//! `writer` puts the changes of a moment into one transaction, and `together` many of one kind into one statement.
//!
//! `running` spares asking whether a claim is good where the answer is known.
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

mod arrivals;
mod audit;
mod children;
mod claim;
mod classes;
mod closures;
mod computers;
mod database;
mod dump;
mod engine;
mod error;
mod events;
mod evidence;
mod forsaken;
mod grants;
mod guard;
mod holdings;
mod holds;
mod image_tests;
mod images;
mod jobs;
mod journal;
mod lanes;
mod lease;
mod lending;
mod lent;
mod limits;
mod loads;
mod mariadb;
mod migrate;
mod names;
mod nat_ports;
mod nearby;
mod nodes;
mod notices;
mod orphans;
mod people;
mod reservations;
mod restored;
mod retention;
mod running;
mod server;
mod sqlite;
mod submit;
#[cfg(feature = "testing")]
pub mod testing;
mod timings;
mod together;
mod tokens;
mod upkeep;
mod usage;
mod waiting;
mod writer;

pub use audit::{ANSWERS, Before, Deed, DeedFilter, check_key};
pub use children::CloneOn;
pub use claim::{CancelOutcome, Claim, ClaimLimits};
pub use classes::{ClassRow, ClassTimeRow, NewClass};
pub use closures::{DrainedHost, MaintenanceWindow};
pub use computers::{ComputerRow, Site};
pub use database::Queue;
pub use dump::Dumped;
pub use engine::Engine;
pub use error::{Error, Kind, Result};
pub use evidence::{EVIDENCE_LIMIT, Part};
pub use forsaken::TakenUp;
pub use grants::RightsRows;
pub use holdings::Holding;
pub use images::{ImageRow, Rebuilt, RevisionRow, Shelf};
pub use jobs::{JobCensus, JobFilter, JobRow};
pub use lease::{Lease, Moment, Observer, SHORTEST_LEASE, given_up_after, own_end};
pub use lending::{Assignment, Ended, NewReservation};
pub use lent::Lending;
pub use limits::Places;
pub use mariadb::MariaDb;
pub use nat_ports::{Allotment, NatPort, WayIn};
pub use nodes::{Membership, NewNode, NodeRow, PROTOCOL, Process};
pub use notices::{Facts, NewNotice, NoticeRow, Outbox, Sending};
pub use orphans::{Noted, Sight};
pub use people::{Arrival, MOST_GROUPS, UserStanding};
pub use reservations::ReservationRow;
pub use restored::Restored;
pub use retention::Standing;
pub use submit::{Admission, NewJob};
pub use timings::{History, PastJob, Timed, usual};
pub use tokens::{TokenRow, TokenToKeep};
pub use upkeep::{Purged, Stance};
pub use usage::UsageRow;
pub use waiting::WaitFor;
