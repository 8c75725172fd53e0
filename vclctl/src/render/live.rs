//! A job on a terminal: a line for each step that ended, and below them what is under way.

use super::{jobs, text, took};
use crate::follow::{Change, Display};
use chrono::Utc;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::time::Duration;
use vcl_types::JobId;
use vcl_types::api::{Progress, StepState};
use vcl_types::state::job::State;

/// How wide a step's name is shown, so that what stands behind it is in line.
const NAME: usize = 32;

/// Bars.
pub struct Live {
    job: JobId,
    bars: MultiProgress,
    running: HashMap<String, ProgressBar>,
    waits: Option<ProgressBar>,
}

impl Live {
    /// Bars about a job, drawn on `target`.
    #[must_use]
    pub fn new(job: JobId, target: ProgressDrawTarget) -> Self {
        Self { job, bars: MultiProgress::with_draw_target(target), running: HashMap::new(), waits: None }
    }
    fn bar(&self, message: &str) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner().with_style(style(" {spinner} {msg}  {elapsed}")));
        bar.set_message(format!("{:NAME$}", text::one_line(message)));
        bar
    }
    fn line(&self, line: &str) {
        // A terminal that has gone is no reason to stop watching.
        let _ = self.bars.println(line);
    }
}

/// The template is ours, so it is right; should it ever not be, a plain bar is better than none.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("██░")
        .tick_strings(&["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏", "▸"])
}

impl Display for Live {
    fn change(&mut self, change: Change) {
        if let Some(bar) = self.waits.take() {
            bar.finish_and_clear();
        }
        match change {
            Change::Waits { state, reason } => {
                let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                let word = if state == State::Queued { "is queued" } else { "waits" };
                self.waits = Some(self.bar(&format!("job {} {word}{why}", self.job)));
            }
            Change::Began { step, at } => {
                let bar = self.bar(&step);
                let past = at.and_then(|at| (Utc::now() - at).to_std().ok()).unwrap_or_default();
                bar.set_elapsed(past.min(Duration::from_secs(86_400)));
                if let Some(before) = self.running.insert(step, bar) {
                    before.finish_and_clear();
                }
            }
            Change::Ended { step, state, took: time, error, .. } => {
                if let Some(bar) = self.running.remove(&step) {
                    bar.finish_and_clear();
                }
                let name = text::one_line(&step);
                let time = time.map(took).unwrap_or_default();
                let tail = match (state, error) {
                    (StepState::Undone, None) => "  taken back".to_owned(),
                    (StepState::Undone, Some(error)) => format!("  {}; taken back", text::one_line(&error)),
                    (_, Some(error)) => format!("  {}", text::one_line(&error)),
                    _ => String::new(),
                };
                self.line(&format!(" {} {name:NAME$} {time:>12}{tail}", jobs::mark(state)));
            }
            Change::Note(note) => self.line(&format!(" ! {}", text::one_line(&note))),
        }
    }

    fn progress(&mut self, step: &str, progress: Progress) {
        let Some(bar) = self.running.get(step) else { return };
        if progress.total == 0 {
            return;
        }
        if bar.length() != Some(progress.total) {
            let first = bar.length().is_none();
            bar.set_length(progress.total);
            if first {
                bar.set_style(style(
                    " {spinner} {msg} {bar:20.green} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} ETA {eta}",
                ));
                // What was copied before we came says nothing about how fast it goes.
                bar.set_position(progress.done);
                bar.reset_eta();
            }
        }
        bar.set_position(progress.done);
    }

    fn tick(&mut self) {
        for bar in self.running.values().chain(&self.waits) {
            bar.tick();
        }
    }

    fn close(&mut self) {
        for (_, bar) in self.running.drain() {
            bar.finish_and_clear();
        }
        if let Some(bar) = self.waits.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::follow::Tracker;
    use crate::render::fixtures;
    use indicatif::InMemoryTerm;

    #[test]
    fn what_is_done_stays_and_what_runs_has_a_bar() {
        let terminal = InMemoryTerm::new(20, 120);
        let mut live = Live::new(JobId(12), ProgressDrawTarget::term_like(Box::new(terminal.clone())));
        let mut tracker = Tracker::default();
        let mut job = fixtures::running_load();
        for change in tracker.changes(&job) {
            live.change(change);
        }
        live.progress("copy disk", Progress { done: 1 << 28, total: 1 << 29 });
        live.tick();
        let shown = terminal.contents();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0].trim_end(), " ✓ create overlay                          0.3 s");
        assert!(lines[1].contains("copy disk") && lines[1].contains("256.00 MiB of 512.00 MiB"), "{shown}");
        assert!(lines[1].contains("ETA"), "{shown}");

        job.steps[1].state = StepState::Failed;
        job.steps[1].error = Some("no space left".into());
        for change in tracker.changes(&job) {
            live.change(change);
        }
        live.change(Change::Note("vcld is back".into()));
        live.close();
        let shown = terminal.contents();
        let last: Vec<&str> = shown.lines().skip(1).map(str::trim_end).collect();
        assert_eq!(
            last,
            [" ✗ copy disk                                      no space left", " ! vcld is back"]
        );
    }
}
