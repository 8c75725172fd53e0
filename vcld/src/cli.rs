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
    /// Print the JSON schema of the configuration
    ConfigSchema,
    /// Print the OpenAPI document of the HTTP API
    Openapi,
}
