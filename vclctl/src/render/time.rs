//! Times as people say them.

use chrono::{DateTime, Local, NaiveDateTime, TimeDelta, Utc};

/// What time it is, and where: so that a test can say both.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    now: Option<DateTime<Utc>>,
    local: fn(DateTime<Utc>) -> NaiveDateTime,
}

impl Clock {
    /// The clock on the wall, in the time zone of this process.
    #[must_use]
    pub fn now() -> Self {
        Self { now: None, local: |at| at.with_timezone(&Local).naive_local() }
    }
    /// A clock that stands still, in UTC.
    #[must_use]
    pub fn fixed(now: DateTime<Utc>) -> Self {
        Self { now: Some(now), local: |at| at.naive_utc() }
    }
    /// What it shows.
    #[must_use]
    pub fn read(&self) -> DateTime<Utc> {
        self.now.unwrap_or_else(Utc::now)
    }
    /// `12:03:04`.
    #[must_use]
    pub fn time(&self, at: DateTime<Utc>) -> String {
        (self.local)(at).format("%H:%M:%S").to_string()
    }
    /// `12:03:04` today, `03-01 12:03` this year, else `2026-03-01`.
    #[must_use]
    pub fn short(&self, at: DateTime<Utc>) -> String {
        let (at, now) = ((self.local)(at), (self.local)(self.read()));
        let format = if at.date() == now.date() {
            "%H:%M:%S"
        } else if at.format("%Y").to_string() == now.format("%Y").to_string() {
            "%m-%d %H:%M"
        } else {
            "%Y-%m-%d"
        };
        at.format(format).to_string()
    }
    /// `2026-03-01 12:03:04`.
    #[must_use]
    pub fn full(&self, at: DateTime<Utc>) -> String {
        (self.local)(at).format("%Y-%m-%d %H:%M:%S").to_string()
    }
    /// `5 min ago`; a date when it was long ago.
    #[must_use]
    pub fn ago(&self, at: DateTime<Utc>) -> String {
        let past = self.read() - at;
        match past.num_seconds() {
            ..1 => "now".into(),
            1..60 => format!("{} s ago", past.num_seconds()),
            60..3_600 => format!("{} min ago", past.num_minutes()),
            3_600..172_800 => format!("{} h ago", past.num_hours()),
            172_800..1_209_600 => format!("{} d ago", past.num_days()),
            _ => (self.local)(at).format("%Y-%m-%d").to_string(),
        }
    }
    /// How long something has been going on.
    #[must_use]
    pub fn since(&self, at: DateTime<Utc>) -> String {
        took(self.read() - at)
    }
}

/// `0.3 s`, `41 s`, `1 min 31 s`, `2 h 05 min`, `3 d 4 h`.
#[must_use]
pub fn took(time: TimeDelta) -> String {
    let time = time.max(TimeDelta::zero());
    let seconds = time.num_seconds();
    match seconds {
        // Past this the tenth would be rounded up to the next shape.
        ..30 => format!("{:.1} s", time.num_milliseconds() as f64 / 1000.0),
        30..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures::at;

    #[test]
    fn durations_are_short() {
        let shown = [-5, 0, 340, 12_100, 41_700, 91_000, 7_500_000, 273_600_000]
            .map(|milliseconds| took(TimeDelta::milliseconds(milliseconds)));
        let expected = ["0.0 s", "0.0 s", "0.3 s", "12.1 s", "41 s", "1 min 31 s", "2 h 05 min", "3 d 4 h"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn times_are_as_near_as_they_matter() {
        let clock = Clock::fixed(at("2026-03-01T12:03:04Z"));
        let ago =
            ["2026-03-01T12:03:05Z", "2026-03-01T12:02:34Z", "2026-03-01T11:58:00Z", "2026-03-01T05:00:00Z"]
                .map(|text| clock.ago(at(text)));
        assert_eq!(ago, ["now", "30 s ago", "5 min ago", "7 h ago"]);
        assert_eq!(clock.ago(at("2026-02-25T12:00:00Z")), "4 d ago");
        assert_eq!(clock.ago(at("2025-12-24T12:00:00Z")), "2025-12-24");
        assert_eq!(clock.short(at("2026-03-01T00:00:01Z")), "00:00:01");
        assert_eq!(clock.short(at("2026-02-25T12:00:00Z")), "02-25 12:00");
        assert_eq!(clock.short(at("2025-02-25T12:00:00Z")), "2025-02-25");
    }
}
