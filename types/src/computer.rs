//! Computers: the seats that images are loaded on.

use crate::{BackendName, ByteSize, ComputerName, Endpoint, ImageRef, NetworkName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a network interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum NicRole {
    /// vcld reaches the machine through it. Exactly one interface of a computer has this role.
    #[default]
    Management,
    /// The machine's users reach it through this one.
    Public,
}

/// Where a computer's address on a network comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum AddressSource {
    /// The DHCP lease that the hypervisor or the site's server gave to the interface's MAC.
    #[default]
    Lease,
    /// The guest agent is asked.
    Agent,
    /// It stands in the configuration.
    Static,
    /// An executable of the site prints it.
    Hook,
}

/// One network interface of a computer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Nic {
    /// The network it is plugged into, a `[network.NAME]` of the configuration.
    pub network: NetworkName,
    /// Its role.
    pub role: NicRole,
    /// Its MAC address, lower case with colons.
    pub mac: String,
    /// Its address, where the configuration fixes one.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub address: Option<std::net::IpAddr>,
}

/// How a virtual machine's processor is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Accelerator {
    /// KVM where the processor's virtualisation flag is there, else emulation.
    #[default]
    Auto,
    /// KVM; a host without it refuses the load.
    Kvm,
    /// Emulation.
    Tcg,
}

/// A computer as the configuration describes it. The virtual machine behind it exists only while it is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Computer {
    /// Its name, which the loaded guest gets as its hostname.
    pub name: ComputerName,
    /// The backend instance that provisions it.
    pub backend: BackendName,
    /// Virtual processors; `None` takes what the revision was made with.
    pub cpus: Option<u32>,
    /// Memory; `None` takes what the revision was made with.
    pub memory: Option<ByteSize>,
    /// Its interfaces, the management one first.
    pub nics: Vec<Nic>,
    /// Words it can be selected by.
    pub tags: Vec<String>,
}

impl Computer {
    /// The interface vcld reaches the machine through.
    #[must_use]
    pub fn management(&self) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.role == NicRole::Management)
    }
}
impl fmt::Display for Computer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(f)
    }
}

/// What a computer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Loaded {
    /// The revision it was loaded from.
    pub image: ImageRef,
    /// Where it answers.
    pub endpoint: Endpoint,
    /// When the load ended.
    pub since: chrono::DateTime<chrono::Utc>,
}
