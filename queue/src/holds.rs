//! The leases on computers and images, as they are looked at. They stand in `jobs`, as `holds_computer` and
//! `holds_image`: unique, so that two jobs cannot have one thing.

use crate::jobs::JobRow;
use crate::{Queue, Result, WaitFor};
use std::collections::HashMap;
use vcl_types::JobId;
use vcl_types::api::{LeaseOf, LeaseView};

/// Jobs that wait, by the kind and the name of what they wait for.
type Waiting = HashMap<(&'static str, String), Vec<JobId>>;

impl Queue {
    /// Everything that is held: computers first, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn leases(&self) -> Result<Vec<LeaseView>> {
        let waiting = self.waiting_for().await?;
        let mut leases = Vec::new();
        for (of, sql) in [
            (
                LeaseOf::Computer,
                "SELECT *, holds_computer AS held FROM jobs WHERE holds_computer IS NOT NULL",
            ),
            (LeaseOf::Image, "SELECT *, holds_image AS held FROM jobs WHERE holds_image IS NOT NULL"),
        ] {
            for row in sqlx::query(sql).fetch_all(self.readers()).await? {
                let name: String = sqlx::Row::try_get(&row, "held")?;
                leases.push(view(of, name, JobRow::read(&row)?, &waiting));
            }
        }
        leases.sort_by(|a, b| (a.of, &a.name).cmp(&(b.of, &b.name)));
        Ok(leases)
    }

    /// Who holds this, if anybody does. Nobody holds room or a node.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn lease_of(&self, what: &WaitFor) -> Result<Option<LeaseView>> {
        let (of, sql) = match what {
            WaitFor::Computer(_) => (LeaseOf::Computer, "SELECT * FROM jobs WHERE holds_computer = ?"),
            WaitFor::Image(_) => (LeaseOf::Image, "SELECT * FROM jobs WHERE holds_image = ?"),
            WaitFor::Space(_) => return Ok(None),
        };
        let row = sqlx::query(sql).bind(what.subject()).fetch_optional(self.readers()).await?;
        let Some(row) = row else { return Ok(None) };
        let waiting = self.waiting_for().await?;
        Ok(Some(view(of, what.subject().to_owned(), JobRow::read(&row)?, &waiting)))
    }

    async fn waiting_for(&self) -> Result<Waiting> {
        let rows =
            sqlx::query("SELECT id, waits_for, waits_subject FROM jobs WHERE state = 'waiting' ORDER BY id");
        let mut waiting = Waiting::new();
        for row in rows.fetch_all(self.readers()).await? {
            if let Some(what) = WaitFor::read(&row)? {
                let key = (what.kind(), what.subject().to_owned());
                waiting.entry(key).or_default().push(JobId(sqlx::Row::try_get(&row, "id")?));
            }
        }
        Ok(waiting)
    }
}

fn view(of: LeaseOf, name: String, job: JobRow, waiting: &Waiting) -> LeaseView {
    let kind = match of {
        LeaseOf::Computer => "computer",
        LeaseOf::Image => "image",
    };
    LeaseView {
        of,
        job: job.id,
        state: job.state,
        purpose: job.request.to_string(),
        requester: job.requester,
        node: job.node,
        token: job.token,
        since: job.held_since.unwrap_or(job.submitted),
        waiting: waiting.get(&(kind, name.clone())).cloned().unwrap_or_default(),
        name,
    }
}
