//! Nodes, osimages and tables: what `lsdef`, `chdef`, `mkdef`, `rmdef` and the table calls say.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Osimage;
use super::answer::{Answer, Outcome, Refused};
use super::cgi::{Parameters, text_of};
use super::state::{Node, State};

/// Attributes that a node can have. There are more; these are those that a backend could meet.
const NODE_ATTRIBUTES: &[&str] = &[
    "arch",
    "bmc",
    "bmcpassword",
    "bmcport",
    "bmcusername",
    "chain",
    "cons",
    "conserver",
    "currchain",
    "currstate",
    "groups",
    "hostnames",
    "initrd",
    "installnic",
    "interface",
    "ip",
    "kcmdline",
    "kernel",
    "mac",
    "mgt",
    "netboot",
    "nfsserver",
    "nodetype",
    "ondiscover",
    "os",
    "postbootscripts",
    "postscripts",
    "power",
    "primarynic",
    "profile",
    "provmethod",
    "serial",
    "serialport",
    "serialspeed",
    "status",
    "statustime",
    "supportedarchs",
    "tftpserver",
    "usercomment",
    "xcatmaster",
];

/// Attributes that an osimage can have.
const OSIMAGE_ATTRIBUTES: &[&str] = &[
    "imagetype",
    "osarch",
    "osdistroname",
    "osname",
    "osvers",
    "pkgdir",
    "pkglist",
    "profile",
    "provmethod",
    "rootimgdir",
    "template",
    "usercomment",
];

/// Which column of which table an attribute is. What stands in no table of these is in others.
const COLUMNS: &[(&str, &str, &str)] = &[
    ("chain", "currstate", "currstate"),
    ("chain", "currchain", "currchain"),
    ("chain", "chain", "chain"),
    ("nodetype", "os", "os"),
    ("nodetype", "arch", "arch"),
    ("nodetype", "profile", "profile"),
    ("nodetype", "provmethod", "provmethod"),
    ("nodelist", "groups", "groups"),
    ("nodelist", "status", "status"),
    ("nodelist", "statustime", "statustime"),
    ("mac", "mac", "mac"),
];

const SKIPPING: &str = "Skipping to the next attribute.";
const ERRORS: &str =
    "One or more errors occured when attempting to create or modify xCAT object definitions.";
const FAILED: &str = "Failed with unknown reason.";

/// The names of objects, or what is said in place of a name when there is none.
pub(super) fn list<'a>(names: impl Iterator<Item = &'a String>) -> Outcome {
    let names: Vec<&String> = names.collect();
    Ok(Answer::with(match names.is_empty() {
        true => json!(["Could not find any object definitions to display."]),
        false => json!(names),
    }))
}

/// The nodes that a noderange of names and groups means.
pub(super) fn range(state: &State, range: &str) -> Result<Vec<String>, Refused> {
    let mut found: Vec<String> = Vec::new();
    let mut unknown = Vec::new();
    for word in range.split(',') {
        let of_group = |node: &Node| node.attribute("groups").split(',').any(|group| group == word);
        let members: Vec<&String> = match state.nodes.get_key_value(word) {
            Some((name, _)) => vec![name],
            None => state.nodes.iter().filter(|(_, node)| of_group(node)).map(|(name, _)| name).collect(),
        };
        if members.is_empty() {
            unknown.push(word);
        }
        found.extend(members.into_iter().filter(|name| !found.contains(name)).cloned().collect::<Vec<_>>());
    }
    match unknown.is_empty() {
        true => Ok(found),
        false => {
            Err(Refused::line(format!("Invalid nodes and/or groups in noderange: {}", unknown.join(","))))
        }
    }
}

/// Objects that do not exist, as `lsdef` and `rmdef` say it.
fn missing<'a>(names: impl Iterator<Item = &'a str>, kind: &str) -> Result<(), Refused> {
    let lines: Vec<String> =
        names.map(|name| format!("Could not find an object named '{name}' of type '{kind}'.")).collect();
    if lines.is_empty() { Ok(()) } else { Err(Refused(lines)) }
}

fn not_an_attribute(name: &str, kind: &str) -> String {
    format!("'{name}' is not a valid attribute name for an object type of '{kind}'.")
}

/// All attributes that an object has, or those of the list, empty where it has none.
fn attributes(
    has: &BTreeMap<String, String>,
    list: Option<&str>,
    known: &[&str],
    kind: &str,
) -> Result<Value, Refused> {
    let Some(list) = list else {
        return Ok(json!(has.iter().filter(|(_, v)| !v.is_empty()).collect::<BTreeMap<_, _>>()));
    };
    let mut shown = Map::new();
    for name in list.split(',') {
        if !known.contains(&name) && !has.contains_key(name) {
            return Err(Refused::line(not_an_attribute(name, kind)));
        }
        shown.insert(name.to_owned(), json!(has.get(name).map_or("", String::as_str)));
    }
    Ok(Value::Object(shown))
}

/// `lsdef` of nodes.
pub(super) fn nodes(state: &State, range: &str, list: Option<&str>) -> Outcome {
    let names: Vec<&str> = range.split(',').collect();
    missing(names.iter().copied().filter(|name| !state.nodes.contains_key(*name)), "node")?;
    let mut shown = Map::new();
    for name in names {
        let Some(node) = state.nodes.get(name) else { continue };
        shown.insert(name.to_owned(), attributes(&node.attributes, list, NODE_ATTRIBUTES, "node")?);
    }
    Ok(Answer::with(Value::Object(shown)))
}

/// `chdef` of nodes. One that does not exist is made, if it is told groups.
pub(super) fn change(state: &mut State, range: &str, parameters: &Parameters) -> Outcome {
    if parameters.is_empty() {
        return Ok(Answer::empty());
    }
    let mut lines = Vec::new();
    for name in range.split(',') {
        let bad: Vec<&String> =
            parameters.keys().filter(|key| !NODE_ATTRIBUTES.contains(&key.as_str())).collect();
        for key in &bad {
            lines.extend([not_an_attribute(key, "node"), SKIPPING.to_owned()]);
        }
        if !state.nodes.contains_key(name) && !parameters.contains_key("groups") {
            lines.push(format!(
                "Attribute 'groups' is not specified for node '{name}', skipping to the next node."
            ));
            continue;
        }
        let node = state.nodes.entry(name.to_owned()).or_default();
        for key in parameters.keys().filter(|key| !bad.contains(key)) {
            node.set(key, &text_of(parameters, key));
        }
    }
    if lines.is_empty() {
        return Ok(Answer::empty());
    }
    lines.extend([ERRORS.to_owned(), FAILED.to_owned()]);
    Err(Refused(lines))
}

/// `mkdef` of nodes.
pub(super) fn make(state: &mut State, range: &str, parameters: &Parameters) -> Outcome {
    if range.split(',').any(|name| state.nodes.contains_key(name)) {
        return Err(Refused::line("0 object definitions have been created or modified."));
    }
    change(state, range, parameters).map(|_| Answer::created())
}

/// `rmdef` of nodes.
pub(super) fn remove(state: &mut State, range: &str) -> Outcome {
    missing(range.split(',').filter(|name| !state.nodes.contains_key(*name)), "node")?;
    state.nodes.retain(|name, _| !range.split(',').any(|gone| gone == name));
    Ok(Answer::empty())
}

/// `lsdef` of an osimage.
pub(super) fn osimage(state: &State, name: &str, list: Option<&str>) -> Outcome {
    missing(Some(name).filter(|name| !state.osimages.contains_key(*name)).into_iter(), "osimage")?;
    let image = state.osimages.get(name).map(|image| image.attributes.clone()).unwrap_or_default();
    Ok(Answer::with(json!({name: attributes(&image, list, OSIMAGE_ATTRIBUTES, "osimage")?})))
}

/// `mkdef` and `chdef` of an osimage. What it installs is not made this way.
pub(super) fn write_osimage(state: &mut State, name: &str, parameters: &Parameters, new: bool) -> Outcome {
    let bad = parameters.keys().find(|key| !OSIMAGE_ATTRIBUTES.contains(&key.as_str()));
    if let Some(bad) = bad {
        return Err(Refused(vec![not_an_attribute(bad, "osimage"), SKIPPING.into(), FAILED.into()]));
    }
    if new && state.osimages.contains_key(name) {
        return Err(Refused::line("0 object definitions have been created or modified."));
    }
    let empty = Osimage { name: name.to_owned(), attributes: BTreeMap::new(), disk: None };
    let image = state.osimages.entry(name.to_owned()).or_insert(empty);
    image.attributes.extend(parameters.keys().map(|key| (key.clone(), text_of(parameters, key))));
    Ok(if new { Answer::created() } else { Answer::empty() })
}

/// `rmdef` of an osimage.
pub(super) fn remove_osimage(state: &mut State, name: &str) -> Outcome {
    missing(Some(name).filter(|name| !state.osimages.contains_key(*name)).into_iter(), "osimage")?;
    state.osimages.remove(name);
    Ok(Answer::empty())
}

/// What can be done with an osimage's files: nothing, for it has none here.
pub(super) fn instance(state: &State, name: &str) -> Outcome {
    if state.osimages.contains_key(name) {
        return Ok(Answer::created());
    }
    Err(Refused::line(format!("Cannot find image '{name}' from the osimage table.")))
}

/// xCAT's own capture, which wants a package that nobody has any more.
pub(super) fn capture(parameters: &Parameters) -> Outcome {
    if text_of(parameters, "node").is_empty() {
        return Ok(Answer::cgi(404, "Missed Action."));
    }
    Err(Refused(vec![
        "systemimager-server is not installed on the xcatmn.".into(),
        "Can not configure Imager Server on xcatmn.".into(),
    ]))
}

/// Rows of the table `site`.
pub(super) fn site(state: &State, list: &str) -> Outcome {
    let shown: BTreeMap<&str, &str> =
        list.split(',').map(|key| (key, state.site.get(key).map_or("", String::as_str))).collect();
    Ok(Answer::with(json!({"clustersite": shown})))
}

/// A node's columns of a table, without those that are empty.
fn row(node: &Node, table: &str) -> Map<String, Value> {
    let columns = COLUMNS.iter().filter(|(of, _, _)| *of == table);
    let values = columns.map(|(_, column, attribute)| ((*column).to_owned(), node.attribute(attribute)));
    values.filter(|(_, value)| !value.is_empty()).map(|(column, value)| (column, json!(value))).collect()
}

/// All rows of tables. Those of nodes are keyed `node` here, and `name` when asked by node (recorded).
pub(super) fn table_rows(state: &State, tables: &str) -> Outcome {
    let mut shown = Map::new();
    for table in tables.split(',') {
        let rows = state.nodes.iter().map(|(name, node)| (name, row(node, table)));
        let rows: Vec<Value> = rows
            .filter(|(_, row)| !row.is_empty())
            .map(|(name, mut row)| {
                row.insert("node".into(), json!(name));
                Value::Object(row)
            })
            .collect();
        shown.insert(table.to_owned(), Value::Array(rows));
    }
    Ok(Answer::with(Value::Object(shown)))
}

/// Rows of tables, of some nodes.
pub(super) fn table_nodes(state: &State, tables: &str, wanted: &str) -> Outcome {
    let names = range(state, wanted)?;
    let mut shown = Map::new();
    for table in tables.split(',') {
        let rows = names.iter().filter_map(|name| {
            let mut row = row(state.nodes.get(name)?, table);
            row.insert("name".into(), json!(name));
            Some(Value::Object(row))
        });
        shown.insert(table.to_owned(), Value::Array(rows.collect()));
    }
    Ok(Answer::with(Value::Object(shown)))
}

/// Writes columns of some nodes' rows.
pub(super) fn write_tables(state: &mut State, wanted: &str, parameters: &Parameters) -> Outcome {
    for name in range(state, wanted)? {
        let Some(node) = state.nodes.get_mut(&name) else { continue };
        for (table, columns) in parameters {
            let Some(columns) = columns.as_object() else { continue };
            for (of, column, attribute) in COLUMNS {
                if of == table && columns.contains_key(*column) {
                    node.set(attribute, &text_of(columns, column));
                }
            }
        }
    }
    Ok(Answer::empty())
}
