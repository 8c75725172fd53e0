//! A job's states.
//!
//! ```text
//!  submit ─► queued ──claim──► running ──done────► done
//!              │ ▲              │ │ │ └─fail─────► failed ──retry──► queued
//!              │ └───lost───────┘ │ └───rolled-back─► cancelled
//!              │                  ├─wait──► waiting ──wake──► queued
//!              │                  └─stick─► stuck ──retry──► queued
//!              └─cancel─► cancelled              └─abandon─► failed
//! ```
//! What a submit has to wait for lets a job begin as `waiting`; one that cannot be had any more when its turn comes fails.
//! `cancel` of a running job is not a change of state: it is a wish that the job sees and ends by `rolled-back`.

use super::Refused;

super::words! {
    /// Where a job is.
    State as JobState {
        /// Nobody has it yet.
        Queued = "queued",
        /// A node has it.
        Running = "running",
        /// It waits for something that is not its turn, a person or a resource.
        Waiting = "waiting",
        /// It did what was asked.
        Done = "done",
        /// It did not, and has taken back what it had done.
        Failed = "failed",
        /// Somebody called it off, and it has taken back what it had done.
        Cancelled = "cancelled",
        /// It could not take back what it had done. Somebody has to look.
        Stuck = "stuck",
    }
}
super::words! {
    /// What happens to a job.
    Event as JobEvent {
        /// A node takes it.
        Claim = "claim",
        /// Its node went away; it goes on where it was when another claims it.
        Lost = "lost",
        /// It has to wait.
        Wait = "wait",
        /// What it waited for may be there.
        Wake = "wake",
        /// It ended well.
        Done = "done",
        /// It ended in an error, and everything was undone.
        Fail = "fail",
        /// It was called off, and everything was undone.
        RolledBack = "rolled-back",
        /// An undo failed, or the record does not fit the program.
        Stick = "stick",
        /// Somebody calls it off before it began.
        Cancel = "cancel",
        /// Somebody wants it tried again.
        Retry = "retry",
        /// Somebody gives a stuck job up as it is.
        Abandon = "abandon",
    }
}

impl State {
    /// Whether nothing more happens to it by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Stuck)
    }
}

/// What a job becomes.
///
/// # Errors
/// [`Refused`] when the event cannot happen in this state.
pub fn next(state: State, event: Event) -> Result<State, Refused> {
    use Event as E;
    use State as S;
    Ok(match (state, event) {
        (S::Queued, E::Claim) => S::Running,
        (S::Waiting, E::Wake) => S::Queued,
        (S::Queued | S::Waiting, E::Cancel) => S::Cancelled,
        (S::Running, E::Lost) => S::Queued,
        (S::Running, E::Wait) => S::Waiting,
        (S::Running, E::Done) => S::Done,
        (S::Running | S::Waiting, E::Fail) => S::Failed,
        (S::Running, E::RolledBack) => S::Cancelled,
        (S::Running, E::Stick) => S::Stuck,
        (S::Failed | S::Stuck, E::Retry) => S::Queued,
        (S::Stuck, E::Abandon) => S::Failed,
        (state, event) => return Err(Refused { what: "job", state: state.as_str(), event: event.as_str() }),
    })
}
