//! A daemon that stands still beyond its lease, in the middle of a copy: as a swapping host, a suspended virtual machine or
//! SIGSTOP make it. What it was at is another's by then, or its own next life's; never both's.

use crate::kills::{heavy, wait_copying};
use crate::{Case, LONG};
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use vcl_queue::testing::MariaDbServer;
use vcl_tests::daemon::{Daemon, Setup, Shared};
use vcl_tests::guest::Kind;
use vcl_tests::writers::Writers;
use vcl_types::JobId;
use vcl_types::api::JobView;
use vcl_types::state::job::State;

const LEASE: Duration = Duration::from_secs(3);

fn with_lease(setup: &mut Setup) {
    setup.more =
        format!("lease = \"{}s\"\n[deadlines]\nboot = \"4m\"\nshutdown = \"90s\"\n", LEASE.as_secs());
}

/// Waits until a daemon's log says something.
fn wait_said(daemon: &Daemon, what: &str) -> Result<()> {
    let deadline = Instant::now() + LONG;
    while !fs::read_to_string(daemon.log())?.contains(what) {
        ensure!(Instant::now() < deadline, "nothing about {what:?} in\n{}", daemon.log_tail());
        std::thread::sleep(Duration::from_millis(20)); // why: a file tells nobody that it has grown
    }
    Ok(())
}

/// Begins a capture and holds its copy, so that it truly is in the middle; answers who writes.
fn in_mid_copy(daemon: &Daemon, writers: &Writers) -> Result<(JobId, i32, u64)> {
    let job = daemon.queue(&["capture", "a"])?;
    let file = wait_copying(writers, 0)?;
    let (pid, started) = *writers.seen()[&file].writers.iter().next().context("no writer")?;
    kill_process(Pid::from_raw(pid).context("no process")?, Signal::STOP)?;
    Ok((job, pid, started))
}

/// It is done, by one writer at a time, and the guest's files are in it.
fn well(case: &Case, daemon: &Daemon, job: JobId, writers: &Writers, held: (i32, u64)) -> Result<()> {
    let view = daemon.wait_end(job, 2 * LONG)?;
    ensure!(
        view.state == State::Done,
        "job {job} is {}: {:?}\n{}",
        view.state,
        view.reason,
        daemon.log_tail()
    );
    let seen = writers.seen();
    println!("writers of the staging: {seen:?}");
    ensure!(seen.values().all(|seen| seen.most == 1), "two wrote at once: {seen:?}");
    ensure!(
        seen.values().map(|seen| seen.writers.len()).sum::<usize>() >= 2,
        "nobody copied again: {seen:?}"
    );
    ensure!(vcl_job::start_time(held.0) != Some(held.1), "the copy that was left is still there");
    let revision = view.result.context("no revision")?;
    let _: JobView = daemon.json(&["image", "verify", &revision])?;
    case.nothing_left(daemon)?;
    let _: JobView = daemon.json(&["load", "a", &revision])?;
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(daemon)
}

#[test]
fn a_daemon_alone_notices_stops_its_hands_and_joins_again() -> Result<()> {
    // With two nodes, which is harder, it is played always.
    if !crate::full() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let test = "frozen::a_daemon_alone_notices_stops_its_hands_and_joins_again";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    with_lease(&mut setup);
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    heavy(&daemon, "a", 100)?;
    let writers = Writers::watch(&daemon.library().join(".staging"), ".qcow2");
    let (job, pid, started) = in_mid_copy(&daemon, &writers)?;
    daemon.signal(Signal::STOP)?;
    std::thread::sleep(LEASE + Duration::from_secs(1)); // why: that time passes is the case
    daemon.signal(Signal::CONT)?;
    wait_said(&daemon, "the node's lease is lost")?;
    wait_said(&daemon, "the node has joined again")?;
    well(&case, &daemon, job, &writers, (pid, started))
}

#[test]
fn another_takes_over_in_the_middle_of_a_copy_and_two_never_write() -> Result<()> {
    let test = "frozen::another_takes_over_in_the_middle_of_a_copy_and_two_never_write";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let runtime = tokio::runtime::Runtime::new()?;
    let server = MariaDbServer::start()?;
    runtime.block_on(server.sql("CREATE DATABASE vcld"))?;
    let base = case.path();
    fs::create_dir_all(base.join("library"))?;
    let setup = |name: &str| {
        let mut setup = case.setup(&["a"]);
        setup.directory = base.join(name);
        setup.node = name.into();
        setup.library = Some(base.join("library"));
        setup.machines = Some(base.join("machines"));
        setup.database = Some(format!("mysql://vcl@127.0.0.1:{}/vcld", server.port()));
        setup.shared = Some(Shared {
            lease: format!("{}s", LEASE.as_secs()),
            password: MariaDbServer::password().expose().to_owned(),
        });
        setup
    };
    let one = Daemon::start(setup("one"))?;
    case.import(&one, "debian", "")?;
    let _: JobView = one.json(&["load", "a", "debian"])?;
    heavy(&one, "a", 100)?;
    let writers = Writers::watch(&one.library().join(".staging"), ".qcow2");
    let (job, pid, started) = in_mid_copy(&one, &writers)?;
    // The other one is there before the first stands still: it sees its beat, and that it ends.
    let two = Daemon::start(setup("two"))?;
    let before = two.job(job)?;
    ensure!(before.state == State::Running, "{before:?}");
    one.signal(Signal::STOP)?;
    let began = Instant::now();
    let file = wait_copying(&writers, 1)?;
    let took = began.elapsed();
    let other = *writers.seen()[&file].writers.iter().find(|w| w.0 != pid).context("no second writer")?;
    let other = Pid::from_raw(other.0).context("no process")?;
    kill_process(other, Signal::STOP)?;
    println!("frozen; the other was in the middle of its own copy after {:.1} s", took.as_secs_f64());
    ensure!(took > LEASE, "it was taken over within its lease");
    let events = two.events(job)?;
    ensure!(events.iter().any(|e| e.kind == "job-given-back"), "{events:#?}");

    // Thawed in the middle of the other's copy it finds that the job is somebody else's, leaves alone what the other makes
    // under the very names that were its own, and becomes one of them again.
    let inode = fs::metadata(&file)?.ino();
    one.signal(Signal::CONT)?;
    wait_said(&one, "the node's lease is lost")?;
    wait_said(&one, "the node has joined again")?;
    ensure!(fs::metadata(&file)?.ino() == inode, "{file} is another file");
    ensure!(one.job(job)?.state == State::Running, "{:?}", one.job(job)?);
    kill_process(other, Signal::CONT)?;
    well(&case, &two, job, &writers, (pid, started))
}
