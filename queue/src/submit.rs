//! What may be queued: one job at a time has a computer, one at a time changes an image.

use crate::database::{Db, now, to_json};
use crate::engine::{exclusive, inserted};
use crate::images::{self, Found};
use crate::jobs::{JobRow, holder_of};
use crate::{Error, Kind, Queue, Result, computers, retention};

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

/// What a job has to itself until it is over, and what it reads.
pub(crate) struct Needs {
    /// The backend of the computer or of the request.
    backend: Option<String>,
    /// The image it changes.
    pub(crate) image: Option<ImageName>,
    /// The image and revision it reads or deletes.
    reads: Option<ImageRef>,
}

impl Queue {
    /// Queues a job. When this returns it survives a power cut, and the workers know of it.
    ///
    /// # Errors
    /// [`Kind::NotFound`] for an unknown computer or revision, naming near ones; [`Kind::Busy`] when another job has the
    /// computer or changes the image, naming it; [`Kind::Exists`] when a new image would have the name of one that is
    /// there; [`Kind::Refused`] for deleting a revision that computers are loaded from.
    pub async fn submit(&self, job: NewJob) -> Result<JobId> {
        let inner = self.clone();
        self.write_then(move |db| Box::pin(submit(db, job)), move |_| inner.wake()).await
    }
}

async fn submit(db: &mut Db, job: NewJob) -> Result<JobId> {
    let needs = check(db, &job.request).await?;
    let backend = job.backend.map(String::from).or(needs.backend);
    let computer = job.request.computer().map(|c| c.as_str());
    let image = needs.image.as_ref().map(ImageName::as_str);
    let done = sqlx::query(
        "INSERT INTO jobs (kind, request, requester, backend, host, computer, image, revision, holds_computer, \
         holds_image, for_node, state, submitted_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(job.request.kind().as_str())
    .bind(to_json(&job.request)?)
    .bind(&job.requester)
    .bind(backend)
    .bind(&job.host)
    .bind(computer)
    .bind(needs.reads.as_ref().map(|r| r.name.as_str()).or(image))
    .bind(needs.reads.as_ref().and_then(|r| r.revision).map(i64::from))
    .bind(computer)
    .bind(image)
    .bind(job.request.node())
    .bind(State::Queued.as_str())
    .bind(now())
    .execute(&mut *db)
    .await?;
    Ok(JobId(inserted(&mut *db, &done).await?))
}

/// Whether a request can be had now, and what it needs. Other nodes queue nothing until the transaction ends.
pub(crate) async fn check(db: &mut Db, request: &JobRequest) -> Result<Needs> {
    exclusive(&mut *db).await?;
    let mut needs = Needs { backend: None, image: None, reads: None };
    if let Some(name) = request.computer() {
        let computer = computers::get(db, name).await?;
        if let Some(holder) = holder_of(db, name).await? {
            return Err(holder.holds(name));
        }
        needs.backend = Some(computer.computer.backend.to_string());
        if let JobRequest::Capture { into: CaptureInto::Next, .. } = request {
            needs.image = computer.loaded.map(|l| l.image.name);
        }
    }
    match request {
        JobRequest::Load { image, .. }
        | JobRequest::Export { image, .. }
        | JobRequest::Verify { image }
        | JobRequest::Fetch { image, .. } => {
            let number = images::find(db, image).await?.number;
            let image = ImageRef::new(image.name.clone(), number);
            let deleting = sqlx::query(
                "SELECT * FROM jobs WHERE kind = 'delete-image' AND holds_image = ? AND revision = ?",
            )
            .bind(image.name.as_str())
            .bind(i64::from(number));
            if let Some(row) = deleting.fetch_optional(&mut *db).await? {
                return Err(JobRow::read(&row)?.holds(&image));
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
                return Err(JobRow::read(&row)?.holds(&image));
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
        JobRequest::Capture { .. } | JobRequest::Unload { .. } | JobRequest::Backup { .. } => {}
    }
    if let Some(image) = &needs.image {
        let holder = sqlx::query("SELECT * FROM jobs WHERE holds_image = ?").bind(image.as_str());
        if let Some(row) = holder.fetch_optional(&mut *db).await? {
            return Err(JobRow::read(&row)?.holds(format!("the image {image}")));
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
    Ok(needs)
}
