//! What makes a loaded guest ready: its own setup, its name and keys, a restart where they ask for one, its licence.

use super::script::{ACTIVATE, POWER, SETUP, STATE};
use super::settings::{Settings, windows_name};
use crate::answer::Answer;
use crate::reach::{self, Patience};
use crate::{Error, ErrorKind, Guest, Remote, Result};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use vcl_job::Cx;
use vcl_types::{Endpoint, HostKey, HostKeys, KeySource};

const COMPLETE: &str = "IMAGE_STATE_COMPLETE";
/// Setup's word for a phase that is not complete: the failure of one that does not run any more, and nothing at all while it
/// runs (Microsoft, "Windows Setup States").
const UNDEPLOYABLE: &str = "IMAGE_STATE_UNDEPLOYABLE";
/// How many looks in a row have to find it failed: between two phases nothing runs for a moment.
const FAILED_LOOKS: u32 = 3;

/// What `set up guest` found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ready {
    /// Where it answers once it has been restarted, if it has to be.
    pub(super) endpoint: Endpoint,
    /// The start that it is in.
    pub(super) boot: String,
    /// Why it has to be restarted.
    pub(super) restart: Vec<String>,
}

/// Where Windows is with setting itself up.
struct State {
    image: String,
    busy: Vec<String>,
    boot: String,
    errors: Vec<String>,
    shows: HostKey,
}

impl State {
    fn is_complete(&self) -> bool {
        self.image == COMPLETE && self.busy.is_empty()
    }
    fn has_failed(&self) -> bool {
        self.image == UNDEPLOYABLE && self.busy.is_empty()
    }
    fn told(&self) -> String {
        match (self.image.as_str(), self.busy.join(", ")) {
            ("", busy) => format!("no image state, {busy}"),
            (image, busy) if busy.is_empty() => image.to_owned(),
            (image, busy) => format!("{image}, {busy}"),
        }
    }
}

async fn look(guest: Guest<'_>, to: &Endpoint, cx: &Cx) -> Result<State> {
    let remote: Arc<dyn Remote> =
        reach::reach(guest.remotes, to, Patience::of(reach::NOW), cx.token()).await?;
    let limit = guest.limits.command.min(Duration::from_secs(120));
    let command = STATE.command(&json!({})).limit(limit).cancel(cx.token());
    let answer = Answer::of(remote.run(command).await?, to, "looking how far setup is")?;
    let word = |kind| answer.told(kind).next().unwrap_or_default().to_owned();
    Ok(State {
        image: word("image"),
        busy: answer.texts("busy"),
        boot: word("boot"),
        errors: answer.texts("error"),
        shows: remote.host_key(),
    })
}

/// Waits until Windows has set itself up, over the restarts that belong to it, and answers the endpoint with the key that
/// it shows then.
pub(super) async fn wait_for_setup(
    guest: Guest<'_>,
    to: &Endpoint,
    pace: Duration,
    cx: &Cx,
) -> Result<Endpoint> {
    // A copy may make itself new keys while it sets itself up. Where nobody has told us which ones it has, the last ones
    // are as good as the first.
    let anybody = Endpoint { host_keys: HostKeys::first_use(), ..to.clone() };
    let first_use = guest.generalised && to.host_keys.source == KeySource::FirstUse;
    let ask = if first_use { &anybody } else { to };
    let state = settled(guest, ask, pace, cx, |_| true).await?;
    let mut endpoint = to.clone();
    if first_use {
        endpoint.host_keys = HostKeys { keys: vec![state.shows], source: KeySource::FirstUse };
    }
    Ok(endpoint)
}

/// Waits until setup is complete and the state is wanted.
async fn settled(
    guest: Guest<'_>,
    to: &Endpoint,
    pace: Duration,
    cx: &Cx,
    is_wanted: impl Fn(&State) -> bool,
) -> Result<State> {
    let until = Instant::now() + guest.limits.boot;
    let mut told = String::new();
    let mut failed = 0;
    loop {
        let looked = look(guest, to, cx).await;
        failed = if looked.as_ref().is_ok_and(State::has_failed) { failed + 1 } else { 0 };
        let trouble = match looked {
            Ok(state) if failed >= FAILED_LOOKS => {
                let said = match state.errors.is_empty() {
                    true => "its Panther logs say nothing".to_owned(),
                    false => format!("setuperr.log: {}", state.errors.join(" / ")),
                };
                let context = format!("Windows could not set itself up on {to} ({UNDEPLOYABLE}); {said}");
                return Err(Error::new(ErrorKind::CommandFailed, context));
            }
            Ok(state) if state.is_complete() && is_wanted(&state) => return Ok(state),
            Ok(state) => {
                let now = state.told();
                if !state.is_complete() && now != told {
                    cx.event("windows-setup", format!("{to} sets itself up: {now}"));
                }
                told = now;
                None
            }
            // It restarts on its way, and a script that is running then does not come to its end.
            Err(e)
                if e.kind.may_pass()
                    || matches!(e.kind, ErrorKind::CommandFailed | ErrorKind::LoginRefused) =>
            {
                Some(e)
            }
            Err(e) => return Err(e),
        };
        if Instant::now() >= until {
            let minutes = guest.limits.boot.as_secs() / 60;
            let last = if told.is_empty() { "it never told how far it was" } else { &told };
            let context = format!(
                "Windows did not finish setting itself up on {to} within {minutes} min, last: {last}; a first start \
                 takes long, see deadlines.boot"
            );
            return Err(match trouble {
                Some(e) => Error::caused(ErrorKind::Deadline, context, e),
                None => Error::new(ErrorKind::Deadline, context),
            });
        }
        sleep(pace).await; // why: a Windows that sets itself up tells nobody when it is done
    }
}

/// Gives it its name and its place, and answers what that means.
pub(super) async fn set_up(guest: Guest<'_>, to: &Endpoint, cx: &Cx) -> Result<Ready, vcl_job::Error> {
    let computer = guest.computer.name.as_str();
    let name = windows_name(computer);
    if name != computer {
        let message =
            format!("{computer} is called {name} in Windows, which takes no more than 15 characters");
        cx.event("computer-name-shortened", message);
    }
    let parameters = json!({
        "name": name,
        "computer": computer,
        "user": to.user,
        "port": 22,
        "generalised": guest.generalised,
        "identity": !guest.generalised,
    });
    let answer = reach::in_step(guest, to, SETUP.command(&parameters), "set up guest", cx).await?;
    for note in answer.texts("note") {
        cx.event("load-note", note);
    }
    let boot = answer.told("boot").next().unwrap_or_default().to_owned();
    let restart = answer.texts("restart");
    let new_keys = answer.told("keys").next() == Some("new");
    let mut keys = answer.host_keys();
    if !new_keys {
        // A server may have its keys where the script does not look; the one that it shows is one of them.
        let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
        let shown = reach::reach(guest.remotes, to, patience, cx.token()).await?.host_key();
        if !keys.contains(&shown) {
            keys.push(shown);
        }
    } else if keys.is_empty() {
        let context =
            format!("{to} has no ssh host keys where they should be, so it could not be given new ones");
        return Err(Error::new(ErrorKind::CommandFailed, context).into());
    }
    let source = match to.host_keys.source {
        KeySource::FirstUse => KeySource::Pinned,
        known => known,
    };
    let endpoint = Endpoint { host_keys: HostKeys { keys, source }, ..to.clone() };
    Ok(Ready { endpoint, boot, restart })
}

/// Restarts it, unless it was since, and waits until it is back.
pub(super) async fn restart(
    guest: Guest<'_>,
    to: &Endpoint,
    ready: &Ready,
    boot: &str,
    pace: Duration,
    cx: &Cx,
) -> Result<()> {
    // Its server shows its old keys or its new ones; they are its own either way.
    let mut either = ready.endpoint.clone();
    for key in &to.host_keys.keys {
        if !either.host_keys.keys.contains(key) {
            either.host_keys.keys.push(key.clone());
        }
    }
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, &either, patience, cx.token()).await?;
    cx.check()
        .await
        .map_err(|e| Error::caused(ErrorKind::Cancelled, format!("{to} was not restarted"), e))?;
    let command = POWER.command(&json!({ "end": "reboot", "boot": boot }));
    let command = command.limit(reach::NOW).cancel(cx.token());
    Answer::of(remote.run(command).await?, to, "restart")?;
    drop(remote);
    cx.event("restarting", format!("{to} is restarted for {}", ready.restart.join(" and ")));
    guest.remotes.forget(to).await;
    guest.remotes.forget(&either).await;
    settled(guest, &either, pace, cx, |state| state.boot != boot).await?;
    guest.remotes.forget(&either).await;
    // From now on nothing but the new ones.
    reach::reach(guest.remotes, &ready.endpoint, Patience::of(reach::AGAIN), cx.token()).await?;
    Ok(())
}

/// Activates Windows. That it could not be is an event, unless the site wants it to be a failure.
pub(super) async fn activate(
    guest: Guest<'_>,
    to: &Endpoint,
    settings: &Settings,
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let key = settings.product_key.as_ref();
    let parameters = json!({
        "key": key.map(|k| k.expose()),
        "host": settings.kms_host,
        "port": settings.kms_port,
    });
    let why = match reach::in_step(guest, to, ACTIVATE.command(&parameters), "activate", cx).await {
        Ok(answer) => match answer.told("failed").next() {
            None => return Ok(()),
            Some(why) => why.to_owned(),
        },
        Err(e) if e.kind == vcl_job::Kind::Fatal => e.failure().message,
        Err(e) => return Err(e),
    };
    // Whatever the guest made of it: a key does not get into a record.
    let why = match key {
        Some(key) => why.replace(key.expose(), "*****"),
        None => why,
    };
    let message = format!("Windows on {to} is not activated: {why}");
    if settings.require_activation {
        return Err(vcl_job::Error::new(vcl_job::Kind::Fatal, message));
    }
    cx.event("not-activated", message);
    Ok(())
}
