//! The queue from outside: every promise that its methods make.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod claims;
mod computers;
mod damage;
mod events;
mod flow;
mod holdings;
mod images;
mod jobs;
mod journal;
mod kill;
mod model;
mod opening;
mod reservations;
mod speed;
mod world;
