//! The last step of a capture: Sysprep, watched from here while a task of the guest's system runs it.

use super::script::{SYSPREP, SYSPREP_LOOK, WORKER};
use super::settings::Settings;
use crate::answer::Answer;
use crate::reach::{self, Patience};
use crate::{EndState, Error, ErrorKind, Guest, Result};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vcl_job::Cx;

/// The least that Sysprep is given. Usually it takes one to five minutes.
const AT_LEAST: Duration = Duration::from_secs(30 * 60);
/// For how long a guest may not answer before it counts as gone where it was sent: generalising takes its network away, for
/// longer the slower it is, and whoever cut its power then would publish half a Windows. So it is as long as Sysprep may take;
/// a guest that is done waits a minute for somebody to hear of it, so this is waited for in rare cases only.
const GONE: Duration = AT_LEAST;

/// How often it is looked, and how long nobody may answer: shorter in tests.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) look: Duration,
    pub(super) gone: Duration,
}
impl Default for Pace {
    fn default() -> Self {
        Self { look: Duration::from_secs(3), gone: GONE }
    }
}

/// Where Sysprep is.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Running,
    Worked,
    /// It failed, or died, and this is what the guest says about it.
    Failed(Answer),
    /// The guest knows of none.
    None,
}

/// Runs Sysprep and waits until it has worked. Then the guest is on its way to `end`.
pub(super) async fn run(
    guest: Guest<'_>,
    settings: &Settings,
    end: EndState,
    pace: Pace,
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let to = guest.endpoint;
    let until = Instant::now() + guest.limits.command.max(AT_LEAST);
    let parameters = json!({
        "unattend": settings.unattend_for(&to.user).await?,
        "worker": WORKER,
        "end": word(end),
    });
    let mut begun = false;
    let mut silent_since: Option<Instant> = None;
    loop {
        let seen = match ask(guest, begun, &parameters, pace, cx).await {
            Ok(seen) => seen,
            Err(e) if e.kind == ErrorKind::HostKeyChanged && cx.again() && end == EndState::Reboot => {
                cx.event("capture-note", format!("{to} is back already, as somebody else: {e}"));
                return Ok(());
            }
            // A connection that breaks is part of it. Whether it was begun by what was sent is asked anew.
            Err(e) if e.kind.may_pass() => {
                let since = *silent_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= pace.gone || Instant::now() >= until {
                    return without_an_answer(guest, end, begun || cx.again(), e, cx);
                }
                sleep(pace.look).await; // why: a guest whose network is being taken apart tells nobody when it is back
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        silent_since = None;
        match seen {
            Seen::Worked => return done(guest, end, cx).await,
            Seen::Failed(answer) => return Err(failed(guest, &answer, cx).into()),
            // Nothing is known of what was begun: it was restarted, and has set itself up since.
            Seen::None if begun || cx.again() => {
                let context =
                    format!("{to} was started again while Sysprep ran; load it anew before it is captured");
                return Err(Error::new(ErrorKind::CommandFailed, context).into());
            }
            Seen::Running | Seen::None => begun = true,
        }
        if Instant::now() >= until {
            let context = format!(
                "Sysprep still runs on {to} after {} min; look at it: vclctl computer screenshot {}",
                guest.limits.command.max(AT_LEAST).as_secs() / 60,
                guest.computer.name
            );
            return Err(Error::new(ErrorKind::Deadline, context).into());
        }
        sleep(pace.look).await; // why: Sysprep tells nobody how far it is
    }
}

/// One exchange with the guest: begin it, or ask how far it is.
async fn ask(guest: Guest<'_>, begun: bool, parameters: &Value, pace: Pace, cx: &Cx) -> Result<Seen> {
    let to = guest.endpoint;
    let patience = Patience::of(reach::NOW.min(pace.gone));
    let remote = reach::reach(guest.remotes, to, patience, cx.token()).await?;
    let (script, parameters) = if begun { (SYSPREP_LOOK, &json!({})) } else { (SYSPREP, parameters) };
    if !begun {
        cx.check().await.map_err(|e| {
            let kind =
                if e.kind == vcl_job::Kind::Cancelled { ErrorKind::Cancelled } else { ErrorKind::Local };
            Error::caused(kind, format!("Sysprep was not begun on {to}"), e)
        })?;
    }
    let limit = guest.limits.command.min(Duration::from_secs(120));
    let command = script.command(parameters).limit(limit).cancel(cx.token());
    let answer = Answer::of(remote.run(command).await?, to, "sysprep")?;
    let state = answer.told("state").next().map(str::to_owned);
    match state.as_deref() {
        Some("running") => Ok(Seen::Running),
        // Told by the look alone, for that is what the guest waits for before it goes.
        Some("ok") if !begun => Ok(Seen::Running),
        Some("ok") => Ok(Seen::Worked),
        Some("failed" | "died") => Ok(Seen::Failed(answer)),
        Some("none") => Ok(Seen::None),
        other => {
            let said = other.unwrap_or("nothing");
            let context = format!("{to} says `{said}` when it is asked how far Sysprep is");
            Err(Error::new(ErrorKind::CommandFailed, context))
        }
    }
}

async fn done(guest: Guest<'_>, end: EndState, cx: &Cx) -> Result<(), vcl_job::Error> {
    guest.remotes.forget(guest.endpoint).await;
    if end == EndState::On {
        reach::reach(guest.remotes, guest.endpoint, Patience::of(reach::AGAIN), cx.token()).await?;
    }
    Ok(())
}

/// Nobody has answered for long.
fn without_an_answer(
    guest: Guest<'_>,
    end: EndState,
    may_have_begun: bool,
    e: Error,
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let to = guest.endpoint;
    if may_have_begun && end != EndState::On && (e.kind.is_unreachable() || e.kind == ErrorKind::Deadline) {
        cx.event("capture-note", format!("{to} does not answer any more, as it should be: {e}"));
        return Ok(());
    }
    Err(e.into())
}

fn word(end: EndState) -> &'static str {
    match end {
        EndState::Off => "off",
        EndState::On => "on",
        EndState::Reboot => "reboot",
    }
}

/// What the guest's logs say, as events, and the error that names the cause.
fn failed(guest: Guest<'_>, answer: &Answer, cx: &Cx) -> Error {
    let to = guest.endpoint;
    let errors = answer.texts("error");
    for line in &errors {
        cx.event("sysprep-error", line);
    }
    let log = answer.texts("log");
    if !log.is_empty() {
        let tail: Vec<_> = log.iter().rev().take(10).rev().map(String::as_str).collect();
        cx.event("sysprep-log", format!("setupact.log ends with: {}", tail.join(" / ")));
    }
    let detail = answer.told("detail").next().unwrap_or(match answer.told("state").next() {
        Some("died") => "it was ended, or the guest was restarted, before it was done; restart it or load it anew before the next attempt",
        _ => "it does not say why",
    });
    let mut context = format!("Sysprep failed on {to}: {detail}");
    if let Some(way_out) = errors.iter().find_map(|line| way_out(line)) {
        context.push_str("; ");
        context.push_str(&way_out);
    }
    let last: Vec<_> = errors.iter().rev().take(3).rev().map(String::as_str).collect();
    if !last.is_empty() {
        context.push_str("; setuperr.log: ");
        context.push_str(&last.join(" / "));
    }
    Error::new(ErrorKind::CommandFailed, context)
}

/// What is known to help against what Sysprep says in its log.
fn way_out(line: &str) -> Option<String> {
    let low = line.to_ascii_lowercase();
    let has = |text: &str| low.contains(text);
    if has("but not provisioned for all users") {
        // `… Package NAME_1.0_x64__abc was installed for a user, but not provisioned for all users.`
        let name = low.find("package ").map(|at| &line[at + 8..]).and_then(|rest| rest.split(' ').next());
        let name = name.filter(|n| !n.is_empty()).unwrap_or("NAME");
        return Some(format!(
            "remove the app first, in the guest: Remove-AppxPackage -AllUsers -Package {name}"
        ));
    }
    let known: &[(&[&str], &str)] = &[
        (
            &["re-arm", "rearm", "0xc004d307"],
            "its licence cannot be re-armed again: set windows.skip_rearm = true",
        ),
        (&["bitlocker", "0x80310039"], "decrypt its disk first, in the guest: manage-bde -off C:"),
        (
            &["updates that require a reboot", "pending reboot", "0x80070bc2"],
            "restart it and let its updates finish",
        ),
        (&["0x800f0975", "reserved storage"], "Windows is servicing itself; wait until its updates are done"),
        (
            &["machine is in an invalid state", "couldn't update the recorded state"],
            "an earlier Sysprep left it half done; load it anew",
        ),
        (&["audit mode can't be turned on"], "restart it, then capture it again"),
    ];
    known.iter().find(|(signs, _)| signs.iter().any(|sign| has(sign))).map(|(_, help)| (*help).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sysprep_says_has_a_way_out() {
        let package = "2026-03-01 10:00:01, Error SYSPRP Package Microsoft.BingNews_4.55_x64__8wekyb3d8bbwe was installed \
             for a user, but not provisioned for all users. This package will not function properly in the sysprep image.";
        let said = way_out(package).unwrap();
        assert!(said.ends_with("-Package Microsoft.BingNews_4.55_x64__8wekyb3d8bbwe"), "{said}");
        for (line, word) in [
            ("SYSPRP Sysprep_Generalize_Licensing: re-arm count exceeded 0xC004D307", "skip_rearm"),
            ("BitLocker-Sysprep: BitLocker is on for the OS volume. 0x80310039", "manage-bde"),
            ("Error SYSPRP There are one or more Windows updates that require a reboot.", "restart"),
            ("hr = 0x800F0975", "servicing"),
            (
                "Machine is in an invalid state or we couldn't update the recorded state, dwRet = 0x1f",
                "load it anew",
            ),
        ] {
            assert!(way_out(line).unwrap().contains(word), "{line}");
        }
        assert_eq!(way_out("SYSPRP ActionPlatform::LaunchModule: Failure occurred"), None);
    }
}
