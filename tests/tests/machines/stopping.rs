//! The daemon told to stop, and jobs called off, with a guest in the middle.

use crate::kills::{heavy, wait_copying};
use crate::{Case, LONG};
use anyhow::{Result, ensure};
use rustix::process::Signal;
use std::time::{Duration, Instant};
use vcl_job::Record;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_tests::writers::Writers;
use vcl_types::JobId;
use vcl_types::api::{JobView, StepState};
use vcl_types::state::{computer, job};

fn running(job: &JobView, step: &str) -> bool {
    job.steps.iter().any(|s| s.name == step && s.state == StepState::Running)
}

fn done(daemon: &Daemon, id: JobId) -> Result<JobView> {
    let job = daemon.wait_end(id, LONG)?;
    ensure!(
        job.state == job::State::Done,
        "job {id} is {}: {:?}\n{}",
        job.state,
        job.reason,
        daemon.log_tail()
    );
    once(daemon, id)?;
    Ok(job)
}

fn once(daemon: &Daemon, id: JobId) -> Result<()> {
    let records = daemon.journal()?.records(id)?;
    let finished = records.iter().filter(|r| matches!(r, Record::Finished { .. })).count();
    ensure!(finished == 1, "job {id} finished {finished} times");
    Ok(())
}

#[test]
fn sigterm_drains_and_a_second_one_stops_at_once() -> Result<()> {
    let Some(case) = Case::enter("stopping::sigterm_drains_and_a_second_one_stops_at_once", Kind::Fast)?
    else {
        return Ok(());
    };
    let mut setup = case.setup(&["a"]);
    setup.drain = "20s".into();
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;

    // A load: the step under way gets to its end, no other begins, and the next start goes on.
    let id = daemon.queue(&["load", "a", "debian"])?;
    daemon.wait_job(id, LONG, |job| running(job, "load/start"))?;
    daemon.signal(Signal::TERM)?;
    let took = daemon.wait_stopped(Duration::from_secs(60))?;
    let records = daemon.journal()?.records(id)?;
    let last = records.last();
    println!(
        "drained in {:.1} s at {}",
        took.as_secs_f64(),
        last.map_or_else(String::new, vcl_tests::journal::describe)
    );
    ensure!(matches!(last, Some(Record::Done { .. } | Record::Started { .. })), "{last:?}");
    ensure!(!records.iter().any(|r| matches!(r, Record::Finished { .. } | Record::Failed { .. })));
    daemon.up()?;
    done(&daemon, id)?;
    ensure!(daemon.ssh("a", "hostname")? == "a");

    // A capture in the middle of its copy. One signal waits for it as long as it may, a second one does not.
    heavy(&daemon, "a", 150)?;
    let writers = Writers::watch(&daemon.library().join(".staging"), ".qcow2");
    let id = daemon.queue(&["capture", "a"])?;
    let file = wait_copying(&writers, 0)?;
    let (pid, _) = *writers.seen()[&file].writers.iter().next().unwrap();
    let copy = rustix::process::Pid::from_raw(pid).unwrap();
    // Held still, so that it is the signals that end the wait and not the copy.
    rustix::process::kill_process(copy, Signal::STOP)?;
    let began = Instant::now();
    daemon.signal(Signal::TERM)?;
    let deadline = Instant::now() + LONG;
    // The second such line of this log: two signals at once would be one.
    while std::fs::read_to_string(daemon.log())?.matches("stopping: jobs stop at their next step").count() < 2
    {
        ensure!(Instant::now() < deadline, "the signal was not heard\n{}", daemon.log_tail());
    }
    daemon.signal(Signal::TERM)?;
    daemon.wait_stopped(Duration::from_secs(15))?;
    println!("a second signal: stopped {:.1} s after the first", began.elapsed().as_secs_f64());
    ensure!(began.elapsed() < Duration::from_secs(18), "it waited for the drain: {:?}", began.elapsed());
    ensure!(daemon.log_tail().contains("a second signal: stopping at once"));
    daemon.up()?;
    done(&daemon, id)?;
    ensure!(writers.seen().values().all(|seen| seen.most == 1), "{:?}", writers.seen());
    case.nothing_left(&daemon)
}

/// Calls a job off when a step runs, kills the daemon at once or not at all, and waits for its end.
fn called_off(case: &Case, daemon: &mut Daemon, verb: &[&str], step: &str, kill: bool) -> Result<()> {
    let id = daemon.queue(verb)?;
    daemon.wait_job(id, LONG, |job| running(job, step) || job.state.is_final())?;
    let _ = daemon.vclctl(&["job", "cancel", &id.to_string()])?;
    if kill {
        daemon.kill()?;
        daemon.up()?;
    }
    let job = daemon.wait_end(id, LONG)?;
    once(daemon, id)?;
    println!("called off in `{step}`{}: {}", if kill { ", then killed" } else { "" }, job.state);
    ensure!(
        job.state == job::State::Cancelled,
        "{step}: {} {:?}\n{}",
        job.state,
        job.reason,
        daemon.log_tail()
    );
    let staging = daemon.library().join(".staging");
    ensure!(staging.read_dir_utf8()?.next().is_none(), "{staging} is not empty");
    let a = daemon.computer("a")?;
    if verb[0] == "load" {
        ensure!(a.state == computer::State::Available, "{}", a.state);
        case.nothing_left(daemon)?;
    } else {
        ensure!(a.state == computer::State::Reserved, "{} {:?}", a.state, a.reason);
        ensure!(daemon.ssh("a", "hostname")? == "a");
    }
    Ok(())
}

#[test]
fn jobs_are_called_off_in_the_middle() -> Result<()> {
    let Some(case) = Case::enter("stopping::jobs_are_called_off_in_the_middle", Kind::Fast)? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let load = ["load", "a", "debian"];
    for step in ["load/start", "load/wait for ssh", "load/post_load/set up guest"] {
        if crate::full() {
            called_off(&case, &mut daemon, &load, step, false)?;
        }
        // All of them take long.
        if crate::full() || step == "load/post_load/set up guest" {
            called_off(&case, &mut daemon, &load, step, true)?;
        }
    }
    let _: JobView = daemon.json(&load)?;
    heavy(&daemon, "a", 40)?;
    for step in ["capture/pre_capture/generalise", "capture/wait for power off", "verify and digest"] {
        if crate::full() {
            called_off(&case, &mut daemon, &["capture", "a"], step, false)?;
        }
        if crate::full() || step == "capture/pre_capture/generalise" {
            called_off(&case, &mut daemon, &["capture", "a"], step, true)?;
        }
    }
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}
