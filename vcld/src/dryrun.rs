//! What would be done, for everything that is done at once and is no job of its own; and what a plan says beside its
//! steps: how long it usually takes, and what would keep it from being done now.

use crate::node::{Node, Refusal, RefusalKind};
use vcl_types::api::{Action, Plan, PlannedStep, PowerAction, PowerState, StepState, Usual};
use vcl_types::state::job;
use vcl_types::{JobId, JobRequest};

fn step(name: &str, what: impl Into<String>) -> PlannedStep {
    PlannedStep { name: name.into(), what: what.into() }
}

impl Node {
    /// What an action would do now.
    ///
    /// # Errors
    /// It would be refused, for the reason that is given.
    pub async fn plan_action(&self, action: &Action) -> Result<Plan, Refusal> {
        match action {
            Action::Cancel { job } => self.plan_cancel(*job).await,
            Action::Retry { job } => self.plan_retry(*job).await,
            Action::Undo { job } => self.plan_undo(*job).await,
            Action::Abandon { job } => self.plan_abandon(*job).await,
            Action::Power { computer, power } => {
                let row = self.queue.computer(computer).await?;
                if let Some(holder) = self.queue.holder(computer).await? {
                    let (id, title) = (holder.id, holder.request);
                    let message = format!("{computer} is held by job {id} ({title})");
                    return Err(Refusal::new(RefusalKind::Busy, message));
                }
                let now = self.backend(&row.computer.backend)?.state(&row.computer).await?;
                let what = match (power, now) {
                    (_, PowerState::Absent) => {
                        let message = format!("{computer} has no machine: it is not loaded");
                        return Err(Refusal::new(RefusalKind::NotFound, message));
                    }
                    (PowerAction::On, PowerState::On) => "it is on already".to_owned(),
                    (PowerAction::On, _) => "start its machine".into(),
                    (PowerAction::Off | PowerAction::ForceOff, PowerState::Off) => "it is off already".into(),
                    (PowerAction::Off, _) => "ask its guest to shut down; it may take its time".into(),
                    (PowerAction::ForceOff, _) => "cut its power; what was not written is lost".into(),
                    (PowerAction::Reset, _) => "press its reset button; what was not written is lost".into(),
                };
                let title = format!("change the power of {computer}, which is {}", power_word(now));
                Ok(Plan { title, steps: vec![step("power", what)], usual: None, hindrance: None })
            }
        }
    }

    async fn plan_cancel(&self, id: JobId) -> Result<Plan, Refusal> {
        let row = self.queue.job(id).await?;
        let title = format!("call off job {id} ({})", row.request);
        if row.state.is_final() {
            let steps = vec![step("nothing", format!("it is {} already", row.state))];
            return Ok(Plan { title, steps, usual: None, hindrance: None });
        }
        let mut steps = Vec::new();
        let open = self.queue.steps(id).await?;
        for view in open.iter().rev().filter(|s| s.state != StepState::Undone) {
            if view.state == StepState::Running {
                steps.push(step("stop", format!("`{}` is told to stop and waited for", view.name)));
            }
            steps.push(step("undo", view.name.clone()));
        }
        steps.push(step("end", "the job is cancelled, and lets go of what it holds"));
        Ok(Plan { title, steps, usual: None, hindrance: None })
    }

    async fn plan_retry(&self, id: JobId) -> Result<Plan, Refusal> {
        let row = self.queue.job(id).await?;
        let title = format!("try job {id} ({}) again", row.request);
        match row.state {
            job::State::Stuck => {
                let steps = vec![step("queue", "it goes on with its journal where it got stuck")];
                Ok(Plan { title, steps, usual: None, hindrance: None })
            }
            job::State::Failed => {
                let mut plan = self.plan(&row.request).await?;
                plan.title = title;
                plan.steps.insert(0, step("queue", "it begins anew with an empty journal"));
                Ok(plan)
            }
            state => {
                let message = format!("job {id} is {state}; only a failed or a stuck job is tried again");
                Err(Refusal::new(RefusalKind::Refused, message))
            }
        }
    }

    async fn plan_undo(&self, id: JobId) -> Result<Plan, Refusal> {
        let row = self.queue.job(id).await?;
        if row.state != job::State::Stuck {
            let message = format!(
                "job {id} is {}, not stuck; one that is under way is called off: vclctl job cancel {id}",
                row.state
            );
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let mut steps: Vec<PlannedStep> =
            self.queue.open_steps(id).await?.into_iter().map(|name| step("undo", name)).collect();
        steps.push(step("end", "the job has failed, and lets go of what it holds"));
        Ok(Plan {
            title: format!("take back job {id} ({})", row.request),
            steps,
            usual: None,
            hindrance: None,
        })
    }

    async fn plan_abandon(&self, id: JobId) -> Result<Plan, Refusal> {
        let row = self.queue.job(id).await?;
        if row.state != job::State::Stuck {
            let message = format!("job {id} is {}; only a stuck job can be given up", row.state);
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let mut steps: Vec<PlannedStep> = (self.queue.open_steps(id).await?.into_iter())
            .map(|name| step("leave", format!("what `{name}` made stays")))
            .collect();
        steps.push(step(
            "end",
            "the job has failed, and lets go of what it holds; vclctl orphans list finds the rest",
        ));
        Ok(Plan { title: format!("give up job {id} ({})", row.request), steps, usual: None, hindrance: None })
    }

    /// Takes a stuck job back from its journal.
    ///
    /// # Errors
    /// There is no such job, or it is not stuck.
    pub async fn undo(&self, id: JobId, requester: &str) -> Result<vcl_types::api::JobView, Refusal> {
        let message = format!("taken back by {requester}");
        let cause = vcl_job::Failure { kind: vcl_job::Kind::Fatal, message: message.clone() };
        self.queue.undo(id, cause).await?;
        self.queue.post_event("job-undone", Some(id), None, &message);
        self.job(id).await
    }

    /// How long a request usually takes, and what would keep it from being had now.
    pub(crate) async fn prospects(&self, request: &JobRequest) -> (Option<Usual>, Option<String>) {
        let mut hindrance = None;
        let mut backend = match request {
            JobRequest::CreateFromVm { backend, .. } => Some(backend.clone()),
            _ => None,
        };
        if let Some(name) = request.computer() {
            backend = self.queue.computer(name).await.ok().map(|row| row.computer.backend);
            if let Ok(Some(holder)) = self.queue.holder(name).await {
                let (id, title, state) = (holder.id, holder.request, holder.state);
                hindrance = Some(format!(
                    "{name} is held by job {id} ({title}), which is {state}: it would be refused"
                ));
            }
        }
        if hindrance.is_none() {
            hindrance = self.admission(request).await.ok().and_then(|a| a.reason());
        }
        let usual = self.queue.history(request.kind(), backend.as_ref()).await.ok().and_then(|h| h.whole());
        (usual, hindrance)
    }
}

fn power_word(power: PowerState) -> &'static str {
    match power {
        PowerState::On => "on",
        PowerState::Off => "off",
        PowerState::Paused => "paused",
        PowerState::Absent => "absent",
    }
}
