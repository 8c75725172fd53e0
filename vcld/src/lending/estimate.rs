//! How long somebody has to wait, from what happened in the past.
//!
//! Computers become free when those who have them go, and most go before their time is over. So the past's shares of the
//! asked time that were really used are drawn from, many times, for everybody who has a computer or is before it in the
//! queue; in each run all of them get, in the order of the queue, the first gap that is long enough on a computer that will
//! do: after whoever has it, between what is booked, and when its owner, its group and its image are below their limits. Of
//! these runs the tenth and the ninetieth percent are shown. The draws follow from the run's number, so that the same
//! question has the same answer.
//!
//! What no run knows (who comes later and goes first, who extends) is learnt from how past forecasts did: each side of the
//! interval is widened by a factor that every miss raises and every hit lowers, so that in the long run as many miss as may
//! (adaptive conformal inference; the newest forecasts of the same group count, or of everybody where there are few). Where
//! a computer is kept for it, it waits no longer than until then.

use super::choose::Seat;
use super::turns::places;
use super::view::{Asker, Sight, has, of_people};
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use vcl_config::Lending;
use vcl_queue::{ReservationRow, UsageRow};
use vcl_types::ReservationId;
use vcl_types::lending::Waiting;

/// How many runs are made, where there are not too many computers and reservations.
const RUNS: usize = 50;
/// How many gaps are looked for at most in all runs together: what an answer may cost.
const LOOKS: usize = 100_000;
/// How many of those who are served before are looked at.
const BEFORE: usize = 300;
/// How many forecasts are learnt from.
const LEARNT: usize = 300;
/// How many of a group's forecasts have to be known for its own to count alone.
const OWN: usize = 30;
/// Which share may be missed on each side: less than a tenth, because what is learnt is forgotten in time.
const MISSED: f64 = 0.09;
/// By how much a miss widens a side: the exponent of a factor. It takes tens of misses to double it, so that one bad morning
/// does not make the next days' intervals useless.
const STEP: f64 = 0.03;
/// By what factor each side is widened as long as nothing is known of past forecasts.
const UNKNOWN: f64 = 2.0;
/// Seconds by which each side is wider than the runs say before it is widened: what a load and a look take.
const LEAST: f64 = 120.0;

/// A small generator of numbers that follow from a seed (splitmix64).
struct Draw(u64);
impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The shares of their asked time that past reservations really lasted, from 0 to 1, in order.
struct Shares(Vec<f64>);

impl Shares {
    /// Of those that count.
    fn of(past: &[UsageRow], counts: impl Fn(&UsageRow) -> bool) -> Self {
        let share = |row: &UsageRow| {
            let (from, length) = (row.usable?, row.length_s.filter(|s| *s > 0)?);
            Some(((row.ended - from).num_seconds().max(0) as f64 / length as f64).clamp(0.01, 1.0))
        };
        let mut all: Vec<f64> = past.iter().filter(|row| counts(row)).filter_map(share).take(500).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }
    /// One of them, given that it is longer than what has gone by.
    fn draw(&self, draw: &mut Draw, beyond: f64) -> f64 {
        let longer = &self.0[self.0.partition_point(|share| *share <= beyond)..];
        if longer.is_empty() { 1.0 } else { longer[(draw.next() % longer.len() as u64) as usize] }
    }
}

/// How a forecast did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Within,
    /// It took less.
    Below,
    /// It took more.
    Above,
}

/// How the newest forecasts did that count, of those that are over and of those whose reservations have a computer or have
/// waited longer than was said.
fn outcomes(sight: &Sight, group: Option<Option<&str>>) -> Vec<Outcome> {
    let judge = |since: DateTime<Utc>, assigned: Option<DateTime<Utc>>, (low, high): (u64, u64)| {
        let waited = (assigned.unwrap_or(sight.now()) - since).num_seconds().max(0).unsigned_abs();
        match assigned {
            _ if waited > high => Some(Outcome::Above),
            Some(_) if waited < low => Some(Outcome::Below),
            Some(_) => Some(Outcome::Within),
            None => None,
        }
    };
    let counts = |of: &Option<String>| group.is_none_or(|group| group == of.as_deref());
    let open = sight.rows.iter().filter(|row| counts(&row.group));
    let open = open.filter_map(|row| judge(row.since, row.assigned, row.shown?));
    let over = sight.past.iter().filter(|row| row.assigned.is_some() && counts(&row.group));
    let over = over.filter_map(|row| judge(row.since, row.assigned, row.shown?));
    open.chain(over).take(LEARNT).collect()
}

/// By what factors the lower and the upper side are widened.
fn widening(outcomes: &[Outcome]) -> (f64, f64) {
    let side = |missed: Outcome| {
        let misses = outcomes.iter().filter(|outcome| **outcome == missed).count() as f64;
        let excess = misses - MISSED * outcomes.len() as f64;
        (UNKNOWN * (STEP * excess).exp()).clamp(0.7, 8.0)
    };
    (side(Outcome::Below), side(Outcome::Above))
}

/// A computer in one run: seconds from now.
#[derive(Clone)]
struct Lane {
    /// When whoever has it goes.
    free: f64,
    /// What it is kept for, sorted.
    busy: Vec<(f64, f64)>,
}

impl Lane {
    /// When it can first be had for so long.
    fn gap(&self, after: f64, length: f64) -> f64 {
        let mut at = self.free.max(after);
        for (from, until) in &self.busy {
            if *from >= at + length {
                break;
            }
            at = at.max(*until);
        }
        at
    }
    fn take(&mut self, from: f64, until: f64) {
        let at = self.busy.partition_point(|(other, _)| *other <= from);
        self.busy.insert(at, (from, until));
    }
}

/// One who waits, as the runs see them.
struct Claim<'a> {
    /// Which computers will do.
    fit: Vec<usize>,
    /// For how long it asks, in seconds.
    length: f64,
    group: Option<&'a str>,
    /// The limits that it has to keep: which, and how many.
    limits: Vec<(usize, usize)>,
}

/// The shares that are drawn from: of a group, where enough of it is known.
struct Past<'a> {
    all: Shares,
    came: Shares,
    groups: HashMap<&'a str, (Shares, Shares)>,
}

impl<'a> Past<'a> {
    fn of(past: &'a [UsageRow]) -> Self {
        let mut groups: HashMap<&'a str, (Shares, Shares)> = HashMap::new();
        for group in past.iter().filter_map(|row| row.group.as_deref()) {
            groups.entry(group).or_insert_with(|| {
                let own = |row: &UsageRow| row.group.as_deref() == Some(group);
                (Shares::of(past, own), Shares::of(past, |row| own(row) && row.connected.is_some()))
            });
        }
        groups.retain(|_, (_, came)| came.0.len() >= OWN);
        Self {
            all: Shares::of(past, |_| true),
            came: Shares::of(past, |row| row.connected.is_some()),
            groups,
        }
    }
    fn shares(&self, group: Option<&str>, came: bool) -> &Shares {
        let own = group.and_then(|group| self.groups.get(group));
        match (own, came) {
            (Some((_, own)), true) => own,
            (Some((own, _)), false) => own,
            (None, true) => &self.came,
            (None, false) => &self.all,
        }
    }
}

/// What is known when somebody asks how long they have to wait.
pub(crate) struct Forecast<'a> {
    /// The tables, planned.
    pub(crate) sight: &'a Sight,
    pub(crate) lending: &'a Lending,
    /// Who waits.
    pub(crate) row: &'a ReservationRow,
    /// Whose turn is before.
    pub(crate) before: Vec<ReservationId>,
    /// From when on a computer is kept for it.
    pub(crate) latest: Option<DateTime<Utc>>,
}

/// What is the same in all runs.
struct Model<'a> {
    past: Past<'a>,
    /// The computers that can be had, and who has each.
    seats: Vec<(&'a Seat, Option<&'a ReservationRow>)>,
    /// Who counts for a limit and has a computer: indices of limits.
    counted: HashMap<ReservationId, Vec<usize>>,
    limits: usize,
    claims: Vec<Claim<'a>>,
}

/// A limit, by what it is of.
#[derive(PartialEq, Eq, Hash, Clone, Copy)]
enum Limit<'a> {
    Owner(&'a str),
    Group(&'a str),
    Image(&'a str),
}

fn limits_of(row: &ReservationRow) -> impl Iterator<Item = Limit<'_>> {
    let group = row.group.as_deref().filter(|_| of_people(row)).map(Limit::Group);
    let owner = of_people(row).then_some(Limit::Owner(&row.owner));
    [owner, group, Some(Limit::Image(row.image.name.as_str()))].into_iter().flatten()
}

impl<'a> Forecast<'a> {
    /// The waiting time.
    pub(crate) fn waiting(&self, position: u64, because: Option<String>) -> Waiting {
        let unknown = Waiting { position, p10_s: None, p90_s: None, because };
        let Some(model) = self.model() else { return unknown };
        let looks: usize = model.claims.iter().map(|claim| claim.fit.len()).sum();
        let runs = (LOOKS / looks.max(1)).clamp(10, RUNS);
        let draws = (0..runs as u64).map(|run| Draw(run.wrapping_mul(0x517c_c1b7_2722_0a95) ^ position));
        let mut waits: Vec<f64> =
            draws.map(|mut draw| self.one(&model, &mut draw)).filter(|wait| wait.is_finite()).collect();
        if waits.is_empty() {
            return unknown;
        }
        waits.sort_by(f64::total_cmp);
        let own = outcomes(self.sight, Some(self.row.group.as_deref()));
        let (lower, upper) = widening(&if own.len() < OWN { outcomes(self.sight, None) } else { own });
        let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
        let latest = self.latest.map_or(f64::INFINITY, |at| self.seconds(at) + LEAST);
        // However narrow they have become, the median lies between them.
        let low = (at(10) / lower - LEAST * lower).min(at(50)).clamp(0.0, latest);
        let high = ((at(90) + LEAST) * upper).max(at(50) + LEAST).min(latest);
        Waiting { p10_s: Some(low as u64), p90_s: Some(high.ceil() as u64), ..unknown }
    }

    fn seconds(&self, at: DateTime<Utc>) -> f64 {
        (at - self.sight.now()).num_seconds() as f64
    }

    fn model(&self) -> Option<Model<'a>> {
        let sight = self.sight;
        let past = Past::of(&sight.past);
        if past.all.0.len() < 10 {
            return None;
        }
        let holder = |seat: &Seat| sight.row(seat.held?);
        let seats =
            sight.seats.iter().filter(|seat| seat.closed.is_none() && !seat.drained && !seat.is_out());
        let seats: Vec<_> = seats.map(|seat| (seat, holder(seat))).collect();
        let mut known: HashMap<Limit<'_>, usize> = HashMap::new();
        let mut counted = HashMap::new();
        for row in sight.rows.iter().filter(|row| has(row)) {
            let own = limits_of(row).map(|limit| {
                let next = known.len();
                *known.entry(limit).or_insert(next)
            });
            counted.insert(row.id, own.collect());
        }
        let first = self.before.iter().take(BEFORE).filter_map(|id| sight.row(*id));
        let waiting = first.filter(|row| !has(row)).chain([self.row]);
        let mut claims = Vec::new();
        for row in waiting {
            let asker = Asker::from(row);
            let places = places(self.lending, &asker);
            let limits = limits_of(row).filter_map(|limit| {
                let most = match limit {
                    Limit::Owner(_) => places.owner,
                    Limit::Group(_) => places.group,
                    Limit::Image(_) => places.image,
                };
                let next = known.len();
                Some((*known.entry(limit).or_insert(next), most? as usize))
            });
            let limits = limits.collect();
            let image = sight.to_lend(&row.image);
            let wanted = sight.wanted(row, image.as_ref().unwrap_or(&row.image));
            let fit = seats.iter().enumerate().filter(|(_, (seat, _))| seat.unfit(&wanted).is_none());
            claims.push(Claim {
                fit: fit.map(|(n, _)| n).collect(),
                length: wanted.until.map_or(f64::INFINITY, |until| self.seconds(until)),
                group: row.group.as_deref(),
                limits,
            });
        }
        Some(Model { past, seats, counted, limits: known.len(), claims })
    }

    /// One run: when its computer is free, in seconds from now; infinite for never.
    fn one(&self, model: &Model<'_>, draw: &mut Draw) -> f64 {
        let sight = self.sight;
        // When those go who count for each limit.
        let mut ends: Vec<Vec<f64>> = vec![Vec::new(); model.limits];
        let mut lanes: Vec<Lane> = Vec::with_capacity(model.seats.len());
        for (seat, holder) in &model.seats {
            let free = match (seat.held, holder) {
                (None, _) => 0.0,
                (Some(_), None) => f64::INFINITY,
                (Some(_), Some(row)) => self.end(model, row, draw),
            };
            for limit in holder.and_then(|row| model.counted.get(&row.id)).into_iter().flatten() {
                ends[*limit].push(free);
            }
            let mut busy = Vec::with_capacity(seat.booked.len());
            // What is kept for those that wait is not known to them: they are in the queue.
            for (id, from, until) in seat.booked.iter().filter(|(id, ..)| !sight.kept.contains_key(id)) {
                let (from, until) = (self.seconds(*from), until.map_or(f64::INFINITY, |at| self.seconds(at)));
                let group = sight.row(*id).and_then(|row| row.group.as_deref());
                let share = if id.0 == 0 { 1.0 } else { model.past.shares(group, false).draw(draw, 0.0) };
                busy.push((from, from + share * (until - from)));
            }
            lanes.push(Lane { free, busy });
        }
        ends.iter_mut().for_each(|ends| ends.sort_by(f64::total_cmp));
        let mut at = f64::INFINITY;
        for claim in &model.claims {
            let mut after = 0.0_f64;
            for (limit, most) in &claim.limits {
                let ends = &ends[*limit];
                if *most == 0 {
                    after = f64::INFINITY;
                } else if ends.len() >= *most {
                    after = after.max(ends[ends.len() - most]);
                }
            }
            let first = claim.fit.iter().map(|n| (lanes[*n].gap(after, claim.length), *n));
            let Some((from, lane)) = first.min_by(|a, b| a.0.total_cmp(&b.0)) else {
                at = f64::INFINITY;
                continue;
            };
            at = from;
            if from.is_finite() {
                let share = model.past.shares(claim.group, false).draw(draw, 0.0);
                let until = from + share * claim.length;
                lanes[lane].take(from, until);
                for (limit, _) in &claim.limits {
                    let ends = &mut ends[*limit];
                    let place = ends.partition_point(|end| *end <= until);
                    ends.insert(place, until);
                }
            }
        }
        at
    }

    /// When one that has a computer goes.
    fn end(&self, model: &Model<'_>, row: &ReservationRow, draw: &mut Draw) -> f64 {
        let now = self.sight.now();
        match (row.length_s.filter(|length| *length > 0), row.end) {
            (Some(length), Some(end)) => {
                let from = row.usable.or(row.assigned).unwrap_or(now);
                let gone = (now - from).num_seconds().max(0) as f64;
                let shares = model.past.shares(row.group.as_deref(), row.connected.is_some());
                let whole = shares.draw(draw, gone / length as f64) * length as f64;
                (whole - gone).clamp(0.0, self.seconds(end).max(0.0))
            }
            (_, Some(end)) => self.seconds(end).max(0.0),
            _ => f64::INFINITY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_that_is_missed_too_often_grows_until_it_is_not() {
        let mut all = vec![Outcome::Within; LEARNT];
        let (low, high) = widening(&all);
        assert!(low < 1.0 && high < 1.0, "{low} {high}");
        all[..LEARNT / 3].fill(Outcome::Above);
        let (low, higher) = widening(&all);
        assert!(low < 1.0 && higher > 4.0, "{low} {higher}");
        assert_eq!(widening(&[]), (UNKNOWN, UNKNOWN));
    }

    #[test]
    fn what_is_drawn_is_longer_than_what_has_gone_by() {
        let shares = Shares(vec![0.1, 0.5, 0.9]);
        let mut draw = Draw(7);
        assert!((0..50).all(|_| shares.draw(&mut draw, 0.4) >= 0.5));
        assert_eq!(shares.draw(&mut draw, 0.95), 1.0);
    }
}
