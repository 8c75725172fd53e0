//! What keeps a queued job from being claimed as far as the nodes are concerned, from the table of nodes.
//!
//! The words are a pure function of what is known of the nodes; they name the node, since when, and the way out.

use super::since;
use chrono::{DateTime, Utc};
use vcl_queue::NodeRow;
use vcl_types::BackendName;
use vcl_types::state::node::State;

/// What the words need to know of a node.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) drained: bool,
    pub(super) ended: Option<DateTime<Utc>>,
    pub(super) backends: Vec<BackendName>,
}

impl From<NodeRow> for Seen {
    fn from(row: NodeRow) -> Self {
        let NodeRow { name, state, drained, ended, .. } = row;
        Self { name, state, drained, ended, backends: row.backends.into_keys().collect() }
    }
}

impl Seen {
    fn claims(&self) -> bool {
        self.state == State::Alive && !self.drained
    }
    /// Why it claims nothing.
    fn idle(&self, now: DateTime<Utc>) -> String {
        let time = self.ended.map_or_else(String::new, |at| format!(" for {}", since(at, now)));
        match self.state {
            State::Dead => format!("has been dead{time}"),
            State::Left => format!("has been stopped{time}"),
            State::Alive => format!("is drained (vclctl node undrain {})", self.name),
        }
    }
}

/// Why no node takes a job that is bound to `bound`, or else needs `backend`; `None` when one that is up would.
pub(super) fn of_nodes(
    nodes: &[Seen],
    bound: Option<&str>,
    backend: Option<&BackendName>,
    now: DateTime<Utc>,
) -> Option<String> {
    if let Some(name) = bound {
        let Some(node) = nodes.iter().find(|node| node.name == name) else {
            return Some(format!("node {name}, which has never joined; it goes on when {name} is started"));
        };
        let until = if node.state == State::Alive { "claims again" } else { "is back" };
        let idle = || format!("node {name}, which {}; it goes on when {name} {until}", node.idle(now));
        return (!node.claims()).then(idle);
    }
    let has = |node: &&Seen| backend.is_none_or(|backend| node.backends.contains(backend));
    let able: Vec<&Seen> = nodes.iter().filter(has).collect();
    if able.iter().any(|node| node.claims()) {
        return None;
    }
    let each: Vec<String> =
        able.iter().map(|node| format!("node {} {}", node.name, node.idle(now))).collect();
    Some(match (backend, each.is_empty()) {
        (Some(backend), true) => format!(
            "no node that is up has the backend {backend}; put it back into the configuration, or call the job off"
        ),
        (Some(backend), false) => format!("a node that has the backend {backend}: {}", each.join(", ")),
        (None, true) => "a node; none has joined".into(),
        (None, false) => format!("a node: {}", each.join(", ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }
    fn node(name: &str, state: State, drained: bool) -> Seen {
        let ended = (state != State::Alive).then(|| at(0));
        Seen { name: name.into(), state, drained, ended, backends: vec!["kvm".parse().unwrap()] }
    }

    #[test]
    fn each_way_in_which_no_node_takes_a_job_is_said_with_its_way_out() {
        use State as S;
        let kvm: BackendName = "kvm".parse().unwrap();
        let esx: BackendName = "esx".parse().unwrap();
        let say = |nodes: &[Seen], bound: Option<&str>, backend: Option<&BackendName>| {
            of_nodes(nodes, bound, backend, at(240))
        };
        let (up, dead) = (node("a", S::Alive, false), node("b", S::Dead, false));
        let (left, drained) = (node("c", S::Left, false), node("d", S::Alive, true));
        let all = [up, dead.clone(), left.clone(), drained.clone()];
        assert_eq!(say(&all, Some("a"), Some(&kvm)), None);
        assert_eq!(say(&all, None, Some(&kvm)), None);
        assert_eq!(say(&all, None, None), None);
        let table = [
            (Some("b"), "node b, which has been dead for 4 min; it goes on when b is back"),
            (Some("c"), "node c, which has been stopped for 4 min; it goes on when c is back"),
            (Some("d"), "node d, which is drained (vclctl node undrain d); it goes on when d claims again"),
            (Some("e"), "node e, which has never joined; it goes on when e is started"),
        ];
        for (bound, words) in table {
            assert_eq!(say(&all, bound, Some(&kvm)).as_deref(), Some(words));
        }
        let words =
            "no node that is up has the backend esx; put it back into the configuration, or call the job off";
        assert_eq!(say(&all, None, Some(&esx)).as_deref(), Some(words));
        let words = "a node that has the backend kvm: node b has been dead for 4 min, node c has been stopped for 4 min, \
                     node d is drained (vclctl node undrain d)";
        assert_eq!(say(&[dead.clone(), left, drained], None, Some(&kvm)).as_deref(), Some(words));
        assert_eq!(say(&[dead], None, None).as_deref(), Some("a node: node b has been dead for 4 min"));
        assert_eq!(say(&[], None, None).as_deref(), Some("a node; none has joined"));
    }
}
