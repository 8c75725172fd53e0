//! What may be queued: one job at a time has a computer, one at a time changes an image.

use crate::database::{Db, now, to_json};
use crate::engine::{exclusive, insert, locked, numbered};
use crate::images::{self, Found};
use crate::jobs::{JobRow, holder_of};
use crate::lanes::Lane;
use crate::{Error, Kind, Queue, Result, WaitFor, computers, reservations, retention};
use vcl_types::state::job::State;
use vcl_types::{BackendName, CaptureInto, ImageName, ImageRef, JobId, JobRequest};

/// A job to be queued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// What is asked.
    pub request: JobRequest,
    /// Who asks.
    pub requester: String,
    /// The backend instance that will do it; `None` takes the computer's, or the one the request names.
    pub backend: Option<BackendName>,
    /// The hypervisor host it will run on, where that is known and has a limit of its own.
    pub host: Option<String>,
}

/// How a job stands in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// The only node that can do it, as one with a file on that node; a job for a computer of a local backend is bound to
    /// that computer's node without being told.
    pub bound_to: Option<String>,
    /// Whether it waits for its turn when another job has what it needs, instead of being refused.
    pub wait: bool,
}

/// What a job has to itself until it is over, and what it reads.
pub(crate) struct Needs {
    /// The backend of the computer or of the request.
    backend: Option<String>,
    /// The node that alone has the computer's backend.
    node: Option<String>,
    /// The image it changes.
    pub(crate) image: Option<ImageName>,
    /// The image and revision it reads or deletes.
    pub(crate) reads: Option<ImageRef>,
}

/// Another job has what is needed.
pub(crate) struct Busy {
    pub(crate) what: WaitFor,
    /// In words: `gis-01`, `the image debian`.
    shown: String,
    holder: JobRow,
}

impl Busy {
    pub(crate) fn reason(&self) -> String {
        self.holder.waited_for(&self.shown)
    }
}

/// What came of asking for something.
pub(crate) enum Asked {
    Needs(Needs),
    Busy(Box<Busy>),
}

impl Queue {
    /// Queues a job. When this returns it survives a power cut, and the workers know of it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an unknown computer or revision, naming near ones; [`Kind::Busy`] when another job has the
    /// computer or changes the image, naming it; [`Kind::Exists`] when a new image would have the name of one that is
    /// there; [`Kind::Refused`] for deleting a revision that computers are loaded from.
    pub async fn submit(&self, job: NewJob) -> Result<JobId> {
        self.submit_as(job, Admission::default()).await
    }

    /// As [`submit`](Self::submit), for a certain node, or to wait for its turn.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); not [`Kind::Busy`] when it is to wait.
    pub async fn submit_as(&self, job: NewJob, admission: Admission) -> Result<JobId> {
        let inner = self.clone();
        let after = move |id| {
            inner.wake();
            id
        };
        self.write_beside(move |db| Box::pin(submit(db, job, admission)), after).await
    }
}

pub(crate) async fn submit(db: &mut Db, job: NewJob, admission: Admission) -> Result<JobId> {
    let (needs, busy) = match ask(db, &job.request).await? {
        Asked::Needs(needs) => (needs, None),
        Asked::Busy(busy) if admission.wait => (belongs(db, &job.request).await?, Some(busy)),
        Asked::Busy(busy) => return Err(busy.holder.holds(busy.shown)),
    };
    let lane = Lane {
        protocol: job.request.kind().protocol(),
        bound_to: job.request.node().map(str::to_owned).or(needs.node).or(admission.bound_to),
        backend: job.backend.map(String::from).or(needs.backend),
        host: job.host.clone(),
    };
    let computer = job.request.computer().map(|c| c.as_str());
    let image = needs.image.as_ref().map(ImageName::as_str);
    let held = busy.is_none() && (computer.is_some() || image.is_some());
    let state = if busy.is_some() { State::Waiting } else { State::Queued };
    let now = now();
    let row = sqlx::query(numbered!(
        db,
        "INSERT INTO jobs (kind, request, requester, backend, host, computer, image, revision, holds_computer, \
         holds_image, held_since, state, reason, waits_for, waits_subject, bound_to, protocol, lane, submitted_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    ))
    .bind(job.request.kind().as_str())
    .bind(to_json(&job.request)?)
    .bind(&job.requester)
    .bind(&lane.backend)
    .bind(&lane.host)
    .bind(computer)
    .bind(needs.reads.as_ref().map(|r| r.name.as_str()).or(image))
    .bind(needs.reads.as_ref().and_then(|r| r.revision).map(i64::from))
    .bind(computer.filter(|_| held))
    .bind(image)
    .bind(held.then_some(now))
    .bind(state.as_str())
    .bind(busy.as_ref().map(|busy| busy.reason()))
    .bind(busy.as_ref().map(|busy| busy.what.kind()))
    .bind(busy.as_ref().map(|busy| busy.what.subject()))
    .bind(&lane.bound_to)
    .bind(lane.protocol)
    .bind(lane.text())
    .bind(now);
    Ok(JobId(insert(db, row).await?))
}

/// Whether a request can be had now, and what it needs. Other nodes queue nothing until the transaction ends.
pub(crate) async fn check(db: &mut Db, request: &JobRequest) -> Result<Needs> {
    match ask(db, request).await? {
        Asked::Needs(needs) => Ok(needs),
        Asked::Busy(busy) => Err(busy.holder.holds(busy.shown)),
    }
}

/// Where a request that has to wait belongs. It holds nothing yet, and what it reads is not kept for it.
async fn belongs(db: &mut Db, request: &JobRequest) -> Result<Needs> {
    let (mut backend, mut node) = (None, None);
    match request {
        JobRequest::CreateFromVm { backend: named, .. } => backend = Some(named.to_string()),
        request => {
            if let Some(name) = request.computer() {
                let computer = computers::get(db, name).await?;
                (backend, node) = (Some(computer.computer.backend.to_string()), computer.node);
            }
        }
    }
    Ok(Needs { backend, node, image: None, reads: None })
}

/// What a request needs, or who has it.
pub(crate) async fn ask(db: &mut Db, request: &JobRequest) -> Result<Asked> {
    let busy = |what: WaitFor, shown: String, holder: JobRow| {
        Ok(Asked::Busy(Box::new(Busy { what, shown, holder })))
    };
    exclusive(&mut *db).await?;
    let mut needs = Needs { backend: None, node: None, image: None, reads: None };
    if let Some(name) = request.computer() {
        let computer = computers::get(db, name).await?;
        if let Some(holder) = holder_of(db, name).await? {
            return busy(WaitFor::Computer(name.clone()), name.to_string(), holder);
        }
        needs.backend = Some(computer.computer.backend.to_string());
        needs.node = computer.node;
        let captures = match request {
            JobRequest::Capture { into, .. } => *into == CaptureInto::Next,
            JobRequest::Return { reservation, .. } => {
                reservations::get(&mut *db, *reservation).await?.is_to_be_captured()
            }
            _ => false,
        };
        if captures {
            needs.image = computer.loaded.map(|l| l.image.name);
        }
    }
    match request {
        JobRequest::Load { image, .. }
        | JobRequest::Prepare { image, .. }
        | JobRequest::Lend { image, .. }
        | JobRequest::Export { image, .. }
        | JobRequest::Verify { image }
        | JobRequest::TestImage { image, .. }
        | JobRequest::Fetch { image, .. } => {
            let number = images::find(db, image).await?.number;
            let image = ImageRef::new(image.name.clone(), number);
            let deleting = sqlx::query(
                "SELECT * FROM jobs WHERE kind = 'delete-image' AND holds_image = ? AND revision = ?",
            )
            .bind(image.name.as_str())
            .bind(i64::from(number));
            if let Some(row) = deleting.fetch_optional(&mut *db).await? {
                return busy(WaitFor::Image(image.name.clone()), image.to_string(), JobRow::read(&row)?);
            }
            needs.reads = Some(image);
        }
        JobRequest::Flatten { image } => {
            let number = images::find(db, image).await?.number;
            needs.image = Some(image.name.clone());
            needs.reads = Some(ImageRef::new(image.name.clone(), number));
        }
        JobRequest::Undelete { image } => {
            if !retention::deleted(db, image).await? {
                return Err(Error::new(Kind::Exists, format!("{image} is not deleted")));
            }
            needs.image = Some(image.name.clone());
        }
        JobRequest::Prune { image, .. } => {
            images::find(db, &ImageRef { name: image.clone(), revision: None }).await?;
            needs.image = Some(image.clone());
        }
        JobRequest::DeleteImage { image, .. } => {
            let Found { number, .. } = images::find(db, image).await?;
            let image = ImageRef::new(image.name.clone(), number);
            retention::free(db, &image).await?;
            let reading = sqlx::query(
                "SELECT * FROM jobs WHERE image = ? AND revision = ? \
                 AND state IN ('queued', 'running', 'waiting', 'stuck') ORDER BY id LIMIT 1",
            )
            .bind(image.name.as_str())
            .bind(i64::from(number));
            if let Some(row) = reading.fetch_optional(&mut *db).await? {
                return busy(WaitFor::Image(image.name.clone()), image.to_string(), JobRow::read(&row)?);
            }
            needs.image = Some(image.name.clone());
            needs.reads = Some(image);
        }
        JobRequest::Import { image, .. } => needs.image = Some(image.clone()),
        JobRequest::CreateFromVm { image, backend, .. } => {
            needs.backend = Some(backend.to_string());
            needs.image = Some(image.clone());
        }
        JobRequest::Capture { into: CaptureInto::New(image), .. } => needs.image = Some(image.clone()),
        JobRequest::Capture { .. }
        | JobRequest::Unload { .. }
        | JobRequest::Configure { .. }
        | JobRequest::Admit { .. }
        | JobRequest::Return { .. }
        | JobRequest::Backup { .. } => {}
        JobRequest::Unknown(_) => {
            let message = format!("this vcld does not know how to do `{request}`");
            return Err(Error::new(Kind::Refused, message));
        }
    }
    if let Some(image) = &needs.image {
        let holder =
            sqlx::query(locked!(db, "SELECT * FROM jobs WHERE holds_image = ?")).bind(image.as_str());
        if let Some(row) = holder.fetch_optional(&mut *db).await? {
            return busy(WaitFor::Image(image.clone()), format!("the image {image}"), JobRow::read(&row)?);
        }
        let new = matches!(
            request,
            JobRequest::CreateFromVm { .. } | JobRequest::Capture { into: CaptureInto::New(_), .. }
        );
        if new && images::newest(db, image).await?.is_some() {
            let message = format!("there is an image {image} already; a new one needs another name");
            return Err(Error::new(Kind::Exists, message));
        }
    }
    Ok(Asked::Needs(needs))
}
