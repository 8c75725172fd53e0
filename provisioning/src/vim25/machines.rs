//! Machines on the server: looking at them, making, starting, stopping and removing them. Every function may be called
//! again, and none changes a machine that is not ours.

use super::dom::Element;
use super::inventory::CardPlug;
use super::properties::Object;
use super::request::{Reference, Request, Xml};
use super::task::{Watcher, busy};
use super::{Site, fault_of};
use crate::{Error, ErrorKind, Result};
use std::time::Duration;
use vcl_types::api::PowerState;
use vcl_types::{ByteSize, DiskBus, Firmware, Hardware, NicModel, OsName};

/// The key in a machine's extra configuration that says whose it is: a computer's name.
pub(crate) const OWNER: &str = "vcl.owner";
/// The key that says which backend of a site made it: several of them may work at one server.
pub(crate) const BACKEND: &str = "vcl.backend";
/// The key of templates: the digest of their content, [`BECOMING`] for what is going to be one.
pub(crate) const IMAGE: &str = "vcl.image";
/// The key of what a job is making, with the job's number.
pub(crate) const JOB: &str = "vcl.job";
/// What [`IMAGE`] says of a machine that is going to be a template.
pub(crate) const BECOMING: &str = "new";
/// How long a machine may take to go on or off when it is told to.
const POWER: Duration = Duration::from_secs(300);

/// A network card that a machine gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) mac: String,
    pub(crate) plug: CardPlug,
}

/// A machine as vcld wants it.
#[derive(Debug, Clone)]
pub(crate) struct MachineSpec {
    pub(crate) name: String,
    /// Its directory on the datastore.
    pub(crate) directory: String,
    /// What its extra configuration says: keys and values, [`OWNER`] among them.
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) note: String,
    pub(crate) os: OsName,
    pub(crate) hardware: Hardware,
    /// Its disks by their names on the datastore.
    pub(crate) disks: Vec<String>,
    pub(crate) cards: Vec<Card>,
}

/// Whose a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose<'t> {
    /// This backend's, made for this owner.
    Ours(&'t str),
    /// A template's: whichever backend made it, all clone it.
    Shared,
    /// Another backend's.
    Of(&'t str),
    /// None of vcld's.
    Foreign,
}

/// Whose a machine of this name and with these tags is, asked by a backend.
pub(super) fn whose<'t>(backend: &str, name: &str, tags: &'t [(String, String)]) -> Whose<'t> {
    let tag = |key| tag(tags, key);
    // A machine that was cloned from a template has its tag still.
    let image = tag(IMAGE).is_some_and(|key| name.strip_prefix(TEMPLATE) == Some(key));
    match (tag(OWNER), tag(BACKEND)) {
        (None, _) => Whose::Foreign,
        (Some(_), _) if image => Whose::Shared,
        (Some(_), Some(other)) if other != backend => Whose::Of(other),
        (Some(owner), _) => Whose::Ours(owner),
    }
}

/// Whether a machine has the name of a computer, and is another computer's: somebody has renamed it.
fn is_anothers(name: &str, owner: &str, tags: &[(String, String)]) -> bool {
    let computer = name.strip_prefix("vcl-").filter(|_| tag(tags, IMAGE) != Some(BECOMING));
    computer.is_some_and(|computer| computer != owner)
}

/// What a tag says.
pub(super) fn tag<'t>(tags: &'t [(String, String)], key: &str) -> Option<&'t str> {
    tags.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
}

/// How templates' names begin; their [`IMAGE`] follows.
pub(crate) const TEMPLATE: &str = "vcl-image-";

/// A machine as the server has it.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) reference: Reference,
    pub(crate) power: PowerState,
    pub(crate) template: bool,
    /// `[datastore] directory/name.vmx`
    pub(crate) file: String,
    pub(crate) cpus: u32,
    pub(crate) memory: ByteSize,
    pub(crate) address: Option<String>,
    /// Whether it has a snapshot: a machine's disk is then what differs from another.
    pub(crate) snapshot: bool,
    pub(crate) devices: Vec<Element>,
    tags: Vec<(String, String)>,
}

impl Machine {
    /// Its disks' descriptors, with what a guest sees of each in bytes, in the order of their units.
    pub(crate) fn disks(&self) -> Vec<(String, u64)> {
        let disks = self.devices.iter().filter(|d| d.xsi_type.as_deref() == Some("VirtualDisk"));
        let mut disks: Vec<_> = disks
            .filter_map(|d| {
                let size =
                    d.number_at("capacityInBytes").or_else(|| Some(d.number_at("capacityInKB")? * 1024));
                let order = (d.number_at("controllerKey"), d.number_at("unitNumber"));
                Some((order, (d.text_at("backing/fileName")?.to_owned(), size.unwrap_or(0))))
            })
            .collect();
        disks.sort();
        disks.into_iter().map(|(_, disk)| disk).collect()
    }
    /// Its network cards' keys and MAC addresses.
    #[cfg(feature = "vmware")]
    pub(crate) fn cards(&self) -> Vec<(u64, String)> {
        let cards = self.devices.iter().filter(|d| d.child("macAddress").is_some());
        cards
            .filter_map(|d| Some((d.number_at("key")?, d.text_at("macAddress")?.to_ascii_lowercase())))
            .collect()
    }
}

/// Where a machine's configuration lies.
pub(super) const FILE: &str = "config.files.vmPathName";
const DEVICES: &str = "config.hardware.device";
const READ: &[&str] = &[
    "runtime.powerState",
    "config.template",
    FILE,
    "config.hardware.numCPU",
    "config.hardware.memoryMB",
    DEVICES,
    "config.extraConfig",
    "guest.ipAddress",
    "snapshot.currentSnapshot",
];

/// A machine's power by the server's word.
pub(crate) fn power(word: Option<&str>) -> PowerState {
    match word {
        Some("poweredOn") => PowerState::On,
        Some("suspended") => PowerState::Paused,
        _ => PowerState::Off,
    }
}

/// The tags in a machine's extra configuration.
pub(crate) fn tags(extra: Option<&Element>) -> Vec<(String, String)> {
    let options = extra.into_iter().flat_map(|e| &e.children);
    let pairs = options.filter_map(|o| Some((o.text_at("key")?.to_owned(), o.text_at("value")?.to_owned())));
    pairs.filter(|(key, _)| key.starts_with("vcl.")).collect()
}

fn described(object: Object) -> Machine {
    let number = |name: &str| object.number(name).and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    Machine {
        power: power(object.text("runtime.powerState")),
        template: object.flag("config.template"),
        file: object.text(FILE).unwrap_or_default().to_owned(),
        cpus: number("config.hardware.numCPU"),
        memory: ByteSize(object.number("config.hardware.memoryMB").unwrap_or(0) << 20),
        address: object.text("guest.ipAddress").map(str::to_owned).filter(|a| !a.is_empty()),
        snapshot: object.get("snapshot.currentSnapshot").is_some(),
        devices: object.get(DEVICES).map(|d| d.children.clone()).unwrap_or_default(),
        tags: tags(object.get("config.extraConfig")),
        reference: object.reference,
    }
}

impl Site {
    /// The machine of a name, whoever made it; `None` when there is none.
    pub(crate) async fn machine(&self, name: &str) -> Result<Option<Machine>> {
        let datacenter = &self.place().await?.datacenter;
        let all = self.client.list(Some(datacenter), "VirtualMachine", &["name"]).await?;
        let Some(found) = all.into_iter().find(|vm| vm.text("name") == Some(name)) else { return Ok(None) };
        match self.client.read(&found.reference, READ).await {
            Ok(read) => Ok(Some(described(read))),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
    /// The machine of a name if it is ours, or a template. One that is somebody else's is refused: it is never touched.
    pub(crate) async fn ours(&self, name: &str) -> Result<Option<Machine>> {
        let Some(machine) = self.machine(name).await? else { return Ok(None) };
        let (address, backend) = (self.client.address(), &self.settings.name);
        let message = match whose(backend.as_str(), name, &machine.tags) {
            Whose::Ours(owner) if is_anothers(name, owner, &machine.tags) => format!(
                "the machine {name} at {address} was made for {owner}; give it its name back: vcl-{owner}"
            ),
            Whose::Ours(_) | Whose::Shared => return Ok(Some(machine)),
            // Whose it is stands in its configuration.
            Whose::Foreign if machine.file.is_empty() => {
                let message = format!(
                    "there is a machine {name} at {address} without a configuration: it is being made, or its host or \
                     datastore is away"
                );
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Whose::Of(other) => format!(
                "there is a machine {name} at {address} that backend {other} made, and this is {backend}; \
                 unload that computer there, or rename this one"
            ),
            Whose::Foreign => format!(
                "there is a machine {name} at {address} and vcld did not make it; rename it, or rename the computer"
            ),
        };
        Err(Error::new(ErrorKind::NotOurs, message))
    }
    /// The tags of what is made for an owner.
    pub(crate) fn tags_for(&self, owner: &str) -> Vec<(String, String)> {
        [(OWNER, owner), (BACKEND, self.settings.name.as_str())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    }
    /// The machine of a name, which must be there and ours.
    pub(crate) async fn must(&self, name: &str) -> Result<Machine> {
        self.ours(name).await?.ok_or_else(|| {
            let message = format!(
                "there is no machine {name} at {}: the computer is not loaded",
                self.client.address()
            );
            Error::new(ErrorKind::NotFound, message)
        })
    }
    /// A machine whose disks are to be copied as they are: it must be off, and its disks must be its own.
    pub(crate) async fn at_rest(&self, name: &str) -> Result<Machine> {
        let machine = self.must(name).await?;
        let message = if machine.power != PowerState::Off {
            format!(
                "{name} was turned on by somebody after it was made ready, and is not what was to be captured any more; \
                 capture it again"
            )
        } else if machine.snapshot {
            has_snapshot(name)
        } else {
            return Ok(machine);
        };
        Err(Error::new(ErrorKind::Refused, message))
    }
    /// A machine's power; `Absent` when there is none of ours.
    pub(crate) async fn power_state(&self, name: &str) -> Result<PowerState> {
        match self.ours(name).await {
            Err(e) if e.kind == ErrorKind::NotOurs => Ok(PowerState::Absent),
            machine => Ok(machine?.map_or(PowerState::Absent, |machine| machine.power)),
        }
    }

    /// Makes a machine. One of ours that is there already is left: it was made by an earlier try.
    pub(crate) async fn create_machine(&self, spec: &MachineSpec, watcher: &Watcher) -> Result<()> {
        if self.ours(&spec.name).await?.is_some() {
            return Ok(());
        }
        let place = self.place().await?;
        let path = self.on_datastore(&format!("{}/{}.vmx", spec.directory, spec.name));
        let disks: Vec<_> = spec.disks.iter().map(|d| self.on_datastore(d)).collect();
        let what = format!("making the machine {}", spec.name);
        let made = self.client.task(&what, watcher, |_| {
            Request::new("CreateVM_Task", &place.folder, |x| {
                x.element("config", |x| configuration(x, spec, &path, &disks));
                x.reference("pool", &place.pool);
            })
        });
        made.await.map(drop).map_err(busy)
    }

    /// Changes a machine of ours: tags, note, processors, memory; its cards are replaced.
    #[cfg(feature = "vmware")]
    pub(crate) async fn reconfigure(
        &self,
        machine: &Machine,
        spec: &MachineSpec,
        watcher: &Watcher,
    ) -> Result<()> {
        let what = format!("configuring the machine {}", spec.name);
        let changed = self.client.task(&what, watcher, |_| {
            Request::new("ReconfigVM_Task", &machine.reference, |x| {
                x.element("spec", |x| {
                    x.text("annotation", &spec.note);
                    x.text("numCPUs", spec.hardware.cpus).text("memoryMB", mebibytes(&spec.hardware));
                    for (key, mac) in machine.cards() {
                        let of = machine.devices.iter().find(|d| d.number_at("key") == Some(key));
                        let of = of.and_then(|d| d.xsi_type.as_deref()).unwrap_or("VirtualEthernetCard");
                        x.element("deviceChange", |x| {
                            x.text("operation", "remove");
                            x.typed("device", of, |x| {
                                x.text("key", key).text("macAddress", &mac);
                            });
                        });
                    }
                    for (n, card) in spec.cards.iter().enumerate() {
                        add_card(x, n, card, spec.hardware.nic_model);
                    }
                    extra(x, &spec.tags);
                });
            })
        });
        changed.await.map(drop)
    }

    /// Turns a machine on; `false` when it was on already.
    pub(crate) async fn power_on(&self, name: &str, watcher: &Watcher) -> Result<bool> {
        let machine = self.must(name).await?;
        if machine.power == PowerState::On {
            return Ok(false);
        }
        let watcher = watcher.clone().within(POWER);
        let what = format!("turning {name} on");
        let on =
            self.client.task(&what, &watcher, |_| Request::new("PowerOnVM_Task", &machine.reference, |_| {}));
        match on.await {
            // Somebody was quicker, or was and has cut it again.
            Err(mut e) if fault_of(&e) == Some("InvalidPowerState") => {
                if self.power_state(name).await? == PowerState::On {
                    return Ok(false);
                }
                e.kind = ErrorKind::Failed;
                Err(e)
            }
            on => on.map(|_| true),
        }
    }

    /// Cuts a machine's power; none, or one that is off, is well.
    pub(crate) async fn cut_power(&self, name: &str, watcher: &Watcher) -> Result<()> {
        let Some(machine) = self.ours(name).await? else { return Ok(()) };
        self.cut(name, &machine, watcher).await
    }
    async fn cut(&self, name: &str, machine: &Machine, watcher: &Watcher) -> Result<()> {
        if machine.power == PowerState::Off {
            return Ok(());
        }
        let watcher = watcher.clone().within(POWER);
        let what = format!("cutting the power of {name}");
        let off = self
            .client
            .task(&what, &watcher, |_| Request::new("PowerOffVM_Task", &machine.reference, |_| {}));
        match off.await {
            // It went off by itself meanwhile, or is gone.
            Err(e) if e.kind == ErrorKind::NotFound || fault_of(&e) == Some("InvalidPowerState") => {
                match self.power_state(name).await? {
                    PowerState::Off | PowerState::Absent => Ok(()),
                    _ => Err(e),
                }
            }
            off => off.map(drop),
        }
    }

    /// Removes a machine of ours with its disks; none is well. One that is on is cut off first.
    pub(crate) async fn remove_machine(&self, name: &str, watcher: &Watcher) -> Result<()> {
        let Some(machine) = self.ours(name).await? else { return Ok(()) };
        if !machine.template {
            self.cut(name, &machine, watcher).await?;
        }
        let what = format!("removing the machine {name}");
        let gone =
            self.client.task(&what, watcher, |_| Request::new("Destroy_Task", &machine.reference, |_| {}));
        match gone.await {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(()),
            gone => gone.map(drop),
        }
    }

    /// Removes what of a name is ours: a machine, and the directory of that name. What is another's stays.
    pub(crate) async fn remove_ours(&self, machine: &str, watcher: &Watcher) -> Result<()> {
        let gone = async {
            self.remove_machine(machine, watcher).await?;
            self.clear(machine, watcher).await
        };
        unless_others(gone.await)
    }

    /// Deletes a directory of ours. One in which a machine has a file is not deleted: whoever's it is, it would lose its
    /// disks. A machine that is given another name keeps its directory.
    pub(crate) async fn clear(&self, directory: &str, watcher: &Watcher) -> Result<()> {
        let path = self.on_datastore(directory);
        let images = self.settings.images.as_str();
        let holds_images =
            images.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let message = if directory.is_empty() || holds_images {
            format!(
                "{path} holds vcld's images; give the computer another name, or configure another `images`"
            )
        } else if let Some(name) = self.lodger(directory).await? {
            format!("the machine {name} lies in {path}, where vcld has to clear away; move it elsewhere")
        } else {
            return self.delete(directory, watcher).await;
        };
        Err(Error::new(ErrorKind::NotOurs, message))
    }

    /// The name of a machine, whoever's it is, that has its configuration or a disk in a directory.
    pub(crate) async fn lodger(&self, directory: &str) -> Result<Option<String>> {
        let datacenter = &self.place().await?.datacenter;
        let all = self.client.list(Some(datacenter), "VirtualMachine", &["name", FILE, DEVICES]).await?;
        let below = |path: &str| {
            let name = self.name_of(path).and_then(|name| name.strip_prefix(directory));
            name.is_some_and(|rest| rest.starts_with('/'))
        };
        let lodger = all.iter().find(|vm| {
            let devices = vm.get(DEVICES).map(|d| d.children.as_slice()).unwrap_or_default();
            vm.text(FILE).is_some_and(below)
                || devices.iter().filter_map(|d| d.text_at("backing/fileName")).any(below)
        });
        Ok(lodger.map(|machine| machine.text("name").unwrap_or_default().to_owned()))
    }

    /// Asks the guest to shut down or the machine to reset.
    pub(crate) async fn ask(&self, name: &str, method: &'static str) -> Result<()> {
        let machine = self.must(name).await?;
        let what = format!("{method} of {name}");
        let request = || Request::new(method, &machine.reference, |_| {});
        if method.ends_with("_Task") {
            let watcher = Watcher::doing().within(POWER);
            self.client.task(&what, &watcher, |_| request()).await.map(drop)
        } else {
            self.client.change(&what, |_| request()).await.map(drop)
        }
    }
}

/// Why a machine with a snapshot is not captured.
pub(super) fn has_snapshot(name: &str) -> String {
    format!(
        "{name} has a snapshot; delete it, or wait until the backup that made it is done, and capture it again"
    )
}

/// What an undo makes of a machine that is another's: there is nothing to undo.
pub(crate) fn unless_others(undone: Result<()>) -> Result<()> {
    match undone {
        Err(e) if e.kind == ErrorKind::NotOurs => Ok(()),
        undone => undone,
    }
}

fn mebibytes(hardware: &Hardware) -> u64 {
    // The server takes multiples of four.
    (hardware.memory.bytes() >> 20).next_multiple_of(4).max(4)
}

/// The controller that disks hang on: its type, its key, its bus.
fn controller(bus: DiskBus) -> (&'static str, i64) {
    match bus {
        // The one that is virtio's twin: made for virtual machines, and current guests have its driver.
        DiskBus::Virtio | DiskBus::Scsi => ("ParaVirtualSCSIController", 1000),
        DiskBus::Sata => ("VirtualAHCIController", 15000),
        // Always there, with these keys.
        DiskBus::Ide => ("VirtualIDEController", 200),
    }
}

fn card_type(model: NicModel) -> &'static str {
    match model {
        NicModel::Virtio => "VirtualVmxnet3",
        NicModel::E1000e => "VirtualE1000e",
        // There is no Realtek card; the Intel one is as old, and every guest has its driver.
        NicModel::E1000 | NicModel::Rtl8139 => "VirtualE1000",
    }
}

fn configuration(x: &mut Xml, spec: &MachineSpec, path: &str, disks: &[String]) {
    let hardware = &spec.hardware;
    let guest = match spec.os {
        OsName::Linux => "otherLinux64Guest",
        OsName::Windows => "windows9_64Guest",
    };
    x.text("name", &spec.name).text("guestId", guest).text("annotation", &spec.note);
    x.element("files", |x| {
        x.text("vmPathName", path);
    });
    x.text("numCPUs", hardware.cpus).text("memoryMB", mebibytes(hardware));
    let (of, key) = controller(hardware.disk_bus);
    if hardware.disk_bus != DiskBus::Ide {
        x.element("deviceChange", |x| {
            x.text("operation", "add");
            x.typed("device", of, |x| {
                x.text("key", key).text("busNumber", 0);
                if key == 1000 {
                    x.text("sharedBus", "noSharing");
                }
            });
        });
    }
    for (n, disk) in disks.iter().enumerate() {
        let n = i64::try_from(n).unwrap_or_default();
        // Two on each IDE channel; on SCSI the controller itself is number 7.
        let (controller, unit) = match hardware.disk_bus {
            DiskBus::Ide => (key + n / 2, n % 2),
            DiskBus::Sata => (key, n),
            _ => (key, if n < 7 { n } else { n + 1 }),
        };
        x.element("deviceChange", |x| {
            x.text("operation", "add");
            x.typed("device", "VirtualDisk", |x| {
                x.text("key", -100 - n);
                x.typed("backing", "VirtualDiskFlatVer2BackingInfo", |x| {
                    x.text("fileName", disk).text("diskMode", "persistent");
                });
                x.text("controllerKey", controller).text("unitNumber", unit);
                x.text("capacityInKB", 0);
            });
        });
    }
    for (n, card) in spec.cards.iter().enumerate() {
        add_card(x, n, card, hardware.nic_model);
    }
    extra(x, &spec.tags);
    if hardware.firmware == Firmware::UefiSecure {
        x.element("bootOptions", |x| {
            x.text("efiSecureBootEnabled", true);
        });
    }
    x.text("firmware", if hardware.firmware == Firmware::Bios { "bios" } else { "efi" });
}

fn add_card(x: &mut Xml, n: usize, card: &Card, model: NicModel) {
    x.element("deviceChange", |x| {
        x.text("operation", "add");
        x.typed("device", card_type(model), |x| {
            x.text("key", -200 - i64::try_from(n).unwrap_or_default());
            match &card.plug {
                CardPlug::Network { name, network } => {
                    x.typed("backing", "VirtualEthernetCardNetworkBackingInfo", |x| {
                        x.text("deviceName", name).reference("network", network);
                    });
                }
                CardPlug::Distributed { switch, key } => {
                    x.typed("backing", "VirtualEthernetCardDistributedVirtualPortBackingInfo", |x| {
                        x.element("port", |x| {
                            x.text("switchUuid", switch).text("portgroupKey", key);
                        });
                    });
                }
            }
            x.element("connectable", |x| {
                x.text("startConnected", true).text("allowGuestControl", true).text("connected", true);
            });
            x.text("addressType", "manual").text("macAddress", &card.mac);
        });
    });
}

/// Tags of a machine's extra configuration.
pub(crate) fn extra(x: &mut Xml, tags: &[(String, String)]) {
    for (key, value) in tags {
        x.typed("extraConfig", "OptionValue", |x| {
            x.text("key", key).value("value", "xsd:string", value);
        });
    }
}
