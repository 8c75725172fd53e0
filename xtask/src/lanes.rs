//! Runs the tests that start daemons and guests: so many at a time, over all binaries.
//!
//! `cargo test` runs one binary after the other, and one that holds a single test leaves a core without work for as long as
//! that waits for an emulated machine. Here each test is a process of its own and the next begins when one has ended,
//! whichever binary it is of. What one prints is held back until it has ended, and told if it failed.

use std::collections::VecDeque;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Message, TargetKind};

/// The package whose tests these are; the others' are `cargo test`'s.
const PACKAGE: &str = "vcl-tests";
/// Binaries whose tests take longest. They begin first, so that none of them runs alone at the end.
const LONG: &[&str] = &["machines", "xcat", "conformance", "page", "vmware", "new_backend"];
/// What is left to `./check --full`, with what stands for it in every check: the same by another way, or a part of it.
const FULL_ONLY: &[(&str, &str)] = &[
    (
        "machines::deltas::a_grandchild_is_loaded_and_made_whole_under_its_machine",
        "remote, which captures a delta",
    ),
    (
        "machines::end_states::on_stays_reachable_reboot_comes_back_as_another_and_off_is_off",
        "lifecycle, clones",
    ),
    ("machines::faults::a_capture_survives_a_stubborn_guest_and_a_killed_daemon", "kills::at_every_step"),
    ("machines::faults::captures_that_cannot_be", "conformance::libvirt"),
    ("machines::faults::what_is_asked_for_is_not_there_or_does_not_boot", "what else faults has"),
    ("machines::from_vm::a_bios_machine_becomes_an_image", "lifecycle, with a disk that has a boot loader"),
    ("machines::from_vm::a_uefi_machine_becomes_an_image", "the same"),
    (
        "machines::frozen::a_daemon_alone_notices_stops_its_hands_and_joins_again",
        "frozen::another_takes_over",
    ),
    (
        "machines::insight::a_guest_that_dies_in_post_load_leaves_evidence",
        "what jobs on simulated machines leave",
    ),
    ("machines::insight::what_belongs_to_nobody_is_listed_adopted_and_deleted", "page::real, which adopts"),
    ("machines::kills::in_the_middle_of_a_copy_two_never_write", "frozen::another_takes_over"),
    ("machines::outages::the_guest_is_powered_off_while_the_daemon_is_down", "the other outages"),
    ("machines::outages::the_guest_s_ssh_server_is_killed", "the other outages"),
    ("machines::outages::the_library_is_full_and_gets_room", "outages::the_database_s_disk_is_full"),
    ("machines::stopping::jobs_are_called_off_in_the_middle", "stopping::sigterm_drains"),
    ("new_backend::a_backend_of_somebody_elses_is_made_tried_and_run", "conformance::lab, by the same kit"),
    (
        "vcsim::guests::a_machine_that_is_powered_on_boots_its_disk_and_is_off_when_its_guest_is",
        "vmware::lives",
    ),
    (
        "vmware::conformance::a_load_that_makes_its_template_is_interrupted_as_any_other",
        "one that sends its disk",
    ),
    (
        "vmware::conformance::a_vcenter_that_copies_does_what_a_backend_has_to",
        "one that clones, and an ESXi host",
    ),
    (
        "vmware::lives::a_marker_goes_from_clone_to_clone",
        "lives::a_marker_goes_from_copy_to_copy_at_a_vcenter",
    ),
    ("vmware::lives::a_marker_goes_from_copy_to_copy_at_a_host", "the same"),
    (
        "xcat::a_node_is_loaded_captured_and_another_has_what_was_on_it",
        "conformance::xcat, with disks that do not boot",
    ),
    (
        "xcatd::nodes::a_running_node_restarts_into_a_task_and_then_boots_its_disk",
        "xcat::an_osimage_is_installed",
    ),
];
/// Measurements, which are told although their test has passed.
const MEASURED: &str = "{\"bench\"";
/// What `.cargo/config.toml` gives tests that cargo starts.
const STACK: (&str, &str) = ("RUST_MIN_STACK", "8388608");

/// How many at a time, and which.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// So many at the same time. A guest keeps one core busy.
    #[arg(long, default_value_t = 2)]
    at_once: usize,
    /// Only those whose name, `BINARY::TEST`, has one of these words in it.
    words: Vec<String>,
}

#[derive(Debug)]
struct Test {
    binary: PathBuf,
    of: String,
    name: String,
}

/// Builds the tests and runs them.
///
/// # Errors
/// One does not build, or failed.
pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let mut tests = all(root)?;
    let words = &arguments.words;
    tests.retain(|t| words.is_empty() || words.iter().any(|w| format!("{}::{}", t.of, t.name).contains(w)));
    ensure!(!tests.is_empty(), "there is no such test");
    // Who names one gets it.
    if words.is_empty() && !std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0") {
        leave_out(&mut tests)?;
    }
    tests.sort_by_key(|t| LONG.iter().position(|long| *long == t.of).unwrap_or(LONG.len()));
    let (count, begun) = (tests.len(), Instant::now());
    let waiting = Mutex::new(VecDeque::from(tests));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.at_once.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(test) = next else { break };
                    if !one(root, &test) {
                        let name = format!("{}::{}", test.of, test.name);
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{count} tests, {} failed, {:.0} s", failed.len(), begun.elapsed().as_secs_f64());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Takes out what is left to the whole run, and says so.
fn leave_out(tests: &mut Vec<Test>) -> Result<()> {
    for (left, instead) in FULL_ONLY {
        let place = tests.iter().position(|t| format!("{}::{}", t.of, t.name) == *left);
        tests.remove(place.with_context(|| format!("no test is called {left}, which is to be left out"))?);
        println!("   left out     {left} (./check --full has it; here: {instead})");
    }
    Ok(())
}

/// Every test of every binary, in the order in which cargo names them.
fn all(root: &Path) -> Result<Vec<Test>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["test", "--quiet", "--locked", "--workspace", "--all-features", "--no-run"])
        .args(["--test", "*", "--message-format", "json-render-diagnostics"])
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to run cargo")?;
    let printed = cargo.stdout.take().context("cargo has no output")?;
    let mut tests = Vec::new();
    for message in Message::parse_stream(BufReader::new(printed)) {
        let Message::CompilerArtifact(artifact) = message? else { continue };
        let is_test = artifact.target.kind.contains(&TargetKind::Test);
        let (true, Some(binary)) = (is_test, artifact.executable) else { continue };
        if artifact.manifest_path.parent().and_then(|p| p.file_name()) == Some("tests") {
            tests.extend(of_binary(root, binary.into_std_path_buf(), &artifact.target.name)?);
        }
    }
    ensure!(cargo.wait()?.success(), "the tests of {PACKAGE} do not build");
    Ok(tests)
}

/// The tests of a binary, without those that are run only when they are asked for.
fn of_binary(root: &Path, binary: PathBuf, of: &str) -> Result<Vec<Test>> {
    let listed = |more: &[&str]| -> Result<Vec<String>> {
        let listed = Command::new(&binary)
            .args(["--list", "--format", "terse"])
            .args(more)
            .current_dir(root.join("tests"))
            .output()
            .with_context(|| format!("failed to run {}", binary.display()))?;
        ensure!(listed.status.success(), "{of} does not list its tests");
        let listed = String::from_utf8(listed.stdout)?;
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    };
    let ignored = listed(&["--ignored"])?;
    let names = listed(&[])?.into_iter().filter(|name| !ignored.contains(name));
    Ok(names.map(|name| Test { binary: binary.clone(), of: of.to_owned(), name }).collect())
}

/// Runs one, tells how it ended, and answers whether it passed.
fn one(root: &Path, test: &Test) -> bool {
    let begun = Instant::now();
    let ended = Command::new(&test.binary)
        .args([&test.name, "--exact", "--test-threads=1"])
        .current_dir(root.join("tests"))
        .env(STACK.0, STACK.1)
        .stdin(Stdio::null())
        .output();
    let took = begun.elapsed();
    match ended {
        Ok(ended) => {
            let printed = [ended.stdout, ended.stderr].concat();
            tell(test, took, ended.status.success(), &String::from_utf8_lossy(&printed));
            ended.status.success()
        }
        Err(error) => {
            tell(test, took, false, &format!("failed to run {}: {error}", test.binary.display()));
            false
        }
    }
}

fn tell(test: &Test, took: Duration, passed: bool, printed: &str) {
    let verdict = if passed { "ok" } else { "FAILED" };
    // One write, so that two that end together do not stand in each other's lines.
    let mut told = format!("{:6.1} s  {verdict:6}  {}::{}\n", took.as_secs_f64(), test.of, test.name);
    for line in printed.lines().filter(|line| !passed || line.starts_with(MEASURED)) {
        told.push_str(if passed { "          " } else { "  | " });
        told.push_str(line);
        told.push('\n');
    }
    print!("{told}");
}
