//! Classes: their seats are reservations of nobody in particular, kept a computer each, loaded ahead, and taken by whoever
//! of the class's group reserves its image then.
//!
//! What a class needs is compared with the seats there are at every look: seats of times within two weeks are made, those
//! of times that are no more are ended. So a class that is changed is followed, a seat whose load failed is made anew, and
//! one who gives a seat back in the middle leaves it to another. A seat that no computer was found for waits for one as
//! any reservation that is promised, and is tried for every few minutes; so is whatever was kept a computer that cannot be
//! had any more.

use super::choose::Wanted;
use super::requests::{booking, invalid, refused, span};
use super::view::Sight;
use crate::node::{Node, Refusal, RefusalKind, chain};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;
use std::sync::PoisonError;
use vcl_queue::{ClassRow, ClassTimeRow, Ended, Kind, NewClass, NewReservation, ReservationRow};
use vcl_types::lending::{
    Choice, ClassRequest, ClassTime, ClassView, Grabbed, Purpose, ReservationRequest, Wish,
};
use vcl_types::notices::NoticeKind;
use vcl_types::people::GroupName;
use vcl_types::state::reservation::State;
use vcl_types::{ComputerName, ReservationId};

/// How far ahead seats are booked.
const AHEAD: TimeDelta = TimeDelta::days(14);
/// How long it is left alone what no computer was found for.
const AGAIN: TimeDelta = TimeDelta::minutes(10);
/// How far ahead a class may begin.
const FROM: TimeDelta = TimeDelta::days(2 * 366);
/// In the last minutes of a time no seats are made any more.
const LAST: TimeDelta = TimeDelta::minutes(10);
/// The most seats that a class may have.
const MOST: u32 = 2000;

/// What a computer was looked for in vain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Tried {
    /// Seats of a class's time.
    Time(i64, DateTime<Utc>),
    /// A reservation that begins later.
    Reservation(ReservationId),
}

/// The times of a class that are not over, within two weeks.
fn times(class: &ClassRow, zone: chrono_tz::Tz, now: DateTime<Utc>) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let mut all = class.weekly.between(&zone, now.max(class.from), now + AHEAD);
    all.retain(|(_, end)| class.until.is_none_or(|until| *end <= until));
    all
}

fn of_time(row: &ReservationRow, class: i64, start: DateTime<Utc>, end: DateTime<Utc>) -> bool {
    row.class == Some(class)
        && !matches!(row.state, State::Ending | State::Ended)
        && row.start.is_some_and(|from| from < end)
        && row.end.is_none_or(|until| until > start)
}

impl Node {
    /// Whether it may be tried again.
    fn try_again(&self, what: Tried, now: DateTime<Utc>) -> bool {
        let mut tried = self.insight.lending.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.retain(|_, at| *at + AGAIN > now);
        if tried.contains_key(&what) {
            return false;
        }
        tried.insert(what, now);
        true
    }

    /// Ends a seat that nobody has taken, and says so. One that somebody has taken in this moment is theirs. Whether it ends.
    async fn end_seat(&self, id: ReservationId, because: &str, now: DateTime<Utc>) -> Result<bool, Refusal> {
        let ended = self.queue.end_seat(id, because, now).await?;
        self.say_ended(id, because, &ended);
        Ok(ended != Ended::Already)
    }

    /// Makes the seats that classes need, and ends those that they need no more. Answers whether it has changed anything.
    pub(super) async fn book_classes(&self, sight: &mut Sight, now: DateTime<Utc>) -> Result<bool, Refusal> {
        let classes = self.queue.classes().await?;
        let mut changed = false;
        // Of a class that was ended every seat goes that nobody has taken, whatever became of whoever ended it.
        let of_none = |row: &&ReservationRow| {
            row.purpose == Purpose::Seat
                && !matches!(row.state, State::Ending | State::Ended)
                && !classes.iter().any(|class| row.class == Some(class.id))
        };
        let of_none: Vec<ReservationId> = sight.rows.iter().filter(of_none).map(|row| row.id).collect();
        for id in of_none {
            changed |= self.end_seat(id, "the class is over", now).await?;
        }
        if classes.is_empty() {
            return Ok(changed);
        }
        let off: Vec<ClassTimeRow> =
            self.queue.class_times(now).await?.into_iter().filter(|time| time.called_off).collect();
        for class in &classes {
            let mut all = times(class, self.config.lending.timezone, now);
            all.retain(|(start, _)| !off.iter().any(|time| (time.class, time.start) == (class.id, *start)));
            let own = |row: &&ReservationRow| row.class == Some(class.id) && row.purpose == Purpose::Seat;
            // A seat that has begun ends with its time, whatever the class is now.
            let stale: Vec<ReservationId> = sight
                .rows
                .iter()
                .filter(own)
                .filter(|row| row.state == State::Scheduled)
                .filter(|row| !all.iter().any(|time| (row.start, row.end) == (Some(time.0), Some(time.1))))
                .map(|row| row.id)
                .collect();
            // One that is for what the class was before it was changed is made anew for what it is.
            let other = |row: &&ReservationRow| {
                row.asked.as_ref().is_some_and(|asked| {
                    (&asked.image, &asked.wish, &asked.group) != (&class.image, &class.wish, &class.group)
                })
            };
            let other: Vec<ReservationId> = sight
                .rows
                .iter()
                .filter(own)
                .filter(|row| row.state == State::Scheduled && !stale.contains(&row.id))
                .filter(other)
                .map(|row| row.id)
                .collect();
            if !other.is_empty() {
                let mut tried = self.insight.lending.tried.lock().unwrap_or_else(PoisonError::into_inner);
                tried.retain(|what, _| !matches!(what, Tried::Time(of, _) if *of == class.id));
            }
            let over = stale.into_iter().map(|id| (id, "the class does not take place then"));
            for (id, because) in over.chain(other.into_iter().map(|id| (id, "the class was changed"))) {
                self.end_seat(id, because, now).await?;
                sight.rows.retain(|row| row.id != id);
                sight.seats.iter_mut().for_each(|seat| seat.booked.retain(|(booked, ..)| *booked != id));
                changed = true;
            }
            for (start, end) in all {
                let there = sight.rows.iter().filter(|row| of_time(row, class.id, start, end)).count();
                let missing = (class.seats as usize).saturating_sub(there);
                let surplus = there.saturating_sub(class.seats as usize);
                if surplus > 0 {
                    let free = sight.rows.iter().filter(own).filter(|row| of_time(row, class.id, start, end));
                    let free: Vec<ReservationId> = free.map(|row| row.id).collect();
                    for id in free.into_iter().rev().take(surplus) {
                        changed |= self.end_seat(id, "the class has fewer seats", now).await?;
                    }
                }
                let late = end - LAST <= now || !self.worth_trying(missing, class, start, now);
                if missing > 0 && !late {
                    // They get no computer that one who waits gets first.
                    sight.plan(&self.config.lending);
                    changed |= self.make_seats(sight, class, (start, end), missing, now).await?;
                }
            }
        }
        Ok(changed)
    }

    fn worth_trying(
        &self,
        missing: usize,
        class: &ClassRow,
        start: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> bool {
        missing > 0 && self.try_again(Tried::Time(class.id, start), now)
    }

    async fn make_seats(
        &self,
        sight: &mut Sight,
        class: &ClassRow,
        (start, end): (DateTime<Utc>, DateTime<Utc>),
        missing: usize,
        now: DateTime<Utc>,
    ) -> Result<bool, Refusal> {
        let Some(image) = sight.to_lend(&class.image) else { return Ok(false) };
        let length = u64::try_from((end - start).num_seconds()).unwrap_or(0);
        let asked = ReservationRequest {
            image: class.image.clone(),
            wish: class.wish.clone(),
            purpose: Purpose::Use,
            start: Some(start),
            length_s: Some(length),
            owner: None,
            group: class.group.clone(),
            from: None,
            with: Vec::new(),
            keys: Vec::new(),
            sudo: false,
            user_data: None,
            configure: None,
            dry_run: false,
        };
        let mut offered = Vec::new();
        let mut lacking = None;
        for _ in 0..missing {
            let wanted =
                Wanted::of(&class.wish, &image, sight.hardware(&image.name), start.max(now), Some(end));
            let booked = match booking(&wanted, sight) {
                Ok(choice) => Some(choice.computer),
                Err(refusal) => {
                    lacking.get_or_insert(refusal.message);
                    None
                }
            };
            if let Some(computer) = &booked {
                sight.keep(computer, ReservationId(0), start, Some(end));
            }
            offered.push(NewReservation {
                owner: class.owner.clone(),
                group: class.group.clone(),
                purpose: Purpose::Seat,
                class: Some(class.id),
                asked: asked.clone(),
                times: self.config.lending.times(&class.image.name, class.group.as_deref()),
                now,
                start,
                end: Some(end),
                length_s: Some(length),
                booked,
                shown: None,
                hours: None,
            });
        }
        let (added, booked) = self.queue.add_seats(class, start, end, offered, lacking.clone()).await?;
        if added > 0 {
            let when = start.format("%Y-%m-%d %H:%M UTC");
            let name = &class.name;
            let message = match (added - booked, lacking) {
                (0, _) => format!("{added} seats of {name} are kept for {when}"),
                (n, why) => format!(
                    "{n} of {added} seats of {name} have no computer on {when}: {}",
                    why.unwrap_or_else(|| "others were faster".into())
                ),
            };
            let kind = if added == booked { "class-booked" } else { "class-short" };
            self.queue.post_event(kind, None, None, &message);
        }
        Ok(added > 0)
    }

    /// Keeps other computers for those whose computer cannot be had at their time, and some for those that have none.
    pub(super) async fn rebook_lost(&self, sight: &mut Sight, now: DateTime<Utc>) -> Result<(), Refusal> {
        let by_name: HashMap<&ComputerName, usize> =
            sight.seats.iter().enumerate().map(|(n, seat)| (&seat.computer.name, n)).collect();
        let any = Wish::default();
        let mut lost: Vec<(ReservationId, Option<String>)> = Vec::new();
        for row in sight.rows.iter().filter(|row| row.state == State::Scheduled) {
            let Some(start) = row.start else { continue };
            let why = match &row.booked {
                None => None,
                Some(name) => {
                    let Some(seat) = by_name.get(name).map(|n| &sight.seats[*n]) else {
                        lost.push((row.id, Some(format!("{name} is not there any more"))));
                        continue;
                    };
                    let wanted =
                        Wanted { id: Some(row.id), ..Wanted::of(&any, &row.image, None, start, row.end) };
                    let out = seat.is_out().then(|| format!("it is {}", seat.state));
                    match out.or_else(|| seat.hindered(&wanted)) {
                        Some(why) => Some(format!("{name}: {why}")),
                        None => continue,
                    }
                }
            };
            lost.push((row.id, why));
        }
        for (id, why) in lost {
            if !self.try_again(Tried::Reservation(id), now) {
                continue;
            }
            let Some(row) = sight.row(id).cloned() else { continue };
            let named = row.asked.as_ref().is_some_and(|asked| asked.wish.computer.is_some());
            let found = if named { None } else { self.rebook(&row, row.booked.as_ref(), now).await? };
            let who = format!("reservation {id} of {}", row.owner);
            let message = match (&found, &why) {
                (Some(name), Some(why)) => format!("{who} is kept {name} now ({why})"),
                (Some(name), None) => format!("{who} is kept {name}"),
                (None, Some(why)) => {
                    format!("{who} may not get a computer: {why}, and no other is free then")
                }
                (None, None) => continue,
            };
            if let (Some(name), Some(start)) = (&found, row.start) {
                sight.keep(name, id, start, row.end);
            }
            let kind = if found.is_some() { "reservation-rebooked" } else { "reservation-lost" };
            self.queue.post_event(kind, None, found.as_ref(), &message);
        }
        Ok(())
    }

    /// A seat for whoever asks for a class's image at one of its times, or shortly before it, where there is one.
    pub(super) async fn seat_of_a_class(
        &self,
        sight: &Sight,
        request: &ReservationRequest,
        owner: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<Grabbed>, Refusal> {
        let at = request.start.unwrap_or(now);
        let wanted = |row: &&ReservationRow| {
            let soon = span(row.times.ahead_s);
            row.purpose == Purpose::Seat
                && row.image.name == request.image.name
                && request.image.revision.is_none_or(|n| row.image.revision.is_none_or(|own| own == n))
                && row.start.is_some_and(|start| start - soon <= at)
                && row.end.is_some_and(|end| end > at)
                && matches!(row.state, State::Scheduled | State::Queued | State::Loading | State::Ready)
        };
        if request.purpose != Purpose::Use || request.wish.computer.is_some() {
            return Ok(None);
        }
        let mut free: Vec<&ReservationRow> = sight.rows.iter().filter(wanted).collect();
        if free.is_empty() {
            return Ok(None);
        }
        let mine: Option<Vec<GroupName>> = match self.queue.standing_of(owner).await? {
            Some(standing) => Some(standing.groups.into_iter().collect()),
            None => None,
        };
        let has = |class: i64| {
            sight.rows.iter().any(|row| {
                row.class == Some(class)
                    && row.owner == owner
                    && row.purpose != Purpose::Seat
                    && row.end.is_some_and(|end| end > at)
                    && !matches!(row.state, State::Ending | State::Ended)
            })
        };
        free.retain(|row| {
            let member = match &row.group {
                None => true,
                Some(group) => {
                    request.group.as_ref() == Some(group)
                        || mine.iter().flatten().any(|own| own.as_str() == group.as_str())
                }
            };
            member && row.class.is_some_and(|class| !has(class))
        });
        // One that can be used already first.
        free.sort_by_key(|row| {
            let rank = match row.state {
                State::Ready => 0,
                State::Loading => 1,
                State::Queued => 3,
                _ => 2,
            };
            (row.start.is_some_and(|start| start > at), rank, row.booked.is_none(), row.id)
        });
        // Where one has rights is in `any_of`, and a seat is everybody's who is in the class.
        let wish = Wish { any_of: Vec::new(), ..request.wish.clone() };
        for row in free {
            let computer = row.computer.clone().or_else(|| row.booked.clone());
            let wanted = Wanted::of(&wish, &row.image, sight.hardware(&row.image.name), at, row.end);
            let fits = match &computer {
                Some(name) => {
                    sight.seats.iter().any(|s| s.computer.name == *name && s.unfit(&wanted).is_none())
                }
                // Which it will be is not known yet.
                None => wish == Wish::default(),
            };
            if !fits {
                continue;
            }
            let name = match row.class {
                Some(class) => self.queue.class_name(class).await?.unwrap_or_default(),
                None => String::new(),
            };
            let because = format!("it is a seat of {name}");
            let choice = computer.map(|computer| Choice {
                computer,
                warm: row.state == State::Ready,
                because: because.clone(),
            });
            if request.dry_run {
                return Ok(Some(Grabbed { reservation: None, choice, waiting: None }));
            }
            match self.queue.take_seat(row.id, owner, request, now).await {
                Ok(_) => {
                    let message = format!("{owner} takes reservation {}: {because}", row.id);
                    let computer = choice.as_ref().map(|choice| &choice.computer);
                    self.queue.post_event("seat-taken", None, computer, &message);
                    let reservation = Some(self.reservation(row.id).await?);
                    return Ok(Some(Grabbed { reservation, choice, waiting: None }));
                }
                // Somebody was faster.
                Err(e) if matches!(e.kind, Kind::Busy | Kind::NotFound) => {
                    tracing::debug!(seat = row.id.0, reason = chain(&e), "not taken");
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(None)
    }

    fn class_view(
        &self,
        class: ClassRow,
        sight: &Sight,
        off: &[ClassTimeRow],
        now: DateTime<Utc>,
    ) -> ClassView {
        let all = times(&class, self.config.lending.timezone, now).into_iter().map(|(start, end)| {
            let seats = || sight.rows.iter().filter(move |row| of_time(row, class.id, start, end));
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            let booked = seats().filter(|row| row.computer.is_some() || row.booked.is_some()).count();
            let called_off = off.iter().any(|t| t.called_off && (t.class, t.start) == (class.id, start));
            ClassTime {
                start,
                end,
                called_off,
                booked: count(booked),
                taken: count(seats().filter(|row| row.purpose != Purpose::Seat).count()),
                missing: if called_off { 0 } else { class.seats.saturating_sub(count(booked)) },
            }
        });
        let times = all.collect();
        ClassView {
            name: class.name,
            image: class.image,
            seats: class.seats,
            weekly: class.weekly,
            wish: class.wish,
            group: class.group,
            owner: class.owner,
            from: class.from,
            until: class.until,
            times,
        }
    }

    /// All classes that are not over.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn classes(&self) -> Result<Vec<ClassView>, Refusal> {
        let now = self.clock.now();
        let (sight, off) = (self.sight(now).await?, self.queue.class_times(now).await?);
        let classes = self.queue.classes().await?;
        Ok(classes.into_iter().map(|class| self.class_view(class, &sight, &off, now)).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn class(&self, name: &str) -> Result<ClassView, Refusal> {
        let now = self.clock.now();
        let class = self.queue.class(name).await?;
        let (sight, off) = (self.sight(now).await?, self.queue.class_times(now).await?);
        Ok(self.class_view(class, &sight, &off, now))
    }

    /// Makes a class, or changes the one of its name, and books its seats.
    ///
    /// # Errors
    /// What was asked makes no sense, or there is no such image, or no computer will ever do.
    pub async fn add_class(&self, request: ClassRequest, who: &str) -> Result<ClassView, Refusal> {
        let now = self.clock.now();
        let name = request.name.trim().to_owned();
        if name.is_empty()
            || name.chars().count() > 100
            || name.contains('/')
            || name.chars().any(char::is_control)
        {
            return Err(invalid("`name` has to have 1 to 100 characters, without a slash"));
        }
        if !(1..=MOST).contains(&request.seats) {
            return Err(invalid(format!("`seats` is {}; a class has 1 to {MOST}", request.seats)));
        }
        let from = request.from.unwrap_or(now);
        if from > now + FROM {
            return Err(invalid(format!("`from` is {from}, more than two years ahead")));
        }
        if let Some(until) = request.until.filter(|until| *until <= from.max(now)) {
            return Err(invalid(format!("`until` is {until}: the class would never take place")));
        }
        let owner = request.owner.clone().unwrap_or_else(|| who.to_owned());
        let Some(image) = self.to_lend(&request.image).await? else {
            let why = format!("there is no image {}", request.image.name);
            return Err(Refusal::new(RefusalKind::NotFound, why));
        };
        self.queue.manifest(&image).await?;
        let sight = self.sight(now).await?;
        let wanted = Wanted::of(&request.wish, &image, sight.hardware(&image.name), now, None);
        let fit = sight.seats.iter().filter(|seat| seat.unfit(&wanted).is_none()).count();
        if fit < request.seats as usize {
            return Err(refused(format!(
                "{fit} computers will do for this, and the class is to have {} seats",
                request.seats
            )));
        }
        let new = NewClass {
            id: 0,
            name: name.clone(),
            image: request.image,
            seats: request.seats,
            weekly: request.weekly,
            wish: request.wish,
            group: request.group,
            owner,
            from,
            until: request.until,
        };
        let id = self.queue.keep_class(new).await?;
        {
            // What was found for it before says nothing now.
            let mut tried = self.insight.lending.tried.lock().unwrap_or_else(PoisonError::into_inner);
            tried.retain(|what, _| !matches!(what, Tried::Time(class, _) if *class == id));
        }
        let seats = request.seats;
        let message = format!("class {name} has {seats} seats of {image}, says {who}");
        self.queue.post_event("class-made", None, None, &message);
        self.look_now().await;
        self.class(&name).await
    }

    /// A time of a class does not take place: its seats are given back; whoever is on one finishes.
    ///
    /// # Errors
    /// There is no such class, or it has no time then.
    pub async fn call_off_class(
        &self,
        name: &str,
        start: DateTime<Utc>,
        who: &str,
    ) -> Result<ClassView, Refusal> {
        let now = self.clock.now();
        let class = self.queue.class(name).await?;
        let all = times(&class, self.config.lending.timezone, now);
        let Some((start, end)) = all.iter().copied().find(|(from, until)| *from <= start && start < *until)
        else {
            let next: Vec<String> =
                all.iter().take(3).map(|(from, _)| from.format("%Y-%m-%dT%H:%MZ").to_string()).collect();
            let next = if next.is_empty() { "none".into() } else { next.join(", ") };
            return Err(refused(format!(
                "class {name} does not take place at {start}; its next times: {next}"
            )));
        };
        self.queue.call_off(class.id, start, end).await?;
        let rows = self.queue.reservations_open().await?;
        let because = "the class was called off";
        for row in rows.iter().filter(|row| of_time(row, class.id, start, end)) {
            if row.purpose == Purpose::Seat && self.end_seat(row.id, because, now).await? {
                continue;
            }
            // Whoever has taken it, in this moment perhaps, is told.
            if self.queue.reservation(row.id).await?.state == State::Scheduled {
                self.finish(row.id, because, now, true, Some(NoticeKind::Ended)).await?;
            }
        }
        let message = format!("class {name} does not take place at {start}, says {who}");
        self.queue.post_event("class-called-off", None, None, &message);
        self.class(name).await
    }

    /// Ends a class for good: seats that nobody has taken are given back.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn end_class(&self, name: &str, who: &str) -> Result<(), Refusal> {
        let now = self.clock.now();
        self.queue.end_class(name, now).await?;
        self.queue.post_event("class-ended", None, None, &format!("class {name} is over, says {who}"));
        // The next look gives the seats back, if this one cannot.
        self.look_now().await;
        Ok(())
    }
}
