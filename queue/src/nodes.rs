//! Management nodes: joining, the lease of a life, leaving, giving up the dead. The table `nodes` is this module's.
//!
//! A node has one row under its name, and each join begins its next *life*. What a life has claimed is its own until it
//! leaves or is given up; then its jobs go back to the queue, to be claimed first. A job that is bound to the node waits
//! for the node's next life, any other may be claimed by whoever has its backend.

use crate::database::{Db, DbRow, json, now, parsed, time, to_json};
use crate::engine::locked;
use crate::jobs::JobRow;
use crate::lanes::{Claimer, Lane};
use crate::lease::{Lease, Moment, Observer, SHORTEST_LEASE, given_up_after};
use crate::{Claim, ClaimLimits, Error, Kind, Queue, Result, claim, names};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use vcl_types::api::NodeView;
use vcl_types::state::node::State;
use vcl_types::{BackendName, JobId};

/// What this version of the program understands of jobs. Raised whenever an older program could not go on with a job that
/// this one has begun.
pub const PROTOCOL: i64 = 3;

/// A node about to join.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// Its name: one life at a time has it.
    pub name: String,
    /// How long others wait for a sign of life.
    pub lease: Duration,
    /// The program's version.
    pub version: String,
    /// What the program understands of jobs: [`PROTOCOL`].
    pub protocol: i64,
    /// The process, so that its next life on this machine knows at once that it has ended.
    pub process: Process,
    /// Where other nodes reach it.
    pub address: Option<String>,
    /// The backend instances that it has, and whether they are shared with other nodes.
    pub backends: BTreeMap<BackendName, bool>,
    /// Whether it has the database to itself: whoever took part before, under whatever name, is gone, and what was theirs
    /// is this node's.
    pub alone: bool,
}

/// A process, told apart from all others, also after its number was given to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The machine's boot.
    pub boot: String,
    /// The namespace in which the number is its.
    pub namespace: String,
    /// Its number.
    pub id: u32,
    /// When it began, in clock ticks since the boot.
    pub started: u64,
}

impl Process {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        let id = std::process::id();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Self {
            boot: boot.trim().to_owned(),
            namespace: namespace.to_string_lossy().into_owned(),
            id,
            started: started(id).unwrap_or_default(),
        }
    }
    /// Whether it is certain that it has ended: it was one of this machine's, in this boot and namespace, and is not
    /// there any more. A process of another machine is never certain to have ended.
    fn has_ended(&self) -> bool {
        let this = Self::this();
        let same = !self.boot.is_empty() && self.boot == this.boot && self.namespace == this.namespace;
        same && (self.id == this.id || started(self.id) != Some(self.started))
    }
}

/// When a process began, in clock ticks since the boot. One that has ended and waits for its parent counts as gone.
fn started(id: u32) -> Option<u64> {
    let id = i32::try_from(id).ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// A node as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Which life of that name it is.
    pub life: i64,
    /// Raised by each renewal of its lease.
    pub beat: i64,
    /// How long its lease is good after a renewal.
    pub lease: Duration,
    /// Whether the life goes on.
    pub state: State,
    /// Whether it claims nothing new.
    pub drained: bool,
    /// The program's version.
    pub version: String,
    /// What the program understands of jobs.
    pub protocol: i64,
    /// Where other nodes reach it.
    pub address: Option<String>,
    /// The backend instances that it has, and whether they are shared.
    pub backends: BTreeMap<BackendName, bool>,
    /// When the life began, by the node's clock.
    pub since: DateTime<Utc>,
    /// When it left or was given up.
    pub ended: Option<DateTime<Utc>>,
    process: Process,
}

impl NodeRow {
    fn read(row: &DbRow) -> Result<Self> {
        let lease: i64 = row.try_get("lease_ms")?;
        Ok(Self {
            name: row.try_get("name")?,
            life: row.try_get("life")?,
            beat: row.try_get("beat")?,
            lease: Duration::from_millis(lease.unsigned_abs()),
            state: parsed(row, "state")?,
            drained: row.try_get::<i64, _>("drained")? != 0,
            version: row.try_get("version")?,
            protocol: row.try_get("protocol")?,
            address: row.try_get("address")?,
            backends: json(row, "backends")?,
            since: time(row.try_get("since")?),
            ended: row.try_get::<Option<i64>, _>("ended_at")?.map(time),
            process: json(row, "process")?,
        })
    }
    /// As the API shows it, with how many jobs it has.
    #[must_use]
    pub fn view(self, running: u64, waiting: u64) -> NodeView {
        NodeView {
            name: self.name,
            state: self.state,
            drained: self.drained,
            life: self.life,
            version: self.version,
            protocol: self.protocol,
            lease_seconds: self.lease.as_secs(),
            address: self.address,
            backends: self.backends,
            since: self.since,
            ended: self.ended,
            running,
            waiting,
        }
    }
}

/// One life of a node. It claims; its lease is renewed by [`keep`](Self::keep), which somebody has to run.
#[derive(Debug, Clone)]
pub struct Membership {
    queue: Queue,
    lease: Arc<Lease>,
    claimer: Claimer,
}

impl Queue {
    /// Joins under a name and begins its next life. What an earlier life of the name was doing goes back to the queue, to
    /// be claimed first; the answer says which jobs.
    ///
    /// An earlier life that has not left may still be there. It is not when its process was of this machine and is gone, or
    /// when its beat does not change for longer than its lease: this waits for that long if it has to.
    ///
    /// # Errors
    /// [`Kind::Busy`] when another process lives under the name; [`Kind::Refused`] for a lease that is too short, or when
    /// the database was filled in part; or when the database cannot be used.
    pub async fn join(&self, new: &NewNode) -> Result<(Membership, Vec<JobId>)> {
        if new.lease < SHORTEST_LEASE {
            let (lease, least) = (new.lease, SHORTEST_LEASE);
            let message = format!("a lease of {lease:?} is too short; it has to be {least:?} at least");
            return Err(Error::new(Kind::Refused, message));
        }
        self.check_whole().await?;
        let mut observer = Observer::default();
        let earlier = loop {
            let Some(row) = self.find_node(&new.name).await? else { break None };
            if new.alone || row.state != State::Alive || row.process == new.process || row.process.has_ended()
            {
                break Some((row.life, row.beat));
            }
            let unchanged = observer.look(&row.name, row.life, row.beat, Moment::now());
            if unchanged >= given_up_after(row.lease) {
                break Some((row.life, row.beat));
            }
            if observer.changes(&row.name) > 0 {
                let (name, since, process) = (&row.name, row.since, row.process.id);
                let message = format!(
                    "another vcld lives as node {name} since {since} (process {process} of its machine) and renews its \
                     lease; stop it, or give this one a name of its own: node.name in vcld.toml"
                );
                return Err(Error::new(Kind::Busy, message));
            }
            // why: the only sign of the other's life is a row that changes
            tokio::time::sleep((row.lease / 12).max(Duration::from_millis(100))).await;
        };
        let begun = Moment::now();
        let (node, inner) = (new.clone(), self.clone());
        let joined = self
            .write_then(
                move |db| Box::pin(join(db, node, earlier)),
                move |_: &(i64, Vec<JobId>)| inner.wake(),
            )
            .await?;
        let (life, resumed) = joined;
        let claimer = Claimer {
            node: new.name.clone(),
            life: Some(life),
            protocol: new.protocol,
            backends: Some(new.backends.keys().cloned().collect()),
        };
        let lease = Arc::new(Lease::new(&new.name, life, new.lease, begun));
        Ok((Membership { queue: self.clone(), lease, claimer }, resumed))
    }

    /// All nodes that ever joined and were not forgotten, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn nodes(&self) -> Result<Vec<NodeRow>> {
        let rows = sqlx::query("SELECT * FROM nodes ORDER BY name").fetch_all(self.readers()).await?;
        rows.iter().map(NodeRow::read).collect()
    }

    /// A node.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn node(&self, name: &str) -> Result<NodeRow> {
        match self.find_node(name).await? {
            Some(row) => Ok(row),
            None => {
                let names: Vec<String> = self.nodes().await?.into_iter().map(|n| n.name).collect();
                let hint = names::hint(name, &names, "vclctl node list");
                Err(Error::new(Kind::NotFound, format!("there is no node {name}; {hint}")))
            }
        }
    }

    async fn find_node(&self, name: &str) -> Result<Option<NodeRow>> {
        let row = sqlx::query("SELECT * FROM nodes WHERE name = ?").bind(name);
        row.fetch_optional(self.readers()).await?.as_ref().map(NodeRow::read).transpose()
    }

    /// How many jobs each node runs, and how many that are queued are bound to it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn jobs_of_nodes(&self) -> Result<BTreeMap<String, (u64, u64)>> {
        let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        let count = |row: &DbRow| Ok::<_, Error>(row.try_get::<i64, _>("count")?.unsigned_abs());
        let running =
            "SELECT node AS name, COUNT(*) AS count FROM jobs WHERE state = 'running' GROUP BY node";
        for row in sqlx::query(running).fetch_all(self.readers()).await? {
            if let Some(name) = row.try_get::<Option<String>, _>("name")? {
                counts.entry(name).or_default().0 = count(&row)?;
            }
        }
        let bound = "SELECT bound_to AS name, COUNT(*) AS count FROM jobs \
                     WHERE state = 'queued' AND bound_to IS NOT NULL GROUP BY bound_to";
        for row in sqlx::query(bound).fetch_all(self.readers()).await? {
            counts.entry(row.try_get("name")?).or_default().1 = count(&row)?;
        }
        Ok(counts)
    }

    /// From now on the node claims nothing new (`true`), or claims again. What it runs goes on.
    ///
    /// # Errors
    /// [`Kind::NotFound`], or when the database cannot be used.
    pub async fn drain_node(&self, name: &str, drained: bool) -> Result<NodeRow> {
        self.node(name).await?;
        let (node, inner) = (name.to_owned(), self.clone());
        self.write_then(move |db| Box::pin(set_drained(db, node, drained)), move |()| inner.wake()).await?;
        self.node(name).await
    }

    /// Gives a life up that was seen with this beat, unless it has renewed its lease since. Its jobs go back to the queue;
    /// the answer says which, and is `None` when the life goes on or was given up before.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn bury(&self, name: &str, life: i64, beat: i64) -> Result<Option<Vec<JobId>>> {
        let (name, inner) = (name.to_owned(), self.clone());
        self.write_then(move |db| Box::pin(bury(db, name, life, beat)), move |_| inner.wake()).await
    }

    /// The running jobs of a node that somebody has called off.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn called_off(&self, node: &str) -> Result<Vec<JobId>> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE node = ? AND state = 'running' AND cancel_wanted = 1 ORDER BY id",
        );
        let ids: Vec<i64> = ids.bind(node).fetch_all(self.readers()).await?;
        Ok(ids.into_iter().map(JobId).collect())
    }

    /// A channel that changes whenever a running job was called off through this process.
    #[must_use]
    pub fn cancels(&self) -> tokio::sync::watch::Receiver<u64> {
        self.0.cancelled.subscribe()
    }
}

impl Membership {
    /// The lease of this life.
    #[must_use]
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }

    /// Takes jobs that may run now, at most `most`: those that were under way before first, then the oldest, passing over
    /// those of backends and hosts that are full. None when the node is drained.
    ///
    /// The future may be dropped: claims that reach nobody go back to the queue.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`] when this life is over; or when the database cannot be used.
    pub async fn claim_up_to(&self, most: u32, limits: &ClaimLimits) -> Result<Vec<Claim>> {
        self.lease.check()?;
        let claims = self.queue.claim_as(self.claimer.clone(), most, limits, Some(self.lease.clone())).await;
        if claims.as_ref().is_err_and(|e| e.kind == Kind::LeaseLost) {
            self.lease.lose();
        }
        claims
    }

    /// Renews the lease three times in its span until it is lost, and returns then. It is lost when it could not be
    /// renewed for too long, when the process stood still for too long, or when another has given this life up.
    pub async fn keep(&self) {
        let every = self.lease.span() / 3;
        let mut wait = every;
        loop {
            tokio::select! {
                () = self.lease.lost() => return,
                () = tokio::time::sleep(wait.min(self.lease.left())) => {} // why: it is time that a lease is renewed by
            }
            // After standing still this comes first: what is over is not renewed.
            if self.lease.check().is_err() {
                return;
            }
            wait = every;
            tokio::select! {
                renewed = self.renew() => match renewed {
                    Ok(true) => {}
                    Ok(false) => self.lease.lose(),
                    Err(error) => {
                        let left_s = self.lease.left().as_secs();
                        tracing::warn!(error = %error, left_s, "the node's lease cannot be renewed; trying again");
                        wait = every / 5;
                    }
                },
                () = tokio::time::sleep(self.lease.left()) => {}
            }
        }
    }

    /// Renews the lease once; `false` when this life was given up.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn renew(&self) -> Result<bool> {
        let (node, life) = (self.claimer.node.clone(), self.lease.life());
        let begun = Moment::now();
        let renewed = self
            .queue
            .write_first(move |db| {
                Box::pin(async move {
                    let renew =
                        "UPDATE nodes SET beat = beat + 1 WHERE name = ? AND life = ? AND state = 'alive'";
                    let done = sqlx::query(renew).bind(node).bind(life).execute(db).await?;
                    Ok(done.rows_affected() == 1)
                })
            })
            .await?;
        if renewed {
            self.lease.renewed(begun);
        }
        Ok(renewed)
    }

    /// Leaves in order: what is still running in this life's name goes back to the queue. Nothing may be done in its name
    /// any more.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn leave(&self) -> Result<()> {
        self.lease.lose();
        let (node, life, inner) = (self.claimer.node.clone(), self.lease.life(), self.queue.clone());
        self.queue.write_then(move |db| Box::pin(leave(db, node, life)), move |()| inner.wake()).await
    }
}

async fn join(db: &mut Db, new: NewNode, earlier: Option<(i64, i64)>) -> Result<(i64, Vec<JobId>)> {
    let life = earlier.map_or(0, |(life, _)| life) + 1;
    let (process, backends) = (to_json(&new.process)?, to_json(&new.backends)?);
    let span = i64::try_from(new.lease.as_millis()).unwrap_or(i64::MAX);
    // Both statements have their values in the same order.
    let sql = match earlier {
        None => {
            "INSERT INTO nodes (lease_ms, version, protocol, process, address, backends, since, life, name, beat, state) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 'alive')"
        }
        Some(_) => {
            "UPDATE nodes SET lease_ms = ?, version = ?, protocol = ?, process = ?, address = ?, backends = ?, since = ?, \
             life = ?, beat = beat + 1, state = 'alive', ended_at = NULL WHERE name = ? AND life = ? AND beat = ?"
        }
    };
    let mut join = sqlx::query(sql)
        .bind(span)
        .bind(&new.version)
        .bind(new.protocol)
        .bind(process)
        .bind(&new.address)
        .bind(backends)
        .bind(now())
        .bind(life)
        .bind(&new.name);
    if let Some((life, beat)) = earlier {
        join = join.bind(life).bind(beat);
    }
    let taken = || {
        let name = &new.name;
        Error::new(
            Kind::Busy,
            format!("another vcld has just joined as node {name}; give each a node.name of its own"),
        )
    };
    match join.execute(&mut *db).await.map_err(Error::from) {
        Ok(done) if done.rows_affected() == 1 => {}
        Ok(_) => return Err(taken()),
        Err(e) if e.kind == Kind::Exists => return Err(taken()),
        Err(e) => return Err(e),
    }
    let mut resumed = claim::give_back(&mut *db, &new.name, None).await?;
    if new.alone {
        resumed.extend(inherit(db, &new.name).await?);
    }
    Ok((life, resumed))
}

/// What was other nodes' is this one's, which is alone: it was given another name, or the database another place.
async fn inherit(db: &mut Db, name: &str) -> Result<Vec<JobId>> {
    let others = sqlx::query_scalar("SELECT name FROM nodes WHERE name <> ? AND state = 'alive'");
    let others: Vec<String> = others.bind(name).fetch_all(&mut *db).await?;
    let mut resumed = Vec::new();
    for other in others {
        let gone = sqlx::query("UPDATE nodes SET state = 'dead', ended_at = ? WHERE name = ?");
        gone.bind(now()).bind(&other).execute(&mut *db).await?;
        resumed.extend(claim::give_back(&mut *db, &other, None).await?);
    }
    let bound = sqlx::query(
        "SELECT * FROM jobs WHERE bound_to <> ? AND state IN ('queued', 'waiting', 'stuck', 'failed')",
    );
    for row in bound.bind(name).fetch_all(&mut *db).await? {
        let job = JobRow { bound_to: Some(name.to_owned()), ..JobRow::read(&row)? };
        let rebind = sqlx::query("UPDATE jobs SET bound_to = ?, lane = ? WHERE id = ?");
        rebind.bind(name).bind(Lane::of(&job).text()).bind(job.id.0).execute(&mut *db).await?;
    }
    Ok(resumed)
}

async fn set_drained(db: &mut Db, name: String, drained: bool) -> Result<()> {
    let set = sqlx::query("UPDATE nodes SET drained = ? WHERE name = ?");
    set.bind(i64::from(drained)).bind(name).execute(db).await?;
    Ok(())
}

async fn bury(db: &mut Db, name: String, life: i64, beat: i64) -> Result<Option<Vec<JobId>>> {
    let bury = sqlx::query(
        "UPDATE nodes SET state = 'dead', ended_at = ? WHERE name = ? AND life = ? AND beat = ? AND state = 'alive'",
    );
    let buried = bury.bind(now()).bind(&name).bind(life).bind(beat).execute(&mut *db).await?;
    if buried.rows_affected() == 0 {
        return Ok(None);
    }
    claim::give_back(db, &name, Some("its node died; it goes on where it was")).await.map(Some)
}

async fn leave(db: &mut Db, name: String, life: i64) -> Result<()> {
    let left = sqlx::query(
        "UPDATE nodes SET state = 'left', ended_at = ? WHERE name = ? AND life = ? AND state = 'alive'",
    );
    let left = left.bind(now()).bind(&name).bind(life).execute(&mut *db).await?;
    if left.rows_affected() == 1 {
        claim::give_back(db, &name, Some("its node has stopped; it goes on where it was")).await?;
    }
    Ok(())
}

/// Refuses a life that is over, inside the transaction that claims in its name, and holds its row so that nobody gives it
/// up meanwhile. Answers whether the node may claim.
pub(crate) async fn may_claim(db: &mut Db, node: &str, life: i64) -> Result<bool> {
    let row =
        sqlx::query(locked!(db, "SELECT drained FROM nodes WHERE name = ? AND life = ? AND state = 'alive'"));
    match row.bind(node).bind(life).fetch_optional(db).await? {
        Some(row) => Ok(row.try_get::<i64, _>("drained")? == 0),
        None => Err(Error::new(Kind::LeaseLost, format!("node {node} (life {life}) was given up"))),
    }
}
