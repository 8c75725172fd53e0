//! The image library: staging, digests, publishing.
//!
//! ```text
//!  <library>/.staging/job12-token3/   a capture, an import or a build fills it
//!                    │ seal: flushed, checked, digested
//!                    │ publish: manifest written, one rename onto a name that must not exist
//!                    ▼
//!  <library>/debian/2/                manifest.json  disk0.qcow2  disk0.chunks  …   never written again
//!                    │ delete: one rename; removed days later, or brought back
//!                    ▼
//!  <library>/.trash/debian@2.deleted.…
//! ```
//!
//! * A revision is there whole, or not at all. Whatever a crash leaves lies in `.staging` or `.trash`, under a name that
//!   the job's journal holds.
//! * Everything here may be done again: staging, publishing, their undo, deleting.
//! * A revision may be stored as what differs from its parent (`delta`), which is then kept as long as it is. Its disks
//!   can be rewritten whole in place (`flatten`).
//! * Two digests, described in [`digest`]: one of the stored file, one of what the guest sees.
//! * Foreign disks are judged by [`sniff`] before qemu sees them; manifests are checked when they are read.
//! * Programs run as children of a step ([`qemu_img`]): journaled, and ended when the step is told to stop.

mod blocking;
mod delta;
pub mod digest;
mod error;
mod export;
pub mod fetch;
mod flatten;
mod import;
mod library;
mod manifest;
mod names;
mod progress;
pub mod qemu_img;
pub mod retention;
mod room;
mod seal;
pub mod sniff;
mod space;
mod store;
mod verify;

pub use delta::{Base, flatten_candidates};
pub use error::{Error, ErrorKind, Result};
pub use export::discard_export;
pub use flatten::{copy_whole, with_disks};
pub use import::{Imported, import_disk};
pub use library::{Discarded, Finding, Leftover, Library, Scan, Staging, TrashName, Trashed};
pub use names::staging_name;
pub use progress::Progress;
pub use qemu_img::Format;
pub use room::with_room;
pub use seal::{StagedDisk, seal, seal_boot, seal_firmware};
pub use space::estimate;
pub use store::{Directory, Space, Store};
pub use verify::{Fault, Mismatch};
