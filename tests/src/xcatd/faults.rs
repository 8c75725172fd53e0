//! What goes wrong, when a test wants it to.

use super::state::State;

/// Something that goes wrong from now on, at most `times` times where it says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A node's BMC says this to calls of power and boot order: 403, `NODE: TEXT`.
    Bmc {
        /// Whose.
        node: String,
        /// What it says, such as `ERROR: Node busy`.
        text: String,
        /// How often.
        times: u32,
    },
    /// A node's BMC does not answer: `ERROR: timeout`, after the latency of that.
    BmcDead {
        /// Whose.
        node: String,
    },
    /// A node's BMC refuses the password, or seems to: `ERROR: Incorrect password provided`.
    BmcPassword {
        /// Whose.
        node: String,
    },
    /// A node's BMC says yes to a change of power and does nothing.
    PowerIgnored {
        /// Whose.
        node: String,
        /// How often.
        times: u32,
    },
    /// All tokens of now have expired.
    TokensExpire,
    /// The connection ends without an answer.
    Drop {
        /// What the path contains, without the base.
        path: String,
        /// Whether what was asked has been done by then.
        after: bool,
        /// How often.
        times: u32,
    },
    /// A node does not get what it should boot from the network, and boots its disk; `currstate` stays as it is.
    NetbootFails {
        /// Which.
        node: String,
        /// How often.
        times: u32,
    },
    /// The imaging environment moves on and restarts without having run the task.
    TaskLost {
        /// Of which node.
        node: String,
        /// How often.
        times: u32,
    },
    /// The imaging environment will not run tasks of this kind (the newest one does not) and stays.
    TaskRefused {
        /// Of which node.
        node: String,
        /// How often.
        times: u32,
    },
    /// The imaging environment's `openssl` gives wrong digests; message authentication codes are right.
    WrongDigests {
        /// Of which node.
        node: String,
        /// How often.
        times: u32,
    },
}

/// What a BMC does instead of what it was told.
pub(super) enum Trouble {
    /// It says this.
    Says(String),
    /// It says nothing.
    Silent,
    /// It says yes.
    Ignores,
}

/// How the imaging environment goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    Lost,
    Refused,
    WrongDigests,
}

impl Flaw {
    /// The word for it on the kernel's command line.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::WrongDigests => "digests",
        }
    }
}

pub(super) fn add(state: &mut State, fault: Fault) {
    match fault {
        Fault::TokensExpire => state.tokens.clear(),
        fault => state.faults.push(fault),
    }
}

/// The first fault that `find` makes something of; it has then happened once more.
fn take<T>(state: &mut State, find: impl Fn(&Fault) -> Option<T>) -> Option<T> {
    let (at, found) =
        state.faults.iter().enumerate().find_map(|(at, fault)| find(fault).map(|it| (at, it)))?;
    let left = match &mut state.faults[at] {
        Fault::Bmc { times, .. }
        | Fault::PowerIgnored { times, .. }
        | Fault::Drop { times, .. }
        | Fault::NetbootFails { times, .. }
        | Fault::TaskLost { times, .. }
        | Fault::TaskRefused { times, .. }
        | Fault::WrongDigests { times, .. } => {
            *times = times.saturating_sub(1);
            *times
        }
        Fault::BmcDead { .. } | Fault::BmcPassword { .. } | Fault::TokensExpire => 1,
    };
    if left == 0 {
        state.faults.remove(at);
    }
    Some(found)
}

/// What is wrong with a node's BMC this time. `change` is whether it was told to change the power.
pub(super) fn of_bmc(state: &mut State, name: &str, change: bool) -> Option<Trouble> {
    take(state, |fault| match fault {
        Fault::Bmc { node, text, .. } if node == name => Some(Trouble::Says(text.clone())),
        Fault::BmcPassword { node } if node == name => {
            Some(Trouble::Says("ERROR: Incorrect password provided".into()))
        }
        Fault::BmcDead { node } if node == name => Some(Trouble::Silent),
        Fault::PowerIgnored { node, .. } if node == name && change => Some(Trouble::Ignores),
        _ => None,
    })
}

/// Whether this connection is dropped.
pub(super) fn drops(state: &mut State, asked: &str, done: bool) -> bool {
    take(state, |fault| match fault {
        Fault::Drop { path, after, .. } if asked.contains(path.as_str()) && *after == done => Some(()),
        _ => None,
    })
    .is_some()
}

/// Whether a node boots its disk this time, whatever it is told over the network.
pub(super) fn netboot_fails(state: &mut State, name: &str) -> bool {
    take(state, |fault| match fault {
        Fault::NetbootFails { node, .. } if node == name => Some(()),
        _ => None,
    })
    .is_some()
}

/// How the imaging environment goes wrong that a node boots now.
pub(super) fn of_genesis(state: &mut State, name: &str) -> Option<Flaw> {
    take(state, |fault| match fault {
        Fault::TaskLost { node, .. } if node == name => Some(Flaw::Lost),
        Fault::TaskRefused { node, .. } if node == name => Some(Flaw::Refused),
        Fault::WrongDigests { node, .. } if node == name => Some(Flaw::WrongDigests),
        _ => None,
    })
}
