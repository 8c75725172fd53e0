//! What can go wrong at a backend outside of a job's steps.

use vcl_job::Kind;

/// What kind of thing went wrong; it decides what is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The hypervisor does not answer.
    Unreachable,
    /// It did not answer for as long as a job waits for it.
    Away,
    /// The call took longer than it may.
    Deadline,
    /// The machine, network or file is not there.
    NotFound,
    /// Something of that name is there and is not ours.
    NotOurs,
    /// It is not possible as it was asked.
    Refused,
    /// This backend cannot do that at all.
    Unsupported,
    /// Somebody else has the thing; it passes.
    Busy,
    /// A thing of that name is there already.
    Exists,
    /// There is no room for it.
    NoSpace,
    /// The other side does not let us in, or not do that.
    Denied,
    /// What came back is not what it should be.
    Corrupt,
    /// The step was told to stop.
    Cancelled,
    /// Another process has the job now.
    LeaseLost,
    /// The hypervisor says no, for a reason of its own.
    Failed,
}

/// An error of a backend: its kind, what was being done to what, and the cause.
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

/// The result of a backend's call.
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
    /// What a file system says: [`ErrorKind::NotFound`] for what is not there, [`ErrorKind::Failed`] for all else.
    pub fn io(context: impl Into<String>, source: std::io::Error) -> Self {
        let gone = source.kind() == std::io::ErrorKind::NotFound;
        Self::caused(if gone { ErrorKind::NotFound } else { ErrorKind::Failed }, context, source)
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
}

impl From<Error> for vcl_job::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            // A libvirtd that is being restarted is back in a moment.
            ErrorKind::Unreachable => Kind::Transient,
            ErrorKind::Away => Kind::Unreachable,
            ErrorKind::Deadline => Kind::Deadline,
            ErrorKind::NotFound => Kind::NotFound,
            ErrorKind::NotOurs => Kind::Exists,
            ErrorKind::Refused | ErrorKind::Unsupported => Kind::Refused,
            ErrorKind::Busy => Kind::Busy,
            ErrorKind::Exists => Kind::Exists,
            ErrorKind::NoSpace => Kind::NoSpace,
            ErrorKind::Denied => Kind::Auth,
            ErrorKind::Corrupt => Kind::Corrupt,
            ErrorKind::Cancelled => Kind::Cancelled,
            ErrorKind::LeaseLost => Kind::LeaseLost,
            ErrorKind::Failed => Kind::Fatal,
        };
        match error.source {
            Some(source) => Self::caused(kind, error.context, source),
            None => Self::new(kind, error.context),
        }
    }
}
