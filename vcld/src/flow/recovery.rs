//! Bringing a computer back after a capture that failed: the undo of holding it.

use super::Running;
use super::capture::Held;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{
    Control, Flow, Job, Kind, MemoryJournal, Observer, Outcome, Owners, Record, Result, Run, Undo,
};
use vcl_provisioning::Provisioning;
use vcl_types::api::{PowerAction, PowerState};
use vcl_types::{Computer, ComputerName, JobId, Loaded};

/// How long a guest that should be as it was may take to answer.
const AS_IT_WAS: Duration = Duration::from_secs(20);

/// How often the power of a machine that shuts down is looked at.
const POLL: Duration = Duration::from_millis(250);

impl Running {
    /// Makes the computer usable again. One that answers with the keys it had, and whose generalising had not begun, was
    /// not touched; any other is powered on and made ready, with new keys. One that was being generalised may answer
    /// with its old keys from memory for as long as it runs, and is switched off first. If that does not work the computer goes to maintenance with the reason, and
    /// that is no error: the job has been taken back as far as it could be.
    pub(super) async fn bring_back(&self, held: Held) -> Result<()> {
        let Held { computer, revision, loaded } = held;
        let name = &computer.name;
        let mut revision = revision;
        let touched = {
            let os = self.node.target(&computer, &revision, None)?.os;
            let step = format!("pre_capture/{}", os.unmaking());
            let records = self.node.queue.journal(&self.claim).read().await?;
            let begun =
                records.iter().any(|r| matches!(r, Record::Started { key, .. } if key.contains(&step)));
            // A guest that let nobody in was not changed by it.
            let shut_out = |r: &Record| matches!(r, Record::Failed { key, error } if key.contains(&step) && error.kind == Kind::Auth);
            begun && !records.iter().any(shut_out)
        };
        // It makes itself a new identity when it boots, as after any capture.
        revision.manifest.generalised |= touched;
        let target = self.node.target(&computer, &revision, Some(&loaded.endpoint))?;
        self.node.remotes.forget(&loaded.endpoint).await;
        let mut guest = target.guest(&loaded.endpoint);
        guest.limits.boot = AS_IT_WAS;
        if touched {
            let backend = self.backend(&computer.backend)?;
            if backend.state(&computer).await? == PowerState::On {
                // It knows best how; the power button is for one that does not answer.
                if let Err(e) = target.os.shutdown(guest).await {
                    tracing::info!(
                        error = crate::node::chain(&e),
                        "the guest could not be asked to shut down"
                    );
                }
                backend.power(&computer, PowerAction::Off).await?;
                self.wait_off(backend, &computer).await?;
            }
        } else {
            match target.os.wait_ready(guest, &CancellationToken::new()).await {
                Ok(_) => {
                    let message = format!("{name} is as it was");
                    self.node.queue.post_event("resumed", Some(self.job()), Some(name), &message);
                    return Ok(());
                }
                // Nobody gave this guest new keys on vcld's behalf. Whoever answers there now is not to be logged in to,
                // nor to be given the computer's name.
                Err(e) if e.kind == vcl_os::ErrorKind::HostKeyChanged => {
                    return self.out_of_use(name, &crate::node::chain(&e)).await;
                }
                Err(_) => {}
            }
        }
        let backend = self.backend(&computer.backend)?;
        // The steps of bringing it back are undone with nothing and run again from the top if this process dies: the
        // undo that they are part of is not recorded as done before they are.
        let nobody = Nobody;
        let stop = vcl_job::doing().map(|doing| doing.stop().clone()).unwrap_or_default();
        let control = Control { stop, ..Control::default() };
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: Arc::new(Telling {
                queue: self.node.queue.clone(),
                job: self.job(),
                computer: name.clone(),
            }),
            control,
            owners: Owners { flow: &nobody, parts: &[] },
        };
        let flow = Flow { name: "bring back", version: 1, deadline: None };
        let work = async |mut job: Job, ()| backend.resume(&mut job, target).await;
        match vcl_job::execute(run, flow, async { Ok(()) }, work).await {
            Outcome::Done(endpoint) => {
                let now = Loaded { endpoint: endpoint.clone(), ..loaded };
                self.node.queue.set_loaded(&self.claim, name, Some(&now)).await?;
                self.announce(name, &now.image, &endpoint);
                Ok(())
            }
            Outcome::RolledBack(f) | Outcome::Stuck(f) | Outcome::Lost(f) if f.kind != Kind::LeaseLost => {
                let reason = format!("a capture failed, and bringing the computer back did too: {f}");
                self.out_of_use(name, &reason).await
            }
            // The next life tries again.
            Outcome::Interrupted => Err(vcl_job::Error::new(Kind::Interrupted, "the daemon is stopping")),
            _ => Err(vcl_job::Error::new(Kind::LeaseLost, "the job is another's now")),
        }
    }
}

impl Running {
    /// Waits until a machine that was asked to shut down is off, and cuts its power when it takes too long. One that was
    /// still going down would let somebody in and then be gone.
    async fn wait_off(&self, backend: &dyn Provisioning, computer: &Computer) -> Result<()> {
        let stop = vcl_job::doing().map(|doing| doing.stop().clone()).unwrap_or_default();
        let deadline = tokio::time::Instant::now() + self.node.limits().shutdown;
        while backend.state(computer).await? == PowerState::On {
            if tokio::time::Instant::now() >= deadline {
                backend.power(computer, PowerAction::ForceOff).await?;
                return Ok(());
            }
            tokio::select! {
                () = stop.cancelled() => {
                    return Err(vcl_job::Error::new(Kind::Interrupted, "told to stop while a machine shuts down"));
                }
                () = tokio::time::sleep(POLL) => {} // why: a backend tells nobody when a machine is off
            }
        }
        Ok(())
    }
}

/// What bringing a computer back has to say is the job's to say: that a host is waited for, above all.
struct Telling {
    queue: vcl_queue::Queue,
    job: JobId,
    computer: ComputerName,
}
impl Observer for Telling {
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, kind: &str, message: &str) {
        self.queue.post_event(kind, Some(self.job), Some(&self.computer), message);
    }
    fn recorded(&self, _: &Record) {}
}

/// The steps of bringing a computer back leave nothing behind that the computer does not need.
struct Nobody;
#[async_trait::async_trait]
impl Undo for Nobody {
    async fn undo(&self, _: &str, _: serde_json::Value) -> Result<()> {
        Ok(())
    }
}
