//! The daemon killed -9 and started again, at every step of a load and of a capture.
//!
//! Each step of a job has three points: its `started` has just become durable and its effect is under way; the effect is
//! complete and nothing says so (the gate of [`vcl_tests::journal`] holds the daemon there); its `done` is durable. In one
//! history all of them are hit, one after the other; with `VCL_FULL=1` each of them is also hit alone, in a job of its own.

use crate::{Case, LONG};
use anyhow::{Context, Result, ensure};
use camino::Utf8PathBuf;
use std::time::{Duration, Instant};
use vcl_job::Record;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_tests::journal::{Journal, describe};
use vcl_tests::writers::Writers;
use vcl_types::JobId;
use vcl_types::api::JobView;
use vcl_types::state::job::State;

/// Where the daemon is killed, seen from a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// As soon as the record is durable: what comes next has hardly begun.
    Durable,
    /// When everything up to the next record has happened and that record is not durable.
    BeforeNext,
}

/// A point and what came of it.
struct Point {
    record: String,
    when: When,
    took: Duration,
}

fn print(title: &str, points: &[Point]) {
    println!("\n{title}: {} points", points.len());
    for (n, Point { record, when, took }) in points.iter().enumerate() {
        let when = if *when == When::Durable { "durable" } else { "next one held" };
        println!("{n:>4}  {when:<14} {:>5.1} s  {record}", took.as_secs_f64());
    }
}

/// Waits until the job has this many records, at once on the first look that shows them.
fn wait_records(journal: &mut Journal, job: JobId, count: usize, daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while journal.count(job)? < count {
        ensure!(
            Instant::now() < deadline,
            "job {job} does not get to {count} records\n{}",
            daemon.log_tail()
        );
        std::thread::sleep(Duration::from_millis(1)); // why: a database tells nobody outside of a change
    }
    Ok(())
}

/// Waits until the gate holds the daemon.
fn wait_held(journal: &mut Journal, daemon: &Daemon) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !journal.is_held()? {
        ensure!(Instant::now() < deadline, "the gate holds nobody\n{}", daemon.log_tail());
        std::thread::sleep(Duration::from_millis(5)); // why: as above
    }
    Ok(())
}

/// The records without those of child processes, which every life of a step writes anew.
fn counted(journal: &mut Journal, job: JobId) -> Result<Vec<Record>> {
    Ok(journal.records(job)?.into_iter().filter(|r| !matches!(r, Record::Process { .. })).collect())
}

/// One job, killed at every point one after the other.
fn killed_everywhere(daemon: &mut Daemon, verb: &[&str]) -> Result<(JobView, Vec<Point>)> {
    let mut journal = daemon.journal()?;
    let job = journal.next_job()?;
    let mut points = Vec::new();
    journal.gate(job, 1)?;
    ensure!(daemon.queue(verb)? == job, "the job got another number than expected");
    let mut most = 1;
    loop {
        let began = Instant::now();
        wait_records(&mut journal, job, most, daemon)?;
        daemon.kill()?;
        let records = counted(&mut journal, job)?;
        ensure!(records.len() == most, "the gate let {} records through, not {most}", records.len());
        let last = &records[most - 1];
        points.push(Point { record: describe(last), when: When::Durable, took: began.elapsed() });
        if matches!(last, Record::Finished { .. }) {
            break;
        }
        // After `done` nothing happens before the next `started`.
        if !matches!(last, Record::Done { .. }) {
            let began = Instant::now();
            daemon.up()?;
            wait_held(&mut journal, daemon)?;
            daemon.kill()?;
            let records = counted(&mut journal, job)?;
            ensure!(records.len() == most, "the gate let {} records through, not {most}", records.len());
            points.push(Point { record: describe(last), when: When::BeforeNext, took: began.elapsed() });
        }
        most += 1;
        journal.gate(job, most)?;
        daemon.up()?;
    }
    journal.open_gate()?;
    daemon.up()?;
    let view = daemon.wait_end(job, LONG)?;
    well_ended(daemon, &mut journal, &view)?;
    Ok((view, points))
}

/// One job, killed once.
fn killed_once(daemon: &mut Daemon, verb: &[&str], record: usize, when: When) -> Result<(JobView, Point)> {
    let began = Instant::now();
    let mut journal = daemon.journal()?;
    let job = journal.next_job()?;
    journal.gate(job, record)?;
    ensure!(daemon.queue(verb)? == job, "the job got another number than expected");
    wait_records(&mut journal, job, record, daemon)?;
    if when == When::BeforeNext {
        wait_held(&mut journal, daemon)?;
    }
    daemon.kill()?;
    let records = counted(&mut journal, job)?;
    ensure!(records.len() == record, "the gate let {} records through, not {record}", records.len());
    journal.open_gate()?;
    daemon.up()?;
    let view = daemon.wait_end(job, LONG)?;
    well_ended(daemon, &mut journal, &view)?;
    Ok((view, Point { record: describe(&records[record - 1]), when, took: began.elapsed() }))
}

/// The job did what was asked, ended once, and began and ended each step as the rules say.
fn well_ended(daemon: &Daemon, journal: &mut Journal, job: &JobView) -> Result<()> {
    let (id, reason) = (job.id, &job.reason);
    ensure!(job.state == State::Done, "job {id} is {}: {reason:?}\n{}", job.state, daemon.log_tail());
    let records = journal.records(id)?;
    let finished = records.iter().filter(|r| matches!(r, Record::Finished { .. })).count();
    ensure!(finished == 1, "job {id} finished {finished} times");
    ensure!(records.last() == Some(&Record::Finished { error: None }), "{:?}", records.last());
    let mut started = std::collections::BTreeSet::new();
    for record in &records {
        match record {
            Record::Started { key, .. } => ensure!(started.insert(key.clone()), "{key} was begun twice"),
            Record::Done { key, .. } => ensure!(started.contains(key), "{key} was done and never begun"),
            Record::Failed { .. }
            | Record::Undone { .. }
            | Record::Unwinding { .. }
            | Record::Stuck { .. } => {
                anyhow::bail!("job {id} has {}", describe(record))
            }
            _ => {}
        }
    }
    if let Some(revision) = job.result.as_deref().filter(|_| job.kind == vcl_types::JobKind::Capture) {
        let _: JobView = daemon.json(&["image", "verify", revision])?;
    }
    Ok(())
}

/// Every point of a job of that kind: those of one that nobody disturbed.
fn points_of(daemon: &Daemon, job: JobId) -> Result<Vec<(usize, When)>> {
    let records = counted(&mut daemon.journal()?, job)?;
    let mut points = Vec::new();
    for (n, record) in records.iter().enumerate() {
        points.push((n + 1, When::Durable));
        if !matches!(record, Record::Done { .. } | Record::Finished { .. }) {
            points.push((n + 1, When::BeforeNext));
        }
    }
    Ok(points)
}

fn identity(daemon: &Daemon, computer: &str) -> Result<(String, String)> {
    let id =
        daemon.ssh(computer, "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2")?;
    let (machine, keys) = id.split_once('\n').context("no identity")?;
    Ok((machine.to_owned(), keys.to_owned()))
}

/// A computer that is loaded and is who it should be: named, let in with what was pinned, unlike the one before.
fn fine(daemon: &Daemon, computer: &str, before: &(String, String)) -> Result<(String, String)> {
    ensure!(daemon.ssh(computer, "hostname")? == computer);
    let now = identity(daemon, computer)?;
    ensure!(now.0.len() == 32 && now.0 != before.0 && now.1 != before.1, "{now:?} after {before:?}");
    Ok(now)
}

#[test]
fn at_every_step_of_a_load_and_of_a_capture() -> Result<()> {
    let test = "kills::at_every_step_of_a_load_and_of_a_capture";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let writers = Writers::watch(&daemon.library().join(".staging"), ".qcow2");

    let (_, points) = killed_everywhere(&mut daemon, &["load", "a", "debian"])?;
    print("one load, killed -9 at every point in turn", &points);
    ensure!(points.len() >= 30, "a load has more steps than {} points", points.len());
    let first = fine(&daemon, "a", &Default::default())?;
    daemon.ssh(
        "a",
        "head -c 30000000 /dev/urandom > /root/ballast; sha256sum /root/ballast > /root/sum; sync",
    )?;

    let (capture, points) = killed_everywhere(&mut daemon, &["capture", "a"])?;
    print("one capture, killed -9 at every point in turn", &points);
    ensure!(points.len() >= 40, "a capture has more steps than {} points", points.len());
    for (file, seen) in writers.seen() {
        ensure!(seen.most == 1, "{file} had {} writers at once", seen.most);
        println!("{file}: never more than one writer; {} in all", seen.writers.len());
    }
    ensure!(!writers.seen().is_empty(), "nobody was seen writing to the staging");
    case.nothing_left(&daemon)?;

    // What it made holds what was in the machine, and nothing of who it was.
    let revision = capture.result.context("no revision")?;
    let _: JobView = daemon.json(&["load", "a", &revision])?;
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    fine(&daemon, "a", &first)?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}

/// Alone: every point in a job of its own. Takes the better part of an hour.
#[test]
fn at_each_step_alone() -> Result<()> {
    if !crate::full() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let Some(case) = Case::enter("kills::at_each_step_alone", Kind::Fast)? else { return Ok(()) };
    let mut daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let writers = Writers::watch(&daemon.library().join(".staging"), ".qcow2");

    let quiet: JobView = daemon.json(&["load", "a", "debian"])?;
    let mut before = fine(&daemon, "a", &Default::default())?;
    let mut points = Vec::new();
    for (record, when) in points_of(&daemon, quiet.id)? {
        let _: JobView = daemon.json(&["unload", "a"])?;
        case.nothing_left(&daemon)?;
        points.push(killed_once(&mut daemon, &["load", "a", "debian@1"], record, when)?.1);
        before = fine(&daemon, "a", &before)?;
    }
    print("loads, each killed -9 at one point", &points);

    let quiet: JobView = daemon.json(&["capture", "a"])?;
    let mut points = Vec::new();
    for (record, when) in points_of(&daemon, quiet.id)? {
        let _: JobView = daemon.json(&["load", "a", "debian@1"])?;
        let (job, point) = killed_once(&mut daemon, &["capture", "a"], record, when)?;
        points.push(point);
        case.nothing_left(&daemon)?;
        let revision = job.result.context("no revision")?;
        let _: JobView = daemon.json(&["image", "delete", &revision, "--now", "--yes"])?;
    }
    print("captures, each killed -9 at one point", &points);
    ensure!(writers.seen().values().all(|seen| seen.most == 1), "{:?}", writers.seen());
    case.nothing_left(&daemon)
}

/// A disk with so much on it that its copy takes a while.
pub(crate) fn heavy(daemon: &Daemon, computer: &str, megabytes: usize) -> Result<()> {
    // Neither random, which emulation is slow at, nor zeros, which are not copied.
    let text = format!(
        "yes 'a disk that takes a while to copy' | head -c {megabytes}000000 > /root/ballast; \
         sha256sum /root/ballast > /root/sum; sync"
    );
    daemon.ssh(computer, &text).map(drop)
}

/// Waits until the capture's `qemu-img convert` writes to its staging.
pub(crate) fn wait_copying(writers: &Writers, before: usize) -> Result<Utf8PathBuf> {
    let deadline = Instant::now() + LONG;
    loop {
        let seen = writers.seen();
        if let Some((file, _)) = seen.iter().find(|(_, s)| s.writers.len() > before) {
            return Ok(file.clone());
        }
        ensure!(Instant::now() < deadline, "nobody writes to the staging: {seen:?}");
        std::thread::sleep(Duration::from_millis(1)); // why: nothing tells of another process's files
    }
}

#[test]
fn in_the_middle_of_a_copy_two_never_write() -> Result<()> {
    let test = "kills::in_the_middle_of_a_copy_two_never_write";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    heavy(&daemon, "a", 300)?;
    let writers = Writers::watch(&daemon.library().join(".staging"), ".qcow2");
    let job = daemon.queue(&["capture", "a"])?;

    // Three lives die in the middle of the copy. The copy itself is held still, so that it is in the middle, and so that
    // it outlives its daemon: the next one has to end it before it writes.
    let mut journal = daemon.journal()?;
    let mut left: Vec<i32> = Vec::new();
    for life in 0..3 {
        let file = wait_copying(&writers, life)?;
        let seen = writers.seen();
        let (pid, started) = *seen[&file].writers.iter().max_by_key(|(_, s)| *s).context("no writer")?;
        let pid_of = rustix::process::Pid::from_raw(pid).context("no process")?;
        rustix::process::kill_process(pid_of, rustix::process::Signal::STOP)?;
        let open = journal.records(job)?;
        ensure!(
            matches!(open.last(), Some(Record::Process { key, .. }) if key == "capture/copy disk[0]"),
            "not in the middle of the copy: {:?}",
            open.last()
        );
        daemon.kill()?;
        ensure!(vcl_job::start_time(pid) == Some(started), "the copy died with its daemon");
        left.push(pid);
        daemon.up()?;
    }
    let view = daemon.wait_end(job, LONG)?;
    well_ended(&daemon, &mut journal, &view)?;
    let seen = writers.seen();
    ensure!(seen.len() == 1, "one staging file: {seen:?}");
    for (file, seen) in &seen {
        ensure!(seen.most == 1, "{file} had {} writers at once", seen.most);
        ensure!(seen.writers.len() >= 4, "{file}: {seen:?}");
    }
    for pid in left {
        ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} still is there");
    }
    case.nothing_left(&daemon)?;
    let _: JobView = daemon.json(&["load", "a", &view.result.context("no revision")?])?;
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}
