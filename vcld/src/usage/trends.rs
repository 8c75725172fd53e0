//! How the days went: for the charts.

use super::{Stay, percentile};
use crate::node::{Node, Refusal};
use chrono::{DateTime, Days, NaiveDate, Utc};
use vcl_queue::{PastJob, Shelf};
use vcl_types::usage::{DayTrend, Trends};
use vcl_types::{ByteSize, JobKind};

/// What the days are told from.
struct Past<'a> {
    jobs: &'a [PastJob],
    stays: &'a [Stay],
    shelves: Option<&'a [Shelf]>,
}

/// The midnight with which a day begins.
fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

/// Half, and so many in a hundred, of these took no longer, in seconds.
fn spread(mut ms: Vec<u64>, hundredths: usize) -> (Option<f64>, Option<f64>) {
    ms.sort_unstable();
    let seconds = |hundredths| percentile(&ms, hundredths).map(|ms| ms as f64 / 1000.0);
    (seconds(50), seconds(hundredths))
}

fn one(day: NaiveDate, past: &Past<'_>, now: DateTime<Utc>) -> DayTrend {
    let (from, until) = (midnight(day), midnight(day + Days::new(1)).min(now));
    let within = |at: DateTime<Utc>| at >= from && at < until;
    let took = |kinds: &[JobKind]| -> Vec<u64> {
        let of = |job: &&PastJob| kinds.contains(&job.kind) && within(job.ended);
        past.jobs.iter().filter(of).map(|job| job.took_ms).collect()
    };
    let loads = took(&[JobKind::Load, JobKind::Lend, JobKind::Prepare]);
    let captures = took(&[JobKind::Capture]);
    let (mut ms, mut waits) = (0_i64, Vec::new());
    for stay in past.stays {
        let Some(usable) = stay.usable else { continue };
        let end = stay.ended.unwrap_or(now).min(until);
        ms += (end - usable.max(from)).num_milliseconds().max(0);
        if within(usable) {
            waits.push(u64::try_from((usable - stay.begin).num_milliseconds()).unwrap_or(0));
        }
    }
    let library = past.shelves.map(|shelves| {
        let there = |shelf: &&Shelf| shelf.since < until && shelf.until.is_none_or(|at| at >= until);
        ByteSize(shelves.iter().filter(there).map(|shelf| shelf.size.0).sum())
    });
    let (counted, reservations) = ((loads.len() as u64, captures.len() as u64), waits.len() as u64);
    let ((load_p50_s, load_p95_s), (capture_p50_s, capture_p95_s)) =
        (spread(loads, 95), spread(captures, 95));
    let (wait_p50_s, wait_p90_s) = spread(waits, 90);
    DayTrend {
        day,
        loads: counted.0,
        load_p50_s,
        load_p95_s,
        captures: counted.1,
        capture_p50_s,
        capture_p95_s,
        hours: ms as f64 / 3_600_000.0,
        reservations,
        wait_p50_s,
        wait_p90_s,
        library,
    }
}

impl Node {
    /// How the last days went; of one owner's reservations or of everything.
    ///
    /// # Errors
    /// The database does not answer, or there is more than can be told at once.
    pub async fn trends(&self, days: u32, owner: Option<&str>) -> Result<Trends, Refusal> {
        let now = self.clock.now();
        let first = now.date_naive() - Days::new(u64::from(days.saturating_sub(1)));
        let stays = self.stays((midnight(first), now), owner).await?;
        let (jobs, shelves) = match owner {
            None => (self.queue.past_jobs(midnight(first)).await?, Some(self.queue.shelves().await?)),
            Some(_) => (Vec::new(), None),
        };
        let past = Past { jobs: &jobs, stays: &stays, shelves: shelves.as_deref() };
        let days = first.iter_days().take_while(|day| *day <= now.date_naive());
        Ok(Trends { own: owner.is_some(), days: days.map(|day| one(day, &past, now)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_day_has_what_lies_in_it() {
        let job = |kind, ended: &str, took_ms| PastJob { kind, ended: at(ended), took_ms };
        let jobs = [
            job(JobKind::Lend, "2026-11-22T23:59:59Z", 9_000),
            job(JobKind::Lend, "2026-11-23T00:00:00Z", 1_000),
            job(JobKind::Prepare, "2026-11-23T01:00:00Z", 3_000),
            job(JobKind::Capture, "2026-11-23T02:00:00Z", 60_000),
            job(JobKind::Unload, "2026-11-23T02:00:00Z", 5),
        ];
        let stay = |begin: &str, usable: &str, ended: Option<&str>| Stay {
            owner: "a".into(),
            group: None,
            image: "i".into(),
            computer: None,
            awaited: true,
            begin: at(begin),
            assigned: None,
            usable: Some(at(usable)),
            connected: true,
            ended: ended.map(at),
        };
        let stays = [
            stay("2026-11-22T20:00:00Z", "2026-11-22T22:00:00Z", Some("2026-11-23T01:30:00Z")),
            stay("2026-11-23T03:00:00Z", "2026-11-23T03:00:30Z", None),
        ];
        let shelf = |since: &str, until: Option<&str>, size| Shelf {
            since: at(since),
            until: until.map(at),
            size: ByteSize(size),
        };
        let shelves = [
            shelf("2026-01-01T00:00:00Z", Some("2026-11-23T00:00:00Z"), 1),
            shelf("2026-11-22T12:00:00Z", None, 2),
            shelf("2026-11-23T02:00:00Z", None, 4),
        ];
        let past = Past { jobs: &jobs, stays: &stays, shelves: Some(&shelves) };
        let now = at("2026-11-23T04:00:30Z");
        let day = |text: &str| one(text.parse().unwrap(), &past, now);
        let today = day("2026-11-23");
        assert_eq!((today.loads, today.load_p50_s, today.load_p95_s), (2, Some(1.0), Some(3.0)));
        assert_eq!((today.captures, today.capture_p50_s), (1, Some(60.0)));
        assert_eq!((today.hours, today.reservations), (2.5, 1), "what goes on counts as far as it has come");
        assert_eq!((today.wait_p50_s, today.wait_p90_s), (Some(30.0), Some(30.0)));
        assert_eq!(today.library, Some(ByteSize(6)));
        let yesterday = day("2026-11-22");
        assert_eq!((yesterday.hours, yesterday.loads, yesterday.library), (2.0, 1, Some(ByteSize(3))));
        assert_eq!((day("2026-11-21").hours, day("2026-11-21").load_p50_s), (0.0, None));
    }
}
