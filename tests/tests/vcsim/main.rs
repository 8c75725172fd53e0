//! The double of VMware's servers: that it refuses what it has to, disturbs what it is told to, and that its disks
//! have bytes and its machines have guests.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod disks;
mod faults;
mod guests;
mod sessions;
