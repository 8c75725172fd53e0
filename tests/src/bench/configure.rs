//! What `vclctl configure` costs against cdist 7.0.0: the same manifests, on machines that neither has seen before.
//!
//! All of it is in a private world. A machine is a copy of one Debian with an sshd of its own, on port 22 of a loopback
//! address. The world's `ssh_config` says whose key opens it, so neither side is told anything about ssh: cdist goes with the
//! options that it has by itself, its ssh master among them, and ours with its own. Both find the same few variables, an empty
//! home and an empty directory for temporary files, in memory. Runs alternate, each on a fresh copy of the machine.
//!
//! Client and machine share the processors. What is counted as CPU is the client's alone: the program, its scripts and its ssh,
//! those that outlive it included. What each case is, [`CASES`] says; `docs/benchmarks.md` has the aims.

mod manifests;
mod meter;
mod peers;
mod relay;
mod site;
mod target;

use super::Line;
use crate::guest::{self, Guest, Kind};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use clap::{Parser, ValueEnum};
use meter::Spent;
use relay::Relay;
use site::Site;
use std::fs;
use std::process::Command;
use std::time::Duration;
use target::Target;

/// The cases, with what each measures.
pub const CASES: &[(&str, &str)] = &[
    (
        "empty",
        "a manifest with nothing in it: s, and CPU s of the client in empty_cpu; so with those that follow",
    ),
    ("new10", "10 files with content and mode that are not there yet"),
    ("new100", "100 of them"),
    ("same100", "the 100 once more, when they are as they should be"),
    ("mix300", "300 objects of nine types, which require and define each other"),
    ("rtt10", "new100 through a relay that delays what passes by 5 ms each way"),
    ("emulator", "ms for a call of a type in a manifest"),
    ("hosts20", "new10 on 20 machines at once"),
    ("comparison", "new100 against ansible-core, ansible-core with Mitogen, and pyinfra; only if asked for"),
];

/// How long the relay of `rtt10` keeps what passes, each way.
const DELAY: Duration = Duration::from_millis(5);
/// How many times the manifest of `emulator` calls its type.
const CALLS: usize = 200;
const HOSTS: u8 = 20;

/// Seconds of `vclctl configure`, and of cdist 7.0.0 doing the same.
#[derive(Debug, Parser)]
#[command(name = "vcl-bench configure")]
struct Arguments {
    /// Which case; without one, all but the comparison.
    case: Option<Case>,
    /// Several of them, as in new10,rtt10.
    #[arg(long, value_name = "CASES", value_delimiter = ',', conflicts_with = "case")]
    cases: Vec<Case>,
    /// How often each side does a case; without it, from 7 times to once, by how long cdist takes for it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// The comparison too. It installs its programs from PyPI, once.
    #[arg(long)]
    peers: bool,
    /// The Debian, for the half of the bench that is in the world.
    #[arg(long, hide = true)]
    debian: Option<Utf8PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Case {
    Empty,
    New10,
    New100,
    Same100,
    Mix300,
    Rtt10,
    Emulator,
    Hosts20,
    Comparison,
}

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Ours,
    Cdist,
    Ansible,
    Mitogen,
    Pyinfra,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "vclctl configure",
            Self::Cdist => "cdist 7.0.0",
            Self::Ansible => "ansible-core 2.19.14, pipelining",
            Self::Mitogen => "ansible-core 2.19.14 with Mitogen 0.3.54",
            Self::Pyinfra => "pyinfra 3.10.0",
        }
    }
}

/// One thing that was measured.
struct Figure {
    line: &'static str,
    unit: &'static str,
    value: f64,
}

/// The two lines of a case.
fn seconds(spent: &Spent, wall: &'static str, cpu: &'static str) -> Vec<Figure> {
    vec![
        Figure { line: wall, unit: "s", value: spent.wall },
        Figure { line: cpu, unit: "s", value: spent.cpu },
    ]
}

/// Runs the bench with the words that follow its name.
///
/// # Errors
///
/// When this is not root, cdist is not installed, or a side fails; what it said is in the error then.
pub fn run(words: &[String]) -> Result<()> {
    let name = "vcl-bench configure".to_owned();
    let arguments = Arguments::parse_from(std::iter::once(&name).chain(words));
    match &arguments.debian {
        None => outside(&arguments, words),
        Some(debian) => inside(&arguments, debian),
    }
}

/// Where tests and benches find what was installed for them.
fn people() -> Utf8PathBuf {
    guest::cache_directory().with_file_name("people")
}

/// Gets what takes the network, which the world has none of, and starts the world.
fn outside(arguments: &Arguments, words: &[String]) -> Result<()> {
    if arguments.cases().contains(&Case::Comparison) {
        peers::install(&people())?;
    }
    let target = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").canonicalize_utf8()?;
    let directory = tempfile::Builder::new().prefix("bench-configure-").tempdir_in(target)?;
    let debian = Utf8Path::from_path(directory.path()).context("not UTF-8")?.join("debian");
    fs::create_dir(&debian)?;
    eprintln!("unpacking a Debian");
    Guest::unpack(Kind::Fast, &guest::cache_directory(), &debian)?;
    let world = crate::daemon::binary("vcl-world")?;
    let mut inside = Command::new(world);
    inside
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(["configure", "--debian", debian.as_str()])
        .args(words);
    ensure!(inside.status()?.success(), "the bench failed in its world");
    Ok(())
}

fn inside(arguments: &Arguments, debian: &Utf8Path) -> Result<()> {
    let site = Site::new(debian, &people(), HOSTS)?;
    let cases = arguments.cases();
    let bench = Bench { site, rounds: arguments.rounds.map(usize::from), cases: &cases };
    if cases.iter().any(|case| *case != Case::Comparison) {
        // Programs, scripts and Python's compiled modules come from the disk once.
        for side in [Side::Ours, Side::Cdist] {
            eprintln!("not counted: {}, with nothing to do", side.name());
            let target = Target::start(&bench.site, 1)?;
            bench.site.configure(side, &[target.name()], manifests::EMPTY)?;
        }
    }
    cases.iter().try_for_each(|case| bench.run(*case))
}

impl Arguments {
    fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = self.case.into_iter().chain(self.cases.iter().copied()).collect();
        if cases.is_empty() {
            let all = Case::value_variants().iter().copied();
            cases = all.filter(|case| *case != Case::Comparison).collect();
        }
        if self.peers && !cases.contains(&Case::Comparison) {
            cases.push(Case::Comparison);
        }
        cases
    }
}

impl Case {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
    /// How often each side does it, if nobody says.
    fn rounds(self) -> usize {
        match self {
            Self::Empty => 7,
            Self::New10 | Self::New100 | Self::Same100 | Self::Emulator => 3,
            Self::Mix300 | Self::Rtt10 | Self::Hosts20 | Self::Comparison => 1,
        }
    }
}

struct Bench<'a> {
    site: Site,
    rounds: Option<usize>,
    cases: &'a [Case],
}

impl Bench<'_> {
    fn run(&self, case: Case) -> Result<()> {
        match case {
            Case::Empty => self.alternate(case, |side| {
                let target = Target::start(&self.site, 1)?;
                let spent = self.site.configure(side, &[target.name()], manifests::EMPTY)?;
                Ok(seconds(&spent, "empty", "empty_cpu"))
            }),
            Case::New10 => self.alternate(case, |side| {
                let target = Target::start(&self.site, 1)?;
                let spent = self.site.configure(side, &[target.name()], &manifests::files(10))?;
                target.has_files(10)?;
                Ok(seconds(&spent, "new10", "new10_cpu"))
            }),
            // The same runs, since what is there already has to get there first.
            Case::Same100 if self.cases.contains(&Case::New100) => Ok(()),
            Case::New100 | Case::Same100 => self.alternate(case, |side| self.hundred(side)),
            Case::Mix300 => self.alternate(case, |side| {
                let target = Target::start(&self.site, 1)?;
                let spent = self.site.configure(side, &[target.name()], &manifests::mixed())?;
                target.has_mixed()?;
                Ok(seconds(&spent, "mix300", "mix300_cpu"))
            }),
            Case::Rtt10 => {
                let _relay = Relay::start(site::FAR_ADDRESS, target::address(1), DELAY)?;
                self.alternate(case, |side| {
                    let target = Target::start(&self.site, 1)?;
                    let spent = self.site.configure(side, &[site::FAR], &manifests::files(100))?;
                    target.has_files(100)?;
                    Ok(seconds(&spent, "rtt10", "rtt10_cpu"))
                })
            }
            Case::Emulator => self.alternate(case, |side| {
                let target = Target::start(&self.site, 1)?;
                let manifest = manifests::calls(CALLS, &self.site.directory);
                self.site.configure(side, &[target.name()], &manifest)?;
                let took = manifests::calls_took(&self.site.directory)?;
                Ok(vec![Figure {
                    line: "emulator",
                    unit: "ms",
                    value: took.as_secs_f64() * 1e3 / CALLS as f64,
                }])
            }),
            Case::Hosts20 => self.alternate(case, |side| {
                let targets: Vec<Target> =
                    (1..=HOSTS).map(|n| Target::start(&self.site, n)).collect::<Result<_>>()?;
                let names: Vec<&str> = targets.iter().map(Target::name).collect();
                let spent = self.site.configure(side, &names, &manifests::files(10))?;
                targets.iter().try_for_each(|target| target.has_files(10).map(drop))?;
                Ok(seconds(&spent, "hosts20", "hosts20_cpu"))
            }),
            Case::Comparison => {
                let sides = [Side::Ours, Side::Ansible, Side::Mitogen, Side::Pyinfra];
                self.between(case, &sides, |side| {
                    // It has a Python, which two of them need there.
                    let target = Target::start_on(&self.site, 1, Utf8Path::new("/"))?;
                    let spent = match peers::command(&self.site, side, target.name())? {
                        Some(command) => self.site.measure(&mut [command])?,
                        None => self.site.configure(side, &[target.name()], &manifests::files(100))?,
                    };
                    target.has_files(100)?;
                    Ok(seconds(&spent, "comparison", "comparison_cpu"))
                })
            }
        }
    }

    /// A hundred files, and the same again.
    fn hundred(&self, side: Side) -> Result<Vec<Figure>> {
        let target = Target::start(&self.site, 1)?;
        let spent = self.site.configure(side, &[target.name()], &manifests::files(100))?;
        let before = target.has_files(100)?;
        let mut figures = Vec::new();
        if self.cases.contains(&Case::New100) {
            figures.extend(seconds(&spent, "new100", "new100_cpu"));
        }
        if self.cases.contains(&Case::Same100) {
            let spent = self.site.configure(side, &[target.name()], &manifests::files(100))?;
            ensure!(target.has_files(100)? == before, "files were written again that were as they should be");
            figures.extend(seconds(&spent, "same100", "same100_cpu"));
            // Cdist has nothing of the kind: its run is the same one.
            let spent = if side == Side::Ours {
                let memo = self.site.memo();
                let again = || {
                    let words = ["--memo", memo.as_str()];
                    self.site.configure_with(side, &[target.name()], &manifests::files(100), &words)
                };
                again()?;
                let spent = again()?;
                ensure!(
                    target.has_files(100)? == before,
                    "files were written again that were as they should be"
                );
                spent
            } else {
                spent
            };
            figures.extend(seconds(&spent, "same100_memo", "same100_memo_cpu"));
        }
        Ok(figures)
    }

    fn alternate(&self, case: Case, one: impl FnMut(Side) -> Result<Vec<Figure>>) -> Result<()> {
        self.between(case, &[Side::Ours, Side::Cdist], one)
    }

    /// Has all sides do it in turn, and prints ours, the first of them, against each of the others.
    fn between(
        &self,
        case: Case,
        sides: &[Side],
        mut one: impl FnMut(Side) -> Result<Vec<Figure>>,
    ) -> Result<()> {
        let mut all: Vec<(Side, Figure)> = Vec::new();
        let rounds = self.rounds.unwrap_or_else(|| case.rounds());
        for round in 1..=rounds {
            for &side in sides {
                let what = format!("{}, round {round} of {rounds}, {}", case.name(), side.name());
                eprintln!("{what}");
                let figures = one(side).context(what)?;
                for figure in &figures {
                    eprintln!("  {}: {:.2} {}", figure.line, figure.value, figure.unit);
                }
                all.extend(figures.into_iter().map(|figure| (side, figure)));
            }
        }
        let of = |who: Side, line: &str| -> Vec<f64> {
            let its = all.iter().filter(|(side, figure)| *side == who && figure.line == line);
            its.map(|(_, figure)| figure.value).collect()
        };
        for &peer in sides.iter().filter(|side| **side != Side::Ours) {
            let mut printed: Vec<&str> = Vec::new();
            for (_, Figure { line, unit, .. }) in &all {
                if !printed.contains(line) {
                    let (mut ours, mut theirs) = (of(Side::Ours, line), of(peer, line));
                    let pair = Line::pair("configure", line, peer.name(), &mut ours, &mut theirs);
                    Line { unit, ..pair }.print();
                    printed.push(line);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_is_told_of() {
        let told: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
        assert_eq!(told, Case::value_variants().iter().map(|case| case.name()).collect::<Vec<_>>());
    }

    #[test]
    fn the_comparison_is_for_those_who_ask() {
        let cases = |words: &str| {
            Arguments::try_parse_from(words.split(' ')).map(|arguments| arguments.cases()).unwrap_or_default()
        };
        assert_eq!(cases("configure --cases new10,rtt10"), [Case::New10, Case::Rtt10]);
        assert_eq!(cases("configure empty --peers"), [Case::Empty, Case::Comparison]);
        assert!(
            !cases("configure").contains(&Case::Comparison) && cases("configure").len() == CASES.len() - 1
        );
    }
}
