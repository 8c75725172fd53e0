//! What is done in a guest for the person who uses it: [`grant`], whose steps are `crate::access`'s, and what belongs to it.
//!
//! What was granted stands in a ledger in the guest (`access.sh`), for root alone and before the thing is there. So whoever
//! takes it away needs to know nothing: `sanitize`, a capture and the next load all do. Somebody who was root in the guest
//! may have changed the ledger like everything else: a machine lent with `sudo` is clean when it has been loaded anew.

use super::script::{GRANT, IDENTIFY, PASSWORD, SESSIONS, TELL};
use super::{Linux, hooks};
use crate::access::{Hook, Lets, Steps, variables};
use crate::hooks::Verdict;
use crate::reach;
use crate::sessions::Sockets;
use crate::shell::quote;
use crate::{Command, Error, ErrorKind, Guest, Result};
use async_trait::async_trait;
use ipnet::IpNet;
use std::fmt::Write as _;
use std::fs::Metadata;
use vcl_job::{Cx, Job, Kind};
use vcl_types::{Access, AccountName, Identity, Reach, Secret, Session};

/// What lets people in.
pub(super) static STEPS: Steps<Linux> = Steps::new();

pub(super) async fn grant(
    linux: &Linux,
    job: &mut Job,
    guest: Guest<'_>,
    access: &Access,
) -> Result<(), vcl_job::Error> {
    let refused = |why: String| vcl_job::Error::new(Kind::Refused, why);
    access.check().map_err(|e| refused(e.to_string()))?;
    let user = &guest.endpoint.user;
    if let Some(account) = access.accounts.iter().find(|a| a.name.as_str() == user) {
        return Err(refused(format!(
            "vcld itself logs in to {} as {user}; a reservation's account {} has to be another",
            guest.computer, account.name
        )));
    }
    crate::access::grant(linux, &STEPS, job, guest, access).await
}

#[async_trait]
impl Lets for Linux {
    fn is_hook(&self, name: &str, data: &Metadata) -> Verdict {
        hooks::is_hook(name, data)
    }
    fn files(&self, script: &str) -> Vec<String> {
        vec![script.to_owned()]
    }
    fn command(&self, guest: Guest<'_>, access: &Access, what: &str) -> Command {
        let parameters = parameters(access, guest.computer.name.as_str(), what);
        let parameters: Vec<(&str, String)> =
            parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        GRANT.command_from(guest.endpoint, &parameters)
    }
    async fn run_hooks(
        &self,
        guest: Guest<'_>,
        _: &Access,
        hooks: &[Hook],
        cx: &Cx,
    ) -> Result<(), vcl_job::Error> {
        hooks::run_for_access(guest, hooks, cx).await
    }
}

/// Whatever is in it, `script.rs` quotes it.
pub(super) fn parameters(access: &Access, computer: &str, what: &str) -> Vec<(String, String)> {
    let mut accounts = String::new();
    let mut keys = Vec::new();
    for (n, account) in access.accounts.iter().enumerate() {
        let sudo = if account.sudo { "yes" } else { "no" };
        let uid = account.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string());
        let _ = writeln!(accounts, "{} {sudo} {uid}", account.name);
        let lines: Vec<String> =
            account.ssh_keys.iter().filter_map(|key| vcl_types::ssh_key(key).ok()).collect();
        keys.push((format!("KEYS_{}", n + 1), lines.join("\n")));
    }
    let methods: String = access.methods.iter().map(|m| format!("{} {}\n", m.name, m.port)).collect();
    let words = |mut words: Vec<String>| {
        words.sort();
        words.dedup();
        words.join(" ")
    };
    let ports = words(access.methods.iter().map(|m| m.port.to_string()).collect());
    let services = words(access.methods.iter().filter_map(|m| m.service.clone()).collect());
    let (from, nets) = match &access.from {
        Reach::Nobody => ("nobody", &[][..]),
        Reach::Only(nets) => ("only", nets.as_slice()),
        Reach::Everybody => ("everybody", &[][..]),
    };
    let of = |nets: &[&[IpNet]], four: bool| {
        let all = IpNet::aggregate(&nets.concat().iter().map(IpNet::trunc).collect());
        words(all.iter().filter(|net| matches!(net, IpNet::V4(_)) == four).map(short).collect())
    };
    let data = access.user_data.clone().map(String::from).unwrap_or_default();
    let mut parameters = vec![
        ("DO".to_owned(), what.to_owned()),
        ("ACCOUNTS".to_owned(), accounts),
        ("METHODS".to_owned(), methods.trim_end().to_owned()),
        ("PORTS".to_owned(), ports),
        ("SERVICES".to_owned(), services),
        ("FROM".to_owned(), from.to_owned()),
        ("ALLOW4".to_owned(), of(&[nets, &access.keep], true)),
        ("ALLOW6".to_owned(), of(&[nets, &access.keep], false)),
        ("KEEP4".to_owned(), of(&[&access.keep], true)),
        ("KEEP6".to_owned(), of(&[&access.keep], false)),
        ("ENVIRONMENT".to_owned(), environment(access, computer)),
        ("USER_DATA".to_owned(), data),
        ("UNIT_TEXT".to_owned(), include_str!("vcld-access.service").trim_end().to_owned()),
    ];
    parameters.extend(keys);
    parameters
}

/// An address alone stands without its prefix: so every firewall shows it.
fn short(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// What the hooks are told, as a shell reads it. Ours come last, so no fact takes their names.
pub(super) fn environment(access: &Access, computer: &str) -> String {
    let mut text = String::new();
    for (name, value) in variables(access, computer) {
        let _ = writeln!(text, "export {name}={}", quote(&value));
    }
    text.trim_end().to_owned()
}

pub(super) async fn password(guest: Guest<'_>, account: &AccountName, password: &Secret) -> Result<()> {
    let word = password.expose();
    // What chpasswd reads is a line.
    if word.is_empty() || word.len() > 200 || word.chars().any(char::is_control) {
        let context = format!("the password for {account} has to be 1 to 200 printable characters");
        return Err(Error::new(ErrorKind::Local, context));
    }
    let parameters = [("NAME", account.to_string()), ("PASSWORD", word.to_owned())];
    reach::at_once(guest, PASSWORD.command(guest.endpoint, &parameters), "set a password").await.map(drop)
}

pub(super) async fn sessions(guest: Guest<'_>) -> Result<Vec<Session>> {
    let answer =
        reach::at_once(guest, SESSIONS.command(guest.endpoint, &[]), "look who is connected").await?;
    Ok(Sockets::read(&answer).sessions(&guest.endpoint.user))
}

pub(super) async fn tell(guest: Guest<'_>, text: &str) -> Result<()> {
    let parameters = [("TEXT", crate::sessions::notice(text))];
    reach::at_once(guest, TELL.command(guest.endpoint, &parameters), "tell its users").await.map(drop)
}

pub(super) async fn identity(guest: Guest<'_>) -> Result<Identity> {
    let answer = reach::at_once(guest, IDENTIFY.command(guest.endpoint, &[]), "look who it is").await?;
    Ok(crate::sessions::identity(&answer))
}

#[cfg(test)]
mod tests;
