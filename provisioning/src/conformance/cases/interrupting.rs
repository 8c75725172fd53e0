//! Jobs that are killed, stopped, followed by another process and called off at their journal writes.

use crate::conformance::journals::Numbered;
use crate::conformance::kit::{Kit, Verdict, ensure, failed, refused, steps};
use crate::conformance::play::{Plays, Plot};
use vcl_job::{Failure, Journal, Kind, Record};

pub(super) async fn load_killed(kit: &Kit<'_>) -> Verdict {
    Plays::of(kit, Plot::Load).await?.calmly("kill@N").await
}
pub(super) async fn load_killed_twice(kit: &Kit<'_>) -> Verdict {
    // The second process dies at the third write after the first one's end, if it gets that far.
    Plays::of(kit, Plot::Load).await?.calmly("kill@N | kill@3").await
}
pub(super) async fn load_stopped(kit: &Kit<'_>) -> Verdict {
    let plays = Plays::of(kit, Plot::Load).await?;
    plays.calmly("stop@N").await
}
pub(super) async fn load_lost(kit: &Kit<'_>) -> Verdict {
    let plays = Plays::of(kit, Plot::Load).await?;
    plays.calmly("lose@N").await?;
    plays.calmly("freeze@N").await
}
pub(super) async fn load_called_off(kit: &Kit<'_>) -> Verdict {
    Plays::of(kit, Plot::Load).await?.called_off("cancel@N").await
}
pub(super) async fn load_killed_called_off(kit: &Kit<'_>) -> Verdict {
    let plays = Plays::of(kit, Plot::Load).await?;
    plays.called_off("kill@N | cancel@1").await?;
    // The first process dies while it takes back: the second does not even call the load.
    plays.called_off("cancel@N kill@M").await
}
pub(super) async fn unload_killed(kit: &Kit<'_>) -> Verdict {
    Plays::of(kit, Plot::Unload).await?.calmly("kill@N").await
}
pub(super) async fn capture_killed(kit: &Kit<'_>) -> Verdict {
    Plays::of(kit, Plot::Capture).await?.calmly("kill@N").await
}
pub(super) async fn capture_called_off(kit: &Kit<'_>) -> Verdict {
    Plays::of(kit, Plot::Capture).await?.called_off("cancel@N").await
}

/// What a load that is done has written, with the decision to take it back.
pub(super) async fn undo_twice(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    let (deed, journal) = (kit.load_of(&computer), Numbered::new(kit.job()));
    crate::conformance::kit::done(kit.run_on(journal.clone(), &deed).await)?;
    let mut records = journal.read().await?;
    records.retain(|record| !matches!(record, Record::Finished { .. }));
    let begun = steps(&records).len();
    let cause = Failure { kind: Kind::Cancelled, message: "called off".into() };
    records.push(Record::Unwinding { cause });
    for time in ["once", "again"] {
        // The same records, so each of them undoes all.
        let journal = Numbered::of(journal.job(), records.clone());
        let backend = kit.open().await?;
        let process = crate::conformance::deed::Process {
            backend,
            journal: journal.clone(),
            observer: crate::conformance::journals::Ear::new(),
            control: <_>::default(),
        };
        let ended = kit.live(process, &deed).await;
        refused(&format!("undoing a load {time}"), ended, &[Kind::Cancelled])?;
        let undone = journal.read().await?;
        let undone = undone.iter().filter(|record| matches!(record, Record::Undone { .. })).count();
        ensure!(undone == begun, "{undone} of {begun} steps were undone {time}");
        kit.nothing_left().await?;
    }
    Ok(())
}

pub(super) async fn undo_unknown(kit: &Kit<'_>) -> Verdict {
    match kit.backend.undo("a step of the kit's that no backend has", serde_json::Value::Null).await {
        Err(e) if e.kind == Kind::Diverged => Ok(()),
        Err(e) => failed(format!("it is refused as `{}` instead of `diverged`: {e}", e.kind)),
        Ok(()) => failed("it is undone, and nobody knows what that was"),
    }
}
