//! What stands in forms, read.

use super::ask::{Asked, No};
use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeZone as _, Utc};
use std::str::FromStr;

/// What was filled in, where something was.
pub(super) fn some(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// What was filled in, read.
///
/// # Errors
/// It is no such thing; the message names the field and the value.
pub(super) fn read<T: FromStr>(field: &str, text: &str) -> Asked<Option<T>>
where
    T::Err: std::fmt::Display,
{
    let read =
        |text: String| text.parse().map_err(|e: T::Err| No::invalid(format!("{field}: `{text}`: {e}")));
    some(text).map(read).transpose()
}

/// What has to be filled in.
pub(super) fn needed<T: FromStr>(field: &str, text: &str) -> Asked<T>
where
    T::Err: std::fmt::Display,
{
    read(field, text)?.ok_or_else(|| No::invalid(format!("{field}: nothing is filled in")))
}

/// Words with commas or blanks between.
pub(super) fn words(text: &str) -> Vec<String> {
    text.split([',', ' ', '\n', '\r', '\t', ';']).filter_map(some).collect()
}

fn zone(name: &str) -> Asked<chrono_tz::Tz> {
    let name = if name.is_empty() { "UTC" } else { name };
    name.parse().map_err(|_| No::invalid(format!("`{name}` is no time zone that is known here")))
}

/// A moment on somebody's clock. One that his clock shows twice is the first; one that it never shows is refused.
///
/// # Errors
/// It is no moment.
pub(super) fn moment(field: &str, text: &str, zone_name: &str) -> Asked<Option<DateTime<Utc>>> {
    let Some(text) = some(text) else { return Ok(None) };
    let local = ["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"]
        .into_iter()
        .find_map(|form| NaiveDateTime::parse_from_str(&text, form).ok())
        .ok_or_else(|| {
            No::invalid(format!("{field}: `{text}` is no moment; write it as 2026-03-01T08:00"))
        })?;
    let at = zone(zone_name)?.from_local_datetime(&local).earliest();
    let at = at.ok_or_else(|| {
        No::invalid(format!("{field}: there is no {text} in {zone_name}: the clocks are put forward then"))
    })?;
    Ok(Some(at.with_timezone(&Utc)))
}

/// The last second of a day on the site's clock.
///
/// # Errors
/// It is no day, or none that was there.
pub(super) fn end_of_day(field: &str, text: &str, zone: chrono_tz::Tz) -> Asked<Option<DateTime<Utc>>> {
    let Some(day) = read::<NaiveDate>(field, text)? else { return Ok(None) };
    let end = day.and_hms_opt(23, 59, 59).and_then(|end| zone.from_local_datetime(&end).latest());
    let end = end.ok_or_else(|| No::invalid(format!("{field}: the clocks of {zone} left {day} out")))?;
    Ok(Some(end.with_timezone(&Utc)))
}

/// A number of hours as seconds.
///
/// # Errors
/// It is no number, or none that a reservation can last.
pub(super) fn hours(field: &str, text: &str) -> Asked<Option<u64>> {
    let hours: Option<f64> = read(field, &text.replace(',', "."))?;
    match hours {
        Some(hours) if !(hours > 0.0 && hours <= 100_000.0) => {
            Err(No::invalid(format!("{field}: {hours} hours is no length of a reservation")))
        }
        hours => Ok(hours.map(|hours| (hours * 3600.0).round() as u64)),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_moment_is_read_on_the_clock_of_whoever_wrote_it() {
        let at = |text: &str, zone: &str| {
            moment("start", text, zone).map(|at| at.map(|at| at.to_rfc3339())).map_err(|no| no.message)
        };
        assert_eq!(at("2026-07-01T10:00", "Europe/Berlin"), Ok(Some("2026-07-01T08:00:00+00:00".into())));
        assert_eq!(at("2026-12-01T10:00", ""), Ok(Some("2026-12-01T10:00:00+00:00".into())));
        assert_eq!(at(" ", "nowhere"), Ok(None));
        // Shown twice: the first. Never shown: refused.
        assert_eq!(at("2026-10-25T02:30", "Europe/Berlin"), Ok(Some("2026-10-25T00:30:00+00:00".into())));
        assert!(at("2026-03-29T02:30", "Europe/Berlin").unwrap_err().contains("put forward"));
        assert!(at("2026-07-01T10:00", "Mars/Base").unwrap_err().contains("Mars/Base"));
        assert!(at("tomorrow", "UTC").unwrap_err().contains("`tomorrow`"));
    }
    #[test]
    fn a_day_ends_on_the_clock_of_the_site() {
        let end = |text: &str, zone| {
            end_of_day("until", text, zone).map(|at| at.map(|at| at.to_rfc3339())).map_err(|no| no.message)
        };
        let berlin = chrono_tz::Europe::Berlin;
        assert_eq!(end("2026-07-01", berlin), Ok(Some("2026-07-01T21:59:59+00:00".into())));
        assert_eq!(end("2026-12-01", berlin), Ok(Some("2026-12-01T22:59:59+00:00".into())));
        // Samoa went over the date line.
        assert!(end("2011-12-30", chrono_tz::Pacific::Apia).unwrap_err().contains("left 2011-12-30 out"));
        assert_eq!(end("", berlin), Ok(None));
        assert!(end("soon", berlin).unwrap_err().contains("`soon`"));
    }
    #[test]
    fn hours_are_read_with_a_point_or_a_comma() {
        assert_eq!(hours("h", "1,5").unwrap(), Some(5400));
        assert_eq!(hours("h", "").unwrap(), None);
        for wrong in ["-1", "0", "inf", "NaN", "x", "1e9"] {
            assert!(hours("h", wrong).is_err(), "{wrong}");
        }
    }
    #[test]
    fn words_stand_between_commas_and_blanks() {
        assert_eq!(words(" a, b\nc ;"), ["a", "b", "c"]);
    }
}
