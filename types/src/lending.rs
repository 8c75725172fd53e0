//! Reservations as they are asked for and shown, and the times that rule them.
//!
//! What a reservation may become is [`state::reservation`](crate::state::reservation)'s; when something is due is
//! [`agenda`]'s. Both are pure: whoever asks brings the time along.

mod agenda;
mod classes;
mod weekly;

pub use agenda::{Due, Moments, agenda, due};
pub use classes::{
    CallOff, ClassRequest, ClassTime, ClassView, DrainHost, HostView, MaintenanceRequest, MaintenanceView,
};
pub use weekly::{InvalidWeekly, Weekly};

use crate::state::reservation;
use crate::{ByteSize, ComputerName, ImageRef, ManifestName, ReservationId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

crate::state::words! {
    /// What a reservation is for, which decides what times it has.
    Purpose as ReservationPurpose {
        /// A load that an admin asked for: it has no end, and nobody is watched.
        Direct = "direct",
        /// Somebody works on the computer.
        Use = "use",
        /// A machine that runs for long: it may have no end, and nobody has to be connected to it.
        Server = "server",
        /// Somebody builds an image on it; at the end it is captured, unless that was done.
        Imaging = "imaging",
        /// A seat of a class, which a member of it takes.
        Seat = "seat",
    }
}

/// Which computers will do. An empty one takes any.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Wish {
    /// This one and no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computer: Option<ComputerName>,
    /// At least so many processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// At least so much memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// One with all of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// One with at least one of these tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<String>,
    /// At least so many of each of these devices: `{ "gpu": 1 }`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub devices: BTreeMap<String, u32>,
}

/// The times of a reservation, settled when it is asked for: the image's and the group's, or else the site's. VCL's
/// names and defaults stand beside them. Seconds throughout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Times {
    /// How long a ready computer waits for its user to say that they come (`acknowledgetimeout`, 900).
    pub acknowledge_s: u64,
    /// How long it then waits for a connection (`initialconnecttimeout`, 900).
    pub connect_s: u64,
    /// How long it waits for its user to come back (`reconnecttimeout`, 900).
    pub inactivity_s: u64,
    /// How long before the end its user is told of it, longest first (two weeks, one week, two days, one day, 600, 300).
    pub notices_s: Vec<u64>,
    /// Reservations of at least this length are not ended for want of a connection (`ignore_connections_gte`, 86400).
    pub unwatched_from_s: u64,
    /// How often it is looked who is connected (`general_inuse_check`, 300).
    pub check_s: u64,
    /// How long before its start the image is put on a computer, at the earliest (2100).
    pub ahead_s: u64,
    /// The length of a reservation that names none.
    pub length_s: u64,
    /// The longest that may be asked for, extensions included.
    pub longest_s: u64,
}

impl Default for Times {
    fn default() -> Self {
        let day = 86_400;
        Self {
            acknowledge_s: 900,
            connect_s: 900,
            inactivity_s: 900,
            notices_s: vec![14 * day, 7 * day, 2 * day, day, 600, 300],
            unwatched_from_s: day,
            check_s: 300,
            ahead_s: 2100,
            length_s: 4 * 3600,
            longest_s: 30 * day,
        }
    }
}

/// A reservation as somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationRequest {
    /// The image; without a revision the one in production, or else the newest.
    pub image: ImageRef,
    /// Which computers will do.
    #[serde(default)]
    pub wish: Wish,
    /// `use`, `server` or `imaging`.
    #[serde(default = "usual_purpose")]
    pub purpose: Purpose,
    /// When it begins; at once if not said.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    /// How long it is to last, in seconds; a server's may be left out for no end.
    #[serde(default)]
    pub length_s: Option<u64>,
    /// For whom, if not for whoever asks.
    #[serde(default)]
    pub owner: Option<String>,
    /// The group whose times and limits it is to have, one that its owner is in.
    #[serde(default)]
    pub group: Option<String>,
    /// The address its user will come from: only that one is let in.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub from: Option<IpAddr>,
    /// Other accounts that are to be let in beside the owner's, by user names; for a server.
    #[serde(default)]
    pub with: Vec<String>,
    /// ssh public keys that may log in to the owner's account, beside those that are known of them.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether its user may become the administrator of the machine.
    #[serde(default)]
    pub sudo: bool,
    /// Given to the machine as a file when it is lent (VCL's `userdata`); at most 64 KiB.
    #[serde(default)]
    pub user_data: Option<String>,
    /// The manifest, or playbook, by which the computer is configured before its user gets it, after those of the image and of
    /// the computer's tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configure: Option<ManifestName>,
    /// Whether all of it is only tried: which computer it would be, or how long it would wait.
    #[serde(default)]
    pub dry_run: bool,
}

fn usual_purpose() -> Purpose {
    Purpose::Use
}

/// How long something that waits has to wait, by what happened in the past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Waiting {
    /// Its place in the queue, from 1.
    pub position: u64,
    /// One in ten waited less than this, in seconds; `None` where nothing is known.
    pub p10_s: Option<u64>,
    /// Nine in ten waited less than this, in seconds.
    pub p90_s: Option<u64>,
    /// What it waits for, and what could be had at once instead: a limit, or a computer that is kept for somebody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationView {
    /// Its number.
    pub id: ReservationId,
    /// Whose it is.
    pub owner: String,
    /// The group whose times and limits it has.
    pub group: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// The class it is a seat of.
    pub class: Option<String>,
    /// Its computer, when it has one.
    pub computer: Option<ComputerName>,
    /// The computer that is kept for it.
    pub booked: Option<ComputerName>,
    /// The image.
    pub image: ImageRef,
    /// Where it is.
    pub state: reservation::State,
    /// When it was asked for.
    pub since: DateTime<Utc>,
    /// When it begins, or began.
    pub start: Option<DateTime<Utc>>,
    /// When it ends; `None` for one without an end, and for one that waits.
    pub end: Option<DateTime<Utc>>,
    /// How long it is to last, in seconds.
    pub length_s: Option<u64>,
    /// When its computer became usable.
    pub usable: Option<DateTime<Utc>>,
    /// When its user said that they come.
    pub acknowledged: Option<DateTime<Utc>>,
    /// When its user was first connected.
    pub connected: Option<DateTime<Utc>>,
    /// When its user was last seen connected.
    pub seen: Option<DateTime<Utc>>,
    /// Where its user comes from.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub from: Option<IpAddr>,
    /// How long it has to wait, while it is queued.
    pub waiting: Option<Waiting>,
    /// The job that works for it, or did last.
    #[serde(default)]
    pub job: Option<crate::JobId>,
    /// How to get to it, while it can be used: `ssh alice@10.0.0.11`.
    pub connect: Vec<String>,
    /// When it ended.
    pub ended: Option<DateTime<Utc>>,
    /// Why it ended.
    pub ended_because: Option<String>,
}

/// What came of asking for a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Grabbed {
    /// The reservation; `None` when it was only tried.
    pub reservation: Option<ReservationView>,
    /// The computer it gets, where one is free, and why that one.
    pub choice: Option<Choice>,
    /// How long it has to wait, where none is.
    pub waiting: Option<Waiting>,
}

/// A computer that was chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Choice {
    /// The computer.
    pub computer: ComputerName,
    /// Whether it holds the image already, so that it is usable at once.
    pub warm: bool,
    /// Why this one.
    pub because: String,
}

/// A wish to keep a computer longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Extend {
    /// By so many seconds beyond its present end.
    #[serde(default)]
    pub by_s: Option<u64>,
    /// Until then.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
}

/// Somebody who comes to the computer of their reservation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Connect {
    /// Where from, if not where the request comes from.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub from: Option<IpAddr>,
    /// Whether a password is wanted. It is made anew each time, shown this once and stored nowhere.
    #[serde(default)]
    pub password: bool,
}

/// How to get to the computer of a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Connection {
    /// The reservation.
    pub reservation: ReservationView,
    /// What is connected to: its machine's address, or that of the NAT host before it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub address: IpAddr,
    /// The account.
    pub account: String,
    /// Each way with its port as it is reached from outside.
    pub methods: Vec<Way>,
    /// Where users open it in a browser, where the site has a Guacamole that knows one of the ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guacamole: Option<String>,
    /// The ssh host keys of the machine, as in a `known_hosts` file, where they are known.
    pub host_keys: Vec<String>,
    /// The password that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

impl Connection {
    /// A file for programs that show a remote desktop, where it can be reached so. There is no password in it.
    #[must_use]
    pub fn rdp(&self) -> Option<String> {
        let way = self.methods.iter().find(|way| way.method == "rdp")?;
        let address = std::net::SocketAddr::new(self.address, way.port);
        Some(format!(
            "full address:s:{address}\r\nusername:s:{}\r\nprompt for credentials:i:1\r\nauthentication level:i:2\r\n",
            self.account
        ))
    }
}

/// A way to a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Way {
    /// `ssh`, `rdp`, `vnc` or a word of the site's.
    pub method: String,
    /// The port.
    pub port: u16,
}

/// A wish to change who is let in on a computer that is lent, or will be. What is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AccessChange {
    /// The other users who have an account, all of them.
    #[serde(default)]
    pub with: Option<Vec<String>>,
    /// The keys that may log in to the owner's account beside those that are known of them, all of them.
    #[serde(default)]
    pub keys: Option<Vec<String>>,
}

/// A wish to start a computer anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reboot {
    /// By its reset button, instead of asking its operating system.
    #[serde(default)]
    pub hard: bool,
}

/// A wish to give a computer back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Release {
    /// Do not capture it, although it is for imaging.
    #[serde(default)]
    pub discard: bool,
}
