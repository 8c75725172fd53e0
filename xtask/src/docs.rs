//! What is generated from code and kept in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::conformance;
use crate::process::{self, cargo, output_of};

const OPENAPI: &str = "docs/openapi.json";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compare what is there instead of writing it. The configuration's files are compared by vcl-config's own tests.
    #[arg(long)]
    check: bool,
    /// Where a vcld is that was built just now; without it, one is built.
    #[arg(long, value_name = "DIR")]
    built: Option<PathBuf>,
}

fn run_vcld(root: &Path, built: Option<&Path>, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = match built {
        Some(directory) => Command::new(fs::canonicalize(directory)?.join("vcld")),
        None => {
            let mut cargo = cargo();
            cargo.args(["run", "--quiet", "--package", "vcld", "--"]);
            cargo
        }
    };
    output_of(command.args(arguments).current_dir(root))
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let openapi = run_vcld(root, arguments.built.as_deref(), &["openapi"])?;
    let file = root.join(OPENAPI);
    let page = conformance::page(root)?;
    if arguments.check {
        let there = fs::read_to_string(root.join(conformance::PAGE));
        ensure!(
            there.is_ok_and(|there| there == page),
            "{} is not what the reports make: run `cargo xtask docs`",
            conformance::PAGE
        );
        println!("{}: up to date", conformance::PAGE);
        ensure!(
            fs::read(&file).is_ok_and(|there| there == openapi),
            "{OPENAPI} is not what the code makes: run `cargo xtask docs`"
        );
        println!("{OPENAPI}: up to date");
        return Ok(());
    }
    fs::write(root.join(conformance::PAGE), page)
        .with_context(|| format!("failed to write {}", conformance::PAGE))?;
    fs::write(&file, openapi).with_context(|| format!("failed to write {OPENAPI}"))?;
    // The test that compares them writes them when told so.
    process::run(
        cargo().args(["test", "--quiet", "--package", "vcl-config"]).env("UPDATE", "1").current_dir(root),
    )
}
