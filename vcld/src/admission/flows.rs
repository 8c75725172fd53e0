//! Jobs on a library whose disk is small.

use crate::node::Node;
use crate::testing::{self, disk, image, import};
use crate::worker::{self, Stop};
use camino::Utf8PathBuf;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use vcl_images::{Directory, Library, Progress, Space, Store};
use vcl_provisioning::MockProvisioning;
use vcl_queue::Queue;
use vcl_types::api::JobView;
use vcl_types::state::job::State;
use vcl_types::{JobId, JobRequest};

/// An ordinary directory on a disk of so many bytes.
#[derive(Debug)]
struct Small {
    root: Utf8PathBuf,
    total: u64,
}

impl Store for Small {
    fn clone_file(
        &self,
        from: &Path,
        to: &Path,
        stop: &CancellationToken,
        progress: &Progress,
    ) -> vcl_images::Result<()> {
        Directory.clone_file(from, to, stop, progress)
    }
    fn publish(&self, from: &Path, to: &Path) -> vcl_images::Result<()> {
        Directory.publish(from, to)
    }
    fn flush_names(&self, directory: &Path) -> vcl_images::Result<()> {
        Directory.flush_names(directory)
    }
    fn size(&self, path: &Path) -> vcl_images::Result<u64> {
        Directory.size(path)
    }
    fn space(&self, _: &Path) -> vcl_images::Result<Space> {
        let free = self.total.saturating_sub(Directory.size(self.root.as_std_path())?);
        Ok(Space { free, total: self.total, reserved: 0 })
    }
    fn remove(&self, path: &Path) -> vcl_images::Result<bool> {
        Directory.remove(path)
    }
}

async fn until(node: &Node, id: JobId, wanted: impl Fn(&JobView) -> bool) -> JobView {
    let mut changes = node.queue.submitted();
    let looking = async {
        loop {
            changes.borrow_and_update();
            let job = node.job(id).await.unwrap();
            if wanted(&job) {
                return job;
            }
            changes.changed().await.unwrap();
        }
    };
    // Far below the half minute after which it is looked anyway: what makes room wakes who waits.
    tokio::time::timeout(std::time::Duration::from_secs(25), looking).await.unwrap()
}

/// Room for one import at a time, and for two images.
#[tokio::test]
async fn a_job_that_does_not_fit_waits_and_begins_when_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
    let config = testing::config(&path.join("one"));
    let root = config.library.path.clone();
    let small = Small { root: root.clone(), total: 6_800_000 };
    let library = Library::on(&root, Arc::new(small)).unwrap();
    let queue = Queue::open(path.join("one/vcld.db")).await.unwrap();
    let node = testing::node_of("one", config, queue, library, MockProvisioning::default(), None).await;
    let ask = async |request: JobRequest| node.submit(request, "tester").await.unwrap().job;
    let first = ask(import("a", &disk(&path, 1))).await;
    let second = ask(import("b", &disk(&path, 2))).await;
    let stop = Stop::default();
    let (member, _) = node.queue.join(&node.as_member()).await.unwrap();
    let working = tokio::spawn(worker::work(node.clone(), member, stop.clone()));
    let watching = tokio::spawn({
        let node = node.clone();
        async move { super::watch(&node).await }
    });
    for id in [first, second] {
        let job = until(&node, id, |job| job.state.is_final()).await;
        assert_eq!(job.state, State::Done, "{:?}", job.reason);
    }
    let events = node.queue.last_events(50).await.unwrap();
    let waited = events.iter().find(|e| e.kind == "job-waiting").unwrap();
    assert!(waited.message.contains("promised to other jobs"), "{}", waited.message);

    // The disk is full now. What makes room is let in, and the one that waits begins.
    let third = ask(import("c", &disk(&path, 3))).await;
    let job = until(&node, third, |job| job.state == State::Waiting).await;
    assert!(job.steps.is_empty());
    let why = node.why_job(third).await.unwrap();
    for word in ["are needed in the library of node one", "make room: vclctl image prune"] {
        assert!(why.sentence.contains(word), "{}", why.sentence);
    }
    assert!(why.ways.iter().any(|way| way.contains("job cancel")), "{:?}", why.ways);
    assert_eq!(node.wake_who_fits().await.unwrap(), 0);
    ask(JobRequest::DeleteImage { image: image("a@1"), now: true }).await;
    let job = until(&node, third, |job| job.state.is_final()).await;
    assert_eq!(job.state, State::Done, "{:?}", job.reason);
    assert_eq!(node.library.space().unwrap().reserved, 0, "everything is given back");

    // One that waits may be called off, and has done nothing.
    let fourth = ask(import("d", &disk(&path, 4))).await;
    until(&node, fourth, |job| job.state == State::Waiting).await;
    node.cancel(fourth, "tester").await.unwrap();
    assert_eq!(until(&node, fourth, |job| job.state.is_final()).await.state, State::Cancelled);
    assert!(node.library.leftovers().unwrap().is_empty());
    stop.drain.cancel();
    working.await.unwrap().unwrap();
    watching.abort();
}
