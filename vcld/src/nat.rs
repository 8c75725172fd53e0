//! NAT hosts: connections to them, and the reconciler that keeps their rules what the table of public ports says.
//!
//! Jobs open and shut ports (`flow::nat`); the table is the queue's (`nat_ports`). A host that is away when a reservation ends
//! keeps nobody from anything: its ports are leaving, nobody gets them, and this goes on trying. A look reads the host first and
//! the table afterwards, so that what is being opened meanwhile is not mistaken for a rule of nobody's. What should be there and
//! is not, because the host was booted, is made by a job that lets its users in anew: this writes no rules of its own.

use crate::node::{Node, Refusal, RefusalKind, chain};
use anyhow::Context;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vcl_config::{Config, KeySource};
use vcl_os::linux::nat::{self, NatHost};
use vcl_os::{Remotes, SshKey, SshRemotes};
use vcl_queue::{Kind, NatPort};
use vcl_types::api::{Finding, FindingLevel};
use vcl_types::state::reservation::State;
use vcl_types::{Endpoint, HostKeys, NatName, Reach, ReservationId};

/// How often it is seen to whether something is leaving.
const TICK: Duration = Duration::from_secs(30);
/// How long a script may run there. It does next to nothing.
const SCRIPT: Duration = Duration::from_secs(60);
/// How long a host may take to say what it has.
const ANSWER: Duration = Duration::from_secs(60);

/// One host, and how it is reached.
struct Gate {
    endpoint: Endpoint,
    remotes: Arc<dyn Remotes>,
    table: String,
    outside: std::net::Ipv4Addr,
    limit: Duration,
}

/// The hosts of the configuration.
#[derive(Default)]
pub struct Gates {
    gates: BTreeMap<NatName, Gate>,
    nudged: Notify,
}

impl Gates {
    /// Reads the keys that hosts have of their own; `usual` logs in with that of `[ssh]`.
    ///
    /// # Errors
    /// A key cannot be read.
    pub(crate) fn new(config: &Config, usual: &Arc<dyn Remotes>) -> anyhow::Result<Self> {
        let mut gates = BTreeMap::new();
        for (name, host) in &config.nats.hosts {
            let key = match &host.key {
                None => None,
                Some(KeySource::File(path)) => Some(SshKey::load(path)),
                Some(KeySource::Credential(credential)) => {
                    let secret = config.credential(credential).with_context(|| format!("nat.{name}.key"))?;
                    Some(SshKey::from_text(secret))
                }
            };
            let key = key.transpose().with_context(|| format!("nat.{name}.key"))?;
            let remotes: Arc<dyn Remotes> = match key {
                Some(key) => Arc::new(SshRemotes::new(key)),
                None => usual.clone(),
            };
            let host_keys =
                HostKeys { keys: vec![host.host_key.clone()], source: vcl_types::KeySource::Injected };
            let endpoint =
                Endpoint { address: host.ssh.into(), port: host.port, user: host.user.clone(), host_keys };
            let (table, outside) = (host.table.clone(), host.outside);
            let limit = SCRIPT.min(config.deadlines.command);
            gates.insert(name.clone(), Gate { endpoint, remotes, table, outside, limit });
        }
        Ok(Self { gates, nudged: Notify::new() })
    }
    /// Something is leaving and could not be taken away.
    pub(crate) fn nudge(&self) {
        self.nudged.notify_one();
    }
    /// The host of that name.
    ///
    /// # Errors
    /// The configuration of this node has it no more.
    pub(crate) fn host(&self, name: &NatName) -> Result<NatHost<'_>, Refusal> {
        let gate = self.gates.get(name).ok_or_else(|| {
            let message = format!(
                "there is no [nat.{name}] in this node's configuration, and rules of vcld are on that host; put it back"
            );
            Refusal::new(RefusalKind::NotFound, message)
        })?;
        let Gate { endpoint, remotes, table, outside, limit } = gate;
        Ok(NatHost { endpoint, remotes: &**remotes, table, outside: *outside, limit: *limit })
    }
}

/// From where a host is told to let in, as the table of ports keeps it.
pub(crate) fn in_words(from: &Reach) -> String {
    match from {
        Reach::Nobody => "nobody".to_owned(),
        Reach::Everybody => "everybody".to_owned(),
        Reach::Only(nets) => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}

/// Runs until it is dropped.
pub(crate) async fn run(node: &Node) {
    if node.gates.gates.is_empty() {
        return;
    }
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looked: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = node.gates.nudged.notified() => {}
        }
        let whole = looked.is_none_or(|at| at.elapsed() >= node.config.node.upkeep.look);
        match node.look_at_gates(whole).await {
            Ok(()) if whole => looked = Some(Instant::now()),
            Ok(()) => {}
            Err(refusal) => {
                tracing::warn!(reason = refusal.message, "a NAT host's rules are not what they should be");
            }
        }
    }
}

impl Node {
    /// Takes away the rules of ports that are leaving, and gives the ports back.
    ///
    /// # Errors
    /// A host does not answer, or is configured no more: its ports stay what they are.
    pub(crate) async fn shut_ports(
        &self,
        leaving: &[NatPort],
        cancel: &CancellationToken,
    ) -> vcl_job::Result<()> {
        let mut by_host: BTreeMap<&NatName, Vec<NatPort>> = BTreeMap::new();
        for port in leaving {
            by_host.entry(&port.nat).or_default().push(port.clone());
        }
        for (name, ports) in by_host {
            let numbers: Vec<u16> = ports.iter().map(|port| port.port).collect();
            self.shut(name, &numbers, cancel).await?;
            self.queue.free_ports(&ports).await?;
        }
        Ok(())
    }

    /// Takes away the rules of these ports of a host. A host knows rules by their port alone, and it may take its time: whoever
    /// was given one of them meanwhile, because somebody else had shut it too, lost the rule to this, and it is made anew.
    async fn shut(&self, name: &NatName, ports: &[u16], cancel: &CancellationToken) -> vcl_job::Result<()> {
        nat::set(self.gates.host(name)?, &[], ports, cancel).await?;
        let rows = self.queue.nat_ports().await?;
        let robbed = |row: &&NatPort| {
            row.nat == *name && ports.contains(&row.port) && row.leaving.is_none() && row.told.is_some()
        };
        let robbed: BTreeSet<ReservationId> = rows.iter().filter(robbed).map(|row| row.reservation).collect();
        for id in robbed {
            self.open_anew(name, id).await;
        }
        Ok(())
    }

    /// Has a job make the rules of a reservation anew.
    async fn open_anew(&self, name: &NatName, id: ReservationId) {
        match self.queue.admit(id).await {
            Ok(job) => {
                let message = format!("NAT host {name} lacks rules of reservation {id}; they are made anew");
                self.queue.post_event("nat-rules-missing", Some(job), None, &message);
            }
            Err(e) => tracing::debug!(reservation = id.0, error = %e, "its rules are not made anew"),
        }
    }

    /// Compares each host with the table: rules of no reservation's go, and what is missing is made anew. Without `whole`
    /// only what is known to be leaving is seen to.
    ///
    /// # Errors
    /// The database or a host does not answer; the other hosts are looked at all the same.
    pub(crate) async fn look_at_gates(&self, whole: bool) -> Result<(), Refusal> {
        let mut failed = Ok(());
        for name in self.gates.gates.keys() {
            let looked = match tokio::time::timeout(ANSWER, self.look_at_gate(name, whole)).await {
                Ok(looked) => looked,
                Err(_) => {
                    let message = format!("NAT host {name} does not answer within {} s", ANSWER.as_secs());
                    Err(Refusal::new(RefusalKind::Unavailable, message))
                }
            };
            if let Err(refusal) = looked {
                failed = Err(refusal);
            }
        }
        failed
    }

    async fn look_at_gate(&self, name: &NatName, whole: bool) -> Result<(), Refusal> {
        let cancel = CancellationToken::new();
        let host = self.gates.host(name)?;
        let silent = |e: vcl_os::Error| {
            Refusal::new(RefusalKind::Unavailable, format!("NAT host {name}: {}", chain(&e)))
        };
        let unshut = |e: vcl_job::Error| Refusal::new(RefusalKind::Unavailable, e.failure().message);
        let there = match whole {
            true => nat::ports(host, &cancel).await.map_err(silent)?,
            false => BTreeSet::new(),
        };
        let mut rows = self.queue.nat_ports().await?;
        rows.retain(|row| row.nat == *name);
        let mut open: BTreeMap<ReservationId, Option<vcl_queue::ReservationRow>> = BTreeMap::new();
        for row in &rows {
            if let Entry::Vacant(vacant) = open.entry(row.reservation) {
                let reservation = match self.queue.reservation(row.reservation).await {
                    Ok(reservation) => Some(reservation).filter(|r| r.state != State::Ended),
                    Err(e) if e.kind == Kind::NotFound => None,
                    Err(e) => return Err(e.into()),
                };
                vacant.insert(reservation);
            }
        }
        let mut leaving = Vec::new();
        let mut shaken = BTreeSet::new();
        for row in &rows {
            let reservation = open.get(&row.reservation).and_then(Option::as_ref);
            match reservation {
                _ if row.leaving.is_some() => leaving.push(row.clone()),
                None => {
                    let left = self.queue.leave_ports(None, row.reservation, &row.computer).await?;
                    leaving
                        .extend(left.into_iter().filter(|port| port.nat == *name && port.port == row.port));
                }
                Some(reservation) => {
                    let told = row.told.as_ref();
                    let lost = whole && told.is_some() && !there.contains(&row.port);
                    let stale = told.is_some_and(|told| *told != in_words(&self.open_to(reservation)));
                    let usable = matches!(reservation.state, State::Ready | State::InUse);
                    if whole && usable && (lost || stale) {
                        shaken.insert(row.reservation);
                    }
                }
            }
        }
        let known: BTreeSet<u16> = rows.iter().map(|row| row.port).collect();
        let strays: Vec<u16> = there.difference(&known).copied().collect();
        if !strays.is_empty() {
            self.shut(name, &strays, &cancel).await.map_err(unshut)?;
            let ports: Vec<String> = strays.iter().map(ToString::to_string).collect();
            let message =
                format!("the rules of ports {} of NAT host {name} belonged to nobody", ports.join(", "));
            self.queue.post_event("nat-rules-removed", None, None, &message);
        }
        if !leaving.is_empty() {
            self.shut_ports(&leaving, &cancel).await.map_err(unshut)?;
        }
        for id in shaken {
            self.open_anew(name, id).await;
        }
        Ok(())
    }

    /// The hosts that have too few ports for one more reservation, each with what is said of it.
    pub(crate) async fn full_gates(&self) -> Result<BTreeMap<NatName, String>, Refusal> {
        let mut full = BTreeMap::new();
        if self.config.nats.hosts.is_empty() {
            return Ok(full);
        }
        let rows = self.queue.nat_ports().await?;
        let ways = self.config.lending.most_methods();
        for (name, host) in &self.config.nats.hosts {
            let taken = rows.iter().filter(|row| row.nat == *name && host.ports.contains(row.port)).count();
            let ports = &host.ports;
            if taken + ways > ports.count() as usize {
                full.insert(name.clone(), format!("NAT host {name} has no port free of {ports}"));
            }
        }
        Ok(full)
    }

    /// Whether each host answers, and how many of its ports are given out.
    pub(crate) async fn gate_findings(&self) -> Vec<Finding> {
        let rows = self.queue.nat_ports().await.unwrap_or_default();
        let mut findings = Vec::new();
        for (name, host) in &self.config.nats.hosts {
            let Ok(gate) = self.gates.host(name) else { continue };
            let cancel = CancellationToken::new();
            let asked = tokio::time::timeout(ANSWER, nat::ports(gate, &cancel)).await;
            let why = match asked {
                Ok(Ok(_)) => None,
                Ok(Err(e)) => Some(chain(&e)),
                Err(_) => Some(format!("it does not answer within {} s", ANSWER.as_secs())),
            };
            let own = || rows.iter().filter(|row| row.nat == *name);
            let leaving = own().filter(|row| row.leaving.is_some()).count();
            let used = format!("{} of {} ports are given out", own().count(), host.ports.count());
            let (level, found, way_out) = match why {
                None => (FindingLevel::Ok, format!("{name} answers; {used}"), None),
                Some(why) => (
                    FindingLevel::Error,
                    format!("{name}: {why}; {used}, {leaving} of them wait for their rules to go"),
                    Some(
                        "nobody gets a computer behind it; is it up, and does it let vcld's key in?"
                            .to_owned(),
                    ),
                ),
            };
            findings.push(Finding { what: "nat".into(), level, found, way_out });
        }
        let lost: BTreeSet<&NatName> = rows
            .iter()
            .map(|row| &row.nat)
            .filter(|name| !self.config.nats.hosts.contains_key(*name))
            .collect();
        for name in lost {
            let found =
                format!("rules of vcld are on NAT host {name}, which is not in this node's configuration");
            let way_out = Some(format!("put [nat.{name}] back until its reservations are over"));
            findings.push(Finding { what: "nat".into(), level: FindingLevel::Warning, found, way_out });
        }
        findings
    }
}
