//! Orphans: the ledger compared with the world, both ways.
//!
//! What is there (domains, overlays, staging directories, child processes) and what needs it (a job that is not over or
//! is stuck, a computer that is loaded or held) are read in the order ledger, world, ledger: only what nothing needed
//! before *and* after the look is an orphan, so that a load or an unload in the middle of it is not mistaken for one.
//! Nothing is ever removed by itself; the verbs are an admin's.

use crate::node::{Node, Refusal, RefusalKind, chain};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use vcl_provisioning::Provisioning;
use vcl_queue::{JobFilter, Sight};
use vcl_types::api::{Mismatch, OrphanRequest, OrphanView, OrphanWish, Orphans, Plan, PlannedStep, Thing};
use vcl_types::state::{computer, job};
use vcl_types::{BackendName, ComputerName, JobId};

/// The places that are no backend's.
const LIBRARY: &str = "library";
const NODE: &str = "node";
const STAGING: &str = "staging";
const PROCESS: &str = "process";
const MACHINE: &str = "machine";
/// How long one place may take to say what it has.
const LOOK: Duration = Duration::from_secs(60);
/// How far back journals are read for child processes that outlived their job.
const PROCESSES_OF: chrono::TimeDelta = chrono::TimeDelta::days(2);

/// What the queue says is needed.
pub(crate) struct Ledger {
    /// Jobs that are not over, and stuck ones: what they made is theirs.
    pub(crate) jobs: BTreeSet<JobId>,
    /// Each computer: whether it needs what was made for it.
    pub(crate) computers: BTreeMap<ComputerName, Need>,
}

/// What a computer needs of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    pub(crate) backend: BackendName,
    pub(crate) loaded: bool,
    pub(crate) held: bool,
    pub(crate) state: computer::State,
}

/// Why nothing needs a thing; `None` when something does.
pub(crate) fn unneeded(thing: &Thing, ledger: &Ledger) -> Option<String> {
    if let Some(job) = thing.job {
        return (!ledger.jobs.contains(&job)).then(|| format!("job {job} made it and is over"));
    }
    let Some(name) = &thing.computer else {
        return Some("it names no job and no computer that would need it".into());
    };
    match ledger.computers.get(name) {
        None => Some(format!("there is no computer {name}")),
        Some(need) if need.loaded || need.held => None,
        Some(need) => Some(format!("{name} is {} and holds nothing", need.state)),
    }
}

/// The computers of a backend that are loaded, have no job and lack their machine.
pub(crate) fn missing(
    backend: &BackendName,
    there: &BTreeSet<ComputerName>,
    ledger: &Ledger,
) -> Vec<ComputerName> {
    let should =
        ledger.computers.iter().filter(|(_, need)| need.backend == *backend && need.loaded && !need.held);
    should.map(|(name, _)| name).filter(|name| !there.contains(*name)).cloned().collect()
}

/// `PLACE/KIND/NAME`.
fn parse(id: &str) -> Result<(&str, &str, &str), Refusal> {
    let mut parts = id.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(place), Some(kind), Some(name))
            if !place.is_empty() && !kind.is_empty() && !name.is_empty() =>
        {
            Ok((place, kind, name))
        }
        _ => {
            let message =
                format!("`{id}` is no orphan's name: PLACE/KIND/NAME, as vclctl orphans list prints it");
            Err(Refusal::new(RefusalKind::Invalid, message))
        }
    }
}

struct Found {
    place: String,
    thing: Thing,
    mismatch: Mismatch,
    why: String,
}

impl Node {
    async fn ledger(&self) -> Result<Ledger, Refusal> {
        let mut jobs = BTreeSet::new();
        for state in [job::State::Queued, job::State::Running, job::State::Waiting, job::State::Stuck] {
            let filter = JobFilter { state: Some(state), limit: u32::MAX, ..JobFilter::default() };
            jobs.extend(self.queue.jobs(&filter).await?.into_iter().map(|j| j.id));
        }
        let computers = self.queue.computers().await?.into_iter().map(|row| {
            let need = Need {
                backend: row.computer.backend.clone(),
                loaded: row.loaded.is_some(),
                held: row.job.is_some(),
                state: row.state,
            };
            (row.computer.name, need)
        });
        Ok(Ledger { jobs, computers: computers.collect() })
    }

    /// Where a thing's row stands in the database: what is this node's alone carries its name.
    fn row_place(&self, place: &str) -> String {
        let shared = place.parse::<BackendName>().ok().and_then(|name| self.sharing().get(&name).copied());
        if shared == Some(true) { place.to_owned() } else { format!("{}:{place}", self.name) }
    }

    /// Compares the records with the world, as far as this node sees it. With `all` also what somebody ignores.
    ///
    /// # Errors
    /// The database does not answer. A backend that does not is named in the answer.
    pub async fn orphans(&self, all: bool) -> Result<Orphans, Refusal> {
        let mut orphans = self.look_for_orphans().await?;
        if !all {
            orphans.found.retain(|o| o.ignored.is_none());
        }
        Ok(orphans)
    }

    /// The same, with what somebody ignores. What no look has seen before is told by an event, whoever looks: a verb that
    /// comes before the reconciler must not keep it from being told.
    pub(crate) async fn look_for_orphans(&self) -> Result<Orphans, Refusal> {
        let before = self.ledger().await?;
        let mut world: Vec<(String, Vec<Thing>)> = Vec::new();
        let mut unseen = Vec::new();
        for (name, backend) in &self.backends {
            match tokio::time::timeout(LOOK, listed(&**backend)).await {
                Ok(Ok(things)) => world.push((name.to_string(), things)),
                Ok(Err(error)) => unseen.push(format!("backend {name}: {error}")),
                Err(_) => unseen.push(format!("backend {name}: no answer within {} s", LOOK.as_secs())),
            }
        }
        match self.library.leftovers() {
            Ok(left) => {
                let thing = |l: vcl_images::Leftover| Thing {
                    kind: STAGING.into(),
                    bytes: Some(taken(&l.path)),
                    name: l.name,
                    computer: None,
                    job: l.job,
                };
                // What is fetched into now belongs to no job by its name.
                world.push((LIBRARY.into(), left.into_iter().filter(|l| !l.in_use).map(thing).collect()));
            }
            Err(error) => unseen.push(format!("the library: {}", chain(&error))),
        }
        let processes = self.queue.past_processes(&self.name, chrono::Utc::now() - PROCESSES_OF).await?;
        let alive =
            processes.into_iter().filter(|(_, group, start)| vcl_job::start_time(*group) == Some(*start));
        let thing = |(job, group, start): (JobId, i32, u64)| Thing {
            kind: PROCESS.into(),
            name: format!("{group}-{start}"),
            computer: None,
            job: Some(job),
            bytes: None,
        };
        world.push((NODE.into(), alive.map(thing).collect()));
        let after = self.ledger().await?;

        let mut found = Vec::new();
        let mut places = Vec::new();
        for (place, things) in world {
            if let Some((name, backend)) =
                place.parse::<BackendName>().ok().and_then(|n| self.backends.get_key_value(&n))
            {
                let there: BTreeSet<_> = match tokio::time::timeout(LOOK, backend.powers()).await {
                    Ok(Ok(powers)) => powers.into_keys().collect(),
                    // What cannot be seen is not missing.
                    _ => after.computers.keys().cloned().collect(),
                };
                let gone_before: BTreeSet<_> = missing(name, &there, &before).into_iter().collect();
                for computer in missing(name, &there, &after).into_iter().filter(|c| gone_before.contains(c))
                {
                    found.push(Found {
                        place: place.clone(),
                        why: format!("{computer} is loaded and has no machine there; take it back: vclctl unload {computer}"),
                        thing: Thing { kind: MACHINE.into(), name: computer.to_string(), computer: Some(computer), job: None, bytes: None },
                        mismatch: Mismatch::Missing,
                    });
                }
            }
            for thing in things {
                if let (Some(_), Some(why)) = (unneeded(&thing, &before), unneeded(&thing, &after)) {
                    found.push(Found { place: place.clone(), thing, mismatch: Mismatch::LeftOver, why });
                }
            }
            places.push(self.row_place(&place));
        }
        let sight = |f: &Found| Sight {
            place: self.row_place(&f.place),
            kind: f.thing.kind.clone(),
            name: f.thing.name.chars().take(200).collect(),
        };
        let noted = self
            .queue
            .note_orphans(places, found.iter().map(sight).collect::<BTreeSet<_>>().into_iter().collect())
            .await?;
        let mut views = Vec::new();
        for f in found {
            let Some(noted) = noted.get(&sight(&f)) else { continue };
            let id = format!("{}/{}/{}", f.place, f.thing.kind, f.thing.name);
            if noted.new {
                let message = format!("{id}: {}; see: vclctl orphans list", f.why);
                self.queue.post_event("orphan-found", None, None, &message);
            }
            views.push(OrphanView {
                id,
                place: f.place,
                thing: f.thing,
                mismatch: f.mismatch,
                why: f.why,
                since: noted.since,
                ignored: noted.ignored.clone(),
            });
        }
        views.sort_by(|a, b| a.id.cmp(&b.id));
        self.insight.see_orphans(views.iter().filter(|o| o.ignored.is_none()).count());
        Ok(Orphans { found: views, unseen })
    }

    /// Does what somebody wishes about an orphan, or says what that would be. It is looked at again first: what has
    /// come into use since it was listed is left alone.
    ///
    /// # Errors
    /// There is no such orphan any more, the wish means nothing for it, or it could not be done.
    pub async fn orphan(&self, asked: &OrphanRequest, requester: &str) -> Result<Plan, Refusal> {
        parse(&asked.id)?;
        let orphans = self.look_for_orphans().await?;
        let Some(orphan) = orphans.found.into_iter().find(|o| o.id == asked.id) else {
            let unseen = orphans.unseen.first().map(|u| format!(" ({u})")).unwrap_or_default();
            let message = format!("{} is no orphan now{unseen}; see: vclctl orphans list --all", asked.id);
            return Err(Refusal::new(RefusalKind::NotFound, message));
        };
        let steps = match &asked.wish {
            OrphanWish::Adopt => self.adopt(&orphan, asked.dry_run, requester).await?,
            OrphanWish::Delete => self.delete_orphan(&orphan, asked.dry_run, requester).await?,
            OrphanWish::Ignore { reason } => {
                if !asked.dry_run {
                    let sight = Sight {
                        place: self.row_place(&orphan.place),
                        kind: orphan.thing.kind.clone(),
                        name: orphan.thing.name.clone(),
                    };
                    self.queue.ignore_orphan(&sight, requester, reason).await?;
                    self.insight.look_again.notify_one();
                }
                vec![PlannedStep { name: "ignore".into(), what: format!("{}: {reason}", orphan.id) }]
            }
        };
        let verb = match asked.wish {
            OrphanWish::Adopt => "adopt",
            OrphanWish::Delete => "delete",
            OrphanWish::Ignore { .. } => "ignore",
        };
        if !asked.dry_run {
            let message = format!("{} by {requester}: {verb}", asked.id);
            self.queue.post_event("orphan", orphan.thing.job, orphan.thing.computer.as_ref(), &message);
        }
        Ok(Plan { title: format!("{verb} {}", asked.id), steps, usual: None, hindrance: None })
    }

    async fn adopt(
        &self,
        orphan: &OrphanView,
        dry_run: bool,
        requester: &str,
    ) -> Result<Vec<PlannedStep>, Refusal> {
        let refuse = |message: String| Err(Refusal::new(RefusalKind::Refused, message));
        let id = &orphan.id;
        if orphan.mismatch == Mismatch::Missing {
            return refuse(format!("{id} is not there, so nobody can have it back; {}", orphan.why));
        }
        let Some(name) = orphan.thing.computer.as_ref().filter(|_| orphan.thing.kind == "domain") else {
            let way = match orphan.thing.kind.as_str() {
                STAGING => "a job that is tried again begins a staging of its own (vclctl job retry)",
                PROCESS => "its job is over",
                "overlays" => "adopt the domain over them, if there is one",
                _ => "it belongs to no computer",
            };
            return refuse(format!("{id} cannot be adopted: {way}; delete it or ignore it"));
        };
        let row = self.queue.computer(name).await?;
        let (load, loaded) = self.queue.last_load(name).await?;
        // Its overlay lies on that revision: without it the machine is a ruin.
        self.library.get(&loaded.image)?;
        if row.loaded.is_some() || row.state != computer::State::Available {
            return refuse(format!(
                "{name} is {}; only an available computer can get a machine back",
                row.state
            ));
        }
        if !dry_run {
            self.queue.adopt_machine(name, &load, &loaded).await?;
            let message = format!(
                "{name} has its machine with {} back, as load {} made it, by {requester}",
                loaded.image, load.id
            );
            self.queue.post_event("adopted", Some(load.id), Some(name), &message);
        }
        let what = format!(
            "{name} is reserved for {} again and holds {}, as job {} loaded it",
            load.requester, loaded.image, load.id
        );
        Ok(vec![PlannedStep { name: "adopt machine".into(), what }])
    }

    async fn delete_orphan(
        &self,
        orphan: &OrphanView,
        dry_run: bool,
        requester: &str,
    ) -> Result<Vec<PlannedStep>, Refusal> {
        let thing = &orphan.thing;
        if orphan.mismatch == Mismatch::Missing {
            let message =
                format!("{} is not there, so there is nothing to delete; {}", orphan.id, orphan.why);
            return Err(Refusal::new(RefusalKind::Refused, message));
        }
        let size = thing.bytes.map(|b| format!(", {} are freed", vcl_types::ByteSize(b))).unwrap_or_default();
        let step = PlannedStep {
            name: format!("delete {}", thing.kind),
            what: format!("{}{size}: {}", thing.name, orphan.why),
        };
        if dry_run {
            return Ok(vec![step]);
        }
        tracing::info!(orphan = orphan.id, requester, "an orphan is deleted");
        match (orphan.place.as_str(), thing.kind.as_str()) {
            (LIBRARY, STAGING) if thing.name.starts_with(vcl_images::fetch::PREFIX) => {
                match self.library.fetching(&thing.name)? {
                    Some(fetching) => fetching.discard().await?,
                    None => {
                        let message = format!("{} is being fetched into", orphan.id);
                        return Err(Refusal::new(RefusalKind::Busy, message));
                    }
                }
            }
            (LIBRARY, STAGING) => {
                self.library.discard_staging(&thing.name).await?;
            }
            (NODE, PROCESS) => {
                let ids =
                    thing.name.split_once('-').and_then(|(g, s)| Some((g.parse().ok()?, s.parse().ok()?)));
                if let Some((group, start)) = ids {
                    vcl_job::end_group(group, start).await.map_err(|e| {
                        Refusal::new(RefusalKind::Internal, format!("ending process group {group}: {e}"))
                    })?;
                }
            }
            (place, _) => {
                let name = place.parse().map_err(|e| Refusal::new(RefusalKind::Invalid, format!("{e}")))?;
                let held = self.keep_from_jobs(orphan).await?;
                let removed = self.backend(&name)?.remove_thing(thing).await;
                if let Some(computer) = held {
                    self.queue.computer_by_hand(&computer, computer::Event::Release, None).await?;
                }
                removed?;
            }
        }
        Ok(vec![step])
    }

    /// Keeps jobs from a computer that is free while what lies there under its name is removed, and looks once more: a load
    /// may have begun since the last look, and the machine be its. A daemon that dies now leaves the computer in
    /// maintenance, with the reason.
    async fn keep_from_jobs(&self, orphan: &OrphanView) -> Result<Option<ComputerName>, Refusal> {
        let Some(name) = &orphan.thing.computer else { return Ok(None) };
        match self.queue.computer(name).await {
            Ok(row) if row.state == computer::State::Available => {}
            Ok(_) => return Ok(None),
            Err(e) if e.kind == vcl_queue::Kind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let why = format!("{} is deleted", orphan.id);
        self.queue.computer_by_hand(name, computer::Event::Maintain, Some(&why)).await?;
        let looked = self.look_for_orphans().await;
        match looked {
            Ok(orphans) if orphans.found.iter().any(|o| o.id == orphan.id) => Ok(Some(name.clone())),
            looked => {
                self.queue.computer_by_hand(name, computer::Event::Release, None).await?;
                looked?;
                let message = format!("{} is no orphan any more", orphan.id);
                Err(Refusal::new(RefusalKind::NotFound, message))
            }
        }
    }
}

async fn listed(backend: &dyn Provisioning) -> Result<Vec<Thing>, String> {
    backend.things().await.map_err(|e| e.chain())
}

fn taken(directory: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = directory.read_dir().into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).filter(std::fs::Metadata::is_file).map(|m| m.blocks() * 512).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(kind: &str, computer: Option<&str>, job: Option<i64>) -> Thing {
        let computer = computer.map(|c| c.parse().unwrap());
        Thing { kind: kind.into(), name: "x".into(), computer, job: job.map(JobId), bytes: None }
    }
    fn need(loaded: bool, held: bool) -> Need {
        Need { backend: "kvm".parse().unwrap(), loaded, held, state: computer::State::Available }
    }

    #[test]
    fn only_what_no_job_and_no_computer_needs_is_an_orphan() {
        let computers =
            [("loaded", need(true, false)), ("held", need(false, true)), ("idle", need(false, false))];
        let computers = computers.map(|(name, need)| (name.parse().unwrap(), need)).into();
        let ledger = Ledger { jobs: [JobId(5)].into(), computers };
        for needed in [
            thing("domain", Some("loaded"), None),
            thing("overlays", Some("held"), None),
            thing("staging", None, Some(5)),
            // A machine of a live job is the job's, whatever its computer is.
            thing("domain", Some("idle"), Some(5)),
        ] {
            assert_eq!(unneeded(&needed, &ledger), None, "{needed:?}");
        }
        for (orphan, why) in [
            (thing("domain", Some("idle"), None), "idle is available and holds nothing"),
            (thing("domain", Some("nosuch"), None), "there is no computer nosuch"),
            (thing("staging", None, Some(4)), "job 4 made it and is over"),
            (thing("staging", None, None), "it names no job and no computer that would need it"),
            // What a job that is over made for a loaded computer is not the computer's.
            (thing("domain", Some("loaded"), Some(4)), "job 4 made it and is over"),
        ] {
            assert_eq!(unneeded(&orphan, &ledger).as_deref(), Some(why));
        }
        let kvm = "kvm".parse().unwrap();
        let there = ["idle".parse().unwrap()].into();
        assert_eq!(missing(&kvm, &there, &ledger), ["loaded".parse::<ComputerName>().unwrap()]);
        assert_eq!(missing(&"esx".parse().unwrap(), &there, &ledger), []);
        assert_eq!(missing(&kvm, &["loaded".parse().unwrap()].into(), &ledger), []);
    }

    #[test]
    fn an_orphans_name_has_three_parts() {
        assert_eq!(parse("kvm/volume/a/b").unwrap(), ("kvm", "volume", "a/b"));
        for wrong in ["", "kvm", "kvm/domain", "kvm/domain/", "//x"] {
            assert!(parse(wrong).unwrap_err().message.contains("orphans list"), "{wrong}");
        }
    }
}
