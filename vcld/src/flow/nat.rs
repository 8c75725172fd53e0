//! Public ports of a computer behind a NAT host: given out, opened, shut.
//!
//! A port is in the table before its rule is on the host, and leaves it after that. A host that does not answer fails a lending;
//! it does not hold up a return: the ports stay leaving then, and the reconciler (`crate::nat`) goes on.

use super::Running;
use crate::nat::in_words;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use tokio_util::sync::CancellationToken;
use vcl_job::{Error, Job, Kind, Result, Retry, Step, TRANSIENT, minutes, seconds};
use vcl_os::linux::nat::{self, Forward};
use vcl_queue::{Allotment, NatPort, WayIn};
use vcl_types::{Access, Computer, ComputerName, ConnectMethod, Endpoint, NatName, Reach, ReservationId};

/// A host that is started anew is there again within a minute or so.
const AWAY: Retry =
    Retry { times: 3, first: seconds(2), kinds: &[Kind::Transient, Kind::Busy, Kind::Unreachable] };

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Allotted {
    allotment: Allotment,
    /// They were the reservation's before this job, or stay so whatever becomes of it.
    keep: bool,
}
/// Gives out public ports. Undone their rules are gone and they are free, or leaving.
pub(super) const ALLOT: Step<Running, Allotted> =
    Step::new("allot public ports").retry(TRANSIENT).undo(|run, allotted| {
        Box::pin(async move {
            let Allotted { allotment: Allotment { reservation, computer, .. }, keep } = allotted;
            if keep {
                return Ok(());
            }
            match run.close_ports(reservation, &computer, &CancellationToken::new()).await {
                Err(e) if !e.kind.ends_the_job() => {
                    run.ports_left(reservation, &computer, &e);
                    Ok(())
                }
                other => other,
            }
        })
    });

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Opened {
    nat: NatName,
    forwards: Vec<Forward>,
    told: String,
}
/// Makes the rules on the host.
pub(super) const OPEN: Step<Running, Opened> =
    Step::new("open public ports").deadline(minutes(5)).retry(AWAY);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Closed {
    reservation: ReservationId,
    computer: ComputerName,
}
/// Takes the rules away and gives the ports back.
pub(super) const CLOSE: Step<Running, Closed> =
    Step::new("close public ports").deadline(minutes(3)).retry(TRANSIENT);

/// The port of the computer by which a method is reached from outside of it.
pub(crate) fn port_there(method: &ConnectMethod, endpoint: &Endpoint) -> u16 {
    // Where the guest's ssh is reached by another port, that is the way users come too.
    if method.port == 22 { endpoint.port } else { method.port }
}

impl Running {
    /// What is to be open in a guest: where connections come from its NAT host's address, that is let in, and the host sees to
    /// it that nobody else comes.
    pub(super) fn behind_nat(&self, computer: &ComputerName, access: &Access) -> Access {
        let mut access = access.clone();
        let inside = self.node.config.nats.of(computer).and_then(|(_, host)| host.inside);
        if let (Some(inside), Reach::Only(nets)) = (inside, &mut access.from) {
            nets.push(IpNet::from(IpAddr::from(inside)));
        }
        access
    }

    /// Has users come to a computer by ports of its NAT host, if it is behind one.
    pub(super) async fn open_ports(
        &self,
        job: &mut Job,
        (computer, endpoint): (&Computer, &Endpoint),
        access: &Access,
        (key, keep): (&str, bool),
    ) -> Result<()> {
        let Some((name, host)) = self.node.config.nats.of(&computer.name) else { return Ok(()) };
        let to = match endpoint.address {
            IpAddr::V4(to) if !to.is_loopback() => to,
            other => {
                let message = format!(
                    "{computer} is at {other}, where no NAT host reaches it: [nat.{name}] leads to IPv4 addresses of a network; \
                     take `nat` out of its entry"
                );
                return Err(Error::new(Kind::Refused, message));
            }
        };
        let way = |method: &ConnectMethod| WayIn {
            method: method.name.clone(),
            port: port_there(method, endpoint),
        };
        let allotment = Allotment {
            nat: name.clone(),
            address: host.address,
            ports: host.ports.clone(),
            reservation: access.reservation,
            computer: computer.name.clone(),
            to,
            ways: access.methods.iter().map(way).collect(),
        };
        let allotted = Allotted { allotment, keep };
        let ports: Vec<NatPort> = job
            .step(self, &ALLOT, allotted)
            .key(key)
            .run(async |allotted, _| {
                Ok(self.node.queue.allot_ports(&self.claim, &allotted.allotment).await?)
            })
            .await?;
        let forward = |port: &NatPort| Forward {
            port: port.port,
            to: port.to,
            to_port: port.to_port,
            from: access.from.clone(),
            inside: host.inside,
        };
        let forwards = ports.iter().map(forward).collect();
        let opened = Opened { nat: name.clone(), forwards, told: in_words(&access.from) };
        job.step(self, &OPEN, opened)
            .key(key)
            .run(async |opened, cx| {
                cx.check().await?;
                // The host did not answer when they were to go: nobody who had the computer before comes to who has it now.
                let left = |port: &&NatPort| {
                    port.nat == opened.nat && port.computer == computer.name && port.leaving.is_some()
                };
                let there = self.node.queue.nat_ports().await?;
                let shut: Vec<u16> = there.iter().filter(left).map(|port| port.port).collect();
                let changed =
                    nat::set(self.node.gates.host(&opened.nat)?, &opened.forwards, &shut, cx.token()).await?;
                let ports: Vec<u16> = opened.forwards.iter().map(|forward| forward.port).collect();
                self.node.queue.ports_told(&self.claim, &opened.nat, &ports, &opened.told).await?;
                Ok(changed)
            })
            .await?;
        Ok(())
    }

    /// Shuts the ports of a reservation that ends. A host that does not answer holds nothing up.
    pub(super) async fn shut_nat(
        &self,
        job: &mut Job,
        computer: &ComputerName,
        reservation: ReservationId,
    ) -> Result<()> {
        let closed = Closed { reservation, computer: computer.clone() };
        let done = job
            .step(self, &CLOSE, closed)
            .attempt(async |closed, cx| {
                cx.check().await?;
                self.close_ports(closed.reservation, &closed.computer, cx.token()).await
            })
            .await?;
        if let Err(e) = done {
            self.ports_left(reservation, computer, &e);
        }
        Ok(())
    }

    async fn close_ports(
        &self,
        reservation: ReservationId,
        computer: &ComputerName,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let leaving = self.node.queue.leave_ports(Some(&self.claim), reservation, computer).await?;
        self.node.shut_ports(&leaving, cancel).await
    }

    fn ports_left(&self, reservation: ReservationId, computer: &ComputerName, why: &Error) {
        let message = format!(
            "the public ports of reservation {reservation} are given to nobody until their rules are gone: {}",
            why.failure()
        );
        self.node.queue.post_event("nat-rules-left", Some(self.job()), Some(computer), &message);
        self.node.gates.nudge();
    }
}
