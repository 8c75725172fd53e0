//! The JSON schema of the file, for editors. It is made from the table of keys.
//!
//! A schema knows less than the parser: not that names refer to something, nor that addresses are unique.

use crate::backend::Known;
use crate::keys::{Key, Kind, Presence, ROOT};
use serde_json::{Map, Value, json};

/// The schema, in JSON Schema's draft 2020-12, for a program with these types of backend.
#[must_use]
pub fn schema(known: &Known<'_>) -> Value {
    let mut schema = table(ROOT, known);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("vcld.toml");
    schema["description"] = json!("The configuration of vcld, a daemon that lends machines.");
    sorted(schema)
}

/// With its keys in the order of the alphabet, whatever order the maps of this build keep.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().map(|(key, value)| (key, sorted(value))).collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        plain => plain,
    }
}

fn table(keys: &[Key], known: &Known<'_>) -> Value {
    let properties: Map<String, Value> =
        keys.iter().map(|key| (key.name.to_owned(), property(key, known))).collect();
    let required: Vec<&str> =
        keys.iter().filter(|key| key.presence == Presence::Required).map(|key| key.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn property(key: &Key, known: &Known<'_>) -> Value {
    let mut value = kind(&key.kind, known);
    let absent = match key.presence {
        Presence::Required => String::new(),
        Presence::Optional(absent) => format!(" Left out: {absent}."),
        Presence::Default(default) => {
            value["default"] = match key.kind {
                Kind::Integer { .. } => default.parse::<u32>().map_or(Value::Null, Value::from),
                Kind::Fraction => default.parse::<f64>().map_or(Value::Null, Value::from),
                Kind::Boolean | Kind::True => json!(default == "true"),
                Kind::KeySource => json!({ "file": default }),
                _ => json!(default),
            };
            String::new()
        }
    };
    value["description"] = json!(format!("{}{absent}", key.doc));
    value
}

fn kind(kind: &Kind, known: &Known<'_>) -> Value {
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let only = |key: &str, value: Value| json!({ "type": "object", "properties": { key: value }, "required": [key], "additionalProperties": false });
    let credential = || only("credential", text("^[A-Za-z0-9_-][A-Za-z0-9._-]*$"));
    match *kind {
        Kind::Text => json!({ "type": "string", "minLength": 1 }),
        Kind::Account => text("^[a-z_][a-z0-9_-]{0,31}$"),
        Kind::HostName => text("^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$"),
        Kind::Path => text("^/"),
        Kind::Size { .. } => text("^\\s*[0-9]+(\\.[0-9]+)?\\s*[KkMmGgTt]?([Ii]?[Bb])?\\s*$"),
        Kind::Duration { .. } => text("^\\s*([0-9]+\\s*(ms|s|m|min|h|d)\\s*)+$"),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Fraction => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::True => json!({ "const": true }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::BackendType => {
            json!({ "enum": known.backend_types.iter().map(|kind| kind.name).collect::<Vec<_>>() })
        }
        Kind::Backend | Kind::Network => text(NAME),
        Kind::Address => text("^[0-9A-Fa-f.:\\[\\], -]+$"),
        Kind::Mac => text("^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"),
        Kind::Credential => credential(),
        Kind::KeySource => json!({ "oneOf": [only("file", text("^/")), credential()] }),
        Kind::Tags => json!({ "type": "array", "items": text("^[A-Za-z0-9_.:-]{1,63}$") }),
        Kind::Names => {
            json!({ "type": "object", "additionalProperties": text("^[A-Za-z0-9_-][A-Za-z0-9._-]*$") })
        }
        Kind::Peers => json!({ "type": "object", "additionalProperties": text("^.+:[0-9]+$") }),
        Kind::Interfaces(keys) => {
            json!({ "type": "array", "minItems": 1, "items": { "oneOf": [text(NAME), table(keys, known)] } })
        }
        Kind::Table(keys) => table(keys, known),
        Kind::Tables(keys) => named(match keys.iter().any(|key| matches!(key.kind, Kind::BackendType)) {
            true => backend(keys, known),
            false => table(keys, known),
        }),
        Kind::Computers(keys) => json!({ "type": "object", "additionalProperties": table(keys, known) }),
    }
}

const NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

fn named(table: Value) -> Value {
    json!({ "type": "object", "patternProperties": { NAME: table }, "additionalProperties": false })
}

/// A table whose keys depend on its type.
fn backend(common: &[Key], known: &Known<'_>) -> Value {
    let types: Vec<Value> = known
        .backend_types
        .iter()
        .map(|kind| {
            let keys: Vec<Key> = common.iter().chain(kind.keys.unwrap_or_default()).copied().collect();
            let mut value = table(&keys, known);
            value["properties"]["type"] = json!({ "const": kind.name });
            value["additionalProperties"] = json!(kind.keys.is_none());
            value
        })
        .collect();
    json!({ "oneOf": types })
}
