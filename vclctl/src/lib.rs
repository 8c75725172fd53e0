//! The command line of vcld: a typed client of its HTTP API, a follower of jobs, and what makes both readable.
//!
//! * [`cli`] is the language: verbs, options, help texts.
//! * [`Client`] speaks HTTP over the daemon's unix socket; every request that can fail says what was wanted.
//! * [`follow`] watches one job until it ends, across restarts of the daemon.
//! * [`render`] turns answers into text. What a guest wrote goes through [`render::text`] first.
//! * [`verbs`] are what ties these together, one file for each noun.
//!
//! Results go to stdout, everything about the way there to stderr, so `vclctl load a debian > file` shows its progress
//! and leaves one line in the file. With `--json` stdout is the API's JSON and nothing else.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should"))]

pub mod cli;
mod client;
mod error;
pub mod follow;
mod outage;
pub mod render;
mod screen;
mod sse;
pub mod verbs;

pub use client::{Client, Stream};
pub use error::{Error, ErrorKind, Result};
pub use outage::Patience;
pub use screen::{Screen, Sink};

/// Does what one command line says.
///
/// # Errors
/// Whatever kept it from being done; [`Error::exit_code`] is what the process should end with.
pub async fn run(cli: cli::Cli, screen: &mut Screen) -> Result<()> {
    let client = Client::new(&cli.socket)?;
    verbs::run(cli.verb, &client, screen).await
}
