//! What letting somebody in is made of, whichever system the guest has.
//!
//! ```text
//!  find hooks → grant access → run reserve hooks → open access    with hooks
//!  find hooks → grant access                                      without: one round trip
//! ```
//!
//! Which hooks there are is a step of its own, so that it is known from the journal ever after: a file that comes or goes
//! while a daemon is away changes nothing of what its job goes on with.

use crate::hooks::{self, Verdict};
use crate::{Command, Guest, reach};
use async_trait::async_trait;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use vcl_job::{Cx, Job, Kind, Result, Step, TRANSIENT, Undo, minutes};
use vcl_types::{Access, AccountName, Reach, ReservationId};

const RESERVE: &str = "reserve";
const METHOD: &str = "method";

/// What is about to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Granted {
    reservation: ReservationId,
    accounts: Vec<AccountName>,
}

/// A hook that is run when a reservation is let in, and again with `undo` when what it did is taken back. The guest keeps it
/// and its environment for that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hook {
    /// `reserve` or `method`.
    pub(crate) stage: String,
    pub(crate) name: String,
    /// The connect method that it is for, and its port.
    pub(crate) method: Option<(String, u16)>,
}

impl Hook {
    /// What it is kept as in the guest. Methods' are undone before the others, so their names come last.
    pub(crate) fn kept_as(&self) -> String {
        match &self.method {
            None => format!("1.{}", self.name),
            Some((method, _)) => format!("2.{method}.{}", self.name),
        }
    }
}

/// The steps of one system's module.
pub(crate) struct Steps<O: ?Sized> {
    pub(crate) find: Step<O, ReservationId>,
    pub(crate) grant: Step<O, Granted>,
    pub(crate) hooks: Step<O, Vec<Hook>>,
    pub(crate) open: Step<O, Granted>,
}

impl<O> Steps<O> {
    pub(crate) const fn new() -> Self {
        Self {
            find: Step::new("find hooks"),
            grant: Step::new("grant access").deadline(minutes(30)).retry(TRANSIENT),
            hooks: Step::new("run reserve hooks").deadline(minutes(240)).retry(TRANSIENT),
            open: Step::new("open access").deadline(minutes(30)).retry(TRANSIENT),
        }
    }
    /// Their names, for plans.
    pub(crate) fn plan(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            (self.find.name(), "look which of the site's reserve.d and method.d are to be run"),
            (
                self.grant.name(),
                "make the accounts, and open the firewall; shut it before where there are hooks to wait for",
            ),
            (self.hooks.name(), "run the site's reserve.d and method.d in it"),
            (self.open.name(), "open the firewall"),
        ]
    }
}

/// How one system's module does its part.
#[async_trait]
pub(crate) trait Lets: Undo + Sized + 'static {
    /// Whether a file in a directory of hooks is one for this system.
    fn is_hook(&self, name: &str, data: &Metadata) -> Verdict;
    /// The files that a connect method's `script` may be, the first that is there counting.
    fn files(&self, script: &str) -> Vec<String>;
    /// What has the guest do `what`: `accounts`, with `shut` before it or `open` after it, or `open` alone.
    fn command(&self, guest: Guest<'_>, access: &Access, what: &str) -> Command;
    /// Runs hooks one after another.
    async fn run_hooks(&self, guest: Guest<'_>, access: &Access, hooks: &[Hook], cx: &Cx) -> Result<()>;
}

/// Lets a reservation's people into a guest. What the guest's system asks of names was looked at before.
pub(crate) async fn grant<O: Lets>(
    on: &O,
    steps: &'static Steps<O>,
    job: &mut Job,
    guest: Guest<'_>,
    access: &Access,
) -> Result<()> {
    let hooks: Vec<Hook> = job
        .step(on, &steps.find, access.reservation)
        .run(async |_, cx: Cx| of_access(on, guest.hooks, access, &cx))
        .await?;
    let granted = Granted {
        reservation: access.reservation,
        accounts: access.accounts.iter().map(|a| a.name.clone()).collect(),
    };
    // Nobody is let in before the site's hooks have done what they do: its ports are shut before there are accounts.
    let first = if hooks.is_empty() { "accounts open" } else { "shut accounts" };
    job.step(on, &steps.grant, granted.clone())
        .run(async |_, cx: Cx| apply(on.command(guest, access, first), guest, steps.grant.name(), &cx).await)
        .await?;
    if hooks.is_empty() {
        return Ok(());
    }
    job.step(on, &steps.hooks, hooks)
        .run(async |hooks, cx: Cx| on.run_hooks(guest, access, &hooks, &cx).await)
        .await?;
    job.step(on, &steps.open, granted)
        .run(async |_, cx: Cx| apply(on.command(guest, access, "open"), guest, steps.open.name(), &cx).await)
        .await?;
    Ok(())
}

/// Has the guest change something. Answers what was changed.
async fn apply(command: Command, guest: Guest<'_>, step: &str, cx: &Cx) -> Result<Vec<String>> {
    let answer = reach::in_step(guest, guest.endpoint, command, step, cx).await?;
    for note in answer.texts("note") {
        cx.event("access-note", note);
    }
    Ok(answer.summary("changed"))
}

/// The hooks of `reserve.d`, in order, and then those of `method.d` that the connect methods name.
fn of_access<O: Lets>(on: &O, hooks: Option<&Utf8Path>, access: &Access, cx: &Cx) -> Result<Vec<Hook>> {
    let is_hook = |name: &str, data: &Metadata| on.is_hook(name, data);
    let reserve = hooks::list(hooks, RESERVE, is_hook, &|message| cx.event("hook-skipped", message))?;
    let mut all: Vec<Hook> =
        reserve.into_iter().map(|name| Hook { stage: RESERVE.into(), name, method: None }).collect();
    for method in &access.methods {
        let Some(script) = &method.script else { continue };
        let there =
            |name: &String| hooks.is_some_and(|hooks| hooks.join(format!("{METHOD}.d")).join(name).is_file());
        let files = on.files(script);
        let Some(name) = files.iter().find(|name| there(name)).cloned() else {
            let place = hooks.map_or_else(|| "no directory of hooks".to_owned(), ToString::to_string);
            let wanted: Vec<String> = files.iter().map(|name| format!("{METHOD}.d/{name}")).collect();
            let context = format!(
                "connect method {} wants the hook {}, which is not in {place}; put it there, or leave it out of the \
                 method",
                method.name,
                wanted.join(" or ")
            );
            return Err(vcl_job::Error::new(Kind::Refused, context));
        };
        all.push(Hook { stage: METHOD.into(), name, method: Some((method.name.clone(), method.port)) });
    }
    Ok(all)
}

/// The variables of the hooks of `reserve.d` and `method.d`; docs/hooks.md lists them.
pub(crate) fn variables(access: &Access, computer: &str) -> Vec<(String, String)> {
    let mut variables: Vec<(String, String)> = access
        .facts
        .iter()
        .map(|(name, value)| (format!("VCLD_{}", name.to_ascii_uppercase()), value.replace('\0', "")))
        .collect();
    let join = |words: Vec<String>| words.join(" ");
    let methods = access.methods.iter().map(|m| format!("{}:{}", m.name, m.port)).collect();
    let from = match &access.from {
        Reach::Nobody => "nobody".to_owned(),
        Reach::Everybody => "everybody".to_owned(),
        Reach::Only(nets) => join(nets.iter().map(ToString::to_string).collect()),
    };
    let sudo = access.accounts.iter().filter(|a| a.sudo).map(|a| a.name.to_string()).collect();
    let accounts: Vec<String> = access.accounts.iter().map(|a| a.name.to_string()).collect();
    for (name, value) in [
        ("VCLD_COMPUTER", computer.to_owned()),
        ("VCLD_RESERVATION", access.reservation.to_string()),
        ("VCLD_ACCOUNT", accounts.first().cloned().unwrap_or_default()),
        ("VCLD_ACCOUNTS", join(accounts)),
        ("VCLD_SUDO_ACCOUNTS", join(sudo)),
        ("VCLD_METHODS", join(methods)),
        ("VCLD_FROM", from),
    ] {
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), value));
    }
    variables
}
