//! A node that works, on a simulated world, whose clock we turn.

use crate::clock::Clock;
use crate::node::Node;
use crate::testing::{self, disk, import};
use crate::worker::{self, Stop};
use camino::Utf8PathBuf;
use chrono::{DateTime, TimeDelta, Utc};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;
use vcl_config::{BackendType, Known};
use vcl_provisioning::sim::{Moment, World};
use vcl_queue::{ComputerRow, NoticeRow, Queue};
use vcl_types::lending::{Purpose, ReservationRequest, ReservationView};
use vcl_types::state::reservation::State;
use vcl_types::{JobRequest, ReservationId};

/// When every scene begins: a Monday morning.
pub(super) const BEGINNING: &str = "2026-11-23T08:00:00Z";

/// A node at work, in a directory that may have been another's before.
pub(super) struct Built {
    pub(super) node: Arc<Node>,
    pub(super) world: Arc<World>,
    pub(super) stop: Stop,
    pub(super) working: JoinHandle<anyhow::Result<()>>,
    /// What the NAT hosts were told, where the configuration has any.
    host: Arc<Mutex<Vec<String>>>,
}

/// The configuration of a node with simulated computers.
pub(super) fn lines_of(root: &camino::Utf8Path, computers: usize, lines: &str) -> String {
    format!(
        "[node]\nlease = \"10m\"\nmax_jobs = 64\n[library]\npath = \"{root}/library\"\nkeep_free = \"1M\"\n\
         [backend.sim]\ntype = \"sim\"\nmax_jobs = 64\ndirectory = \"{root}/sim\"\n[network.n]\nbridge = \"br0\"\n\
         [computers]\n\"c[1-{computers}]\" = {{ backend = \"sim\", networks = [\"n\"] }}\n{lines}"
    )
}

/// Makes a node of what is in a directory, with computers `c1` to `cN`, at that time.
pub(super) async fn build(directory: &Path, computers: usize, lines: &str, at: DateTime<Utc>) -> Built {
    let root = Utf8PathBuf::try_from(directory.to_owned()).unwrap();
    std::fs::create_dir_all(root.join("library")).unwrap();
    let text = lines_of(&root, computers, lines);
    let config =
        vcl_config::parse(&text, "test.toml", &Known { backend_types: &[BackendType::SIM] }).unwrap();
    let queue = Queue::open(root.join("vcld.db")).await.unwrap();
    let (backend, world) = testing::sim(&root);
    let host: Arc<Mutex<Vec<String>>> = Arc::default();
    let gates = crate::nat::Gates::new(&config, &super::nat::host(&host)).unwrap();
    let node = Arc::new(Node {
        name: "node1".into(),
        since: at,
        clock: Clock::turned(at),
        gates,
        ..testing::bare(config, queue, ("sim", BackendType::SIM, backend))
    });
    let stop = Stop::default();
    let (member, _) = node.queue.join(&node.as_member()).await.unwrap();
    node.queue.apply_computers(&node.config.computers, false).await.unwrap();
    let working = tokio::spawn(worker::work(node.clone(), member, stop.clone()));
    Built { node, world, stop, working, host }
}

/// The guests of those who are not there say so.
pub(super) async fn nobody_there(node: &Node) {
    let mut rows = node.queue.reservations_open().await.unwrap();
    rows.retain(|row| row.state == State::Ready && row.purpose != Purpose::Seat);
    for row in rows {
        node.queue.seen(row.id, false, node.clock.now()).await.unwrap();
    }
}

pub(super) struct Scene {
    pub(super) node: Arc<Node>,
    pub(super) world: Arc<World>,
    stop: Stop,
    working: JoinHandle<anyhow::Result<()>>,
    broken: Arc<Mutex<Vec<String>>>,
    host: Arc<Mutex<Vec<String>>>,
    /// Whether no guest says who is there.
    pub(super) silent: AtomicBool,
    computers: usize,
    lines: String,
    directory: tempfile::TempDir,
}

impl Scene {
    /// Computers `c1` to `cN`, the image `gis` with one revision.
    pub(super) async fn new(computers: usize) -> Self {
        Self::with(computers, "[reservations]\nafter_use = \"nothing\"\n").await
    }

    /// The same with more lines of configuration.
    pub(super) async fn with(computers: usize, lines: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let built = build(directory.path(), computers, lines, BEGINNING.parse().unwrap()).await;
        let broken: Arc<Mutex<Vec<String>>> = Arc::default();
        let Built { node, world, stop, working, host } = built;
        let lines = lines.to_owned();
        let silent = AtomicBool::new(false);
        let scene = Self { node, world, stop, working, broken, host, silent, computers, lines, directory };
        let root = Utf8PathBuf::try_from(scene.directory.path().to_owned()).unwrap();
        let disk = disk(&root, 7);
        scene.job(import("gis", &disk)).await;
        scene
    }

    /// Queues a job and waits until all are over.
    pub(super) async fn job(&self, request: JobRequest) {
        self.node.submit(request, "admin").await.unwrap();
        self.quiet().await;
    }

    /// Waits until no job is left and the scheduler has nothing more to do at this moment.
    pub(super) async fn quiet(&self) {
        let waiting = async {
            let mut changes = self.node.queue.submitted();
            loop {
                changes.borrow_and_update();
                self.node.look_at_reservations().await.unwrap();
                let jobs = self.node.jobs(None, 1000).await.unwrap();
                if jobs.iter().all(|job| job.state.is_final()) {
                    // What ended since the look may have something to be done about.
                    let before = jobs.len();
                    self.node.look_at_reservations().await.unwrap();
                    if self.node.jobs(None, 1000).await.unwrap().len() == before {
                        return;
                    }
                    continue;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("the jobs end");
    }

    /// Turns the clock, stopping wherever something is due.
    pub(super) async fn turn(&self, seconds: i64) {
        let end = self.node.clock.now() + TimeDelta::seconds(seconds);
        loop {
            if !self.silent.load(Ordering::SeqCst) {
                nobody_there(&self.node).await;
            }
            self.quiet().await;
            let next = self.node.look_at_reservations().await.unwrap();
            let to = next.filter(|at| *at < end).unwrap_or(end);
            if to <= self.node.clock.now() {
                break;
            }
            self.node.clock.turn(to);
        }
        self.quiet().await;
    }

    /// The plainest wish: four hours of `gis`, now.
    pub(super) fn wish(&self) -> ReservationRequest {
        serde_json::from_value(serde_json::json!({ "image": "gis" })).unwrap()
    }

    /// Its user comes: asks how to connect, and is seen by the guest.
    pub(super) async fn comes(&self, id: ReservationId) {
        self.node.connect(id, None).await.unwrap();
        self.quiet().await;
        self.node.queue.seen(id, true, self.node.clock.now()).await.unwrap();
    }

    /// Asks for a reservation and waits until what can be done for it is done.
    pub(super) async fn reserve(&self, wish: ReservationRequest, who: &str) -> ReservationId {
        let grabbed = self.node.reserve(wish, who).await.unwrap();
        self.quiet().await;
        grabbed.reservation.unwrap().id
    }
    /// What the NAT hosts were told so far.
    pub(super) fn told_host(&self) -> Vec<String> {
        self.host.lock().unwrap().clone()
    }
    /// What is to be told to people and was not told here yet.
    pub(super) async fn told(&self) -> Vec<NoticeRow> {
        self.node.queue.take_notices("test", TimeDelta::hours(1), 100).await.unwrap()
    }
    pub(super) async fn reservation(&self, id: ReservationId) -> ReservationView {
        self.node.reservation(id).await.unwrap()
    }
    pub(super) async fn computer(&self, name: &str) -> ComputerRow {
        self.node.queue.computer(&name.parse().unwrap()).await.unwrap()
    }
    /// The next load of this computer fails for good. Broken once more before that, it is the same load: what takes it back is not
    /// to fail too, for then its job is stuck, and waits for a person.
    pub(super) fn break_next_load(&self, computer: &str) {
        let machine = format!("vcl-{computer}");
        {
            let mut broken = self.broken.lock().unwrap();
            if !broken.contains(&machine) {
                broken.push(machine);
            }
        }
        let broken = self.broken.clone();
        self.world.on_effect(Arc::new(move |moment: Moment, machine: &str, _: &_| {
            let mut broken = broken.lock().unwrap();
            let at = broken.iter().position(|name| name == machine).filter(|_| moment == Moment::Before);
            let hit = at.map(|at| broken.remove(at)).is_some();
            Box::pin(async move {
                if hit {
                    Err(vcl_job::Error::new(vcl_job::Kind::Fatal, "broken by the test"))
                } else {
                    Ok(())
                }
            })
        }));
    }
    /// Stops the daemon as a signal does, with jobs at whatever step they are, and starts another at the same moment.
    pub(super) async fn restart(&mut self) {
        let at = self.node.clock.now();
        self.stop.drain.cancel();
        self.stop.now.cancel();
        (&mut self.working).await.unwrap().unwrap();
        self.node.queue.close().await;
        let Built { node, world, stop, working, host } =
            build(self.directory.path(), self.computers, &self.lines, at).await;
        (self.node, self.world, self.stop, self.working) = (node, world, stop, working);
        self.host = host;
    }
    /// Stops working.
    pub(super) async fn close(self) {
        self.stop.drain.cancel();
        self.working.await.unwrap().unwrap();
        self.node.queue.close().await;
    }
}
