//! Times of the week: `Mon 10-12`, `Tue,Thu 14:00-15:30`, `Mon-Fri 8-18`; several are separated by `;`.

use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, TimeZone, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Text that is no time of the week.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{value}` is not a time of the week: {rule}; write it as in `Mon 10-12` or `Tue,Thu 14:00-15:30; Fri 8-9`"
)]
pub struct InvalidWeekly {
    value: String,
    rule: &'static str,
}

/// One day's span, in minutes from midnight; the end may be 1440.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    day: u8,
    from: u16,
    to: u16,
}

/// Times that come back every week, on the clock of some time zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Weekly {
    text: String,
    spans: Vec<Span>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

fn day(word: &str) -> Option<u8> {
    let word = word.trim().to_ascii_lowercase();
    let n = DAYS.iter().position(|name| word.len() >= 3 && (word == *name || word.starts_with(name)))?;
    let whole = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"][n];
    whole.starts_with(&word).then_some(n as u8)
}

fn minute(word: &str) -> Option<u16> {
    let (hour, minute) = word.trim().split_once(':').unwrap_or((word.trim(), "0"));
    let number = |text: &str| {
        let plain = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let all = hour * 60 + minute;
    (minute < 60 && all <= 1440).then_some(all)
}

impl FromStr for Weekly {
    type Err = InvalidWeekly;
    fn from_str(value: &str) -> Result<Self, InvalidWeekly> {
        let bad = |rule| InvalidWeekly { value: value.chars().take(80).collect(), rule };
        if value.len() > 400 {
            return Err(bad("it is longer than 400 characters"));
        }
        let mut spans = Vec::new();
        for part in value.split(';') {
            let part = part.trim();
            let (days, hours) = part.rsplit_once(' ').ok_or(bad("it needs days and hours"))?;
            let (from, to) = hours.split_once('-').ok_or(bad("its hours need a beginning and an end"))?;
            let time = "an hour is a number from 0 to 24, with minutes after a colon";
            let (from, to) = (minute(from).ok_or(bad(time))?, minute(to).ok_or(bad(time))?);
            if from >= to {
                return Err(bad(
                    "its end is not after its beginning; a span over midnight is written as two",
                ));
            }
            for piece in days.split(',') {
                let named = "days are Mon, Tue, Wed, Thu, Fri, Sat and Sun";
                let (first, last) = piece.split_once('-').unwrap_or((piece, piece));
                let (first, last) = (day(first).ok_or(bad(named))?, day(last).ok_or(bad(named))?);
                let count = (7 + last - first) % 7;
                spans.extend((0..=count).map(|n| Span { day: (first + n) % 7, from, to }));
            }
        }
        spans.sort_unstable();
        if spans.windows(2).any(|pair| pair[0].day == pair[1].day && pair[1].from < pair[0].to) {
            return Err(bad("two of its spans overlap"));
        }
        Ok(Self { text: value.trim().to_owned(), spans })
    }
}
impl TryFrom<String> for Weekly {
    type Error = InvalidWeekly;
    fn try_from(value: String) -> Result<Self, InvalidWeekly> {
        value.parse()
    }
}
impl From<Weekly> for String {
    fn from(weekly: Weekly) -> Self {
        weekly.text
    }
}
impl fmt::Display for Weekly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// That minute of that day as the zone's clock shows it. An hour that a change of the clock leaves out is the next that
/// there is; of one that comes twice it is the first.
fn moment<Z: TimeZone>(zone: &Z, date: NaiveDate, minutes: u16) -> Option<DateTime<Utc>> {
    let (date, minutes) =
        if minutes == 1440 { (date.checked_add_days(Days::new(1))?, 0) } else { (date, minutes) };
    (0..8).find_map(|quarter| {
        let minutes = u32::from(minutes) + quarter * 30;
        let date = date.checked_add_days(Days::new(u64::from(minutes / 1440)))?;
        let time = NaiveTime::from_num_seconds_from_midnight_opt(minutes % 1440 * 60, 0)?;
        Some(zone.from_local_datetime(&date.and_time(time)).earliest()?.with_timezone(&Utc))
    })
}

impl Weekly {
    /// Its spans that overlap a period, on the clock of a zone, the earliest first.
    #[must_use]
    pub fn between<Z: TimeZone>(
        &self,
        zone: &Z,
        from: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
        let mut found = Vec::new();
        // At the ends of the calendar a zone's clock has no day for a moment: nothing is there either.
        let offset = chrono::Offset::fix(&zone.offset_from_utc_datetime(&from.naive_utc()));
        let day = from.naive_utc().checked_add_offset(offset).map(|local| local.date());
        let Some(mut date) = day.and_then(|day| day.checked_sub_days(Days::new(1))) else {
            return found;
        };
        // A year is more than anybody looks ahead.
        for _ in 0..370 {
            if moment(zone, date, 0).is_none_or(|midnight| midnight >= until) {
                break;
            }
            let today = date.weekday().num_days_from_monday() as u8;
            for span in self.spans.iter().filter(|span| span.day == today) {
                if let (Some(begin), Some(end)) = (moment(zone, date, span.from), moment(zone, date, span.to))
                    && begin < until
                    && end > from
                    && begin < end
                {
                    found.push((begin, end));
                }
            }
            let Some(next) = date.checked_add_days(Days::new(1)) else { break };
            date = next;
        }
        found
    }
    /// Whether a moment lies in one of its spans.
    #[must_use]
    pub fn contains<Z: TimeZone>(&self, zone: &Z, at: DateTime<Utc>) -> bool {
        let next = at + chrono::TimeDelta::milliseconds(1);
        self.between(zone, at, next).iter().any(|(from, to)| *from <= at && at < *to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_comes_back_every_week() {
        let rule: Weekly = "Mon 10-12; Thu 14:30-16:00".parse().unwrap();
        let found = rule.between(&Utc, utc("2026-11-22T00:00:00Z"), utc("2026-12-01T00:00:00Z"));
        let shown: Vec<_> =
            found.iter().map(|(a, b)| format!("{} {}", a.format("%d %H:%M"), b.format("%H:%M"))).collect();
        assert_eq!(shown, ["23 10:00 12:00", "26 14:30 16:00", "30 10:00 12:00"]);
        assert!(rule.contains(&Utc, utc("2026-11-23T10:00:00Z")));
        assert!(!rule.contains(&Utc, utc("2026-11-23T12:00:00Z")));
    }

    #[test]
    fn ranges_of_days_may_go_over_sunday_and_a_day_may_end_at_24() {
        let rule: Weekly = "Fri-Mon 22-24".parse().unwrap();
        let found = rule.between(&Utc, utc("2026-11-27T23:59:00Z"), utc("2026-11-28T00:00:00Z"));
        assert_eq!(found, [(utc("2026-11-27T22:00:00Z"), utc("2026-11-28T00:00:00Z"))]);
    }

    #[test]
    fn at_the_ends_of_the_calendar_there_is_nothing() {
        let rule: Weekly = "Mon-Sun 0-24".parse().unwrap();
        let (east, west) = (chrono::FixedOffset::east_opt(3600), chrono::FixedOffset::west_opt(3600));
        for zone in [east.unwrap(), west.unwrap()] {
            for at in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
                assert_eq!(rule.between(&zone, at, at), []);
            }
        }
        let last = utc("+262142-12-31T23:30:00Z");
        assert_eq!(rule.between(&east.unwrap(), last, utc("2026-11-23T10:00:00Z")), []);
    }

    #[test]
    fn what_is_none_is_refused_with_the_reason() {
        for (bad, why) in [
            ("Mon", "days and hours"),
            ("Mon 10", "beginning and an end"),
            ("Mon 12-10", "not after"),
            ("Mon 10-25", "0 to 24"),
            ("Mo 10-12", "days are"),
            ("Monkey 10-12", "days are"),
            ("Mon 10-12; Mon 11-13", "overlap"),
            ("Mon 1:99-2", "0 to 24"),
            ("", "days and hours"),
        ] {
            let error = bad.parse::<Weekly>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
