//! Benches: `vcl-bench` of vcl-tests, built for release. As the demo does, it enters a private world by itself.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process::{self, cargo};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which bench; what follows it is vcl-bench's too.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "NAME")]
    words: Vec<String>,
}

pub(crate) fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let packages = ["--package", "vcld", "--package", "vclctl", "--package", "vcl-tests"];
    process::run(
        cargo().args(["build", "--release", "--locked", "--bins"]).args(packages).current_dir(root),
    )?;
    process::run(Command::new(root.join("target/release/vcl-bench")).args(&arguments.words).current_dir(root))
}
