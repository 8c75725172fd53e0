//! The daemon's command line.

use camino::Utf8PathBuf;
use clap::{Parser, Subcommand};

/// The daemon that lends machines.
#[derive(Debug, Parser)]
#[command(
    name = "vcld",
    version,
    about,
    long_about = "The daemon that lends machines: it loads images on computers, takes them \
back clean, and captures what was built as the next revision. It is asked over its unix socket; see vclctl."
)]
pub struct Arguments {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "/etc/vcld/vcld.toml", global = true)]
    pub(crate) config: Utf8PathBuf,
    #[command(subcommand)]
    pub(crate) command: Option<Verb>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Read a configuration and name every problem in it
    CheckConfig {
        /// The file; without one, what --config says
        file: Option<Utf8PathBuf>,
    },
    /// Put a snapshot of a backup back: database and library. The daemon must not run
    #[command(after_help = "Examples:\n  vcld restore /backup/vcld\n  \
            vcld restore /backup/vcld --snapshot 2026-11-21T10-00-00Z-job12 --merge")]
    Restore {
        /// The directory of backups
        directory: Utf8PathBuf,
        /// Which snapshot; without one, the newest that is complete
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
        /// Keep the database and the revisions that are here, and add what is missing
        #[arg(long)]
        merge: bool,
    },
    /// Look at a directory of backups
    #[command(subcommand)]
    Backups(BackupsVerb),
    /// Print the JSON schema of the configuration
    ConfigSchema,
    /// Print the OpenAPI document of the HTTP API
    Openapi,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupsVerb {
    /// List its snapshots
    #[command(after_help = "Example: vcld backups list /backup/vcld")]
    List {
        /// The directory of backups
        directory: Utf8PathBuf,
    },
    /// Read everything that its snapshots hold and compare digests
    #[command(after_help = "Example: vcld backups verify /backup/vcld")]
    Verify {
        /// The directory of backups
        directory: Utf8PathBuf,
        /// One snapshot alone
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
    },
}
