//! The users of simulated machines: people who sit somewhere and connect.
//!
//! `DIRECTORY/machines/NAME.users` says who tries to be connected to a machine, a line each: the account, the connect method,
//! the address. A person, a script or another process writes it; the daemon reads it when it asks who is there.
//!
//! ```text
//! alice ssh 10.0.0.9
//! ```
//!
//! Who is there is who could be: the machine is up, the account is one that was granted, the method too, and the firewall lets
//! that address in. Everybody else sits before a connection that is refused. Whoever is sanitized away is put out of the file.

use super::machine::Machine;
use super::world::World;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;
use vcl_types::{Reach, Session};

/// Somebody who is, or tries to be, connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account that he logs in to.
    pub account: String,
    /// The connect method, such as `ssh`.
    pub method: String,
    /// Where he sits.
    pub from: IpAddr,
}

impl User {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (account, method, from) = (words.next()?, words.next()?, words.next()?.parse().ok()?);
        Some(Self { account: account.to_owned(), method: method.to_owned(), from })
    }
    /// Whether that machine lets him in.
    #[must_use]
    pub fn is_let_in(&self, machine: &Machine) -> bool {
        let Some(access) = machine.content().and_then(|c| c.access.as_ref()) else { return false };
        let up = machine.domain.as_ref().is_some_and(|d| d.booted.is_some());
        let reached = match &access.from {
            Reach::Nobody => false,
            Reach::Everybody => true,
            Reach::Only(nets) => nets.iter().any(|net| net.contains(&self.from)),
        };
        up && reached
            && access.accounts.iter().any(|a| a.name.as_str() == self.account)
            && access.methods.iter().any(|m| m.name == self.method)
    }
}

impl World {
    fn users_path(&self, machine: &str) -> PathBuf {
        self.directory().join(format!("machines/{machine}.users")).into()
    }

    /// Somebody connects, or tries to: see [`User::is_let_in`]. Blocking, for tests.
    ///
    /// # Errors
    /// The world cannot be written.
    pub fn connect(&self, machine: &str, user: &User) -> io::Result<()> {
        let path = self.users_path(machine);
        let line = format!("{} {} {}\n", user.account, user.method, user.from);
        std::fs::OpenOptions::new().append(true).create(true).open(path)?.write_all(line.as_bytes())
    }
    /// Somebody leaves, by all connections of that account. Blocking, for tests.
    ///
    /// # Errors
    /// The world cannot be written.
    pub fn disconnect(&self, machine: &str, account: &str) -> io::Result<()> {
        let stay = |user: &User| user.account != account;
        let text: String = (self.users(machine)?.iter().filter(|u| stay(u)))
            .map(|u| format!("{} {} {}\n", u.account, u.method, u.from))
            .collect();
        std::fs::write(self.users_path(machine), text)
    }
    /// Who tries to be connected to a machine. Lines that are none are left out.
    ///
    /// # Errors
    /// The world cannot be read.
    pub fn users(&self, machine: &str) -> io::Result<Vec<User>> {
        match std::fs::read_to_string(self.users_path(machine)) {
            Ok(text) => Ok(text.lines().filter_map(User::parse).collect()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }
    /// Everybody is thrown out.
    pub(super) fn throw_out(&self, machine: &str) -> io::Result<()> {
        match std::fs::remove_file(self.users_path(machine)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
    /// Who is connected, since the file says so.
    pub(super) fn sessions(&self, name: &str, machine: &Machine) -> io::Result<Vec<Session>> {
        let since = std::fs::metadata(self.users_path(name)).and_then(|data| data.modified()).ok();
        let since = since.map(|at: SystemTime| at.into());
        let session = |user: User| Session {
            account: Some(user.account),
            from: Some(user.from),
            method: user.method,
            since,
        };
        Ok(self.users(name)?.into_iter().filter(|user| user.is_let_in(machine)).map(session).collect())
    }
}
