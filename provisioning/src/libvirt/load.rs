//! Loading: overlays on the revision, a domain over them, power, an address, host keys, `post_load`.

use super::Libvirt;
use super::connection::CALL;
use super::definition::{DefinedDisk, DefinedNic, Definition, NicPlug};
use crate::{Error, ErrorKind, Plug, Result, Target, Work};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use vcl_images::qemu_img;
use vcl_job::{Cx, Job, Kind, Step, TRANSIENT, minutes};
use vcl_types::api::PlannedStep;
use vcl_types::{
    Accelerator, AddressSource, Computer, DirectBoot, Endpoint, Firmware, Hardware, HostKey, HostKeys,
    KeySource, Nic,
};
use virt::sys;

/// Waits that have a limit of their own from the configuration get this much from the executor.
const LONG: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) domain: String,
    pub(super) directory: Utf8PathBuf,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Overlay {
    pub(super) path: String,
    pub(super) backing: String,
    pub(super) format: String,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileCopy {
    pub(super) from: String,
    pub(super) to: String,
}

/// Makes the machine's directory, and clears away what an earlier machine of that name left.
pub(super) const PREPARE: Step<Libvirt, Place> =
    Step::new("prepare host").retry(TRANSIENT).undo(|host, place| {
        Box::pin(async move {
            host.patiently(|| host.remove(&place.domain)).await?;
            remove_directory(&place.directory)
        })
    });
pub(super) const OVERLAY: Step<Libvirt, Overlay> =
    Step::new("create overlay").undo(|_, overlay| Box::pin(async move { remove_file(&overlay.path) }));
pub(super) const VARIABLES: Step<Libvirt, FileCopy> =
    Step::new("copy firmware variables").undo(|_, copy| Box::pin(async move { remove_file(&copy.to) }));
/// Chooses free ports for user networking. Nothing to undo: a port is taken when the machine starts.
pub(super) const PORTS: Step<Libvirt, usize> = Step::new("choose ports");
pub(super) const DEFINE: Step<Libvirt, String> = Step::new("define domain")
    .retry(TRANSIENT)
    .undo(|host, domain| Box::pin(async move { host.patiently(|| host.remove(&domain)).await }));
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) domain: String,
    pub(super) console: Utf8PathBuf,
}
pub(super) const START: Step<Libvirt, Start> = Step::<Libvirt, Start>::new("start")
    .retry(TRANSIENT)
    .undo(|host, start| Box::pin(async move { host.patiently(|| host.cut_power(&start.domain)).await }))
    .holds(|host, start, _| {
        Box::pin(async move {
            use vcl_types::api::PowerState;
            Ok(host.power_state(&start.domain).await? == PowerState::On)
        })
    });
pub(super) const ADDRESS: Step<Libvirt, String> = Step::new("find address").deadline(LONG).retry(TRANSIENT);
pub(super) const HOST_KEYS: Step<Libvirt, String> = Step::new("wait for ssh").deadline(LONG);
/// How long a site's address hook may take.
const HOOK_LIMIT: Duration = minutes(5);

pub(super) fn remove_file(path: &str) -> vcl_job::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(vcl_job::Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}
pub(super) fn remove_directory(path: &Utf8Path) -> vcl_job::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(vcl_job::Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}

impl Libvirt {
    pub(super) async fn load_computer(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let computer = target.computer;
        let manifest = &target.revision.manifest;
        let domain = Self::domain_name(&computer.name);
        let directory = self.computer_directory(&computer.name);
        let hardware = machine_hardware(computer, &manifest.hardware);

        self.prepare(job, &domain, &directory).await?;
        let mut disks = Vec::new();
        for (n, disk) in manifest.disks.iter().enumerate() {
            let overlay = Overlay {
                path: directory.join(format!("disk{n}.qcow2")).into(),
                backing: target.revision.path(&disk.file),
                format: disk.format.clone(),
            };
            disks.push(self.overlay(job, n, overlay).await?);
        }
        let variables = match &manifest.firmware {
            Some(record) => {
                Some(self.copy_variables(job, &target.revision.path(&record.file), &directory).await?)
            }
            None if hardware.firmware == Firmware::Bios => None,
            // A revision that was imported without its variables: the host's template makes new ones there.
            None => Some(directory.join("variables").into()),
        };
        let plugs: Vec<_> = computer
            .nics
            .iter()
            .map(|nic| Ok((nic, self.network(&nic.network)?.plug.clone())))
            .collect::<Result<_>>()?;
        let nics = self
            .plug_in(job, plugs.iter().map(|(nic, plug)| (nic.mac.clone(), plug.clone())).collect())
            .await?;
        let definition = Definition {
            domain: domain.clone(),
            owner: computer.name.to_string(),
            kvm: self.kvm()?,
            hardware,
            disks,
            nics: nics.clone(),
            console: directory.join("console.log").into(),
            variables,
            boot: manifest.boot.as_ref().map(|boot| DirectBoot {
                kernel: target.revision.path(&boot.kernel),
                initrd: boot.initrd.as_ref().map(|i| target.revision.path(i)),
                cmdline: boot.cmdline.clone(),
            }),
        };
        self.define_step(job, definition).await?;
        let management = computer.management().and_then(|nic| nics.iter().find(|n| n.mac == nic.mac));
        self.boot(job, target, &domain, &directory, management).await
    }

    /// Powers a computer on that is defined already, and makes it ready again.
    pub(super) async fn resume_computer(
        &self,
        job: &mut Job,
        target: Target<'_>,
    ) -> vcl_job::Result<Endpoint> {
        let domain = Self::domain_name(&target.computer.name);
        let directory = self.computer_directory(&target.computer.name);
        let nics = match target.endpoint {
            // User networking has its port in the definition; the endpoint knows it.
            Some(e) if e.address.is_loopback() => {
                let mac = target.computer.management().map(|n| n.mac.clone()).unwrap_or_default();
                Some(DefinedNic { mac, plug: NicPlug::User(e.port) })
            }
            _ => None,
        };
        self.boot(job, target, &domain, &directory, nics.as_ref()).await
    }

    pub(super) async fn prepare(
        &self,
        job: &mut Job,
        domain: &str,
        directory: &Utf8Path,
    ) -> vcl_job::Result<()> {
        let place = Place { domain: domain.to_owned(), directory: directory.to_owned() };
        job.step(self, &PREPARE, place)
            .run(async |place, cx| {
                cx.check().await?;
                if self.ours(&place.domain).await?.is_some() {
                    cx.event(
                        "cleared-leftover",
                        format!("domain {} was there from an earlier load and is removed", place.domain),
                    );
                    self.remove(&place.domain).await?;
                }
                remove_directory(&place.directory)?;
                std::fs::create_dir_all(&place.directory).map_err(|e| {
                    vcl_job::Error::caused(Kind::Fatal, format!("making directory {}", place.directory), e)
                })
            })
            .await
    }

    pub(super) async fn overlay(
        &self,
        job: &mut Job,
        n: usize,
        overlay: Overlay,
    ) -> vcl_job::Result<DefinedDisk> {
        job.step(self, &OVERLAY, overlay)
            .key(n)
            .run(async |overlay, cx| {
                remove_file(&overlay.path)?;
                let (path, backing) = (overlay.path.as_ref(), overlay.backing.as_ref());
                qemu_img::create_overlay(&cx, path, backing, format(&overlay.format)?, None).await?;
                Ok(DefinedDisk {
                    path: overlay.path,
                    backing: overlay.backing,
                    backing_format: overlay.format,
                })
            })
            .await
    }

    pub(super) async fn copy_variables(
        &self,
        job: &mut Job,
        from: &str,
        directory: &Utf8Path,
    ) -> vcl_job::Result<String> {
        let copy = FileCopy { from: from.to_owned(), to: directory.join("variables").into() };
        job.step(self, &VARIABLES, copy)
            .run(async |copy, cx| {
                cx.check().await?;
                // The library's file is read-only; the machine writes to its copy.
                let bytes = tokio::fs::read(&copy.from).await;
                let bytes = bytes
                    .map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("reading {}", copy.from), e))?;
                let written = tokio::fs::write(&copy.to, bytes).await;
                written
                    .map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("writing {}", copy.to), e))?;
                Ok(copy.to)
            })
            .await
    }

    /// Gives each card its plug; user networking gets a free port.
    pub(super) async fn plug_in(
        &self,
        job: &mut Job,
        cards: Vec<(String, Plug)>,
    ) -> vcl_job::Result<Vec<DefinedNic>> {
        let wanted = cards.iter().filter(|(_, plug)| *plug == Plug::User).count();
        let mut ports = Vec::new();
        if wanted > 0 {
            ports = job.step(self, &PORTS, wanted).run(async |wanted, _| free_ports(wanted)).await?;
        }
        let plugged = cards.into_iter().map(|(mac, plug)| {
            let plug = match plug {
                Plug::Bridge(name) => NicPlug::Bridge(name),
                Plug::Libvirt(name) => NicPlug::Network(name),
                Plug::User => NicPlug::User(ports.pop().unwrap_or_default()),
            };
            DefinedNic { mac, plug }
        });
        Ok(plugged.collect())
    }

    pub(super) async fn define_step(&self, job: &mut Job, definition: Definition) -> vcl_job::Result<()> {
        job.step(self, &DEFINE, definition.domain.clone())
            .run(async |_, cx| {
                cx.check().await?;
                Ok(self.define(&definition).await?)
            })
            .await
    }

    pub(super) async fn start_step(
        &self,
        job: &mut Job,
        domain: &str,
        directory: &Utf8Path,
    ) -> vcl_job::Result<()> {
        let start = Start { domain: domain.to_owned(), console: directory.join("console.log") };
        job.step(self, &START, start)
            .run(async |start, cx| {
                cx.check().await?;
                if self.power_state(&start.domain).await? != vcl_types::api::PowerState::On {
                    // Host keys are read from the console, and they are this boot's only if its log begins with it.
                    let _ = std::fs::rename(&start.console, format!("{}.1", start.console));
                }
                self.start(&start.domain).await?;
                Ok(())
            })
            .await
    }

    async fn boot(
        &self,
        job: &mut Job,
        target: Target<'_>,
        domain: &str,
        directory: &Utf8Path,
        nic: Option<&DefinedNic>,
    ) -> vcl_job::Result<Endpoint> {
        let console = directory.join("console.log");
        self.start_step(job, domain, directory).await?;
        let (address, port) = match (nic, target.computer.management()) {
            (Some(DefinedNic { plug: NicPlug::User(port), .. }), _) => (IpAddr::from([127, 0, 0, 1]), *port),
            (_, Some(management)) => {
                let source = self.network(&management.network)?.address;
                let hook = self.network(&management.network)?.hook.clone();
                (
                    self.find_address(job, domain, &console, management, source, hook, target.limits.boot)
                        .await?,
                    22,
                )
            }
            (_, None) => {
                let context = format!("{} has no management interface; give it a network", target.computer);
                return Err(vcl_job::Error::new(Kind::Refused, context));
            }
        };
        let generalised = target.revision.manifest.generalised;
        let host_keys = self.host_keys(job, &console, address, port, generalised, target.limits.boot).await?;
        let endpoint = Endpoint { address, port, user: target.user.to_owned(), host_keys };
        let guest = target.guest(&endpoint);
        match target.os.post_load(&mut job.part("post_load"), guest).await {
            Err(e) if matches!(e.kind, Kind::Deadline | Kind::Unreachable) => Err(with_console(e, &console)),
            result => result,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own about one wait")]
    pub(super) async fn find_address(
        &self,
        job: &mut Job,
        domain: &str,
        console: &Utf8Path,
        nic: &Nic,
        source: AddressSource,
        hook: Option<String>,
        limit: Duration,
    ) -> vcl_job::Result<IpAddr> {
        job.step(self, &ADDRESS, domain.to_owned())
            .run(async |domain, cx| {
                let fixed = || {
                    nic.address.ok_or_else(|| {
                        vcl_job::Error::new(
                            Kind::Refused,
                            format!("network {} is static and the computer has no address", nic.network),
                        )
                    })
                };
                match source {
                    AddressSource::Static => return fixed(),
                    AddressSource::Hook => return ask_hook(&cx, hook.as_deref(), &domain, &nic.mac).await,
                    AddressSource::Lease | AddressSource::Agent => {}
                }
                let deadline = tokio::time::Instant::now() + limit;
                loop {
                    if let Some(address) = self.ask_address(&domain, &nic.mac, source).await? {
                        return Ok(address);
                    }
                    if tokio::time::Instant::now() >= deadline {
                        let (mac, network) = (&nic.mac, &nic.network);
                        let asked = if source == AddressSource::Agent { "guest agent" } else { "DHCP lease" };
                        let context = format!(
                            "no {asked} told an address for {mac} on network {network} within {} s",
                            limit.as_secs()
                        );
                        return Err(with_console(vcl_job::Error::new(Kind::Deadline, context), console));
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(Duration::from_millis(250)) => {} // why: a lease tells nobody of itself
                    }
                }
            })
            .await
    }

    async fn ask_address(&self, domain: &str, mac: &str, source: AddressSource) -> Result<Option<IpAddr>> {
        let (name, mac) = (domain.to_owned(), mac.to_owned());
        let what = format!("asking for the addresses of domain {domain}");
        let asked = self
            .connection
            .call(what, CALL, move |c| {
                let domain = c.lookup_domain_by_name(&name)?;
                let sources: &[_] = if source == AddressSource::Agent {
                    &[sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT]
                } else {
                    // A site's own DHCP server tells libvirt nothing; the host's ARP table does.
                    &[
                        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
                        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
                    ]
                };
                for source in sources {
                    let interfaces = domain.interface_addresses(*source, 0).unwrap_or_default();
                    let found = interfaces
                        .iter()
                        .filter(|i| i.hwaddr.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(&mac)))
                        .flat_map(|i| i.addrs.iter())
                        .filter_map(|a| a.addr.parse::<IpAddr>().ok())
                        // A link-local address says that nobody gave it one.
                        .find(|a| {
                            !a.is_loopback() && !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local())
                        });
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            })
            .await;
        match asked {
            Ok(address) => Ok(address),
            Err(e) if e.kind == ErrorKind::Failed => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until the guest's ssh server speaks, and takes its host keys from the console when the guest prints them
    /// there, as one that vcld generalised does.
    pub(super) async fn host_keys(
        &self,
        job: &mut Job,
        console: &Utf8Path,
        address: IpAddr,
        port: u16,
        generalised: bool,
        limit: Duration,
    ) -> vcl_job::Result<HostKeys> {
        job.step(self, &HOST_KEYS, format!("{address}:{port}"))
            .run(async |at, cx| {
                let deadline = tokio::time::Instant::now() + limit;
                let mut last;
                loop {
                    match banner(address, port).await {
                        Ok(()) => break,
                        Err(why) => last = why,
                    }
                    if tokio::time::Instant::now() >= deadline {
                        let context = format!("no ssh server spoke at {at} within {} s (the last try: {last})", limit.as_secs());
                        return Err(with_console(vcl_job::Error::new(Kind::Deadline, context), console));
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(Duration::from_millis(150)) => {} // why: a booting guest announces itself to nobody
                    }
                }
                let keys = printed_keys(&tail(console, 1024 * 1024).unwrap_or_default());
                if keys.is_empty() {
                    if generalised {
                        cx.event("no-host-keys", "the guest printed no host keys on its console; the first connection's key is taken");
                    }
                    return Ok(HostKeys::first_use());
                }
                Ok(HostKeys { keys, source: KeySource::Console })
            })
            .await
    }

    pub(super) fn kvm(&self) -> Result<bool> {
        let flag = || {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let flags = info.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
            flags.split_ascii_whitespace().any(|f| f == "vmx" || f == "svm")
        };
        // libvirt lists KVM wherever /dev/kvm is; without the processor's flag guests hang on it.
        let there = Utf8Path::new("/dev/kvm").exists() && flag();
        match self.settings.accelerator {
            Accelerator::Tcg => Ok(false),
            Accelerator::Auto => Ok(there),
            Accelerator::Kvm if there => Ok(true),
            Accelerator::Kvm => Err(Error::new(
                ErrorKind::Refused,
                "accelerator = \"kvm\", and this host has no KVM (no /dev/kvm, or neither vmx nor svm in /proc/cpuinfo); use \"auto\"",
            )),
        }
    }

    pub(super) fn planned(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let domain = Self::domain_name(&target.computer.name);
        let manifest = &target.revision.manifest;
        let guest = |end| {
            let part = if end { "pre_capture" } else { "post_load" };
            let steps = target.os.plan(end.then(|| crate::Provisioning::end_state(self)));
            steps
                .into_iter()
                .map(move |(name, what)| PlannedStep { name: format!("{part}/{name}"), what: what.into() })
        };
        let boot = || {
            let mut steps = vec![step(START.name(), format!("power {domain} on"))];
            if target
                .computer
                .management()
                .is_some_and(|n| self.network(&n.network).is_ok_and(|n| n.plug != Plug::User))
            {
                steps.push(step(ADDRESS.name(), "wait for its address".into()));
            }
            steps.push(step(
                HOST_KEYS.name(),
                format!("wait for its ssh server, at most {} s", target.limits.boot.as_secs()),
            ));
            steps
        };
        match work {
            Work::Load => {
                let directory = self.computer_directory(&target.computer.name);
                let hardware = machine_hardware(target.computer, &manifest.hardware);
                let mut steps = vec![step(PREPARE.name(), format!("make {directory}"))];
                for disk in &manifest.disks {
                    steps.push(step(
                        OVERLAY.name(),
                        format!("on {} ({})", target.revision.path(&disk.file), disk.virtual_size),
                    ));
                }
                if manifest.firmware.is_some() {
                    steps.push(step(VARIABLES.name(), "of the revision, for this machine".into()));
                }
                steps.push(step(DEFINE.name(), format!("{domain}: {hardware}")));
                steps.into_iter().chain(boot()).chain(guest(false)).collect()
            }
            Work::Resume => boot().into_iter().chain(guest(false)).collect(),
            Work::Capture => {
                let mut steps: Vec<_> = guest(true).collect();
                steps.push(step(
                    "wait for power off",
                    format!("at most {} s, then cut it", target.limits.shutdown.as_secs()),
                ));
                for (n, disk) in manifest.disks.iter().enumerate() {
                    steps.push(step(
                        &format!("copy disk[{n}]"),
                        format!("{} at most, into the library's staging", disk.virtual_size),
                    ));
                }
                steps
            }
            Work::Unload => vec![
                step("power off", format!("cut the power of {domain}")),
                step("undefine domain", domain.clone()),
                step("delete files", self.computer_directory(&target.computer.name).into()),
            ],
        }
    }
}

/// The revision's hardware with what the computer says otherwise.
fn machine_hardware(computer: &Computer, hardware: &Hardware) -> Hardware {
    Hardware {
        cpus: computer.cpus.unwrap_or(hardware.cpus),
        memory: computer.memory.unwrap_or(hardware.memory),
        ..hardware.clone()
    }
}

/// A disk format by its recorded name.
pub(super) fn format(name: &str) -> vcl_job::Result<vcl_images::Format> {
    name.parse().map_err(|_| {
        let context = format!("disks of format `{name}` are not known here: qcow2, raw and vmdk are");
        vcl_job::Error::new(Kind::Refused, context)
    })
}

/// Free ports of 127.0.0.1. All are held until all are found, so that they differ.
fn free_ports(wanted: usize) -> vcl_job::Result<Vec<u16>> {
    let bound: std::io::Result<Vec<_>> =
        (0..wanted).map(|_| std::net::TcpListener::bind(("127.0.0.1", 0))).collect();
    let ports = bound.and_then(|b| b.iter().map(|l| Ok(l.local_addr()?.port())).collect());
    ports.map_err(|e| vcl_job::Error::caused(Kind::Transient, "looking for a free port on 127.0.0.1", e))
}

/// Whether an ssh server speaks there. qemu's user networking takes connections long before the guest does.
async fn banner(address: IpAddr, port: u16) -> Result<(), String> {
    let limit = Duration::from_secs(3);
    let read = async {
        let mut stream = tokio::net::TcpStream::connect((address, port)).await?;
        let mut first = [0u8; 4];
        stream.read_exact(&mut first).await?;
        Ok::<_, std::io::Error>(first)
    };
    match tokio::time::timeout(limit, read).await {
        Ok(Ok(first)) if &first == b"SSH-" => Ok(()),
        Ok(Ok(_)) => Err("something that is not an ssh server answered".into()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err("the connection was closed at once".into())
        }
        Ok(Err(e)) => Err(e.to_string().to_lowercase()),
        Err(_) => Err("connected, and nothing was said".into()),
    }
}

/// The host keys that a guest printed on its console since it was started, the last of each algorithm.
fn printed_keys(console: &str) -> Vec<HostKey> {
    let mut keys: Vec<HostKey> = Vec::new();
    for line in console.lines() {
        let Some((_, rest)) = line.split_once("vcld-host-key: ") else { continue };
        if let Some(key) = HostKey::parse(rest.trim()) {
            keys.retain(|k| k.algorithm != key.algorithm);
            keys.push(key);
        }
    }
    keys.truncate(8);
    keys
}

/// The last bytes of a file as text.
pub(super) fn tail(path: &Utf8Path, bytes: u64) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut buffer = Vec::new();
    file.take(bytes).read_to_end(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// The last lines of a console, with what could drive a terminal taken out.
pub(super) fn last_lines(console: &str, lines: usize) -> String {
    let clean: Vec<String> =
        console.lines().map(|line| strip_escapes(line.trim_end())).filter(|line| !line.is_empty()).collect();
    clean[clean.len().saturating_sub(lines)..].join("\n")
}

/// Takes out ANSI escape sequences and control characters.
fn strip_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            } else {
                chars.next();
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// The error with the console's last lines: what an admin would look at next.
pub(super) fn with_console(error: vcl_job::Error, console: &Utf8Path) -> vcl_job::Error {
    let shown = tail(console, 16 * 1024).map(|text| last_lines(&text, 12)).unwrap_or_default();
    let failure = error.failure();
    let shown = if shown.is_empty() {
        "its console shows nothing: it may have no boot loader, or no console on ttyS0".to_owned()
    } else {
        format!("the last lines of its console:\n{shown}")
    };
    vcl_job::Error::new(failure.kind, format!("{}; {shown}", failure.message))
}

/// Asks a site's executable for an address: it gets the domain and the MAC as arguments and prints one line.
async fn ask_hook(cx: &Cx, hook: Option<&str>, domain: &str, mac: &str) -> vcl_job::Result<IpAddr> {
    let hook = hook.ok_or_else(|| {
        vcl_job::Error::new(Kind::Refused, "the network's address is a hook and it names none")
    })?;
    let process = vcl_job::Process::new(hook).args([domain, mac]);
    let output = cx.within("the address hook", HOOK_LIMIT, process.run(cx, |_| {})).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|e| {
        let said: String = text.trim().chars().take(80).collect();
        vcl_job::Error::caused(Kind::Corrupt, format!("{hook} printed `{said}`, which is no address"), e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_read_from_among_what_a_guest_prints() {
        let console = "[    1.0] boot\r\nvcld-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFOLD000\r\nnoise\n\
            vcld-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINEW0000 root@a\r\nvcld-host-key: rubbish\n";
        let keys = printed_keys(console);
        assert_eq!(keys.len(), 1);
        assert!(keys[0].key.ends_with("INEW0000"));
    }

    #[test]
    fn a_console_cannot_drive_the_terminal_it_is_shown_on() {
        let console = "a\n\u{1b}[2J\u{1b}[1;31mpanic\u{7}\u{1b}[0m\n\n\u{1b}]0;title\n";
        assert_eq!(last_lines(console, 2), "panic\n0;title");
    }

    #[test]
    fn free_ports_differ() {
        let ports = free_ports(3).unwrap();
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }
}
