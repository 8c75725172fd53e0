//! Guacamole: connections that users open in a browser, there as long as they may use the computer.
//!
//! Nothing of it is recorded here. What should be there follows from the open reservations; what is there Guacamole knows by
//! name: `COMPUTER METHOD ACCOUNT (vcld RESERVATION)`. A look compares the two and makes, changes and removes, so that a daemon
//! that dies in the middle, a Guacamole that was away, and two nodes that look at once all come to the same. A reservation waits
//! for none of it. Each connection is one user's alone, asks them for their password, and leads to the computer itself: what
//! guards it is the guest's account, which ends with the reservation.

mod client;

use crate::node::{Node, Refusal};
use client::{Client, Session};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use vcl_queue::{Kind, ReservationRow};
use vcl_types::api::{Finding, FindingLevel};
use vcl_types::lending::Purpose;
use vcl_types::state::reservation::State;
use vcl_types::{Access, ComputerName, ReservationId};

/// How often it is seen to whether a reservation has begun, ended or changed.
const TICK: Duration = Duration::from_secs(3);
/// When one that failed is tried again although nothing has changed.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a whole look may take.
const LOOK: Duration = Duration::from_secs(300);
/// The methods that Guacamole speaks, and what it calls them.
const PROTOCOLS: &[&str] = &["ssh", "rdp", "vnc"];

/// A connection as it should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    /// Who may open it, by the name that Guacamole knows them by.
    user: String,
    protocol: String,
    parameters: BTreeMap<&'static str, String>,
}

/// What decides which connections should be there, cheaply compared.
type Seen = Vec<(ReservationId, Option<ComputerName>, String, Vec<String>)>;

#[derive(Default)]
struct Memory {
    seen: Option<Seen>,
    /// What this life has seen to, by name.
    known: BTreeMap<String, Wanted>,
    looked: Option<Instant>,
    /// Why the last look failed, and when.
    trouble: Option<(String, Instant)>,
}

/// The Guacamole of the configuration.
pub struct Guacamole {
    client: Client,
    mark: String,
    memory: Mutex<Memory>,
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

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has Guacamole have what it should, if something has changed or a whole look is due.
    ///
    /// # Errors
    /// The database does not answer, or Guacamole refuses something; the rest is done all the same.
    pub(crate) async fn look(&self, node: &Node) -> Result<(), Refusal> {
        let rows: Vec<ReservationRow> = node
            .queue
            .reservations_open()
            .await?
            .into_iter()
            .filter(|row| matches!(row.state, State::Ready | State::InUse))
            .filter(|row| !matches!(row.purpose, Purpose::Direct | Purpose::Seat))
            .collect();
        let with = |row: &ReservationRow| row.asked.as_ref().map(|a| a.with.clone()).unwrap_or_default();
        let seen: Seen =
            rows.iter().map(|row| (row.id, row.computer.clone(), row.owner.clone(), with(row))).collect();
        let whole = {
            let memory = self.memory();
            let whole = memory.looked.is_none_or(|at| at.elapsed() >= node.config.node.upkeep.look);
            let again = memory.trouble.as_ref().is_some_and(|(_, at)| at.elapsed() >= AGAIN);
            if !whole && !again && memory.seen.as_ref() == Some(&seen) {
                return Ok(());
            }
            whole
        };
        let mut wanted = BTreeMap::new();
        for row in &rows {
            wanted.extend(node.wanted_of(row, &self.mark).await?);
        }
        let ended = self.see_to(&wanted, whole).await;
        let mut memory = self.memory();
        memory.seen = Some(seen);
        memory.trouble = ended.as_ref().err().map(|why| (why.message.clone(), Instant::now()));
        if whole && ended.is_ok() {
            memory.looked = Some(Instant::now());
        }
        ended
    }

    async fn see_to(&self, wanted: &BTreeMap<String, Wanted>, whole: bool) -> Result<(), Refusal> {
        let known = self.memory().known.clone();
        if !whole && known == *wanted {
            return Ok(());
        }
        let session = self.client.sign_in().await?;
        let ended = self.exchange(&session, wanted, if whole { BTreeMap::new() } else { known }).await;
        session.sign_out().await;
        ended
    }

    async fn exchange(
        &self,
        session: &Session<'_>,
        wanted: &BTreeMap<String, Wanted>,
        known: BTreeMap<String, Wanted>,
    ) -> Result<(), Refusal> {
        let there = session.connections(&self.mark).await?;
        let mut failed = Ok(());
        // Whose time is over first.
        for (name, id) in there.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            match session.remove(id).await {
                Ok(()) => drop(self.memory().known.remove(name)),
                Err(why) => failed = Err(why),
            }
        }
        for (name, want) in wanted {
            let id = there.get(name);
            if id.is_some() && known.get(name) == Some(want) {
                continue;
            }
            match session.put(id.map(String::as_str), name, want).await {
                Ok(()) => drop(self.memory().known.insert(name.clone(), want.clone())),
                Err(why) => {
                    self.memory().known.remove(name);
                    failed = Err(why);
                }
            }
        }
        self.memory().known.retain(|name, _| wanted.contains_key(name));
        failed
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
        let ended = tokio::time::timeout(LOOK, guacamole.look(node)).await;
        let why = match ended {
            Ok(Ok(())) => None,
            Ok(Err(refusal)) => Some(refusal.message),
            Err(_) => Some(format!("Guacamole has not answered all within {} s", LOOK.as_secs())),
        };
        // The same once, not every minute.
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(why)) {
            node.queue.post_event("guacamole", None, None, why);
        }
        told = why;
    }
}

impl Node {
    /// What is to be open in a guest beside its users' own addresses: where the gateway comes from, whose users it knows.
    pub(crate) fn with_gateway(&self, mut access: Access) -> Access {
        if let Some(gateway) = &self.config.guacamole {
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

    /// The connections of a reservation.
    async fn wanted_of(&self, row: &ReservationRow, mark: &str) -> Result<BTreeMap<String, Wanted>, Refusal> {
        let mut wanted = BTreeMap::new();
        let Some(computer) = &row.computer else { return Ok(wanted) };
        let Some(loaded) = self.queue.computer(computer).await?.loaded else { return Ok(wanted) };
        let os = match self.queue.manifest(&loaded.image).await {
            Ok(manifest) => manifest.os,
            // It is being deleted under whoever had it.
            Err(e) if e.kind == Kind::NotFound => return Ok(wanted),
            Err(e) => return Err(e.into()),
        };
        let access = self.access_of(row, os).await?;
        let others = row.asked.as_ref().map(|asked| asked.with.as_slice()).unwrap_or_default();
        for user in std::iter::once(&row.owner).chain(others) {
            let Some(account) = crate::lending::account_of(user) else { continue };
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
                let want = Wanted { user: user.clone(), protocol: method.name.clone(), parameters };
                wanted.entry(name).or_insert(want);
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
        vec![match (&memory.trouble, memory.looked) {
            (Some((why, _)), _) => found(
                FindingLevel::Warning,
                why.clone(),
                Some("users come by their connect methods meanwhile; see [guacamole] and docs/guacamole.md"),
            ),
            (None, Some(_)) => {
                found(FindingLevel::Ok, format!("it has {} connections of vcld's", memory.known.len()), None)
            }
            (None, None) => found(FindingLevel::Ok, "it was not looked at yet".to_owned(), None),
        }]
    }
}
