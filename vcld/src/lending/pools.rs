//! How many computers the warm pools keep: as many as the site says, and by demand more where it lets them grow.
//!
//! Demand is what was asked for at once, because only that finds a computer usable or waits for one: in the past hour, which is
//! a rush that goes on, or on average in this hour of the past weeks, which is a rush that comes back. Classes have seats of
//! their own. A pool that shrinks throws nothing away: what is loaded stays until something else is wanted there.

use crate::node::{Node, Refusal};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use vcl_config::Lending;
use vcl_queue::{ReservationRow, UsageRow};
use vcl_types::ImageName;
use vcl_types::lending::Purpose;

/// How far ahead and back is looked.
const HOUR: TimeDelta = TimeDelta::hours(1);
/// How many weeks.
const WEEKS: i64 = 4;
/// For how long what past weeks say is not asked again.
const FRESH: TimeDelta = TimeDelta::minutes(10);
/// A wish for this soon is one for now.
const AT_ONCE: TimeDelta = TimeDelta::minutes(5);

/// When it was looked up how many are asked for in this hour of the week, and what was found.
pub(super) type Weekly = (DateTime<Utc>, BTreeMap<ImageName, usize>);

/// How many are to be kept of each image now. `weekly` is how many were asked for on average in this hour of past weeks.
pub(super) fn wanted(
    lending: &Lending,
    rows: &[ReservationRow],
    past: &[UsageRow],
    weekly: &BTreeMap<ImageName, usize>,
    now: DateTime<Utc>,
) -> BTreeMap<ImageName, usize> {
    let open = |(_, warm): &(&ImageName, &vcl_config::Warm)| {
        warm.hours.as_ref().is_none_or(|hours| hours.contains(&lending.timezone, now))
    };
    let count = |(name, warm): (&ImageName, &vcl_config::Warm)| {
        let demand = if warm.most > warm.count {
            lately(name, rows, past, now).max(weekly.get(name).copied().unwrap_or(0))
        } else {
            0
        };
        (name.clone(), demand.clamp(warm.count as usize, warm.most as usize))
    };
    lending.warm.iter().filter(open).map(count).collect()
}

/// How many were asked for at once in the past hour.
fn lately(image: &ImageName, rows: &[ReservationRow], past: &[UsageRow], now: DateTime<Utc>) -> usize {
    let own = |of: &ImageName, purpose: Purpose, class: Option<i64>, since: DateTime<Utc>| {
        of == image
            && class.is_none()
            && matches!(purpose, Purpose::Use | Purpose::Imaging)
            && since > now - HOUR
            && since <= now
    };
    let at_once = |since: DateTime<Utc>, start: Option<DateTime<Utc>>| {
        start.is_none_or(|start| start <= since + AT_ONCE)
    };
    let still = rows.iter().filter(|row| own(&row.image.name, row.purpose, row.class, row.since));
    let still = still.filter(|row| at_once(row.since, row.asked.as_ref().and_then(|asked| asked.start)));
    let over = past.iter().filter(|row| own(&row.image.name, row.purpose, row.class, row.since));
    // Of one that asked for now the start is when it got its computer.
    let over = over.filter(|row| at_once(row.since, row.start.filter(|_| row.start != row.assigned)));
    still.count() + over.count()
}

impl Node {
    /// How many were asked for at once, of each image whose pool grows, on average in this hour of the past weeks. What was
    /// found a moment ago is said again.
    pub(super) async fn weekly_demand(
        &self,
        now: DateTime<Utc>,
    ) -> Result<BTreeMap<ImageName, usize>, Refusal> {
        let growing = self.config.lending.warm.iter().filter(|(_, warm)| warm.most > warm.count);
        let growing: Vec<&ImageName> = growing.map(|(name, _)| name).collect();
        if growing.is_empty() {
            return Ok(BTreeMap::new());
        }
        let memory = &self.insight.lending.weekly;
        let known = memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, weekly)) = known.filter(|(at, _)| *at <= now && now < *at + FRESH) {
            return Ok(weekly);
        }
        // Weeks of which nothing is known say nothing.
        let first = self.queue.first_usage().await?;
        let weeks: Vec<DateTime<Utc>> = (1..=WEEKS)
            .map(|week| now - TimeDelta::weeks(week))
            .take_while(|from| first.is_some_and(|first| first <= *from))
            .collect();
        let mut weekly = BTreeMap::new();
        for image in growing {
            let mut sum = 0;
            for from in &weeks {
                sum += self.queue.asked_at_once(image, *from, *from + HOUR).await?;
            }
            weekly.insert(image.clone(), sum.div_ceil(weeks.len().max(1)));
        }
        *memory.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, weekly.clone()));
        Ok(weekly)
    }
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
    fn a_pool_grows_with_what_is_asked_for_at_once() {
        let now: DateTime<Utc> = "2026-11-23T10:00:00Z".parse().unwrap();
        let (minute, none) = (TimeDelta::minutes(1), TimeDelta::zero());
        let mut past: Vec<UsageRow> =
            (0..5).map(|n| had("gis@1", None, now - minute * (n + 1), none)).collect();
        // One has waited for its computer for half an hour.
        let mut waited = had("gis@1", None, now - minute * 50, minute * 30);
        waited.assigned = waited.start;
        past.push(waited);
        // What does not count: another image's, a class's, what was booked for later, what was asked for before.
        past.push(had("cad@1", None, now - minute, none));
        past.push(had("gis@1", Some(7), now - minute, none));
        past.push(had("gis@1", None, now - minute, TimeDelta::days(1)));
        past.push(had("gis@1", None, now - minute * 60, none));
        let gis = "gis".parse().unwrap();
        let of = |lines: &str, past: &[UsageRow], weekly: usize| {
            let weekly = [("gis".parse().unwrap(), weekly)].into();
            wanted(&lending(lines), &[], past, &weekly, now).get(&gis).copied()
        };
        assert_eq!(of("warm = 2", &past, 7), Some(2));
        assert_eq!(of("warm = 2\nwarm_most = 8", &past, 0), Some(6));
        assert_eq!(of("warm = 2\nwarm_most = 8", &past, 7), Some(7));
        assert_eq!(of("warm = 2\nwarm_most = 8", &past, 9), Some(8));
        assert_eq!(of("warm_most = 3", &[], 1), Some(1));
        assert_eq!(of("warm_most = 3", &[], 0), Some(0));
        assert_eq!(of("warm = 2\nwarm_most = 8\nwarm_hours = \"Tue 8-18\"", &past, 7), None);
    }

    #[test]
    fn a_pool_that_shrinks_by_demand_is_refused() {
        let text = "[library]\npath = \"/srv/vcl\"\n[image.gis]\nwarm = 3\nwarm_most = 2\n";
        let problems = parse(text, "t", &Known::default()).unwrap_err().to_string();
        assert!(problems.contains("image.gis.warm_most: 2 is less than `warm`, 3"), "{problems}");
    }
}
