//! How long steps took in jobs that ended well, and what that says of those under way.
//!
//! One row a job; what is asked for reads the newest [`RUNS`] rows of a kind on a backend, so it costs the same after
//! years.

use crate::database::{DbRow, json, millis, now, time, to_json};
use crate::engine::number;
use crate::{Claim, Queue, Result};
use chrono::{DateTime, Utc};
use sqlx::Row;
use std::time::Duration;
use vcl_types::api::Usual;
use vcl_types::{BackendName, JobKind};

/// How many of the newest runs count.
const RUNS: i64 = 50;
/// How many runs it takes before they say anything.
const ENOUGH: usize = 3;

/// Past runs of one kind of job on one backend, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    runs: Vec<PastRun>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PastRun {
    whole: Option<u64>,
    steps: Vec<(String, u64)>,
}

/// The median and the 95th percentile of some times in milliseconds; `None` below three of them.
#[must_use]
pub fn usual(mut times: Vec<u64>) -> Option<Usual> {
    if times.len() < ENOUGH {
        return None;
    }
    times.sort_unstable();
    // The nearest rank: the smallest that so many percent of the runs did not exceed.
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    Some(Usual { p50_ms: at(50), p95_ms: at(95), runs: u32::try_from(times.len()).unwrap_or(u32::MAX) })
}

/// One past run: how many milliseconds all of it took, where that is known, and each of its steps.
pub type Timed = (Option<u64>, Vec<(String, u64)>);

impl History {
    /// What a job's steps took, newest run first, for tests and for whoever has them from elsewhere.
    #[must_use]
    pub fn of(runs: Vec<Timed>) -> Self {
        Self { runs: runs.into_iter().map(|(whole, steps)| PastRun { whole, steps }).collect() }
    }
    /// How long a whole job usually takes.
    #[must_use]
    pub fn whole(&self) -> Option<Usual> {
        usual(self.runs.iter().filter_map(|run| run.whole).collect())
    }
    /// How long one step usually takes.
    #[must_use]
    pub fn step(&self, name: &str) -> Option<Usual> {
        let of = |run: &PastRun| run.steps.iter().find(|(step, _)| step == name).map(|(_, took)| *took);
        usual(self.runs.iter().filter_map(of).collect())
    }
    /// What came after a step in the newest run that had it.
    #[must_use]
    pub fn after(&self, name: &str) -> Option<&str> {
        self.runs.iter().find_map(|run| {
            let at = run.steps.iter().position(|(step, _)| step == name)?;
            run.steps.get(at + 1).map(|(step, _)| step.as_str())
        })
    }
    /// How long what is left usually takes when these steps are done and the one under way has run for so long. Each
    /// past run says what it took from there on; runs without the step under way say nothing.
    #[must_use]
    pub fn left(&self, done: &[&str], current: Option<(&str, Duration)>) -> Option<Usual> {
        let rest = |run: &PastRun| {
            if let Some((step, _)) = current
                && !run.steps.iter().any(|(name, _)| name == step)
            {
                return None;
            }
            let left = run.steps.iter().filter(|(name, _)| !done.contains(&name.as_str()));
            Some(
                left.map(|(name, took)| match current {
                    Some((step, since)) if step == name => {
                        took.saturating_sub(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
                    }
                    _ => *took,
                })
                .sum(),
            )
        };
        usual(self.runs.iter().filter_map(rest).collect())
    }
}

/// A job that ended well and was not interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastJob {
    /// What kind it was.
    pub kind: JobKind,
    /// When it ended.
    pub ended: DateTime<Utc>,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

impl Queue {
    /// The jobs that ended well since a moment, without being interrupted.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn past_jobs(&self, since: DateTime<Utc>) -> Result<Vec<PastJob>> {
        let rows = sqlx::query(
            "SELECT kind, ended_at, whole FROM timings WHERE ended_at >= ? AND whole IS NOT NULL",
        );
        let read = |row: &DbRow| -> Result<Option<PastJob>> {
            // A kind of another version's is not told of.
            let word = serde_json::Value::String(row.try_get("kind")?);
            let Ok(kind) = serde_json::from_value(word) else { return Ok(None) };
            let (ended, took_ms) = (time(row.try_get("ended_at")?), number(row, "whole")?);
            Ok(Some(PastJob { kind, ended, took_ms }))
        };
        let rows = rows.bind(millis(since)).fetch_all(self.readers()).await?;
        rows.iter().filter_map(|row| read(row).transpose()).collect()
    }

    /// Remembers how long a job's steps took, without waiting for it. `whole` is `None` for a job that was interrupted:
    /// its steps count and its sum does not.
    pub fn post_timings(&self, claim: &Claim, whole: Option<Duration>, steps: Vec<(String, Duration)>) {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let (id, kind) = (claim.id(), claim.job.request.kind());
        let backend = claim.job.backend.clone();
        let steps: Vec<(String, u64)> = steps.into_iter().map(|(name, took)| (name, ms(took))).collect();
        let whole = whole.map(|d| i64::try_from(ms(d)).unwrap_or(i64::MAX));
        let posted = self.post_one(
            move |db| {
                Box::pin(async move {
                    sqlx::query(
                        "REPLACE INTO timings (job_id, kind, backend, ended_at, whole, steps) VALUES (?, ?, ?, ?, ?, ?)",
                    )
                    .bind(id.0)
                    .bind(kind.as_str())
                    .bind(backend.as_ref().map_or("", BackendName::as_str))
                    .bind(now())
                    .bind(whole)
                    .bind(to_json(&steps)?)
                    .execute(db)
                    .await?;
                    Ok(())
                })
            },
            |()| {},
        );
        if let Err(error) = posted {
            tracing::debug!(job = id.0, error = %error, "how long its steps took was not kept");
        }
    }

    /// The newest past runs of a kind of job on a backend.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn history(&self, kind: JobKind, backend: Option<&BackendName>) -> Result<History> {
        let rows = sqlx::query(
            "SELECT whole, steps FROM timings WHERE kind = ? AND backend = ? ORDER BY job_id DESC LIMIT ?",
        )
        .bind(kind.as_str())
        .bind(backend.map_or("", BackendName::as_str))
        .bind(RUNS)
        .fetch_all(self.readers())
        .await?;
        let read = |row: &crate::database::DbRow| {
            let whole: Option<i64> = row.try_get("whole")?;
            Ok(PastRun { whole: whole.map(i64::unsigned_abs), steps: json(row, "steps")? })
        };
        Ok(History { runs: rows.iter().map(read).collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let run = |boot: u64| {
            let steps = [("define", 10), ("boot", boot), ("record", 5)];
            (Some(boot + 15), steps.map(|(n, t)| (n.to_owned(), t)).to_vec())
        };
        History::of([1000, 2000, 3000, 4000].map(run).to_vec())
    }

    #[test]
    fn two_runs_say_nothing_and_percentiles_are_runs_that_happened() {
        assert_eq!(usual(vec![1, 2]), None);
        assert_eq!(usual(vec![30, 10, 20]), Some(Usual { p50_ms: 20, p95_ms: 30, runs: 3 }));
        let hundred = usual((1..=100).collect());
        assert_eq!(hundred, Some(Usual { p50_ms: 50, p95_ms: 95, runs: 100 }));
    }

    #[test]
    fn what_is_left_is_what_past_runs_took_from_there() {
        let history = history();
        assert_eq!(history.whole().map(|u| u.p50_ms), Some(2015));
        assert_eq!(history.step("boot").map(|u| (u.p50_ms, u.p95_ms)), Some((2000, 4000)));
        assert_eq!(history.step("nosuch"), None);
        assert_eq!(history.after("define"), Some("boot"));
        assert_eq!(history.after("record"), None);
        let second = Duration::from_secs(1);
        assert_eq!(history.left(&["define"], Some(("boot", second))).map(|u| u.p50_ms), Some(1005));
        // One that takes longer than ever has no time left in it, and the rest still counts.
        assert_eq!(history.left(&["define"], Some(("boot", second * 60))).map(|u| u.p95_ms), Some(5));
        assert_eq!(history.left(&[], Some(("nosuch", second))), None);
        assert_eq!(history.left(&["define", "boot", "record"], None).map(|u| u.p50_ms), Some(0));
    }
}
