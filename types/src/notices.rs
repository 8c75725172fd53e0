//! What people are told of by mail and webhook.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

crate::state::words! {
    /// What somebody is told.
    NoticeKind as NoticeKind {
        /// A reservation's computer can be used (VCL: `reserved`).
        Ready = "ready",
        /// A reservation ended because its user did not say that they come.
        NotAcknowledged = "not-acknowledged",
        /// A reservation ended because its user did not connect.
        NotConnected = "not-connected",
        /// A reservation ended because nobody was connected any more.
        Inactive = "inactive",
        /// A reservation ends soon.
        EndsSoon = "ends-soon",
        /// A reservation has ended.
        Ended = "ended",
        /// A reservation was given up: no computer could be loaded for it.
        GivenUp = "given-up",
        /// Not all seats of a class have a computer.
        SeatsMissing = "seats-missing",
        /// A revision was captured.
        Captured = "captured",
        /// A revision is in production.
        Promoted = "promoted",
        /// A job is stuck: told to the administrators.
        JobStuck = "job-stuck",
        /// A computer was taken out of use by vcld: told to the administrators.
        Maintenance = "maintenance",
    }
}

impl NoticeKind {
    /// Whether it is for the administrators, whoever else may be concerned.
    #[must_use]
    pub const fn for_admins(self) -> bool {
        matches!(self, Self::JobStuck | Self::Maintenance | Self::SeatsMissing)
    }
}

/// A notice as it is sent to a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Notice {
    /// What names it, the same each time it is sent.
    pub id: String,
    /// What is told.
    pub kind: NoticeKind,
    /// When it came true.
    pub at: chrono::DateTime<chrono::Utc>,
    /// The user it is for; none for the administrators.
    pub to: Option<String>,
    /// What it speaks of, by name; texts, and times in RFC 3339.
    pub facts: BTreeMap<String, String>,
    /// The subject of the mail.
    pub subject: String,
    /// The text of the mail.
    pub text: String,
}
