//! `[computers]`: ranges expanded, references looked up, MAC addresses made.

use crate::backend::Declarations;
use crate::clash::Clashes;
use crate::field::Field;
use crate::keys::{COMPUTER, INTERFACE};
use crate::nat;
use crate::nearest::nearest;
use crate::network::{Link, Links, Network};
use crate::problem::{Position, dotted, shown};
use crate::range::{self, MOST_COMPUTERS};
use crate::section::{self, Section};
use crate::tree::{Entry, Value};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use vcl_types::{
    AddressSource, BackendName, ByteSize, Computer, ComputerName, NatName, NetworkName, Nic, NicRole,
};

/// The MAC address of a computer's interface that has none in the file: `52` (locally administered, unicast) and
/// the first five bytes of the SHA-256 of `name/index`: 40 bits, so that ten thousand computers do not collide. `interface` counts from 0 in the order of the file. It stays the same for ever.
#[must_use]
pub fn derived_mac(computer: &ComputerName, interface: usize) -> String {
    let digest = Sha256::digest(format!("{computer}/{interface}"));
    digest[..5].iter().fold("52".to_owned(), |mac, byte| format!("{mac}:{byte:02x}"))
}

/// What an entry gives each of its computers.
struct Seat {
    backend: BackendName,
    cpus: Option<u32>,
    memory: Option<ByteSize>,
    tags: Vec<String>,
    nat: Option<NatName>,
    /// Its interfaces, the management one first.
    plugs: Vec<Plug>,
}

/// Reads all computers, and which are behind a NAT host. Those of an entry with problems are left out; nobody gets to see
/// the others then.
pub(crate) fn read(
    root: &Section<'_>,
    backends: &Declarations,
    networks: &Links,
    nats: &nat::Known,
) -> (Vec<Computer>, BTreeMap<ComputerName, NatName>) {
    let (mut computers, mut behind) = (Vec::new(), BTreeMap::new());
    let mut clashes = Clashes::new(root.findings());
    let mut count = 0;
    for (path, entry) in root.named_entries("computers") {
        let names = names(root, &path, entry);
        count += names.as_ref().map_or(0, Vec::len);
        if count > MOST_COMPUTERS {
            let message = format!("with this entry the file has more than {MOST_COMPUTERS} computers");
            root.findings().report(entry.at, &path, message, "split them over several management nodes");
            break;
        }
        clashes.enter(entry, &path);
        let free: Vec<bool> = names.iter().flatten().map(|name| clashes.name(name)).collect();
        let Some(entries) = section::table(root.findings(), &path, entry) else { continue };
        let table = Section::open(root.findings(), (path, entry.at), entries, [COMPUTER, &[]]);
        let reader = Reader { table: &table, backends, networks, nats, count: names.as_ref().map(Vec::len) };
        let (Some(seat), Some(names)) = (reader.seat(), &names) else { continue };
        let declared = backends.get(seat.backend.as_str()).and_then(Option::as_ref);
        let images = declared.and_then(|backend| backend.images.as_deref()?.strip_prefix("vcl-"));
        if names.iter().any(|name| images == Some(name.as_str())) {
            let (name, backend) = (images.unwrap_or_default(), &seat.backend);
            table.report(
                "backend",
                format!("the machine of `{name}` would be called as the directory of images of [backend.{backend}]"),
                "give the computer another name, or the backend other `images`",
            );
        }
        for (number, name) in names.iter().enumerate() {
            let computer = seat.computer(name, number);
            for nic in computer.nics.iter().filter(|_| free[number]) {
                clashes.mac(name, &nic.mac);
                if let Some(address) = nic.address {
                    clashes.address(name, &nic.network, address);
                }
            }
            computers.push(computer);
            behind.extend(seat.nat.clone().map(|nat| (name.clone(), nat)));
        }
    }
    clashes.report();
    (computers, behind)
}

fn names(root: &Section<'_>, path: &str, entry: &Entry) -> Option<Vec<ComputerName>> {
    let names = match range::expand(&entry.key) {
        Ok(names) => names,
        Err(bad) => {
            root.findings().report(entry.at, path, bad.message, bad.way_out);
            return None;
        }
    };
    let names: Result<Vec<ComputerName>, _> = names.iter().map(|name| name.parse::<ComputerName>()).collect();
    let bad = |bad: vcl_types::InvalidName| {
        root.findings().report(
            entry.at,
            path,
            format!("`{}` is not a {}", shown(&bad.value), bad.what),
            bad.rule,
        );
    };
    names.map_err(bad).ok()
}

impl Seat {
    /// The computer that is the entry's `number`th, counted from 0.
    fn computer(&self, name: &ComputerName, number: usize) -> Computer {
        let nic = |plug: &Plug| Nic {
            network: plug.network.clone(),
            role: plug.role,
            mac: plug.mac.clone().unwrap_or_else(|| derived_mac(name, plug.index)),
            address: plug.addresses.get(number).copied(),
        };
        Computer {
            name: name.clone(),
            backend: self.backend.clone(),
            cpus: self.cpus,
            memory: self.memory,
            nics: self.plugs.iter().map(nic).collect(),
            tags: self.tags.clone(),
        }
    }
}

/// Reads one entry.
struct Reader<'a> {
    table: &'a Section<'a>,
    backends: &'a Declarations,
    networks: &'a Links,
    nats: &'a nat::Known,
    /// How many computers it is for; `None` when its name could not be read.
    count: Option<usize>,
}

impl Reader<'_> {
    fn seat(&self) -> Option<Seat> {
        let table = self.table;
        let backend = table.field("backend").and_then(|field| self.backend(&field));
        let cpus = optional(table.field("cpus"), |field| field.integer());
        let memory = optional(table.field("memory"), |field| field.size());
        let tags = optional(table.field("tags"), |field| field.tags());
        let nat = optional(table.field("nat"), |field| nat::named(field, self.nats));
        let plugs = self.plugs();
        Some(Seat {
            backend: backend?,
            cpus: cpus?,
            memory: memory?,
            tags: tags?.unwrap_or_default(),
            nat: nat?,
            plugs: plugs?,
        })
    }

    fn backend(&self, field: &Field<'_>) -> Option<BackendName> {
        let word = field.text()?;
        if !self.backends.contains_key(&word) {
            unknown(field, "backend", &word, self.backends.keys());
            return None;
        }
        // A name that is in the file and still no name was reported there.
        word.parse().ok()
    }

    fn plugs(&self) -> Option<Vec<Plug>> {
        let table = self.table;
        let mac = optional(table.field("mac"), |field| self.mac(field));
        let addresses = optional(table.field("address"), |field| self.addresses(field));
        let list = table.field("networks")?;
        let items = list.items()?;
        if items.is_empty() {
            list.report(
                "a computer needs at least one network",
                "name the one it is managed over, as in [\"lab\"]",
            );
            return None;
        }
        let mut drafts: Vec<Draft> =
            items.iter().enumerate().map(|(index, item)| self.draft(index, item)).collect();
        let management = assign_roles(&mut drafts, &list);
        if let Some(draft) = management.and_then(|index| drafts.get_mut(index)) {
            for (key, twice) in [("mac", draft.mac != Some(None)), ("address", draft.addresses != Some(None))]
            {
                if table.has(key) && twice {
                    table.report(
                        key,
                        format!("the management interface has a `{key}` in `networks` too"),
                        "keep one of them",
                    );
                }
            }
            if table.has("mac") {
                draft.mac = mac;
            }
            if table.has("address") {
                (draft.at, draft.path) = (table.place("address"), dotted(table.location(), "address"));
                draft.addresses = addresses;
            }
        }
        for draft in &drafts {
            self.check_link(draft);
        }
        let mut plugs = drafts.into_iter().map(Draft::finish).collect::<Option<Vec<Plug>>>()?;
        // The order of the file, with the management interface moved to the front.
        plugs[..=management?].rotate_right(1);
        Some(plugs)
    }

    fn draft(&self, index: usize, item: &Field<'_>) -> Draft {
        let mut draft = Draft {
            index,
            network: None,
            role: Some(None),
            mac: Some(None),
            addresses: Some(None),
            at: item.at,
            path: item.path.clone(),
            item_at: item.at,
            item_path: item.path.clone(),
        };
        let Value::Table(entries) = &item.node.value else {
            draft.network = self.network(item);
            return draft;
        };
        let table = Section::open(item.findings, (item.path.clone(), item.at), entries, [INTERFACE, &[]]);
        draft.network = table.field("network").and_then(|field| self.network(&field));
        draft.role = optional(table.field("role"), |_| table.choice("role"));
        draft.mac = optional(table.field("mac"), |field| self.mac(field));
        draft.addresses = optional(table.field("address"), |field| self.addresses(field));
        if table.has("address") {
            (draft.at, draft.path) = (table.place("address"), dotted(table.location(), "address"));
        }
        draft
    }

    fn network(&self, field: &Field<'_>) -> Option<NetworkName> {
        let word = field.text()?;
        let Some(network) = self.networks.get(&word) else {
            unknown(field, "network", &word, self.networks.keys());
            return None;
        };
        let backend = self.table.peek("backend").and_then(|backend| self.backends.get(&backend)?.as_ref());
        if let (Some(Network { link: link @ (Link::User | Link::Libvirt(_)), .. }), Some(backend)) =
            (network, backend)
            && !backend.libvirt_networks
        {
            field.report(
                format!(
                    "`{word}` is a network of libvirt (`{}`), and the backend is of type {}",
                    link.key(),
                    backend.kind
                ),
                "use a network with a `bridge`, or a libvirt backend",
            );
        }
        word.parse().ok()
    }

    fn mac(&self, field: &Field<'_>) -> Option<String> {
        let mac = field.mac()?;
        if let Some(count @ 2..) = self.count {
            field.report(
                format!("`{mac}` would be the MAC address of {count} computers"),
                "leave it out: each gets one of its own; or give the computer an entry of its own",
            );
            return None;
        }
        Some(mac)
    }

    fn addresses(&self, field: &Field<'_>) -> Option<Vec<IpAddr>> {
        let text = field.text()?;
        let texts = range::expand(&text).map_err(|bad| field.report(bad.message, field.kind.hint())).ok()?;
        let addresses: Result<Vec<IpAddr>, &String> = texts
            .iter()
            .map(|text| text.parse::<IpAddr>().ok().filter(|a| is_hosts(*a)).ok_or(text))
            .collect();
        let addresses = addresses
            .map_err(|bad| {
                field.report(format!("`{}` is not a machine's address", shown(bad)), field.kind.hint());
            })
            .ok()?;
        let count = self.count?;
        if addresses.len() != count {
            let (one, other) = (plural(addresses.len(), "address", "es"), plural(count, "computer", "s"));
            field.report(
                format!("`{}` is {one}, and the entry is for {other}", shown(&text)),
                "write as many addresses as computers, as in \"10.0.0.[11-50]\" for \"gis-[01-40]\"",
            );
            return None;
        }
        Some(addresses)
    }

    /// An address belongs to a static network, and a static network needs one.
    fn check_link(&self, draft: &Draft) {
        let name = draft.network.as_ref().map(NetworkName::as_str);
        let Some(Some(network)) = name.and_then(|name| self.networks.get(name)) else { return };
        let name = name.unwrap_or_default();
        let is_static = network.address == Some(AddressSource::Static);
        match &draft.addresses {
            Some(Some(_)) if !is_static => self.table.findings().report(
                draft.at,
                &draft.path,
                format!("network `{name}` is not static, so this address would not be used"),
                format!("leave it out, or write address = \"static\" in [network.{name}]"),
            ),
            Some(None) if is_static => self.table.findings().consequence(
                draft.at,
                &draft.path,
                format!("network `{name}` is static, and there is no `address` here"),
                format!("write {{ network = \"{name}\", address = \"…\" }}"),
            ),
            _ => {}
        }
    }
}

/// An interface of an entry while it is read. An outer `None` stands for what was reported.
struct Draft {
    /// Its number in the file's order, from 0.
    index: usize,
    network: Option<NetworkName>,
    role: Option<Option<NicRole>>,
    mac: Option<Option<String>>,
    addresses: Option<Option<Vec<IpAddr>>>,
    /// Where its address stands, or it itself.
    at: Position,
    path: String,
    item_at: Position,
    item_path: String,
}

/// An interface of an entry.
struct Plug {
    index: usize,
    network: NetworkName,
    role: NicRole,
    mac: Option<String>,
    /// One for each computer, or none.
    addresses: Vec<IpAddr>,
}

impl Draft {
    fn finish(self) -> Option<Plug> {
        Some(Plug {
            index: self.index,
            network: self.network?,
            role: self.role??,
            mac: self.mac?,
            addresses: self.addresses?.unwrap_or_default(),
        })
    }
}

/// Gives every interface a role and says which is the management one.
fn assign_roles(drafts: &mut [Draft], list: &Field<'_>) -> Option<usize> {
    let mut roles = Vec::new();
    for draft in drafts.iter() {
        roles.push(draft.role?);
    }
    let explicit: Vec<usize> = (0..roles.len()).filter(|i| roles[*i] == Some(NicRole::Management)).collect();
    let management = match explicit.as_slice() {
        [] => roles.iter().position(Option::is_none),
        [one] => Some(*one),
        [_, second, ..] => {
            let draft = &drafts[*second];
            let message = "a computer has one management interface, and this is the second";
            list.findings.report(draft.item_at, &draft.item_path, message, "write role = \"public\"");
            return None;
        }
    };
    let Some(management) = management else {
        list.report(
            "no interface is left for management",
            "give one of them role = \"management\", or no role",
        );
        return None;
    };
    for (index, draft) in drafts.iter_mut().enumerate() {
        draft.role = Some(Some(if index == management { NicRole::Management } else { NicRole::Public }));
    }
    Some(management)
}

/// What an optional key gives: nothing where it is left out, and `None` where it was read with a problem.
fn optional<'a, T>(
    field: Option<Field<'a>>,
    read: impl FnOnce(&Field<'a>) -> Option<T>,
) -> Option<Option<T>> {
    match field {
        None => Some(None),
        Some(field) => read(&field).map(Some),
    }
}

fn unknown<'a>(field: &Field<'_>, what: &str, word: &str, known: impl Iterator<Item = &'a String> + Clone) {
    let way_out = match (nearest(word, known.clone().map(String::as_str)), known.clone().next()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, Some(_)) => {
            let names: Vec<String> = known.take(20).map(|name| shown(name)).collect();
            format!("this file has: {}", names.join(", "))
        }
        (None, None) => format!("this file has no {what}; add a [{what}.NAME]"),
    };
    field.findings.consequence(
        field.at,
        &field.path,
        format!("there is no {what} `{}`", shown(word)),
        way_out,
    );
}

fn plural(count: usize, one: &str, ending: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}{ending}") }
}

/// Whether a machine can have that address.
fn is_hosts(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast)
}
