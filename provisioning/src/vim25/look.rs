//! Looking at the server: its machines, what is ours there, and what is wrong with it.

use super::images::{ENTER, FETCH, KEEP, SEND};
use super::machines::{Whose, power, tags, whose};
use super::properties::Object;
use super::request::Request;
use super::steps::{COPY_DISK, CREATE};
use super::{Site, Watcher, boot, fault_of};
use crate::{Error, ErrorKind, Plug, Result, Target, Work};
use camino::Utf8Path;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use vcl_types::api::{Finding, FindingLevel, PlannedStep, PowerAction, PowerState, VmDisk, VmView};
use vcl_types::{AddressSource, ByteSize, ComputerName, Hardware};

impl Site {
    pub(super) async fn machines(&self, paths: &[&str]) -> Result<Vec<Object>> {
        let datacenter = &self.place().await?.datacenter;
        self.client.list(Some(datacenter), "VirtualMachine", paths).await
    }

    pub(crate) async fn list_vms(&self) -> Result<Vec<VmView>> {
        let paths = [
            "name",
            "runtime.powerState",
            "config.hardware.numCPU",
            "config.hardware.memoryMB",
            "config.hardware.device",
            "config.extraConfig",
        ];
        let backend = self.settings.name.as_str();
        let mut vms: Vec<VmView> = self.machines(&paths).await?.iter().map(|vm| view(vm, backend)).collect();
        vms.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(vms)
    }

    pub(crate) async fn all_powers(&self) -> Result<BTreeMap<ComputerName, PowerState>> {
        let machines = self.machines(&["name", "runtime.powerState", "config.extraConfig"]).await?;
        let named = machines.iter().filter_map(|machine| {
            let (name, tags) = (machine.text("name")?, tags(machine.get("config.extraConfig")));
            let computer = name.strip_prefix("vcl-")?.parse::<ComputerName>().ok()?;
            // What becomes a template of a computer is called otherwise than it.
            let ours = whose(self.settings.name.as_str(), name, &tags) == Whose::Ours(computer.as_str());
            ours.then(|| (computer, power(machine.text("runtime.powerState"))))
        });
        Ok(named.collect())
    }

    pub(crate) async fn free_here(&self) -> Result<Option<u64>> {
        let place = self.place().await?;
        Ok(self.client.read(&place.datastore, &["summary.freeSpace"]).await?.number("summary.freeSpace"))
    }

    pub(crate) async fn change_power(&self, machine: &str, action: PowerAction) -> Result<PowerState> {
        let watcher = Watcher::doing();
        match action {
            PowerAction::On => self.power_on(machine, &watcher).await.map(drop)?,
            PowerAction::ForceOff => {
                self.must(machine).await?;
                self.cut_power(machine, &watcher).await?;
            }
            PowerAction::Reset => self.ask(machine, "ResetVM_Task").await?,
            PowerAction::Off => match self.ask(machine, "ShutdownGuest").await {
                Err(e) if fault_of(&e) == Some("InvalidPowerState") => {}
                Err(e) if fault_of(&e) == Some("ToolsUnavailable") => {
                    let message = format!(
                        "{machine} has no VMware Tools that could shut it down; do it from inside, or cut its power: force-off"
                    );
                    return Err(Error::caused(ErrorKind::Refused, message, e));
                }
                asked => asked?,
            },
        }
        self.power_state(machine).await
    }

    /// The machine in words, for the evidence of a job that failed.
    pub(crate) async fn describe(&self, name: &str) -> Result<String> {
        let machine = self.must(name).await?;
        let mut text = format!(
            "{name} ({}) at {}\nfile: {}\npower: {:?}\nprocessors: {}\nmemory: {}\naddress by its tools: {}\n",
            machine.reference,
            self.client.address(),
            machine.file,
            machine.power,
            machine.cpus,
            machine.memory,
            machine.address.as_deref().unwrap_or("none"),
        );
        for device in &machine.devices {
            let of = device.xsi_type.as_deref().unwrap_or("device");
            let label = device.text_at("deviceInfo/label").unwrap_or_default();
            let what = device.text_at("backing/fileName").or_else(|| device.text_at("macAddress"));
            let plug = device.text_at("backing/deviceName").unwrap_or_default();
            if let Some(what) = what {
                let _ = writeln!(text, "{of} {label}: {what} {plug}");
            }
        }
        Ok(text)
    }

    pub(crate) fn planned(
        &self,
        work: Work,
        target: &Target<'_>,
        make: Vec<PlannedStep>,
    ) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let machine = Self::machine_name(&target.computer.name);
        let guest = |end: Option<vcl_os::EndState>| {
            let part = if end.is_some() { "pre_capture" } else { "post_load" };
            let steps = target.os.plan(end);
            steps
                .into_iter()
                .map(move |(name, what)| PlannedStep { name: format!("{part}/{name}"), what: what.into() })
        };
        let boot = || {
            vec![
                step("start", format!("turn {machine} on")),
                step("find address", "of its management interface".into()),
                step("wait for ssh", format!("at most {} s", target.limits.boot.as_secs())),
            ]
        };
        match work {
            Work::Load => {
                let mut steps = vec![step("prepare host", format!("clear away what is left of {machine}"))];
                steps.extend(make);
                steps.into_iter().chain(boot()).chain(guest(None)).collect()
            }
            Work::Resume => boot().into_iter().chain(guest(None)).collect(),
            Work::Capture => {
                let mut steps: Vec<_> = guest(Some(vcl_os::EndState::Off)).collect();
                let limit = target.limits.shutdown.as_secs();
                steps.push(step("wait for power off", format!("at most {limit} s, then cut it")));
                steps.extend(make);
                steps
            }
            Work::Unload => vec![
                step("power off", format!("cut the power of {machine}")),
                step("remove machine", machine.clone()),
                step("delete files", self.on_datastore(&machine)),
            ],
        }
    }
    /// The steps of a load by copying, for a dry run.
    pub(crate) fn planned_copies(&self, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let machine = Self::machine_name(&target.computer.name);
        let mut steps = Vec::new();
        for (n, disk) in target.revision.manifest.disks.iter().enumerate() {
            let (file, size) = (target.revision.path(&disk.file), disk.virtual_size);
            let to = self.on_datastore(&self.image(""));
            steps.push(step(
                &format!("{}[{n}]", SEND.name()),
                format!("{file} ({size}) to {to}, unless it is there"),
            ));
            let to = self.on_datastore(&machine);
            steps.push(step(&format!("{}[{n}]", COPY_DISK.name()), format!("{size} into {to}")));
        }
        let hardware = super::steps::machine_hardware(target.computer, &target.revision.manifest.hardware);
        steps.push(step(CREATE.name(), format!("{machine}: {hardware}")));
        steps
    }
    /// The steps of a capture by copying, for a dry run.
    pub(crate) fn planned_fetches(&self, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: String, what: String| PlannedStep { name, what };
        let disks = target.revision.manifest.disks.iter().enumerate();
        let images = self.on_datastore(&self.settings.images);
        let of = |(n, size): (usize, ByteSize)| {
            [
                step(format!("{}[{n}]", KEEP.name()), format!("{size} into {images}")),
                step(format!("{}[{n}]", FETCH.name()), format!("{size} into the library's staging")),
                step(format!("{}[{n}]", ENTER.name()), "under the digest of its content".into()),
            ]
        };
        disks.map(|(n, disk)| (n, disk.virtual_size)).flat_map(of).collect()
    }

    pub(crate) async fn look(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |what: &str, level, found: String, way_out: Option<&str>| {
            let what = format!("backend {}: {what}", self.settings.name);
            findings.push(Finding { what, level, found, way_out: way_out.map(str::to_owned) });
        };
        let directory = &self.settings.directory;
        match probe(directory) {
            Ok(()) => add("directory", FindingLevel::Ok, directory.to_string(), None),
            Err(e) => {
                let found = format!("{directory} cannot be written: {e}");
                add("directory", FindingLevel::Error, found, Some("make it writable for vcld's user"));
            }
        }
        let address = self.client.address();
        match self.client.session().await {
            Ok(session) => {
                let about = &session.content.about;
                let found = format!("{address}: {}, API {}", about.full_name, about.api);
                add("server", FindingLevel::Ok, found, None);
            }
            Err(e) => {
                let way_out = "look at `server`, `fingerprint`, `user` and the credential of `password`";
                add("server", FindingLevel::Error, e.chain(), Some(way_out));
                return findings;
            }
        }
        match self.licence().await {
            Ok(()) => add("licence", FindingLevel::Ok, "changes are allowed".into(), None),
            Err(e) => {
                let way_out = "give the host a licence with API access; the free one only allows to look";
                add("licence", FindingLevel::Error, e.chain(), Some(way_out));
            }
        }
        match self.datastore().await {
            Ok(found) => add("datastore", FindingLevel::Ok, found, None),
            Err(e) => {
                let way_out = "look at `datastore`, `datacenter`, `cluster` and `folder`";
                add("datastore", FindingLevel::Error, e.chain(), Some(way_out));
                return findings;
            }
        }
        for (name, network) in &self.settings.networks {
            if !matches!(network.plug, Plug::PortGroup(_)) {
                continue;
            }
            let what = format!("network {name}");
            match self.card_plug(name).await {
                Ok(_) if network.address == AddressSource::Lease => {
                    add(&what, FindingLevel::Error, boot::lease(name.as_str()), Some("see there"));
                }
                Ok(_) => add(&what, FindingLevel::Ok, "there".into(), None),
                Err(e) => add(
                    &what,
                    FindingLevel::Error,
                    e.chain(),
                    Some("make the port group, or correct its name"),
                ),
            }
        }
        findings
    }

    async fn datastore(&self) -> Result<String> {
        let place = self.place().await?;
        let paths = ["summary.freeSpace", "summary.capacity", "summary.accessible"];
        let read = self.client.read(&place.datastore, &paths).await?;
        let name = &self.settings.datastore;
        if read.text("summary.accessible").is_some() && !read.flag("summary.accessible") {
            return Err(Error::new(
                ErrorKind::Failed,
                format!("datastore {name} is not accessible at the moment"),
            ));
        }
        let size = |path: &str| ByteSize(read.number(path).unwrap_or(0));
        Ok(format!("{name}: {} of {} free", size("summary.freeSpace"), size("summary.capacity")))
    }

    /// Whether the licence lets anything be changed: a deletion of nothing is refused by every server, and by one whose
    /// licence makes its API read-only for that reason.
    async fn licence(&self) -> Result<()> {
        let watcher = Watcher::doing();
        let asked = self.client.task("asking for a change", &watcher, |content| {
            Request::new("DeleteDatastoreFile_Task", &content.files, |x| {
                x.text("name", "");
            })
        });
        match asked.await {
            Err(e) if fault_of(&e) == Some("RestrictedVersion") => Err(e),
            // What the server says of the datastore is no matter.
            Err(e) if matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Deadline) => {
                if fault_of(&e).is_some() { Ok(()) } else { Err(e) }
            }
            _ => Ok(()),
        }
    }
}

fn view(machine: &Object, backend: &str) -> VmView {
    let devices = machine.get("config.hardware.device").map(|d| d.children.as_slice()).unwrap_or_default();
    let disks = devices.iter().filter(|d| d.xsi_type.as_deref() == Some("VirtualDisk")).map(|d| VmDisk {
        source: d.text_at("backing/fileName").unwrap_or_default().to_owned(),
        format: "vmdk".into(),
        virtual_size: d
            .number_at("capacityInBytes")
            .or_else(|| Some(d.number_at("capacityInKB")? * 1024))
            .map(ByteSize),
        allocated: None,
    });
    let number = |name: &str| machine.number(name).unwrap_or(1);
    let (name, tags) = (machine.text("name").unwrap_or_default(), tags(machine.get("config.extraConfig")));
    let managed = match whose(backend, name, &tags) {
        Whose::Ours(owner) => owner.parse().ok(),
        _ => None,
    };
    VmView {
        name: name.to_owned(),
        state: match power(machine.text("runtime.powerState")) {
            PowerState::On => "running",
            PowerState::Paused => "paused",
            _ => "shut off",
        }
        .into(),
        disks: disks.collect(),
        hardware: Hardware {
            cpus: u32::try_from(number("config.hardware.numCPU")).unwrap_or(1),
            memory: ByteSize(number("config.hardware.memoryMB") << 20),
            ..Hardware::default()
        },
        managed,
    }
}

fn probe(directory: &Utf8Path) -> std::io::Result<()> {
    let probe = directory.join(format!(".probe-{}", std::process::id()));
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(probe)
}
