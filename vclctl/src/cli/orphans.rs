//! Orphans: what is there and belongs to nobody.

use clap::Subcommand;

/// What can be wanted of orphans.
#[derive(Debug, Subcommand)]
pub enum OrphansVerb {
    /// List what is there and belongs to nobody, and what should be there and is not. Nothing of it goes by itself.
    #[command(
        after_help = "Examples:\n  vclctl orphans list\n  vclctl orphans list --all    also what is ignored"
    )]
    List {
        /// Also those that somebody ignores, with the reason.
        #[arg(long)]
        all: bool,
    },
    /// Give a computer its machine back that it lost its record of, as its last load had made it.
    #[command(after_help = "Example: vclctl orphans adopt kvm1/domain/vcl-gis-01 --dry-run")]
    Adopt {
        /// Which, as `orphans list` prints it.
        #[arg(value_name = "PLACE/KIND/NAME")]
        id: String,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove one for good. It is looked at again first: what has come into use since is left alone.
    #[command(after_help = "Example: vclctl orphans delete library/staging/job12-token3 --yes")]
    Delete {
        /// Which, as `orphans list` prints it.
        #[arg(value_name = "PLACE/KIND/NAME")]
        id: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Hear no more of one, until it is gone.
    #[command(
        after_help = "Example: vclctl orphans ignore kvm1/domain/vcl-gis-01 --reason 'kept for Bob until May'"
    )]
    Ignore {
        /// Which, as `orphans list` prints it.
        #[arg(value_name = "PLACE/KIND/NAME")]
        id: String,
        /// Why, for those who come later.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}
