//! Wire types about backend instances.

use crate::BackendName;
use crate::api::Finding;
use serde::{Deserialize, Serialize};

/// A backend instance: what it is, whether it answers, what it can do, what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackendView {
    /// Its name.
    pub name: BackendName,
    /// Its type.
    pub kind: String,
    /// Whether what is behind it answers.
    pub reachable: bool,
    /// What is behind it, as it says itself, such as `libvirt 9.0.0, qemu 7.2.11`.
    pub version: Option<String>,
    /// The host that its machines run on, where they all run on one.
    pub host: Option<String>,
    /// Whether other nodes with the same instance reach the same machines.
    pub shared: bool,
    /// How many jobs it is given at once.
    pub max_jobs: u64,
    /// How many computers it has.
    pub computers: u64,
    /// In what state its captures want the guest to leave its machine: `off`, `on` or `reboot`.
    pub end_state: Option<String>,
    /// What it can do besides loading computers and taking them back, and what it cannot.
    pub capabilities: Vec<CapabilityView>,
    /// What is well and what is wrong with it, each with the way out.
    pub findings: Vec<Finding>,
}

/// Something that a backend can do or cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CapabilityView {
    /// Its name, such as `capture`.
    pub name: String,
    /// What it is to be able to do that.
    pub what: String,
    /// Why it cannot; nothing if it can.
    pub lacks: Option<String>,
}
