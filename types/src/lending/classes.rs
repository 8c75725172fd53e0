//! Classes, maintenance windows and hosts as they are asked for and shown.

use super::{Weekly, Wish};
use crate::{BackendName, ComputerName, ImageRef, ReservationId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A class as somebody asks for it: so many seats of an image at times of the week (VCL's block allocation). One of a name
/// that there is already is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassRequest {
    /// Its name: `GIS 101`.
    pub name: String,
    /// The image; without a revision the one in production when the seats are loaded.
    pub image: ImageRef,
    /// How many seats.
    pub seats: u32,
    /// Its times, on the site's clock: `Mon 10-12; Thu 14-16`.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub weekly: Weekly,
    /// Which computers will do.
    #[serde(default)]
    pub wish: Wish,
    /// The group whose members take the seats; without one, whoever may reserve the image.
    #[serde(default)]
    pub group: Option<String>,
    /// The first moment at which it may take place; now if not said.
    #[serde(default)]
    pub from: Option<DateTime<Utc>>,
    /// The moment at which it is over for good, as at the end of term; never if not said.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
    /// Whose it is, if not whoever asks.
    #[serde(default)]
    pub owner: Option<String>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassView {
    /// Its name.
    pub name: String,
    /// The image.
    pub image: ImageRef,
    /// How many seats.
    pub seats: u32,
    /// Its times, on the site's clock.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub weekly: Weekly,
    /// Which computers will do.
    pub wish: Wish,
    /// The group whose members take the seats.
    pub group: Option<String>,
    /// Whose it is.
    pub owner: String,
    /// From when on it takes place.
    pub from: DateTime<Utc>,
    /// Until when.
    pub until: Option<DateTime<Utc>>,
    /// Its times of the next two weeks, the earliest first.
    pub times: Vec<ClassTime>,
}

/// One time of a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ClassTime {
    /// When it begins.
    pub start: DateTime<Utc>,
    /// When it ends.
    pub end: DateTime<Utc>,
    /// Whether it was called off.
    pub called_off: bool,
    /// Seats that have a computer, or have one kept for them.
    pub booked: u32,
    /// Seats that somebody has taken.
    pub taken: u32,
    /// Seats that no computer was found for; it is tried again.
    pub missing: u32,
}

/// Which time of a class does not take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CallOff {
    /// When that time begins.
    pub start: DateTime<Utc>,
}

/// Computers that are to be out of use for some time. Who is on one of them finishes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MaintenanceRequest {
    /// These computers.
    #[serde(default)]
    pub computers: Vec<ComputerName>,
    /// And those that have all of these tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// When it begins; at once if not said.
    #[serde(default)]
    pub start: Option<DateTime<Utc>>,
    /// When it ends; if not said, when somebody ends it.
    #[serde(default)]
    pub end: Option<DateTime<Utc>>,
    /// Why: whoever is refused a computer for it reads this.
    pub reason: String,
}

/// A time in which computers are out of use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MaintenanceView {
    /// Its number.
    pub id: i64,
    /// The computers.
    pub computers: Vec<ComputerName>,
    /// When it begins.
    pub start: DateTime<Utc>,
    /// When it ends; `None` until somebody ends it.
    pub end: Option<DateTime<Utc>>,
    /// Why.
    pub reason: String,
    /// Who has said so.
    pub who: String,
    /// Reservations that still have one of its computers at its start, as things are.
    pub in_the_way: Vec<ReservationId>,
}

/// The host of a backend instance, as somebody sees it who wants to work on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostView {
    /// The backend instance.
    pub backend: BackendName,
    /// How many computers it has.
    pub computers: u32,
    /// Its computers that somebody has, or a job.
    pub busy: Vec<ComputerName>,
    /// Who has let it take nothing new; nobody when it takes everything.
    pub drained_by: Option<String>,
    /// Since when.
    pub drained_since: Option<DateTime<Utc>>,
    /// Why.
    pub reason: Option<String>,
}

/// Why a host is to take nothing new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DrainHost {
    /// Why: whoever is refused its computers reads this.
    #[serde(default)]
    pub reason: Option<String>,
}
