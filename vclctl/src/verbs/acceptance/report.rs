//! What was tried and how it went, as a text for people and as JSON.

use super::mask::masked;
use crate::error::{Error, ErrorKind, Result};
use crate::render::text;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use vcl_types::api::{JobView, StepState};
use vcl_types::{ComputerName, ImageRef, OsName};

/// The whole of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// What this is, for whoever finds the file.
    pub(super) report: String,
    /// The report's own format.
    pub(super) version: u32,
    pub(super) vclctl: String,
    pub(super) os: OsName,
    pub(super) computer: ComputerName,
    pub(super) image: ImageRef,
    pub(super) began: DateTime<Utc>,
    pub(super) ended: DateTime<Utc>,
    pub(super) passed: bool,
    pub(super) checks: Vec<Check>,
    /// What it does not say anything about.
    pub(super) not_tried: Vec<String>,
}

/// One thing that was tried.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) took_s: f64,
    pub(super) found: Vec<String>,
    pub(super) job: Option<JobView>,
    pub(super) failed: Option<Failed>,
}

/// How it failed.
#[derive(Debug, Serialize)]
pub(super) struct Failed {
    pub(super) why: String,
    /// The names and ends of the texts that the daemon kept of it.
    pub(super) evidence: Vec<(String, String)>,
}

impl Report {
    /// Takes out what looks like a secret, wherever it stands.
    pub(super) fn mask(&mut self) {
        for check in &mut self.checks {
            for line in &mut check.found {
                *line = masked(line);
            }
            if let Some(failed) = &mut check.failed {
                failed.why = masked(&failed.why);
                for (_, text) in &mut failed.evidence {
                    *text = masked(text);
                }
            }
            if let Some(job) = &mut check.job {
                job.reason = job.reason.as_deref().map(masked);
                for step in &mut job.steps {
                    step.error = step.error.as_deref().map(masked);
                }
            }
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        let verdict = if self.passed { "PASSED" } else { "FAILED" };
        let _ = writeln!(out, "vcld acceptance of {} on {}: {verdict}", self.os, self.computer);
        let (began, ended) = (self.began.to_rfc3339(), self.ended.to_rfc3339());
        let _ = writeln!(out, "image {}, vclctl {}, {began} to {ended}\n", self.image, self.vclctl);
        for check in &self.checks {
            let verdict = if check.failed.is_some() { "FAILED" } else { "passed" };
            let _ = writeln!(out, "{verdict}  {:>8.1} s  {}", check.took_s, text::one_line(&check.name));
            for line in &check.found {
                let _ = writeln!(out, "                    {}", text::one_line(line));
            }
            for step in check.job.iter().flat_map(|job| &job.steps) {
                let took = step.started.zip(step.ended).map(|(from, to)| (to - from).as_seconds_f64());
                let took = took.map_or_else(|| "-".to_owned(), |s| format!("{s:.1} s"));
                let state = match step.state {
                    StepState::Done => "",
                    StepState::Planned => " (not begun)",
                    StepState::Running => " (under way)",
                    StepState::Failed => " (failed)",
                    StepState::Undone => " (taken back)",
                };
                let _ = writeln!(out, "          {took:>10}  {}{state}", text::one_line(&step.name));
            }
            if let Some(failed) = &check.failed {
                let _ = writeln!(out, "          {}", text::one_line(&failed.why));
                for (name, kept) in &failed.evidence {
                    let _ = writeln!(out, "          --- {}", text::one_line(name));
                    for line in kept.lines() {
                        let _ = writeln!(out, "          | {}", text::one_line(line));
                    }
                }
            }
        }
        let _ = writeln!(out, "\nnot tried:");
        for line in &self.not_tried {
            let _ = writeln!(out, "  {line}");
        }
        out
    }
}

/// The two files of a report. They are made before anything is tried, so that a report is not lost at the end for want of a
/// place.
pub(super) struct Files {
    text: (PathBuf, File),
    json: (PathBuf, File),
}

impl Files {
    pub(super) fn create(base: &Path) -> Result<Self> {
        let create = |ending: &str| {
            let mut path = base.as_os_str().to_owned();
            path.push(ending);
            let path = PathBuf::from(path);
            match File::create_new(&path) {
                Ok(file) => Ok((path, file)),
                Err(e) => {
                    let context =
                        format!("cannot make the report `{}`; name another with --report", path.display());
                    Err(Error::caused(ErrorKind::Local, context, e))
                }
            }
        };
        let text = create(".txt")?;
        match create(".json") {
            Ok(json) => Ok(Self { text, json }),
            Err(e) => {
                let _ = std::fs::remove_file(&text.0);
                Err(e)
            }
        }
    }
    pub(super) fn write(&self, report: &Report) -> Result<()> {
        let failed = |path: &Path, e: std::io::Error| {
            Error::caused(ErrorKind::Local, format!("cannot write the report `{}`", path.display()), e)
        };
        let value: Value = serde_json::to_value(report).map_err(|e| failed(&self.json.0, e.into()))?;
        let pretty = serde_json::to_string_pretty(&value).map_err(|e| failed(&self.json.0, e.into()))?;
        (&self.text.1).write_all(report.text().as_bytes()).map_err(|e| failed(&self.text.0, e))?;
        (&self.json.1)
            .write_all(format!("{}\n", text::escaped_json(&pretty)).as_bytes())
            .map_err(|e| failed(&self.json.0, e))
    }
}

impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} and {}", self.text.0.display(), self.json.0.display())
    }
}
