//! What can go wrong between us and a guest, sorted by the way out.

use std::fmt;

/// Why a guest could not be reached or did not do what it was told. Each kind has another way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing answers at that address: it is off, not booted yet, or there is no way to it.
    NoRoute,
    /// Something answers at that address and no program listens on the port.
    Refused,
    /// A program listens and does not speak ssh, or not one that we can speak.
    Handshake,
    /// The server showed another host key than the one it was pinned to.
    HostKeyChanged,
    /// The account does not take our key.
    LoginRefused,
    /// A command ran and said no.
    CommandFailed,
    /// It took longer than it may.
    Deadline,
    /// Somebody gave it up.
    Cancelled,
    /// The connection broke while it was in use.
    Lost,
    /// Something on this side: our own key cannot be read.
    Local,
    /// The guest's OS has no way to do it.
    Unsupported,
}

impl ErrorKind {
    /// Whether it may pass by itself while a machine boots.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::NoRoute | Self::Refused | Self::Handshake | Self::Deadline | Self::Lost)
    }
    /// Whether nobody was there to talk to.
    #[must_use]
    pub const fn is_unreachable(self) -> bool {
        matches!(self, Self::NoRoute | Self::Refused | Self::Handshake)
    }
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::Refused => "refused",
            Self::Handshake => "handshake",
            Self::HostKeyChanged => "host-key-changed",
            Self::LoginRefused => "login-refused",
            Self::CommandFailed => "command-failed",
            Self::Deadline => "deadline",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Local => "local",
            Self::Unsupported => "unsupported",
        }
    }
}
impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An error of an OS module or a connection: its kind, what was being done to which endpoint with the way out, and its
/// cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    /// What is to be done about it.
    pub kind: ErrorKind,
    /// What was being done, naming the endpoint, and the way out; never the text of the cause.
    pub context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of something done in a guest.
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
    /// The same error, to be treated otherwise.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }
    /// The same error as the cause of one that says more; the kind stays.
    #[must_use]
    pub fn within(self, context: impl Into<String>) -> Self {
        Self { kind: self.kind, context: context.into(), source: Some(Box::new(self)) }
    }
}

impl From<Error> for vcl_job::Error {
    fn from(error: Error) -> Self {
        use vcl_job::Kind;
        let kind = match error.kind {
            ErrorKind::NoRoute | ErrorKind::Refused | ErrorKind::Handshake => Kind::Unreachable,
            ErrorKind::HostKeyChanged | ErrorKind::LoginRefused => Kind::Auth,
            ErrorKind::Lost => Kind::Transient,
            ErrorKind::Deadline => Kind::Deadline,
            ErrorKind::Cancelled => Kind::Cancelled,
            ErrorKind::Unsupported => Kind::Refused,
            ErrorKind::CommandFailed | ErrorKind::Local => Kind::Fatal,
        };
        let Error { context, source, .. } = error;
        match source {
            Some(source) => Self::caused(kind, context, source),
            None => Self::new(kind, context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_job::Kind;

    #[test]
    fn a_job_learns_the_kind_and_the_whole_chain() {
        let cause = std::io::Error::other("connection reset");
        let error =
            Error::caused(ErrorKind::Lost, "root@10.0.0.5:22 went away", cause).within("set up guest");
        let failure = vcl_job::Error::from(error).failure();
        assert_eq!(failure.kind, Kind::Transient);
        assert_eq!(failure.message, "set up guest: root@10.0.0.5:22 went away: connection reset");
    }

    #[test]
    fn every_kind_has_another_way_out_in_a_job_too() {
        for (kind, expected) in [
            (ErrorKind::NoRoute, Kind::Unreachable),
            (ErrorKind::Refused, Kind::Unreachable),
            (ErrorKind::Handshake, Kind::Unreachable),
            (ErrorKind::HostKeyChanged, Kind::Auth),
            (ErrorKind::LoginRefused, Kind::Auth),
            (ErrorKind::CommandFailed, Kind::Fatal),
            (ErrorKind::Deadline, Kind::Deadline),
            (ErrorKind::Cancelled, Kind::Cancelled),
            (ErrorKind::Lost, Kind::Transient),
            (ErrorKind::Local, Kind::Fatal),
            (ErrorKind::Unsupported, Kind::Refused),
        ] {
            assert_eq!(vcl_job::Error::from(Error::new(kind, "x")).kind, expected, "{kind}");
        }
    }
}
