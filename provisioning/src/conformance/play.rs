//! Jobs that are interrupted at their journal writes: histories of [`vcl_job::faults`] on a backend.
//!
//! Each life of such a job opens the instance anew, as another process would. The fault kit judges the journal and how each
//! life ended; here the world is looked at, and at what was captured.

use super::deed::{Deed, Made, Process};
use super::journals::{Ear, Numbered};
use super::kit::{Kit, Verdict, ensure, failed};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use vcl_images::Staging;
use vcl_job::faults::{Ended, FaultyJournal, Life, Matrix, Played, Points, Scene};
use vcl_job::{Journal, Outcome, Record};
use vcl_types::Computer;

/// Which job is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plot {
    Load,
    Unload,
    Capture,
}

/// One job on one computer.
struct Play<'k> {
    kit: &'k Kit<'k>,
    plot: Plot,
    deed: Deed,
    staging: Option<Staging>,
    journal: Arc<Numbered>,
    points: Points,
    wrong: Mutex<Vec<String>>,
}

impl<'k> Play<'k> {
    /// Brings the computer to where the job begins.
    async fn prepare(kit: &'k Kit<'k>, plot: Plot, computer: &Computer, points: Points) -> Self {
        let mut staging = None;
        let prepared: Verdict<Deed> = async {
            kit.unload(computer).await?;
            Ok(match plot {
                Plot::Load => kit.load_of(computer),
                Plot::Unload => {
                    let at = kit.load(computer).await?;
                    kit.unload_of(computer).at(&at)
                }
                Plot::Capture => {
                    let at = kit.load(computer).await?;
                    let made = kit.staging()?;
                    let deed = kit.capture_of(computer, &at, &made);
                    staging = Some(made);
                    deed
                }
            })
        }
        .await;
        let (deed, wrong) = match prepared {
            Ok(deed) => (deed, Vec::new()),
            Err(stop) => (kit.load_of(computer), vec![format!("before it began: {stop:?}")]),
        };
        let journal = Numbered::new(kit.job());
        Self { kit, plot, deed, staging, journal, points, wrong: Mutex::new(wrong) }
    }
    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
    fn staged(&self) -> Vec<String> {
        let files = self.staging.iter().filter_map(|staging| staging.directory().read_dir().ok()).flatten();
        let mut names: Vec<String> =
            files.flatten().map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
    /// What was captured is what is on the disk.
    async fn judge(&self, made: &Made) {
        let (Made::Captured(captured), Some(staging)) = (made, &self.staging) else { return };
        let digests: Verdict<_> = async {
            Ok((self.kit.got(staging, captured).await?, self.kit.expected(&self.deed.computer).await?))
        }
        .await;
        match digests {
            Ok((got, expected)) if got == expected => {}
            Ok((got, expected)) => self.wrong(format!("the capture holds {got}, its source {expected}")),
            Err(stop) => self.wrong(format!("{stop:?}")),
        }
    }
}

#[async_trait]
impl Scene for Play<'_> {
    async fn live(&self, life: &Life) -> Ended {
        let backend = match self.kit.world.open().await {
            Ok(backend) => backend,
            Err(e) => return Ended::Lost(format!("the world cannot be opened: {e}")),
        };
        let journal: Arc<dyn Journal> =
            Arc::new(FaultyJournal::new(life.claim(self.journal.clone()), self.points.clone()));
        let process = Process { backend, journal, observer: Ear::new(), control: life.control.clone() };
        match self.kit.live(process, &self.deed).await {
            Outcome::Done(made) => {
                self.judge(&made).await;
                // Ports, identities and the like may be others each time.
                Ended::Done("done".into())
            }
            other => other.into(),
        }
    }
    async fn world(&self) -> Value {
        let left = match self.kit.left().await {
            Ok(left) => left,
            Err(stop) => vec![format!("{stop:?}")],
        };
        json!({ "there": left, "staging": self.staged() })
    }
    async fn left(&self, ended: &Ended) -> Vec<String> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gone = match (self.plot, ended) {
            (Plot::Load, Ended::RolledBack(_)) | (Plot::Unload, Ended::Done(_)) => true,
            (Plot::Capture, Ended::RolledBack(_)) => {
                wrong.extend(self.staged().into_iter().map(|name| format!("{name} in the staging")));
                false
            }
            _ => false,
        };
        if gone {
            match self.kit.left().await {
                Ok(left) => wrong.extend(left),
                Err(stop) => wrong.push(format!("{stop:?}")),
            }
        }
        wrong
    }
    async fn records(&self) -> vcl_job::Result<Vec<Record>> {
        self.journal.read().await
    }
    fn restores(&self) -> bool {
        self.plot == Plot::Load
    }
}

/// Plays on one computer, and what the undisturbed one came to.
pub(super) struct Plays<'k> {
    kit: &'k Kit<'k>,
    plot: Plot,
    computer: Computer,
    calm: Played,
}

impl<'k> Plays<'k> {
    pub(super) async fn of(kit: &'k Kit<'k>, plot: Plot) -> Verdict<Self> {
        let computer = kit.computer()?;
        let calm = play(kit, plot, &computer, "").await?;
        ensure!(calm.wrong.is_empty(), "undisturbed: {}", calm.wrong.join("; "));
        ensure!(matches!(calm.end(), Some(Ended::Done(_))), "undisturbed it ends as {:?}", calm.end());
        Ok(Self { kit, plot, computer, calm })
    }
    /// The points at which things happen to it: all, or as many as the world takes.
    pub(super) fn points(&self) -> Vec<usize> {
        spread(self.calm.points.first().copied().unwrap_or(0), self.kit.world.points())
    }
    /// A pattern, in which `@N` is a point and `@M` one soon after it, as a history.
    fn history(pattern: &str, point: usize) -> String {
        pattern.replace("@N", &format!("@{point}")).replace("@M", &format!("@{}", point + 4))
    }
    /// Whatever happens at each point by this pattern, it ends as if nothing had.
    pub(super) async fn calmly(&self, pattern: &str) -> Verdict {
        for point in self.points() {
            let history = Self::history(pattern, point);
            let played = self.play(&history).await?;
            let end = played.end();
            ensure!(matches!(end, Some(Ended::Done(_))), "[{history}] it ends as {end:?}");
            let (is, should) = (&played.worlds.1, &self.calm.worlds.1);
            ensure!(is == should, "[{history}] there is {is} instead of {should}");
        }
        Ok(())
    }
    /// It ends as if nothing had happened, or is taken back because it was called off.
    pub(super) async fn called_off(&self, pattern: &str) -> Verdict {
        let mut back = 0;
        for point in self.points() {
            let history = Self::history(pattern, point);
            let played = self.play(&history).await?;
            match played.end() {
                Some(Ended::RolledBack(vcl_job::Kind::Cancelled)) => back += 1,
                Some(Ended::Done(_)) => {
                    let (is, should) = (&played.worlds.1, &self.calm.worlds.1);
                    ensure!(is == should, "[{history}] there is {is} instead of {should}");
                }
                end => return failed(format!("[{history}] it ends as {end:?}")),
            }
        }
        ensure!(back > 0, "called off at any of its points it is never taken back");
        Ok(())
    }
    async fn play(&self, history: &str) -> Verdict<Played> {
        let played = play(self.kit, self.plot, &self.computer, history).await?;
        ensure!(played.wrong.is_empty(), "[{history}] {}", played.wrong.join("; "));
        Ok(played)
    }
}

/// At most so many of the points 1 to `all`, spread over them; there is one at least.
pub(super) fn spread(all: usize, most: usize) -> Vec<usize> {
    let all = all.max(1);
    let most = most.clamp(1, all);
    (0..most).map(|n| 1 + n * all / most).collect()
}

async fn play<'k>(kit: &'k Kit<'k>, plot: Plot, computer: &Computer, history: &str) -> Verdict<Played> {
    let make = async |points| Play::prepare(kit, plot, computer, points).await;
    let matrix = Matrix::of("conformance", make);
    matrix.replay(history).await.or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn points_are_spread_over_all_there_are() {
        assert_eq!(spread(7, usize::MAX), [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(spread(40, 4), [1, 11, 21, 31]);
        assert_eq!(spread(2, 5), [1, 2]);
        assert_eq!(spread(0, 5), [1]);
    }
}
