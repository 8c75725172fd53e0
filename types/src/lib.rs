//! What everybody in vcld speaks of: ids and names, computers, revisions and their hardware, endpoints,
//! the states of jobs, reservations and computers, and the wire types of the HTTP API.
//!
//! Nothing in this crate does I/O. Every value that comes from outside (a name, a size, an image reference) is a
//! type of its own that can only be made by a parser which says what is wrong and what would be right.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

mod access;
pub mod api;
mod backend;
mod computer;
mod delta;
mod endpoint;
mod ids;
mod image;
mod image_test;
mod insight;
pub mod lending;
mod nat;
pub mod notices;
pub mod people;
mod request;
mod run_report;
mod secret;
mod size;
pub mod state;
pub mod usage;

pub use access::{
    Access, Account, AccountName, ConnectMethod, Identity, Reach, Session, SharedItem, UserData, is_person,
    ssh_key,
};
pub use computer::{Accelerator, AddressSource, Computer, Loaded, Nic, NicRole};
pub use delta::{FileRecord, Over};
pub use endpoint::{Endpoint, HostKey, HostKeys, KeySource};
pub use ids::{
    BackendName, ComputerName, ImageName, InvalidName, JobId, ManifestName, NatName, NetworkName,
    ReservationId,
};
pub use image::{
    Digest, DirectBoot, DiskBus, DiskRecord, Firmware, FirmwareRecord, Hardware, ImageRef, Manifest,
    NicModel, OsName, Revision,
};
pub use image_test::{ComparedItem, ImageTest, ScriptRun, item_in_words};
pub use nat::PortRanges;
pub use request::{After, CaptureInto, JobKind, JobRequest};
pub use run_report::{ObjectReport, ObjectState, RunError, RunReport};
pub use secret::Secret;
pub use size::{ByteSize, InvalidSize};
