//! Classes, maintenance windows, hosts.

use chrono::{DateTime, Utc};
use clap::Subcommand;
use vcl_types::lending::Weekly;
use vcl_types::{BackendName, ByteSize, ComputerName, ImageRef};

/// What can be wanted of classes.
#[derive(Debug, Subcommand)]
pub enum ClassVerb {
    /// Keep so many seats of an image at times of every week. A class of that name is changed.
    #[command(
        after_help = "Examples:\n  vclctl class add 'GIS 101' --seats 40 --image gis --weekly 'Mon 10-12'\n  \
            vclctl class add 'GIS 101' --seats 30 --image gis --weekly 'Mon 10-12; Thu 14-16' --group gis101 --until 2027-02-12T00:00:00Z"
    )]
    Add(ClassArguments),
    /// List all classes.
    #[command(after_help = "Example: vclctl class list")]
    List,
    /// Show a class: its times of the next two weeks, and how many of its seats have a computer.
    #[command(after_help = "Example: vclctl class show 'GIS 101'")]
    Show {
        /// Its name.
        name: String,
    },
    /// Call one time of a class off. Who is on a seat already finishes.
    #[command(after_help = "Example: vclctl class call-off 'GIS 101' 2026-12-07T10:00:00Z")]
    CallOff {
        /// Its name.
        name: String,
        /// When that time begins, as `class show` tells.
        #[arg(value_name = "TIME")]
        start: DateTime<Utc>,
    },
    /// End a class for good. Seats that nobody has taken are given back.
    #[command(after_help = "Example: vclctl class delete 'GIS 101'")]
    Delete {
        /// Its name.
        name: String,
    },
}

/// A class.
#[derive(Debug, clap::Args)]
pub struct ClassArguments {
    /// Its name.
    pub name: String,
    /// How many seats.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub seats: u32,
    /// The image; without a revision the one in production when the seats are loaded.
    #[arg(long, value_name = "IMAGE[@N]")]
    pub image: ImageRef,
    /// Its times on the site's clock: days and hours, with semicolons between them.
    #[arg(long, value_name = "TIMES")]
    pub weekly: Weekly,
    /// The group whose members take the seats; without one, whoever may reserve the image.
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Only computers with this tag; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Only computers with so many processors.
    #[arg(long, value_name = "N")]
    pub cpus: Option<u32>,
    /// Only computers with so much memory.
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// The first moment at which it takes place; now if not said.
    #[arg(long, value_name = "TIME")]
    pub from: Option<DateTime<Utc>>,
    /// The moment at which it is over for good, as at the end of term.
    #[arg(long, value_name = "TIME")]
    pub until: Option<DateTime<Utc>>,
    /// Whose it is, if not yours.
    #[arg(long, value_name = "USER")]
    pub owner: Option<String>,
}

/// What can be wanted of maintenance windows.
#[derive(Debug, Subcommand)]
pub enum MaintenanceVerb {
    /// Take computers out of use for a time. Who is on one of them finishes first; what is booked on them moves to others.
    #[command(after_help = "Examples:\n  vclctl maintenance add gis-01 gis-02 --reason 'new fans'\n  \
            vclctl maintenance add --tag room-b12 --start 2026-12-24T06:00:00Z --end 2026-12-24T18:00:00Z --reason painting")]
    Add {
        /// The computers.
        #[arg(value_name = "COMPUTER", required_unless_present = "tags")]
        computers: Vec<ComputerName>,
        /// And those with this tag; with all of them, if given several times.
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// When it begins; at once if not said.
        #[arg(long, value_name = "TIME")]
        start: Option<DateTime<Utc>>,
        /// When it ends; if not said, with `maintenance end`.
        #[arg(long, value_name = "TIME")]
        end: Option<DateTime<Utc>>,
        /// Why: whoever is refused a computer for it reads this.
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// List windows that are not over.
    #[command(after_help = "Example: vclctl maintenance list")]
    List,
    /// End a window now. Its computers come back.
    #[command(after_help = "Example: vclctl maintenance end 3")]
    End {
        /// Its number, as `maintenance list` tells.
        id: u32,
    },
}

/// What can be wanted of hosts.
#[derive(Debug, Subcommand)]
pub enum HostVerb {
    /// List the hosts of all backends, and who is on them.
    #[command(after_help = "Example: vclctl host list")]
    List,
    /// Let a backend's host take nothing new, before somebody works on it. Who is on it finishes.
    #[command(after_help = "Example: vclctl host drain kvm1 --reason 'new disks'")]
    Drain {
        /// The backend, as in `[backend.NAME]` of vcld.toml.
        backend: BackendName,
        /// Why: whoever is refused its computers reads this.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a backend's host take everything again.
    #[command(after_help = "Example: vclctl host undrain kvm1")]
    Undrain {
        /// The backend.
        backend: BackendName,
    },
}
