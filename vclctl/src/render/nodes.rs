//! Management nodes, and what jobs hold.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone};
use vcl_types::api::{LeaseOf, LeaseView, NodeView};
use vcl_types::state::node::State;

fn state(node: &NodeView) -> (String, Tone) {
    match node.state {
        State::Alive if node.drained => ("drained".into(), Tone::Busy),
        State::Alive => ("alive".into(), Tone::Good),
        State::Left => ("stopped".into(), Tone::Quiet),
        State::Dead => ("dead".into(), Tone::Bad),
    }
}

/// All of them, a line each.
#[must_use]
pub fn list(nodes: &[NodeView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["NODE", "STATE", "SINCE", "RUNS", "WAIT FOR IT", "VERSION", "BACKENDS"],
        "no node has joined yet",
    );
    for node in nodes {
        table.row([
            quiet(&node.name),
            state(node),
            quiet(clock.ago(node.ended.filter(|_| node.state != State::Alive).unwrap_or(node.since))),
            quiet(node.running),
            quiet(node.waiting),
            quiet(&node.version),
            quiet(backends(node)),
        ]);
    }
    table.text()
}

fn backends(node: &NodeView) -> String {
    let shown = |(name, shared): (&vcl_types::BackendName, &bool)| {
        if *shared { format!("{name} (shared)") } else { name.to_string() }
    };
    node.backends.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// One of them, in a few words.
pub(super) fn brief(node: &NodeView) -> String {
    let name = super::text::one_line(&node.name);
    format!("{name} {} ({})", state(node).0, super::text::counted(node.running, "job"))
}

/// One of them.
#[must_use]
pub fn one(node: &NodeView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts.add("node", &node.name).add("state", state(node).0);
    facts.add("joined", format!("{} (life {})", clock.full(node.since), node.life));
    facts.maybe("ended", node.ended.filter(|_| node.state != State::Alive).map(|at| clock.full(at)));
    facts.add("lease", format!("{} s", node.lease_seconds));
    facts.add("version", format!("{} (protocol {})", node.version, node.protocol));
    facts.maybe("address", node.address.as_ref());
    facts.add("backends", if node.backends.is_empty() { "none".into() } else { backends(node) });
    facts.add("runs", super::text::counted(node.running, "job"));
    facts.add("wait for it", super::text::counted(node.waiting, "job"));
    facts.text()
}

/// What jobs hold, a line each.
#[must_use]
pub fn leases(leases: &[LeaseView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["WHAT", "NAME", "JOB", "FOR", "SINCE", "STATE", "NODE", "BY", "WAITING"],
        "no job holds a computer or an image",
    );
    for lease in leases {
        let waiting: Vec<String> = lease.waiting.iter().map(ToString::to_string).collect();
        table.row([
            quiet(match lease.of {
                LeaseOf::Computer => "computer",
                LeaseOf::Image => "image",
            }),
            quiet(&lease.name),
            quiet(lease.job),
            quiet(&lease.purpose),
            quiet(clock.ago(lease.since)),
            quiet(lease.state),
            maybe(lease.node.as_ref()),
            quiet(&lease.requester),
            quiet(waiting.join(" ")),
        ]);
    }
    table.text()
}

/// Who holds one thing, in a line.
pub(super) fn holder(lease: &LeaseView, clock: &Clock) -> String {
    let node = lease.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
    let since = clock.ago(lease.since);
    format!(
        "job {} ({}), {}{node}, since {since}, for {}",
        lease.job, lease.purpose, lease.state, lease.requester
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&fixtures::nodes(), &fixtures::clock()));
    }
    #[test]
    fn each_on_its_own() {
        let each: Vec<String> = fixtures::nodes().iter().map(|node| one(node, &fixtures::clock())).collect();
        insta::assert_snapshot!(each.join("\n\n"));
    }
    #[test]
    fn what_jobs_hold() {
        let shown = [leases(&fixtures::leases(), &fixtures::clock()), leases(&[], &fixtures::clock())];
        insta::assert_snapshot!(shown.join("\n\n"));
    }
}
