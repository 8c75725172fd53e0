//! What is done in a Windows guest for the person who uses it; the counterpart of `linux/access.rs`, whose header says how.
//!
//! Windows lets nobody in unless a firewall rule says so. So keeping out is switching off what rules of the image say of the
//! same ports, which the ledger remembers, and letting in is a rule of ours for each.

use super::script::{GRANT, IDENTIFY, PASSWORD, SESSIONS, TELL};
use super::{Windows, hooks};
use crate::access::{Hook, Lets, Steps};
use crate::answer::Answer;
use crate::hooks::Verdict;
use crate::{Command, Error, ErrorKind, Guest, Result, reach, sessions};
use async_trait::async_trait;
use chrono::DateTime;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::fs::Metadata;
use vcl_job::{Cx, Job, Kind};
use vcl_types::{Access, AccountName, Identity, Reach, Secret, Session, ssh_key};

/// What lets people in.
pub(super) static STEPS: Steps<Windows> = Steps::new();

pub(super) async fn grant(
    windows: &Windows,
    job: &mut Job,
    guest: Guest<'_>,
    access: &Access,
) -> Result<(), vcl_job::Error> {
    let refused = |why: String| vcl_job::Error::new(Kind::Refused, why);
    access.check().map_err(|e| refused(e.to_string()))?;
    // What Windows calls a user name is shorter than anybody else's.
    if let Some(account) = access.accounts.iter().find(|a| a.name.as_str().len() > 20) {
        let name = &account.name;
        return Err(refused(format!("account {name} is longer than the 20 characters that Windows takes")));
    }
    let user = &guest.endpoint.user;
    if access.accounts.iter().any(|a| a.name.as_str().eq_ignore_ascii_case(user)) {
        let context = format!(
            "vcld itself logs in to {} as {user}; give the reservation another account",
            guest.computer
        );
        return Err(refused(context));
    }
    crate::access::grant(windows, &STEPS, job, guest, access).await
}

#[async_trait]
impl Lets for Windows {
    fn is_hook(&self, name: &str, data: &Metadata) -> Verdict {
        hooks::is_hook(name, data)
    }
    fn files(&self, script: &str) -> Vec<String> {
        vec![format!("{script}.ps1"), format!("{script}.cmd")]
    }
    fn command(&self, _: Guest<'_>, access: &Access, what: &str) -> Command {
        GRANT.command(&parameters(access, what))
    }
    async fn run_hooks(
        &self,
        guest: Guest<'_>,
        access: &Access,
        hooks: &[Hook],
        cx: &Cx,
    ) -> Result<(), vcl_job::Error> {
        hooks::run_for_access(guest, access, hooks, cx).await
    }
}

pub(super) fn parameters(access: &Access, what: &str) -> Value {
    let accounts: Vec<Value> = access
        .accounts
        .iter()
        .map(|account| {
            let keys: Vec<String> = account.ssh_keys.iter().filter_map(|key| ssh_key(key).ok()).collect();
            json!({ "name": account.name, "sudo": account.sudo, "keys": keys })
        })
        .collect();
    let (from, nets) = match &access.from {
        Reach::Nobody => ("nobody", &[][..]),
        Reach::Only(nets) => ("only", nets.as_slice()),
        Reach::Everybody => ("everybody", &[][..]),
    };
    let together = |nets: &[&[IpNet]]| -> Vec<String> {
        let nets = IpNet::aggregate(&nets.concat().iter().map(IpNet::trunc).collect());
        nets.iter().map(ToString::to_string).collect()
    };
    let mut services: Vec<&String> = access.methods.iter().filter_map(|m| m.service.as_ref()).collect();
    services.sort();
    services.dedup();
    json!({
        "do": what,
        "reservation": access.reservation,
        "accounts": accounts,
        "methods": access.methods.iter().map(|m| json!({ "name": m.name, "port": m.port })).collect::<Vec<_>>(),
        "services": services,
        "from": from,
        "allow": together(&[nets, &access.keep]),
        "keep": together(&[&access.keep]),
        "data": access.user_data.clone().map(String::from).unwrap_or_default(),
    })
}

pub(super) async fn password(guest: Guest<'_>, account: &AccountName, password: &Secret) -> Result<()> {
    let word = password.expose();
    if word.is_empty() || word.len() > 127 || word.chars().any(char::is_control) {
        let context = format!("the password for {account} has to be 1 to 127 printable characters");
        return Err(Error::new(ErrorKind::Local, context));
    }
    let parameters = json!({ "name": account, "password": word });
    reach::at_once(guest, PASSWORD.command(&parameters), "set a password").await.map(drop)
}

pub(super) async fn sessions(guest: Guest<'_>) -> Result<Vec<Session>> {
    let answer = reach::at_once(guest, SESSIONS.command(&json!({})), "look who is connected").await?;
    Ok(read_sessions(&answer, &guest.endpoint.user))
}

/// What `sessions.ps1` said, bounded. `manager` is the account that vcld logs in with.
fn read_sessions(answer: &Answer, manager: &str) -> Vec<Session> {
    const MOST: usize = 256;
    let session = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let (method, from, since) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let account = words.next().map(str::trim).filter(|who| !who.is_empty()).map(str::to_owned);
        let since = since.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        Some(Session { account, from: Some(from), method: method.to_owned(), since })
    };
    answer
        .told("session")
        .filter_map(session)
        .filter(|s| s.account.as_ref().is_none_or(|who| !who.eq_ignore_ascii_case(manager)))
        .take(MOST)
        .collect()
}

pub(super) async fn tell(guest: Guest<'_>, text: &str) -> Result<()> {
    let command = TELL.command(&json!({ "text": sessions::notice(text) }));
    reach::at_once(guest, command, "tell its users").await.map(drop)
}

pub(super) async fn identity(guest: Guest<'_>) -> Result<Identity> {
    let answer = reach::at_once(guest, IDENTIFY.command(&json!({})), "look who it is").await?;
    Ok(sessions::identity(&answer))
}
