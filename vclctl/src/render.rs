//! Answers as text: tables, single things, and jobs that go on.

pub mod backends;
pub mod classes;
pub mod computers;
pub mod events;
pub mod image_tests;
pub mod images;
pub mod insight;
pub mod jobs;
pub mod keep;
pub mod live;
pub mod nodes;
pub mod people;
pub mod plain;
pub mod reservations;
pub mod status;
mod table;
pub mod text;
mod time;
pub mod usage;
pub mod vms;

#[cfg(test)]
pub(crate) mod fixtures;

pub use table::{Facts, Table, Tone};
pub use time::{Clock, took};
