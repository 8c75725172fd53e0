//! Which computer a reservation gets, and whose turn it is: pure functions of what the tables say.

use chrono::{DateTime, Utc};
use std::collections::{BTreeMap, HashMap};
use vcl_types::lending::{Choice, Wish};
use vcl_types::state::computer::State;
use vcl_types::{Computer, ComputerName, Hardware, ImageRef, ReservationId};

/// A time for which a computer is kept for a reservation: which, from when, until when.
pub(crate) type Booked = (ReservationId, DateTime<Utc>, Option<DateTime<Utc>>);

/// A computer as the chooser sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) computer: Computer,
    pub(crate) state: State,
    /// What it holds.
    pub(crate) holds: Option<ImageRef>,
    /// Whether somebody has used that.
    pub(crate) tainted: bool,
    /// Whether a job or a reservation has it.
    pub(crate) taken: bool,
    /// The times for which it is kept for reservations that have not begun.
    pub(crate) booked: Vec<Booked>,
    /// Who has it, and until when; nobody or nothing known of an end is `None`.
    pub(crate) held: Option<ReservationId>,
    pub(crate) held_until: Option<DateTime<Utc>>,
    /// Why it takes nothing new now.
    pub(crate) closed: Option<String>,
    /// That holds until somebody says otherwise: its host takes nothing new.
    pub(crate) drained: bool,
    /// What is said of its state.
    pub(crate) reason: Option<String>,
    /// The image that the warm pool keeps on it.
    pub(crate) warm_for: Option<ImageRef>,
}

/// What is wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    /// The reservation, when it is one already.
    pub(crate) id: Option<ReservationId>,
    pub(crate) wish: &'a Wish,
    pub(crate) image: &'a ImageRef,
    /// What the image was made on.
    pub(crate) hardware: Option<&'a Hardware>,
    /// From when to when.
    pub(crate) from: DateTime<Utc>,
    pub(crate) until: Option<DateTime<Utc>>,
    pub(crate) avoid: &'a [ComputerName],
    /// The computer that is kept for it.
    pub(crate) own: Option<&'a ComputerName>,
}

impl<'a> Wanted<'a> {
    /// What somebody wants who has nothing yet.
    pub(crate) fn of(
        wish: &'a Wish,
        image: &'a ImageRef,
        hardware: Option<&'a Hardware>,
        from: DateTime<Utc>,
        until: Option<DateTime<Utc>>,
    ) -> Self {
        Self { id: None, wish, image, hardware, from, until, avoid: &[], own: None }
    }
}

/// Devices of a computer, from tags such as `gpu:2`; one without a number counts once.
pub(crate) fn devices(computer: &Computer) -> BTreeMap<&str, u32> {
    let mut all = BTreeMap::new();
    for tag in &computer.tags {
        let (name, count) =
            tag.rsplit_once(':').and_then(|(n, c)| Some((n, c.parse().ok()?))).unwrap_or((tag, 1));
        *all.entry(name).or_default() += count;
    }
    all
}

impl Seat {
    /// Why the computer is none that was asked for, whoever has it.
    pub(crate) fn unfit(&self, wanted: &Wanted<'_>) -> Option<String> {
        let Wish { computer, cpus, memory, tags, any_of, devices: wished } = wanted.wish;
        let here = &self.computer;
        if let Some(named) = computer
            && *named != here.name
        {
            return Some("it is not the one that was asked for".into());
        }
        if let Some(tag) = tags.iter().find(|tag| !here.tags.contains(tag)) {
            return Some(format!("it has no tag {tag}"));
        }
        if !any_of.is_empty() && !any_of.iter().any(|tag| here.tags.contains(tag)) {
            return Some(format!("it has none of the tags {}", any_of.join(", ")));
        }
        let there = devices(here);
        if let Some((name, count)) =
            wished.iter().find(|(name, count)| there.get(name.as_str()).copied().unwrap_or(0) < **count)
        {
            return Some(format!("it has fewer than {count} {name}"));
        }
        let own = wanted.hardware;
        let has_cpus = here.cpus.or(own.map(|h| h.cpus));
        if let (Some(wish), Some(has)) = (cpus, has_cpus)
            && has < *wish
        {
            return Some(format!("it has {has} processors"));
        }
        let has_memory = here.memory.or(own.map(|h| h.memory));
        if let (Some(wish), Some(has)) = (memory, has_memory)
            && has < *wish
        {
            return Some(format!("it has {has} of memory"));
        }
        if wanted.avoid.contains(&here.name) {
            return Some("a load for this reservation failed on it".into());
        }
        None
    }
    /// What keeps it from being given out for that time.
    pub(crate) fn hindered(&self, wanted: &Wanted<'_>) -> Option<String> {
        if self.drained {
            return self.closed.clone();
        }
        let overlaps = |(id, from, until): &(ReservationId, DateTime<Utc>, Option<DateTime<Utc>>)| {
            Some(*id) != wanted.id
                && wanted.until.is_none_or(|end| *from < end)
                && until.is_none_or(|until| until > wanted.from)
        };
        let (id, from, _) = self.booked.iter().find(|booked| overlaps(booked))?;
        let what = if id.0 == 0 { "in maintenance".into() } else { format!("kept for reservation {id}") };
        Some(format!("it is {what} from {}", from.format("%Y-%m-%d %H:%M UTC")))
    }
    /// Until when it could be had if its time were short enough: somebody else has it from then on.
    pub(crate) fn free_until(&self, wanted: &Wanted<'_>) -> Option<DateTime<Utc>> {
        if self.unfit(wanted).is_some() || !self.is_free() {
            return None;
        }
        let others = self.booked.iter().filter(|(id, ..)| Some(*id) != wanted.id);
        let mut next = None;
        for (_, from, until) in others {
            if *from <= wanted.from && until.is_none_or(|until| until > wanted.from) {
                return None;
            }
            if *from > wanted.from {
                next = Some(next.map_or(*from, |next: DateTime<Utc>| next.min(*from)));
            }
        }
        next
    }
    /// From when on it can be had for the whole of that time, by what is known now; `fixed` is one that ends when it ends,
    /// however late it begins.
    pub(crate) fn earliest(&self, wanted: &Wanted<'_>, fixed: bool) -> Option<DateTime<Utc>> {
        if self.unfit(wanted).is_some() || self.drained || self.is_out() {
            return None;
        }
        let length = wanted.until.map(|until| until - wanted.from);
        let mut at = match self.held {
            Some(_) => self.held_until?.max(wanted.from),
            None => wanted.from,
        };
        // They are sorted by their beginnings: what was passed once is not in the way of a later time.
        for (id, from, until) in &self.booked {
            let end =
                if fixed { wanted.until } else { length.and_then(|length| at.checked_add_signed(length)) };
            let overlaps = end.is_none_or(|end| *from < end) && until.is_none_or(|until| until > at);
            if Some(*id) != wanted.id && overlaps {
                at = (*until)?;
            }
        }
        (!fixed || wanted.until.is_none_or(|until| at < until)).then_some(at)
    }
    /// Whether it is out of use until a person gives it back, or a window's end does.
    pub(crate) fn is_out(&self) -> bool {
        match self.state {
            State::Broken => true,
            State::Maintenance => {
                self.reason.as_deref().is_none_or(|why| super::closures::window_of(why).is_none())
            }
            _ => false,
        }
    }
    /// Whether it can be given out at all at the moment.
    pub(crate) fn is_free(&self) -> bool {
        self.state == State::Available && !self.taken && self.closed.is_none()
    }
    fn is_warm(&self, image: &ImageRef) -> bool {
        self.holds.as_ref() == Some(image) && !self.tainted
    }
}

/// The computer that is given out now, or for each that could be meant why it is not.
pub(crate) fn choose(wanted: &Wanted<'_>, seats: &[Seat]) -> Result<Choice, Vec<(ComputerName, String)>> {
    let mut refused = Vec::new();
    let mut free: Vec<&Seat> = Vec::new();
    for seat in seats {
        let mut no = |why: String| refused.push((seat.computer.name.clone(), why));
        if let Some(why) = seat.unfit(wanted) {
            no(why);
        } else if seat.state != State::Available {
            no(format!("it is {}", seat.state));
        } else if seat.taken {
            no("a job has it".into());
        } else if let Some(closed) = &seat.closed {
            no(closed.clone());
        } else if let Some(why) = seat.hindered(wanted) {
            no(why);
        } else {
            free.push(seat);
        }
    }
    let best = free.iter().min_by_key(|seat| {
        let surplus: u32 = devices(&seat.computer)
            .iter()
            .filter(|(name, _)| !wanted.wish.tags.iter().any(|t| t == *name))
            .map(|(name, count)| count.saturating_sub(wanted.wish.devices.get(*name).copied().unwrap_or(0)))
            .sum();
        let next = seat.booked.iter().map(|(_, from, _)| *from).min();
        (
            wanted.own != Some(&seat.computer.name),
            !seat.is_warm(wanted.image),
            // What others are waited for with is left for them.
            seat.warm_for.as_ref().is_some_and(|image| image != wanted.image),
            surplus,
            seat.computer.cpus.unwrap_or(0),
            seat.computer.memory.map_or(0, vcl_types::ByteSize::bytes),
            seat.holds.is_some(),
            // One that is booked late is left for long reservations.
            next.is_none(),
            &seat.computer.name,
        )
    });
    let Some(best) = best else { return Err(refused) };
    let warm = best.is_warm(wanted.image);
    let because = match (warm, &best.holds) {
        _ if wanted.own == Some(&best.computer.name) => "it was kept for this reservation".to_owned(),
        (true, _) => format!("it holds {} and nobody has used it", wanted.image),
        (false, Some(other)) => format!("it is free and fits, and holds only {other}, which nobody uses"),
        (false, None) => format!("it is free and fits; {} of {} computers do", free.len(), seats.len()),
    };
    Ok(Choice { computer: best.computer.name.clone(), warm, because })
}

/// One that waits, as its turn depends on it.
#[derive(Debug, Clone)]
pub(crate) struct Turn<'a> {
    pub(crate) id: ReservationId,
    pub(crate) owner: &'a str,
    pub(crate) since: DateTime<Utc>,
    /// It was promised for a time that has come: a future one, a seat.
    pub(crate) promised: bool,
}

/// The order in which those that wait are served: those that were promised first. Among the others everybody's minutes of
/// waiting count, an hour less for each computer that its owner has or waits for before it, and three minutes less for
/// each hour that its owner had of late. Waiting counts without limit, so nobody waits for ever.
pub(crate) fn order(
    mut waiting: Vec<Turn<'_>>,
    have: &HashMap<String, u32>,
    hours: &HashMap<String, f64>,
    now: DateTime<Utc>,
) -> Vec<ReservationId> {
    waiting.sort_by_key(|turn| (turn.since, turn.id));
    let mut before: HashMap<&str, u32> = HashMap::new();
    let mut scored: Vec<(bool, f64, DateTime<Utc>, ReservationId)> = Vec::new();
    for turn in &waiting {
        let earlier = before.entry(turn.owner).or_default();
        let count = have.get(turn.owner).copied().unwrap_or(0) + *earlier;
        *earlier += 1;
        let waited = (now - turn.since).num_seconds() as f64 / 60.0;
        let recent = hours.get(turn.owner).copied().unwrap_or(0.0);
        scored.push((
            !turn.promised,
            -(waited - 60.0 * f64::from(count) - 3.0 * recent),
            turn.since,
            turn.id,
        ));
    }
    scored.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then((a.2, a.3).cmp(&(b.2, b.3))));
    scored.into_iter().map(|(.., id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
    }
    fn seat(name: &str, holds: Option<&str>, tags: &[&str]) -> Seat {
        Seat {
            computer: Computer {
                name: name.parse().unwrap(),
                backend: "kvm".parse().unwrap(),
                cpus: Some(2),
                memory: Some("4G".parse().unwrap()),
                nics: vec![],
                tags: tags.iter().map(ToString::to_string).collect(),
            },
            state: State::Available,
            holds: holds.map(|h| h.parse().unwrap()),
            tainted: false,
            taken: false,
            booked: vec![],
            held: None,
            held_until: None,
            drained: false,
            reason: None,
            closed: None,
            warm_for: None,
        }
    }
    fn pick(wish: &Wish, seats: &[Seat]) -> Result<String, String> {
        let image = "gis@2".parse().unwrap();
        let wanted = Wanted::of(wish, &image, None, at(0), Some(at(240)));
        choose(&wanted, seats).map(|choice| format!("{} {}", choice.computer, choice.warm)).map_err(|all| {
            all.iter().map(|(name, why)| format!("{name}: {why}")).collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn one_that_holds_the_clean_revision_goes_first_and_what_is_special_is_kept() {
        let any = Wish::default();
        let seats = [seat("a", None, &["gpu:2"]), seat("b", None, &[]), seat("c", Some("gis@2"), &[])];
        assert_eq!(pick(&any, &seats).unwrap(), "c true");
        let used = [Seat { tainted: true, ..seats[2].clone() }, seats[0].clone(), seats[1].clone()];
        assert_eq!(pick(&any, &used).unwrap(), "b false");
        let gpu = Wish { devices: [("gpu".to_owned(), 2)].into(), ..Wish::default() };
        assert_eq!(pick(&gpu, &seats).unwrap(), "a false");
        let three = Wish { devices: [("gpu".to_owned(), 3)].into(), ..Wish::default() };
        assert!(pick(&three, &seats).unwrap_err().contains("a: it has fewer than 3 gpu"));
    }

    #[test]
    fn a_booking_that_overlaps_keeps_it_and_one_that_comes_later_does_not() {
        let booked = |from, to| Seat {
            booked: vec![(ReservationId(7), at(from), Some(at(to)))],
            ..seat("a", None, &[])
        };
        assert!(pick(&Wish::default(), &[booked(200, 300)]).unwrap_err().contains("kept for reservation 7"));
        assert_eq!(pick(&Wish::default(), &[booked(240, 300)]).unwrap(), "a false");
        assert_eq!(pick(&Wish::default(), &[booked(-60, 0)]).unwrap(), "a false");
        let closed = Seat { closed: Some("room closed".into()), ..seat("a", None, &[]) };
        assert!(pick(&Wish::default(), &[closed]).unwrap_err().contains("room closed"));
    }

    #[test]
    fn whoever_has_less_goes_first_and_whoever_waits_long_goes_before_all() {
        let turn =
            |id, owner, since| Turn { id: ReservationId(id), owner, since: at(since), promised: false };
        let have: HashMap<String, u32> = [("greedy".to_owned(), 3)].into();
        let waiting = || vec![turn(1, "greedy", 0), turn(2, "modest", 30), turn(3, "modest", 31)];
        let ids =
            |now| order(waiting(), &have, &HashMap::new(), now).iter().map(|id| id.0).collect::<Vec<_>>();
        assert_eq!(ids(at(40)), [2, 3, 1]);
        let long = [turn(1, "greedy", -300), turn(2, "modest", 30)].to_vec();
        let ids = order(long, &have, &HashMap::new(), at(40));
        assert_eq!(ids[0].0, 1);
        let seat = Turn { promised: true, ..turn(9, "class", 39) };
        assert_eq!(order([waiting(), vec![seat]].concat(), &have, &HashMap::new(), at(40))[0].0, 9);
    }
}
