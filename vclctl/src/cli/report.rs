//! What reports are asked for.

use super::reservation::moment;
use chrono::{DateTime, Local, NaiveDate, TimeZone as _, Utc};
use clap::Subcommand;
use vcl_types::usage::UsageBy;

/// A day's beginning here, or a time as for reservations.
fn day_or_moment(text: &str) -> Result<DateTime<Utc>, String> {
    let day =
        NaiveDate::parse_from_str(text.trim(), "%Y-%m-%d").ok().and_then(|day| day.and_hms_opt(0, 0, 0));
    match day.and_then(|at| Local.from_local_datetime(&at).earliest()) {
        Some(at) => Ok(at.with_timezone(&Utc)),
        None => moment(text).map_err(|_| {
            format!("`{text}` is no day and no time; write it as in 2026-11-01 or '2026-11-01 10:00'")
        }),
    }
}

/// What can be reported.
#[derive(Debug, Subcommand)]
pub enum ReportVerb {
    /// How the computers were used: reservations, hours, how many at once, waiting times, who did not come.
    #[command(
        after_help = "Examples:\n  vclctl report usage                                   by image, the last 30 days\n  \
        vclctl report usage --by group --from 2026-10-01 --until 2026-11-01\n  \
        vclctl report usage --by computer --csv > usage.csv\n  vclctl report usage --owner alice --by image"
    )]
    Usage(UsageArguments),
}

/// Which usage is wanted.
#[derive(Debug, clap::Args)]
pub struct UsageArguments {
    /// What it is counted by: image, group, computer or owner.
    #[arg(long, default_value = "image", value_name = "WHAT")]
    pub by: UsageBy,
    /// From when: 2026-11-01, '2026-11-01 10:00'; thirty days before the end if not said.
    #[arg(long, value_name = "TIME", value_parser = day_or_moment)]
    pub from: Option<DateTime<Utc>>,
    /// Until when, which does not belong to it; now if not said.
    #[arg(long, value_name = "TIME", value_parser = day_or_moment)]
    pub until: Option<DateTime<Utc>>,
    /// Only this user's reservations.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// As comma-separated values, for a spreadsheet.
    #[arg(long)]
    pub csv: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_its_beginning() {
        let day = day_or_moment("2026-11-01").unwrap().with_timezone(&Local);
        assert_eq!(day.format("%Y-%m-%d %H:%M").to_string(), "2026-11-01 00:00");
        assert!(day_or_moment("2026-11-01T10:00:00Z").is_ok());
        assert!(day_or_moment("soon").unwrap_err().contains("2026-11-01"));
    }
}
