//! The kit on the xcat backend, on the double of a management node whose nodes are played: what they boot, fetch, run and
//! report is what nodes do, and the imaging task reads and writes their disks in earnest. The daemon's inbox is the real one.
//! Nodes that are real guests are `tests/xcat`'s.

use crate::{VCL_WORLD, by_run, full, record};
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use camino::Utf8PathBuf;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_images::{Format, Progress, digest};
use vcl_job::{AnyStep, Job, Kind, Step, Undo, undo_in};
use vcl_os::{Command, EndState, Guest, Nobody, Os, Output, Survey};
use vcl_provisioning::conformance::{self, Offer, World as Kit};
use vcl_provisioning::inbox::Inbox as _;
use vcl_provisioning::xcat::{Settings, Xcat};
use vcl_provisioning::{Limits, Provisioning};
use vcl_tests::world::World;
use vcl_tests::xcatd::{Boot, Latency, NodeSetup, PLAYED_DISK, Setup, Xcatd};
use vcl_types::{ByteSize, Computer, ComputerName, Digest, Endpoint, Nic, NicRole, OsName, Secret};
use vcld::inbox::Boxes;

/// Computers and their nodes.
const NODES: [(&str, &str); 4] = [("x", "x"), ("7", "7"), ("node-03", "n3"), ("node-04", "n4")];
/// What a node's disk has: somewhat more than the kit's revision.
const DISK: u64 = 20 << 20;

struct XcatWorld {
    xcatd: Arc<Xcatd>,
    boxes: Arc<Boxes>,
    path: Utf8PathBuf,
    os: Arc<Reboots>,
    /// Serves the inbox.
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl XcatWorld {
    fn new() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-xcat-").tempdir()?;
        let path = Utf8PathBuf::try_from(directory.path().to_owned())?;
        let mut setup = Setup::new(&path);
        setup.latency = Latency::NONE;
        for (n, (_, node)) in NODES.iter().enumerate() {
            let disk = path.join(format!("{node}.raw"));
            std::fs::File::create(&disk)?.set_len(DISK)?;
            setup.nodes.push(NodeSetup::played(node, &disk, address(n)));
        }
        setup.nodes.push(NodeSetup::hollow("somebody-elses"));
        let xcatd = Arc::new(Xcatd::start(setup)?);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(("127.0.0.1", 0)))?;
        let url = format!("http://{}", listener.local_addr()?);
        let boxes = Arc::new(Boxes::new(&path.join("inbox"), &url)?);
        runtime.spawn(vcld::inbox::serve(boxes.clone(), listener, CancellationToken::new()));
        let os = Arc::new(Reboots { xcatd: xcatd.clone() });
        Ok(Self { xcatd, boxes, path, os, _runtime: runtime, _directory: directory })
    }
    fn settings(&self, url: String) -> Result<Settings> {
        Ok(Settings {
            name: "x".parse()?,
            url,
            ca: std::fs::read(self.xcatd.ca())?,
            user: self.xcatd.user().into(),
            password: Secret::new(self.xcatd.password().into()),
            nodes: NODES.map(|(computer, node)| (computer.to_owned(), node.to_owned())).into(),
            osimages: <_>::default(),
            computers: self.only().unwrap(),
            inbox: Some(self.boxes.clone()),
            disk: Some(PLAYED_DISK.into()),
            largest_disk: ByteSize::gibibytes(1),
            net_boot: true,
            power_off: true,
            poll: Duration::from_millis(100),
            call: Duration::from_secs(20),
            contact: Duration::from_secs(60),
            no_progress: Duration::from_secs(60),
            install: Duration::from_secs(60),
        })
    }
    fn disk(&self, computer: &ComputerName) -> Utf8PathBuf {
        self.path.join(format!("{}.raw", node(computer)))
    }
}

fn place(computer: &ComputerName) -> usize {
    NODES.iter().position(|(name, _)| *name == computer.as_str()).unwrap()
}
fn node(computer: &ComputerName) -> &'static str {
    NODES[place(computer)].1
}
fn address(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(n + 11).unwrap())
}

#[async_trait]
impl Kit for XcatWorld {
    fn name(&self) -> &str {
        by_run("xcat", "xcat, whole")
    }
    async fn open(&self) -> conformance::Result<Arc<dyn Provisioning>> {
        Ok(Arc::new(Xcat::new(self.settings(self.xcatd.url())?)?))
    }
    fn only(&self) -> Option<Vec<ComputerName>> {
        Some(NODES.map(|(computer, _)| computer.parse().unwrap()).into())
    }
    fn computer(&self, name: ComputerName) -> Computer {
        // Each other one is found by what xCAT says its address is.
        let place = place(&name);
        let address = place.is_multiple_of(2).then(|| address(place).into());
        let network = "mgmt".parse().unwrap();
        let nic = Nic { network, role: NicRole::Management, mac: "52:54:00:00:00:01".into(), address };
        let backend = "x".parse().unwrap();
        Computer { name, backend, cpus: None, memory: None, nics: vec![nic], tags: Vec::new() }
    }
    /// What is armed, and the boxes there are. A node's power is nobody's, and its disk stays as it was.
    async fn left(&self) -> conformance::Result<Vec<String>> {
        let mut left = Vec::new();
        for (_, node) in NODES {
            let armed = self.xcatd.attribute(node, "currstate").unwrap_or_default();
            if let Some(word) = armed.split(['=', ' ']).next().filter(|word| *word != "boot") {
                left.push(format!("{node} is armed: {word}"));
            }
        }
        for place in self.boxes.boxes()? {
            // The job's number is another each time.
            left.push(format!("box {}", place.name.split("-job").next().unwrap_or_default()));
        }
        left.sort();
        Ok(left)
    }
    fn limits(&self) -> Limits {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Limits { boot: minutes(1), shutdown: minutes(1), copy: minutes(2), command: minutes(1) }
    }
    fn os(&self) -> Option<Arc<dyn Os>> {
        Some(self.os.clone())
    }
    async fn on_disk(&self, computer: &Computer) -> conformance::Result<Option<Digest>> {
        let disk = self.disk(&computer.name);
        let (disk, scratch) = (disk.as_std_path(), self.path.as_std_path());
        Ok(Some(digest::content(&crate::cx(), disk, Format::Raw, scratch, &Progress::none()).await?.digest()))
    }
    async fn write(&self, computer: &Computer) -> conformance::Result<bool> {
        let disk = std::fs::OpenOptions::new().write(true).open(self.disk(&computer.name))?;
        disk.write_all_at(&[0x5a; 65536], 8 << 20)?;
        Ok(true)
    }
    /// A node that is in no configuration.
    async fn source(&self) -> conformance::Result<Option<String>> {
        Ok(Some("somebody-elses".into()))
    }
    async fn unreachable(&self) -> conformance::Result<Option<Arc<dyn Provisioning>>> {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        Ok(Some(Arc::new(Xcat::new(self.settings(format!("https://localhost:{port}/xcatws"))?)?)))
    }
    /// One with other nodes of the same management node.
    async fn neighbour(&self) -> conformance::Result<Option<Arc<dyn Provisioning>>> {
        let other = "somebody-elses";
        let settings = Settings {
            name: "other".parse()?,
            nodes: <_>::default(),
            computers: vec![other.parse()?],
            ..self.settings(self.xcatd.url())?
        };
        Ok(Some(Arc::new(Xcat::new(settings)?)))
    }
    fn secrets(&self) -> Vec<String> {
        vec![self.xcatd.password().to_owned()]
    }
    fn why_not(&self, what: Offer) -> String {
        match what {
            Offer::Guest => "the nodes here are played; those that are guests are tried in tests/xcat".into(),
            other => other.lacking().into(),
        }
    }
    fn points(&self) -> usize {
        if full() { usize::MAX } else { 3 }
    }
}

/// A guest of which nothing is asked but to reboot.
struct Reboots {
    xcatd: Arc<Xcatd>,
}

const REBOOT: Step<Reboots, String> = Step::new("reboot").deadline(Duration::from_secs(60));
const STEPS: &[&dyn AnyStep<Reboots>] = &[&REBOOT];

impl Reboots {
    /// Once: a node that does what it was told already is left alone.
    async fn again(&self, node: String) -> Result<()> {
        let xcatd = self.xcatd.clone();
        tokio::task::spawn_blocking(move || match xcatd.boots(&node).last() {
            Some(Boot::Disk) if xcatd.is_on(&node) => xcatd.reboots(&node),
            _ => Ok(()),
        })
        .await?
    }
}

#[async_trait]
impl Undo for Reboots {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

#[async_trait]
impl Os for Reboots {
    fn name(&self) -> OsName {
        Nobody.name()
    }
    fn plan(&self, end: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        end.map(|_| (REBOOT.name(), "the node starts again")).into_iter().collect()
    }
    fn unmaking(&self) -> &'static str {
        REBOOT.name()
    }
    async fn post_load(&self, job: &mut Job, guest: Guest<'_>) -> vcl_job::Result<Endpoint> {
        Nobody.post_load(job, guest).await
    }
    async fn pre_capture(&self, job: &mut Job, guest: Guest<'_>, end: EndState) -> vcl_job::Result<()> {
        assert_eq!(end, EndState::Reboot);
        job.step(self, &REBOOT, node(&guest.computer.name).to_owned())
            .run(async |node, cx| {
                cx.check().await?;
                let why = |e: anyhow::Error| vcl_job::Error::new(Kind::Fatal, format!("{e:#}"));
                self.again(node).await.map_err(why)
            })
            .await
    }
    async fn sanitize(&self, job: &mut Job, guest: Guest<'_>) -> vcl_job::Result<()> {
        Nobody.sanitize(job, guest).await
    }
    async fn shutdown(&self, guest: Guest<'_>) -> vcl_os::Result<()> {
        Nobody.shutdown(guest).await
    }
    async fn reboot(&self, guest: Guest<'_>) -> vcl_os::Result<()> {
        Nobody.reboot(guest).await
    }
    async fn wait_ready(&self, guest: Guest<'_>, cancel: &CancellationToken) -> vcl_os::Result<Endpoint> {
        Nobody.wait_ready(guest, cancel).await
    }
    async fn exec(&self, guest: Guest<'_>, command: Command) -> vcl_os::Result<Output> {
        Nobody.exec(guest, command).await
    }
    async fn survey(&self, guest: Guest<'_>) -> vcl_os::Result<Survey> {
        Nobody.survey(guest).await
    }
}

#[test]
fn xcat_does_what_a_backend_has_to() -> Result<()> {
    if World::around_test(VCL_WORLD, "xcat::xcat_does_what_a_backend_has_to")?.is_none() {
        return Ok(());
    }
    let world = XcatWorld::new().context("the world is made")?;
    conformance::check(async { world }, Some(&record(by_run("xcat.json", "xcat-whole.json"))));
    Ok(())
}
