//! The client, the follower and the real binary against a daemon that plays scripted answers on a unix socket.
#![expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should")]

mod binary;
mod client;
mod fake;
mod follow;
