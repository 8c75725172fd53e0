//! The command line of vcld: a follower of jobs over a typed client of its HTTP API, and what makes both readable.
//!
//! * [`cli`] is the language: verbs, options, help texts.
//! * [`Client`] is vcl-client's, which speaks HTTP over the daemon's unix socket or TLS.
//! * [`follow`] watches one job until it ends, across restarts of the daemon.
//! * [`render`] turns answers into text. What a guest wrote goes through [`render::text`] first.
//! * [`verbs`] are what ties these together, one file for each noun.
//!
//! Results go to stdout, everything about the way there to stderr, so `vclctl load a debian > file` shows its progress
//! and leaves one line in the file. With `--json` stdout is the API's JSON and nothing else.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should"))]

pub mod cli;
pub mod follow;
mod outage;
pub mod render;
mod screen;
pub mod verbs;

pub use outage::Patience;
pub use screen::{Screen, Sink};
pub use vcl_client::{Client, Error, ErrorKind, Place, Result, Stream};

use vcl_client as client;
use vcl_client as error;

/// Does what one command line says.
///
/// # Errors
/// Whatever kept it from being done; [`Error::exit_code`] is what the process should end with.
pub async fn run(cli: cli::Cli, screen: &mut Screen) -> Result<()> {
    let client = client_of(&cli)?;
    verbs::run(cli.verb, &client, screen).await
}

/// Where the command line says that the daemon is, with the token that is kept for it.
fn client_of(cli: &cli::Cli) -> Result<Client> {
    let place = match &cli.url {
        Some(url) => Place::Url { url: url.trim_end_matches('/').to_owned(), ca: cli.ca.clone() },
        None => Place::Socket(cli.socket.clone()),
    };
    let token = match std::env::var(vcl_client::tokens::VARIABLE) {
        Ok(token) if !token.trim().is_empty() => Some(token.trim().to_owned()),
        _ => match vcl_client::tokens::file() {
            Some(file) => vcl_client::tokens::kept(&file, &place)?,
            None => None,
        },
    };
    Client::at(place, token)
}
