//! What needs no daemon.

use crate::cli::Cli;
use crate::error::{Error, ErrorKind, Result};
use crate::screen::Screen;
use clap::CommandFactory as _;
use std::path::Path;

/// Prints a shell's completions.
pub(super) fn completions(shell: clap_complete::Shell, screen: &mut Screen) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vclctl", &mut script);
    screen.print_raw(&script)
}

/// Writes a manual page for every verb.
pub(super) fn man(directory: &Path) -> Result<()> {
    let written =
        std::fs::create_dir_all(directory).and_then(|()| clap_mangen::generate_to(Cli::command(), directory));
    written.map_err(|cause| {
        Error::caused(
            ErrorKind::Local,
            format!("cannot write manual pages to `{}`", directory.display()),
            cause,
        )
    })
}
