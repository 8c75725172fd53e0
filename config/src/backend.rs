//! `[backend.NAME]`: what all of them have, and how a backend's author adds a type.

use crate::field::inline_secret;
use crate::keys::{BACKEND, Key, LIBVIRT as LIBVIRT_KEYS};
use crate::nearest::nearest;
use crate::problem::{Findings, Position, Problems, dotted, shown};
use crate::section::{self, Section};
use crate::tree::{self, Entry, Value};
use crate::values;
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::fmt;
use vcl_types::{Accelerator, BackendName};

/// The types that vcld will have; naming one that this program lacks gets a better answer than a typing mistake.
const PLANNED: [&str; 6] = ["libvirt", "vmware", "esx", "xcat", "lab", "sim"];

/// What the program that reads the file can do.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The types of backend it has.
    pub backend_types: &'a [BackendType],
}

impl Default for Known<'static> {
    /// Those that vcld is shipped with.
    fn default() -> Self {
        Self {
            backend_types: &[
                BackendType::LIBVIRT,
                BackendType::VMWARE,
                BackendType::ESX,
                BackendType::LAB,
                BackendType::XCAT,
                BackendType::SIM,
            ],
        }
    }
}

/// A type of backend, as `type = "…"` names it, and the keys that its tables have.
#[derive(Debug, Clone, Copy)]
pub struct BackendType {
    /// The word for it.
    pub name: &'static str,
    /// The keys its tables have besides `type` and `max_jobs`. With `None` the rest of a table is kept as it is, and
    /// checked when somebody calls [`BackendConfig::read`].
    pub keys: Option<&'static [Key]>,
    /// Reads a table of this type to find what is wrong with it, so that it is reported with everything else.
    /// Keys that are unknown or missing have been reported already. Not called when `keys` is `None`.
    pub check: fn(&Section<'_>),
    /// Whether its machines can be on networks of libvirt and on user networks.
    pub libvirt_networks: bool,
}

impl BackendType {
    /// libvirt with qemu.
    pub const LIBVIRT: Self = Self {
        name: "libvirt",
        keys: Some(LIBVIRT_KEYS),
        check: |table| {
            let _problems_are_noted = Libvirt::read(table);
        },
        libvirt_networks: true,
    };
}

/// The configured backends by name.
pub type Backends = BTreeMap<BackendName, BackendConfig>;

/// One `[backend.NAME]`.
#[derive(Clone, PartialEq)]
pub struct BackendConfig {
    /// Its name.
    pub name: BackendName,
    /// Its type, one of [`Known::backend_types`].
    pub kind: String,
    /// How many jobs it is given at once, at least 1.
    pub max_jobs: usize,
    /// Whether other nodes have the same backend; `None` leaves that to its type.
    pub shared: Option<bool>,
    file: String,
    at: Position,
    entries: Vec<Entry>,
}

impl fmt::Debug for BackendConfig {
    /// Shows the names of the backend's own keys and not their values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own: Vec<&str> = self.entries.iter().map(|entry| entry.key.as_str()).collect();
        f.debug_struct("BackendConfig")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("max_jobs", &self.max_jobs)
            .field("keys", &own)
            .finish()
    }
}

impl BackendConfig {
    /// Reads the backend's own keys; its factory calls this with the reader that is also [`BackendType::check`].
    ///
    /// # Errors
    ///
    /// Everything that is wrong, with places in the file. If `check` has passed while the file was read, nothing is.
    pub fn read<T>(
        &self,
        keys: &'static [Key],
        read: impl FnOnce(&Section<'_>) -> Option<T>,
    ) -> Result<T, Problems> {
        let findings = Findings::new(&self.file);
        let place = (format!("backend.{}", self.name), self.at);
        let section =
            Section::open(&findings, place, &self.entries, [BACKEND, keys]).named(self.name.as_str());
        let value = read(&section);
        findings.outcome(value)
    }
    /// The settings of a backend whose type is `libvirt`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn libvirt(&self) -> Result<Libvirt, Problems> {
        self.read(LIBVIRT_KEYS, Libvirt::read)
    }
    /// The whole table as it stands in the file, without places.
    #[must_use]
    pub fn table(&self) -> toml::Table {
        tree::to_table(&self.entries)
    }
}

/// The settings of a libvirt backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Libvirt {
    /// The connection.
    pub uri: String,
    /// Where overlays, consoles and firmware variables go, absolute.
    pub directory: Utf8PathBuf,
    /// How processors are run.
    pub accelerator: Accelerator,
    /// Whether the hypervisor is this machine.
    pub local: bool,
    /// The storage pool of the host that disks are in, if the host does not share this node's file system.
    pub pool: Option<String>,
    /// Where the pool is made when it is missing.
    pub pool_path: Option<Utf8PathBuf>,
}

impl Libvirt {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let uri = table.text("uri").filter(|uri| is_libvirt_uri(table, uri));
        let directory = table.path("directory");
        let accelerator = table.choice("accelerator");
        let local = if table.has("local") {
            table.boolean("local")
        } else {
            uri.as_deref().map(|uri| host(uri).is_empty())
        };
        let pool = if table.has("pool") {
            Some(table.text("pool").filter(|name| is_pool(table, name))?)
        } else {
            None
        };
        let pool_path = if table.has("pool_path") { Some(table.path("pool_path")?) } else { None };
        if pool_path.is_some() && pool.is_none() {
            let way_out = "write pool = \"vcl\" beside it, or take it out";
            table.report("pool_path", "there is no `pool` that could be made there", way_out);
            return None;
        }
        Some(Self {
            uri: uri?,
            directory: directory?,
            accelerator: accelerator?,
            local: local?,
            pool,
            pool_path,
        })
    }
}

fn is_pool(table: &Section<'_>, name: &str) -> bool {
    let ok = !name.is_empty()
        && name.len() <= 60
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !name.starts_with(['.', '-']);
    if !ok {
        let way_out = "use letters, digits, `-`, `_` and `.`, as in \"vcl\"";
        table.report("pool", format!("`{}` is not the name of a storage pool", shown(name)), way_out);
    }
    ok
}

fn is_libvirt_uri(table: &Section<'_>, uri: &str) -> bool {
    if values::has_password(uri) {
        table.report(
            "uri",
            "a secret's value may not stand in this file: the URI holds a password",
            "take it out of the URI and change it; libvirt reads passwords from its auth.conf",
        );
        return false;
    }
    let scheme = uri.split_once("://").map(|(scheme, _)| scheme).unwrap_or_default();
    let ok = !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'+');
    if !ok || uri.contains(char::is_whitespace) {
        table.report(
            "uri",
            format!("`{}` is not a libvirt URI", shown(uri)),
            "write one as in \"qemu:///system\" or \"qemu+ssh://root@host/system\"",
        );
        return false;
    }
    true
}

fn host(uri: &str) -> &str {
    uri.split_once("://").and_then(|(_, rest)| rest.split(['/', '?']).next()).unwrap_or_default()
}

/// What a computer may need of its backend.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub kind: String,
    pub libvirt_networks: bool,
    /// Its directory of images beside those of its machines: a machine of that name would be in its way.
    pub images: Option<String>,
}

/// Every backend's name in the file, also of those with problems; `None` where the type is not known.
pub(crate) type Declarations = BTreeMap<String, Option<Declared>>;

/// Reads all backends.
pub(crate) fn read(root: &Section<'_>, file: &str, known: &Known<'_>) -> (Backends, Declarations) {
    let mut backends = Backends::new();
    let mut declared = Declarations::new();
    let mut directories: BTreeMap<Utf8PathBuf, String> = BTreeMap::new();
    for (path, entry) in root.named_entries("backend") {
        let findings = root.findings();
        declared.insert(entry.key.clone(), None);
        let name = entry.key.parse::<BackendName>();
        let name = name.map_err(|bad| {
            findings.report(
                entry.at,
                &path,
                format!("`{}` is not a {}", shown(&bad.value), bad.what),
                bad.rule,
            );
        });
        let Some(entries) = section::table(findings, &path, entry) else { continue };
        let place = (path, entry.at);
        let common = Section::unchecked(findings, place.clone(), entries, [BACKEND, &[]]);
        let max_jobs = common.integer("max_jobs");
        let shared = if common.has("shared") { common.boolean("shared") } else { None };
        if !common.has("type") {
            let way_out = format!("add type = \"…\"; this version has: {}", types(known));
            findings.consequence(entry.at, &dotted(&place.0, "type"), "`type` is missing", way_out);
        }
        let Some(kind) = common.text("type").and_then(|word| find(&common, &word, known)) else {
            // Its own keys cannot be known, and a secret among them is one all the same.
            refuse_secrets(findings, &place.0, entries);
            continue;
        };
        let mut images = None;
        match kind.keys {
            None => refuse_secrets(findings, &place.0, entries),
            Some(keys) => {
                let section = Section::open(findings, place, entries, [BACKEND, keys]).named(&entry.key);
                (kind.check)(&section);
                images =
                    keys.iter().any(|key| key.name == "images").then(|| section.peek("images")).flatten();
                if keys.iter().any(|key| key.name == "directory")
                    && let Some(directory) =
                        section.peek("directory").and_then(|path| values::absolute(&path).ok())
                    && let Some(other) = directories.insert(directory.clone(), entry.key.clone())
                {
                    section.report(
                        "directory",
                        format!("`{directory}` is the directory of [backend.{other}] too"),
                        "give each backend a directory of its own, or leave the key out",
                    );
                }
            }
        }
        let libvirt_networks = kind.libvirt_networks;
        declared.insert(
            entry.key.clone(),
            Some(Declared { kind: kind.name.to_owned(), libvirt_networks, images }),
        );
        let (Ok(name), Some(max_jobs)) = (name, max_jobs) else { continue };
        let config = BackendConfig {
            name: name.clone(),
            kind: kind.name.to_owned(),
            max_jobs: max_jobs as usize,
            shared,
            file: file.to_owned(),
            at: entry.at,
            entries: entries.to_vec(),
        };
        backends.insert(name, config);
    }
    (backends, declared)
}

fn types(known: &Known<'_>) -> String {
    known.backend_types.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ")
}

fn find<'k>(table: &Section<'_>, word: &str, known: &Known<'k>) -> Option<&'k BackendType> {
    let found = known.backend_types.iter().find(|kind| kind.name == word);
    if found.is_none() {
        let have = types(known);
        if PLANNED.contains(&word) {
            let way_out = "use one of these, or take the table out";
            table.report(
                "type",
                format!("type `{word}` is not built yet; this version has: {have}"),
                way_out,
            );
        } else {
            let way_out = match nearest(word, known.backend_types.iter().map(|kind| kind.name)) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("this version has: {have}"),
            };
            table.report("type", format!("`{}` is not a type of backend", shown(word)), way_out);
        }
    }
    found
}

/// In a table whose keys are not known: text under a key that is called as secrets are.
fn refuse_secrets(findings: &Findings, path: &str, entries: &[Entry]) {
    for entry in entries {
        let path = dotted(path, &entry.key);
        match &entry.node.value {
            Value::Table(inner) => refuse_secrets(findings, &path, inner),
            Value::Text(_) if values::is_secret(&entry.key) => {
                inline_secret(findings, entry.node.at, &path);
            }
            _ => {}
        }
    }
}
