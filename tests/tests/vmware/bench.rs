//! A backend on a double, a library, and guests that are no more than a port and some bytes on a disk.

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use vcl_images::{Format, Library, Progress, StagedDisk, Staging, qemu_img, seal};
use vcl_job::{Control, Cx, Flow, Job, MemoryJournal, Outcome, Owners, Record, Run, Undo, execute};
use vcl_os::{Command, EndState, Guest, Os, Output, Remote, Remotes, Survey};
use vcl_provisioning::esx::Esx;
use vcl_provisioning::vim25::{Server, Settings, Trust};
use vcl_provisioning::vmware::{CaptureTo, Method, Vmware};
use vcl_provisioning::{Captured, Limits, Network, Plug, Provisioning, Target};
use vcl_tests::manifest::linux;
use vcl_tests::vcsim::{Mode, Vcsim};
use vcl_types::api::{PowerAction, PowerState};
use vcl_types::{
    AddressSource, Computer, Digest, Endpoint, Hardware, ImageRef, Manifest, Nic, NicRole, OsName, Revision,
    Secret,
};

pub const DISK: u64 = 24 << 20;
/// Where guests write, and what was there before.
pub const MARKER_AT: u64 = 9 << 20;

/// Which backend, in which of its ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Esx,
    Copy,
    Clone(CaptureTo),
}

impl Way {
    /// The backend of this way.
    pub fn open(self, settings: Settings) -> Arc<dyn Provisioning> {
        match self {
            Self::Esx => Arc::new(Esx::new(settings).unwrap()),
            Self::Copy => Arc::new(Vmware::new(settings, Method::Copy, CaptureTo::Disk).unwrap()),
            Self::Clone(to) => Arc::new(Vmware::new(settings, Method::Clone, to).unwrap()),
        }
    }
}

/// What somebody does when a step begins.
type Hook = Box<dyn Fn(&str) + Send>;

/// What was told of the jobs of a bench.
#[derive(Default)]
pub struct Told(pub Mutex<Vec<(String, String)>>, Mutex<Option<Hook>>);

#[async_trait]
impl vcl_job::Observer for Told {
    fn progress(&self, _: &str, done: u64, total: u64) {
        assert!(done <= total, "{done} of {total}");
    }
    fn event(&self, kind: &str, message: &str) {
        self.0.lock().unwrap().push((kind.into(), message.into()));
    }
    fn recorded(&self, record: &Record) {
        if let (Record::Started { key, .. }, Some(hook)) = (record, &*self.1.lock().unwrap()) {
            hook(key);
        }
    }
}

/// A guest's OS that needs no guest: what it does, it does to the disk behind the machine's back.
pub struct Ghost {
    backend: Arc<dyn Provisioning>,
    datastore: Utf8PathBuf,
    double: Arc<Vcsim>,
    pub marker: Mutex<Vec<u8>>,
    pub ends: Mutex<Vec<EndState>>,
}

/// The flat file on this machine of a disk's datastore path.
pub fn flat(datastore: &Utf8Path, disk: &str) -> Utf8PathBuf {
    let name = disk.split_once("] ").unwrap().1;
    datastore.join(name.replace(".vmdk", "-flat.vmdk"))
}

/// The name of the template over a disk of that content, for Linux on this hardware.
pub fn template(content: &str, hardware: &Hardware) -> String {
    let all = serde_json::json!([[content], OsName::Linux, hardware.disk_bus, hardware.firmware]);
    format!("vcl-image-{}", Digest::from_bytes(Sha256::digest(all.to_string()).into()))
}

#[async_trait]
impl Undo for Ghost {
    async fn undo(&self, _: &str, _: serde_json::Value) -> vcl_job::Result<()> {
        Ok(())
    }
}
#[async_trait]
impl Os for Ghost {
    fn name(&self) -> OsName {
        OsName::Linux
    }
    fn plan(&self, _: Option<EndState>) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }
    async fn post_load(&self, _: &mut Job, guest: Guest<'_>) -> vcl_job::Result<Endpoint> {
        Ok(guest.endpoint.clone())
    }
    async fn pre_capture(&self, _: &mut Job, guest: Guest<'_>, end: EndState) -> vcl_job::Result<()> {
        self.ends.lock().unwrap().push(end);
        let machine = self.double.machine(&format!("vcl-{}", guest.computer.name)).unwrap().unwrap();
        let file =
            std::fs::File::options().write(true).open(flat(&self.datastore, &machine.disks[0])).unwrap();
        let marker = self.marker.lock().unwrap().clone();
        file.write_all_at(&marker, MARKER_AT).unwrap();
        self.backend.power(guest.computer, PowerAction::ForceOff).await?;
        Ok(())
    }
    async fn sanitize(&self, _: &mut Job, _: Guest<'_>) -> vcl_job::Result<()> {
        unreachable!("a machine is thrown away")
    }
    async fn shutdown(&self, _: Guest<'_>) -> vcl_os::Result<()> {
        unreachable!("nobody asks")
    }
    async fn reboot(&self, _: Guest<'_>) -> vcl_os::Result<()> {
        unreachable!("nobody asks")
    }
    async fn wait_ready(&self, guest: Guest<'_>, _: &CancellationToken) -> vcl_os::Result<Endpoint> {
        Ok(guest.endpoint.clone())
    }
    async fn exec(&self, _: Guest<'_>, _: Command) -> vcl_os::Result<Output> {
        unreachable!("nobody asks")
    }
    async fn survey(&self, _: Guest<'_>) -> vcl_os::Result<Survey> {
        unreachable!("nobody asks")
    }
}

struct NoRemotes;
#[async_trait]
impl Remotes for NoRemotes {
    async fn connect(
        &self,
        _: &Endpoint,
        _: Duration,
        _: &CancellationToken,
    ) -> vcl_os::Result<Arc<dyn Remote>> {
        unreachable!("a ghost has nothing to connect to")
    }
    async fn forget(&self, _: &Endpoint) {}
}

pub struct Bench {
    pub double: Arc<Vcsim>,
    pub backend: Arc<dyn Provisioning>,
    pub ghost: Ghost,
    pub library: Library,
    pub told: Arc<Told>,
    pub computers: BTreeMap<&'static str, Computer>,
    pub directory: tempfile::TempDir,
}

/// Ports 22 of the loopback network are the machine's: every process has a piece of it to itself.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address of the loopback network that nobody else has, and the last number of it.
pub fn address() -> (Ipv4Addr, u8) {
    let (next, pid) = (NEXT.fetch_add(1, Ordering::Relaxed), std::process::id());
    let (net, n) = ((next / 250) as u8, (next % 250 + 1) as u8);
    (Ipv4Addr::new(127, 100 + (pid % 100) as u8, net, n), n)
}

/// Settings for a double as it is.
pub fn settings(double: &Vcsim, directory: &Utf8Path) -> Settings {
    let net =
        Network { plug: Plug::PortGroup("VM Network".into()), address: AddressSource::Static, hook: None };
    Settings {
        name: "vm".parse().unwrap(),
        server: Server {
            address: double.address().to_string(),
            user: double.user().into(),
            password: Secret::new(double.password().into()),
            trust: Trust::Fingerprint(double.sha256().parse().unwrap()),
        },
        datacenter: None,
        cluster: (double.mode() == Mode::VCenter).then(|| "DC0_C0".into()),
        folder: None,
        datastore: double.datastore().into(),
        images: "vcl-images".into(),
        directory: directory.join("scratch"),
        parallel: 4,
        networks: [("net".parse().unwrap(), net)].into(),
    }
}

impl Bench {
    pub fn new(way: Way) -> Self {
        Self::on(way, Vcsim::start(if way == Way::Esx { Mode::Esx } else { Mode::VCenter }).unwrap())
    }
    pub fn on(way: Way, double: Vcsim) -> Self {
        let address = double.address().to_string();
        Self::by_way_of(address, way, double)
    }
    /// One whose backend knows the double by another address.
    pub fn by_way_of(server: String, way: Way, double: Vcsim) -> Self {
        let directory = tempfile::Builder::new().prefix("vcl-vmware-").tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let mut settings = settings(&double, path);
        settings.server.address = server;
        let backend = way.open(settings);
        std::fs::create_dir(path.join("library")).unwrap();
        let library = Library::open(path.join("library")).unwrap();
        let double = Arc::new(double);
        let computers = ["a", "b"].iter().map(|name| {
            let (address, n) = address();
            listen(address);
            (*name, computer(name, address, n))
        });
        let ghost = Ghost {
            backend: backend.clone(),
            datastore: double.datastore_directory(),
            double: double.clone(),
            marker: Mutex::new(b"first".to_vec()),
            ends: Mutex::default(),
        };
        let computers = computers.collect();
        Self { double, backend, ghost, library, told: Arc::default(), computers, directory }
    }

    /// Publishes a revision without parent whose disk has something in some places.
    pub async fn import(&self, name: &str) -> Revision {
        self.import_for(name, Hardware::default()).await
    }
    pub async fn import_for(&self, name: &str, hardware: Hardware) -> Revision {
        let staging = self.library.staging(name).unwrap();
        let raw = self.directory.path().join(format!("{name}.raw"));
        let file = std::fs::File::create(&raw).unwrap();
        file.set_len(DISK).unwrap();
        let block: Vec<u8> = (0..3_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        for at in [0, 5 << 20, 20 << 20] {
            file.write_all_at(&block, at).unwrap();
        }
        let from = qemu_img::ConvertFrom { path: &raw, format: Format::Raw };
        let options = qemu_img::ConvertOptions::default();
        qemu_img::convert(&cx(), from, &staging.disk(0), Format::Qcow2, &Progress::none(), &options)
            .await
            .unwrap();
        self.publish(name, 1, None, &staging, hardware).await
    }
    pub async fn publish(
        &self,
        name: &str,
        revision: u32,
        parent: Option<ImageRef>,
        staging: &Staging,
        hardware: Hardware,
    ) -> Revision {
        let disks = seal(&cx(), staging, &[StagedDisk::qcow2(0)]).await.unwrap();
        let manifest = linux(name, revision, disks).unwrap();
        let manifest = Manifest { parent, generalised: true, hardware, ..manifest };
        self.library.publish(&cx(), staging.name(), &manifest).await.unwrap()
    }

    pub async fn job<T: Send>(
        &self,
        control: Control,
        work: impl AsyncFnOnce(&mut Job) -> vcl_job::Result<T>,
    ) -> Outcome<T> {
        let parts: [(&str, &dyn Undo); 3] =
            [("work", &*self.backend), ("post_load", &self.ghost), ("pre_capture", &self.ghost)];
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: self.told.clone(),
            control,
            owners: Owners { flow: &*self.backend, parts: &parts },
        };
        let work = async |mut job: Job, ()| work(&mut job.part("work")).await;
        execute(run, Flow { name: "test", version: 1, deadline: None }, async { Ok(()) }, work).await
    }
    fn target<'a>(&'a self, on: &str, revision: &'a Revision, at: Option<&'a Endpoint>) -> Target<'a> {
        Target {
            computer: &self.computers[on],
            revision,
            os: &self.ghost,
            remotes: &NoRemotes,
            user: "root",
            hooks: None,
            limits: Limits::default(),
            endpoint: at,
        }
    }
    pub async fn load(&self, on: &str, revision: &Revision) -> Outcome<Endpoint> {
        self.load_within(Control::default(), on, revision).await
    }
    pub async fn load_within(&self, control: Control, on: &str, revision: &Revision) -> Outcome<Endpoint> {
        let target = self.target(on, revision, None);
        self.job(control, async |job| self.backend.load(job, target).await).await
    }
    pub async fn capture(
        &self,
        on: &str,
        revision: &Revision,
        at: &Endpoint,
        to: &Staging,
    ) -> Outcome<Captured> {
        let target = self.target(on, revision, Some(at));
        self.job(Control::default(), async |job| self.backend.capture(job, target, to).await).await
    }
    pub async fn unload(&self, on: &str) {
        let computer = &self.computers[on];
        done(self.job(Control::default(), async |job| self.backend.unload(job, computer).await).await);
        assert_eq!(self.backend.state(computer).await.unwrap(), PowerState::Absent);
    }

    /// What a loaded computer's disk has at a place.
    pub fn bytes(&self, on: &str, at: u64, length: usize) -> Vec<u8> {
        let machine = self.double.machine(&format!("vcl-{on}")).unwrap().unwrap();
        let path = flat(&self.double.datastore_directory(), &machine.disks[0]);
        let mut bytes = vec![0; length];
        std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, at).unwrap();
        bytes
    }
    /// Whether a loaded computer's disk is the revision's, byte for byte.
    pub fn same(&self, on: &str, revision: &Revision) {
        let machine = self.double.machine(&format!("vcl-{on}")).unwrap().unwrap();
        let path = flat(&self.double.datastore_directory(), &machine.disks[0]);
        let disk = revision.path(&revision.manifest.disks[0].file);
        let compared = std::process::Command::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "qcow2", path.as_str(), &disk])
            .output()
            .unwrap();
        assert!(compared.status.success(), "{compared:?}");
    }
    /// Does something when a step begins, before it does anything.
    pub fn when_begins(&self, step: &'static str, hook: impl Fn(&Vcsim) + Send + 'static) {
        let double = self.double.clone();
        let hook = move |key: &str| {
            if key.contains(step) {
                hook(&double);
            }
        };
        *self.told.1.lock().unwrap() = Some(Box::new(hook));
    }
    pub fn events(&self, kind: &str) -> Vec<String> {
        let told = self.told.0.lock().unwrap();
        told.iter().filter(|(k, _)| k == kind).map(|(_, message)| message.clone()).collect()
    }
    /// Nothing is left of any computer, by the backend's own word and by the files that are there.
    pub async fn nothing_left(&self) {
        assert_eq!(self.backend.things().await.unwrap(), []);
        let machines = self.double.machines().unwrap();
        assert!(machines.iter().all(|m| m.template), "{machines:#?}");
        let names = |directory: &Utf8Path| {
            let entries = directory.read_dir_utf8().map(|d| d.flatten().collect::<Vec<_>>());
            let mut names: Vec<_> =
                entries.unwrap_or_default().iter().map(|e| e.file_name().to_owned()).collect();
            names.sort();
            names
        };
        let datastore = self.double.datastore_directory();
        let lived: Vec<_> = names(&datastore).into_iter().filter(|n| n == "vcl-a" || n == "vcl-b").collect();
        assert_eq!(lived, Vec::<String>::new());
        let images = names(&datastore.join("vcl-images"));
        assert!(images.iter().all(|name| name.len() == 64), "{images:?}");
        let scratch = Utf8Path::from_path(self.directory.path()).unwrap().join("scratch");
        assert_eq!(names(&scratch), Vec::<String>::new());
    }
}

pub fn done<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Done(value) => value,
        other => panic!("{other:?}"),
    }
}
pub fn failed<T: std::fmt::Debug>(outcome: Outcome<T>) -> vcl_job::Failure {
    match outcome {
        Outcome::RolledBack(failure) => failure,
        other => panic!("{other:?}"),
    }
}

pub fn cx() -> Cx {
    Cx::detached(Arc::new(MemoryJournal::default()), CancellationToken::new(), Duration::from_secs(600))
}

/// Speaks as an ssh server does, and says no more.
pub fn listen(address: Ipv4Addr) {
    let listener = std::net::TcpListener::bind((address, 22)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"SSH-2.0-ghost\r\n").await;
        }
    });
}

fn computer(name: &str, address: Ipv4Addr, n: u8) -> Computer {
    Computer {
        name: name.parse().unwrap(),
        backend: "vm".parse().unwrap(),
        cpus: Some(2),
        memory: None,
        nics: vec![Nic {
            network: "net".parse().unwrap(),
            role: NicRole::Management,
            mac: format!("02:00:00:00:01:{n:02x}"),
            address: Some(IpAddr::V4(address)),
        }],
        tags: Vec::new(),
    }
}
