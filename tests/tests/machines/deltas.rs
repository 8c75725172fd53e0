//! Captures that store what changed: a chain of them on real guests, made whole under a machine that runs on it.

use crate::{Case, LONG};
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{JobView, WhyKept};
use vcl_types::{ImageRef, Manifest};

fn manifest(daemon: &Daemon, number: usize) -> Result<Manifest> {
    let revisions = daemon.image("debian")?.revisions;
    Ok(revisions.get(number - 1).with_context(|| format!("no debian@{number}"))?.manifest.clone())
}

fn lies_on(manifest: &Manifest) -> Option<String> {
    manifest.lies_on().map(ImageRef::to_string)
}

/// Reads from the disk and not from memory: what both captures added, and much of what they lie on.
fn reads_all(daemon: &Daemon, computer: &str) -> Result<()> {
    let said = daemon.ssh(
        computer,
        "echo 3 > /proc/sys/vm/drop_caches; cat /root/first /root/second && cat /usr/bin/* /usr/sbin/* > /dev/null",
    )?;
    ensure!(said == "one\ntwo", "{said}");
    Ok(())
}

#[test]
fn a_grandchild_is_loaded_and_made_whole_under_its_machine() -> Result<()> {
    let test = "deltas::a_grandchild_is_loaded_and_made_whole_under_its_machine";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let daemon = Daemon::start(case.setup(&["a", "b"]))?;
    case.import(&daemon, "debian", "")?;

    // Two captures in a row: each stores what changed and lies on the one before.
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    daemon.ssh("a", "echo one > /root/first; sync")?;
    let _: JobView = daemon.json(&["capture", "a"])?;
    let _: JobView = daemon.json(&["load", "a", "debian@2"])?;
    daemon.ssh("a", "echo two > /root/second; sync")?;
    let _: JobView = daemon.json(&["capture", "a"])?;
    let (first, second, third) = (manifest(&daemon, 1)?, manifest(&daemon, 2)?, manifest(&daemon, 3)?);
    ensure!(lies_on(&first).is_none(), "{:?}", first.disks);
    ensure!(lies_on(&second).as_deref() == Some("debian@1"), "{:?}", second.disks);
    ensure!(lies_on(&third).as_deref() == Some("debian@2"), "{:?}", third.disks);
    let sizes: Vec<u64> = [&first, &second, &third].iter().map(|m| m.disks[0].file_size.bytes()).collect();
    println!("bytes of an import and of two captures in a row: {sizes:?}");
    ensure!(sizes[1] * 2 < sizes[0] && sizes[2] * 2 < sizes[0], "{sizes:?}");
    let _: JobView = daemon.json(&["image", "verify", "debian@3"])?;

    // The grandchild runs on all three.
    let _: JobView = daemon.json(&["load", "a", "debian@3"])?;
    reads_all(&daemon, "a")?;
    for (revision, why) in [("debian@1", "debian@2"), ("debian@2", "debian@3"), ("debian@3", "loaded on a")] {
        let kept: WhyKept = daemon.json(&["image", "why", revision])?;
        ensure!(kept.reasons.iter().any(|r| r.contains(why)), "{kept:?}");
        let said = daemon.refused(&["image", "delete", revision, "--now", "--yes"])?;
        ensure!(said.contains(why), "{said}");
    }

    // Made whole under its machine, which notices nothing; nor does it when all else that can go goes.
    let _: JobView = daemon.json(&["image", "flatten", "debian@3"])?;
    let whole = manifest(&daemon, 3)?;
    ensure!(lies_on(&whole).is_none(), "{:?}", whole.disks);
    ensure!(whole.disks[0].content_digest == third.disks[0].content_digest, "its content changed");
    let _: JobView = daemon.json(&["image", "verify", "debian@3"])?;
    reads_all(&daemon, "a")?;
    let prune = ["image", "prune", "debian", "--keep", "1", "--now", "--yes"];
    let _: serde_json::Value = daemon.json(&prune)?;
    let numbers = |daemon: &Daemon| -> Result<Vec<u32>> {
        Ok(daemon.image("debian")?.revisions.iter().map(|r| r.manifest.revision).collect())
    };
    println!("left while the machine runs on the old chain: {:?}", numbers(&daemon)?);
    ensure!(numbers(&daemon)?.contains(&3), "what is loaded is gone");
    reads_all(&daemon, "a")?;

    // Exported it is one file, and that is loaded elsewhere under another name.
    let out = case.path().join("flat.qcow2");
    let _: JobView = daemon.json(&["image", "export", "debian@3", out.as_str()])?;
    let boot = case.guest.direct_boot()?.context("no kernel")?;
    let _: JobView = daemon.json(&[
        "image",
        "import",
        "flat",
        out.as_str(),
        "--memory",
        "256M",
        "--kernel",
        boot.kernel.as_str(),
        "--initrd",
        boot.initrd.as_str(),
        "--cmdline",
        &boot.cmdline,
    ])?;
    let flat = daemon.image("flat")?.revisions[0].manifest.clone();
    ensure!(flat.disks[0].content_digest == third.disks[0].content_digest, "exported it is another");
    let _: JobView = daemon.json(&["load", "b", "flat"])?;
    reads_all(&daemon, "b")?;
    let _: JobView = daemon.json(&["unload", "b"])?;

    // With the machine gone nothing needs the chain.
    let _: JobView = daemon.json(&["unload", "a"])?;
    let _: serde_json::Value = daemon.json(&prune)?;
    ensure!(numbers(&daemon)? == [3], "{:?}", numbers(&daemon)?);
    let _: JobView = daemon.json(&["image", "verify", "debian@3"])?;
    for revision in ["debian@3", "flat@1"] {
        let _: JobView = daemon.json(&["image", "delete", revision, "--now", "--yes"])?;
    }
    // The delta that the whole one took the place of is let go by a reconciler, soon after the last job.
    let deadline = Instant::now() + LONG;
    while !daemon.leftovers()?.is_empty() {
        ensure!(Instant::now() < deadline, "still left: {:?}", daemon.leftovers()?);
        std::thread::sleep(Duration::from_millis(100)); // why: a directory tells nobody that it is empty
    }
    case.nothing_left(&daemon)
}
