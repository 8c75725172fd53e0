//! Why something is where it is: what it waits for, since when, how long that usually takes, what comes next, and who can
//! do what about it.
//!
//! The words are made by pure functions of a situation, one arm for each state; gathering the situation is at the end.

mod waits;

use crate::node::{Node, Refusal};
use crate::rights::Who;
use chrono::{DateTime, Utc};
use std::time::Duration;
use vcl_queue::{ComputerRow, History, JobRow};
use vcl_types::api::{PowerState, ReservationView, StepState, StepView, Usual, Why};
use vcl_types::people::Verb;
use vcl_types::state::{computer, job, reservation};
use vcl_types::{ComputerName, JobId, ReservationId};

/// All that the words about a job depend on.
pub(crate) struct JobSituation {
    pub(crate) job: JobRow,
    pub(crate) steps: Vec<StepView>,
    pub(crate) history: History,
    /// How many queued jobs are before it.
    pub(crate) before: u64,
    /// What keeps it from being claimed, where that is known.
    pub(crate) limit: Option<String>,
    /// Whether evidence was kept.
    pub(crate) evidence: bool,
}

/// A time for people: `350 ms`, `35 s`, `4 min 5 s`, `2 h 10 min`.
pub(crate) fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms} ms"),
        1..60 => format!("{s} s"),
        60..3600 if s.is_multiple_of(60) => format!("{} min", s / 60),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..172_800 => format!("{} h {} min", s / 3600, s / 60 % 60),
        _ => format!("{} days", s / 86_400),
    }
}

fn since(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    span((now - at).num_milliseconds().max(0).unsigned_abs())
}

fn usually(usual: Option<Usual>) -> String {
    match usual {
        Some(u) => format!(
            ", which usually takes {} (19 of 20 at most {}, by {} runs)",
            span(u.p50_ms),
            span(u.p95_ms),
            u.runs
        ),
        None => String::new(),
    }
}

/// How long what is left of a job usually takes.
pub(crate) fn left(steps: &[StepView], history: &History, now: DateTime<Utc>) -> Option<Usual> {
    let done: Vec<&str> =
        steps.iter().filter(|s| s.state == StepState::Done).map(|s| s.name.as_str()).collect();
    let current = steps.iter().rev().find(|s| s.state == StepState::Running);
    let current = current.map(|s| {
        let ran = s.started.map_or(0, |at| (now - at).num_milliseconds().max(0));
        (s.name.as_str(), Duration::from_millis(ran.unsigned_abs()))
    });
    history.left(&done, current)
}

/// Why a job is where it is.
pub(crate) fn of_job(s: &JobSituation, now: DateTime<Utc>) -> Why {
    let JobSituation { job, steps, history, .. } = s;
    let id = job.id;
    let named = format!("job {id} ({})", job.request);
    let reason = job.reason.clone().unwrap_or_else(|| "no reason was recorded".into());
    let mut why = Why {
        about: format!("job {id}"),
        sentence: String::new(),
        waits_for: None,
        since: None,
        usual: None,
        next: None,
        ways: Vec::new(),
        job: Some(id),
    };
    match job.state {
        job::State::Queued => {
            let turn = match s.before {
                0 => "it is the next".to_owned(),
                1 => "one job is before it".to_owned(),
                n => format!("{n} jobs are before it"),
            };
            let waits = s.limit.clone().unwrap_or_else(|| "a node that takes it".into());
            why.since = Some(job.claimed.filter(|_| job.reason.is_some()).unwrap_or(job.submitted));
            let time = since(why.since.unwrap_or(now), now);
            let back = job.reason.as_ref().map(|r| format!(", again after: {r}")).unwrap_or_default();
            why.sentence = format!("{named} has waited {time} for its turn{back}; {turn}: {waits}");
            why.waits_for = Some(waits);
            why.usual = history.whole();
            why.next = Some("a node claims it and begins, or goes on where it was".into());
            why.ways = vec![format!("vclctl job cancel {id}")];
        }
        job::State::Waiting => {
            why.since = job.claimed.or(Some(job.submitted));
            let time = since(why.since.unwrap_or(now), now);
            why.sentence =
                format!("{named} has waited {time}: {reason}; it goes on by itself when that is there");
            why.waits_for = Some(reason);
            why.next = Some("it is claimed again and goes on where it was".into());
            why.ways = vec![format!("vclctl job cancel {id}")];
            if matches!(job.waits_for, Some(vcl_queue::WaitFor::Space(_))) {
                why.next = Some("it is claimed again when there is room, and begins".into());
                why.ways.push("vclctl image prune IMAGE --keep N --now  (makes room in the library)".into());
            }
        }
        job::State::Running => running(s, &named, now, &mut why),
        job::State::Stuck => {
            let step = steps.iter().rev().find(|step| step.state == StepState::Failed);
            why.since = job.ended;
            let time = since(job.ended.unwrap_or(now), now);
            let open = steps.iter().filter(|step| step.state != StepState::Undone).count();
            let at = step.map_or_else(|| "it".to_owned(), |step| format!("`{}`", step.name));
            why.sentence = format!(
                "{named} has been stuck for {time}: {at} could not be taken back ({reason}); {open} steps are open, and \
                 somebody has to look"
            );
            why.waits_for = Some("a person".into());
            why.next = Some("nothing, until somebody decides".into());
            why.ways = vec![
                format!("vclctl job retry {id}  (go on where it got stuck, when the cause is gone)"),
                format!("vclctl job undo {id}  (take it back as far as it got)"),
                format!("vclctl job abandon {id}  (leave what it made; vclctl orphans list finds it)"),
            ];
        }
        job::State::Failed | job::State::Cancelled => {
            let word = if job.state == job::State::Failed { "failed" } else { "was called off" };
            why.since = job.ended;
            let time = job.ended.map_or_else(String::new, |at| format!(" {} ago", since(at, now)));
            why.sentence = format!("{named} {word}{time} and has taken back what it did: {reason}");
            if s.evidence {
                why.ways.push(format!("vclctl job evidence {id}"));
            }
            if job.state == job::State::Failed {
                why.ways.push(format!("vclctl job retry {id}"));
            }
        }
        job::State::Done => {
            why.since = job.ended;
            let time = job.ended.map_or_else(String::new, |at| format!(" {} ago", since(at, now)));
            let made = job.result.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
            why.sentence = format!("{named} was done{time}{made}");
        }
    }
    why
}

fn running(s: &JobSituation, named: &str, now: DateTime<Utc>, why: &mut Why) {
    let JobSituation { job, steps, history, .. } = s;
    let id = job.id;
    let node = job.node.as_deref().unwrap_or("a node");
    let rest = left(steps, history, now)
        .map(|u| format!("; about {} are left of the whole job", span(u.p50_ms)))
        .unwrap_or_default();
    why.ways = vec![format!("vclctl job watch {id}"), format!("vclctl job cancel {id}")];
    match steps.iter().rev().find(|step| step.state == StepState::Running) {
        Some(step) => {
            why.since = step.started;
            why.usual = history.step(&step.name);
            why.next = history.after(&step.name).map(str::to_owned);
            let time = since(step.started.unwrap_or(now), now);
            let far = step
                .progress
                .filter(|p| p.total > 0)
                .map(|p| format!(" ({} %)", p.done.min(p.total) * 100 / p.total))
                .unwrap_or_default();
            let next = why.next.as_ref().map(|n| format!("; then comes `{n}`")).unwrap_or_default();
            why.sentence = format!(
                "{named} is in `{}` on {node} for {time}{far}{}{next}{rest}",
                step.name,
                usually(why.usual)
            );
            why.waits_for = Some(format!("`{}`", step.name));
        }
        None => {
            why.since = job.claimed;
            let undoing =
                steps.iter().any(|step| matches!(step.state, StepState::Failed | StepState::Undone));
            let time = since(job.claimed.unwrap_or(now), now);
            let doing = if undoing { "is taking back what it did" } else { "is between two steps" };
            let last = steps.last().map(|step| step.name.as_str());
            why.next = if undoing {
                Some("it ends as failed".into())
            } else {
                last.and_then(|l| history.after(l)).map(str::to_owned)
            };
            why.sentence = format!("{named} {doing} on {node}, which has had it for {time}{rest}");
        }
    }
}

/// Why a computer is where it is. `held` is what is to say of the job that has it, to whoever may see that job.
pub(crate) fn of_computer(
    row: &ComputerRow,
    power: Option<PowerState>,
    held: Option<&Why>,
    now: DateTime<Utc>,
) -> Why {
    let name = &row.computer.name;
    let mut why = Why {
        about: format!("computer {name}"),
        sentence: String::new(),
        waits_for: None,
        since: row.loaded.as_ref().map(|l| l.since),
        usual: None,
        next: None,
        ways: Vec::new(),
        job: row.job,
    };
    if let Some(held) = held {
        why.sentence = format!("{name} is {} and waits for a job: {}", row.state, held.sentence);
        (why.waits_for, why.since) = (Some(held.about.clone()), held.since);
        (why.usual, why.next, why.ways) = (held.usual, held.next.clone(), held.ways.clone());
        return why;
    }
    if let Some(job) = row.job {
        why.sentence = format!("{name} is {}, and job {job} has it", row.state);
        (why.waits_for, why.since) = (Some(format!("job {job}")), None);
        return why;
    }
    let reason = row.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    let holds = row.loaded.as_ref().map(|l| format!("{} for {}", l.image, since(l.since, now)));
    let unload = format!("vclctl unload {name}");
    match row.state {
        computer::State::Available => {
            why.sentence = format!("{name} is available and waits for nobody{reason}");
            why.ways = vec![format!("vclctl load {name} IMAGE")];
        }
        computer::State::Loading => {
            why.sentence = format!("{name} is loading and no job has it{reason}: its load was given up");
            why.waits_for = Some("a person".into());
            why.ways = vec!["vclctl orphans list".into(), unload];
        }
        computer::State::Reserved | computer::State::InUse => {
            let who = row.reservation.map(|r| format!(" by reservation {r}")).unwrap_or_default();
            let word = if row.state == computer::State::InUse { "in use" } else { "reserved" };
            let holds = holds.map_or_else(|| "holds nothing".into(), |h| format!("has held {h}"));
            why.sentence = format!("{name} is {word}{who} and {holds}{reason}");
            why.ways = vec![unload];
            let off = match power {
                Some(PowerState::Off) => Some(("is off", format!("vclctl computer power {name} on"))),
                Some(PowerState::Paused) => Some((
                    "stands still",
                    format!("resume it on its host, or: vclctl computer power {name} reset"),
                )),
                Some(PowerState::Absent) => {
                    Some(("is gone from its host", format!("vclctl unload {name}, and load it again")))
                }
                Some(PowerState::On) | None => None,
            };
            if let Some((what, way)) = off {
                why.sentence = format!("{}; its machine {what}", why.sentence);
                why.waits_for = Some("its power".into());
                why.ways.insert(0, way);
            }
        }
        computer::State::Maintenance | computer::State::Broken => {
            let what = if row.state == computer::State::Broken { "is broken" } else { "is in maintenance" };
            let reason = row.reason.as_deref().unwrap_or("nobody said why");
            why.sentence =
                format!("{name} {what}: {reason}; it is given no work until somebody gives it back");
            why.waits_for = Some("a person".into());
            why.ways = vec![format!("vclctl unload {name}  (takes it back, when it is well again)")];
        }
    }
    why
}

/// Why a reservation is where it is. `computer` is what is to say of its computer, where it has one.
pub(crate) fn of_reservation(row: &ReservationView, computer: Option<&Why>, now: DateTime<Utc>) -> Why {
    let (id, owner, image) = (row.id, &row.owner, &row.image);
    let on = row.computer.as_ref().map(|c| format!(" on {c}")).unwrap_or_default();
    let named = format!("reservation {id} of {owner} ({image}{on})");
    let time = since(row.since, now);
    let about = format!("reservation {id}");
    let mut why = match computer {
        Some(computer) => Why { about, since: Some(row.since), ..computer.clone() },
        None => Why {
            about,
            sentence: String::new(),
            waits_for: None,
            since: Some(row.since),
            usual: None,
            next: None,
            ways: vec![format!("vclctl release {id}")],
            job: None,
        },
    };
    let of_computer = computer.map(|c| format!(": {}", c.sentence)).unwrap_or_default();
    let ends = row.end.map(|end| format!(", until {}", end.format("%Y-%m-%d %H:%M UTC"))).unwrap_or_default();
    why.sentence = match row.state {
        reservation::State::Scheduled => {
            why.next = Some("its computer is loaded shortly before it begins".into());
            let kept = row.booked.as_ref().map(|c| format!("; {c} is kept for it")).unwrap_or_default();
            let start = row.start.map(|at| at.format("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default();
            format!("{named} begins at {start}{kept}")
        }
        reservation::State::Queued => {
            why.waits_for = Some("a computer that will do".into());
            why.next = Some("it gets the first that is free when it is its turn".into());
            let wait = match &row.waiting {
                Some(w) => {
                    if let Some(because) = &w.because {
                        why.waits_for = Some(because.clone());
                    }
                    let usual = match (w.p10_s, w.p90_s) {
                        (Some(low), Some(high)) => {
                            format!(
                                "; such ones usually wait {} to {} more",
                                span(low * 1000),
                                span(high * 1000)
                            )
                        }
                        _ => String::new(),
                    };
                    format!(", number {} in the queue{usual}", w.position)
                }
                None => String::new(),
            };
            format!("{named} has waited {time} for a computer{wait}")
        }
        reservation::State::Ready => {
            let comes = match (row.acknowledged, row.connected) {
                (_, Some(_)) => " and its user has gone",
                (Some(_), None) => " and waits for its user to connect",
                (None, None) => " and waits for its user",
            };
            format!("{named} has been ready for {time}{comes}{ends}{of_computer}")
        }
        reservation::State::InUse => format!("{named} is in use{ends}{of_computer}"),
        reservation::State::Ended => {
            let because = row.ended_because.as_deref().unwrap_or("it was given back");
            (why.waits_for, why.next, why.usual) = (None, None, None);
            why.ways.clear();
            format!("{named} is over: {because}")
        }
        state => format!("{named} is {state} since {time}{of_computer}"),
    };
    why
}

impl Node {
    /// Why a job is where it is.
    ///
    /// # Errors
    /// There is no such job, or the database does not answer.
    pub async fn why_job(&self, id: JobId) -> Result<Why, Refusal> {
        let job = self.queue.job(id).await?;
        let steps = self.queue.steps(id).await?;
        let history = self.queue.history(job.request.kind(), job.backend.as_ref()).await?;
        let (mut before, mut limit) = (0, None);
        if job.state == job::State::Queued {
            before = self.queue.jobs_before(&job).await?;
            limit = self.limit_of(&job).await?;
        }
        let evidence = !self.queue.evidence(id).await?.is_empty();
        Ok(of_job(&JobSituation { job, steps, history, before, limit, evidence }, Utc::now()))
    }

    /// What keeps a queued job from being claimed now: the nodes that could, or a limit of this one.
    async fn limit_of(&self, job: &JobRow) -> Result<Option<String>, Refusal> {
        let nodes: Vec<waits::Seen> = self.queue.nodes().await?.into_iter().map(Into::into).collect();
        if let Some(why) = waits::of_nodes(&nodes, job.bound_to.as_deref(), job.backend.as_ref(), Utc::now())
        {
            return Ok(Some(why));
        }
        let running = self.queue.running().await?;
        let full = |what: String, most: u64, mine: Vec<&JobRow>| {
            let ids: Vec<String> = mine.iter().take(5).map(|j| j.id.to_string()).collect();
            let more = if mine.len() > 5 { " …" } else { "" };
            (mine.len() as u64 >= most).then(|| {
                format!("{what} runs {} of at most {most} jobs (jobs {}{more})", mine.len(), ids.join(", "))
            })
        };
        if let Some(name) = &job.backend {
            // Another node has it; what its limit is, that node knows.
            let Some(table) = self.config.backends.get(name) else { return Ok(None) };
            let mine = running.iter().filter(|j| j.backend.as_ref() == Some(name)).collect();
            if let Some(why) = full(format!("backend {name}"), table.max_jobs as u64, mine) {
                return Ok(Some(why));
            }
        }
        let mine = running.iter().filter(|j| j.node.as_deref() == Some(self.name.as_str())).collect();
        Ok(full(format!("node {}", self.name), self.config.node.max_jobs as u64, mine))
    }

    /// Why a computer is where it is. Of a job that `who` may not see only its number is told; without one, all that there is.
    ///
    /// # Errors
    /// There is no such computer, or the database does not answer.
    pub async fn why_computer(&self, name: &ComputerName, who: Option<&Who>) -> Result<Why, Refusal> {
        let row = self.queue.computer(name).await?;
        let mut held = None;
        if let Some(job) = row.job {
            let told = match who {
                Some(who) => who.can(Verb::Look, &self.job_touched(job).await?),
                None => true,
            };
            if told {
                held = Some(self.why_job(job).await?);
            }
        }
        let mut power = None;
        if row.job.is_none() && row.loaded.is_some() {
            // A backend that does not answer is no reason to say nothing.
            if let Ok(backend) = self.backend(&row.computer.backend) {
                let asked = tokio::time::timeout(Duration::from_secs(10), backend.state(&row.computer)).await;
                power = asked.ok().and_then(Result::ok);
            }
        }
        Ok(of_computer(&row, power, held.as_ref(), Utc::now()))
    }

    /// Why a reservation is where it is.
    ///
    /// # Errors
    /// There is no such reservation, or the database does not answer.
    pub async fn why_reservation(&self, id: ReservationId) -> Result<Why, Refusal> {
        let row = self.reservation(id).await?;
        let computer = match &row.computer {
            Some(name) => Some(self.why_computer(name, None).await?),
            None => None,
        };
        Ok(of_reservation(&row, computer.as_ref(), self.clock.now()))
    }
}

#[cfg(test)]
mod tests;
