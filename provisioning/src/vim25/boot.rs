//! From power to a guest that is ready: its address, its ssh server, `post_load`.
//!
//! Nothing here needs VMware Tools but an address of the kind `agent`, which is what these tell. There is no console to
//! read host keys from: the first connection's key is taken, and pinned from then on.

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
                    let told = |seen: &Object| {
                        let address: IpAddr = seen.text("guest.ipAddress")?.trim().parse().ok()?;
                        // A link-local address says that nobody gave it one.
                        let local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                        (!local).then_some(address)
                    };
                    let watcher = Watcher::of(&cx);
                    let found = self.until(&reference, &["guest.ipAddress"], limit, &watcher, told).await?;
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
