//! Who is let in on a lent computer, from where and how.
//!
//! Until the address of its user is known a computer lets nobody in, unless the site says otherwise. Passwords are made
//! when somebody asks for one, go straight to the guest, and are stored nowhere.

use crate::node::{Node, Refusal, RefusalKind, chain};
use ipnet::IpNet;
use std::collections::BTreeMap;
use vcl_config::OpenTo;
use vcl_queue::{Kind, ReservationRow};
use vcl_types::lending::{Connection, Way};
use vcl_types::state::reservation::State;
use vcl_types::{
    Access, Account, AccountName, Computer, Endpoint, OsName, Reach, ReservationId, Revision, Secret,
    UserData,
};

/// How many of a user's keys are taken.
const KEYS: usize = 100;

/// A computer that is lent, with what it holds.
pub(super) struct LentGuest {
    pub(super) computer: Computer,
    pub(super) revision: Revision,
    pub(super) endpoint: Endpoint,
}

/// The account that a user has in guests: their name, without what stands behind an `@` and in what guests take; one that
/// a system has of its own gets a `u-` before it.
pub(crate) fn account_of(user: &str) -> Option<AccountName> {
    let stem: String = user.split('@').next().unwrap_or_default().to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let stem: String = stem.chars().map(plain).take(30).collect();
    let stem = stem.trim_end_matches('-');
    stem.parse().ok().or_else(|| format!("u-{stem}").trim_end_matches('-').parse().ok())
}

impl Node {
    /// From where the users of a reservation may come now.
    pub(crate) fn open_to(&self, row: &ReservationRow) -> Reach {
        match (row.from, self.config.lending.open_to) {
            (Some(address), _) => Reach::Only(vec![IpNet::from(address)]),
            (None, OpenTo::Everybody) => Reach::Everybody,
            (None, OpenTo::Address) => Reach::Nobody,
        }
    }

    /// What is to be open in the guest of a reservation now.
    ///
    /// # Errors
    /// Its owner can have no account in a guest, or a key that was brought along is none.
    pub(crate) async fn access_of(&self, row: &ReservationRow, os: OsName) -> Result<Access, Refusal> {
        let asked = row.asked.as_ref();
        let mut accounts: Vec<Account> = Vec::new();
        let others = asked.map(|asked| asked.with.as_slice()).unwrap_or_default();
        for user in std::iter::once(&row.owner).chain(others) {
            let no = || {
                let message =
                    format!("`{user}` cannot have an account in a guest; its name has no letters or digits");
                Refusal::new(RefusalKind::Invalid, message)
            };
            let name = account_of(user).ok_or_else(no)?;
            if accounts.iter().any(|account| account.name == name) {
                continue;
            }
            let (mut ssh_keys, uid) = match self.queue.user(user).await {
                Ok(known) => (known.ssh_keys, known.uid),
                Err(e) if e.kind == Kind::NotFound => (Vec::new(), None),
                Err(e) => return Err(e.into()),
            };
            if *user == row.owner {
                ssh_keys.extend(asked.into_iter().flat_map(|asked| asked.keys.iter().cloned()));
            }
            // One that was taken before the rule was there keeps nobody out.
            let mut ssh_keys: Vec<String> =
                ssh_keys.iter().filter_map(|key| vcl_types::ssh_key(key).ok()).collect();
            ssh_keys.dedup();
            ssh_keys.truncate(KEYS);
            accounts.push(Account { name, ssh_keys, sudo: asked.is_some_and(|asked| asked.sudo), uid });
        }
        let lending = &self.config.lending;
        let from = self.open_to(row);
        let time = |at: Option<chrono::DateTime<chrono::Utc>>| at.map(|at| at.to_rfc3339());
        let mut facts: BTreeMap<String, String> = BTreeMap::new();
        let mut fact = |name: &str, value: Option<String>| {
            facts.extend(value.map(|value| (name.to_owned(), value)));
        };
        fact("owner", Some(row.owner.clone()));
        fact("group", row.group.clone());
        fact("purpose", Some(row.purpose.to_string()));
        fact("image", Some(row.image.to_string()));
        fact("computer", row.computer.as_ref().map(ToString::to_string));
        fact("start", time(row.start));
        fact("end", time(row.end));
        fact("from", row.from.map(|address| address.to_string()));
        let user_data = asked.and_then(|asked| asked.user_data.as_ref());
        let user_data = user_data.map(|text| UserData::new(text.clone().into_bytes())).transpose();
        let user_data = user_data.map_err(|e| Refusal::new(RefusalKind::Invalid, e.to_string()))?;
        Ok(Access {
            reservation: row.id,
            accounts,
            methods: lending.methods(&row.image.name, os),
            from,
            keep: lending.management_networks.clone(),
            facts,
            user_data,
        })
    }

    /// The guest of a reservation, where it has one and this node has its backend.
    pub(super) async fn lent_guest(&self, row: &ReservationRow) -> Result<Option<LentGuest>, Refusal> {
        let (State::Ready | State::InUse, Some(name)) = (row.state, &row.computer) else { return Ok(None) };
        let seat = self.queue.computer(name).await?;
        let elsewhere = seat.node.as_ref().is_some_and(|node| *node != self.name);
        let Some(loaded) =
            seat.loaded.filter(|_| !elsewhere && self.backends.contains_key(&seat.computer.backend))
        else {
            return Ok(None);
        };
        let manifest = self.queue.manifest(&loaded.image).await?;
        let revision = self.library.future(&manifest)?;
        Ok(Some(LentGuest { computer: seat.computer, revision, endpoint: loaded.endpoint }))
    }

    /// How to get to a reservation's computer; with a new password where one is wanted.
    ///
    /// # Errors
    /// It cannot be used now; or its guest does not take the password.
    pub async fn connection(&self, id: ReservationId, password: bool) -> Result<Connection, Refusal> {
        let row = self.queue.reservation(id).await?;
        let Some(lent) = self.lent_guest(&row).await? else {
            let message = match row.state {
                State::Ready | State::InUse => {
                    format!("the computer of reservation {id} is another node's: ask there")
                }
                state => format!(
                    "reservation {id} is {state}; it can be connected to when it is ready: vclctl why reservation:{id}"
                ),
            };
            return Err(Refusal::new(RefusalKind::Refused, message));
        };
        let os = lent.revision.manifest.os;
        let access = self.access_of(&row, os).await?;
        let account =
            access.accounts.first().map(|account| account.name.clone()).ok_or_else(|| {
                Refusal::new(RefusalKind::Internal, format!("reservation {id} has no account"))
            })?;
        let mut shown = None;
        if password {
            // Windows wants capitals, digits and signs in one.
            let secret = format!("{}-A1", crate::people::tokens::random(9)?);
            let target = self.target(&lent.computer, &lent.revision, Some(&lent.endpoint))?;
            let told = target
                .os
                .password(target.guest(&lent.endpoint), &account, &Secret::new(secret.clone()))
                .await;
            told.map_err(|e| Refusal::new(RefusalKind::Unavailable, chain(&e)))?;
            shown = Some(secret);
        }
        let public = self.queue.ports_of(id).await?;
        let way = |method: &vcl_types::ConnectMethod| {
            let outside = public.iter().find(|port| port.method == method.name).map(|port| port.port);
            let port = match public.is_empty() {
                true => Some(crate::flow::nat::port_there(method, &lent.endpoint)),
                false => outside,
            };
            Some(Way { method: method.name.clone(), port: port? })
        };
        let ways: Vec<Way> = access.methods.iter().filter_map(way).collect();
        let address = public.first().map_or(lent.endpoint.address, |port| port.address.into());
        // The ssh server's keys, as whoever comes that way has to know them.
        let ssh = access.methods.iter().find(|method| method.port == 22);
        let ssh = ssh.and_then(|ssh| ways.iter().find(|way| way.method == ssh.name));
        let ssh = ssh.map_or(lent.endpoint.port, |way| way.port);
        let host_keys = lent.endpoint.host_keys.keys.iter().map(|key| match ssh {
            22 => format!("{address} {key}"),
            port => format!("[{address}]:{port} {key}"),
        });
        Ok(Connection {
            guacamole: self.gateway_of(&access),
            methods: ways,
            address,
            account: account.to_string(),
            host_keys: host_keys.collect(),
            password: shown,
            reservation: self.reservation(id).await?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::account_of;

    #[test]
    fn every_user_with_a_letter_has_an_account() {
        for (user, account) in [
            ("alice", "alice"),
            ("Alice.Smith@example.org", "alice_smith"),
            ("root", "u-root"),
            ("4711", "u-4711"),
            ("con", "u-con"),
        ] {
            assert_eq!(account_of(user).unwrap().as_str(), account);
        }
        let long = "x".repeat(120);
        assert_eq!(account_of(&long).unwrap().as_str().len(), 30);
    }
}
