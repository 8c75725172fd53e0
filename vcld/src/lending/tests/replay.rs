//! The week as pure functions: the same people, classes and limits, and of the daemon only what decides (the order of the
//! queue, the choice, what is kept for whom, bookings, extensions, forecasts), over rows in memory. What a week of the real
//! thing takes minutes for takes seconds here, so that other seeds can be lived as well.

use super::report::{Part, Wait, Waits};
use super::scene::lines_of;
use super::week::{COMPUTERS, MONDAY, configuration, request};
use super::workload::{CLASSES, Item, SEED, made};
use crate::lending::choose::{Seat, Wanted};
use crate::lending::requests::{as_row, booking};
use crate::lending::turns::Outlook;
use crate::lending::view::Sight;
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use vcl_config::{BackendType, Known, Lending};
use vcl_queue::{NewReservation, ReservationRow, UsageRow};
use vcl_types::lending::{Due, Purpose, ReservationRequest, due};
use vcl_types::state::computer;
use vcl_types::state::reservation::State;
use vcl_types::{Computer, ComputerName, Hardware, ImageName, ImageRef, ReservationId};

/// How long a step of time is, in seconds.
const STEP: i64 = 120;

struct Replay {
    lending: Lending,
    computers: Vec<Computer>,
    images: BTreeMap<ImageName, (ImageRef, Hardware)>,
    now: DateTime<Utc>,
    rows: Vec<ReservationRow>,
    past: Arc<Vec<UsageRow>>,
    /// Who of the workload each reservation is.
    items: HashMap<ReservationId, Item>,
    /// Whose extension was tried.
    tried: HashSet<ReservationId>,
    number: i64,
    waits: HashMap<ReservationId, Wait>,
    refused: usize,
}

fn monday() -> DateTime<Utc> {
    MONDAY.parse().unwrap()
}
fn later(at: DateTime<Utc>, seconds: u64) -> DateTime<Utc> {
    at + TimeDelta::seconds(seconds as i64)
}

impl Replay {
    fn new() -> Self {
        let text = lines_of("/nowhere".into(), COMPUTERS, &configuration());
        let known = Known { backend_types: &[BackendType::SIM] };
        let config = vcl_config::parse(&text, "test.toml", &known).unwrap();
        let images = ["office", "debian", "gis", "matlab"].map(|name| {
            let image: ImageRef = format!("{name}@1").parse().unwrap();
            (image.name.clone(), (image, Hardware::default()))
        });
        let mut replay = Self {
            lending: config.lending,
            computers: config.computers,
            images: images.into(),
            now: monday(),
            rows: Vec::new(),
            past: Arc::default(),
            items: HashMap::new(),
            tried: HashSet::new(),
            number: 0,
            waits: HashMap::new(),
            refused: 0,
        };
        replay.classes();
        replay
    }

    fn sight(&self) -> Sight {
        let mut held: HashMap<&ComputerName, &ReservationRow> = HashMap::new();
        for row in &self.rows {
            let other = row.computer.as_ref().and_then(|computer| held.insert(computer, row));
            assert!(other.is_none(), "two have one computer: {other:?} and {row:?}");
        }
        let seats = self.computers.iter().map(|computer| {
            let own = |row: &&ReservationRow| row.booked.as_ref() == Some(&computer.name);
            let mut booked: Vec<_> =
                self.rows.iter().filter(own).map(|row| (row.id, row.start.unwrap(), row.end)).collect();
            booked.sort_by_key(|(_, from, _)| *from);
            let holder = held.get(&computer.name);
            Seat {
                computer: computer.clone(),
                state: if holder.is_some() { computer::State::Reserved } else { computer::State::Available },
                holds: None,
                tainted: false,
                taken: holder.is_some(),
                booked,
                held: holder.map(|row| row.id),
                held_until: holder.and_then(|row| row.end),
                closed: None,
                drained: false,
                reason: None,
                warm_for: None,
            }
        });
        Sight::new(seats.collect(), self.rows.clone(), self.past.clone(), self.images.clone(), self.now)
    }

    fn add(&mut self, row: ReservationRow) -> ReservationId {
        self.number += 1;
        let id = ReservationId(self.number);
        self.rows.push(ReservationRow { id, ..row });
        id
    }

    fn new_row(&self, asked: ReservationRequest, owner: &str, class: Option<i64>) -> NewReservation {
        let times = self.lending.times(&asked.image.name, asked.group.as_deref());
        let start = asked.start.unwrap_or(self.now);
        let end = asked.length_s.map(|length| later(start, length)).filter(|_| start > self.now);
        NewReservation {
            owner: owner.into(),
            group: asked.group.clone(),
            purpose: if class.is_some() { Purpose::Seat } else { asked.purpose },
            class,
            times,
            now: self.now,
            start,
            end,
            length_s: asked.length_s,
            booked: None,
            shown: None,
            hours: None,
            asked,
        }
    }

    fn classes(&mut self) {
        for (class, (_, group, image, seats, weekly)) in CLASSES.into_iter().enumerate() {
            let weekly: vcl_types::lending::Weekly = weekly.parse().unwrap();
            for (start, end) in weekly.between(&Utc, self.now, self.now + TimeDelta::days(14)) {
                for _ in 0..seats {
                    let length = (end - start).num_seconds();
                    let asked = serde_json::json!({
                        "image": image, "group": group, "start": start, "length_s": length,
                    });
                    let new =
                        self.new_row(serde_json::from_value(asked).unwrap(), "teacher", Some(class as i64));
                    self.book(new).unwrap();
                }
            }
        }
    }

    fn book(&mut self, mut new: NewReservation) -> Result<ReservationId, String> {
        let mut sight = self.sight();
        sight.plan(&self.lending);
        let image = sight.to_lend(&new.asked.image).unwrap();
        let wanted = Wanted::of(&new.asked.wish, &image, None, new.start, new.end);
        let choice = booking(&wanted, &sight).map_err(|no| no.message)?;
        new.booked = Some(choice.computer);
        Ok(self.add(as_row(&new)))
    }

    /// Whether its owner may have so much more.
    fn within_hours(&self, owner: &str, group: &str, more: i64) -> bool {
        let Some(most) = self.lending.hours_per_week(Some(group)) else { return true };
        let own = |row: &&UsageRow| row.owner == owner && row.class.is_none();
        let had =
            self.past.iter().filter(own).filter_map(|row| Some((row.ended - row.usable?).num_seconds()));
        let open = self.rows.iter().filter(|row| row.owner == owner && row.class.is_none());
        let open = open.map(|row| row.length_s.unwrap_or(0) as i64);
        had.sum::<i64>() + open.sum::<i64>() + more <= i64::from(most) * 3600
    }

    fn seat(&mut self, item: &Item) -> bool {
        let mine = |row: &ReservationRow| row.class.is_some() && row.group.as_deref() == Some(&item.group);
        let now = self.now;
        let has = |row: &ReservationRow| mine(row) && row.owner == item.user && row.end > Some(now);
        if self.rows.iter().any(has) {
            return false;
        }
        let free = |row: &&mut ReservationRow| {
            let soon = TimeDelta::seconds(row.times.ahead_s as i64);
            mine(row)
                && row.purpose == Purpose::Seat
                && row.start.is_some_and(|start| start - soon <= now)
                && row.end > Some(now)
        };
        let Some(row) = self.rows.iter_mut().find(free) else { return false };
        row.owner = item.user.clone();
        row.purpose = Purpose::Use;
        row.usable = row.usable.map(|_| now);
        self.items.insert(row.id, item.clone());
        true
    }

    fn ask(&mut self, item: &Item) {
        if self.seat(item) {
            return;
        }
        let asked = request(item);
        if !self.within_hours(&item.user, &item.group, item.length as i64) {
            self.refused += 1;
            return;
        }
        let mut new = self.new_row(asked, &item.user, None);
        let id = if new.start > self.now {
            match self.book(new) {
                Ok(id) => id,
                Err(_) => {
                    self.refused += 1;
                    return;
                }
            }
        } else {
            let mut sight = self.sight();
            let row = as_row(&new);
            let id = row.id;
            sight.rows.push(row);
            sight.plan(&self.lending);
            if !matches!(sight.outlook(id), Some(Outlook::Now(_))) {
                let waiting = sight.waiting(id, &self.lending).unwrap();
                new.shown = waiting.p10_s.zip(waiting.p90_s);
            }
            let wait = Wait { group: item.group.clone(), shown: new.shown, ..Wait::default() };
            let id = self.add(as_row(&new));
            self.waits.insert(id, wait);
            id
        };
        self.items.insert(id, item.clone());
    }

    fn end(&mut self, id: ReservationId, because: &str) {
        let at = self.rows.iter().position(|row| row.id == id).unwrap();
        let row = self.rows.remove(at);
        let begin = row.asked.as_ref().and_then(|asked| asked.start).or(row.start);
        let usage = UsageRow {
            reservation: row.id,
            owner: row.owner,
            group: row.group,
            purpose: row.purpose,
            class: row.class,
            image: row.image,
            computer: row.computer,
            since: row.since,
            start: begin,
            assigned: row.assigned,
            usable: row.usable,
            connected: row.connected,
            ended: self.now,
            length_s: row.length_s,
            shown: row.shown,
            because: Some(because.into()),
        };
        Arc::make_mut(&mut self.past).insert(0, usage);
    }

    fn what_is_due(&mut self) -> bool {
        // The guests of those who are not there say so.
        self.rows.iter_mut().for_each(|row| row.nobody = Some(self.now));
        let found: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| Some((row.id, due(&row.moments(monday()), self.now)?)))
            .collect();
        let mut acted = false;
        for (id, due) in found {
            acted = true;
            match due {
                Due::Begin => {
                    let row = self.rows.iter_mut().find(|row| row.id == id).unwrap();
                    row.state = State::Queued;
                }
                Due::Notice(seconds) => {
                    let row = self.rows.iter_mut().find(|row| row.id == id).unwrap();
                    row.told.extend(row.times.notices_s.iter().filter(|s| **s >= seconds));
                }
                other => self.end(id, &format!("{other:?}")),
            }
        }
        acted
    }

    fn give_out(&mut self) -> bool {
        if !self.rows.iter().any(|row| row.state == State::Queued) {
            return false;
        }
        let mut sight = self.sight();
        sight.plan(&self.lending);
        let mut acted = false;
        for (id, outlook) in &sight.outlooks {
            let Outlook::Now(choice) = outlook else { continue };
            acted = true;
            let (now, end) = (self.now, sight.row(*id).unwrap().end);
            let row = self.rows.iter_mut().find(|row| row.id == *id).unwrap();
            (row.state, row.computer, row.booked) = (State::Ready, Some(choice.computer.clone()), None);
            (row.start, row.assigned, row.usable, row.end) = (Some(now), Some(now), Some(now), end);
        }
        if !acted {
            // Nothing moves until the next step: what each waits for now.
            for (id, outlook) in &sight.outlooks {
                let Some(wait) = self.waits.get_mut(id) else { continue };
                let part = match outlook {
                    Outlook::Over(over) if over.why.contains("this image") => Part::Licence,
                    Outlook::Over(_) => Part::Own,
                    _ => Part::Computer,
                };
                wait.add(part, STEP as u64);
            }
        }
        acted
    }

    fn extend(&mut self, id: ReservationId, by: u64) {
        let row = self.rows.iter().find(|row| row.id == id).unwrap();
        let until = later(row.end.unwrap(), by);
        let in_the_way = |other: &ReservationRow| {
            other.booked == row.computer && other.start.is_some_and(|start| start < until)
        };
        let hours = row.class.is_some()
            || self.within_hours(&row.owner, row.group.as_deref().unwrap_or_default(), by as i64);
        if !hours
            || self.rows.iter().any(in_the_way)
            || self.sight().pushed_back(id, until, &self.lending).is_some()
        {
            return;
        }
        let row = self.rows.iter_mut().find(|row| row.id == id).unwrap();
        row.length_s = Some((until - row.usable.unwrap()).num_seconds() as u64);
        row.end = Some(until);
    }

    fn people(&mut self) -> bool {
        let mut deeds = Vec::new();
        for row in &self.rows {
            let Some(item) = self.items.get(&row.id) else { continue };
            match (row.state, row.connected) {
                (State::Ready, None) => {
                    let comes = item.comes.zip(row.usable).map(|(s, usable)| later(usable, s));
                    deeds.extend(comes.filter(|at| *at <= self.now).map(|_| (row.id, 'c', 0)));
                }
                (State::InUse, Some(connected)) => {
                    if item.leaves.is_some_and(|s| later(connected, s) <= self.now) {
                        deeds.push((row.id, 'l', 0));
                    } else if let Some(by) = item.extends.filter(|_| row.class.is_none() && row.end.is_some())
                        && later(connected, item.length / 2) <= self.now
                        && !self.tried.contains(&row.id)
                    {
                        deeds.push((row.id, 'e', by));
                    }
                }
                _ => {}
            }
        }
        let acted = !deeds.is_empty();
        for (id, deed, by) in deeds {
            let now = self.now;
            match deed {
                'c' => {
                    let row = self.rows.iter_mut().find(|row| row.id == id).unwrap();
                    (row.state, row.acknowledged) = (State::InUse, Some(now));
                    (row.connected, row.seen) = (Some(now), Some(now));
                }
                'l' if id.0 % 3 == 0 => {
                    let row = self.rows.iter_mut().find(|row| row.id == id).unwrap();
                    (row.state, row.seen) = (State::Ready, Some(now));
                }
                'l' => self.end(id, "given back"),
                _ => {
                    self.tried.insert(id);
                    self.extend(id, by);
                }
            }
        }
        acted
    }

    /// Lives so many hours of a workload.
    fn live(mut self, items: &[Item], hours: i64) -> Waits {
        let mut next = 0;
        let end = monday() + TimeDelta::hours(hours);
        while self.now < end {
            while let Some(item) = items.get(next).filter(|item| later(monday(), item.at) <= self.now) {
                self.ask(item);
                next += 1;
            }
            let mut rounds = 0;
            while self.what_is_due() | self.give_out() | self.people() {
                rounds += 1;
                assert!(rounds < 100, "it does not come to rest");
            }
            self.now += TimeDelta::seconds(STEP);
        }
        for (id, wait) in &mut self.waits {
            wait.served = !self.rows.iter().any(|row| row.id == *id && row.assigned.is_none());
        }
        let mut all: Vec<_> = self.waits.into_iter().collect();
        all.sort_by_key(|(id, _)| *id);
        Waits(all.into_iter().map(|(_, wait)| wait).collect())
    }
}

#[test]
fn weeks_of_other_seeds_starve_nobody() {
    let (weeks, hours) = if std::env::var_os("VCL_FULL").is_some() { (5, 7 * 24) } else { (1, 24) };
    for seed in SEED..SEED + weeks {
        let waits = Replay::new().live(&made(seed), hours);
        println!("seed {seed}, {hours} hours\n{}", waits.text());
        waits.check();
    }
}
