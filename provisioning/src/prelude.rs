//! What the author of a backend has to have at hand: `use vcl_provisioning::prelude::*`.

pub use crate::{Capabilities, Capability, Captured, Error, ErrorKind, Provisioning, Result, Target, Work};
pub use async_trait::async_trait;
pub use camino::{Utf8Path, Utf8PathBuf};
pub use vcl_job::{AnyStep, Job, Step, TRANSIENT, Undo, undo_in};
pub use vcl_os::{Nobody, Os};
pub use vcl_types::api::{PlannedStep, PowerAction, PowerState};
pub use vcl_types::{Computer, ComputerName, Endpoint, HostKeys};
