//! Windows guests: any with OpenSSH server and Windows PowerShell 5.1.
//!
//! What is done in the guest stands in `windows/*.ps1`, a script for each step, sent whole over one connection (see
//! `script.rs` for how). Each step may run again: the scripts change only what is not yet as it should be.
//!
//! ```text
//!  post_load     wait for ssh → wait for setup → [give identity] → set up guest → [restart guest] → [activate] →
//!                run post_load hooks
//!  pre_capture   run pre_capture hooks → check sysprep → generalise → sysprep
//!  grant         find hooks → grant access → [run reserve hooks → open access]
//! ```
//!
//! # Sysprep
//!
//! It is run by a task of the guest's system, for two reasons: generalising takes the network away for a while, and an ssh
//! server ends what its sessions started. The task tells it to `/quit` whatever the end state is, and shuts down or
//! restarts the machine itself, once the image state says that it worked: so the machine can still be asked why when it
//! did not, and its host keys go only when nobody needs them any more. What the task has to say stands in the guest's
//! registry, and what Sysprep wrote into its Panther logs is read back.
//!
//! # A capture that is interrupted
//!
//! For a death of the daemon or of the connection
//!
//! * before Sysprep is begun: the steps run again and find less to do;
//! * while it runs: it goes on. The next life finds a run of this boot and begins no second one;
//! * after it worked: the task waits a minute for somebody to hear it, then the machine goes off or restarts, and the next
//!   life finds nobody there, which is what was wanted (the backend looks at the power state anyway), or somebody else;
//! * if it failed, the machine is who it was and answers; `clean.ps1` has taken caches and logs and nothing that it needs.
//! * A capture that is called off while Sysprep runs cuts it short: that guest may have to be loaded anew. After Sysprep
//!   has worked, the machine makes itself a new identity when it is started, like every copy.
//!
//! # End states
//!
//! `Off` and `Reboot` are reached after Sysprep worked and the host keys are gone. With `On` the machine stays reachable
//! with the keys it had, which are then in the image: the unattend file has every copy make new ones before its setup ends,
//! and where a site's own file does not, `post_load` finds the keys of the captured machine and replaces them.

mod access;
mod hooks;
mod script;
mod settings;
mod setup;
mod sysprep;

pub use settings::{Settings, windows_name};

use crate::answer::Answer;
use crate::hooks::{POST_LOAD, PRE_CAPTURE, list};
use crate::reach::{self, Patience};
use crate::{Command, EndState, Guest, Os, Output, Result, Survey};
use async_trait::async_trait;
use script::{CHECK, CLEAN, IDENTITY, JOURNAL, POWER, SANITIZE, Script};
use serde_json::{Value, json};
use setup::Ready;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use vcl_job::{AnyStep, Cx, Job, Kind, Step, TRANSIENT, Undo, minutes, undo_in};
use vcl_types::{Access, AccountName, Endpoint, HostKeys, Identity, KeySource, OsName, Secret, Session};

/// The OS module for Windows guests.
#[derive(Debug, Clone, Default)]
pub struct Windows {
    settings: Arc<Settings>,
    pace: sysprep::Pace,
}

// The longest that any of them may take; `Limits` is what usually ends them.
const WAIT_FOR_SSH: Step<Windows, ()> = Step::new("wait for ssh").deadline(minutes(120));
const WAIT_FOR_SETUP: Step<Windows, ()> = Step::new("wait for setup").deadline(minutes(120)).retry(TRANSIENT);
const GIVE_IDENTITY: Step<Windows, ()> = Step::new("give identity").deadline(minutes(30)).retry(TRANSIENT);
const SET_UP: Step<Windows, ()> = Step::new("set up guest").deadline(minutes(60)).retry(TRANSIENT);
/// Its intent is the start that is to end, so that a guest that was restarted is not restarted again.
const RESTART: Step<Windows, String> = Step::new("restart guest").deadline(minutes(120)).retry(TRANSIENT);
const ACTIVATE: Step<Windows, ()> = Step::new("activate").deadline(minutes(30)).retry(TRANSIENT);
const POST_LOAD_HOOKS: Step<Windows, Vec<String>> =
    Step::new("run post_load hooks").deadline(minutes(240)).retry(TRANSIENT);
const PRE_CAPTURE_HOOKS: Step<Windows, Vec<String>> =
    Step::new("run pre_capture hooks").deadline(minutes(240)).retry(TRANSIENT);
const CHECK_SYSPREP: Step<Windows, ()> = Step::new("check sysprep").deadline(minutes(30)).retry(TRANSIENT);
const GENERALISE: Step<Windows, ()> = Step::new("generalise").deadline(minutes(120)).retry(TRANSIENT);
const SYSPREP: Step<Windows, EndState> = Step::new("sysprep").deadline(minutes(180)).retry(TRANSIENT);
const SANITISE: Step<Windows, ()> = Step::new("sanitize").deadline(minutes(30)).retry(TRANSIENT);

/// Every step there is and was. None has anything to undo: the disk that they work on is thrown away, or goes on.
const STEPS: &[&dyn AnyStep<Windows>] = &[
    &WAIT_FOR_SSH,
    &WAIT_FOR_SETUP,
    &GIVE_IDENTITY,
    &SET_UP,
    &RESTART,
    &ACTIVATE,
    &POST_LOAD_HOOKS,
    &PRE_CAPTURE_HOOKS,
    &CHECK_SYSPREP,
    &GENERALISE,
    &SYSPREP,
    &SANITISE,
    &access::STEPS.find,
    &access::STEPS.grant,
    &access::STEPS.hooks,
    &access::STEPS.open,
];

impl Windows {
    /// The module with a site's settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), pace: sysprep::Pace::default() }
    }
    /// The same, for tests: looks at Sysprep that often, and takes a guest for gone that has not answered for so long.
    #[must_use]
    pub fn paced(mut self, look: std::time::Duration, gone: std::time::Duration) -> Self {
        self.pace = sysprep::Pace { look, gone };
        self
    }
    /// What has a guest show its event logs and the logs of Setup and Sysprep, for the evidence of a failure.
    #[must_use]
    pub fn journal() -> Command {
        JOURNAL.command(&json!({}))
    }
    /// Whether a step of that name is one of this module.
    #[must_use]
    pub fn has_step(name: &str) -> bool {
        STEPS.iter().any(|step| step.name() == name)
    }
}

#[async_trait]
impl Undo for Windows {
    async fn undo(&self, step: &str, intent: Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Os for Windows {
    fn name(&self) -> OsName {
        OsName::Windows
    }

    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        let last = match end {
            None => {
                let mut steps = vec![
                    (WAIT_FOR_SSH.name(), "wait until the guest lets us in"),
                    (WAIT_FOR_SETUP.name(), "wait until Windows has set itself up"),
                    (GIVE_IDENTITY.name(), "new ssh host keys, if its image could not make them"),
                    (SET_UP.name(), "set its name, network, firewall and accounts and pin its ssh host keys"),
                    (RESTART.name(), "restart it, if its name or its ssh host keys are new"),
                ];
                if self.settings.activates() {
                    steps.push((ACTIVATE.name(), "activate Windows"));
                }
                steps.push((POST_LOAD_HOOKS.name(), "run the site's post_load.d in it"));
                return steps;
            }
            Some(EndState::Off) => "run Sysprep, take its ssh host keys and shut it down",
            Some(EndState::Reboot) => "run Sysprep, take its ssh host keys and restart it",
            Some(EndState::On) => "run Sysprep and leave it on",
        };
        vec![
            (PRE_CAPTURE_HOOKS.name(), "run the site's pre_capture.d in it"),
            (CHECK_SYSPREP.name(), "look for what Sysprep would refuse"),
            (GENERALISE.name(), "take out caches, logs, histories, the page file and profiles of nobody"),
            (SYSPREP.name(), last),
        ]
    }

    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        let hooks =
            list(guest.hooks, POST_LOAD, hooks::is_hook, &|message| job.event("hook-skipped", message))?;
        let mut endpoint = job
            .step(self, &WAIT_FOR_SSH, ())
            .run(async |(), cx: Cx| Ok(self.wait_ready(guest, cx.token()).await?))
            .await?;
        let to = &endpoint;
        endpoint = job
            .step(self, &WAIT_FOR_SETUP, ())
            .run(async |(), cx: Cx| Ok(setup::wait_for_setup(guest, to, self.pace.look, &cx).await?))
            .await?;
        if !guest.generalised {
            let to = &endpoint;
            let keys = job
                .step(self, &GIVE_IDENTITY, ())
                .run(async |(), cx: Cx| {
                    let answer =
                        reach::in_step(guest, to, IDENTITY.command(&json!({})), "give identity", &cx).await?;
                    Ok(answer.host_keys())
                })
                .await?;
            // Until it is restarted it shows the old ones. Both were told by the machine itself.
            endpoint.host_keys.keys.extend(keys);
        }
        let to = &endpoint;
        let ready: Ready =
            job.step(self, &SET_UP, ()).run(async |(), cx: Cx| setup::set_up(guest, to, &cx).await).await?;
        if !ready.restart.is_empty() {
            let ready = &ready;
            job.step(self, &RESTART, ready.boot.clone())
                .run(async |boot, cx: Cx| {
                    Ok(setup::restart(guest, to, ready, &boot, self.pace.look, &cx).await?)
                })
                .await?;
        }
        endpoint = ready.endpoint;
        let to = &endpoint;
        if self.settings.activates() {
            job.step(self, &ACTIVATE, ())
                .run(async |(), cx: Cx| setup::activate(guest, to, &self.settings, &cx).await)
                .await?;
        }
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
        let to = guest.endpoint;
        job.step(self, &PRE_CAPTURE_HOOKS, hooks)
            .run(async |names, cx: Cx| hooks::run(guest, to, PRE_CAPTURE, &names, &cx).await)
            .await?;
        job.step(self, &CHECK_SYSPREP, ())
            .run(async |(), cx: Cx| {
                let parameters = json!({ "skip_rearm": self.settings.skip_rearm });
                let answer =
                    reach::in_step(guest, to, CHECK.command(&parameters), "check sysprep", &cx).await?;
                for note in answer.texts("note") {
                    cx.event("capture-note", note);
                }
                let stops = answer.texts("stop");
                if stops.is_empty() {
                    return Ok(());
                }
                let context = format!("Sysprep would fail on {to}: {}", stops.join("; "));
                Err(vcl_job::Error::new(Kind::Refused, context))
            })
            .await?;
        job.step(self, &GENERALISE, ())
            .run(async |(), cx: Cx| {
                let parameters = json!({ "dry": false, "user": to.user });
                let answer = reach::in_step(guest, to, CLEAN.command(&parameters), "generalise", &cx).await?;
                for note in answer.texts("note") {
                    cx.event("capture-note", note);
                }
                Ok(answer.summary("changed"))
            })
            .await?;
        job.step(self, &SYSPREP, end)
            .run(async |end, cx: Cx| sysprep::run(guest, &self.settings, end, self.pace, &cx).await)
            .await
    }

    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error> {
        job.step(self, &SANITISE, ())
            .run(async |(), cx: Cx| {
                let to = guest.endpoint;
                let parameters = json!({ "user": to.user });
                let answer =
                    reach::in_step(guest, to, SANITIZE.command(&parameters), "sanitize", &cx).await?;
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
        power(guest, "off").await
    }

    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        power(guest, "reboot").await
    }

    async fn wait_ready(&self, guest: Guest<'_>, cancel: &CancellationToken) -> Result<Endpoint> {
        // Its ssh server is up before its account is: while it sets itself up it may refuse us for minutes.
        let patience = match guest.generalised {
            true => Patience::for_accounts(guest.limits.boot),
            false => Patience::of(guest.limits.boot),
        };
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

    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        let to = guest.endpoint;
        let (cancel, limit) = (CancellationToken::new(), guest.limits.command);
        let patience = Patience::of(limit.min(reach::NOW));
        let remote = reach::reach(guest.remotes, to, patience, &cancel).await?;
        let ask = async |script: Script, parameters: Value| {
            Answer::of(remote.run(script.command(&parameters).limit(limit)).await?, to, "survey")
        };
        let check = ask(CHECK, json!({ "skip_rearm": self.settings.skip_rearm })).await?;
        let clean = ask(CLEAN, json!({ "dry": true, "user": to.user })).await?;
        let mut would_keep = clean.texts("keep");
        would_keep.extend(check.texts("stop").into_iter().map(|stop| format!("Sysprep would fail: {stop}")));
        would_keep.extend(check.texts("note"));
        would_keep.extend(clean.texts("note"));
        Ok(Survey { would_change: clean.summary("changed"), would_keep })
    }
}

async fn power(guest: Guest<'_>, end: &str) -> Result<()> {
    let cancel = CancellationToken::new();
    let limit = guest.limits.command.min(reach::NOW);
    let remote = reach::reach(guest.remotes, guest.endpoint, Patience::of(limit), &cancel).await?;
    let command = POWER.command(&json!({ "end": end, "boot": null })).limit(limit);
    Answer::of(remote.run(command).await?, guest.endpoint, "power").map(|_| ())
}

#[cfg(test)]
mod tests;
