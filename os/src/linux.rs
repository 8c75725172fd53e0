//! Linux guests: any with a POSIX shell, an ssh server and, to be captured, systemd, OpenRC or System V init.
//!
//! What is done in the guest stands in `linux/*.sh`, a script for each step, sent whole over one connection. Each step
//! may run again: the scripts change only what is not yet as it should be.
//!
//! ```text
//!  post_load     wait for ssh → [give identity] → set up guest → run post_load hooks
//!  pre_capture   run pre_capture hooks → generalise → finish
//!  grant         find hooks → grant access → [run reserve hooks → open access]
//! ```
//!
//! What a reservation puts into a guest, and how it goes again without anybody being told what it was, is `access.rs`.
//!
//! # A capture that is interrupted
//!
//! `generalise` first arms a flag in the guest: from then on any copy of its disk replaces its ssh host keys and its
//! machine-id when it boots, before its ssh server answers. What `finish` removes is removed so that an image holds no
//! private keys; safety does not hang on it. So, for a death of the daemon or of the connection
//!
//! * before or during `generalise`: it runs again and finds less to do;
//! * between the two: the guest still has its keys and lets us in;
//! * before `finish` is sent: it is sent by the next life;
//! * while or after it runs: it goes on without us. The next life finds nobody there, which for [`EndState::Off`] and
//!   [`EndState::Reboot`] is what was wanted (and the backend looks at the power state anyway), or a machine that still
//!   runs, in which it is sent again; or, after a reboot, a machine with another identity or without the flag.
//! * If the capture is given up after `generalise`, the machine goes on as who it was: `post_load` takes the flag off a
//!   guest that has not been booted since.
//!
//! # End states
//!
//! [`EndState::On`] leaves the machine reachable with the keys it had: they stay on its disk, to be replaced by a copy
//! when it boots, and so they are in the image. Its machine-id is empty on the disk while the running system keeps its
//! own. It makes itself a new identity when it is next booted, like every copy.

mod access;
mod hooks;
pub mod nat;
mod script;

use crate::answer::Answer;
use crate::hooks::{POST_LOAD, PRE_CAPTURE, list};
use crate::reach::{self, Patience};
use crate::{Command, EndState, Error, ErrorKind, Guest, Os, Output, Result, SiteScript, Survey};
use async_trait::async_trait;
use camino::Utf8Path;
use script::{FINISH as FINISH_SCRIPT, GENERALISE as GENERALISE_SCRIPT, IDENTITY, SANITIZE, SETUP};
use serde_json::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{AnyStep, Cx, Job, Step, TRANSIENT, Undo, minutes, undo_in};
use vcl_types::{
    Access, AccountName, Endpoint, HostKey, HostKeys, Identity, KeySource, OsName, Secret, Session,
};

/// The names of the files of a stage's directory that are run in a Linux guest, in order; without a directory there are none.
///
/// # Errors
/// When a directory that is there cannot be read.
pub fn hooks_of(hooks: Option<&Utf8Path>, stage: &str) -> vcl_job::Result<Vec<String>> {
    list(hooks, stage, hooks::is_hook, &|_| {})
}

/// The OS module for Linux guests.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linux;

/// What `post_load` has a shell of the guest run to set it up, for whoever wants to do the same by hand: a bench.
#[must_use]
pub fn set_up_script(computer: &str) -> String {
    SETUP.input("", &[("NAME", computer.to_owned())])
}

// The longest that any of them may take; `Limits` is what usually ends them.
const WAIT_FOR_SSH: Step<Linux, ()> = Step::new("wait for ssh").deadline(minutes(120));
const GIVE_IDENTITY: Step<Linux, ()> = Step::new("give identity").deadline(minutes(30)).retry(TRANSIENT);
const SET_UP: Step<Linux, ()> = Step::new("set up guest").deadline(minutes(30)).retry(TRANSIENT);
const POST_LOAD_HOOKS: Step<Linux, Vec<String>> =
    Step::new("run post_load hooks").deadline(minutes(240)).retry(TRANSIENT);
const PRE_CAPTURE_HOOKS: Step<Linux, Vec<String>> =
    Step::new("run pre_capture hooks").deadline(minutes(240)).retry(TRANSIENT);
const GENERALISE: Step<Linux, ()> = Step::new("generalise").deadline(minutes(60)).retry(TRANSIENT);
const FINISH: Step<Linux, EndState> = Step::new("finish").deadline(minutes(15)).retry(TRANSIENT);
const SANITISE: Step<Linux, ()> = Step::new("sanitize").deadline(minutes(30)).retry(TRANSIENT);

/// Every step there is and was. None has anything to undo: the disk that they work on is thrown away, or goes on.
const STEPS: &[&dyn AnyStep<Linux>] = &[
    &WAIT_FOR_SSH,
    &GIVE_IDENTITY,
    &SET_UP,
    &POST_LOAD_HOOKS,
    &PRE_CAPTURE_HOOKS,
    &GENERALISE,
    &FINISH,
    &SANITISE,
    &access::STEPS.find,
    &access::STEPS.grant,
    &access::STEPS.hooks,
    &access::STEPS.open,
];

#[async_trait]
impl Undo for Linux {
    async fn undo(&self, step: &str, intent: Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Os for Linux {
    fn name(&self) -> OsName {
        OsName::Linux
    }

    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        let finish = match end {
            None => {
                return vec![
                    (WAIT_FOR_SSH.name(), "wait until the guest lets us in"),
                    (
                        GIVE_IDENTITY.name(),
                        "new ssh host keys and machine-id, if its image could not make them",
                    ),
                    (SET_UP.name(), "set its hostname and pin its ssh host keys"),
                    (POST_LOAD_HOOKS.name(), "run the site's post_load.d in it"),
                ];
            }
            Some(EndState::Off) => "take its ssh host keys and machine-id and power it off",
            Some(EndState::Reboot) => "take its ssh host keys and machine-id and reboot it",
            Some(EndState::On) => "take its machine-id off the disk and leave it on",
        };
        vec![
            (PRE_CAPTURE_HOOKS.name(), "run the site's pre_capture.d in it"),
            (
                GENERALISE.name(),
                "take out leases, logs, histories, seeds and whatever else names this machine",
            ),
            (FINISH.name(), finish),
        ]
    }

    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        let hooks =
            list(guest.hooks, POST_LOAD, hooks::is_hook, &|message| job.event("hook-skipped", message))?;
        let mut endpoint = job
            .step(self, &WAIT_FOR_SSH, ())
            .run(async |(), cx: Cx| Ok(self.wait_ready(guest, cx.token()).await?))
            .await?;
        if !guest.generalised {
            let to = &endpoint;
            let keys = job
                .step(self, &GIVE_IDENTITY, ())
                .run(async |(), cx: Cx| {
                    let answer =
                        reach::in_step(guest, to, IDENTITY.command(to, &[]), "give identity", &cx).await?;
                    Ok(answer.host_keys())
                })
                .await?;
            // Until the new ones are in place it shows the old ones. Both were told by the machine itself.
            endpoint.host_keys.keys.extend(keys);
        }
        let to = &endpoint;
        endpoint =
            job.step(self, &SET_UP, ()).run(async |(), cx: Cx| Ok(set_up(guest, to, &cx).await?)).await?;
        let to = &endpoint;
        job.step(self, &POST_LOAD_HOOKS, hooks)
            .run(async |names, cx: Cx| hooks::run(guest, to, POST_LOAD, &names, &cx).await)
            .await?;
        Ok(endpoint)
    }

    async fn pre_capture(
        &self,
        job: &mut Job,
        guest: Guest<'_>,
        end: EndState,
    ) -> Result<(), vcl_job::Error> {
        let hooks =
            list(guest.hooks, PRE_CAPTURE, hooks::is_hook, &|message| job.event("hook-skipped", message))?;
        job.step(self, &PRE_CAPTURE_HOOKS, hooks)
            .run(async |names, cx: Cx| hooks::run(guest, guest.endpoint, PRE_CAPTURE, &names, &cx).await)
            .await?;
        job.step(self, &GENERALISE, ())
            .run(async |(), cx: Cx| {
                let to = guest.endpoint;
                let command = GENERALISE_SCRIPT.command(to, &script::generalise(false));
                let answer = reach::in_step(guest, to, command, "generalise", &cx).await?;
                for note in answer.told("note") {
                    cx.event("capture-note", note);
                }
                Ok(answer.summary("changed"))
            })
            .await?;
        job.step(self, &FINISH, end).run(async |end, cx: Cx| finish(guest, end, &cx).await).await
    }

    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error> {
        job.step(self, &SANITISE, ())
            .run(async |(), cx: Cx| {
                let to = guest.endpoint;
                let command = SANITIZE.command(to, &[("SELF", to.user.clone())]);
                let answer = reach::in_step(guest, to, command, "sanitize", &cx).await?;
                Ok(answer.summary("changed"))
            })
            .await?;
        Ok(())
    }

    fn plan_grant(&self) -> Vec<(&'static str, &'static str)> {
        access::STEPS.plan()
    }

    async fn grant(&self, job: &mut Job, guest: Guest<'_>, access: &Access) -> Result<(), vcl_job::Error> {
        access::grant(self, job, guest, access).await
    }

    async fn password(&self, guest: Guest<'_>, account: &AccountName, password: &Secret) -> Result<()> {
        access::password(guest, account, password).await
    }

    async fn sessions(&self, guest: Guest<'_>) -> Result<Vec<Session>> {
        access::sessions(guest).await
    }

    async fn tell(&self, guest: Guest<'_>, text: &str) -> Result<()> {
        access::tell(guest, text).await
    }

    async fn identity(&self, guest: Guest<'_>) -> Result<Identity> {
        access::identity(guest).await
    }

    async fn shutdown(&self, guest: Guest<'_>) -> Result<()> {
        power(guest, EndState::Off).await
    }

    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        power(guest, EndState::Reboot).await
    }

    async fn wait_ready(&self, guest: Guest<'_>, cancel: &CancellationToken) -> Result<Endpoint> {
        let patience = Patience::of(guest.limits.boot);
        let remote = reach::reach(guest.remotes, guest.endpoint, patience, cancel).await?;
        let mut endpoint = guest.endpoint.clone();
        if endpoint.host_keys.keys.is_empty() {
            endpoint.host_keys = HostKeys { keys: vec![remote.host_key()], source: KeySource::FirstUse };
        }
        Ok(endpoint)
    }

    async fn exec(&self, guest: Guest<'_>, command: Command) -> Result<Output> {
        let patience = Patience::of(guest.limits.command.min(reach::NOW));
        let remote = reach::reach(guest.remotes, guest.endpoint, patience, &command.cancel).await?;
        remote.run(command).await
    }

    async fn run_script(
        &self,
        guest: Guest<'_>,
        script: SiteScript<'_>,
        cancel: &CancellationToken,
    ) -> Result<Output> {
        hooks::run_script(guest, script, cancel).await
    }

    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        let cancel = CancellationToken::new();
        let (parameters, limit) = (script::generalise(true), guest.limits.command);
        let patience = Patience::of(limit.min(reach::NOW));
        let remote = reach::reach(guest.remotes, guest.endpoint, patience, &cancel).await?;
        let command = GENERALISE_SCRIPT.command(guest.endpoint, &parameters).limit(limit);
        let answer = Answer::of(remote.run(command).await?, guest.endpoint, "survey")?;
        let mut would_keep = answer.texts("keep");
        would_keep.extend(answer.texts("note"));
        Ok(Survey { would_change: answer.summary("changed"), would_keep })
    }
}

/// Answers the endpoint with all its keys pinned.
async fn set_up(guest: Guest<'_>, to: &Endpoint, cx: &Cx) -> Result<Endpoint, vcl_job::Error> {
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, to, patience, cx.token()).await?;
    cx.check().await?;
    let parameters = [("NAME", guest.computer.name.to_string())];
    let command = SETUP.command(to, &parameters).limit(guest.limits.command).cancel(cx.token());
    let answer = Answer::of(remote.run(command).await?, to, "set up guest")?;
    let mut keys = answer.host_keys();
    if guest.generalised {
        // A server may have its keys where the script does not look; the one that it shows is one of them.
        add(&mut keys, remote.host_key());
    } else if keys.is_empty() {
        let context =
            format!("{to} has no ssh host keys where they should be, so it could not be given new ones");
        return Err(Error::new(ErrorKind::CommandFailed, context).into());
    }
    let source = match to.host_keys.source {
        KeySource::FirstUse => KeySource::Pinned,
        known => known,
    };
    let pinned = Endpoint { host_keys: HostKeys { keys, source }, ..to.clone() };
    drop(remote);
    if !guest.generalised {
        // Its server still may show the old keys for a moment.
        guest.remotes.forget(to).await;
        let patience = Patience::for_new_keys(reach::AGAIN);
        reach::reach(guest.remotes, &pinned, patience, cx.token()).await?;
    }
    Ok(pinned)
}

fn add(keys: &mut Vec<HostKey>, key: HostKey) {
    if !keys.contains(&key) {
        keys.push(key);
    }
}

/// The last step of a capture in the guest.
async fn finish(guest: Guest<'_>, end: EndState, cx: &Cx) -> Result<(), vcl_job::Error> {
    let to = guest.endpoint;
    let patience = if cx.again() { Duration::from_secs(10) } else { reach::AGAIN };
    let remote = match reach::reach(guest.remotes, to, Patience::of(patience), cx.token()).await {
        Ok(remote) => remote,
        // It was sent before, and it goes on without us.
        Err(e) if cx.again() && is_gone(end, e.kind) => {
            cx.event("capture-note", format!("{to} does not answer any more, as it should be: {e}"));
            return Ok(());
        }
        Err(e) => return Err(e.into()),
    };
    cx.check().await?;
    let parameters = script::finish("take", end);
    let command = FINISH_SCRIPT.command(to, &parameters).limit(Duration::from_secs(60)).cancel(cx.token());
    let output = remote.run(command).await.map_err(|e| {
        // A machine that goes down under the command may not even say so. Another try finds out.
        if e.kind == ErrorKind::Deadline { e.of_kind(ErrorKind::Lost) } else { e }
    })?;
    Answer::of(output, to, "finish")?;
    drop(remote);
    guest.remotes.forget(to).await;
    if end == EndState::On {
        reach::reach(guest.remotes, to, Patience::of(reach::AGAIN), cx.token()).await?;
    }
    Ok(())
}

/// Whether a guest that was told to go has gone.
fn is_gone(end: EndState, kind: ErrorKind) -> bool {
    match end {
        EndState::Off => kind.is_unreachable(),
        // Or it is back already, as somebody else.
        EndState::Reboot => kind.is_unreachable() || kind == ErrorKind::HostKeyChanged,
        EndState::On => false,
    }
}

async fn power(guest: Guest<'_>, end: EndState) -> Result<()> {
    let cancel = CancellationToken::new();
    let limit = guest.limits.command.min(reach::NOW);
    let remote = reach::reach(guest.remotes, guest.endpoint, Patience::of(limit), &cancel).await?;
    let command = FINISH_SCRIPT.command(guest.endpoint, &script::finish("keep", end)).limit(limit);
    Answer::of(remote.run(command).await?, guest.endpoint, "power").map(|_| ())
}

#[cfg(test)]
mod tests;
