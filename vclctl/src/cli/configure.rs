//! `configure`.

use camino::Utf8PathBuf;
use clap::{ArgGroup, Args, Subcommand};
use vcl_types::ComputerName;

/// What is configured, with what, and how.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(group = ArgGroup::new("target").required(true).multiple(true).args(["computer", "host", "file", "chroot", "local"]))]
pub struct ConfigureArguments {
    /// A computer of vcld's: a job of its configures it, by a manifest of its.
    pub computer: Option<ComputerName>,
    /// A machine that OpenSSH's ssh finds, as in root@gis-01; may be given several times.
    #[arg(long, value_name = "[USER@]HOST", conflicts_with_all = ["computer", "chroot", "local"])]
    pub host: Vec<String>,
    /// A file with such machines, one a line; - for standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["computer", "chroot", "local"])]
    pub file: Option<Utf8PathBuf>,
    /// How many machines at the same time.
    #[arg(short = 'p', long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512), conflicts_with = "computer")]
    pub at_once: u16,
    /// A root directory on this machine. Takes root.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["computer", "local"])]
    pub chroot: Option<Utf8PathBuf>,
    /// This machine.
    #[arg(long, conflicts_with = "computer")]
    pub local: bool,
    /// What ssh is called with besides, as in '-p 2222 -i key'. Words are separated by blanks.
    #[arg(long, value_name = "WORDS", conflicts_with_all = ["computer", "chroot", "local"], allow_hyphen_values = true)]
    pub ssh: Option<String>,
    /// What the manifests know it as, if not by its name.
    #[arg(long, value_name = "NAME", conflicts_with = "computer")]
    pub name: Option<String>,
    /// What it is, for manifests that ask; may be given several times.
    #[arg(short, long, value_name = "TAG", conflicts_with = "computer")]
    pub tag: Vec<String>,
    /// A configuration directory; may be given several times, a later one over an earlier one.
    #[arg(short, long = "conf", value_name = "DIR", conflicts_with = "computer")]
    pub conf: Vec<Utf8PathBuf>,
    /// The manifest to begin with; without it, manifest/init of the configuration. For a computer of vcld's it is the name of a
    /// manifest, or of a playbook, of its configuration.
    #[arg(short = 'i', long, value_name = "FILE")]
    pub manifest: Option<Utf8PathBuf>,
    /// Explore and generate code, and run none of it.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How many scripts run at the same time, here, and explorers there; without it, as many as there are processors here, and four at least.
    #[arg(short, long, value_name = "N", conflicts_with = "computer", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Use the types for installing, and no others.
    #[arg(long, conflicts_with = "computer")]
    pub install: bool,
    /// How many seconds one script may take.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", conflicts_with = "computer", value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline: u64,
    /// How many seconds the whole run may take; without it, as many as it takes.
    #[arg(long, value_name = "SECONDS", conflicts_with = "computer", value_parser = clap::value_parser!(u64).range(1..))]
    pub within: Option<u64>,
    /// For how many seconds it is tried to reach a machine again whose connection broke.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", conflicts_with = "computer")]
    pub patience: u64,
    /// Keep what was generated in this directory, and take it from there where nothing has changed that goes into it.
    #[arg(long, value_name = "DIR", conflicts_with = "computer")]
    pub memo: Option<Utf8PathBuf>,
    /// A file with a password or the like, which scripts read as $__vcl_secrets/NAME, and which stands in nothing that is said or
    /// kept; may be given several times.
    #[arg(long, value_name = "NAME=FILE", value_parser = secret, conflicts_with = "computer")]
    pub secret: Vec<(String, Utf8PathBuf)>,
    /// Keep what a run that does not come to its end has noted there; a run that finds something there goes on with it.
    #[arg(long, value_name = "DIR", conflicts_with = "computer")]
    pub state: Option<Utf8PathBuf>,
    /// Where the run works on the machine.
    #[arg(long, default_value = "/var/lib/cdist", value_name = "DIR", value_parser = absolute, conflicts_with = "computer")]
    pub base: Utf8PathBuf,
    /// Keep what the run has noted there, in cdist's layout. The directory must not exist.
    #[arg(long, value_name = "DIR", conflicts_with = "computer")]
    pub keep: Option<Utf8PathBuf>,
    /// Write what has become of the run there, as --json tells it, and of one that fails why.
    #[arg(long, value_name = "FILE", conflicts_with = "computer")]
    pub report: Option<Utf8PathBuf>,
    /// Tell on standard output how it goes, a line each, and nothing else: for the daemon.
    #[arg(long, hide = true, conflicts_with = "computer")]
    pub lines: bool,
    /// End what a run that was killed has left running on the machine, and do nothing else: for the daemon.
    #[arg(long, hide = true, requires = "state", conflicts_with = "computer")]
    pub end: bool,
    /// Print the job's number and leave.
    #[arg(long, conflicts_with_all = ["host", "file", "chroot", "local"])]
    pub detach: bool,
    /// Wait for its turn if another job has the computer, instead of being refused.
    #[arg(long, conflicts_with_all = ["host", "file", "chroot", "local"])]
    pub wait: bool,
    /// Or look at what earlier runs have made.
    #[command(subcommand)]
    pub verb: Option<ConfigureVerb>,
}

/// What is wanted of earlier runs.
#[derive(Debug, Subcommand)]
pub enum ConfigureVerb {
    /// What changed from one run to the next: on the machine, in the configuration, in what was done.
    #[command(
        long_about = "What changed from one run to the next: on the machine, in the configuration, in what was done.\n\n\
            Of a computer of vcld's it is the last two runs by each manifest, as its node has kept them. Two directories are \
            what --keep has made, or cdist's cache of a host, the older one first.",
        after_help = "Examples:\n  vclctl configure diff gis-01\n  vclctl configure diff ./monday ./tuesday"
    )]
    Diff {
        /// A computer, or the directory of the older run.
        #[arg(value_name = "COMPUTER|OLD")]
        older: String,
        /// The directory of the newer run.
        #[arg(value_name = "NEW")]
        newer: Option<Utf8PathBuf>,
    },
}

fn absolute(text: &str) -> Result<Utf8PathBuf, String> {
    let path = Utf8PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err("it is a directory on the machine: write all of it, from / on".into())
    }
}

fn secret(text: &str) -> Result<(String, Utf8PathBuf), String> {
    let (name, file) =
        text.split_once('=').ok_or("write a name and a file, as in db=/etc/vcl/db-password")?;
    Ok((name.to_owned(), file.into()))
}
