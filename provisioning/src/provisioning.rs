//! The trait that every backend implements. It speaks no backend's language.
//!
//! What happens when:
//!
//! ```text
//!  load     daemon ─► load ─────► [machine made and started] ─► Os::post_load ─► Endpoint ─► daemon records it
//!  capture  daemon ─► capture ──► Os::pre_capture(end_state) ─► [disks copied into the lent staging] ─► Captured
//!                     daemon verifies, digests, publishes, records; then unload | resume | nothing
//! ```
//!
//! Every side effect runs in a step of the job (see `vcl-job`): idempotent, with its undo, its names recorded before
//! they exist. A backend may assume that one job at a time holds a computer.
//!
//! There are three kinds of methods. What a backend *is* (`kind` to `plan`) asks nobody and may be called at any time. What
//! it *does in a job* (`load` to `capture_vm`) gets the job and runs steps. What it is *asked between jobs* (`vms`, `power`
//! to `findings`) is answered within seconds, may be asked by many at once and while a job holds the computer, and changes
//! nothing but what its name says. Who implements a backend finds a walk through one in `docs/adding-a-backend.md`.

use crate::{Capabilities, Capability, Error, ErrorKind, Result};
use async_trait::async_trait;
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{Job, Undo};
use vcl_os::{EndState, Guest, Os, Remotes};
use vcl_types::api::{Finding, FindingLevel, PlannedStep, PowerAction, PowerState, Thing, VmPreview, VmView};
use vcl_types::{Computer, ComputerName, DirectBoot, Endpoint, Hardware, Manifest, Revision};

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From power-on until the guest lets us in.
    pub boot: Duration,
    /// From the OS module's shutdown until the power is off; then it is cut.
    pub shutdown: Duration,
    /// Copying one disk.
    pub copy: Duration,
    /// One command or hook in the guest.
    pub command: Duration,
}
impl Default for Limits {
    /// Ten minutes to boot and for a command, five to shut down, six hours to copy a disk.
    fn default() -> Self {
        let minute = 60;
        Self {
            boot: Duration::from_secs(10 * minute),
            shutdown: Duration::from_secs(5 * minute),
            copy: Duration::from_secs(6 * 60 * minute),
            command: Duration::from_secs(10 * minute),
        }
    }
}

/// What a backend is lent for a computer: references to what the daemon owns, for the time of one call.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// The computer.
    pub computer: &'a Computer,
    /// The revision to be loaded, or the one that is loaded.
    pub revision: &'a Revision,
    /// The OS module of the revision.
    pub os: &'a dyn Os,
    /// Connections to guests.
    pub remotes: &'a dyn Remotes,
    /// The account to log in as.
    pub user: &'a str,
    /// The site's hooks, if it has any.
    pub hooks: Option<&'a Utf8Path>,
    /// How long things may take.
    pub limits: Limits,
    /// Where the computer answers, when it is loaded.
    pub endpoint: Option<&'a Endpoint>,
}

impl<'a> Target<'a> {
    /// The machine as the OS module gets it.
    #[must_use]
    pub fn guest(&self, endpoint: &'a Endpoint) -> Guest<'a> {
        Guest {
            computer: self.computer,
            endpoint,
            remotes: self.remotes,
            hooks: self.hooks,
            limits: vcl_os::Limits { boot: self.limits.boot, command: self.limits.command },
            generalised: self.revision.manifest.generalised,
        }
    }
}

/// What a backend is lent to make an image from a machine that is not vcld's.
#[derive(Clone, Copy)]
pub struct VmTarget<'a> {
    /// The machine's name at the backend.
    pub vm: &'a str,
    /// The OS module for it.
    pub os: &'a dyn Os,
    /// Connections to guests.
    pub remotes: &'a dyn Remotes,
    /// The account to log in as.
    pub user: &'a str,
    /// The site's hooks, if it has any.
    pub hooks: Option<&'a Utf8Path>,
    /// How long things may take.
    pub limits: Limits,
}

/// What a plan is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// [`Provisioning::load`].
    Load,
    /// [`Provisioning::capture`].
    Capture,
    /// [`Provisioning::resume`].
    Resume,
    /// [`Provisioning::unload`].
    Unload,
}

/// A disk that a capture put into the staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedDisk {
    /// Its file name in the staging.
    pub file: String,
    /// Its format.
    pub format: String,
}

/// Firmware variables that a capture put into the staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedFirmware {
    /// The file name in the staging.
    pub file: String,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// What a capture put into the staging.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// The disks, in the guest's order.
    pub disks: Vec<CapturedDisk>,
    /// The firmware variables, where the machine has them.
    pub firmware: Option<CapturedFirmware>,
    /// Kernel and initrd in the staging, where the machine is started without a boot loader.
    pub boot: Option<DirectBoot>,
    /// The hardware it was made on.
    pub hardware: Hardware,
}

/// A provisioning backend.
#[async_trait]
pub trait Provisioning: Undo {
    /// Its type, as in `type = "libvirt"`. The same for all instances, for ever: the configuration has it.
    fn kind(&self) -> &'static str;
    /// The host that its machines run on, where they all run on one: jobs of several instances on one host count
    /// together against the host's limit. Called when a job is queued.
    fn host(&self) -> Option<String> {
        None
    }
    /// Whether other nodes with the same instance reach the same machines: only then may another node go on with the
    /// jobs of one that died. Called when the daemon joins the others; `shared` in the configuration overrules it.
    fn is_shared(&self) -> bool {
        false
    }
    /// The OS module for its machines, where it brings one of its own; it is then lent in each [`Target`] in the place of
    /// the image's. It undoes its own steps, also those that a daemon took that has died.
    fn os(&self) -> Option<&dyn Os> {
        None
    }
    /// In what end state its captures want the OS to leave the computer (VCL-94): off, unless it says otherwise. What
    /// [`capture`](Self::capture) passes to `Os::pre_capture` is this.
    fn end_state(&self) -> EndState {
        EndState::Off
    }
    /// What it can do besides loading a computer and taking it back: everything, unless it says otherwise. It may ask
    /// nobody: it is called before every job.
    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }
    /// The refusal of a call that it is not capable of; what the methods below answer where a backend has none of its
    /// own.
    fn lacking(&self, what: Capability) -> Error {
        let backend = format!("a backend of type {}", self.kind());
        let undeclared = || Error::new(ErrorKind::Unsupported, format!("{backend} has no `{what}`"));
        self.capabilities().require(what, &backend).err().unwrap_or_else(undeclared)
    }
    /// The steps that a call would take, for a dry run: pure, touching nothing. Called by `--dry-run` for whatever the
    /// computer's state is, before anything is checked. The names are those that the journal would have, with those of the
    /// OS module behind `post_load/` or `pre_capture/`.
    fn plan(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep>;

    /// Called for a computer that holds nothing, by the job that holds it; the revision lies in the library as
    /// `target.revision` says, and stays there as long as the computer holds it; [`state`](Self::state) has just answered.
    /// A machine of that computer may be there all the same, left by a load whose journal is lost: it is vcld's, and goes.
    /// Makes the machine on the revision, starts it, finds its address and calls `Os::post_load` once, in the part
    /// `post_load`. Then the machine is on, the guest is ready, the endpoint has its host keys, and the daemon records that.
    /// Called again in another process after a death, with the same target: steps that are done answer what they recorded.
    ///
    /// # Errors
    /// Whatever kept it from being ready; everything it made is undone from the journal.
    async fn load(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint>;

    /// Called for a computer that is on and answers at `target.endpoint`, by the job that holds it and has made `staging`.
    /// Calls `Os::pre_capture` once, in the part `pre_capture`, with the end state it needs, waits for that state, and
    /// copies every disk into `staging`. Then the computer is off, the staging holds what is answered, and nothing has been
    /// published: verifying, digesting, publishing and recording are the daemon's, and [`unload`](Self::unload),
    /// [`resume`](Self::resume) or nothing comes next.
    ///
    /// # Errors
    /// Whatever kept it from that; what it put into the staging is undone from the journal, and `resume` is called.
    async fn capture(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let _ = (job, target, staging);
        Err(self.lacking(Capability::Capture).into())
    }

    /// Called after a capture, one that failed at whatever point included, and for a computer that was off when it was to be
    /// captured: its machine is there, on or off. Powers it on if it is off and calls `Os::post_load`: it may have lost its
    /// identity, so its host keys are those of a new machine. Then it is as after a load.
    ///
    /// # Errors
    /// Whatever kept it from being ready. The computer goes out of use, with that as the reason.
    async fn resume(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let _ = (job, target);
        Err(self.lacking(Capability::Capture).into())
    }

    /// Called before [`unload`](Self::unload) for a computer that has been lent and whose revision is still known;
    /// `target.endpoint` says where it answered last. Takes a user's traces off a machine that goes on to the next user
    /// as it is, with `Os::sanitize`. Whose machines are thrown away by `unload` has nothing to do here.
    ///
    /// # Errors
    /// A machine that answers could not be cleaned; the computer is not taken back then.
    async fn sanitize(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<()> {
        let _ = (job, target);
        Ok(())
    }

    /// Called when a computer is taken back, by the job that holds it: its machine may be on, off, half made or gone, and
    /// nobody has asked the guest. Removes the machine and everything that a load made for it; the revision stays. Nothing
    /// left to remove is not an error, and a machine of the same name that is not vcld's is not touched. Then the computer
    /// holds nothing.
    ///
    /// # Errors
    /// Whatever could not be removed. There is no way back: the job is stuck or failed, and is tried again.
    async fn unload(&self, job: &mut Job, computer: &Computer) -> vcl_job::Result<()>;

    /// All machines of the backend, vcld's or not: those of vcld's say which computer they are. Called when somebody lists
    /// them. A backend that lacks [`Capability::Vms`] answers none.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn vms(&self) -> Result<Vec<VmView>> {
        Ok(Vec::new())
    }

    /// Called by `image create --from-vm --dry-run`. Looks what [`capture_vm`](Self::capture_vm) would do, changing
    /// nothing. `to_copy`, `would_*`, `missing` and `notes` are filled in; the library's free space is the daemon's to
    /// add.
    ///
    /// # Errors
    /// The backend does not answer, or has no such machine.
    async fn preview_vm(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        let _ = target;
        Err(self.lacking(Capability::CaptureVm))
    }

    /// Called by the job that makes an image from a machine, with a staging of its own; nobody else is kept from that machine.
    /// Copies the disks of a machine that is not vcld's into `staging`, generalised, without changing the machine: it
    /// is shut down, `Os::pre_capture` runs on a throw-away machine over throw-away overlays, and it is started again
    /// if it ran.
    ///
    /// # Errors
    /// Whatever kept it from that; the throw-away machine is gone and the source runs again if it ran.
    async fn capture_vm(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let _ = (job, target, staging);
        Err(self.lacking(Capability::CaptureVm).into())
    }

    /// Changes a computer's power, outside of any job: called when somebody asks for it, while no job holds the computer, and
    /// for a loaded one that is off where the configuration has it restarted. `Off` asks the guest and may return before it is
    /// off; `ForceOff` and `Reset` do not ask. What is so already is no error. Answers the state as it is then. Of a backend
    /// that lacks [`Capability::Power`] only `On` is asked; the guest's OS module is asked for the rest.
    ///
    /// # Errors
    /// The backend does not answer, or the computer has no machine.
    async fn power(&self, computer: &Computer, action: PowerAction) -> Result<PowerState> {
        let _ = (computer, action);
        Err(self.lacking(Capability::Power))
    }
    /// A computer's power state now. Called before a load and a capture, so that a host that does not answer is found out
    /// before anything is begun, and whenever a computer is shown. [`PowerState::Absent`] is a computer without a machine.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn state(&self, computer: &Computer) -> Result<PowerState>;
    /// The last `lines` lines of its serial console, at most 256 KiB, without control characters. Called when somebody looks,
    /// and for the evidence of a job that failed, before anything is taken back. What is in it is untrusted.
    ///
    /// # Errors
    /// It has no console, or it cannot be read.
    async fn console(&self, computer: &Computer, lines: usize) -> Result<String> {
        let _ = (computer, lines);
        Err(self.lacking(Capability::Console))
    }
    /// Its display as a PNG. Called when somebody looks, and for the evidence of a job that failed.
    ///
    /// # Errors
    /// The backend does not answer, or the computer is off.
    async fn screenshot(&self, computer: &Computer) -> Result<Vec<u8>> {
        let _ = computer;
        Err(self.lacking(Capability::Screenshot))
    }
    /// The machine of a computer as the backend describes it (a domain's XML, a node's definition), for the evidence
    /// of a job that failed. Secrets in it are masked.
    ///
    /// # Errors
    /// The backend does not answer, has no machine for the computer, or keeps no description.
    async fn description(&self, computer: &Computer) -> Result<String> {
        let _ = computer;
        Err(self.lacking(Capability::Description))
    }
    /// Everything at the backend that vcld made, half made or whole, told by its owner tag or its name. Called by the
    /// reconciler from time to time: what no live job and no loaded computer needs is an orphan.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn things(&self) -> Result<Vec<Thing>> {
        Ok(Vec::new())
    }
    /// Removes one of [`things`](Self::things). Called when somebody has an orphan deleted, who may have got its name from
    /// anywhere. One that is gone already is no error.
    ///
    /// # Errors
    /// It is in use, is not vcld's, or the backend does not answer.
    async fn remove_thing(&self, thing: &Thing) -> Result<()> {
        let (kind, name) = (&thing.kind, &thing.name);
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("the {kind} {name} cannot be removed by a backend of type {}", self.kind()),
        ))
    }
    /// The power state of every computer of vcld's that has a machine here, in as few calls as the backend can: it is
    /// asked for all of them every minute.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        let state = |word: &str| match word {
            "running" | "shutting down" => PowerState::On,
            "paused" => PowerState::Paused,
            _ => PowerState::Off,
        };
        let vms = self.vms().await?;
        Ok(vms.into_iter().filter_map(|vm| vm.managed.map(|name| (name, state(&vm.state)))).collect())
    }
    /// How many bytes are free where a load puts what a machine writes; `None` where that is not known. Called before a job
    /// is begun that writes there: one for which there is no room waits.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn free_space(&self) -> Result<Option<u64>> {
        Ok(None)
    }
    /// Whether its host gets a copy of a revision before it is loaded, so that a load writes that too.
    fn keeps_copies(&self) -> bool {
        false
    }
    /// How many bytes a load of a revision has to send to the host first: what of its files the host has no copy of.
    /// `chain` is the revision's manifest and those of what it lies on, topmost first. Asked only of a backend that
    /// [`keeps_copies`](Self::keeps_copies).
    ///
    /// # Errors
    /// The backend does not answer.
    async fn to_send(&self, chain: &[Manifest]) -> Result<u64> {
        let _ = chain;
        Ok(0)
    }
    /// How many bytes a loaded computer has written since it was loaded: what its overlays take. `None` where that is not
    /// known. Called before its capture is begun, which takes as much of the library.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn written(&self, computer: &Computer) -> Result<Option<u64>> {
        let _ = computer;
        Ok(None)
    }
    /// Called once when the daemon stops, after its last job has returned: ends sessions that would else stay open.
    async fn close(&self) {}
    /// Asks what is behind it what it is, such as `libvirt 9.0.0, qemu 7.2.11`: when the daemon starts, and when somebody
    /// lists the backends. `None` where there is nobody to ask. That it does not answer is how it is found out that the
    /// backend cannot be reached, so it may take no longer than some seconds.
    ///
    /// # Errors
    /// The backend does not answer.
    async fn version(&self) -> Result<Option<String>> {
        Ok(None)
    }
    /// What is well and what is wrong with the backend, each with the way out. Called when the daemon starts, and by
    /// `vclctl doctor`, `status` and `backend list|validate`. Never fails: not answering is a finding.
    /// What is answered without one follows from [`version`](Self::version).
    async fn findings(&self) -> Vec<Finding> {
        let (level, found, way_out) = match self.version().await {
            Ok(version) => (FindingLevel::Ok, version.unwrap_or_else(|| "it is set up".into()), None),
            Err(e) => {
                let way_out = "see whether it runs, and whether this machine reaches it";
                (FindingLevel::Error, e.chain(), Some(way_out.to_owned()))
            }
        };
        vec![Finding { what: format!("{} backend", self.kind()), level, found, way_out }]
    }
}
