//! What can be asked about a reservation whose computer is lent: its user comes, lets others in, starts it anew, captures it.

use super::requests::{MOST, busy, invalid, refused};
use crate::node::{Node, Refusal, RefusalKind};
use std::net::IpAddr;
use std::time::Duration;
use vcl_types::api::{PowerAction, Submitted};
use vcl_types::lending::{AccessChange, ReservationView};
use vcl_types::state::job;
use vcl_types::state::reservation::State;
use vcl_types::{After, CaptureInto, JobId, JobRequest, ReservationId};

impl Node {
    /// Its user comes, from there where that is known.
    ///
    /// # Errors
    /// There is none of that number, or it is over.
    pub async fn connect(
        &self,
        id: ReservationId,
        from: Option<IpAddr>,
    ) -> Result<(ReservationView, Option<JobId>), Refusal> {
        let job = self.queue.acknowledge(id, from, self.clock.now()).await?;
        Ok((self.reservation(id).await?, job))
    }

    /// Loads a reservation's computer anew for the same user (VCL's reinstall).
    ///
    /// # Errors
    /// It has no usable computer.
    pub async fn reload(&self, id: ReservationId, who: &str) -> Result<JobId, Refusal> {
        let row = self.queue.reservation(id).await?;
        let computer =
            row.computer.clone().ok_or_else(|| refused(format!("reservation {id} has no computer")))?;
        let image =
            self.queue.computer(&computer).await?.loaded.map_or_else(|| row.image.clone(), |l| l.image);
        let backend = self.queue.computer(&computer).await?.computer.backend;
        let host = self.backends.get(&backend).and_then(|backend| backend.host());
        let job = self.queue.reload(id, &image, host).await?;
        self.queue.post_event(
            "reservation-reloaded",
            Some(job),
            Some(&computer),
            &format!("{computer} is loaded anew for {who}"),
        );
        Ok(job)
    }

    /// Changes who is let in.
    ///
    /// # Errors
    /// It is over, or more are named than may be.
    pub async fn change_access(
        &self,
        id: ReservationId,
        change: AccessChange,
    ) -> Result<ReservationView, Refusal> {
        let many = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| list.len() > MOST);
        if many(&change.with) || many(&change.keys) {
            return Err(invalid(format!("`keys` and `with` may have {MOST} lines each")));
        }
        super::requests::users(change.with.as_deref().unwrap_or_default())?;
        for key in change.keys.iter().flatten() {
            vcl_types::ssh_key(key).map_err(|e| invalid(format!("`keys`: {e}")))?;
        }
        if let Some(job) = self.queue.change_access(id, change.with, change.keys).await? {
            self.ended(job).await?;
        }
        self.reservation(id).await
    }

    /// Starts a reservation's computer anew: its operating system is asked to, or its reset button pressed.
    ///
    /// # Errors
    /// It cannot be used now, or a job has its computer, or it does not answer.
    pub async fn reboot(&self, id: ReservationId, hard: bool, who: &str) -> Result<ReservationView, Refusal> {
        let row = self.queue.reservation(id).await?;
        let (State::Ready | State::InUse, Some(name)) = (row.state, &row.computer) else {
            return Err(refused(format!(
                "reservation {id} is {}; only one that can be used is started anew",
                row.state
            )));
        };
        if hard {
            self.power(name, PowerAction::Reset, who).await?;
        } else {
            if let Some(job) = self.queue.holder(name).await? {
                return Err(busy(format!("{name} is held by job {} ({})", job.id, job.request)));
            }
            let Some(lent) = self.lent_guest(&row).await? else {
                return Err(refused(format!("{name} is another node's: ask there")));
            };
            let target = self.target(&lent.computer, &lent.revision, Some(&lent.endpoint))?;
            let silent = |e: vcl_os::Error| Refusal::new(RefusalKind::Unavailable, crate::node::chain(&e));
            target.os.reboot(target.guest(&lent.endpoint)).await.map_err(silent)?;
            self.queue.post_event(
                "rebooted",
                None,
                Some(name),
                &format!("{name} is started anew, says {who}"),
            );
        }
        self.reservation(id).await
    }

    /// Captures what is on a reservation's computer as the next revision of its image; its user goes on afterwards.
    ///
    /// # Errors
    /// It has no usable computer, or another job has that.
    pub async fn checkpoint(&self, id: ReservationId, who: &str) -> Result<Submitted, Refusal> {
        let row = self.queue.reservation(id).await?;
        let (State::Ready | State::InUse, Some(computer)) = (row.state, row.computer) else {
            return Err(refused(format!(
                "reservation {id} is {}; only one that can be used is captured",
                row.state
            )));
        };
        let request = JobRequest::Capture {
            computer,
            into: CaptureInto::Next,
            after: After::Resume,
            power_on: false,
            note: Some(format!("checkpoint of reservation {id}")),
            whole: false,
        };
        self.submit_as(request, who, true).await
    }

    /// Waits until a job is over. What it failed of is the error.
    ///
    /// # Errors
    /// The job failed, or was called off, or takes longer than a minute.
    pub async fn ended(&self, id: JobId) -> Result<(), Refusal> {
        let waiting = async {
            let mut changes = self.queue.submitted();
            loop {
                changes.borrow_and_update();
                let job = self.queue.job(id).await?;
                match job.state {
                    job::State::Done => return Ok(()),
                    state if state.is_final() || state == job::State::Stuck => {
                        let why = job.reason.unwrap_or_else(|| state.to_string());
                        return Err(Refusal::new(
                            RefusalKind::Unavailable,
                            format!("job {id} is {state}: {why}"),
                        ));
                    }
                    _ => {}
                }
                let closed = || Refusal::new(RefusalKind::Unavailable, "vcld is stopping");
                tokio::select! {
                    changed = changes.changed() => changed.map_err(|_| closed())?,
                    // Another node may do it.
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        };
        let late = || {
            Refusal::new(RefusalKind::Unavailable, format!("job {id} takes its time: vclctl job watch {id}"))
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.map_err(|_| late())?
    }
}
