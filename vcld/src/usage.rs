//! How the computers were used: pure functions of what the tables say, and the one that reads these.

mod trends;

use crate::node::{Node, Refusal, RefusalKind};
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use vcl_queue::{ReservationRow, UsageRow};
use vcl_types::lending::Purpose;
use vcl_types::usage::{UsageBy, UsageLine, UsageReport};

/// How many reservations one report is made of at most.
const MOST: u32 = 500_000;
/// One is made at a time: each may hold as much as that.
static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A reservation as reports see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stay {
    pub(crate) owner: String,
    pub(crate) group: Option<String>,
    pub(crate) image: String,
    pub(crate) computer: Option<String>,
    /// Whether its user is missed when nobody connects.
    pub(crate) awaited: bool,
    /// When it was asked for, or was to begin if that was later.
    pub(crate) begin: DateTime<Utc>,
    pub(crate) assigned: Option<DateTime<Utc>>,
    pub(crate) usable: Option<DateTime<Utc>>,
    pub(crate) connected: bool,
    /// `None` while it goes on.
    pub(crate) ended: Option<DateTime<Utc>>,
}

fn awaited(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Use | Purpose::Imaging)
}

impl From<UsageRow> for Stay {
    fn from(row: UsageRow) -> Self {
        Self {
            begin: waits_from(row.since, row.start, row.assigned),
            owner: row.owner,
            group: row.group,
            image: row.image.name.to_string(),
            computer: row.computer.map(|c| c.to_string()),
            awaited: awaited(row.purpose),
            assigned: row.assigned,
            usable: row.usable,
            connected: row.connected.is_some(),
            ended: Some(row.ended),
        }
    }
}

impl From<ReservationRow> for Stay {
    fn from(row: ReservationRow) -> Self {
        let wished = row.asked.as_ref().and_then(|asked| asked.start);
        Self {
            begin: wished.map_or(row.since, |start| start.max(row.since)),
            owner: row.owner,
            group: row.group,
            image: row.image.name.to_string(),
            computer: row.computer.map(|c| c.to_string()),
            awaited: awaited(row.purpose),
            assigned: row.assigned,
            usable: row.usable,
            connected: row.connected.is_some(),
            ended: None,
        }
    }
}

/// From when somebody waits. A reservation that gets its computer has its start moved to that moment; where the two agree the
/// wish is not known any more, and it is the asking that counts.
fn waits_from(
    since: DateTime<Utc>,
    start: Option<DateTime<Utc>>,
    assigned: Option<DateTime<Utc>>,
) -> DateTime<Utc> {
    match (start, assigned) {
        (Some(start), Some(assigned)) if start == assigned => since,
        (Some(start), _) => start.max(since),
        (None, _) => since,
    }
}

/// The smallest value that so many in a hundred are not above.
fn percentile(sorted: &[u64], hundredths: usize) -> Option<u64> {
    let rank = (sorted.len() * hundredths).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// What there was of these between two moments.
fn line(key: Option<String>, stays: &[&Stay], from: DateTime<Utc>, until: DateTime<Utc>) -> UsageLine {
    let within = |at: DateTime<Utc>| at >= from && at < until;
    let mut waits: Vec<u64> = Vec::new();
    let (mut no_shows, mut ms) = (0, 0_i64);
    // Those that end at a moment make room for those that begin at it.
    let mut changes: Vec<(DateTime<Utc>, i8)> = Vec::new();
    for stay in stays {
        let end = stay.ended.unwrap_or(until).min(until);
        if let Some(usable) = stay.usable {
            ms += (end - usable.max(from)).num_milliseconds().max(0);
            if within(usable) {
                waits.push(u64::try_from((usable - stay.begin).num_seconds()).unwrap_or(0));
            }
            let over = stay.ended.is_some_and(within);
            no_shows += u64::from(over && stay.awaited && !stay.connected);
        }
        if let Some(assigned) = stay.assigned.map(|at| at.max(from)).filter(|at| *at < end) {
            changes.extend([(assigned, 1), (end, -1)]);
        }
    }
    waits.sort_unstable();
    changes.sort_unstable();
    let (mut now, mut peak, mut peak_at) = (0_i64, 0_i64, None);
    for (at, change) in changes {
        now += i64::from(change);
        if now > peak {
            (peak, peak_at) = (now, Some(at));
        }
    }
    UsageLine {
        key,
        reservations: stays.len() as u64,
        no_shows,
        hours: ms as f64 / 3_600_000.0,
        peak: u64::try_from(peak).unwrap_or(0),
        peak_at,
        wait_p50_s: percentile(&waits, 50),
        wait_p90_s: percentile(&waits, 90),
    }
}

/// A report of what is between two moments.
pub(crate) fn report(
    stays: &[Stay],
    (from, until): (DateTime<Utc>, DateTime<Utc>),
    by: UsageBy,
    own: bool,
) -> UsageReport {
    let touches =
        |stay: &&Stay| stay.begin < until && stay.ended.is_none_or(|end| end >= from && end >= stay.begin);
    let stays: Vec<&Stay> = stays.iter().filter(touches).collect();
    let mut parts: BTreeMap<Option<String>, Vec<&Stay>> = BTreeMap::new();
    for stay in &stays {
        let key = match by {
            UsageBy::Image => Some(stay.image.clone()),
            UsageBy::Group => stay.group.clone(),
            UsageBy::Computer => stay.computer.clone(),
            UsageBy::Owner => Some(stay.owner.clone()),
        };
        parts.entry(key).or_default().push(stay);
    }
    let mut lines: Vec<UsageLine> =
        parts.into_iter().map(|(key, stays)| line(key, &stays, from, until)).collect();
    lines.sort_by(|a, b| b.hours.total_cmp(&a.hours));
    UsageReport { from, until, by, own, lines, total: line(None, &stays, from, until) }
}

impl Node {
    /// How the computers were used; of one owner or of all.
    ///
    /// # Errors
    /// A time that makes no sense or is too long; the database does not answer.
    pub async fn usage_report(
        &self,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        by: UsageBy,
        owner: Option<&str>,
    ) -> Result<UsageReport, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalKind::Invalid, message);
        if from >= until {
            return Err(invalid(format!("`from` is {from}, which is not before `until`, {until}")));
        }
        // What goes on has no usage yet, and is in the report as far as it has come.
        let now = self.clock.now();
        let until = until.min(now);
        if from >= until {
            return Err(invalid(format!("`from` is {from}, which has not been yet")));
        }
        let stays = self.stays((from, until), owner).await?;
        Ok(report(&stays, (from, until), by, owner.is_some()))
    }

    /// What reservations there were between two moments; of one owner or of all. Loads by hand are none.
    ///
    /// # Errors
    /// There are too many; the database does not answer.
    async fn stays(
        &self,
        (from, until): (DateTime<Utc>, DateTime<Utc>),
        owner: Option<&str>,
    ) -> Result<Vec<Stay>, Refusal> {
        let _one = ONE.lock().await;
        let ended = self.queue.usage_within((from, until), owner, MOST).await?;
        if ended.len() >= MOST as usize {
            let message = format!(
                "more than {MOST} reservations were there between {from} and {until}; ask for less time"
            );
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        let open = self.queue.reservations_open().await?;
        let mine = |of: &str| owner.is_none_or(|owner| owner == of);
        let open = open.into_iter().filter(|row| row.purpose != Purpose::Direct && mine(&row.owner));
        Ok(ended.into_iter().map(Stay::from).chain(open.map(Stay::from)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(minute: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + 60 * minute, 0).unwrap()
    }

    /// Asked for, usable, ended: minutes. It gets its computer when it is asked for.
    fn stay(owner: &str, begin: i64, usable: Option<i64>, ended: Option<i64>) -> Stay {
        Stay {
            owner: owner.into(),
            group: None,
            image: format!("img-{owner}"),
            computer: Some("c1".into()),
            awaited: true,
            begin: at(begin),
            assigned: Some(at(begin)),
            usable: usable.map(at),
            connected: true,
            ended: ended.map(at),
        }
    }

    #[test]
    fn what_overlaps_counts_as_far_as_it_lies_in_the_time() {
        let no_show = Stay { connected: false, ..stay("b", 30, Some(40), Some(70)) };
        let stays = [
            stay("a", -60, Some(-50), Some(60)), // began before
            no_show,
            stay("a", 60, Some(61), None), // goes on; begins as the first ends
            stay("c", 10, None, Some(20)), // never usable
            stay("d", -90, Some(-80), Some(-1)), // over before
            stay("d", 120, Some(121), Some(130)), // begins at the end
        ];
        let report = report(&stays, (at(0), at(120)), UsageBy::Owner, false);
        let line = |key: &str| report.lines.iter().find(|l| l.key.as_deref() == Some(key)).unwrap();
        let keys: Vec<_> = report.lines.iter().map(|l| l.key.as_deref().unwrap()).collect();
        assert_eq!(keys, ["a", "b", "c"], "most hours first");
        assert_eq!(line("a").hours, (60.0 + 59.0) / 60.0);
        assert_eq!((line("a").reservations, line("a").peak), (2, 1), "one ends as the other begins");
        assert_eq!(
            (line("a").wait_p50_s, line("a").wait_p90_s),
            (Some(60), Some(60)),
            "the first became usable before"
        );
        assert_eq!((line("b").no_shows, line("b").wait_p50_s), (1, Some(600)));
        assert_eq!((line("c").hours, line("c").wait_p50_s, line("c").no_shows), (0.0, None, 0));
        assert_eq!((report.total.reservations, report.total.no_shows), (4, 1));
        assert_eq!((report.total.peak, report.total.peak_at), (2, Some(at(10))));
        assert_eq!(report.total.wait_p50_s, Some(60));
        assert_eq!(report.total.wait_p90_s, Some(600));
    }

    #[test]
    fn who_waits_does_so_from_when_they_asked_or_were_to_begin() {
        // Now: the start was moved to when it got its computer.
        assert_eq!(waits_from(at(0), Some(at(5)), Some(at(5))), at(0));
        // Later: a start that was fixed.
        assert_eq!(waits_from(at(0), Some(at(60)), Some(at(62))), at(60));
        assert_eq!(waits_from(at(0), None, None), at(0));
    }

    proptest! {
        /// Parts make the whole: hours and counts add up, the peak is between that of the largest part and their sum.
        #[test]
        fn the_parts_make_the_whole(
            spans in prop::collection::vec((0..4_usize, -50_i64..150, 0_i64..60, 0_i64..100), 0..40)
        ) {
            let owner = ["a", "b", "c", "d"];
            let stays: Vec<Stay> = spans
                .iter()
                .map(|(who, begin, load, used)| {
                    stay(owner[*who], *begin, Some(begin + load), Some(begin + load + used))
                })
                .collect();
            let report = report(&stays, (at(0), at(100)), UsageBy::Owner, false);
            let hours: f64 = report.lines.iter().map(|l| l.hours).sum();
            prop_assert!((hours - report.total.hours).abs() < 1e-6);
            let count: u64 = report.lines.iter().map(|l| l.reservations).sum();
            prop_assert_eq!(count, report.total.reservations);
            let peaks: Vec<u64> = report.lines.iter().map(|l| l.peak).collect();
            prop_assert!(report.total.peak <= peaks.iter().sum());
            prop_assert!(report.total.peak >= peaks.iter().copied().max().unwrap_or(0));
            // By minute, one by one.
            let have = |minute: i64| {
                let then = at(minute);
                stays.iter().filter(|s| s.assigned.unwrap() <= then && s.ended.unwrap() > then).count() as u64
            };
            prop_assert_eq!(report.total.peak, (0..100).map(have).max().unwrap_or(0));
        }
    }
}
