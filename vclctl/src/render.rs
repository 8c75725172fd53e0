//! Answers as text: tables, single things, and jobs that go on.

pub mod backends;
pub mod computers;
pub mod events;
pub mod images;
pub mod insight;
pub mod jobs;
pub mod keep;
pub mod live;
pub mod nodes;
pub mod plain;
pub mod status;
mod table;
pub mod text;
mod time;
pub mod vms;

#[cfg(test)]
pub(crate) mod fixtures;

pub use table::{Facts, Table, Tone};
pub use time::{Clock, took};
