//! What a job needs goes away in the middle: libvirtd, the guest's ssh server, its power, room on a disk. Each time the
//! job goes on by itself when it is back, and says meanwhile what it waits for.

use crate::kills::heavy;
use crate::{Case, LONG};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Instant;
use vcl_job::Record;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::JobId;
use vcl_types::api::{EventView, JobView, StepState};
use vcl_types::state::{computer, job};

fn running(job: &JobView, step: &str) -> bool {
    job.steps.iter().any(|s| s.name == step && s.state == StepState::Running)
}

fn begun(job: &JobView, step: &str) -> bool {
    job.steps.iter().any(|s| s.name == step)
}

/// Waits for an event of a job.
fn wait_event(daemon: &Daemon, id: JobId, kind: &str) -> Result<EventView> {
    let deadline = Instant::now() + LONG;
    loop {
        let events = daemon.events(id)?;
        if let Some(event) = events.iter().find(|e| e.kind == kind) {
            return Ok(event.clone());
        }
        let job = daemon.job(id)?;
        ensure!(
            !job.state.is_final() && Instant::now() < deadline,
            "job {id} is {} ({:?}) and has no event {kind}: {events:#?}\n{}",
            job.state,
            job.reason,
            daemon.log_tail()
        );
    }
}

/// It did what was asked, ended once, and what it made is whole.
fn well(daemon: &Daemon, id: JobId) -> Result<JobView> {
    let job = daemon.wait_end(id, 2 * LONG)?;
    ensure!(
        job.state == job::State::Done,
        "job {id} is {}: {:?}\n{}",
        job.state,
        job.reason,
        daemon.log_tail()
    );
    let records = daemon.journal()?.records(id)?;
    let finished = records.iter().filter(|r| matches!(r, Record::Finished { .. })).count();
    ensure!(finished == 1, "job {id} finished {finished} times");
    if let Some(revision) = job.result.as_deref().filter(|_| job.kind == vcl_types::JobKind::Capture) {
        let _: JobView = daemon.json(&["image", "verify", revision])?;
    }
    Ok(job)
}

fn hook(daemon: &Daemon, stage: &str, text: &str) -> Result<Utf8PathBuf> {
    let directory = daemon.directory().join("hooks").join(format!("{stage}.d"));
    fs::create_dir_all(&directory)?;
    let path = directory.join("trouble");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// Kills libvirtd as soon as a step has begun, waits until the job says so, and starts it again.
fn without_libvirtd(case: &Case, daemon: &Daemon, verb: &[&str], step: &str) -> Result<(JobView, bool)> {
    let mut journal = daemon.journal()?;
    let id = daemon.queue(verb)?;
    let deadline = Instant::now() + LONG;
    let begun = |r: &Record| matches!(r, Record::Started { key, .. } if key == step);
    while !journal.records(id)?.iter().any(begun) {
        ensure!(Instant::now() < deadline, "{step} is not begun\n{}", daemon.log_tail());
    }
    case.world.kill_libvirtd()?;
    // Whether a call was under way, or the next one finds it gone, or the job needs it no more, is a matter of moments.
    let told = loop {
        let job = daemon.job(id)?;
        if let Some(event) = daemon.events(id)?.into_iter().find(|e| e.kind == "host-away") {
            let said = &event.message;
            ensure!(said.contains("waiting for libvirtd at qemu:///system since "), "{said}");
            ensure!(!job.state.is_final(), "it ended while libvirtd was away: {job:?}");
            break true;
        }
        if job.state.is_final() {
            break false;
        }
        ensure!(Instant::now() < deadline, "neither waits nor ends: {job:?}");
    };
    case.world.start_libvirtd()?;
    let job = well(daemon, id)?;
    if told {
        ensure!(daemon.events(id)?.iter().any(|e| e.kind == "host-back"), "nothing told of its return");
    }
    println!(
        "libvirtd killed when `{step}` had begun: {}",
        if told { "waited for, and said" } else { "not missed" }
    );
    Ok((job, told))
}

#[test]
fn libvirtd_is_killed_and_comes_back() -> Result<()> {
    let Some(case) = Case::enter("outages::libvirtd_is_killed_and_comes_back", Kind::Fast)? else {
        return Ok(());
    };
    let mut daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let mut waited = 0;
    // While a domain is made, and while one is started.
    let steps = ["load/prepare host", "load/start"];
    for &step in if crate::full() { &steps[..] } else { &steps[..1] } {
        let (_, told) = without_libvirtd(&case, &daemon, &["load", "a", "debian"], step)?;
        waited += usize::from(told);
        ensure!(daemon.ssh("a", "hostname")? == "a");
        // And while one is removed.
        let (_, told) = without_libvirtd(&case, &daemon, &["unload", "a"], "unload/power off")?;
        waited += usize::from(told);
        case.nothing_left(&daemon)?;
    }
    // The rest takes long.
    if !crate::full() {
        ensure!(waited >= 1, "libvirtd was not missed");
        return Ok(());
    }
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    let steps = ["capture/pre_capture/finish", "capture/wait for power off"];
    for (n, step) in steps.into_iter().enumerate() {
        let verb: &[&str] =
            if n == 0 { &["capture", "a", "--after", "keep-off"] } else { &["capture", "a", "--power-on"] };
        let (_, told) = without_libvirtd(&case, &daemon, verb, step)?;
        waited += usize::from(told);
    }
    ensure!(waited >= 3, "libvirtd was missed {waited} times only");
    case.nothing_left(&daemon)?;

    // The node comes up before its libvirtd, with a job in the middle.
    let id = daemon.queue(&["load", "a", "debian"])?;
    daemon.wait_job(id, LONG, |job| running(job, "load/wait for ssh"))?;
    daemon.kill()?;
    case.world.kill_libvirtd()?;
    daemon.up()?;
    daemon.wait_job(id, LONG, |job| job.state == job::State::Running)?;
    case.world.start_libvirtd()?;
    well(&daemon, id)?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}

/// A hook that kills every ssh server of the guest the first time it runs, its own connection's too.
const KILLS_SSHD: &str = "#!/bin/sh\n[ -e /run/killed ] && exit 0\ntouch /run/killed\n\
     setsid sh -c 'sleep 0.3; pkill -9 sshd' >/dev/null 2>&1 </dev/null &\nsleep 300\n";

#[test]
fn the_guest_s_ssh_server_is_killed() -> Result<()> {
    let Some(case) = Case::enter("outages::the_guest_s_ssh_server_is_killed", Kind::Fast)? else {
        return Ok(());
    };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"90s\"\nshutdown = \"60s\"\n".into();
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;

    // The guest's systemd starts it again.
    let trouble = hook(&daemon, "post_load", KILLS_SSHD)?;
    let id = daemon.queue(&["load", "a", "debian"])?;
    well(&daemon, id)?;
    ensure!(daemon.ssh("a", "test -e /run/killed; hostname")? == "a", "it was killed");
    fs::remove_file(trouble)?;

    let trouble = hook(&daemon, "pre_capture", &KILLS_SSHD.replace("killed", "killed-again"))?;
    let id = daemon.queue(&["capture", "a"])?;
    well(&daemon, id)?;
    fs::remove_file(trouble)?;
    case.nothing_left(&daemon)?;

    // It does not come back: the job fails, says why, and nothing is left of it.
    if crate::full() {
        hook(
            &daemon,
            "post_load",
            "#!/bin/sh\nsystemctl mask --runtime --now ssh.socket ssh.service >/dev/null 2>&1\n\
             setsid sh -c 'sleep 0.3; pkill -9 sshd' >/dev/null 2>&1 </dev/null &\nsleep 300\n",
        )?;
        let job = crate::failed(&daemon, &["load", "a", "debian"])?;
        let reason = job.reason.unwrap_or_default();
        ensure!(reason.contains("did not let us in"), "{reason}");
        ensure!(daemon.computer("a")?.state == computer::State::Available);
        case.nothing_left(&daemon)?;
    }
    Ok(())
}

#[test]
fn the_guest_is_powered_off_while_the_daemon_is_down() -> Result<()> {
    let test = "outages::the_guest_is_powered_off_while_the_daemon_is_down";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"4m\"\nshutdown = \"60s\"\n".into();
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;

    // In the middle of a load: it is started again, and the load goes on.
    let id = daemon.queue(&["load", "a", "debian"])?;
    daemon.wait_job(id, LONG, |job| running(job, "load/wait for ssh"))?;
    daemon.kill()?;
    case.world.virsh(&["destroy", "vcl-a"])?;
    daemon.up()?;
    well(&daemon, id)?;
    ensure!(daemon.events(id)?.iter().any(|e| e.kind == "step-again"), "{:#?}", daemon.events(id)?);
    ensure!(daemon.ssh("a", "hostname")? == "a");

    // The rest takes long.
    if !crate::full() {
        let _: JobView = daemon.json(&["unload", "a"])?;
        return case.nothing_left(&daemon);
    }
    // In the middle of a capture, before the guest is told to shut down.
    heavy(&daemon, "a", 5)?;
    hook(
        &daemon,
        "pre_capture",
        "#!/bin/sh\n[ -e /root/once ] && exit 0\ntouch /root/once; sync; sleep 300\n",
    )?;
    let id = daemon.queue(&["capture", "a", "--after", "keep-off"])?;
    daemon.wait_job(id, LONG, |job| running(job, "capture/pre_capture/run pre_capture hooks"))?;
    let deadline = Instant::now() + LONG;
    while daemon.ssh("a", "test -e /root/once").is_err() {
        ensure!(Instant::now() < deadline, "the hook does not begin");
    }
    daemon.kill()?;
    case.world.virsh(&["destroy", "vcl-a"])?;
    daemon.up()?;
    let event = wait_event(&daemon, id, "power-lost")?;
    ensure!(event.message.contains("vcl-a was powered off from outside"), "{}", event.message);
    well(&daemon, id)?;

    // And after it was told to.
    let id = daemon.queue(&["capture", "a", "--power-on"])?;
    daemon.wait_job(id, LONG, |job| begun(job, "capture/wait for power off"))?;
    daemon.kill()?;
    // It may be off by itself already.
    let _ = case.world.virsh(&["destroy", "vcl-a"]);
    daemon.up()?;
    let job = well(&daemon, id)?;
    case.nothing_left(&daemon)?;

    let _: JobView = daemon.json(&["load", "a", &job.result.context("no revision")?])?;
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}

/// A small file system of its own.
fn small(directory: &Utf8Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(directory)?;
    let options = format!("size={bytes}");
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none", directory.as_str()]).status()?;
    ensure!(mounted.success(), "mounting {directory}");
    Ok(())
}

#[test]
fn the_library_is_full_and_gets_room() -> Result<()> {
    let Some(case) = Case::enter("outages::the_library_is_full_and_gets_room", Kind::Fast)? else {
        return Ok(());
    };
    let mut setup = case.setup(&["a"]);
    let library = case.path().join("small");
    let disk = fs::metadata(case.guest.disk())?.len();
    let size = disk * 5 + (100 << 20);
    small(&library, size)?;
    setup.library = Some(library.clone());
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    heavy(&daemon, "a", 20)?;
    // It begins, because there is room; then somebody else takes it.
    let id = daemon.queue(&["capture", "a", "--whole", "--after", "keep-off"])?;
    daemon.wait_job(id, LONG, |job| begun(job, "capture/pre_capture/generalise"))?;
    // Room for the half of a copy, so that it is in the middle of it that there is none.
    let ballast = library.join("ballast");
    let free = || -> Result<u64> {
        let s = rustix::fs::statvfs(library.as_std_path())?;
        Ok(s.f_bavail * s.f_frsize)
    };
    let file = fs::File::create(&ballast)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, free()? - disk / 2)?;
    drop(file);
    let left = free()?;

    let event = wait_event(&daemon, id, "no-space")?;
    ensure!(event.message.contains(&format!("no room in {library}/.staging")), "{}", event.message);
    ensure!(event.message.contains("goes on when there is room"), "{}", event.message);
    ensure!(running(&daemon.job(id)?, "capture/copy disk[0]"), "{:#?}", daemon.job(id)?);
    // What it waits for it does not hold itself.
    ensure!(free()? + (1 << 20) > left, "{} of {left} bytes are free while it waits", free()?);
    // A daemon that dies while it waits, waits again.
    daemon.kill()?;
    daemon.up()?;
    let deadline = Instant::now() + LONG;
    while daemon.events(id)?.iter().filter(|e| e.kind == "no-space").count() < 2 {
        ensure!(Instant::now() < deadline, "it does not wait again\n{}", daemon.log_tail());
    }
    fs::remove_file(&ballast)?;
    let job = well(&daemon, id)?;
    ensure!(daemon.events(id)?.iter().any(|e| e.kind == "space-back"));
    let _: JobView = daemon.json(&["unload", "a"])?;
    let _: JobView = daemon.json(&["load", "a", &job.result.context("no revision")?])?;
    daemon.ssh("a", "sha256sum -c /root/sum")?;
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)?;
    daemon.stop()?;
    ensure!(Command::new("umount").arg(library.as_str()).status()?.success());
    Ok(())
}

#[test]
fn the_database_s_disk_is_full_and_gets_room() -> Result<()> {
    let Some(case) = Case::enter("outages::the_database_s_disk_is_full_and_gets_room", Kind::Fast)? else {
        return Ok(());
    };
    let mut setup = case.setup(&["a"]);
    let directory = case.path().join("database");
    small(&directory, 16 << 20)?;
    setup.database = Some(format!("sqlite:{directory}/vcld.db"));
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let id = daemon.queue(&["load", "a", "debian"])?;
    daemon.wait_job(id, LONG, |job| running(job, "load/wait for ssh"))?;

    // Not a block is left: nothing can be recorded any more.
    let ballast = directory.join("ballast");
    let filled = Command::new("dd")
        .args(["if=/dev/zero", &format!("of={ballast}"), "bs=4096", "status=none"])
        .output()?;
    ensure!(!filled.status.success(), "the file system was not filled");
    let deadline = Instant::now() + LONG;
    // What cannot be recorded is not done: the job gets no further, and does not fail either.
    while !fs::read_to_string(daemon.log())?.contains("full") {
        ensure!(Instant::now() < deadline, "nobody noticed\n{}", daemon.log_tail());
    }
    let job = daemon.job(id)?;
    ensure!(!job.state.is_final(), "{job:#?}");
    fs::remove_file(&ballast)?;
    well(&daemon, id)?;
    ensure!(daemon.ssh("a", "hostname")? == "a");
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)?;
    daemon.stop()?;
    ensure!(Command::new("umount").arg(directory.as_str()).status()?.success());
    Ok(())
}
