//! Public ports of NAT hosts: which are given out, to which reservation, and where they lead.
//!
//! A port is given out before its rule is made and free again when its rule is known to be gone, so that no port is two
//! reservations' at once. In between it may be leaving: its reservation needs it no more, and whoever reaches the host takes its
//! rule away. A host that did not answer when its reservation ended has the rule until somebody reaches it, and the rule leads to
//! the computer, whoever has that by then.

use crate::database::{Db, DbRow, now, parsed, time};
use crate::engine::{exclusive, number};
use crate::{Claim, Error, Kind, Queue, Result, guard};
use chrono::{DateTime, Utc};
use futures::{FutureExt, TryFutureExt};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use vcl_types::{ComputerName, NatName, PortRanges, ReservationId};

/// All that is given out is for TCP.
const PROTOCOL: &str = "tcp";

/// A way to a computer that needs a public port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayIn {
    /// The connect method.
    pub method: String,
    /// The computer's port.
    pub port: u16,
}

/// What ports are wanted for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allotment {
    /// The host.
    pub nat: NatName,
    /// What users come to there.
    pub address: Ipv4Addr,
    /// The ports that it gives out.
    pub ports: PortRanges,
    /// For whom.
    pub reservation: ReservationId,
    /// Where they lead.
    pub computer: ComputerName,
    /// The computer's address.
    pub to: Ipv4Addr,
    /// One port is given for each of these.
    pub ways: Vec<WayIn>,
}

/// A port that is given out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatPort {
    /// The host.
    pub nat: NatName,
    /// The port.
    pub port: u16,
    /// What users come to.
    pub address: Ipv4Addr,
    /// For whom.
    pub reservation: ReservationId,
    /// Where it leads.
    pub computer: ComputerName,
    /// The connect method.
    pub method: String,
    /// The computer's address.
    pub to: Ipv4Addr,
    /// The computer's port.
    pub to_port: u16,
    /// From where the host was told to let in; `None` before it was told.
    pub told: Option<String>,
    /// Since when.
    pub since: DateTime<Utc>,
    /// Since when its rule is to go.
    pub leaving: Option<DateTime<Utc>>,
}

impl NatPort {
    fn read(row: &DbRow) -> Result<Self> {
        Ok(Self {
            nat: parsed(row, "nat")?,
            port: number(row, "port")?,
            address: parsed(row, "address")?,
            reservation: ReservationId(row.try_get("reservation")?),
            computer: parsed(row, "computer")?,
            method: row.try_get("method")?,
            to: parsed(row, "to_address")?,
            to_port: number(row, "to_port")?,
            told: row.try_get("told")?,
            since: time(row.try_get("since")?),
            leaving: row.try_get::<Option<i64>, _>("leaving_at")?.map(time),
        })
    }
}

impl Queue {
    /// Gives a reservation, whose computer the job holds, a public port for each of its ways. It keeps those that it has; what
    /// it has of another host is leaving.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`]; [`Kind::Refused`] when the job does not hold the computer; [`Kind::Busy`] when not enough ports
    /// are free, naming the range.
    pub async fn allot_ports(&self, claim: &Claim, allotment: &Allotment) -> Result<Vec<NatPort>> {
        let (claim, wanted) = (claim.clone(), allotment.clone());
        self.write(move |db| {
            let (claim, wanted) = (claim.clone(), wanted.clone());
            Box::pin(async move {
                exclusive(&mut *db).await?;
                guard::holding(&mut *db, &claim, &wanted.computer).await?;
                allot(db, &wanted).await
            })
        })
        .await
    }

    /// Notes from where the hosts were told to let in by these ports.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`].
    pub async fn ports_told(&self, claim: &Claim, nat: &NatName, ports: &[u16], told: &str) -> Result<()> {
        let (claim, nat, ports, told) = (claim.clone(), nat.clone(), ports.to_vec(), told.to_owned());
        self.write(move |db| {
            let (claim, nat, ports, told) = (claim.clone(), nat.clone(), ports.clone(), told.clone());
            Box::pin(async move {
                guard::check(&mut *db, &claim).await?;
                for port in ports {
                    let set = sqlx::query("UPDATE nat_ports SET told = ? WHERE nat = ? AND port = ?");
                    set.bind(&told).bind(nat.as_str()).bind(i64::from(port)).execute(&mut *db).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Says that the rules of a reservation's ports that lead to this computer are to go, and answers these ports. With a
    /// claim only while that is good.
    ///
    /// # Errors
    /// [`Kind::LeaseLost`].
    pub async fn leave_ports(
        &self,
        claim: Option<&Claim>,
        id: ReservationId,
        computer: &ComputerName,
    ) -> Result<Vec<NatPort>> {
        let (claim, computer) = (claim.cloned(), computer.clone());
        self.write(move |db| {
            let (claim, computer) = (claim.clone(), computer.clone());
            Box::pin(async move {
                if let Some(claim) = &claim {
                    guard::check(&mut *db, claim).await?;
                }
                let set = sqlx::query(
                    "UPDATE nat_ports SET leaving_at = ? WHERE reservation = ? AND computer = ? AND leaving_at IS NULL",
                );
                set.bind(now()).bind(id.0).bind(computer.as_str()).execute(&mut *db).await?;
                let mut ports = of(db, id).await?;
                ports.retain(|port| port.computer == computer);
                Ok(ports)
            })
        })
        .await
    }

    /// Gives back ports that were leaving and whose rules are known to be gone.
    ///
    /// # Errors
    /// When the database cannot be used.
    pub async fn free_ports(&self, gone: &[NatPort]) -> Result<()> {
        let gone = gone.to_vec();
        let queue = self.clone();
        // Somebody may wait for one.
        let after = move |()| queue.wake();
        self.write_map(
            move |db| {
                let gone = gone.clone();
                Box::pin(async move {
                    for port in gone {
                        let free = sqlx::query(
                            "DELETE FROM nat_ports WHERE nat = ? AND port = ? AND reservation = ? AND leaving_at IS NOT NULL",
                        );
                        let free = free.bind(port.nat.as_str()).bind(i64::from(port.port));
                        free.bind(port.reservation.0).execute(&mut *db).await?;
                    }
                    Ok(())
                })
            },
            after,
        )
        .await
    }

    /// The ports by which users of a reservation come, without those that are leaving.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn ports_of(&self, id: ReservationId) -> Result<Vec<NatPort>> {
        let mut ports = self.read(move |db| of(db, id).boxed()).await?;
        ports.retain(|port| port.leaving.is_none());
        Ok(ports)
    }

    /// Every port that is given out, those that are leaving included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn nat_ports(&self) -> Result<Vec<NatPort>> {
        self.read(|db| {
            let rows = sqlx::query("SELECT * FROM nat_ports ORDER BY nat, port").fetch_all(db);
            rows.map_err(Error::from).map(|rows| rows?.iter().map(NatPort::read).collect()).boxed()
        })
        .await
    }
}

async fn of(db: &mut Db, id: ReservationId) -> Result<Vec<NatPort>> {
    let rows = sqlx::query("SELECT * FROM nat_ports WHERE reservation = ? ORDER BY nat, port");
    rows.bind(id.0).fetch_all(db).await?.iter().map(NatPort::read).collect()
}

async fn allot(db: &mut Db, wanted: &Allotment) -> Result<Vec<NatPort>> {
    let (id, nat) = (wanted.reservation, wanted.nat.as_str());
    let same = |port: &NatPort| {
        port.nat == wanted.nat && port.address == wanted.address && port.computer == wanted.computer
    };
    let (own, others): (Vec<_>, Vec<_>) =
        of(&mut *db, id).await?.into_iter().filter(|port| port.leaving.is_none()).partition(same);
    for other in others {
        let leave = sqlx::query("UPDATE nat_ports SET leaving_at = ? WHERE nat = ? AND port = ?");
        let leave = leave.bind(now()).bind(other.nat.as_str()).bind(i64::from(other.port));
        leave.execute(&mut *db).await?;
    }
    // Where it leads may have changed since: it was loaded anew.
    for way in &wanted.ways {
        let move_on = sqlx::query(
            "UPDATE nat_ports SET to_address = ?, to_port = ? WHERE nat = ? AND reservation = ? AND method = ? \
             AND leaving_at IS NULL",
        );
        let move_on = move_on.bind(wanted.to.to_string()).bind(i64::from(way.port)).bind(nat);
        move_on.bind(id.0).bind(&way.method).execute(&mut *db).await?;
    }
    let taken = sqlx::query_scalar::<_, i64>("SELECT port FROM nat_ports WHERE nat = ?").bind(nat);
    let mut taken: BTreeSet<i64> = taken.fetch_all(&mut *db).await?.into_iter().collect();
    let count = wanted.ports.count();
    // Another place for each, so that a port that was just somebody's stays free for as long as can be.
    let begin = u32::try_from(id.0.rem_euclid(i64::from(count))).unwrap_or(0);
    let mut free = (0..count)
        .filter_map(|n| wanted.ports.at((begin + n) % count))
        .filter(|port| taken.insert(i64::from(*port)))
        .collect::<Vec<_>>()
        .into_iter();
    for way in wanted.ways.iter().filter(|way| own.iter().all(|port| port.method != way.method)) {
        let Some(port) = free.next() else {
            let message = format!(
                "NAT host {nat} has no port free: all {count} of its ports {} are given out; give [nat.{nat}] more of them",
                wanted.ports
            );
            return Err(Error::new(Kind::Busy, message));
        };
        let insert = sqlx::query(
            "INSERT INTO nat_ports (nat, port, protocol, address, reservation, computer, method, to_address, to_port, \
             since) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        );
        let insert = insert.bind(nat).bind(i64::from(port)).bind(PROTOCOL).bind(wanted.address.to_string());
        let insert = insert.bind(id.0).bind(wanted.computer.as_str()).bind(&way.method);
        let insert = insert.bind(wanted.to.to_string()).bind(i64::from(way.port)).bind(now());
        insert.execute(&mut *db).await?;
    }
    let mut all = of(db, id).await?;
    all.retain(|port| port.leaving.is_none() && wanted.ways.iter().any(|way| way.method == port.method));
    Ok(all)
}
