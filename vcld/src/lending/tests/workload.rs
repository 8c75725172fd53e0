//! A week of 500 people at 50 computers: who asks when for what, when they come, when they go.
//!
//! `week.jsonl` beside this file is what [`made`] makes of [`SEED`], an object a line; a test compares them, and
//! `UPDATE=1 cargo test --all-features -p vcld workload` writes it. People ask mostly on weekdays between eight and six;
//! students for one to four hours, staff for two to eight, researchers for four to twenty and now and then for a server
//! of two days. One in seven asks for a time to come, one in twelve never comes, two in five go before their time is
//! over, one in fourteen extends. Of each class four in five seats are taken, by people who come from twenty minutes
//! before its beginning to fifteen after it.

use serde::{Deserialize, Serialize};
use vcl_types::lending::Purpose;

pub(super) const SEED: u64 = 20_261_123;
/// How many ask for something, classes left out.
const ASK: u64 = 1500;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Name, group, image, seats, times.
pub(super) const CLASSES: [(&str, &str, &str, u32, &str); 6] = [
    ("GIS 101", "gis101", "gis", 15, "Mon 10-12"),
    ("GIS 102", "gis102", "gis", 20, "Wed 14-16"),
    ("STAT 201", "stat201", "matlab", 10, "Tue,Thu 9-11"),
    ("CS 110", "cs110", "debian", 18, "Mon,Wed 8-10"),
    ("ECON 1", "econ1", "office", 10, "Fri 10-13"),
    ("CS 300", "cs300", "debian", 8, "Thu 18-21"),
];

/// One who asks. Seconds throughout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Item {
    pub(super) n: u64,
    /// After Monday, midnight.
    pub(super) at: u64,
    pub(super) user: String,
    pub(super) group: String,
    pub(super) image: String,
    pub(super) purpose: Purpose,
    /// When it is to begin, after Monday; at once if not said.
    pub(super) start: Option<u64>,
    pub(super) length: u64,
    /// How long after their computer is usable they come; never if not said.
    pub(super) comes: Option<u64>,
    /// How long after that they go; at the end if not said.
    pub(super) leaves: Option<u64>,
    /// By how much they extend it in the middle.
    pub(super) extends: Option<u64>,
}

struct Dice(u64);
impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[(self.next() % all.len() as u64) as usize]
    }
}

/// A moment of the week: three days in four it is a working hour of a weekday.
fn moment(dice: &mut Dice) -> u64 {
    let (day, hour) = if dice.one_in(6) {
        (dice.between(0, 6), dice.between(0, 23))
    } else {
        (dice.between(0, 4), *dice.of(&[8, 9, 9, 10, 10, 11, 11, 12, 13, 13, 14, 14, 15, 16, 17, 18, 20]))
    };
    day * DAY + hour * HOUR + dice.between(0, HOUR - 1)
}

fn one(dice: &mut Dice) -> Item {
    let number = dice.between(0, 499);
    let (group, length) = match number {
        0..400 => ("students", dice.between(4, 16) * 900),
        400..460 => ("staff", dice.between(2, 8) * HOUR),
        _ => ("research", dice.between(4, 20) * HOUR),
    };
    let server = group == "research" && dice.one_in(8);
    let at = moment(dice);
    let start = dice.one_in(7).then(|| (at / 900 + dice.between(8, 160)) * 900);
    let start = start.filter(|start| *start < 7 * DAY - HOUR);
    let length = if server { 2 * DAY } else { length };
    Item {
        n: 0,
        at,
        user: format!("u{number:03}"),
        group: group.into(),
        image: (*dice.of(&["office", "office", "debian", "debian", "gis", "matlab"])).into(),
        purpose: if server { Purpose::Server } else { Purpose::Use },
        start,
        length,
        comes: (!dice.one_in(12)).then(|| dice.between(30, 600)),
        leaves: (dice.between(0, 4) < 2).then(|| dice.between(length / 10, length * 9 / 10)),
        extends: dice.one_in(14).then_some(HOUR),
    }
}

/// What a seed makes.
pub(super) fn made(seed: u64) -> Vec<Item> {
    let mut dice = Dice(seed);
    let mut all: Vec<Item> = (0..ASK).map(|_| one(&mut dice)).collect();
    let monday: chrono::DateTime<chrono::Utc> = super::week::MONDAY.parse().unwrap();
    for (_, group, image, seats, weekly) in CLASSES {
        let weekly: vcl_types::lending::Weekly = weekly.parse().unwrap();
        for (start, end) in weekly.between(&chrono::Utc, monday, monday + chrono::TimeDelta::days(7)) {
            let start = (start - monday).num_seconds().unsigned_abs();
            let length = (end - monday).num_seconds().unsigned_abs() - start;
            let first = dice.between(0, 380);
            for seat in 0..u64::from(seats) * 4 / 5 {
                all.push(Item {
                    n: 0,
                    at: start - 1200 + dice.between(0, 2100),
                    user: format!("u{:03}", (first + seat) % 400),
                    group: group.into(),
                    image: image.into(),
                    purpose: Purpose::Use,
                    start: None,
                    length,
                    comes: Some(dice.between(30, 300)),
                    leaves: dice.one_in(5).then_some(HOUR),
                    extends: None,
                });
            }
        }
    }
    all.sort_by(|a, b| (a.at, &a.user).cmp(&(b.at, &b.user)));
    for (n, item) in all.iter_mut().enumerate() {
        item.n = n as u64;
    }
    all
}

fn text() -> String {
    made(SEED).iter().map(|item| serde_json::to_string(item).unwrap() + "\n").collect()
}

/// The file.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lending/tests/week.jsonl");

pub(super) fn read() -> Vec<Item> {
    let text = std::fs::read_to_string(FILE).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_workload_is_what_its_seed_makes() {
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(FILE, text()).unwrap();
        return;
    }
    assert!(std::fs::read_to_string(FILE).unwrap() == text(), "UPDATE=1 writes {FILE} anew");
    let users: std::collections::HashSet<String> = read().into_iter().map(|item| item.user).collect();
    assert!(users.len() > 450, "{}", users.len());
}
