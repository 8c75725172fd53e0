//! What a node will boot: `nodeset`, the chain behind it, and what a node that boots is told.
//!
//! A state that is set may have others behind it (`runimage=URL,boot`): these are the chain, and a node moves along it by
//! asking for its next destiny. The last of a chain stays.

use std::process::Stdio;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use tokio::process::Command;

use super::answer::{Answer, Outcome, Refused};
use super::cgi::{Parameters, text_of};
use super::state::{Shared, State};

/// Said by whatever would have to write DHCP leases, after the tables were written.
pub(super) const NO_DHCP: &str = "The file /etc/sysconfig/dhcpd doesn't exist, check the dhcp server";

static DEPRECATED: LazyLock<String> = LazyLock::new(|| {
    "The options \"install\", \"netboot\", and \"statelite\" have been deprecated, use \"osimage=<osimage_name>\" \
     instead."
        .into()
});

/// What `nodeset` is told by the parameters of a call: an action or a state as it is, everything else as `NAME=VALUE`.
pub(super) fn words(parameters: &Parameters) -> String {
    for verbatim in ["action", "state"] {
        if parameters.contains_key(verbatim) {
            return text_of(parameters, verbatim);
        }
    }
    let name = parameters.keys().next().map_or("", String::as_str);
    format!("{name}={}", text_of(parameters, name))
}

/// `nodeset stat`.
pub(super) fn states(state: &State, names: &[String]) -> Answer {
    let shown: Map<String, Value> = names
        .iter()
        .filter_map(|name| {
            Some((name.clone(), json!({"bootstate": state.nodes.get(name)?.attribute("currstate")})))
        })
        .collect();
    Answer::with(Value::Object(shown))
}

/// `nodeset` with a state and what may follow it.
pub(super) async fn arm(shared: &Shared, names: &[String], wanted: &str) -> Outcome {
    let (first, chain) = wanted.split_once(',').unwrap_or((wanted, ""));
    for part in wanted.split(',').filter(|part| part.starts_with("runimage")) {
        find_task(shared, part).await?;
    }
    shared.with(|state| {
        for name in names {
            set(state, name, first)?;
            if let Some(node) = state.nodes.get_mut(name).filter(|_| !chain.is_empty()) {
                node.set("currchain", chain);
            }
        }
        Ok(())
    })?;
    if !shared.dhcp && first != "offline" {
        return Err(Refused::line(NO_DHCP));
    }
    Ok(Answer::empty())
}

/// Looks for a task's archive as xCAT does: with wget, under what stands between the first `=` and the second.
async fn find_task(shared: &Shared, part: &str) -> Result<(), Refused> {
    let url = part.split('=').nth(1).unwrap_or_default();
    if url.is_empty() {
        return Err(Refused::line("An image path should be specified to runnimage."));
    }
    if url.contains('$') {
        return Ok(());
    }
    let mut seen = url.to_owned();
    for (theirs, ours) in &shared.spider {
        if let Some(rest) = url.strip_prefix("http://").and_then(|rest| rest.strip_prefix(theirs.as_str())) {
            seen = format!("http://{ours}{rest}");
        }
    }
    let output = Command::new("wget")
        .args(["--spider", "--timeout", "3", "--tries=1", "--no-proxy", "--", &seen])
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .await;
    let found = output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stderr).lines().any(|line| line.starts_with("Remote file exists"))
    });
    match found {
        true => Ok(()),
        false => Err(Refused::line(format!("Cannot wget {url}. Verify it's downloadable."))),
    }
}

/// Sets one node's boot state, without what follows it.
fn set(state: &mut State, name: &str, wanted: &str) -> Result<(), Refused> {
    let (word, rest) = wanted.split_once('=').unwrap_or((wanted, ""));
    match word {
        "osimage" => return set_osimage(state, name, rest),
        "install" | "netboot" | "statelite" => return Err(Refused::line(DEPRECATED.as_str())),
        "boot" | "offline" | "shutdown" | "shell" | "standby" | "runcmd" | "runimage" => {}
        _ => return Err(Refused::line(format!("Unknown state {wanted} requested"))),
    }
    let installs = |state: &State, provmethod: &str| {
        provmethod == "install"
            || state
                .osimages
                .get(provmethod)
                .is_some_and(|image| image.attributes.get("provmethod").is_some_and(|it| it == "install"))
    };
    let installed = installs(state, state.nodes.get(name).map_or("", |node| node.attribute("provmethod")));
    if let Some(node) = state.nodes.get_mut(name) {
        // What it was provisioned with is forgotten, unless that was an installation (destiny.pm).
        if word == "boot" && !installed {
            node.set("provmethod", "");
        }
        node.set("currstate", wanted);
    }
    Ok(())
}

fn set_osimage(state: &mut State, name: &str, image: &str) -> Result<(), Refused> {
    if image.is_empty() {
        let line = format!("OS image name must be specified in nodetype.provmethod for nodes: {name}.");
        return Err(Refused::line(line));
    }
    let Some(osimage) = state.osimages.get(image) else {
        return Err(Refused::line(format!("Cannot find the OS image {image} in the osimage table.")));
    };
    let of = |key: &str| osimage.attributes.get(key).cloned().unwrap_or_default();
    let (method, os, arch, profile) = (of("provmethod"), of("osvers"), of("osarch"), of("profile"));
    let Some(node) = state.nodes.get_mut(name) else { return Ok(()) };
    for (key, value) in [("provmethod", image), ("os", &os), ("arch", &arch), ("profile", &profile)] {
        node.set(key, value);
    }
    let armed = match method.as_str() {
        "sysclone" => format!("{method} {os}-{arch}"),
        _ => format!("{method} {os}-{arch}-{profile}"),
    };
    node.set("currstate", &armed);
    if method != "netboot" && method != "statelite" {
        node.set("currchain", "boot");
    }
    Ok(())
}

/// Moves a node along its chain and says where it is now.
fn advance(state: &mut State, name: &str) -> String {
    let Some(node) = state.nodes.get_mut(name) else { return String::new() };
    let chain = match node.attribute("currchain") {
        "" => node.attribute("chain").to_owned(),
        chain => chain.to_owned(),
    };
    let (first, rest) = chain.split_once([',', ';']).unwrap_or((&chain, &chain));
    if first.is_empty() {
        return node.attribute("currstate").to_owned();
    }
    node.set("currchain", rest);
    // A chain may name what does not exist; then the node stays where it is.
    let _ = set(state, name, first);
    state.nodes.get(name).map(|node| node.attribute("currstate").to_owned()).unwrap_or_default()
}

/// The status that a node gets when it reaches a boot state, in the words of xCAT.
fn status_of(armed: &str) -> &'static str {
    match armed.split([' ', '=']).next().unwrap_or_default() {
        "install" => "installing",
        "netboot" | "statelite" => "netbooting",
        "shell" => "shell",
        "standby" => "standingby",
        "runcmd" => "configuring",
        _ => "booting",
    }
}

/// What a node that boots says, and what it is told.
///
/// `installstatus WORD` and `next` are xCAT's own words on port 3002. `getdestiny` and `nextdestiny` stand for the two
/// requests of those names on port 3001: the first sets the status, the second does not (destiny.pm, by its flags).
pub(super) fn heard(state: &mut State, name: &str, line: &str) -> String {
    if let Some(node) = state.nodes.get_mut(name) {
        node.heard = true;
    }
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "getdestiny" => {
            let Some(node) = state.nodes.get_mut(name) else { return String::new() };
            let armed = node.attribute("currstate").to_owned();
            node.set_status(status_of(&armed));
            armed
        }
        "nextdestiny" => {
            let armed = advance(state, name);
            if let Some(node) = state.nodes.get_mut(name).filter(|node| node.will_tell && armed == "boot") {
                node.set_status("booting");
            }
            armed
        }
        "next" => {
            let armed = advance(state, name);
            if let Some(node) = state.nodes.get_mut(name) {
                node.set_status(status_of(&armed));
                node.will_tell = true;
            }
            "done".into()
        }
        "installstatus" => {
            if let Some(node) = state.nodes.get_mut(name) {
                node.set_status(rest);
            }
            "done".into()
        }
        _ => "error".into(),
    }
}
