//! Images, their revisions, and the hardware a revision was made on.

use crate::{BackendName, ByteSize, ImageName, InvalidName, JobId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `debian@2`, or `debian` for the newest revision.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageRef {
    /// The image.
    pub name: ImageName,
    /// The revision, counted from 1.
    pub revision: Option<u32>,
}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for ImageRef {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        <String as utoipa::PartialSchema>::schema()
    }
}
#[cfg(feature = "openapi")]
impl utoipa::ToSchema for ImageRef {}

impl ImageRef {
    /// A certain revision.
    #[must_use]
    pub fn new(name: ImageName, revision: u32) -> Self {
        Self { name, revision: Some(revision) }
    }
}
impl FromStr for ImageRef {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let Some((name, revision)) = text.split_once('@') else {
            return Ok(Self { name: text.parse()?, revision: None });
        };
        let number = revision.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(|| InvalidName {
            what: "revision",
            value: text.chars().take(80).collect(),
            rule: "a revision is a number from 1, as in `debian@2`",
        })?;
        Ok(Self { name: name.parse()?, revision: Some(number) })
    }
}
impl TryFrom<String> for ImageRef {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}
impl From<ImageRef> for String {
    fn from(image: ImageRef) -> String {
        image.to_string()
    }
}
impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision {
            Some(n) => f.pad(&format!("{}@{n}", self.name)),
            None => f.pad(self.name.as_str()),
        }
    }
}

/// A SHA-256 digest in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema), schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// From the 32 bytes of a SHA-256.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes.iter().fold(String::with_capacity(64), |mut hex, b| {
            use fmt::Write as _;
            let _ = write!(hex, "{b:02x}");
            hex
        }))
    }
    /// The 32 bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(self.0.as_bytes().chunks_exact(2)) {
            *byte = pair.iter().fold(0, |byte, digit| byte << 4 | value(*digit));
        }
        bytes
    }
    /// The 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for Digest {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            Ok(Self(text))
        } else {
            Err(InvalidName {
                what: "digest",
                value: text.chars().take(80).collect(),
                rule: "it has 64 hex digits",
            })
        }
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How the machine's firmware starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Firmware {
    /// A PC BIOS.
    #[default]
    Bios,
    /// UEFI; its variables are stored with the revision.
    Uefi,
    /// UEFI with Secure Boot on.
    UefiSecure,
}

/// What a disk hangs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum DiskBus {
    /// virtio-blk.
    #[default]
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// AHCI.
    Sata,
    /// Parallel IDE, for old guests on the `pc` machine.
    Ide,
}

impl DiskBus {
    /// libvirt's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::Scsi => "scsi",
            Self::Sata => "sata",
            Self::Ide => "ide",
        }
    }
}

/// The model of the network cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum NicModel {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82574.
    E1000e,
    /// Intel 82540.
    E1000,
    /// Realtek 8139.
    Rtl8139,
}

impl NicModel {
    /// libvirt's and qemu's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::E1000e => "e1000e",
            Self::E1000 => "e1000",
            Self::Rtl8139 => "rtl8139",
        }
    }
}

/// The hardware a revision was made on. A load builds its machine from this unless the computer says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Hardware {
    /// The machine type without its version: `q35` or `pc`.
    pub machine: String,
    /// Its firmware.
    pub firmware: Firmware,
    /// Whether it had a TPM 2.0.
    pub tpm: bool,
    /// What its disks hang on.
    pub disk_bus: DiskBus,
    /// The model of its network cards.
    pub nic_model: NicModel,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
}

impl Default for Hardware {
    fn default() -> Self {
        Self {
            machine: "q35".into(),
            firmware: Firmware::Bios,
            tpm: false,
            disk_bus: DiskBus::Virtio,
            nic_model: NicModel::Virtio,
            cpus: 1,
            memory: ByteSize::gibibytes(1),
        }
    }
}
impl fmt::Display for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let firmware = match self.firmware {
            Firmware::Bios => "BIOS",
            Firmware::Uefi => "UEFI",
            Firmware::UefiSecure => "UEFI (Secure Boot)",
        };
        let tpm = if self.tpm { " TPM" } else { "" };
        let (bus, cpus, memory) = (self.disk_bus.as_str(), self.cpus, self.memory);
        let plural = if cpus == 1 { "" } else { "s" };
        write!(f, "{} {firmware}{tpm} {bus} {cpus} cpu{plural} {memory}", self.machine)
    }
}

/// The operating system of an image: which OS module speaks to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OsName {
    /// Any Linux with a POSIX shell and an ssh server.
    #[default]
    Linux,
    /// Windows with OpenSSH server.
    Windows,
}

impl OsName {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
        }
    }
    /// Whether it is the usual one, which is left out where it may be.
    #[must_use]
    pub const fn is_usual(&self) -> bool {
        matches!(self, Self::Linux)
    }
}
impl fmt::Display for OsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Files that a machine without a boot loader is started with. In a request these are absolute paths on the
/// management node; in a manifest they are file names beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: String,
    /// The initial RAM disk, if it takes one.
    #[serde(default)]
    pub initrd: Option<String>,
    /// The kernel's command line.
    #[serde(default)]
    pub cmdline: String,
}

/// One disk of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiskRecord {
    /// The file's name in the revision's directory.
    pub file: String,
    /// Its format; the library's own is `qcow2`.
    pub format: String,
    /// What the guest sees.
    pub virtual_size: ByteSize,
    /// What the file takes.
    pub file_size: ByteSize,
    /// SHA-256 of the stored file, for transfers.
    pub file_digest: Digest,
    /// Digest of the bytes the guest sees, whatever the format (see vcl-images for how it is made).
    pub content_digest: Digest,
    /// What it lies on, where only what differs from the parent is stored; `None` for a whole disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<crate::Over>,
}

/// The firmware variables of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FirmwareRecord {
    /// The file's name in the revision's directory.
    pub file: String,
    /// SHA-256 of it.
    pub file_digest: Digest,
    /// Its format, `raw` or `qcow2`.
    pub format: String,
}

/// What stands in a revision's `manifest.json`. It says that this node holds the revision; the database says that
/// the revision exists, and its rows can be rebuilt from manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Manifest {
    /// The manifest's own format: 1, or 2 where a disk lies on the parent's.
    pub version: u32,
    /// The image.
    pub image: ImageName,
    /// The revision's number, from 1.
    pub revision: u32,
    /// The revision it was loaded from when it was captured.
    pub parent: Option<ImageRef>,
    /// Its operating system.
    pub os: OsName,
    /// Whether the guest was generalised before its disks were copied: such a guest makes itself a new identity when
    /// it boots. One that was imported may not, and `post_load` gives it a new identity instead.
    pub generalised: bool,
    /// The hardware it was made on.
    pub hardware: Hardware,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskRecord>,
    /// Its firmware variables, where it has them.
    pub firmware: Option<FirmwareRecord>,
    /// Kernel and initrd, where it is started without a boot loader.
    pub boot: Option<DirectBoot>,
    /// The digests of the files that `boot` names; empty in manifests from before they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_files: Vec<crate::FileRecord>,
    /// The backend instance that made it; `None` for an imported one.
    pub backend: Option<BackendName>,
    /// The job that made it.
    pub job: Option<JobId>,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// A line for people.
    pub note: Option<String>,
}

impl Manifest {
    /// `image@revision`.
    #[must_use]
    pub fn image_ref(&self) -> ImageRef {
        ImageRef::new(self.image.clone(), self.revision)
    }
    /// The revision that disks of this one lie on, where they are stored as deltas.
    #[must_use]
    pub fn lies_on(&self) -> Option<&ImageRef> {
        self.disks.iter().find_map(|disk| disk.over.as_ref()).map(|over| &over.image)
    }
    /// The version of a manifest with these disks.
    #[must_use]
    pub fn version_for(disks: &[DiskRecord]) -> u32 {
        if disks.iter().any(|disk| disk.over.is_some()) { 2 } else { 1 }
    }
}

/// A revision that this node holds: its manifest and where it lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The manifest.
    pub manifest: Manifest,
    /// Its directory, absolute.
    pub directory: String,
}

impl Revision {
    /// The absolute path of a file of it.
    #[must_use]
    pub fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_references_round_trip() {
        for text in ["debian", "debian@2", "win-11.x@17"] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
        for bad in ["debian@", "debian@0", "debian@x", "@1", "a@1@2", "a@-1"] {
            assert!(bad.parse::<ImageRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_digest_has_64_hex_digits() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.as_str().len(), 64);
        assert!(Digest::try_from("AB".repeat(32)).is_err());
        assert!(Digest::try_from(String::from(digest)).is_ok());
    }

    #[test]
    fn a_digests_bytes_are_those_it_was_made_from() {
        let bytes: [u8; 32] = std::array::from_fn(|n| (n * 73 + 9) as u8);
        let digest = Digest::from_bytes(bytes);
        assert_eq!(digest.to_bytes(), bytes);
        assert_eq!(Digest::try_from(digest.to_string()).unwrap(), digest);
    }
}
