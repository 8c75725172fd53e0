//! What a domain's XML says of a machine, ours or an admin's.

use super::definition::OWNER;
use serde::{Deserialize, Serialize};
use vcl_types::{ByteSize, DirectBoot, DiskBus, Firmware, Hardware, NicModel};

/// A machine as its host describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    pub(super) hardware: Hardware,
    pub(super) disks: Vec<DescribedDisk>,
    pub(super) nics: Vec<DescribedNic>,
    /// The file with its firmware variables.
    pub(super) variables: Option<String>,
    pub(super) boot: Option<DirectBoot>,
    /// Who the owner tag says it is; `None` for a machine that is not vcld's.
    pub(super) owner: Option<String>,
    /// The log of its first serial console.
    pub(super) console: Option<String>,
    /// What cannot be carried over to another machine, in words.
    pub(super) peculiar: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DescribedDisk {
    pub(super) path: String,
    pub(super) format: String,
    pub(super) read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DescribedNic {
    pub(super) mac: String,
    /// `bridge`, `network`, `user`, …
    pub(super) kind: String,
    pub(super) source: Option<String>,
}

mod raw {
    use serde::Deserialize;
    #[derive(Deserialize)]
    pub struct Domain {
        #[serde(default)]
        pub metadata: Option<Metadata>,
        pub memory: Amount,
        pub vcpu: Text,
        pub os: Os,
        #[serde(default)]
        pub devices: Devices,
    }
    #[derive(Deserialize)]
    pub struct Metadata {
        #[serde(rename = "machine")]
        pub machine: Option<Machine>,
    }
    #[derive(Deserialize)]
    pub struct Machine {
        #[serde(rename = "@xmlns:vcld")]
        pub namespace: Option<String>,
        #[serde(rename = "@owner")]
        pub owner: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Amount {
        #[serde(rename = "@unit")]
        pub unit: Option<String>,
        #[serde(rename = "$text")]
        pub value: u64,
    }
    #[derive(Deserialize, Default)]
    pub struct Text {
        #[serde(rename = "$text", default)]
        pub text: String,
    }
    #[derive(Deserialize)]
    pub struct Os {
        #[serde(rename = "@firmware")]
        pub firmware: Option<String>,
        #[serde(rename = "type")]
        pub kind: OsType,
        pub loader: Option<Loader>,
        pub nvram: Option<Text>,
        #[serde(rename = "firmware")]
        pub features: Option<FirmwareFeatures>,
        pub kernel: Option<Text>,
        pub initrd: Option<Text>,
        pub cmdline: Option<Text>,
    }
    #[derive(Deserialize)]
    pub struct OsType {
        #[serde(rename = "@machine")]
        pub machine: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Loader {
        #[serde(rename = "@secure")]
        pub secure: Option<String>,
        #[serde(rename = "@type")]
        pub kind: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct FirmwareFeatures {
        #[serde(rename = "feature", default)]
        pub features: Vec<Feature>,
    }
    #[derive(Deserialize)]
    pub struct Feature {
        #[serde(rename = "@enabled")]
        pub enabled: String,
        #[serde(rename = "@name")]
        pub name: String,
    }
    #[derive(Deserialize, Default)]
    pub struct Devices {
        #[serde(rename = "disk", default)]
        pub disks: Vec<Disk>,
        #[serde(rename = "interface", default)]
        pub nics: Vec<Nic>,
        #[serde(rename = "serial", default)]
        pub serials: Vec<Serial>,
        #[serde(rename = "tpm", default)]
        pub tpms: Vec<serde::de::IgnoredAny>,
        #[serde(rename = "hostdev", default)]
        pub host_devices: Vec<serde::de::IgnoredAny>,
        #[serde(rename = "filesystem", default)]
        pub filesystems: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    pub struct Disk {
        #[serde(rename = "@type")]
        pub kind: Option<String>,
        #[serde(rename = "@device")]
        pub device: Option<String>,
        pub driver: Option<Driver>,
        pub source: Option<Source>,
        pub target: Target,
        pub readonly: Option<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    pub struct Driver {
        #[serde(rename = "@type")]
        pub format: Option<String>,
    }
    #[derive(Deserialize, Default)]
    pub struct Source {
        #[serde(rename = "@file")]
        pub file: Option<String>,
        #[serde(rename = "@dev")]
        pub dev: Option<String>,
        #[serde(rename = "@bridge")]
        pub bridge: Option<String>,
        #[serde(rename = "@network")]
        pub network: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Target {
        #[serde(rename = "@bus")]
        pub bus: Option<String>,
    }
    #[derive(Deserialize)]
    pub struct Nic {
        #[serde(rename = "@type")]
        pub kind: String,
        pub mac: Mac,
        pub source: Option<Source>,
        pub model: Option<Model>,
    }
    #[derive(Deserialize)]
    pub struct Mac {
        #[serde(rename = "@address")]
        pub address: String,
    }
    #[derive(Deserialize)]
    pub struct Model {
        #[serde(rename = "@type")]
        pub kind: String,
    }
    #[derive(Deserialize)]
    pub struct Serial {
        pub log: Option<Log>,
    }
    #[derive(Deserialize)]
    pub struct Log {
        #[serde(rename = "@file")]
        pub file: String,
    }
}

fn file_text(text: Option<raw::Text>) -> Option<String> {
    text.map(|t| t.text.trim().to_owned()).filter(|t| !t.is_empty())
}

impl Description {
    /// Reads a domain's XML.
    pub(super) fn parse(xml: &str) -> Result<Self, quick_xml::DeError> {
        let mut reader = quick_xml::de::Deserializer::from_str(xml);
        let domain = raw::Domain::deserialize(&mut reader)?;
        let mut peculiar = Vec::new();
        let unit = match domain.memory.unit.as_deref() {
            None | Some("KiB" | "k") => 1024,
            Some("MiB" | "M") => 1 << 20,
            Some("GiB" | "G") => 1 << 30,
            Some("b" | "bytes") => 1,
            Some(other) => {
                peculiar.push(format!("memory in {other}, read as KiB"));
                1024
            }
        };
        let secure =
            domain.os.loader.as_ref().is_some_and(|l| l.secure.as_deref() == Some("yes"))
                || domain.os.features.as_ref().is_some_and(|f| {
                    f.features.iter().any(|f| f.name == "secure-boot" && f.enabled == "yes")
                });
        let uefi = domain.os.firmware.as_deref() == Some("efi")
            || domain.os.nvram.is_some()
            || domain.os.loader.as_ref().is_some_and(|l| l.kind.as_deref() == Some("pflash"));
        // `pc-q35-7.2` → `q35`, `pc-i440fx-7.2` → `pc`: the version is the host's affair.
        let machine = match domain.os.kind.machine.as_deref() {
            Some(m) if m.contains("q35") => "q35",
            Some(m) if m.starts_with("pc") || m.contains("i440fx") => "pc",
            Some(other) => {
                peculiar.push(format!("machine type {other}, taken as q35"));
                "q35"
            }
            None => "q35",
        };
        let mut disks = Vec::new();
        let mut bus = DiskBus::Virtio;
        for disk in domain.devices.disks {
            if disk.device.as_deref().unwrap_or("disk") != "disk" {
                continue; // a CD drive goes with the host, not with the image
            }
            let source = disk.source.unwrap_or_default();
            let Some(path) = source.file.or(source.dev) else {
                peculiar
                    .push(format!("a disk of type {}, which is not a file", disk.kind.unwrap_or_default()));
                continue;
            };
            if disks.is_empty() {
                bus = match disk.target.bus.as_deref() {
                    Some("sata") => DiskBus::Sata,
                    Some("scsi") => DiskBus::Scsi,
                    Some("ide") => DiskBus::Ide,
                    _ => DiskBus::Virtio,
                };
            }
            let format = disk.driver.and_then(|d| d.format).unwrap_or_else(|| "raw".into());
            disks.push(DescribedDisk { path, format, read_only: disk.readonly.is_some() });
        }
        for _ in &domain.devices.host_devices {
            peculiar.push("a device of the host".into());
        }
        for _ in &domain.devices.filesystems {
            peculiar.push("a directory of the host".into());
        }
        let nic_model =
            match domain.devices.nics.first().and_then(|n| n.model.as_ref()).map(|m| m.kind.as_str()) {
                Some("e1000e") => NicModel::E1000e,
                Some("e1000") => NicModel::E1000,
                Some("rtl8139") => NicModel::Rtl8139,
                _ => NicModel::Virtio,
            };
        let nics = domain.devices.nics.into_iter().map(|nic| {
            let source = nic.source.unwrap_or_default();
            DescribedNic { mac: nic.mac.address, kind: nic.kind, source: source.bridge.or(source.network) }
        });
        let owner = domain.metadata.and_then(|m| m.machine).filter(|m| m.namespace.as_deref() == Some(OWNER));
        let kernel = file_text(domain.os.kernel);
        let (initrd, cmdline) = (file_text(domain.os.initrd), file_text(domain.os.cmdline));
        Ok(Self {
            hardware: Hardware {
                machine: machine.into(),
                firmware: match (uefi, secure) {
                    (false, _) => Firmware::Bios,
                    (true, false) => Firmware::Uefi,
                    (true, true) => Firmware::UefiSecure,
                },
                tpm: !domain.devices.tpms.is_empty(),
                disk_bus: bus,
                nic_model,
                cpus: domain.vcpu.text.trim().parse().unwrap_or(1),
                memory: ByteSize(domain.memory.value.saturating_mul(unit)),
            },
            disks,
            nics: nics.collect(),
            variables: file_text(domain.os.nvram),
            boot: kernel.map(|kernel| DirectBoot { kernel, initrd, cmdline: cmdline.unwrap_or_default() }),
            owner: owner.and_then(|m| m.owner),
            console: domain.devices.serials.into_iter().find_map(|s| s.log).map(|l| l.file),
            peculiar,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As virt-manager writes them: UEFI with Secure Boot, TPM, a CD drive, a host directory.
    const VIRT_MANAGER: &str = r#"<domain type="kvm">
      <name>win11-cad</name><uuid>f8a3b9a0-3c8e-4a63-8ac4-4f2f7a3f6d11</uuid>
      <metadata><libosinfo:libosinfo xmlns:libosinfo="http://libosinfo.org/xmlns/libvirt/domain/1.0">
        <libosinfo:os id="http://microsoft.com/win/11"/></libosinfo:libosinfo></metadata>
      <memory unit="KiB">4194304</memory><currentMemory unit="KiB">4194304</currentMemory>
      <vcpu placement="static">2</vcpu>
      <os firmware="efi"><type arch="x86_64" machine="pc-q35-7.2">hvm</type>
        <firmware><feature enabled="yes" name="enrolled-keys"/><feature enabled="yes" name="secure-boot"/></firmware>
        <loader readonly="yes" secure="yes" type="pflash">/usr/share/OVMF/OVMF_CODE_4M.ms.fd</loader>
        <nvram template="/usr/share/OVMF/OVMF_VARS_4M.ms.fd">/var/lib/libvirt/qemu/nvram/win11-cad_VARS.fd</nvram></os>
      <devices>
        <disk type="file" device="disk"><driver name="qemu" type="qcow2" discard="unmap"/>
          <source file="/var/lib/libvirt/images/win11.qcow2"/><target dev="sda" bus="sata"/></disk>
        <disk type="file" device="cdrom"><target dev="sdb" bus="sata"/><readonly/></disk>
        <interface type="network"><mac address="52:54:00:aa:bb:cc"/><source network="default"/><model type="e1000e"/></interface>
        <filesystem type="mount"><source dir="/srv"/><target dir="x"/></filesystem>
        <serial type="pty"><target port="0"/></serial>
        <tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm>
      </devices></domain>"#;

    #[test]
    fn a_machine_of_virt_manager_s_is_read() {
        let d = Description::parse(VIRT_MANAGER).unwrap();
        assert_eq!(d.hardware.to_string(), "q35 UEFI (Secure Boot) TPM sata 2 cpus 4.0 GiB");
        assert_eq!(d.disks.len(), 1, "the CD drive is not a disk");
        assert_eq!(
            (d.disks[0].path.as_str(), d.disks[0].format.as_str()),
            ("/var/lib/libvirt/images/win11.qcow2", "qcow2")
        );
        assert_eq!(d.nics[0].source.as_deref(), Some("default"));
        assert_eq!(d.variables.as_deref(), Some("/var/lib/libvirt/qemu/nvram/win11-cad_VARS.fd"));
        assert_eq!((d.owner, d.peculiar.len()), (None, 1));
    }

    #[test]
    fn a_foreign_element_of_the_same_name_is_not_our_owner_tag() {
        let xml = VIRT_MANAGER.replace("<libosinfo:os", "<libosinfo:machine owner='x'/><libosinfo:os");
        assert_eq!(Description::parse(&xml).unwrap().owner, None);
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Description::parse("<domain>").is_err());
        assert!(Description::parse("").is_err());
    }
}
