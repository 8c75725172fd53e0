//! The command line of vcld: see the library for everything it does.

use clap::Parser as _;
use std::process::ExitCode;
use vclctl::{Screen, cli::Cli};

fn main() -> ExitCode {
    // Scripts of `vclctl configure` call this program by the names of types, hundreds of times.
    if let Some(ended) = vcl_configure::command::run() {
        return ended;
    }
    let cli = Cli::parse();
    let mut screen = Screen::of_this_process(cli.json);
    // One thread is enough for somebody who asks one question at a time.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => {
            screen.complain(&format!("cannot start: {cause}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(vclctl::run(cli, &mut screen)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_closed_pipe() {
                screen.complain(&error.line());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
