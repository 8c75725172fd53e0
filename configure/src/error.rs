//! What can go wrong in a run, and which exit code of cdist's it is.

/// What kind of thing went wrong; it decides what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A type is called with arguments that it does not take.
    Usage,
    /// Something that was written by hand is not as it has to be: a type, an id, a requirement.
    Invalid,
    /// An object is defined again, and differently.
    Conflict,
    /// A type, a file or a variable is not there.
    NotFound,
    /// Objects wait for each other, or for one that nobody defines.
    Unresolvable,
    /// The target does not let us in, or the connection broke.
    Unreachable,
    /// It took longer than it may.
    Deadline,
    /// The run was called off.
    Cancelled,
    /// The file system, or a process, does not do what it should.
    Failed,
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Usage => "usage",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::NotFound => "not-found",
            Self::Unresolvable => "unresolvable",
            Self::Unreachable => "unreachable",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        })
    }
}

/// An error of a run: its kind, what was being done to what, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    /// Its kind.
    pub kind: ErrorKind,
    /// What was being done, with names, and the way out where there is one.
    pub context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }
    /// What a file system says: [`ErrorKind::NotFound`] for what is not there, [`ErrorKind::Failed`] for all else.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        let gone = source.kind() == std::io::ErrorKind::NotFound;
        let kind = if gone { ErrorKind::NotFound } else { ErrorKind::Failed };
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.context.clone();
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            text.push_str(": ");
            text.push_str(&error.to_string());
            next = error.source();
        }
        text
    }
    /// With which code a type's command ends: 2 where it was called wrongly, as argparse has it, and 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        if self.kind == ErrorKind::Usage { 2 } else { 1 }
    }
}
