//! What the kit found.

use super::history::History;
use super::matrix::Ended;
use super::points::Passed;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A rule that a history broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// What happened: [`Matrix::replay`](super::Matrix::replay) takes it.
    pub history: History,
    /// What was wrong in the end.
    pub what: String,
}
impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.history, self.what)
    }
}

/// One history, played.
#[derive(Debug, Clone)]
pub struct Played {
    /// How each life ended; `None` where it was killed.
    pub ends: Vec<Option<Ended>>,
    /// How many points each life came by.
    pub points: Vec<usize>,
    /// Everything it came by, in order.
    pub trace: Vec<Passed>,
    /// The world as it was before, and in the end.
    pub worlds: (Value, Value),
    /// Whether an undo was made to fail and the world tells a person of it; see
    /// [`set_aside`](super::Scene::set_aside).
    pub aside: bool,
    /// What was wrong by the rules that hold for every history.
    pub wrong: Vec<String>,
}
impl Played {
    /// How the job ended.
    #[must_use]
    pub fn end(&self) -> Option<&Ended> {
        self.ends.last().and_then(Option::as_ref)
    }
}

/// What came of a whole matrix. It prints as one line.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Of which job.
    pub name: String,
    /// Its steps, in the undisturbed run.
    pub steps: usize,
    /// Points at journal writes, in the undisturbed run: two for each record.
    pub journal_points: usize,
    /// Points at effects, in the undisturbed run.
    pub effect_points: usize,
    /// How many histories were played.
    pub histories: usize,
    /// How many lives of the process there were in them.
    pub lives: usize,
    /// Of each kind, how many were played of how many there are.
    pub kinds: BTreeMap<&'static str, (usize, usize)>,
    /// The seed by which they were drawn, where not all were.
    pub seed: u64,
    /// How long all took.
    pub took: Duration,
    /// What was wrong.
    pub violations: Vec<Violation>,
}
impl Report {
    /// Itself, if nothing was wrong.
    ///
    /// # Panics
    /// With every violation, if something was.
    #[must_use]
    pub fn expect_clean(self) -> Self {
        let list: Vec<String> = self.violations.iter().map(ToString::to_string).collect();
        assert!(list.is_empty(), "{self}\n{}", list.join("\n"));
        self
    }
}
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, steps, journal_points, effect_points, histories, lives, .. } = self;
        let points = journal_points + effect_points;
        let (s, per_s) = (self.took.as_secs_f64(), *histories as f64 / self.took.as_secs_f64().max(0.001));
        write!(
            f,
            "{name}: {steps} steps, {points} points ({journal_points} journal, {effect_points} effects); \
             {histories} histories, {lives} lives in {s:.1} s ({per_s:.0}/s):"
        )?;
        for (kind, (played, of)) in &self.kinds {
            if played == of {
                write!(f, " {kind} {of},")?;
            } else {
                write!(f, " {kind} {played} of {of} (seed {}),", self.seed)?;
            }
        }
        match self.violations.len() {
            0 => write!(f, " nothing wrong"),
            n => write!(f, " {n} WRONG"),
        }
    }
}
