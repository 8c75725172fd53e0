//! What those who look after the site look at: hosts, nodes, orphans, maintenance, the record.

use crate::Frame;
use crate::show;
use askama::Template;
use vcl_types::api::{
    AuditView, BackendView, Finding, FindingLevel, LeaseView, Mismatch, OrphanView, Orphans, Status,
};
use vcl_types::lending::{HostView, MaintenanceView};

/// The views of this place, each with its key in the catalogue.
pub type Tabs = Vec<(&'static str, &'static str)>;

/// The views that a reader may see.
#[must_use]
pub fn tabs(frame: &Frame<'_>) -> Tabs {
    let mut tabs = Vec::new();
    if frame.powers.look {
        tabs.push(("/operations", "operations-hosts"));
    }
    if frame.powers.operate {
        tabs.push(("/operations/orphans", "orphans-title"));
    }
    tabs.push(("/operations/maintenance", "maintenance-title"));
    if frame.powers.people {
        tabs.push(("/operations/audit", "audit-title"));
    }
    tabs
}

/// A host, or what stands for many.
#[derive(Debug)]
pub struct Host<'a> {
    /// What is known of what is behind it.
    pub backend: &'a BackendView,
    /// How many of its computers somebody has.
    pub busy: usize,
    /// Why nothing new is put on it.
    pub drained: Option<&'a str>,
    /// What is wrong with it.
    pub problems: Vec<&'a Finding>,
}

/// Hosts, nodes, what is held.
#[derive(Template)]
#[template(path = "operations.html")]
pub struct Operations<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The views of this place.
    pub tabs: Tabs,
    /// What is not well.
    pub wrong: Vec<&'a Finding>,
    /// How many things were looked at.
    pub looked: usize,
    /// One screen of everything.
    pub status: &'a Status,
    /// The hosts.
    pub hosts: Vec<Host<'a>>,
    /// What jobs have to themselves.
    pub leases: &'a [LeaseView],
}

impl<'a> Operations<'a> {
    /// From what the API says.
    #[must_use]
    pub fn new(
        frame: Frame<'a>,
        status: &'a Status,
        findings: &'a [Finding],
        backends: &'a [BackendView],
        hosts: &'a [HostView],
        leases: &'a [LeaseView],
    ) -> Self {
        let bad = |finding: &&Finding| finding.level != FindingLevel::Ok;
        let host = |backend: &'a BackendView| {
            let host = hosts.iter().find(|host| host.backend == backend.name);
            let drained = host.filter(|host| host.drained_by.is_some());
            Host {
                backend,
                busy: host.map_or(0, |host| host.busy.len()),
                drained: drained.map(|host| host.reason.as_deref().unwrap_or_default()),
                problems: backend.findings.iter().filter(bad).collect(),
            }
        };
        Self {
            tabs: tabs(&frame),
            wrong: findings.iter().filter(bad).collect(),
            looked: findings.len(),
            hosts: backends.iter().map(host).collect(),
            status,
            leases,
            frame,
        }
    }
}

/// What is there and belongs to nobody.
#[derive(Template)]
#[template(path = "orphans.html")]
pub struct OrphansFound<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The views of this place.
    pub tabs: Tabs,
    /// It.
    pub found: &'a Orphans,
}

fn mismatch(orphan: &OrphanView) -> &'static str {
    match orphan.mismatch {
        Mismatch::LeftOver => "orphans-left-over",
        Mismatch::Missing => "orphans-missing",
    }
}
/// What can be done about it: nobody has to try what is refused.
fn wishes(orphan: &OrphanView) -> &'static [&'static str] {
    let machine = orphan.thing.kind == "domain" && orphan.thing.computer.is_some();
    match orphan.mismatch {
        Mismatch::LeftOver if machine => &["adopt", "delete", "ignore"],
        Mismatch::LeftOver => &["delete", "ignore"],
        Mismatch::Missing => &["ignore"],
    }
}

/// What is asked for in the form of a new window.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct WindowAsked {
    /// Computers, with commas or blanks between.
    pub computers: String,
    /// Tags of computers, the same.
    pub tags: String,
    /// From when, on the reader's clock.
    pub start: String,
    /// Until when.
    pub end: String,
    /// The zone of the reader's clock.
    pub zone: String,
    /// Why.
    pub reason: String,
}

/// What is, or will be, out of use.
#[derive(Template)]
#[template(path = "maintenance.html")]
pub struct Maintenance<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The views of this place.
    pub tabs: Tabs,
    /// The windows.
    pub windows: &'a [MaintenanceView],
    /// What stands in the form.
    pub asked: &'a WindowAsked,
    /// Why one could not be made.
    pub problem: Option<String>,
}

/// Who did what to what.
#[derive(Template)]
#[template(path = "audit.html")]
pub struct Audit<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The views of this place.
    pub tabs: Tabs,
    /// The deeds, the newest first.
    pub rows: &'a [AuditView],
    /// Only whose.
    pub who: &'a str,
    /// Only to what.
    pub subject: &'a str,
    /// Where the older ones are.
    pub older: Option<String>,
}
