//! Runs a command in a private world with its own libvirtd, network and processes.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use camino::Utf8PathBuf;

const USAGE: &str = "\
usage: vcl-world [--dir DIR] -- COMMAND [ARGUMENT]...

Runs COMMAND as root in a world of its own: processes, mounts, network (with lo up) and libvirtd. Ends everything in
it when COMMAND ends, and exits with its code. COMMAND finds the world's directory in VCL_WORLD.

  --dir DIR   keep what the world wrote (logs, libvirt's definitions) in DIR; otherwise it is temporary";

/// Which of the processes of a world this one is. `vcl-world` itself starts the inner two, and
/// a test the last.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Outside,
    First,
    Command,
    Host,
}

struct Arguments {
    directory: Option<Utf8PathBuf>,
    role: Role,
    command: Vec<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments> {
    let mut arguments = Arguments { directory: None, role: Role::Outside, command: Vec::new() };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--dir" | "--inside" | "--start" | "--host" => {
                let directory = words.next().with_context(|| format!("{word} takes a directory"))?;
                arguments.directory = Some(directory.into());
                arguments.role = match word.as_str() {
                    "--inside" => Role::First,
                    "--start" => Role::Command,
                    "--host" => Role::Host,
                    _ => Role::Outside,
                };
            }
            "--" => {
                arguments.command = words.collect();
                break;
            }
            other => bail!("unexpected {other:?} before --\n{USAGE}"),
        }
    }
    if arguments.command.is_empty() && arguments.role != Role::Host {
        bail!("no command\n{USAGE}");
    }
    Ok(arguments)
}

async fn run() -> Result<u8> {
    let arguments = parse(std::env::args().skip(1))?;
    let command = &arguments.command;
    match (arguments.role, arguments.directory) {
        (Role::First, Some(directory)) => vcl_tests::world::run_inside(&directory, command).await,
        // What stands where a command would are directories that the host is not to see.
        (Role::Host, Some(directory)) => vcl_tests::world::hold_host(&directory, command).map(|()| 0),
        (Role::Command, _) => match vcl_tests::world::start_and_become(command)? {},
        (_, directory) => vcl_tests::world::run(directory.as_deref(), command).await,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|word| word == "--help" || word == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match run().await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("vcl-world: {error:#}");
            // Away from the codes that commands use themselves, as `env` and `timeout` do it.
            ExitCode::from(125)
        }
    }
}
