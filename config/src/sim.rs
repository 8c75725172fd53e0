//! `[backend.NAME]` with `type = "sim"`: simulated machines.

use crate::backend::{BackendConfig, BackendType};
use crate::keys::{Key, Kind};
use crate::problem::Problems;
use crate::section::Section;
use camino::Utf8PathBuf;
use serde::Deserialize;
use std::time::Duration;

/// What a `[backend.NAME]` of the type `sim` has besides.
pub const KEYS: &[Key] = &[
    Key::default(
        "directory",
        Kind::Path,
        "/var/lib/vcld/NAME",
        "Where the simulated machines live: what there is of them stays when the daemon goes.",
    ),
    Key::default(
        "seed",
        Kind::Integer { min: 0, max: u32::MAX },
        "0",
        "Where the dice for delays and failures begin: the same seed brings the same again.",
    ),
    Key::default(
        "delay_min",
        Kind::Duration { min: 0 },
        "0s",
        "The shortest that a step of a machine takes.",
    ),
    Key::default("delay_max", Kind::Duration { min: 0 }, "0s", "The longest that a step of a machine takes."),
    Key::default("failure_rate", Kind::Fraction, "0", "The share of steps that fail, from 0 to 1."),
    Key::default(
        "failures",
        Kind::Word(&["transient", "fatal", "both"]),
        "transient",
        "Whether what failed works when it is tried again, never does, or half of the time.",
    ),
    Key::default(
        "end_state",
        Kind::Word(&["off", "on", "reboot"]),
        "off",
        "In what state captures want the guest to leave its machine.",
    ),
];

/// What kind of failures there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SimFailures {
    /// They pass when the step is tried again.
    Transient,
    /// They do not.
    Fatal,
    /// Half of them pass.
    Both,
}

/// In what state captures want the guest to leave its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SimEndState {
    /// Off.
    Off,
    /// On.
    On,
    /// Rebooting.
    Reboot,
}

/// The settings of a sim backend.
#[derive(Debug, Clone, PartialEq)]
pub struct Sim {
    /// Where its world lives, absolute.
    pub directory: Utf8PathBuf,
    /// Where the dice begin.
    pub seed: u32,
    /// The shortest delay of a step.
    pub delay_min: Duration,
    /// The longest, not shorter than that.
    pub delay_max: Duration,
    /// The share of steps that fail, 0 to 1.
    pub failure_rate: f64,
    /// How they fail.
    pub failures: SimFailures,
    /// How captures leave the guest.
    pub end_state: SimEndState,
}

impl Sim {
    /// Reads them from their table.
    #[must_use]
    pub fn read(table: &Section<'_>) -> Option<Self> {
        let directory = table.path("directory");
        let (seed, rate) = (table.integer("seed"), table.fraction("failure_rate"));
        let (delay_min, delay_max) = (table.duration("delay_min"), table.duration("delay_max"));
        let (failures, end_state) = (table.choice("failures"), table.choice("end_state"));
        if let (Some(min), Some(max)) = (delay_min, delay_max)
            && min > max
        {
            table.report(
                "delay_min",
                "`delay_min` is longer than `delay_max`",
                "write delay_max too, and the longer of the two in it",
            );
            return None;
        }
        Some(Self {
            directory: directory?,
            seed: seed?,
            delay_min: delay_min?,
            delay_max: delay_max?,
            failure_rate: rate?,
            failures: failures?,
            end_state: end_state?,
        })
    }
}

impl BackendType {
    /// Simulated machines. They can be on networks of any kind, since they are on none.
    pub const SIM: Self = Self {
        name: "sim",
        keys: Some(KEYS),
        check: |table| {
            let _problems_are_noted = Sim::read(table);
        },
        libvirt_networks: true,
    };
}

impl BackendConfig {
    /// The settings of a backend whose type is `sim`.
    ///
    /// # Errors
    ///
    /// It is of another type, and its table has other keys.
    pub fn sim(&self) -> Result<Sim, Problems> {
        self.read(KEYS, Sim::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Known, parse};

    fn read(lines: &str) -> Result<Sim, Problems> {
        let text = format!("library.path = \"/srv/vcl\"\n[backend.s]\ntype = \"sim\"\n{lines}\n");
        parse(&text, "vcld.toml", &Known::default())?.backends[&"s".parse().unwrap()].sim()
    }

    #[test]
    fn a_simulated_backend_is_certain_unless_it_is_told_otherwise() {
        let sim = read("").unwrap();
        assert_eq!(sim.directory, "/var/lib/vcld/s");
        assert_eq!((sim.seed, sim.failure_rate), (0, 0.0));
        assert_eq!((sim.delay_min, sim.delay_max), (Duration::ZERO, Duration::ZERO));
        let sim = read("seed = 7\ndelay_min = \"1s\"\ndelay_max = \"2s\"\nfailure_rate = 0.25\nfailures = \"both\"\nend_state = \"reboot\"").unwrap();
        assert_eq!(
            (sim.seed, sim.delay_min, sim.delay_max),
            (7, Duration::from_secs(1), Duration::from_secs(2))
        );
        assert_eq!((sim.failure_rate, sim.failures), (0.25, SimFailures::Both));
        assert_eq!(sim.end_state, SimEndState::Reboot);
        assert_eq!(read("failure_rate = 1").unwrap().failure_rate, 1.0);
    }

    #[test]
    fn a_rate_beyond_one_and_delays_the_wrong_way_round_are_told() {
        for (line, said) in [
            ("failure_rate = 1.5", "backend.s.failure_rate: `1.5` is not from 0 to 1"),
            ("failure_rate = -0.1", "`-0.1` is not from 0 to 1"),
            ("failure_rate = nan", "is not from 0 to 1"),
            ("failure_rate = \"5%\"", "is text, not a number from 0 to 1"),
            ("delay_min = \"5s\"", "`delay_min` is longer than `delay_max`"),
            ("failures = \"never\"", "never"),
        ] {
            let problems = read(line).unwrap_err().to_string();
            assert!(problems.contains(said), "{line}: {problems}");
        }
    }
}
