//! `[nat.NAME]`: hosts whose ports lead to computers that users cannot reach by themselves.

use crate::field::Field;
use crate::keys::{Key, Kind};
use crate::nearest::nearest;
use crate::problem::shown;
use crate::section::{self, Section};
use crate::values::KeySource;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use vcl_types::{ComputerName, HostKey, NatName, PortRanges};

/// What stands in a `[nat.NAME]`.
pub const KEYS: &[Key] = &[
    Key::required("address", Kind::Text, "The IPv4 address that users come to."),
    Key::required(
        "ports",
        Kind::Text,
        "The TCP ports that are given out, one for each way of each reservation: `10000-19999`, or several ranges as in `5700-6500,9696-9701`. Nothing else may use them.",
    ),
    Key::required(
        "host_key",
        Kind::Text,
        "The public key that its ssh server shows, as `ssh-keyscan -t ed25519 HOST` prints it behind the name. Another one is refused.",
    ),
    Key::optional("ssh", Kind::Text, "what `address` says", "The address that its ssh server is reached at."),
    Key::default("port", Kind::Integer { min: 1, max: 65535 }, "22", "Where its ssh server listens."),
    Key::default(
        "user",
        Kind::Account,
        "root",
        "The account that is logged in to. One that is not root needs `sudo` without a password.",
    ),
    Key::optional("key", Kind::KeySource, "that of [ssh]", "The private key that is logged in with."),
    Key::optional(
        "outside",
        Kind::Text,
        "what `address` says",
        "Its own address that users' packets come to, where a router before it makes that of `address`.",
    ),
    Key::optional(
        "inside",
        Kind::Text,
        "the users' own addresses; the computers answer by way of this host",
        "Its address on the computers' side, from which connections go on to them. Needed where the computers would not answer by way of this host; they see this address then instead of the users'.",
    ),
    Key::default(
        "table",
        Kind::Text,
        "vcld_nat",
        "What vcld's rules there are known by: the name of a table of nftables, or of chains of iptables. Sites that share a host have a word of their own each, and ports of their own.",
    ),
];

/// Every `[nat.NAME]`, and the computers behind them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Nats {
    /// The hosts.
    pub hosts: BTreeMap<NatName, NatHost>,
    /// The computers whose users come through one, each with which.
    pub behind: BTreeMap<ComputerName, NatName>,
}

impl Nats {
    /// The host that users of a computer come through.
    #[must_use]
    pub fn of(&self, computer: &ComputerName) -> Option<(&NatName, &NatHost)> {
        self.hosts.get_key_value(self.behind.get(computer)?)
    }
}

/// One `[nat.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatHost {
    /// What users come to.
    pub address: Ipv4Addr,
    /// The ports that are given out.
    pub ports: PortRanges,
    /// The key that its ssh server shows.
    pub host_key: HostKey,
    /// Where its ssh server answers.
    pub ssh: Ipv4Addr,
    /// The ssh server's port.
    pub port: u16,
    /// The account that is logged in to.
    pub user: String,
    /// The key that is logged in with; `None` is that of `[ssh]`.
    pub key: Option<KeySource>,
    /// Its own address that users' packets come to.
    pub outside: Ipv4Addr,
    /// The address that computers see; `None` where they see the users'.
    pub inside: Option<Ipv4Addr>,
    /// What the rules are known by.
    pub table: String,
}

/// The names of the file, also of those with problems; these are `None`.
pub(crate) type Known = BTreeMap<String, Option<NatName>>;

fn address(table: &Section<'_>, key: &str) -> Option<Ipv4Addr> {
    let text = table.text(key)?;
    let address = text.parse::<Ipv4Addr>().ok();
    let address = address.filter(|a| !a.is_unspecified() && !a.is_multicast() && !a.is_broadcast());
    if address.is_none() {
        let message = format!("`{}` is not a host's IPv4 address", shown(&text));
        table.report(key, message, "write it as in \"192.0.2.7\"");
    }
    address
}

fn read_one(table: &Section<'_>) -> Option<NatHost> {
    let optional = |key| table.optional(key, |table| address(table, key));
    let (public, ssh) = (address(table, "address"), optional("ssh"));
    let (outside, inside) = (optional("outside"), optional("inside"));
    let ports = table.text("ports").and_then(|text| {
        let ports = text.parse::<PortRanges>();
        ports
            .map_err(|bad| {
                table.report("ports", format!("`{}` is not a {}", shown(&bad.value), bad.what), bad.rule);
            })
            .ok()
    });
    let host_key = table.text("host_key").and_then(|text| {
        let key = HostKey::parse(&text);
        if key.is_none() {
            let message = format!("`{}` is not a public ssh key", shown(&text));
            let way_out = "write \"ssh-ed25519 AAAA…\", as ssh-keyscan prints it behind the host's name";
            table.report("host_key", message, way_out);
        }
        key
    });
    let port = table.integer("port").and_then(|port| u16::try_from(port).ok());
    let user = table.text("user");
    let key = match table.field("key") {
        None => Some(None),
        Some(field) => field.key_source().map(Some),
    };
    let name = table.text("table").filter(|name| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let good =
            name.len() <= 20 && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(plain);
        if !good {
            let message = format!("`{}` cannot be a table's name", shown(name));
            let way_out = "use 1 to 20 lower-case letters, digits and `_`, beginning with a letter";
            table.report("table", message, way_out);
        }
        good
    });
    let (public, ports, port, ssh, outside) = (public?, ports?, port?, ssh?, outside?);
    let (ssh, outside) = (ssh.unwrap_or(public), outside.unwrap_or(public));
    if ports.contains(port) && (ssh == public || ssh == outside) {
        let message = format!("port {port} is in `{ports}`, and vcld logs in by it");
        table.report("ports", message, "leave that port out of the ranges");
        return None;
    }
    Some(NatHost {
        address: public,
        ports,
        host_key: host_key?,
        ssh,
        port,
        user: user?,
        key: key?,
        outside,
        inside: inside?,
        table: name?,
    })
}

/// Reads all hosts.
pub(crate) fn read(root: &Section<'_>) -> (BTreeMap<NatName, NatHost>, Known) {
    let (mut hosts, mut known) = (BTreeMap::<NatName, NatHost>::new(), Known::new());
    for (path, entry) in root.named_entries("nat") {
        let findings = root.findings();
        let name = entry.key.parse::<NatName>().map_err(|bad| {
            let message = format!("`{}` is not a {}", shown(&bad.value), bad.what);
            findings.report(entry.at, &path, message, bad.rule);
        });
        known.insert(entry.key.clone(), name.clone().ok());
        let Some(entries) = section::table(findings, &path, entry) else { continue };
        let table = Section::open(findings, (path, entry.at), entries, [KEYS, &[]]);
        let (Ok(name), Some(host)) = (name, read_one(&table)) else { continue };
        let same = |other: &NatHost| other.address == host.address || other.outside == host.outside;
        let clash = hosts.iter().filter(|(_, other)| same(other));
        if let Some((other, port)) = clash.filter_map(|(n, o)| Some((n, o.ports.shared(&host.ports)?))).next()
        {
            let message = format!("port {port} of {} is given out by [nat.{other}] too", host.address);
            table.report("ports", message, "give each of them ports of its own");
            continue;
        }
        hosts.insert(name, host);
    }
    (hosts, known)
}

/// Reads the `nat` of a computer's entry.
pub(crate) fn named(field: &Field<'_>, known: &Known) -> Option<NatName> {
    let word = field.text()?;
    if let Some(name) = known.get(&word) {
        return name.clone();
    }
    let way_out = match (nearest(&word, known.keys().map(String::as_str)), known.is_empty()) {
        (Some(near), _) => format!("did you mean \"{near}\"?"),
        (None, true) => format!("this file has no NAT host; add a [nat.{}]", shown(&word)),
        (None, false) => {
            let names: Vec<String> = known.keys().take(20).map(|name| shown(name)).collect();
            format!("this file has: {}", names.join(", "))
        }
    };
    let message = format!("there is no NAT host `{}`", shown(&word));
    field.findings.consequence(field.at, &field.path, message, way_out);
    None
}

#[cfg(test)]
mod tests {
    use crate::{Config, Known, parse};

    const HOST: &str =
        "address = \"192.0.2.7\"\nports = \"10000-19999\"\nhost_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\"\n";

    fn read(lines: &str, computer: &str) -> Result<Config, String> {
        let text = format!(
            "library.path = \"/srv/vcl\"\n[backend.kvm]\ntype = \"libvirt\"\n[network.lab]\nbridge = \"br0\"\n\
             [nat.campus]\n{lines}\n[computers]\n\"gis-[01-02]\" = {{ backend = \"kvm\", networks = [\"lab\"]{computer} }}\n\
             free = {{ backend = \"kvm\", networks = [\"lab\"] }}\n"
        );
        parse(&text, "vcld.toml", &Known::default()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_host_needs_an_address_ports_and_its_key() {
        let config = read(HOST, ", nat = \"campus\"").unwrap();
        let (name, host) = config.nats.of(&"gis-02".parse().unwrap()).unwrap();
        assert_eq!((name.as_str(), host.ports.count(), host.port), ("campus", 10_000, 22));
        assert_eq!((host.ssh, host.outside, host.inside), (host.address, host.address, None));
        assert_eq!((host.user.as_str(), host.table.as_str(), host.key.is_none()), ("root", "vcld_nat", true));
        assert!(config.nats.of(&"free".parse().unwrap()).is_none());
        let more = "ssh = \"10.0.0.1\"\nport = 2222\nuser = \"vcl\"\ninside = \"10.9.0.1\"\noutside = \"10.0.0.1\"\n\
                    key = { credential = \"nat-key\" }\ntable = \"vcl_b\"";
        let config = read(&format!("{HOST}{more}"), "").unwrap();
        let host = &config.nats.hosts[&"campus".parse().unwrap()];
        assert_eq!(
            (host.ssh.to_string().as_str(), host.port, host.inside.is_some()),
            ("10.0.0.1", 2222, true)
        );
    }

    #[test]
    fn what_would_not_work_is_told_with_the_way_out() {
        for (line, computer, said) in [
            ("", ", nat = \"campsu\"", "there is no NAT host `campsu`\n  help: did you mean \"campus\"?"),
            ("ports = \"20-10\"", "", "nat.campus.ports: `20-10` is not a range of ports"),
            ("ports = \"10-20,15\"", "", "each port once"),
            ("ports = \"1-100\"", "", "port 22 is in `1-100`, and vcld logs in by it"),
            ("address = \"fd00::1\"", "", "`fd00::1` is not a host's IPv4 address"),
            ("host_key = \"hello\"", "", "is not a public ssh key"),
            ("table = \"a; flush ruleset\"", "", "cannot be a table's name"),
            ("inside = \"here\"", "", "nat.campus.inside"),
            ("key = \"hunter2\"", "", "nat.campus.key"),
        ] {
            let key = line.split(" =").next().unwrap();
            let lines: String = HOST
                .lines()
                .filter(|l| line.is_empty() || !l.starts_with(key))
                .map(|l| format!("{l}\n"))
                .collect();
            let problems = read(&format!("{lines}{line}"), computer).unwrap_err();
            assert!(problems.contains(said) && !problems.contains("hunter2"), "{line}: {problems}");
        }
    }

    #[test]
    fn one_port_of_an_address_is_given_out_once() {
        let two = |ports| format!("{HOST}[nat.other]\n{}", HOST.replace("10000-19999", ports));
        let problems = read(&two("9000-10000"), "").unwrap_err();
        assert!(problems.contains("port 10000 of 192.0.2.7 is given out by [nat.campus] too"), "{problems}");
        assert_eq!(read(&two("9000-9999"), "").unwrap().nats.hosts.len(), 2);
    }
}
