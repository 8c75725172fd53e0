//! Commands on nodes: power, boot order, `nodestat`, and some that only ever fail here.
//!
//! One failing node hides the good ones: a call for several nodes answers all that went wrong, or what was asked.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::{Answer, Outcome, Refused};
use super::faults::{self, Trouble};
use super::keeper::Order;
use super::state::{Shared, State};
use super::{Bmc, Boot, destiny};

/// Seconds that a BMC which does not answer took, beyond an ordinary call.
const DEAD: f64 = 14.5;
/// How long `nodestat` waits for a node's sshd to greet.
const GREETING: Duration = Duration::from_secs(5);

/// What is wrong with a node's BMC, by its nature or by a fault.
fn trouble(state: &mut State, name: &str, change: bool) -> Option<Trouble> {
    let nature = match state.nodes.get(name)?.bmc {
        Bmc::WrongPassword => Some(Trouble::Says("ERROR: Incorrect password provided".into())),
        Bmc::Dead => Some(Trouble::Silent),
        Bmc::Good | Bmc::NoBootOrder => None,
    };
    nature.or_else(|| faults::of_bmc(state, name, change))
}

/// What the BMCs of some nodes say before they do anything.
struct Bmcs {
    /// The nodes whose BMC does as it is told.
    willing: Vec<String>,
    /// What the others say.
    lines: Vec<String>,
}

impl Bmcs {
    async fn of(shared: &Shared, names: &[String], change: bool) -> Self {
        let mut bmcs = Self { willing: Vec::new(), lines: Vec::new() };
        let mut silent = false;
        for name in names {
            match shared.with(|state| trouble(state, name, change)) {
                Some(Trouble::Says(text)) => bmcs.say(name, &text),
                Some(Trouble::Silent) => {
                    silent = true;
                    bmcs.say(name, "ERROR: timeout");
                }
                Some(Trouble::Ignores) => {}
                None => bmcs.willing.push(name.clone()),
            }
        }
        if silent {
            tokio::time::sleep(shared.latency.of(DEAD)).await;
        }
        bmcs
    }

    fn say(&mut self, name: &str, text: &str) {
        self.lines.push(format!("{name}: {text}"));
    }

    /// The one that fails hides the others.
    fn answer(self, answer: Answer) -> Outcome {
        if self.lines.is_empty() { Ok(answer) } else { Err(Refused(self.lines)) }
    }
}

/// `{"n1":{"KEY":"VALUE"}}`.
fn shown(key: &str, values: Vec<(String, String)>) -> Answer {
    let nodes: Map<String, Value> =
        values.into_iter().map(|(name, value)| (name, json!({key: value}))).collect();
    Answer::with(Value::Object(nodes))
}

/// `rpower stat`.
pub(super) async fn power_state(shared: &Shared, names: &[String]) -> Outcome {
    let bmcs = Bmcs::of(shared, names, false).await;
    let on = |name: &String| shared.with(|state| state.nodes.get(name).is_some_and(|node| node.on));
    let value = |name: &String| (name.clone(), if on(name) { "on" } else { "off" }.to_owned());
    let values = bmcs.willing.iter().map(value).collect();
    bmcs.answer(shown("power", values))
}

/// `rpower`. What it does to a node that is off: `reset`, `cycle` and `softoff` nothing, without saying so.
pub(super) async fn power(shared: &Shared, names: &[String], action: &str) -> Outcome {
    if !["on", "off", "reset", "boot", "cycle", "softoff", "stat", "state", "status"].contains(&action) {
        let line = |name| format!("{name}: Error: Unsupported command: rpower {action} when using mgt=ipmi.");
        return Err(Refused(names.iter().map(line).collect()));
    }
    let mut bmcs = Bmcs::of(shared, names, true).await;
    for name in std::mem::take(&mut bmcs.willing) {
        if let Err(text) = switch(shared, &name, action).await {
            bmcs.say(&name, &text);
        }
    }
    bmcs.answer(Answer::empty())
}

/// Does one node's part of it, and waits until the machine has been switched.
async fn switch(shared: &Shared, name: &str, action: &str) -> Result<(), String> {
    let (on, machine) = shared
        .with(|state| state.nodes.get(name).map_or((false, None), |node| (node.on, node.machine.clone())));
    let (order, status): (fn() -> Order, _) = match (action, on) {
        ("on", false) | ("boot", false) => (|| Order::On, "powering-on"),
        ("boot" | "reset" | "cycle", true) => (|| Order::Reset, "powering-on"),
        ("off", true) => (|| Order::Off, "powering-off"),
        ("softoff", true) => (|| Order::Button, "powering-off"),
        ("on", true) => {
            shared.with(|state| state.nodes.get_mut(name).map(|node| node.set_status("powering-on")));
            return Ok(());
        }
        ("off", false) => {
            shared.with(|state| state.nodes.get_mut(name).map(|node| node.set_status("powering-off")));
            return Ok(());
        }
        _ => return Ok(()),
    };
    shared.with(|state| {
        if let Some(node) = state.nodes.get_mut(name) {
            node.set_status(status);
            if node.machine.is_none() {
                node.on = status == "powering-on";
            }
        }
    });
    match machine {
        Some(machine) => machine.send(order()).await,
        None => Ok(()),
    }
}

/// `rsetboot stat`.
pub(super) async fn next_boot_state(shared: &Shared, names: &[String]) -> Outcome {
    let bmcs = Bmcs::of(shared, names, false).await;
    let order = |name: &String| shared.with(|state| state.nodes.get(name).and_then(|node| node.next_boot));
    let value = |name: &String| (name.clone(), order(name).unwrap_or("boot override inactive").to_owned());
    let values = bmcs.willing.iter().map(value).collect();
    bmcs.answer(shown("nextboot", values))
}

/// `rsetboot`.
pub(super) async fn next_boot(shared: &Shared, names: &[String], order: &str) -> Outcome {
    let order = match order {
        "net" => Some("Network"),
        "hd" => Some("Hard Drive"),
        "def" | "default" => None,
        "" => return Ok(Answer::cgi(404, "Missed Action.")),
        other => {
            let line = |name| format!("{name}: Error: Unsupported command: rsetboot {other}");
            return Err(Refused(names.iter().map(line).collect()));
        }
    };
    set_next_boot(shared, names, order).await
}

async fn set_next_boot(shared: &Shared, names: &[String], order: Option<&'static str>) -> Outcome {
    let mut bmcs = Bmcs::of(shared, names, false).await;
    for name in std::mem::take(&mut bmcs.willing) {
        let set = shared.with(|state| match state.nodes.get_mut(&name) {
            Some(node) if node.bmc != Bmc::NoBootOrder => {
                node.next_boot = order;
                true
            }
            _ => false,
        });
        if !set {
            bmcs.say(&name, "Invalid data field in Request");
        }
    }
    bmcs.answer(Answer::empty())
}

/// `rinstall`: arms, sets the boot order, boots. What it did before it failed stays done.
pub(super) async fn provision(shared: &Shared, names: &[String], state: &str) -> Outcome {
    destiny::arm(shared, names, state).await?;
    if let Err(Refused(mut lines)) = set_next_boot(shared, names, Some("Network")).await {
        lines.push(format!("Failed to run 'rsetboot' against the following nodes: {}", names.join(",")));
        return Err(Refused(lines));
    }
    power(shared, names, "boot").await
}

/// `nodestat`: what a node answers to, or else its boot state if it answers a ping.
pub(super) async fn nodestat(shared: &Shared, names: &[String]) -> Outcome {
    let mut values = Vec::new();
    for name in names {
        let (answers, ssh) = shared.with(|state| {
            let Some(node) = state.nodes.get(name) else { return (String::new(), None) };
            let armed = node.attribute("currstate").to_owned();
            match (&node.answers, &node.machine) {
                (Some(answers), _) => (answers.clone(), None),
                (None, None) => (armed, None),
                (None, Some(_)) if !node.on => ("noping".to_owned(), None),
                (None, Some(_)) if node.boots.last() == Some(&Boot::Disk) => {
                    ("noping".to_owned(), node.attribute("ip").parse::<Ipv4Addr>().ok())
                }
                (None, Some(_)) if node.heard => (armed, None),
                (None, Some(_)) => ("noping".to_owned(), None),
            }
        });
        let greets = match ssh {
            Some(address) => timeout(GREETING, greets(address)).await.unwrap_or(false),
            None => false,
        };
        values.push((name.clone(), if greets { "sshd".to_owned() } else { answers }));
    }
    Ok(shown("nodestat", values))
}

/// Whether sshd answers there. qemu takes the connection long before its guest can, so only a byte counts.
async fn greets(address: Ipv4Addr) -> bool {
    let Ok(mut stream) = TcpStream::connect((address, 22)).await else { return false };
    let mut start = [0; 4];
    stream.read_exact(&mut start).await.is_ok() && &start == b"SSH-"
}

/// `makedhcp`.
pub(super) fn dhcp(shared: &Shared, method: &str) -> Outcome {
    if !shared.dhcp {
        return Err(Refused::line(destiny::NO_DHCP));
    }
    Ok(if method == "POST" { Answer::created() } else { Answer::empty() })
}

/// `rinv`, of BMCs that have nothing to tell.
pub(super) fn inventory() -> Outcome {
    Err(Refused::line("BADCODE: Not present"))
}

/// `xdsh`, which gets nowhere: nobody here has its key.
pub(super) fn nodeshell(names: &[String]) -> Outcome {
    let refused = |name| format!("{name}: ssh: connect to host {name} port 22: Connection refused\n");
    let mut lines: Vec<String> = names.iter().map(refused).collect();
    lines.push("Failed with unknown reason.".into());
    Err(Refused(lines))
}
