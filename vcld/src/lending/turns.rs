//! Whose turn it is, and what is kept for those who have waited long: the queue as one pass over the tables.
//!
//! Those who wait are gone through in their order (`choose::order`). Each of them gets a computer that is free for the
//! whole of its time, or else, once it has waited for [`PATIENCE`], one is kept for it: that which by all that is known
//! it can have first, from then on for as long as it asked. What is kept is as good as a booking for everybody who comes
//! after it in the order, for bookings, for classes and for extensions: they get what is over by then, or begins when it
//! is over, or another computer. So short ones go before a long one as long as they do not keep it waiting, and nobody
//! who came later pushes it back.
//!
//! Limits are kept in the same way: one that has a computer kept takes its place in its group's limit from then on, so that
//! those of the group who asked later and for less do not take each place that becomes free.
//!
//! Nothing of it is stored. Each look makes it anew from the tables, where those who leave early have left and nobody may
//! have been put before it, so that from one look to the next it can have its computer at the same time or earlier, unless
//! its turn changes, its computer is out of use, or somebody before it wants longer.

use super::Times as _;
use super::choose::{Seat, Turn, Wanted, choose, devices, order};
use super::estimate::Forecast;
use super::view::{Asker, Over, Sight};
use chrono::{DateTime, TimeDelta, Utc};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use vcl_config::Lending;
use vcl_queue::{Places, ReservationRow};
use vcl_types::lending::{Choice, Waiting, Wish};
use vcl_types::state::reservation::State;
use vcl_types::{ComputerName, ImageRef, ReservationId};

/// How long one waits before a computer is kept for it.
pub(crate) const PATIENCE: TimeDelta = TimeDelta::hours(1);
/// For how many computers are kept at most, so that a look stays short.
const KEPT: usize = 200;
/// The shortest gap that is worth telling of, in seconds.
const SHORT: u64 = 600;

/// Any computer will do.
static ANY: Wish = Wish {
    computer: None,
    cpus: None,
    memory: None,
    tags: Vec::new(),
    any_of: Vec::new(),
    devices: BTreeMap::new(),
};

/// What one who waits has to expect at this moment.
#[derive(Debug, Clone)]
pub(crate) enum Outlook {
    /// It gets this computer now.
    Now(Choice),
    /// It is over a limit.
    Over(Over),
    /// This computer is kept for it, from then on at the latest.
    Kept(ComputerName, DateTime<Utc>),
    /// Nothing is free for it.
    Waits,
}

/// The limits that a reservation has to keep when it gets a computer.
pub(crate) fn places(lending: &Lending, who: &Asker<'_>) -> Places {
    let (owner, group, image) = lending.places(who.image, who.group);
    Places { owner: owner.filter(|_| !who.class), group: group.filter(|_| !who.class), image }
}

impl Sight {
    /// What a reservation that waits wants, if it gets it now.
    pub(crate) fn wanted<'a>(&'a self, row: &'a ReservationRow, image: &'a ImageRef) -> Wanted<'a> {
        let mut wanted = Wanted {
            id: Some(row.id),
            wish: row.asked.as_ref().map_or(&ANY, |asked| &asked.wish),
            image,
            hardware: self.hardware(&image.name),
            from: self.now(),
            until: row.end_if_begun(self.now()),
            avoid: &row.avoid,
            own: row.booked.as_ref(),
        };
        // Where every computer that would do has failed it once, the first of them may have come round.
        if !row.avoid.is_empty() && self.seats.iter().all(|seat| seat.unfit(&wanted).is_some()) {
            wanted.avoid = &[];
        }
        wanted
    }

    /// The order in which those that wait are served.
    fn order(&self) -> Vec<ReservationId> {
        let waiting = self.rows.iter().filter(|row| row.state == State::Queued).map(|row| Turn {
            id: row.id,
            owner: &row.owner,
            since: row.start.unwrap_or(row.since),
            promised: promised(row),
        });
        let waiting: Vec<Turn<'_>> = waiting.collect();
        if waiting.is_empty() {
            return Vec::new();
        }
        order(waiting, &self.have(), self.hours(), self.now())
    }

    /// Gives and keeps computers in the order of the queue, as far as this sight goes: what is given has a holder in it
    /// from now on, what is kept is booked. That is done once.
    pub(crate) fn plan(&mut self, lending: &Lending) {
        if !self.outlooks.is_empty() {
            return;
        }
        let mut kept = 0;
        for id in self.order() {
            let outlook = self.look_out(id, lending, kept < KEPT);
            match &outlook {
                Outlook::Now(choice) => {
                    let until = self.row(id).and_then(|row| row.end_if_begun(self.now()));
                    self.give(id, &choice.computer.clone(), until);
                }
                Outlook::Kept(computer, from) => {
                    kept += 1;
                    self.keep_for(id, &computer.clone(), *from);
                }
                Outlook::Over(_) | Outlook::Waits => {}
            }
            self.outlooks.push((id, outlook));
        }
    }

    fn look_out(&self, id: ReservationId, lending: &Lending, keep: bool) -> Outlook {
        let Some(row) = self.row(id) else { return Outlook::Waits };
        let Some(image) = self.to_lend(&row.image) else { return Outlook::Waits };
        let wanted = self.wanted(row, &image);
        let asker = Asker::from(row);
        if let Some(over) = self.over(&asker, &places(lending, &asker), wanted.until) {
            return Outlook::Over(over);
        }
        if let Ok(choice) = choose(&wanted, &self.seats) {
            return Outlook::Now(choice);
        }
        let long = self.now() - row.start.unwrap_or(row.since) >= PATIENCE;
        if !keep || !(long || promised(row)) {
            return Outlook::Waits;
        }
        let first = |seat: &'_ Seat| {
            let at = seat.earliest(&wanted, row.end.is_some())?;
            let other = wanted.own != Some(&seat.computer.name);
            Some((at, other, devices(&seat.computer).values().sum::<u32>(), seat.computer.name.clone()))
        };
        match self.seats.iter().filter_map(first).min() {
            Some((at, _, _, computer)) => Outlook::Kept(computer, at),
            None => Outlook::Waits,
        }
    }

    /// A computer is kept for one that waits, without its knowing.
    fn keep_for(&mut self, id: ReservationId, computer: &ComputerName, from: DateTime<Utc>) {
        let until = self.row(id).and_then(|row| row.end_if_begun(from));
        for seat in self.seats.iter_mut().filter(|seat| seat.computer.name == *computer) {
            seat.booked.retain(|(booked, ..)| *booked != id);
            seat.booked.push((id, from, until));
            seat.booked.sort_by_key(|(_, from, _)| *from);
        }
        self.kept.insert(id, from);
    }

    /// What one that waits has to expect.
    pub(crate) fn outlook(&self, id: ReservationId) -> Option<&Outlook> {
        self.outlooks.iter().find(|(other, _)| *other == id).map(|(_, outlook)| outlook)
    }

    /// Whoever has waited long and would wait longer if a reservation had its computer until then, and from when to when
    /// its turn would move.
    pub(crate) fn pushed_back(
        &self,
        extended: ReservationId,
        until: DateTime<Utc>,
        lending: &Lending,
    ) -> Option<(ReservationId, DateTime<Utc>)> {
        let (mut before, mut after) = (self.clone(), self.clone());
        after.rows.iter_mut().filter(|row| row.id == extended).for_each(|row| row.end = Some(until));
        let own = |seat: &&mut Seat| seat.held == Some(extended);
        after.seats.iter_mut().filter(own).for_each(|seat| seat.held_until = Some(until));
        before.plan(lending);
        after.plan(lending);
        before.outlooks.iter().find_map(|(id, outlook)| {
            let Outlook::Kept(_, first) = outlook else { return None };
            let sooner = match after.outlook(*id) {
                Some(Outlook::Now(_)) => true,
                Some(Outlook::Kept(_, then)) => then <= first,
                _ => false,
            };
            (!sooner).then_some((*id, *first))
        })
    }

    /// How long one that waits has to wait behind all that are served first, and what for.
    pub(crate) fn waiting(&self, id: ReservationId, lending: &Lending) -> Option<Waiting> {
        let row = self.row(id)?;
        let image = self.to_lend(&row.image)?;
        let wanted = self.wanted(row, &image);
        let before: Vec<ReservationId> =
            self.outlooks.iter().take_while(|(other, _)| *other != id).map(|(id, _)| *id).collect();
        // In front are those that could take a computer which would do here, and get one.
        let in_front = |other: &ReservationId| {
            let waits = matches!(self.outlook(*other), Some(Outlook::Kept(..) | Outlook::Waits));
            let Some(row) = self.row(*other).filter(|_| waits) else { return false };
            let other = self.wanted(row, &row.image);
            self.seats.iter().any(|seat| seat.unfit(&wanted).is_none() && seat.unfit(&other).is_none())
        };
        let position = before.iter().filter(|other| in_front(other)).count() as u64 + 1;
        let (latest, because) = match self.outlook(id) {
            Some(Outlook::Over(over)) => (None, Some(over.why.clone())),
            Some(Outlook::Kept(computer, from)) => {
                let at = from.format("%Y-%m-%d %H:%M UTC");
                let kept = format!("{computer} is kept for it, from {at} at the latest");
                (Some(*from), Some(gap(self, &wanted).map_or(kept.clone(), |gap| format!("{kept}; {gap}"))))
            }
            _ => (None, gap(self, &wanted)),
        };
        let forecast = Forecast { sight: self, lending, row, before, latest };
        Some(forecast.waiting(position, because))
    }
}

/// Whether it was promised for a time that has come: a future one, a seat.
fn promised(row: &ReservationRow) -> bool {
    row.booked.is_some() || row.class.is_some()
}

/// What could be had at once instead of waiting: a computer that is free and kept for somebody soon.
fn gap(sight: &Sight, wanted: &Wanted<'_>) -> Option<String> {
    let found = sight.seats.iter().filter_map(|seat| Some((seat.free_until(wanted)?, seat)));
    let (until, seat) = found.max_by_key(|(until, seat)| (*until, Reverse(&seat.computer.name)))?;
    let left = u64::try_from((until - wanted.from).num_seconds()).ok().filter(|left| *left >= SHORT)?;
    let span = crate::why::span(left / 60 * 60_000);
    Some(format!(
        "what is free is kept for somebody before this would be over; {} can be had at once for {span} or less",
        seat.computer.name
    ))
}
