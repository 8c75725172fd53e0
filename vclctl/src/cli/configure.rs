//! `configure`.

use camino::Utf8PathBuf;
use clap::{ArgGroup, Args};

/// What is configured, with what, and how.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("target").required(true).args(["host", "chroot", "local"]))]
pub struct ConfigureArguments {
    /// A machine that OpenSSH's ssh finds, as in root@gis-01.
    #[arg(long, value_name = "[USER@]HOST")]
    pub host: Option<String>,
    /// A root directory on this machine. Takes root.
    #[arg(long, value_name = "DIR")]
    pub chroot: Option<Utf8PathBuf>,
    /// This machine.
    #[arg(long)]
    pub local: bool,
    /// What ssh is called with besides, as in '-p 2222 -i key'. Words are separated by blanks.
    #[arg(long, value_name = "WORDS", requires = "host", allow_hyphen_values = true)]
    pub ssh: Option<String>,
    /// What the manifests know it as, if not by its name.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// What it is, for manifests that ask; may be given several times.
    #[arg(short, long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// A configuration directory; may be given several times, a later one over an earlier one.
    #[arg(short, long = "conf", value_name = "DIR")]
    pub conf: Vec<Utf8PathBuf>,
    /// The manifest to begin with; without it, manifest/init of the configuration.
    #[arg(short = 'i', long, value_name = "FILE")]
    pub manifest: Option<Utf8PathBuf>,
    /// Explore and generate code, and run none of it.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// How many scripts run at the same time, here, and explorers there; without it, as many as there are processors here.
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: Option<u16>,
    /// Use the types for installing, and no others.
    #[arg(long)]
    pub install: bool,
    /// How many seconds one script may take.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline: u64,
    /// How many seconds the whole run may take; without it, as many as it takes.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub within: Option<u64>,
    /// For how many seconds it is tried to reach a machine again whose connection broke.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    pub patience: u64,
    /// Keep what was generated in this directory, and take it from there where nothing has changed that goes into it.
    #[arg(long, value_name = "DIR")]
    pub memo: Option<Utf8PathBuf>,
    /// Keep what a run that does not come to its end has noted there; a run that finds something there goes on with it.
    #[arg(long, value_name = "DIR")]
    pub state: Option<Utf8PathBuf>,
    /// Where the run works on the machine.
    #[arg(long, default_value = "/var/lib/cdist", value_name = "DIR")]
    pub base: Utf8PathBuf,
    /// Keep what the run has noted there, in cdist's layout. The directory must not exist.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<Utf8PathBuf>,
}
