//! A node in a directory of its own, for tests: a real queue and a real library, a mocked backend.

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

pub(crate) fn config(path: &Utf8Path) -> Config {
    std::fs::create_dir_all(path.join("library")).unwrap();
    let text = format!(
        "[library]\npath = \"{path}/library\"\nkeep_free = \"1M\"\n[backend.kvm]\ntype = \"libvirt\"\n\
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
    let (mut os, mut remotes) = (MockOs::new(), MockRemotes::new());
    os.expect_undo().returning(|_, _| Ok(()));
    remotes.expect_forget().returning(|_| ());
    let node = Node {
        gates: <_>::default(),
        guacamole: None,
        name: name.into(),
        config_path: "/nonexistent/vcld.toml".into(),
        queue,
        library,
        backends: [("kvm".parse().unwrap(), backend)].into(),
        known: vec![BackendType::LIBVIRT],
        remotes: Arc::new(remotes),
        public_key: String::new(),
        linux: Arc::new(os),
        windows: Node::windows(&config).unwrap(),
        exchange,
        inbox: None,
        since: chrono::Utc::now(),
        clock: crate::clock::Clock::default(),
        insight: crate::reconcile::Insight::default(),
        people: crate::people::People::default(),
        config,
    };
    node.insight.see_recovered();
    node.insight.see_backend(&"kvm".parse().unwrap(), true);
    Arc::new(node)
}

/// Queues jobs and works until all of them have ended.
pub(crate) async fn run_all(node: &Arc<Node>, requests: Vec<JobRequest>) -> Vec<JobView> {
    let mut ids: Vec<JobId> = Vec::new();
    for request in requests {
        ids.push(node.submit(request, "tester").await.unwrap().job);
    }
    let stop = Stop::default();
    let mut changes = node.queue.submitted();
    let (member, _) = node.queue.join(&node.as_member()).await.unwrap();
    let working = tokio::spawn(worker::work(node.clone(), member, stop.clone()));
    let mut ended = Vec::new();
    for id in ids {
        loop {
            changes.borrow_and_update();
            let job = node.job(id).await.unwrap();
            if job.state.is_final() || job.state == job::State::Stuck {
                ended.push(job);
                break;
            }
            changes.changed().await.unwrap();
        }
    }
    stop.drain.cancel();
    working.await.unwrap().unwrap();
    ended
}

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
