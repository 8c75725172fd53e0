//! Deliberate bugs of the executor, to prove that the fault kit catches each. They are compiled in with the feature
//! `seeded-faults` only, and then sleep until a run is put under one of them with [`with`].

/// A bug that the executor can be told to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    not(feature = "seeded-faults"),
    allow(dead_code, reason = "named where they would sit, never chosen")
)]
pub enum Fault {
    /// `started` is written when the step has run.
    StartedAfterRun,
    /// `done` is written when the step begins.
    DoneBeforeRun,
    /// A replayed step gets the intent of today instead of the recorded one.
    IntentOfToday,
    /// `done` holds nothing of what the step returned.
    OutputNotRecorded,
    /// A replay runs done steps again.
    DoneRunsAgain,
    /// A replay never asks whether what a step did still holds.
    HoldsNeverAsked,
    /// A step that failed is left as it is.
    FailedNotUndone,
    /// A replay runs a failed step again.
    FailedRunsAgain,
    /// Steps are undone in the order in which they were done.
    UndoForward,
    /// `undone` is written when the undo begins.
    UndoneBeforeUndo,
    /// `undone` is never written.
    UndoneNotRecorded,
    /// An undo that fails counts as done.
    UndoErrorSwallowed,
    /// The decision to take a job back is not written.
    UnwindingNotRecorded,
    /// A replay takes a job that was called off for one that goes on.
    CancelForgotten,
    /// Calling off drops the step where it is instead of waiting for it.
    CancelDropsStep,
    /// A job that ended and is claimed again ends a second time.
    FinishedTwice,
    /// A lost lease is ignored.
    LeaseIgnored,
    /// Processes that an earlier life left are not ended.
    ProcessesLeft,
}

#[cfg(feature = "seeded-faults")]
mod chosen {
    use super::Fault;

    tokio::task_local! {
        static FAULT: Fault;
    }

    impl Fault {
        /// All of them.
        pub const ALL: &'static [Self] = &[
            Self::StartedAfterRun,
            Self::DoneBeforeRun,
            Self::IntentOfToday,
            Self::OutputNotRecorded,
            Self::DoneRunsAgain,
            Self::HoldsNeverAsked,
            Self::FailedNotUndone,
            Self::FailedRunsAgain,
            Self::UndoForward,
            Self::UndoneBeforeUndo,
            Self::UndoneNotRecorded,
            Self::UndoErrorSwallowed,
            Self::UnwindingNotRecorded,
            Self::CancelForgotten,
            Self::CancelDropsStep,
            Self::FinishedTwice,
            Self::LeaseIgnored,
            Self::ProcessesLeft,
        ];
    }

    /// Runs jobs in this task under a bug.
    pub async fn with<T>(fault: Fault, work: impl Future<Output = T>) -> T {
        FAULT.scope(fault, work).await
    }
    pub(crate) fn seeded(fault: Fault) -> bool {
        FAULT.try_with(|chosen| *chosen == fault).unwrap_or(false)
    }
}
#[cfg(feature = "seeded-faults")]
pub(crate) use chosen::seeded;
#[cfg(feature = "seeded-faults")]
pub use chosen::with;

#[cfg(not(feature = "seeded-faults"))]
pub(crate) const fn seeded(_: Fault) -> bool {
    false
}
