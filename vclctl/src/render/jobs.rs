//! Jobs: lists, single ones, plans, and the one line that says how a job ended.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone, insight, text, took};
use std::fmt::Write as _;
use vcl_types::api::{ComputerView, JobView, Plan, StepState, StepView};
use vcl_types::state::{self, job::State};
use vcl_types::{After, ByteSize, JobRequest};

fn tone(state: State) -> Tone {
    match state {
        State::Queued | State::Cancelled => Tone::Quiet,
        State::Running | State::Waiting => Tone::Busy,
        State::Done => Tone::Good,
        State::Failed | State::Stuck => Tone::Bad,
    }
}

/// How long a job has taken, or takes.
fn time(job: &JobView, clock: &Clock) -> Option<String> {
    let started = job.started?;
    Some(job.ended.map_or_else(|| clock.since(started), |ended| took(ended - started)))
}

/// What a step does right now: `copy disk 45 %`.
pub(super) fn running_step(job: &JobView) -> Option<String> {
    let step = job.steps.iter().find(|step| step.state == StepState::Running)?;
    let share = step.progress.filter(|progress| progress.total > 0);
    Some(match share {
        Some(progress) => format!("{} {} %", step.name, percent(progress.done, progress.total)),
        None => step.name.clone(),
    })
}

/// How many hundredths are done.
pub(super) fn percent(done: u64, total: u64) -> u64 {
    let (done, total) = (u128::from(done.min(total)), u128::from(total.max(1)));
    u64::try_from(done * 100 / total).unwrap_or(100)
}

/// Many of them, a line each.
#[must_use]
pub fn list(jobs: &[JobView], clock: &Clock) -> String {
    let mut table = Table::new(&["JOB", "WHAT", "STATE", "ASKED", "TOOK", "BY", "RESULT"], "no jobs");
    for job in jobs {
        let result = match job.state {
            State::Done => job.result.clone(),
            State::Running => running_step(job).or_else(|| job.reason.clone()),
            _ => job.reason.clone(),
        };
        table.row([
            quiet(job.id),
            quiet(&job.title),
            (job.state.to_string(), tone(job.state)),
            quiet(clock.ago(job.submitted)),
            maybe(time(job, clock)),
            quiet(&job.requester),
            maybe(result),
        ]);
    }
    table.text()
}

/// One of them, with its steps.
#[must_use]
pub fn one(job: &JobView, clock: &Clock) -> String {
    let mut facts = Facts::default();
    facts
        .add("job", job.id)
        .add("what", &job.title)
        .add("state", job.state)
        .maybe("reason", job.reason.as_ref());
    facts.maybe("result", job.result.as_ref());
    facts.add("asked", format!("{} by {}", clock.full(job.submitted), job.requester));
    facts.maybe("began", job.started.map(|at| clock.full(at)));
    let here = job.node.as_ref().zip(job.claimed);
    facts.maybe("node", here.map(|(node, since)| format!("{node}, since {}", clock.full(since))));
    facts.maybe("only on", job.bound_to.as_ref().filter(|only| job.node.as_ref() != Some(only)));
    facts.maybe("ended", job.ended.map(|at| clock.full(at))).maybe("took", time(job, clock));
    facts.maybe("left", job.left.as_ref().map(|left| format!("about {}", insight::usual(left))));
    if !job.evidence.is_empty() {
        facts.add("evidence", format!("{}: vclctl job evidence {}", job.evidence.join(", "), job.id));
    }
    let mut shown = facts.text();
    if !job.steps.is_empty() {
        shown.push('\n');
    }
    let width = job.steps.iter().map(|step| text::one_line(&step.name).chars().count()).max().unwrap_or(0);
    for step in &job.steps {
        let line =
            format!("{} {:width$}  {}", mark(step.state), text::one_line(&step.name), how(step, job, clock));
        let _ = write!(shown, "\n {}", line.trim_end());
    }
    shown
}

/// The sign for a step's state.
#[must_use]
pub fn mark(state: StepState) -> &'static str {
    match state {
        StepState::Planned => "·",
        StepState::Running => "▸",
        StepState::Done => "✓",
        StepState::Failed => "✗",
        StepState::Undone => "↶",
    }
}

fn how(step: &StepView, job: &JobView, clock: &Clock) -> String {
    let time = step
        .started
        .map(|from| step.ended.or(job.ended).map_or_else(|| clock.since(from), |to| took(to - from)));
    let time = time.unwrap_or_default();
    let progress = step.progress.filter(|_| step.state == StepState::Running);
    let far = progress
        .map(|far| format!("  {} of {}", ByteSize(far.done), ByteSize(far.total)))
        .unwrap_or_default();
    let error = step.error.as_ref().map(|error| format!("  {}", text::one_line(error))).unwrap_or_default();
    let undone = if step.state == StepState::Undone { "  taken back" } else { "" };
    format!("{time:>11}{far}{undone}{error}")
}

/// What a job would do.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let width = plan.steps.iter().map(|step| text::one_line(&step.name).chars().count()).max().unwrap_or(0);
    let mut shown = format!("would {}:\n", text::one_line(&plan.title));
    for (number, step) in plan.steps.iter().enumerate() {
        let (number, name, what) = (number + 1, text::one_line(&step.name), text::one_line(&step.what));
        let line = format!("{number:3} {name:width$}  {what}");
        let _ = writeln!(shown, "{}", line.trim_end());
    }
    if let Some(usual) = &plan.usual {
        let _ = writeln!(shown, "it usually takes {}", insight::usual(usual));
    }
    if let Some(hindrance) = &plan.hindrance {
        let _ = writeln!(shown, "not now: {}", text::one_line(hindrance));
    }
    shown
}

/// The one line about a job that did what was asked. `computer` is the job's computer as it is now.
#[must_use]
pub fn done(job: &JobView, computer: Option<&ComputerView>) -> String {
    let result = |asked: &dyn ToString| job.result.clone().unwrap_or_else(|| asked.to_string());
    let what = match &job.request {
        JobRequest::Load { computer: name, image } => {
            let loaded = computer.and_then(|view| view.loaded.as_ref());
            match loaded {
                Some(loaded) => {
                    format!("loaded {} on {name} ({})", loaded.image, loaded.endpoint.ssh_command())
                }
                None => format!("loaded {} on {name}", result(image)),
            }
        }
        JobRequest::Capture { computer: name, after, .. } => {
            let now = match after {
                After::Release => "is given back",
                After::Resume => "runs again, with new host keys",
                After::KeepOff => "is off and still loaded",
            };
            let image =
                job.request.image().map_or_else(|| "its next revision".to_owned(), ToString::to_string);
            format!("captured {} from {name}, which {now},", result(&image))
        }
        JobRequest::Unload { computer: name } => format!("unloaded {name}"),
        JobRequest::Configure { computer: name, manifest, .. } => match &job.result {
            Some(said) => format!("configured {name} by {manifest}: {said},"),
            None => format!("configured {name} by {manifest}"),
        },
        JobRequest::Prepare { computer: name, image } => format!("prepared {name} with {}", result(image)),
        JobRequest::Lend { reservation, computer: name, .. } => {
            format!("lent {name} to reservation {reservation}")
        }
        JobRequest::Admit { reservation, computer: name } => {
            format!("let reservation {reservation} in on {name}")
        }
        JobRequest::Return { reservation, computer: name } => {
            format!("took {name} back from reservation {reservation}")
        }
        JobRequest::Import { image, path, .. } => format!("imported {} from {path}", result(image)),
        JobRequest::CreateFromVm { image, backend, vm, .. } => {
            format!("created {} from {backend}/{vm}", result(image))
        }
        JobRequest::Export { image, path, format } => format!("exported {image} to {path} ({format})"),
        JobRequest::Verify { image } => format!("verified {}: its digests are right", result(image)),
        JobRequest::TestImage { image, .. } => format!("tested: {}", result(image)),
        JobRequest::DeleteImage { image, now: true } => format!("deleted {image} for good"),
        JobRequest::DeleteImage { image, now: false } => {
            job.result.clone().unwrap_or_else(|| format!("{image} is in the trash"))
        }
        JobRequest::Undelete { image } => format!("brought {} back", result(image)),
        JobRequest::Flatten { image } => format!("{} lies on no other revision", result(image)),
        JobRequest::Prune { image, .. } => format!("pruned {}", result(image)),
        JobRequest::Fetch { image, .. } => match &job.result {
            Some(made) => format!("fetched: {made}"),
            None => format!("fetched {image}"),
        },
        JobRequest::Backup { directory, .. } => match &job.result {
            Some(made) => format!("backed up: {made}"),
            None => format!("backed up to {directory}"),
        },
        JobRequest::Unknown(_) => job.title.clone(),
    };
    let time = job.started.zip(job.ended).map(|(from, to)| format!(" {}", took(to - from)));
    text::one_line(&format!("{what}{}", time.unwrap_or_default()))
}

/// The sentence about a job that did not; `None` for one that did, or that goes on.
#[must_use]
pub fn failure(job: &JobView) -> Option<String> {
    let how = match job.state {
        state::job::State::Failed => "failed",
        state::job::State::Cancelled => "was cancelled",
        state::job::State::Stuck => "is stuck, somebody has to look at it",
        _ => return None,
    };
    let (id, title) = (job.id, &job.title);
    let reason = job.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(text::one_line(&format!("job {id} ({title}) {how}{reason}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&fixtures::jobs(), &fixtures::clock()));
    }
    #[test]
    fn each_on_its_own() {
        let each: Vec<String> = fixtures::jobs().iter().map(|job| one(job, &fixtures::clock())).collect();
        insta::assert_snapshot!(each.join("\n\n"));
    }
    #[test]
    fn a_plan() {
        insta::assert_snapshot!(plan(&fixtures::plan()));
    }
    #[test]
    fn how_jobs_end() {
        let job = fixtures::ended(State::Done);
        let mut lines = vec![done(&job, fixtures::computers().get(1)), done(&job, None)];
        for request in fixtures::requests() {
            lines.push(done(&JobView { request, result: Some("debian@3".into()), ..job.clone() }, None));
        }
        for state in State::ALL {
            lines.extend(failure(&fixtures::ended(*state)));
        }
        insta::assert_snapshot!(lines.join("\n"));
    }
}
