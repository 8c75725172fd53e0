//! The double as a world of the conformance kit. What is there of vcld's is read from the double's own word and from the
//! files behind its datastores; machines of others are made with curl. The client under test takes no part in either.

use crate::bench::{Way, address, cx, flat, listen, settings, template};
use crate::curl::Client;
use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use vcl_images::{Format, Library, Progress, StagedDisk, digest, seal};
use vcl_os::{Linux, SshKey, SshRemotes};
use vcl_provisioning::conformance::{Case, Foreign, GuestImage, Result, World};
use vcl_provisioning::vim25::Settings;
use vcl_provisioning::{Limits, Provisioning};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::manifest::linux;
use vcl_tests::vcsim::{Guests, Mode, Vcsim, VirtualMachine};
use vcl_types::{ByteSize, Computer, ComputerName, Digest, Hardware, Nic, NicRole};

const PASSWORD: &str = "the-password-of-this-double";
const IMAGES: &str = "vcl-images";
const TEMPLATE: &str = "vcl-image-";
/// A machine that an admin has made.
const SOURCE: &str = "admins-own";

/// Computers that were asked for, and who is still to be had.
#[derive(Default)]
struct Computers {
    named: BTreeMap<ComputerName, (Ipv4Addr, u8)>,
    free: Vec<(Ipv4Addr, u8)>,
}

/// How many computers there may be with guests.
const GUESTS: usize = 16;

/// Whether all is to be tried: every point, and guests that boot, which takes minutes.
pub fn full() -> bool {
    std::env::var_os("VCL_FULL").is_some_and(|v| !v.is_empty() && v != "0")
}

pub struct VcsimWorld {
    name: &'static str,
    way: Way,
    double: Vcsim,
    directory: tempfile::TempDir,
    /// Where a computer's guest would answer, and its number.
    computers: Mutex<BTreeMap<ComputerName, (Ipv4Addr, u8)>>,
    /// What of the names of vcld's machines is another's.
    foreign: Mutex<BTreeSet<String>>,
    /// What disks hold, and when they were written.
    contents: Mutex<BTreeMap<Utf8PathBuf, (SystemTime, Digest)>>,
    /// What boots where a guest is wanted, the key to it, and the computers on which it may.
    guest: Option<(Guest, Utf8PathBuf)>,
    guests: Mutex<Computers>,
    /// Whether somebody deletes all images at the datastore whenever nothing else is there.
    forgetful: bool,
}

impl VcsimWorld {
    pub fn new(name: &'static str, way: Way) -> Self {
        let mode = if way == Way::Esx { Mode::Esx } else { Mode::VCenter };
        // The second datastore is a neighbour's.
        let mut double = Vcsim::builder(mode).login("kit", PASSWORD).datastores(2);
        let guest = full().then(made);
        let free: Vec<_> = (0..GUESTS).map(|_| address()).collect();
        if let Some((guest, _)) = &guest {
            let guests = Guests::of(guest).unwrap().and_no_others().with_tools();
            double = double.guests(free.iter().fold(guests, |guests, at| guests.at(&mac(*at), at.0)));
        }
        let double = double.start().unwrap();
        let guests = Mutex::new(Computers { free, ..Computers::default() });
        let directory = tempfile::Builder::new().prefix("vcl-vmware-").tempdir().unwrap();
        let (computers, foreign, contents) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { name, way, double, directory, computers, foreign, contents, guest, guests, forgetful: false }
    }
    /// One in which each load finds a datastore without images.
    pub fn without_images(way: Way) -> Self {
        Self { forgetful: true, ..Self::new("without images", way) }
    }
    fn root(&self) -> &Utf8Path {
        Utf8Path::from_path(self.directory.path()).unwrap()
    }
    fn forget_images(&self) -> anyhow::Result<()> {
        let client = Client::of(&self.double);
        for template in self.double.machines()?.iter().filter(|machine| machine.template) {
            client.done(&Client::of_machine("Destroy_Task", &template.id));
        }
        let images = self.double.datastore_directory().join(IMAGES);
        for name in files_of(&images) {
            std::fs::remove_dir_all(images.join(name))?;
        }
        Ok(())
    }
    fn settings(&self) -> Settings {
        settings(&self.double, self.root())
    }
    fn is_foreign(&self, name: &str) -> bool {
        self.foreign.lock().unwrap().contains(name)
    }
    /// What a disk holds. It is read once for as long as nobody writes it.
    async fn content_once(&self, flat: &Utf8Path) -> Result<Digest> {
        let written = flat.metadata()?.modified()?;
        let seen = self.contents.lock().unwrap().get(flat).cloned();
        if let Some((_, content)) = seen.filter(|(at, _)| *at == written) {
            return Ok(content);
        }
        let content = self.content(flat).await?;
        self.contents.lock().unwrap().insert(flat.to_owned(), (written, content.clone()));
        Ok(content)
    }
    /// Whether a disk holds the content of this digest. An image at the datastore is a cache: one that is whole is in
    /// nobody's way, and one that is not is left over.
    async fn holds(&self, flat: &Utf8Path, content: &str) -> bool {
        self.content_once(flat).await.is_ok_and(|found| found.to_string() == content)
    }
    /// The flat file of the first disk of a computer's machine.
    fn disk(&self, computer: &Computer) -> Result<Utf8PathBuf> {
        let machine = self.double.machine(&format!("vcl-{}", computer.name))?.ok_or("no machine")?;
        Ok(flat(&self.double.datastore_directory(), machine.disks.first().ok_or("no disk")?))
    }
    async fn content(&self, flat: &Utf8Path) -> Result<Digest> {
        let (path, scratch) = (flat.as_std_path(), self.directory.path());
        Ok(digest::content(&cx(), path, Format::Raw, scratch, &Progress::none()).await?.digest())
    }
    /// Whether a machine is a template over a disk that holds what its name says.
    async fn is_template(&self, machine: &VirtualMachine) -> bool {
        let [disk] = &machine.disks[..] else { return false };
        let content = self.content_once(&flat(&self.double.datastore_directory(), disk)).await;
        machine.template
            && content
                .is_ok_and(|content| machine.name == template(&content.to_string(), &Hardware::default()))
    }
    /// Makes a machine of another's, with a disk, and powers it on.
    fn put_foreign(&self, name: &str) -> anyhow::Result<()> {
        let blank = self.root().join("blank");
        std::fs::write(&blank, vec![7; 1 << 20])?;
        let disk = self.double.put_disk(&format!("{name}/disk"), &blank)?;
        let client = Client::of(&self.double);
        client.done(&client.create(name, &disk, "02:00:00:00:02:01"));
        client.done(&Client::of_machine("PowerOnVM_Task", &self.double.machine(name)?.unwrap().id));
        Ok(())
    }
    fn remove_foreign(&self, name: &str) -> anyhow::Result<()> {
        let client = Client::of(&self.double);
        if let Some(machine) = self.double.machine(name)? {
            if machine.power == "poweredOn" {
                client.done(&Client::of_machine("PowerOffVM_Task", &machine.id));
            }
            client.done(&Client::of_machine("Destroy_Task", &machine.id));
        }
        let _ = std::fs::remove_dir_all(self.double.datastore_directory().join(name));
        Ok(())
    }
    /// All that there is of a machine which is not vcld's.
    async fn look_at_foreign(&self, name: &str) -> Result<Option<String>> {
        let Some(machine) = self.double.machine(name)? else { return Ok(None) };
        let mut files = Vec::new();
        for file in files_of(&self.double.datastore_directory().join(name)) {
            let path = self.double.datastore_directory().join(name).join(&file);
            files.push((file, path.metadata()?.len(), path.metadata()?.modified()?));
        }
        let client = Client::of(&self.double);
        let extra = client.property("VirtualMachine", &machine.id, "config.extraConfig").body;
        let note = client.property("VirtualMachine", &machine.id, "config.annotation").body;
        Ok(Some(format!("{machine:?} {files:?} {extra} {note}")))
    }
}

/// The fast guest and the key to it.
fn made() -> (Guest, Utf8PathBuf) {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache).unwrap();
    let public = std::fs::read_to_string(format!("{key}.pub")).unwrap();
    (Guest::make(Kind::Fast, &cache, &public, &mut |_| ()).unwrap(), key)
}

fn mac((address, n): (Ipv4Addr, u8)) -> String {
    let [_, _, net, _] = address.octets();
    format!("02:00:00:00:{net:02x}:{n:02x}")
}

fn plugged(name: ComputerName, at: (Ipv4Addr, u8)) -> Computer {
    let nic = Nic {
        network: "net".parse().unwrap(),
        role: NicRole::Management,
        mac: mac(at),
        address: Some(IpAddr::V4(at.0)),
    };
    let (cpus, memory) = (None, None);
    Computer { name, backend: "vm".parse().unwrap(), cpus, memory, nics: vec![nic], tags: Vec::new() }
}

fn files_of(directory: &Utf8Path) -> Vec<String> {
    let entries = directory.read_dir_utf8().into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_owned()).collect();
    names.sort();
    names
}

#[async_trait]
impl World for VcsimWorld {
    fn name(&self) -> &str {
        self.name
    }
    async fn open(&self) -> Result<Arc<dyn Provisioning>> {
        Ok(self.way.open(self.settings()))
    }
    fn computer(&self, name: ComputerName) -> Computer {
        let mut computers = self.computers.lock().unwrap();
        let (address, n) = *computers.entry(name.clone()).or_insert_with(|| {
            let (address, n) = address();
            listen(address);
            (address, n)
        });
        plugged(name, (address, n))
    }
    fn guest_computer(&self, name: ComputerName) -> Computer {
        let mut guests = self.guests.lock().unwrap();
        let Computers { named, free } = &mut *guests;
        let at = *named.entry(name.clone()).or_insert_with(|| free.pop().unwrap());
        Computer { memory: Some(ByteSize::mebibytes(256)), ..plugged(name, at) }
    }
    async fn guest(&self, library: &Library) -> Result<Option<GuestImage>> {
        let Some((guest, key)) = &self.guest else { return Ok(None) };
        let (staging, cx) = (library.staging("guest")?, cx());
        std::fs::copy(guest.disk(), staging.disk(0))?;
        let disks = seal(&cx, &staging, &[StagedDisk::qcow2(0)]).await?;
        let manifest = linux("guest", 1, disks)?;
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let (boot, shutdown, copy, command) = (minutes(10), minutes(4), minutes(10), minutes(4));
        Ok(Some(GuestImage {
            revision: library.publish(&cx, "guest", &manifest).await?,
            os: Some(Arc::new(Linux)),
            remotes: Arc::new(SshRemotes::new(SshKey::load(key)?)),
            user: "root".into(),
            limits: Limits { boot, shutdown, copy, command },
        }))
    }
    async fn left(&self) -> Result<Vec<String>> {
        let (mut left, mut lived_in) = (Vec::new(), BTreeSet::new());
        for machine in self.double.machines()? {
            if self.is_foreign(&machine.name) || self.is_template(&machine).await {
                lived_in.extend(
                    machine.path.split_once("] ").and_then(|(_, path)| {
                        path.split_once('/').map(|(directory, _)| directory.to_owned())
                    }),
                );
                continue;
            }
            let VirtualMachine { name, power, template, macs, disks, .. } = machine;
            let of = if template { "template" } else { "machine" };
            left.push(format!("{of} {name}, {power}, cards {macs:?}, disks {disks:?}"));
        }
        let datastore = self.double.datastore_directory();
        for name in files_of(&datastore) {
            if name == IMAGES || lived_in.contains(&name) || self.is_foreign(&name) {
                continue;
            }
            let files = files_of(&datastore.join(&name));
            left.push(format!("directory {name}: {}", files.join(" ")));
        }
        for name in files_of(&datastore.join(IMAGES)) {
            let directory = datastore.join(IMAGES).join(&name);
            let files = files_of(&directory);
            // A template over it lies there too.
            let belongs = |file: &String| {
                ["disk.vmdk", "disk-flat.vmdk", "used", "vmware.log"].contains(&file.as_str())
                    || file.starts_with(TEMPLATE)
            };
            let whole = files.contains(&"disk.vmdk".to_owned()) && files.iter().all(belongs);
            if !(whole && self.holds(&directory.join("disk-flat.vmdk"), &name).await) {
                left.push(format!("image {name}: {}", files.join(" ")));
            }
        }
        left.extend(files_of(&self.root().join("scratch")).into_iter().map(|name| format!("copy {name}")));
        left.sort();
        if left.is_empty() && self.forgetful {
            self.forget_images()?;
        }
        Ok(left)
    }
    async fn on_disk(&self, computer: &Computer) -> Result<Option<Digest>> {
        Ok(Some(self.content(&self.disk(computer)?).await?))
    }
    async fn write(&self, computer: &Computer) -> Result<bool> {
        let disk = std::fs::OpenOptions::new().write(true).open(self.disk(computer)?)?;
        disk.write_all_at(&[0x5a; 65536], 8 << 20)?;
        Ok(true)
    }
    async fn foreign(&self, what: Foreign, computer: &Computer) -> Result<Option<String>> {
        let name = self.foreign_name(computer);
        if what == Foreign::Put {
            self.foreign.lock().unwrap().insert(name.clone());
            self.put_foreign(&name)?;
        }
        if what == Foreign::Remove && self.is_foreign(&name) {
            self.remove_foreign(&name)?;
            self.foreign.lock().unwrap().remove(&name);
        }
        if !self.is_foreign(&name) {
            return Ok(None);
        }
        self.look_at_foreign(&name).await
    }
    async fn unreachable(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut settings = self.settings();
        settings.server.address = format!("127.0.0.1:{port}");
        Ok(Some(self.way.open(settings)))
    }
    /// One at the same server, as a site has them that divides it.
    async fn neighbour(&self) -> Result<Option<Arc<dyn Provisioning>>> {
        let mut settings = self.settings();
        (settings.name, settings.datastore) = ("other".parse()?, "LocalDS_1".into());
        settings.directory = self.root().join("other");
        Ok(Some(self.way.open(settings)))
    }
    async fn source(&self) -> Result<Option<String>> {
        if self.foreign.lock().unwrap().insert(SOURCE.into()) {
            self.put_foreign(SOURCE)?;
        }
        Ok(Some(SOURCE.into()))
    }
    fn leaves_out(&self, case: &Case) -> Option<String> {
        (case.boots && !full()).then(|| "guests are left to the whole run (./check --full)".into())
    }
    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.into()]
    }
    /// A load takes half a second here.
    fn points(&self) -> usize {
        if full() { usize::MAX } else { 4 }
    }
}
