//! The site's hooks: executables on the management node that are run in a guest.
//!
//! A stage's directory is read as `run-parts` reads one: regular files that may be executed and whose names are letters,
//! digits, `_` and `-`, in the order of their names. They are sent over, run as root with `VCLD_STAGE` and
//! `VCLD_COMPUTER`, and removed. One that fails fails the step. A hook must be one that may run twice: after a crash of
//! the daemon all of a stage's hooks run again.

use super::script::as_root;
use crate::access::Hook;
use crate::answer::last_lines;
use crate::reach::{self, Patience};
use crate::shell::quote;
use crate::{Command, Error, ErrorKind, Guest, Output, Remote, Result, SCRIPT_SAYS, SiteScript};
use camino::{Utf8Path, Utf8PathBuf};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::{Cx, Kind};
use vcl_types::Endpoint;

pub(super) const PRE_CAPTURE: &str = "pre_capture";
pub(super) const POST_LOAD: &str = "post_load";

const LARGEST: u64 = 1024 * 1024;
/// What a hook gets on its standard input stands beside it in a file with this ending.
const SECRET: &str = ".secret";
/// Bytes of one.
const LARGEST_SECRET: u64 = 64 * 1024;

/// Reads what comes first on standard input, a line: what the hook is to get on its own.
const TAKE_SECRET: &str = "IFS= read -r s || exit 125; ";

/// Runs the hook `$h`, with its secret where it has one, which `printf` as a part of the shell shows nobody.
fn run_it(seconds: u64) -> String {
    format!(
        "t=; ! command -v timeout >/dev/null 2>&1 || t='timeout -k 5 {seconds}'; \
         if [ -n \"$s\" ]; then printf %s \"$s\" | base64 -d | $t \"$h\" 2>&1; else $t \"$h\" </dev/null 2>&1; fi"
    )
}

/// The names of a stage's hooks, in order. Without a directory there are none. `told` hears of files that are none.
pub(super) fn list(
    hooks: Option<&Utf8Path>,
    stage: &str,
    told: &dyn Fn(String),
) -> Result<Vec<String>, vcl_job::Error> {
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
        } else if !name.starts_with('.') && !name.ends_with(SECRET) {
            told(format!("{} is not run: a hook's name has only letters, digits, `_` and `-`", entry.path()));
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a reservation's hooks one after another.
pub(super) async fn run_for_access(guest: Guest<'_>, all: &[Hook], cx: &Cx) -> Result<(), vcl_job::Error> {
    let Some(hooks) = guest.hooks.filter(|_| !all.is_empty()) else { return Ok(()) };
    let to = guest.endpoint;
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, to, patience, cx.token()).await?;
    for (i, hook) in all.iter().enumerate() {
        cx.check().await?;
        cx.progress(i as u64, all.len() as u64);
        let path = hooks.join(format!("{}.d", hook.stage)).join(&hook.name);
        let text = read(&path).await?;
        let line = as_root(to, &format!("sh -c {}", quote(&kept(hook, text.len(), guest.limits.command))));
        send(guest, &*remote, &path, line, text, cx).await?;
    }
    cx.progress(all.len() as u64, all.len() as u64);
    Ok(())
}

/// What keeps a hook beside its environment, and runs it.
fn kept(hook: &Hook, length: usize, limit: Duration) -> String {
    let seconds = limit.as_secs().max(1);
    let of_method = |(method, port): &(String, u16)| format!("export VCLD_METHOD={method} VCLD_PORT={port}");
    let more = hook.method.as_ref().map(of_method).unwrap_or_default();
    let (name, stage) = (hook.kept_as(), &hook.stage);
    format!(
        "{TAKE_SECRET}umask 077; l=/var/lib/vcld/access; d=$l/hooks; h=$d/{name}; mkdir -p \"$d\" || exit 125; \
         cat >\"$h.new\" && [ $(wc -c <\"$h.new\") -eq {length} ] && chmod 700 \"$h.new\" || exit 125; \
         {{ cat \"$l/environment\" && echo '{more}' && echo 'export LC_ALL=C \
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' && \
         {{ [ ! -e /etc/vcld/user-data ] || echo 'export VCLD_USER_DATA=/etc/vcld/user-data'; }}; }} >\"$h.env\" && \
         mv -f \"$h.new\" \"$h\" || exit 125; \
         . \"$h.env\"; export VCLD_STAGE={stage}; umask 022; cd /; {}",
        run_it(seconds)
    )
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
        let line = line(to, stage, guest.computer.name.as_str(), &[], text.len(), guest.limits.command);
        send(guest, &*remote, &hook, line, text, cx).await?;
    }
    cx.progress(names.len() as u64, names.len() as u64);
    Ok(())
}

/// Runs a script that is no stage's: the same way, and how it ended is its caller's to judge.
pub(super) async fn run_script(
    guest: Guest<'_>,
    script: SiteScript<'_>,
    cancel: &CancellationToken,
) -> Result<Output> {
    let (to, limit, SiteScript { name, text, stage, variables }) =
        (guest.endpoint, guest.limits.command, script);
    if text.len() as u64 > LARGEST {
        let length = text.len();
        let context =
            format!("script {name} has {length} bytes; more than {LARGEST} are not sent to a guest");
        return Err(Error::new(ErrorKind::Local, context));
    }
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, to, patience, cancel).await?;
    let line = line(to, stage, guest.computer.name.as_str(), variables, text.len(), limit);
    // It has no secret of its own: the line for that is empty.
    let mut input = b"\n".to_vec();
    input.extend(text);
    let command = Command::new(line).input(input).limit(limit + Duration::from_secs(15)).cancel(cancel);
    let command = Command { keep: SCRIPT_SAYS, ..command };
    let output = remote.run(command).await.map_err(|e| e.within(format!("script {name} on {to}")))?;
    // What receives it ends so before it runs anything.
    if output.status == 125 && output.stdout.is_empty() {
        let context = format!("script {name} did not reach {to} whole, or there is no room for it");
        return Err(Error::new(ErrorKind::Lost, context));
    }
    Ok(output)
}

/// Sends a hook to what receives and runs it.
async fn send(
    guest: Guest<'_>,
    remote: &dyn Remote,
    hook: &Utf8Path,
    line: String,
    text: Vec<u8>,
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let (to, limit) = (guest.endpoint, guest.limits.command);
    let mut input = secret(hook).await?.into_bytes();
    input.extend(text);
    // Longer than the guest's own limit, so that the guest can say that it was that.
    let command = Command::new(line).input(input).limit(limit + Duration::from_secs(15)).cancel(cx.token());
    let output = remote.run(command).await.map_err(|e| e.within(format!("hook {hook} on {to}")))?;
    if output.status == 0 {
        return Ok(());
    }
    let said = last_lines(&output, 10);
    let why = match output.status {
        124 => format!("took longer than {} s", limit.as_secs()),
        status => format!("failed with status {status}"),
    };
    Err(Error::new(ErrorKind::CommandFailed, format!("hook {hook} {why} on {to}: {said}")).into())
}

/// What the hook is to get on its standard input, as a line of base64. It goes to the guest for this run alone: what is kept
/// there to undo a hook has it not.
pub(crate) async fn secret(hook: &Utf8Path) -> Result<String> {
    use base64::Engine as _;
    let path = Utf8PathBuf::from(format!("{hook}{SECRET}"));
    let failed = |e| Error::caused(ErrorKind::Local, format!("reading {path}"), e);
    match tokio::fs::metadata(&path).await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok("\n".to_owned()),
        Ok(data) if data.len() <= LARGEST_SECRET => {}
        Ok(_) => {
            let context = format!("{path} has more than {LARGEST_SECRET} bytes, which no hook is sent");
            return Err(Error::new(ErrorKind::Local, context));
        }
        Err(e) => return Err(failed(e)),
    }
    let bytes = tokio::fs::read(&path).await.map_err(failed)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes) + "\n")
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
fn line(
    to: &Endpoint,
    stage: &str,
    computer: &str,
    variables: &[(&str, String)],
    length: usize,
    limit: Duration,
) -> String {
    let seconds = limit.as_secs().max(1);
    let more: String = variables.iter().map(|(name, value)| format!("{name}={} ", quote(value))).collect();
    let script = format!(
        "{TAKE_SECRET}umask 077; mkdir -p /var/lib/vcld && d=$(mktemp -d /var/lib/vcld/hook.XXXXXX) || exit 125; \
         trap 'rm -rf \"$d\"' EXIT; trap 'exit 129' HUP INT TERM; h=$d/hook; \
         cat >\"$h\" && [ $(wc -c <\"$h\") -eq {length} ] && chmod 700 \"$h\" || exit 125; \
         umask 022; cd /; export LC_ALL=C VCLD_STAGE={stage} VCLD_COMPUTER={computer} {more}\
         PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; {}",
        run_it(seconds)
    );
    as_root(to, &format!("sh -c {}", quote(&script)))
}
