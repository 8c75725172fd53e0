//! What the management node knows: one value behind one lock, which nobody holds across an await.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Local, Utc};

use super::keeper::Orders;
use super::{Asked, Bmc, Boot, Fault, Latency, NodeSetup, Osimage, Setup};

/// How long a token is good.
const TOKEN_LIFE: chrono::Duration = chrono::Duration::days(1);

/// The state, and what never changes.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    change: Condvar,
    pub(super) latency: Latency,
    pub(super) dhcp: bool,
    pub(super) spider: Vec<(String, String)>,
    users: BTreeMap<String, String>,
}

/// The tables, and what the tests want to see.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) osimages: BTreeMap<String, Osimage>,
    pub(super) site: BTreeMap<String, String>,
    /// Tokens and when they end.
    pub(super) tokens: BTreeMap<String, DateTime<Utc>>,
    pub(super) faults: Vec<Fault>,
    pub(super) asked: Vec<Asked>,
}

/// A node as its rows have it, and as its machine is.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) bmc: Bmc,
    pub(super) answers: Option<String>,
    pub(super) on: bool,
    /// The boot order of the next start alone, in the words of `rsetboot`.
    pub(super) next_boot: Option<&'static str>,
    /// Where a machine takes orders; a node without is on or off and nothing else.
    pub(super) machine: Option<Orders>,
    pub(super) boots: Vec<Boot>,
    /// Whether what it booted last has been heard of: that is when it answers a ping.
    pub(super) heard: bool,
    /// Whether the system on its disk will say when it is up.
    pub(super) will_tell: bool,
}

impl Node {
    fn new(setup: NodeSetup) -> Self {
        Self { attributes: setup.attributes, bmc: setup.bmc, answers: setup.answers, ..Self::default() }
    }

    /// An attribute, empty where it has none.
    pub(super) fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.attributes.insert(name.to_owned(), value.to_owned());
    }

    /// Sets the status, with its time as xCAT writes it: local, American, to the second.
    pub(super) fn set_status(&mut self, status: &str) {
        self.set("status", status);
        self.set("statustime", &Local::now().format("%m-%d-%Y %H:%M:%S").to_string());
    }
}

impl Shared {
    pub(super) fn new(setup: Setup) -> Self {
        let Setup { users, nodes, osimages, latency, dhcp, site, spider, .. } = setup;
        let state = State {
            nodes: nodes.into_iter().map(|node| (node.name.clone(), Node::new(node))).collect(),
            osimages: osimages.into_iter().map(|image| (image.name.clone(), image)).collect(),
            site,
            ..State::default()
        };
        Self { state: Mutex::new(state), change: Condvar::new(), latency, dhcp, spider, users }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads or changes the state. Whoever waits for a change is told.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let result = work(&mut self.lock());
        self.change.notify_all();
        result
    }

    /// Waits until somebody may have changed the state, at most so long.
    pub(super) fn changed(&self, most: Duration) {
        let (guard, _) = self.change.wait_timeout(self.lock(), most).unwrap_or_else(PoisonError::into_inner);
        drop(guard);
    }

    /// Whether the account exists and this is its password.
    pub(super) fn knows(&self, user: &str, password: &str) -> bool {
        self.users.get(user).is_some_and(|known| known == password)
    }

    /// A new token and when it ends, written as xCAT does: local time, numbers without leading zeros.
    pub(super) fn token(&self) -> (String, String) {
        let id = uuid::Uuid::now_v7().to_string();
        let end = Utc::now() + TOKEN_LIFE;
        self.with(|state| state.tokens.insert(id.clone(), end));
        (id, end.with_timezone(&Local).format("%Y-%-m-%-d %-H:%-M:%-S").to_string())
    }

    /// Whether the token lets somebody in now.
    pub(super) fn admits(&self, token: &str) -> bool {
        self.with(|state| state.tokens.get(token).is_some_and(|end| *end > Utc::now()))
    }
}
