//! The one error of clients: a kind that decides the exit code, a sentence for a person, and its cause.

use std::error::Error as StdError;
use std::io;

/// What kind of thing went wrong. It decides the exit code and whether waiting may help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nobody listens on the socket, or the daemon went away in the middle of an answer.
    Unreachable,
    /// The daemon is there and does not let this user in.
    Denied,
    /// The daemon answers that it cannot just now: it starts, or it shuts down.
    Unavailable,
    /// What was asked for does not exist.
    NotFound,
    /// The daemon refused.
    Refused,
    /// The daemon answered something this program does not understand.
    Malformed,
    /// A job ended, and not as it should.
    Job,
    /// The doctor found something that will not work.
    Findings,
    /// A file or the terminal on this side.
    Local,
    /// The command line asks for something that makes no sense.
    Usage,
}

/// Something that was not done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error that is its own cause.
    #[must_use]
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }
    /// An error with a cause. The sentence does not repeat the cause.
    #[must_use]
    pub fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(source.into()) }
    }
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
    /// The same error with another sentence about what it means.
    #[must_use]
    pub fn because(mut self, context: impl FnOnce(&str) -> String) -> Self {
        self.context = context(&self.context);
        self
    }
    /// Whether the same request may succeed when the daemon has come back.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, ErrorKind::Unreachable | ErrorKind::Unavailable)
    }
    /// Whether whoever read our output has stopped reading, which is no error of anybody's.
    #[must_use]
    pub fn is_closed_pipe(&self) -> bool {
        let source = self.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
    }
    /// What the process ends with: 1 failed or refused, 2 usage, 3 the daemon cannot be reached.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            _ if self.is_closed_pipe() => 0,
            ErrorKind::Unreachable | ErrorKind::Denied => 3,
            ErrorKind::Usage => 2,
            _ => 1,
        }
    }
    /// Everything on one line: the sentence and its causes, control characters removed.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = self.context.clone();
        let mut source = self.source();
        while let Some(cause) = source {
            let told = cause.to_string();
            // hyper and reqwest say the same thing at several levels.
            if !line.contains(&told) {
                line = format!("{line}: {told}");
            }
            source = cause.source();
        }
        one_line(&line)
    }
}

/// One line, without escape sequences and control characters.
fn one_line(text: &str) -> String {
    let spaced = text.trim().replace(['\n', '\r', '\t'], " ");
    anstream::adapter::strip_str(&spaced).to_string().chars().filter(|c| !c.is_control()).collect()
}

impl From<io::Error> for Error {
    /// Only writing to the screen fails this way; everything else names its file.
    fn from(cause: io::Error) -> Self {
        Self::caused(ErrorKind::Local, "cannot write the output", cause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_every_cause_once_and_stays_one_line() {
        let inner = io::Error::other("disk\u{1b}[31m full\nreally");
        let error = Error::caused(ErrorKind::Local, "cannot write `a.png`", inner);
        assert_eq!(error.line(), "cannot write `a.png`: disk full really");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_reader_who_has_enough_is_no_failure() {
        let error = Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(error.is_closed_pipe());
        assert_eq!(error.exit_code(), 0);
    }
}
