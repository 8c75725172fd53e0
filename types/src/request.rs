//! What can be asked of the daemon as a job.

use crate::{BackendName, ComputerName, ImageName, ImageRef, ManifestName, OsName, ReservationId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What becomes of a computer when its capture is done. It is off then and has lost its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum After {
    /// Unloaded, available again.
    #[default]
    Release,
    /// Powered on and made ready again, with new host keys.
    Resume,
    /// Left off, still loaded.
    KeepOff,
}

/// Which image a capture becomes a revision of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum CaptureInto {
    /// The image that the computer was loaded from: its next revision.
    #[default]
    Next,
    /// A new image, which must not exist: its revision 1.
    New(ImageName),
}

/// A job as somebody asks for it. This is what is stored when it is queued and what the job starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum JobRequest {
    /// Put a revision on a computer.
    Load {
        /// The computer.
        computer: ComputerName,
        /// The image; without a revision, its newest.
        image: ImageRef,
    },
    /// Make the next revision from what a computer holds.
    Capture {
        /// The computer.
        computer: ComputerName,
        /// Which image gets the revision.
        #[serde(default)]
        into: CaptureInto,
        /// What becomes of the computer.
        #[serde(default)]
        after: After,
        /// Power the computer on first if it is off; a computer that is off is refused otherwise.
        #[serde(default)]
        power_on: bool,
        /// A line for people about what this revision is.
        #[serde(default)]
        note: Option<String>,
        /// Store the disks whole, and not only what differs from the revision the computer was loaded from.
        #[serde(default)]
        whole: bool,
    },
    /// Make what a computer holds what a manifest says.
    Configure {
        /// The computer.
        computer: ComputerName,
        /// The manifest, or playbook, by its name in the node's configuration directories.
        manifest: ManifestName,
        /// Find out what would be changed, and change nothing.
        #[serde(default)]
        dry_run: bool,
    },
    /// Take a computer back: its machine and its overlay are removed.
    Unload {
        /// The computer.
        computer: ComputerName,
    },
    /// Put a revision on a computer that is nobody's, so that whoever wants the image next has it at once.
    Prepare {
        /// The computer.
        computer: ComputerName,
        /// The image; without a revision, the one that new reservations get.
        image: ImageRef,
    },
    /// Give a computer to whom a reservation is for: load it unless it holds the image, clean, and let them in. The
    /// daemon queues these itself.
    Lend {
        /// The reservation.
        reservation: ReservationId,
        /// The computer.
        computer: ComputerName,
        /// The revision.
        image: ImageRef,
        /// Load it whatever it holds.
        #[serde(default)]
        anew: bool,
    },
    /// Let in, on a computer that is lent already, who may be let in now: the address its user comes from is known, or
    /// keys or accounts have changed. The daemon queues these itself.
    Admit {
        /// The reservation.
        reservation: ReservationId,
        /// Its computer.
        computer: ComputerName,
    },
    /// Take a computer back at the end of a reservation: capture it first where that was wanted, take the user's traces
    /// off, unload it unless nobody has used it. The daemon queues these itself.
    Return {
        /// The reservation.
        reservation: ReservationId,
        /// Its computer.
        computer: ComputerName,
    },
    /// Make an image from a disk file on the management node.
    Import {
        /// The image, which gets its next revision.
        image: ImageName,
        /// The disk, an absolute path: qcow2, raw or vmdk.
        path: String,
        /// Kernel, initrd and command line for machines that boot without a boot loader.
        #[serde(default)]
        boot: Option<crate::DirectBoot>,
        /// The hardware to load it on; the default is q35 with BIOS and virtio.
        #[serde(default)]
        hardware: Option<crate::Hardware>,
        /// Its operating system.
        #[serde(default, skip_serializing_if = "OsName::is_usual")]
        os: OsName,
        /// A line for people about what this revision is.
        #[serde(default)]
        note: Option<String>,
    },
    /// Make an image from a virtual machine that vcld did not make, without changing it.
    CreateFromVm {
        /// The image, which must not exist.
        image: ImageName,
        /// The backend instance that has the machine.
        backend: BackendName,
        /// The machine's name there.
        vm: String,
        /// Its operating system.
        #[serde(default, skip_serializing_if = "OsName::is_usual")]
        os: OsName,
        /// A line for people about what this revision is.
        #[serde(default)]
        note: Option<String>,
    },
    /// Write a revision's disk out as a file of its own.
    Export {
        /// The revision; without a number, the newest.
        image: ImageRef,
        /// Where to, an absolute path that must not exist.
        path: String,
        /// `qcow2`, `raw` or `vmdk`.
        format: String,
    },
    /// Read a revision again and compare its digests.
    Verify {
        /// The revision; without a number, the newest.
        image: ImageRef,
    },
    /// See whether two clones of a revision are two machines: load it on two spare computers, compare who the guests are,
    /// run the site's test scripts in both, and give the computers back.
    TestImage {
        /// The revision; without a number, the newest.
        image: ImageRef,
        /// Wait until two computers are spare, instead of failing when there are fewer.
        #[serde(default)]
        wait: bool,
    },
    /// Remove a revision from the library: into the trash, from where it can be brought back for a while.
    DeleteImage {
        /// The revision; it has a number, so that nothing is deleted by a default.
        image: ImageRef,
        /// For good, at once.
        #[serde(default)]
        now: bool,
    },
    /// Bring a deleted revision back from the trash.
    Undelete {
        /// The revision, with its number.
        image: ImageRef,
    },
    /// Rewrite a revision's disks whole, so that they lie on no other revision's. What a guest sees stays the same.
    Flatten {
        /// The revision; without a number, the newest.
        image: ImageRef,
    },
    /// Delete what an image's rules for keeping do not keep.
    Prune {
        /// The image.
        image: ImageName,
        /// How many of the newest revisions stay.
        #[serde(default)]
        keep: Option<u32>,
        /// Only revisions that are older than so many seconds go.
        #[serde(default)]
        older_than_s: Option<u64>,
        /// Only revisions that this account made go.
        #[serde(default)]
        owner: Option<String>,
        /// For good, at once.
        #[serde(default)]
        now: bool,
    },
    /// Have a revision from another node that holds it.
    Fetch {
        /// The revision; without a number, the newest.
        image: ImageRef,
        /// The node that shall hold it; the one that is asked, where none is named.
        #[serde(default)]
        node: Option<String>,
    },
    /// Copy database and library to a directory of backups.
    Backup {
        /// The directory, an absolute path on the management node.
        directory: String,
        /// The node whose library and directory it is; the one that is asked, where none is named.
        #[serde(default)]
        node: Option<String>,
    },
    /// A request of a newer program, as it stands in the database: it is shown, and no step of it is taken here. It cannot
    /// be asked for; [`JobRequest::known_or_raw`] reads it.
    #[serde(skip_deserializing, untagged)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    Unknown(serde_json::Value),
}

/// The kinds of job, for lists, filters and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[expect(missing_docs, reason = "each is the kind of the request of the same name")]
pub enum JobKind {
    Load,
    Capture,
    Unload,
    Prepare,
    Lend,
    Admit,
    Return,
    Import,
    CreateFromVm,
    Export,
    Verify,
    TestImage,
    DeleteImage,
    Undelete,
    Flatten,
    Prune,
    Fetch,
    Backup,
    Configure,
    /// One of a newer program.
    #[serde(other)]
    Unknown,
}

impl JobRequest {
    /// Reads one that is stored or shown: what this program does not know is kept as it is, where reading it as somebody's
    /// wish would be an error.
    ///
    /// # Errors
    /// It is not an object with a `kind`, or of a known kind and not as that should be.
    pub fn known_or_raw<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(from)?;
        let kind = value.get("kind").ok_or_else(|| D::Error::missing_field("kind"))?;
        let kind = JobKind::deserialize(kind).map_err(D::Error::custom)?;
        if kind == JobKind::Unknown {
            return Ok(Self::Unknown(value));
        }
        serde_json::from_value(value).map_err(D::Error::custom)
    }
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Load { .. } => JobKind::Load,
            Self::Capture { .. } => JobKind::Capture,
            Self::Unload { .. } => JobKind::Unload,
            Self::Prepare { .. } => JobKind::Prepare,
            Self::Lend { .. } => JobKind::Lend,
            Self::Admit { .. } => JobKind::Admit,
            Self::Return { .. } => JobKind::Return,
            Self::Import { .. } => JobKind::Import,
            Self::CreateFromVm { .. } => JobKind::CreateFromVm,
            Self::Export { .. } => JobKind::Export,
            Self::Verify { .. } => JobKind::Verify,
            Self::TestImage { .. } => JobKind::TestImage,
            Self::DeleteImage { .. } => JobKind::DeleteImage,
            Self::Undelete { .. } => JobKind::Undelete,
            Self::Flatten { .. } => JobKind::Flatten,
            Self::Prune { .. } => JobKind::Prune,
            Self::Fetch { .. } => JobKind::Fetch,
            Self::Backup { .. } => JobKind::Backup,
            Self::Configure { .. } => JobKind::Configure,
            Self::Unknown(_) => JobKind::Unknown,
        }
    }
    /// The computer it acts on, which one job at a time may hold.
    #[must_use]
    pub fn computer(&self) -> Option<&ComputerName> {
        match self {
            Self::Load { computer, .. }
            | Self::Capture { computer, .. }
            | Self::Unload { computer }
            | Self::Configure { computer, .. }
            | Self::Prepare { computer, .. }
            | Self::Lend { computer, .. }
            | Self::Admit { computer, .. }
            | Self::Return { computer, .. } => Some(computer),
            _ => None,
        }
    }
    /// The image it speaks of, where it names one.
    #[must_use]
    pub fn image(&self) -> Option<&ImageName> {
        match self {
            Self::Load { image, .. }
            | Self::Prepare { image, .. }
            | Self::Lend { image, .. }
            | Self::Export { image, .. }
            | Self::Verify { image }
            | Self::TestImage { image, .. }
            | Self::DeleteImage { image, .. }
            | Self::Undelete { image }
            | Self::Flatten { image }
            | Self::Fetch { image, .. } => Some(&image.name),
            Self::Import { image, .. } | Self::CreateFromVm { image, .. } | Self::Prune { image, .. } => {
                Some(image)
            }
            Self::Capture { into: CaptureInto::New(image), .. } => Some(image),
            Self::Capture { .. }
            | Self::Unload { .. }
            | Self::Configure { .. }
            | Self::Admit { .. }
            | Self::Return { .. }
            | Self::Backup { .. }
            | Self::Unknown(_) => None,
        }
    }
    /// The reservation it works for.
    #[must_use]
    pub fn reservation(&self) -> Option<ReservationId> {
        match self {
            Self::Lend { reservation, .. }
            | Self::Admit { reservation, .. }
            | Self::Return { reservation, .. } => Some(*reservation),
            _ => None,
        }
    }
    /// The node that alone may do it, where it is about what lies on one.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Fetch { node, .. } | Self::Backup { node, .. } => node.as_deref(),
            _ => None,
        }
    }
    /// The same for that node, where it is about what lies on one and names none.
    #[must_use]
    pub fn or_at(mut self, here: &str) -> Self {
        if let Self::Fetch { node, .. } | Self::Backup { node, .. } = &mut self {
            node.get_or_insert_with(|| here.to_owned());
        }
        self
    }
}

impl JobKind {
    /// The word for it, as on the command line and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Capture => "capture",
            Self::Unload => "unload",
            Self::Prepare => "prepare",
            Self::Lend => "lend",
            Self::Admit => "admit",
            Self::Return => "return",
            Self::Import => "import",
            Self::CreateFromVm => "create-from-vm",
            Self::Export => "export",
            Self::Verify => "verify",
            Self::TestImage => "test-image",
            Self::DeleteImage => "delete-image",
            Self::Undelete => "undelete",
            Self::Flatten => "flatten",
            Self::Prune => "prune",
            Self::Fetch => "fetch",
            Self::Backup => "backup",
            Self::Configure => "configure",
            Self::Unknown => "unknown",
        }
    }
    /// What a program has to understand of jobs to take one of this kind. A new kind has the number that the program had
    /// when it came, so that older ones leave it alone.
    #[must_use]
    pub fn protocol(self) -> i64 {
        match self {
            Self::Prepare | Self::Lend | Self::Admit | Self::Return | Self::TestImage => 2,
            Self::Configure => 3,
            _ => 1,
        }
    }
}
impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
impl fmt::Display for JobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Load { computer, image } => write!(f, "load {computer} {image}"),
            Self::Capture { computer, into: CaptureInto::New(image), .. } => {
                write!(f, "capture {computer} as {image}")
            }
            Self::Capture { computer, .. } => write!(f, "capture {computer}"),
            Self::Unload { computer } => write!(f, "unload {computer}"),
            Self::Configure { computer, manifest, dry_run } => {
                let dry = if *dry_run { " (dry)" } else { "" };
                write!(f, "configure {computer} by {manifest}{dry}")
            }
            Self::Prepare { computer, image } => write!(f, "prepare {computer} with {image}"),
            Self::Lend { reservation, computer, image, .. } => {
                write!(f, "lend {computer} with {image} to reservation {reservation}")
            }
            Self::Admit { reservation, computer } => {
                write!(f, "let reservation {reservation} in on {computer}")
            }
            Self::Return { reservation, computer } => {
                write!(f, "take {computer} back from reservation {reservation}")
            }
            Self::Import { image, .. } => write!(f, "import {image}"),
            Self::CreateFromVm { image, backend, vm, .. } => write!(f, "create {image} from {backend}/{vm}"),
            Self::Export { image, .. } => write!(f, "export {image}"),
            Self::Verify { image } => write!(f, "verify {image}"),
            Self::TestImage { image, .. } => write!(f, "test {image}"),
            Self::DeleteImage { image, .. } => write!(f, "delete {image}"),
            Self::Undelete { image } => write!(f, "undelete {image}"),
            Self::Flatten { image } => write!(f, "flatten {image}"),
            Self::Prune { image, .. } => write!(f, "prune {image}"),
            Self::Fetch { image, node: None } => write!(f, "fetch {image}"),
            Self::Fetch { image, node: Some(node) } => write!(f, "fetch {image} to {node}"),
            Self::Backup { directory, .. } => write!(f, "backup {directory}"),
            Self::Unknown(raw) => {
                let kind = raw.get("kind").and_then(serde_json::Value::as_str).unwrap_or("unknown");
                write!(f, "{kind} (of a newer vcld)")
            }
        }
    }
}
