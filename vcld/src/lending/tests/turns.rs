//! What is kept for those who have waited long, on rows in memory.

use super::scene::lines_of;
use crate::lending::choose::{Seat, Wanted};
use crate::lending::requests::{as_row, booking};
use crate::lending::turns::Outlook;
use crate::lending::view::Sight;
use chrono::{DateTime, Utc};
use std::sync::Arc;
use vcl_config::{BackendType, Known, Lending};
use vcl_queue::{NewReservation, ReservationRow, UsageRow};
use vcl_types::lending::{Purpose, Times, Wish};
use vcl_types::state::computer;
use vcl_types::state::reservation::State;
use vcl_types::{Computer, Hardware, ImageRef, ReservationId};

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + minutes * 60, 0).unwrap()
}

/// One who asked so many minutes ago for so many minutes.
fn waits(id: i64, owner: &str, group: Option<&str>, ago: i64, minutes: i64) -> ReservationRow {
    let asked = serde_json::json!({ "image": "gis", "group": group, "length_s": minutes * 60 });
    let row = as_row(&NewReservation {
        owner: owner.into(),
        group: group.map(Into::into),
        purpose: Purpose::Use,
        class: None,
        asked: serde_json::from_value(asked).unwrap(),
        times: Times::default(),
        now: at(-ago),
        start: at(-ago),
        end: None,
        length_s: Some(minutes as u64 * 60),
        booked: None,
        shown: None,
        hours: None,
    });
    ReservationRow { id: ReservationId(id), ..row }
}

/// One who has a computer until then.
fn has(id: i64, group: Option<&str>, computer: &str, until: i64) -> ReservationRow {
    let (state, from) = (State::InUse, Some(at(-60)));
    let computer = Some(computer.parse().unwrap());
    ReservationRow {
        state,
        computer,
        assigned: from,
        usable: from,
        connected: from,
        end: Some(at(until)),
        ..waits(id, &format!("user{id}"), group, 60, until + 60)
    }
}

fn lending(lines: &str) -> Lending {
    let known = Known { backend_types: &[BackendType::SIM] };
    vcl_config::parse(&lines_of("/nowhere".into(), 3, lines), "test.toml", &known).unwrap().lending
}

/// Computers `c1` to `cN`; `c1` is booked from one minute to another.
fn sight(computers: usize, booked: Option<(i64, i64)>, rows: Vec<ReservationRow>) -> Sight {
    let seats = (1..=computers).map(|n| {
        let name: vcl_types::ComputerName = format!("c{n}").parse().unwrap();
        let holder = rows.iter().find(|row| row.computer.as_ref() == Some(&name));
        let booked = booked.filter(|_| n == 1).map(|(from, to)| (ReservationId(50), at(from), Some(at(to))));
        Seat {
            computer: Computer {
                name,
                backend: "sim".parse().unwrap(),
                cpus: None,
                memory: None,
                nics: vec![],
                tags: vec![],
            },
            state: if holder.is_some() { computer::State::InUse } else { computer::State::Available },
            holds: None,
            tainted: false,
            taken: holder.is_some(),
            booked: booked.into_iter().collect(),
            held: holder.map(|row| row.id),
            held_until: holder.and_then(|row| row.end),
            closed: None,
            drained: false,
            reason: None,
            warm_for: None,
        }
    });
    let image: ImageRef = "gis@1".parse().unwrap();
    let images = [(image.name.clone(), (image, Hardware::default()))].into();
    Sight::new(seats.collect(), rows, Arc::default(), images, at(0))
}

fn outlook(sight: &Sight, id: i64) -> String {
    match sight.outlook(ReservationId(id)) {
        Some(Outlook::Now(choice)) => format!("now {}", choice.computer),
        Some(Outlook::Kept(computer, from)) => format!("{computer} in {}", (*from - at(0)).num_minutes()),
        Some(Outlook::Over(over)) => over.why.clone(),
        Some(Outlook::Waits) => "waits".into(),
        None => "is not in the queue".into(),
    }
}

#[test]
fn for_a_long_one_a_computer_is_kept_and_short_ones_go_before_it_if_they_end_in_time() {
    let lending = lending("");
    let rows = |long: i64| {
        vec![
            has(9, None, "c2", 90),
            waits(1, "long", None, long, 480),
            waits(2, "short", None, 2, 30),
            waits(3, "between", None, 1, 300),
        ]
    };
    let mut sight_then = sight(2, Some((60, 120)), rows(120));
    sight_then.plan(&lending);
    assert_eq!(outlook(&sight_then, 1), "c2 in 90");
    assert_eq!(outlook(&sight_then, 2), "now c1");
    assert_eq!(outlook(&sight_then, 3), "waits");
    let told = sight_then.waiting(ReservationId(1), &lending).unwrap().because.unwrap();
    assert!(told.starts_with("c2 is kept for it, from 2027-01-15 09:30 UTC at the latest"), "{told}");

    // Whoever asks for a time to come gets one that is not kept.
    let image: ImageRef = "gis@1".parse().unwrap();
    let wish = Wish::default();
    let wanted = |from, until| Wanted::of(&wish, &image, None, at(from), Some(at(until)));
    assert_eq!(booking(&wanted(120, 200), &sight_then).unwrap().computer.as_str(), "c1");
    let busy = booking(&wanted(100, 200), &sight_then).unwrap_err();
    assert!(busy.message.contains("c2: it is kept for reservation 1"), "{}", busy.message);

    // One who has just asked has nothing kept.
    let mut sight_now = sight(2, Some((60, 120)), rows(10));
    sight_now.plan(&lending);
    assert_eq!(outlook(&sight_now, 1), "waits");
    assert_eq!(booking(&wanted(100, 200), &sight_now).unwrap().computer.as_str(), "c2");
}

#[test]
fn an_extension_keeps_nobody_waiting_who_has_waited_long() {
    let lending = lending("");
    let back = |ago, until| {
        let rows = vec![has(9, None, "c2", 90), waits(1, "long", None, ago, 480)];
        let found = sight(2, Some((60, 120)), rows).pushed_back(ReservationId(9), at(until), &lending);
        found.map(|(id, from)| (id.0, (from - at(0)).num_minutes()))
    };
    assert_eq!(back(120, 100), Some((1, 90)));
    assert_eq!(back(120, 80), None);
    assert_eq!(back(10, 100), None);
}

#[test]
fn of_a_group_at_its_limit_short_ones_do_not_take_each_place_before_the_oldest() {
    let lending = lending("[group.lab]\ngroup_at_once = 2\n");
    let lab = Some("lab");
    let rows = vec![
        has(8, lab, "c2", 600),
        has(9, None, "c3", 60),
        waits(1, "old", lab, 180, 600),
        waits(2, "new", lab, 2, 90),
        waits(3, "brief", lab, 1, 45),
    ];
    let mut sight = sight(3, Some((120, 700)), rows);
    sight.plan(&lending);
    assert_eq!(outlook(&sight, 1), "c3 in 60");
    assert_eq!(
        outlook(&sight, 2),
        "lab has 1 computers in use, the limit of this group is 2, and the next place is kept for reservation 1, \
         from 2027-01-15 09:00 UTC"
    );
    assert_eq!(outlook(&sight, 3), "now c1");
}

#[test]
fn a_forecast_knows_of_ones_own_limit() {
    let used = |n: i64| UsageRow {
        reservation: ReservationId(1000 + n),
        owner: "past".into(),
        group: None,
        purpose: Purpose::Use,
        class: None,
        image: "gis@1".parse().unwrap(),
        computer: None,
        since: at(-9000),
        start: Some(at(-9000)),
        assigned: Some(at(-9000)),
        usable: Some(at(-9000)),
        connected: Some(at(-9000)),
        ended: at(-8940),
        length_s: Some(3600),
        shown: None,
        because: None,
    };
    let lending = lending("[group.lab]\ngroup_at_once = 1\n");
    let rows = vec![has(9, Some("lab"), "c1", 600), waits(1, "next", Some("lab"), 1, 60)];
    let mut sight = sight(3, None, rows);
    sight.past = Arc::new((0..20).map(used).collect());
    sight.plan(&lending);
    let waiting = sight.waiting(ReservationId(1), &lending).unwrap();
    assert_eq!(waiting.position, 1);
    let (low, high) = (waiting.p10_s.unwrap(), waiting.p90_s.unwrap());
    // Computers are free; the only place of the group is not, for ten hours.
    assert!(low > 3600 && low < 36_000, "{low}");
    assert!((36_000..5 * 36_000).contains(&high), "{high}");
}
