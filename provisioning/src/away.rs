//! Waiting for what is away: a hypervisor or a management node that is restarted, upgraded, or without a network.
//!
//! What runs there runs on meanwhile, and so does a job: it asks again until there is an answer. That it waits, for whom
//! and since when stands in its events, once when it begins to wait and once when that is over. What ends the wait
//! otherwise: the job is called off, the daemon stops, or [`PATIENCE`]. Outside of any job nothing is waited for.
//!
//! What counts as away, and whether it is asked by doing the work again or by a question of its own, is the backend's.
//! State is one wait's: nothing outlives it.

use std::time::Duration;
use tokio::time::Instant;
use vcl_job::{Doing, doing};

/// How long something is waited for. What is upgraded or repaired is back within that; a job that waits longer for what
/// stays away keeps a computer from everybody.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// A wait of what this task does for a job, if it has to wait at all.
pub(crate) struct Away {
    who: String,
    ask: Duration,
    doing: Option<Doing>,
    since: Option<Instant>,
}

/// Why it is not waited for any longer.
pub(crate) enum Over {
    /// There is no job that could wait.
    NoJob,
    /// It was told to stop; the error to return then.
    Stopped(vcl_job::Error),
    /// It has been away for longer than [`PATIENCE`], in words.
    Patience(String),
}

impl Away {
    /// Nothing is waited for yet. `who` is as events call it; it is asked every `ask` whether it is back.
    pub(crate) fn new(who: impl Into<String>, ask: Duration) -> Self {
        Self { who: who.into(), ask, doing: doing(), since: None }
    }

    /// It does not answer, for this reason: returns when it is to be asked again.
    ///
    /// # Errors
    /// Why it is not to be asked again.
    pub(crate) async fn outlast(&mut self, why: &str) -> Result<(), Over> {
        let Some(doing) = &self.doing else { return Err(Over::NoJob) };
        let since = *self.since.get_or_insert_with(|| {
            let now = chrono::Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
            let message =
                format!("waiting for {} since {now}; the job goes on when it answers ({why})", self.who);
            doing.event("host-away", message);
            Instant::now()
        });
        if since.elapsed() >= PATIENCE {
            return Err(Over::Patience(format!("waited {} h for {}", PATIENCE.as_secs() / 3600, self.who)));
        }
        tokio::select! {
            () = doing.stopped() => Err(Over::Stopped(doing.stop_error())),
            () = tokio::time::sleep(self.ask) => Ok(()), // why: nobody tells us when it is back
        }
    }

    /// It answers. That is said where it was said that it does not.
    pub(crate) fn answers(&self) {
        if let (Some(doing), Some(since)) = (&self.doing, self.since) {
            doing.event(
                "host-back",
                format!("{} answers again after {} s", self.who, since.elapsed().as_secs()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use vcl_job::{
        Control, Flow, Kind, MemoryJournal, Observer, Outcome, Owners, Record, Result, Run, Step, Undo,
        execute,
    };

    /// What a job was told to say.
    #[derive(Default)]
    struct Told(Mutex<Vec<(String, String)>>);
    impl Observer for Told {
        fn progress(&self, _: &str, _: u64, _: u64) {}
        fn event(&self, kind: &str, message: &str) {
            self.0.lock().unwrap().push((kind.into(), message.into()));
        }
        fn recorded(&self, _: &Record) {}
    }
    struct Nobody;
    #[async_trait::async_trait]
    impl Undo for Nobody {
        async fn undo(&self, _: &str, _: serde_json::Value) -> Result<()> {
            Ok(())
        }
    }
    const STEP: Step<Nobody, u32> = Step::new("ask").deadline(Duration::from_secs(24 * 3600));
    const HOST: &str = "the host at x";

    /// A job whose one step asks a host that answers nothing so often.
    async fn job(refusals: u32, control: Control) -> (Outcome<()>, Vec<(String, String)>) {
        let told = Arc::new(Told::default());
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: told.clone(),
            control,
            owners: Owners { flow: &Nobody, parts: &[] },
        };
        let work = async |mut job: vcl_job::Job, ()| {
            job.step(&Nobody, &STEP, refusals)
                .run(async |refusals, _| {
                    let mut away = Away::new(HOST, Duration::from_secs(1));
                    for _ in 0..refusals {
                        away.outlast("connection refused").await.map_err(|over| match over {
                            Over::NoJob => vcl_job::Error::new(Kind::Fatal, "no job"),
                            Over::Stopped(e) => e,
                            Over::Patience(text) => vcl_job::Error::new(Kind::Unreachable, text),
                        })?;
                    }
                    away.answers();
                    Ok(())
                })
                .await
        };
        let flow = Flow { name: "ask", version: 1, deadline: None };
        let outcome = execute(run, flow, async { Ok(()) }, work).await;
        let told = std::mem::take(&mut *told.0.lock().unwrap());
        (outcome, told)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_told_once_when_it_begins_and_once_when_it_is_over() {
        let (outcome, told) = job(90, Control::default()).await;
        assert!(matches!(outcome, Outcome::Done(())));
        let kinds: Vec<_> = told.iter().map(|(kind, _)| kind.as_str()).collect();
        assert_eq!(kinds, ["host-away", "host-back"]);
        assert!(told[0].1.starts_with("waiting for the host at x since 2"), "{told:?}");
        assert!(told[0].1.ends_with("(connection refused)"), "{told:?}");
        assert_eq!(told[1].1, "the host at x answers again after 90 s");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_said_of_a_host_that_answers() {
        let (outcome, told) = job(0, Control::default()).await;
        assert!(matches!(outcome, Outcome::Done(())));
        assert_eq!(told, []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_stays_away_is_given_up() {
        let began = Instant::now();
        let (outcome, _) = job(u32::MAX, Control::default()).await;
        let Outcome::RolledBack(failure) = outcome else { panic!("{outcome:?}") };
        assert_eq!(failure.kind, Kind::Unreachable);
        assert!(failure.message.contains("waited 2 h for the host at x"), "{failure}");
        assert!(began.elapsed() >= PATIENCE && began.elapsed() < PATIENCE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_is_called_off_waits_no_longer() {
        let control = Control::default();
        let stop = control.stop.clone();
        let asked = Instant::now();
        let called_off = async {
            tokio::time::sleep(Duration::from_secs(30)).await; // why: the clock of the test stands still but for this
            stop.cancel();
        };
        let ((outcome, _), ()) = tokio::join!(job(u32::MAX, control), called_off);
        assert!(!matches!(outcome, Outcome::Done(())), "{outcome:?}");
        assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    }

    #[tokio::test]
    async fn outside_of_any_job_nothing_is_waited_for() {
        let mut away = Away::new(HOST, Duration::from_secs(3600));
        assert!(matches!(away.outlast("no").await, Err(Over::NoJob)));
    }
}
