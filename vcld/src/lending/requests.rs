//! What can be asked about reservations. Who may ask it is decided before.

use super::choose::Wanted;
use super::turns::{Outlook, PATIENCE};
use super::view::Sight;
use crate::node::{Node, Refusal, RefusalKind};
use chrono::{DateTime, TimeDelta, Utc};
use vcl_queue::{NewReservation, ReservationRow};
use vcl_types::lending::{Choice, Extend, Grabbed, Purpose, ReservationRequest, ReservationView, Times};
use vcl_types::state::reservation::State;
use vcl_types::{ComputerName, ReservationId};

/// How long anything may be asked for, in seconds: what is longer is a slip, and no sum of times overflows.
const LONGEST_S: u64 = 10 * 366 * 86_400;
/// How much may be given to a machine as a file.
const USER_DATA: usize = 64 * 1024;
/// How many parts of the table are read for one part of a list.
const LOOKED_AT: usize = 20;
/// How much is read at once after the first.
const PART: u32 = 1000;
/// How many keys and other accounts a reservation may bring along.
pub(super) const MOST: usize = 32;

pub(super) fn refused(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Refused, message)
}
pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Invalid, message)
}
pub(super) fn busy(message: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::Busy, message)
}

pub(super) fn span(seconds: u64) -> TimeDelta {
    TimeDelta::try_seconds(i64::try_from(seconds).unwrap_or(i64::MAX / 1000)).unwrap_or(TimeDelta::MAX)
}

/// What was asked, with nothing left open.
struct Settled {
    owner: String,
    times: Times,
    start: DateTime<Utc>,
    later: bool,
    length: Option<u64>,
}

fn is_user(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= 255 && !name.chars().any(char::is_control)
}

/// Whether all of these can be users.
///
/// # Errors
/// One cannot.
pub(super) fn users(with: &[String]) -> Result<(), Refusal> {
    match with.iter().all(|name| is_user(name)) {
        true => Ok(()),
        false => Err(invalid("`with` has a line that is no user's name; a name has 1 to 255 characters")),
    }
}

impl Node {
    /// Makes a reservation, or says what would come of it.
    ///
    /// # Errors
    /// What was asked makes no sense, or no computer will ever do, or none is free at that time: each with the reason.
    pub async fn reserve(&self, request: ReservationRequest, requester: &str) -> Result<Grabbed, Refusal> {
        let now = self.clock.now();
        let settled = self.settle(&request, requester, now)?;
        let image = self.queue.image(&request.image.name).await?;
        if let Some(number) = request.image.revision
            && !image.revisions.iter().any(|r| r.manifest.revision == number)
        {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no revision {}", request.image),
            ));
        }
        let Some(revision) = self.to_lend(&request.image).await? else {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("{} has no revision", request.image.name),
            ));
        };
        let mut sight = self.sight(now).await?;
        if let Some(seat) = self.seat_of_a_class(&sight, &request, &settled.owner, now).await? {
            return Ok(seat);
        }
        let hours = self.config.lending.hours_per_week(request.group.as_deref());
        let until = settled.length.map(|s| settled.start + span(s));
        let wanted =
            Wanted::of(&request.wish, &revision, sight.hardware(&revision.name), settled.start, until);
        if sight.seats.iter().all(|seat| seat.unfit(&wanted).is_some()) {
            let why = sight
                .seats
                .iter()
                .filter_map(|s| Some(format!("{}: {}", s.computer.name, s.unfit(&wanted)?)));
            let why: Vec<String> = why.take(5).collect();
            let why = if why.is_empty() { "there are no computers".into() } else { why.join("; ") };
            return Err(refused(format!("no computer will do for this: {why}")));
        }
        let Settled { owner, times, start, later, length } = settled;
        let mut new = NewReservation {
            owner: owner.clone(),
            group: request.group.clone(),
            purpose: request.purpose,
            class: None,
            times,
            now,
            start,
            end: until.filter(|_| later),
            length_s: length,
            booked: None,
            shown: None,
            hours,
            asked: request,
        };
        let (choice, waiting) = if later {
            sight.plan(&self.config.lending);
            let wanted = Wanted::of(&new.asked.wish, &revision, sight.hardware(&revision.name), start, until);
            (Some(booking(&wanted, &sight)?), None)
        } else {
            // As if it were in the queue already.
            sight.rows.push(as_row(&new));
            sight.plan(&self.config.lending);
            match sight.outlook(NEW) {
                Some(Outlook::Now(choice)) => (Some(choice.clone()), None),
                _ => (None, sight.waiting(NEW, &self.config.lending)),
            }
        };
        if new.asked.dry_run {
            return Ok(Grabbed { reservation: None, choice, waiting });
        }
        new.booked = choice.as_ref().filter(|_| later).map(|c| c.computer.clone());
        new.shown = waiting.as_ref().and_then(|w| w.p10_s.zip(w.p90_s));
        let id = self.queue.reserve(new).await?;
        let what = if later { format!("from {}", start.format("%Y-%m-%d %H:%M UTC")) } else { "now".into() };
        self.queue.post_event(
            "reservation-made",
            None,
            None,
            &format!("reservation {id} of {revision} by {requester} for {owner}, {what}"),
        );
        // Who asks now and finds a computer free has it in the same breath.
        if !later {
            self.look_now().await;
        }
        let mut view = self.reservation(id).await?;
        view.waiting = view.waiting.or_else(|| waiting.clone().filter(|_| view.state == State::Queued));
        Ok(Grabbed { reservation: Some(view), choice, waiting })
    }

    fn settle(
        &self,
        r: &ReservationRequest,
        requester: &str,
        now: DateTime<Utc>,
    ) -> Result<Settled, Refusal> {
        if !matches!(r.purpose, Purpose::Use | Purpose::Server | Purpose::Imaging) {
            return Err(invalid(format!("`purpose` is `{}`; it can be use, server or imaging", r.purpose)));
        }
        let times = self.config.lending.times(&r.image.name, r.group.as_deref());
        let length = match (r.length_s, r.purpose) {
            (Some(0), _) => return Err(invalid("`length_s` is 0; a reservation lasts at least a second")),
            (Some(length), _) => Some(length),
            (None, Purpose::Server) => None,
            (None, _) => Some(times.length_s),
        };
        if let Some(length) = length
            && length > LONGEST_S
        {
            return Err(invalid(format!(
                "`length_s` is {length}, which is more than ten years; leave it out for a server that has no end"
            )));
        }
        if let Some(length) = length.filter(|_| r.purpose != Purpose::Server)
            && length > times.longest_s
        {
            let (asked, most) = (crate::why::span(length * 1000), crate::why::span(times.longest_s * 1000));
            return Err(refused(format!("`length_s` is {asked}, and the longest that may be had is {most}")));
        }
        let start = r.start.unwrap_or(now);
        if start < now - TimeDelta::minutes(1) {
            return Err(invalid(format!("`start` is {start}, which is past")));
        }
        if start > now + TimeDelta::days(366) {
            return Err(invalid(format!("`start` is {start}, more than a year ahead")));
        }
        let user_data = r.user_data.as_ref().map_or(0, String::len);
        if user_data > USER_DATA {
            return Err(invalid(format!("`user_data` has {user_data} bytes; it may have {USER_DATA}")));
        }
        if r.keys.len() > MOST
            || r.with.len() > MOST
            || r.keys.iter().any(|k| k.len() > 8192 || k.contains(['\n', '\r', '\0']))
        {
            return Err(invalid(format!(
                "`keys` and `with` may have {MOST} lines each, a key at most 8192 characters"
            )));
        }
        users(&r.with)?;
        if let Some(name) = &r.configure {
            self.recipe(name).map_err(|no| Refusal::new(no.kind, format!("`configure`: {}", no.message)))?;
        }
        let owner = r.owner.clone().unwrap_or_else(|| requester.to_owned());
        if !is_user(&owner) {
            return Err(invalid("`owner` is no user's name"));
        }
        Ok(Settled { owner, times, later: start > now, start: start.max(now), length })
    }

    /// A reservation as its owner sees it.
    ///
    /// # Errors
    /// There is none of that number.
    pub async fn reservation(&self, id: ReservationId) -> Result<ReservationView, Refusal> {
        let row = self.queue.reservation(id).await?;
        let now = self.clock.now();
        let sight = if row.state == State::Queued { Some(self.planned(now).await?) } else { None };
        self.reservation_view(row, sight.as_ref()).await
    }

    async fn reservation_view(
        &self,
        row: ReservationRow,
        sight: Option<&Sight>,
    ) -> Result<ReservationView, Refusal> {
        let sight = sight.filter(|_| row.state == State::Queued);
        let wait = sight.and_then(|sight| sight.waiting(row.id, &self.config.lending));
        let mut connect = Vec::new();
        if let (State::Ready | State::InUse, Some(computer)) = (row.state, &row.computer)
            && let Some(loaded) = self.queue.computer(computer).await?.loaded
        {
            let public = self.queue.ports_of(row.id).await?;
            let ssh = public.iter().find(|port| port.to_port == loaded.endpoint.port);
            let (address, port) = match (ssh, public.is_empty()) {
                (Some(port), _) => (Some(port.address.into()), port.port),
                (None, true) => (Some(loaded.endpoint.address), loaded.endpoint.port),
                // It has public ports, and none of them is for ssh.
                (None, false) => (None, 0),
            };
            let port = match port {
                22 => String::new(),
                port => format!(" -p {port}"),
            };
            let account = super::access::account_of(&row.owner).zip(address);
            connect.extend(
                account.map(|(account, address): (_, std::net::IpAddr)| {
                    format!("ssh{port} {account}@{address}")
                }),
            );
        }
        let class = match row.class {
            Some(id) => self.queue.class_name(id).await?,
            None => None,
        };
        Ok(ReservationView { waiting: wait, connect, class, ..row.view() })
    }

    /// Reservations, the newest first: of one owner or of all, those that are over included or not, those before a
    /// number, those of them that are `seen`, at most `limit`; and before which number it goes on, where it may.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn reservations(
        &self,
        owner: Option<&str>,
        all: bool,
        before: Option<ReservationId>,
        limit: u32,
        seen: impl Fn(&ReservationRow) -> bool,
    ) -> Result<(Vec<ReservationView>, Option<ReservationId>), Refusal> {
        let now = self.clock.now();
        let (mut rows, mut before) = (Vec::new(), before);
        // Those that may be seen may lie far apart; somebody else's many do not hide one's own.
        for n in 0..LOOKED_AT {
            let size = if n == 0 { limit } else { PART };
            let part = self.queue.reservations_of(owner, !all, before, size).await?;
            let last = part.len() < size as usize;
            before = part.last().map(|row| row.id).filter(|_| !last);
            rows.extend(part.into_iter().filter(&seen));
            if last || rows.len() >= limit as usize {
                break;
            }
        }
        rows.truncate(limit as usize);
        let full = rows.last().filter(|_| rows.len() >= limit as usize).map(|row| row.id);
        let next = full.or(before);
        let waits = rows.iter().any(|row| row.state == State::Queued);
        let sight = if waits { Some(self.planned(now).await?) } else { None };
        let mut views = Vec::new();
        for row in rows {
            views.push(self.reservation_view(row, sight.as_ref()).await?);
        }
        Ok((views, next))
    }

    /// Gives a reservation another end.
    ///
    /// # Errors
    /// It would be longer than may be, or its computer is somebody else's by then, or it is over.
    pub async fn extend(
        &self,
        id: ReservationId,
        wish: Extend,
        who: &str,
    ) -> Result<ReservationView, Refusal> {
        let now = self.clock.now();
        let row = self.queue.reservation(id).await?;
        let Some(end) = row.end else {
            return Err(refused(format!(
                "reservation {id} has no end that could be moved; it is {}",
                row.state
            )));
        };
        let until = match (wish.by_s, wish.until) {
            (Some(by), None) => {
                end.checked_add_signed(span(by)).ok_or_else(|| invalid("`by_s` is too long"))?
            }
            (None, Some(until)) => until,
            _ => return Err(invalid("say either `by_s` or `until`")),
        };
        if until <= now {
            return Err(invalid(format!(
                "`until` is {until}, which is past; to give it back: vclctl release {id}"
            )));
        }
        let from = row.usable.or(row.start).unwrap_or(now);
        let most = row.times.longest_s;
        if row.purpose != Purpose::Server && until - from > span(most) {
            let most = crate::why::span(most * 1000);
            return Err(refused(format!("until {until} it would be longer than the {most} that may be had")));
        }
        let waits = |row: &ReservationRow| row.state == State::Queued;
        let sight = self.sight(now).await?;
        if until > end
            && sight.rows.iter().any(waits)
            && let Some((other, from)) = sight.pushed_back(id, until, &self.config.lending)
        {
            let from = from.format("%Y-%m-%d %H:%M UTC");
            let patience = crate::why::span(PATIENCE.num_milliseconds().unsigned_abs());
            return Err(busy(format!(
                "reservation {other} has waited for more than {patience} and gets a computer at {from} at the latest; \
                 until {until} this one would keep it waiting for longer"
            )));
        }
        let hours = self.config.lending.hours_per_week(row.group.as_deref());
        match self.queue.extend(id, until, now, hours).await {
            Err(e) if e.kind == vcl_queue::Kind::Busy && self.make_way(&row, until, now).await? => {
                self.queue.extend(id, until, now, hours).await?;
            }
            done => done?,
        }
        let message = format!(
            "reservation {id} of {} lasts until {} now, says {who}",
            row.owner,
            until.format("%Y-%m-%d %H:%M UTC")
        );
        self.queue.post_event("reservation-extended", None, row.computer.as_ref(), &message);
        self.reservation(id).await
    }

    /// Moves bookings that are in an extension's way to other computers. Answers whether the way is free now.
    async fn make_way(
        &self,
        row: &ReservationRow,
        until: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<bool, Refusal> {
        let Some(computer) = row.computer.as_ref() else { return Ok(false) };
        let sight = self.planned(now).await?;
        let inside = |r: &&ReservationRow| {
            r.booked.as_ref() == Some(computer) && r.start.is_some_and(|start| start < until)
        };
        let named = |r: &ReservationRow| r.asked.as_ref().is_some_and(|asked| asked.wish.computer.is_some());
        let in_the_way: Vec<ReservationRow> = sight.rows.iter().filter(inside).cloned().collect();
        if in_the_way.iter().any(named) {
            return Ok(false);
        }
        for other in in_the_way {
            if self.rebook(&other, Some(computer), now).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Keeps another computer for a reservation that has not begun, not `but` this one. Answers which.
    pub(crate) async fn rebook(
        &self,
        row: &ReservationRow,
        but: Option<&ComputerName>,
        now: DateTime<Utc>,
    ) -> Result<Option<ComputerName>, Refusal> {
        let sight = self.planned(now).await?;
        let (Some(start), Some(image)) = (row.start, sight.to_lend(&row.image)) else {
            return Ok(None);
        };
        let any = vcl_types::lending::Wish::default();
        let avoid: Vec<ComputerName> = but.into_iter().cloned().collect();
        let wanted = Wanted {
            id: Some(row.id),
            avoid: &avoid,
            ..Wanted::of(
                row.asked.as_ref().map_or(&any, |asked| &asked.wish),
                &image,
                sight.hardware(&image.name),
                start,
                row.end,
            )
        };
        let Ok(choice) = booking(&wanted, &sight) else { return Ok(None) };
        match self.queue.book(row.id, Some(&choice.computer)).await {
            Ok(()) => Ok(Some(choice.computer)),
            Err(e) if matches!(e.kind, vcl_queue::Kind::Busy | vcl_queue::Kind::Refused) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Gives a reservation's computer back.
    ///
    /// # Errors
    /// There is none of that number, or it is a load, which is unloaded instead.
    pub async fn release(
        &self,
        id: ReservationId,
        discard: bool,
        who: &str,
    ) -> Result<ReservationView, Refusal> {
        // Whoever gives their own back knows.
        let own = self.queue.reservation(id).await?.owner == who;
        let told = (!own).then_some(vcl_types::notices::NoticeKind::Ended);
        self.finish(id, &format!("given back by {who}"), self.clock.now(), discard, told).await?;
        self.reservation(id).await
    }
}

/// The number of one that is not in the tables yet: after all others.
const NEW: ReservationId = ReservationId(i64::MAX);

/// One that is about to be made, as it will stand in the queue.
pub(super) fn as_row(new: &NewReservation) -> ReservationRow {
    let later = new.start > new.now;
    ReservationRow {
        id: NEW,
        owner: new.owner.clone(),
        group: new.group.clone(),
        purpose: new.purpose,
        class: new.class,
        computer: None,
        booked: new.booked.clone(),
        image: new.asked.image.clone(),
        asked: Some(new.asked.clone()),
        times: new.times.clone(),
        state: if later { State::Scheduled } else { State::Queued },
        job: None,
        since: new.now,
        start: Some(new.start),
        end: new.end,
        length_s: new.length_s,
        assigned: None,
        usable: None,
        acknowledged: None,
        connected: None,
        seen: None,
        nobody: None,
        from: new.asked.from,
        told: Vec::new(),
        tries: 0,
        retry: None,
        avoid: Vec::new(),
        discard: false,
        shown: new.shown,
        ended: None,
        ended_because: None,
    }
}

/// A computer that can be kept for a time to come.
pub(super) fn booking(wanted: &Wanted<'_>, sight: &Sight) -> Result<Choice, Refusal> {
    let mut reasons = Vec::new();
    let mut candidates = Vec::new();
    for seat in &sight.seats {
        if seat.unfit(wanted).is_some() {
            continue;
        }
        // Who has it now has it until their end; one without an end keeps it.
        let why = match (seat.held, seat.held_until) {
            (Some(id), None) => Some(format!("reservation {id} has it without an end")),
            (Some(_), Some(end)) if end > wanted.from => {
                Some(format!("it is lent until {}", end.format("%Y-%m-%d %H:%M UTC")))
            }
            _ if seat.is_out() => Some(format!("it is {}", seat.state)),
            _ => seat.hindered(wanted),
        };
        match why {
            Some(why) => reasons.push(format!("{}: {why}", seat.computer.name)),
            None => candidates.push(seat),
        }
    }
    // What is kept is kept on few computers: the others stay whole for those who ask for long.
    let best = candidates.into_iter().min_by_key(|seat| {
        let surplus: u32 = super::choose::devices(&seat.computer).values().sum();
        (surplus, std::cmp::Reverse(seat.booked.len()), &seat.computer.name)
    });
    let Some(best) = best else {
        let shown: Vec<String> = reasons.into_iter().take(5).collect();
        return Err(busy(format!("no computer can be kept for that time: {}", shown.join("; "))));
    };
    Ok(Choice {
        computer: best.computer.name.clone(),
        warm: false,
        because: "it is kept for this reservation".into(),
    })
}
