//! A machine as vcld wants it, and its domain XML.
//!
//! The XML is written by an XML writer, so that nothing in a name can become an element. Every machine that vcld
//! defines carries a `<vcld:machine>` element in its metadata: the owner tag, without which it is never touched again.

use quick_xml::Writer;
use quick_xml::events::BytesText;
use serde::{Deserialize, Serialize};
use std::io;
use vcl_types::{DirectBoot, Firmware, Hardware};

/// The namespace of the owner tag.
pub(super) const OWNER: &str = "urn:vcld:machine:1";

/// What a network card is plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum NicPlug {
    Bridge(String),
    Network(String),
    /// User networking; the guest's ssh is forwarded from this port of 127.0.0.1.
    User(u16),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DefinedNic {
    pub(super) mac: String,
    pub(super) plug: NicPlug,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DefinedDisk {
    /// The overlay that the machine writes to.
    pub(super) path: String,
    /// What it lies on, never opened for writing.
    pub(super) backing: String,
    pub(super) backing_format: String,
}

/// A machine to be defined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Definition {
    pub(super) domain: String,
    /// The computer it is, or the image that a throw-away machine is for.
    pub(super) owner: String,
    pub(super) kvm: bool,
    pub(super) hardware: Hardware,
    pub(super) disks: Vec<DefinedDisk>,
    pub(super) nics: Vec<DefinedNic>,
    pub(super) console: String,
    /// The machine's own copy of its firmware variables.
    pub(super) variables: Option<String>,
    /// Kernel and initrd with absolute paths.
    pub(super) boot: Option<DirectBoot>,
}

pub(super) type W = Writer<Vec<u8>>;

pub(super) fn leaf(w: &mut W, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    w.create_element(name).with_attributes(attributes.iter().copied()).write_empty()?;
    Ok(())
}
pub(super) fn text(w: &mut W, name: &str, attributes: &[(&str, &str)], content: &str) -> io::Result<()> {
    w.create_element(name)
        .with_attributes(attributes.iter().copied())
        .write_text_content(BytesText::new(content))?;
    Ok(())
}
pub(super) fn element(
    w: &mut W,
    name: &str,
    attributes: &[(&str, &str)],
    inner: impl FnOnce(&mut W) -> io::Result<()>,
) -> io::Result<()> {
    w.create_element(name).with_attributes(attributes.iter().copied()).write_inner_content(inner)?;
    Ok(())
}

/// `vda`, `sdb` …
fn disk_name(bus: &str, n: usize) -> String {
    let prefix = match bus {
        "virtio" => "vd",
        "ide" => "hd",
        _ => "sd",
    };
    let letter = char::from(b'a' + u8::try_from(n % 26).unwrap_or(0));
    if n < 26 {
        format!("{prefix}{letter}")
    } else {
        format!("{prefix}{}{letter}", char::from(b'a' + (n / 26 - 1) as u8))
    }
}

impl Definition {
    /// The domain XML. `uuid` is that of the domain it takes the place of; libvirt chooses one for a new domain.
    pub(super) fn xml(&self, uuid: Option<&str>) -> io::Result<String> {
        let mut w = Writer::new_with_indent(Vec::new(), b' ', 2);
        let kind = if self.kvm { "kvm" } else { "qemu" };
        let user_nics: Vec<_> = self.nics.iter().filter(|n| matches!(n.plug, NicPlug::User(_))).collect();
        let mut attributes = vec![("type", kind)];
        if !user_nics.is_empty() {
            attributes.push(("xmlns:qemu", "http://libvirt.org/schemas/domain/qemu/1.0"));
        }
        element(&mut w, "domain", &attributes, |w| {
            text(w, "name", &[], &self.domain)?;
            if let Some(uuid) = uuid {
                text(w, "uuid", &[], uuid)?;
            }
            text(w, "title", &[], &format!("vcld: {}", self.owner))?;
            element(w, "metadata", &[], |w| {
                leaf(w, "vcld:machine", &[("xmlns:vcld", OWNER), ("owner", &self.owner)])
            })?;
            text(w, "memory", &[("unit", "KiB")], &(self.hardware.memory.bytes() / 1024).to_string())?;
            text(w, "vcpu", &[], &self.hardware.cpus.to_string())?;
            self.os(w)?;
            element(w, "features", &[], |w| {
                // Without ACPI a shutdown from outside never reaches the guest.
                leaf(w, "acpi", &[])?;
                leaf(w, "apic", &[])?;
                if self.hardware.firmware == Firmware::UefiSecure {
                    leaf(w, "smm", &[("state", "on")])?;
                }
                Ok(())
            })?;
            leaf(w, "cpu", &[("mode", if self.kvm { "host-passthrough" } else { "maximum" })])?;
            leaf(w, "clock", &[("offset", "utc")])?;
            text(w, "on_poweroff", &[], "destroy")?;
            text(w, "on_reboot", &[], "restart")?;
            text(w, "on_crash", &[], "destroy")?;
            element(w, "devices", &[], |w| self.devices(w))?;
            if !user_nics.is_empty() {
                self.user_network(w, &user_nics)?;
            }
            Ok(())
        })?;
        String::from_utf8(w.into_inner()).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
    }

    fn os(&self, w: &mut W) -> io::Result<()> {
        let efi = [("firmware", "efi")];
        let uefi = self.hardware.firmware != Firmware::Bios;
        element(w, "os", if uefi { &efi } else { &[] }, |w| {
            text(w, "type", &[("arch", "x86_64"), ("machine", &self.hardware.machine)], "hvm")?;
            if uefi {
                let secure = if self.hardware.firmware == Firmware::UefiSecure { "yes" } else { "no" };
                element(w, "firmware", &[], |w| {
                    leaf(w, "feature", &[("enabled", secure), ("name", "enrolled-keys")])?;
                    leaf(w, "feature", &[("enabled", secure), ("name", "secure-boot")])
                })?;
                if let Some(path) = &self.variables {
                    text(w, "nvram", &[], path)?;
                }
            }
            match &self.boot {
                Some(boot) => {
                    text(w, "kernel", &[], &boot.kernel)?;
                    if let Some(initrd) = &boot.initrd {
                        text(w, "initrd", &[], initrd)?;
                    }
                    text(w, "cmdline", &[], &boot.cmdline)
                }
                None => leaf(w, "boot", &[("dev", "hd")]),
            }
        })
    }

    fn devices(&self, w: &mut W) -> io::Result<()> {
        let bus = self.hardware.disk_bus.as_str();
        for (n, disk) in self.disks.iter().enumerate() {
            element(w, "disk", &[("type", "file"), ("device", "disk")], |w| {
                leaf(w, "driver", &[("name", "qemu"), ("type", "qcow2"), ("discard", "unmap")])?;
                leaf(w, "source", &[("file", &disk.path)])?;
                element(w, "backingStore", &[("type", "file")], |w| {
                    leaf(w, "format", &[("type", &disk.backing_format)])?;
                    // The library's files are readable for all and keep their owner.
                    element(w, "source", &[("file", &disk.backing)], |w| {
                        leaf(w, "seclabel", &[("model", "dac"), ("relabel", "no")])
                    })
                })?;
                leaf(w, "target", &[("dev", &disk_name(bus, n)), ("bus", bus)])
            })?;
        }
        if bus == "scsi" {
            leaf(w, "controller", &[("type", "scsi"), ("model", "virtio-scsi")])?;
        }
        for nic in &self.nics {
            let (kind, name) = match &nic.plug {
                NicPlug::Bridge(name) => ("bridge", name),
                NicPlug::Network(name) => ("network", name),
                NicPlug::User(_) => continue,
            };
            element(w, "interface", &[("type", kind)], |w| {
                leaf(w, "mac", &[("address", &nic.mac)])?;
                leaf(w, "source", &[(kind, name)])?;
                leaf(w, "model", &[("type", self.hardware.nic_model.as_str())])?;
                // No boot from the network: the option ROM costs a second and gives nothing.
                leaf(w, "rom", &[("enabled", "no")])
            })?;
        }
        element(w, "serial", &[("type", "pty")], |w| {
            leaf(w, "log", &[("file", &self.console), ("append", "on")])?;
            leaf(w, "target", &[("port", "0")])
        })?;
        element(w, "console", &[("type", "pty")], |w| {
            leaf(w, "target", &[("type", "serial"), ("port", "0")])
        })?;
        element(w, "channel", &[("type", "unix")], |w| {
            leaf(w, "target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")])
        })?;
        // A socket instead of a port: nobody else on the host can look.
        element(w, "graphics", &[("type", "vnc")], |w| leaf(w, "listen", &[("type", "socket")]))?;
        element(w, "video", &[], |w| leaf(w, "model", &[("type", "vga")]))?;
        leaf(w, "input", &[("type", "tablet"), ("bus", "usb")])?;
        element(w, "rng", &[("model", "virtio")], |w| {
            text(w, "backend", &[("model", "random")], "/dev/urandom")
        })?;
        leaf(w, "memballoon", &[("model", "virtio")])?;
        if self.hardware.tpm {
            element(w, "tpm", &[("model", "tpm-crb")], |w| {
                leaf(w, "backend", &[("type", "emulator"), ("version", "2.0")])
            })?;
        }
        Ok(())
    }

    /// libvirt before 9.2 knows no port forward for user networking, so qemu is told directly. libvirt marks such a
    /// machine as tainted, which is harmless.
    fn user_network(&self, w: &mut W, nics: &[&DefinedNic]) -> io::Result<()> {
        element(w, "qemu:commandline", &[], |w| {
            for (n, nic) in nics.iter().enumerate() {
                let NicPlug::User(port) = nic.plug else { continue };
                let model = match self.hardware.nic_model {
                    vcl_types::NicModel::Virtio => "virtio-net-pci",
                    other => other.as_str(),
                };
                // Slots from the top, where libvirt, which counts from the bottom, has put nothing.
                let (bus, slot) =
                    (if self.hardware.machine.starts_with("pc") { "pci.0" } else { "pcie.0" }, 0x1e - n);
                let net = format!("user,id=vcld{n},hostfwd=tcp:127.0.0.1:{port}-:22");
                let card =
                    format!("{model},netdev=vcld{n},mac={},romfile=,bus={bus},addr={slot:#x}", nic.mac);
                for argument in ["-netdev", &net, "-device", &card] {
                    leaf(w, "qemu:arg", &[("value", argument)])?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_types::ByteSize;

    fn definition() -> Definition {
        Definition {
            domain: "vcl-gis-01".into(),
            owner: "gis-01".into(),
            kvm: true,
            hardware: Hardware { cpus: 2, memory: ByteSize::gibibytes(4), ..Hardware::default() },
            disks: vec![DefinedDisk {
                path: "/var/lib/vcld/kvm1/gis-01/disk0.qcow2".into(),
                backing: "/srv/vcl/gis/1/disk0.qcow2".into(),
                backing_format: "qcow2".into(),
            }],
            nics: vec![
                DefinedNic { mac: "52:54:00:00:00:01".into(), plug: NicPlug::Bridge("br20".into()) },
                DefinedNic { mac: "52:54:00:00:00:02".into(), plug: NicPlug::Network("default".into()) },
            ],
            console: "/var/lib/vcld/kvm1/gis-01/console.log".into(),
            variables: None,
            boot: None,
        }
    }

    #[test]
    fn a_bios_machine_on_a_bridge_and_a_network() {
        insta::assert_snapshot!(definition().xml(None).unwrap());
    }

    #[test]
    fn a_secure_boot_machine_with_tpm_two_sata_disks_and_no_kvm() {
        let mut d = definition();
        d.kvm = false;
        d.hardware.firmware = Firmware::UefiSecure;
        d.hardware.tpm = true;
        d.hardware.disk_bus = vcl_types::DiskBus::Sata;
        d.variables = Some("/var/lib/vcld/kvm1/gis-01/variables".into());
        d.disks.push(d.disks[0].clone());
        insta::assert_snapshot!(d.xml(None).unwrap());
    }

    #[test]
    fn a_direct_boot_machine_with_user_networking() {
        let mut d = definition();
        d.nics = vec![DefinedNic { mac: "52:54:00:00:00:01".into(), plug: NicPlug::User(40022) }];
        d.boot = Some(DirectBoot {
            kernel: "/k".into(),
            initrd: Some("/i".into()),
            cmdline: "root=/dev/vda & <x>".into(),
        });
        insta::assert_snapshot!(d.xml(None).unwrap());
    }

    #[test]
    fn nothing_in_a_name_becomes_an_element() {
        let mut d = definition();
        d.owner = "<evil a='1'>\"&".into();
        let xml = d.xml(None).unwrap();
        assert!(!xml.contains("<evil"), "{xml}");
        assert_eq!(
            super::super::description::Description::parse(&xml).unwrap().owner.as_deref(),
            Some("<evil a='1'>\"&")
        );
    }

    #[test]
    fn disks_past_the_alphabet_have_two_letters() {
        assert_eq!([0, 25, 26, 27].map(|n| disk_name("virtio", n)), ["vda", "vdz", "vdaa", "vdab"]);
    }
}
