//! The keys of `[node]` about looking after what jobs and computers leave.

use crate::section::Section;
use std::time::Duration;

/// How a node looks after what is left of jobs and computers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upkeep {
    /// How many days what was kept of failed jobs stays.
    pub evidence_days: u32,
    /// How many days the journals of ended jobs, and events, stay.
    pub history_days: u32,
    /// How often the records are compared with what is there.
    pub look: Duration,
    /// How often the power of all computers is looked at.
    pub look_power: Duration,
    /// Whether a loaded computer that was switched off is switched on again.
    pub restart_stopped: bool,
}

impl Default for Upkeep {
    /// As a file that says nothing of it.
    fn default() -> Self {
        Self {
            evidence_days: 30,
            history_days: 90,
            look: Duration::from_secs(600),
            look_power: Duration::from_secs(60),
            restart_stopped: false,
        }
    }
}

pub(crate) fn read(table: &Section<'_>) -> Option<Upkeep> {
    let (evidence_days, history_days) = (table.integer("evidence_days"), table.integer("history_days"));
    let (look, look_power) = (table.duration("look"), table.duration("look_power"));
    let restart_stopped = table.boolean("restart_stopped");
    Some(Upkeep {
        evidence_days: evidence_days?,
        history_days: history_days?,
        look: look?,
        look_power: look_power?,
        restart_stopped: restart_stopped?,
    })
}
