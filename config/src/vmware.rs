//! `[backend.NAME]` with `type = "vmware"` or `type = "esx"`: virtual machines of a vCenter or of one ESXi host.

use crate::backend::{BackendConfig, BackendType};
use crate::keys::{Key, Kind};
use crate::problem::Problems;
use crate::section::Section;
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use serde::Deserialize;

const SERVER: Key = Key::required(
    "server",
    Kind::Text,
    "The server's host name or address, with a port where it is not 443, as in `vcenter.example.org`.",
);
const USER: Key = Key::required("user", Kind::Text, "The account that vcld logs in with.");
const PASSWORD: Key =
    Key::required("password", Kind::Credential, "The credential that holds the account's password.");
const FINGERPRINT: Key = Key::optional(
    "fingerprint",
    Kind::Text,
    "`ca` has to be there",
    "The SHA-256 of the server's certificate in hex, with or without colons; SHA-1, as VMware's tools print it, is taken too. The server is trusted if it shows this certificate, and else not.",
);
const CA: Key = Key::optional(
    "ca",
    Kind::Path,
    "`fingerprint` has to be there",
    "A PEM file with the authority that signed the server's certificate, which has to be for the name in `server`.",
);
const DATASTORE: Key =
    Key::required("datastore", Kind::Text, "The datastore on which machines and copies of images are kept.");
const IMAGES: Key = Key::default(
    "images",
    Kind::Text,
    "vcl-images",
    "The directory on the datastore for copies of images. They are a cache: what is deleted there is sent again.",
);
const DIRECTORY: Key = Key::default(
    "directory",
    Kind::Path,
    "/var/lib/vcld/NAME",
    "Where this node keeps raw copies of disks while they are sent and fetched. It needs room for whole disks.",
);
const PARALLEL: Key = Key::default(
    "parallel",
    Kind::Integer { min: 1, max: 64 },
    "4",
    "How many copies and transfers the host and the datastore are given at once; others wait.",
);
const DATACENTER: Key = Key::optional(
    "datacenter",
    Kind::Text,
    "the only one",
    "The datacenter. It has to be said where the vCenter has several.",
);
const CLUSTER: Key = Key::optional(
    "cluster",
    Kind::Text,
    "the only one",
    "The cluster or host that runs the machines. It has to be said where the datacenter has several.",
);
const FOLDER: Key = Key::optional(
    "folder",
    Kind::Text,
    "the datacenter's own",
    "The folder of machines in which vcld's are made, as in `lab/vcl`. It has to be there.",
);
const METHOD: Key = Key::default(
    "method",
    Kind::Word(&["clone", "copy"]),
    "clone",
    "How a machine is made: cloned from a template over the image's disk, or over a copy of that disk.",
);
const CAPTURE: Key = Key::default(
    "capture",
    Kind::Word(&["template", "disk"]),
    "disk",
    "What a capture leaves at the vCenter for later loads: a template, or a disk among the images. The library gets the disk either way.",
);

/// What a `[backend.NAME]` of the type `vmware` has besides.
pub const VMWARE_KEYS: &[Key] = &[
    SERVER,
    USER,
    PASSWORD,
    FINGERPRINT,
    CA,
    DATACENTER,
    CLUSTER,
    FOLDER,
    DATASTORE,
    IMAGES,
    METHOD,
    CAPTURE,
    DIRECTORY,
    PARALLEL,
];
/// What a `[backend.NAME]` of the type `esx` has besides.
pub const ESX_KEYS: &[Key] =
    &[SERVER, USER, PASSWORD, FINGERPRINT, CA, DATASTORE, IMAGES, DIRECTORY, PARALLEL];

/// How machines are made at a vCenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmwareMethod {
    /// Cloned from a template.
    Clone,
    /// Over a copy of the disk.
    Copy,
}

/// What a capture leaves at a vCenter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmwareCapture {
    /// A template.
    Template,
    /// A disk among the images.
    Disk,
}

/// How a VMware server shows that it is the one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmwareTrust {
    /// Its certificate has this digest: 64 or 40 hex digits, without colons.
    Fingerprint(String),
    /// Its certificate is signed by an authority in this PEM file.
    Ca(Utf8PathBuf),
}

/// The settings of an esx backend, and what a vmware one has of them too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Esx {
    /// The server, as `host` or `host:port`.
    pub server: String,
    /// The account.
    pub user: String,
    /// The credential with its password.
    pub password: CredentialName,
    /// Whom to trust.
    pub trust: VmwareTrust,
    /// The datastore.
    pub datastore: String,
    /// The directory of images on it.
    pub images: String,
    /// Where raw copies are for a while, absolute.
    pub directory: Utf8PathBuf,
    /// How many copies and transfers at once.
    pub parallel: usize,
}

/// The settings of a vmware backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vmware {
    /// What it has in common with a host of its own.
    pub host: Esx,
    /// The datacenter.
    pub datacenter: Option<String>,
    /// The cluster or host.
    pub cluster: Option<String>,
    /// The folder of machines, as a path.
    pub folder: Option<String>,
    /// How machines are made.
    pub method: VmwareMethod,
    /// What a capture leaves.
    pub capture: VmwareCapture,
}

impl Esx {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let server = table.text("server").filter(|server| is_server(table, server));
        let (user, password, trust) = (table.text("user"), table.credential("password"), trust(table));
        let datastore = table.text("datastore").filter(|name| is_plain(table, "datastore", name));
        let images = table.text("images").filter(|name| is_directory(table, name));
        let (directory, parallel) = (table.path("directory"), table.integer("parallel"));
        Some(Self {
            server: server?,
            user: user?,
            password: password?,
            trust: trust?,
            datastore: datastore?,
            images: images?,
            directory: directory?,
            parallel: parallel? as usize,
        })
    }
}

impl Vmware {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let host = Esx::read(table);
        let optional = |name: &str| if table.has(name) { table.text(name).map(Some) } else { Some(None) };
        let (datacenter, cluster, folder) = (optional("datacenter"), optional("cluster"), optional("folder"));
        let (method, capture) = (table.choice("method"), table.choice("capture"));
        Some(Self {
            host: host?,
            datacenter: datacenter?,
            cluster: cluster?,
            folder: folder?,
            method: method?,
            capture: capture?,
        })
    }
}

fn trust(table: &Section<'_>) -> Option<VmwareTrust> {
    match (table.has("fingerprint"), table.has("ca")) {
        (true, false) => {
            let text = table.text("fingerprint")?;
            let digits = text.replace(':', "");
            if matches!(digits.len(), 40 | 64) && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Some(VmwareTrust::Fingerprint(digits));
            }
            table.report(
                "fingerprint",
                "this is no fingerprint: a SHA-256 has 64 hex digits, a SHA-1 has 40",
                "see it with: openssl s_client -connect HOST:443 </dev/null | openssl x509 -noout -fingerprint -sha256",
            );
            None
        }
        (false, true) => table.path("ca").map(VmwareTrust::Ca),
        (true, true) => {
            table.report("ca", "`ca` and `fingerprint` exclude each other", "keep one of them");
            None
        }
        (false, false) => {
            table.report(
                "server",
                "nothing says how the server is known to be the one",
                "add fingerprint = \"…\", as openssl x509 -noout -fingerprint -sha256 prints it, or ca = \"/path/of/ca.pem\"",
            );
            None
        }
    }
}

fn is_server(table: &Section<'_>, server: &str) -> bool {
    let (host, port) = match server.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (server, None),
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let ok = !host.is_empty()
        && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
        && (inner == host) != inner.contains(':')
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if !ok {
        let way_out = "write its name or address alone, as in \"esx1.example.org\" or \"10.0.0.5:8443\"";
        table.report("server", format!("`{}` is not a server", crate::problem::shown(server)), way_out);
    }
    ok
}

fn is_plain(table: &Section<'_>, key: &str, name: &str) -> bool {
    let ok = !name.contains(['[', ']', '/', '\\']);
    if !ok {
        let shown = crate::problem::shown(name);
        table.report(
            key,
            format!("`{shown}` is not a name"),
            "write it as the server shows it, without brackets",
        );
    }
    ok
}

fn is_directory(table: &Section<'_>, name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.');
    let ok = is_plain(table, "images", name);
    if ok && !part(name) {
        table.report("images", "this is not a directory's name", "write one such as \"vcl-images\"");
    }
    ok && part(name)
}

impl BackendType {
    /// A vCenter.
    pub const VMWARE: Self = Self {
        name: "vmware",
        keys: Some(VMWARE_KEYS),
        check: |table| {
            let _problems_are_noted = Vmware::read(table);
        },
        libvirt_networks: false,
    };
    /// One ESXi host.
    pub const ESX: Self = Self {
        name: "esx",
        keys: Some(ESX_KEYS),
        check: |table| {
            let _problems_are_noted = Esx::read(table);
        },
        libvirt_networks: false,
    };
}

impl BackendConfig {
    /// The settings of a backend whose type is `vmware`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn vmware(&self) -> Result<Vmware, Problems> {
        self.read(VMWARE_KEYS, Vmware::read)
    }
    /// The settings of a backend whose type is `esx`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn esx(&self) -> Result<Esx, Problems> {
        self.read(ESX_KEYS, Esx::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, parse};

    const REST: &str = "server = \"vc.example.org\"\nuser = \"vcl\"\npassword = { credential = \"vc\" }\ndatastore = \"ds1\"\n";
    const PIN: &str = "fingerprint = \"DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09\"\n";

    fn text(kind: &str, lines: &str) -> String {
        format!("library.path = \"/srv/vcl\"\n[backend.v]\ntype = \"{kind}\"\n{lines}\n")
    }
    fn vmware(lines: &str) -> Result<Vmware, Problems> {
        parse(&text("vmware", lines), "vcld.toml", &Known::default())?.backends[&"v".parse().unwrap()]
            .vmware()
    }

    #[test]
    fn a_vcenter_and_a_host_are_read_with_their_defaults() {
        let read = vmware(&format!("{REST}{PIN}")).unwrap();
        assert_eq!((read.method, read.capture), (VmwareMethod::Clone, VmwareCapture::Disk));
        assert_eq!((read.datacenter, read.cluster, read.folder), (None, None, None));
        assert_eq!(read.host.directory, "/var/lib/vcld/v");
        assert_eq!((read.host.images.as_str(), read.host.parallel), ("vcl-images", 4));
        let VmwareTrust::Fingerprint(digits) = read.host.trust else { panic!("no fingerprint") };
        assert_eq!(digits.len(), 40);
        let lines = format!("{REST}ca = \"/etc/vcld/esx.pem\"\nparallel = 2");
        let config = parse(&text("esx", &lines), "vcld.toml", &Known::default()).unwrap();
        let read = config.backends[&"v".parse().unwrap()].esx().unwrap();
        assert_eq!(read.trust, VmwareTrust::Ca("/etc/vcld/esx.pem".into()));
        assert_eq!((read.parallel, read.password.to_string().as_str()), (2, "vc"));
    }

    #[test]
    fn nobody_can_be_trusted_blindly() {
        let none = vmware(REST).unwrap_err().to_string();
        assert!(
            none.contains("nothing says how the server is known") && none.contains("fingerprint"),
            "{none}"
        );
        let both = vmware(&format!("{REST}{PIN}ca = \"/x\"")).unwrap_err().to_string();
        assert!(both.contains("exclude each other"), "{both}");
        let short = vmware(&format!("{REST}fingerprint = \"AB:CD\"")).unwrap_err().to_string();
        assert!(short.contains("64 hex digits"), "{short}");
        let off = vmware(&format!("{REST}{PIN}insecure = true")).unwrap_err().to_string();
        assert!(off.contains("insecure"), "{off}");
    }

    #[test]
    fn no_computer_is_called_as_the_directory_of_images() {
        let computer = "[network.lab]\nbridge = \"lab\"\naddress = \"static\"\n[computers.images]\n\
            backend = \"v\"\nnetworks = [\"lab\"]\naddress = \"10.0.0.5\"\n";
        let read = |lines: &str| {
            let file = text("esx", &format!("{REST}{PIN}{lines}")) + computer;
            parse(&file, "vcld.toml", &Known::default())
        };
        let problems = read("").unwrap_err().to_string();
        assert!(problems.contains("the machine of `images` would be called as"), "{problems}");
        assert!(problems.contains("[backend.v]"), "{problems}");
        assert_eq!(read("images = \"copies\"").unwrap().computers.len(), 1);
    }

    #[test]
    fn what_would_lead_elsewhere_is_refused() {
        for (line, said) in [
            ("server = \"https://vc/sdk\"", "is not a server"),
            ("server = \"vc:0\"", "is not a server"),
            ("server = \"user@vc\"", "is not a server"),
            ("datastore = \"[ds1] x\"", "is not a name"),
            ("images = \"../x\"", "is not a name"),
            ("images = \".\"", "not a directory's name"),
            ("method = \"link\"", "link"),
            ("password = \"hunter2\"", "secret"),
        ] {
            let key = line.split(' ').next().unwrap();
            let rest: String =
                REST.lines().filter(|l| !l.starts_with(key)).map(|l| format!("{l}\n")).collect();
            let problems = vmware(&format!("{rest}{PIN}{line}")).unwrap_err().to_string();
            assert!(problems.contains(said), "{line}: {problems}");
        }
        for server in ["10.0.0.5", "10.0.0.5:8443", "[fd00::5]:443", "[fd00::5]", "esx-1.lab"] {
            let rest = REST.replace("vc.example.org", server);
            assert_eq!(vmware(&format!("{rest}{PIN}")).unwrap().host.server, server);
        }
    }
}
