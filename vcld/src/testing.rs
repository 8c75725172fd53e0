//! A node in a directory of its own, for tests: a real queue and a real library, a mocked backend or a simulated one.

use crate::exchange::Exchange;
use crate::node::Node;
use crate::worker::{self, Stop};
use camino::{Utf8Path, Utf8PathBuf};
use std::sync::Arc;
use vcl_config::{BackendType, Config, Known};
use vcl_images::Library;
use vcl_os::mock::{MockOs, MockRemotes};
use vcl_provisioning::{MockProvisioning, Provisioning};
use vcl_queue::Queue;
use vcl_types::api::JobView;
use vcl_types::state::job;
use vcl_types::{ImageRef, JobId, JobRequest};
#[cfg(feature = "sim")]
use {
    std::time::Duration,
    vcl_os::EndState,
    vcl_provisioning::sim::{Chance, Failures, Settings, Sim, World},
};

/// What is in a node of that configuration and nothing else: each scene says what differs by a struct update.
pub(crate) fn bare(
    config: Config,
    queue: Queue,
    (name, kind, backend): (&str, BackendType, Arc<dyn Provisioning>),
) -> Node {
    let mut remotes = MockRemotes::new();
    remotes.expect_forget().returning(|_| ());
    Node {
        name: "test".into(),
        config_path: config.library.path.with_file_name("vcld.toml"),
        queue,
        library: Library::open(&config.library.path).unwrap(),
        backends: [(name.parse().unwrap(), backend)].into(),
        known: vec![kind],
        remotes: Arc::new(remotes),
        gates: <_>::default(),
        guacamole: None,
        public_key: String::new(),
        linux: Node::linux(),
        windows: Node::windows(&config).unwrap(),
        exchange: None,
        inbox: None,
        since: chrono::Utc::now(),
        clock: crate::clock::Clock::default(),
        insight: crate::reconcile::Insight::default(),
        people: crate::people::People::default(),
        config,
    }
}

/// The backend `sim` of a node in that directory, which takes no time and does not fail, and its world.
#[cfg(feature = "sim")]
pub(crate) fn sim(root: &Utf8Path) -> (Arc<dyn Provisioning>, Arc<World>) {
    let chance = Chance {
        seed: 0,
        delay_min: Duration::ZERO,
        delay_max: Duration::ZERO,
        failure_rate: 0.0,
        failures: Failures::Transient,
    };
    let sim = Sim::new(Settings {
        name: "sim".parse().unwrap(),
        directory: root.join("sim"),
        shared: false,
        chance,
        end: EndState::Off,
    })
    .unwrap();
    let world = sim.world().clone();
    (Arc::new(sim), world)
}

/// One libvirt computer, `a`.
pub(crate) fn config(path: &Utf8Path) -> Config {
    config_with(path, "")
}

/// The same, with more lines in its `[library]`.
pub(crate) fn config_with(path: &Utf8Path, lines: &str) -> Config {
    std::fs::create_dir_all(path.join("library")).unwrap();
    let text = format!(
        "[library]\npath = \"{path}/library\"\nkeep_free = \"1M\"\n{lines}[backend.kvm]\ntype = \"libvirt\"\n\
         [network.n]\nbridge = \"br0\"\n\
         [computers]\n\"a\" = {{ backend = \"kvm\", networks = [\"n\"] }}\n"
    );
    vcl_config::parse(&text, "test.toml", &Known { backend_types: &[BackendType::LIBVIRT] }).unwrap()
}

/// A node called `name` whose library and database lie in `path`.
pub(crate) async fn node(
    path: &Utf8Path,
    name: &str,
    backend: MockProvisioning,
    exchange: Option<Arc<Exchange>>,
) -> Arc<Node> {
    let config = config(path);
    let queue = Queue::open(path.join("vcld.db")).await.unwrap();
    let library = Library::open(&config.library.path).unwrap();
    node_of(name, config, queue, library, backend, exchange).await
}

/// A node called `name` on this database and library.
pub(crate) async fn node_of(
    name: &str,
    config: Config,
    queue: Queue,
    library: Library,
    backend: MockProvisioning,
    exchange: Option<Arc<Exchange>>,
) -> Arc<Node> {
    queue.apply_computers(&config.computers, false).await.unwrap();
    let backend: Arc<dyn Provisioning> = Arc::new(backend);
    let mut os = MockOs::new();
    os.expect_undo().returning(|_, _| Ok(()));
    let kvm = ("kvm", BackendType::LIBVIRT, backend);
    let node = Node { name: name.into(), library, linux: Arc::new(os), exchange, ..bare(config, queue, kvm) };
    node.insight.see_recovered();
    node.insight.see_backend(&"kvm".parse().unwrap(), true);
    Arc::new(node)
}

/// Works until that is so.
async fn work_until(node: &Arc<Node>, is_so: impl AsyncFn() -> bool) {
    let stop = Stop::default();
    let mut changes = node.queue.submitted();
    let (member, _) = node.queue.join(&node.as_member()).await.unwrap();
    let working = tokio::spawn(worker::work(node.clone(), member, stop.clone()));
    loop {
        changes.borrow_and_update();
        if is_so().await {
            break;
        }
        changes.changed().await.unwrap();
    }
    stop.drain.cancel();
    working.await.unwrap().unwrap();
}

/// Queues jobs and works until all of them have ended.
pub(crate) async fn run_all(node: &Arc<Node>, requests: Vec<JobRequest>) -> Vec<JobView> {
    let mut ids: Vec<JobId> = Vec::new();
    for request in requests {
        ids.push(node.submit(request, "tester").await.unwrap().job);
    }
    let ended = async || {
        for id in &ids {
            let job = node.job(*id).await.unwrap();
            if !job.state.is_final() && job.state != job::State::Stuck {
                return false;
            }
        }
        true
    };
    work_until(node, ended).await;
    let mut jobs = Vec::new();
    for id in ids {
        jobs.push(node.job(id).await.unwrap());
    }
    jobs
}

/// Works until no job is left.
pub(crate) async fn drain(node: &Arc<Node>) {
    let none_is_left = async || node.jobs(None, 1000).await.unwrap().iter().all(|job| job.state.is_final());
    work_until(node, none_is_left).await;
}

/// Queues a job and works until it has ended.
pub(crate) async fn run(node: &Arc<Node>, request: JobRequest) -> JobView {
    run_all(node, vec![request]).await.remove(0)
}

/// A disk file with bytes that follow from `seed`.
pub(crate) fn disk(path: &Utf8Path, seed: u64) -> Utf8PathBuf {
    let file = path.join(format!("disk{seed}.raw"));
    std::fs::write(&file, crate::exchange::tests::world::noise(2 << 20, seed)).unwrap();
    file
}

pub(crate) fn import(image: &str, disk: &Utf8Path) -> JobRequest {
    let image = image.parse().unwrap();
    JobRequest::Import {
        image,
        path: disk.to_string(),
        boot: None,
        hardware: None,
        os: vcl_types::OsName::Linux,
        note: None,
    }
}

pub(crate) fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}
