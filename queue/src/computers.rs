//! Computers: what the configuration says of them, where they are, what they hold.

use crate::database::{Db, DbRow, json, parsed, parsed_or_null, to_json};
use crate::engine::{exclusive, flag, locked};
use crate::jobs::holder_of;
use crate::{Claim, Error, Kind, Queue, Result, guard, names, notices};
use futures::FutureExt;
use sqlx::Row;
use std::collections::BTreeMap;
use vcl_types::api::{Applied, ComputerView, PowerState};
use vcl_types::notices::NoticeKind;
use vcl_types::state::computer::{Event, State, next};
use vcl_types::{BackendName, Computer, ComputerName, JobId, Loaded, ReservationId};

/// A computer as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComputerRow {
    /// What the configuration says of it.
    pub computer: Computer,
    /// Where it is.
    pub state: State,
    /// Why it is in maintenance or broken.
    pub reason: Option<String>,
    /// What it holds.
    pub loaded: Option<Loaded>,
    /// The only node that reaches it; `None` when its backend is shared.
    pub node: Option<String>,
    /// The job that has it.
    pub job: Option<JobId>,
    /// Its reservation, unless that is over.
    pub reservation: Option<ReservationId>,
    /// Whether somebody has used what it holds, so that nobody else gets it as it is.
    pub tainted: bool,
}

/// The node whose configuration is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub node: String,
    /// Its backends, and whether each is shared with other nodes.
    pub backends: BTreeMap<BackendName, bool>,
    /// Whether it has the database to itself, so that every computer is its own.
    pub alone: bool,
}

impl Site {
    /// Whose the computers of a backend are: this node's, or everybody's.
    fn owner(&self, backend: &BackendName) -> Option<&str> {
        let shared = self.backends.get(backend).copied().unwrap_or(false);
        (!shared).then_some(self.node.as_str())
    }
    /// Whether this node's configuration decides about the computer.
    fn decides(&self, row: &ComputerRow) -> bool {
        match &row.node {
            _ if self.alone => true,
            Some(node) => *node == self.node,
            None => self.backends.contains_key(&row.computer.backend),
        }
    }
    /// Refuses what is another node's.
    fn refuse(&self, computer: &Computer, there: &BTreeMap<ComputerName, ComputerRow>) -> Result<()> {
        if self.alone {
            return Ok(());
        }
        let (name, backend, here) = (&computer.name, &computer.backend, &self.node);
        let other = |row: &ComputerRow| row.node.clone().filter(|node| node != here);
        if let Some(node) = there.get(name).and_then(other) {
            let message = format!(
                "the computer {name} is node {node}'s (of its local backend {}) and cannot be node {here}'s too; \
                 give it another name in one of their vcld.toml",
                there.get(name).map(|row| row.computer.backend.to_string()).unwrap_or_default()
            );
            return Err(Error::new(Kind::Refused, message));
        }
        let namesake = there.values().find_map(|row| other(row).filter(|_| row.computer.backend == *backend));
        if let Some(node) = namesake {
            let message = format!(
                "nodes {node} and {here} both have a backend {backend}, and on {node} it is local; name one of them \
                 differently, or say `shared = true` on both if it is the same hypervisor"
            );
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(())
    }
}

impl ComputerRow {
    /// Whether the machine on it is that reservation's: it is lent for it, or was, and nobody has taken it back yet.
    #[must_use]
    pub fn is_lent_for(&self, id: ReservationId) -> bool {
        let lent = match self.state {
            State::Reserved | State::InUse => true,
            State::Available => self.tainted,
            State::Loading | State::Maintenance | State::Broken => false,
        };
        lent && self.reservation == Some(id)
    }
    fn read(row: &DbRow) -> Result<Self> {
        let loaded: Option<&str> = row.try_get("loaded")?;
        Ok(Self {
            computer: json(row, "spec")?,
            state: parsed(row, "state")?,
            reason: row.try_get("reason")?,
            loaded: loaded
                .map(serde_json::from_str)
                .transpose()
                .map_err(|e| Error::corrupt("what a computer holds", e))?,
            node: row.try_get("node")?,
            job: row.try_get::<Option<i64>, _>("job")?.map(JobId),
            reservation: row.try_get::<Option<i64>, _>("reservation")?.map(ReservationId),
            tainted: flag(row, "tainted")?,
        })
    }
    /// As the API shows it, with its power state where that was asked for.
    #[must_use]
    pub fn view(self, power: Option<PowerState>) -> ComputerView {
        let Self { computer, state, reason, loaded, node, job, reservation, tainted } = self;
        let tainted = tainted && loaded.is_some();
        ComputerView { computer, state, reason, loaded, tainted, job, lease: None, node, reservation, power }
    }
    /// Why it must stay as it is, if it must.
    fn kept(&self) -> Option<String> {
        let name = &self.computer.name;
        if let Some(job) = self.job {
            return Some(format!("{name}: job {job} has it; apply again when the job is over"));
        }
        if let Some(loaded) = &self.loaded {
            return Some(format!("{name}: {} is loaded on it; unload it and apply again", loaded.image));
        }
        let reservation = self.reservation?;
        Some(format!("{name}: reservation {reservation} has it; apply again when that is over"))
    }
}

/// The computer, inside somebody's transaction; an unknown one is an error that names near ones.
pub(crate) async fn get(db: &mut Db, name: &ComputerName) -> Result<ComputerRow> {
    match find(&mut *db, name).await? {
        Some(row) => Ok(row),
        None => {
            let names: Vec<String> =
                sqlx::query_scalar("SELECT name FROM computers ORDER BY name").fetch_all(db).await?;
            let hint = names::hint(name.as_str(), &names, "vclctl computer list");
            Err(Error::new(Kind::NotFound, format!("there is no computer {name}; {hint}")))
        }
    }
}

async fn find(db: &mut Db, name: &ComputerName) -> Result<Option<ComputerRow>> {
    let row = sqlx::query(
        "SELECT c.*, (SELECT id FROM jobs WHERE holds_computer = c.name) AS job, \
         (SELECT MAX(id) FROM reservations WHERE computer = c.name AND state <> 'ended') AS reservation \
         FROM computers c WHERE c.name = ?",
    );
    row.bind(name.as_str()).fetch_optional(db).await?.as_ref().map(ComputerRow::read).transpose()
}

async fn all(db: &mut Db) -> Result<Vec<ComputerRow>> {
    let rows = sqlx::query(
        "SELECT c.*, (SELECT id FROM jobs WHERE holds_computer = c.name) AS job, \
         (SELECT MAX(id) FROM reservations WHERE computer = c.name AND state <> 'ended') AS reservation \
         FROM computers c ORDER BY c.name",
    );
    rows.fetch_all(db).await?.iter().map(ComputerRow::read).collect()
}

impl Queue {
    /// Makes the computers what the configuration says. One that is loaded, held by a job or reserved stays as it was
    /// and is named in `kept`. A dry run answers the same and changes nothing.
    ///
    /// This is for a program that has the database to itself: every computer is its own. Nodes that share a database use
    /// [`apply_computers_of`](Self::apply_computers_of).
    ///
    /// # Errors
    /// [`Kind::Refused`] when a name stands in the list twice, or when the database cannot be used.
    pub async fn apply_computers(&self, computers: &[Computer], dry_run: bool) -> Result<Applied> {
        let computers = computers.to_vec();
        self.write(move |db| Box::pin(apply(db, computers, None, dry_run))).await
    }

    /// Makes the computers of a node's backends what that node's configuration says, as
    /// [`apply_computers`](Self::apply_computers). Computers of its local backends are its own; those of its shared
    /// backends are everybody's who has the backend; any other stays as it is.
    ///
    /// # Errors
    /// [`Kind::Refused`] also when a name, or the name of a local backend, is another node's, naming both.
    pub async fn apply_computers_of(
        &self,
        site: &Site,
        computers: &[Computer],
        dry_run: bool,
    ) -> Result<Applied> {
        let (computers, site) = (computers.to_vec(), site.clone());
        self.write(move |db| Box::pin(apply(db, computers, Some(site), dry_run))).await
    }

    /// All computers, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn computers(&self) -> Result<Vec<ComputerRow>> {
        all(&mut *self.readers().acquire().await?).await
    }

    /// A computer.
    ///
    /// # Errors
    /// [`Kind::NotFound`], naming near ones.
    pub async fn computer(&self, name: &ComputerName) -> Result<ComputerRow> {
        let name = name.clone();
        self.read(move |db| {
            let name = name.clone();
            async move { get(db, &name).await }.boxed()
        })
        .await
    }

    /// How many computers are in each state, in the order of the diagram; states without one are left out.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn computer_counts(&self) -> Result<Vec<(State, u64)>> {
        let rows = sqlx::query("SELECT state, COUNT(*) AS count FROM computers GROUP BY state");
        let count = |row: &DbRow| {
            let count: i64 = row.try_get("count")?;
            Ok::<_, Error>((parsed(row, "state")?, count.unsigned_abs()))
        };
        let rows = rows.fetch_all(self.readers()).await?;
        let mut counts = rows.iter().map(count).collect::<Result<Vec<_>>>()?;
        counts.sort_unstable();
        Ok(counts)
    }

    /// Something happens to the computer that the job holds. `key` is the step's name with its parts and key: an event
    /// that this job's step has had before changes nothing and answers what came of it then. An event whose outcome the
    /// computer is in already is not an error either, so that an undo may run for a step that was only half done.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer, or when the event is not possible
    /// in its state.
    pub async fn computer_event(
        &self,
        claim: &Claim,
        key: &str,
        name: &ComputerName,
        event: Event,
    ) -> Result<State> {
        let (claim, key, name) = (claim.clone(), key.to_owned(), name.clone());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding(&mut *db, &claim, &name).await?;
                let was = get(&mut *db, &name).await?.state;
                let state = happen(&mut *db, &claim, &key, &name, event).await?;
                if state != was && matches!(event, Event::Maintain | Event::Break) {
                    let facts = notices::facts([
                        ("computer", Some(name.to_string())),
                        ("job", Some(claim.job.id.to_string())),
                        ("title", Some(claim.job.request.to_string())),
                        ("owner", Some(claim.job.requester.clone())),
                        ("because", Some(format!("{} left it {state}", claim.job.request))),
                    ]);
                    let new =
                        notices::NewNotice { kind: NoticeKind::Maintenance, to: None, group: None, facts };
                    notices::put(db, new).await?;
                }
                Ok(state)
            })
        })
        .await
    }

    /// What the computer that the job holds now has on it; `None` for nothing.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer.
    pub async fn set_loaded(
        &self,
        claim: &Claim,
        name: &ComputerName,
        loaded: Option<&Loaded>,
    ) -> Result<()> {
        let (claim, name, loaded) = (claim.clone(), name.clone(), loaded.cloned());
        self.write(move |db| {
            Box::pin(async move {
                guard::holding(&mut *db, &claim, &name).await?;
                set_loaded(db, &name, loaded.as_ref()).await
            })
        })
        .await
    }

    /// Why the computer that the job holds is in maintenance or broken.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer.
    pub async fn set_computer_reason(
        &self,
        claim: &Claim,
        name: &ComputerName,
        reason: Option<&str>,
    ) -> Result<()> {
        let (claim, name, reason) = (claim.clone(), name.clone(), reason.map(str::to_owned));
        self.write(move |db| {
            Box::pin(async move {
                guard::holding(&mut *db, &claim, &name).await?;
                set_reason(db, &name, reason).await
            })
        })
        .await
    }

    /// A person changes a computer's state: takes it out of use, gives it back. The reason is replaced.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Busy`] while a job has it; [`Kind::Refused`] when the event is not possible in its
    /// state.
    pub async fn computer_by_hand(
        &self,
        name: &ComputerName,
        event: Event,
        reason: Option<&str>,
    ) -> Result<State> {
        let (name, reason) = (name.clone(), reason.map(str::to_owned));
        self.write(move |db| {
            Box::pin(async move {
                exclusive(&mut *db).await?;
                let computer = get(&mut *db, &name).await?;
                if let Some(holder) = holder_of(&mut *db, &name).await? {
                    return Err(holder.holds(&name));
                }
                let refused = |e| Error::caused(Kind::Refused, format!("computer {name}"), e);
                let state = next(computer.state, event).map_err(refused)?;
                set_state(&mut *db, &name, state).await?;
                set_reason(db, &name, reason).await?;
                Ok(state)
            })
        })
        .await
    }
}

/// The computer that a job holds, read together with the check of its claim for one event of one of its steps.
pub(crate) struct Held {
    name: ComputerName,
    event: Event,
    effect: String,
    state: State,
    /// The step had the event before.
    again: bool,
}

/// [`guard::holding`], and what an event of the job's step `key` finds.
pub(crate) async fn held(
    db: &mut Db,
    claim: &Claim,
    key: &str,
    name: &ComputerName,
    event: Event,
) -> Result<Held> {
    guard::lease(claim)?;
    let effect = format!("computer {name} {event}");
    let row = sqlx::query(locked!(
        db,
        "SELECT jobs.holds_computer, computers.state AS computer_state, (SELECT COUNT(*) FROM effects \
         WHERE job_id = jobs.id AND attempt = ? AND step = ? AND effect = ?) AS times \
         FROM jobs LEFT JOIN computers ON computers.name = jobs.holds_computer \
         WHERE jobs.id = ? AND jobs.token = ? AND jobs.state = 'running'"
    ))
    .bind(i64::from(claim.job.attempt))
    .bind(key)
    .bind(&effect)
    .bind(claim.job.id.0)
    .bind(claim.token)
    .fetch_optional(&mut *db)
    .await?;
    let row = row.ok_or_else(|| guard::lost(claim))?;
    guard::holds(claim, row.try_get("holds_computer")?, name)?;
    let state = parsed_or_null(&row, "computer_state")?;
    let Some(state) = state else {
        return Err(get(db, name).await.err().unwrap_or_else(|| guard::lost(claim)));
    };
    Ok(Held { name: name.clone(), event, effect, state, again: row.try_get::<i64, _>("times")? > 0 })
}

impl Held {
    /// What the event leads to; where the step had it before, what the computer is in now.
    fn next(&self) -> Result<State> {
        if self.again { Ok(self.state) } else { led(&self.name, self.state, self.event) }
    }
    async fn remember(self, db: &mut Db, claim: &Claim, key: &str, state: State) -> Result<()> {
        if self.again {
            return Ok(());
        }
        guard::remember(db, claim, key, &self.effect, state.as_str()).await
    }
    /// The event happens.
    pub(crate) async fn happen(self, db: &mut Db, claim: &Claim, key: &str) -> Result<()> {
        let state = self.next()?;
        if !self.again {
            set_state(&mut *db, &self.name, state).await?;
        }
        self.remember(db, claim, key, state).await
    }
    /// The event happens, with this on the computer, and nothing is said of it any more.
    pub(crate) async fn happen_with(
        self,
        db: &mut Db,
        claim: &Claim,
        key: &str,
        loaded: &Loaded,
    ) -> Result<()> {
        let state = self.next()?;
        sqlx::query(
            "UPDATE computers SET state = ?, reason = NULL, tainted = 0, loaded = ?, loaded_image = ?, \
             loaded_revision = ? WHERE name = ?",
        )
        .bind(state.as_str())
        .bind(to_json(loaded)?)
        .bind(loaded.image.name.as_str())
        .bind(loaded.image.revision.map(i64::from))
        .bind(self.name.as_str())
        .execute(&mut *db)
        .await?;
        self.remember(db, claim, key, state).await
    }
}

/// Something happens to a computer, once a step, inside a transaction that has asked whether the job holds it.
pub(crate) async fn happen(
    db: &mut Db,
    claim: &Claim,
    key: &str,
    name: &ComputerName,
    event: Event,
) -> Result<State> {
    let effect = format!("computer {name} {event}");
    if let Some(state) = guard::effect(&mut *db, claim, key, &effect).await? {
        return state.parse().map_err(|e: String| Error::corrupt("an effect's state", e));
    }
    let state = led(name, get(&mut *db, name).await?.state, event)?;
    set_state(&mut *db, name, state).await?;
    guard::remember(db, claim, key, &effect, state.as_str()).await?;
    Ok(state)
}

/// What a computer has on it, inside such a transaction.
pub(crate) async fn set_loaded(db: &mut Db, name: &ComputerName, loaded: Option<&Loaded>) -> Result<()> {
    sqlx::query("UPDATE computers SET loaded = ?, loaded_image = ?, loaded_revision = ? WHERE name = ?")
        .bind(loaded.map(to_json).transpose()?)
        .bind(loaded.map(|l| l.image.name.as_str()))
        .bind(loaded.and_then(|l| l.image.revision).map(i64::from))
        .bind(name.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// What the event leads to; a computer that is there already stays.
fn led(name: &ComputerName, state: State, event: Event) -> Result<State> {
    match next(state, event) {
        Ok(state) => Ok(state),
        Err(_) if leads_to(event, state) => Ok(state),
        Err(e) => Err(Error::caused(Kind::Refused, format!("computer {name}"), e)),
    }
}

/// Whether `state` is what `event` leads to from wherever it is possible.
fn leads_to(event: Event, state: State) -> bool {
    State::ALL.iter().any(|from| next(*from, event) == Ok(state))
}

pub(crate) async fn set_state(db: &mut Db, name: &ComputerName, state: State) -> Result<()> {
    let set = sqlx::query("UPDATE computers SET state = ? WHERE name = ?");
    set.bind(state.as_str()).bind(name.as_str()).execute(db).await?;
    Ok(())
}

pub(crate) async fn set_reason(db: &mut Db, name: &ComputerName, reason: Option<String>) -> Result<()> {
    let set = sqlx::query("UPDATE computers SET reason = ? WHERE name = ?");
    set.bind(reason).bind(name.as_str()).execute(db).await?;
    Ok(())
}

async fn apply(db: &mut Db, computers: Vec<Computer>, site: Option<Site>, dry_run: bool) -> Result<Applied> {
    exclusive(&mut *db).await?;
    let mut applied = Applied::default();
    let all: BTreeMap<ComputerName, ComputerRow> =
        all(&mut *db).await?.into_iter().map(|row| (row.computer.name.clone(), row)).collect();
    for computer in &computers {
        if let Some(site) = &site {
            site.refuse(computer, &all)?;
        }
    }
    let mut there = all;
    let mut seen = std::collections::BTreeSet::new();
    for computer in computers {
        let name = computer.name.clone();
        if !seen.insert(name.clone()) {
            return Err(Error::new(Kind::Refused, format!("the computer {name} stands in the list twice")));
        }
        let owner = site.as_ref().and_then(|site| site.owner(&computer.backend));
        let sql = match there.remove(&name) {
            Some(row) if row.computer == computer && row.node.as_deref() == owner => continue,
            Some(row) => {
                // Whose it is may change under a job: the job itself stays where it is.
                if let Some(kept) = row.kept().filter(|_| row.computer != computer) {
                    applied.kept.push(kept);
                    continue;
                }
                if row.computer != computer {
                    applied.changed.push(name.clone());
                }
                "UPDATE computers SET backend = ?, spec = ?, node = ? WHERE name = ?"
            }
            None => {
                applied.added.push(name.clone());
                "INSERT INTO computers (backend, spec, node, name, state) VALUES (?, ?, ?, ?, 'available')"
            }
        };
        if !dry_run {
            let write =
                sqlx::query(sql).bind(computer.backend.as_str()).bind(to_json(&computer)?).bind(owner);
            write.bind(name.as_str()).execute(&mut *db).await?;
        }
    }
    for (name, row) in there {
        if site.as_ref().is_some_and(|site| !site.decides(&row)) {
            continue;
        }
        match row.kept() {
            Some(kept) => applied.kept.push(kept),
            None => {
                if !dry_run {
                    let remove = sqlx::query("DELETE FROM computers WHERE name = ?");
                    remove.bind(name.as_str()).execute(&mut *db).await?;
                }
                applied.removed.push(name);
            }
        }
    }
    Ok(applied)
}
