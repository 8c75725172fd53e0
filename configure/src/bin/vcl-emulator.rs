//! The commands that scripts of a run call, and nothing else: see `vcl_configure::command`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vcl_configure::command::run().unwrap_or_else(|| {
        eprintln!(
            "this program is what a run's scripts call by the names of types; there is nothing else to it"
        );
        ExitCode::FAILURE
    })
}
