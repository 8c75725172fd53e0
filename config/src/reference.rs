//! The reference of the file in Markdown, made from the table of keys.

use crate::backend::Known;
use crate::keys::{Key, Kind, Presence, ROOT};
use std::fmt::Write as _;

/// Every table and key with its kind, its default and what it means, for a program with these types of backend.
#[must_use]
pub fn reference(known: &Known<'_>) -> String {
    let mut out = String::from("# vcld.toml\n");
    for key in ROOT {
        match key.kind {
            Kind::Tables(keys) => {
                section(&mut out, &format!("[{}.NAME]", key.name), key, keys);
                if keys.iter().any(|key| matches!(key.kind, Kind::BackendType)) {
                    for kind in known.backend_types {
                        if let Some(keys) = kind.keys {
                            let _ = writeln!(out, "\nBesides, with `type = \"{}\"`:\n", kind.name);
                            rows(&mut out, keys);
                        }
                    }
                }
            }
            Kind::Computers(keys) => {
                section(&mut out, &format!("[{}]", key.name), key, keys);
                let interface = keys.iter().find_map(|key| match key.kind {
                    Kind::Interfaces(keys) => Some(keys),
                    _ => None,
                });
                if let Some(keys) = interface {
                    let _ = writeln!(out, "\nAn item of `networks` is a network's name, or a table:\n");
                    rows(&mut out, keys);
                }
            }
            Kind::Table(keys) => section(&mut out, &format!("[{}]", key.name), key, keys),
            _ => {}
        }
    }
    out
}

fn section(out: &mut String, title: &str, key: &Key, keys: &[Key]) {
    let absent = match key.presence {
        Presence::Required => "Has to be there.".to_owned(),
        Presence::Optional(absent) | Presence::Default(absent) => format!("Left out: {absent}."),
    };
    let _ = writeln!(out, "\n## {title}\n\n{} {absent}\n", key.doc);
    rows(out, keys);
}

fn rows(out: &mut String, keys: &[Key]) {
    out.push_str("| key | value | default | |\n|---|---|---|---|\n");
    for key in keys {
        let default = match (key.presence, key.kind) {
            (Presence::Required, _) => "has to be there".to_owned(),
            (Presence::Optional(absent), _) => absent.to_owned(),
            (
                Presence::Default(default),
                Kind::Integer { .. } | Kind::Fraction | Kind::Boolean | Kind::True,
            ) => {
                format!("`{default}`")
            }
            (Presence::Default(default), Kind::KeySource) => format!("`{{ file = \"{default}\" }}`"),
            (Presence::Default(default), _) => format!("`\"{default}\"`"),
        };
        let _ = writeln!(out, "| `{}` | {} | {default} | {} |", key.name, value(&key.kind), key.doc);
    }
}

fn value(kind: &Kind) -> String {
    match kind {
        Kind::Word(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", "),
        Kind::Integer { min, max } => format!("{min} to {max}"),
        Kind::True => "`true`".to_owned(),
        Kind::Boolean => "`true`, `false`".to_owned(),
        Kind::Credential => "`{ credential = \"name\" }`".to_owned(),
        Kind::KeySource => "`{ file = \"/path\" }` or `{ credential = \"name\" }`".to_owned(),
        Kind::Path => "an absolute path".to_owned(),
        Kind::Size { min: 0 } => "a size, as in `\"4G\"`".to_owned(),
        Kind::Size { min } => format!("a size of at least {}", vcl_types::ByteSize(*min)),
        Kind::Duration { .. } => "a duration, as in `\"90s\"`, `\"10m\"`, `\"2h\"`".to_owned(),
        other => other.noun().to_owned(),
    }
}
