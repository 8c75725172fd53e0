//! The site's hooks for Windows guests: files on the management node whose names end with `.ps1` or `.cmd`.
//!
//! They stand in the directories that the Linux ones stand in, and each module runs its own: a hook for Linux has no ending
//! and may be executed, one for Windows has an ending and need not be. They are sent over, run as the account vcld logs in
//! with, an administrator, with `VCLD_STAGE` and `VCLD_COMPUTER`, and removed. One that fails fails the step, and all of a
//! stage run again after a crash of the daemon.

use super::script::{ACCESS_HOOK, HOOK};
use crate::access::{Hook, variables};
use crate::answer::Answer;
use crate::hooks::{Verdict, read, secret, sound};
use crate::reach::{self, Patience};
use crate::{Error, ErrorKind, Guest, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use camino::Utf8Path;
use serde_json::json;
use std::fs::Metadata;
use std::time::Duration;
use vcl_job::Cx;
use vcl_types::{Access, Endpoint};

/// Whether a file is a hook for Windows guests.
pub(super) fn is_hook(name: &str, _: &Metadata) -> Verdict {
    match name.rsplit_once('.') {
        Some((stem, "ps1" | "cmd")) if !stem.is_empty() && sound(stem) => Verdict::Hook,
        Some((_, "ps1" | "cmd")) => {
            Verdict::Misnamed("before its ending a hook's name has only letters, digits, `_` and `-`")
        }
        _ => Verdict::Other,
    }
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
            "secret": secret(&path).await?.trim(),
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
            "secret": secret(&hook).await?.trim(),
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
