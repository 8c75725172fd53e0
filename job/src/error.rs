//! What can go wrong in a job, sorted by what is to be done about it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What is to be done about an error: the executor and the daemon decide by this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// It may work a moment later; a step that declares so is tried again.
    Transient,
    /// Somebody else has the thing.
    Busy,
    /// A thing that was named is not there.
    NotFound,
    /// It is there already, and not ours.
    Exists,
    /// The request is not possible as it is.
    Refused,
    /// The other side does not let us in.
    Auth,
    /// The other side does not answer.
    Unreachable,
    /// It took longer than the step's deadline.
    Deadline,
    /// No room.
    NoSpace,
    /// What came back is not what it should be: a digest, an answer, a guest's output.
    Corrupt,
    /// Somebody called the job off.
    Cancelled,
    /// The daemon is stopping; the job goes on at its next start.
    Interrupted,
    /// The journal is another function's than the one that runs.
    Diverged,
    /// Another process has the job now. Nothing more may be done.
    LeaseLost,
    /// An undo failed: the job is stuck.
    UndoFailed,
    /// Anything that no rule is for.
    Fatal,
}

impl Kind {
    /// Kinds that end the job wherever they arise; no caller may catch them and go another way.
    #[must_use]
    pub const fn ends_the_job(self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Interrupted | Self::Diverged | Self::LeaseLost | Self::UndoFailed
        )
    }
}
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = serde_json::to_value(self).ok();
        f.pad(word.as_ref().and_then(|w| w.as_str()).unwrap_or("error"))
    }
}

/// An error of a step or of a job: its kind, what was being done to what, and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    /// What is to be done about it.
    pub kind: Kind,
    /// What was being done, with names; never the text of the cause.
    pub context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a step or a job.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }
    /// An error with its cause.
    pub fn caused(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
    /// The same error as the cause of one that says more; the kind stays.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }
    /// The same error, to be treated otherwise.
    #[must_use]
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }
    /// As it can be recorded and shown: the kind and the whole chain in one line.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let mut message = chain(self);
        const LIMIT: usize = 8 * 1024;
        if message.len() > LIMIT {
            let cut = (0..=LIMIT).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
            message.truncate(cut);
            message.push('…');
        }
        Failure { kind: self.kind, message }
    }
}

/// An error with its causes in one line, outermost first. A cause that the line says already is left out: foreign errors
/// like to repeat theirs, and saying a thing twice helps nobody.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        next = cause.source();
    }
    message
}

/// An error as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// The whole chain in one line.
    pub message: String,
}
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::new(failure.kind, failure.message)
    }
}
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
