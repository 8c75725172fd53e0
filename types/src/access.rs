//! Who may use a loaded machine and how, what is found of it in the guest, and what makes a guest somebody.

use crate::{InvalidName, ReservationId};
use chrono::{DateTime, Utc};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

const ACCOUNT_RULE: &str = "use 1 to 32 lower-case letters, digits, `_` and `-`, beginning with a letter, that no system has an \
                            account of its own for, as in `alice`";

/// Accounts that systems have of their own, and words that Windows gives no file. None of them is a person's.
const SYSTEM: &[&str] = &[
    "root",
    "daemon",
    "bin",
    "sys",
    "sync",
    "games",
    "man",
    "lp",
    "mail",
    "news",
    "uucp",
    "proxy",
    "www-data",
    "backup",
    "list",
    "irc",
    "gnats",
    "nobody",
    "nogroup",
    "adm",
    "shutdown",
    "halt",
    "operator",
    "ftp",
    "sshd",
    "messagebus",
    "polkitd",
    "dbus",
    "tcpdump",
    "chrony",
    "ntp",
    "postfix",
    "mysql",
    "postgres",
    "apache",
    "nginx",
    "named",
    "bind",
    "rpc",
    "rpcuser",
    "sssd",
    "tss",
    "uuidd",
    "avahi",
    "colord",
    "geoclue",
    "gdm",
    "lightdm",
    "sddm",
    "xrdp",
    "pulse",
    "rtkit",
    "saned",
    "usbmux",
    "dnsmasq",
    "libvirt-qemu",
    "qemu",
    "kvm",
    "wheel",
    "sudo",
    "admin",
    "administrator",
    "administrators",
    "guest",
    "guests",
    "users",
    "defaultaccount",
    "wdagutilityaccount",
    "system",
    "localservice",
    "networkservice",
    "local",
    "network",
    "everyone",
    "con",
    "prn",
    "aux",
    "nul",
    "vcl",
    "vcld",
];

/// The name of a person's account in a guest. It is one on Linux and on Windows, and never one that a system has of its
/// own. Windows itself takes no more than 20 of its up to 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct AccountName(String);

impl AccountName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for AccountName {
    type Err = InvalidName;
    fn from_str(value: &str) -> Result<Self, InvalidName> {
        let charset = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let shaped = (1..=32).contains(&value.len())
            && value.bytes().all(charset)
            && value.starts_with(|c: char| c.is_ascii_lowercase())
            && !value.ends_with('-');
        // COM1 and LPT1 are devices, also as the name of a directory.
        let device = value.len() == 4
            && (value.starts_with("com") || value.starts_with("lpt"))
            && value.ends_with(|c: char| c.is_ascii_digit());
        if shaped && !device && !SYSTEM.contains(&value) && !value.starts_with("systemd-") {
            return Ok(Self(value.to_owned()));
        }
        let value = value.chars().take(80).collect();
        Err(InvalidName { what: "account name", value, rule: ACCOUNT_RULE })
    }
}
impl TryFrom<String> for AccountName {
    type Error = InvalidName;
    fn try_from(value: String) -> Result<Self, InvalidName> {
        value.parse()
    }
}
impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}
impl AsRef<str> for AccountName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

const SSH_KEY_RULE: &str =
    "give one line as in a `.pub` file, `ssh-ed25519 AAAA… comment`, without options before it";

/// Reads a public ssh key as a `.pub` file has it: algorithm, base64, a comment. Options, which `authorized_keys` knows
/// and which run commands, are refused. What is answered is safe as a line of `authorized_keys`.
///
/// # Errors
/// It is none.
pub fn ssh_key(line: &str) -> Result<String, InvalidName> {
    let line = line.trim();
    let refused =
        || InvalidName { what: "public ssh key", value: line.chars().take(80).collect(), rule: SSH_KEY_RULE };
    if line.len() > 16 * 1024 || line.chars().any(char::is_control) {
        return Err(refused());
    }
    let key = crate::HostKey::parse(line).ok_or_else(refused)?;
    // An algorithm's name: what `ssh -Q key` prints.
    if !key.algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"-@.".contains(&b)) {
        return Err(refused());
    }
    let comment: Vec<&str> = line.split_ascii_whitespace().skip(2).collect();
    let comment: String = comment.join(" ").chars().take(200).collect();
    Ok(format!("{key} {comment}").trim_end().to_owned())
}

/// A person's account in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// The public ssh keys that may log in to it, as [`ssh_key`] takes them.
    #[serde(default)]
    pub ssh_keys: Vec<String>,
    /// Whether it may do everything: by `sudo` on Linux, as one of the Administrators on Windows.
    #[serde(default)]
    pub sudo: bool,
    /// Its user id on Linux, where the site wants a certain one (homes on a file server); else the guest takes one.
    #[serde(default)]
    pub uid: Option<u32>,
}

/// Whether a user id is one that a person may have: not the system's, and none of those that mean nobody.
#[must_use]
pub const fn is_person(uid: u32) -> bool {
    uid >= 1000 && !matches!(uid, 65_534 | 65_535) && uid < u32::MAX - 1
}

/// A way to a machine's desktop or shell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConnectMethod {
    /// What it is called: `ssh`, `rdp`, `vnc`, or a word of the site's.
    pub name: String,
    /// The TCP port that it is reached by.
    pub port: u16,
    /// The service of the guest that has to run for it, where one has to be started: `xrdp`.
    #[serde(default)]
    pub service: Option<String>,
    /// The hook of the site's `method.d` that is run in the guest before it is opened, without the ending that one for
    /// Windows has.
    #[serde(default)]
    pub script: Option<String>,
}

impl ConnectMethod {
    /// Whether its words are ones: letters, digits, `_`, `-`, and for a service also `.` and `@`.
    ///
    /// # Errors
    /// Which is not.
    pub fn check(&self) -> Result<(), InvalidName> {
        let is = |word: &str, more: &str| {
            (1..=64).contains(&word.len())
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        let named = |what, value: &str, rule| {
            Err(InvalidName { what, value: value.chars().take(80).collect(), rule })
        };
        if !is(&self.name, "_-") {
            return named("connect method", &self.name, "use letters, digits, `_` and `-`, as in `rdp`");
        }
        if self.port == 0 {
            return named("port", "0", "use 1 to 65535, as in `3389`");
        }
        if let Some(service) = self.service.as_deref().filter(|s| !is(s, "_-.@")) {
            return named("service", service, "use the name of a service, as in `xrdp`");
        }
        if let Some(script) = self.script.as_deref().filter(|s| !is(s, "_-")) {
            return named("script", script, "use the name of a file in `method.d`, as in `10-vnc`");
        }
        Ok(())
    }
}

/// From where a machine's connect methods may be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Reach {
    /// From nowhere: the user's address is not known yet.
    #[default]
    Nobody,
    /// From these networks, such as the user's one address.
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    Only(Vec<IpNet>),
    /// From anywhere.
    Everybody,
}

/// What is put into a guest for whoever reserved it, such as a file that sets up his work. No place for a secret: every account
/// of the guest can read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct UserData(Vec<u8>);

impl UserData {
    /// The most bytes there may be.
    pub const MOST: usize = 64 * 1024;

    /// Takes these bytes.
    ///
    /// # Errors
    /// They are too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidName> {
        const RULE: &str = "give at most 65536 bytes, and fetch the rest from a server of yours in the guest";
        if bytes.len() > Self::MOST {
            let value = format!("{} bytes", bytes.len());
            return Err(InvalidName { what: "user data", value, rule: RULE });
        }
        Ok(Self(bytes))
    }
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}
impl TryFrom<String> for UserData {
    type Error = InvalidName;
    /// Reads base64.
    fn try_from(text: String) -> Result<Self, InvalidName> {
        use base64::Engine as _;
        const RULE: &str = "give it in base64, as `base64 -w0 FILE` prints it";
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| {
            InvalidName { what: "user data", value: text.chars().take(40).collect(), rule: RULE }
        })?;
        Self::new(bytes)
    }
}
impl From<UserData> for String {
    fn from(data: UserData) -> Self {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(data.0)
    }
}

/// All that is to be open in a guest for a reservation. Giving it again, changed, makes the guest so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Access {
    /// The reservation.
    pub reservation: ReservationId,
    /// Who has an account.
    pub accounts: Vec<Account>,
    /// How they come.
    pub methods: Vec<ConnectMethod>,
    /// From where.
    #[serde(default)]
    pub from: Reach,
    /// Networks that are never shut out, whatever `from` says: where the management nodes are. The one that is connected now
    /// never is.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Vec<String>))]
    pub keep: Vec<IpNet>,
    /// What the site's hooks are told, each as a variable of their environment: `owner` is `VCLD_OWNER`.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// What is put into the guest for its user.
    #[serde(default)]
    pub user_data: Option<UserData>,
}

impl Access {
    /// Whether it can be given to a guest: as many and as long as it may be, and every word in it one.
    ///
    /// # Errors
    /// What cannot be, and what would do.
    pub fn check(&self) -> Result<(), InvalidName> {
        let too_many = |what, n: usize, rule| Err(InvalidName { what, value: n.to_string(), rule });
        if self.accounts.len() > 100 {
            return too_many("number of accounts", self.accounts.len(), "give at most 100 accounts");
        }
        if self.methods.len() > 32 {
            return too_many("number of methods", self.methods.len(), "give at most 32 connect methods");
        }
        let nets = self.keep.len() + if let Reach::Only(nets) = &self.from { nets.len() } else { 0 };
        if nets > 200 {
            return too_many("number of networks", nets, "give at most 200 networks");
        }
        let mut names = BTreeSet::new();
        for account in &self.accounts {
            if !names.insert(&account.name) {
                let value = account.name.to_string();
                return Err(InvalidName { what: "account", value, rule: "name each account once" });
            }
            if account.ssh_keys.len() > 100 {
                return too_many(
                    "number of keys",
                    account.ssh_keys.len(),
                    "give an account at most 100 keys",
                );
            }
            if let Some(uid) = account.uid.filter(|uid| !is_person(*uid)) {
                return too_many("user id", uid as usize, "use one from 1000 on, as persons have");
            }
            for key in &account.ssh_keys {
                ssh_key(key)?;
            }
        }
        self.methods.iter().try_for_each(ConnectMethod::check)?;
        for (name, value) in &self.facts {
            let is = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            let shaped = (1..=40).contains(&name.len()) && name.bytes().all(is);
            if !shaped || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
                let value = name.chars().take(80).collect();
                let rule = "use lower-case letters, digits and `_`, beginning with a letter, as in `owner`";
                return Err(InvalidName { what: "fact", value, rule });
            }
            if value.len() > 4096 {
                let value = format!("{name}, {} bytes", value.len());
                return Err(InvalidName { what: "fact", value, rule: "give at most 4096 bytes" });
            }
        }
        if self.facts.len() > 64 {
            return too_many("number of facts", self.facts.len(), "give at most 64 facts");
        }
        Ok(())
    }
}

/// Somebody who is connected to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// The account, where the guest knows it: behind a remote desktop somebody may not have logged in yet.
    pub account: Option<String>,
    /// From where.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub from: Option<IpAddr>,
    /// The connect method.
    pub method: String,
    /// Since when, by the guest's clock.
    pub since: Option<DateTime<Utc>>,
}

/// What makes a guest somebody: by the name of each item its values, such as `machine-id` and `ssh-host-key`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Identity(BTreeMap<String, BTreeSet<String>>);

/// An item that two guests have in common and must not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SharedItem {
    /// The item, such as `machine-id`.
    pub item: String,
    /// The value that both have.
    pub value: String,
}
impl fmt::Display for SharedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.item, self.value)
    }
}

impl Identity {
    /// Adds a value of an item.
    pub fn add(&mut self, item: impl Into<String>, value: impl Into<String>) {
        self.0.entry(item.into()).or_default().insert(value.into());
    }
    /// The values of an item.
    #[must_use]
    pub fn of(&self, item: &str) -> Vec<&str> {
        self.0.get(item).into_iter().flatten().map(String::as_str).collect()
    }
    /// Every item with its values.
    pub fn items(&self) -> impl Iterator<Item = (&str, &BTreeSet<String>)> {
        self.0.iter().map(|(item, values)| (item.as_str(), values))
    }
    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }
    /// What both have and only one should: the same value of the same item, except values that say nothing, such as a
    /// hostname `localhost` or an empty machine-id.
    #[must_use]
    pub fn shared(&self, other: &Self) -> Vec<SharedItem> {
        let both = |(item, values): (&String, &BTreeSet<String>)| {
            let theirs = other.0.get(item)?;
            let common = values.intersection(theirs).filter(|value| tells(item, value));
            Some(
                common
                    .map(|value| SharedItem { item: item.clone(), value: value.clone() })
                    .collect::<Vec<_>>(),
            )
        };
        self.0.iter().filter_map(both).flatten().collect()
    }
}

/// Whether a value says who a guest is, and not that nobody has told it yet.
fn tells(item: &str, value: &str) -> bool {
    let value = value.trim();
    // An id of noughts or of one digit over and over, a MAC address of nobody.
    let mut digits = value.chars().filter(char::is_ascii_hexdigit);
    let first = digits.next();
    let monotone = first.is_some_and(|first| digits.all(|c| c == first))
        && value.chars().all(|c| c.is_ascii_hexdigit() || "-:{}".contains(c));
    match item {
        _ if value.is_empty() || value == "uninitialized" => false,
        "hostname" => !matches!(value, "localhost" | "localhost.localdomain" | "(none)" | "debian"),
        // What gethostid makes of 127.0.1.1 and 127.0.0.1.
        "host-id" => !monotone && value != "007f0101" && value != "007f0100",
        _ => !monotone,
    }
}

#[cfg(test)]
mod tests;
