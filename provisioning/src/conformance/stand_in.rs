//! The OS module that the kit lends a backend: it counts its calls, and passes them on to another or stands in for a guest.

use async_trait::async_trait;
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{AnyStep, Job, Kind, Step, Undo, undo_in};
use vcl_os::{Command, EndState, Error, ErrorKind, Guest, Os, Output, Remote, Remotes, Result, Survey};
use vcl_types::{Access, Endpoint, Identity, KeySource, OsName};

/// What a guest does this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// What it should.
    Well,
    /// It never lets us in: `post_load` ends with its boot limit.
    NeverReady,
    /// It cannot reach the end state: `pre_capture` fails.
    NotCaptured,
}

/// How often a backend called what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) post_load: usize,
    pub(super) sanitize: usize,
    /// Where the host keys were from that each guest which makes itself new ones was handed over with.
    pub(super) keys: Vec<KeySource>,
    /// Each call's end state.
    pub(super) pre_capture: Vec<EndState>,
    /// The endpoint of the last `pre_capture`.
    pub(super) captured_at: Option<Endpoint>,
}

/// Counts, shared by all processes of a case.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(Arc<Mutex<Calls>>);
impl Counter {
    pub(super) fn calls(&self) -> Calls {
        self.lock().clone()
    }
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The module that is lent.
pub(super) struct Lent<'a> {
    pub(super) inner: Option<&'a dyn Os>,
    pub(super) manner: Manner,
    pub(super) counter: Counter,
}

const READY: Step<Lent<'static>, String> = Step::new("stand-in lets in").deadline(Duration::from_secs(3600));
const UNMADE: Step<Lent<'static>, EndState> = Step::new("stand-in is captured");
const STEPS: &[&dyn AnyStep<Lent<'static>>] = &[&READY, &UNMADE];

impl Lent<'_> {
    fn nobody<T>(&self, what: &str) -> Result<T> {
        Err(Error::new(ErrorKind::NoRoute, format!("{what}: no guest is behind the kit's stand-in")))
    }
    /// The steps are this one's whatever it lends: they are declared for no lifetime in particular.
    fn owner(&self) -> Lent<'static> {
        Lent { inner: None, manner: self.manner, counter: self.counter.clone() }
    }
}

#[async_trait]
impl Undo for Lent<'_> {
    async fn undo(&self, step: &str, intent: Value) -> vcl_job::Result<()> {
        match self.inner {
            Some(inner) if STEPS.iter().all(|s| s.name() != step) => inner.undo(step, intent).await,
            _ => undo_in(STEPS, &self.owner(), step, intent).await,
        }
    }
}

#[async_trait]
impl Os for Lent<'_> {
    fn name(&self) -> OsName {
        self.inner.map_or(OsName::Linux, Os::name)
    }
    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        match (self.inner, end) {
            (Some(inner), end) => inner.plan(end),
            (None, None) => vec![(READY.name(), "nobody is waited for")],
            (None, Some(_)) => vec![(UNMADE.name(), "nothing is done")],
        }
    }
    fn unmaking(&self) -> &'static str {
        self.inner.map_or(UNMADE.name(), Os::unmaking)
    }
    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> Result<Endpoint, vcl_job::Error> {
        {
            let mut calls = self.counter.lock();
            calls.post_load += 1;
            if guest.generalised {
                calls.keys.push(guest.endpoint.host_keys.source);
            }
        }
        if let Some(inner) = self.inner.filter(|_| self.manner != Manner::NeverReady) {
            return inner.post_load(job, guest).await;
        }
        let (owner, ready) = (self.owner(), self.manner != Manner::NeverReady);
        job.step(&owner, &READY, guest.endpoint.to_string())
            .run(async |at, cx| {
                cx.check().await?;
                if ready {
                    return Ok(());
                }
                let limit = guest.limits.boot;
                tokio::select! {
                    () = cx.stopped() => Err(cx.stop_error()),
                    // why: it is the limit that is tried
                    () = tokio::time::sleep(limit) => {
                        let context = format!("{at} did not let us in within {limit:?}");
                        Err(vcl_job::Error::new(Kind::Deadline, context))
                    }
                }
            })
            .await?;
        Ok(guest.endpoint.clone())
    }
    async fn pre_capture(
        &self,
        job: &mut Job,
        guest: Guest<'_>,
        end: EndState,
    ) -> Result<(), vcl_job::Error> {
        {
            let mut calls = self.counter.lock();
            calls.pre_capture.push(end);
            calls.captured_at = Some(guest.endpoint.clone());
        }
        if self.manner == Manner::NotCaptured {
            let owner = self.owner();
            let no = async |_, _| Err(vcl_job::Error::new(Kind::Refused, "the guest cannot be captured"));
            return job.step(&owner, &UNMADE, end).run(no).await;
        }
        match self.inner {
            Some(inner) => inner.pre_capture(job, guest, end).await,
            None => {
                let owner = self.owner();
                job.step(&owner, &UNMADE, end).run(async |_, cx| cx.check().await).await
            }
        }
    }
    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> Result<(), vcl_job::Error> {
        self.counter.lock().sanitize += 1;
        match self.inner {
            Some(inner) => inner.sanitize(job, guest).await,
            None => Ok(()),
        }
    }
    async fn grant(&self, job: &mut Job, guest: Guest<'_>, access: &Access) -> Result<(), vcl_job::Error> {
        match self.inner {
            Some(inner) => inner.grant(job, guest, access).await,
            None => Ok(()),
        }
    }
    async fn identity(&self, guest: Guest<'_>) -> Result<Identity> {
        match self.inner {
            Some(inner) => inner.identity(guest).await,
            None => self.nobody("looking who a guest is"),
        }
    }
    async fn shutdown(&self, guest: Guest<'_>) -> Result<()> {
        match self.inner {
            Some(inner) => inner.shutdown(guest).await,
            None => self.nobody("shutting down"),
        }
    }
    async fn reboot(&self, guest: Guest<'_>) -> Result<()> {
        match self.inner {
            Some(inner) => inner.reboot(guest).await,
            None => self.nobody("rebooting"),
        }
    }
    async fn wait_ready(&self, guest: Guest<'_>, cancel: &CancellationToken) -> Result<Endpoint> {
        match self.inner {
            Some(inner) => inner.wait_ready(guest, cancel).await,
            None => Ok(guest.endpoint.clone()),
        }
    }
    async fn exec(&self, guest: Guest<'_>, command: Command) -> Result<Output> {
        match self.inner {
            Some(inner) => inner.exec(guest, command).await,
            None => self.nobody("running a command"),
        }
    }
    async fn survey(&self, guest: Guest<'_>) -> Result<Survey> {
        match self.inner {
            Some(inner) => inner.survey(guest).await,
            None => self.nobody("looking into a guest"),
        }
    }
}

/// Connections where there is nobody to connect to: each try is an error.
#[derive(Debug, Clone, Copy)]
pub struct NoRemotes;
#[async_trait]
impl Remotes for NoRemotes {
    async fn connect(
        &self,
        endpoint: &Endpoint,
        _: Duration,
        _: &CancellationToken,
    ) -> Result<Arc<dyn Remote>> {
        let context = format!("{endpoint} does not answer: no guest is behind the kit's stand-in");
        Err(Error::new(ErrorKind::NoRoute, context))
    }
    async fn forget(&self, _: &Endpoint) {}
}
