//! Which jobs a node takes next, found without reading the queue.
//!
//! Each job stands in a lane: jobs of one lane need the same protocol, are bound to the same node and go to the same
//! backend and host. Whether a node may claim from a lane, and how many, is decided once a lane; the rows of a lane are
//! read in the order in which they are claimed, as many as there is room for. The lanes are found by leaps over an index,
//! so a claim costs the number of lanes and of jobs that it takes, however many wait.

use crate::database::{Db, DbRow};
use crate::jobs::JobRow;
use crate::{ClaimLimits, Result};
use sqlx::Row;
use std::collections::{BTreeSet, HashMap};
use vcl_types::{BackendName, JobKind};

/// What decides who can claim a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) protocol: i64,
    pub(crate) bound_to: Option<String>,
    pub(crate) backend: Option<String>,
    pub(crate) host: Option<String>,
}

impl Lane {
    pub(crate) fn of(job: &JobRow) -> Self {
        Self {
            protocol: job.protocol,
            bound_to: job.bound_to.clone(),
            backend: job.backend.as_ref().map(ToString::to_string),
            host: job.host.clone(),
        }
    }
    /// As it stands in the column. None of the names has a bar in it, and the host is last.
    pub(crate) fn text(&self) -> String {
        let or_empty = |name: &Option<String>| name.clone().unwrap_or_default();
        let (bound_to, backend, host) =
            (or_empty(&self.bound_to), or_empty(&self.backend), or_empty(&self.host));
        format!("{}|{bound_to}|{backend}|{host}", self.protocol)
    }
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '|');
        let protocol = parts.next()?.parse().ok()?;
        let mut name = || parts.next().map(|name| (!name.is_empty()).then(|| name.to_owned()));
        Some(Self { protocol, bound_to: name()?, backend: name()?, host: name()? })
    }
}

/// Who claims.
#[derive(Debug, Clone)]
pub(crate) struct Claimer {
    pub(crate) node: String,
    /// Its life; `None` for a program that has the database to itself and needs no lease.
    pub(crate) life: Option<i64>,
    pub(crate) protocol: i64,
    /// The backend instances it has; `None` for whatever there is.
    pub(crate) backends: Option<BTreeSet<BackendName>>,
}

impl Claimer {
    fn may(&self, lane: &Lane) -> bool {
        if lane.protocol > self.protocol {
            return false;
        }
        match (&lane.bound_to, &lane.backend) {
            // What is bound to this node is nobody else's, also when its backend was taken out of the configuration.
            (Some(node), _) => *node == self.node,
            (None, None) => true,
            (None, Some(backend)) => {
                self.backends.as_ref().is_none_or(|have| have.iter().any(|b| b.as_str() == backend))
            }
        }
    }
}

/// How many more may run of each thing that has a limit.
struct Room<'a> {
    limits: &'a ClaimLimits,
    backends: HashMap<String, u32>,
    hosts: HashMap<String, u32>,
}

impl Room<'_> {
    fn left(&self, lane: &Lane) -> u32 {
        let left = |limit: Option<u32>, running: Option<&u32>| {
            limit.map_or(u32::MAX, |limit| limit.saturating_sub(running.copied().unwrap_or(0)))
        };
        let backend = lane.backend.as_deref().map_or(u32::MAX, |name| {
            let limit = self.limits.per_backend.iter().find(|(b, _)| b.as_str() == name).map(|(_, n)| *n);
            left(limit, self.backends.get(name))
        });
        let host = lane
            .host
            .as_deref()
            .map_or(u32::MAX, |name| left(self.limits.per_host.get(name).copied(), self.hosts.get(name)));
        backend.min(host)
    }
    fn takes(&mut self, lane: &Lane, count: u32) {
        for (name, running) in [(&lane.backend, &mut self.backends), (&lane.host, &mut self.hosts)] {
            if let Some(name) = name {
                *running.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// One step from lane to lane.
pub(crate) const NEXT_LANE: &str = "SELECT MIN(lane) FROM jobs WHERE state = 'queued' AND lane > ?";
/// The first of a lane, of those that were under way before or of the others.
pub(crate) const FIRST_OF_LANE: &str =
    "SELECT * FROM jobs WHERE state = 'queued' AND lane = ? AND resumed = ? ORDER BY id LIMIT ?";
/// How many run in each lane.
pub(crate) const RUNNING: &str =
    "SELECT lane, COUNT(*) AS count FROM jobs WHERE state = 'running' GROUP BY lane";
/// How many run here. A test of an image takes no place: nearly all of its time it waits for jobs of its own, which do.
pub(crate) const RUNNING_HERE: &str =
    "SELECT COUNT(*) FROM jobs WHERE node = ? AND state = 'running' AND kind <> 'test-image'";

/// The jobs that the claimer may have now, at most `most`: those that were under way before first, then the oldest.
/// Jobs of a backend or host that is full are passed over.
pub(crate) async fn candidates(
    db: &mut Db,
    claimer: &Claimer,
    limits: &ClaimLimits,
    most: u32,
) -> Result<Vec<JobRow>> {
    let here: i64 = sqlx::query_scalar(RUNNING_HERE).bind(&claimer.node).fetch_one(&mut *db).await?;
    let here = u32::try_from(here).unwrap_or(u32::MAX);
    let most = most.min(limits.node_max.saturating_sub(here));
    if most == 0 {
        return Ok(Vec::new());
    }
    let mut lanes = Vec::new();
    let mut after = String::new();
    while let Some(text) = next_lane(&mut *db, &after).await? {
        if let Some(lane) = Lane::parse(&text).filter(|lane| claimer.may(lane)) {
            lanes.push((text.clone(), lane));
        }
        after = text;
    }
    if lanes.is_empty() {
        return Ok(Vec::new());
    }
    let mut room = Room { limits, backends: HashMap::new(), hosts: HashMap::new() };
    for row in sqlx::query(RUNNING).fetch_all(&mut *db).await? {
        if let Some(lane) = Lane::parse(row.try_get("lane")?) {
            let count: i64 = row.try_get("count")?;
            room.takes(&lane, u32::try_from(count).unwrap_or(u32::MAX));
        }
    }
    let mut found: Vec<(bool, JobRow, Lane)> = Vec::new();
    for (text, lane) in lanes {
        let mut wanted = most.min(room.left(&lane));
        for resumed in [1_i64, 0] {
            if wanted == 0 {
                break;
            }
            let rows = sqlx::query(FIRST_OF_LANE).bind(&text).bind(resumed).bind(i64::from(wanted));
            let rows: Vec<DbRow> = rows.fetch_all(&mut *db).await?;
            wanted -= u32::try_from(rows.len()).unwrap_or(wanted).min(wanted);
            for row in &rows {
                found.push((resumed == 0, JobRow::read(row)?, lane.clone()));
            }
        }
    }
    found.sort_by_key(|(fresh, job, _)| (*fresh, job.id));
    let (mut taken, mut places) = (Vec::new(), 0);
    for (_, job, lane) in found {
        if places == most {
            break;
        }
        if room.left(&lane) > 0 {
            room.takes(&lane, 1);
            // As in `RUNNING_HERE`. Nobody would look again for what it waits for, when both were under way before.
            places += u32::from(job.request.kind() != JobKind::TestImage);
            taken.push(job);
        }
    }
    Ok(taken)
}

async fn next_lane(db: &mut Db, after: &str) -> Result<Option<String>> {
    Ok(sqlx::query_scalar(NEXT_LANE).bind(after).fetch_one(db).await?)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;
    use crate::Queue;

    #[test]
    fn a_lane_is_read_as_it_was_written() {
        let name = |name: &str| Some(name.to_owned());
        let bound_to = [None, name("node-1")];
        let backend = [None, name("kvm1")];
        let host = [None, name("kvm1.example.org"), name("[fe80::1]")];
        for bound_to in &bound_to {
            for backend in &backend {
                for host in &host {
                    let (bound_to, backend, host) = (bound_to.clone(), backend.clone(), host.clone());
                    let lane = Lane { protocol: 3, bound_to, backend, host };
                    assert_eq!(Lane::parse(&lane.text()), Some(lane));
                }
            }
        }
        assert_eq!(Lane::parse(""), None);
    }

    #[tokio::test]
    async fn claims_read_no_more_than_an_index_has_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::open(dir.path().join("vcl.db")).await.unwrap();
        for sql in [NEXT_LANE, FIRST_OF_LANE, RUNNING, RUNNING_HERE] {
            let mut explain = String::new();
            let mut query = sqlx::query(sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")));
            for _ in sql.matches('?') {
                query = query.bind(1);
            }
            for row in query.fetch_all(queue.readers()).await.unwrap() {
                let detail: String = row.try_get("detail").unwrap();
                explain.push_str(&detail);
                explain.push('\n');
            }
            assert!(explain.contains("SEARCH jobs USING"), "{sql}: {explain}");
            assert!(!explain.contains("TEMP B-TREE") && !explain.contains("SCAN"), "{sql}: {explain}");
        }
    }
}
