//! The language of the command line.

mod acceptance;
mod backend;
mod chosen;
mod class;
mod computer;
mod configure;
mod image;
mod job;
mod node;
mod orphans;
mod people;
mod report;
mod reservation;

pub use acceptance::AcceptanceArguments;
pub use backend::BackendVerb;
pub use chosen::Chosen;
pub use class::{ClassArguments, ClassVerb, HostVerb, MaintenanceVerb};
pub use computer::{ComputerVerb, PowerWord};
pub use configure::{ConfigureArguments, ConfigureVerb};
pub use image::{
    BusWord, FirmwareWord, FormatWord, ImageVerb, ImportArguments, NicWord, OsWord, PromoteArguments,
    PruneArguments,
};
pub use job::{AfterWord, CaptureArguments, JobVerb, LoadArguments, Submission, UnloadArguments};
pub use node::{LeaseVerb, NodeVerb};
pub use orphans::OrphansVerb;
pub use people::{
    GrantVerb, GroupVerb, ImageGroupVerb, KeyVerb, LoginArguments, MemberVerb, TokenVerb, UserVerb,
};
pub use report::{ReportVerb, UsageArguments};
pub use reservation::{ConnectArguments, ExtendArguments, ReservationVerb, ReserveArguments};

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
    /// Where vcld is, if not on this machine: `https://vcl.example.org:8444`. It takes a token: vclctl login.
    #[arg(
        long,
        global = true,
        env = "VCLD_URL",
        value_name = "URL",
        hide_env_values = true,
        display_order = 902
    )]
    pub url: Option<String>,
    /// The certificate authority of that vcld, if it is not one that this system knows.
    #[arg(
        long,
        global = true,
        env = "VCLD_CA",
        value_name = "FILE",
        hide_env_values = true,
        display_order = 903
    )]
    pub ca: Option<PathBuf>,
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
    /// Have a computer with an image for yourself, now or later.
    #[command(
        long_about = "Have a computer with an image for yourself, now or later.\n\n\
            vcld chooses a free computer that will do, loads the image unless one holds it already, and lets you in. When none \
            is free you are told your place in the queue and how long such ones usually wait. Ctrl-C leaves the reservation \
            to itself.",
        after_help = "Examples:\n  vclctl reserve gis                              four hours from now\n  \
            vclctl reserve gis --length 8h --start '2026-11-24 10:00'\n  \
            vclctl reserve gis -l room-b12 --memory 8G --device gpu=1\n  \
            vclctl reserve gis --dry-run                    which computer it would be, or how long it waits\n  \
            vclctl reserve gis --server                     without an end"
    )]
    Reserve(ReserveArguments),
    /// Keep a reserved computer longer.
    #[command(
        after_help = "Examples:\n  vclctl extend 12 --by 2h\n  vclctl extend 12 --until '2026-11-24 18:00'"
    )]
    Extend(ExtendArguments),
    /// Give a reserved computer back.
    #[command(
        after_help = "Examples:\n  vclctl release 12\n  vclctl release 12 --discard  an imaging one, without capturing it"
    )]
    Release {
        /// The reservation's number.
        id: vcl_types::ReservationId,
        /// Do not capture it, although it is for imaging.
        #[arg(long)]
        discard: bool,
    },
    /// Get to a reserved computer: opens ssh, or writes a file for a remote desktop.
    #[command(
        after_help = "Examples:\n  vclctl connect 12\n  vclctl connect 12 --print              only say how\n  \
            vclctl connect 12 --password           show a password, once\n  vclctl connect 12 --rdp gis.rdp"
    )]
    Connect(ConnectArguments),
    /// Look at reservations; load one's computer anew, capture it and go on.
    #[command(subcommand, after_help = "Example: vclctl reservation list")]
    Reservation(ReservationVerb),
    /// Put an image on a computer.
    #[command(
        after_help = "Examples:\n  vclctl load gis-01 debian              its newest revision\n  \
            vclctl load gis-01 debian@2 --dry-run  what it would do\n  \
            vclctl load gis-01 debian --detach     print the job's number and leave\n  \
            vclctl load gis-01 debian --wait       if another job has gis-01, after it\n  \
            vclctl load -l room-b12 --max 10 gis   a whole room, ten at a time",
        allow_missing_positional = true
    )]
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
    #[command(after_help = "Examples:\n  vclctl unload gis-01\n  vclctl unload -l room-b12 --dry-run")]
    Unload(UnloadArguments),
    /// Make, bring in, take out, check and delete images.
    #[command(subcommand, after_help = "Example: vclctl image show debian")]
    Image(ImageVerb),
    /// Put a revision in production: new reservations get it, and idle computers are loaded with it a few at a time.
    #[command(
        after_help = "Examples:\n  vclctl promote gis@3\n  vclctl promote gis@3 --force    although it has passed no test"
    )]
    Promote(PromoteArguments),
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
    /// Keep seats of an image for a class, at times of every week.
    #[command(subcommand, after_help = "Example: vclctl class list")]
    Class(ClassVerb),
    /// Take computers out of use for a time, after their users.
    #[command(subcommand, after_help = "Example: vclctl maintenance list")]
    Maintenance(MaintenanceVerb),
    /// Look at the hosts of backends; let one take nothing new.
    #[command(subcommand, after_help = "Example: vclctl host list")]
    Host(HostVerb),
    /// Look at management nodes; let one take no new jobs.
    #[command(subcommand, after_help = "Example: vclctl node list")]
    Node(NodeVerb),
    /// Report how the computers were used.
    #[command(subcommand, after_help = "Example: vclctl report usage --by group")]
    Report(ReportVerb),
    /// Look at what jobs have to themselves.
    #[command(subcommand, after_help = "Example: vclctl lease list")]
    Lease(LeaseVerb),
    /// Sign in, and keep the token that comes of it in a file of your own.
    #[command(
        after_help = "Examples:\n  vclctl login --url https://vcl.example.org:8444\n  vclctl login --user alice\n  \
            vclctl login --device         where there is no browser"
    )]
    Login(LoginArguments),
    /// Take back the token that signing in gave, and forget it.
    #[command(after_help = "Example: vclctl logout")]
    Logout,
    /// Show who you are and what you may.
    #[command(after_help = "Example: vclctl whoami")]
    Whoami,
    /// Look after users.
    #[command(subcommand, after_help = "Example: vclctl user list")]
    User(UserVerb),
    /// Look after groups of people.
    #[command(subcommand, after_help = "Example: vclctl group list")]
    Group(GroupVerb),
    /// Look after groups of images, which rights are on.
    #[command(subcommand, after_help = "Example: vclctl image-group list")]
    ImageGroup(ImageGroupVerb),
    /// Look after what groups may.
    #[command(subcommand, after_help = "Example: vclctl grant list")]
    Grant(GrantVerb),
    /// Make and take back tokens, which programs sign in with.
    #[command(subcommand, after_help = "Example: vclctl token list")]
    Token(TokenVerb),
    /// Show who did what to what, newest first.
    #[command(after_help = "Examples:\n  vclctl audit --limit 20\n  vclctl audit --who alice")]
    Audit {
        /// Only what this one did.
        #[arg(long, value_name = "NAME")]
        who: Option<String>,
        /// Only what was done to this.
        #[arg(long, value_name = "NAME")]
        subject: Option<String>,
        /// How many of the newest.
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
    },
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
    /// Make a machine what manifests of cdist's say: a computer of vcld's, or without a daemon over ssh, in a directory, or this one.
    #[command(
        long_about = "Make a machine what manifests of cdist's say: a computer of vcld's, or without a daemon over ssh, in a directory, or this one.\n\n\
            A computer is configured by a job, by a manifest or a playbook of vcld's own configuration ([configure] of vcld.toml). \
            Without a daemon it takes cdist's configuration directories as they are. Without -c they are those of the Debian package cdist, \
            ~/.cdist and what CDIST_PATH names, a later one over an earlier one. ssh is OpenSSH's, with all that your \
            configuration of it says. See docs/configure.md.",
        after_help = "Examples:\n  vclctl configure --host root@gis-01\n  \
            vclctl configure --host root@gis-01 -c /srv/conf -i site.manifest --dry-run\n  \
            vclctl configure --host root@gis-01 --ssh '-p 2222'\n  \
            vclctl configure --chroot /srv/root -i base.manifest\n  \
            vclctl configure gis-01 -i lab\n  vclctl configure diff gis-01"
    )]
    Configure(ConfigureArguments),
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
                let words = quoted.flat_map(|(n, part)| match n % 2 {
                    1 => vec![part],
                    _ => part.split_whitespace().collect(),
                });
                if let Err(refused) = Cli::try_parse_from(words) {
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
            "vclctl configure",
            "vclctl configure --host a --local",
            "vclctl configure --host a --base lib/cdist",
            "vclctl why",
        ] {
            let refused = Cli::try_parse_from(wrong.split_whitespace()).unwrap_err();
            assert_eq!(refused.exit_code(), 2, "{wrong}");
        }
    }
}
