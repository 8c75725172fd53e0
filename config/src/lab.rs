//! `[backend.NAME]` with `type = "lab"`: PCs that are lent as they are.

use crate::backend::{BackendConfig, BackendType};
use crate::keys::{Key, Kind};
use crate::problem::{Problems, shown};
use crate::section::Section;
use std::net::IpAddr;

/// What a `[backend.NAME]` of the type `lab` has besides.
pub const KEYS: &[Key] = &[
    Key::optional(
        "domain",
        Kind::HostName,
        "the computers' names are looked up as they are",
        "What is put behind a computer's name to look its address up, such as `lab.example.org`. A computer on a static network has its address in its entry.",
    ),
    Key::default("port", Kind::Integer { min: 1, max: 65535 }, "22", "Where the PCs' ssh servers listen."),
    Key::default(
        "wake",
        Kind::Text,
        "255.255.255.255",
        "Where wake-on-LAN packets go: the broadcast address of the PCs' network. Only a PC whose entry has its `mac` is woken.",
    ),
];

/// The settings of a lab backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lab {
    /// What is put behind a computer's name to look its address up.
    pub domain: Option<String>,
    /// Where the PCs' ssh servers listen.
    pub port: u16,
    /// Where wake-on-LAN packets go.
    pub wake: IpAddr,
}

impl Lab {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let domain = table.has("domain").then(|| table.text("domain"));
        let port = table.integer("port").and_then(|port| u16::try_from(port).ok());
        let wake = table.text("wake").and_then(|text| {
            let address = text.parse::<IpAddr>().ok().filter(|address| !address.is_unspecified());
            if address.is_none() {
                let way_out = "write one as in \"10.0.7.255\", or leave the key out";
                table.report("wake", format!("`{}` is not an address", shown(&text)), way_out);
            }
            address
        });
        let domain = match domain {
            Some(domain) => Some(domain?),
            None => None,
        };
        Some(Self { domain, port: port?, wake: wake? })
    }
}

impl BackendType {
    /// PCs that are lent as they are. Which networks they are on is their own affair.
    pub const LAB: Self = Self {
        name: "lab",
        keys: Some(KEYS),
        check: |table| {
            let _problems_are_noted = Lab::read(table);
        },
        libvirt_networks: false,
    };
}
impl BackendConfig {
    /// The settings of a backend whose type is `lab`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn lab(&self) -> Result<Lab, Problems> {
        self.read(KEYS, Lab::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, parse};

    fn read(lines: &str) -> Result<Lab, Problems> {
        let text = format!("library.path = \"/srv/vcl\"\n[backend.pcs]\ntype = \"lab\"\n{lines}\n");
        parse(&text, "vcld.toml", &Known::default())?.backends[&"pcs".parse().unwrap()].lab()
    }

    #[test]
    fn a_lab_needs_nothing_said() {
        let lab = read("").unwrap();
        assert_eq!((lab.domain, lab.port, lab.wake.to_string()), (None, 22, "255.255.255.255".into()));
        let lab = read("domain = \"lab.example.org\"\nport = 2222\nwake = \"10.0.7.255\"").unwrap();
        assert_eq!((lab.domain.as_deref(), lab.port), (Some("lab.example.org"), 2222));
        assert_eq!(lab.wake.to_string(), "10.0.7.255");
    }

    #[test]
    fn a_wrong_address_and_a_wrong_domain_are_told() {
        for (line, said) in [
            ("wake = \"10.0.7\"", "backend.pcs.wake: `10.0.7` is not an address"),
            ("wake = \"0.0.0.0\"", "is not an address"),
            ("port = 0", "backend.pcs.port"),
            ("domain = \"-x\"", "backend.pcs.domain"),
        ] {
            let problems = read(line).unwrap_err().to_string();
            assert!(problems.contains(said), "{line}: {problems}");
        }
    }
}
