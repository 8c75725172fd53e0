//! How the computers were used.

use super::table::{maybe, quiet};
use super::{Clock, Table, took};
use chrono::TimeDelta;
use vcl_types::usage::{UsageLine, UsageReport};

/// A line for each, and one for all.
#[must_use]
pub fn report(report: &UsageReport, clock: &Clock) -> String {
    let by = report.by.as_str().to_uppercase();
    let mut table = Table::new(
        &[&by, "RESERVATIONS", "NO-SHOWS", "HOURS", "AT ONCE", "WHEN", "WAIT P50", "P90"],
        "there was no reservation",
    );
    let wait = |s: Option<u64>| {
        maybe(s.map(|s| {
            took(
                TimeDelta::try_seconds(i64::try_from(s).unwrap_or(i64::MAX / 1000)).unwrap_or(TimeDelta::MAX),
            )
        }))
    };
    let total = UsageLine { key: Some("all".into()), ..report.total.clone() };
    let all = if report.lines.len() > 1 { Some(&total) } else { None };
    for line in report.lines.iter().chain(all) {
        table.row([
            maybe(line.key.as_ref()),
            quiet(line.reservations),
            quiet(line.no_shows),
            quiet(format!("{:.1}", line.hours)),
            quiet(line.peak),
            maybe(line.peak_at.map(|at| clock.short(at))),
            wait(line.wait_p50_s),
            wait(line.wait_p90_s),
        ]);
    }
    let whose = if report.own { ", your own" } else { "" };
    format!("{} to {}{whose}\n{}", clock.full(report.from), clock.full(report.until), table.text())
}
