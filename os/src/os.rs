//! The trait of OS modules: what is done *inside* a guest.
//!
//! Only backends call [`Os::post_load`] and [`Os::pre_capture`], when they are ready for them; the daemon's jobs never
//! do (VCL-94, points 1, 2 and 5). There is one entry point for a load and one for a capture.

use crate::{Command, Output, Remotes, Result};
use async_trait::async_trait;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_job::{Job, Undo};
use vcl_types::{Computer, Endpoint, OsName};

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

/// What a look into a guest found, without changing anything: for `image create --dry-run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What `pre_capture` would change, a line each: `machine-id`, `3 ssh host keys`.
    pub would_change: Vec<String>,
    /// What it would keep and what might surprise: `user alice`.
    pub would_keep: Vec<String>,
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
    /// Takes a user's traces off a machine that goes on to the next without being loaded anew.
    ///
    /// # Errors
    /// A step in the guest failed.
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
    /// Looks what `pre_capture` would change and keep, changing nothing.
    ///
    /// # Errors
    /// The guest does not let us in.
    async fn survey(&self, guest: Guest<'_>) -> Result<Survey>;
}
