//! `[exchange]`: how nodes give each other revisions.

use crate::field::Field;
use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::Section;
use crate::tree::Value;
use crate::values::{self, KeySource};
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What `[exchange]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::default(
        "listen",
        Kind::Text,
        "0.0.0.0:8443",
        "The address and port that other nodes are answered on.",
    ),
    Key::optional(
        "address",
        Kind::Text,
        "the node's name with the port it listens on",
        "What the other nodes dial: a host name or an address, with the port.",
    ),
    Key::required(
        "ca",
        Kind::Path,
        "The certificate authority of the nodes, in PEM. Both ends are checked against it.",
    ),
    Key::required(
        "certificate",
        Kind::Path,
        "This node's certificate, in PEM. It has to hold the node's name as a DNS name.",
    ),
    Key::required("key", Kind::KeySource, "The private key of the certificate, in PEM."),
    Key::optional(
        "peers",
        Kind::Peers,
        "those that the database knows",
        "Other nodes by their names, each with what it is dialled at: `{ node2 = \"10.0.0.2:8443\" }`.",
    ),
];

/// How this node gives revisions to others, and has them from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Where it listens.
    pub listen: SocketAddr,
    /// What the others dial, `host:port`; `None` is the node's name with the port it listens on.
    pub address: Option<String>,
    /// The certificates of the authority that both ends are checked against, in PEM.
    pub ca: Utf8PathBuf,
    /// This node's certificate, in PEM, with whatever stands between it and the authority after it.
    pub certificate: Utf8PathBuf,
    /// Its private key, in PEM.
    pub key: KeySource,
    /// Other nodes by their names, each with its `host:port`.
    pub peers: BTreeMap<String, String>,
}

pub(crate) fn read(table: &Section<'_>) -> Option<Exchange> {
    let listen = table.text("listen").and_then(|text| {
        let address = text.parse().ok();
        if address.is_none() {
            let message = format!("`{}` is not an address with a port", shown(&text));
            table.report("listen", message, "write it as in \"0.0.0.0:8443\" or \"[::]:8443\"");
        }
        address
    });
    let address = match table.has("address") {
        false => Some(None),
        true => table.text("address").and_then(|text| {
            if is_endpoint(&text) {
                return Some(Some(text));
            }
            let message = format!("`{}` is not a host with a port", shown(&text));
            table.report("address", message, "write it as in \"node1.example.org:8443\"");
            None
        }),
    };
    let (ca, certificate) = (table.path("ca"), table.path("certificate"));
    let key = table.field("key").and_then(|field| field.key_source());
    let peers = match table.field("peers") {
        None => Some(BTreeMap::new()),
        Some(field) => peers(&field),
    };
    Some(Exchange {
        listen: listen?,
        address: address?,
        ca: ca?,
        certificate: certificate?,
        key: key?,
        peers: peers?,
    })
}

/// `{ node2 = "host:port" }`.
fn peers(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    let Value::Table(entries) = &field.node.value else {
        field.mismatch();
        return None;
    };
    let mut peers = BTreeMap::new();
    let mut good = true;
    for entry in entries {
        let text = match &entry.node.value {
            Value::Text(text) if is_endpoint(text) && values::is_host_name(&entry.key) => text.clone(),
            _ => {
                let message = format!("`{}` is not a node's name with its host and port", shown(&entry.key));
                field.report(message, field.kind.hint());
                good = false;
                continue;
            }
        };
        peers.insert(entry.key.clone(), text);
    }
    good.then_some(peers)
}

/// `host:port`, `10.0.0.5:8443` or `[fd00::5]:8443`.
fn is_endpoint(text: &str) -> bool {
    if text.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    values::is_host_name(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use crate::{Known, parse};

    const BASE: &str = "[library]\npath = \"/srv/vcl\"\n";

    #[test]
    fn an_exchange_is_read_with_its_defaults() {
        let text = format!(
            "{BASE}copies = 2\n[exchange]\nca = \"/e/ca.pem\"\ncertificate = \"/e/node1.pem\"\n\
             key = {{ credential = \"exchange-key\" }}\npeers = {{ node2 = \"10.0.0.2:8443\", \"node3.example.org\" = \"node3:8443\" }}\n"
        );
        let config = parse(&text, "t", &Known::default()).unwrap();
        let exchange = config.exchange.unwrap();
        assert_eq!(exchange.listen, "0.0.0.0:8443".parse().unwrap());
        assert_eq!((exchange.address, config.library.copies), (None, 2));
        assert_eq!(exchange.peers["node3.example.org"], "node3:8443");
        assert_eq!(parse(BASE, "t", &Known::default()).unwrap().exchange, None);
    }

    #[test]
    fn what_cannot_be_dialled_is_named() {
        for (line, named) in [
            ("listen = \"8443\"", "8443"),
            ("address = \"node1\"", "node1"),
            ("address = \"node1:0\"", "node1:0"),
            ("peers = { node2 = \"node2\" }", "node2"),
            ("peers = [\"node2\"]", "list"),
        ] {
            let text = format!(
                "{BASE}[exchange]\nca = \"/e/ca\"\ncertificate = \"/e/c\"\nkey = {{ file = \"/e/k\" }}\n{line}\n"
            );
            let problems = parse(&text, "t", &Known::default()).unwrap_err().to_string();
            assert!(problems.contains(named), "{line}: {problems}");
        }
        let text = format!("{BASE}[exchange]\nlisten = \"0.0.0.0:8443\"\n");
        let problems = parse(&text, "t", &Known::default()).unwrap_err().to_string();
        for key in ["ca", "certificate", "key"] {
            assert!(problems.contains(&format!("`{key}` is missing")), "{problems}");
        }
    }
}
