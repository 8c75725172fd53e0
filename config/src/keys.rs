//! The table of keys: what may stand in the file, of what kind, with which default, and what it means.
//!
//! The reader, the suggestions for typing mistakes, the JSON schema and the reference text all come from here, so
//! they cannot drift apart.

pub(crate) mod lending;
mod machines;

pub use machines::{BACKEND, COMPUTER, INTERFACE, LIBVIRT, NETWORK};

/// A key of the configuration file. Backend authors declare the keys of their own tables with it.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What its value has to be.
    pub kind: Kind,
    /// What happens when it is left out.
    pub presence: Presence,
    /// What it means, in a sentence or two, for the reference.
    pub doc: &'static str,
}

/// What happens when a key is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It must not be.
    Required,
    /// There is no value then; the text says what that means, for the reference.
    Optional(&'static str),
    /// This stands for it, as it would be written in the file (without quotes). In a table that has a name of its
    /// own, such as `[backend.kvm1]`, the word `NAME` in it becomes that name.
    Default(&'static str),
}

/// What the value of a key has to be.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Kind {
    /// Text that is not empty and has no control characters.
    Text,
    /// The name of a Unix account or group.
    Account,
    /// A host name.
    HostName,
    /// An absolute path.
    Path,
    /// A size such as `4G`, at least `min` bytes.
    Size {
        /// The smallest.
        min: u64,
    },
    /// A duration such as `90s`, `10m` or `1h30m`, at least `min` milliseconds and at most 30 days.
    Duration {
        /// The shortest, in milliseconds.
        min: u64,
    },
    /// An integer.
    Integer {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// A number from 0 to 1.
    Fraction,
    /// `true` or `false`.
    Boolean,
    /// `true`; whoever does not want it leaves the key out.
    True,
    /// One of some words.
    Word(&'static [&'static str]),
    /// A type of backend, one of those this program has.
    BackendType,
    /// The name of a `[backend.NAME]`.
    Backend,
    /// The name of a `[network.NAME]`.
    Network,
    /// An address, or in an entry for several computers a pattern with as many, such as `10.0.0.[11-50]`.
    Address,
    /// A MAC address.
    Mac,
    /// `{ credential = "name" }`: the name of a systemd credential. The secret itself never stands in the file.
    Credential,
    /// `{ file = "/path" }` or `{ credential = "name" }`.
    KeySource,
    /// A list of tags.
    Tags,
    /// Nodes by their names, each with what they are dialled at: `{ node2 = "host:port" }`.
    Peers,
    /// Names by names: `{ ours = "theirs" }`.
    Names,
    /// A list whose items are each a network's name or a table with these keys.
    Interfaces(&'static [Key]),
    /// A table with these keys.
    Table(&'static [Key]),
    /// Tables under names that the file gives: `[backend.NAME]`. Those of a backend have more keys, by its type.
    Tables(&'static [Key]),
    /// Tables under computer names or ranges of them.
    Computers(&'static [Key]),
}

impl Key {
    /// A key that has to be there.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Required, doc }
    }
    /// A key that may be left out; `absent` says what that means.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind, absent: &'static str, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Optional(absent), doc }
    }
    /// A key with a default, written as in the file but without quotes.
    #[must_use]
    pub const fn default(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Default(default), doc }
    }
}

impl Kind {
    /// What is wanted, with its article.
    pub(crate) const fn noun(&self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Account => "an account's or group's name",
            Self::HostName => "a host name",
            Self::Path => "a path",
            Self::Size { .. } => "a size",
            Self::Duration { .. } => "a duration",
            Self::Integer { .. } => "an integer",
            Self::Fraction => "a number from 0 to 1",
            Self::Boolean | Self::True => "a boolean",
            Self::Word(_) => "a word",
            Self::BackendType => "a type of backend",
            Self::Backend => "the name of a backend",
            Self::Network => "the name of a network",
            Self::Address => "an address",
            Self::Mac => "a MAC address",
            Self::Credential => "a credential",
            Self::KeySource => "a file or a credential",
            Self::Tags => "a list of tags",
            Self::Peers => "a table of nodes",
            Self::Names => "a table of names",
            Self::Interfaces(_) => "a list of networks",
            Self::Table(_) | Self::Tables(_) | Self::Computers(_) => "a table",
        }
    }
    /// How to write one.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Text | Self::Backend | Self::Network | Self::BackendType => "write it in quotes".to_owned(),
            Self::Account => "use lower-case letters, digits, `-` and `_`, as in \"vcl\"".to_owned(),
            Self::HostName => "use letters, digits, `-` and `.`, as in \"node1.example.org\"".to_owned(),
            Self::Path => "write an absolute path in quotes, as in \"/srv/vcl\"".to_owned(),
            Self::Size { .. } => {
                "write a number with a unit of 1024 in quotes, as in \"512M\" or \"4G\"".to_owned()
            }
            Self::Duration { .. } => {
                "write a number with its unit in quotes, as in \"90s\", \"10m\" or \"2h\"".to_owned()
            }
            Self::Integer { min, max } => format!("write a number from {min} to {max}, without quotes"),
            Self::Fraction => "write a number from 0 to 1, without quotes, as in 0.05".to_owned(),
            Self::Boolean => "write true or false, without quotes".to_owned(),
            Self::True => "write true, without quotes".to_owned(),
            Self::Word(words) => format!("write one of: {}", words.join(", ")),
            Self::Address => {
                "write it in quotes, as in \"10.0.0.5\"; for several computers as in \"10.0.0.[11-50]\""
                    .to_owned()
            }
            Self::Mac => "write six bytes in quotes, as in \"52:54:00:12:34:56\"".to_owned(),
            Self::Credential => "write { credential = \"name\" }".to_owned(),
            Self::KeySource => "write { file = \"/path\" } or { credential = \"name\" }".to_owned(),
            Self::Tags => "write a list, as in [\"room-b12\", \"gpu\"]".to_owned(),
            Self::Peers => "write { node2 = \"host:port\" }".to_owned(),
            Self::Names => "write { ours = \"theirs\" }".to_owned(),
            Self::Interfaces(_) => {
                "write a list, as in [\"lab\"] or [{ network = \"lab\", role = \"management\" }]".to_owned()
            }
            Self::Table(_) => "write it as a table, with its keys below a line [name]".to_owned(),
            Self::Tables(_) => "write it as tables, each with its keys below a line [kind.name]".to_owned(),
            Self::Computers(_) => "write \"name\" = { backend = \"…\", networks = [\"…\"] }".to_owned(),
        }
    }
}

const MIB: u64 = 1024 * 1024;
const JOBS: Kind = Kind::Integer { min: 1, max: 1000 };
const DAYS: Kind = Kind::Integer { min: 1, max: 36_500 };
const DEADLINE: Kind = Kind::Duration { min: 1000 };

/// The whole file.
pub const ROOT: &[Key] = &[
    Key::required("library", Kind::Table(LIBRARY), "Where images are kept."),
    Key::optional(
        "database",
        Kind::Table(DATABASE),
        "SQLite beside the library",
        "Where the queue and the records are kept.",
    ),
    Key::optional(
        "api",
        Kind::Table(crate::api::KEYS),
        "the defaults",
        "How clients reach the daemon, and who vouches for them.",
    ),
    Key::optional("ssh", Kind::Table(SSH), "the defaults", "How the daemon logs in to loaded machines."),
    Key::optional(
        "hooks",
        Kind::Table(HOOKS),
        "the defaults",
        "Executables of the site that take part in jobs.",
    ),
    Key::optional(
        "windows",
        Kind::Table(WINDOWS),
        "the defaults",
        "How Windows guests are logged in to, set up and activated.",
    ),
    Key::optional(
        "deadlines",
        Kind::Table(DEADLINES),
        "the defaults",
        "How long things may take before they count as failed.",
    ),
    Key::optional("node", Kind::Table(NODE), "the defaults", "This management node."),
    Key::optional(
        "exchange",
        Kind::Table(crate::exchange::KEYS),
        "this node neither gives revisions to others nor has any from them",
        "How several nodes give each other the revisions that one of them lacks.",
    ),
    Key::optional(
        "inbox",
        Kind::Table(crate::inbox::KEYS),
        "machines can neither fetch nor leave anything; backends of the type xcat need it for images of their disks",
        "Where machines fetch imaging tasks and leave the bytes of their disks.",
    ),
    Key::optional(
        "reservations",
        Kind::Table(lending::RESERVATIONS),
        "the defaults",
        "What rules reservations: times, limits, what becomes of computers that are given back.",
    ),
    Key::optional(
        "group",
        Kind::Tables(lending::GROUP),
        "every group has what [reservations] says",
        "What rules the reservations of a group, where it differs.",
    ),
    Key::optional(
        "image",
        Kind::Tables(lending::IMAGE),
        "every image has what [reservations] says",
        "What rules the reservations of an image, where it differs, and how many computers are kept loaded with it.",
    ),
    Key::optional(
        "configure",
        Kind::Table(crate::configure::KEYS),
        "the defaults",
        "How loaded computers are made what manifests, or playbooks, say.",
    ),
    Key::optional(
        "tag",
        Kind::Tables(crate::configure::TAG),
        "no tag has a manifest",
        "What holds for computers with a tag.",
    ),
    Key::optional(
        "notices",
        Kind::Table(crate::notices::KEYS),
        "nobody is told anything",
        "How people are told by mail and webhook what becomes of their reservations.",
    ),
    Key::optional(
        "guacamole",
        Kind::Table(crate::guacamole::KEYS),
        "users come by their own programs alone",
        "The Guacamole in which users open their computers in a browser.",
    ),
    Key::optional("page", Kind::Table(crate::page::KEYS), "the defaults", "The web page."),
    Key::optional("metrics", Kind::Table(crate::notices::METRICS), "the defaults", "Where metrics are had."),
    Key::optional("log", Kind::Table(LOG), "the defaults", "What the daemon writes about what it does."),
    Key::optional(
        "backend",
        Kind::Tables(BACKEND),
        "no backend",
        "The hypervisors and other things that provision computers, each under a name of its own.",
    ),
    Key::optional(
        "network",
        Kind::Tables(NETWORK),
        "no network",
        "The networks that computers are plugged into, each under a name of its own.",
    ),
    Key::optional(
        "nat",
        Kind::Tables(crate::nat::KEYS),
        "users reach every computer by itself",
        "Hosts through whose ports users come to computers that they cannot reach by themselves, each under a name of its own.",
    ),
    Key::optional(
        "computers",
        Kind::Computers(COMPUTER),
        "no computer",
        "The computers, each under its name; a range such as `\"gis-[01-40]\"` or `\"lab-[1-3,7]\"` stands for several. A computer is a seat: its virtual machine exists only while it is loaded.",
    ),
];

/// `[library]`.
pub const LIBRARY: &[Key] = &[
    Key::required("path", Kind::Path, "The directory of the images."),
    Key::default(
        "keep_free",
        Kind::Size { min: 0 },
        "1G",
        "A job that would leave less space than this free waits before it starts, until there is room.",
    ),
    Key::optional(
        "shared",
        Kind::Boolean,
        "false",
        "Whether all management nodes see the same files here. Imports, exports and checks are done by the node they were asked of unless they do.",
    ),
    Key::default(
        "copies",
        Kind::Integer { min: 1, max: 100 },
        "1",
        "How many nodes should hold an image's revision in production, or its newest where none is. Needs [exchange] where it is more than 1.",
    ),
    Key::default(
        "chain_limit",
        Kind::Integer { min: 1, max: 24 },
        "8",
        "How many revisions may lie on one another, each stored as what differs from the one below. Longer chains are rewritten whole by themselves.",
    ),
    Key::default(
        "trash_days",
        Kind::Integer { min: 0, max: 3650 },
        "7",
        "For how many days a deleted revision can be brought back. 0 deletes for good at once.",
    ),
    Key::optional(
        "retention",
        Kind::Table(RETENTION),
        "nothing is deleted by itself",
        "Which revisions are deleted by themselves. Those in production, loaded, being read or lying under another never are. With both rules, what goes must be let go by both.",
    ),
];

/// `[library.retention]`.
pub const RETENTION: &[Key] = &[
    Key::optional(
        "keep",
        Kind::Integer { min: 1, max: 100_000 },
        "no such rule",
        "How many of an image's newest revisions stay.",
    ),
    Key::optional(
        "older_than_days",
        Kind::Integer { min: 1, max: 36_500 },
        "no such rule",
        "Only revisions older than so many days go.",
    ),
];

/// `[database]`.
pub const DATABASE: &[Key] = &[
    Key::optional(
        "url",
        Kind::Text,
        "`vcld.db` in the directory that the library's directory is in",
        "`sqlite:/path/of/a/file` for one node; `mysql://user@host:port/database` for several, on MariaDB 10.6 or newer or MySQL 8.0.1 or newer. After a `?`, separated by `&`: `socket=/path` for a Unix socket, `ssl-mode` (`disabled`, `preferred`, `required`, `verify_ca`, `verify_identity`), `ssl-ca`, `ssl-cert` and `ssl-key` with files in PEM form.",
    ),
    Key::optional("password", Kind::KeySource, "no password", "The database's password. SQLite has none."),
];

/// `[ssh]`.
pub const SSH: &[Key] = &[
    Key::default("key", Kind::KeySource, "/etc/vcld/id", "The private key the daemon logs in with."),
    Key::default("user", Kind::Account, "root", "The account it logs in to."),
];

/// `[hooks]`.
pub const HOOKS: &[Key] = &[Key::default(
    "directory",
    Kind::Path,
    "/etc/vcld/hooks",
    "Executables in its `pre_capture.d`, `post_load.d` and `reserve.d` are run in the order of their names.",
)];

/// `[windows]`.
pub const WINDOWS: &[Key] = &[
    Key::default(
        "user",
        Kind::Text,
        "Administrator",
        "The account the daemon logs in to, in place of that of [ssh]: a local administrator.",
    ),
    Key::optional(
        "kms_host",
        Kind::Text,
        "what the guest finds by itself",
        "The key server that activates them, with a port where it is not 1688.",
    ),
    Key::optional(
        "product_key",
        Kind::Credential,
        "the one the image has",
        "The product key they are given when they are loaded.",
    ),
    Key::default(
        "require_activation",
        Kind::Boolean,
        "false",
        "Whether a guest that cannot be activated is a failed load; otherwise it is an event. Only where there is a key server or a product key.",
    ),
    Key::default(
        "timezone",
        Kind::Text,
        "UTC",
        "Their time zone, as Windows calls it, as in `W. Europe Standard Time`.",
    ),
    Key::default("locale", Kind::Text, "en-US", "Their language and formats, as in `de-DE`."),
    Key::optional(
        "unattend",
        Kind::Path,
        "the built-in one",
        "A file that a copy is set up with in place of the built-in unattend file. `@PASSWORD@`, `@ARCH@`, `@USER@`, `@TIMEZONE@`, `@LOCALE@` and `@SKIP_REARM@` in it are filled in.",
    ),
    Key::default(
        "skip_rearm",
        Kind::Boolean,
        "false",
        "Whether Sysprep leaves the counter of the licence alone, for an image that has been generalised too often.",
    ),
];

/// `[deadlines]`.
pub const DEADLINES: &[Key] = &[
    Key::default("boot", DEADLINE, "10m", "From power-on until ssh answers."),
    Key::default("shutdown", DEADLINE, "5m", "From the request to shut down until the machine is off."),
    Key::default("copy", DEADLINE, "6h", "Copying or converting one disk."),
    Key::default("command", DEADLINE, "10m", "One command inside a machine."),
    Key::default("no_progress", DEADLINE, "10m", "A copy that has not moved for so long is given up."),
];

/// `[node]`.
pub const NODE: &[Key] = &[
    Key::optional(
        "name",
        Kind::HostName,
        "the machine's host name",
        "What this node is called in leases and events.",
    ),
    Key::default("max_jobs", JOBS, "8", "How many jobs run here at once."),
    Key::default(
        "drain",
        Kind::Duration { min: 0 },
        "30s",
        "How long jobs may go on to their next step when the daemon is asked to stop.",
    ),
    Key::default(
        "lease",
        Kind::Duration { min: 3000 },
        "15s",
        "How long this node may be silent before other nodes give it up and go on with its jobs. It renews its lease three times as often.",
    ),
    Key::default("evidence_days", DAYS, "30", "How many days what was kept of failed jobs stays."),
    Key::default(
        "history_days",
        DAYS,
        "90",
        "How many days the journals of jobs that ended, and events, stay. The jobs themselves stay in the lists.",
    ),
    Key::default(
        "look",
        DEADLINE,
        "10m",
        "How often the records are compared with what is there; what belongs to nobody is told, and stays.",
    ),
    Key::default("look_power", DEADLINE, "1m", "How often the power of all loaded computers is looked at."),
    Key::default(
        "restart_stopped",
        Kind::Boolean,
        "false",
        "Whether a loaded computer that was switched off from outside is switched on again. Otherwise it is only told.",
    ),
];

/// `[log]`.
pub const LOG: &[Key] = &[
    Key::default(
        "format",
        Kind::Word(&["auto", "text", "json", "journald"]),
        "auto",
        "`auto` is the journal under systemd, text otherwise.",
    ),
    Key::default("filter", Kind::Text, "info", "A level, or a filter such as `info,vcl_os=debug`."),
];
