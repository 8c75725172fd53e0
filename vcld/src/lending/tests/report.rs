//! What became of a week, from the database that it left.
//!
//! Of each wait is told what it was for: its own limit (its owner or its group had as many computers as they may), the
//! licences of its image, or a computer. The first is what a group's limit is for, and no scheduler can shorten it: it is
//! bounded by the work of those whose turn was before, divided by the limit. The other two are what nobody may starve for.

use super::week::{ANYBODY, COMPUTERS, MATLAB, MONDAY, RESEARCH, RESEARCHER, STAFF, STUDENT};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use vcl_queue::{Queue, ReservationRow, UsageRow};
use vcl_types::lending::Purpose;
use vcl_types::state::reservation::State;

/// Says something to the process that watches.
pub(super) fn tell(what: &str, more: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\nweek {what} {more}");
    let _ = out.flush();
}

/// How long anybody may wait for a computer or a licence, in seconds.
const LONGEST: u64 = 24 * 3600;
/// By how much later others may have asked whose turn is before one's own all the same (`choose::order`): so much for each
/// computer that one has or waits for besides, and so much for each hour that one had in the last seven days.
const EACH: u64 = 3600;
const EACH_HOUR: u64 = 180;
/// Who asks for a time within this asks for now.
const SOON: TimeDelta = TimeDelta::minutes(5);
/// What is not told by that: for an hour nothing is kept for anybody (`turns::PATIENCE`).
const PATIENCE: u64 = 3600;
/// How long after its time one may get a computer who had asked for a time to come: until one that was kept and is lost is
/// made up for.
const LATE: u64 = 3600;
/// The share of waits that have to be as foretold.
const FORETOLD: f64 = 0.8;

pub(super) struct Report {
    usage: Vec<UsageRow>,
    open: Vec<ReservationRow>,
    /// All, those that are over too.
    rows: Vec<ReservationRow>,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    refused: usize,
}

fn seconds(span: TimeDelta) -> u64 {
    span.num_seconds().max(0).unsigned_abs()
}
fn share(part: usize, of: usize) -> f64 {
    if of == 0 { 1.0 } else { part as f64 / of as f64 }
}
fn at(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
fn minutes(s: u64) -> String {
    format!("{}:{:02}", s / 3600, s / 60 % 60)
}

/// Who had a computer from when to when.
struct Had<'a> {
    computer: &'a str,
    owner: &'a str,
    group: Option<&'a str>,
    image: &'a str,
    class: bool,
    /// It was promised for a time to come, and goes first then.
    booked: bool,
    since: DateTime<Utc>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
}

/// What one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Its owner or its group has as many computers as they may.
    Own,
    /// As many have its image as may.
    Licence,
    Computer,
}

/// A wait of one who asked for a computer at once, in seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Wait {
    pub(super) group: String,
    pub(super) own: u64,
    pub(super) licence: u64,
    pub(super) computer: u64,
    pub(super) shown: Option<(u64, u64)>,
    /// Whether it is over.
    pub(super) served: bool,
}

impl Wait {
    pub(super) fn add(&mut self, part: Part, seconds: u64) {
        *match part {
            Part::Own => &mut self.own,
            Part::Licence => &mut self.licence,
            Part::Computer => &mut self.computer,
        } += seconds;
    }
    fn whole(&self) -> u64 {
        self.own + self.licence + self.computer
    }
}

pub(super) struct Waits(pub(super) Vec<Wait>);

impl Waits {
    /// Those that were shown an interval: how many lie in it, how many took less, how many more; the widths.
    fn forecasts(&self, group: Option<&str>) -> (usize, usize, usize, Vec<u64>) {
        let (mut within, mut below, mut above, mut widths) = (0, 0, 0, Vec::new());
        for wait in self.0.iter().filter(|wait| group.is_none_or(|group| group == wait.group)) {
            let Some((low, high)) = wait.shown else { continue };
            let waited = wait.whole();
            if waited > high {
                above += 1;
            } else if !wait.served {
                continue;
            } else if waited < low {
                below += 1;
            } else {
                within += 1;
            }
            widths.push(high - low);
        }
        widths.sort_unstable();
        (within, below, above, widths)
    }

    pub(super) fn text(&self) -> String {
        let mut groups: BTreeMap<Option<&str>, Vec<&Wait>> = BTreeMap::new();
        for wait in &self.0 {
            groups.entry(None).or_default().push(wait);
            groups.entry(Some(&wait.group)).or_default().push(wait);
        }
        let mut text = format!(
            "{:10} {:>6} {:>7} {:>6} {:>6} {:>6} {:>6} {:>8} {:>8} {:>8}\n",
            "waits", "served", "waiting", "p50", "p90", "p99", "max", "own", "licence", "computer"
        );
        for (group, all) in &groups {
            let mut waits: Vec<u64> = all.iter().map(|wait| wait.whole()).collect();
            waits.sort_unstable();
            let served = all.iter().filter(|wait| wait.served).count();
            let most = |part: fn(&Wait) -> u64| minutes(all.iter().map(|wait| part(wait)).max().unwrap_or(0));
            let _ = writeln!(
                text,
                "{:10} {served:>6} {:>7} {:>6} {:>6} {:>6} {:>6} {:>8} {:>8} {:>8}",
                group.unwrap_or("(all)"),
                all.len() - served,
                minutes(at(&waits, 50)),
                minutes(at(&waits, 90)),
                minutes(at(&waits, 99)),
                minutes(waits.last().copied().unwrap_or(0)),
                most(|wait| wait.own),
                most(|wait| wait.licence),
                most(|wait| wait.computer),
            );
        }
        for group in groups.keys() {
            let (within, below, above, widths) = self.forecasts(*group);
            let all = within + below + above;
            if all == 0 {
                continue;
            }
            let _ = writeln!(
                text,
                "forecasts, {}: {all}, {:.1} % within, {:.1} % took less, {:.1} % took more; width p50 {} p90 {}",
                group.unwrap_or("all"),
                100.0 * share(within, all),
                100.0 * share(below, all),
                100.0 * share(above, all),
                minutes(at(&widths, 50)),
                minutes(at(&widths, 90)),
            );
        }
        text
    }

    /// Nobody starves, and forecasts are honest.
    pub(super) fn check(&self) {
        let longest = self.0.iter().max_by_key(|wait| wait.licence + wait.computer);
        if let Some(wait) = longest {
            let waited = wait.licence + wait.computer;
            assert!(waited <= LONGEST, "somebody waited {} for a computer: {wait:?}", minutes(waited));
        }
        let (within, below, above, _) = self.forecasts(None);
        let all = within + below + above;
        assert!(all < 50 || share(within, all) >= FORETOLD, "{within} of {all} waits were as foretold");
    }
}

/// When there were at least so many of these, one span after the other.
fn full<'a>(had: impl Iterator<Item = &'a Had<'a>>, limit: u32) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut edges: Vec<(DateTime<Utc>, bool)> =
        had.filter(|h| h.to > h.from).flat_map(|h| [(h.from, true), (h.to, false)]).collect();
    edges.sort_unstable();
    let (mut now, mut since, mut spans) = (0, None, Vec::new());
    for (at, begins) in edges {
        now = if begins { now + 1 } else { now - 1 };
        match (since, now >= limit) {
            (None, true) => since = Some(at),
            (Some(from), false) => {
                spans.push((from, at));
                since = None;
            }
            _ => {}
        }
    }
    spans
}

/// How many seconds of a span lie in any of these.
fn inside(spans: &[(DateTime<Utc>, DateTime<Utc>)], (from, to): (DateTime<Utc>, DateTime<Utc>)) -> u64 {
    let mut spans: Vec<_> = spans.iter().map(|(a, b)| ((*a).max(from), (*b).min(to))).collect();
    spans.retain(|(a, b)| b > a);
    spans.sort_unstable();
    let (mut sum, mut last) = (0, from);
    for (a, b) in spans {
        sum += seconds(b - a.max(last));
        last = last.max(b);
    }
    sum
}

fn at_once(row: &ReservationRow) -> u32 {
    match row.group.as_deref() {
        Some("students") => STUDENT,
        Some("staff") => STAFF,
        Some("research") => RESEARCHER,
        _ => ANYBODY,
    }
}

/// When limits that are many people's were reached.
struct Limits {
    research: Vec<(DateTime<Utc>, DateTime<Utc>)>,
    matlab: Vec<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Limits {
    fn of(had: &[Had<'_>]) -> Self {
        let research = had.iter().filter(|h| !h.class && h.group == Some("research"));
        let matlab = had.iter().filter(|h| h.image == "matlab");
        Self { research: full(research, RESEARCH), matlab: full(matlab, MATLAB) }
    }

    /// What a span of waiting was for.
    fn wait(&self, had: &[Had<'_>], row: &ReservationRow, span: (DateTime<Utc>, DateTime<Utc>)) -> Wait {
        let mine = |h: &&Had<'_>| !h.class && h.owner == row.owner && h.from != h.to;
        let mut own = full(had.iter().filter(mine), at_once(row));
        if row.group.as_deref() == Some("research") {
            own.extend(&self.research);
        }
        let limited = inside(&own, span);
        if row.image.name.as_str() == "matlab" {
            own.extend(&self.matlab);
        }
        let licence = inside(&own, span) - limited;
        Wait {
            group: row.group.clone().unwrap_or_default(),
            own: limited,
            licence,
            computer: seconds(span.1 - span.0) - limited - licence,
            shown: row.shown,
            served: row.assigned.is_some(),
        }
    }
}

impl Report {
    pub(super) fn of(directory: &Path, hours: i64, refused: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let from: DateTime<Utc> = MONDAY.parse().unwrap();
        let (usage, open, rows) = runtime.block_on(async {
            let queue = Queue::open(directory.join("vcld.db")).await.unwrap();
            let usage = queue.last_usage(1_000_000).await.unwrap();
            let open = queue.reservations_open().await.unwrap();
            let rows = queue.reservations_of(None, false, None, 1_000_000).await.unwrap();
            queue.close().await;
            (usage, open, rows)
        });
        Self { usage, open, rows, from, until: from + TimeDelta::hours(hours), refused }
    }

    fn had(&self) -> Vec<Had<'_>> {
        let over = self.usage.iter().filter_map(|row| {
            Some(Had {
                computer: row.computer.as_ref()?.as_str(),
                owner: &row.owner,
                group: row.group.as_deref(),
                image: row.image.name.as_str(),
                class: row.class.is_some(),
                // Of one that asked for now it is when it got its computer.
                booked: row.start != row.assigned && row.start > Some(row.since + SOON),
                since: row.since,
                from: row.assigned?,
                to: row.ended,
            })
        });
        let open = self.open.iter().filter_map(|row| {
            Some(Had {
                computer: row.computer.as_ref()?.as_str(),
                owner: &row.owner,
                group: row.group.as_deref(),
                image: row.image.name.as_str(),
                class: row.class.is_some(),
                booked: row.asked.as_ref().and_then(|asked| asked.start) > Some(row.since + SOON),
                since: row.since,
                from: row.assigned?,
                to: self.until,
            })
        });
        over.chain(open).collect()
    }

    /// The most of these at one moment. What ends at a moment makes room for what begins at it.
    fn peak<'a>(had: impl Iterator<Item = &'a Had<'a>>) -> usize {
        let mut edges: Vec<(DateTime<Utc>, bool)> =
            had.filter(|h| h.to > h.from).flat_map(|h| [(h.from, true), (h.to, false)]).collect();
        edges.sort_unstable();
        let (mut now, mut most) = (0_usize, 0);
        for (_, begins) in edges {
            now = if begins { now + 1 } else { now - 1 };
            most = most.max(now);
        }
        most
    }

    /// Waits of those who asked for a computer at once; those who wait still have waited until now. With each the longest
    /// that it may have waited for its own limit: the work that those whose turn was before did since it asked, by as many
    /// at once as the limit allows.
    fn waits(&self) -> Vec<(Wait, u64)> {
        let had = self.had();
        let limits = Limits::of(&had);
        let mut all = Vec::new();
        for row in &self.rows {
            let people = row.class.is_none() && row.purpose != Purpose::Direct;
            if !people || row.asked.as_ref().is_none_or(|asked| asked.start.is_some()) {
                continue;
            }
            let span = (row.since, row.assigned.or(row.ended).unwrap_or(self.until));
            let mine = |h: &&Had<'_>| !h.class && h.owner == row.owner && h.from != h.to;
            let limit = at_once(row);
            let lasts = |other: &&ReservationRow| {
                other.id != row.id
                    && other.owner == row.owner
                    && other.class.is_none()
                    && other.since < span.1
                    && other.ended.is_none_or(|ended| ended > span.0)
            };
            let besides = self.rows.iter().filter(lasts).count() as u64;
            let week = (span.0 - TimeDelta::days(7), span.1);
            let lately: u64 =
                had.iter().filter(mine).map(|h| seconds(h.to.min(week.1) - h.from.max(week.0)) / 3600).sum();
            let turns = i64::try_from(besides * EACH + lately * EACH_HOUR).unwrap_or(i64::MAX / 1000);
            let turns = TimeDelta::seconds(turns);
            let before = |h: &&Had<'_>| (h.booked || h.since <= row.since + turns) && h.from < span.1;
            let work = |h: &Had<'_>| seconds(h.to.min(span.1) - h.from.max(span.0));
            let mut most = had.iter().filter(mine).filter(before).map(work).sum::<u64>() / u64::from(limit);
            if row.group.as_deref() == Some("research") {
                let group = |h: &&Had<'_>| !h.class && h.group == Some("research");
                most += had.iter().filter(group).filter(before).map(work).sum::<u64>() / u64::from(RESEARCH);
            }
            let wait = limits.wait(&had, row, span);
            all.push((wait, most));
        }
        all
    }

    /// How much later than promised those got a computer who had asked for a time to come, without the time in which they, their
    /// group or their image had as many as they may: the least late first.
    fn late(&self) -> Vec<Wait> {
        let had = self.had();
        let limits = Limits::of(&had);
        let own = self.rows.iter().filter(|row| row.class.is_none() && row.state != State::Scheduled);
        let late = own.filter_map(|row| {
            let start = row.asked.as_ref()?.start?;
            let until = row.assigned.or(row.ended).unwrap_or(self.until);
            Some(limits.wait(&had, row, (start.min(until), until)))
        });
        let mut late: Vec<Wait> = late.collect();
        late.sort_unstable_by_key(|wait| wait.computer);
        late
    }

    pub(super) fn text(&self, kills: u32, took: Duration) -> String {
        let mut text = String::new();
        let had = self.had();
        let hours = seconds(self.until - self.from) / 3600;
        let lent: u64 = had.iter().map(|h| seconds(h.to.min(self.until) - h.from)).sum();
        let _ = writeln!(
            text,
            "{hours} simulated hours in {:.0} s, killed {kills} times, the runtime dropped {hours} times\n\
             {} reservations are over, {} go on or wait, {} were refused\n\
             computers lent {:.0} % of the time, at most {} of {COMPUTERS} at once; matlab at most {} of {MATLAB}",
            took.as_secs_f64(),
            self.usage.len(),
            self.open.len(),
            self.refused,
            100.0 * lent as f64 / (hours * 3600 * COMPUTERS as u64) as f64,
            Self::peak(had.iter()),
            Self::peak(had.iter().filter(|h| h.image == "matlab")),
        );
        for group in ["students", "staff", "research"] {
            let own = |h: &&Had<'_>| !h.class && h.group == Some(group);
            let used: u64 = had.iter().filter(own).map(|h| seconds(h.to.min(self.until) - h.from)).sum();
            let peak = Self::peak(had.iter().filter(own));
            let _ = writeln!(text, "{group}: {} hours of computers, at most {peak} at once", used / 3600);
        }
        let waits = self.waits();
        let near = waits.iter().max_by_key(|(wait, _)| wait.own);
        let _ = write!(text, "{}", Waits(waits.iter().map(|(wait, _)| wait.clone()).collect()).text());
        if let Some((wait, most)) = near {
            let _ = writeln!(
                text,
                "the longest wait for one's own limit: {}, and the work before it filled that for {}",
                minutes(wait.own),
                minutes(*most)
            );
        }
        let late = self.late();
        let mut whole: Vec<u64> = late.iter().map(Wait::whole).collect();
        whole.sort_unstable();
        let _ = writeln!(
            text,
            "{} had asked for a time to come and had a computer p90 {}, at most {} after it; that without limits: at most {}",
            late.len(),
            minutes(at(&whole, 90)),
            minutes(whole.last().copied().unwrap_or(0)),
            minutes(late.last().map_or(0, |wait| wait.computer))
        );
        let seats: Vec<&UsageRow> = self.usage.iter().filter(|row| row.class.is_some()).collect();
        let taken = seats.iter().filter(|row| row.purpose == Purpose::Use).count();
        let had_one = seats.iter().filter(|row| row.assigned.is_some()).count();
        let late = seats.iter().filter_map(|row| Some(seconds(row.usable? - row.start?))).max().unwrap_or(0);
        let _ = write!(
            text,
            "classes: {} seats are over, {had_one} had a computer, {taken} were taken; the last was usable {} after its beginning",
            seats.len(),
            minutes(late)
        );
        text
    }

    /// What has to hold.
    pub(super) fn check(&self) {
        let had = self.had();
        // Each computer is at most one's in every minute, from the first to the last.
        let mut by_computer: BTreeMap<&str, Vec<&Had<'_>>> = BTreeMap::new();
        for h in &had {
            by_computer.entry(h.computer).or_default().push(h);
        }
        assert!(by_computer.len() <= COMPUTERS);
        for (name, mut all) in by_computer {
            all.sort_by_key(|h| (h.from, h.to));
            for pair in all.windows(2) {
                assert!(
                    pair[0].to <= pair[1].from,
                    "{name} was {}'s until {} and {}'s from {}",
                    pair[0].owner,
                    pair[0].to,
                    pair[1].owner,
                    pair[1].from
                );
            }
        }
        // Limits hold at every moment.
        assert!(Self::peak(had.iter().filter(|h| h.image == "matlab")) <= MATLAB as usize);
        let own = |group: &'static str| move |h: &&Had<'_>| !h.class && h.group == Some(group);
        assert!(Self::peak(had.iter().filter(own("research"))) <= RESEARCH as usize);
        for (group, limit) in [("students", STUDENT), ("staff", STAFF)] {
            let mut owners: BTreeMap<&str, Vec<&Had<'_>>> = BTreeMap::new();
            for h in had.iter().filter(own(group)) {
                owners.entry(h.owner).or_default().push(h);
            }
            for (owner, all) in owners {
                let peak = Self::peak(all.into_iter());
                assert!(peak <= limit as usize, "{owner} had {peak} at once");
            }
        }
        // Whatever has an end ended, and nobody waits for ever.
        for row in &self.open {
            assert!(row.end.is_none_or(|end| end > self.until), "{row:?} should be over");
        }
        let waits = self.waits();
        for (wait, most) in &waits {
            assert!(wait.own <= *most + PATIENCE, "more than {} were before: {wait:?}", minutes(*most));
        }
        if let Some(late) = self.late().last() {
            assert!(late.computer <= LATE, "one who had asked for a time to come waited after it: {late:?}");
        }
        Waits(waits.into_iter().map(|(wait, _)| wait).collect()).check();
    }
}
