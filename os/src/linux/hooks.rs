//! The site's hooks: executables on the management node that are run in a guest.
//!
//! A stage's directory is read as `run-parts` reads one: regular files that may be executed and whose names are letters,
//! digits, `_` and `-`, in the order of their names. They are sent over, run as root with `VCLD_STAGE` and
//! `VCLD_COMPUTER`, and removed. One that fails fails the step. A hook must be one that may run twice: after a crash of
//! the daemon all of a stage's hooks run again.

use super::script::as_root;
use crate::answer::last_lines;
use crate::reach::{self, Patience};
use crate::shell::quote;
use crate::{Command, Error, ErrorKind, Guest, Result};
use camino::Utf8Path;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use vcl_job::{Cx, Job, Kind};
use vcl_types::Endpoint;

pub(super) const PRE_CAPTURE: &str = "pre_capture";
pub(super) const POST_LOAD: &str = "post_load";

const LARGEST: u64 = 1024 * 1024;

/// The names of a stage's hooks, in order. Without a directory there are none.
pub(super) fn list(hooks: Option<&Utf8Path>, stage: &str, job: &Job) -> Result<Vec<String>, vcl_job::Error> {
    let Some(hooks) = hooks else { return Ok(Vec::new()) };
    let directory = hooks.join(format!("{stage}.d"));
    let failed = |e: std::io::Error| vcl_job::Error::caused(Kind::Fatal, format!("reading {directory}"), e);
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let data = match std::fs::metadata(entry.path()) {
            Ok(data) => data,
            // A link to nothing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e)),
        };
        let name = entry.file_name();
        if !data.is_file() || data.permissions().mode() & 0o111 == 0 {
            continue;
        }
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
            names.push(name.to_owned());
        } else if !name.starts_with('.') {
            let message =
                format!("{} is not run: a hook's name has only letters, digits, `_` and `-`", entry.path());
            job.event("hook-skipped", message);
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a stage's hooks one after another.
pub(super) async fn run(
    guest: Guest<'_>,
    to: &Endpoint,
    stage: &str,
    names: &[String],
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let Some(hooks) = guest.hooks.filter(|_| !names.is_empty()) else { return Ok(()) };
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, to, patience, cx.token()).await?;
    for (i, name) in names.iter().enumerate() {
        cx.check().await?;
        cx.progress(i as u64, names.len() as u64);
        let hook = hooks.join(format!("{stage}.d")).join(name);
        let text = read(&hook).await?;
        let limit = guest.limits.command;
        let line = line(to, stage, guest.computer.name.as_str(), text.len(), limit);
        // Longer than the guest's own limit, so that the guest can say that it was that.
        let command =
            Command::new(line).input(text).limit(limit + Duration::from_secs(15)).cancel(cx.token());
        let output = remote.run(command).await.map_err(|e| e.within(format!("hook {hook} on {to}")))?;
        if output.status != 0 {
            let said = last_lines(&output, 10);
            let why = match output.status {
                124 => format!("took longer than {} s", limit.as_secs()),
                status => format!("failed with status {status}"),
            };
            let context = format!("hook {hook} {why} on {to}: {said}");
            return Err(Error::new(ErrorKind::CommandFailed, context).into());
        }
    }
    cx.progress(names.len() as u64, names.len() as u64);
    Ok(())
}

async fn read(hook: &Utf8Path) -> Result<Vec<u8>> {
    let failed = |e| Error::caused(ErrorKind::Local, format!("reading hook {hook}"), e);
    let length = tokio::fs::metadata(hook).await.map_err(failed)?.len();
    if length > LARGEST {
        let context = format!("hook {hook} has {length} bytes; more than {LARGEST} are not sent to a guest");
        return Err(Error::new(ErrorKind::Local, context));
    }
    tokio::fs::read(hook).await.map_err(failed)
}

/// What receives a hook on its standard input, runs it and removes it: one command, so one round trip. Its length is
/// checked, for a connection that breaks looks like the end of the file.
fn line(to: &Endpoint, stage: &str, computer: &str, length: usize, limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    let script = format!(
        "umask 077; mkdir -p /var/lib/vcld && d=$(mktemp -d /var/lib/vcld/hook.XXXXXX) || exit 125; \
         trap 'rm -rf \"$d\"' EXIT; trap 'exit 129' HUP INT TERM; \
         cat >\"$d/hook\" && [ $(wc -c <\"$d/hook\") -eq {length} ] && chmod 700 \"$d/hook\" || exit 125; \
         umask 022; cd /; export LC_ALL=C VCLD_STAGE={stage} VCLD_COMPUTER={computer} \
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; \
         if command -v timeout >/dev/null 2>&1; then timeout -k 5 {seconds} \"$d/hook\" </dev/null 2>&1; \
         else \"$d/hook\" </dev/null 2>&1; fi"
    );
    as_root(to, &format!("sh -c {}", quote(&script)))
}
