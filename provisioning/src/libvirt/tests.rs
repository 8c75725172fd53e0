//! Domain handling and the capture contract, on libvirt's own test driver. Its domains are private to a connection
//! when it is given a file, and it runs no guest: what a real guest does is proven in `tests/`.

use super::*;
use std::sync::Arc;
use std::time::Duration;
use vcl_images::Library;
use vcl_job::{Control, Flow, MemoryJournal, Outcome, Owners, Run, Silent, execute};
use vcl_os::EndState;
use vcl_os::mock::{MockOs, MockRemotes};
use vcl_types::{ByteSize, Digest, DiskRecord, Hardware, HostKeys, Manifest, Nic, NicRole, OsName, Revision};

struct Bench {
    host: Libvirt,
    directory: tempfile::TempDir,
}

fn domain(name: &str, owner: Option<&str>, disk: &str) -> String {
    let owner = owner.map(|o| {
        format!("<metadata><vcld:machine xmlns:vcld='{}' owner='{o}'/></metadata>", definition::OWNER)
    });
    format!(
        "<domain type='test'><name>{name}</name>{}<memory>262144</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         </devices></domain>",
        owner.unwrap_or_default()
    )
}

impl Bench {
    /// A host with two domains: our `vcl-a` and an admin's `vcl-b`. Both run: the test driver starts what it reads.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        let disk = path.join("disk.qcow2");
        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"])
            .status();
        assert!(made.unwrap().success());
        let node = path.join("node.xml");
        let (ours, theirs) =
            (domain("vcl-a", Some("a"), disk.as_str()), domain("vcl-b", None, disk.as_str()));
        std::fs::write(
            &node,
            format!("<node>{ours}{theirs}<cpu><mhz>1000</mhz><model>x</model><nodes>1</nodes></cpu></node>"),
        )
        .unwrap();
        let settings = Settings {
            name: "test".parse().unwrap(),
            uri: format!("test://{node}"),
            local: true,
            directory: path.join("machines"),
            pool: None,
            accelerator: Accelerator::Tcg,
            networks: Networks::new(),
        };
        Self { host: Libvirt::new(settings).unwrap(), directory }
    }
    fn computer(&self, name: &str) -> Computer {
        let nic = Nic {
            network: "net".parse().unwrap(),
            role: NicRole::Management,
            mac: "52:54:00:00:00:01".into(),
            address: None,
        };
        Computer {
            name: name.parse().unwrap(),
            backend: "test".parse().unwrap(),
            cpus: None,
            memory: None,
            nics: vec![nic],
            tags: Vec::new(),
        }
    }
    fn revision(&self) -> Revision {
        let digest = Digest::from_bytes([0; 32]);
        let disk = DiskRecord {
            file: "disk0.qcow2".into(),
            format: "qcow2".into(),
            virtual_size: ByteSize(8 << 20),
            file_size: ByteSize(1),
            file_digest: digest.clone(),
            content_digest: digest,
            over: None,
        };
        let manifest = Manifest {
            version: 1,
            image: "debian".parse().unwrap(),
            revision: 1,
            parent: None,
            os: OsName::Linux,
            generalised: true,
            hardware: Hardware::default(),
            disks: vec![disk],
            firmware: None,
            boot: None,
            boot_files: Vec::new(),
            backend: None,
            job: None,
            created: "2026-01-01T00:00:00Z".parse().unwrap(),
            note: None,
        };
        Revision { manifest, directory: "/srv/vcl/debian/1".into() }
    }
    async fn capture(&self, os: MockOs, staging: &Staging) -> Outcome<Captured> {
        let (computer, revision, remotes) = (self.computer("a"), self.revision(), MockRemotes::new());
        let endpoint = Endpoint {
            address: [127, 0, 0, 1].into(),
            port: 22,
            user: "root".into(),
            host_keys: HostKeys::first_use(),
        };
        let target = Target {
            computer: &computer,
            revision: &revision,
            os: &os,
            remotes: &remotes,
            user: "root",
            hooks: None,
            limits: crate::Limits { shutdown: Duration::from_millis(400), ..crate::Limits::default() },
            endpoint: Some(&endpoint),
        };
        let parts: [(&str, &dyn Undo); 2] = [("capture", &self.host), ("pre_capture", &os)];
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: Arc::new(Silent),
            control: Control::default(),
            owners: Owners { flow: &self.host, parts: &parts },
        };
        let work =
            async |mut job: Job, ()| self.host.capture(&mut job.part("capture"), target, staging).await;
        execute(run, Flow { name: "test", version: 1, deadline: None }, async { Ok(()) }, work).await
    }
    fn staging(&self) -> Staging {
        let root = self.directory.path().join("library");
        std::fs::create_dir_all(&root).unwrap();
        Library::open(&root).unwrap().staging("job1-token1").unwrap()
    }
}

fn silent_os() -> MockOs {
    let mut os = MockOs::new();
    os.expect_undo().returning(|_, _| Ok(()));
    os
}

/// VCL-94, points 1 to 3: one entry point, called by the backend, once, with `Off`; then the power is waited for.
#[tokio::test]
async fn a_capture_calls_pre_capture_once_and_wants_the_machine_off() {
    let bench = Bench::new();
    assert_eq!(bench.host.state(&bench.computer("a")).await.unwrap(), PowerState::On);
    let mut os = silent_os();
    os.expect_pre_capture()
        .times(1)
        .withf(|_, guest, end| *end == EndState::Off && guest.computer.name.as_str() == "a")
        .returning(|_, _, _| Ok(()));
    let staging = bench.staging();
    // The machine does not go off by itself here: its power is cut when its time is up.
    let Outcome::Done(captured) = bench.capture(os, &staging).await else { panic!("no capture") };
    assert_eq!(captured.disks.len(), 1);
    assert!(staging.disk(0).exists());
    assert_eq!(bench.host.state(&bench.computer("a")).await.unwrap(), PowerState::Off);
}

/// An OS that cannot reach the end state ends the capture, before a byte is copied.
#[tokio::test]
async fn an_os_that_says_no_ends_the_capture() {
    let bench = Bench::new();
    let mut os = silent_os();
    let no = || vcl_job::Error::new(vcl_job::Kind::Refused, "cannot be off");
    os.expect_pre_capture().times(1).returning(move |_, _, _| Err(no()));
    let staging = bench.staging();
    let outcome = bench.capture(os, &staging).await;
    assert!(
        matches!(outcome, Outcome::RolledBack(ref f) if f.message.contains("cannot be off")),
        "{outcome:?}"
    );
    assert!(!staging.disk(0).exists());
    assert_eq!(bench.host.state(&bench.computer("a")).await.unwrap(), PowerState::On);
}

#[tokio::test]
async fn power_and_its_states() {
    let bench = Bench::new();
    let (host, a) = (&bench.host, bench.computer("a"));
    assert_eq!(host.power(&a, PowerAction::ForceOff).await.unwrap(), PowerState::Off);
    assert_eq!(host.power(&a, PowerAction::ForceOff).await.unwrap(), PowerState::Off, "again is no error");
    assert_eq!(host.power(&a, PowerAction::On).await.unwrap(), PowerState::On);
    assert_eq!(host.power(&a, PowerAction::On).await.unwrap(), PowerState::On, "again is no error");
    assert_eq!(host.state(&bench.computer("nobody")).await.unwrap(), PowerState::Absent);
    let error = host.power(&bench.computer("nobody"), PowerAction::On).await.unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.context.contains("not loaded"), "{error}");
}

#[tokio::test]
async fn a_domain_that_is_not_ours_is_never_touched() {
    let bench = Bench::new();
    let error = bench.host.remove("vcl-b").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotOurs);
    assert!(error.context.contains("virsh domrename"), "{error}");
    assert_eq!(
        bench.host.power(&bench.computer("b"), PowerAction::ForceOff).await.unwrap_err().kind,
        ErrorKind::NotOurs
    );
    assert_eq!(bench.host.power_state("vcl-b").await.unwrap(), PowerState::On);
    bench.host.remove("vcl-a").await.unwrap();
    bench.host.remove("vcl-a").await.unwrap();
    assert_eq!(bench.host.power_state("vcl-a").await.unwrap(), PowerState::Absent);
}

#[tokio::test]
async fn all_machines_are_listed_and_ours_are_named() {
    let bench = Bench::new();
    let vms = bench.host.vms().await.unwrap();
    let seen: Vec<_> = vms
        .iter()
        .map(|v| (v.name.as_str(), v.state.as_str(), v.managed.as_ref().map(ComputerName::as_str)))
        .collect();
    assert_eq!(seen, [("vcl-a", "running", Some("a")), ("vcl-b", "running", None)]);
    assert!(vms[1].disks[0].source.ends_with("disk.qcow2"));
}

#[tokio::test]
async fn a_host_that_is_not_there_is_named_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        name: "gone".parse().unwrap(),
        uri: format!("qemu+unix:///system?socket={}/no-socket", directory.path().display()),
        local: true,
        directory: Utf8PathBuf::try_from(directory.path().join("machines")).unwrap(),
        pool: None,
        accelerator: Accelerator::Auto,
        networks: Networks::new(),
    };
    let host = Libvirt::new(settings).unwrap();
    let error = host.vms().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(
        error.context.contains("no-socket") && error.context.contains("systemctl status libvirtd"),
        "{}",
        error.chain()
    );
    assert!(
        host.findings()
            .await
            .iter()
            .any(|f| f.way_out.as_deref().is_some_and(|w| w.contains("systemctl start")))
    );
}

#[tokio::test]
async fn what_was_made_on_the_host_is_listed_and_only_that_is_removed() {
    let bench = Bench::new();
    let machines = bench.directory.path().join("machines");
    for made in ["a", "capture-job7-token2", ".probe"] {
        std::fs::create_dir_all(machines.join(made)).unwrap();
    }
    std::fs::write(machines.join("a/disk0.qcow2"), vec![1; 10_000]).unwrap();
    let things = bench.host.things().await.unwrap();
    let told: Vec<_> =
        things.iter().map(|t| (t.kind.as_str(), t.name.as_str(), t.job.map(|j| j.0))).collect();
    // The admin's vcl-b has no owner tag.
    assert_eq!(
        told,
        [("domain", "vcl-a", None), ("overlays", "a", None), ("overlays", "capture-job7-token2", Some(7))]
    );
    assert_eq!(things[0].computer, Some("a".parse().unwrap()));
    assert!(things[1].bytes.unwrap() >= 10_000, "{things:?}");

    let thing = |kind: &str, name: &str| Thing {
        kind: kind.into(),
        name: name.into(),
        computer: None,
        job: None,
        bytes: None,
    };
    let refused = bench.host.remove_thing(&thing("overlays", "a")).await.unwrap_err();
    assert!(refused.to_string().contains("delete the domain first"), "{refused}");
    assert_eq!(
        bench.host.remove_thing(&thing("domain", "vcl-b")).await.unwrap_err().kind,
        ErrorKind::NotOurs
    );
    for wrong in ["../../etc", "", ".probe"] {
        assert!(bench.host.remove_thing(&thing("overlays", wrong)).await.is_err(), "{wrong}");
    }
    for gone in [thing("domain", "vcl-a"), thing("overlays", "a"), thing("overlays", "capture-job7-token2")] {
        bench.host.remove_thing(&gone).await.unwrap();
        bench.host.remove_thing(&gone).await.unwrap();
    }
    assert_eq!(bench.host.things().await.unwrap(), []);
    // The power of all by one listing: what is left is the admin's, under a name of ours.
    assert_eq!(bench.host.powers().await.unwrap().len(), 1);
    assert!(bench.host.free_space().await.unwrap().unwrap() > 0);
}
