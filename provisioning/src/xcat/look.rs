//! Looking: power, nodes, definitions without their secrets, what is armed, what is wrong.

use super::Xcat;
use super::answer::{Fault, Trouble};
use crate::inbox::{Place, close, job_of};
use crate::{Error, ErrorKind, Result};
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use vcl_types::api::{Finding, FindingLevel, PowerAction, PowerState, Thing, VmView};
use vcl_types::{ComputerName, Hardware, JobId};

/// What an armed node is called among things.
const ARMED: &str = "armed node";
/// What an open box is called among them.
const BOX: &str = "box";
/// How many nodes are asked at once.
const AT_ONCE: usize = 6;
/// How long a guest may take to shut down before its power is cut.
const SOFT: Duration = Duration::from_secs(120);

const fn power(on: bool) -> PowerState {
    if on { PowerState::On } else { PowerState::Off }
}

/// Whether an attribute may be a secret, by its name.
fn is_secret(name: &str) -> bool {
    let name = name.to_lowercase();
    ["pass", "secret", "key", "community", "token", "cred", "auth"].iter().any(|word| name.contains(word))
}

/// The box in a state that has a node run an imaging task, whoever's.
fn box_of(currstate: &str) -> Option<&str> {
    let url = currstate.strip_prefix("runimage=")?;
    url.split_once("/inbox/")?.1.split('/').next()
}

impl Xcat {
    pub(super) async fn power_state(&self, computer: &ComputerName) -> Result<PowerState> {
        let on = self.client.power(&self.node(computer)).await?;
        Ok(self.remember(computer, power(on)))
    }

    /// All computers of the configuration, each asked by itself: in one call for all, a service processor that does not
    /// answer would spoil it for the others. One that does not is what it was when it last did; one that never did
    /// counts as on, for nothing is known to be wrong.
    pub(super) async fn all_powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        let asked = stream::iter(self.settings.computers.clone()).map(|computer| async move {
            let state = self.client.power(&self.node(&computer)).await;
            (computer, state)
        });
        let answers: Vec<_> = asked.buffer_unordered(AT_ONCE).collect().await;
        let mut powers = BTreeMap::new();
        for (computer, answer) in answers {
            match answer {
                Ok(on) => {
                    let state = self.remember(&computer, power(on));
                    powers.insert(computer, state);
                }
                Err(fault) if fault.trouble == Trouble::NoNode => {
                    powers.insert(computer, PowerState::Absent);
                }
                Err(fault) if matches!(fault.trouble, Trouble::Away | Trouble::Login) => {
                    return Err(fault.into());
                }
                Err(fault) => {
                    tracing::debug!(%computer, said = fault.said, "its power is not known now");
                    let known = self.powers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let state = known.get(&computer).copied().unwrap_or(PowerState::On);
                    drop(known);
                    powers.insert(computer, state);
                }
            }
        }
        Ok(powers)
    }

    pub(super) async fn change_power(
        &self,
        computer: &ComputerName,
        action: PowerAction,
    ) -> Result<PowerState> {
        let node = &self.node(computer);
        let turn = {
            let mut switching = self.switching.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            switching.entry(node.clone()).or_default().clone()
        };
        let _turn = turn.lock().await;
        let on = self.client.power(node).await?;
        let wanted = matches!(action, PowerAction::On | PowerAction::Reset);
        match action {
            PowerAction::On if !on => self.client.set_power(node, "on").await?,
            // xCAT does nothing, and says that it did, for a node that is off.
            PowerAction::Reset if !on => self.client.set_power(node, "on").await?,
            PowerAction::Reset => self.client.set_power(node, "reset").await?,
            PowerAction::Off if on => {
                // Not every service processor can ask; then its power is cut at once.
                match self.client.set_power(node, "softoff").await {
                    Ok(()) => {
                        if self.becomes(node, false, SOFT).await?.is_none() {
                            self.client.set_power(node, "off").await?;
                        }
                    }
                    Err(fault) if matches!(fault.trouble, Trouble::BmcCannot | Trouble::Refused) => {
                        self.client.set_power(node, "off").await?;
                    }
                    Err(fault) => return Err(fault.into()),
                }
            }
            PowerAction::ForceOff if on => self.client.set_power(node, "off").await?,
            PowerAction::On | PowerAction::Off | PowerAction::ForceOff => {}
        }
        let limit = Duration::from_secs(60);
        let Some(()) = self.becomes(node, wanted, limit).await? else {
            let word = if wanted { "on" } else { "off" };
            let message = format!("{node} was told to power {word} and has not for {} s", limit.as_secs());
            return Err(Error::new(ErrorKind::Deadline, message));
        };
        Ok(self.remember(computer, power(wanted)))
    }

    /// Waits until a node's power is that; `None` when the time is over.
    async fn becomes(&self, node: &str, on: bool, limit: Duration) -> Result<Option<()>> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            if self.client.power(node).await? == on {
                return Ok(Some(()));
            }
            if tokio::time::Instant::now() >= until {
                return Ok(None);
            }
            tokio::time::sleep(self.settings.poll.min(Duration::from_secs(2))).await; // why: a service processor tells nobody when it is done
        }
    }

    pub(super) async fn list_nodes(&self) -> Result<Vec<VmView>> {
        let nodes = self.client.nodes().await?;
        let known = |node: &str| {
            let computer = self.computer(node)?;
            self.settings.computers.contains(&computer).then_some(computer)
        };
        let powers = self.powers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let view = |node: String| {
            let managed = known(&node);
            let state = match managed.as_ref().and_then(|computer| powers.get(computer)) {
                Some(PowerState::On) => "running",
                Some(_) => "shut off",
                None => "unknown",
            };
            VmView {
                name: node,
                state: state.into(),
                disks: Vec::new(),
                hardware: Hardware::default(),
                managed,
            }
        };
        Ok(nodes.into_iter().map(view).collect())
    }

    /// A node's definition, a line each attribute; what may be a secret is masked.
    pub(super) async fn masked_definition(&self, computer: &ComputerName) -> Result<String> {
        let node = self.node(computer);
        let definition = self.client.definition(&node).await?;
        Ok(masked(&definition, &node))
    }

    /// Nodes that would run an imaging task of ours at their next boot.
    pub(super) async fn armed_nodes(&self) -> Result<Vec<Thing>> {
        let states = self.client.states().await?;
        let thing = |(node, currstate): (String, String)| {
            let job = self.job_of_box(box_of(&currstate)?)?;
            Some(Thing { kind: ARMED.into(), name: node, computer: None, job: Some(job), bytes: None })
        };
        let mut things: Vec<_> = states.into_iter().filter_map(thing).collect();
        things.sort();
        Ok(things)
    }

    /// Boxes that were opened for computers of this instance.
    pub(super) fn open_boxes(&self) -> Result<Vec<Thing>> {
        let Some(inbox) = &self.settings.inbox else { return Ok(Vec::new()) };
        let thing = |place: Place| {
            let job = Some(self.job_of_box(&place.name)?);
            Some(Thing { kind: BOX.into(), name: place.name, computer: None, job, bytes: None })
        };
        Ok(inbox.boxes()?.into_iter().filter_map(thing).collect())
    }
    /// The job that a box was opened for; `None` for one that is not of this instance's computers. By its name: that it
    /// begins with the instance's says nothing, for so does that of an instance whose name is longer.
    fn job_of_box(&self, name: &str) -> Option<JobId> {
        let (stem, _) = name.rsplit_once("-job")?;
        let ours = self.settings.computers.iter().any(|c| self.box_stem(c.as_str()) == stem);
        job_of(name).filter(|_| ours)
    }

    pub(super) async fn remove(&self, thing: &Thing) -> Result<()> {
        match (thing.kind.as_str(), &self.settings.inbox) {
            (ARMED, _) => {}
            (BOX, Some(inbox)) => {
                let place = inbox.place(&thing.name)?;
                if self.job_of_box(&place.name).is_none() {
                    let context = format!("the box {} is not of this backend's computers", place.name);
                    return Err(Error::new(ErrorKind::NotOurs, context));
                }
                let closed = tokio::task::spawn_blocking(move || close(&place)).await;
                return closed.map_err(|e| Error::caused(ErrorKind::Failed, "closing a box", e))?;
            }
            (other, _) => {
                return Err(Error::new(ErrorKind::Refused, format!("an xcat backend makes no {other}")));
            }
        }
        let states = self.client.states().await?;
        let armed = states.iter().find(|(node, _)| *node == thing.name);
        match armed.and_then(|(_, state)| self.job_of_box(box_of(state)?)) {
            Some(_) => Ok(self.client.set_bootstate(&thing.name, json!({ "state": "boot" })).await?),
            None => Ok(()),
        }
    }

    pub(super) async fn look(&self) -> Vec<Finding> {
        let finding = |what: &str, level, found: String, way_out: Option<&str>| Finding {
            what: what.into(),
            level,
            found,
            way_out: way_out.map(str::to_owned),
        };
        let url = &self.settings.url;
        let mut found = Vec::new();
        let nodes = match self.client.nodes().await {
            Ok(nodes) => nodes,
            Err(fault) => return vec![unreachable_finding(fault)],
        };
        let (user, count) = (&self.settings.user, nodes.len());
        found.push(finding(
            "xcat",
            FindingLevel::Ok,
            format!("{url} answers {user}, with {count} nodes"),
            None,
        ));
        for computer in &self.settings.computers {
            let node = self.node(computer);
            if !nodes.contains(&node) {
                let way = "define it in xCAT, or name its node under `nodes`";
                found.push(finding(
                    "node",
                    FindingLevel::Error,
                    format!("{computer}: xCAT has no node {node}"),
                    Some(way),
                ));
            }
        }
        match self.client.osimages().await {
            Ok(there) => {
                let wanted = self.settings.osimages.iter().filter(|(_, osimage)| !there.contains(osimage));
                for (image, osimage) in wanted {
                    let text = format!("{image}: xCAT has no osimage {osimage}");
                    let way = "see lsdef -t osimage on the management node";
                    found.push(finding("osimage", FindingLevel::Error, text, Some(way)));
                }
            }
            Err(fault) => {
                let text = format!("the osimages cannot be listed: {}", fault.said);
                found.push(finding("osimage", FindingLevel::Warning, text, None));
            }
        }
        if self.settings.inbox.is_none() {
            let text =
                "the configuration has no [inbox]: disks can be neither captured nor restored".to_owned();
            let way = "add [inbox] with the url that nodes and the management node reach this node at";
            found.push(finding("inbox", FindingLevel::Warning, text, Some(way)));
        }
        found
    }
}

fn unreachable_finding(fault: Fault) -> Finding {
    let way_out = match fault.trouble {
        Trouble::Login => "check user and password: POST /tokens has to answer 201 for them",
        _ => "is httpd on the management node running, and is `ca` the authority of its certificate?",
    };
    let found = format!("{}: {}", fault.what, fault.said);
    Finding { what: "xcat".into(), level: FindingLevel::Error, found, way_out: Some(way_out.into()) }
}

fn masked(definition: &Value, node: &str) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{node}:\n");
    let attributes = definition.get(node).and_then(Value::as_object);
    for (name, value) in attributes.into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value = match value.split_once("/inbox/") {
            _ if is_secret(name) => "(masked)".to_owned(),
            Some((before, _)) => format!("{before}/inbox/(masked)"),
            None => value.chars().filter(|c| !c.is_control()).take(2000).collect(),
        };
        let _ = writeln!(text, "    {name}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xcat::tests::settings;

    #[test]
    fn a_definition_is_shown_without_its_secrets() {
        let definition = serde_json::from_str(include_str!("fixtures/node.json")).unwrap();
        let text = masked(&definition, "n1");
        for shown in ["mac=52:54:00:00:01:01", "ip=10.77.0.101", "bmcusername=", "bmcpassword=(masked)"] {
            assert!(text.contains(shown), "{text}");
        }
        for hidden in ["hunter2", "public", "0123456789abcdef"] {
            assert!(!text.contains(hidden), "{text}");
        }
    }

    #[test]
    fn the_box_of_an_armed_node_is_found_in_its_state() {
        let armed = "runimage=http://mn:1/inbox/rack-n4-job12-token3/abc/task.tgz";
        assert_eq!(box_of(armed), Some("rack-n4-job12-token3"));
        for other in ["boot", "runimage=http://mn/x.tgz", "install rocky9", ""] {
            assert_eq!(box_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_tasks_of_this_instances_computers_are_ours() {
        let rack = Xcat::new(settings("rack", &["n4", "lab-job-1"])).unwrap();
        assert_eq!(rack.job_of_box("rack-n4-job12-token3"), Some(JobId(12)));
        assert_eq!(rack.job_of_box("rack-lab-job-1-job5-token1"), Some(JobId(5)));
        for other in [
            "rack-2-n4-job12-token3",
            "rack-n5-job12-token3",
            "other-n4-job1-token1",
            "rack-n4",
            "rack-n4-jobx-token1",
            "rack-n4-job1-tokenx",
            "rack-n4-job1",
        ] {
            assert_eq!(rack.job_of_box(other), None, "{other}");
        }
    }
}
