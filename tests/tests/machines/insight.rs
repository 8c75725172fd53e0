//! What an admin has when something went wrong: evidence of a guest that died, orphans, lost power, why.

use crate::{Case, LONG, failed};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{EvidenceView, JobView, Orphans, Plan, StepState, Why};
use vcl_types::state::computer::State;

fn text(daemon: &Daemon, job: &str, name: &str) -> Result<String> {
    let part: serde_json::Value = daemon.json(&["job", "evidence", job, name])?;
    Ok(part["text"].as_str().context("no text")?.to_owned())
}

#[test]
fn a_guest_that_dies_in_post_load_leaves_evidence() -> Result<()> {
    let test = "insight::a_guest_that_dies_in_post_load_leaves_evidence";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"4m\"\ncommand = \"45s\"\n".into();
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    // The last hook of the load stops the guest's heart: its kernel panics and stays as it is.
    let hooks = daemon.directory().join("hooks/post_load.d");
    fs::create_dir_all(&hooks)?;
    let hook = hooks.join("90-die");
    fs::write(
        &hook,
        "#!/bin/sh\necho password=hunter2 >/dev/ttyS0\necho 0 >/proc/sys/kernel/panic\nsync\necho c >/proc/sysrq-trigger\n",
    )?;
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755))?;
    let id = daemon.queue(&["load", "a", "debian"])?;
    daemon.wait_job(id, LONG, |job| {
        job.steps.iter().any(|s| s.name.ends_with("run post_load hooks") && s.state == StepState::Running)
    })?;
    let why: Why = daemon.json(&["why", "a"])?;
    ensure!(why.sentence.contains(&format!("job {id}")), "{why:?}");
    let job = daemon.wait_end(id, LONG)?;
    let reason = job.reason.clone().unwrap_or_default();
    ensure!(reason.contains(&format!("evidence: vclctl job evidence {id}")), "{reason}");

    // The machine is gone, and what it showed is here.
    case.nothing_left(&daemon)?;
    let number = id.to_string();
    let parts: Vec<EvidenceView> = daemon.json(&["job", "evidence", &number])?;
    let names: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
    for name in ["console.txt", "screen.png", "machine.xml", "failure.txt", "timings.txt"] {
        ensure!(names.contains(&name), "no {name} in {names:?}: {:?}", text(&daemon, &number, "notes.txt"));
    }
    ensure!(job.evidence.iter().any(|n| n == "screen.png"), "{:?}", job.evidence);
    let console = text(&daemon, &number, "console.txt")?;
    ensure!(console.contains("sysrq") || console.contains("Kernel panic"), "{console}");
    ensure!(console.contains("password=[masked]") && !console.contains("hunter2"), "{console}");
    ensure!(text(&daemon, &number, "machine.xml")?.contains("<name>vcl-a</name>"));
    ensure!(text(&daemon, &number, "timings.txt")?.contains("load/start"));
    ensure!(text(&daemon, &number, "failure.txt")?.contains("run post_load hooks"));
    let picture = case.path().join("screen.png");
    let saved: serde_json::Value =
        daemon.json(&["job", "evidence", &number, "screen.png", "-o", picture.as_str()])?;
    ensure!(saved["bytes"].as_u64() > Some(100) && fs::read(&picture)?.starts_with(b"\x89PNG"), "{saved}");
    // The dead guest could not be asked, and that is said, too.
    ensure!(text(&daemon, &number, "notes.txt")?.contains("guest-journal.txt"));
    let why: Why = daemon.json(&["why", &number])?;
    ensure!(why.ways.iter().any(|w| w.contains("job evidence")), "{why:?}");
    Ok(())
}

#[test]
fn what_belongs_to_nobody_is_listed_adopted_and_deleted() -> Result<()> {
    let test = "insight::what_belongs_to_nobody_is_listed_adopted_and_deleted";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more =
        "look_power = \"1s\"\nlook = \"2s\"\n[deadlines]\nboot = \"4m\"\nshutdown = \"60s\"\n".into();
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let plan: Plan = daemon.json(&["load", "a", "debian", "--dry-run"])?;
    ensure!(plan.hindrance.is_none() && plan.usual.is_none(), "{plan:?}");
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    let none: Orphans = daemon.json(&["orphans", "list"])?;
    ensure!(none == Orphans::default(), "{none:?}");

    // A staging of a job that never was, a directory and a domain with our tag that nobody knows.
    let staging = daemon.library().join(".staging/job999-token1");
    fs::create_dir(&staging)?;
    fs::write(staging.join("disk0.qcow2"), vec![1; 8192])?;
    fs::create_dir(daemon.directory().join("machines/stranger"))?;
    let xml = case.world.virsh(&["dumpxml", "vcl-a", "--inactive"])?;
    let uuid = xml.lines().find(|l| l.contains("<uuid>")).context("no uuid")?;
    let stranger = xml
        .replace(uuid, "")
        .replace("<name>vcl-a<", "<name>vcl-stranger<")
        .replace("owner=\"a\"", "owner=\"stranger\"")
        .replace("owner='a'", "owner='stranger'");
    let file = case.path().join("stranger.xml");
    fs::write(&file, stranger)?;
    case.world.virsh(&["define", file.as_str()])?;
    let found: Orphans = daemon.json(&["orphans", "list"])?;
    let ids: Vec<&str> = found.found.iter().map(|o| o.id.as_str()).collect();
    let all = ["kvm/domain/vcl-stranger", "kvm/overlays/stranger", "library/staging/job999-token1"];
    ensure!(ids == all, "{ids:?}");
    wait_events(&daemon, &["orphan-found"])?;

    // Looked at without deleting, then ignored, then deleted. What is in use is none.
    let plan: Plan = daemon.json(&["orphans", "delete", all[2], "--dry-run"])?;
    ensure!(plan.steps.len() == 1 && staging.exists(), "{plan:?}");
    let said = daemon.refused(&["orphans", "delete", "kvm/domain/vcl-a", "--yes"])?;
    ensure!(said.contains("is no orphan"), "{said}");
    let said = daemon.refused(&["orphans", "adopt", all[2]])?;
    ensure!(said.contains("cannot be adopted"), "{said}");
    let _: Plan = daemon.json(&["orphans", "ignore", all[2], "--reason", "to be looked at"])?;
    let found: Orphans = daemon.json(&["orphans", "list"])?;
    ensure!(found.found.len() == 2, "{found:?}");
    let found: Orphans = daemon.json(&["orphans", "list", "--all"])?;
    ensure!(found.found.iter().any(|o| o.ignored.as_ref().is_some_and(|i| i.reason == "to be looked at")));
    for id in all {
        let _: Plan = daemon.json(&["orphans", "delete", id, "--yes"])?;
    }
    let none: Orphans = daemon.json(&["orphans", "list", "--all"])?;
    ensure!(none == Orphans::default() && !staging.exists(), "{none:?}");

    // It is switched off from outside: told on the computer, and gone again when it is on.
    case.world.virsh(&["destroy", "vcl-a"])?;
    let reason = wait_reason(&daemon, |r| r.is_some_and(|r| r.starts_with("off since")))?;
    ensure!(reason.unwrap_or_default().contains("vclctl computer power a on"));
    let why: Why = daemon.json(&["why", "a"])?;
    ensure!(why.sentence.contains("its machine is off"), "{why:?}");
    let plan: Plan = daemon.json(&["computer", "power", "a", "on", "--dry-run"])?;
    ensure!(plan.steps[0].what.contains("start"), "{plan:?}");
    let _: serde_json::Value = daemon.json(&["computer", "power", "a", "on"])?;
    wait_reason(&daemon, |r| r.is_none())?;

    wait_events(&daemon, &["power-lost", "power-back"])?;

    // The row that lost its machine gets it back.
    let mut daemon = daemon;
    daemon.stop()?;
    let forgot = std::process::Command::new("sqlite3")
        .arg(daemon.directory().join("vcld.db"))
        .arg("UPDATE computers SET state = 'available', loaded = NULL, loaded_image = NULL, loaded_revision = NULL; \
              UPDATE reservations SET state = 'ended';")
        .status();
    if forgot.is_ok_and(|s| s.success()) {
        daemon.up()?;
        let found: Orphans = daemon.json(&["orphans", "list"])?;
        ensure!(found.found.iter().any(|o| o.id == "kvm/domain/vcl-a"), "{found:?}");
        let _: Plan = daemon.json(&["orphans", "adopt", "kvm/domain/vcl-a"])?;
        ensure!(daemon.computer("a")?.state == State::Reserved);
        // It was powered on a moment ago and may be booting.
        let deadline = Instant::now() + LONG;
        let name = loop {
            match daemon.ssh("a", "hostname") {
                Ok(name) => break name,
                Err(error) => {
                    ensure!(Instant::now() < deadline, "what was adopted does not answer: {error:#}");
                }
            }
        };
        ensure!(name == "a", "{name}");
        let none: Orphans = daemon.json(&["orphans", "list"])?;
        ensure!(none == Orphans::default(), "{none:?}");
    } else {
        daemon.up()?;
    }
    let _: JobView = daemon.json(&["unload", "a"])?;
    // A capture of nothing fails, and nothing of it is left.
    let job = failed(&daemon, &["capture", "a"])?;
    ensure!(job.evidence.iter().any(|n| n == "failure.txt") || job.evidence.is_empty());
    case.nothing_left(&daemon)
}

fn wait_events(daemon: &Daemon, kinds: &[&str]) -> Result<()> {
    let deadline = Instant::now() + LONG;
    loop {
        let events: Vec<vcl_types::api::EventView> = daemon.json(&["events", "--limit", "500"])?;
        let lacking: Vec<_> = kinds.iter().filter(|kind| events.iter().all(|e| e.kind != **kind)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no event {lacking:?}");
        // why: a reconciler tells that it has looked by nothing but what it finds
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

fn wait_reason(daemon: &Daemon, wanted: impl Fn(Option<&str>) -> bool) -> Result<Option<String>> {
    let deadline = std::time::Instant::now() + LONG;
    loop {
        let reason = daemon.computer("a")?.reason;
        if wanted(reason.as_deref()) {
            return Ok(reason);
        }
        ensure!(std::time::Instant::now() < deadline, "still: {reason:?}");
        // why: each look is the daemon's own answer; it tells of its reconciler only by what it says of the computer
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}
