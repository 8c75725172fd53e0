//! The checked configuration, and the reading of the tables that every file has at most once.

use crate::api;
use crate::backend::{self, Backends, Known};
use crate::computers;
use crate::credentials;
use crate::error::Error;
use crate::exchange;
use crate::inbox;
use crate::keys::ROOT;
use crate::lending;
use crate::nat::{self, Nats};
use crate::network::{self, Networks};
use crate::notices;
use crate::problem::{Findings, Position, Problems, shown};
use crate::section::Section;
use crate::tree;
use crate::upkeep::{self, Upkeep};
use crate::values::{self, CredentialName, KeySource};
use crate::windows::{self, Windows};
use crate::{guacamole, page};
use camino::Utf8PathBuf;
use serde::Deserialize;
use std::time::Duration;
use vcl_types::{ByteSize, Computer, ComputerName, Secret};

/// A configuration in which everything was checked that can be without looking at the machine.
///
/// It holds no secret, so it may be shown; secrets are names of credentials until [`Config::credential`] reads one.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[library]`.
    pub library: Library,
    /// `[database]`.
    pub database: Database,
    /// `[api]`.
    pub api: api::Api,
    /// `[ssh]`.
    pub ssh: Ssh,
    /// `[hooks]`.
    pub hooks: Hooks,
    /// `[windows]`.
    pub windows: Windows,
    /// `[deadlines]`.
    pub deadlines: Deadlines,
    /// `[node]`.
    pub node: Node,
    /// `[exchange]`, where it is there.
    pub exchange: Option<exchange::Exchange>,
    /// Where machines fetch and leave things, where they can.
    pub inbox: Option<crate::Inbox>,
    /// `[reservations]`, every `[group.NAME]` and every `[image.NAME]`.
    pub lending: lending::Lending,
    /// `[configure]`, with what images and tags say of it.
    pub configure: crate::configure::Configure,
    /// `[notices]`, where it is there.
    pub notices: Option<notices::Notices>,
    /// `[guacamole]`, where it is there.
    pub guacamole: Option<guacamole::Guacamole>,
    /// `[page]`.
    pub page: page::Page,
    /// Where metrics are had without asking who it is.
    pub metrics: Option<std::net::SocketAddr>,
    /// `[log]`.
    pub log: Log,
    /// Every `[backend.NAME]`.
    pub backends: Backends,
    /// Every `[network.NAME]`.
    pub networks: Networks,
    /// Every `[nat.NAME]`, and which computers are behind them.
    pub nats: Nats,
    /// The computers, ranges expanded, in the order of the file. Names and MAC addresses are unique.
    pub computers: Vec<Computer>,
}

/// Where images are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The directory, absolute.
    pub path: Utf8PathBuf,
    /// A job that would leave less space than this free waits until there is room.
    pub keep_free: ByteSize,
    /// Whether all management nodes see the same files there.
    pub shared: bool,
    /// How many revisions may lie on one another before they are rewritten whole.
    pub chain_limit: usize,
    /// For how many days what was deleted can be brought back.
    pub trash_days: u32,
    /// Which revisions are deleted by themselves.
    pub retention: Retention,
    /// How many nodes should hold an image's newest revision, at least 1.
    pub copies: usize,
}

/// Which revisions are deleted by themselves: by default none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// How many of an image's newest stay.
    pub keep: Option<u32>,
    /// Only older ones go.
    pub older_than_days: Option<u32>,
}

/// Where the queue and the records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A SQLite file.
    Sqlite {
        /// The file, absolute.
        path: Utf8PathBuf,
    },
    /// A database on a MariaDB or MySQL server, which several nodes may share.
    MariaDb {
        /// `mysql://user@host:port/database`, with `?socket=` and the `ssl-` options where they are given. No password.
        url: String,
        /// Where the user's password is, if it has one.
        password: Option<KeySource>,
    },
}

/// How the daemon logs in to loaded machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ssh {
    /// Its private key.
    pub key: KeySource,
    /// The account.
    pub user: String,
}

/// Executables of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    /// The directory, absolute.
    pub directory: Utf8PathBuf,
}

impl Hooks {
    /// The directory of those that run before a capture.
    #[must_use]
    pub fn pre_capture(&self) -> Utf8PathBuf {
        self.directory.join("pre_capture.d")
    }
    /// The directory of those that run after a load.
    #[must_use]
    pub fn post_load(&self) -> Utf8PathBuf {
        self.directory.join("post_load.d")
    }
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// From power-on until ssh answers.
    pub boot: Duration,
    /// From the request to shut down until the machine is off.
    pub shutdown: Duration,
    /// Copying or converting one disk.
    pub copy: Duration,
    /// One command inside a machine.
    pub command: Duration,
    /// How long a copy may stand still.
    pub no_progress: Duration,
}

/// This management node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; `None` means the machine's host name.
    pub name: Option<String>,
    /// How many jobs run here at once, at least 1.
    pub max_jobs: usize,
    /// How long jobs may go on when the daemon is asked to stop.
    pub drain: Duration,
    /// How long it may be silent before other nodes give it up, at least 3 seconds.
    pub lease: Duration,
    /// How it looks after what is left of jobs and computers.
    pub upkeep: Upkeep,
}

/// What the daemon writes about what it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The form.
    pub format: LogFormat,
    /// A level or a filter, in the syntax of `tracing`. It is not checked here.
    pub filter: String,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// The journal under systemd, text otherwise.
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
    /// The systemd journal, with fields.
    Journald,
}

impl Config {
    /// The secret of that name, from the directory in `$CREDENTIALS_DIRECTORY`. One newline at its end is taken off,
    /// except from a key in PEM form. It is read anew each time and kept nowhere.
    ///
    /// # Errors
    ///
    /// The variable is not set, or there is no such credential, or it cannot be read; the message says which, and
    /// what to add to the unit.
    pub fn credential(&self, name: &CredentialName) -> Result<Secret, Error> {
        credentials::read(credentials::directory().as_deref(), name)
    }
    /// The computer of that name.
    #[must_use]
    pub fn computer(&self, name: &ComputerName) -> Option<&Computer> {
        self.computers.iter().find(|computer| &computer.name == name)
    }
}

/// Reads a configuration from the text of a file. `file` is the name that problems show; nothing is opened.
///
/// # Errors
///
/// Everything that is wrong with it, in the order of the file. Where a line is not TOML, other lines are checked all
/// the same; only what may follow from the broken line is kept back.
pub fn parse(text: &str, file: &str, known: &Known<'_>) -> Result<Config, Problems> {
    let mut findings = Findings::new(file);
    let entries = tree::parse(text, &mut findings);
    let config = entries.and_then(|entries| {
        let start = Position { line: 1, column: 1 };
        read(&Section::open(&findings, (String::new(), start), &entries, [ROOT, &[]]), file, known)
    });
    findings.outcome(config)
}

fn read(root: &Section<'_>, file: &str, known: &Known<'_>) -> Option<Config> {
    let library = root.section("library").and_then(|table| read_library(&table));
    let database = root.section("database").and_then(|table| read_database(&table, library.as_ref()));
    let api = root.section("api").and_then(|table| api::read(&table));
    let ssh = root.section("ssh").and_then(|table| read_ssh(&table));
    let hooks = root.section("hooks").and_then(|table| Some(Hooks { directory: table.path("directory")? }));
    let windows = root.section("windows").and_then(|table| windows::read(&table));
    let deadlines = root.section("deadlines").and_then(|table| read_deadlines(&table));
    let node = root.section("node").and_then(|table| read_node(&table));
    let exchange = match root.has("exchange") {
        false => Some(None),
        true => root.section("exchange").and_then(|table| exchange::read(&table)).map(Some),
    };
    let inbox = match root.has("inbox") {
        false => Some(None),
        true => root.section("inbox").and_then(|table| inbox::read(&table)).map(Some),
    };
    let lending = lending::read(root);
    let configure = crate::configure::read(root);
    let notices = match root.has("notices") {
        false => Some(None),
        true => root.section("notices").and_then(|table| notices::read(&table)).map(Some),
    };
    let guacamole = match root.has("guacamole") {
        false => Some(None),
        true => root.section("guacamole").and_then(|table| guacamole::read(&table)).map(Some),
    };
    let page = root.section("page").and_then(|table| page::read(&table));
    let metrics = root.section("metrics").and_then(|table| notices::metrics(&table));
    let log = root.section("log").and_then(|table| read_log(&table));
    let (backends, kinds) = backend::read(root, file, known);
    let (networks, links) = network::read(root);
    let (hosts, known_nats) = nat::read(root);
    let (computers, behind) = computers::read(root, &kinds, &links, &known_nats);
    Some(Config {
        library: library?,
        database: database?,
        api: api?,
        ssh: ssh?,
        hooks: hooks?,
        windows: windows?,
        deadlines: deadlines?,
        node: node?,
        exchange: exchange?,
        inbox: inbox?,
        lending: lending?,
        configure: configure?,
        notices: notices?,
        guacamole: guacamole?,
        page: page?,
        metrics: metrics?,
        log: log?,
        backends,
        networks,
        nats: Nats { hosts, behind },
        computers,
    })
}

fn read_library(table: &Section<'_>) -> Option<Library> {
    let path = table.path("path").filter(|path| {
        let root = path == "/";
        if root {
            table.report(
                "path",
                "`/` cannot be the library",
                "give it a directory of its own, as in \"/srv/vcl\"",
            );
        }
        !root
    });
    let keep_free = table.size("keep_free");
    let shared = if table.has("shared") { table.boolean("shared") } else { Some(false) };
    let copies = table.integer("copies");
    let (chain_limit, trash_days) = (table.integer("chain_limit"), table.integer("trash_days"));
    let retention = table.section("retention").map_or_else(Retention::default, |rules| {
        let number = |key| rules.has(key).then(|| rules.integer(key)).flatten();
        Retention { keep: number("keep"), older_than_days: number("older_than_days") }
    });
    Some(Library {
        path: path?,
        keep_free: keep_free?,
        shared: shared?,
        copies: copies? as usize,
        chain_limit: chain_limit? as usize,
        trash_days: trash_days?,
        retention,
    })
}

fn read_database(table: &Section<'_>, library: Option<&Library>) -> Option<Database> {
    let default =
        library.and_then(|library| library.path.parent()).map(|directory| directory.join("vcld.db"));
    let password = table.has("password");
    let secret = table.field("password").filter(|_| password).map(|field| field.key_source());
    if !table.has("url") {
        if password {
            table.report("password", "SQLite has no password", "leave it out");
        }
        // Without a library there is no default; that the library is missing was reported.
        return Some(Database::Sqlite { path: default? });
    }
    let url = table.text("url")?;
    if values::has_password(&url) {
        table.report(
            "url",
            "a secret's value may not stand in this file: the URL holds a password",
            "take it out of the URL, change it, and write password = { credential = \"database-password\" }",
        );
        return None;
    }
    let text = shown(&url);
    if ["mysql:", "mariadb:"].iter().any(|scheme| url.starts_with(scheme)) {
        let rest = url.split_once("://").map(|(_, rest)| rest).unwrap_or_default();
        let whole = rest
            .split('?')
            .next()
            .and_then(|r| r.split_once('/'))
            .is_some_and(|(host, name)| !host.is_empty() && !name.is_empty() && !name.contains('/'));
        if !whole {
            table.report(
                "url",
                format!("`{text}` does not name a server and a database on it"),
                "write \"mysql://user@host/database\"",
            );
            return None;
        }
        // A password that cannot be read was reported where it stands.
        let password = match secret {
            None => None,
            Some(source) => Some(source?),
        };
        return Some(Database::MariaDb { url, password });
    }
    let Some(path) = url.strip_prefix("sqlite:") else {
        table.report(
            "url",
            format!("`{text}` is not a database"),
            "write \"sqlite:/path/of/a/file\" or \"mysql://user@host/database\", or leave [database] out",
        );
        return None;
    };
    if password {
        table.report("password", "SQLite has no password", "leave it out");
    }
    // `sqlite:///x` is the form with an empty host; `sqlite://x` would be a host, or a relative path.
    let path = path.strip_prefix("//").unwrap_or(path);
    match values::absolute(path) {
        Ok(path) if path != "/" => Some(Database::Sqlite { path }),
        _ => {
            table.report(
                "url",
                format!("`{text}` does not name a file by an absolute path"),
                "write \"sqlite:/path/of/a/file\"",
            );
            None
        }
    }
}

fn read_ssh(table: &Section<'_>) -> Option<Ssh> {
    let key = table.field("key").and_then(|field| field.key_source());
    let user = table.text("user");
    Some(Ssh { key: key?, user: user? })
}

fn read_deadlines(table: &Section<'_>) -> Option<Deadlines> {
    let [boot, shutdown, copy, command, no_progress] =
        ["boot", "shutdown", "copy", "command", "no_progress"].map(|key| table.duration(key));
    Some(Deadlines {
        boot: boot?,
        shutdown: shutdown?,
        copy: copy?,
        command: command?,
        no_progress: no_progress?,
    })
}

fn read_node(table: &Section<'_>) -> Option<Node> {
    let name = table.text("name");
    let max_jobs = table.integer("max_jobs");
    let upkeep = upkeep::read(table);
    let drain = table.duration("drain");
    let lease = table.duration("lease");
    Some(Node { name, max_jobs: max_jobs? as usize, drain: drain?, lease: lease?, upkeep: upkeep? })
}

fn read_log(table: &Section<'_>) -> Option<Log> {
    let format = table.choice("format");
    let filter = table.text("filter");
    Some(Log { format: format?, filter: filter? })
}
