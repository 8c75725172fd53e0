//! A job in a pipe or a log: a line for everything that happens, and at most one in five seconds for a step that counts.

use super::{Clock, jobs, text, took};
use crate::follow::{Change, Display};
use chrono::{DateTime, TimeDelta, Utc};
use std::collections::HashMap;
use std::io::Write;
use vcl_types::api::{Progress, StepState};
use vcl_types::state::job::State;
use vcl_types::{ByteSize, JobId};

/// The least time between two lines about one step's bytes.
const QUIET: TimeDelta = TimeDelta::seconds(5);

/// The least time between two lines about a step that counts nothing.
const SILENT: TimeDelta = TimeDelta::seconds(30);

/// Lines.
pub struct Plain<'a> {
    job: JobId,
    out: &'a mut (dyn Write + Send),
    clock: Clock,
    running: HashMap<String, Shown>,
}

/// What a step was last said to have done.
#[derive(Debug, Clone, Copy)]
struct Shown {
    began: DateTime<Utc>,
    at: DateTime<Utc>,
    done: Option<u64>,
}

impl<'a> Plain<'a> {
    /// Lines about a job, written to `out`.
    pub fn new(job: JobId, out: &'a mut (dyn Write + Send), clock: Clock) -> Self {
        Self { job, out, clock, running: HashMap::new() }
    }
    fn line(&mut self, at: DateTime<Utc>, what: &str) {
        // A reader who has gone is no reason to stop watching.
        let _ = writeln!(self.out, "{} job {} {}", self.clock.time(at), self.job, text::one_line(what));
        let _ = self.out.flush();
    }
}

impl Display for Plain<'_> {
    fn change(&mut self, change: Change) {
        let now = self.clock.read();
        match change {
            Change::Waits { state, reason } => {
                let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let word = if state == State::Queued { "queued" } else { "waits" };
                self.line(now, &format!("{word}{why}"));
            }
            Change::Began { step, at } => {
                self.running.insert(step, Shown { began: at.unwrap_or(now), at: now, done: None });
            }
            Change::Ended { step, state, at, took: time, error } => {
                self.running.remove(&step);
                let time = time.map(|time| format!(" {}", took(time))).unwrap_or_default();
                let how = match state {
                    StepState::Failed => {
                        format!("failed{time}: {}", error.as_deref().unwrap_or("no reason given"))
                    }
                    StepState::Undone => error.map_or_else(
                        || "taken back".into(),
                        |error| format!("failed{time}: {error}; taken back"),
                    ),
                    _ => format!("done{time}"),
                };
                // When it was taken back is not when it ended.
                let at = at.filter(|_| state != StepState::Undone).unwrap_or(now);
                self.line(at, &format!("{step} … {how}"));
            }
            Change::Note(note) => self.line(now, &note),
        }
    }

    fn progress(&mut self, step: &str, progress: Progress) {
        let now = self.clock.read();
        let Some(shown) = self.running.get_mut(step) else { return };
        let since = now - shown.at;
        if since < QUIET || progress.total == 0 {
            return;
        }
        let before = shown.done.replace(progress.done);
        shown.at = now;
        let (done, total) = (ByteSize(progress.done), ByteSize(progress.total));
        let share = jobs::percent(progress.done, progress.total);
        // The first line has nothing to compare with: the step may have begun long before it was watched.
        let moved = before.map(|before| progress.done.saturating_sub(before) as f64);
        let rate =
            moved.map(|moved| moved * 1000.0 / since.num_milliseconds() as f64).filter(|rate| *rate >= 1.0);
        let rest = rate.map(|rate| (rate, progress.total.saturating_sub(progress.done) as f64 / rate));
        let speed = rest.map(|(rate, seconds)| {
            let seconds = (seconds.ceil() as i64).min(86_400 * 99);
            let left = if seconds < 60 { format!("{seconds} s") } else { took(TimeDelta::seconds(seconds)) };
            format!(", {}/s, {left} left", ByteSize(rate as u64))
        });
        self.line(now, &format!("{step} … {share} % {done} of {total}{}", speed.unwrap_or_default()));
    }

    fn tick(&mut self) {
        let now = self.clock.read();
        let silent = self.running.iter_mut().filter(|(_, shown)| now - shown.at >= SILENT);
        let lines: Vec<String> = silent
            .map(|(step, shown)| {
                shown.at = now;
                format!("{step} … under way for {}", took(now - shown.began))
            })
            .collect();
        for line in lines {
            self.line(now, &line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::Tracker;
    use crate::render::fixtures;

    #[test]
    fn a_load_from_its_queue_to_its_end() {
        let mut out = Vec::new();
        let mut clock = fixtures::at("2026-03-01T12:03:00Z");
        let mut display = Plain::new(JobId(12), &mut out, Clock::fixed(clock));
        let mut tracker = Tracker::default();
        let mut job = fixtures::running_load();
        job.state = State::Queued;
        let steps = std::mem::take(&mut job.steps);
        for second in 0..24 {
            clock += TimeDelta::seconds(1);
            display.clock = Clock::fixed(clock);
            match second {
                2 => (job.state, job.steps) = (State::Running, steps.clone()),
                20 => display.change(Change::Note("vcld is back".into())),
                22 => {
                    job.steps[1].state = StepState::Failed;
                    job.steps[1].error = Some("no space left\u{1b}[5m on kvm1".into());
                    job.steps[1].ended = Some(clock);
                    job.steps[0].state = StepState::Undone;
                }
                _ => {}
            }
            for change in tracker.changes(&job) {
                display.change(change);
            }
            display.progress("copy disk", Progress { done: second * 9_000_000, total: 300_000_000 });
        }
        display.change(Change::Began { step: "post_load/wait for ssh".into(), at: Some(clock) });
        for _ in 0..70 {
            clock += TimeDelta::seconds(1);
            display.clock = Clock::fixed(clock);
            display.tick();
        }
        insta::assert_snapshot!(String::from_utf8(out).unwrap());
    }
}
