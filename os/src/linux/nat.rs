//! A NAT host: any Linux machine with nftables or iptables, reached over ssh, by whose ports users come to computers behind it.
//!
//! Its rules are `nat.sh`'s. Each public port has rules of its own, all of which are said at once and change at once, so that
//! saying them again after a death changes nothing, and two that speak of different ports are not in each other's way. Nobody
//! else's rules are touched; chains of others that would hold forwarded packets back get an accept that is known as ours.

use super::script::NAT;
use crate::answer::Answer;
use crate::reach::{self, Patience};
use crate::{Remotes, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_types::{Endpoint, Reach};

/// A host and what vcld's rules are known by there.
#[derive(Clone, Copy)]
pub struct NatHost<'a> {
    /// Where its ssh server answers, with its key.
    pub endpoint: &'a Endpoint,
    /// Where connections to it come from.
    pub remotes: &'a dyn Remotes,
    /// The word that the rules are known by: lower-case letters, digits and `_`.
    pub table: &'a str,
    /// Its own address that users' packets come to.
    pub outside: Ipv4Addr,
    /// How long a script may run there.
    pub limit: Duration,
}

/// Where a port leads, and for whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// The public port.
    pub port: u16,
    /// The computer's address.
    pub to: Ipv4Addr,
    /// The computer's port.
    pub to_port: u16,
    /// From where. For nobody the port is shut, and known to be somebody's.
    pub from: Reach,
    /// The address that the computer sees, if not the user's.
    pub inside: Option<Ipv4Addr>,
}

impl Forward {
    fn line(&self) -> String {
        let from = match &self.from {
            Reach::Everybody => "everybody".to_owned(),
            Reach::Nobody => "nobody".to_owned(),
            // This host's addresses are of the fourth version; whoever comes from one of the sixth comes another way.
            Reach::Only(nets) => {
                let nets = nets.iter().filter_map(|net| match net {
                    ipnet::IpNet::V4(net) => Some(*net),
                    ipnet::IpNet::V6(_) => None,
                });
                // A set of addresses may not name one twice.
                let nets = ipnet::Ipv4Net::aggregate(&nets.collect());
                let words: Vec<String> = nets.iter().map(ToString::to_string).collect();
                if words.is_empty() { "nobody".to_owned() } else { words.join(",") }
            }
        };
        let inside = self.inside.map_or_else(|| "-".to_owned(), |inside| inside.to_string());
        format!("{} {} {} {inside} {from}", self.port, self.to, self.to_port)
    }
}

/// Makes the rules of these ports so, and takes away all of those that are `shut`. Answers what was changed.
///
/// # Errors
/// The host does not let us in, or does not take the rules; `Unsupported` when it has no firewall that can be told.
pub async fn set(
    host: NatHost<'_>,
    forwards: &[Forward],
    shut: &[u16],
    cancel: &CancellationToken,
) -> Result<Vec<String>> {
    let ports: BTreeSet<u16> = forwards.iter().map(|f| f.port).chain(shut.iter().copied()).collect();
    let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
    let mut rules = String::new();
    for forward in forwards {
        let _ = writeln!(rules, "{}", forward.line());
    }
    let answer = ask(host, "set", ports.join(" "), rules.trim_end().to_owned(), cancel).await?;
    Ok(answer.texts("changed"))
}

/// The ports that have rules of ours there. What it says is checked to be ports, and bounded.
///
/// # Errors
/// As [`set`].
pub async fn ports(host: NatHost<'_>, cancel: &CancellationToken) -> Result<BTreeSet<u16>> {
    let answer = ask(host, "list", String::new(), String::new(), cancel).await?;
    Ok(answer.told("ports").flat_map(|line| line.split(' ')).filter_map(|port| port.parse().ok()).collect())
}

async fn ask(
    host: NatHost<'_>,
    what: &str,
    ports: String,
    rules: String,
    cancel: &CancellationToken,
) -> Result<Answer> {
    let to = host.endpoint;
    let remote = reach::reach(host.remotes, to, Patience::of(reach::NOW), cancel).await?;
    let parameters = [
        ("DO", what.to_owned()),
        ("TABLE", host.table.to_owned()),
        ("PUBLIC", host.outside.to_string()),
        ("PORTS", ports),
        ("RULES", rules),
        ("KIND", String::new()),
    ];
    let command = NAT.command(to, &parameters).limit(host.limit).cancel(cancel);
    Answer::of(remote.run(command).await?, to, "NAT rules")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_said_with_where_it_leads_and_for_whom() {
        let forward = |from, inside| Forward {
            port: 10_001,
            to: Ipv4Addr::new(10, 9, 0, 11),
            to_port: 22,
            from,
            inside,
        };
        let nets = |texts: &[&str]| Reach::Only(texts.iter().map(|text| text.parse().unwrap()).collect());
        let inside = Some(Ipv4Addr::new(10, 9, 0, 1));
        for (forward, line) in [
            (forward(Reach::Everybody, None), "10001 10.9.0.11 22 - everybody"),
            (forward(Reach::Nobody, inside), "10001 10.9.0.11 22 10.9.0.1 nobody"),
            (
                forward(nets(&["192.0.2.2/32", "fd00::1/128", "192.0.2.2/32"]), None),
                "10001 10.9.0.11 22 - 192.0.2.2/32",
            ),
            (forward(nets(&["fd00::1/128"]), None), "10001 10.9.0.11 22 - nobody"),
        ] {
            assert_eq!(forward.line(), line);
        }
    }
}
