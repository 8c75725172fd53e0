//! Which computers are spare: available, nobody's, and kept for nobody in the hours to come.

use super::choose::{Seat, Wanted, devices};
use crate::node::{Node, Refusal};
use chrono::{DateTime, TimeDelta, Utc};
use vcl_queue::CloneOn;
use vcl_types::lending::Wish;
use vcl_types::state::computer::State;
use vcl_types::{ComputerName, Manifest};

/// For how long a computer has to be nobody's to be spare.
const SPARE_FOR: TimeDelta = TimeDelta::hours(2);
/// How many computers are named with what keeps them from being spare.
const NAMED: usize = 5;

/// Computers that are spare, the ones that are missed least first.
pub(crate) struct Spare {
    /// As they are asked for.
    pub(crate) computers: Vec<CloneOn>,
    /// What keeps each of the others.
    refused: Vec<(ComputerName, String)>,
    /// When it was looked, and until when they are spare.
    pub(crate) between: (DateTime<Utc>, DateTime<Utc>),
}

impl Spare {
    /// How many there are, and what keeps some of the others, in words.
    pub(crate) fn in_words(&self) -> String {
        let names =
            self.computers.iter().map(|spare| spare.computer.to_string()).collect::<Vec<_>>().join(", ");
        let there = match self.computers.len() {
            0 => "there is none".to_owned(),
            1 => format!("there is one, {names}"),
            n => format!("there are {n}: {names}"),
        };
        let others = self.refused.iter().take(NAMED).map(|(name, why)| format!("; {name}: {why}"));
        let more = self.refused.len().saturating_sub(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        there + &others.collect::<String>() + &more
    }
}

impl Node {
    /// The computers that are spare for a revision now, of those whose backend this node has.
    ///
    /// # Errors
    /// The database does not answer.
    pub(crate) async fn spare(&self, manifest: &Manifest) -> Result<Spare, Refusal> {
        let now = self.clock.now();
        let (image, any) = (manifest.image_ref(), Wish::default());
        let wanted = Wanted::of(&any, &image, Some(&manifest.hardware), now, Some(now + SPARE_FOR));
        let sight = self.planned(now).await?;
        let (mut spare, mut refused) = spare(&wanted, &sight.seats);
        spare.retain(|seat| {
            let name = &seat.computer.backend;
            let no = match self.backends.contains_key(name) {
                true => self.check_imaging(&seat.computer, manifest).err().map(|no| no.message),
                false => Some(format!("this node has no backend {name}")),
            };
            no.map(|no| refused.push((seat.computer.name.clone(), no))).is_none()
        });
        let computers = spare.iter().map(|seat| CloneOn {
            computer: seat.computer.name.clone(),
            host: self.backends.get(&seat.computer.backend).and_then(|backend| backend.host()),
        });
        Ok(Spare { computers: computers.collect(), refused, between: (now, now + SPARE_FOR) })
    }
}

/// The spare ones, and why each of the others is none. Those go first that nobody waits for: no warm pool counts them, no
/// reservation will come for them, they have no devices, they hold nothing.
fn spare<'a>(wanted: &Wanted<'_>, seats: &'a [Seat]) -> (Vec<&'a Seat>, Vec<(ComputerName, String)>) {
    let (mut spare, mut refused) = (Vec::new(), Vec::new());
    for seat in seats {
        let why = if let Some(why) = seat.unfit(wanted) {
            Some(why)
        } else if seat.state != State::Available {
            Some(format!("it is {}", seat.state))
        } else if seat.taken {
            Some("a job or a reservation has it".into())
        } else {
            seat.hindered(wanted)
        };
        match why {
            Some(why) => refused.push((seat.computer.name.clone(), why)),
            None => spare.push(seat),
        }
    }
    spare.sort_by_key(|seat| {
        (
            seat.warm_for.is_some(),
            !seat.booked.is_empty(),
            devices(&seat.computer).values().sum::<u32>(),
            seat.holds.is_some() && !seat.tainted,
            seat.holds.is_some(),
            seat.computer.name.clone(),
        )
    });
    (spare, refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_types::{Computer, ImageRef, ReservationId};

    fn seat(name: &str) -> Seat {
        Seat {
            computer: Computer {
                name: name.parse().unwrap(),
                backend: "kvm".parse().unwrap(),
                cpus: None,
                memory: None,
                nics: vec![],
                tags: vec![],
            },
            state: State::Available,
            holds: None,
            tainted: false,
            taken: false,
            booked: vec![],
            held: None,
            held_until: None,
            closed: None,
            drained: false,
            reason: None,
            warm_for: None,
        }
    }

    #[test]
    fn what_is_missed_least_goes_first_and_what_is_kept_for_somebody_soon_does_not_go() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let image: ImageRef = "gis@2".parse().unwrap();
        let (holds, hour) = (Some("gis@1".parse().unwrap()), TimeDelta::hours(1));
        let booked = |from| vec![(ReservationId(7), now + from, None)];
        let seats = [
            Seat { warm_for: holds.clone(), holds: holds.clone(), ..seat("warm") },
            Seat { holds: holds.clone(), ..seat("clean") },
            Seat { holds, tainted: true, ..seat("used") },
            Seat { booked: booked(hour * 5), ..seat("late") },
            Seat { booked: booked(hour), ..seat("soon") },
            Seat { taken: true, ..seat("taken") },
            Seat { state: State::Maintenance, ..seat("mended") },
            seat("empty"),
        ];
        let any = Wish::default();
        let wanted = Wanted::of(&any, &image, None, now, Some(now + SPARE_FOR));
        let (found, refused) = spare(&wanted, &seats);
        let names: Vec<&str> = found.iter().map(|seat| seat.computer.name.as_str()).collect();
        assert_eq!(names, ["empty", "used", "clean", "late", "warm"]);
        let refused: Vec<&str> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(refused, ["soon", "taken", "mended"]);
    }
}
