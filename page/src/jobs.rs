//! Who waits and what works, and one job with its steps.

use crate::configured;
use crate::picture;
use crate::show::{self, Tone};
use crate::{Frame, Verb};
use askama::Template;
use askama::filters::Safe;
use chrono::{DateTime, Utc};
use vcl_types::api::{EventView, EvidenceView, JobView, ReservationView, StepState, StepView, Why};
use vcl_types::state::job::State;
use vcl_types::{ComputerName, ImageName, ReservationId};

/// Who waits and what works.
#[derive(Template)]
#[template(path = "queue.html")]
pub struct Queue<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The reservations that wait.
    pub waiting: Vec<&'a ReservationView>,
    /// Jobs, the newest first.
    pub jobs: &'a [JobView],
    /// Only jobs in this state are shown.
    pub state: Option<State>,
    /// Where the older ones are.
    pub older: Option<String>,
}

impl Queue<'_> {
    fn states(&self) -> &'static [State] {
        State::ALL
    }
}

/// A step in the timeline.
pub struct StepRow<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is: `planned`, `running`, `done`, `failed`, `undone`.
    pub class: &'static str,
    /// How long it took.
    pub took: String,
    /// Since when it runs, if it does.
    pub running_since: Option<DateTime<Utc>>,
    /// How long half of the past ones took.
    pub usual: Option<String>,
    /// How many bytes of how many.
    pub bytes: Option<String>,
    /// It against its usual, as a picture.
    pub bar: Option<Safe<String>>,
    /// Why it failed.
    pub error: Option<&'a str>,
}

/// The word of a step's state.
fn class(state: StepState) -> &'static str {
    match state {
        StepState::Planned => "planned",
        StepState::Running => "running",
        StepState::Done => "done",
        StepState::Failed => "failed",
        StepState::Undone => "undone",
    }
}

/// How far a job is, in percent: by the time that it has taken and that what is left of it usually takes, or else by its steps.
/// Nothing for one that does not run.
#[must_use]
pub fn percent(job: &JobView, now: DateTime<Utc>) -> Option<u32> {
    if job.state != State::Running {
        return None;
    }
    let took =
        job.claimed.or(job.started).map_or(0, |at| (now - at).num_milliseconds().max(0).unsigned_abs());
    let share = match job.left {
        Some(left) if took + left.p50_ms > 0 => took * 100 / (took + left.p50_ms),
        _ => {
            let done = job.steps.iter().filter(|step| step.state == StepState::Done).count();
            // How many are still to come is not known without past runs; a load has about ten.
            (done * 100 / job.steps.len().max(10)) as u64
        }
    };
    u32::try_from(share.min(99)).ok()
}

/// One job.
#[derive(Template)]
#[template(path = "job.html")]
pub struct Job<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// It.
    pub job: &'a JobView,
    /// How far it is.
    pub percent: Option<u32>,
    /// Why it is where it is.
    pub why: Option<&'a Why>,
    /// Its steps.
    pub steps: Vec<StepRow<'a>>,
    /// What happened.
    pub events: &'a [EventView],
    /// What was kept of its failure.
    pub evidence: &'a [EvidenceView],
    /// What can be done to it.
    pub verbs: Vec<Verb>,
}

impl<'a> Job<'a> {
    /// From what the API says of it.
    #[must_use]
    pub fn new(
        frame: Frame<'a>,
        job: &'a JobView,
        why: Option<&'a Why>,
        events: &'a [EventView],
        evidence: &'a [EvidenceView],
        verbs: Vec<Verb>,
    ) -> Self {
        let now = frame.now;
        let row = |step: &'a StepView| {
            let ended = step.ended.or_else(|| (step.state == StepState::Running).then_some(now));
            let took = step
                .started
                .zip(ended)
                .map(|(from, to)| (to - from).num_milliseconds().max(0).unsigned_abs());
            StepRow {
                name: &step.name,
                class: class(step.state),
                took: took.map(show::took).unwrap_or_default(),
                running_since: step.started.filter(|_| step.state == StepState::Running),
                usual: step.usual.map(|usual| show::took(usual.p50_ms)),
                bytes: step.progress.map(|p| format!("{} / {}", show::bytes(p.done), show::bytes(p.total))),
                bar: took.zip(step.usual).map(|(took, usual)| picture::against_usual(took, usual)),
                error: step.error.as_deref(),
            }
        };
        Self {
            percent: percent(job, now),
            steps: job.steps.iter().map(row).collect(),
            job,
            why,
            events,
            evidence,
            verbs,
            frame,
        }
    }
    fn computer(&self) -> Option<&ComputerName> {
        self.job.request.computer()
    }
    fn reservation(&self) -> Option<ReservationId> {
        self.job.request.reservation()
    }
    fn image(&self) -> Option<&ImageName> {
        self.job.request.image()
    }
    fn is_configured(&self, part: &EvidenceView) -> bool {
        configured::manifest(&part.name).is_some()
    }
    fn why_ways(&self) -> &[String] {
        self.why.map_or(&[], |why| &why.ways)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(state: &str, steps: usize, left: Option<u64>) -> JobView {
        let step = |n: usize| json!({ "name": format!("s{n}"), "state": "done", "started": null, "ended": null, "progress": null, "error": null });
        let left = left.map(|ms| json!({ "p50_ms": ms, "p95_ms": ms, "runs": 3 }));
        serde_json::from_value(json!({
            "id": 1, "kind": "unload", "request": { "kind": "unload", "computer": "a" }, "title": "unload a", "state": state,
            "reason": null, "requester": "root", "submitted": "2026-01-01T00:00:00Z", "started": "2026-01-01T00:00:10Z",
            "claimed": "2026-01-01T00:00:10Z", "ended": null, "result": null, "steps": (0..steps).map(step).collect::<Vec<_>>(),
            "left": left,
        }))
        .unwrap()
    }

    #[test]
    fn a_bar_goes_by_time_where_it_is_known_and_by_steps_where_not_and_is_never_full_before_the_end() {
        let now = "2026-01-01T00:00:40Z".parse().unwrap();
        assert_eq!(percent(&job("running", 2, Some(30_000)), now), Some(50));
        assert_eq!(percent(&job("running", 2, Some(0)), now), Some(99));
        assert_eq!(percent(&job("running", 2, None), now), Some(20));
        assert_eq!(percent(&job("running", 40, None), now), Some(99));
        assert_eq!(percent(&job("done", 2, None), now), None);
    }
}
