//! What goes over the HTTP API: the daemon serialises these, `vclctl` and every other client reads them.
//!
//! The paths stand in the daemon's OpenAPI document (`docs/openapi.json`).

use crate::state::{computer, job, node};
use crate::{
    BackendName, ByteSize, Computer, ComputerName, ImageName, ImageRef, JobId, JobKind, JobRequest, Loaded,
    Manifest, ReservationId,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub use crate::backend::{BackendView, CapabilityView};
pub use crate::insight::{
    Action, Asked, EvidenceView, Ignored, Mismatch, OrphanRequest, OrphanView, OrphanWish, Orphans, Usual,
    Why,
};
pub use crate::lending::{
    AccessChange, Choice, Connect, Connection, Extend, Grabbed, Purpose, Reboot, Release, ReservationRequest,
    ReservationView, Times, Waiting, Way, Wish,
};
pub use crate::people::{
    AuditView, BeginCode, CodeBegun, DeviceBegun, EndCode, EndDevice, GrantView, GroupView, ImageGroupView,
    MembershipView, NewGrant, NewGroup, NewKey, NewPassword, NewToken, NewUser, SignIn, TokenMade, TokenView,
    UserChange, UserView, WaysIn, WhoAmI,
};

/// An answer that is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// A word for programs: `not-found`, `refused`, `invalid`, `busy`, `unavailable`, `internal`.
    pub kind: String,
    /// What is wrong, naming the thing, and the way out.
    pub message: String,
}

/// A job that was queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// Its number.
    pub job: JobId,
}

/// How far a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Progress {
    /// Done so far, in bytes.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// Where one step of a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StepState {
    /// Not begun.
    Planned,
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Failed.
    Failed,
    /// Taken back.
    Undone,
}

/// One step of a job, as its journal tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct StepView {
    /// Its name, with the parts it lies in: `post_load/wait for ssh`.
    pub name: String,
    /// Where it is.
    pub state: StepState,
    /// When it began.
    pub started: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Bytes done, while it runs and counts them.
    pub progress: Option<Progress>,
    /// Why it failed.
    pub error: Option<String>,
    /// How long it usually takes, where enough is known; only when one job is shown.
    #[serde(default)]
    pub usual: Option<Usual>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct JobView {
    /// Its number.
    pub id: JobId,
    /// What kind it is.
    pub kind: JobKind,
    /// What was asked.
    #[serde(deserialize_with = "JobRequest::known_or_raw")]
    pub request: JobRequest,
    /// One line that says what was asked.
    pub title: String,
    /// Where it is.
    pub state: job::State,
    /// Why it failed, waits or is stuck.
    pub reason: Option<String>,
    /// Who asked.
    pub requester: String,
    /// When it was asked for.
    pub submitted: DateTime<Utc>,
    /// When a node first took it.
    pub started: Option<DateTime<Utc>>,
    /// The node that has it, or had it last.
    #[serde(default)]
    pub node: Option<String>,
    /// Since when that node has it.
    #[serde(default)]
    pub claimed: Option<DateTime<Utc>>,
    /// The only node that can do it, where there is only one.
    #[serde(default)]
    pub bound_to: Option<String>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// What it made, such as `debian@2`.
    pub result: Option<String>,
    /// Its steps; empty in lists.
    pub steps: Vec<StepView>,
    /// How long what is left of it usually takes, while it runs and enough is known.
    #[serde(default)]
    pub left: Option<Usual>,
    /// The names of what was kept of its failure; empty in lists.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// A computer with what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ComputerView {
    /// What the configuration says of it.
    pub computer: Computer,
    /// Where it is.
    pub state: computer::State,
    /// Why it is in maintenance or broken.
    pub reason: Option<String>,
    /// What it holds.
    pub loaded: Option<Loaded>,
    /// Whether somebody has used what it holds, so that nobody else gets it as it is.
    #[serde(default)]
    pub tainted: bool,
    /// The job that has it.
    pub job: Option<JobId>,
    /// What that job has it for and since when; only when one computer is shown.
    #[serde(default)]
    pub lease: Option<LeaseView>,
    /// The only management node that reaches it; `None` when its backend is shared.
    #[serde(default)]
    pub node: Option<String>,
    /// Its reservation.
    pub reservation: Option<ReservationId>,
    /// Its power state, where it was asked for: `on`, `off`, `absent`.
    pub power: Option<PowerState>,
}

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PowerState {
    /// It runs.
    On,
    /// It does not run.
    Off,
    /// It stands still in the middle of running.
    Paused,
    /// There is no machine: the computer is not loaded.
    Absent,
}

/// What can be done to a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PowerAction {
    /// Start it.
    On,
    /// Ask the guest to shut down; off by force after a while.
    Off,
    /// Cut its power.
    ForceOff,
    /// Press its reset button.
    Reset,
}

/// A wish about a machine's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PowerRequest {
    /// What is wanted.
    pub action: PowerAction,
}

/// An image with its newest revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageView {
    /// Its name.
    pub name: ImageName,
    /// Its revisions, oldest first.
    pub revisions: Vec<RevisionView>,
    /// The job that changes it, if one does; only when one image is shown.
    #[serde(default)]
    pub lease: Option<LeaseView>,
}

/// A revision as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevisionView {
    /// What its manifest says.
    pub manifest: Manifest,
    /// What its files take together.
    pub size: ByteSize,
    /// The computers that are loaded from it.
    pub used_by: Vec<ComputerName>,
    /// Whether this node's library holds it.
    pub here: bool,
    /// Whether it is the image's revision in production.
    #[serde(default)]
    pub production: bool,
    /// What its newest test found out; none when it was never tested.
    #[serde(default)]
    pub tested: Option<crate::ImageTest>,
}

/// Why a revision cannot be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WhyKept {
    /// The revision.
    pub image: ImageRef,
    /// Each reason in words; none when it can be deleted.
    pub reasons: Vec<String>,
}

/// Something in a library's trash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TrashView {
    /// What it was.
    pub image: ImageRef,
    /// `deleted`: it can be brought back. `exchanged`: the delta of a revision that is whole now. `for-good`: it is
    /// being removed.
    pub why: String,
    /// Since when it is there.
    pub since: DateTime<Utc>,
    /// When it is removed; `None` while a computer may have it open.
    pub until: Option<DateTime<Utc>>,
    /// What it takes.
    pub size: ByteSize,
}

/// A virtual machine of a backend, ours or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmView {
    /// Its name there.
    pub name: String,
    /// `running`, `shut off`, `paused`, `crashed`.
    pub state: String,
    /// Its disks.
    pub disks: Vec<VmDisk>,
    /// Its hardware.
    pub hardware: crate::Hardware,
    /// The computer that it is, when vcld made it.
    pub managed: Option<ComputerName>,
}

/// A disk of a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmDisk {
    /// The file or device behind it.
    pub source: String,
    /// Its format.
    pub format: String,
    /// What the guest sees.
    pub virtual_size: Option<ByteSize>,
    /// What it takes.
    pub allocated: Option<ByteSize>,
}

/// What `image create --from-vm` would do, found out without changing anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct VmPreview {
    /// The machine.
    pub vm: VmView,
    /// Bytes to be copied.
    pub to_copy: ByteSize,
    /// Bytes the library has free.
    pub free: ByteSize,
    /// What would be changed in the copy.
    pub would_change: Vec<String>,
    /// What would be kept and might surprise, such as user accounts.
    pub would_keep: Vec<String>,
    /// What is missing before it can be done, each with the way out.
    pub missing: Vec<String>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EventView {
    /// Its number; events come in this order.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// A word for programs, such as `job-failed` or `forced-off`.
    pub kind: String,
    /// The job it belongs to.
    pub job: Option<JobId>,
    /// The computer it is about.
    pub computer: Option<ComputerName>,
    /// A sentence for people.
    pub message: String,
}

/// What comes down an event stream: an event that is kept, or a step's progress, which is not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum StreamItem {
    /// Something happened.
    Event(EventView),
    /// A step counts bytes.
    Progress {
        /// The job.
        job: JobId,
        /// The step.
        step: String,
        /// How far it is.
        progress: Progress,
    },
    /// A step of a job began or ended: the job reads differently now.
    Changed {
        /// The job.
        job: JobId,
    },
    /// The subscriber was too slow and has missed some; it should read the list again.
    Missed,
}

/// Something at a backend or in a library that vcld made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Thing {
    /// What it is: `domain`, `overlay`, `staging`, `volume` …
    pub kind: String,
    /// Its name at its place, by which it is removed.
    pub name: String,
    /// The computer it was made for, as far as it tells.
    pub computer: Option<ComputerName>,
    /// The job that alone needs it, as far as it tells: when that job is over, it is left over. `None` for what stays
    /// with its computer.
    pub job: Option<JobId>,
    /// How many bytes it takes, where that is known.
    pub bytes: Option<u64>,
}

/// One thing that a node lacks or that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub level: FindingLevel,
    /// What was found.
    pub found: String,
    /// The way out, where it is not well.
    pub way_out: Option<String>,
}

/// How well a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FindingLevel {
    /// As it should be.
    Ok,
    /// It works, and something about it is worth knowing.
    Warning,
    /// Something will not work.
    Error,
}

/// One screen of everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The management node's name.
    pub node: String,
    /// All management nodes.
    #[serde(default)]
    pub nodes: Vec<NodeView>,
    /// When the daemon started.
    pub since: DateTime<Utc>,
    /// Each backend instance and what is wrong with it.
    pub backends: Vec<BackendStatus>,
    /// How many computers are in each state.
    pub computers: Vec<Count>,
    /// How many jobs are in each state that is not final, and failed and stuck ones.
    pub jobs: Vec<Count>,
    /// The jobs under way.
    pub running: Vec<JobView>,
    /// The library's directory.
    pub library: String,
    /// How many revisions it holds.
    pub revisions: u64,
    /// Bytes that are free where the library lies.
    pub free: ByteSize,
}

/// A management node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NodeView {
    /// Its name.
    pub name: String,
    /// Whether it renews its lease.
    pub state: node::State,
    /// Whether it claims nothing new.
    pub drained: bool,
    /// Which life of that name it is: raised each time it joins.
    pub life: i64,
    /// The version of its program.
    pub version: String,
    /// What its program understands of jobs: it goes on with jobs that were begun with this or less.
    pub protocol: i64,
    /// How long its lease is good after a renewal, in seconds.
    pub lease_seconds: u64,
    /// Where other nodes reach it.
    pub address: Option<String>,
    /// Its backend instances, and whether each is shared with other nodes.
    pub backends: BTreeMap<BackendName, bool>,
    /// When this life began, by the node's own clock.
    pub since: DateTime<Utc>,
    /// When it left or was given up.
    pub ended: Option<DateTime<Utc>>,
    /// How many jobs it runs.
    pub running: u64,
    /// How many jobs are queued that only this node can do.
    pub waiting: u64,
}

/// What is held by a job, so that no other job touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum LeaseOf {
    /// A computer.
    Computer,
    /// An image.
    Image,
}

/// Who has a computer or an image to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseView {
    /// What kind of thing is held.
    pub of: LeaseOf,
    /// Which.
    pub name: String,
    /// The job that holds it.
    pub job: JobId,
    /// Where that job is.
    pub state: job::State,
    /// What for: what was asked, in words.
    pub purpose: String,
    /// Who asked.
    pub requester: String,
    /// The node that has the job, or had it last.
    pub node: Option<String>,
    /// The job's fencing token; 0 before a node has taken it.
    pub token: i64,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The jobs that wait for it, in their order.
    pub waiting: Vec<JobId>,
}

/// A backend instance at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BackendStatus {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: String,
    /// Whether it answers.
    pub reachable: bool,
    /// What is wrong, or its version.
    pub detail: String,
}

/// So many of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Count {
    /// Of what.
    pub name: String,
    /// How many.
    pub count: u64,
}

/// What applying the configuration's `[computers]` changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Applied {
    /// New ones.
    pub added: Vec<ComputerName>,
    /// Ones that are now different.
    pub changed: Vec<ComputerName>,
    /// Ones that are gone.
    pub removed: Vec<ComputerName>,
    /// Ones that stay as they were, and why.
    pub kept: Vec<String>,
}

/// By which manifest a computer was configured, and what was another than the time before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfiguredView {
    /// The manifest.
    pub manifest: crate::ManifestName,
    /// When its last run came to its end.
    pub at: DateTime<Utc>,
    /// When the one before did; `None` where it is not kept.
    pub before: Option<DateTime<Utc>>,
    /// What the last has found and made that the one before had not.
    pub changes: Vec<ConfigurationChange>,
}

/// A thing that is another in two runs of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConfigurationChange {
    /// The object, as in `__file/etc/motd`; empty for what is the machine's.
    pub object: String,
    /// What of it: `explorer/os`, `parameter/mode`, `code-remote`; empty for the object itself.
    pub part: String,
    /// What the older run has; `None` where it has none.
    pub before: Option<String>,
    /// What the newer has.
    pub after: Option<String>,
}

/// The last lines of a machine's serial console.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Console {
    /// The lines, control characters removed.
    pub text: String,
}

/// A step of a plan, for a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlannedStep {
    /// Its name as it will stand in the journal.
    pub name: String,
    /// What it would do, with names and sizes.
    pub what: String,
}

/// What a job would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Plan {
    /// One line that says what was asked.
    pub title: String,
    /// Its steps in order.
    pub steps: Vec<PlannedStep>,
    /// How long it usually takes, where enough is known.
    #[serde(default)]
    pub usual: Option<Usual>,
    /// Why it would be refused or would wait if it were asked for now.
    #[serde(default)]
    pub hindrance: Option<String>,
}

/// Whether the daemon can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
}
