//! How many computers the warm pools keep: as many as the site says, and by demand more where it lets them grow.
//!
//! Demand is what was asked for at once, because only that finds a computer usable or waits for one: in the past hour, which is
//! a rush that goes on, or on average in this hour of the past weeks, which is a rush that comes back. Classes have seats of
//! their own. A pool that shrinks throws nothing away: what is loaded stays until something else is wanted there.

use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use vcl_config::Lending;
use vcl_queue::{ReservationRow, UsageRow};
use vcl_types::ImageName;
use vcl_types::lending::Purpose;

/// How far ahead and back is looked.
const HOUR: TimeDelta = TimeDelta::hours(1);
/// How many weeks.
const WEEKS: i32 = 4;
/// A wish for this soon is one for now.
const AT_ONCE: TimeDelta = TimeDelta::minutes(5);

/// How many are to be kept of each image now.
pub(super) fn wanted(
    lending: &Lending,
    rows: &[ReservationRow],
    past: &[UsageRow],
    now: DateTime<Utc>,
) -> BTreeMap<ImageName, usize> {
    let open = |(_, warm): &(&ImageName, &vcl_config::Warm)| {
        warm.hours.as_ref().is_none_or(|hours| hours.contains(&lending.timezone, now))
    };
    let count = |(name, warm): (&ImageName, &vcl_config::Warm)| {
        let demand = if warm.most > warm.count { demand(name, rows, past, now) } else { 0 };
        (name.clone(), demand.clamp(warm.count as usize, warm.most as usize))
    };
    lending.warm.iter().filter(open).map(count).collect()
}

fn demand(image: &ImageName, rows: &[ReservationRow], past: &[UsageRow], now: DateTime<Utc>) -> usize {
    let own = |of: &ImageName, purpose: Purpose, class: Option<i64>| {
        of == image && class.is_none() && matches!(purpose, Purpose::Use | Purpose::Imaging)
    };
    let at_once = |since: DateTime<Utc>, start: Option<DateTime<Utc>>| {
        start.is_none_or(|start| start <= since + AT_ONCE).then_some(since)
    };
    let still = rows.iter().filter(|row| own(&row.image.name, row.purpose, row.class));
    let over = past.iter().filter(|row| own(&row.image.name, row.purpose, row.class));
    let asked: Vec<DateTime<Utc>> = still
        .filter_map(|row| at_once(row.since, row.asked.as_ref().and_then(|asked| asked.start)))
        // Of one that asked for now the start is when it got its computer.
        .chain(over.filter_map(|row| at_once(row.since, row.start.filter(|_| row.start != row.assigned))))
        .collect();
    let between = |from: DateTime<Utc>| asked.iter().filter(|at| **at >= from && **at < from + HOUR).count();
    let lately = between(now - HOUR + TimeDelta::seconds(1));
    // Weeks that are further back than what is remembered say nothing.
    let known = past.last().map_or(now, |oldest| oldest.since);
    let weeks: Vec<usize> = (1..=WEEKS)
        .map(|week| now - TimeDelta::weeks(i64::from(week)))
        .take_while(|from| *from >= known)
        .map(between)
        .collect();
    lately.max(weeks.iter().sum::<usize>().div_ceil(weeks.len().max(1)))
}

#[cfg(test)]
mod tests {
    use super::wanted;
    use chrono::{DateTime, TimeDelta, Utc};
    use vcl_config::{Known, Lending, parse};
    use vcl_queue::UsageRow;
    use vcl_types::ReservationId;
    use vcl_types::lending::Purpose;

    fn lending(lines: &str) -> Lending {
        let text = format!("[library]\npath = \"/srv/vcl\"\n[image.gis]\n{lines}");
        parse(&text, "t", &Known::default()).unwrap().lending
    }

    fn had(image: &str, class: Option<i64>, since: DateTime<Utc>, later: TimeDelta) -> UsageRow {
        UsageRow {
            reservation: ReservationId(1),
            owner: "alice".into(),
            group: None,
            purpose: Purpose::Use,
            class,
            image: image.parse().unwrap(),
            computer: None,
            since,
            start: Some(since + later),
            assigned: None,
            usable: None,
            connected: None,
            ended: since + later + TimeDelta::hours(2),
            length_s: None,
            shown: None,
            because: None,
        }
    }

    #[test]
    fn a_pool_grows_with_what_is_asked_for_at_once_and_with_this_hour_of_past_weeks() {
        let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        let (week, minute, none) = (TimeDelta::weeks(1), TimeDelta::minutes(1), TimeDelta::zero());
        // Ten at this hour a week ago, and none in it two and three weeks ago; the newest first.
        let mut past: Vec<UsageRow> =
            (0..10).map(|n| had("gis@1", None, now - week + minute * (n + 1), none)).collect();
        past.push(had("gis@1", None, now - week * 3 - minute, none));
        // The last of them has waited for its computer for an hour.
        for waited in past.iter_mut().skip(9).take(1) {
            waited.start = Some(waited.since + minute * 60);
            waited.assigned = waited.start;
        }
        // What does not count: before and after it, another image's, a class's, what was booked for later.
        past.push(had("gis@1", None, now - week - minute, none));
        past.push(had("gis@1", None, now - week + minute * 61, none));
        past.push(had("cad@1", None, now - week + minute, none));
        past.push(had("gis@1", Some(7), now - week + minute, none));
        past.push(had("gis@1", None, now - week + minute, TimeDelta::days(1)));
        past.sort_by_key(|row| std::cmp::Reverse(row.since));
        let of = |lines: &str, past: &[UsageRow]| {
            wanted(&lending(lines), &[], past, now).get(&"gis".parse().unwrap()).copied()
        };
        assert_eq!(of("warm = 2", &past), Some(2));
        assert_eq!(of("warm = 2\nwarm_most = 8", &past), Some(4), "a third of ten, rounded up");
        assert_eq!(of("warm_most = 3", &past), Some(3));
        assert_eq!(of("warm_most = 3", &[]), Some(0));
        assert_eq!(of("warm = 2\nwarm_most = 8\nwarm_hours = \"Tue 8-18\"", &past), None);
        let rush: Vec<UsageRow> = (0..6).map(|n| had("gis@1", None, now - minute * (n + 1), none)).collect();
        assert_eq!(of("warm = 2\nwarm_most = 8", &rush), Some(6));
        assert_eq!(of("warm = 2\nwarm_most = 5", &rush), Some(5));
    }

    #[test]
    fn a_pool_that_shrinks_by_demand_is_refused() {
        let text = "[library]\npath = \"/srv/vcl\"\n[image.gis]\nwarm = 3\nwarm_most = 2\n";
        let problems = parse(text, "t", &Known::default()).unwrap_err().to_string();
        assert!(problems.contains("image.gis.warm_most: 2 is less than `warm`, 3"), "{problems}");
    }
}
