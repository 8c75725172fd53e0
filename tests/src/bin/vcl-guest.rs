//! Makes test guests from Debian packages and boots them by hand.

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use vcl_tests::guest::{Guest, Kind, Machine, Progress, cache_directory};

const USAGE: &str = "\
usage: vcl-guest make fast|grub|uefi --key PUBLIC-KEY-FILE [--out DIR]
       vcl-guest boot DIR --key PRIVATE-KEY-FILE [COMMAND]

make   makes a guest that the key's owner may log in to as root, or finds it in the cache (VCL_CACHE, else .cache of
       the workspace). It prints where; --out copies it to DIR. Packages come from VCL_DEBIAN_MIRROR, else from
       http://deb.debian.org/debian.
boot   boots the guest in DIR in an emulated machine, waits for the login, runs COMMAND in it, presses the power
       button, and prints the seconds of each. DIR itself stays as it is.";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.split_first() {
        Some((&"make", rest)) => make(rest),
        Some((&"boot", rest)) => boot(rest),
        Some((&("--help" | "-h"), _)) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => Err(anyhow::anyhow!("make or boot?\n{USAGE}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vcl-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Arguments<'a> {
    plain: Vec<&'a str>,
    key: Option<&'a str>,
    out: Option<&'a str>,
}

fn parse<'a>(words: &[&'a str]) -> Result<Arguments<'a>> {
    let mut arguments = Arguments::default();
    let mut words = words.iter();
    while let Some(&word) = words.next() {
        let mut value = || words.next().copied().with_context(|| format!("{word} takes a value\n{USAGE}"));
        match word {
            "--key" => arguments.key = Some(value()?),
            "--out" => arguments.out = Some(value()?),
            option if option.starts_with("--") => bail!("no option {option}\n{USAGE}"),
            plain => arguments.plain.push(plain),
        }
    }
    Ok(arguments)
}

fn make(words: &[&str]) -> Result<()> {
    let arguments = parse(words)?;
    let [kind] = arguments.plain[..] else { bail!("make takes one kind\n{USAGE}") };
    let kind = Kind::from_name(kind)?;
    let file = arguments.key.with_context(|| format!("whose key may log in? --key\n{USAGE}"))?;
    let key = fs::read_to_string(file).with_context(|| format!("failed to read {file}"))?;
    let guest = Guest::make(kind, &cache_directory(), &key, &mut |progress| {
        if let Progress::Finished(stage, took) = progress {
            println!("{stage:<20} {:6.1} s", took.as_secs_f32());
        }
    })?;
    let guest = match arguments.out {
        Some(out) => guest.copy_to(Utf8Path::new(out))?,
        None => guest,
    };
    println!("{}", guest.directory());
    Ok(())
}

fn boot(words: &[&str]) -> Result<()> {
    let arguments = parse(words)?;
    let Some((directory, command)) = arguments.plain.split_first() else {
        bail!("boot which guest?\n{USAGE}")
    };
    let key: Utf8PathBuf =
        arguments.key.with_context(|| format!("whose key logs in? --key\n{USAGE}"))?.into();
    let mut machine = Machine::start(&Guest::open(Utf8Path::new(directory))?, &key)?;
    println!("{:<20} {:6.1} s", "login", machine.wait_for_login()?.as_secs_f32());
    if !command.is_empty() {
        print!("{}", machine.ssh(&command.join(" "))?);
    }
    println!("{:<20} {:6.1} s", "power button to off", machine.press_power_button()?.as_secs_f32());
    Ok(())
}
