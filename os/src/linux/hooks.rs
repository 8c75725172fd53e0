//! The site's hooks: executables on the management node that are run in a guest.
//!
//! A stage's directory is read as `run-parts` reads one: regular files that may be executed and whose names are letters,
//! digits, `_` and `-`, in the order of their names. They are sent over, run as root with `VCLD_STAGE` and
//! `VCLD_COMPUTER`, and removed. One that fails fails the step. A hook must be one that may run twice: after a crash of
//! the daemon all of a stage's hooks run again.

use super::script::as_root;
use crate::access::Hook;
use crate::answer::last_lines;
use crate::hooks::{LARGEST, SECRET, Verdict, read, secret, sound};
use crate::reach::{self, Patience};
use crate::shell::quote;
use crate::{Command, Error, ErrorKind, Guest, Output, Remote, Result, SCRIPT_SAYS, SiteScript};
use camino::Utf8Path;
use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::Cx;
use vcl_types::Endpoint;

/// Reads what comes first on standard input, a line: what the hook is to get on its own.
const TAKE_SECRET: &str = "IFS= read -r s || exit 125; ";

/// Runs the hook `$h`, with its secret where it has one, which `printf` as a part of the shell shows nobody.
fn run_it(seconds: u64) -> String {
    format!(
        "t=; ! command -v timeout >/dev/null 2>&1 || t='timeout -k 5 {seconds}'; \
         if [ -n \"$s\" ]; then printf %s \"$s\" | base64 -d | $t \"$h\" 2>&1; else $t \"$h\" </dev/null 2>&1; fi"
    )
}

/// Whether a file is a hook for Linux guests.
pub(super) fn is_hook(name: &str, data: &Metadata) -> Verdict {
    if data.permissions().mode() & 0o111 == 0 {
        Verdict::Other
    } else if sound(name) {
        Verdict::Hook
    } else if name.starts_with('.') || name.ends_with(SECRET) {
        Verdict::Other
    } else {
        Verdict::Misnamed("a hook's name has only letters, digits, `_` and `-`")
    }
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
