//! Computers.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone, text};
use vcl_types::api::{Applied, ComputerView, PowerState};
use vcl_types::state::computer::State;
use vcl_types::{ComputerName, KeySource, NicRole};

fn tone(state: State) -> Tone {
    match state {
        State::Available => Tone::Quiet,
        State::Reserved | State::InUse => Tone::Good,
        State::Loading | State::Maintenance => Tone::Busy,
        State::Broken => Tone::Bad,
    }
}

/// The word for a power state.
#[must_use]
pub fn power(state: PowerState) -> &'static str {
    match state {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Absent => "absent",
    }
}

/// What became of a computer that was switched.
#[must_use]
pub fn powered(view: &ComputerView) -> String {
    let state = view.power.map_or("in a state that vcld did not tell", power);
    format!("{} is {state}", view.computer.name)
}

/// All of them, a line each.
#[must_use]
pub fn list(computers: &[ComputerView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["NAME", "STATE", "IMAGE", "SSH", "SINCE", "BACKEND", "JOB", "REASON"],
        "no computers; they stand in [computers] of vcld.toml, and `vclctl computer apply` reads them from there",
    );
    for view in computers {
        let loaded = view.loaded.as_ref();
        table.row([
            quiet(&view.computer.name),
            (view.state.to_string(), tone(view.state)),
            maybe(loaded.map(|loaded| &loaded.image)),
            maybe(loaded.map(|loaded| &loaded.endpoint)),
            maybe(loaded.map(|loaded| clock.ago(loaded.since))),
            quiet(&view.computer.backend),
            maybe(view.job),
            maybe(view.reason.as_ref()),
        ]);
    }
    table.text()
}

/// One of them.
#[must_use]
pub fn one(view: &ComputerView, clock: &Clock) -> String {
    let computer = &view.computer;
    let mut facts = Facts::default();
    facts.add("name", &computer.name).add("state", view.state).maybe("reason", view.reason.as_ref());
    facts.maybe("power", view.power.map(power)).add("backend", &computer.backend);
    if let Some(loaded) = &view.loaded {
        facts.add("image", format!("{}, loaded {}", loaded.image, clock.ago(loaded.since)));
        facts.add("ssh", loaded.endpoint.ssh_command());
        let known = match loaded.endpoint.host_keys.source {
            KeySource::Console => "read from its console",
            KeySource::Agent => "asked of its agent",
            KeySource::Injected => "put in before it started",
            KeySource::Pinned => "pinned by an earlier connection",
            KeySource::FirstUse => "taken from the first connection: trust on first use",
        };
        let keys = &loaded.endpoint.host_keys.keys;
        if keys.is_empty() {
            facts.add("host key", known);
        }
        for key in keys {
            facts.add("host key", format!("{key} ({known})"));
        }
    }
    let cpus = computer.cpus.map(|cpus| text::counted(cpus.into(), "cpu"));
    let size: Vec<String> =
        cpus.into_iter().chain(computer.memory.map(|memory| memory.to_string())).collect();
    facts.add("size", if size.is_empty() { "as its image was made on".to_owned() } else { size.join(", ") });
    for nic in &computer.nics {
        let role = match nic.role {
            NicRole::Management => "management",
            NicRole::Public => "public",
        };
        let address = nic.address.map(|address| format!(" {address}")).unwrap_or_default();
        facts.add("network", format!("{} {}{address} ({role})", nic.network, nic.mac));
    }
    facts.maybe("tags", (!computer.tags.is_empty()).then(|| computer.tags.join(" ")));
    facts.maybe("only on", view.node.as_ref());
    match &view.lease {
        Some(lease) => facts.add("held by", super::nodes::holder(lease, clock)),
        None => facts.maybe("job", view.job),
    };
    facts.maybe("reservation", view.reservation);
    facts.text()
}

/// What reading the configuration changed, or would.
#[must_use]
pub fn applied(applied: &Applied, dry_run: bool) -> String {
    let mut facts = Facts::default();
    let mut names = |what, computers: &[ComputerName]| {
        let names: Vec<&str> = computers.iter().map(ComputerName::as_str).collect();
        facts.maybe(what, (!names.is_empty()).then(|| names.join(" ")));
    };
    let [added, changed, removed] =
        if dry_run { ["would add", "would change", "would remove"] } else { ["added", "changed", "removed"] };
    names(added, &applied.added);
    names(changed, &applied.changed);
    names(removed, &applied.removed);
    for kept in &applied.kept {
        facts.add("kept", kept);
    }
    let text = facts.text();
    if text.is_empty() { "nothing to change".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&fixtures::computers(), &fixtures::clock()));
    }
    #[test]
    fn no_computers_says_where_they_come_from() {
        insta::assert_snapshot!(list(&[], &fixtures::clock()));
    }
    #[test]
    fn each_on_its_own() {
        let each: Vec<String> =
            fixtures::computers().iter().map(|view| one(view, &fixtures::clock())).collect();
        insta::assert_snapshot!(each.join("\n\n"));
    }
    #[test]
    fn what_was_applied() {
        let all = Applied {
            added: ["gis-01", "gis-02"].map(|name| name.parse().unwrap()).to_vec(),
            changed: vec!["a".parse().unwrap()],
            removed: Vec::new(),
            kept: vec!["b stays: it is loaded with debian@1".into()],
        };
        insta::assert_snapshot!([applied(&all, true), applied(&Applied::default(), false)].join("\n\n"));
    }
}
