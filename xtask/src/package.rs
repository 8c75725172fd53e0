//! The Debian package: what cargo-deb does not make itself, then cargo-deb.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{self, cargo, output_of};

/// Where vcld/Cargo.toml expects manual pages and completions.
const GENERATED: &str = ".cache/package";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Pack the debug build that is in target/debug already: to see that the package is whole, not to be installed.
    #[arg(long)]
    debug: bool,
    /// Where the package goes.
    #[arg(long, value_name = "FILE", default_value = "target/debian/")]
    output: PathBuf,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let profile = if arguments.debug { "debug" } else { "release" };
    if !arguments.debug {
        let build = ["build", "--release", "--locked", "--package", "vcld", "--package", "vclctl", "--bins"];
        process::run(cargo().args(build).current_dir(root))?;
    }
    generate(root, &root.join("target").join(profile).join("vclctl"))?;

    let mut deb = cargo();
    deb.args(["deb", "--package", "vcld", "--no-build", "--output"]).arg(&arguments.output);
    if arguments.debug {
        // cargo-deb knows release builds alone, so it is shown a directory that looks like one.
        let seeming = root.join(GENERATED).join("built");
        let release = seeming.join("release");
        fs::create_dir_all(&release).with_context(|| format!("failed to make {}", release.display()))?;
        for name in ["vcld", "vclctl"] {
            let built = root.join("target/debug").join(name);
            fs::copy(&built, release.join(name))
                .with_context(|| format!("failed to copy {}", built.display()))?;
        }
        deb.arg("--fast").env("CARGO_TARGET_DIR", seeming);
    }
    process::run(deb.current_dir(root))
        .context("cargo-deb failed; if it is not there: cargo install cargo-deb --locked")
}

fn generate(root: &Path, vclctl: &Path) -> Result<()> {
    let directory = root.join(GENERATED);
    if directory.exists() {
        // A page of a verb that is gone would be packed as well.
        fs::remove_dir_all(&directory).with_context(|| format!("failed to remove {GENERATED}"))?;
    }
    let man = directory.join("man");
    fs::create_dir_all(&man).with_context(|| format!("failed to make {GENERATED}"))?;
    process::run(Command::new(vclctl).arg("man").arg(&man))?;
    for (shell, file) in [("bash", "vclctl.bash"), ("zsh", "_vclctl"), ("fish", "vclctl.fish")] {
        let script = output_of(Command::new(vclctl).args(["completions", shell]))?;
        fs::write(directory.join(file), script).with_context(|| format!("failed to write {file}"))?;
    }
    Ok(())
}
