//! The backends vmware and esx against the double of VMware's servers: whole jobs, every fault that a site meets, and
//! nothing left over.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod away;
mod bench;
mod caches;
mod conformance;
#[path = "../vcsim/client.rs"]
#[expect(dead_code, reason = "the double's own tests use all of it")]
mod curl;
mod faults;
mod lives;
mod others;
mod rounds;
mod servers;
mod world;
