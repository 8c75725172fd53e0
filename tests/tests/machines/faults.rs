//! What goes wrong gives one clear error with the way out, and leaves nothing half done.

use crate::{Case, LONG, failed};
use anyhow::{Context, Result, ensure};
use std::process::Command;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{JobView, StepState};
use vcl_types::state::computer::State;
use vcl_types::state::job;

fn running(job: &JobView, step: &str) -> bool {
    job.steps.iter().any(|s| s.name == step && s.state == StepState::Running)
}

#[test]
fn what_is_asked_for_is_not_there_or_does_not_boot() -> Result<()> {
    let test = "faults::what_is_asked_for_is_not_there_or_does_not_boot";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"40s\"\nshutdown = \"20s\"\n".into();
    let mut daemon = Daemon::start(setup.clone())?;
    case.import(&daemon, "debian", "")?;

    let said = daemon.refused(&["load", "nosuch", "debian"])?;
    assert!(said.contains("nosuch") && said.contains("vclctl computer list"), "{said}");
    let said = daemon.refused(&["load", "a", "debain"])?;
    assert!(said.contains("debain") && said.contains("debian"), "{said}");
    let said = daemon.refused(&["load", "a", "debian@7"])?;
    assert!(said.contains("debian@7"), "{said}");

    // A guest whose kernel finds nothing to run: the error shows what its console said last.
    case.import(&daemon, "rootless", "rdinit=/nosuch")?;
    let job = failed(&daemon, &["load", "a", "rootless"])?;
    let reason = job.reason.unwrap_or_default();
    assert!(
        reason.contains("no ssh server spoke") && reason.contains("the last lines of its console"),
        "{reason}"
    );
    assert_eq!(daemon.computer("a")?.state, State::Available);
    case.nothing_left(&daemon)?;

    // One without an ssh server.
    case.import(&daemon, "mute", "systemd.unit=sysinit.target")?;
    let job = failed(&daemon, &["load", "a", "mute"])?;
    assert!(job.reason.unwrap_or_default().contains("no ssh server spoke"), "{:?}", job.steps);
    case.nothing_left(&daemon)?;

    // A host that does not answer, before and in the middle.
    case.world.stop_libvirtd()?;
    let job = failed(&daemon, &["load", "a", "debian"])?;
    let reason = job.reason.unwrap_or_default();
    assert!(reason.contains("does not answer") && reason.contains("systemctl status libvirtd"), "{reason}");
    case.world.start_libvirtd()?;
    case.nothing_left(&daemon)?;

    // Wrong key: the way out names the public key to add.
    daemon.stop()?;
    let stranger = case.path().join("stranger");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f", stranger.as_str()])
        .status()?;
    ensure!(made.success());
    setup.key = stranger;
    setup.more = "[deadlines]\nboot = \"4m\"\n".into();
    let daemon = Daemon::start(setup)?;
    let job = failed(&daemon, &["load", "a", "debian"])?;
    let reason = job.reason.unwrap_or_default();
    assert!(reason.contains("refused our key") && reason.contains("ssh-copy-id"), "{reason}");
    case.nothing_left(&daemon)
}

#[test]
fn libvirtd_stops_in_the_middle_of_a_load() -> Result<()> {
    let Some(case) = Case::enter("faults::libvirtd_stops_in_the_middle_of_a_load", Kind::Fast)? else {
        return Ok(());
    };
    let daemon = Daemon::start(case.setup(&["a"]))?;
    // It never answers, so that the load is still under way when the host goes.
    case.import(&daemon, "mute", "systemd.unit=sysinit.target")?;
    let id = daemon.queue(&["load", "a", "mute"])?;
    daemon.wait_job(id, LONG, |job| running(job, "load/wait for ssh"))?;
    case.world.kill_libvirtd()?;
    let _: JobView = daemon.json(&["job", "cancel", &id.to_string()])?;
    // What was made on the host cannot be taken back while it is away: the job waits for it and says so.
    daemon.wait_job(id, LONG, |job| {
        job.steps.iter().any(|s| s.name == "load/wait for ssh" && s.state != StepState::Running)
    })?;
    assert!(!daemon.job(id)?.state.is_final());
    case.world.start_libvirtd()?;
    assert_eq!(daemon.wait_end(id, LONG)?.state, job::State::Cancelled);
    assert_eq!(daemon.computer("a")?.state, State::Available);
    case.nothing_left(&daemon)
}

#[test]
fn captures_that_cannot_be() -> Result<()> {
    let Some(case) = Case::enter("faults::captures_that_cannot_be", Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    // Room for the import and not for a capture beside it.
    let library = case.path().join("small");
    std::fs::create_dir_all(&library)?;
    let size = std::fs::metadata(case.guest.disk())?.len() * 14 / 10 + 40 * 1024 * 1024;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none", library.as_str()])
        .status()?;
    ensure!(mounted.success());
    setup.library = Some(library.clone());
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;

    // There is no room for all of it in the library: it waits before it begins, and may be called off. The computer is
    // as good as before.
    let id = daemon.queue(&["capture", "a", "--whole"])?;
    let job = daemon.wait_job(id, LONG, |job| job.state == job::State::Waiting)?;
    let reason = job.reason.unwrap_or_default();
    assert!(job.steps.is_empty() && reason.contains("are needed in the library of node test"), "{reason}");
    let _: JobView = daemon.json(&["job", "cancel", &id.to_string()])?;
    assert_eq!(daemon.wait_end(id, LONG)?.state, job::State::Cancelled);
    assert_eq!(daemon.image("debian")?.revisions.len(), 1);
    assert_eq!(std::fs::read_dir(library.join(".staging"))?.count(), 0);
    let a = daemon.computer("a")?;
    assert_eq!((a.state, a.reason), (State::Reserved, None));
    assert_eq!(daemon.ssh("a", "hostname")?, "a");

    // The guest's host keys are others than those that were pinned.
    daemon.ssh("a", "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; systemctl restart ssh")?;
    // A connection that was made before they changed is still the same guest's; a daemon that starts has none.
    daemon.stop()?;
    daemon.up()?;
    let job = failed(&daemon, &["capture", "a"])?;
    let reason = job.reason.unwrap_or_default();
    assert!(reason.contains("host key"), "{reason}");
    let a = daemon.computer("a")?;
    assert_eq!(a.state, State::Maintenance, "{:#?}", daemon.events(job.id)?);
    assert!(a.reason.unwrap_or_default().contains("host key"));
    let _: JobView = daemon.json(&["unload", "a"])?;
    assert_eq!(daemon.computer("a")?.state, State::Available);
    daemon.stop()?;
    ensure!(Command::new("umount").arg(library.as_str()).status()?.success());
    Ok(())
}

#[test]
fn a_capture_survives_a_stubborn_guest_and_a_killed_daemon() -> Result<()> {
    let test = "faults::a_capture_survives_a_stubborn_guest_and_a_killed_daemon";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"4m\"\nshutdown = \"8s\"\n".into();
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;

    // It ignores being told to shut down.
    daemon.ssh(
        "a",
        "printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=/bin/true\\n\
         ExecStop=/bin/sleep 500\\nTimeoutStopSec=600\\n' > /run/systemd/system/stubborn.service; \
         systemctl daemon-reload; systemctl start stubborn; yes capture me | head -c 200000000 > /root/ballast; sync",
    )?;
    let id = daemon.queue(&["capture", "a", "--after", "keep-off"])?;
    // While it runs, another capture of the same computer is refused and told who holds it.
    let said = daemon.refused(&["capture", "a"])?;
    assert!(said.contains(&format!("job {id}")) && said.contains("capture a"), "{said}");
    let job = daemon.wait_end(id, LONG)?;
    assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
    let events = daemon.events(id)?;
    let forced = events.iter().find(|e| e.kind == "forced-off").context("no event about it")?;
    assert!(forced.message.contains("8 s"), "{}", forced.message);

    // Killed in the middle of the copy, and in the whole run also of the digests and of waiting: it goes on and completes.
    let steps = [
        "capture/copy disk[0]",
        "capture/pre_capture/generalise",
        "capture/wait for power off",
        "verify and digest",
    ];
    for step in if crate::full() { &steps[..] } else { &steps[..1] } {
        let id = daemon.queue(&["capture", "a", "--power-on", "--after", "keep-off"])?;
        daemon
            .wait_job(id, LONG, |job| running(job, step) || job.steps.iter().any(|s| s.name == "publish"))?;
        daemon.kill()?;
        daemon.up()?;
        let job = daemon.wait_end(id, LONG)?;
        assert_eq!(job.state, job::State::Done, "killed in {step}: {:?}\n{}", job.reason, daemon.log_tail());
        let revision = job.result.context("no revision")?;
        let _: JobView = daemon.json(&["image", "verify", &revision])?;
    }
    let _: JobView = daemon.json(&["unload", "a"])?;
    // What was captured after all of that boots, and is whole.
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    assert_eq!(daemon.ssh("a", "wc -c < /root/ballast")?, "200000000");
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)?;
    Ok(())
}
