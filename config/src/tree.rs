//! The file as a tree in which every key and every value knows its place.
//!
//! The TOML parser goes on after an error of syntax, so a file with one missing quote still has all its other
//! problems reported.

use crate::problem::{Findings, Position, shown};
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub at: Position,
    pub value: Value,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(toml::value::Datetime),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A number that does not fit into 64 bits, as it is written.
    TooLarge(String),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub at: Position,
    pub node: Node,
}

impl Value {
    /// What it is, with its article.
    pub fn what(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number with a fraction",
            Self::Boolean(_) => "a boolean",
            Self::Datetime(_) => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::TooLarge(_) => "a number that does not fit into 64 bits",
        }
    }
    /// The same as the `toml` crate has it.
    pub fn to_toml(&self) -> toml::Value {
        match self {
            Self::Text(text) => toml::Value::String(text.clone()),
            Self::Integer(number) => toml::Value::Integer(*number),
            Self::Float(number) => toml::Value::Float(*number),
            Self::Boolean(yes) => toml::Value::Boolean(*yes),
            Self::Datetime(date) => toml::Value::Datetime(*date),
            Self::List(items) => toml::Value::Array(items.iter().map(|item| item.value.to_toml()).collect()),
            Self::Table(entries) => toml::Value::Table(to_table(entries)),
            Self::TooLarge(text) => toml::Value::String(text.clone()),
        }
    }
}

/// Entries as a table of the `toml` crate.
pub(crate) fn to_table(entries: &[Entry]) -> toml::Table {
    entries.iter().map(|entry| (entry.key.clone(), entry.node.value.to_toml())).collect()
}

/// Turns offsets into places.
struct Lines<'a> {
    text: &'a str,
    /// The offset at which each line starts.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { text, starts }
    }
    fn position(&self, offset: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        let start = self.starts[line - 1];
        let before = self.text.get(start..offset.min(self.text.len())).unwrap_or_default();
        Position { line, column: before.trim_start_matches('\u{feff}').chars().count() + 1 }
    }
}

/// How the messages begin after which the rest of a file cannot be told from the value it is swallowed by.
const SWALLOWING: [&str; 3] = ["unclosed array", "unclosed inline table", "invalid multi-line"];

/// Parses `text`. `None` when an error of syntax leaves nothing that is worth a closer look.
pub(crate) fn parse(text: &str, findings: &mut Findings) -> Option<Vec<Entry>> {
    let lines = Lines::new(text);
    let (table, mut errors) = DeTable::parse_recoverable(text);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    // An open bracket or quote swallows what follows it, and each line of that looks wrong then.
    let swallowed =
        errors.iter().any(|error| SWALLOWING.iter().any(|start| error.message().starts_with(start)));
    for error in errors.iter().take(if swallowed { 1 } else { usize::MAX }) {
        let span = error.span().unwrap_or_default();
        let (message, way_out) = explain(error.message(), text.get(span.clone()).unwrap_or_default());
        findings.syntax(lines.position(span.start), message, way_out);
    }
    if swallowed {
        let unclosed = errors.iter().find(|error| error.message().starts_with("unclosed"));
        if let Some(unclosed) = unclosed {
            let at = lines.position(unclosed.span().unwrap_or_default().start);
            let (message, way_out) = explain(unclosed.message(), "");
            findings.syntax(at, message, way_out);
        }
        return None;
    }
    Some(entries(table.get_ref(), &lines))
}

/// The parser's message in one sentence, with a way out for what people get wrong most. Values are not shown: the
/// parser does not know which of them are secrets.
fn explain(message: &str, at: &str) -> (String, String) {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    let what = match what {
        "duplicate key" => format!("`{}` stands twice", shown(at)),
        "string values must be quoted" => "text has to be in quotes".to_owned(),
        other => format!("not TOML: {other}"),
    };
    let way_out = match (message, expected) {
        ("duplicate key", _) => "keep one of the two".to_owned(),
        (m, _) if m.starts_with("string values") => "write it as \"…\"".to_owned(),
        (m, _) if m.starts_with("unclosed array") || m.starts_with("unclosed inline") => {
            "close the bracket; it may have been opened some lines above".to_owned()
        }
        (m, _) if m.starts_with("unclosed table") => "close the bracket on the same line".to_owned(),
        (m, _) if m.starts_with("invalid multi-line") => {
            "end the text with the three quotes it began with; that may have been some lines above".to_owned()
        }
        (m, _) if m.starts_with("invalid basic string") => {
            "end the text with `\"` on the same line".to_owned()
        }
        (_, "") => "see https://toml.io for the syntax".to_owned(),
        (_, expected) => format!("expected here: {expected}"),
    };
    (what, way_out)
}

fn entries(table: &DeTable<'_>, lines: &Lines<'_>) -> Vec<Entry> {
    table
        .iter()
        .map(|(key, value)| {
            let at = lines.position(key.span().start);
            Entry { key: key.get_ref().to_string(), at, node: node(value, lines) }
        })
        .collect()
}

fn node(value: &toml::Spanned<DeValue<'_>>, lines: &Lines<'_>) -> Node {
    let at = lines.position(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::TooLarge(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::TooLarge(number.to_string()),
        },
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(date) => Value::Datetime(*date),
        DeValue::Array(items) => Value::List(items.iter().map(|item| node(item, lines)).collect()),
        DeValue::Table(table) => Value::Table(entries(table, lines)),
    };
    Node { at, value }
}
