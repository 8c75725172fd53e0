//! All three end states of `pre_capture`, on a real guest: what a backend that asks for them gets.

use crate::{Case, LONG};
use anyhow::{Context, Result, ensure};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use vcl_job::{Control, Flow, Job, MemoryJournal, Outcome, Owners, Run, Silent, Undo};
use vcl_os::ssh::{SshKey, SshRemotes};
use vcl_os::{EndState, Guest, Limits, Linux, Os, Remotes};
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{ComputerView, JobView, PowerState};
use vcl_types::{Endpoint, HostKeys};

async fn pre_capture(computer: &ComputerView, remotes: &SshRemotes, end: EndState) -> Result<()> {
    let endpoint = computer.loaded.clone().context("not loaded")?.endpoint;
    let limits = Limits { boot: Duration::from_secs(60), ..Limits::default() };
    let guest = Guest {
        computer: &computer.computer,
        endpoint: &endpoint,
        remotes,
        hooks: None,
        limits,
        generalised: false,
    };
    let os: &dyn Undo = &Linux;
    let run = Run {
        journal: Arc::new(MemoryJournal::default()),
        observer: Arc::new(Silent),
        control: Control::default(),
        owners: Owners { flow: os, parts: &[] },
    };
    let work = async |mut job: Job, ()| Linux.pre_capture(&mut job, guest, end).await;
    let outcome =
        vcl_job::execute(run, Flow { name: "test", version: 1, deadline: None }, async { Ok(()) }, work)
            .await;
    ensure!(outcome == Outcome::Done(()), "{end:?}: {outcome:?}");
    remotes.forget(&endpoint).await;
    Ok(())
}

#[test]
fn on_stays_reachable_reboot_comes_back_as_another_and_off_is_off() -> Result<()> {
    let test = "end_states::on_stays_reachable_reboot_comes_back_as_another_and_off_is_off";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let daemon = Daemon::start(case.setup(&["a"]))?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    let a = daemon.computer("a")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let remotes = SshRemotes::new(SshKey::load(&case.key)?);
    let id = "cat /proc/sys/kernel/random/boot_id; cat /etc/ssh/ssh_host_ed25519_key.pub";

    // On: the same boot, the same keys, and let in with what was pinned.
    let before = daemon.ssh("a", id)?;
    runtime.block_on(pre_capture(&a, &remotes, EndState::On))?;
    assert_eq!(daemon.ssh("a", id)?, before);

    // Reboot: another boot, with keys that nobody has seen before.
    runtime.block_on(pre_capture(&a, &remotes, EndState::Reboot))?;
    let endpoint = a.loaded.clone().context("not loaded")?.endpoint;
    let unknown = Endpoint { host_keys: HostKeys::first_use(), ..endpoint.clone() };
    let deadline = Instant::now() + LONG;
    let shown = loop {
        let token = CancellationToken::new();
        let connected = runtime.block_on(remotes.connect(&unknown, Duration::from_secs(10), &token));
        if let Ok(remote) = connected {
            let key = remote.host_key();
            if !endpoint.host_keys.keys.contains(&key) {
                break key;
            }
            drop(remote);
            runtime.block_on(remotes.forget(&unknown));
        }
        ensure!(Instant::now() < deadline, "it does not come back as another");
    };
    assert!(daemon.ssh("a", "true").is_err(), "the old keys are pinned, and the guest shows {shown}");
    assert_eq!(daemon.computer("a")?.power, Some(PowerState::On));

    // Off: the power goes off by itself.
    let mut again = a.clone();
    if let Some(loaded) = &mut again.loaded {
        loaded.endpoint = unknown;
    }
    runtime.block_on(pre_capture(&again, &remotes, EndState::Off))?;
    while daemon.computer("a")?.power != Some(PowerState::Off) {
        ensure!(Instant::now() < deadline, "it does not go off");
    }
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}
