//! What a client's run takes: wall seconds until it has ended, and CPU seconds of everything that it started.
//!
//! An ssh master leaves its client's process tree when it goes into the background, and what it encrypts there is the client's
//! work. So this process takes in what loses its parent while a client runs, ends what is still there when the client is done,
//! and counts that too. Machines' sshds are not children of this process: they lose their parents when nobody takes anything in.

use anyhow::{Context, Result, bail};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// How many of the kernel's ticks a second has, on every Linux there is.
const TICKS: f64 = 100.0;
/// How much of what a client that failed has said is told.
const LAST_LINES: usize = 20;

/// What a run took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    /// Seconds until the last program ended.
    pub(super) wall: f64,
    /// CPU seconds.
    pub(super) cpu: f64,
}

/// Runs programs, all at once, until the last has ended. What they say goes to files in a directory. There must be no other
/// child of this process.
pub(super) fn metered(commands: &mut [Command], said: &Utf8Path) -> Result<Spent> {
    set_child_subreaper(Some(getpid()))?;
    let before = children_cpu()?;
    let wall = until_ended(commands, said);
    end_children()?;
    let cpu = children_cpu()? - before;
    set_child_subreaper(None)?;
    Ok(Spent { wall: wall?, cpu })
}

struct Running {
    program: String,
    child: Child,
    said: Utf8PathBuf,
}

fn until_ended(commands: &mut [Command], said: &Utf8Path) -> Result<f64> {
    let begun = Instant::now();
    let mut running = Vec::new();
    for (n, command) in commands.iter_mut().enumerate() {
        let program = command.get_program().to_string_lossy().into_owned();
        let said = said.join(format!("said-{n}"));
        let file = File::create(&said).with_context(|| format!("failed to make {said}"))?;
        // A file, because what outlives a client would keep a pipe open.
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("failed to run {program}"))?;
        running.push(Running { program, child, said });
    }
    let mut statuses = Vec::new();
    for one in &mut running {
        statuses.push(one.child.wait()?);
    }
    let wall = begun.elapsed().as_secs_f64();
    for (one, status) in running.iter().zip(statuses) {
        if !status.success() {
            let said = fs::read(&one.said).unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
            bail!("{}: {status}; it said last:\n{last}", one.program);
        }
    }
    Ok(wall)
}

/// Ends all children of this process, and those that become its children by that, and waits until they are gone.
fn end_children() -> Result<()> {
    let list = format!("/proc/self/task/{}/children", std::process::id());
    loop {
        let children = fs::read_to_string(&list).with_context(|| format!("failed to read {list}"))?;
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(Pid::from_raw) {
            // It may have ended meanwhile; nobody has its number then, since it was not waited for.
            let _ = kill_process(pid, Signal::KILL);
        }
        match wait(WaitOptions::empty()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::CHILD) => return Ok(()),
            Err(error) => return Err(error).context("failed to wait for what a client left behind"),
        }
    }
}

/// CPU seconds of all children that were waited for, and of theirs.
fn children_cpu() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let rest = stat.rsplit_once(") ").context("no name in stat")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |n: usize| fields.get(n).and_then(|t| t.parse::<f64>().ok()).context("no times in stat");
    Ok((ticks(13)? + ticks(14)?) / TICKS)
}
