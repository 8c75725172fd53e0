//! Jobs, and the verbs that are nothing but a job.

use super::chosen::Chosen;
use clap::{Args, Subcommand, ValueEnum};
use vcl_types::{After, ComputerName, ImageName, ImageRef, JobId, state};

/// What can be wanted of jobs.
#[derive(Debug, Subcommand)]
pub enum JobVerb {
    /// List jobs, newest first.
    #[command(after_help = "Example: vclctl job list --state failed --limit 5")]
    List {
        /// Only jobs in one state: queued, running, waiting, done, failed, cancelled, stuck.
        #[arg(long)]
        state: Option<state::job::State>,
        /// How many.
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// Show one job with its steps.
    #[command(after_help = "Example: vclctl job show 12")]
    Show {
        /// Its number.
        id: JobId,
    },
    /// Watch a job until it ends.
    #[command(after_help = "Example: vclctl job watch 12")]
    Watch {
        /// Its number.
        id: JobId,
    },
    /// Try a failed or stuck job again: a stuck one goes on where it was, a failed one begins anew.
    #[command(after_help = "Example: vclctl job retry 12")]
    Retry {
        /// Its number.
        id: JobId,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a stuck job back as far as it got, from its journal alone, newest step first.
    #[command(
        after_help = "Examples:\n  vclctl job undo 12 --dry-run    what would be undone, in order\n  vclctl job undo 12"
    )]
    Undo {
        /// Its number.
        id: JobId,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what was kept of a job's failure: console, display, the guest's journal, the failing command.
    #[command(after_help = "Examples:\n  vclctl job evidence 12                          what there is\n  \
            vclctl job evidence 12 console.txt\n  vclctl job evidence 12 screen.png -o screen.png")]
    Evidence {
        /// Its number.
        id: JobId,
        /// Which piece; without it they are listed.
        name: Option<String>,
        /// Save it to a file; `-` is stdout.
        #[arg(short, long, value_name = "FILE", requires = "name")]
        output: Option<std::path::PathBuf>,
        /// Of which attempt; without it, of the newest that has it.
        #[arg(long, value_name = "N", requires = "name")]
        attempt: Option<u32>,
    },
    /// Give a stuck job up as it is; what it could not take back stays.
    #[command(after_help = "Example: vclctl job abandon 12")]
    Abandon {
        /// Its number.
        id: JobId,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Call a job off. What it has done is taken back.
    #[command(after_help = "Example: vclctl job cancel 12")]
    Cancel {
        /// Its number.
        id: JobId,
        /// Show what would be done and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// How a job is asked for.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Submission {
    /// Show what would be done and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print the job's number and leave.
    #[arg(long, conflicts_with = "dry_run")]
    pub detach: bool,
    /// Wait for its turn if another job has the computer or the image, instead of being refused.
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
}

/// `load`.
#[derive(Debug, Args)]
pub struct LoadArguments {
    /// The computer.
    #[arg(required_unless_present_any = ["tags", "all"])]
    pub computer: Option<ComputerName>,
    /// The image; without a revision, its newest.
    #[arg(value_name = "IMAGE[@REV]")]
    pub image: ImageRef,
    /// Or several.
    #[command(flatten)]
    pub chosen: Chosen,
    /// How it is asked for.
    #[command(flatten)]
    pub submission: Submission,
}

/// `capture`.
#[derive(Debug, Args)]
pub struct CaptureArguments {
    /// The computer.
    pub computer: ComputerName,
    /// Make a new image of this name instead of the next revision of the one that was loaded.
    #[arg(long, value_name = "NAME")]
    pub new: Option<ImageName>,
    /// What becomes of the computer.
    #[arg(long, value_enum, default_value_t)]
    pub after: AfterWord,
    /// Power the computer on first if it is off.
    #[arg(long)]
    pub power_on: bool,
    /// Store the disks whole, and not only what differs from the revision the computer was loaded from.
    #[arg(long)]
    pub whole: bool,
    /// A line for people about what this revision is.
    #[arg(long, value_name = "TEXT")]
    pub note: Option<String>,
    /// How it is asked for.
    #[command(flatten)]
    pub submission: Submission,
}

/// `unload`.
#[derive(Debug, Args)]
pub struct UnloadArguments {
    /// The computer.
    #[arg(required_unless_present_any = ["tags", "all"])]
    pub computer: Option<ComputerName>,
    /// Or several.
    #[command(flatten)]
    pub chosen: Chosen,
    /// Take several back without asking.
    #[arg(short = 'y', long, conflicts_with = "computer")]
    pub yes: bool,
    /// How it is asked for.
    #[command(flatten)]
    pub submission: Submission,
}

/// What becomes of a computer that was captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum AfterWord {
    /// It is unloaded and available again.
    #[default]
    Release,
    /// It is powered on and made ready again, with new host keys.
    Resume,
    /// It is left off, still loaded.
    KeepOff,
}

impl From<AfterWord> for After {
    fn from(word: AfterWord) -> Self {
        match word {
            AfterWord::Release => Self::Release,
            AfterWord::Resume => Self::Resume,
            AfterWord::KeepOff => Self::KeepOff,
        }
    }
}
