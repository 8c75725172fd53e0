//! The [`Provisioning`] trait and its backends.
//!
//! A backend puts a revision on a computer, captures what is on it, and takes it back. The daemon hands control to it
//! and it keeps control: it decides when the guest is ready and calls the OS module itself (`post_load`,
//! `pre_capture`). Backends know neither SQL nor HTTP nor each other.
//!
//! Each backend is a cargo feature: `libvirt`, `vmware` (a vCenter), `esx` (one ESXi host), `xcat` for nodes of an xCAT
//! management node, `lab` for PCs that are lent as they are, and `sim` for simulated machines. The feature `conformance`
//! has the kit that tries whether a backend does what the trait says.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

#[cfg(any(feature = "libvirt", feature = "vim25", feature = "xcat"))]
mod away;
mod capabilities;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(feature = "esx")]
pub mod esx;
pub mod inbox;
#[cfg(feature = "lab")]
pub mod lab;
#[cfg(feature = "libvirt")]
pub mod libvirt;
#[cfg(any(test, feature = "mock"))]
mod mock;
mod network;
pub mod prelude;
mod provisioning;
mod reach;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "vim25")]
pub mod vim25;
#[cfg(feature = "vmware")]
pub mod vmware;
#[cfg(feature = "xcat")]
pub mod xcat;

pub use capabilities::{Capabilities, Capability};
pub use error::{Error, ErrorKind, Result};
#[cfg(any(test, feature = "mock"))]
pub use mock::{Calls, MockCalls, MockProvisioning};
pub use network::{Network, Networks, Plug};
pub use provisioning::{
    Captured, CapturedDisk, CapturedFirmware, Limits, Provisioning, Target, VmTarget, Work,
};
pub use reach::ssh_speaks;
