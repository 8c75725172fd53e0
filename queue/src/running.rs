//! Which claims are good, as far as this process knows without asking the database.
//!
//! A step asks before each of its effects whether its job is still its own. Where one process has the database to itself,
//! on SQLite, no claim ends but by a change that this process makes. So a claim that was good stays good until a change
//! is durable that may end claims, and asking again in between would tell nothing. Every change counts as one of these
//! unless it is known to leave claims alone: then [`forget`](Running::forget) is called by the writer, before whoever
//! sent the change is answered and can give the job to somebody else.
//!
//! Where several nodes share the database nothing is remembered, and the database is asked each time. What a step writes
//! is checked by the transaction that writes it, on either engine.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use vcl_types::JobId;

#[derive(Debug, Default)]
struct Known {
    /// How often everything was forgotten.
    forgotten: u64,
    tokens: HashMap<JobId, i64>,
    /// Of these nothing stands in the journal yet: nobody has claimed them before.
    blank: HashSet<JobId>,
}

/// The good claims that are known.
#[derive(Debug)]
pub(crate) struct Running(Option<Mutex<Known>>);

impl Running {
    /// `alone`: nobody else writes to the database.
    pub(crate) fn new(alone: bool) -> Self {
        Self(alone.then(Mutex::default))
    }
    fn known(&self) -> Option<MutexGuard<'_, Known>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
    /// Whether a claim is known to be good; else the moment, to be handed to [`is_good`](Self::is_good) with the
    /// database's answer.
    pub(crate) fn ask(&self, job: JobId, token: i64) -> Result<(), u64> {
        match self.known() {
            Some(known) if known.tokens.get(&job) == Some(&token) => Ok(()),
            Some(known) => Err(known.forgotten),
            None => Err(0),
        }
    }
    /// The database has said that it is good, to a question that was put after `moment`.
    pub(crate) fn is_good(&self, job: JobId, token: i64, moment: u64) {
        if let Some(mut known) = self.known()
            && known.forgotten == moment
        {
            known.tokens.insert(job, token);
        }
    }
    /// It was claimed a moment ago.
    pub(crate) fn claimed(&self, job: JobId, token: i64) {
        if let Some(mut known) = self.known() {
            known.tokens.insert(job, token);
            if token == 1 {
                known.blank.insert(job);
            }
        }
    }
    /// Whether it is known that nothing stands in its journal.
    pub(crate) fn is_blank(&self, job: JobId) -> bool {
        self.known().is_some_and(|known| known.blank.contains(&job))
    }
    /// Something is about to be written into its journal.
    pub(crate) fn writes(&self, job: JobId) {
        if let Some(mut known) = self.known() {
            known.blank.remove(&job);
        }
    }
    /// Its claim is over.
    pub(crate) fn over(&self, job: JobId) {
        if let Some(mut known) = self.known() {
            known.forgotten += 1;
            known.tokens.remove(&job);
            known.blank.remove(&job);
        }
    }
    /// Any claim may be over.
    pub(crate) fn forget(&self) {
        if let Some(mut known) = self.known() {
            known.forgotten += 1;
            known.tokens.clear();
            known.blank.clear();
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_before_something_changed_is_not_remembered() {
        let running = Running::new(true);
        let job = JobId(7);
        let moment = running.ask(job, 1).unwrap_err();
        running.forget();
        running.is_good(job, 1, moment);
        assert!(running.ask(job, 1).is_err(), "the answer is older than the change");
        let moment = running.ask(job, 1).unwrap_err();
        running.is_good(job, 1, moment);
        assert_eq!(running.ask(job, 1), Ok(()));
        assert!(running.ask(job, 2).is_err());
        running.claimed(job, 2);
        assert!(running.ask(job, 1).is_err(), "its next claim has taken it");
        running.over(job);
        assert!(running.ask(job, 2).is_err());
    }

    #[test]
    fn a_journal_is_blank_between_the_first_claim_and_the_first_record() {
        let running = Running::new(true);
        let (first, later) = (JobId(1), JobId(2));
        running.claimed(first, 1);
        running.claimed(later, 2);
        assert_eq!((running.is_blank(first), running.is_blank(later)), (true, false));
        running.writes(first);
        assert!(!running.is_blank(first));
    }

    #[test]
    fn nothing_is_remembered_where_others_write() {
        let running = Running::new(false);
        running.claimed(JobId(1), 1);
        running.is_good(JobId(1), 1, 0);
        assert_eq!(running.ask(JobId(1), 1), Err(0));
    }
}
