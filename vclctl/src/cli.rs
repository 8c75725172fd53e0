//! The language of the command line.

mod acceptance;
mod backend;
mod computer;
mod image;
mod job;
mod node;
mod orphans;

pub use acceptance::AcceptanceArguments;
pub use backend::BackendVerb;
pub use computer::{ComputerVerb, PowerWord};
pub use image::{
    BusWord, FirmwareWord, FormatWord, ImageVerb, ImportArguments, NicWord, OsWord, PruneArguments,
};
pub use job::{AfterWord, CaptureArguments, JobVerb, LoadArguments, Submission, UnloadArguments};
pub use node::{LeaseVerb, NodeVerb};
pub use orphans::OrphansVerb;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use vcl_types::{BackendName, JobId};

/// Lends machines: loads images on them, takes them back clean, captures what was built on them.
#[derive(Debug, Parser)]
#[command(
    name = "vclctl",
    version,
    propagate_version = false,
    infer_subcommands = false,
    arg_required_else_help = true,
    after_help = "Example: vclctl load gis-01 debian\n\n\
        Exit codes: 0 it was done, 1 it failed or was refused, 2 the command line is wrong, 3 vcld cannot be reached.\n\
        Ctrl-C while a job is watched leaves the job to itself; it goes on."
)]
pub struct Cli {
    /// Print the API's JSON instead of text.
    #[arg(long, global = true, display_order = 900)]
    pub json: bool,
    /// The socket vcld listens on.
    #[arg(
        long,
        global = true,
        env = "VCLD_SOCKET",
        default_value = "/run/vcld/vcld.sock",
        value_name = "PATH",
        hide_env_values = true,
        display_order = 901
    )]
    pub socket: PathBuf,
    /// What is wanted.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What can be wanted.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show everything on one screen: backends, computers, jobs, the library.
    #[command(after_help = "Example: vclctl status")]
    Status,
    /// Put an image on a computer.
    #[command(after_help = "Examples:\n  vclctl load gis-01 debian              its newest revision\n  \
            vclctl load gis-01 debian@2 --dry-run  what it would do\n  \
            vclctl load gis-01 debian --detach     print the job's number and leave\n  \
            vclctl load gis-01 debian --wait       if another job has gis-01, after it")]
    Load(LoadArguments),
    /// Make the next revision of an image from what a computer holds.
    #[command(
        long_about = "Make the next revision of an image from what a computer holds.\n\n\
            The guest is generalised and shut down, its disk is copied, and the computer is given back. What somebody \
            left on it becomes part of the image.",
        after_help = "Examples:\n  vclctl capture gis-01 --note 'with QGIS'\n  \
            vclctl capture gis-01 --new gis-2026 --after resume"
    )]
    Capture(CaptureArguments),
    /// Take a computer back: its machine and what was written on it are removed.
    #[command(after_help = "Example: vclctl unload gis-01")]
    Unload(UnloadArguments),
    /// Make, bring in, take out, check and delete images.
    #[command(subcommand, after_help = "Example: vclctl image show debian")]
    Image(ImageVerb),
    /// Look at computers, their consoles and their power; read them from the configuration.
    #[command(subcommand, after_help = "Example: vclctl computer list")]
    Computer(ComputerVerb),
    /// Look at the backends: whether they answer, what they can do, what is wrong with them.
    #[command(subcommand, after_help = "Example: vclctl backend list")]
    Backend(BackendVerb),
    /// Look at the virtual machines of a backend.
    #[command(subcommand, after_help = "Example: vclctl vm list kvm1")]
    Vm(VmVerb),
    /// Look at jobs, watch them, call them off.
    #[command(subcommand, after_help = "Example: vclctl job watch 12")]
    Job(JobVerb),
    /// Say why a job, a computer or a reservation is where it is: what it waits for, since when, what comes next.
    #[command(
        after_help = "Examples:\n  vclctl why 12               a job\n  vclctl why gis-01           a computer\n  \
            vclctl why reservation:3    a reservation"
    )]
    Why {
        /// A job's number, a computer's name, or `reservation:` and its number.
        #[arg(value_name = "JOB|COMPUTER|RESERVATION")]
        what: vcl_types::api::Asked,
    },
    /// Look at what is there and belongs to nobody, and decide what becomes of it.
    #[command(subcommand, after_help = "Example: vclctl orphans list")]
    Orphans(OrphansVerb),
    /// Look at management nodes; let one take no new jobs.
    #[command(subcommand, after_help = "Example: vclctl node list")]
    Node(NodeVerb),
    /// Look at what jobs have to themselves.
    #[command(subcommand, after_help = "Example: vclctl lease list")]
    Lease(LeaseVerb),
    /// Show what happened.
    #[command(after_help = "Examples:\n  vclctl events --limit 50\n  vclctl events -f --job 12\n  \
            vclctl events -f --json        one JSON object a line")]
    Events(EventsArguments),
    /// Look for what the node lacks and what is wrong with it.
    #[command(after_help = "Examples:\n  vclctl doctor\n  vclctl doctor --rescan")]
    Doctor {
        /// Compare the database with the library and the backends, and make rows for revisions that have none.
        #[arg(long)]
        rescan: bool,
    },
    /// Copy database and library to a directory of backups, while jobs go on. Files that it has already are not copied
    /// again.
    #[command(after_help = "Examples:\n  vclctl backup /backup/vcld\n  vclctl backup /backup/vcld --dry-run")]
    Backup {
        /// The directory, an absolute path on the management node; it is made if it is not there.
        directory: PathBuf,
        /// How it is asked for.
        #[command(flatten)]
        submission: Submission,
    },
    /// Try a computer and an image with everything vcld does to them, and write a report.
    #[command(
        long_about = "Try a computer and an image with everything vcld does to them, and write a report.\n\n\
            The computer is loaded, captured as an image of its own, taken back, loaded with that image, compared, captured \
            once more and taken back; then that image is deleted. The image it is tried with is not changed. The report is \
            two files, one to read and one for programs; what looks like a secret is masked in both, and yet they should be \
            read before they are sent on.",
        after_help = "Examples:\n  vclctl acceptance windows gis-01 win11\n  \
            vclctl acceptance linux gis-01 debian@2 --report debian-trial"
    )]
    Acceptance(AcceptanceArguments),
    /// Print a shell's completions.
    #[command(
        after_help = "Example: vclctl completions bash > /usr/share/bash-completion/completions/vclctl"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages.
    #[command(hide = true, after_help = "Example: vclctl man target/man")]
    Man {
        /// The directory, which is made if it is not there.
        directory: PathBuf,
    },
}

/// What can be asked about a backend's virtual machines.
#[derive(Debug, Subcommand)]
pub enum VmVerb {
    /// List a backend's virtual machines, also those that vcld did not make.
    #[command(after_help = "Example: vclctl vm list kvm1")]
    List {
        /// The backend, as in `[backend.NAME]` of vcld.toml.
        backend: BackendName,
    },
}

/// Which events are wanted.
#[derive(Debug, clap::Args)]
pub struct EventsArguments {
    /// Go on with what happens from now; Ctrl-C ends it.
    #[arg(short, long)]
    pub follow: bool,
    /// How many of the newest are shown.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,
    /// Only those of one job.
    #[arg(long, value_name = "ID")]
    pub job: Option<JobId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn each(command: &clap::Command, look: &mut dyn FnMut(&clap::Command)) {
        look(command);
        for below in command.get_subcommands() {
            each(below, look);
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_says_what_it_does_and_shows_an_example() {
        each(&Cli::command(), &mut |command| {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "{name} says nothing");
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("vclctl "), "{name} has no example: {after}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{name} {} is not explained", argument.get_id());
            }
        });
    }

    /// The examples are read by the parser they are about.
    #[test]
    fn every_example_is_understood() {
        let mut seen = 0;
        each(&Cli::command(), &mut |command| {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines().filter_map(|line| line.find("vclctl ").map(|at| &line[at..])) {
                // What follows two spaces explains; what follows `>` is the shell's.
                let typed = line.split("  ").next().and_then(|line| line.split(" > ").next()).unwrap();
                let quoted = typed.split('\'').enumerate();
                let words: String = quoted
                    .map(|(n, part)| if n % 2 == 1 { part.replace(' ', "_") } else { part.into() })
                    .collect();
                if let Err(refused) = Cli::try_parse_from(words.split_whitespace()) {
                    panic!("{typed}: {refused}");
                }
                seen += 1;
            }
        });
        assert!(seen > 25, "only {seen} examples were found");
    }

    #[test]
    fn what_makes_no_sense_is_a_usage_error() {
        for wrong in [
            "vclctl load gis-01",
            "vclctl load GIS_01 debian",
            "vclctl image delete debian",
            "vclctl image import debian disk --cpus 0",
            "vclctl image import debian disk --initrd x",
            "vclctl image create gis --from-vm debian-gis",
            "vclctl load a debian --dry-run --detach",
            "vclctl job list --state nonsense",
            "vclctl job show x",
            "vclctl computer power a sideways",
            "vclctl orphans ignore kvm1/domain/x",
            "vclctl job evidence 12 -o x",
            "vclctl why",
        ] {
            let refused = Cli::try_parse_from(wrong.split_whitespace()).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{wrong}");
        }
    }
}
