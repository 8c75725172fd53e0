//! What is done inside simulated guests: the steps of the Linux module, on the world instead of over ssh.
//!
//! The site's hooks are named and counted and not run: they are written for real guests. A guest's machine is found by
//! its computer's name.

use super::chance::Chance;
use super::machine::{Effect, Machine};
use super::vm::users;
use super::world::World;
use super::{host_key, machine_name, pace};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use vcl_job::{AnyStep, Job, Kind, Step, TRANSIENT, Undo, undo_in};
use vcl_os::linux::hooks_of;
use vcl_os::{
    Command, EndState, Error, ErrorKind, Guest, Os, Output, Result, SCRIPT_SAYS, SiteScript, Survey,
};
use vcl_types::{Access, AccountName, Endpoint, HostKeys, Identity, KeySource, OsName, Secret, Session};

pub(super) const PRE_CAPTURE: &str = "pre_capture";
const POST_LOAD: &str = "post_load";
const RESERVE: &str = "reserve";
const METHOD: &str = "method";

/// The OS module for simulated guests.
pub struct SimOs {
    world: Arc<World>,
    chance: Chance,
}

/// What the hooks of a stage are run on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hooks {
    machine: String,
    names: Vec<String>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Finish {
    machine: String,
    end: EndState,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Grant {
    machine: String,
    access: Access,
}

const WAIT_FOR_SSH: Step<SimOs, String> = Step::new("wait for ssh").retry(TRANSIENT);
const GIVE_IDENTITY: Step<SimOs, String> = Step::new("give identity").retry(TRANSIENT);
const SET_UP: Step<SimOs, String> = Step::new("set up guest").retry(TRANSIENT);
const POST_LOAD_HOOKS: Step<SimOs, Hooks> = Step::new("run post_load hooks").retry(TRANSIENT);
const PRE_CAPTURE_HOOKS: Step<SimOs, Hooks> = Step::new("run pre_capture hooks").retry(TRANSIENT);
const GENERALISE: Step<SimOs, String> = Step::new("generalise").retry(TRANSIENT);
const FINISH: Step<SimOs, Finish> = Step::new("finish").retry(TRANSIENT);
const GRANT: Step<SimOs, Grant> = Step::new("grant access").retry(TRANSIENT);
const RESERVE_HOOKS: Step<SimOs, Hooks> = Step::new("run reserve hooks").retry(TRANSIENT);
const METHOD_HOOKS: Step<SimOs, Hooks> = Step::new("run method hooks").retry(TRANSIENT);
const SANITISE: Step<SimOs, String> = Step::new("sanitize").retry(TRANSIENT);

/// Every step there is and was. None has anything to undo: the disk that they work on is thrown away, or goes on.
const STEPS: &[&dyn AnyStep<SimOs>] = &[
    &WAIT_FOR_SSH,
    &GIVE_IDENTITY,
    &SET_UP,
    &POST_LOAD_HOOKS,
    &PRE_CAPTURE_HOOKS,
    &GENERALISE,
    &FINISH,
    &SANITISE,
    &GRANT,
    &RESERVE_HOOKS,
    &METHOD_HOOKS,
];

impl SimOs {
    pub(super) fn new(world: Arc<World>, chance: Chance) -> Self {
        Self { world, chance }
    }

    async fn put(&self, machine: &str, effect: Effect) -> vcl_job::Result<()> {
        self.world.effect(machine, effect).await.map(drop)
    }

    fn throw_out(&self, machine: &str) -> vcl_job::Result<()> {
        let failed =
            |e| vcl_job::Error::caused(Kind::Fatal, format!("throwing the users of {machine} out"), e);
        self.world.throw_out(machine).map_err(failed)
    }

    /// A guest that is up, and the keys that it shows.
    async fn up(&self, machine: &str, endpoint: &Endpoint) -> Result<(Machine, Endpoint)> {
        let state = self.world.machine(machine).await;
        let state =
            state.map_err(|e| Error::caused(ErrorKind::Local, format!("looking for {machine}"), e))?;
        let Some(identity) = state.domain.as_ref().and_then(|d| d.booted.as_ref()) else {
            return Err(Error::new(
                ErrorKind::NoRoute,
                format!("{endpoint} does not answer: {machine} is not up"),
            ));
        };
        let key = host_key(identity);
        let pinned = &endpoint.host_keys.keys;
        if !pinned.is_empty() && !pinned.contains(&key) {
            let context = format!("{endpoint} shows another host key than it was pinned to; who is that?");
            return Err(Error::new(ErrorKind::HostKeyChanged, context));
        }
        let mut endpoint = endpoint.clone();
        if pinned.is_empty() {
            endpoint.host_keys = HostKeys { keys: vec![key], source: KeySource::FirstUse };
        }
        Ok((state, endpoint))
    }

    async fn run_hooks(
        &self,
        job: &mut Job,
        step: &'static Step<SimOs, Hooks>,
        stage: &str,
        hooks: Hooks,
    ) -> vcl_job::Result<()> {
        job.step(self, step, hooks)
            .run(async |hooks, cx| {
                pace(&self.world, &self.chance, &cx, &hooks.machine, step.name()).await?;
                for name in hooks.names {
                    cx.check().await?;
                    self.put(&hooks.machine, Effect::RunHook { stage: stage.to_owned(), name }).await?;
                }
                Ok(())
            })
            .await
    }

    /// `pre_capture` of a machine that is no computer's.
    pub(super) async fn generalise_machine(
        &self,
        job: &mut Job,
        machine: &str,
        names: Vec<String>,
        end: EndState,
    ) -> vcl_job::Result<()> {
        let hooks = Hooks { machine: machine.to_owned(), names };
        self.run_hooks(job, &PRE_CAPTURE_HOOKS, PRE_CAPTURE, hooks).await?;
        job.step(self, &GENERALISE, machine.to_owned())
            .run(async |machine, cx| {
                pace(&self.world, &self.chance, &cx, &machine, GENERALISE.name()).await?;
                self.put(&machine, Effect::Generalise).await
            })
            .await?;
        job.step(self, &FINISH, Finish { machine: machine.to_owned(), end })
            .run(async |finish, cx| {
                pace(&self.world, &self.chance, &cx, &finish.machine, FINISH.name()).await?;
                self.put(&finish.machine, Effect::Finish { end: finish.end }).await
            })
            .await
    }
}

#[async_trait]
impl Undo for SimOs {
    async fn undo(&self, step: &str, intent: Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Os for SimOs {
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
                    (POST_LOAD_HOOKS.name(), "note the site's post_load.d in it"),
                ];
            }
            Some(EndState::Off) => "take its ssh host keys and machine-id and power it off",
            Some(EndState::Reboot) => "take its ssh host keys and machine-id and reboot it",
            Some(EndState::On) => "leave it on",
        };
        vec![
            (PRE_CAPTURE_HOOKS.name(), "note the site's pre_capture.d in it"),
            (GENERALISE.name(), "take out what names this machine"),
            (FINISH.name(), finish),
        ]
    }

    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        let machine = machine_name(&guest.computer.name);
        let names = hooks_of(guest.hooks, POST_LOAD)?;
        let mut endpoint = job
            .step(self, &WAIT_FOR_SSH, machine.clone())
            .run(async |machine, cx| {
                pace(&self.world, &self.chance, &cx, &machine, WAIT_FOR_SSH.name()).await?;
                Ok(self.up(&machine, guest.endpoint).await?.1)
            })
            .await?;
        if !guest.generalised {
            let keys = job
                .step(self, &GIVE_IDENTITY, machine.clone())
                .run(async |machine, cx| {
                    pace(&self.world, &self.chance, &cx, &machine, GIVE_IDENTITY.name()).await?;
                    self.put(&machine, Effect::GiveIdentity).await?;
                    let anybody = Endpoint { host_keys: HostKeys::first_use(), ..guest.endpoint.clone() };
                    Ok(self.up(&machine, &anybody).await?.1.host_keys.keys)
                })
                .await?;
            endpoint.host_keys = HostKeys { keys, source: KeySource::Pinned };
        }
        let to = &endpoint;
        endpoint = job
            .step(self, &SET_UP, machine.clone())
            .run(async |machine, cx| {
                pace(&self.world, &self.chance, &cx, &machine, SET_UP.name()).await?;
                let (_, endpoint) = self.up(&machine, to).await?;
                self.put(&machine, Effect::SetUp { hostname: guest.computer.name.to_string() }).await?;
                self.throw_out(&machine)?;
                Ok(endpoint)
            })
            .await?;
        self.run_hooks(job, &POST_LOAD_HOOKS, POST_LOAD, Hooks { machine, names }).await?;
        Ok(endpoint)
    }

    async fn pre_capture(
        &self,
        job: &mut Job,
        guest: Guest<'_>,
        end: EndState,
    ) -> Result<(), vcl_job::Error> {
        let machine = machine_name(&guest.computer.name);
        let names = hooks_of(guest.hooks, PRE_CAPTURE)?;
        self.generalise_machine(job, &machine, names, end).await
    }

    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error> {
        job.step(self, &SANITISE, machine_name(&guest.computer.name))
            .run(async |machine, cx| {
                pace(&self.world, &self.chance, &cx, &machine, SANITISE.name()).await?;
                self.put(&machine, Effect::Sanitize).await?;
                self.throw_out(&machine)
            })
            .await
    }

    fn plan_grant(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            (RESERVE_HOOKS.name(), "note the site's reserve.d in it"),
            (METHOD_HOOKS.name(), "note the site's method.d in it"),
            (GRANT.name(), "make the accounts and open the firewall"),
        ]
    }

    async fn grant(&self, job: &mut Job, guest: Guest<'_>, access: &Access) -> Result<(), vcl_job::Error> {
        access.check().map_err(|e| vcl_job::Error::new(Kind::Refused, e.to_string()))?;
        let machine = machine_name(&guest.computer.name);
        let names = hooks_of(guest.hooks, RESERVE)?;
        let scripts: Vec<String> = access.methods.iter().filter_map(|m| m.script.clone()).collect();
        let there = hooks_of(guest.hooks, METHOD)?;
        if let Some(missing) = scripts.iter().find(|script| !there.contains(script)) {
            let context =
                format!("a connect method wants the hook method.d/{missing}, which the site has not");
            return Err(vcl_job::Error::new(Kind::Refused, context));
        }
        for (step, stage, names) in [(&RESERVE_HOOKS, RESERVE, names), (&METHOD_HOOKS, METHOD, scripts)] {
            if !names.is_empty() {
                self.run_hooks(job, step, stage, Hooks { machine: machine.clone(), names }).await?;
            }
        }
        job.step(self, &GRANT, Grant { machine, access: access.clone() })
            .run(async |grant, cx| {
                pace(&self.world, &self.chance, &cx, &grant.machine, GRANT.name()).await?;
                self.up(&grant.machine, guest.endpoint).await?;
                self.put(&grant.machine, Effect::Grant { access: grant.access }).await
            })
            .await
    }

    async fn password(&self, guest: Guest<'_>, account: &AccountName, _: &Secret) -> Result<()> {
        self.switch(guest, Effect::SetPassword { account: account.clone() }).await
    }

    /// By the file that says who tries to be there: see `users.rs`.
    async fn sessions(&self, guest: Guest<'_>) -> Result<Vec<Session>> {
        let machine = machine_name(&guest.computer.name);
        let (state, _) = self.up(&machine, guest.endpoint).await?;
        let sessions = self.world.sessions(&machine, &state);
        sessions.map_err(|e| Error::caused(ErrorKind::Local, format!("reading the users of {machine}"), e))
    }

    async fn tell(&self, guest: Guest<'_>, text: &str) -> Result<()> {
        self.switch(guest, Effect::Tell { text: text.to_owned() }).await
    }

    async fn identity(&self, guest: Guest<'_>) -> Result<Identity> {
        let (state, _) = self.up(&machine_name(&guest.computer.name), guest.endpoint).await?;
        let mut identity = Identity::default();
        if let Some(booted) = state.domain.as_ref().and_then(|d| d.booted.as_ref()) {
            identity.add("machine-id", &booted.machine_id);
            identity.add("ssh-host-key", format!("ssh-ed25519 {}", booted.host_key));
        }
        if let Some(hostname) = state.content().and_then(|c| c.hostname.as_ref()) {
            identity.add("hostname", hostname);
        }
        // What a hook or a user has put back, as on a real guest.
        let file = state.content().and_then(|c| c.files.get("/etc/machine-id"));
        if let Some(id) = file.filter(|id| !id.trim().is_empty()) {
            identity.add("machine-id", id.trim());
        }
        Ok(identity)
    }

    async fn shutdown(&self, guest: Guest<'_>) -> Result<()> {
        self.switch(guest, Effect::CutPower).await
    }

    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        self.switch(guest, Effect::Reboot).await
    }

    async fn wait_ready(&self, guest: Guest<'_>, _: &CancellationToken) -> Result<Endpoint> {
        Ok(self.up(&machine_name(&guest.computer.name), guest.endpoint).await?.1)
    }

    /// Three commands there are: `cat PATH`, `hostname`, and `tee PATH`, which writes what it gets on standard input.
    async fn exec(&self, guest: Guest<'_>, command: Command) -> Result<Output> {
        let machine = machine_name(&guest.computer.name);
        let (state, _) = self.up(&machine, guest.endpoint).await?;
        let content = state.content().cloned().unwrap_or_default();
        let said = |status, out: &str, err: String| {
            Ok(Output { status, stdout: out.as_bytes().to_vec(), stderr: err.into_bytes() })
        };
        match command.line.split_once(' ').unwrap_or((&command.line, "")) {
            ("hostname", _) => said(0, content.hostname.as_deref().unwrap_or("localhost"), String::new()),
            ("cat", path) => match content.files.get(path) {
                Some(text) => said(0, text, String::new()),
                None => said(1, "", format!("cat: {path}: No such file or directory")),
            },
            ("tee", path) => {
                let text = String::from_utf8_lossy(&command.input).into_owned();
                let put =
                    self.world.by_hand(&machine, Effect::Write { path: path.into(), text: text.clone() });
                put.await.map_err(|e| Error::caused(ErrorKind::Lost, format!("writing {path}"), e))?;
                said(0, &text, String::new())
            }
            (other, _) => said(127, "", format!("{other}: a simulated guest has cat, hostname and tee")),
        }
    }

    /// A script's lines are the commands that [`exec`](Self::exec) has, one after the other, until one fails.
    async fn run_script(
        &self,
        guest: Guest<'_>,
        script: SiteScript<'_>,
        _: &CancellationToken,
    ) -> Result<Output> {
        let mut all = Output::default();
        for line in String::from_utf8_lossy(script.text).lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Output { status, stdout, stderr } = self.exec(guest, Command::new(line)).await?;
            all.stdout.extend(stdout.into_iter().chain(stderr));
            all.stdout.push(b'\n');
            all.status = status;
            if status != 0 {
                break;
            }
        }
        all.stdout.truncate(SCRIPT_SAYS);
        Ok(all)
    }

    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        let (state, _) = self.up(&machine_name(&guest.computer.name), guest.endpoint).await?;
        let files = state.content().map(|c| c.files.clone()).unwrap_or_default();
        let would_change = vec!["machine-id".into(), "1 ssh host key".into(), "hostname".into()];
        Ok(Survey { would_change, would_keep: users(&files) })
    }
}

impl SimOs {
    async fn switch(&self, guest: Guest<'_>, effect: Effect) -> Result<()> {
        let machine = machine_name(&guest.computer.name);
        self.up(&machine, guest.endpoint).await?;
        let done = self.world.by_hand(&machine, effect).await;
        done.map(drop).map_err(|e| Error::caused(ErrorKind::Lost, format!("telling {machine}"), e))
    }
}
