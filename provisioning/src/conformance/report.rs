//! What came of a run.

use super::cases::Case;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "why")]
pub enum Verdict {
    /// The backend does what the case asks.
    Passed,
    /// It does not, and how.
    Failed(String),
    /// It was not tried, and why.
    Skipped(String),
}
impl Verdict {
    /// `passed`, `FAILED` or `skipped`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed(_) => "FAILED",
            Self::Skipped(_) => "skipped",
        }
    }
    /// Why it failed or was skipped.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Passed => None,
            Self::Failed(why) | Self::Skipped(why) => Some(why),
        }
    }
}

/// One case and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The capability that it is of, by its word.
    pub capability: String,
    /// The case.
    pub case: String,
    /// What it shows.
    pub shows: String,
    /// Whether it boots a guest where the world has one to boot.
    pub boots: bool,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
}
impl Row {
    pub(super) fn of(case: &Case, verdict: Verdict) -> Self {
        Self {
            capability: case.capability().to_owned(),
            case: case.name.to_owned(),
            shows: case.shows.to_owned(),
            boots: case.boots,
            verdict,
        }
    }
}

/// What came of all cases. It prints as a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The world.
    pub world: String,
    /// The backend's type.
    pub kind: String,
    /// The commit that it ran on, and `+` where what ran was not committed; `None` before it is kept. It is told, and not
    /// compared.
    pub tree: Option<String>,
    /// At how many points each kind of interruption was played; `None` at all there are.
    pub points: Option<usize>,
    /// Each case, in the kit's order.
    pub cases: Vec<Row>,
}

impl Report {
    /// As JSON, with a newline at its end.
    #[must_use]
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
    /// Each case that failed, and why.
    #[must_use]
    pub fn failed(&self) -> Vec<String> {
        let failed = self.cases.iter().filter(|row| matches!(row.verdict, Verdict::Failed(_)));
        failed.map(|row| format!("{}: {}", row.case, row.verdict.why().unwrap_or_default())).collect()
    }
    /// Compares it with the one that is kept in a file, which `UPDATE=1` writes.
    ///
    /// # Errors
    /// It is another.
    pub fn settle(&self, file: &Path) -> Result<(), String> {
        if std::env::var_os("UPDATE").is_some_and(|v| v == "1") {
            let now = Self { tree: file.parent().and_then(tree), ..self.clone() };
            return std::fs::write(file, now.json()).map_err(|e| format!("writing {}: {e}", file.display()));
        }
        let kept = std::fs::read_to_string(file).map_err(|e| format!("reading {}: {e}", file.display()))?;
        let kept: Option<Self> = serde_json::from_str(&kept).ok();
        if kept.as_ref().is_some_and(|kept| *self == Self { tree: self.tree.clone(), ..kept.clone() }) {
            return Ok(());
        }
        if let Some(points) = kept.as_ref().map(|kept| kept.points).filter(|points| *points != self.points) {
            let (file, now) = (file.display(), self.points);
            return Err(format!("{file} is of {points:?} points, and {now:?} ran; UPDATE=1 writes it anew"));
        }
        let kept = kept.map(|report| report.cases).unwrap_or_default();
        let other = self.cases.iter().filter(|row| !kept.contains(row)).map(|row| row.case.as_str());
        let gone = kept.iter().filter(|row| !self.cases.contains(row)).map(|row| row.case.as_str());
        let mut names: Vec<&str> = other.chain(gone).collect();
        names.sort_unstable();
        names.dedup();
        let names = names.join(", ");
        Err(format!("{} is not what ran, in: {names}; UPDATE=1 writes it anew", file.display()))
    }
}

/// What is checked out where a report is kept.
fn tree(at: &Path) -> Option<String> {
    let git = |words: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(at).args(words).output().ok()?;
        let text = output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()?;
        Some(text.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    // What is written by such runs is no part of what ran.
    let changed = git(&["status", "--porcelain", "--", ":/", ":(exclude,top)docs"])?;
    Some(if changed.is_empty() { commit } else { commit + "+" })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.cases.iter().map(|row| row.case.len()).max().unwrap_or(0);
        let mut count: BTreeMap<&str, usize> = BTreeMap::new();
        let points = self.points.map_or("every point".to_owned(), |points| format!("{points} points"));
        let (world, kind) = (&self.world, &self.kind);
        writeln!(
            f,
            "conformance of {world} (a backend of type {kind}), interrupted at {points} of its jobs"
        )?;
        for row in &self.cases {
            *count.entry(row.verdict.word()).or_default() += 1;
            let (capability, case, boots) =
                (&row.capability, &row.case, if row.boots { "guest" } else { "" });
            write!(f, "{capability:<11} {case:<width$} {boots:<5} {}", row.verdict.word())?;
            match row.verdict.why() {
                Some(why) => writeln!(f, ": {why}")?,
                None => writeln!(f)?,
            }
        }
        let all: Vec<String> = count.iter().map(|(word, n)| format!("{n} {word}")).collect();
        write!(f, "{} cases: {}", self.cases.len(), all.join(", "))
    }
}
