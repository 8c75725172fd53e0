//! Who calls whom: the daemon's flows over a mocked backend, with an OS module that must not be called.

mod fetch;
mod keep;

use crate::node::Node;
use crate::testing;
use camino::Utf8PathBuf;
use std::process::Command;
use std::sync::Arc;
use vcl_config::BackendType;
use vcl_job::{Error, Kind};
use vcl_os::mock::MockOs;
use vcl_provisioning::{Captured, CapturedDisk, MockProvisioning};
use vcl_queue::Queue;
use vcl_types::api::{JobView, PowerState};
use vcl_types::state::{computer, job};
use vcl_types::{After, CaptureInto, Endpoint, Hardware, HostKey, HostKeys, ImageRef, JobRequest, KeySource};

fn endpoint() -> Endpoint {
    let key = HostKey::parse("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7000000").unwrap();
    let host_keys = HostKeys { keys: vec![key], source: KeySource::Console };
    Endpoint { address: [127, 0, 0, 1].into(), port: 22, user: "root".into(), host_keys }
}

struct Case {
    node: Arc<Node>,
    _directory: tempfile::TempDir,
}

impl Case {
    /// A node with one computer, one revision and these.
    async fn new(backend: MockProvisioning, os: MockOs) -> Self {
        Self::with(backend, os, "").await
    }

    /// The same, with more lines in its configuration's `[library]`.
    async fn with(backend: MockProvisioning, os: MockOs, library: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        let config = testing::config_with(&path, library);
        let queue = Queue::open(path.join("vcld.db")).await.unwrap();
        queue.apply_computers(&config.computers, false).await.unwrap();
        let kvm = ("kvm", BackendType::LIBVIRT, Arc::new(backend) as _);
        let node = Node { linux: Arc::new(os), ..testing::bare(config, queue, kvm) };
        let disk = path.join("disk.raw");
        std::fs::write(&disk, vec![7; 1 << 20]).unwrap();
        let case = Self { node: Arc::new(node), _directory: directory };
        let import = JobRequest::Import {
            image: "debian".parse().unwrap(),
            path: disk.into(),
            boot: None,
            hardware: None,
            os: vcl_types::OsName::Linux,
            note: None,
        };
        assert_eq!(case.run(import).await.state, job::State::Done);
        case
    }

    /// Queues a job and works until it has ended.
    async fn run(&self, request: JobRequest) -> JobView {
        testing::run(&self.node, request).await
    }

    /// Works until no job is left.
    async fn drain(&self) {
        testing::drain(&self.node).await;
    }

    async fn load(&self) {
        let request = JobRequest::Load { computer: "a".parse().unwrap(), image: "debian".parse().unwrap() };
        let job = self.run(request).await;
        assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
    }

    async fn capture(&self, after: After) -> JobView {
        let computer = "a".parse().unwrap();
        self.run(JobRequest::Capture {
            computer,
            into: CaptureInto::Next,
            after,
            power_on: false,
            note: None,
            whole: false,
        })
        .await
    }
}

/// An OS module without any expectation: a call of it fails the test. (Undo is the executor's, not a flow's.)
fn untouched_os() -> MockOs {
    let mut os = MockOs::new();
    os.expect_undo().returning(|_, _| Ok(()));
    os
}

fn loading(backend: &mut MockProvisioning) {
    backend.calls.expect_load().times(1).returning(|_, _| Ok(endpoint()));
    backend.calls.expect_state().returning(|_| PowerState::On);
}

fn write_disk(staging: &std::path::Path) -> Captured {
    let disk = staging.join("disk0.qcow2");
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&disk).arg("1M").status();
    assert!(made.unwrap().success());
    let disks = vec![CapturedDisk { file: "disk0.qcow2".into(), format: "qcow2".into() }];
    Captured { disks, firmware: None, boot: None, hardware: Hardware::default() }
}

/// VCL-94, point 2: the capture job calls no OS method. It lends the backend a staging, and verifies, publishes and
/// records what the backend filled.
#[tokio::test]
async fn a_capture_job_calls_the_backend_and_no_os_method() {
    let mut backend = MockProvisioning::default();
    loading(&mut backend);
    backend.calls.expect_capture().times(1).returning(|_, staging| Ok(write_disk(staging)));
    backend.calls.expect_unload().times(1).returning(|_| Ok(()));
    let case = Case::new(backend, untouched_os()).await;
    case.load().await;
    let job = case.capture(After::Release).await;
    assert_eq!((job.state, job.result.as_deref()), (job::State::Done, Some("debian@2")), "{:?}", job.reason);
    let image: ImageRef = "debian@2".parse().unwrap();
    assert!(case.node.library.get(&image).unwrap().manifest.generalised);
    let a = case.node.computer(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((a.state, a.loaded, a.reservation), (computer::State::Available, None, None));
}

/// What becomes of the computer afterwards is the computer's trouble: the revision stays.
#[tokio::test]
async fn a_computer_that_does_not_come_back_goes_to_maintenance_and_the_revision_stays() {
    let mut backend = MockProvisioning::default();
    loading(&mut backend);
    backend.calls.expect_capture().times(1).returning(|_, staging| Ok(write_disk(staging)));
    backend.calls.expect_resume().times(1).returning(|_| Err(Error::new(Kind::Deadline, "it does not boot")));
    let case = Case::new(backend, untouched_os()).await;
    case.load().await;
    let job = case.capture(After::Resume).await;
    assert_eq!((job.state, job.result.as_deref()), (job::State::Done, Some("debian@2")), "{:?}", job.reason);
    let a = case.node.computer(&"a".parse().unwrap()).await.unwrap();
    assert_eq!(a.state, computer::State::Maintenance);
    assert!(a.reason.unwrap().contains("it does not boot"));
}

/// A capture that fails leaves no revision and no staging, and the computer is brought back: it answers as it did.
#[tokio::test]
async fn a_capture_that_fails_brings_the_computer_back() {
    let mut backend = MockProvisioning::default();
    loading(&mut backend);
    backend.calls.expect_capture().times(1).returning(|_, staging| {
        write_disk(staging);
        Err(Error::new(Kind::NoSpace, "no space left on device"))
    });
    let mut os = untouched_os();
    // Not the flow: the undo of holding the computer asks whether the guest is as it was.
    os.expect_wait_ready().times(1).returning(|guest, _| Ok(guest.endpoint.clone()));
    let case = Case::new(backend, os).await;
    case.load().await;
    let job = case.capture(After::Release).await;
    assert_eq!(job.state, job::State::Failed);
    assert!(job.reason.unwrap().contains("no space left"));
    assert!(case.node.library.leftovers().unwrap().is_empty());
    assert_eq!(case.node.image(&"debian".parse().unwrap()).await.unwrap().revisions.len(), 1);
    let a = case.node.computer(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((a.state, a.loaded.unwrap().endpoint), (computer::State::Reserved, endpoint()));
}

/// A load that fails leaves the computer available, without a reservation.
#[tokio::test]
async fn a_load_that_fails_gives_the_computer_back() {
    let mut backend = MockProvisioning::default();
    backend.calls.expect_state().returning(|_| PowerState::Absent);
    backend.calls.expect_load().times(1).returning(|_, _| Err(Error::new(Kind::Fatal, "no such bridge br0")));
    let case = Case::new(backend, untouched_os()).await;
    let request = JobRequest::Load { computer: "a".parse().unwrap(), image: "debian".parse().unwrap() };
    let job = case.run(request).await;
    assert_eq!(job.state, job::State::Failed);
    assert!(job.reason.unwrap().contains("br0"));
    let a = case.node.computer(&"a".parse().unwrap()).await.unwrap();
    assert_eq!((a.state, a.reservation, a.job), (computer::State::Available, None, None));
}

/// What would be refused is refused with the way out.
#[tokio::test]
async fn refusals_name_the_thing_and_the_way_out() {
    let mut backend = MockProvisioning::default();
    backend.calls.expect_state().returning(|_| PowerState::Off);
    backend.calls.expect_load().times(1).returning(|_, _| Ok(endpoint()));
    let case = Case::new(backend, untouched_os()).await;
    let before = case.capture(After::Release).await;
    assert!(before.reason.unwrap().contains("only a computer that holds an image"));
    case.load().await;
    let off = case.capture(After::Release).await;
    assert!(off.reason.unwrap().contains("vclctl computer power a on"));
    let delete = case
        .node
        .submit(JobRequest::DeleteImage { image: "debian@1".parse().unwrap(), now: false }, "tester")
        .await;
    assert!(delete.unwrap_err().message.contains('a'));
    let nowhere = JobRequest::Load { computer: "b".parse().unwrap(), image: "debian".parse().unwrap() };
    assert!(case.node.submit(nowhere, "tester").await.unwrap_err().message.contains('b'));
}
