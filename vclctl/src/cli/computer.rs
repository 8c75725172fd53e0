//! Computers: consoles, screens, power.

use super::chosen::Chosen;
use clap::{Subcommand, ValueEnum};
use std::path::PathBuf;
use vcl_types::ComputerName;
use vcl_types::api::PowerAction;

/// What can be wanted of computers.
#[derive(Debug, Subcommand)]
pub enum ComputerVerb {
    /// List all computers.
    #[command(after_help = "Example: vclctl computer list")]
    List,
    /// Show one computer, with its power state.
    #[command(after_help = "Example: vclctl computer show gis-01")]
    Show {
        /// The computer.
        name: ComputerName,
    },
    /// Let vcld read `[computers]` of its configuration again.
    #[command(after_help = "Example: vclctl computer apply --dry-run")]
    Apply {
        /// Show what would change and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the last lines of a computer's serial console.
    #[command(after_help = "Example: vclctl computer console gis-01 -f")]
    Console {
        /// The computer.
        name: ComputerName,
        /// Go on with what is written from now; Ctrl-C ends it.
        #[arg(short, long)]
        follow: bool,
        /// How many lines.
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
        lines: u32,
    },
    /// Take a picture of a computer's screen.
    #[command(after_help = "Examples:\n  vclctl computer screenshot gis-01 -o gis.png\n  \
            vclctl computer screenshot gis-01 -o - > gis.png")]
    Screenshot {
        /// The computer.
        name: ComputerName,
        /// The file, `-` for stdout; without it, NAME.png here.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Switch a loaded computer on or off.
    #[command(
        after_help = "Examples:\n  vclctl computer power gis-01 reset\n  \
            vclctl computer power -l room-b12 --max 5 off    a whole room, five at a time",
        allow_missing_positional = true
    )]
    Power {
        /// The computer.
        #[arg(required_unless_present_any = ["tags", "all"])]
        computer: Option<ComputerName>,
        /// What is wanted.
        #[arg(value_enum)]
        action: PowerWord,
        /// Or several.
        #[command(flatten)]
        chosen: Chosen,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What can be done to a computer's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PowerWord {
    /// Start it.
    On,
    /// Ask the guest to shut down; off by force after a while.
    Off,
    /// Cut its power.
    ForceOff,
    /// Press its reset button.
    Reset,
}

impl From<PowerWord> for PowerAction {
    fn from(word: PowerWord) -> Self {
        match word {
            PowerWord::On => Self::On,
            PowerWord::Off => Self::Off,
            PowerWord::ForceOff => Self::ForceOff,
            PowerWord::Reset => Self::Reset,
        }
    }
}
