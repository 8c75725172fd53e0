//! A node on a simulated world, in a directory of its own: the scene that a job of the daemon's is played on.
//!
//! The queue is SQL in a file, the library is a directory, the machines are the sim backend's; nothing is mocked but the
//! connections to guests, of which sim has none. A directory is prepared once for a kind of job and copied for each
//! history. Effects are the simulated machines' and the database's; those of the library lie between the journal's
//! points.

use crate::exchange::Exchange;
use crate::flow;
use crate::node::Node;
use crate::testing;
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vcl_config::{BackendType, Known};
use vcl_images::{StagedDisk, seal};
use vcl_job::faults::{Ended, FaultyJournal, Life, Point, Points, Scene};
use vcl_job::{Control, Cx, Journal, Kind, MemoryJournal, Outcome, Record, Silent};
use vcl_provisioning::sim::{Moment, World};
use vcl_queue::testing::Moment as Change;
use vcl_queue::{Claim, ClaimLimits, Membership, Queue};
use vcl_types::state::job::{Event, State};
use vcl_types::{JobId, JobRequest, Manifest};

/// A node, its world and where both lie.
pub(super) struct Lab {
    pub(super) root: Utf8PathBuf,
    pub(super) node: Arc<Node>,
    pub(super) world: Arc<World>,
}

impl Lab {
    /// What lies in that directory, which is made if it is not there, on a node that has others to ask or has none.
    pub(super) async fn open(root: &Utf8Path, exchange: Option<Arc<Exchange>>) -> Self {
        for name in ["library", "out"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        // Nobody renews the lease here: what befalls it is the matrix's to say, and not a busy machine's.
        let text = format!(
            "[node]\nlease = \"10m\"\n[library]\npath = \"{root}/library\"\nkeep_free = \"1M\"\n[backend.sim]\ntype = \"sim\"\n\
             directory = \"{root}/sim\"\n[network.n]\nbridge = \"br0\"\n[computers]\n\
             \"a\" = {{ backend = \"sim\", networks = [\"n\"] }}\n"
        );
        let config =
            vcl_config::parse(&text, "test.toml", &Known { backend_types: &[BackendType::SIM] }).unwrap();
        let queue = Queue::open(root.join("vcld.db")).await.unwrap();
        queue.apply_computers(&config.computers, false).await.unwrap();
        let (backend, world) = testing::sim(root);
        let node = Node {
            name: "node1".into(),
            exchange,
            ..testing::bare(config, queue, ("sim", BackendType::SIM, backend))
        };
        Self { root: root.to_owned(), node: Arc::new(node), world }
    }

    /// The same in another directory.
    pub(super) async fn copy_to(&self, to: &Utf8Path) -> Self {
        copy(&self.root, to);
        Self::open(to, self.node.exchange.clone()).await
    }

    /// Runs a job to its end, undisturbed.
    pub(super) async fn done(&self, request: JobRequest) {
        let id = self.node.submit(request, "tester").await.unwrap().job;
        let (_member, claim) = self.claim().await;
        assert_eq!(claim.id(), id);
        let outcome = flow::run(self.node.clone(), claim.clone(), Arc::new(Silent), Control::default()).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        self.node.queue.finish(&claim, Event::Done, None, None).await.unwrap();
    }

    /// Joins as the node's next life and claims the one job there is.
    async fn claim(&self) -> (Membership, Claim) {
        let (member, _) = self.node.queue.join(&self.node.as_member()).await.unwrap();
        let mut claims = member.claim_up_to(1, &ClaimLimits::default()).await.unwrap();
        (member, claims.pop().unwrap())
    }

    /// Everything there is, without what differs by chance.
    async fn all(&self) -> Value {
        let (node, queue) = (&self.node, &self.node.queue);
        let mut machines = self.world.snapshot().unwrap();
        machines.values_mut().for_each(|machine| self.plain(machine));
        let computers = queue.computers().await.unwrap();
        let computers = computers.into_iter().map(|row| {
            let loaded = row.loaded.map(|l| format!("{} at {}", l.image, l.endpoint.address));
            json!([row.computer.name, row.state.as_str(), row.reason, loaded, row.reservation.is_some()])
        });
        let computers: Vec<_> = computers.collect();
        let open = queue.reservations_of(None, true, None, 100).await.unwrap();
        let open = open.into_iter().map(|r| json!([r.owner, r.computer, r.image, r.state.to_string()]));
        let open: Vec<_> = open.collect();
        let images = queue.images().await.unwrap();
        let rows = images.into_iter().flat_map(|image| image.revisions).map(|row| {
            let lies_on = row.manifest.lies_on().map(ToString::to_string);
            json!([row.manifest.image_ref(), row.size, lies_on, digests(&row.manifest), row.used_by])
        });
        let rows: Vec<_> = rows.collect();
        let held = node.library.revisions().unwrap();
        let mut files = Vec::new();
        for revision in &held.revisions {
            let manifest = &revision.manifest;
            for disk in &manifest.disks {
                // The bytes, and not only what is said of them.
                let digest = crate::backup::digest(Utf8Path::new(&revision.path(&disk.file))).await.unwrap();
                assert_eq!(digest, disk.file_digest, "{}", revision.path(&disk.file));
            }
            let lies_on = manifest.lies_on().map(ToString::to_string);
            files.push(json!([manifest.image_ref(), lies_on, digests(manifest)]));
        }
        let holders = queue.holdings().await.unwrap();
        let holders: Vec<_> = holders.into_iter().map(|h| json!([h.image, h.node])).collect();
        let trash = node.library.trash().unwrap().into_iter().map(|t| {
            let name = t.name.map(|name| format!("{} {:?}", name.image, name.why));
            json!([name, t.manifest.map(|m| digests(&m))])
        });
        let trash: Vec<_> = trash.collect();
        json!({
            "machines": machines, "computers": computers, "reservations": open, "rows": rows, "files": files,
            "holders": holders, "trash": trash, "out": self.out(),
        })
    }

    /// What was written outside of the library: names, and sizes where they do not differ by chance.
    fn out(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.root.join("out"), &mut |path, size| {
            let name = path.strip_prefix(&self.root).unwrap().as_str();
            // A snapshot is named after the time; what is copied into a backup stays for the next one.
            match name.split_once("snapshots/") {
                Some((_, rest)) => {
                    let (_, file) = rest.split_once('/').unwrap_or(("", rest));
                    found.push(format!("a snapshot's {file}"));
                }
                None if name.contains("/backup/") => {}
                None => found.push(format!("{name}: {size}")),
            }
        });
        found.sort();
        found
    }

    fn plain(&self, value: &mut Value) {
        match value {
            // Overlays of before lie where the directory was prepared.
            Value::String(text) => {
                if let Some(at) = text.find("/library/") {
                    text.replace_range(..at, "");
                }
            }
            Value::Array(all) => all.iter_mut().for_each(|v| self.plain(v)),
            Value::Object(all) => all.values_mut().for_each(|v| self.plain(v)),
            _ => {}
        }
    }
}

fn digests(manifest: &Manifest) -> Vec<String> {
    manifest.disks.iter().map(|disk| disk.content_digest.to_string()).collect()
}

/// One job on such a node.
pub(super) struct Played {
    lab: Lab,
    job: JobId,
    points: Points,
    claim: Mutex<Option<Claim>>,
    restores: bool,
}

impl Played {
    /// Queues the job and has the node tell the kit of all that it does.
    pub(super) async fn new(lab: Lab, request: JobRequest, points: Points, restores: bool) -> Self {
        let job = lab.node.submit(request, "tester").await.unwrap().job;
        let told = points.clone();
        lab.world.on_effect(Arc::new(move |moment, machine, effect| {
            let (points, on, what) = (told.clone(), machine.to_owned(), word(effect));
            Box::pin(async move {
                points
                    .at(match moment {
                        Moment::Before => Point::BeforeEffect { on, what },
                        Moment::After => Point::AfterEffect { on, what },
                    })
                    .await
            })
        }));
        let told = points.clone();
        lab.node.queue.on_change(Arc::new(move |moment| {
            let (points, on, what) = (told.clone(), "database".to_owned(), "change".to_owned());
            Box::pin(async move {
                let point = match moment {
                    Change::Before => Point::BeforeEffect { on, what },
                    Change::After => Point::AfterEffect { on, what },
                };
                points.at(point).await.map_err(|e| {
                    let kind = match e.kind {
                        Kind::Transient => vcl_queue::Kind::Unavailable,
                        _ => vcl_queue::Kind::Corrupt,
                    };
                    vcl_queue::Error::new(kind, e.failure().message)
                })
            })
        }));
        Self { lab, job, points, claim: Mutex::default(), restores }
    }

    fn claimed(&self) -> Claim {
        self.claim.lock().unwrap().clone().unwrap()
    }
}

fn word(effect: &vcl_provisioning::sim::Effect) -> String {
    let value = serde_json::to_value(effect).unwrap();
    value["effect"].as_str().unwrap_or_default().to_owned()
}

#[async_trait::async_trait]
impl Scene for Played {
    async fn live(&self, life: &Life) -> Ended {
        let (lab, queue) = (&self.lab, &self.lab.node.queue);
        // What an operator does when an undo failed.
        if queue.job(self.job).await.unwrap().state == State::Stuck {
            queue.retry(self.job).await.unwrap();
        }
        let (_member, claim) = lab.claim().await;
        *self.claim.lock().unwrap() = Some(claim.clone());
        let journal: Arc<dyn Journal> =
            Arc::new(FaultyJournal::new(queue.journal(&claim), self.points.clone()));
        let control = life.control.clone();
        let outcome = flow::run_on(journal, lab.node.clone(), claim.clone(), Arc::new(Silent), control).await;
        let event = match &outcome {
            Outcome::Done(_) => Event::Done,
            Outcome::RolledBack(f) if f.kind == Kind::Cancelled => Event::RolledBack,
            Outcome::RolledBack(_) => Event::Fail,
            Outcome::Stuck(_) => Event::Stick,
            Outcome::Interrupted => Event::Lost,
            Outcome::Lost(_) => Event::Lost,
        };
        let ended = match outcome {
            // A snapshot is named after the time.
            Outcome::Done(Some(made)) if made.contains("-job") => Ended::Done("a backup".into()),
            Outcome::Done(Some(made)) => Ended::Done(made.replace(lab.root.as_str(), "")),
            other => other.into(),
        };
        match queue.finish(&claim, event, None, None).await {
            Ok(_) => ended,
            Err(e) if e.kind == vcl_queue::Kind::LeaseLost => Ended::Lost(e.context),
            Err(e) => panic!("{e}"),
        }
    }

    async fn world(&self) -> Value {
        self.lab.all().await
    }

    async fn left(&self, _: &Ended) -> Vec<String> {
        let lab = &self.lab;
        let mut left: Vec<String> = lab
            .node
            .library
            .leftovers()
            .unwrap()
            .into_iter()
            .map(|found| format!("staging {}", found.name))
            .collect();
        left.extend(lab.node.library.revisions().unwrap().findings.into_iter().map(|f| format!("{f:?}")));
        left.extend(
            lab.world.differing().unwrap().into_iter().map(|m| format!("{m} is not what its log says")),
        );
        walk(&lab.root.join("sim/copies"), &mut |path, _| left.push(path.to_string()));
        let computer = &lab.node.queue.computers().await.unwrap()[0];
        if let Some(job) = computer.job {
            left.push(format!("job {job} still has {}", computer.computer.name));
        }
        if computer.loaded.is_none() {
            let things = lab.node.backends[&"sim".parse().unwrap()].things().await.unwrap();
            left.extend(things.into_iter().map(|thing| format!("{} {}", thing.kind, thing.name)));
        }
        // What no real machine would do. A process that lost its lease may try, and is refused.
        let impossible = lab.world.refusals().unwrap();
        let impossible = impossible.into_iter().filter(|r| !r.why.contains("comes back after"));
        left.extend(impossible.map(|r| format!("{} refused {}: {}", r.machine, word(&r.line.effect), r.why)));
        left
    }

    async fn records(&self) -> vcl_job::Result<Vec<Record>> {
        self.lab.node.queue.journal(&self.claimed()).read().await
    }

    /// A capture that cannot bring its computer back takes it out of use and says why.
    fn set_aside(&self, world: &Value) -> bool {
        let computers = world["computers"].as_array().into_iter().flatten();
        computers.into_iter().any(|computer| computer[1] == "maintenance" && computer[2].is_string())
    }

    fn restores(&self) -> bool {
        self.restores
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.lab.root);
    }
}

/// Copies a directory with all in it.
fn copy(from: &Utf8Path, to: &Utf8Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir_utf8().unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// All files below a directory, with their sizes.
fn walk(directory: &Utf8Path, found: &mut dyn FnMut(&Utf8Path, u64)) {
    let Ok(entries) = directory.read_dir_utf8() else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        if about.is_dir() { walk(entry.path(), found) } else { found(entry.path(), about.len()) }
    }
}

/// Publishes the next revision of an image as a delta over its newest, as backends do that capture what changed.
pub(super) async fn publish_delta(lab: &Lab, image: &str) {
    let (library, queue) = (&lab.node.library, &lab.node.queue);
    let old = library.newest(&image.parse().unwrap()).unwrap().manifest;
    let name = "job999-token1";
    let staging = library.staging(name).unwrap().over(library.base(&old.image_ref()).unwrap());
    let parent = format!("../../{}/{}/{}", old.image, old.revision, old.disks[0].file);
    let disk = staging.disk(0).to_str().unwrap().to_owned();
    for (program, arguments) in [
        ("qemu-img", vec!["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &parent, &disk]),
        ("qemu-io", vec!["-f", "qcow2", "-c", "write -P 5 64k 4k", &disk]),
    ] {
        let output = std::process::Command::new(program).args(&arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let cx = Cx::detached(Arc::new(MemoryJournal::default()), <_>::default(), Duration::from_secs(60));
    let disks = seal(&cx, &staging, &[StagedDisk::qcow2(0)]).await.unwrap();
    let new = Manifest {
        version: Manifest::version_for(&disks),
        revision: old.revision + 1,
        parent: Some(old.image_ref()),
        disks,
        job: Some(JobId(999)),
        ..old
    };
    assert!(new.lies_on().is_some());
    library.publish(&cx, name, &new).await.unwrap();
    queue.rebuild_from(std::slice::from_ref(&new)).await.unwrap();
    queue.hold(&lab.node.name, &new.image_ref()).await.unwrap();
}
