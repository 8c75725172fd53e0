//! A week, lived by the real queue, worker, scheduler and simulated machines under a turned clock.
//!
//! It is lived in a process of its own, which is killed ten times where a seed says, and in it the runtime is dropped every
//! hour with whatever was under way. Whoever goes on finds out from the database where the week is: the newest time in it
//! is now, and of those who ask each is known by the mark that their reservation carries. Time goes in steps of two
//! minutes; no load takes any of it, so what is waited for is computers.

use super::report::{Report, tell};
use super::scene::{Built, build, nobody_there};
use super::workload::{CLASSES, Item, read};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::{HashMap, HashSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vcl_queue::ReservationRow;
use vcl_types::ReservationId;
use vcl_types::lending::{ClassRequest, Extend, ReservationRequest};
use vcl_types::state::computer;
use vcl_types::state::reservation::State;

pub(super) const MONDAY: &str = "2026-11-23T00:00:00Z";
pub(super) const COMPUTERS: usize = 50;
/// How long a step of time is, in seconds.
const STEP: i64 = 120;
/// The child finds its directory and the hours it has to live here.
const DIRECTORY: &str = "VCL_WEEK_DIRECTORY";
const HOURS: &str = "VCL_WEEK_HOURS";

pub(super) const STUDENT: u32 = 1;
pub(super) const STAFF: u32 = 2;
pub(super) const RESEARCH: u32 = 8;
pub(super) const RESEARCHER: u32 = 2;
pub(super) const ANYBODY: u32 = 3;
pub(super) const MATLAB: u32 = 12;

pub(super) fn configuration() -> String {
    format!(
        "[reservations]\nafter_use = \"nothing\"\nat_once = {ANYBODY}\n\
         [group.students]\nat_once = {STUDENT}\nhours_per_week = 20\n\
         [group.staff]\nat_once = {STAFF}\n\
         [group.research]\nat_once = {RESEARCHER}\ngroup_at_once = {RESEARCH}\n\
         [image.matlab]\nconcurrent = {MATLAB}\n[image.debian]\nwarm = 2\n"
    )
}

fn monday() -> DateTime<Utc> {
    MONDAY.parse().unwrap()
}

fn mark(item: &Item) -> String {
    format!("week {}", item.n)
}
fn marked(row: &ReservationRow) -> Option<u64> {
    row.asked.as_ref()?.user_data.as_ref()?.strip_prefix("week ")?.parse().ok()
}

pub(super) fn request(item: &Item) -> ReservationRequest {
    let at = |seconds: u64| monday() + TimeDelta::seconds(seconds as i64);
    serde_json::from_value(serde_json::json!({
        "image": item.image, "purpose": item.purpose, "group": item.group, "length_s": item.length,
        "start": item.start.map(at), "user_data": mark(item),
    }))
    .unwrap()
}

/// Who goes on with the week.
struct Driver {
    built: Built,
    items: Vec<Item>,
    /// The first who has not asked yet.
    next: usize,
    /// Whose extension was tried: nobody asks for it twice.
    tried: HashSet<ReservationId>,
    looks: (u32, Duration),
}

impl Driver {
    /// Opens what is there and finds out where the week is, at that moment at the earliest.
    async fn open(directory: &Path, least: DateTime<Utc>) -> Self {
        let built = build(directory, COMPUTERS, &configuration(), least).await;
        let mut items = read();
        let mut driver =
            Self { built, items: Vec::new(), next: 0, tried: HashSet::new(), looks: Default::default() };
        if driver.built.node.queue.images().await.unwrap().is_empty() {
            driver.first_day(directory).await;
        }
        let node = &driver.built.node;
        let rows = node.queue.reservations_of(None, false, None, 100_000).await.unwrap();
        let asked = rows.iter().filter_map(marked).max();
        items.sort_by_key(|item| item.n);
        driver.next = asked.map_or(0, |n| n as usize + 1);
        let newest = rows.iter().flat_map(|row| {
            let since = marked(row).map(|_| row.since);
            [
                since,
                row.assigned,
                row.usable,
                row.acknowledged,
                row.connected,
                row.seen,
                row.nobody,
                row.ended,
            ]
        });
        let newest = newest.flatten().max().unwrap_or(least);
        node.clock.turn(newest.max(least));
        driver.items = items;
        driver
    }

    /// Images and classes, as they are before the week begins.
    async fn first_day(&self, directory: &Path) {
        let node = &self.built.node;
        let root = camino::Utf8Path::from_path(directory).unwrap();
        for (seed, image) in ["office", "debian", "gis", "matlab"].into_iter().enumerate() {
            let disk = crate::testing::disk(root, seed as u64);
            node.submit(crate::testing::import(image, &disk), "admin").await.unwrap();
        }
        self.jobs().await;
        for (name, group, image, seats, weekly) in CLASSES {
            let request: ClassRequest = serde_json::from_value(serde_json::json!({
                "name": name, "group": group, "image": image, "seats": seats, "weekly": weekly,
            }))
            .unwrap();
            node.add_class(request, "teacher").await.unwrap();
        }
    }

    /// Waits until no job is left.
    async fn jobs(&self) {
        let waiting = async {
            let mut changes = self.built.node.queue.submitted();
            loop {
                changes.borrow_and_update();
                if self.built.node.queue.jobs_under_way().await.unwrap() == 0 {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting).await.expect("the jobs end");
    }

    /// Waits until nothing more happens at this moment. Answers when the next thing is due.
    async fn quiet(&mut self) -> Option<DateTime<Utc>> {
        nobody_there(&self.built.node).await;
        for _ in 0..100 {
            let mut changes = self.built.node.queue.submitted();
            changes.borrow_and_update();
            let began = Instant::now();
            let next = self.built.node.look_at_reservations().await.unwrap();
            self.looks = (self.looks.0 + 1, self.looks.1 + began.elapsed());
            if !changes.has_changed().unwrap() && self.built.node.queue.jobs_under_way().await.unwrap() == 0 {
                return next;
            }
            self.jobs().await;
        }
        panic!("it does not come to rest");
    }

    fn item(&self, row: &ReservationRow) -> Option<&Item> {
        self.items.get(marked(row)? as usize)
    }

    /// What the user of a reservation does next, and when.
    fn wish(&self, row: &ReservationRow) -> Option<(DateTime<Utc>, Deed)> {
        let item = self.item(row)?;
        let after = |at: DateTime<Utc>, seconds: u64| at + TimeDelta::seconds(seconds as i64);
        match (row.state, row.connected) {
            (State::Ready, None) => Some((after(row.usable?, item.comes?), Deed::Come)),
            (State::InUse, Some(connected)) => {
                let leave = item.leaves.map(|s| (after(connected, s), Deed::Leave));
                let fresh =
                    row.length_s == Some(item.length) && row.class.is_none() && !self.tried.contains(&row.id);
                let extend = item.extends.filter(|_| fresh && row.end.is_some());
                let extend = extend.map(|by| (after(connected, item.length / 2), Deed::Extend(by)));
                [leave, extend].into_iter().flatten().min_by_key(|(at, _)| *at)
            }
            _ => None,
        }
    }

    /// What people do at this moment.
    async fn people(&mut self) -> bool {
        let node = self.built.node.clone();
        let now = node.clock.now();
        let rows = node.queue.reservations_open().await.unwrap();
        let mut come: Vec<ReservationId> = Vec::new();
        let mut acted = false;
        for row in rows {
            let Some((_, deed)) = self.wish(&row).filter(|(at, _)| *at <= now) else { continue };
            acted = true;
            match deed {
                Deed::Come => {
                    node.connect(row.id, None).await.unwrap();
                    come.push(row.id);
                }
                Deed::Leave if row.id.0 % 3 == 0 => {
                    node.queue.seen(row.id, false, now).await.unwrap();
                }
                Deed::Leave => {
                    node.release(row.id, false, &row.owner).await.unwrap();
                }
                // One who may not makes do with what he has.
                Deed::Extend(by) => {
                    self.tried.insert(row.id);
                    let _ = node.extend(row.id, Extend { by_s: Some(by), until: None }, &row.owner).await;
                }
            }
        }
        if !come.is_empty() {
            self.jobs().await;
        }
        for id in come {
            node.queue.seen(id, true, now).await.unwrap();
        }
        acted
    }

    /// Those whose time has come ask.
    async fn ask(&mut self, now: DateTime<Utc>) {
        while let Some(item) = self.items.get(self.next) {
            if monday() + TimeDelta::seconds(item.at as i64) > now {
                return;
            }
            self.next += 1;
            // Refused is who asks for a time at which nothing is free, or for more hours than he may have.
            let asked = self.built.node.reserve(request(item), &item.user).await;
            if let Err(no) = asked {
                tell("refused", &format!("{} {}: {}", item.n, item.user, no.message));
            }
        }
    }

    /// What has to hold at every moment.
    async fn check(&self) {
        let node = &self.built.node;
        let rows = node.queue.reservations_open().await.unwrap();
        let mut owner: HashMap<_, &ReservationRow> = HashMap::new();
        for row in rows.iter().filter(|row| row.computer.is_some()) {
            let other = owner.insert(row.computer.clone().unwrap(), row);
            assert!(other.is_none(), "two have {:?}: {other:?} and {row:?}", row.computer);
        }
        for row in node.queue.computers().await.unwrap() {
            let name = &row.computer.name;
            let state = owner.get(name).map(|row| row.state);
            let fits = match row.state {
                computer::State::Available => state.is_none(),
                computer::State::Reserved => matches!(state, Some(State::Ready | State::InUse)),
                computer::State::InUse => matches!(state, Some(State::InUse)),
                _ => false,
            };
            assert!(fits, "{name} is {} and its reservation {state:?}", row.state);
        }
        let held = |row: &&ReservationRow| matches!(row.state, State::Loading | State::Ready | State::InUse);
        let count = |of: &dyn Fn(&ReservationRow) -> bool| rows.iter().filter(held).filter(|r| of(r)).count();
        assert!(count(&|row| row.image.name.as_str() == "matlab") <= MATLAB as usize);
        let of =
            |group: &str, row: &ReservationRow| row.class.is_none() && row.group.as_deref() == Some(group);
        assert!(count(&|row| of("research", row)) <= RESEARCH as usize);
        for row in rows.iter().filter(|row| of("students", row)) {
            assert!(count(&|other| of("students", other) && other.owner == row.owner) <= STUDENT as usize);
        }
    }

    /// Lives until that moment, or for an hour: then it stops with everything under way.
    async fn live(mut self, until: DateTime<Utc>) -> DateTime<Utc> {
        let stop = (self.built.node.clock.now() + TimeDelta::hours(1)).min(until);
        loop {
            let now = self.built.node.clock.now();
            self.ask(now).await;
            if now >= stop {
                // Whatever was asked for just now is under way: the runtime is dropped on it.
                let _ = self.built.node.look_at_reservations().await;
                return now;
            }
            let mut next = self.quiet().await;
            while self.people().await {
                next = self.quiet().await;
            }
            self.check().await;
            let rows = self.built.node.queue.reservations_open().await.unwrap();
            let deeds = rows.iter().filter_map(|row| Some(self.wish(row)?.0));
            let asks = self.items.get(self.next).map(|item| monday() + TimeDelta::seconds(item.at as i64));
            let next = deeds.chain(next).chain(asks).filter(|at| *at > now).min().unwrap_or(stop);
            // Up to the next step of time.
            let gone = (next - monday()).num_seconds();
            let step = monday() + TimeDelta::seconds((gone + STEP - 1) / STEP * STEP);
            self.built.node.clock.turn(step.max(now + TimeDelta::seconds(1)).min(stop));
            tell("at", &self.built.node.clock.now().to_rfc3339());
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Deed {
    Come,
    Leave,
    Extend(u64),
}

/// The process that is killed. Alone it does nothing.
#[test]
fn one_life_of_the_week() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let hours: i64 = std::env::var(HOURS).unwrap().parse().unwrap();
    let until = monday() + TimeDelta::hours(hours);
    let mut at = monday();
    while at < until {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_stack_size(8 << 20)
            .enable_all()
            .build()
            .unwrap();
        let began = Instant::now();
        at = runtime.block_on(async {
            let driver = Driver::open(Path::new(&directory), at).await;
            tell("opened", &format!("{:?}", began.elapsed()));
            driver.live(until).await
        });
        runtime.shutdown_timeout(Duration::from_secs(10));
        tell("hour", &format!("{} took {:?}", at.to_rfc3339(), began.elapsed()));
    }
    tell("done", "");
}

/// Lives so many hours, killed so many times.
fn lived(hours: i64, kills: u32) -> (tempfile::TempDir, HashSet<u64>) {
    // Nothing is lost with the process; what a lost machine takes along is tried elsewhere.
    let memory = Path::new("/dev/shm");
    let directory =
        if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
    let mut points: Vec<DateTime<Utc>> = (0..i64::from(kills))
        .map(|n| {
            monday() + TimeDelta::minutes((hours * 60 * (2 * n + 1)) / (2 * i64::from(kills)) + 37 * n % 53)
        })
        .collect();
    let mut refused: HashSet<u64> = HashSet::new();
    let mut deaths = 0;
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lending::tests::week::one_life_of_the_week", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .env(HOURS, hours.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut killed = false;
        let mut done = false;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if std::env::var_os("VCL_WEEK_LOUD").is_some() {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["week", "at", at] => {
                    let at: DateTime<Utc> = at.parse().unwrap();
                    if points.first().is_some_and(|point| *point <= at) {
                        points.remove(0);
                        // why: so that each kill falls somewhere else in what it does next.
                        std::thread::sleep(Duration::from_millis(deaths * 13 % 97));
                        child.kill().unwrap();
                        killed = true;
                        deaths += 1;
                        break;
                    }
                }
                ["week", "refused", n, ..] => drop(refused.insert(n.parse().unwrap())),
                ["week", "done", ..] => done = true,
                _ => {}
            }
        }
        let status = child.wait().unwrap();
        if killed {
            continue;
        }
        assert!(done && status.success(), "the week ended early: {status}");
        break;
    }
    assert_eq!(deaths, u64::from(kills));
    (directory, refused)
}

fn judged(hours: i64, kills: u32) {
    let began = Instant::now();
    let (directory, refused) = lived(hours, kills);
    let report = Report::of(directory.path(), hours, refused.len());
    println!("{}", report.text(kills, began.elapsed()));
    report.check();
}

/// Until after its morning, when most come; `VCL_FULL=1` has the whole day.
#[test]
fn a_day_of_500_people_at_50_computers() {
    let full = std::env::var_os("VCL_FULL").is_some();
    judged(if full { 24 } else { 13 }, 2);
}

/// The whole of it takes minutes: `VCL_FULL=1`.
#[test]
fn a_week_of_500_people_at_50_computers() {
    if std::env::var_os("VCL_FULL").is_some() {
        judged(7 * 24, 10);
    }
}
