//! Power: switched, raced and listed.

use crate::ErrorKind;
use crate::conformance::kit::{Kit, Verdict, ensure, failed, is_error, within};
use futures::future::join_all;
use vcl_types::api::{PowerAction, PowerState};

pub(super) async fn states(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    use PowerAction::{ForceOff, On, Reset};
    for (action, state) in [
        (On, PowerState::On),
        (Reset, PowerState::On),
        (ForceOff, PowerState::Off),
        (ForceOff, PowerState::Off),
        (On, PowerState::On),
        (On, PowerState::On),
    ] {
        let answer = within("a power call", 120, kit.backend.power(&computer, action)).await??;
        ensure!(answer == state, "after {action:?} it answers {answer:?}");
        let now = kit.backend.state(&computer).await?;
        ensure!(now == state, "after {action:?} it is {now:?}");
    }
    Ok(())
}

pub(super) async fn races(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let there = kit.left().await?;
    // All want the same: whoever is late finds it done.
    for (action, state) in [(PowerAction::ForceOff, PowerState::Off), (PowerAction::On, PowerState::On)] {
        let answers = join_all((0..4).map(|_| kit.backend.power(&computer, action)));
        for answer in within("power calls that want the same", 300, answers).await? {
            let answer = answer?;
            ensure!(answer == state, "one of four {action:?} at once answers {answer:?}");
        }
        let now = kit.backend.state(&computer).await?;
        ensure!(now == state, "after four {action:?} at once it is {now:?}");
    }
    // Powering on may fail where somebody cuts the power in the middle of it; cutting it may not.
    let actions = [PowerAction::On, PowerAction::ForceOff].repeat(4);
    let answers = join_all(actions.iter().map(|action| kit.backend.power(&computer, *action)));
    for (action, answer) in actions.iter().zip(within("racing power calls", 300, answers).await?) {
        match answer {
            Ok(PowerState::On | PowerState::Off) => {}
            Err(e) if *action == PowerAction::On && e.kind == ErrorKind::Failed => {}
            other => return failed(format!("in the middle of a race {action:?} answers {other:?}")),
        }
    }
    let state = kit.backend.state(&computer).await?;
    ensure!(matches!(state, PowerState::On | PowerState::Off), "after the race it is {state:?}");
    for (action, state) in [(PowerAction::ForceOff, PowerState::Off), (PowerAction::On, PowerState::On)] {
        let answer = kit.backend.power(&computer, action).await?;
        ensure!(answer == state, "after the race {action:?} answers {answer:?}");
        let now = kit.backend.state(&computer).await?;
        ensure!(now == state, "after the race and {action:?} it is {now:?}");
    }
    let now = kit.left().await?;
    ensure!(now == there, "the race changed {there:?} into {now:?}");
    Ok(())
}

pub(super) async fn nobody(kit: &Kit<'_>) -> Verdict {
    kit.must_make()?;
    let computer = kit.computer()?;
    for action in [PowerAction::On, PowerAction::Off, PowerAction::ForceOff, PowerAction::Reset] {
        let answer = kit.backend.power(&computer, action).await;
        is_error(&format!("{action:?} of a computer that is not loaded"), answer, &[ErrorKind::NotFound])?;
    }
    kit.nothing_left().await
}

pub(super) async fn listed(kit: &Kit<'_>) -> Verdict {
    let (on, off) = (kit.computer()?, kit.computer()?);
    for computer in [&on, &off] {
        kit.load(computer).await?;
    }
    kit.backend.power(&off, PowerAction::ForceOff).await?;
    let powers = kit.backend.powers().await?;
    for (computer, expected) in [(&on, PowerState::On), (&off, PowerState::Off)] {
        let (state, listed) = (kit.backend.state(computer).await?, powers.get(&computer.name));
        ensure!(state == expected, "{computer} is {state:?} instead of {expected:?}");
        ensure!(listed == Some(&state), "{computer} is {state:?} and listed as {listed:?}");
    }
    if kit.makes() {
        kit.unload(&off).await?;
        let listed = kit.backend.powers().await?.get(&off.name).copied();
        ensure!(
            matches!(listed, None | Some(PowerState::Absent)),
            "a computer that is not loaded is listed as {listed:?}"
        );
    }
    Ok(())
}
