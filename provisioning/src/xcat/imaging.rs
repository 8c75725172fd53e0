//! Boxes for imaging tasks, and watching a task from its node's reboot to its report.

use super::Xcat;
use super::client::Attributes;
use crate::ErrorKind;
use crate::inbox::{self, Inbox, Opened, Place, Report, Takes};
use std::time::Duration;
use tokio::time::Instant;
use vcl_job::{Cx, Error, Job, Kind, Result, Step, TRANSIENT, doing};

/// How often a box is looked at: that costs nothing.
const LOOK: Duration = Duration::from_millis(300);
/// Several wrong digests are no accident on the way.
const WRONG: u64 = 3;

/// The box's name has the job's number in it, so that one that is left over tells whose it was.
pub(super) const CHOOSE_BOX: Step<Xcat, String> = Step::new("choose box");
pub(super) const OPEN_BOX: Step<Xcat, Place> =
    Step::new("open box").retry(TRANSIENT).undo(|_, place| Box::pin(async move { shut(&place).await }));
pub(super) const CLOSE_BOX: Step<Xcat, Place> = Step::new("close box").retry(TRANSIENT);

async fn shut(place: &Place) -> Result<()> {
    vcl_job::held()?;
    let place = place.clone();
    let closed = tokio::task::spawn_blocking(move || inbox::close(&place)).await;
    closed.map_err(|e| Error::caused(Kind::Fatal, "closing a box", e))??;
    Ok(())
}

impl Xcat {
    /// The inbox that was lent.
    pub(super) fn lent(&self) -> Result<&dyn Inbox> {
        self.settings.inbox.as_deref().ok_or_else(|| {
            let message =
                "disks go through the daemon's inbox, and the configuration has none; add [inbox] with its url";
            Error::new(Kind::Refused, message)
        })
    }

    /// With what the names of a computer's boxes begin.
    pub(super) fn box_stem(&self, computer: &str) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        format!("{}-{computer}", self.settings.name).chars().map(plain).take(60).collect()
    }

    /// Opens a box for a computer, which is there until [`close_box`](Self::close_box) or until the job is undone.
    pub(super) async fn open_box(
        &self,
        job: &mut Job,
        inbox: &dyn Inbox,
        computer: &str,
        takes: Takes,
    ) -> Result<Place> {
        let stem = self.box_stem(computer);
        let place = job
            .step(self, &CHOOSE_BOX, stem)
            .run(async |stem, _| {
                let (number, token) = doing().map_or((0, 0), |doing| (doing.job, doing.token));
                Ok(inbox.place(&format!("{stem}-job{number}-token{token}"))?)
            })
            .await?;
        job.step(self, &OPEN_BOX, place.clone())
            .run(async |place, cx| {
                cx.check().await?;
                inbox.open(&place, takes).map(drop).map_err(Error::from)
            })
            .await?;
        Ok(place)
    }

    pub(super) async fn close_box(&self, job: &mut Job, place: Place) -> Result<()> {
        job.step(self, &CLOSE_BOX, place)
            .run(async |place, cx| {
                cx.check().await?;
                shut(&place).await
            })
            .await
    }

    /// Watches a node's imaging task until it has reported. `before` is what xCAT said of the node before it was armed.
    pub(super) async fn watch(
        &self,
        cx: &Cx,
        inbox: &dyn Inbox,
        (node, place): (&str, &Place),
        before: &Attributes,
        limit: Duration,
    ) -> Result<Report> {
        let began = Instant::now();
        let (mut asked, mut moved_on): (Option<Instant>, Option<Instant>) = (None, None);
        let (mut heard, mut last) = (began, None);
        let settings = &self.settings;
        // The service system fetches the task at once when xCAT has moved it on.
        let grace = settings.contact / 3;
        let mut told = false;
        loop {
            let seen = inbox.seen(place)?;
            if let Some(report) = seen.report {
                if report.ok {
                    return Ok(report);
                }
                let message = format!("the imaging task on {node} failed: {}", report.text);
                return Err(Error::new(Kind::Fatal, message));
            }
            if seen.wrong >= WRONG {
                let message = format!(
                    "what the imaging task on {node} sends is not what its digests say: its memory, its network or its sha256 is not well"
                );
                return Err(Error::new(Kind::Corrupt, message));
            }
            if seen.last != last {
                (last, heard) = (seen.last, Instant::now());
            }
            if seen.fetched && !told {
                told = true;
                cx.event("imaging", format!("{node} has fetched its imaging task"));
            }
            if let Some((done, total)) = seen.progress {
                cx.progress(done, total);
            }
            let quiet = heard.elapsed();
            if began.elapsed() > limit {
                let message =
                    format!("imaging {node} took longer than {} s (deadlines.copy)", limit.as_secs());
                return Err(Error::new(Kind::Deadline, message));
            }
            if seen.fetched && quiet > settings.no_progress {
                let message = format!(
                    "the imaging task on {node} has shown no progress for {} s (no_progress); its console may tell why",
                    quiet.as_secs()
                );
                return Err(Error::new(Kind::Deadline, message));
            }
            if asked.is_none_or(|asked| asked.elapsed() >= settings.poll) && quiet >= settings.poll {
                let now = self.waiting(|| self.client.attributes(node)).await?;
                asked = Some(Instant::now());
                if is_booted(&now, before) {
                    let what = if seen.fetched {
                        "in the middle of its imaging task"
                    } else {
                        "without having imaged"
                    };
                    return Err(Error::new(Kind::Fatal, format!("{node} has booted from its disk {what}")));
                }
                if !seen.fetched {
                    let gone = is_boot(&now.currstate).then(|| *moved_on.get_or_insert_with(Instant::now));
                    if gone.is_none() {
                        moved_on = None;
                    }
                    self.not_heard(node, &now, gone.map(|at| at.elapsed() > grace), began.elapsed())?;
                }
            }
            tokio::select! {
                () = cx.stopped() => return Err(cx.stop_error()),
                () = tokio::time::sleep(LOOK.min(settings.poll)) => {} // why: a box is files, which tell nobody of themselves
            }
        }
    }

    /// Why a node that has not fetched its task will not do so any more.
    fn not_heard(&self, node: &str, now: &Attributes, moved_on: Option<bool>, since: Duration) -> Result<()> {
        let seconds = since.as_secs();
        let message = match moved_on {
            Some(true) => format!(
                "{node} went on to boot from its disk without having imaged: its service system was started and did not run the task, or could not reach inbox.url"
            ),
            None if since > self.settings.contact => format!(
                "{node} has not asked for its imaging task for {seconds} s (contact) and is armed still: it did not boot from the network, which its boot order would tell, or its service system refuses the task, as the newest one does with all that are not signed"
            ),
            Some(false) if since > self.settings.contact => {
                format!("{node} has not fetched its imaging task for {seconds} s (contact)")
            }
            _ => return Ok(()),
        };
        let status = if now.status.is_empty() { "nothing" } else { &now.status };
        Err(Error::new(Kind::Fatal, format!("{message} (xCAT last heard of it: {status})")))
    }
}

/// Whether a node boots from its disk next.
pub(super) fn is_boot(currstate: &str) -> bool {
    currstate == "boot"
}

/// Whether a node has booted since: the word alone may be an old one.
pub(super) fn is_booted(now: &Attributes, before: &Attributes) -> bool {
    now.status == "booted" && now.statustime != before.statustime
}

/// What a box is opened with again: URL and key.
pub(super) fn opened(inbox: &dyn Inbox, place: &Place, takes: Takes) -> Result<Opened> {
    inbox.open(place, takes).map_err(|e| match e.kind {
        ErrorKind::NotFound => Error::new(Kind::NotFound, format!("the box {} is gone", place.name)),
        _ => e.into(),
    })
}
