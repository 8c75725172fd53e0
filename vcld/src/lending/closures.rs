//! Maintenance windows and drained hosts.
//!
//! When a window begins, its computers go to maintenance as they become free, with a reason that names the window; when
//! it is over those come back, and no other that a person took out of use. Bookings that a window or a drained host is in
//! the way of are moved to other computers where there are some (`classes`).

use super::requests::{invalid, refused};
use super::view::Sight;
use crate::node::{Node, Refusal, RefusalKind, chain};
use chrono::{DateTime, Utc};
use std::collections::{BTreeSet, HashSet};
use vcl_queue::{Kind, MaintenanceWindow};
use vcl_types::lending::{HostView, MaintenanceRequest, MaintenanceView};
use vcl_types::state::computer::{Event, State};
use vcl_types::{BackendName, ComputerName};

/// How long a reason may be.
const REASON: usize = 500;

fn reason_of(window: &MaintenanceWindow) -> String {
    format!("maintenance window {}: {}", window.id, window.reason)
}

/// The window that has put a computer out of use, by the reason that is said of it.
pub(super) fn window_of(reason: &str) -> Option<i64> {
    reason.strip_prefix("maintenance window ")?.split_once(':')?.0.parse().ok()
}

fn reason(text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.len() > REASON || text.chars().any(char::is_control) {
        return Err(invalid(format!(
            "`reason` has to be a line of 1 to {REASON} characters: who is refused a computer reads it"
        )));
    }
    Ok(text.to_owned())
}

impl Node {
    /// Takes computers out of use whose window has begun, and gives back those whose window is over. Answers whether it
    /// has changed any.
    pub(super) async fn look_after_windows(
        &self,
        sight: &Sight,
        now: DateTime<Utc>,
    ) -> Result<bool, Refusal> {
        let active: Vec<&MaintenanceWindow> = sight.windows.iter().filter(|w| w.start <= now).collect();
        let numbers: HashSet<i64> = active.iter().map(|window| window.id).collect();
        let mut changed = false;
        for seat in &sight.seats {
            let name = &seat.computer.name;
            let own = active.iter().find(|window| window.computers.contains(name));
            let put_by = seat.reason.as_deref().and_then(window_of);
            let (event, reason, what) = match (seat.state, own, put_by) {
                (State::Available, Some(window), _) if !seat.taken => {
                    (Event::Maintain, Some(reason_of(window)), "is out of use")
                }
                (State::Maintenance, _, Some(number)) if !numbers.contains(&number) => {
                    (Event::Release, None, "is in use again")
                }
                _ => continue,
            };
            match self.queue.computer_by_hand(name, event, reason.as_deref()).await {
                Ok(_) => {
                    changed = true;
                    let why = reason.or_else(|| seat.reason.clone()).unwrap_or_default();
                    self.queue.post_event("maintenance", None, Some(name), &format!("{name} {what}: {why}"));
                }
                Err(e) if matches!(e.kind, Kind::Busy | Kind::Refused | Kind::NotFound) => {
                    tracing::debug!(%name, reason = chain(&e), "it is looked at again");
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(changed)
    }

    fn window_view(&self, window: MaintenanceWindow, sight: &Sight) -> MaintenanceView {
        let stays = |row: &&vcl_queue::ReservationRow| {
            let inside = row.computer.as_ref().is_some_and(|name| window.computers.contains(name));
            inside && row.end.is_none_or(|end| end > window.start)
        };
        MaintenanceView {
            in_the_way: sight.rows.iter().filter(stays).map(|row| row.id).collect(),
            id: window.id,
            computers: window.computers,
            start: window.start,
            end: window.end,
            reason: window.reason,
            who: window.who,
        }
    }

    /// Maintenance windows that are not over, the earliest first.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn maintenance(&self) -> Result<Vec<MaintenanceView>, Refusal> {
        let sight = self.sight(self.clock.now()).await?;
        Ok(sight.windows.clone().into_iter().map(|window| self.window_view(window, &sight)).collect())
    }

    /// The computers that a window would be about.
    ///
    /// # Errors
    /// One that is named is not there, or there is none at all.
    pub async fn maintenance_computers(
        &self,
        request: &MaintenanceRequest,
    ) -> Result<Vec<ComputerName>, Refusal> {
        let all = self.queue.computers().await?;
        if let Some(name) =
            request.computers.iter().find(|name| all.iter().all(|c| c.computer.name != **name))
        {
            return Err(Refusal::new(
                RefusalKind::NotFound,
                format!("there is no computer {name}; `vclctl computer list` shows what there is"),
            ));
        }
        let mut names: BTreeSet<ComputerName> = request.computers.iter().cloned().collect();
        if !request.tags.is_empty() {
            let tagged = all.iter().filter(|c| request.tags.iter().all(|tag| c.computer.tags.contains(tag)));
            names.extend(tagged.map(|c| c.computer.name.clone()));
        }
        if names.is_empty() {
            return Err(invalid(
                "`computers` and `tags` name no computer; name some, or a tag that some have",
            ));
        }
        Ok(names.into_iter().collect())
    }

    /// Takes computers out of use for a time.
    ///
    /// # Errors
    /// What was asked makes no sense.
    pub async fn add_maintenance(
        &self,
        request: MaintenanceRequest,
        who: &str,
    ) -> Result<MaintenanceView, Refusal> {
        let now = self.clock.now();
        let computers = self.maintenance_computers(&request).await?;
        let why = reason(&request.reason)?;
        let start = request.start.unwrap_or(now).max(now);
        if let Some(end) = request.end.filter(|end| *end <= start) {
            return Err(invalid(format!("`end` is {end}, which is not after its beginning, {start}")));
        }
        let id = self.queue.add_maintenance(&computers, start, request.end, &why, who).await?;
        let many = computers.len();
        let message = format!("{many} computers are out of use from {start}, says {who}: {why}");
        self.queue.post_event("maintenance-planned", None, None, &message);
        self.look_now().await;
        let found = self.maintenance().await?.into_iter().find(|window| window.id == id);
        found.ok_or_else(|| refused(format!("maintenance window {id} is over already")))
    }

    /// Ends a window: its computers come back.
    ///
    /// # Errors
    /// There is none of that number, or it is over.
    pub async fn end_maintenance(&self, id: i64, who: &str) -> Result<MaintenanceView, Refusal> {
        let now = self.clock.now();
        let window = self.queue.end_maintenance(id, now).await?;
        let message = format!("maintenance window {id} is over, says {who}");
        self.queue.post_event("maintenance-ended", None, None, &message);
        self.look_now().await;
        let sight = self.sight(now).await?;
        Ok(self.window_view(MaintenanceWindow { end: Some(now), ..window }, &sight))
    }

    /// The hosts of this node's backends and of those that computers are on.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn hosts(&self) -> Result<Vec<HostView>, Refusal> {
        let (computers, drained) = (self.queue.computers().await?, self.queue.drained_hosts().await?);
        let mut names: BTreeSet<BackendName> = computers.iter().map(|c| c.computer.backend.clone()).collect();
        names.extend(self.backends.keys().cloned());
        let view = |backend: BackendName| {
            let own = computers.iter().filter(|c| c.computer.backend == backend);
            let busy = own.clone().filter(|c| c.job.is_some() || c.reservation.is_some());
            let drain = drained.iter().find(|d| d.backend == backend);
            HostView {
                computers: u32::try_from(own.clone().count()).unwrap_or(u32::MAX),
                busy: busy.map(|c| c.computer.name.clone()).collect(),
                drained_by: drain.map(|d| d.who.clone()),
                drained_since: drain.map(|d| d.since),
                reason: drain.and_then(|d| d.reason.clone()),
                backend,
            }
        };
        Ok(names.into_iter().map(view).collect())
    }

    /// Lets a backend's host take nothing new, or again everything. Who is on it finishes.
    ///
    /// # Errors
    /// There is no such backend.
    pub async fn drain_host(
        &self,
        backend: &BackendName,
        drained: bool,
        why: Option<&str>,
        who: &str,
    ) -> Result<HostView, Refusal> {
        let known = self.hosts().await?;
        if known.iter().all(|host| host.backend != *backend) {
            // Names those there are.
            self.backend(backend)?;
        }
        let why = why.map(reason).transpose()?;
        self.queue.drain_host(backend, drained, who, why.as_deref(), self.clock.now()).await?;
        let what = if drained { "takes nothing new" } else { "takes everything again" };
        let said = why.map(|why| format!(": {why}")).unwrap_or_default();
        let message = format!("the host of {backend} {what}, says {who}{said}");
        self.queue.post_event("host-drained", None, None, &message);
        let host = self.hosts().await?.into_iter().find(|host| host.backend == *backend);
        host.ok_or_else(|| refused(format!("there is no backend `{backend}` any more")))
    }
}
