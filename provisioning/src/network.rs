//! Networks that computers are plugged into, as the site's configuration describes them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vcl_types::{AddressSource, NetworkName};

/// What a network is on a virtual machine host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plug {
    /// A bridge of the host.
    Bridge(String),
    /// A network that libvirt manages.
    Libvirt(String),
    /// A port group of VMware.
    PortGroup(String),
    /// The hypervisor's user networking, with a forward from a free port of 127.0.0.1 to the guest's ssh: for trials
    /// and demonstrations, where nobody else needs to reach the guest.
    User,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// What it is.
    pub plug: Plug,
    /// How a computer's address on it is found out.
    pub address: AddressSource,
    /// The executable that prints a computer's address, for [`AddressSource::Hook`].
    pub hook: Option<String>,
}

/// All networks by name.
pub type Networks = BTreeMap<NetworkName, Network>;
