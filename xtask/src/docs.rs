//! What is generated from code and kept in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process::{self, cargo, output_of};
use crate::{conformance, reservations};

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
    let pages =
        [(conformance::PAGE, conformance::page(root)?), (reservations::PAGE, reservations::page(root)?)];
    if arguments.check {
        for (name, page) in &pages {
            ensure!(
                fs::read_to_string(root.join(name)).is_ok_and(|there| there == *page),
                "{name} is not what it is made of: run `cargo xtask docs`"
            );
            println!("{name}: up to date");
        }
        ensure!(
            fs::read(&file).is_ok_and(|there| there == openapi),
            "{OPENAPI} is not what the code makes: run `cargo xtask docs`"
        );
        println!("{OPENAPI}: up to date");
        return Ok(());
    }
    for (name, page) in &pages {
        fs::write(root.join(name), page).with_context(|| format!("failed to write {name}"))?;
    }
    fs::write(&file, openapi).with_context(|| format!("failed to write {OPENAPI}"))?;
    // The test that compares them writes them when told so.
    process::run(
        cargo().args(["test", "--quiet", "--package", "vcl-config"]).env("UPDATE", "1").current_dir(root),
    )
}
