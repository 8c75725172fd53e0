//! An image from a virtual machine that an admin installed by hand, without changing it.
//!
//! The source is shut down, and a throw-away machine with the same hardware, the same MACs and overlays on the source's
//! disks is started in its place; the guest finds the network it knows, because the source is off meanwhile.
//! `pre_capture` runs there, the overlays are copied flat into the staging, the throw-away machine goes, and the source
//! is started again if it ran. Not one byte of the source's disks or of its definition is written.

use super::Libvirt;
use super::away::STEP;
use super::connection::CALL;
use super::definition::{Definition, NicPlug};
use super::description::{DescribedNic, Description};
use super::load::Overlay;
use crate::{Captured, Error, ErrorKind, Plug, Provisioning, Result, VmTarget};
use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_images::Staging;
use vcl_job::{Job, Kind, Step, TRANSIENT};
use vcl_os::Guest;
use vcl_types::api::{PowerState, VmPreview};
use vcl_types::{
    AddressSource, ByteSize, Computer, ComputerName, Endpoint, Firmware, HostKeys, Nic, NicRole,
};
use virt::sys;

const LONG: Duration = Duration::from_secs(24 * 3600);

/// A source as it was when the job began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SourceMachine {
    description: Description,
    ran: bool,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SourcePower {
    vm: String,
    ran: bool,
}

pub(super) const READ_SOURCE: Step<Libvirt, String> =
    Step::new("read source").deadline(STEP).retry(TRANSIENT);
pub(super) const SHUT_SOURCE: Step<Libvirt, SourcePower> =
    Step::new("shut source down").deadline(LONG).retry(TRANSIENT).undo(|host, source| {
        Box::pin(async move {
            if source.ran {
                host.waiting(|| host.start(&source.vm)).await?;
            }
            Ok(())
        })
    });
pub(super) const START_SOURCE: Step<Libvirt, String> =
    Step::new("start source again").deadline(STEP).retry(TRANSIENT);
pub(super) const WAIT_LOGIN: Step<Libvirt, String> = Step::new("wait for login").deadline(LONG);

impl Libvirt {
    pub(super) async fn capture_source(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        self.shares_files()?;
        let source = job
            .step(self, &READ_SOURCE, target.vm.to_owned())
            .run(async |vm, _| self.waiting(|| self.read_source(&vm)).await)
            .await?;
        let described = &source.description;
        let cards = plugs(&described.nics)?;
        // The throw-away machine is named after the staging, which is this job's alone.
        let computer = as_computer(target.vm, &described.nics)?;
        let domain = format!("vcl-capture-{}", staging.name());
        let directory = self.settings.directory.join(format!("capture-{}", staging.name()));

        self.shut_source(job, target, source.ran).await?;
        // A part of its own: it is shut down again in this job, and then nobody must start it anew.
        let mut throw_away = job.part("throw-away");
        let making = &mut throw_away;
        self.prepare(making, &domain, &directory).await?;
        let mut disks = Vec::new();
        for (n, disk) in described.disks.iter().filter(|d| !d.read_only).enumerate() {
            let path = directory.join(format!("disk{n}.qcow2")).into();
            let overlay = Overlay { path, backing: disk.path.clone(), format: disk.format.clone() };
            disks.push(self.overlay(making, n, overlay).await?);
        }
        let variables = match &described.variables {
            Some(path) => Some(self.copy_variables(making, path, &directory).await?),
            None => None,
        };
        let nics = self.plug_in(making, cards).await?;
        let definition = Definition {
            domain: domain.clone(),
            owner: format!("throw-away copy of {}", target.vm),
            kvm: self.kvm().await?,
            hardware: described.hardware.clone(),
            disks,
            nics: nics.clone(),
            console: directory.join("console.log").into(),
            variables: variables.clone(),
            boot: described.boot.clone(),
        };
        self.define_step(making, definition.clone()).await?;
        self.start_step(making, &domain, &directory).await?;
        let console = directory.join("console.log");
        let (address, port) = match nics.first().map(|n| &n.plug) {
            Some(NicPlug::User(port)) => (IpAddr::from([127, 0, 0, 1]), *port),
            _ => {
                let nic = &computer.nics[0];
                let limit = target.limits.boot;
                (
                    self.find_address(making, &domain, &console, nic, AddressSource::Lease, None, limit)
                        .await?,
                    22,
                )
            }
        };
        let host_keys = self.host_keys(making, &console, address, port, false, target.limits.boot).await?;
        let endpoint = Endpoint { address, port, user: target.user.to_owned(), host_keys };
        let endpoint = making
            .step(self, &WAIT_LOGIN, endpoint.to_string())
            .run(async |_, cx| {
                let guest = guest(&target, &computer, &endpoint);
                match target.os.wait_ready(guest, cx.token()).await {
                    Ok(endpoint) => Ok(endpoint),
                    Err(e) => Err(self.with_login_hint(e.into(), &console).await),
                }
            })
            .await?;
        let guest = guest(&target, &computer, &endpoint);
        target.os.pre_capture(&mut job.part("pre_capture"), guest, Provisioning::end_state(self)).await?;
        self.off(job, &domain, target.limits.shutdown).await?;
        let copied = Description {
            disks: definition
                .disks
                .iter()
                .map(|d| super::description::DescribedDisk {
                    path: d.path.clone(),
                    format: "qcow2".into(),
                    read_only: false,
                })
                .collect(),
            variables,
            ..described.clone()
        };
        let captured = self.copy_machine(job, copied, staging, None, target.limits.copy).await?;
        self.take_away(job, &domain, directory).await?;
        if source.ran {
            job.step(self, &START_SOURCE, target.vm.to_owned())
                .run(async |vm, cx| {
                    cx.check().await?;
                    self.waiting(|| self.start(&vm)).await?;
                    cx.event("source-started", format!("{vm} runs again"));
                    Ok(())
                })
                .await?;
        }
        Ok(captured)
    }

    /// A source's disks are read where they lie.
    fn shares_files(&self) -> Result<()> {
        if self.pool.is_none() {
            return Ok(());
        }
        let (name, uri) = (&self.settings.name, &self.settings.uri);
        let message = format!(
            "backend {name} keeps its disks in a pool of {uri}, so a machine's own disks there cannot be read from here; run vcld on that host for it, or copy the disk here and: vclctl image import"
        );
        Err(Error::new(ErrorKind::Refused, message))
    }

    async fn with_login_hint(&self, e: vcl_job::Error, console: &Utf8Path) -> vcl_job::Error {
        if matches!(e.kind, Kind::Deadline | Kind::Unreachable) {
            self.with_console(e, console).await
        } else {
            e
        }
    }

    async fn read_source(&self, vm: &str) -> Result<SourceMachine> {
        let Some(mut description) = self.describe(vm).await? else {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} has no machine `{vm}`; see: vclctl vm list {}",
                    self.connection.uri(),
                    self.settings.name
                ),
            ));
        };
        if let Some(owner) = &description.owner {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{vm} is vcld's own machine for {owner}; capture it with: vclctl capture {owner}"),
            ));
        }
        if description.disks.iter().all(|d| d.read_only) {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("{vm} has no disk that could become an image"),
            ));
        }
        let ran = self.power_state(vm).await? != PowerState::Off;
        if description.hardware.firmware != Firmware::Bios && description.variables.is_none() {
            description.variables = self.chosen_variables(vm).await?;
        }
        Ok(SourceMachine { description, ran })
    }

    /// Where the firmware variables are that libvirt chose for a machine whose definition says only `firmware='efi'`:
    /// while it runs its XML tells; when it is off they are under the name that libvirt gives them.
    async fn chosen_variables(&self, vm: &str) -> Result<Option<String>> {
        let name = vm.to_owned();
        let what = format!("reading the XML of domain {vm} as it runs");
        let xml =
            self.connection.call(what, CALL, move |c| c.lookup_domain_by_name(&name)?.xml_desc(0)).await?;
        let running = Description::parse(&xml)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("reading the XML of domain {vm}"), e))?;
        let usual = format!("/var/lib/libvirt/qemu/nvram/{vm}_VARS.fd");
        Ok(running.variables.or_else(|| Utf8Path::new(&usual).exists().then_some(usual)))
    }

    async fn shut_source(&self, job: &mut Job, target: VmTarget<'_>, ran: bool) -> vcl_job::Result<()> {
        job.step(self, &SHUT_SOURCE, SourcePower { vm: target.vm.to_owned(), ran })
            .run(async |source, cx| {
                if self.waiting(|| self.power_state(&source.vm)).await? == PowerState::Off {
                    return Ok(());
                }
                cx.check().await?;
                self.waiting(|| {
                    let vm = source.vm.clone();
                    let what = format!("asking {vm} to shut down");
                    self.connection.call(what, CALL, move |c| c.lookup_domain_by_name(&vm)?.shutdown())
                })
                .await?;
                cx.event("source-stopping", format!("{} is asked to shut down; it is started again afterwards", source.vm));
                if self.wait_off(&source.vm, &cx, target.limits.shutdown).await? {
                    return Ok(());
                }
                // Cutting the power of a machine that is not ours would leave its file systems dirty, in the image too.
                let (vm, limit) = (&source.vm, target.limits.shutdown.as_secs());
                let context = format!("{vm} did not shut down within {limit} s of being asked to; shut it down yourself and try again");
                Err(vcl_job::Error::new(Kind::Deadline, context))
            })
            .await
    }

    /// Looks what it would do, changing nothing.
    pub(super) async fn preview_source(&self, target: VmTarget<'_>) -> Result<VmPreview> {
        let source = self.read_source(target.vm).await?;
        let description = &source.description;
        let vm = self.view(target.vm).await?;
        let mut preview = VmPreview {
            to_copy: ByteSize(vm.disks.iter().filter_map(|d| d.allocated).map(ByteSize::bytes).sum()),
            vm,
            free: ByteSize(0),
            would_change: Vec::new(),
            would_keep: Vec::new(),
            missing: Vec::new(),
            notes: Vec::new(),
        };
        for thing in &description.peculiar {
            preview.notes.push(format!("the image will not have: {thing}"));
        }
        if let Err(e) = self.shares_files() {
            preview.missing.push(e.chain());
        }
        for disk in description.disks.iter().filter(|_| self.pool.is_none()) {
            if !Utf8Path::new(&disk.path).exists() {
                preview
                    .missing
                    .push(format!("{} cannot be read here: vcld must run where the disks are", disk.path));
            }
        }
        if description.hardware.firmware != Firmware::Bios && description.variables.is_none() {
            preview.notes.push("it has no firmware variables of its own yet; start it once, or the image boots with fresh ones".into());
        }
        if let Err(e) = plugs(&description.nics) {
            preview.missing.push(e.chain());
        }
        if source.ran {
            let minute = "it is shut down and started again as it was; it is off until the copy is done";
            preview.notes.push(minute.into());
            self.look_inside(target, description, &mut preview).await;
        } else {
            preview.notes.push("it is off: what would change inside can only be told while it runs".into());
        }
        Ok(preview)
    }

    async fn look_inside(&self, target: VmTarget<'_>, description: &Description, preview: &mut VmPreview) {
        let address = match description.nics.first() {
            Some(nic) if nic.kind != "user" => self.address_of(target.vm, &nic.mac).await,
            _ => None,
        };
        let Some(address) = address else {
            preview.notes.push("its address is not known (no DHCP lease, no entry in the ARP table), so it cannot be looked into while it runs".into());
            return;
        };
        let endpoint =
            Endpoint { address, port: 22, user: target.user.to_owned(), host_keys: HostKeys::first_use() };
        let Ok(computer) = as_computer(target.vm, &description.nics) else { return };
        let mut guest = guest(&target, &computer, &endpoint);
        guest.limits.boot = Duration::from_secs(15);
        match target.os.wait_ready(guest, &CancellationToken::new()).await {
            Err(e) => preview.missing.push(vcl_job::Error::from(e).failure().message),
            Ok(pinned) => match target.os.survey(Guest { endpoint: &pinned, ..guest }).await {
                Ok(survey) => {
                    preview.would_change = survey.would_change;
                    preview.would_keep = survey.would_keep;
                }
                Err(e) => preview
                    .notes
                    .push(format!("looking into it failed: {}", vcl_job::Error::from(e).failure())),
            },
        }
    }

    async fn address_of(&self, vm: &str, mac: &str) -> Option<IpAddr> {
        let (name, mac) = (vm.to_owned(), mac.to_owned());
        let what = format!("asking for the address of {vm}");
        let asked = self
            .connection
            .call(what, CALL, move |c| {
                let domain = c.lookup_domain_by_name(&name)?;
                let sources = [
                    sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
                    sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT,
                    sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
                ];
                let interfaces =
                    sources.into_iter().flat_map(|s| domain.interface_addresses(s, 0).unwrap_or_default());
                let ours =
                    interfaces.filter(|i| i.hwaddr.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(&mac)));
                Ok(ours
                    .flat_map(|i| i.addrs)
                    .find_map(|a| a.addr.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4)))
            })
            .await;
        asked.ok().flatten()
    }
}

/// The source's cards on the throw-away machine.
fn plugs(nics: &[DescribedNic]) -> Result<Vec<(String, Plug)>> {
    if nics.is_empty() {
        return Err(Error::new(
            ErrorKind::Refused,
            "it has no network card, so it cannot be logged in to; give it one",
        ));
    }
    nics.iter()
        .map(|nic| {
            let plug = match (nic.kind.as_str(), &nic.source) {
                ("bridge", Some(name)) => Plug::Bridge(name.clone()),
                ("network", Some(name)) => Plug::Libvirt(name.clone()),
                ("user", _) => Plug::User,
                (other, _) => {
                    let context = format!(
                        "its network card {} is of type `{other}`; vcld can plug in bridge, network and user",
                        nic.mac
                    );
                    return Err(Error::new(ErrorKind::Refused, context));
                }
            };
            Ok((nic.mac.clone(), plug))
        })
        .collect()
}

/// The throw-away machine as a computer, for the OS module.
fn as_computer(vm: &str, nics: &[DescribedNic]) -> Result<Computer> {
    let bad = |e| Error::caused(ErrorKind::Failed, format!("naming the throw-away copy of {vm}"), e);
    Ok(Computer {
        name: "vcld-capture".parse::<ComputerName>().map_err(bad)?,
        backend: "capture".parse().map_err(bad)?,
        cpus: None,
        memory: None,
        nics: nics
            .iter()
            .enumerate()
            .map(|(n, nic)| {
                Ok(Nic {
                    network: "source".parse().map_err(bad)?,
                    role: if n == 0 { NicRole::Management } else { NicRole::Public },
                    mac: nic.mac.clone(),
                    address: None,
                })
            })
            .collect::<Result<_>>()?,
        tags: Vec::new(),
    })
}

fn guest<'a>(target: &VmTarget<'a>, computer: &'a Computer, endpoint: &'a Endpoint) -> Guest<'a> {
    Guest {
        computer,
        endpoint,
        remotes: target.remotes,
        hooks: target.hooks,
        limits: vcl_os::Limits { boot: target.limits.boot, command: target.limits.command },
        generalised: false,
    }
}
