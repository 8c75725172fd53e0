//! What the CGI program does before it asks xcatd anything: which resource, which method, which account.
//!
//! The order is the program's own: a body that is no JSON, then a resource that does not exist, then a method that the
//! resource does not have, then what the resource itself misses, and only then the account; for that is known to xcatd alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::body::Bytes;
use serde_json::{Map, Value, json};

use super::answer::{Answer, Outcome};
use super::state::Shared;
use super::{commands, destiny, objects};

/// What all paths begin with.
pub(super) const BASE: &str = "/xcatws";
pub(super) const CONTENT_TYPE: &str = "application/json; charset=ISO-8859-1";

/// The groups of resources, in the order in which they are listed.
const GROUPS: [&str; 11] = [
    "globalconf",
    "groups",
    "localres",
    "networks",
    "nodes",
    "osimages",
    "policy",
    "services",
    "tables",
    "templates",
    "tokens",
];

/// What came over the wire.
pub(super) struct Call {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) content_type: Option<String>,
    pub(super) token: Option<String>,
    pub(super) body: Bytes,
}

/// Parameters of the body.
pub(super) type Parameters = Map<String, Value>;

/// The resources that there are here, a part of the real ones: [`Resource::methods`] has all methods of each.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Resource {
    Tokens,
    Nodes,
    Node(String),
    NodeAttributes(String, String),
    /// A node's resource that is a command of xcatd: the range of nodes and the resource's name.
    Command(String, &'static str),
    Osimages,
    Osimage(String),
    OsimageAttributes(String, String),
    OsimageInstance(String),
    Site(String),
    TableRows(String),
    TableNodes(String, String),
}

impl Resource {
    fn of(layers: &[&str]) -> Option<Self> {
        let own = |text: &str| text.to_owned();
        Some(match layers {
            ["tokens", ..] => Self::Tokens,
            ["nodes"] => Self::Nodes,
            ["nodes", range] => Self::Node(own(range)),
            ["nodes", range, "attrs", list] => Self::NodeAttributes(own(range), own(list)),
            ["nodes", range, name] => {
                let commands = [
                    "power",
                    "bootstate",
                    "nextboot",
                    "nodestat",
                    "provision",
                    "dhcp",
                    "inventory",
                    "nodeshell",
                ];
                Self::Command(own(range), commands.into_iter().find(|command| command == name)?)
            }
            ["osimages"] => Self::Osimages,
            ["osimages", name] => Self::Osimage(own(name)),
            ["osimages", name, "attrs", list] => Self::OsimageAttributes(own(name), own(list)),
            ["osimages", name, "instance"] => Self::OsimageInstance(own(name)),
            ["globalconf", "attrs", list] => Self::Site(own(list)),
            ["tables", tables, "rows"] => Self::TableRows(own(tables)),
            ["tables", tables, "nodes", range] => Self::TableNodes(own(tables), own(range)),
            _ => return None,
        })
    }

    fn methods(&self) -> &'static [&'static str] {
        match self {
            Self::Tokens => &["POST"],
            Self::Nodes | Self::TableRows(_) | Self::NodeAttributes(..) | Self::OsimageAttributes(..) => {
                &["GET"]
            }
            Self::Node(_) | Self::Osimage(_) => &["GET", "PUT", "POST", "DELETE"],
            Self::Command(_, "power" | "bootstate" | "nextboot") => &["GET", "PUT"],
            Self::Command(_, "provision") => &["PUT"],
            Self::Command(_, "dhcp") => &["POST", "DELETE"],
            Self::Command(_, "nodeshell") => &["POST"],
            Self::Command(..) => &["GET"],
            Self::Osimages => &["GET", "POST"],
            Self::OsimageInstance(_) => &["POST", "DELETE"],
            Self::Site(_) => &["GET", "PUT", "DELETE"],
            Self::TableNodes(..) => &["GET", "PUT"],
        }
    }

    /// Seconds that such a call took.
    fn seconds(&self, method: &str) -> f64 {
        match (self, method) {
            (Self::Tokens, _) => 0.7,
            (Self::Command(_, "bootstate" | "provision" | "dhcp"), "PUT" | "POST") => 5.5,
            (Self::Command(_, "nodestat"), _) => 2.0,
            _ => 1.5,
        }
    }
}

/// Answers a call: the status, and the body's text.
pub(super) async fn answer(shared: &Arc<Shared>, call: Call) -> (u16, String) {
    let query = parsed_query(&call.query);
    let answer = match outcome(shared, &call, &query).await {
        Ok(answer) => answer,
        Err(refused) => refused.into(),
    };
    let pretty = query.get("pretty").is_some_and(|value| !value.is_empty() && value != "0");
    (answer.status, answer.text(pretty))
}

async fn outcome(shared: &Arc<Shared>, call: &Call, query: &BTreeMap<String, String>) -> Outcome {
    let parameters = match parameters(call) {
        Ok(parameters) => parameters,
        Err(text) => return Ok(Answer::cgi(400, &text)),
    };
    let Some(path) = call.path.strip_prefix(BASE) else {
        return Ok(Answer::cgi(404, "Unsupported resource."));
    };
    let layers: Vec<String> = path.split('/').filter(|layer| !layer.is_empty()).map(decoded).collect();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    if layers.is_empty() {
        return Ok(Answer::with(json!(GROUPS)));
    }
    let Some(resource) = Resource::of(&layers) else {
        return Ok(Answer::cgi(404, "Unsupported resource."));
    };
    let method = call.method.as_str();
    if !resource.methods().contains(&method) {
        let path = path.trim_end_matches('/');
        let text = format!("request method '{method}' is not supported on resource '{path}'");
        return Ok(Answer::cgi(405, &text));
    }
    let misses_action = match &resource {
        Resource::Command(_, "power") | Resource::OsimageInstance(_) => {
            method != "GET" && method != "DELETE" && text_of(&parameters, "action").is_empty()
        }
        _ => false,
    };
    if misses_action {
        return Ok(Answer::cgi(404, "Missed Action."));
    }
    tokio::time::sleep(shared.latency.of(resource.seconds(method))).await;
    if !admitted(shared, call, query, &parameters) {
        return Ok(Answer::unauthorized());
    }
    run(shared, &resource, method, &parameters).await
}

/// By token, or by account and password in the query or, of a call for a token, in the body.
fn admitted(shared: &Shared, call: &Call, query: &BTreeMap<String, String>, parameters: &Parameters) -> bool {
    if let Some(token) = &call.token {
        return shared.admits(token);
    }
    let value = |name: &str| match query.get(name) {
        Some(value) => value.clone(),
        None => text_of(parameters, name),
    };
    let password = match value("userPW") {
        password if password.is_empty() => value("password"),
        password => password,
    };
    shared.knows(&value("userName"), &password)
}

async fn run(shared: &Arc<Shared>, resource: &Resource, method: &str, parameters: &Parameters) -> Outcome {
    match (resource, method) {
        (Resource::Tokens, _) => {
            let (id, expire) = shared.token();
            let body = json!({"token": {"id": id, "expire": expire}});
            Ok(Answer { status: 201, body: Some(body) })
        }
        (Resource::Nodes, _) => shared.with(|state| objects::list(state.nodes.keys())),
        (Resource::Node(range), "GET") => shared.with(|state| objects::nodes(state, range, None)),
        (Resource::NodeAttributes(range, list), _) => {
            shared.with(|state| objects::nodes(state, range, Some(list)))
        }
        (Resource::Node(range), "PUT") => shared.with(|state| objects::change(state, range, parameters)),
        (Resource::Node(range), "POST") => shared.with(|state| objects::make(state, range, parameters)),
        (Resource::Node(range), _) => shared.with(|state| objects::remove(state, range)),
        (Resource::Command(range, name), _) => command(shared, range, name, method, parameters).await,
        (Resource::Osimages, "GET") => shared.with(|state| objects::list(state.osimages.keys())),
        (Resource::Osimages, _) => objects::capture(parameters),
        (Resource::Osimage(name), "GET") => shared.with(|state| objects::osimage(state, name, None)),
        (Resource::OsimageAttributes(name, list), _) => {
            shared.with(|state| objects::osimage(state, name, Some(list)))
        }
        (Resource::Osimage(name), "DELETE") => shared.with(|state| objects::remove_osimage(state, name)),
        (Resource::Osimage(name), method) => {
            shared.with(|state| objects::write_osimage(state, name, parameters, method == "POST"))
        }
        (Resource::OsimageInstance(name), _) => shared.with(|state| objects::instance(state, name)),
        (Resource::Site(list), "GET") => shared.with(|state| objects::site(state, list)),
        (Resource::Site(_), _) => Ok(Answer::empty()),
        (Resource::TableRows(tables), _) => shared.with(|state| objects::table_rows(state, tables)),
        (Resource::TableNodes(tables, range), "GET") => {
            shared.with(|state| objects::table_nodes(state, tables, range))
        }
        (Resource::TableNodes(_, range), _) => {
            shared.with(|state| objects::write_tables(state, range, parameters))
        }
    }
}

async fn command(
    shared: &Arc<Shared>,
    range: &str,
    name: &str,
    method: &str,
    parameters: &Parameters,
) -> Outcome {
    let names = shared.with(|state| objects::range(state, range))?;
    match (name, method) {
        ("power", "GET") => commands::power_state(shared, &names).await,
        ("power", _) => commands::power(shared, &names, &text_of(parameters, "action")).await,
        ("bootstate", "GET") => Ok(shared.with(|state| destiny::states(state, &names))),
        ("bootstate", _) => destiny::arm(shared, &names, &destiny::words(parameters)).await,
        ("nextboot", "GET") => commands::next_boot_state(shared, &names).await,
        ("nextboot", _) => commands::next_boot(shared, &names, &text_of(parameters, "order")).await,
        ("nodestat", _) => commands::nodestat(shared, &names).await,
        ("provision", _) => commands::provision(shared, &names, &destiny::words(parameters)).await,
        ("dhcp", _) => commands::dhcp(shared, method),
        ("nodeshell", _) => commands::nodeshell(&names),
        (_, _) => commands::inventory(),
    }
}

/// A parameter's text, empty where there is none.
pub(super) fn text_of(parameters: &Parameters, name: &str) -> String {
    match parameters.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// The body's parameters. Perl's CGI takes a form apart itself, so that nothing is left of it here.
fn parameters(call: &Call) -> Result<Parameters, String> {
    let text = String::from_utf8_lossy(&call.body);
    let form =
        call.content_type.as_deref().is_some_and(|it| it.starts_with("application/x-www-form-urlencoded"));
    if text.is_empty() || form {
        return Ok(Parameters::new());
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(parameters)) => Ok(parameters),
        Ok(_) => Err("put or post data must be a json object (hash/dict).".into()),
        Err(_) => Err(complaint(&text)),
    }
}

/// What Perl's JSON says of text that is none. A bare key is taken for the beginning of a string (recorded).
fn complaint(text: &str) -> String {
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        (Some('{'), Some(key)) if key.is_ascii_alphabetic() => format!(
            "unexpected end of string while parsing JSON string, at character offset 2 (before \"{}\")\n",
            letters.as_str()
        ),
        _ => format!(
            "malformed JSON string, neither tag, array, object, number, string or atom, at character offset 0 \
             (before \"{text}\")\n"
        ),
    }
}

fn parsed_query(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split(['&', ';']).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(k, v)| (decoded(k), decoded(v)))
        .collect()
}

/// Undoes the encoding of a URL's part.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let code = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        match (first, code.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &rest[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
