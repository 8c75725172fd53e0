//! Whether a job fits: one that writes much begins only when there is room for it, else it waits and says so.
//!
//! The decision is a pure function. What jobs under way have been promised counts as taken, as far as they have not
//! written it yet: ten captures that begin together must not each be shown the same free space. `demand` says what a
//! request is going to write; `room` promises it to a job, takes the promise back at the job's end, and wakes who waits.

mod demand;
mod room;

pub(crate) use room::{Room, watch};

#[cfg(test)]
mod flows;

use vcl_types::ByteSize;

/// A place that a job writes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it is called: `the library`, `backend kvm1`.
    pub name: String,
    /// How many bytes are free there now.
    pub free: u64,
    /// How many bytes jobs under way are still going to write there.
    pub promised: u64,
    /// How many bytes must stay free.
    pub keep_free: u64,
    /// How somebody makes room there.
    pub way_out: String,
}

/// What a job is going to write to a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Where.
    pub place: Place,
    /// How many bytes, at most.
    pub bytes: u64,
}

/// Whether a job may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It fits.
    Admitted,
    /// It does not, and waits.
    Waits {
        /// How many bytes it is going to write.
        needs: u64,
        /// How many it could have.
        has: u64,
        /// Where.
        place: Place,
    },
}

impl Admission {
    /// What is to say of a job that waits.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Admitted => None,
            Self::Waits { needs, has, place } => {
                let Place { name, free, promised, keep_free, way_out } = place;
                let (needs, has, free) = (ByteSize(*needs), ByteSize(*has), ByteSize(*free));
                let mut of = vec![format!("{free} are free")];
                if *promised > 0 {
                    of.push(format!("{} are promised to other jobs", ByteSize(*promised)));
                }
                if *keep_free > 0 {
                    of.push(format!("{} stay free", ByteSize(*keep_free)));
                }
                Some(format!(
                    "{needs} are needed in {name}, which can give {has} now ({}); make room: {way_out}",
                    of.join(", ")
                ))
            }
        }
    }
}

/// Decides over all the places that a job writes to; the first that has no room is named.
#[must_use]
pub fn admit(demands: &[Demand]) -> Admission {
    for Demand { place, bytes } in demands {
        let has = place.free.saturating_sub(place.promised).saturating_sub(place.keep_free);
        // A job that writes nothing fits everywhere: it may be the one that makes room.
        if *bytes > has && *bytes > 0 {
            return Admission::Waits { needs: *bytes, has, place: place.clone() };
        }
    }
    Admission::Admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(bytes: u64, free: u64, promised: u64, keep_free: u64) -> Demand {
        Demand {
            place: Place { name: "the library".into(), free, promised, keep_free, way_out: "prune".into() },
            bytes,
        }
    }

    #[test]
    fn what_fits_begins_and_what_does_not_says_why_it_waits() {
        let cases = [
            (demand(10, 20, 0, 5), true),
            (demand(15, 20, 0, 5), true),
            (demand(16, 20, 0, 5), false),
            (demand(10, 20, 6, 5), false),
            (demand(1, 20, 30, 5), false),
            (demand(0, 0, 9, 9), true),
            (demand(u64::MAX, u64::MAX, 0, 1), false),
        ];
        for (demand, fits) in cases {
            assert_eq!(admit(std::slice::from_ref(&demand)) == Admission::Admitted, fits, "{demand:?}");
        }
        let both = [
            demand(1, 20, 0, 5),
            Demand {
                place: Place { name: "backend kvm".into(), ..demand(0, 3 << 30, 0, 1 << 30).place },
                bytes: 4 << 30,
            },
        ];
        let reason = admit(&both).reason().unwrap();
        assert_eq!(
            reason,
            "4.0 GiB are needed in backend kvm, which can give 2.0 GiB now (3.0 GiB are free, 1.0 GiB stay free); make room: prune"
        );
        assert_eq!(admit(&[]).reason(), None);
    }
}
