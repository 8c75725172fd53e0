//! Watching one job until it ends.
//!
//! The truth is the job as the daemon tells it; the event stream only says when to ask again, and how far a step is.
//! So nothing is lost when the stream ends, when it was too fast for us, or when the daemon restarts: the job is read
//! again, and what has not been shown yet is shown then.

use crate::client::{Client, Stream};
use crate::error::Result;
use crate::outage::{Outage, Patience};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};
use vcl_types::JobId;
use vcl_types::api::{EventView, JobView, Progress, StepState, StepView, StreamItem};
use vcl_types::state::job::State;

/// How often a display may redraw itself, and how soon a step it has not heard of is asked about.
const TICK: Duration = Duration::from_millis(150);
/// How often the job is read when the stream says nothing.
const READ: Duration = Duration::from_secs(1);

/// Something about a job that has not been shown yet.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// It waits to be taken, or for something else.
    Waits {
        /// `queued` or `waiting`.
        state: State,
        /// For what.
        reason: Option<String>,
    },
    /// A step began.
    Began {
        /// The step.
        step: String,
        /// When.
        at: Option<DateTime<Utc>>,
    },
    /// A step ended, or was taken back.
    Ended {
        /// The step.
        step: String,
        /// How.
        state: StepState,
        /// When.
        at: Option<DateTime<Utc>>,
        /// How long it took.
        took: Option<TimeDelta>,
        /// Why it failed.
        error: Option<String>,
    },
    /// Something else that is worth a line.
    Note(String),
}

/// Where a job is shown.
pub trait Display: Send {
    /// Shows a change.
    fn change(&mut self, change: Change);
    /// Shows how far a running step is.
    fn progress(&mut self, step: &str, progress: Progress);
    /// Redraws what moves by itself.
    fn tick(&mut self) {}
    /// Takes away what must not stay on the screen.
    fn close(&mut self) {}
}

/// Knows what of a job was shown already.
#[derive(Debug, Default)]
pub struct Tracker {
    waits: Option<(State, Option<String>)>,
    steps: HashMap<String, (StepState, Option<DateTime<Utc>>)>,
}

impl Tracker {
    /// What is new since it was last asked.
    pub fn changes(&mut self, job: &JobView) -> Vec<Change> {
        let mut changes = Vec::new();
        let waits = match job.state {
            State::Queued | State::Waiting => Some((job.state, job.reason.clone())),
            State::Running | State::Done | State::Failed | State::Cancelled | State::Stuck => None,
        };
        if waits != self.waits {
            changes.extend(waits.clone().map(|(state, reason)| Change::Waits { state, reason }));
            self.waits = waits;
        }
        // Steps are taken back in reverse, after the last of them has failed.
        let undone = |step: &&StepView| step.state == StepState::Undone;
        let forward = job.steps.iter().filter(|step| !undone(step));
        for step in forward.chain(job.steps.iter().rev().filter(undone)) {
            let now = (step.state, step.started);
            if step.state == StepState::Planned || self.steps.get(&step.name) == Some(&now) {
                continue;
            }
            let before = self.steps.insert(step.name.clone(), now);
            let told = before.is_some_and(|(state, _)| state == StepState::Failed);
            changes.push(if step.state == StepState::Running {
                Change::Began { step: step.name.clone(), at: step.started }
            } else {
                Change::Ended {
                    step: step.name.clone(),
                    state: step.state,
                    at: step.ended,
                    took: step.started.zip(step.ended).map(|(from, to)| to - from),
                    error: step.error.clone().filter(|_| !told),
                }
            });
        }
        changes
    }
    /// Whether a step is known to run.
    #[must_use]
    pub fn runs(&self, step: &str) -> bool {
        self.steps.get(step).is_some_and(|(state, _)| *state == StepState::Running)
    }
}

/// Follows one job.
pub struct Follower<'a> {
    client: &'a Client,
    id: JobId,
    display: &'a mut dyn Display,
    tracker: Tracker,
    outage: Outage,
}

impl<'a> Follower<'a> {
    /// A follower that shows job `id` on `display`.
    pub fn new(client: &'a Client, id: JobId, display: &'a mut dyn Display, patience: Patience) -> Self {
        Self { client, id, display, tracker: Tracker::default(), outage: Outage::new(patience) }
    }

    /// Follows the job until it ends and answers with how it did. Giving up this future leaves the job alone.
    ///
    /// # Errors
    /// When there is no such job, or the daemon does not come back while there is patience.
    pub async fn run(mut self) -> Result<JobView> {
        let ended = self.until_it_ends().await;
        self.display.close();
        ended
    }

    async fn until_it_ends(&mut self) -> Result<JobView> {
        loop {
            match self.connected().await {
                Ok(Some(job)) => return Ok(job),
                Ok(None) => {}
                Err(error) => {
                    let id = self.id;
                    let told = error.line();
                    let new = self.outage.begins(error).map_err(|error| {
                        let passing = error.is_passing();
                        error.because(|context| {
                            if passing {
                                format!("{context}; job {id} goes on when vcld does: vclctl job watch {id}")
                            } else {
                                context.into()
                            }
                        })
                    })?;
                    if new {
                        self.note(format!("{told}; waiting for it, job {id} survives this"));
                    }
                }
            }
            self.outage.pause().await;
        }
    }

    /// Follows the job over one event stream; `None` when the stream ended before the job.
    async fn connected(&mut self) -> Result<Option<JobView>> {
        // The stream first: what happens between the two is in the job that is read then.
        let mut stream = match self.client.stream(Some(self.id), None).await {
            Ok(stream) => Some(stream),
            Err(error) if error.is_passing() => return Err(error),
            // Without a stream the job is read from time to time; if there is no such job, reading it says so.
            Err(_) => None,
        };
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut due = Instant::now();
        loop {
            if due <= Instant::now() {
                let job = self.client.job(self.id).await?;
                due = Instant::now() + READ;
                if self.outage.over() {
                    self.note("vcld is back".into());
                }
                self.show(&job);
                if job.state.is_final() {
                    return Ok(Some(job));
                }
            }
            tokio::select! {
                item = next(&mut stream) => match item? {
                    Some(StreamItem::Progress { step, progress, .. }) if self.tracker.runs(&step) => {
                        self.display.progress(&step, progress);
                    }
                    // A step that began since; soon rather than at once, for there may be many such items.
                    Some(StreamItem::Progress { .. }) => due = due.min(Instant::now() + TICK),
                    Some(StreamItem::Event(event)) => {
                        self.event(event);
                        due = Instant::now();
                    }
                    Some(StreamItem::Missed | StreamItem::Changed { .. }) => due = Instant::now(),
                    None => return Ok(None),
                },
                _ = ticks.tick() => self.display.tick(),
            }
        }
    }

    fn show(&mut self, job: &JobView) {
        for change in self.tracker.changes(job) {
            self.display.change(change);
        }
        for step in job.steps.iter().filter(|step| step.state == StepState::Running) {
            if let Some(progress) = step.progress {
                self.display.progress(&step.name, progress);
            }
        }
    }

    /// Steps and the job's own end are shown from the job; anything else an event says is worth a line.
    fn event(&mut self, event: EventView) {
        let told = event.kind.starts_with("job-") || event.kind.starts_with("step-");
        if !told && event.job == Some(self.id) {
            self.note(event.message);
        }
    }
    fn note(&mut self, text: String) {
        self.display.change(Change::Note(text));
    }
}

async fn next(stream: &mut Option<Stream>) -> Result<Option<StreamItem>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_change_is_told_once() {
        let mut job = fixtures::running_load();
        let mut tracker = Tracker::default();
        let first = tracker.changes(&job);
        assert_eq!(first.len(), 2, "{first:?}");
        assert!(
            matches!(&first[0], Change::Ended { step, state: StepState::Done, .. } if step == "create overlay")
        );
        assert!(matches!(&first[1], Change::Began { step, .. } if step == "copy disk"));
        assert!(tracker.runs("copy disk"));
        assert_eq!(tracker.changes(&job), []);

        job.steps[1].state = StepState::Failed;
        job.steps[1].error = Some("no space left".into());
        assert!(matches!(&tracker.changes(&job)[..], [Change::Ended { error: Some(_), .. }]));
        job.steps[0].state = StepState::Undone;
        assert!(matches!(&tracker.changes(&job)[..], [Change::Ended { state: StepState::Undone, .. }]));
    }

    #[test]
    fn a_step_that_is_repeated_after_a_crash_is_told_again() {
        let mut job = fixtures::running_load();
        let mut tracker = Tracker::default();
        tracker.changes(&job);
        job.steps[1].started = Some(fixtures::at("2026-03-01T12:04:00Z"));
        assert!(matches!(&tracker.changes(&job)[..], [Change::Began { .. }]));
    }

    #[test]
    fn waiting_is_told_with_its_reason_and_once() {
        let mut job = fixtures::running_load();
        job.steps.clear();
        job.state = State::Queued;
        let mut tracker = Tracker::default();
        assert_eq!(tracker.changes(&job), [Change::Waits { state: State::Queued, reason: None }]);
        assert_eq!(tracker.changes(&job), []);
        job.state = State::Waiting;
        job.reason = Some("kvm1 runs 4 jobs already".into());
        assert_eq!(tracker.changes(&job).len(), 1);
        job.state = State::Running;
        assert_eq!(tracker.changes(&job), []);
    }
}
