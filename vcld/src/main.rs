//! The daemon with the backends that vcld comes with.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    vcld::Vcld::builder().with_shipped_backends().run(vcld::Arguments::parse())
}
