//! Images: where they come from and where they go.

use super::Submission;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use vcl_types::{BackendName, ByteSize, DiskBus, Firmware, ImageName, ImageRef, NicModel, OsName};

/// What can be wanted of images.
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Make an image from a virtual machine that somebody installed by hand, which stays as it is.
    #[command(after_help = "Examples:\n  vclctl image create gis --from-vm kvm1/debian-gis --dry-run\n  \
            vclctl image create gis --from-vm kvm1/debian-gis")]
    Create {
        /// The image, which must not exist.
        name: ImageName,
        /// The machine, with the backend that has it.
        #[arg(long, value_name = "BACKEND/VM", value_parser = machine)]
        from_vm: (BackendName, String),
        /// Its operating system.
        #[arg(long, value_enum, default_value_t)]
        os: OsWord,
        /// A line for people about what this image is.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Make an image from a disk file on this machine: qcow2, raw or vmdk.
    #[command(
        after_help = "Examples:\n  vclctl image import debian debian-12.qcow2 --note 'from debian.org'\n  \
            vclctl image import tiny disk.raw --kernel vmlinuz --initrd initrd.img --cmdline root=/dev/vda\n  \
            vclctl image import win11 win11.qcow2 --os windows --firmware uefi"
    )]
    Import(Box<ImportArguments>),
    /// Write a revision's disk out as a file of its own.
    #[command(after_help = "Example: vclctl image export debian@2 /tmp/debian.vmdk")]
    Export {
        /// The revision; without a number, the newest.
        #[arg(value_name = "IMAGE[@REV]")]
        image: ImageRef,
        /// The file, which must not exist.
        file: PathBuf,
        /// Its format; without this, what the file's name ends in says it, or qcow2.
        #[arg(long, value_enum)]
        format: Option<FormatWord>,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// List all images.
    #[command(after_help = "Example: vclctl image list")]
    List,
    /// Show an image with its revisions, or one revision.
    #[command(after_help = "Examples:\n  vclctl image show debian\n  vclctl image show debian@2")]
    Show {
        /// The image or the revision.
        #[arg(value_name = "NAME[@REV]")]
        image: ImageRef,
    },
    /// Read a revision again and compare its digests.
    #[command(after_help = "Example: vclctl image verify debian@2")]
    Verify {
        /// The revision; without a number, the newest.
        #[arg(value_name = "IMAGE[@REV]")]
        image: ImageRef,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Have a revision from another node that holds it.
    #[command(after_help = "Example: vclctl image fetch debian@2")]
    Fetch {
        /// The revision; without a number, the newest.
        #[arg(value_name = "IMAGE[@REV]")]
        image: ImageRef,
        /// The node that shall hold it; without this, the one that is asked.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Delete a revision: into the trash, from where it can be brought back for some days.
    #[command(
        after_help = "Examples:\n  vclctl image delete debian@1\n  vclctl image delete debian@1 --now --yes"
    )]
    Delete {
        /// The revision, with its number.
        #[arg(value_name = "IMAGE@REV", value_parser = numbered)]
        image: ImageRef,
        /// Delete it for good at once.
        #[arg(long)]
        now: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Bring a deleted revision back from the trash.
    #[command(after_help = "Example: vclctl image undelete debian@1")]
    Undelete {
        /// The revision, with its number.
        #[arg(value_name = "IMAGE@REV", value_parser = numbered)]
        image: ImageRef,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// List what is in the trash.
    #[command(after_help = "Example: vclctl image trash")]
    Trash,
    /// Delete what some rules let go: all but the newest, what is old, what somebody made. What is in production,
    /// loaded, being read or lies under another revision stays in any case.
    #[command(after_help = "Examples:\n  vclctl image prune --keep 5 --dry-run\n  \
            vclctl image prune debian gis --keep 3 --older-than 90d\n  vclctl image prune --owner ada --older-than 30d --yes")]
    Prune(PruneArguments),
    /// Say why a revision cannot be deleted.
    #[command(after_help = "Example: vclctl image why debian@2")]
    Why {
        /// The revision, with its number.
        #[arg(value_name = "IMAGE@REV", value_parser = numbered)]
        image: ImageRef,
    },
    /// See whether two clones of a revision are two machines: load it on two spare computers, compare who the guests
    /// are, run the site's test scripts in both, and give the computers back.
    #[command(
        long_about = "See whether two clones of a revision are two machines.\n\n\
            It is loaded on two spare computers that run side by side. What makes each guest somebody is compared: \
            machine-id, host keys, hostname, leases, MAC addresses in files. The site's own test scripts, those of \
            `[reservations] tests`, run in both. Then both computers are given back. What was found out is kept with the \
            revision.",
        after_help = "Examples:\n  vclctl image test gis@3\n  vclctl image test gis@3 --wait     wait until two computers \
            are spare\n  vclctl image test gis --dry-run    which computers, which steps"
    )]
    Test {
        /// The revision; without a number, the newest.
        #[arg(value_name = "IMAGE[@REV]")]
        image: ImageRef,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Put a revision in production: new reservations get it, idle computers are loaded with it a few at a time, and nothing
    /// deletes it as long as it is. The same as `vclctl promote`.
    #[command(after_help = "Example: vclctl image promote debian@3")]
    Promote(PromoteArguments),
    /// Rewrite a revision's disks whole, so that they lie on no other revision. Whoever is loaded from it does not
    /// notice.
    #[command(after_help = "Example: vclctl image flatten debian@9")]
    Flatten {
        /// The revision; without a number, the newest.
        #[arg(value_name = "IMAGE[@REV]")]
        image: ImageRef,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
}

/// `promote`.
#[derive(Debug, Args)]
pub struct PromoteArguments {
    /// The revision, with its number.
    #[arg(value_name = "IMAGE@REV", value_parser = numbered)]
    pub image: ImageRef,
    /// Although it has passed no test, where the site wants one. For administrators; it is recorded.
    #[arg(long)]
    pub force: bool,
}

/// `image prune`.
#[derive(Debug, Args)]
pub struct PruneArguments {
    /// The images; without any, all.
    #[arg(value_name = "IMAGE")]
    pub images: Vec<ImageName>,
    /// How many of each image's newest revisions stay.
    #[arg(long, value_name = "N")]
    pub keep: Option<u32>,
    /// Only revisions older than this go, as in 12h, 90d or 4w.
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub older_than: Option<u64>,
    /// Only revisions that this account made go.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
    /// Delete for good at once.
    #[arg(long)]
    pub now: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// How it is asked for.
    #[command(flatten)]
    pub submission: Submission,
}

/// `90d` in seconds.
fn age(text: &str) -> Result<u64, String> {
    let units = [('h', 3600), ('d', 86_400), ('w', 7 * 86_400)];
    let parsed = units.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*seconds)
    });
    parsed.ok_or_else(|| format!("`{text}` is no age; write hours, days or weeks, as in 12h, 90d or 4w"))
}

/// `image import`.
#[derive(Debug, Args)]
pub struct ImportArguments {
    /// The image, which gets its next revision.
    pub name: ImageName,
    /// The disk.
    pub file: PathBuf,
    /// The kernel, for a disk without a boot loader.
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[arg(long, value_name = "TEXT", requires = "kernel")]
    pub cmdline: Option<String>,
    /// Its operating system.
    #[arg(long, value_enum, default_value_t)]
    pub os: OsWord,
    /// The firmware of the machines it is loaded on.
    #[arg(long, value_enum)]
    pub firmware: Option<FirmwareWord>,
    /// Their processors, at least.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cpus: Option<u32>,
    /// Their memory, at least, as in 512M or 4G.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// What their disks hang on.
    #[arg(long, value_enum)]
    pub disk_bus: Option<BusWord>,
    /// The model of their network cards.
    #[arg(long, value_enum)]
    pub nic_model: Option<NicWord>,
    /// Their machine type: q35 or pc.
    #[arg(long, value_name = "TYPE")]
    pub machine: Option<String>,
    /// A line for people about what this revision is.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub submission: Submission,
}

/// Operating systems, each with a module of vcld's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OsWord {
    /// Any Linux with an ssh server.
    #[default]
    Linux,
    /// Windows with OpenSSH server.
    Windows,
}
impl From<OsWord> for OsName {
    fn from(word: OsWord) -> Self {
        match word {
            OsWord::Linux => Self::Linux,
            OsWord::Windows => Self::Windows,
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident => $target:ident { $($(#[$vdoc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub enum $type { $($(#[$vdoc])* $variant),+ }
        impl From<$type> for $target {
            fn from(word: $type) -> Self { match word { $($type::$variant => Self::$variant),+ } }
        }
    };
}
words!(
    /// Firmware that an imported disk can be given.
    FirmwareWord => Firmware {
        /// A PC BIOS.
        Bios,
        /// UEFI.
        Uefi
    }
);
words!(
    /// What a disk hangs on.
    BusWord => DiskBus {
        /// virtio-blk.
        Virtio,
        /// virtio-scsi.
        Scsi,
        /// AHCI.
        Sata,
        /// Parallel IDE, for old guests.
        Ide
    }
);
words!(
    /// A model of network card.
    NicWord => NicModel {
        /// virtio-net.
        Virtio,
        /// Intel 82574.
        E1000e,
        /// Intel 82540.
        E1000,
        /// Realtek 8139.
        Rtl8139
    }
);

/// A format that a disk can be written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatWord {
    /// QEMU's.
    Qcow2,
    /// The bytes as they are.
    Raw,
    /// VMware's.
    Vmdk,
}

impl FormatWord {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
        }
    }
}

fn machine(text: &str) -> Result<(BackendName, String), String> {
    match text.split_once('/') {
        Some((backend, vm)) if !vm.is_empty() => Ok((
            backend.parse().map_err(|refused: vcl_types::InvalidName| refused.to_string())?,
            vm.to_owned(),
        )),
        _ => Err(
            "name the backend and the machine, as in `kvm1/debian-gis`; `vclctl vm list BACKEND` shows them"
                .into(),
        ),
    }
}

fn numbered(text: &str) -> Result<ImageRef, String> {
    let image: ImageRef = text.parse().map_err(|refused: vcl_types::InvalidName| refused.to_string())?;
    if image.revision.is_some() {
        Ok(image)
    } else {
        Err(format!("say which revision, as in `{image}@1`; `vclctl image show {image}` lists them"))
    }
}
