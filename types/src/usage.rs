//! How the computers were used: what `GET /v1/usage` answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

crate::state::words! {
    /// What usage is counted by.
    UsageBy as UsageBy {
        /// By image, all its revisions together.
        Image = "image",
        /// By the group whose times and limits a reservation had.
        Group = "group",
        /// By computer.
        Computer = "computer",
        /// By whose reservation it was.
        Owner = "owner",
    }
}

/// What there was of one image, group, computer or owner.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageLine {
    /// Which one; none for reservations that had none.
    pub key: Option<String>,
    /// How many reservations there were at some moment of the time: waiting, used, or both.
    pub reservations: u64,
    /// How many of those that ended in the time were usable, and nobody ever connected.
    pub no_shows: u64,
    /// For how many hours computers were usable, within the time.
    pub hours: f64,
    /// How many computers were had at once at most, from being given out until they were back.
    pub peak: u64,
    /// When that was first.
    pub peak_at: Option<DateTime<Utc>>,
    /// For how many seconds half of those waited at most that became usable in the time.
    pub wait_p50_s: Option<u64>,
    /// For how many seconds nine in ten did.
    pub wait_p90_s: Option<u64>,
}

/// How the computers were used in some time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageReport {
    /// From when.
    pub from: DateTime<Utc>,
    /// Until when, which does not belong to it.
    pub until: DateTime<Utc>,
    /// What it is counted by.
    pub by: UsageBy,
    /// Whether only the caller's own reservations are in it.
    pub own: bool,
    /// A line for each, most hours first.
    pub lines: Vec<UsageLine>,
    /// All of them together.
    pub total: UsageLine,
}

/// One day, by UTC, of how vcld was used and how well it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DayTrend {
    /// The day.
    pub day: chrono::NaiveDate,
    /// How many loads ended well: by hand, for reservations, for the warm pool.
    pub loads: u64,
    /// Half of them took no longer, in seconds.
    pub load_p50_s: Option<f64>,
    /// Nineteen of twenty took no longer, in seconds.
    pub load_p95_s: Option<f64>,
    /// How many captures ended well.
    pub captures: u64,
    /// Half of them took no longer, in seconds.
    pub capture_p50_s: Option<f64>,
    /// Nineteen of twenty took no longer, in seconds.
    pub capture_p95_s: Option<f64>,
    /// How many hours of that day reservations had computers that could be used, all of them together.
    pub hours: f64,
    /// How many reservations got their computer.
    pub reservations: u64,
    /// Half of these waited no longer for it, in seconds.
    pub wait_p50_s: Option<f64>,
    /// Nine of ten waited no longer, in seconds.
    pub wait_p90_s: Option<f64>,
    /// What of today's revisions was there at the end of that day; nothing where only one's own is told.
    pub library: Option<crate::ByteSize>,
}

/// How the days went: what `GET /v1/trends` answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Trends {
    /// Whether only what is the caller's own is in it.
    pub own: bool,
    /// Each day, the earliest first; the last is today.
    pub days: Vec<DayTrend>,
}

impl UsageReport {
    /// As comma-separated values with a header, by RFC 4180, the total last. Times are RFC 3339 in UTC.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut text =
            format!("{},reservations,no_shows,hours,peak,peak_at,wait_p50_s,wait_p90_s\r\n", self.by);
        let total = UsageLine { key: Some("total".into()), ..self.total.clone() };
        for line in self.lines.iter().chain([&total]) {
            let number = |n: Option<u64>| n.map(|n| n.to_string()).unwrap_or_default();
            let at = line.peak_at.map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default();
            text.push_str(&format!(
                "{},{},{},{:.2},{},{at},{},{}\r\n",
                cell(line.key.as_deref().unwrap_or_default()),
                line.reservations,
                line.no_shows,
                line.hours,
                line.peak,
                number(line.wait_p50_s),
                number(line.wait_p90_s),
            ));
        }
        text
    }
}

/// A cell, in quotes where it has to be. One that a spreadsheet would take for a formula begins with a `'`.
fn cell(text: &str) -> String {
    let text = match text.starts_with(['=', '+', '-', '@', '\t']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read_by_spreadsheets_and_runs_nothing_there() {
        let line = |key: &str| UsageLine { key: Some(key.into()), hours: 1.5, ..UsageLine::default() };
        let report = UsageReport {
            from: DateTime::UNIX_EPOCH,
            until: DateTime::UNIX_EPOCH,
            by: UsageBy::Owner,
            own: false,
            lines: vec![line("a,\"b\""), line("=1+1"), UsageLine { key: None, ..line("") }],
            total: UsageLine {
                peak: 2,
                peak_at: Some(DateTime::UNIX_EPOCH),
                wait_p50_s: Some(3),
                ..line("")
            },
        };
        assert_eq!(
            report.csv().lines().collect::<Vec<_>>(),
            [
                "owner,reservations,no_shows,hours,peak,peak_at,wait_p50_s,wait_p90_s",
                "\"a,\"\"b\"\"\",0,0,1.50,0,,,",
                "'=1+1,0,0,1.50,0,,,",
                ",0,0,1.50,0,,,",
                "total,0,0,1.50,2,1970-01-01T00:00:00Z,3,",
            ]
        );
    }
}
