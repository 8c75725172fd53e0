//! What is due in a reservation's life, and when: VCL's `check_time`, its `reserved` and `inuse` loops and their
//! timeouts, as one pure function.

use super::{Purpose, Times};
use crate::state::reservation::State;
use chrono::{DateTime, TimeDelta, Utc};

/// What a reservation's times depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moments {
    /// Where it is.
    pub state: State,
    /// What it is for.
    pub purpose: Purpose,
    /// When it begins.
    pub start: Option<DateTime<Utc>>,
    /// When it ends.
    pub end: Option<DateTime<Utc>>,
    /// When its computer became usable.
    pub usable: Option<DateTime<Utc>>,
    /// When its user said that they come.
    pub acknowledged: Option<DateTime<Utc>>,
    /// When its user was first connected.
    pub connected: Option<DateTime<Utc>>,
    /// When its user was last seen connected.
    pub seen: Option<DateTime<Utc>>,
    /// When its guest last said that nobody is connected.
    pub nobody: Option<DateTime<Utc>>,
    /// How long before the end its user was told of it already, in seconds.
    pub told: Vec<u64>,
    /// Since when its user can be heard: nobody is held to have been silent while the daemon was down.
    pub listening: DateTime<Utc>,
    /// Its times.
    pub times: Times,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Its time has come: it wants a computer.
    Begin,
    /// Its user has not said that they come.
    NotAcknowledged,
    /// Its user has not come.
    NotConnected,
    /// Its user has gone and has not come back.
    Inactive,
    /// Its user is to be told that it ends in so many seconds.
    Notice(u64),
    /// Its time is over.
    End,
}

fn after(at: DateTime<Utc>, seconds: u64) -> DateTime<Utc> {
    let span = TimeDelta::try_seconds(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(TimeDelta::MAX);
    at.checked_add_signed(span).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn before(at: DateTime<Utc>, seconds: u64) -> DateTime<Utc> {
    let span = TimeDelta::try_seconds(i64::try_from(seconds).unwrap_or(i64::MAX)).unwrap_or(TimeDelta::MAX);
    at.checked_sub_signed(span).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

impl Moments {
    /// Whether it ends when its user stays away. One without an end or of great length is not.
    fn is_watched(&self) -> bool {
        if !matches!(self.purpose, Purpose::Use | Purpose::Imaging) {
            return false;
        }
        let (Some(from), Some(end)) = (self.usable.or(self.start), self.end) else { return false };
        end < after(from, self.times.unwatched_from_s)
    }
    /// When its user's silence becomes too long.
    fn silence(&self) -> Option<(DateTime<Utc>, Due)> {
        if self.state != State::Ready || !self.is_watched() {
            return None;
        }
        let times = &self.times;
        let (from, patience, due) = match (self.connected, self.acknowledged) {
            (Some(connected), _) => (self.seen.unwrap_or(connected), times.inactivity_s, Due::Inactive),
            (None, Some(acknowledged)) => {
                (acknowledged.max(self.usable?), times.connect_s, Due::NotConnected)
            }
            (None, None) => (self.usable?, times.acknowledge_s, Due::NotAcknowledged),
        };
        Some((after(from.max(self.listening), patience), due))
    }
    /// Whether it is so what was due at that moment: only the guest knows that nobody is there, and one that does not answer
    /// since then says nothing of its user.
    fn is_known(&self, at: DateTime<Utc>, due: Due) -> bool {
        !matches!(due, Due::NotConnected | Due::Inactive) || self.nobody.is_some_and(|said| said >= at)
    }
}

/// All that is due in the state it is in, the earliest first.
#[must_use]
pub fn agenda(moments: &Moments) -> Vec<(DateTime<Utc>, Due)> {
    let mut all = Vec::new();
    let open = !matches!(moments.state, State::Ending | State::Ended);
    if moments.purpose == Purpose::Direct || !open {
        return all;
    }
    if moments.state == State::Scheduled {
        all.extend(moments.start.map(|start| (start, Due::Begin)));
    }
    all.extend(moments.silence());
    if let Some(end) = moments.end {
        all.push((end, Due::End));
        if matches!(moments.state, State::Ready | State::InUse) && moments.purpose != Purpose::Seat {
            // Nobody is told at the beginning that it ends in two weeks when it lasts four hours.
            let begun = moments.usable.or(moments.start);
            let told = &moments.told;
            let notices =
                moments.times.notices_s.iter().filter(|s| !told.contains(s)).map(|s| (before(end, *s), *s));
            let notices = notices.filter(|(at, _)| begun.is_none_or(|begun| *at > begun));
            all.extend(notices.map(|(at, s)| (at, Due::Notice(s))));
        }
    }
    all.sort_unstable();
    all
}

/// What is to be done now, if something is. Of several notices only the last is given; an end goes before everything.
#[must_use]
pub fn due(moments: &Moments, now: DateTime<Utc>) -> Option<Due> {
    let is_due = |(at, due): &(DateTime<Utc>, Due)| *at <= now && moments.is_known(*at, *due);
    let mut passed: Vec<Due> = agenda(moments).into_iter().filter(is_due).map(|(_, due)| due).collect();
    if passed.contains(&Due::End) {
        return Some(Due::End);
    }
    if let Some(silent) =
        passed.iter().find(|due| matches!(due, Due::NotAcknowledged | Due::NotConnected | Due::Inactive))
    {
        return Some(*silent);
    }
    passed.retain(|due| !matches!(due, Due::End));
    // The smallest notice that has passed says how it is.
    let last = passed.iter().filter_map(|due| if let Due::Notice(s) = due { Some(*s) } else { None }).min();
    last.map(Due::Notice).or_else(|| passed.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + s, 0).unwrap()
    }
    fn ready() -> Moments {
        Moments {
            state: State::Ready,
            purpose: Purpose::Use,
            start: Some(at(0)),
            end: Some(at(4 * 3600)),
            usable: Some(at(60)),
            acknowledged: None,
            connected: None,
            seen: None,
            nobody: Some(at(1_000_000)),
            told: vec![],
            listening: at(-1000),
            times: Times::default(),
        }
    }

    #[test]
    fn a_reservation_of_four_hours_has_vcls_times() {
        let named: Vec<_> =
            agenda(&ready()).into_iter().map(|(t, due)| ((t - at(0)).num_seconds(), due)).collect();
        assert_eq!(
            named,
            [
                (960, Due::NotAcknowledged),
                (13_800, Due::Notice(600)),
                (14_100, Due::Notice(300)),
                (14_400, Due::End)
            ]
        );
        let coming = Moments { acknowledged: Some(at(100)), ..ready() };
        assert_eq!(due(&coming, at(999)), None);
        assert_eq!(due(&coming, at(1000)), Some(Due::NotConnected));
        let gone = Moments { connected: Some(at(200)), seen: Some(at(5000)), ..coming };
        assert_eq!(due(&gone, at(5900)), Some(Due::Inactive));
        let back = Moments { state: State::InUse, ..gone };
        assert_eq!(due(&back, at(13_900)), Some(Due::Notice(600)));
        let told = Moments { told: vec![600], ..back };
        assert_eq!(due(&told, at(13_900)), None);
        assert_eq!(due(&told, at(14_399)), Some(Due::Notice(300)));
        assert_eq!(due(&told, at(14_400)), Some(Due::End));
    }

    #[test]
    fn only_a_guest_says_that_nobody_is_there() {
        let coming = Moments { acknowledged: Some(at(100)), nobody: None, ..ready() };
        let gone = Moments { connected: Some(at(50)), seen: Some(at(100)), ..coming.clone() };
        for (moments, silent) in [(coming, Due::NotConnected), (gone, Due::Inactive)] {
            assert_eq!(due(&moments, at(5000)), None);
            // What it said before says nothing of who came since.
            let before = Moments { nobody: Some(at(999)), ..moments.clone() };
            assert_eq!(due(&before, at(5000)), None);
            let said = Moments { nobody: Some(at(1000)), ..moments };
            assert_eq!(due(&said, at(5000)), Some(silent));
        }
        let away = Moments { nobody: None, ..ready() };
        assert_eq!(due(&away, at(5000)), Some(Due::NotAcknowledged));
    }

    #[test]
    fn nobody_was_silent_while_the_daemon_was_down() {
        let moments = Moments { listening: at(7000), ..ready() };
        assert_eq!(due(&moments, at(7899)), None);
        assert_eq!(due(&moments, at(7900)), Some(Due::NotAcknowledged));
    }

    #[test]
    fn servers_seats_and_long_ones_are_not_watched_and_direct_loads_have_no_times_at_all() {
        let server = Moments { purpose: Purpose::Server, end: None, ..ready() };
        assert_eq!(agenda(&server), []);
        let seat = Moments { purpose: Purpose::Seat, ..ready() };
        assert_eq!(agenda(&seat), [(at(4 * 3600), Due::End)]);
        let long = Moments { end: Some(at(10 * 86_400)), ..ready() };
        assert_eq!(due(&long, at(86_400)), None);
        assert_eq!(due(&long, at(3 * 86_400)), Some(Due::Notice(7 * 86_400)));
        let direct = Moments { purpose: Purpose::Direct, ..ready() };
        assert_eq!(agenda(&direct), []);
    }

    #[test]
    fn of_two_notices_that_were_missed_only_the_last_is_given() {
        let moments = Moments { state: State::InUse, connected: Some(at(100)), ..ready() };
        assert_eq!(due(&moments, at(14_200)), Some(Due::Notice(300)));
    }

    #[test]
    fn one_that_begins_later_begins_when_its_time_has_come() {
        let moments = Moments { state: State::Scheduled, usable: None, ..ready() };
        assert_eq!(due(&moments, at(-1)), None);
        assert_eq!(due(&moments, at(0)), Some(Due::Begin));
        let late = Moments { state: State::Queued, ..moments };
        assert_eq!(due(&late, at(14_400)), Some(Due::End));
    }
}
