//! Jobs that wait: for a computer or an image that another job holds, or for room. No task and no timer belongs
//! to one that waits; it is a row until somebody wakes it.
//!
//! A submit that is to wait its turn stands as `waiting` without holding anything. When the holder lets go, in the same
//! transaction the one that waits longest is asked for again, as if it were submitted now: it holds what it needs and is
//! queued, or waits for the next thing that is busy, or fails because what it wanted is not possible any more.
//!
//! A job that has begun and must wait in the middle keeps what it holds and its journal, and goes on there.

use crate::claim::{changed, requeue};
use crate::database::{Db, DbRow, now};
use crate::engine::{Engine, exclusive, locked};
use crate::jobs::{JobRow, get};
use crate::submit::{Asked, ask};
use crate::{Claim, Error, Kind, Queue, Result, events, guard};
use sqlx::Row;
use vcl_types::state::job::{Event, State};
use vcl_types::{ComputerName, ImageName, JobId};

/// What a job can wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitFor {
    /// Another job to let go of a computer.
    Computer(ComputerName),
    /// Other jobs to let go of an image.
    Image(ImageName),
    /// Room at a place, such as `library` or a backend's name.
    Space(String),
}

impl WaitFor {
    /// The kind of thing, as one word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Computer(_) => "computer",
            Self::Image(_) => "image",
            Self::Space(_) => "space",
        }
    }
    /// Which of its kind.
    #[must_use]
    pub fn subject(&self) -> &str {
        match self {
            Self::Computer(name) => name.as_str(),
            Self::Image(name) => name.as_str(),
            Self::Space(name) => name,
        }
    }
    pub(crate) fn read(row: &DbRow) -> Result<Option<Self>> {
        let kind: Option<&str> = row.try_get("waits_for")?;
        let subject: Option<&str> = row.try_get("waits_subject")?;
        let Some((kind, subject)) = kind.zip(subject) else { return Ok(None) };
        Ok(Some(match kind {
            "computer" => {
                Self::Computer(subject.parse().map_err(|e| Error::corrupt("a computer's name", e))?)
            }
            "image" => Self::Image(subject.parse().map_err(|e| Error::corrupt("an image's name", e))?),
            "space" => Self::Space(subject.into()),
            // A newer program's: it wakes what it has put to sleep.
            _ => return Ok(None),
        }))
    }
}

impl Queue {
    /// A job that has begun waits for something. It keeps what it holds, and its claim is over; when it is woken it goes on
    /// from its journal.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when the claim is not good any more; or when the database cannot be used.
    pub async fn wait_for(&self, claim: &Claim, what: WaitFor, reason: &str) -> Result<State> {
        let (claim, reason, inner) = (claim.clone(), reason.to_owned(), self.clone());
        self.write_then(move |db| Box::pin(wait_for(db, claim, what, reason)), move |_| inner.wake()).await
    }

    /// What jobs wait for may be there: those that have begun go back to the queue, all of them; of those that wait for
    /// their turn the first. Answers how many.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn wake_waiting(&self, what: &WaitFor) -> Result<u64> {
        let (what, inner) = (what.clone(), self.clone());
        self.write_then(
            move |db| Box::pin(wake(db, what)),
            move |woken| {
                if *woken > 0 {
                    inner.wake();
                }
            },
        )
        .await
    }

    /// The jobs that wait for room, the one that was asked for first in front.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn waiting_for_room(&self) -> Result<Vec<JobRow>> {
        let rows =
            sqlx::query("SELECT * FROM jobs WHERE state = 'waiting' AND waits_for = 'space' ORDER BY id");
        rows.fetch_all(self.readers()).await?.iter().map(JobRow::read).collect()
    }

    /// Wakes everything that waits for room, which nobody announces: for a node that begins.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn wake_all(&self) -> Result<u64> {
        let some: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE state = 'waiting' AND waits_for = 'space'")
                .fetch_one(self.readers())
                .await?;
        if some == 0 {
            return Ok(0);
        }
        let inner = self.clone();
        self.write_then(
            move |db| Box::pin(wake_all(db)),
            move |woken| {
                if *woken > 0 {
                    inner.wake();
                }
            },
        )
        .await
    }
}

async fn wait_for(db: &mut Db, claim: Claim, what: WaitFor, reason: String) -> Result<State> {
    guard::check(&mut *db, &claim).await?;
    let job = get(&mut *db, claim.id()).await?;
    if job.cancel_wanted {
        // It is not to wait: it goes on at once, and finds that it was called off.
        let state = changed(&job, Event::Lost)?;
        requeue(db, job.id, state, None).await?;
        return Ok(state);
    }
    let state = changed(&job, Event::Wait)?;
    sqlx::query(
        "UPDATE jobs SET state = ?, reason = ?, resumed = 1, waits_for = ?, waits_subject = ? WHERE id = ?",
    )
    .bind(state.as_str())
    .bind(reason)
    .bind(what.kind())
    .bind(what.subject())
    .bind(job.id.0)
    .execute(db)
    .await?;
    Ok(state)
}

async fn wake(db: &mut Db, what: WaitFor) -> Result<u64> {
    let mut woken = 0;
    for job in waiting(&mut *db, &what).await? {
        if job.token > 0 {
            requeue(&mut *db, job.id, changed(&job, Event::Wake)?, None).await?;
            woken += 1;
        }
    }
    Ok(woken + turn(db, &what).await?)
}

async fn wake_all(db: &mut Db) -> Result<u64> {
    // Another node may be waking them, too.
    let rows = sqlx::query(locked!(
        db,
        "SELECT * FROM jobs WHERE state = 'waiting' AND waits_for = 'space' ORDER BY id"
    ));
    let mut woken = 0;
    for row in rows.fetch_all(&mut *db).await? {
        let job = JobRow::read(&row)?;
        requeue(&mut *db, job.id, changed(&job, Event::Wake)?, None).await?;
        woken += 1;
    }
    Ok(woken)
}

async fn waiting(db: &mut Db, what: &WaitFor) -> Result<Vec<JobRow>> {
    let rows = sqlx::query(locked!(
        db,
        "SELECT * FROM jobs WHERE state = 'waiting' AND waits_for = ? AND waits_subject = ? ORDER BY id"
    ));
    let rows = rows.bind(what.kind()).bind(what.subject()).fetch_all(db).await?;
    rows.iter().map(JobRow::read).collect()
}

/// What the job keeps others from.
pub(crate) async fn held(db: &mut Db, id: JobId) -> Result<Vec<WaitFor>> {
    let row = sqlx::query("SELECT holds_computer, holds_image, image FROM jobs WHERE id = ?").bind(id.0);
    held_by(&row.fetch_one(db).await?)
}

/// The same of a job's row.
pub(crate) fn held_by(row: &DbRow) -> Result<Vec<WaitFor>> {
    let mut held = Vec::new();
    if let Some(name) = row.try_get::<Option<&str>, _>("holds_computer")? {
        held.push(WaitFor::Computer(name.parse().map_err(|e| Error::corrupt("a computer's name", e))?));
    }
    let image: Option<&str> = row.try_get("holds_image")?;
    // Whoever would delete a revision waits for those that read it, too.
    if let Some(name) = image.or(row.try_get("image")?) {
        held.push(WaitFor::Image(name.parse().map_err(|e| Error::corrupt("an image's name", e))?));
    }
    Ok(held)
}

/// These things were let go: who is next?
pub(crate) async fn next(db: &mut Db, free: Vec<WaitFor>) -> Result<()> {
    // Most of the time nobody waits. Where others write, too, each is asked for with a lock.
    if Engine::of(db) == Engine::Sqlite && !anybody(&mut *db, &free).await? {
        return Ok(());
    }
    for what in free {
        turn(&mut *db, &what).await?;
    }
    Ok(())
}

/// Whether somebody waits for one of these.
async fn anybody(db: &mut Db, free: &[WaitFor]) -> Result<bool> {
    let of = |kind: &str| free.iter().find(|what| what.kind() == kind).map(WaitFor::subject);
    let some: i64 = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'waiting' AND waits_for = 'computer' AND waits_subject = ?) \
         OR EXISTS (SELECT 1 FROM jobs WHERE state = 'waiting' AND waits_for = 'image' AND waits_subject = ?)",
    )
    .bind(of("computer"))
    .bind(of("image"))
    .fetch_one(db)
    .await?;
    Ok(some != 0)
}

/// Those that wait for their turn are asked for again in their order, until one holds what was let go: many can read an
/// image, and one that only reads keeps no other from it. Answers how many were let in.
async fn turn(db: &mut Db, what: &WaitFor) -> Result<u64> {
    // Most of the time nobody waits.
    if waiting(&mut *db, what).await?.is_empty() {
        return Ok(0);
    }
    exclusive(&mut *db).await?;
    let mut let_in = 0;
    for job in waiting(&mut *db, what).await? {
        if job.token > 0 {
            continue;
        }
        match ask(&mut *db, &job.request).await {
            Ok(Asked::Needs(needs)) => {
                let state = changed(&job, Event::Wake)?;
                let admit = sqlx::query(
                    "UPDATE jobs SET state = ?, reason = NULL, waits_for = NULL, waits_subject = NULL, image = ?, \
                     revision = ?, holds_computer = ?, holds_image = ?, held_since = ? WHERE id = ?",
                );
                let holds = needs.image.as_ref().map(ImageName::as_str);
                let reads = needs.reads.as_ref();
                admit
                    .bind(state.as_str())
                    .bind(reads.map(|r| r.name.as_str()).or(holds))
                    .bind(reads.and_then(|r| r.revision).map(i64::from))
                    .bind(job.request.computer().map(ComputerName::as_str))
                    .bind(holds)
                    .bind(now())
                    .bind(job.id.0)
                    .execute(&mut *db)
                    .await?;
                let_in += 1;
                let has_it = match what {
                    WaitFor::Computer(name) => job.request.computer() == Some(name),
                    WaitFor::Image(name) => needs.image.as_ref() == Some(name),
                    WaitFor::Space(_) => false,
                };
                if has_it {
                    return Ok(let_in);
                }
            }
            Ok(Asked::Busy(busy)) => {
                let wait =
                    sqlx::query("UPDATE jobs SET reason = ?, waits_for = ?, waits_subject = ? WHERE id = ?");
                let wait = wait.bind(busy.reason()).bind(busy.what.kind()).bind(busy.what.subject());
                wait.bind(job.id.0).execute(&mut *db).await?;
                // Somebody has it. Where it is only read, this one waits for the readers, and others may have it.
                if busy.what == *what && has(&mut *db, what).await? {
                    return Ok(let_in);
                }
            }
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::Refused | Kind::Exists) => {
                // It held nothing and has done nothing.
                let fail = sqlx::query(
                    "UPDATE jobs SET state = ?, reason = ?, ended_at = ?, waits_for = NULL, waits_subject = NULL \
                     WHERE id = ?",
                );
                let fail = fail.bind(changed(&job, Event::Fail)?.as_str()).bind(&e.context).bind(now());
                fail.bind(job.id.0).execute(&mut *db).await?;
                events::note(&mut *db, "job-failed", Some(job.id), job.request.computer(), &e.context)
                    .await?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(let_in)
}

/// Whether a job has it to itself.
async fn has(db: &mut Db, what: &WaitFor) -> Result<bool> {
    let holder = match what {
        WaitFor::Computer(_) => "SELECT id FROM jobs WHERE holds_computer = ?",
        WaitFor::Image(_) => "SELECT id FROM jobs WHERE holds_image = ?",
        WaitFor::Space(_) => return Ok(false),
    };
    Ok(sqlx::query_scalar::<_, i64>(holder).bind(what.subject()).fetch_optional(db).await?.is_some())
}
