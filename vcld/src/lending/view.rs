//! What the scheduler sees: the tables of one moment, as the pure functions want them.

use super::choose::{Booked, Seat};
use super::idle::{Idle, decide};
use super::turns::Outlook;
use crate::node::{Node, Refusal};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock, PoisonError};
use vcl_config::Lending;
use vcl_queue::{MaintenanceWindow, Places, ReservationRow, UsageRow};
use vcl_types::lending::Purpose;
use vcl_types::state::reservation::State;
use vcl_types::{BackendName, ComputerName, Hardware, ImageName, ImageRef, ReservationId};

/// How much of the past is looked at.
const PAST: u32 = 2000;
/// For how long what somebody had counts against them.
const RECENT: TimeDelta = TimeDelta::days(7);

/// The tables of one moment.
#[derive(Clone)]
pub(crate) struct Sight {
    pub(crate) seats: Vec<Seat>,
    pub(crate) rows: Vec<ReservationRow>,
    /// What ended of late, the newest first.
    pub(crate) past: Arc<Vec<UsageRow>>,
    /// Windows that are not over.
    pub(crate) windows: Vec<MaintenanceWindow>,
    /// The revision of each image that new reservations get, and what it was made on.
    images: BTreeMap<ImageName, (ImageRef, Hardware)>,
    /// What nobody has and is being loaded.
    preparing: Vec<(ComputerName, ImageRef)>,
    /// How many of each image whose pool grows are asked for in this hour of the week.
    weekly: BTreeMap<ImageName, usize>,
    now: DateTime<Utc>,
    hours: OnceLock<HashMap<String, f64>>,
    /// What those that wait have to expect, in their order, once that was planned.
    pub(super) outlooks: Vec<(ReservationId, Outlook)>,
    /// For whom of them a computer is kept, and from when on.
    pub(super) kept: HashMap<ReservationId, DateTime<Utc>>,
}

/// A limit that a reservation is over.
#[derive(Debug, Clone)]
pub(crate) struct Over {
    /// Who or what has how many of how many.
    pub(crate) why: String,
}

impl Node {
    /// Looks at everything that decisions depend on.
    pub(crate) async fn sight(&self, now: DateTime<Utc>) -> Result<Sight, Refusal> {
        let rows = self.queue.reservations_open().await?;
        self.sight_of(rows, now).await
    }

    /// The same with reservations that were read a moment ago.
    pub(crate) async fn sight_of(
        &self,
        rows: Vec<ReservationRow>,
        now: DateTime<Utc>,
    ) -> Result<Sight, Refusal> {
        // Before the computers: one that is done in between is seen with what it holds.
        let preparing = self.queue.preparing().await?;
        let computers = self.queue.computers().await?;
        let past = self.past().await?;
        let weekly = self.weekly_demand(now).await?;
        let drained = self.queue.drained_hosts().await?;
        let windows = self.queue.maintenance_windows(now).await?;
        let full = self.full_gates().await?;
        let mut images = BTreeMap::new();
        for image in self.queue.images().await? {
            let produced = image.revisions.iter().find(|r| r.production).or(image.revisions.last());
            if let Some(revision) = produced {
                images
                    .insert(image.name, (revision.manifest.image_ref(), revision.manifest.hardware.clone()));
            }
        }
        let mut held: HashMap<ComputerName, usize> = HashMap::new();
        let mut booked: HashMap<ComputerName, Vec<Booked>> = HashMap::new();
        for (n, row) in rows.iter().enumerate() {
            if let Some(name) = &row.computer {
                held.entry(name.clone()).or_insert(n);
            }
            if let (Some(name), Some(start)) = (&row.booked, row.start) {
                booked.entry(name.clone()).or_default().push((row.id, start, row.end));
            }
        }
        let seats = computers.into_iter().map(|row| {
            let name = row.computer.name.clone();
            let holder = held.get(&name).and_then(|n| rows.get(*n));
            let mut booked = booked.remove(&name).unwrap_or_default();
            // A window is as good as a booking of nobody's.
            let own = windows.iter().filter(|w| w.computers.contains(&name));
            booked.extend(own.clone().map(|w| (ReservationId(0), w.start, w.end)));
            booked.sort_by_key(|(_, from, _)| *from);
            let window = own.clone().find(|w| w.start <= now);
            let drained = drained.iter().find(|d| d.backend == row.computer.backend);
            let closed = match (drained, window) {
                (Some(drained), _) => {
                    let why = drained.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
                    Some(format!("its host takes nothing new, says {}{why}", drained.who))
                }
                (None, Some(w)) => Some(format!("it is in maintenance: {}", w.reason)),
                _ => self.config.nats.behind.get(&name).and_then(|nat| full.get(nat).cloned()),
            };
            Seat {
                state: row.state,
                holds: row.loaded.map(|l| l.image),
                tainted: row.tainted,
                taken: row.job.is_some() || holder.is_some(),
                held: holder.map(|r| r.id),
                held_until: holder.and_then(|r| r.end),
                booked,
                closed,
                drained: drained.is_some(),
                reason: row.reason,
                warm_for: None,
                computer: row.computer,
            }
        });
        let seats = seats.collect();
        let mut sight = Sight { windows, preparing, weekly, ..Sight::new(seats, rows, past, images, now) };
        sight.mark_warm(&self.config.lending, now);
        Ok(sight)
    }

    /// The same, with what is kept for those that have waited long.
    pub(crate) async fn planned(&self, now: DateTime<Utc>) -> Result<Sight, Refusal> {
        let mut sight = self.sight(now).await?;
        sight.plan(&self.config.lending);
        Ok(sight)
    }

    /// What ended of late, the newest first. Rows are only ever added, so that what was read once is kept.
    async fn past(&self) -> Result<Arc<Vec<UsageRow>>, Refusal> {
        let memory = &self.insight.lending.past;
        let known = memory.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = match known.first() {
            // Another node may have written a row whose time is a little before the newest that was read.
            Some(newest) => {
                let from = newest.ended - TimeDelta::minutes(10);
                let mut rows = self.queue.usage(from, DateTime::<Utc>::MAX_UTC, PAST).await?;
                let seen: HashSet<ReservationId> =
                    known.iter().take_while(|row| row.ended >= from).map(|row| row.reservation).collect();
                if rows.iter().all(|row| seen.contains(&row.reservation)) {
                    return Ok(known);
                }
                rows.reverse();
                rows.extend(known.iter().skip_while(|row| row.ended >= from).cloned());
                rows.truncate(PAST as usize);
                rows
            }
            None => self.queue.last_usage(PAST).await?,
        };
        let fresh = Arc::new(fresh);
        *memory.lock().unwrap_or_else(PoisonError::into_inner) = fresh.clone();
        Ok(fresh)
    }
}

/// What is limited, of whom, to how many, and who counts.
type Limit<'a> = (&'static str, &'a str, Option<u32>, &'a dyn Fn(&ReservationRow) -> bool);

/// Who asks, as limits see them.
#[derive(Debug, Clone)]
pub(crate) struct Asker<'a> {
    /// The reservation, when it is one already.
    pub(crate) id: Option<ReservationId>,
    pub(crate) owner: &'a str,
    pub(crate) group: Option<&'a str>,
    pub(crate) image: &'a ImageName,
    /// Whether it is a seat of a class.
    pub(crate) class: bool,
}

impl<'a> From<&'a ReservationRow> for Asker<'a> {
    fn from(row: &'a ReservationRow) -> Self {
        Self {
            id: Some(row.id),
            owner: &row.owner,
            group: row.group.as_deref(),
            image: &row.image.name,
            class: row.class.is_some(),
        }
    }
}

/// Whether it has a computer that counts for limits.
pub(super) fn has(row: &ReservationRow) -> bool {
    matches!(row.state, State::Loading | State::Ready | State::InUse)
}
/// Whether it counts for the limits of its owner and group.
pub(super) fn of_people(row: &ReservationRow) -> bool {
    row.purpose != Purpose::Direct && row.class.is_none()
}

impl Sight {
    /// Without windows and jobs.
    pub(super) fn new(
        seats: Vec<Seat>,
        rows: Vec<ReservationRow>,
        past: Arc<Vec<UsageRow>>,
        images: BTreeMap<ImageName, (ImageRef, Hardware)>,
        now: DateTime<Utc>,
    ) -> Self {
        let (windows, outlooks, hours) = (Vec::new(), Vec::new(), OnceLock::new());
        Self {
            seats,
            rows,
            past,
            windows,
            images,
            preparing: Vec::new(),
            weekly: BTreeMap::new(),
            now,
            hours,
            outlooks,
            kept: HashMap::new(),
        }
    }
    /// The moment.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.now
    }
    /// Marks the computers that the warm pools count.
    fn mark_warm(&mut self, lending: &Lending, now: DateTime<Utc>) {
        for (name, count) in super::pools::wanted(lending, &self.rows, &self.past, &self.weekly, now) {
            let (Some((image, _)), Some(warm)) = (self.images.get(&name), lending.warm.get(&name)) else {
                continue;
            };
            let fit =
                self.seats.iter_mut().filter(|s| s.holds.as_ref() == Some(image) && !s.taken && !s.tainted);
            let fit = fit.filter(|s| warm.tags.iter().all(|tag| s.computer.tags.contains(tag)));
            fit.take(count).for_each(|seat| seat.warm_for = Some(image.clone()));
        }
    }
    pub(crate) fn row(&self, id: ReservationId) -> Option<&ReservationRow> {
        self.rows.iter().find(|row| row.id == id)
    }
    pub(crate) fn preparing(&self) -> usize {
        self.preparing.len()
    }
    pub(crate) fn backend_of(&self, computer: &ComputerName) -> Option<&BackendName> {
        self.seats.iter().find(|seat| seat.computer.name == *computer).map(|seat| &seat.computer.backend)
    }
    pub(crate) fn produced(&self, image: &ImageName) -> Option<&ImageRef> {
        self.images.get(image).map(|(image, _)| image)
    }
    /// It is a reservation's from now on.
    pub(crate) fn give(&mut self, id: ReservationId, computer: &ComputerName, until: Option<DateTime<Utc>>) {
        for seat in self.seats.iter_mut().filter(|seat| seat.computer.name == *computer) {
            (seat.taken, seat.held, seat.held_until) = (true, Some(id), until);
            seat.booked.retain(|(booked, ..)| *booked != id);
        }
        for row in self.rows.iter_mut().filter(|row| row.id == id) {
            (row.state, row.computer, row.end) = (State::Loading, Some(computer.clone()), until);
            row.booked = None;
        }
    }
    /// It is kept for a reservation, or for one that is about to be made.
    pub(crate) fn keep(
        &mut self,
        computer: &ComputerName,
        id: ReservationId,
        from: DateTime<Utc>,
        until: Option<DateTime<Utc>>,
    ) {
        for seat in &mut self.seats {
            seat.booked.retain(|(booked, ..)| *booked != id || id.0 == 0);
            if seat.computer.name == *computer {
                seat.booked.push((id, from, until));
                seat.booked.sort_by_key(|(_, from, _)| *from);
            }
        }
        for row in self.rows.iter_mut().filter(|row| row.id == id) {
            row.booked = Some(computer.clone());
        }
    }
    /// The limit that a reservation of this owner, group and image is over, if it lasts until then. A class's seats count
    /// for their image alone. What is kept for others counts from when on it is kept.
    pub(crate) fn over(
        &self,
        who: &Asker<'_>,
        places: &Places,
        until: Option<DateTime<Utc>>,
    ) -> Option<Over> {
        let group = places.group.filter(|_| !who.class && who.group.is_some());
        let all: [Limit<'_>; 3] = [
            ("owner", who.owner, places.owner.filter(|_| !who.class), &|row| {
                of_people(row) && row.owner == who.owner
            }),
            ("group", who.group.unwrap_or_default(), group, &|row| {
                of_people(row) && row.group.as_deref() == who.group
            }),
            ("image", who.image.as_str(), places.image, &|row| row.image.name == *who.image),
        ];
        all.into_iter().find_map(|(what, of, limit, counts)| {
            let limit = limit? as usize;
            let others = || self.rows.iter().filter(|row| Some(row.id) != who.id && counts(row));
            let in_use = others().filter(|row| has(row)).count();
            if in_use >= limit {
                return Some(Over {
                    why: format!("{of} has {in_use} computers in use, and the limit of this {what} is {limit}"),
                });
            }
            // Whoever waits longer and has a computer kept takes a place from then on.
            let kept = || others().filter_map(|row| Some((row.id, *self.kept.get(&row.id)?)));
            kept().filter(|(_, from)| until.is_none_or(|until| *from < until)).find_map(|(id, from)| {
                let there = others().filter(|row| has(row) && row.end.is_none_or(|end| end > from)).count();
                let there = there + kept().filter(|(_, other)| *other <= from).count();
                (there >= limit).then(|| Over {
                    why: format!(
                        "{of} has {in_use} computers in use, the limit of this {what} is {limit}, and the next place is \
                         kept for reservation {id}, from {}",
                        from.format("%Y-%m-%d %H:%M UTC")
                    ),
                })
            })
        })
    }
    /// How many computers each owner has, without classes' seats.
    pub(super) fn have(&self) -> HashMap<String, u32> {
        let mut have = HashMap::new();
        for row in self.rows.iter().filter(|row| has(row) && of_people(row)) {
            *have.entry(row.owner.clone()).or_default() += 1;
        }
        have
    }
    /// How many hours each owner had in the last seven days; classes count for nobody.
    pub(super) fn hours(&self) -> &HashMap<String, f64> {
        self.hours.get_or_init(|| {
            let (now, mut hours) = (self.now, HashMap::new());
            let mut add = |owner: &str, from: Option<DateTime<Utc>>, to: DateTime<Utc>| {
                if let Some(from) = from {
                    let span = (to - from.max(now - RECENT)).num_seconds().max(0) as f64 / 3600.0;
                    *hours.entry(owner.to_owned()).or_default() += span;
                }
            };
            let own = |purpose: Purpose, class: Option<i64>| purpose != Purpose::Direct && class.is_none();
            let lately = self.past.iter().take_while(|row| row.ended > now - RECENT);
            for row in lately.filter(|row| own(row.purpose, row.class)) {
                add(&row.owner, row.usable, row.ended);
            }
            for row in self.rows.iter().filter(|row| own(row.purpose, row.class)) {
                add(&row.owner, row.usable, now);
            }
            hours
        })
    }
    /// The revision that a reservation of this image gets: the one that was asked for, or else the one in production.
    pub(crate) fn to_lend(&self, image: &ImageRef) -> Option<ImageRef> {
        match image.revision {
            Some(_) => Some(image.clone()),
            None => self.produced(&image.name).cloned(),
        }
    }
    /// The hardware that an image was made on.
    pub(crate) fn hardware(&self, image: &ImageName) -> Option<&Hardware> {
        self.images.get(image).map(|(_, hardware)| hardware)
    }
    /// What idle computers are to be loaded with, and whether that is for somebody who comes soon.
    pub(crate) fn idle(&self, lending: &Lending, now: DateTime<Utc>) -> Vec<(ComputerName, ImageRef, bool)> {
        let ahead = self.rows.iter().filter(|row| row.state == State::Scheduled).filter_map(|row| {
            let start = row.start?;
            let ahead = TimeDelta::try_seconds(i64::try_from(row.times.ahead_s).ok()?)?;
            let image = match row.image.revision {
                Some(_) => row.image.clone(),
                None => self.produced(&row.image.name)?.clone(),
            };
            let wanted = start - ahead <= now;
            Some((row.booked.clone()?, start, image, wanted))
        });
        let produced = self.images.iter().map(|(name, (image, _))| (name.clone(), image.clone())).collect();
        // Somebody waits: what is free is theirs, or will not do for them.
        let waiting = self.rows.iter().any(|row| row.state == State::Queued && row.booked.is_none());
        decide(&Idle {
            seats: &self.seats,
            ahead: ahead.collect(),
            produced,
            warm: super::pools::wanted(lending, &self.rows, &self.past, &self.weekly, now),
            preparing: &self.preparing,
            past: &self.past,
            waiting,
            lending,
        })
    }
}
