//! What is there: machines of vcld's and of others, and what jobs that died have left.

use crate::Capability;
use crate::ErrorKind;
use crate::conformance::journals::{Cut, Numbered};
use crate::conformance::kit::{Kit, Stop, Verdict, ensure, failed, is_error, refused};
use crate::conformance::play::spread;
use crate::conformance::world::{Foreign, Offer};
use vcl_job::{Kind, Outcome};
use vcl_types::api::{PowerAction, PowerState, Thing, VmView};

async fn managed(kit: &Kit<'_>) -> Verdict<Vec<String>> {
    let vms = kit.backend.vms().await?;
    Ok(vms.into_iter().filter_map(|vm| vm.managed.map(|name| name.to_string())).collect())
}

pub(super) async fn listed(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let ours = managed(kit).await?;
    ensure!(
        ours.contains(&computer.name.to_string()),
        "{computer} is loaded, and of vcld's are listed: {ours:?}"
    );
    if kit.makes() {
        kit.unload(&computer).await?;
        let ours = managed(kit).await?;
        ensure!(!ours.contains(&computer.name.to_string()), "{computer} is unloaded and still listed");
    }
    let foreign = kit.computer()?;
    let name = match kit.foreign(Foreign::Put, &foreign).await? {
        Some(_) => kit.world.foreign_name(&foreign),
        None => match kit.world.source().await.map_err(|e| Stop::Failed(e.to_string()))? {
            Some(name) => name,
            None => return kit.without(Offer::Foreign),
        },
    };
    let vms = kit.backend.vms().await?;
    let Some(vm) = vms.iter().find(|vm| vm.name == name) else {
        return failed(format!("{name} is there and not listed"));
    };
    ensure!(vm.managed.is_none(), "{name} is another's and listed as the machine of {:?}", vm.managed);
    Ok(())
}

pub(super) async fn foreign(kit: &Kit<'_>) -> Verdict {
    kit.must_make()?;
    let computer = kit.computer()?;
    let Some(before) = kit.foreign(Foreign::Put, &computer).await? else {
        return kit.without(Offer::Foreign);
    };
    let untouched = async |what: &str| {
        let now = kit.foreign(Foreign::Look, &computer).await?;
        ensure!(now.as_ref() == Some(&before), "{what} changed {before} into {now:?}");
        Ok(())
    };
    let why = refused(
        "a load over a foreign machine",
        kit.run(&kit.load_of(&computer)).await,
        &[Kind::Exists, Kind::Refused],
    )?;
    ensure!(why.contains(&kit.world.foreign_name(&computer)), "the error does not name the machine: {why}");
    untouched("a load").await?;
    // There is nothing of ours to take away: whether that is an error or well, it is not touched.
    match kit.run(&kit.unload_of(&computer)).await {
        Outcome::Done(_) | Outcome::RolledBack(_) => untouched("an unload").await?,
        other => return failed(format!("an unload ended as {other:?}")),
    }
    for action in [PowerAction::Off, PowerAction::ForceOff, PowerAction::On, PowerAction::Reset] {
        if kit.can(Capability::Power) {
            let answer = kit.backend.power(&computer, action).await;
            is_error(
                &format!("{action:?} of a foreign machine"),
                answer,
                &[ErrorKind::NotOurs, ErrorKind::NotFound],
            )?;
            untouched("a power call").await?;
        }
    }
    if kit.can(Capability::Things) {
        let things = kit.backend.things().await?;
        let named = things.iter().find(|thing| thing.computer.as_ref() == Some(&computer.name));
        ensure!(named.is_none(), "it is listed as a thing of vcld's: {named:?}");
    }
    kit.foreign(Foreign::Remove, &computer).await.map(drop)
}

pub(super) async fn unknown(kit: &Kit<'_>) -> Verdict {
    kit.must_make()?;
    let computer = kit.computer()?;
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::Absent, "a computer that was never loaded is {state:?}");
    let not_there = [ErrorKind::NotFound];
    if kit.can(Capability::Console) {
        is_error("its console", kit.backend.console(&computer, 10).await, &not_there)?;
    }
    if kit.can(Capability::Screenshot) {
        let picture = kit.backend.screenshot(&computer).await.map(|png| png.len());
        is_error("its display", picture, &[ErrorKind::NotFound, ErrorKind::Refused])?;
    }
    if kit.can(Capability::Description) {
        is_error("its description", kit.backend.description(&computer).await, &not_there)?;
    }
    kit.nothing_left().await
}

pub(super) async fn ours(kit: &Kit<'_>) -> Verdict {
    // A machine that is always there is nobody's thing.
    kit.must_make()?;
    let before = kit.backend.things().await?;
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let things = kit.backend.things().await?;
    let made: Vec<&Thing> = things.iter().filter(|thing| !before.contains(thing)).collect();
    ensure!(!made.is_empty(), "a loaded machine is not among the things");
    let named = made.iter().any(|thing| thing.computer.as_ref() == Some(&computer.name));
    ensure!(named, "none of {made:?} says that it is of {computer}");
    // It would be taken for what a job left over, and offered for deletion while somebody works on it.
    let jobs = made.iter().find(|thing| thing.job.is_some());
    ensure!(
        jobs.is_none(),
        "the load is over, and {jobs:?} says that it is its job's and not the computer's"
    );
    let kind = "a kind of the kit's".to_owned();
    let stranger = Thing { kind, name: "kit-nothing".into(), computer: None, job: None, bytes: None };
    let removed = kit.backend.remove_thing(&stranger).await;
    ensure!(removed.is_err(), "a thing of a kind that no backend makes is removed without a word");
    let foreign = kit.computer()?;
    if let Some(before) = kit.foreign(Foreign::Put, &foreign).await? {
        let thing = Thing { name: kit.world.foreign_name(&foreign), ..stranger };
        for kind in made.iter().map(|thing| &thing.kind) {
            let thing = Thing { kind: kind.clone(), ..thing.clone() };
            // A place of that name may be nothing to it.
            let _ = kit.backend.remove_thing(&thing).await;
            let now = kit.foreign(Foreign::Look, &foreign).await?;
            ensure!(now.as_ref() == Some(&before), "removing it as a {kind} changed {before} into {now:?}");
        }
    }
    // Names come from anywhere: one that leads to what is in use by another way is not followed.
    let there = kit.left().await?;
    for thing in &made {
        let name = format!("elsewhere/../{}", thing.name);
        let _ = kit.backend.remove_thing(&Thing { name: name.clone(), ..(*thing).clone() }).await;
        let now = kit.left().await?;
        ensure!(now == there, "removing the {} {name} changed {there:?} into {now:?}", thing.kind);
    }
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "the loaded machine is {state:?} after all that");
    Ok(())
}

pub(super) async fn leaks(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let deed = kit.load_of(&computer);
    // The first of all loads has a cache to fill and more to write down.
    kit.load(&computer).await?;
    kit.unload(&computer).await?;
    let undisturbed = Cut::at(Numbered::new(kit.job()), usize::MAX);
    match kit.run_until(undisturbed.clone(), &deed).await? {
        Some(Outcome::Done(_)) => kit.unload(&computer).await?,
        other => return failed(format!("undisturbed it ended as {other:?}")),
    }
    // A load that dies costs less than one that goes on.
    let points = spread(undisturbed.passed(), kit.world.points().saturating_mul(4));
    let (mut last, mut found) = (Vec::new(), false);
    for at in points {
        let died = kit.run_until(Cut::at(Numbered::new(kit.job()), at), &deed).await?;
        ensure!(died.is_none(), "it was to die at write {at} and ended as {died:?}");
        let left = kit.left().await?;
        // What was gone through at the point before needs not be gone through again.
        if left == last {
            kit.unload(&computer).await?;
            continue;
        }
        last.clone_from(&left);
        let things = kit.backend.things().await?;
        ensure!(
            left.is_empty() || !things.is_empty(),
            "killed at write {at}, a load leaves {left:?}, and nothing of it is among the things"
        );
        found |= !things.is_empty();
        kit.remove_things().await?;
        let left = kit.left().await?;
        ensure!(left.is_empty(), "killed at write {at}: when all things are removed there is still {left:?}");
        for thing in &things {
            let again = kit.backend.remove_thing(thing).await;
            if let Err(e) = again {
                return failed(format!("removing {} {} again: {}", thing.kind, thing.name, e.chain()));
            }
        }
    }
    ensure!(found, "killed at whatever point, a load leaves nothing: it makes nothing that could be found");
    Ok(())
}

pub(super) async fn neighbours(kit: &Kit<'_>) -> Verdict {
    let neighbour = kit.world.neighbour().await.map_err(|e| Stop::Failed(e.to_string()))?;
    let Some(neighbour) = neighbour else { return kit.without(Offer::Neighbour) };
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let ours = |vms: Vec<VmView>| vms.into_iter().any(|vm| vm.managed.as_ref() == Some(&computer.name));
    ensure!(ours(kit.backend.vms().await?), "{computer} is loaded and not listed");
    ensure!(!ours(neighbour.vms().await?), "the other instance takes {computer} for its own");
    let power = neighbour.powers().await?.get(&computer.name).copied();
    ensure!(power.is_none(), "the other instance has {computer} among its powers: {power:?}");
    let thing = neighbour.things().await?.into_iter().find(|t| t.computer.as_ref() == Some(&computer.name));
    ensure!(thing.is_none(), "the other instance has {thing:?} among its things");
    Ok(())
}
