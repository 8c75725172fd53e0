//! What a test orders to go wrong.

use serde::Serialize;

/// A fault for the next calls of one method. It is played once, unless [`times`](Self::times) or
/// [`always`](Self::always) say otherwise; of two for one method, the one ordered first is played first.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    method: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    bytes: u64,
    status: u16,
    skip: u32,
    times: u32,
}

impl Fault {
    /// Begins an order for `method`: a SOAP method such as `PowerOnVM_Task`, `PUT`, `GET`, `HEAD` or `DELETE` for
    /// the datastore's HTTP, or `*` for all. Unless said otherwise, the connection is dropped before anything is done.
    #[must_use]
    pub fn on(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            kind: "drop",
            name: String::new(),
            bytes: 0,
            status: 0,
            skip: 0,
            times: 1,
        }
    }

    /// The call answers the API's fault `name` at once, such as `NotSupported`, and does nothing.
    #[must_use]
    pub fn soap(self, name: &str) -> Self {
        Self { kind: "soap", name: name.to_owned(), ..self }
    }

    /// The call answers a task, which fails half way with the API's fault `name`, such as `NoDiskSpace`.
    #[must_use]
    pub fn task(self, name: &str) -> Self {
        Self { kind: "task", name: name.to_owned(), ..self }
    }

    /// The connection is dropped before anything is done.
    #[must_use]
    pub fn drop_connection(self) -> Self {
        Self { kind: "drop", bytes: 0, ..self }
    }

    /// The connection of an upload or a download is dropped when `bytes` of the file have passed.
    #[must_use]
    pub fn drop_after(self, bytes: u64) -> Self {
        Self { kind: "drop", bytes, ..self }
    }

    /// All is done, and then the connection is dropped in place of the answer.
    #[must_use]
    pub fn lose_answer(self) -> Self {
        Self { kind: "lose", ..self }
    }

    /// All is done and answered, and then every session is over.
    #[must_use]
    pub fn expire_sessions(self) -> Self {
        Self { kind: "expire", ..self }
    }

    /// The answer is this HTTP status, a failure, and nothing is done.
    #[must_use]
    pub fn status(self, status: u16) -> Self {
        Self { kind: "status", status, ..self }
    }

    /// How many calls it disturbs.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: times.max(1), ..self }
    }

    /// It disturbs all calls, until the faults are cleared.
    #[must_use]
    pub fn always(self) -> Self {
        Self { times: 0, ..self }
    }

    /// It lets this many calls through first.
    #[must_use]
    pub fn after(self, calls: u32) -> Self {
        Self { skip: calls, ..self }
    }
}
