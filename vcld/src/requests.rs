//! What can be asked of a node: each a method that answers a wire type.

use crate::node::{Node, Refusal, RefusalKind, chain};
use vcl_provisioning::Capability;
use vcl_queue::{Admission, CancelOutcome, ComputerRow, JobFilter, JobRow, NewJob, NodeRow, WaitFor};
use vcl_types::api::{
    Applied, BackendStatus, ComputerView, Console, Count, EventView, FindingLevel, ImageView, JobView,
    LeaseView, NodeView, PowerAction, PowerState, Status, StepView, Submitted, VmPreview, VmView,
};
use vcl_types::state::job;
use vcl_types::{BackendName, ByteSize, ComputerName, ImageName, JobId, JobRequest, OsName};

impl Node {
    /// Queues a job.
    ///
    /// # Errors
    /// The request names something that is not there, or somebody else holds it.
    pub async fn submit(&self, request: JobRequest, requester: &str) -> Result<Submitted, Refusal> {
        self.submit_as(request, requester, false).await
    }

    /// Queues a job; with `wait` it waits its turn when another has what it needs.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub async fn submit_as(
        &self,
        request: JobRequest,
        requester: &str,
        wait: bool,
    ) -> Result<Submitted, Refusal> {
        if let Some(id) = request.reservation() {
            let message = format!(
                "a job of the kind `{}` is queued by vcld itself, for reservation {id}; ask for the reservation: vclctl reserve",
                request.kind()
            );
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let backend = match &request {
            JobRequest::CreateFromVm { backend, .. } => {
                let name = format!("backend {backend}");
                self.backend(backend)?.capabilities().require(Capability::CaptureVm, &name)?;
                Some(backend.clone())
            }
            _ => None,
        };
        let request = request.or_at(&self.name);
        let title = request.to_string();
        let computer = request.computer().cloned();
        let on = match &computer {
            Some(name) => Some(self.queue.computer(name).await?.computer.backend),
            None => backend.clone(),
        };
        let host = on.and_then(|on| self.backends.get(&on)).and_then(|backend| backend.host());
        let admission = Admission { bound_to: self.only_here(&request), wait };
        let new = NewJob { request, requester: requester.to_owned(), backend, host };
        let job = self.queue.submit_as(new, admission).await?;
        tracing::info!(job = job.0, requester, title, "job queued");
        self.queue.post_event(
            "job-queued",
            Some(job),
            computer.as_ref(),
            &format!("{title}, asked for by {requester}"),
        );
        Ok(Submitted { job })
    }

    /// This node's name, when no other can do what is asked: it names a file, or a library or hypervisor, of this machine.
    fn only_here(&self, request: &JobRequest) -> Option<String> {
        let here = match request {
            // A computer knows whose it is.
            request if request.computer().is_some() => false,
            JobRequest::CreateFromVm { backend, .. } => {
                !self.sharing().get(backend).copied().unwrap_or(false) || !self.config.library.shared
            }
            _ => !self.config.library.shared,
        };
        here.then(|| self.name.clone())
    }

    /// Jobs, newest first, without their steps.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn jobs(&self, state: Option<job::State>, limit: u32) -> Result<Vec<JobView>, Refusal> {
        self.jobs_before(state, None, limit, None).await
    }

    /// The same, only those before a number, and only those that one asked for.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn jobs_before(
        &self,
        state: Option<job::State>,
        before: Option<JobId>,
        limit: u32,
        requester: Option<&str>,
    ) -> Result<Vec<JobView>, Refusal> {
        let requester = requester.map(str::to_owned);
        let filter = JobFilter { state, limit, before, requester, ..JobFilter::default() };
        Ok(self.queue.jobs(&filter).await?.into_iter().map(|row| row.view(Vec::new())).collect())
    }

    /// One job with its steps.
    ///
    /// # Errors
    /// There is no such job.
    pub async fn job(&self, id: JobId) -> Result<JobView, Refusal> {
        let row = self.queue.job(id).await?;
        let mut names: Vec<String> = self.queue.evidence(id).await?.into_iter().map(|e| e.name).collect();
        names.dedup();
        let steps = self.queue.steps(id).await?;
        Ok(JobView { evidence: names, ..self.with_time_left(row, steps).await? })
    }

    /// A job with how long what is left of it usually takes.
    async fn with_time_left(&self, row: JobRow, steps: Vec<StepView>) -> Result<JobView, Refusal> {
        let history = self.queue.history(row.request.kind(), row.backend.as_ref()).await?;
        let running = row.state == job::State::Running;
        let left = if running { crate::why::left(&steps, &history, chrono::Utc::now()) } else { None };
        let usual = |step: StepView| StepView { usual: history.step(&step.name), ..step };
        Ok(JobView { left, ..row.view(steps.into_iter().map(usual).collect()) })
    }

    /// Calls a job off. One that runs is told to stop and takes back what it did.
    ///
    /// # Errors
    /// There is no such job.
    pub async fn cancel(&self, id: JobId, requester: &str) -> Result<JobView, Refusal> {
        match self.queue.cancel(id).await? {
            CancelOutcome::Cancelled => {
                self.queue.post_event(
                    "job-cancelled",
                    Some(id),
                    None,
                    &format!("called off by {requester} before it began"),
                );
            }
            CancelOutcome::Wish => {
                self.queue.post_event(
                    "job-cancelling",
                    Some(id),
                    None,
                    &format!("called off by {requester}"),
                );
            }
            CancelOutcome::Already(_) => {}
        }
        self.job(id).await
    }

    /// Tries a failed or stuck job again.
    ///
    /// # Errors
    /// There is no such job, it is neither, or somebody else holds what it needs.
    pub async fn retry(&self, id: JobId, requester: &str) -> Result<JobView, Refusal> {
        self.queue.retry(id).await?;
        self.queue.post_event("job-retried", Some(id), None, &format!("tried again by {requester}"));
        self.job(id).await
    }

    /// Gives a stuck job up as it is.
    ///
    /// # Errors
    /// There is no such job, or it is not stuck.
    pub async fn abandon(&self, id: JobId, requester: &str) -> Result<JobView, Refusal> {
        let reason = format!("given up by {requester}");
        self.queue.abandon(id, &reason).await?;
        self.queue.post_event("job-abandoned", Some(id), None, &reason);
        self.job(id).await
    }

    /// Everything that a job has to itself.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn leases(&self) -> Result<Vec<LeaseView>, Refusal> {
        Ok(self.queue.leases().await?)
    }

    /// All management nodes that share the database.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Refusal> {
        let jobs = self.queue.jobs_of_nodes().await?;
        let view = |row: NodeRow| {
            let (running, waiting) = jobs.get(&row.name).copied().unwrap_or_default();
            row.view(running, waiting)
        };
        Ok(self.queue.nodes().await?.into_iter().map(view).collect())
    }

    /// One management node.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn management_node(&self, name: &str) -> Result<NodeView, Refusal> {
        let row = self.queue.node(name).await?;
        let (running, waiting) = self.queue.jobs_of_nodes().await?.get(name).copied().unwrap_or_default();
        Ok(row.view(running, waiting))
    }

    /// Lets a node claim nothing new, or claim again.
    ///
    /// # Errors
    /// There is no such node.
    pub async fn drain_node(&self, name: &str, drained: bool, requester: &str) -> Result<NodeView, Refusal> {
        self.queue.drain_node(name, drained).await?;
        let (kind, what) = if drained {
            ("node-drained", "takes no new jobs")
        } else {
            ("node-undrained", "takes jobs again")
        };
        self.queue.post_event(kind, None, None, &format!("node {name} {what}, asked for by {requester}"));
        self.management_node(name).await
    }

    /// All computers.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn computers(&self) -> Result<Vec<ComputerView>, Refusal> {
        Ok(self.queue.computers().await?.into_iter().map(|row| row.view(None)).collect())
    }

    /// One computer with its power state, where its backend answers.
    ///
    /// # Errors
    /// There is no such computer.
    pub async fn computer(&self, name: &ComputerName) -> Result<ComputerView, Refusal> {
        let row = self.queue.computer(name).await?;
        let power = match self.backend(&row.computer.backend) {
            Ok(backend) => backend.state(&row.computer).await.ok(),
            Err(_) => None,
        };
        let mut view = row.view(power);
        view.lease = self.queue.lease_of(&WaitFor::Computer(name.clone())).await?;
        Ok(view)
    }

    /// Changes a computer's power.
    ///
    /// # Errors
    /// A job holds it, it is not loaded, or its backend does not answer.
    pub async fn power(
        &self,
        name: &ComputerName,
        action: PowerAction,
        requester: &str,
    ) -> Result<ComputerView, Refusal> {
        let row = self.queue.computer(name).await?;
        if let Some(holder) = self.queue.holder(name).await? {
            let (id, title) = (holder.id, holder.request);
            let message = format!(
                "{name} is held by job {id} ({title}); wait for it, or call it off: vclctl job cancel {id}"
            );
            return Err(Refusal::new(RefusalKind::Busy, message));
        }
        let power = self.change_power(&row, action).await?;
        let word =
            serde_json::to_value(action).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
        self.queue.post_event("power", None, Some(name), &format!("power {word} by {requester}"));
        if action == PowerAction::Off && power == PowerState::On {
            self.queue.post_event(
                "power",
                None,
                Some(name),
                "the guest was asked to shut down; force-off cuts its power",
            );
        }
        Ok(row.view(Some(power)))
    }

    /// From outside where its backend can, or else by asking the guest.
    async fn change_power(&self, row: &ComputerRow, action: PowerAction) -> Result<PowerState, Refusal> {
        let (backend, computer) = (self.backend(&row.computer.backend)?, &row.computer);
        let asks = matches!(action, PowerAction::Off | PowerAction::Reset);
        let Some(loaded) = row.loaded.as_ref().filter(|_| asks) else {
            return Ok(backend.power(computer, action).await?);
        };
        if backend.capabilities().has(Capability::Power) {
            return Ok(backend.power(computer, action).await?);
        }
        let revision = self.library.future(&self.queue.manifest(&loaded.image).await?)?;
        let target = self.target(computer, &revision, Some(&loaded.endpoint))?;
        let guest = target.guest(&loaded.endpoint);
        let asked = match action {
            PowerAction::Off => target.os.shutdown(guest).await,
            _ => target.os.reboot(guest).await,
        };
        asked.map_err(|e| Refusal::new(RefusalKind::Unavailable, chain(&e)))?;
        Ok(backend.state(computer).await?)
    }

    /// The last lines of a computer's console.
    ///
    /// # Errors
    /// It is not loaded, or its console cannot be read.
    pub async fn console(&self, name: &ComputerName, lines: usize) -> Result<Console, Refusal> {
        let row = self.queue.computer(name).await?;
        let text =
            self.backend(&row.computer.backend)?.console(&row.computer, lines.clamp(1, 10_000)).await?;
        Ok(Console { text })
    }

    /// A computer's display as a PNG.
    ///
    /// # Errors
    /// It is not loaded or off, or its backend does not answer.
    pub async fn screenshot(&self, name: &ComputerName) -> Result<Vec<u8>, Refusal> {
        let row = self.queue.computer(name).await?;
        Ok(self.backend(&row.computer.backend)?.screenshot(&row.computer).await?)
    }

    /// Reads `[computers]` of the configuration again.
    ///
    /// # Errors
    /// The configuration does not hold; all of its problems are named.
    pub async fn apply_computers(&self, dry_run: bool) -> Result<Applied, Refusal> {
        let known = vcl_config::Known { backend_types: &self.known };
        let config = vcl_config::load(&self.config_path, &known)
            .map_err(|e| Refusal::new(RefusalKind::Invalid, crate::daemon::explain(&e)))?;
        let missing = config.computers.iter().find(|c| !self.backends.contains_key(&c.backend));
        if let Some(computer) = missing {
            let (backend, name) = (&computer.backend, &computer.name);
            let message = format!(
                "{name} is of backend `{backend}`, which this daemon was started without; restart it: systemctl restart vcld"
            );
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        if config.networks != self.config.networks && !dry_run {
            self.queue.post_event(
                "restart-needed",
                None,
                None,
                "networks changed in the configuration; they count from the daemon's next start",
            );
        }
        Ok(self.queue.apply_computers_of(&self.site(), &config.computers, dry_run).await?)
    }

    /// All images.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn images(&self) -> Result<Vec<ImageView>, Refusal> {
        Ok(self.queue.images().await?.into_iter().map(|row| self.image_view(row)).collect())
    }

    /// One image.
    ///
    /// # Errors
    /// There is no such image.
    pub async fn image(&self, name: &ImageName) -> Result<ImageView, Refusal> {
        let mut view = self.image_view(self.queue.image(name).await?);
        view.lease = self.queue.lease_of(&WaitFor::Image(name.clone())).await?;
        Ok(view)
    }

    fn image_view(&self, row: vcl_queue::ImageRow) -> ImageView {
        let here = |r: &vcl_queue::RevisionRow| self.library.get(&r.manifest.image_ref()).is_ok();
        let revisions = row.revisions.into_iter().map(|r| {
            let here = here(&r);
            r.view(here)
        });
        let revisions = revisions.collect();
        ImageView { name: row.name, revisions, lease: None }
    }

    /// All machines of a backend.
    ///
    /// # Errors
    /// There is no such backend, or it does not answer.
    pub async fn vms(&self, backend: &BackendName) -> Result<Vec<VmView>, Refusal> {
        let (name, backend) = (format!("backend {backend}"), self.backend(backend)?);
        backend.capabilities().require(Capability::Vms, &name)?;
        Ok(backend.vms().await?)
    }

    /// What an image made from a machine would be, and what is missing.
    ///
    /// # Errors
    /// There is no such backend or machine, or it does not answer.
    pub async fn preview(&self, backend: &BackendName, vm: &str, os: OsName) -> Result<VmPreview, Refusal> {
        let target = vcl_provisioning::VmTarget {
            vm,
            os: &**self.os(os)?,
            remotes: &*self.remotes,
            user: self.user(os),
            hooks: Some(&self.config.hooks.directory),
            limits: self.limits(),
        };
        let mut preview = self.backend(backend)?.preview_vm(target).await?;
        preview.free = ByteSize(self.library.space()?.free);
        if preview.to_copy > preview.free {
            preview.missing.push(format!(
                "space: {} to copy, and the library has {} free",
                preview.to_copy, preview.free
            ));
        }
        Ok(preview)
    }

    /// Events after a number, oldest first; without one, the newest.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn events(
        &self,
        after: Option<i64>,
        job: Option<JobId>,
        limit: u32,
    ) -> Result<Vec<EventView>, Refusal> {
        let events = match (job, after) {
            (None, Some(after)) => self.queue.events(after, limit).await?,
            (None, None) => self.queue.last_events(limit).await?,
            (Some(job), after) => self.queue.events_of(job, after, limit).await?,
        };
        Ok(events)
    }

    /// One screen of everything.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn status(&self) -> Result<Status, Refusal> {
        let mut backends = Vec::new();
        for (name, backend) in &self.backends {
            let findings = backend.findings().await;
            let worst = findings.iter().find(|f| f.level == FindingLevel::Error);
            let shown = worst.or_else(|| findings.first());
            backends.push(BackendStatus {
                name: name.to_string(),
                kind: backend.kind().to_owned(),
                reachable: worst.is_none(),
                detail: shown.map(|f| f.found.clone()).unwrap_or_default(),
            });
        }
        let mut running = Vec::new();
        let filter = JobFilter { state: Some(job::State::Running), limit: 20, ..JobFilter::default() };
        for row in self.queue.jobs(&filter).await? {
            let steps = self.queue.steps(row.id).await?;
            running.push(self.with_time_left(row, steps).await?);
        }
        let count = |(name, count): (String, u64)| Count { name, count };
        let computers = self.queue.computer_counts().await?;
        let jobs = self.queue.job_counts().await?;
        let shown = |s: job::State| !matches!(s, job::State::Done | job::State::Cancelled);
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.name.clone(),
            nodes: self.nodes().await?,
            since: self.since,
            backends,
            computers: computers.into_iter().map(|(s, n)| count((s.to_string(), n))).collect(),
            jobs: jobs
                .into_iter()
                .filter(|(s, _)| shown(*s))
                .map(|(s, n)| count((s.to_string(), n)))
                .collect(),
            running,
            library: self.library.root().display().to_string(),
            revisions: self.library.revisions()?.revisions.len() as u64,
            free: ByteSize(self.library.space()?.free),
        })
    }
}
