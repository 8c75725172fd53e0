//! What goes wrong besides the text of the file.

use crate::problem::Problems;
use std::error::Error as StdError;

/// A configuration or a credential that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    kind: ErrorKind,
    what: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What sort of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such file or credential.
    NotFound,
    /// It is there and cannot be read.
    Unreadable,
    /// It was read and has [`Error::problems`].
    Invalid,
    /// There is no directory of credentials.
    NoCredentials,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None }
    }
    pub(crate) fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
    /// What sort of error it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
    /// What is wrong with the file, if it could be read.
    #[must_use]
    pub fn problems(&self) -> Option<&Problems> {
        self.source.as_deref().and_then(|source| source.downcast_ref())
    }
}
