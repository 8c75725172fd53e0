//! Wire types about what goes wrong: evidence of failed jobs, why something waits, what was left over.

use crate::api::Thing;
use crate::{ByteSize, ComputerName, JobId, ReservationId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A piece of evidence that was kept of a job that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct EvidenceView {
    /// Its name, by which it is shown: `console.txt`, `screen.png`.
    pub name: String,
    /// What it is, such as `text/plain` or `image/png`.
    pub media_type: String,
    /// How large it is.
    pub size: ByteSize,
    /// When it was taken.
    pub taken: DateTime<Utc>,
    /// In which attempt of the job.
    pub attempt: u32,
}

/// How long something usually takes, by past runs of the same kind on the same backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Usual {
    /// Half of the runs took no longer, in milliseconds.
    pub p50_ms: u64,
    /// Nineteen of twenty took no longer, in milliseconds.
    pub p95_ms: u64,
    /// How many runs that was learned from.
    pub runs: u32,
}

/// Why a job, a computer or a reservation is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Why {
    /// What was asked about, such as `job 12` or `computer gis-01`.
    pub about: String,
    /// All of it in one sentence.
    pub sentence: String,
    /// What it waits for; nothing when it does not wait.
    pub waits_for: Option<String>,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// How long that usually takes, where enough is known.
    pub usual: Option<Usual>,
    /// What comes next.
    pub next: Option<String>,
    /// What a person can do now, each a command line or a short sentence.
    pub ways: Vec<String>,
    /// The job it hangs on, where it is one.
    pub job: Option<JobId>,
}

/// How the records and the world differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Mismatch {
    /// It is there, and nothing needs it.
    LeftOver,
    /// It should be there, and is not.
    Missing,
}

/// That somebody wants to hear no more of an orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Ignored {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: DateTime<Utc>,
}

/// Something that is there and belongs to nobody, or belongs to somebody and is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrphanView {
    /// What it is called in commands: `PLACE/KIND/NAME`, as in `kvm1/domain/vcl-gis-01`.
    pub id: String,
    /// The backend instance, `library` or `node`.
    pub place: String,
    /// The thing itself.
    pub thing: Thing,
    /// How it differs from the records.
    pub mismatch: Mismatch,
    /// Why nothing needs it, or what needs it.
    pub why: String,
    /// When it was first seen so.
    pub since: DateTime<Utc>,
    /// Whether somebody wants to hear no more of it.
    pub ignored: Option<Ignored>,
}

/// What was found when the records were compared with the world.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Orphans {
    /// What differs.
    pub found: Vec<OrphanView>,
    /// Places that could not be looked at, and why.
    pub unseen: Vec<String>,
}

/// What is to become of an orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "wish")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum OrphanWish {
    /// The computer that lost its record of it gets it back.
    Adopt,
    /// It is removed.
    Delete,
    /// Nobody wants to hear of it any more.
    Ignore {
        /// Why.
        reason: String,
    },
}

/// A wish about one orphan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrphanRequest {
    /// Which, as [`OrphanView::id`].
    pub id: String,
    /// What is to become of it.
    #[serde(flatten)]
    pub wish: OrphanWish,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// Something that is done at once and is no job of its own, for a dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Action {
    /// Call a job off.
    Cancel {
        /// The job.
        job: JobId,
    },
    /// Try it again.
    Retry {
        /// The job.
        job: JobId,
    },
    /// Take a stuck job back.
    Undo {
        /// The job.
        job: JobId,
    },
    /// Give a stuck job up.
    Abandon {
        /// The job.
        job: JobId,
    },
    /// Change a computer's power.
    Power {
        /// The computer.
        computer: ComputerName,
        /// What is wanted.
        power: crate::api::PowerAction,
    },
}

/// What can be asked about with `why`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// A job.
    Job(JobId),
    /// A computer.
    Computer(ComputerName),
    /// A reservation, written `reservation:3`.
    Reservation(ReservationId),
}

impl std::str::FromStr for Asked {
    type Err = String;
    /// A number is a job, `reservation:N` a reservation, anything else a computer.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_prefix("reservation:") {
            let number = number.parse().map_err(|_| format!("`{text}` has no number: reservation:3"))?;
            return Ok(Self::Reservation(ReservationId(number)));
        }
        if text.chars().all(|c| c.is_ascii_digit()) {
            let number = text.parse().map_err(|_| format!("`{text}` is no number of a job"))?;
            return Ok(Self::Job(JobId(number)));
        }
        text.parse()
            .map(Self::Computer)
            .map_err(|e| format!("{e}; a job is a number, a reservation reservation:3"))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_about_tells_jobs_computers_and_reservations_apart() {
        assert_eq!("12".parse(), Ok(Asked::Job(JobId(12))));
        assert_eq!("reservation:3".parse(), Ok(Asked::Reservation(ReservationId(3))));
        assert_eq!("gis-01".parse(), Ok(Asked::Computer("gis-01".parse().unwrap())));
        for wrong in ["", "reservation:x", "99999999999999999999", "GIS!"] {
            assert!(wrong.parse::<Asked>().is_err(), "{wrong}");
        }
    }
    #[test]
    fn an_orphans_wish_is_flat_json() {
        let wish = OrphanRequest {
            id: "kvm/domain/vcl-a".into(),
            wish: OrphanWish::Ignore { reason: "kept for Bob".into() },
            dry_run: false,
        };
        let json = serde_json::to_value(&wish).unwrap();
        assert_eq!(json["wish"], "ignore");
        assert_eq!(serde_json::from_value::<OrphanRequest>(json).unwrap(), wish);
    }
}
