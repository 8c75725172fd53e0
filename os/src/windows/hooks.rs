//! The site's hooks for Windows guests: files on the management node whose names end with `.ps1` or `.cmd`.
//!
//! They stand in the directories that the Linux ones stand in, and each module runs its own: a hook for Linux has no ending
//! and may be executed, one for Windows has an ending and need not be. They are sent over, run as the account vcld logs in
//! with, an administrator, with `VCLD_STAGE` and `VCLD_COMPUTER`, and removed. One that fails fails the step, and all of a
//! stage run again after a crash of the daemon.

use super::script::{ACCESS_HOOK, HOOK};
use crate::access::Hook;
use crate::answer::Answer;
use crate::linux::{hook_secret, variables};
use crate::reach::{self, Patience};
use crate::{Error, ErrorKind, Guest, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use serde_json::json;
use std::time::Duration;
use vcl_job::{Cx, Kind};
use vcl_types::{Access, Endpoint};

pub(super) const PRE_CAPTURE: &str = "pre_capture";
pub(super) const POST_LOAD: &str = "post_load";

const LARGEST: u64 = 1024 * 1024;

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
        let name = entry.file_name();
        let Some((stem, "ps1" | "cmd")) = name.rsplit_once('.') else { continue };
        // Also what a link points to.
        if !entry.path().is_file() {
            continue;
        }
        if !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)) {
            names.push(name.to_owned());
        } else {
            let path = entry.path();
            told(format!(
                "{path} is not run: before its ending a hook's name has only letters, digits, `_` and `-`"
            ));
        }
    }
    names.sort();
    Ok(names)
}

/// Runs a reservation's hooks one after another.
pub(super) async fn run_for_access(
    guest: Guest<'_>,
    access: &Access,
    all: &[Hook],
    cx: &Cx,
) -> Result<(), vcl_job::Error> {
    let Some(hooks) = guest.hooks.filter(|_| !all.is_empty()) else { return Ok(()) };
    let to = guest.endpoint;
    let patience = Patience::of(guest.limits.boot.min(reach::AGAIN));
    let remote = reach::reach(guest.remotes, to, patience, cx.token()).await?;
    for (i, hook) in all.iter().enumerate() {
        cx.check().await?;
        cx.progress(i as u64, all.len() as u64);
        let path = hooks.join(format!("{}.d", hook.stage)).join(&hook.name);
        let limit = guest.limits.command;
        let mut environment = variables(access, guest.computer.name.as_str());
        if let Some((method, port)) = &hook.method {
            environment.push(("VCLD_METHOD".into(), method.clone()));
            environment.push(("VCLD_PORT".into(), port.to_string()));
        }
        let environment: Vec<String> =
            environment.iter().map(|(name, value)| format!("{name}={}", STANDARD.encode(value))).collect();
        let parameters = json!({
            "name": hook.kept_as(),
            "content": STANDARD.encode(read(&path).await?),
            "secret": hook_secret(&path).await?.trim(),
            "environment": environment,
            "stage": hook.stage,
            "seconds": limit.as_secs().max(1),
        });
        let command =
            ACCESS_HOOK.command(&parameters).limit(limit + Duration::from_secs(30)).cancel(cx.token());
        let output = remote.run(command).await.map_err(|e| e.within(format!("hook {path} on {to}")))?;
        ended(&Answer::of(output, to, &format!("hook {path}"))?, &path, to, limit)?;
    }
    cx.progress(all.len() as u64, all.len() as u64);
    Ok(())
}

/// How a hook ended, by what it said.
fn ended(answer: &Answer, hook: &Utf8Path, to: &Endpoint, limit: Duration) -> Result<()> {
    let why = match answer.told("status").next() {
        Some("0") => return Ok(()),
        Some("124") => format!("took longer than {} s", limit.as_secs()),
        Some(status) => format!("failed with status {status}"),
        None => "did not say how it ended".to_owned(),
    };
    let said = answer.texts("out").join(" / ");
    Err(Error::new(ErrorKind::CommandFailed, format!("hook {hook} {why} on {to}: {said}")))
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
        let limit = guest.limits.command;
        let parameters = json!({
            "name": name,
            "content": STANDARD.encode(read(&hook).await?),
            "secret": hook_secret(&hook).await?.trim(),
            "stage": stage,
            "computer": guest.computer.name.as_str(),
            "seconds": limit.as_secs().max(1),
        });
        // Longer than the guest's own limit, so that the guest can say that it was that.
        let limit_here = limit + Duration::from_secs(30);
        let command = HOOK.command(&parameters).limit(limit_here).cancel(cx.token());
        let output = remote.run(command).await.map_err(|e| e.within(format!("hook {hook} on {to}")))?;
        ended(&Answer::of(output, to, &format!("hook {hook}"))?, &hook, to, limit)?;
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
