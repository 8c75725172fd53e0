//! What computers are loaded with that nobody has: for reservations about to begin, for the warm pools, because a revision
//! was made production, or by the site's policy (VCL's predictive modules). A pure function.

use super::choose::Seat;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use vcl_config::{AfterUse, Lending};
use vcl_queue::UsageRow;
use vcl_types::state::computer::State;
use vcl_types::{ComputerName, ImageName, ImageRef};

/// What it depends on.
pub(crate) struct Idle<'a> {
    pub(crate) seats: &'a [Seat],
    /// Computers that are kept for reservations to come: when they begin, with what, and whether that is soon.
    pub(crate) ahead: Vec<(ComputerName, DateTime<Utc>, ImageRef, bool)>,
    /// The revision of each image that new reservations get.
    pub(crate) produced: BTreeMap<ImageName, ImageRef>,
    /// How many the warm pools keep now.
    pub(crate) warm: BTreeMap<ImageName, usize>,
    /// What is being loaded for nobody now.
    pub(crate) preparing: &'a [(ComputerName, ImageRef)],
    /// What ended of late, the newest first.
    pub(crate) past: &'a [UsageRow],
    /// Whether somebody waits for a computer.
    pub(crate) waiting: bool,
    pub(crate) lending: &'a Lending,
}

/// What is to be loaded, the most urgent first, and whether it is for somebody who comes soon.
pub(crate) fn decide(idle: &Idle<'_>) -> Vec<(ComputerName, ImageRef, bool)> {
    let mut wanted: Vec<(ComputerName, ImageRef)> = Vec::new();
    let free = |seat: &&Seat| seat.state == State::Available && !seat.taken && seat.closed.is_none();
    let has = |seat: &Seat, image: &ImageRef| seat.holds.as_ref() == Some(image) && !seat.tainted;
    // Of each computer what begins first.
    let mut first: BTreeMap<&ComputerName, &(ComputerName, DateTime<Utc>, ImageRef, bool)> = BTreeMap::new();
    for ahead in &idle.ahead {
        let known = first.entry(&ahead.0).or_insert(ahead);
        if ahead.1 < known.1 {
            *known = ahead;
        }
    }
    let soon = |seat: &Seat| first.get(&seat.computer.name).copied();
    // What begins soon.
    for seat in idle.seats.iter().filter(free) {
        if let Some((_, _, image, true)) = soon(seat)
            && !has(seat, image)
        {
            wanted.push((seat.computer.name.clone(), image.clone()));
        }
    }
    let urgent = wanted.len();
    let spoken_for = |seat: &Seat, wanted: &[(ComputerName, ImageRef)]| {
        matches!(soon(seat), Some((.., true))) || wanted.iter().any(|(name, _)| *name == seat.computer.name)
    };
    // The warm pools: empty computers first, then those that hold something nobody keeps.
    for (name, count) in &idle.warm {
        let (Some(image), Some(warm)) = (idle.produced.get(name), idle.lending.warm.get(name)) else {
            continue;
        };
        let fits = |seat: &&Seat| warm.tags.iter().all(|tag| seat.computer.tags.contains(tag));
        let there = idle
            .seats
            .iter()
            .filter(free)
            .filter(fits)
            .filter(|s| has(s, image) && !spoken_for(s, &[]))
            .count();
        let coming = |seat: &&Seat| {
            idle.preparing.iter().any(|(name, what)| *name == seat.computer.name && what == image)
                && !spoken_for(seat, &[])
        };
        let coming = idle.seats.iter().filter(|s| s.taken && s.closed.is_none()).filter(fits).filter(coming);
        let there = there + coming.count();
        let mut candidates: Vec<&Seat> = idle
            .seats
            .iter()
            .filter(free)
            .filter(fits)
            .filter(|s| !has(s, image) && s.warm_for.is_none() && !spoken_for(s, &wanted))
            .collect();
        candidates
            .sort_by_key(|s| (s.holds.is_some(), soon(s).map(|a| a.1).is_some(), s.computer.name.clone()));
        let missing = count.saturating_sub(there);
        wanted.extend(candidates.into_iter().take(missing).map(|s| (s.computer.name.clone(), image.clone())));
    }
    for seat in idle.seats.iter().filter(free) {
        if spoken_for(seat, &wanted) {
            continue;
        }
        let name = seat.computer.name.clone();
        match &seat.holds {
            // Another revision is in production now, or somebody has used this one.
            Some(holds) => {
                let now = idle.produced.get(&holds.name);
                if let Some(image) = now.filter(|image| *image != holds || seat.tainted) {
                    wanted.push((name, image.clone()));
                }
            }
            None if idle.waiting => {}
            None => wanted.extend(next_image(idle, seat).map(|image| (name, image))),
        }
    }
    wanted.into_iter().enumerate().map(|(n, (computer, image))| (computer, image, n < urgent)).collect()
}

/// What the site's policy puts on an empty computer.
fn next_image(idle: &Idle<'_>, seat: &Seat) -> Option<ImageRef> {
    let name = &seat.computer.name;
    let most_used = || {
        let mut counts: BTreeMap<&ImageName, usize> = BTreeMap::new();
        for row in idle.past.iter().filter(|row| row.usable.is_some()).take(200) {
            *counts.entry(&row.image.name).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(name, count)| (*count, std::cmp::Reverse(*name)));
        most.and_then(|(name, _)| idle.produced.get(name)).cloned()
    };
    match idle.lending.after_use {
        AfterUse::Nothing => None,
        AfterUse::Same => {
            let last = idle.past.iter().find(|row| row.computer.as_ref() == Some(name))?;
            idle.produced.get(&last.image.name).cloned()
        }
        AfterUse::MostUsed => most_used(),
        AfterUse::BookedNext => {
            let next = idle.ahead.iter().filter(|(n, ..)| n == name).min_by_key(|a| a.1);
            next.map(|(_, _, image, _)| image.clone()).or_else(most_used)
        }
    }
}
