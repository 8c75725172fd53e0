//! Guacamole: connections that users open in a browser, there as long as they may use the computer.
//!
//! Nothing of it is recorded here. What should be there follows from the open reservations; what is there Guacamole knows by
//! name: `COMPUTER METHOD ACCOUNT (vcld RESERVATION)`. A look compares the two and makes, changes and removes, so that a daemon
//! that dies in the middle, a Guacamole that was away, and nodes that look at once all come to the same: what is there is
//! listed before the reservations are read, so that what another node has made meanwhile is not taken for nobody's. A
//! reservation waits for none of it. Each connection asks its user for their password and leads to the computer itself: what
//! guards it is the guest's account, which ends with the reservation.
//!
//! What failed is tried again after a minute, by itself; where Guacamole as a whole does not answer or does not take the
//! account nothing at all is said to it until then.

mod client;

use crate::node::{Node, Refusal};
use client::{Client, Put, Session};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use vcl_queue::{Kind, ReservationRow};
use vcl_types::api::{Finding, FindingLevel};
use vcl_types::lending::Purpose;
use vcl_types::state::reservation::State;
use vcl_types::{Access, ComputerName, Loaded, ReservationId};

/// How often it is seen to whether a reservation has begun, ended or changed.
const TICK: Duration = Duration::from_secs(5);
/// When what failed is tried again.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a whole look may take.
const LOOK: Duration = Duration::from_secs(300);
/// The methods that Guacamole speaks, and what it calls them.
const PROTOCOLS: &[&str] = &["ssh", "rdp", "vnc"];

/// A connection as it should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Who may open it, by the names that Guacamole knows them by, and whether vcld knows them: whom it does not know it
    /// does not create there.
    users: BTreeMap<String, bool>,
    protocol: String,
    parameters: BTreeMap<&'static str, String>,
}

/// What of a reservation decides which connections should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    reservation: ReservationId,
    computer: Option<ComputerName>,
    /// What is on it, and where it answers.
    holds: Option<String>,
    owner: String,
    with: Vec<String>,
}

#[derive(Default)]
struct Memory {
    seen: Option<Vec<Seen>>,
    /// What this life has seen to, by name.
    known: BTreeMap<String, Wanted>,
    /// What failed, by name, and when.
    failed: BTreeMap<String, Instant>,
    /// When everything that is there was last compared.
    looked: Option<Instant>,
    /// When Guacamole as a whole was last of no use.
    useless: Option<Instant>,
    /// Why the last look failed.
    trouble: Option<String>,
    /// The account may not end what users have open.
    cuts_nobody: bool,
}

/// The Guacamole of the configuration.
pub struct Guacamole {
    client: Client,
    mark: String,
    memory: Mutex<Memory>,
}

fn recently(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < AGAIN)
}

impl Guacamole {
    /// Makes ready to talk to it; nothing is dialled.
    ///
    /// # Errors
    /// The password or the authority cannot be read.
    pub(crate) fn new(config: &vcl_config::Config) -> anyhow::Result<Option<Self>> {
        let Some(gateway) = &config.guacamole else { return Ok(None) };
        let password = anyhow::Context::context(config.credential(&gateway.password), "guacamole.password")?;
        Ok(Some(Self::with(gateway, password)?))
    }

    pub(crate) fn with(gateway: &vcl_config::Guacamole, password: vcl_types::Secret) -> anyhow::Result<Self> {
        let client = Client::new(gateway, password)?;
        Ok(Self { client, mark: gateway.mark.clone(), memory: Mutex::default() })
    }

    /// What failed may be tried again.
    #[cfg(test)]
    pub(crate) fn a_minute_later(&self) {
        let mut memory = self.memory();
        memory.useless = None;
        let before = Instant::now().checked_sub(AGAIN);
        memory.failed.values_mut().for_each(|at| *at = before.unwrap_or(*at));
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has Guacamole have what it should, if something has changed, has to be tried again, or a whole look is due.
    ///
    /// # Errors
    /// The database does not answer, or Guacamole refuses something; the rest is done all the same.
    pub(crate) async fn look(&self, node: &Node) -> Result<(), Refusal> {
        if recently(self.memory().useless) {
            return Ok(());
        }
        let seen = node.to_open().await?.iter().map(Open::seen).collect::<Vec<Seen>>();
        let whole = {
            let memory = self.memory();
            let whole = memory.looked.is_none_or(|at| at.elapsed() >= node.config.node.upkeep.look);
            let again = memory.failed.values().any(|at| !recently(Some(*at)));
            if !whole && !again && memory.seen.as_ref() == Some(&seen) {
                return Ok(());
            }
            whole
        };
        let ended = match tokio::time::timeout(LOOK, self.compare(node, whole)).await {
            Ok(ended) => ended,
            Err(_) => {
                let why = format!("Guacamole has not answered all within {} s", LOOK.as_secs());
                Err(Refusal::new(crate::node::RefusalKind::Unavailable, why))
            }
        };
        let mut memory = self.memory();
        match ended {
            Ok(failed) => {
                memory.seen = Some(seen);
                memory.looked = if whole { Some(Instant::now()) } else { memory.looked };
                let waits = memory.failed.values().any(|at| recently(Some(*at)));
                match failed {
                    Some(refusal) => {
                        memory.trouble = Some(refusal.message.clone());
                        Err(refusal)
                    }
                    None if waits => Ok(()),
                    None => {
                        memory.trouble = None;
                        Ok(())
                    }
                }
            }
            Err(refusal) => {
                memory.useless = Some(Instant::now());
                memory.trouble = Some(refusal.message.clone());
                Err(refusal)
            }
        }
    }

    /// One comparison. Answers what could not be done of it, if the rest could.
    async fn compare(&self, node: &Node, whole: bool) -> Result<Option<Refusal>, Refusal> {
        let session = self.client.sign_in().await?;
        let there = session.connections(&self.mark).await;
        let ended = match there {
            Ok(there) => match node.connections_wanted(&self.mark).await {
                Ok(wanted) => self.exchange(&session, &there, &wanted, whole).await,
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        session.sign_out().await;
        ended
    }

    async fn exchange(
        &self,
        session: &Session<'_>,
        there: &BTreeMap<String, Vec<String>>,
        wanted: &BTreeMap<String, Wanted>,
        whole: bool,
    ) -> Result<Option<Refusal>, Refusal> {
        let mut failed = None;
        let mut note = |name: &str, ended: Result<Option<&Wanted>, Refusal>| {
            let mut memory = self.memory();
            match ended {
                Ok(Some(want)) => {
                    memory.failed.remove(name);
                    memory.known.insert(name.to_owned(), want.clone());
                }
                Ok(None) => {
                    memory.failed.remove(name);
                    memory.known.remove(name);
                }
                Err(refusal) => {
                    memory.known.remove(name);
                    memory.failed.insert(name.to_owned(), Instant::now());
                    failed = Some(refusal);
                }
            }
        };
        // Whose time is over first. Of one that two nodes have made at once the first stays.
        for (name, ids) in there {
            let over = if wanted.contains_key(name) { ids.get(1..).unwrap_or_default() } else { ids };
            for id in over {
                match session.remove(id).await {
                    Ok(cut) => {
                        self.memory().cuts_nobody |= !cut;
                        if !wanted.contains_key(name) {
                            note(name, Ok(None));
                        }
                    }
                    Err(refusal) => note(name, Err(refusal)),
                }
            }
        }
        for (name, want) in wanted {
            let id = there.get(name).and_then(|ids| ids.first());
            let settled = {
                let memory = self.memory();
                let known = !whole && id.is_some() && memory.known.get(name) == Some(want);
                known || recently(memory.failed.get(name).copied())
            };
            if settled {
                continue;
            }
            match session.put(id.map(String::as_str), name, want).await {
                Ok(Put::Done) => note(name, Ok(Some(want))),
                // Another node was faster: looked at again, and nothing that anybody has to hear of.
                Ok(Put::There) => drop(self.memory().failed.insert(name.clone(), Instant::now())),
                Err(refusal) => note(name, Err(refusal)),
            }
        }
        let mut memory = self.memory();
        memory.known.retain(|name, _| wanted.contains_key(name));
        memory.failed.retain(|name, _| wanted.contains_key(name) || there.contains_key(name));
        Ok(failed)
    }
}

/// Runs until it is dropped.
pub(crate) async fn run(node: &Node) {
    let Some(guacamole) = &node.guacamole else { return };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told: Option<String> = None;
    loop {
        ticks.tick().await;
        let ended = guacamole.look(node).await;
        // The same once, not every minute.
        match ended {
            Err(refusal) if told.as_ref() != Some(&refusal.message) => {
                node.queue.post_event("guacamole", None, None, &refusal.message);
                told = Some(refusal.message);
            }
            Err(_) => {}
            Ok(()) if guacamole.memory().trouble.is_none() => told = None,
            Ok(()) => {}
        }
    }
}

/// A reservation whose users may open its computer.
struct Open {
    row: ReservationRow,
    loaded: Option<Loaded>,
}

impl Open {
    fn seen(&self) -> Seen {
        let row = &self.row;
        let holds = |loaded: &Loaded| {
            format!("{} {}:{}", loaded.image, loaded.endpoint.address, loaded.endpoint.port)
        };
        Seen {
            reservation: row.id,
            computer: row.computer.clone(),
            holds: self.loaded.as_ref().map(holds),
            owner: row.owner.clone(),
            with: row.asked.as_ref().map(|asked| asked.with.clone()).unwrap_or_default(),
        }
    }
}

impl Node {
    /// What is to be open in a guest beside its users' own addresses: where the gateway comes from, whose users it knows.
    pub(crate) fn with_gateway(&self, mut access: Access) -> Access {
        if let (Some(gateway), Some(_)) = (&self.config.guacamole, self.gateway_of(&access)) {
            let nets = gateway.guacd.iter().map(|address| ipnet::IpNet::from(*address));
            match &mut access.from {
                vcl_types::Reach::Everybody => {}
                vcl_types::Reach::Only(own) => own.extend(nets),
                nobody @ vcl_types::Reach::Nobody => *nobody = vcl_types::Reach::Only(nets.collect()),
            }
        }
        access
    }

    /// Where a reservation is opened in a browser, if one of its ways is one that Guacamole has.
    pub(crate) fn gateway_of(&self, access: &Access) -> Option<String> {
        let gateway = self.config.guacamole.as_ref()?;
        let has = access.methods.iter().any(|method| PROTOCOLS.contains(&method.name.as_str()));
        has.then(|| format!("{}/", gateway.url))
    }

    /// The reservations whose computers can be used, or are loaded anew for who had them, with what is on each.
    async fn to_open(&self) -> Result<Vec<Open>, Refusal> {
        let usable = |row: &ReservationRow| match row.state {
            State::Ready | State::InUse => true,
            State::Loading => row.usable.is_some(),
            _ => false,
        };
        let mut rows = self.queue.reservations_open().await?;
        rows.retain(|row| usable(row) && !matches!(row.purpose, Purpose::Direct | Purpose::Seat));
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let computers = self.queue.computers().await?;
        let mut on: HashMap<ComputerName, Loaded> =
            computers.into_iter().filter_map(|row| Some((row.computer.name, row.loaded?))).collect();
        let open = |row: ReservationRow| Open {
            loaded: row.computer.as_ref().and_then(|computer| on.remove(computer)),
            row,
        };
        Ok(rows.into_iter().map(open).collect())
    }

    /// Every connection that should be there.
    async fn connections_wanted(&self, mark: &str) -> Result<BTreeMap<String, Wanted>, Refusal> {
        let mut wanted = BTreeMap::new();
        for open in self.to_open().await? {
            wanted.extend(self.wanted_of(&open, mark).await?);
        }
        Ok(wanted)
    }

    /// The connections of a reservation.
    async fn wanted_of(&self, open: &Open, mark: &str) -> Result<BTreeMap<String, Wanted>, Refusal> {
        let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
        let (row, Some(computer), Some(loaded)) = (&open.row, &open.row.computer, &open.loaded) else {
            return Ok(wanted);
        };
        let os = match self.queue.manifest(&loaded.image).await {
            Ok(manifest) => manifest.os,
            // It is being deleted under whoever had it.
            Err(e) if e.kind == Kind::NotFound => return Ok(wanted),
            Err(e) => return Err(e.into()),
        };
        let access = self.access_of(row, os).await?;
        let others = row.asked.as_ref().map(|asked| asked.with.as_slice()).unwrap_or_default();
        let users: BTreeSet<&String> = std::iter::once(&row.owner).chain(others).collect();
        for user in users {
            let Some(account) = crate::lending::account_of(user) else { continue };
            let known = match self.queue.user(user).await {
                Ok(_) => true,
                Err(e) if e.kind == Kind::NotFound => false,
                Err(e) => return Err(e.into()),
            };
            for method in access.methods.iter().filter(|m| PROTOCOLS.contains(&m.name.as_str())) {
                let port = crate::flow::nat::port_there(method, &loaded.endpoint);
                let mut parameters = BTreeMap::from([
                    ("hostname", loaded.endpoint.address.to_string()),
                    ("port", port.to_string()),
                    ("username", account.to_string()),
                ]);
                if method.name == "rdp" {
                    // Guests make their certificates themselves, anew with each load.
                    parameters.insert("ignore-cert", "true".to_owned());
                    parameters.insert("security", "any".to_owned());
                }
                let name = format!("{computer} {} {account} ({mark} {})", method.name, row.id);
                let (users, protocol) = (BTreeMap::new(), method.name.clone());
                // Two names can come to one account.
                let want = wanted.entry(name).or_insert(Wanted { users, protocol, parameters });
                want.users.insert(user.clone(), known);
            }
        }
        Ok(wanted)
    }

    /// Whether the gateway does what it is told.
    pub(crate) fn gateway_findings(&self) -> Vec<Finding> {
        let Some(guacamole) = &self.guacamole else { return Vec::new() };
        let memory = guacamole.memory();
        let found = |level, found: String, way_out: Option<&str>| Finding {
            what: "guacamole".into(),
            level,
            found,
            way_out: way_out.map(str::to_owned),
        };
        let mut findings = vec![match (&memory.trouble, memory.looked) {
            (Some(why), _) => found(
                FindingLevel::Warning,
                why.clone(),
                Some("users come by their connect methods meanwhile; see [guacamole] and docs/guacamole.md"),
            ),
            (None, Some(_)) => {
                found(FindingLevel::Ok, format!("it has {} connections of vcld's", memory.known.len()), None)
            }
            (None, None) => found(FindingLevel::Ok, "it was not looked at yet".to_owned(), None),
        }];
        if memory.cuts_nobody {
            findings.push(found(
                FindingLevel::Warning,
                "vcld's account may not end what users have open; it ends with their account in the guest"
                    .into(),
                Some("let it administer the system, or leave it so"),
            ));
        }
        findings
    }
}
