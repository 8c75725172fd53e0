//! From power to a guest that is ready: its address, its ssh server, `post_load`.
//!
//! Nothing here needs VMware Tools but an address of the kind `agent`, which is what these tell. There is no console to
//! read host keys from: the first connection's key is taken, and pinned from then on.

use super::dom::Element;
use super::properties::Object;
use super::request::Reference;
use super::steps::{LONG, PATIENT};
use super::{Site, Watcher};
use crate::reach::ask_hook;
use crate::{ErrorKind, Result, Target, ssh_speaks};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use vcl_job::{Job, Kind, Step};
use vcl_types::{AddressSource, Endpoint, HostKeys};

pub(super) const ADDRESS: Step<Site, String> = Step::new("find address").deadline(LONG).retry(PATIENT);
pub(super) const WAIT_SSH: Step<Site, String> = Step::new("wait for ssh").deadline(LONG);

/// What a guest's tools tell: all of its cards with their addresses, and the address that they take for the first.
const NET: &str = "guest.net";
const FIRST: &str = "guest.ipAddress";

/// The address that a guest's tools tell of the card of that MAC address: the guest may have others, such as a tunnel's or
/// a bridge's. Where they tell no cards it is the first address, if the guest has one card `alone`.
fn told(seen: &Object, mac: &str, alone: bool) -> Option<IpAddr> {
    let first = seen.text(FIRST).and_then(usable);
    let cards = seen.get(NET).map(|net| net.children.as_slice()).unwrap_or_default();
    if cards.is_empty() {
        return first.filter(|_| alone);
    }
    let of = |card: &&Element| card.text_at("macAddress").is_some_and(|m| m.trim().eq_ignore_ascii_case(mac));
    let of = cards.iter().filter(of);
    let texts = of.flat_map(|card| {
        let configured = card.child("ipConfig").into_iter().flat_map(|c| c.all("ipAddress"));
        card.all("ipAddress")
            .map(|a| a.text.as_str())
            .chain(configured.filter_map(|a| a.text_at("ipAddress")))
    });
    let found: Vec<IpAddr> = texts.filter_map(usable).collect();
    let first = first.filter(|first| found.contains(first));
    first.or_else(|| found.iter().find(|a| a.is_ipv4()).or(found.first()).copied())
}

/// An address at which a guest can be reached. A link-local one says that nobody gave it another.
fn usable(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.trim().parse().ok()?;
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (!local && !address.is_loopback() && !address.is_unspecified()).then_some(address)
}

impl Site {
    /// Turns a machine on and waits until its guest is ready.
    pub(crate) async fn boot(
        &self,
        job: &mut Job,
        target: Target<'_>,
        machine: &str,
    ) -> vcl_job::Result<Endpoint> {
        self.start_step(job, machine).await?;
        let address = self.find_address(job, &target, machine).await?;
        self.wait_ssh(job, address, target.limits.boot).await?;
        let endpoint =
            Endpoint { address, port: 22, user: target.user.to_owned(), host_keys: HostKeys::first_use() };
        target.os.post_load(&mut job.part("post_load"), target.guest(&endpoint)).await
    }

    async fn find_address(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        machine: &str,
    ) -> vcl_job::Result<IpAddr> {
        let refuse = |message: String| vcl_job::Error::new(Kind::Refused, message);
        let Some(nic) = target.computer.management() else {
            return Err(refuse(format!(
                "{} has no management interface; give it a network",
                target.computer
            )));
        };
        let network = self.network(&nic.network)?;
        job.step(self, &ADDRESS, machine.to_owned())
            .run(async |machine, cx| match network.address {
                AddressSource::Static => nic.address.ok_or_else(|| {
                    refuse(format!("network {} is static and the computer has no address", nic.network))
                }),
                AddressSource::Hook => ask_hook(&cx, network.hook.as_deref(), &machine, &nic.mac).await,
                AddressSource::Lease => Err(refuse(lease(nic.network.as_str()))),
                AddressSource::Agent => {
                    let reference = self.must(&machine).await?.reference;
                    let limit = target.limits.boot;
                    let alone = target.computer.nics.len() == 1;
                    let told = |seen: &Object| told(seen, &nic.mac, alone);
                    let watcher = Watcher::of(&cx);
                    let found = self.until(&reference, &[NET, FIRST], limit, &watcher, told).await?;
                    found.ok_or_else(|| {
                        let limit = limit.as_secs();
                        let message = format!(
                            "VMware Tools told no address of {machine} within {limit} s; install open-vm-tools in the image, \
                             or let network {} be static or ask a hook",
                            nic.network
                        );
                        vcl_job::Error::new(Kind::Deadline, message)
                    })
                }
            })
            .await
    }

    async fn wait_ssh(&self, job: &mut Job, address: IpAddr, limit: Duration) -> vcl_job::Result<()> {
        job.step(self, &WAIT_SSH, format!("{address}:22"))
            .run(async |at, cx| {
                let deadline = tokio::time::Instant::now() + limit;
                loop {
                    let Err(why) = ssh_speaks(address, 22).await else { return Ok(()) };
                    if tokio::time::Instant::now() >= deadline {
                        let limit = limit.as_secs();
                        let message = format!(
                            "no ssh server spoke at {at} within {limit} s (the last try: {why}); look at the machine's console at {}",
                            self.client.address()
                        );
                        return Err(vcl_job::Error::new(Kind::Deadline, message));
                    }
                    tokio::select! {
                        () = cx.stopped() => return Err(cx.stop_error()),
                        () = tokio::time::sleep(Duration::from_millis(150)) => {} // why: a booting guest announces itself to nobody
                    }
                }
            })
            .await
    }

    /// Watches an object until its properties say what is waited for; `None` when they do not within the limit. A server
    /// that is away meanwhile is waited for.
    pub(crate) async fn until<T>(
        &self,
        object: &Reference,
        paths: &[&str],
        limit: Duration,
        watcher: &Watcher,
        found: impl Fn(&Object) -> Option<T>,
    ) -> Result<Option<T>> {
        let deadline = tokio::time::Instant::now() + limit;
        let mut watch = self.client.watch(object, paths);
        let mut seen = Object { reference: object.clone(), properties: BTreeMap::new() };
        let outcome = loop {
            let next = tokio::select! {
                next = watch.next() => next,
                () = watcher.stop.cancelled() => break Err(super::task::stopped("waiting for a machine")),
                () = tokio::time::sleep_until(deadline) => break Ok(None),
            };
            match next {
                Ok(changed) => {
                    for (name, value) in changed {
                        match value {
                            Some(value) => seen.properties.insert(name, value),
                            None => seen.properties.remove(&name),
                        };
                    }
                    if let Some(found) = found(&seen) {
                        break Ok(Some(found));
                    }
                }
                Err(e) if matches!(e.kind, ErrorKind::Unreachable | ErrorKind::Deadline) => {
                    tokio::select! {
                        () = watcher.stop.cancelled() => {}
                        () = tokio::time::sleep(Duration::from_secs(1)) => {} // why: nobody tells us when it is back
                    }
                }
                Err(e) => break Err(e),
            }
        };
        watch.close().await;
        outcome
    }
}

/// Why an address cannot be found that way.
pub(super) fn lease(network: &str) -> String {
    format!(
        "network {network}: a VMware server knows no DHCP leases; write address = \"static\", \"hook\" or \"agent\" \
         in [network.{network}]"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(net: &str, first: &str) -> Object {
        let (reference, mut properties) = (Reference::new("VirtualMachine", "vm-1"), BTreeMap::new());
        for (name, text) in [(NET, net), (FIRST, first)].into_iter().filter(|(_, text)| !text.is_empty()) {
            properties.insert(name.to_owned(), Element::parse(&format!("<val>{text}</val>")).unwrap());
        }
        Object { reference, properties }
    }
    fn card(mac: &str, addresses: &str) -> String {
        let addresses: String =
            addresses.split_whitespace().map(|a| format!("<ipAddress>{a}</ipAddress>")).collect();
        format!("<GuestNicInfo>{addresses}<macAddress>{mac}</macAddress></GuestNicInfo>")
    }

    #[test]
    fn an_address_is_that_of_the_card_and_can_be_reached() {
        const MAC: &str = "02:00:00:AB:01:02";
        let other = card("02:42:00:00:00:01", "172.17.0.1");
        let told = |net: &str, first: &str, alone| {
            told(&seen(net, first), "02:00:00:ab:01:02", alone).map(|a| a.to_string())
        };
        let mine = |addresses: &str| other.clone() + &card(MAC, addresses);
        for (addresses, first, expected) in [
            ("10.0.0.5", "172.17.0.1", Some("10.0.0.5")),
            ("fe80::1 2001:db8::5 10.0.0.5", "", Some("10.0.0.5")),
            ("2001:db8::5 10.0.0.5", "2001:db8::5", Some("2001:db8::5")),
            ("fe80::1 169.254.3.4", "169.254.3.4", None),
            ("", "172.17.0.1", None),
        ] {
            assert_eq!(told(&mine(addresses), first, true).as_deref(), expected, "{addresses} {first}");
        }
        let configured = "<GuestNicInfo><macAddress>02:00:00:ab:01:02</macAddress><ipConfig>\
             <ipAddress><ipAddress>10.0.0.6</ipAddress><prefixLength>24</prefixLength></ipAddress></ipConfig></GuestNicInfo>";
        assert_eq!(told(configured, "", false).as_deref(), Some("10.0.0.6"));
        assert_eq!(told("", "10.0.0.7", true).as_deref(), Some("10.0.0.7"));
        assert_eq!(told("", "10.0.0.7", false), None);
        assert_eq!(told("", "169.254.0.7", true), None);
    }
}
