//! From power to a guest that is ready: its address, its ssh server, its host keys, `post_load`.

use super::Libvirt;
use super::connection::CALL;
use super::console::printed_keys;
use super::definition::{DefinedNic, NicPlug};
use crate::reach::ask_hook;
use crate::{ErrorKind, Result, Target, ssh_speaks};
use camino::Utf8Path;
use std::net::IpAddr;
use std::time::Duration;
use vcl_job::{Job, Kind, Step, TRANSIENT};
use vcl_types::{AddressSource, Endpoint, HostKey, HostKeys, KeySource, Nic};
use virt::sys;

/// Waits that have a limit of their own from the configuration get this much from the executor.
const LONG: Duration = Duration::from_secs(24 * 3600);

pub(super) const ADDRESS: Step<Libvirt, String> = Step::new("find address").deadline(LONG).retry(TRANSIENT);
pub(super) const HOST_KEYS: Step<Libvirt, String> = Step::new("wait for ssh").deadline(LONG).retry(TRANSIENT);

/// How often a booting guest is looked at.
const OFTEN: Duration = Duration::from_millis(150);
/// How often the ssh server of a guest is tried that tells its keys on its console before it takes connections.
const SELDOM: Duration = Duration::from_secs(5);
/// For how long no more keys come when all have been told.
const SETTLED: Duration = Duration::from_millis(300);

/// The keys that a guest has told so far, and since when these.
#[derive(Default)]
struct Told(Option<(tokio::time::Instant, Vec<HostKey>)>);

impl Told {
    /// All keys, once no more come.
    fn settled(&mut self, now: Vec<HostKey>) -> Option<Vec<HostKey>> {
        match &self.0 {
            _ if now.is_empty() => None,
            Some((since, before)) if *before == now => (since.elapsed() >= SETTLED).then_some(now),
            _ => {
                self.0 = Some((tokio::time::Instant::now(), now));
                None
            }
        }
    }
}

impl Libvirt {
    /// The keys that a guest has printed. That its console cannot be read is found out when it has to be.
    async fn printed(&self, console: &Utf8Path) -> Vec<HostKey> {
        match self.read_console(console, 1024 * 1024).await {
            Ok(Some(said)) => printed_keys(&said),
            _ => Vec::new(),
        }
    }

    pub(super) async fn boot(
        &self,
        job: &mut Job,
        target: Target<'_>,
        domain: &str,
        place: &Utf8Path,
        nic: Option<&DefinedNic>,
    ) -> vcl_job::Result<Endpoint> {
        let console = Self::console_file(place);
        self.start_step(job, domain, place).await?;
        let (address, port) = match (nic, target.computer.management()) {
            (Some(DefinedNic { plug: NicPlug::User(port), .. }), _) => (IpAddr::from([127, 0, 0, 1]), *port),
            (_, Some(management)) => {
                let source = self.network(&management.network)?.address;
                let hook = self.network(&management.network)?.hook.clone();
                (
                    self.find_address(job, domain, &console, management, source, hook, target.limits.boot)
                        .await?,
                    22,
                )
            }
            (_, None) => {
                let context = format!("{} has no management interface; give it a network", target.computer);
                return Err(vcl_job::Error::new(Kind::Refused, context));
            }
        };
        let generalised = target.revision.manifest.generalised;
        let host_keys = self.host_keys(job, &console, address, port, generalised, target.limits.boot).await?;
        let endpoint = Endpoint { address, port, user: target.user.to_owned(), host_keys };
        let guest = target.guest(&endpoint);
        match target.os.post_load(&mut job.part("post_load"), guest).await {
            Err(e) if matches!(e.kind, Kind::Deadline | Kind::Unreachable) => {
                Err(self.with_console(e, &console).await)
            }
            result => result,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is a fact of its own about one wait")]
    pub(super) async fn find_address(
        &self,
        job: &mut Job,
        domain: &str,
        console: &Utf8Path,
        nic: &Nic,
        source: AddressSource,
        hook: Option<String>,
        limit: Duration,
    ) -> vcl_job::Result<IpAddr> {
        job.step(self, &ADDRESS, domain.to_owned())
            .run(async |domain, cx| {
                let fixed = || {
                    nic.address.ok_or_else(|| {
                        vcl_job::Error::new(
                            Kind::Refused,
                            format!("network {} is static and the computer has no address", nic.network),
                        )
                    })
                };
                match source {
                    AddressSource::Static => return fixed(),
                    AddressSource::Hook => return ask_hook(&cx, hook.as_deref(), &domain, &nic.mac).await,
                    AddressSource::Lease | AddressSource::Agent => {}
                }
                let mut deadline = tokio::time::Instant::now() + limit;
                loop {
                    let asked = tokio::time::Instant::now();
                    let found = self.waiting(|| self.ask_address(&domain, &nic.mac, source)).await?;
                    if let Some(address) = found {
                        return Ok(address);
                    }
                    // The guest's time does not run while nobody can look at it.
                    deadline += asked.elapsed();
                    if tokio::time::Instant::now() >= deadline {
                        let (mac, network) = (&nic.mac, &nic.network);
                        let asked = if source == AddressSource::Agent { "guest agent" } else { "DHCP lease" };
                        let context = format!(
                            "no {asked} told an address for {mac} on network {network} within {} s",
                            limit.as_secs()
                        );
                        let error = vcl_job::Error::new(Kind::Deadline, context);
                        return Err(self.with_console(error, console).await);
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(Duration::from_millis(250)) => {} // why: a lease tells nobody of itself
                    }
                }
            })
            .await
    }

    async fn ask_address(&self, domain: &str, mac: &str, source: AddressSource) -> Result<Option<IpAddr>> {
        let (name, mac) = (domain.to_owned(), mac.to_owned());
        let what = format!("asking for the addresses of domain {domain}");
        let asked = self
            .connection
            .call(what, CALL, move |c| {
                let domain = c.lookup_domain_by_name(&name)?;
                let sources: &[_] = if source == AddressSource::Agent {
                    &[sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT]
                } else {
                    // A site's own DHCP server tells libvirt nothing; the host's ARP table does.
                    &[
                        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE,
                        sys::VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP,
                    ]
                };
                for source in sources {
                    let interfaces = domain.interface_addresses(*source, 0).unwrap_or_default();
                    let found = interfaces
                        .iter()
                        .filter(|i| i.hwaddr.as_deref().is_some_and(|h| h.eq_ignore_ascii_case(&mac)))
                        .flat_map(|i| i.addrs.iter())
                        .filter_map(|a| a.addr.parse::<IpAddr>().ok())
                        // A link-local address says that nobody gave it one.
                        .find(|a| {
                            !a.is_loopback() && !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local())
                        });
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            })
            .await;
        match asked {
            Ok(address) => Ok(address),
            Err(e) if e.kind == ErrorKind::Failed => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until the guest's ssh server speaks, and takes its host keys from the console when the guest prints them
    /// there, as one that vcld generalised does.
    pub(super) async fn host_keys(
        &self,
        job: &mut Job,
        console: &Utf8Path,
        address: IpAddr,
        port: u16,
        generalised: bool,
        limit: Duration,
    ) -> vcl_job::Result<HostKeys> {
        job.step(self, &HOST_KEYS, format!("{address}:{port}"))
            .run(async |at, cx| {
                let deadline = tokio::time::Instant::now() + limit;
                let mut last = "none yet".to_owned();
                // Each connection costs a booting guest a process of its ssh server's. One that tells its keys is not asked
                // before it has, but now and then, in case that it does not tell.
                let mut probe = tokio::time::Instant::now() + if generalised { SELDOM } else { Duration::ZERO };
                let mut told = Told::default();
                loop {
                    if generalised
                        && let Some(keys) = told.settled(self.printed(console).await)
                    {
                        return Ok(HostKeys { keys, source: KeySource::Console });
                    }
                    if tokio::time::Instant::now() >= probe {
                        match ssh_speaks(address, port).await {
                            Ok(()) => break,
                            Err(why) => last = why,
                        }
                        probe = tokio::time::Instant::now() + if generalised { SELDOM } else { Duration::ZERO };
                    }
                    if tokio::time::Instant::now() >= deadline {
                        let context = format!("no ssh server spoke at {at} within {} s (the last try: {last})", limit.as_secs());
                        let error = vcl_job::Error::new(Kind::Deadline, context);
                        return Err(self.with_console(error, console).await);
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(OFTEN) => {} // why: a booting guest announces itself to nobody
                    }
                }
                let said = self.waiting(|| self.read_console(console, 1024 * 1024)).await?;
                let said = said.ok_or_else(|| {
                    vcl_job::Error::new(Kind::Fatal, format!("the console {console} is gone"))
                })?;
                let keys = printed_keys(&said);
                if keys.is_empty() {
                    if generalised {
                        cx.event("no-host-keys", "the guest printed no host keys on its console; the first connection's key is taken");
                    }
                    return Ok(HostKeys::first_use());
                }
                Ok(HostKeys { keys, source: KeySource::Console })
            })
            .await
    }
}
