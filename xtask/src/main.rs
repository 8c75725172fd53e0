//! Developer commands: `cargo xtask --help`.
//!
//! * `check-deps` holds the rules that a compiler does not know: who may depend on whom (`layers`), and what files may
//!   look like (`sources`).
//! * `new-backend` makes a crate for a backend of somebody's own.
//! * `guests` runs the tests of `tests/`, several at a time over all binaries.
//! * `docs` writes what is generated, `package` makes the Debian package, `bench` runs benches in a private world.
//!
//! It depends on no crate of the workspace, so that it builds in seconds and still runs while one of them is broken.

mod bench;
mod conformance;
mod docs;
mod lanes;
mod layers;
mod new_backend;
mod package;
mod process;
mod reservations;
mod sources;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::MetadataCommand;
use clap::Parser;

/// Developer commands of vcld.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
enum Command {
    /// Checks who depends on whom, and the rules for source files.
    CheckDeps,
    /// Writes what is generated: the configuration's schema and reference, the OpenAPI document, the pages of the backends
    /// and of a reservation's life.
    Docs(docs::Arguments),
    /// Makes a crate for a backend of its own, outside of this checkout: a toy machine that passes the conformance kit.
    NewBackend(new_backend::Arguments),
    /// Makes the Debian package of vcld and vclctl; takes `cargo install cargo-deb`.
    Package(package::Arguments),
    /// Runs the tests that start daemons and guests, two at a time over all binaries.
    Guests(lanes::Arguments),
    /// Runs benches, release build, and prints one JSON object a line; takes root, for a libvirtd of its own. `bench queue
    /// --help` lists all of them with their cases.
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    match run(&Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is not in a workspace")?;
    match command {
        Command::CheckDeps => check_deps(root),
        Command::Docs(arguments) => docs::run(root, arguments),
        Command::NewBackend(arguments) => new_backend::run(root, arguments),
        Command::Package(arguments) => package::run(root, arguments),
        Command::Guests(arguments) => lanes::run(root, arguments),
        Command::Bench(arguments) => bench::run(root, arguments),
    }
}

fn check_deps(root: &Path) -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(root)
        .features(cargo_metadata::CargoOpt::AllFeatures)
        .other_options(vec!["--locked".into()])
        .exec()?;
    let mut problems = layers::problems(&metadata)?;
    problems.extend(sources::problems(root)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    anyhow::ensure!(problems.is_empty(), "{} problems", problems.len());
    println!("layers and sources: no problems");
    Ok(())
}
