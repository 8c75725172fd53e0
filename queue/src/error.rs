//! What can go wrong with the queue, sorted by what is to be done about it.

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A thing that was named is not there.
    NotFound,
    /// Somebody else has it; the error names who.
    Busy,
    /// It is not possible in the state that things are in.
    Refused,
    /// It is there already, and another's.
    Exists,
    /// The database was written by a newer program than this one.
    Newer,
    /// Another claim has the job, or the job is over. Nothing more may be done in its name.
    LeaseLost,
    /// The database cannot be used at the moment: locked, closed, an I/O error. It may work later.
    Unavailable,
    /// The database's file system is full. It works again when there is room.
    NoSpace,
    /// What was read is not what was written.
    Corrupt,
}

impl Kind {
    /// A word for it, as the API's problems use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::Busy => "busy",
            Self::Refused => "refused",
            Self::Exists => "exists",
            Self::Newer => "newer",
            Self::LeaseLost => "lease-lost",
            Self::Unavailable => "unavailable",
            Self::NoSpace => "no-space",
            Self::Corrupt => "corrupt",
        }
    }
}

/// An error of the queue: its kind, what it is about and the way out, and its cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    /// What is to be done about it.
    pub kind: Kind,
    /// What was being done to what; never the text of the cause.
    pub context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of asking the queue.
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
    /// What was read and could not be understood.
    pub(crate) fn corrupt(
        what: impl std::fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::caused(Kind::Corrupt, format!("the database holds {what} that cannot be read"), source)
    }
    /// The same for each member of a batch that failed together.
    pub(crate) fn shared(&self) -> Self {
        let cause = self.source.as_ref().map(|s| s.to_string().into());
        Self { kind: self.kind, context: self.context.clone(), source: cause }
    }
}

impl From<Error> for vcl_job::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            Kind::NotFound => vcl_job::Kind::NotFound,
            Kind::Busy => vcl_job::Kind::Busy,
            Kind::Refused | Kind::Newer => vcl_job::Kind::Refused,
            Kind::Exists => vcl_job::Kind::Exists,
            Kind::LeaseLost => vcl_job::Kind::LeaseLost,
            Kind::Unavailable => vcl_job::Kind::Transient,
            Kind::NoSpace => vcl_job::Kind::NoSpace,
            Kind::Corrupt => vcl_job::Kind::Corrupt,
        };
        match error.source {
            Some(source) => Self::caused(kind, error.context, source),
            None => Self::new(kind, error.context),
        }
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let (kind, context) = match &error {
            sqlx::Error::Database(e) => match crate::engine::mysql_code(e.as_ref()) {
                Some(code) => of_mysql(code),
                None => of_sqlite(e.code().and_then(|c| c.parse().ok()).unwrap_or(0)),
            },
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_)
            | sqlx::Error::TypeNotFound { .. }
            | sqlx::Error::RowNotFound => (Kind::Corrupt, "the database holds something that cannot be read"),
            _ => (Kind::Unavailable, "the database cannot be used"),
        };
        Self::caused(kind, context, error)
    }
}

pub(crate) use vcl_job::chain;

/// MariaDB's and MySQL's error numbers.
fn of_mysql(code: u16) -> (Kind, &'static str) {
    match code {
        1021 | 1114 => (Kind::NoSpace, "the database's file system is full"),
        1062 => (Kind::Exists, "the database has such a row already"),
        1048 | 1264 | 1366 | 1406 | 1451 | 1452 => (Kind::Refused, "the database does not take such a row"),
        1054 | 1146 => (Kind::Corrupt, "the database does not have the tables it should"),
        1034 | 1194 | 1712 => (Kind::Corrupt, "the database is damaged"),
        1205 | 1213 => (Kind::Unavailable, "the database is locked by another program"),
        1044 | 1045 | 1142 => (Kind::Unavailable, "the database does not let this user do that"),
        _ => (Kind::Unavailable, "the database cannot be used"),
    }
}

/// SQLite's extended result codes; the low byte is the class.
fn of_sqlite(code: i32) -> (Kind, &'static str) {
    const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
    match (code, code & 0xff) {
        (IOERR_SHMSIZE, _) | (_, 13) => (Kind::NoSpace, "the database's file system is full"),
        (_, 5 | 6) => (Kind::Unavailable, "the database is locked by another program"),
        (_, 8) => (Kind::Unavailable, "the database cannot be written to"),
        (_, 14) => (Kind::Unavailable, "the database cannot be opened"),
        (_, 11 | 26) => (Kind::Corrupt, "the database is damaged"),
        (_, 19) => (Kind::Exists, "the database has such a row already"),
        // `no such table` and the like: somebody else's schema.
        (_, 1) => (Kind::Corrupt, "the database does not have the tables it should"),
        _ => (Kind::Unavailable, "the database cannot be used"),
    }
}
