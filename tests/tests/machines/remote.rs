//! libvirt on another host, which sees nothing of this one's disks: revisions go there over a cable, once, and captures
//! come back.

use crate::{Case, LONG, VCL_WORLD};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup};
use vcl_tests::guest::Kind;
use vcl_tests::world::Host;
use vcl_types::api::{Console, JobView, Orphans};
use vcl_types::state::job::State;
use vcl_types::{ComputerName, JobId, KeySource};

/// A second host with a network, and the computers `r` and `s` on it.
fn site(case: &Case, pool_path: &str) -> Result<(Host, Setup)> {
    let here = Utf8PathBuf::try_from(case.directory.path().canonicalize()?)?;
    let host = case.world.host("far", VCL_WORLD, &[&here])?;
    host.libvirt_network("far", Ipv4Addr::new(192, 168, 71, 0))?;
    let mut setup = case.setup(&["a"]);
    setup.more = format!(
        "{}\n[backend.far]\ntype = \"libvirt\"\nuri = \"{}\"\npool = \"vcl\"\npool_path = \"{pool_path}\"\n\
         accelerator = \"tcg\"\n\n[network.lan]\nlibvirt = \"far\"\n\n",
        setup.more,
        host.uri()
    );
    setup.more_computers = ["r", "s"]
        .map(|c| format!("\"{c}\" = {{ backend = \"far\", memory = \"256M\", networks = [\"lan\"] }}\n"))
        .concat();
    Ok((host, setup))
}

/// Files in a directory with what each takes on disk.
fn listed(directory: &Utf8Path) -> Result<Vec<(String, u64)>> {
    let Ok(entries) = directory.read_dir_utf8() else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        // One that vanishes meanwhile is not there.
        if let Ok(metadata) = entry.path().metadata() {
            files.push((entry.file_name().to_owned(), metadata.blocks() * 512));
        }
    }
    files.sort();
    Ok(files)
}

/// Nothing in the pool but whole copies; no domain; nothing that somebody would have to clear away.
fn tidy(host: &Host, daemon: &Daemon, pool: &Utf8Path) -> Result<Vec<String>> {
    ensure!(host.virsh(&["list", "--all", "--name"])?.trim().is_empty());
    let names: Vec<_> = listed(pool)?.into_iter().map(|(name, _)| name).collect();
    for name in &names {
        let data = name.strip_suffix(".whole").unwrap_or(name);
        ensure!(data.starts_with("vcl-image."), "{name} is left");
        ensure!(names.iter().any(|n| n == data), "{name} is of nothing: {names:?}");
        ensure!(names.contains(&format!("{data}.whole")), "{name} is half a copy: {names:?}");
    }
    let orphans: Orphans = daemon.json(&["orphans", "list"])?;
    ensure!(orphans.found.is_empty() && orphans.unseen.is_empty(), "{orphans:?}");
    ensure!(daemon.leftovers()?.is_empty(), "{:?}", daemon.leftovers()?);
    Ok(names)
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[test]
fn a_revision_is_sent_once_and_its_capture_comes_back() -> Result<()> {
    let test = "remote::a_revision_is_sent_once_and_its_capture_comes_back";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let (host, setup) = site(&case, "/var/lib/libvirt/vcl")?;
    let pool = host.directory().join("lib/vcl");
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let whole = daemon.image("debian")?.revisions[0].manifest.disks[0].file_size.bytes();

    // The host has an empty directory where the library is.
    let library = daemon.library();
    ensure!(library.join("debian/1/disk0.qcow2").exists());
    let parent = library.parent().and_then(Utf8Path::parent).context("the library lies nowhere")?;
    ensure!(host.run(&["ls", "-A", parent.as_str()])?.trim().is_empty(), "the host sees the library");

    let before = host.traffic()?;
    let load: JobView = daemon.json(&["load", "r", "debian"])?;
    let sent = host.traffic()?.0 - before.0;
    println!("a disk of {:.1} MiB: {:.1} MiB went to the host", mib(whole), mib(sent));
    ensure!(sent > whole, "the disk did not go over the cable");
    ensure!(load.steps.iter().any(|s| s.name.contains("send to host")), "{:#?}", load.steps);
    ensure!(daemon.ssh("r", "hostname")? == "r");
    daemon.ssh("r", "printf 'hello console\n' > /dev/ttyS0")?;
    let console: Console = daemon.json(&["computer", "console", "r"])?;
    ensure!(console.text.contains("hello console"), "{:?}", console.text);

    // A second machine on the same revision costs an overlay.
    let before = host.traffic()?;
    let _: JobView = daemon.json(&["load", "s", "debian@1"])?;
    let again = host.traffic()?.0 - before.0;
    println!("for the second machine {:.2} MiB went to the host", mib(again));
    ensure!(again < 4 << 20, "{again} bytes went to the host again");
    let _: JobView = daemon.json(&["unload", "s"])?;

    // A capture costs what changed, and is as good as any other.
    daemon.ssh("r", "echo kept > /root/marker; head -c 3000000 /dev/urandom > /root/ballast; sync")?;
    let before = host.traffic()?;
    let _: JobView = daemon.json(&["capture", "r"])?;
    let came = host.traffic()?.1 - before.1;
    println!("{:.1} MiB came back with the capture", mib(came));
    ensure!(came > 3_000_000 && came * 2 < whole, "{came} bytes came back");
    let manifest = daemon.image("debian")?.revisions[1].manifest.clone();
    ensure!(manifest.lies_on().map(ToString::to_string).as_deref() == Some("debian@1"), "{manifest:?}");
    let _: JobView = daemon.json(&["image", "verify", "debian@2"])?;
    tidy(&host, &daemon, &pool)?;

    // Loaded on this host, and on the other: where the parent is already, only the child goes.
    let _: JobView = daemon.json(&["load", "a", "debian@2"])?;
    ensure!(daemon.ssh("a", "cat /root/marker")? == "kept");
    let _: JobView = daemon.json(&["unload", "a"])?;
    let before = host.traffic()?;
    let _: JobView = daemon.json(&["load", "r", "debian@2"])?;
    let child = host.traffic()?.0 - before.0;
    println!("{:.1} MiB went to the host for the capture", mib(child));
    // Kernel and initrd are the revision's own.
    ensure!(child < whole, "{child} bytes went for a child");
    ensure!(daemon.ssh("r", "cat /root/marker")? == "kept");
    // A guest that makes itself a new identity tells its keys on its console, which is read on the host.
    ensure!(daemon.endpoint("r")?.host_keys.source == KeySource::Console);
    let said = daemon.refused(&["orphans", "delete", "far/copy/vcl-image.x", "--yes"])?;
    ensure!(said.contains("no orphan"), "{said}");
    let _: JobView = daemon.json(&["unload", "r"])?;
    let names = tidy(&host, &daemon, &pool)?;

    // What the library has no longer is of no use there: it is shown, and goes when somebody says so.
    for revision in ["debian@2", "debian@1"] {
        let _: JobView = daemon.json(&["image", "delete", revision, "--now", "--yes"])?;
    }
    let orphans: Orphans = daemon.json(&["orphans", "list"])?;
    ensure!(orphans.found.len() * 2 == names.len(), "{orphans:#?} of {names:?}");
    // What another copy lies on goes after it.
    let base = orphans.found.iter().find(|o| o.id.contains("debian@1.disk0")).context("no base")?;
    let said = daemon.refused(&["orphans", "delete", &base.id, "--yes"])?;
    ensure!(said.contains("debian@2.disk0"), "{said}");
    for orphan in orphans.found.iter().rev() {
        let _: serde_json::Value = daemon.json(&["orphans", "delete", &orphan.id, "--yes"])?;
    }
    ensure!(listed(&pool)?.is_empty(), "{:?}", listed(&pool)?);
    case.nothing_left(&daemon)
}

/// Waits until so much of a copy of a disk is on the host, and holds the host's libvirtd there.
fn hold_in_upload(host: &Host, pool: &Utf8Path, image: &str, bytes: u64) -> Result<()> {
    let deadline = Instant::now() + LONG;
    let prefix = format!("vcl-image.{image}.disk0");
    loop {
        let there = listed(pool)?.into_iter().find(|(name, _)| name.starts_with(&prefix));
        if there.as_ref().is_some_and(|(_, taken)| *taken >= bytes) {
            break;
        }
        ensure!(Instant::now() < deadline, "nothing comes: {:?}", listed(pool)?);
        std::thread::sleep(Duration::from_millis(1)); // why: nothing tells of another host's files
    }
    host.freeze_libvirtd(true)?;
    let names: Vec<_> = listed(pool)?.into_iter().map(|(name, _)| name).collect();
    let whole = |n: &&String| n.starts_with(&prefix) && n.ends_with(".whole");
    ensure!(!names.iter().any(|n| whole(&n)), "it is whole already: {names:?}");
    Ok(())
}

fn wait_event(daemon: &Daemon, job: JobId, kind: &str) -> Result<String> {
    let deadline = Instant::now() + LONG;
    loop {
        let events = daemon.events(job)?;
        if let Some(event) = events.iter().find(|e| e.kind == kind) {
            return Ok(event.message.clone());
        }
        ensure!(Instant::now() < deadline, "no {kind} among {events:#?}\n{}", daemon.log_tail());
        std::thread::sleep(Duration::from_millis(50)); // why: the test looks through vclctl, as a person would
    }
}

#[test]
fn killed_and_cut_off_in_mid_upload_it_goes_on() -> Result<()> {
    if std::env::var_os("VCL_FULL").is_none() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let test = "remote::killed_and_cut_off_in_mid_upload_it_goes_on";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let (host, setup) = site(&case, "/var/lib/libvirt/vcl")?;
    let pool = host.directory().join("lib/vcl");
    let mut daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    case.import(&daemon, "other", "")?;
    let whole = daemon.image("debian")?.revisions[0].manifest.disks[0].file_size.bytes();

    // The daemon dies in the middle; its next life begins the copy anew and nothing of the first is left.
    let job = daemon.queue(&["load", "r", "debian"])?;
    hold_in_upload(&host, &pool, "debian@1", 8 << 20)?;
    daemon.kill()?;
    host.freeze_libvirtd(false)?;
    daemon.up()?;
    let view = daemon.wait_end(job, LONG)?;
    ensure!(view.state == State::Done, "{:?}\n{}", view.reason, daemon.log_tail());
    ensure!(daemon.ssh("r", "hostname")? == "r");
    let _: JobView = daemon.json(&["unload", "r"])?;
    tidy(&host, &daemon, &pool)?;

    // The host's libvirtd dies in the middle: what it has confirmed is not sent again. The job waits for it.
    let before = host.traffic()?;
    let job = daemon.queue(&["load", "s", "other"])?;
    hold_in_upload(&host, &pool, "other@1", 68 << 20)?;
    host.kill_libvirtd()?;
    wait_event(&daemon, job, "host-away")?;
    host.start_libvirtd()?;
    let view = daemon.wait_end(job, LONG)?;
    ensure!(view.state == State::Done, "{:?}\n{}", view.reason, daemon.log_tail());
    let sent = host.traffic()?.0 - before.0;
    println!("{:.1} MiB went for a disk of {:.1} MiB with a cut in the middle", mib(sent), mib(whole));
    ensure!(sent < whole * 2, "it began anew");
    ensure!(daemon.ssh("s", "hostname")? == "s");
    let _: JobView = daemon.json(&["unload", "s"])?;

    // The cable is pulled: no side is told. It is noticed, waited for, and gone on with.
    let _: JobView =
        daemon.json(&["image", "import", "third", case.guest.disk().as_str(), "--memory", "256M"])?;
    let job = daemon.queue(&["load", "r", "third"])?;
    hold_in_upload(&host, &pool, "third@1", 8 << 20)?;
    host.plug(false)?;
    host.freeze_libvirtd(false)?;
    wait_event(&daemon, job, "host-away")?;
    host.plug(true)?;
    wait_event(&daemon, job, "sent")?;
    let _: serde_json::Value = daemon.json(&["job", "cancel", &job.to_string()])?;
    let view = daemon.wait_end(job, LONG)?;
    ensure!(view.state == State::Cancelled, "{}: {:?}", view.state, view.reason);
    tidy(&host, &daemon, &pool)?;

    // Called off in the middle: the stream ends, and what was there of the copy goes.
    let _: JobView =
        daemon.json(&["image", "import", "fourth", case.guest.disk().as_str(), "--memory", "256M"])?;
    let job = daemon.queue(&["load", "r", "fourth"])?;
    hold_in_upload(&host, &pool, "fourth@1", 8 << 20)?;
    let _: serde_json::Value = daemon.json(&["job", "cancel", &job.to_string()])?;
    host.freeze_libvirtd(false)?;
    let view = daemon.wait_end(job, LONG)?;
    ensure!(view.state == State::Cancelled, "{}: {:?}", view.state, view.reason);
    let names = tidy(&host, &daemon, &pool)?;
    ensure!(!names.iter().any(|n| n.contains("fourth")), "{names:?}");
    case.nothing_left(&daemon)
}

#[test]
fn a_full_pool_lets_idle_copies_go_and_then_waits() -> Result<()> {
    if std::env::var_os("VCL_FULL").is_none() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let test = "remote::a_full_pool_lets_idle_copies_go_and_then_waits";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let (host, setup) = site(&case, "/var/lib/libvirt/small")?;
    // What is left of a node that died when it had defined the pool and not yet made its directory.
    host.virsh(&["pool-define-as", "vcl", "dir", "--target", "/var/lib/libvirt/small"])?;
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    case.import(&daemon, "other", "")?;
    let _: JobView =
        daemon.json(&["image", "import", "third", case.guest.disk().as_str(), "--memory", "256M"])?;
    // What a load of it writes: its files, and what is reckoned for overlays and consoles.
    let manifest = daemon.image("debian")?.revisions[0].manifest.clone();
    let files =
        manifest.disks[0].file_size.bytes() + manifest.boot_files.iter().map(|f| f.size.bytes()).sum::<u64>();
    let room = files + (files / 2) + (64 << 20);
    // The daemon has made the pool already; what is mounted over it is the pool then.
    host.run(&["mkdir", "-p", "/var/lib/libvirt/small"])?;
    host.run(&["mount", "-t", "tmpfs", "-o", &format!("size={room}"), "tmpfs", "/var/lib/libvirt/small"])?;
    let there = || host.run(&["ls", "/var/lib/libvirt/small"]);

    // Room for one. The second makes the first go, which no machine lies on any more.
    let _: JobView = daemon.json(&["load", "r", "debian"])?;
    let _: JobView = daemon.json(&["unload", "r"])?;
    ensure!(there()?.contains("vcl-image.debian@1.disk0"));
    let second: JobView = daemon.json(&["load", "r", "other"])?;
    ensure!(!there()?.contains("vcl-image.debian@1.disk0"), "{}", there()?);
    let told = daemon.events(second.id)?;
    ensure!(told.iter().any(|e| e.kind == "copy-removed" && e.message.contains("debian@1")), "{told:#?}");
    let r: ComputerName = "r".parse()?;
    ensure!(told.iter().all(|e| e.computer.as_ref().is_none_or(|c| *c == r)));

    // What a machine lies on stays: the third waits, says for what, and begins when there is room.
    let job = daemon.queue(&["load", "s", "third"])?;
    let waiting = daemon.wait_job(job, LONG, |job| job.state == State::Waiting)?;
    let reason = serde_json::to_string(&waiting)?;
    println!("it waits: {:?}", waiting.reason);
    ensure!(reason.contains("backend far"), "{reason}");
    host.run(&["mount", "-o", &format!("remount,size={}", room * 3), "/var/lib/libvirt/small"])?;
    let running = daemon.wait_job(job, LONG, |job| job.state == State::Running)?;
    wait_event(&daemon, running.id, "sent")?;
    let _: serde_json::Value = daemon.json(&["job", "cancel", &job.to_string()])?;
    daemon.wait_end(job, LONG)?;
    ensure!(daemon.ssh("r", "hostname")? == "r");
    let _: JobView = daemon.json(&["unload", "r"])?;
    ensure!(!there()?.contains("vcl-machine"), "{}", there()?);
    case.nothing_left(&daemon)
}
