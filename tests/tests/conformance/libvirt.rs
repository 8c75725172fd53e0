//! The conformance kit on a real libvirt with real guests, in a private world. As root.
//!
//! Where no guest boots, machines have an empty disk and an address on loopback, at which this test speaks as an ssh server
//! does: the backend goes on to the stand-in of the kit. Guests are on user networking, with the Linux module and ssh.

use crate::{VCL_WORLD, banner, by_run, cx, full, record};
use anyhow::{Context as _, Result};
use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vcl_images::{Format, Library, Progress, StagedDisk, digest, seal, seal_boot};
use vcl_os::{Linux, SshKey, SshRemotes};
use vcl_provisioning::conformance::{self, Case, Foreign, GuestImage, Offer, World as Kit};
use vcl_provisioning::libvirt::{Libvirt, Settings};
use vcl_provisioning::{Limits, Network, Provisioning};
use vcl_provisioning::{Networks, Plug};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::manifest::linux;
use vcl_tests::world::World;
use vcl_types::{
    Accelerator, AddressSource, ByteSize, Computer, ComputerName, Digest, DirectBoot, Manifest, Nic, NicRole,
};

/// A machine that an admin has made, from which an image can be made.
const SOURCE: &str = "admins-own";

struct LibvirtWorld {
    world: World,
    guest: Guest,
    key: Utf8PathBuf,
    directory: tempfile::TempDir,
    /// The loopback address of each computer that no guest boots on.
    addresses: Mutex<BTreeMap<ComputerName, IpAddr>>,
    /// What of the names of vcld's machines is another's.
    foreign: Mutex<BTreeSet<String>>,
}

impl LibvirtWorld {
    fn new(world: World, guest: Guest, key: Utf8PathBuf) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("vcl-test-").tempdir()?;
        let (addresses, foreign) = (Mutex::default(), Mutex::default());
        let new = Self { world, guest, key, directory, addresses, foreign };
        std::fs::create_dir(new.root().join("library"))?;
        new.world.libvirt_network("dry", std::net::Ipv4Addr::new(192, 168, 71, 0))?;
        banner("0.0.0.0:22").context("nobody else listens in this world")?;
        let disk = new.root().join("source.qcow2");
        std::fs::copy(new.guest.disk(), &disk)?;
        let boot = new.guest.direct_boot()?.context("a fast guest boots directly")?;
        let os = format!(
            "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline>",
            boot.kernel, boot.initrd, boot.cmdline
        );
        new.define(SOURCE, &disk, &os)?;
        Ok(new)
    }
    fn root(&self) -> Utf8PathBuf {
        Utf8PathBuf::try_from(self.directory.path().to_owned()).unwrap()
    }
    fn machines(&self) -> Utf8PathBuf {
        self.root().join("machines")
    }
    /// Defines a machine as an admin would.
    fn define(&self, name: &str, disk: &Utf8Path, os: &str) -> Result<()> {
        let file = self.root().join(format!("{name}.xml"));
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type>{os}</os><features><acpi/></features><cpu mode='maximum'/>\
             <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>\
             <target dev='vda' bus='virtio'/></disk><interface type='user'><mac address='52:54:00:aa:bb:01'/>\
             <model type='virtio'/></interface><serial type='pty'><target port='0'/></serial>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>"
        );
        std::fs::write(&file, xml)?;
        self.world.virsh(&["define", file.as_str()])?;
        Ok(())
    }
    fn settings(&self, name: &str, uri: String, machines: &str) -> Settings {
        let network = |plug, address| Network { plug, address, hook: None };
        let networks = [
            ("dry".parse().unwrap(), network(Plug::Libvirt("dry".into()), AddressSource::Static)),
            ("wet".parse().unwrap(), network(Plug::User, AddressSource::Lease)),
        ];
        Settings {
            name: name.parse().unwrap(),
            uri,
            local: true,
            directory: self.root().join(machines),
            pool: None,
            accelerator: Accelerator::Tcg,
            networks: Networks::from(networks),
        }
    }
    fn instance(&self, settings: Settings) -> conformance::Result<Arc<dyn Provisioning>> {
        Ok(Arc::new(Libvirt::new(settings)?))
    }
    fn plugged(&self, name: ComputerName, network: &str, address: Option<IpAddr>) -> Computer {
        let sum = name.as_str().bytes().fold(7u32, |sum, b| sum.wrapping_mul(31).wrapping_add(b.into()));
        let [_, b, c, d] = sum.to_be_bytes();
        let mac = format!("52:54:00:{b:02x}:{c:02x}:{d:02x}");
        let network = network.parse().unwrap();
        let nic = Nic { network, role: NicRole::Management, mac, address };
        let (backend, memory) = ("kvm".parse().unwrap(), None);
        Computer { name, backend, cpus: None, memory, nics: vec![nic], tags: Vec::new() }
    }
    fn names(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let names = self.world.virsh(&[&["list", "--name"], arguments].concat())?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }
    /// All that there is of a machine which is not vcld's.
    fn look(&self, name: &str) -> Result<Option<String>> {
        if !self.names(&["--all"])?.contains(&name.to_owned()) {
            return Ok(None);
        }
        let (xml, state) =
            (self.world.virsh(&["dumpxml", "--inactive", name])?, self.world.virsh(&["domstate", name])?);
        let id = self.world.virsh(&["domid", name])?;
        let disk = std::fs::read(self.root().join(format!("{name}.qcow2")))?.len();
        Ok(Some(format!("{name} {} as {} of {disk} bytes: {xml}", state.trim(), id.trim())))
    }
}

#[async_trait]
impl Kit for LibvirtWorld {
    fn name(&self) -> &str {
        by_run("libvirt", "libvirt, whole")
    }
    async fn open(&self) -> conformance::Result<Arc<dyn Provisioning>> {
        self.instance(self.settings("kvm", "qemu:///system".into(), "machines"))
    }
    fn computer(&self, name: ComputerName) -> Computer {
        let mut addresses = self.addresses.lock().unwrap();
        let n = u16::try_from(addresses.len() + 1).unwrap().to_be_bytes();
        let address = *addresses.entry(name.clone()).or_insert(IpAddr::from([127, 1, n[0], n[1]]));
        self.plugged(name, "dry", Some(address))
    }
    fn guest_computer(&self, name: ComputerName) -> Computer {
        Computer { memory: Some(ByteSize::mebibytes(256)), ..self.plugged(name, "wet", None) }
    }
    async fn left(&self) -> conformance::Result<Vec<String>> {
        let foreign = self.foreign.lock().unwrap().clone();
        let running = self.names(&[])?;
        let ours = self.names(&["--all"])?.into_iter();
        let ours = ours.filter(|name| name.starts_with("vcl-") && !foreign.contains(name));
        let mut left: Vec<String> = ours
            .map(|name| format!("domain {name}{}", if running.contains(&name) { ", running" } else { "" }))
            .collect();
        for machine in self.machines().read_dir_utf8().into_iter().flatten() {
            let machine = machine?.into_path();
            left.push(format!("place {}", machine.file_name().unwrap()));
            for file in machine.read_dir_utf8().into_iter().flatten() {
                // An earlier start's console is there or not as it happens.
                let file = file?.file_name().to_owned();
                if !file.ends_with(".1") {
                    left.push(format!("file {}/{file}", machine.file_name().unwrap()));
                }
            }
        }
        left.sort();
        Ok(left)
    }
    fn library(&self) -> Option<Utf8PathBuf> {
        Some(self.root().join("library"))
    }
    async fn guest(&self, library: &Library) -> conformance::Result<Option<GuestImage>> {
        let boot = self.guest.direct_boot()?.ok_or("a fast guest boots directly")?;
        let staging = library.staging("guest")?;
        for (from, to) in
            [(self.guest.disk(), "disk0.qcow2"), (boot.kernel, "kernel"), (boot.initrd, "initrd")]
        {
            std::fs::copy(from, staging.path(to)?)?;
        }
        let boot =
            DirectBoot { kernel: "kernel".into(), initrd: Some("initrd".into()), cmdline: boot.cmdline };
        let cx = cx();
        let disks = seal(&cx, &staging, &[StagedDisk::qcow2(0)]).await?;
        let boot_files = seal_boot(&cx, &staging, &boot).await?;
        let manifest = Manifest { boot: Some(boot), boot_files, ..linux("guest", 1, disks)? };
        let minutes = |n: u64| Duration::from_secs(60 * n);
        Ok(Some(GuestImage {
            revision: library.publish(&cx, "guest", &manifest).await?,
            os: Some(Arc::new(Linux)),
            remotes: Arc::new(SshRemotes::new(SshKey::load(&self.key)?)),
            user: "root".into(),
            limits: Limits {
                boot: minutes(10),
                shutdown: minutes(4),
                copy: minutes(10),
                command: minutes(4),
            },
        }))
    }
    async fn on_disk(&self, computer: &Computer) -> conformance::Result<Option<Digest>> {
        let overlay = self.machines().join(computer.name.as_str()).join("disk0.qcow2");
        let (path, scratch) = (overlay.as_std_path(), self.directory.path());
        Ok(Some(digest::content(&cx(), path, Format::Qcow2, scratch, &Progress::none()).await?.digest()))
    }
    /// Through its qemu, as a guest's writes go.
    async fn write(&self, computer: &Computer) -> conformance::Result<bool> {
        let write = "qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write -P 0x5a 8M 64k\"";
        let domain = self.foreign_name(computer);
        let said = self.world.virsh(&["qemu-monitor-command", &domain, "--hmp", write])?;
        // That it was written it says where its output goes, which is not here.
        if said.trim().is_empty() { Ok(true) } else { Err(said.into()) }
    }
    async fn foreign(&self, what: Foreign, computer: &Computer) -> conformance::Result<Option<String>> {
        let name = self.foreign_name(computer);
        let disk = self.root().join(format!("{name}.qcow2"));
        if what == Foreign::Put {
            self.foreign.lock().unwrap().insert(name.clone());
            let size = "8M";
            let made = std::process::Command::new("qemu-img")
                .args(["create", "-q", "-f", "qcow2", disk.as_str(), size])
                .status()?;
            assert!(made.success());
            self.define(&name, &disk, "")?;
            self.world.virsh(&["start", &name])?;
        }
        if what == Foreign::Remove && self.foreign.lock().unwrap().remove(&name) {
            let _ = self.world.virsh(&["destroy", &name]);
            let _ = self.world.virsh(&["undefine", &name]);
            std::fs::remove_file(disk)?;
        }
        if !self.foreign.lock().unwrap().contains(&name) {
            return Ok(None);
        }
        Ok(self.look(&name)?)
    }
    async fn source(&self) -> conformance::Result<Option<String>> {
        Ok(Some(SOURCE.into()))
    }
    async fn unreachable(&self) -> conformance::Result<Option<Arc<dyn Provisioning>>> {
        let uri = format!("qemu+unix:///system?socket={}/no-socket", self.root());
        self.instance(self.settings("gone", uri, "gone")).map(Some)
    }
    /// Another host, which libvirt itself makes up.
    async fn neighbour(&self) -> conformance::Result<Option<Arc<dyn Provisioning>>> {
        self.instance(self.settings("other", "test:///default".into(), "other")).map(Some)
    }
    fn leaves_out(&self, case: &Case) -> Option<String> {
        let quick = !case.boots || case.name == "guest-answers";
        (!full() && !quick).then(|| "guests are left to the whole run, all but one (./check --full)".into())
    }
    fn why_not(&self, what: Offer) -> String {
        match what {
            Offer::Secrets => "libvirtd is reached over a socket, without a credential".into(),
            other => other.lacking().into(),
        }
    }
    /// A load takes a second here.
    fn points(&self) -> usize {
        if full() { usize::MAX } else { 3 }
    }
}

#[test]
fn libvirt_does_what_a_backend_has_to() -> Result<()> {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = std::fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(Kind::Fast, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
    let Some(world) = World::around_test(VCL_WORLD, "libvirt::libvirt_does_what_a_backend_has_to")? else {
        return Ok(());
    };
    let world = LibvirtWorld::new(world, guest, key)?;
    conformance::check(async { world }, Some(&record(by_run("libvirt.json", "libvirt-whole.json"))));
    Ok(())
}
