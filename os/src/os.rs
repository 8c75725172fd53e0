//! The trait of OS modules: what is done *inside* a guest.
//!
//! Only backends call [`Os::post_load`] and [`Os::pre_capture`], when they are ready for them; the daemon's jobs never
//! do (VCL-94, points 1, 2 and 5). There is one entry point for a load and one for a capture.

use crate::{Command, Error, ErrorKind, Output, Remotes, Result};
use async_trait::async_trait;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_job::{Job, Undo};
use vcl_types::{Access, AccountName, Computer, Endpoint, Identity, OsName, Secret, Session};

/// In what state the OS leaves the computer after its own capture steps (VCL-94, point 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndState {
    /// Shutting down. The backend waits for the power to be off.
    #[default]
    Off,
    /// Running, reachable, generalised.
    On,
    /// Rebooting: into the same disk, or into whatever the backend armed for the next boot.
    Reboot,
}

/// How long things inside a guest may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From power-on until ssh lets us in.
    pub boot: Duration,
    /// One command or hook.
    pub command: Duration,
}
impl Default for Limits {
    /// Ten minutes each.
    fn default() -> Self {
        Self { boot: Duration::from_secs(600), command: Duration::from_secs(600) }
    }
}

/// A machine as an OS module gets it: all that it may know.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The computer. Its name becomes the guest's hostname.
    pub computer: &'a Computer,
    /// Where it answers. When its host keys are not known yet, the first connection decides.
    pub endpoint: &'a Endpoint,
    /// Where connections come from.
    pub remotes: &'a dyn Remotes,
    /// The site's hooks: a directory with `pre_capture.d` and `post_load.d`, if there is one.
    pub hooks: Option<&'a Utf8Path>,
    /// How long things may take.
    pub limits: Limits,
    /// Whether the image was generalised, so that the guest makes itself a new identity when it boots. If not,
    /// `post_load` gives it one.
    pub generalised: bool,
}

/// How much is kept of what a script says, in bytes.
pub const SCRIPT_SAYS: usize = 64 * 1024;

/// What a look into a guest found, without changing anything: for `image create --dry-run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What `pre_capture` would change, a line each: `machine-id`, `3 ssh host keys`.
    pub would_change: Vec<String>,
    /// What it would keep and what might surprise: `user alice`.
    pub would_keep: Vec<String>,
}

/// A script of the site's that is run in a guest outside of any stage: a test of an image.
#[derive(Debug, Clone, Copy)]
pub struct SiteScript<'a> {
    /// Its file name, for messages.
    pub name: &'a str,
    /// What it is: an executable, as the kernel of the guest takes one.
    pub text: &'a [u8],
    /// What stands in `VCLD_STAGE`.
    pub stage: &'a str,
    /// Further variables of its environment. A name is of capital letters and `_`.
    pub variables: &'a [(&'a str, String)],
}

/// An OS module. It is stateless; every side effect is a step of the job it is given.
#[async_trait]
pub trait Os: Undo {
    /// Which OS it speaks to.
    fn name(&self) -> OsName;
    /// The names of the steps of `post_load` and of `pre_capture`, in order, with what each does: for plans.
    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)>;
    /// The step of `pre_capture` from whose beginning on the guest is not what it was, whatever it still answers with: a
    /// capture that is given up after it starts the guest anew.
    fn unmaking(&self) -> &'static str {
        "generalise"
    }
    /// Called by a backend when the machine's power is on and its address is known. Waits until the guest lets us in,
    /// gives it its own identity if its image could not, its hostname, and runs the site's `post_load.d`. Answers the
    /// endpoint with its host keys pinned.
    ///
    /// # Errors
    /// The guest does not let us in within [`Limits::boot`], or a step in it failed.
    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error>;
    /// Called by a backend, and by nobody else, when the machine runs and lets us in. Runs the site's `pre_capture.d`,
    /// takes everything out of the guest that must not be in two machines, and leaves it in `end`.
    ///
    /// # Errors
    /// A step in the guest failed, or the OS cannot reach `end`.
    async fn pre_capture(&self, job: &mut Job, guest: Guest<'_>, end: EndState)
    -> Result<(), vcl_job::Error>;
    /// The names of the steps of `grant`, in order, with what each does: for plans. Those for hooks are left out where the
    /// site has none.
    fn plan_grant(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
    /// Makes a guest what a reservation is to have in it: its accounts, with their ssh keys and rights and without a password;
    /// the services that its connect methods need; the site's hooks `reserve.d` and `method.d`; and a firewall that lets in
    /// on the methods' ports whom [`Access::from`] names, and keeps out everybody else there. What vcld itself comes by is
    /// never shut.
    ///
    /// Called when `post_load` has ended, which leaves nothing of any reservation behind, or for a machine that stayed loaded
    /// and was sanitized; and again whenever something of it changes: the user's address is known, a key came, an
    /// account went. It makes the guest so, and changes nothing that is so already. Its steps have nothing to undo: whoever
    /// gives up, calls [`sanitize`](Self::sanitize), which needs not be told what was granted, or throws the machine away.
    ///
    /// # Errors
    /// The guest cannot be made so: an account of that name is its image's own, a hook failed; or `access` is not one.
    async fn grant(&self, job: &mut Job, guest: Guest<'_>, access: &Access) -> Result<(), vcl_job::Error> {
        let _ = (job, access);
        Err(unsupported(guest, "let users in").into())
    }
    /// Gives an account of a reservation a password, which is stored nowhere but in the guest, and has the guest take it. The
    /// password is no part of any command line, record or log.
    ///
    /// # Errors
    /// There is no such account of a reservation, or the guest does not take the password.
    async fn password(&self, guest: Guest<'_>, account: &AccountName, password: &Secret) -> Result<()> {
        let _ = (account, password);
        Err(unsupported(guest, "set a password"))
    }
    /// Who is connected by the connect methods that were granted. What a guest says is untrusted: somebody may hide.
    ///
    /// # Errors
    /// The guest does not let us in.
    async fn sessions(&self, guest: Guest<'_>) -> Result<Vec<Session>> {
        Err(unsupported(guest, "say who is connected"))
    }
    /// Writes a notice where those who are connected see it: on each terminal, or in a window. Characters that steer a
    /// terminal are left out.
    ///
    /// # Errors
    /// The guest does not let us in.
    async fn tell(&self, guest: Guest<'_>, text: &str) -> Result<()> {
        let _ = text;
        Err(unsupported(guest, "tell its users something"))
    }
    /// What makes this guest somebody: to see that two copies of an image have nothing of it in common.
    ///
    /// # Errors
    /// The guest does not let us in.
    async fn identity(&self, guest: Guest<'_>) -> Result<Identity> {
        Err(unsupported(guest, "say who it is"))
    }
    /// Takes a user's traces off a machine that goes on to the next without being loaded anew, and all that `grant` made:
    /// sessions and processes, hooks' doings, accounts and homes, rights, services, firewall rules. Nothing needs to be told; the
    /// guest keeps a ledger. Called for a guest that is clean it changes nothing. Somebody who could do everything in the
    /// guest may have left what nobody finds: such a machine is loaded anew.
    ///
    /// # Errors
    /// A step in the guest failed: it may not go to anybody then.
    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error>;
    /// Asks the guest to power off. It may still run when this returns; the power state is the truth.
    ///
    /// # Errors
    /// The guest does not let us in or refuses.
    async fn shutdown(&self, guest: Guest<'_>) -> Result<()>;
    /// Asks the guest to reboot. It may not have begun when this returns.
    ///
    /// # Errors
    /// The guest does not let us in or refuses.
    async fn reboot(&self, guest: Guest<'_>) -> Result<()>;
    /// Waits until the guest lets us in and answers the endpoint with its host keys pinned.
    ///
    /// # Errors
    /// The last reason why it did not, after [`Limits::boot`].
    async fn wait_ready(
        &self,
        guest: Guest<'_>,
        cancel: &tokio_util::sync::CancellationToken,
    ) -> Result<Endpoint>;
    /// Runs a command in the guest.
    ///
    /// # Errors
    /// The guest does not let us in, or the connection broke.
    async fn exec(&self, guest: Guest<'_>, command: Command) -> Result<Output>;
    /// Sends a script to the guest, runs it there as root with `VCLD_STAGE`, `VCLD_COMPUTER` and its variables, for at most
    /// [`Limits::command`], and removes it. That it fails is no error here: its status tells, 124 when it took too long.
    /// Both its outputs come as stdout, at most [`SCRIPT_SAYS`] bytes of them.
    ///
    /// # Errors
    /// The guest does not let us in, the script did not arrive whole, or the connection broke.
    async fn run_script(
        &self,
        guest: Guest<'_>,
        script: SiteScript<'_>,
        cancel: &tokio_util::sync::CancellationToken,
    ) -> Result<Output> {
        let _ = (script, cancel);
        Err(unsupported(guest, "run a test script"))
    }
    /// Looks what `pre_capture` would change and keep, changing nothing.
    ///
    /// # Errors
    /// The guest does not let us in.
    async fn survey(&self, guest: Guest<'_>) -> Result<Survey>;
}

fn unsupported(guest: Guest<'_>, what: &str) -> Error {
    let context = format!("the OS module of {} cannot {what}", guest.computer);
    Error::new(ErrorKind::Unsupported, context)
}
