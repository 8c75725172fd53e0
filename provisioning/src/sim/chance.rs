//! Delays and failures, from a seed.
//!
//! A throw depends on the seed, the machine, the step, and how often anything was done to the machine so far, which the
//! world remembers. So a site's whole history comes out again when it is run again in the same order, whatever the
//! clock, the number of threads or the process's deaths.

use std::time::Duration;
use vcl_job::Kind;

/// What kind of failures there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Failures {
    /// They pass when the step is tried again.
    #[default]
    Transient,
    /// They do not.
    Fatal,
    /// Half of them pass.
    Both,
}

/// How long steps take, and how many fail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Chance {
    /// Where the dice begin.
    pub seed: u64,
    /// The shortest delay of a step.
    pub delay_min: Duration,
    /// The longest.
    pub delay_max: Duration,
    /// The share of steps that fail, 0 to 1.
    pub failure_rate: f64,
    /// How they fail.
    pub failures: Failures,
}

impl Default for Chance {
    /// No delays, no failures.
    fn default() -> Self {
        Self {
            seed: 0,
            delay_min: Duration::ZERO,
            delay_max: Duration::ZERO,
            failure_rate: 0.0,
            failures: Failures::Transient,
        }
    }
}

/// One throw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throw {
    /// How long the step takes.
    pub delay: Duration,
    /// How it fails after that, if it does.
    pub failure: Option<Kind>,
}

impl Chance {
    /// Whether every throw is the same: no delay, no failure.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.delay_max.is_zero() && self.failure_rate <= 0.0
    }
    /// The throw for a step of a machine to which `effects` things were done before.
    #[must_use]
    pub fn throw(&self, machine: &str, step: &str, effects: u64) -> Throw {
        let start = mix(self.seed) ^ hash(machine).rotate_left(17) ^ hash(step) ^ mix(effects ^ 0x5151);
        let (first, second, third) = (mix(start), mix(start ^ 1), mix(start ^ 2));
        let range = self.delay_max.saturating_sub(self.delay_min);
        let delay = self.delay_min.min(self.delay_max) + range.mul_f64(fraction(first));
        let failure = (fraction(second) < self.failure_rate).then_some(match self.failures {
            Failures::Transient => Kind::Transient,
            Failures::Fatal => Kind::Fatal,
            Failures::Both if third % 2 == 0 => Kind::Transient,
            Failures::Both => Kind::Fatal,
        });
        Throw { delay, failure }
    }
}

/// A number from 0 up to, not including, 1.
fn fraction(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// FNV-1a: the same in every version of every program.
pub(super) fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The finaliser of splitmix64: every bit of the answer hangs on every bit of the number.
pub(super) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_another_seed_does_not() {
        let chance = |seed| Chance {
            seed,
            delay_max: Duration::from_secs(10),
            failure_rate: 0.3,
            failures: Failures::Both,
            ..Chance::default()
        };
        let throws = |chance: Chance| -> Vec<Throw> {
            (0..1000).map(|n| chance.throw("vcl-sim-0001", "start", n)).collect()
        };
        assert_eq!(throws(chance(7)), throws(chance(7)));
        assert_ne!(throws(chance(7)), throws(chance(8)));
        let failed = throws(chance(7)).iter().filter(|t| t.failure.is_some()).count();
        assert!((250..350).contains(&failed), "{failed} of 1000 at a rate of 0.3");
        let fatal = throws(chance(7)).iter().filter(|t| t.failure == Some(Kind::Fatal)).count();
        assert!((100..200).contains(&fatal), "{fatal} of {failed} are fatal");
        let all: Duration = throws(chance(7)).iter().map(|t| t.delay).sum();
        assert!((4500..5500).contains(&all.as_secs()), "{all:?} for a thousand from 0 to 10 s");
    }

    #[test]
    fn machines_and_steps_have_dice_of_their_own() {
        let chance = Chance { delay_max: Duration::from_secs(3600), ..Chance::default() };
        let one = chance.throw("vcl-a", "start", 0).delay;
        assert_ne!(one, chance.throw("vcl-b", "start", 0).delay);
        assert_ne!(one, chance.throw("vcl-a", "define domain", 0).delay);
        assert_ne!(one, chance.throw("vcl-a", "start", 1).delay);
    }

    #[test]
    fn rates_of_zero_and_one_are_certain() {
        let never = Chance::default();
        let always = Chance { failure_rate: 1.0, ..Chance::default() };
        for n in 0..1000 {
            assert_eq!(never.throw("m", "s", n), Throw { delay: Duration::ZERO, failure: None });
            assert_eq!(always.throw("m", "s", n).failure, Some(Kind::Transient));
        }
        assert!(never.is_certain() && !always.is_certain());
    }
}
