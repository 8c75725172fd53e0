//! Usage.

use super::{Client, SLOW};
use crate::error::Result;
use chrono::{DateTime, SecondsFormat, Utc};
use vcl_types::usage::{UsageBy, UsageReport};

impl Client {
    /// How the computers were used; of the last thirty days where nothing else is said, of one owner or of all that the
    /// caller may see.
    pub async fn usage(
        &self,
        by: UsageBy,
        from: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        owner: Option<&str>,
    ) -> Result<UsageReport> {
        let mut query = vec![("by", by.to_string())];
        let time = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Millis, true);
        query.extend(from.map(|at| ("from", time(at))));
        query.extend(until.map(|at| ("until", time(at))));
        query.extend(owner.map(|owner| ("owner", owner.to_owned())));
        self.get(&["usage"], &query, SLOW).await
    }
}
