//! What vcld does inside a guest.
//!
//! * [`Os`] is the trait of OS modules: one entry point for a load ([`Os::post_load`]), one for a capture
//!   ([`Os::pre_capture`]), both called by backends only. [`linux::Linux`] is
//!   one, [`windows::Windows`] another.
//! * [`Remote`] is a connection to a guest and [`Remotes`] is where they come from; the feature `ssh` has the real one.
//! * The feature `mock` has mocks of all three for the tests of other crates.
//!
//! Everything that comes back from a guest is untrusted: a user of it may have replaced any program.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

mod access;
mod answer;
mod error;
mod hooks;
pub mod linux;
#[cfg(any(test, feature = "mock"))]
pub mod mock;
mod nobody;
mod os;
mod reach;
mod remote;
mod sessions;
mod shell;
#[cfg(feature = "ssh")]
pub mod ssh;
pub mod windows;

pub use error::{Error, ErrorKind, Result};
pub use linux::Linux;
pub use nobody::Nobody;
pub use os::{EndState, Guest, Limits, Os, SCRIPT_SAYS, SiteScript, Survey};
pub use remote::{Command, Output, Remote, Remotes};
#[cfg(feature = "ssh")]
pub use ssh::{SshKey, SshRemotes};
pub use windows::Windows;
