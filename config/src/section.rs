//! Readers of tables that collect problems instead of stopping at the first.

use crate::field::Field;
use crate::keys::{Key, Kind, Presence, ROOT};
use crate::nearest::nearest;
use crate::problem::{Findings, Position, dotted, shown};
use crate::tree::{Entry, Node, Value};
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use std::borrow::Cow;
use std::time::Duration;
use vcl_types::ByteSize;

/// A table of the file, with the keys it may have.
///
/// A reader returns `None` only after it has reported why, or for an optional key that is left out. So a table is
/// read by asking for every key first and giving up last:
///
/// ```
/// use std::time::Duration;
/// use vcl_config::{Key, Kind, Section};
///
/// const KEYS: &[Key] = &[
///     Key::required("host", Kind::HostName, "The host."),
///     Key::default("wait", Kind::Duration { min: 1000 }, "10s", "How long to wait for it."),
/// ];
/// struct Mine { host: String, wait: Duration }
///
/// fn read(table: &Section<'_>) -> Option<Mine> {
///     let host = table.text("host");
///     let wait = table.duration("wait");
///     Some(Mine { host: host?, wait: wait? })
/// }
/// ```
///
/// Its readers take the name of a key. Each gives the value, or the key's default where it is left out, and `None`
/// when it has neither: after reporting that, unless the key is optional.
pub struct Section<'a> {
    findings: &'a Findings,
    path: String,
    name: &'a str,
    at: Position,
    entries: &'a [Entry],
    keys: [&'static [Key]; 2],
}

impl<'a> Section<'a> {
    /// Opens a table and reports what it has that it may not have, and what it lacks.
    pub(crate) fn open(
        findings: &'a Findings,
        (path, at): (String, Position),
        entries: &'a [Entry],
        keys: [&'static [Key]; 2],
    ) -> Self {
        let section = Self::unchecked(findings, (path, at), entries, keys);
        section.check_names();
        section
    }
    /// Opens a table some of whose keys are not known here.
    pub(crate) fn unchecked(
        findings: &'a Findings,
        (path, at): (String, Position),
        entries: &'a [Entry],
        keys: [&'static [Key]; 2],
    ) -> Self {
        Self { findings, path, name: "", at, entries, keys }
    }
    /// The same table with the name that the file gave it, for defaults that speak of it.
    pub(crate) fn named(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    fn known(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.into_iter().flatten()
    }
    fn key(&self, name: &str) -> Option<&'static Key> {
        self.known().find(|key| key.name == name)
    }
    fn entry(&self, name: &str) -> Option<&'a Entry> {
        self.entries.iter().find(|entry| entry.key == name)
    }

    fn check_names(&self) {
        let mut meant = Vec::new();
        for entry in self.entries.iter().filter(|entry| self.key(&entry.key).is_none()) {
            let way_out = self.suggestion(&entry.key, &mut meant);
            let path = dotted(&self.path, &entry.key);
            self.findings.report(entry.at, &path, format!("`{}` is not a key", shown(&entry.key)), way_out);
        }
        for key in self.known() {
            let absent = self.entry(key.name).is_none() && !meant.contains(&key.name);
            if key.presence == Presence::Required && absent {
                let path = dotted(&self.path, key.name);
                let way_out = match key.kind {
                    Kind::Table(keys) => {
                        let inside = keys.iter().find(|key| key.presence == Presence::Required);
                        let line =
                            inside.map(|key| format!(" and below it {}", example(key))).unwrap_or_default();
                        format!("add a line [{}]{line}", key.name)
                    }
                    _ => format!("add {}", example(key)),
                };
                self.findings.consequence(self.at, &path, format!("`{}` is missing", key.name), way_out);
            }
        }
    }
    fn suggestion(&self, word: &str, meant: &mut Vec<&'static str>) -> String {
        let (there, free): (Vec<_>, Vec<_>) =
            self.known().map(|key| key.name).partition(|name| self.has(name));
        if let Some(near) = nearest(word, free) {
            meant.push(near);
            return format!("did you mean `{near}`?");
        }
        if let Some(near) = nearest(word, there) {
            return format!("did you mean `{near}`? That is there already");
        }
        let elsewhere = ROOT.iter().find(|table| match table.kind {
            Kind::Table(keys) => keys.iter().any(|key| key.name == word),
            _ => false,
        });
        if let Some(table) = elsewhere {
            return format!("`{word}` is a key of [{}]", table.name);
        }
        let names: Vec<_> = self.known().map(|key| key.name).collect();
        format!("the keys here are: {}", names.join(", "))
    }

    /// The text of a key or its default, if it is text; nothing is reported.
    pub(crate) fn peek(&self, name: &str) -> Option<String> {
        match self.field(name)?.node.into_owned().value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
    /// Where a key's value stands; the table, when it is left out.
    pub(crate) fn place(&self, name: &str) -> Position {
        self.entry(name).map_or(self.at, |entry| match entry.node.value {
            Value::Table(_) => entry.at,
            _ => entry.node.at,
        })
    }
    pub(crate) fn at(&self) -> Position {
        self.at
    }
    pub(crate) fn location(&self) -> &str {
        &self.path
    }
    pub(crate) fn findings(&self) -> &'a Findings {
        self.findings
    }

    /// Whether the key is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }
    /// Whether the key is there or has a default.
    pub(crate) fn has_value(&self, name: &str) -> bool {
        self.field(name).is_some()
    }
    /// Reports that a key's value is wrong: for what only the reader of this table can know. `message` should show
    /// the value unless it is a secret, and `way_out` says what to write instead.
    pub fn report(&self, name: &str, message: impl Into<String>, way_out: impl Into<String>) {
        self.findings.report(self.place(name), &dotted(&self.path, name), message, way_out);
    }

    pub(crate) fn field(&self, name: &str) -> Option<Field<'a>> {
        let key = self.key(name);
        debug_assert!(key.is_some(), "`{name}` is not in the table of keys of {}", self.path);
        let key = key?;
        let node = match self.entry(name) {
            Some(entry) => Cow::Borrowed(&entry.node),
            None => match key.presence {
                Presence::Default(text) => Cow::Owned(self.default_node(key.kind, text)),
                Presence::Required | Presence::Optional(_) => return None,
            },
        };
        Some(Field {
            findings: self.findings,
            path: dotted(&self.path, name),
            at: self.place(name),
            node,
            kind: key.kind,
        })
    }
    fn default_node(&self, kind: Kind, text: &str) -> Node {
        let node = |value| Node { at: self.at, value };
        match kind {
            Kind::Integer { .. } => {
                node(text.parse().map_or_else(|_| Value::TooLarge(text.to_owned()), Value::Integer))
            }
            Kind::Fraction => {
                node(text.parse().map_or_else(|_| Value::TooLarge(text.to_owned()), Value::Float))
            }
            Kind::Boolean | Kind::True => node(Value::Boolean(text == "true")),
            Kind::KeySource => {
                let file =
                    Entry { key: "file".to_owned(), at: self.at, node: node(Value::Text(text.to_owned())) };
                node(Value::Table(vec![file]))
            }
            _ => node(Value::Text(text.replace("NAME", self.name))),
        }
    }

    /// What a key that may be left out comes to; `None` when it is there and wrong, which was reported.
    pub(crate) fn optional<T>(&self, name: &str, read: impl FnOnce(&Self) -> Option<T>) -> Option<Option<T>> {
        if self.has(name) { read(self).map(Some) } else { Some(None) }
    }

    /// Text: also the kinds [`Kind::Account`], [`Kind::HostName`] and [`Kind::Word`].
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.field(name)?.text()
    }
    /// An absolute path, without `..` and without `/` at its end.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<Utf8PathBuf> {
        self.field(name)?.path()
    }
    /// A size in bytes.
    #[must_use]
    pub fn size(&self, name: &str) -> Option<ByteSize> {
        self.field(name)?.size()
    }
    /// A duration.
    #[must_use]
    pub fn duration(&self, name: &str) -> Option<Duration> {
        self.field(name)?.duration()
    }
    /// An integer within the bounds of its kind.
    #[must_use]
    pub fn integer(&self, name: &str) -> Option<u32> {
        self.field(name)?.integer()
    }
    /// A number from 0 to 1.
    #[must_use]
    pub fn fraction(&self, name: &str) -> Option<f64> {
        self.field(name)?.fraction()
    }
    /// A boolean.
    #[must_use]
    pub fn boolean(&self, name: &str) -> Option<bool> {
        self.field(name)?.boolean()
    }
    /// One of the words of its kind, as the enum whose variants serde knows by these words.
    #[must_use]
    pub fn choice<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let word = self.field(name)?.text()?;
        let chosen = T::deserialize(StrDeserializer::<serde::de::value::Error>::new(&word)).ok();
        if chosen.is_none() {
            self.report(
                name,
                format!("`{word}` is not understood"),
                "this is a mistake in vcld; please report it",
            );
        }
        chosen
    }
    /// The name of a credential.
    #[must_use]
    pub fn credential(&self, name: &str) -> Option<CredentialName> {
        self.field(name)?.credential()
    }
    /// A table inside this one; an empty one when it is left out.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<Section<'a>> {
        let Some(Key { kind: Kind::Table(keys), .. }) = self.key(name) else {
            debug_assert!(false, "`{name}` is not a table of {}", self.path);
            return None;
        };
        let path = dotted(&self.path, name);
        match self.entry(name) {
            None => Some(Section::unchecked(self.findings, (path, self.at), &[], [keys, &[]])),
            Some(entry) => {
                let entries = table(self.findings, &path, entry)?;
                Some(Section::open(self.findings, (path, entry.at), entries, [keys, &[]]))
            }
        }
    }
    /// The entries of a table whose keys are names that the file gives, each with its path.
    pub(crate) fn named_entries(&self, name: &str) -> Vec<(String, &'a Entry)> {
        let path = dotted(&self.path, name);
        let entries =
            self.entry(name).and_then(|entry| table(self.findings, &path, entry)).unwrap_or_default();
        entries.iter().map(|entry| (dotted(&path, &entry.key), entry)).collect()
    }
}

/// The entries of a table; anything else is reported.
pub(crate) fn table<'a>(findings: &Findings, path: &str, entry: &'a Entry) -> Option<&'a [Entry]> {
    match &entry.node.value {
        Value::Table(entries) => Some(entries),
        other => {
            let named = ROOT.iter().any(|key| key.name == path && matches!(key.kind, Kind::Tables(_)));
            let header = if named { format!("{path}.NAME") } else { path.to_owned() };
            let way_out = format!("write a line [{header}] in single brackets, with its keys below it");
            findings.report(entry.at, path, format!("{} stands here, not a table", other.what()), way_out);
            None
        }
    }
}

fn example(key: &Key) -> String {
    let value = match key.kind {
        Kind::Path if key.name == "path" => "\"/srv/vcl\"".to_owned(),
        Kind::Path => format!("\"/etc/vcld/{}.pem\"", key.name),
        Kind::Credential => "{ credential = \"name\" }".to_owned(),
        Kind::BackendType => "\"libvirt\"".to_owned(),
        Kind::Interfaces(_) => "[\"…\"]".to_owned(),
        Kind::KeySource => "{ file = \"/path\" }".to_owned(),
        Kind::Integer { min, .. } => min.to_string(),
        Kind::Boolean | Kind::True => "true".to_owned(),
        _ => "\"…\"".to_owned(),
    };
    format!("{} = {value}", key.name)
}
