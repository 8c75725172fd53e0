//! One value of the file and the readers of each kind.

use crate::keys::Kind;
use crate::nearest::nearest;
use crate::problem::{Findings, Position, dotted, shown};
use crate::tree::{Entry, Node, Value};
use crate::values::{self, CredentialName, KeySource};
use camino::Utf8PathBuf;
use std::borrow::Cow;
use std::time::Duration;
use vcl_types::ByteSize;

/// A value, what it has to be, and where it stands. Its readers report what is wrong and then return `None`.
pub(crate) struct Field<'a> {
    pub findings: &'a Findings,
    pub path: String,
    pub at: Position,
    pub node: Cow<'a, Node>,
    pub kind: Kind,
}

impl Field<'_> {
    pub fn report(&self, message: impl Into<String>, way_out: impl Into<String>) {
        self.findings.report(self.at, &self.path, message, way_out);
    }
    /// Reports that the value is of another kind. Secrets are not shown, nor what stands where one belongs.
    pub fn mismatch(&self) {
        let value = match &self.node.value {
            _ if matches!(self.kind, Kind::Credential | Kind::KeySource)
                || values::is_secret(self.path.rsplit('.').next().unwrap_or_default()) =>
            {
                None
            }
            Value::TooLarge(number) => Some(shown(number)),
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Boolean(yes) => Some(yes.to_string()),
            Value::Text(text) => Some(format!("\"{}\"", shown(text))),
            Value::Datetime(date) => Some(date.to_string()),
            Value::List(_) | Value::Table(_) => None,
        };
        let what = self.node.value.what();
        let noun = self.kind.noun();
        let message = match (&self.kind, value) {
            (Kind::Size { .. } | Kind::Duration { .. }, Some(value)) if what == "an integer" => {
                format!("`{value}` has no unit, so it is not {noun}")
            }
            (_, Some(value)) => format!("`{value}` is {what}, not {noun}"),
            (_, None) => format!("{what} stands here, not {noun}"),
        };
        self.report(message, self.kind.hint());
    }
    /// Reports text that is of the right type and still not of the right kind.
    fn bad(&self, text: &str, why: &str) {
        self.report(format!("`{}` {why}", shown(text)), self.kind.hint());
    }

    /// Text, of whatever content.
    pub fn raw(&self) -> Option<&str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.mismatch();
                None
            }
        }
    }
    pub fn text(&self) -> Option<String> {
        let text = self.raw()?;
        if text.trim().is_empty() {
            self.report("this is empty", "write something, or leave the key out");
            return None;
        }
        let problem = match self.kind {
            Kind::Account if !values::is_account(text) => Some("is not an account's or group's name"),
            Kind::HostName if !values::is_host_name(text) => Some("is not a host name"),
            _ if text.chars().any(char::is_control) => Some("holds a control character"),
            _ => None,
        };
        if let Some(why) = problem {
            self.bad(text, why);
            return None;
        }
        if let Kind::Word(words) = self.kind
            && !words.contains(&text)
        {
            let way_out = match nearest(text, words.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => self.kind.hint(),
            };
            self.report(format!("`{}` is none of the words for this", shown(text)), way_out);
            return None;
        }
        Some(text.to_owned())
    }
    pub fn path(&self) -> Option<Utf8PathBuf> {
        let text = self.raw()?;
        values::absolute(text).map_err(|why| self.bad(text, why)).ok()
    }
    pub fn size(&self) -> Option<ByteSize> {
        let Kind::Size { min } = self.kind else { return self.wrong_reader() };
        let text = self.raw()?;
        let Ok(size) = text.parse::<ByteSize>() else {
            self.bad(text, "is not a size");
            return None;
        };
        if size.bytes() < min {
            self.report(
                format!("`{}` is too small", shown(text)),
                format!("write at least \"{}M\"", min.div_ceil(1024 * 1024)),
            );
            return None;
        }
        Some(size)
    }
    pub fn duration(&self) -> Option<Duration> {
        let Kind::Duration { min } = self.kind else { return self.wrong_reader() };
        let text = self.raw()?;
        let Some(duration) = values::duration(text) else {
            self.bad(text, "is not a duration");
            return None;
        };
        let min = Duration::from_millis(min);
        if duration < min || duration > values::LONGEST {
            let (short, long) = (values::duration_text(min), values::duration_text(values::LONGEST));
            self.report(
                format!("`{}` is too {}", shown(text), if duration < min { "short" } else { "long" }),
                format!("write a duration from \"{short}\" to \"{long}\""),
            );
            return None;
        }
        Some(duration)
    }
    pub fn integer(&self) -> Option<u32> {
        let Kind::Integer { min, max } = self.kind else { return self.wrong_reader() };
        let Value::Integer(number) = self.node.value else {
            self.mismatch();
            return None;
        };
        let value = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
        if value.is_none() {
            self.report(format!("`{number}` is not from {min} to {max}"), self.kind.hint());
        }
        value
    }
    pub fn fraction(&self) -> Option<f64> {
        let number = match self.node.value {
            Value::Float(number) => number,
            Value::Integer(number) => number as f64,
            _ => {
                self.mismatch();
                return None;
            }
        };
        let good = (0.0..=1.0).contains(&number);
        if !good {
            self.report(format!("`{number}` is not from 0 to 1"), self.kind.hint());
        }
        good.then_some(number)
    }
    pub fn boolean(&self) -> Option<bool> {
        let Value::Boolean(yes) = self.node.value else {
            self.mismatch();
            return None;
        };
        if !yes && matches!(self.kind, Kind::True) {
            self.report("`false` says nothing here", "leave the key out");
            return None;
        }
        Some(yes)
    }
    pub fn mac(&self) -> Option<String> {
        let text = self.raw()?;
        values::mac(text).map_err(|why| self.bad(text, why)).ok()
    }
    pub fn tags(&self) -> Option<Vec<String>> {
        let mut tags = Vec::new();
        for item in self.items()? {
            let tag = item.raw()?;
            let plain = (1..=63).contains(&tag.len())
                && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b));
            if !plain {
                item.report(
                    format!("`{}` cannot be a tag", shown(tag)),
                    "use 1 to 63 letters, digits, `-`, `_`, `.` and `:`, as in \"room-b12\"",
                );
                return None;
            }
            if !tags.iter().any(|known| known == tag) {
                tags.push(tag.to_owned());
            }
        }
        Some(tags)
    }
    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Field<'_>>> {
        let Value::List(items) = &self.node.value else {
            self.mismatch();
            return None;
        };
        let kind = if matches!(self.kind, Kind::Interfaces(_)) { Kind::Network } else { Kind::Text };
        let mut fields = Vec::new();
        for (index, node) in items.iter().enumerate() {
            let path = format!("{}[{index}]", self.path);
            fields.push(Field {
                findings: self.findings,
                path,
                at: node.at,
                node: Cow::Borrowed(node),
                kind,
            });
        }
        Some(fields)
    }

    pub fn credential(&self) -> Option<CredentialName> {
        match self.source(&["credential"])? {
            KeySource::Credential(name) => Some(name),
            KeySource::File(_) => None,
        }
    }
    pub fn key_source(&self) -> Option<KeySource> {
        self.source(&["file", "credential"])
    }
    /// Reads `{ word = "…" }` with one of `words`.
    fn source(&self, words: &[&str]) -> Option<KeySource> {
        let entries: &[Entry] = match &self.node.value {
            Value::Table(entries) => entries,
            Value::Text(text) if words.contains(&"file") && text.starts_with('/') => {
                let text = shown(text);
                self.report(
                    format!("`{text}` does not say what it is"),
                    format!("write {{ file = \"{text}\" }}"),
                );
                return None;
            }
            Value::Text(_) => {
                inline_secret(self.findings, self.at, &self.path);
                return None;
            }
            _ => {
                self.mismatch();
                return None;
            }
        };
        let [entry] = entries else {
            self.report("this has to have exactly one key", self.kind.hint());
            return None;
        };
        let path = dotted(&self.path, &entry.key);
        if !words.contains(&entry.key.as_str()) {
            let message = format!("`{}` is not a key", shown(&entry.key));
            self.findings.report(entry.at, &path, message, self.kind.hint());
            return None;
        }
        let kind = if entry.key == "file" { Kind::Path } else { Kind::Credential };
        let field = Field {
            findings: self.findings,
            path,
            at: entry.node.at,
            node: Cow::Borrowed(&entry.node),
            kind,
        };
        if entry.key == "file" {
            return field.path().map(KeySource::File);
        }
        let Value::Text(text) = &field.node.value else {
            field.mismatch();
            return None;
        };
        let name = text.parse::<CredentialName>();
        let name =
            name.map_err(|error| field.report("this is not the name of a credential", error.to_string()));
        name.ok().map(KeySource::Credential)
    }
    fn wrong_reader<T>(&self) -> Option<T> {
        debug_assert!(false, "`{}` is declared as {}", self.path, self.kind.noun());
        self.report(
            "this key was read as something else than it is declared as",
            "this is a mistake in vcld",
        );
        None
    }
}

/// Reports a secret that was written into the file, without repeating it.
pub(crate) fn inline_secret(findings: &Findings, at: Position, path: &str) {
    let mut words = path.rsplit(['.', '"']).filter(|word| !word.is_empty());
    let (key, table) = (words.next().unwrap_or("secret"), words.next().unwrap_or("vcld"));
    let name = format!("{table}-{key}").replace('_', "-");
    findings.report(
        at,
        path,
        "a secret's value may not stand in this file",
        format!(
            "put it into a file that only root can read, add LoadCredential={name}:/path/of/the/file to the unit, \
             and write {key} = {{ credential = \"{name}\" }}"
        ),
    );
}
