//! Load and unload, as they should go.

use crate::Capability;
use crate::conformance::deed::Made;
use crate::conformance::journals::Numbered;
use crate::conformance::kit::{Kit, Verdict, done, ensure, refused, skipped, steps};
use crate::conformance::stand_in::Manner;
use futures::future::join_all;
use std::collections::BTreeSet;
use vcl_job::{Journal, Kind};
use vcl_types::api::PowerState;
use vcl_types::{ComputerName, Digest, KeySource};

pub(super) async fn answers(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let deed = kit.load_of(&computer);
    let at = kit.endpoint(&deed).await?;
    let calls = deed.counter.calls();
    ensure!(calls.post_load == 1, "post_load was called {} times", calls.post_load);
    ensure!(calls.pre_capture.is_empty(), "pre_capture was called by a load");
    ensure!(at.port != 0 && !at.address.is_unspecified(), "{at} is no place to connect to");
    ensure!(at.user == "root", "the endpoint is for the account {} and not for the one asked for", at.user);
    let known = !at.host_keys.keys.is_empty();
    ensure!(
        known || at.host_keys.source == KeySource::FirstUse,
        "the endpoint has no host key and says `{:?}` instead of first use",
        at.host_keys.source
    );
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "a loaded computer is {state:?}");
    ensure!(
        !kit.makes() || !kit.left().await?.is_empty(),
        "the world shows nothing of a loaded machine: its `left` is blind"
    );
    kit.unload(&computer).await?;
    if kit.makes() {
        let state = kit.backend.state(&computer).await?;
        ensure!(state == PowerState::Absent, "an unloaded computer is {state:?}");
    }
    kit.nothing_left().await
}

pub(super) async fn replayed(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let (deed, journal) = (kit.load_of(&computer), Numbered::new(kit.job()));
    let first = done(kit.run_on(journal.clone(), &deed).await)?;
    let (there, records) = (kit.left().await?, journal.read().await?.len());
    let again = done(kit.run_on(journal.clone(), &deed).await)?;
    ensure!(first == again, "asked again it answers {again:?} instead of {first:?}");
    let (now, later) = (kit.left().await?, journal.read().await?.len());
    ensure!(now == there, "asked again it changed {there:?} into {now:?}");
    ensure!(later == records, "asked again it wrote {} records more", later - records);
    Ok(())
}

pub(super) async fn over_leftovers(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let first = kit.left().await?;
    // The journal of the first is lost: nobody will undo it.
    kit.load(&computer).await?;
    let second = kit.left().await?;
    ensure!(first == second, "after the second load there is {second:?} instead of {first:?}");
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn never_ready(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let mut deed = kit.load_of(&computer).manner(Manner::NeverReady);
    deed.limits.boot = std::time::Duration::from_secs(2);
    let began = tokio::time::Instant::now();
    let why = refused("a load whose guest never lets in", kit.run(&deed).await, &[Kind::Deadline])?;
    let took = began.elapsed().as_secs();
    ensure!(took < 60, "with two seconds to boot it took {took} s to end: {why}");
    kit.nothing_left().await
}

pub(super) async fn revision_gone(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let mut deed = kit.load_of(&computer);
    deed.revision.directory = format!("{}-that-is-gone", deed.revision.directory);
    // Of a content that no host has seen: a copy that it keeps of another would do for a load, and be as good.
    for disk in &mut deed.revision.manifest.disks {
        disk.content_digest = Digest::from_bytes([0x5a; 32]);
    }
    let kinds = [Kind::NotFound, Kind::Corrupt, Kind::Refused, Kind::Fatal];
    let why = refused("a load of a revision that is gone", kit.run(&deed).await, &kinds)?;
    ensure!(
        why.contains("that-is-gone") || why.contains(deed.revision.manifest.image.as_str()),
        "the error does not name the file or the image: {why}"
    );
    kit.nothing_left().await
}

pub(super) async fn unload_twice(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    kit.unload(&computer).await?;
    kit.nothing_left().await?;
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn unload_nothing(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn unload_replayed(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let (deed, journal) = (kit.unload_of(&computer), Numbered::new(kit.job()));
    done(kit.run_on(journal.clone(), &deed).await)?;
    // Somebody has loaded it since, which a replay must not undo.
    kit.load(&computer).await?;
    let there = kit.left().await?;
    done(kit.run_on(journal, &deed).await)?;
    let now = kit.left().await?;
    ensure!(now == there, "asked again it changed {there:?} into {now:?}");
    Ok(())
}

pub(super) async fn names(kit: &Kit<'_>) -> Verdict {
    let names: Vec<ComputerName> = match kit.world.only() {
        Some(names) => names,
        None => {
            let long = format!("k{}9", "-0".repeat(30));
            let all = ["k", "7", "0-0", "x--y", "capture", "vcl", "job1", &long, &"z".repeat(63)];
            all.iter().map(|name| name.parse()).collect::<Result<_, _>>()?
        }
    };
    for name in names {
        let computer = kit.named(name);
        let at = kit.load(&computer).await;
        let at = at.map_err(|stop| crate::conformance::kit::Stop::Failed(format!("{computer}: {stop:?}")))?;
        ensure!(at.port != 0, "{computer} answers nowhere");
        let state = kit.backend.state(&computer).await?;
        ensure!(state == PowerState::On, "{computer} is loaded and {state:?}");
        kit.unload(&computer).await?;
        kit.nothing_left().await?;
    }
    Ok(())
}

pub(super) async fn cleaned(kit: &Kit<'_>) -> Verdict {
    if kit.makes() {
        return skipped("its machines are thrown away");
    }
    if kit.can(Capability::Imaging) {
        return skipped("a load puts an image over whatever was there");
    }
    let computer = kit.computer()?;
    let load = kit.load_of(&computer);
    let at = kit.endpoint(&load).await?;
    let times = load.counter.calls().sanitize;
    ensure!(times == 1, "before it is lent it is cleaned {times} times");
    let unload = kit.unload_of(&computer).at(&at);
    done(kit.run(&unload).await)?;
    let times = unload.counter.calls().sanitize;
    ensure!(times == 1, "when it is taken back it is cleaned {times} times");
    kit.nothing_left().await
}

pub(super) async fn many(kit: &Kit<'_>) -> Verdict {
    let most = kit.world.only().map_or(kit.world.crowd(), |names| names.len().min(kit.world.crowd()));
    let mut computers = Vec::new();
    for _ in 0..most {
        computers.push(kit.computer()?);
    }
    let loaded = join_all(computers.iter().map(|computer| kit.load(computer))).await;
    let mut seen = BTreeSet::new();
    for (computer, at) in computers.iter().zip(loaded) {
        let at = at?;
        ensure!(seen.insert((at.address, at.port)), "{computer} is at {at}, where another is too");
    }
    // One that lists no machines is asked for the state of each.
    let powers = kit.backend.powers().await?;
    for computer in &computers {
        let power = match kit.can(Capability::Vms) {
            true => powers.get(&computer.name).copied(),
            false => Some(kit.backend.state(computer).await?),
        };
        ensure!(power == Some(PowerState::On), "{computer} is loaded, and its power is listed as {power:?}");
    }
    for unloaded in join_all(computers.iter().map(|computer| kit.unload(computer))).await {
        unloaded?;
    }
    kit.nothing_left().await
}

pub(super) async fn plan(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let mut at = None;
    for work in [crate::Work::Load, crate::Work::Unload] {
        let mut deed = match work {
            crate::Work::Load => kit.load_of(&computer),
            _ => kit.unload_of(&computer),
        };
        deed.endpoint = at.take();
        let there = kit.left().await?;
        let first = kit.plan(work, &deed);
        ensure!(first == kit.plan(work, &deed), "asked twice it plans two things");
        ensure!(
            first.iter().all(|step| !step.name.is_empty() && !step.what.is_empty()),
            "a step without words"
        );
        ensure!(kit.left().await? == there, "a plan changed the world");
        let planned: Vec<String> = first.into_iter().map(|step| plain(&step.name)).collect();
        let journal = Numbered::new(kit.job());
        if let Made::Endpoint(made) = done(kit.run_on(journal.clone(), &deed).await)? {
            at = Some(made);
        }
        let taken: Vec<String> = steps(&journal.read().await?).iter().map(|key| plain(key)).collect();
        let once = |list: &[String]| {
            let mut list = list.to_vec();
            list.dedup();
            list
        };
        let (planned, taken) = (once(&planned), once(&taken));
        // What the OS module takes depends on what it finds in the guest.
        let own =
            |list: &[String]| list.iter().filter(|name| !name.contains('/')).cloned().collect::<Vec<_>>();
        ensure!(own(&planned) == own(&taken), "{work:?} plans {planned:?} and takes {taken:?}");
        let unplanned = taken.iter().find(|name| !planned.contains(name));
        ensure!(unplanned.is_none(), "{work:?} takes {unplanned:?} and plans {planned:?}");
    }
    kit.nothing_left().await
}

/// A step without the key that tells its runs apart.
fn plain(name: &str) -> String {
    name.split('[').next().unwrap_or(name).to_owned()
}
