//! `[network.NAME]`.

use crate::keys::NETWORK;
use crate::problem::shown;
use crate::section::{self, Section};
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use vcl_types::{AddressSource, NetworkName};

/// The configured networks by name.
pub type Networks = BTreeMap<NetworkName, Network>;

/// One `[network.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// What machines are plugged into.
    pub link: Link,
    /// Where their addresses come from; `None` on a user network, whose machines answer on 127.0.0.1.
    pub address: Option<AddressSource>,
    /// The executable that prints a machine's address, absolute; there exactly if `address` is
    /// [`AddressSource::Hook`].
    pub hook: Option<Utf8PathBuf>,
}

/// What machines on a network are plugged into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// A bridge of the hypervisor host.
    Bridge(String),
    /// A libvirt network.
    Libvirt(String),
    /// A port group of VMware.
    PortGroup(String),
    /// qemu's user networking with a forward on 127.0.0.1.
    User,
}

impl Link {
    /// The key it is written with.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Bridge(_) => "bridge",
            Self::Libvirt(_) => "libvirt",
            Self::PortGroup(_) => "portgroup",
            Self::User => "user",
        }
    }
}

/// Every network's name in the file, also of those with problems; these are `None`.
pub(crate) type Links = BTreeMap<String, Option<Network>>;

/// Reads all networks.
pub(crate) fn read(root: &Section<'_>) -> (Networks, Links) {
    let mut networks = Networks::new();
    let mut links = Links::new();
    for (path, entry) in root.named_entries("network") {
        let findings = root.findings();
        let name = entry.key.parse::<NetworkName>();
        let name = name.map_err(|bad| {
            findings.report(
                entry.at,
                &path,
                format!("`{}` is not a {}", shown(&bad.value), bad.what),
                bad.rule,
            );
        });
        let network = section::table(findings, &path, entry).and_then(|entries| {
            read_one(&Section::open(findings, (path, entry.at), entries, [NETWORK, &[]]))
        });
        links.insert(entry.key.clone(), network.clone());
        if let (Ok(name), Some(network)) = (name, network) {
            networks.insert(name, network);
        }
    }
    (networks, links)
}

fn read_one(table: &Section<'_>) -> Option<Network> {
    let link = read_link(table);
    let user = matches!(link, Some(Link::User));
    let address = match (table.has("address"), user) {
        (true, true) => {
            table.report(
                "address",
                "a user network has no `address`: its machines answer on 127.0.0.1",
                "leave it out",
            );
            return None;
        }
        (true, false) => Some(table.choice::<AddressSource>("address")),
        (false, true) => None,
        (false, false) => Some(Some(AddressSource::default())),
    };
    let hook = table.has("hook").then(|| table.path("hook"));
    match (&address, &hook) {
        (Some(Some(AddressSource::Hook)), None) => {
            let way_out = "add hook = \"/path/of/an/executable\", which prints the machine's address";
            table.report("address", "`hook` needs the executable to ask", way_out);
            return None;
        }
        (None | Some(Some(AddressSource::Lease | AddressSource::Agent | AddressSource::Static)), Some(_)) => {
            let way_out = if user { "leave it out" } else { "add address = \"hook\", or leave `hook` out" };
            table.report("hook", "this is used with `address = \"hook\"` only", way_out);
            return None;
        }
        _ => {}
    }
    let address = match address {
        Some(source) => Some(source?),
        None => None,
    };
    let hook = match hook {
        Some(path) => Some(path?),
        None => None,
    };
    Some(Network { link: link?, address, hook })
}

fn read_link(table: &Section<'_>) -> Option<Link> {
    let given: Vec<&str> =
        ["bridge", "libvirt", "portgroup", "user"].into_iter().filter(|key| table.has(key)).collect();
    let links: Vec<Option<Link>> = given
        .iter()
        .map(|key| match *key {
            "bridge" => table.text("bridge").filter(|name| is_interface(table, name)).map(Link::Bridge),
            "libvirt" => table.text("libvirt").map(Link::Libvirt),
            "portgroup" => table.text("portgroup").map(Link::PortGroup),
            _ => table.boolean("user").map(|_| Link::User),
        })
        .collect();
    match given.as_slice() {
        [_] => links.into_iter().next().flatten(),
        [] => {
            table.findings().consequence(
                table.at(),
                table.location(),
                "nothing says what its machines are plugged into",
                "add one of: bridge = \"br20\", libvirt = \"default\", portgroup = \"VM Network\", user = true",
            );
            None
        }
        [.., last] => {
            let names: Vec<String> = given.iter().map(|key| format!("`{key}`")).collect();
            table.report(last, format!("{} exclude each other", names.join(" and ")), "keep one of them");
            None
        }
    }
}

fn is_interface(table: &Section<'_>, name: &str) -> bool {
    let ok = name.len() <= 15
        && !name.contains(['/', ':'])
        && !name.contains(char::is_whitespace)
        && name != ".."
        && name != ".";
    if !ok {
        let way_out = "write the bridge's name as `ip link` shows it, at most 15 characters, as in \"br20\"";
        table.report("bridge", format!("`{}` is not a bridge's name", shown(name)), way_out);
    }
    ok
}
