//! `[backend.NAME]` with `type = "xcat"`: nodes that an xCAT management node provisions.

use crate::backend::{BackendConfig, BackendType};
use crate::field::Field;
use crate::inbox::is_url;
use crate::keys::{Key, Kind};
use crate::problem::{Problems, shown};
use crate::section::Section;
use crate::tree::Value;
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::time::Duration;
use vcl_types::ByteSize;

/// What a `[backend.NAME]` of the type `xcat` has besides.
pub const KEYS: &[Key] = &[
    Key::required("url", Kind::Text, "xCAT's REST service, as in `https://xcatmn/xcatws`."),
    Key::required(
        "ca",
        Kind::Path,
        "The certificate, in PEM, of the authority that signed the service's; xCAT keeps its own in /etc/xcat/ca/ca-cert.pem.",
    ),
    Key::required(
        "user",
        Kind::Text,
        "The account in xCAT's passwd table (key `xcat`); its policy should allow just what is needed.",
    ),
    Key::required("password", Kind::Credential, "The account's password."),
    Key::optional(
        "nodes",
        Kind::Names,
        "each computer's node has the computer's name",
        "Computers whose node has another name in xCAT: `{ lab-01 = \"n4\" }`.",
    ),
    Key::optional(
        "osimages",
        Kind::Names,
        "none: every image is restored from the library's disks",
        "Images that xCAT installs by itself, each with its osimage: `{ rocky9 = \"rocky9.4-x86_64-install-compute\" }`.",
    ),
    Key::optional(
        "disk",
        Kind::Path,
        "the only disk that a node has",
        "The disk that is captured and restored, as the service system calls it: `/dev/sda`.",
    ),
    Key::default("largest_disk", Kind::Size { min: 1 << 20 }, "4T", "Larger disks are not captured."),
    Key::default(
        "boot_order",
        Kind::Word(&["net", "keep"]),
        "net",
        "Whether a node is told to boot once from the network when that is needed, or (`keep`) always tries the network first by itself.",
    ),
    Key::default(
        "power_off",
        Kind::Boolean,
        "true",
        "Whether nodes that hold nothing are powered off. Without it they are left as they are.",
    ),
    Key::default(
        "poll",
        Kind::Duration { min: 100 },
        "10s",
        "How often a node is looked at while it is waited for. A call costs the management node a second or more.",
    ),
    Key::default(
        "call",
        Kind::Duration { min: 1000 },
        "3m",
        "How long one call may take. xCAT answers after minutes where service processors do not.",
    ),
    Key::default(
        "contact",
        Kind::Duration { min: 1000 },
        "15m",
        "How long it may take from a node's reboot until its imaging task or its installer is heard of.",
    ),
    Key::default(
        "no_progress",
        Kind::Duration { min: 1000 },
        "20m",
        "How long an imaging task or an installation may show no progress.",
    ),
    Key::default(
        "install",
        Kind::Duration { min: 1000 },
        "2h",
        "How long an installation by xCAT may take in all. Imaging is bounded by deadlines.copy.",
    ),
];

/// The settings of an xCAT backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xcat {
    /// The REST service, without a slash at its end.
    pub url: String,
    /// The authority that its certificate is checked against, a file in PEM.
    pub ca: Utf8PathBuf,
    /// The account.
    pub user: String,
    /// The name of its password.
    pub password: CredentialName,
    /// Computers whose node has another name.
    pub nodes: BTreeMap<String, String>,
    /// Images that xCAT installs, by their names.
    pub osimages: BTreeMap<String, String>,
    /// The disk that is imaged; `None` is the only one.
    pub disk: Option<Utf8PathBuf>,
    /// The largest disk that is captured.
    pub largest_disk: ByteSize,
    /// Whether a node is told to boot from the network.
    pub net_boot: bool,
    /// Whether nodes that hold nothing are powered off.
    pub power_off: bool,
    /// How often a node is looked at.
    pub poll: Duration,
    /// How long a call may take.
    pub call: Duration,
    /// Until a task or an installer is heard of.
    pub contact: Duration,
    /// How long one may show no progress.
    pub no_progress: Duration,
    /// How long an installation may take.
    pub install: Duration,
}

impl Xcat {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let url = table.text("url").and_then(|text| {
            let text = text.trim_end_matches('/').to_owned();
            let fine = is_url(&text, "https");
            if !fine {
                let message = format!("`{}` is not the URL of a service with TLS", shown(&text));
                table.report("url", message, "write it as in \"https://xcatmn/xcatws\"");
            }
            fine.then_some(text)
        });
        let (ca, user, password) = (table.path("ca"), table.text("user"), table.credential("password"));
        let nodes = names(table.field("nodes"), "computer");
        let osimages = names(table.field("osimages"), "image");
        let disk = if table.has("disk") { table.path("disk").map(Some) } else { Some(None) };
        let disk = disk.filter(|disk| {
            let fine = |b: u8| b.is_ascii_alphanumeric() || b"/.-_:".contains(&b);
            let good = disk.as_ref().is_none_or(|disk| disk.as_str().bytes().all(fine));
            if !good {
                table.report("disk", "that is not how a disk is called", "write it as in \"/dev/sda\"");
            }
            good
        });
        let largest_disk = table.size("largest_disk");
        let (order, power_off) = (table.text("boot_order"), table.boolean("power_off"));
        let [poll, call, contact, no_progress, install] =
            ["poll", "call", "contact", "no_progress", "install"].map(|key| table.duration(key));
        Some(Self {
            url: url?,
            ca: ca?,
            user: user?,
            password: password?,
            nodes: nodes?,
            osimages: osimages?,
            disk: disk?,
            largest_disk: largest_disk?,
            net_boot: order? == "net",
            power_off: power_off?,
            poll: poll?,
            call: call?,
            contact: contact?,
            no_progress: no_progress?,
            install: install?,
        })
    }
}

/// `{ ours = "theirs" }`. A name of xCAT's goes into URLs, so it may have nothing that means something there.
fn names(field: Option<Field<'_>>, ours: &str) -> Option<BTreeMap<String, String>> {
    let Some(field) = field else { return Some(BTreeMap::new()) };
    let Value::Table(entries) = &field.node.value else {
        field.mismatch();
        return None;
    };
    let plain = |text: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        !text.is_empty() && !text.starts_with('.') && text.bytes().all(fine)
    };
    let mut names = BTreeMap::new();
    let mut good = true;
    for entry in entries {
        match &entry.node.value {
            Value::Text(text) if plain(text) => {
                names.insert(entry.key.clone(), text.clone());
            }
            _ => {
                let key = shown(&entry.key);
                let message = format!("`{key}` has no name of xCAT's: letters, digits, `.`, `-` and `_`");
                field.report(message, format!("write {{ {ours} = \"name in xCAT\" }}"));
                good = false;
            }
        }
    }
    good.then_some(names)
}

impl BackendType {
    /// Nodes of an xCAT management node. They are on networks of the site's.
    pub const XCAT: Self = Self {
        name: "xcat",
        keys: Some(KEYS),
        check: |table| {
            let _problems_are_noted = Xcat::read(table);
        },
        libvirt_networks: false,
    };
}

impl BackendConfig {
    /// The settings of a backend whose type is `xcat`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn xcat(&self) -> Result<Xcat, Problems> {
        self.read(KEYS, Xcat::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, parse};

    const NEEDED: &str = "url = \"https://mn/xcatws/\"\nca = \"/etc/vcld/xcat.pem\"\nuser = \"vcl\"\n\
                          password = { credential = \"xcat-password\" }\n";

    fn read(lines: &str) -> Result<Xcat, Problems> {
        let text = format!("library.path = \"/srv/vcl\"\n[backend.x]\ntype = \"xcat\"\n{lines}\n");
        let known = Known { backend_types: &[BackendType::XCAT] };
        parse(&text, "vcld.toml", &known)?.backends[&"x".parse().unwrap()].xcat()
    }

    #[test]
    fn a_management_node_is_read_with_its_defaults() {
        let xcat = read(NEEDED).unwrap();
        assert_eq!((xcat.url.as_str(), xcat.user.as_str()), ("https://mn/xcatws", "vcl"));
        assert_eq!((xcat.net_boot, xcat.power_off, xcat.disk), (true, true, None));
        assert!(xcat.poll >= Duration::from_secs(5) && xcat.call >= Duration::from_secs(60));
        assert_eq!(xcat.no_progress, Duration::from_secs(20 * 60));
        let more = "osimages = { rocky9 = \"rocky9.4-x86_64-install-compute\" }\nnodes = { lab-01 = \"n4\" }\n\
                    disk = \"/dev/sda\"\nboot_order = \"keep\"\npoll = \"100ms\"";
        let xcat = read(&format!("{NEEDED}{more}")).unwrap();
        assert_eq!(xcat.osimages["rocky9"], "rocky9.4-x86_64-install-compute");
        assert_eq!((xcat.nodes["lab-01"].as_str(), xcat.net_boot), ("n4", false));
    }

    #[test]
    fn what_would_not_be_safe_is_refused() {
        for (line, said) in [
            ("nodes = { lab-01 = \"n1,n2\" }", "`lab-01` has no name of xCAT's"),
            ("nodes = { lab-01 = \"../policy\" }", "`lab-01` has no name"),
            ("disk = \"/dev/sda; reboot\"", "not how a disk is called"),
            ("poll = \"10ms\"", "poll"),
            ("boot_order = \"disk\"", "boot_order"),
        ] {
            let problems = read(&format!("{NEEDED}{line}")).unwrap_err().to_string();
            assert!(problems.contains(said), "{line}: {problems}");
        }
        let plain = NEEDED.replace("https://", "http://");
        assert!(read(&plain).unwrap_err().to_string().contains("not the URL of a service with TLS"));
        let inline = NEEDED.replace("{ credential = \"xcat-password\" }", "\"hunter2\"");
        let problems = read(&inline).unwrap_err().to_string();
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}
