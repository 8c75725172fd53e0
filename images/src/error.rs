//! What can go wrong with images, sorted by what a caller does about it.

use std::fmt;
use std::io;
use vcl_job::Kind;

/// What is to be done about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file, a revision or a program that was named is not there.
    NotFound,
    /// The name is taken, and not by us.
    Exists,
    /// A file is not what its digest, its manifest or its own format says.
    Corrupt,
    /// No room.
    NoSpace,
    /// Another process has the file open for writing, or needs it.
    InUse,
    /// A file or a request that is not accepted; the context says which would be.
    Refused,
    /// The operating system would not.
    Io,
    /// What the job itself says: told to stop, lease lost, a child that cannot be ended.
    Job(Kind),
    /// Anything that no rule is for.
    Fatal,
}

impl ErrorKind {
    /// The kind of an error of the operating system.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => Self::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::ResourceBusy | io::ErrorKind::ExecutableFileBusy => Self::InUse,
            _ => Self::Io,
        }
    }
}

/// An error about an image: its kind, what was being done to which file, and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    /// What is to be done about it.
    pub kind: ErrorKind,
    /// What was being done, with names; never the text of the cause.
    pub context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of work on images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }
    /// An error with its cause.
    pub fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
    /// An error of the operating system; the kind follows from it.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::caused(ErrorKind::of_io(&source), context, source)
    }
    /// The same error as the cause of one that says more; the kind stays.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }
    /// The job's own error, with what was being done.
    pub(crate) fn job(context: impl Into<String>, source: vcl_job::Error) -> Self {
        let kind = match source.kind {
            Kind::NotFound => ErrorKind::NotFound,
            Kind::Exists => ErrorKind::Exists,
            Kind::NoSpace => ErrorKind::NoSpace,
            Kind::Corrupt => ErrorKind::Corrupt,
            Kind::Busy => ErrorKind::InUse,
            Kind::Refused => ErrorKind::Refused,
            Kind::Fatal => ErrorKind::Fatal,
            other => ErrorKind::Job(other),
        };
        Self::caused(kind, context, source)
    }
    pub(crate) fn refused(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, context)
    }
    pub(crate) fn corrupt(context: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, context)
    }
    /// Told to stop while doing this.
    pub(crate) fn stopped(what: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Job(Kind::Cancelled), format!("told to stop while {what}"))
    }
}

impl From<Error> for vcl_job::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::Exists => Kind::Exists,
            ErrorKind::Corrupt => Kind::Corrupt,
            ErrorKind::NoSpace => Kind::NoSpace,
            ErrorKind::InUse => Kind::Busy,
            ErrorKind::Refused => Kind::Refused,
            ErrorKind::Job(kind) => kind,
            ErrorKind::Io | ErrorKind::Fatal => Kind::Fatal,
        };
        match error.source {
            Some(source) => Self::caused(kind, error.context, source),
            None => Self::new(kind, error.context),
        }
    }
}
