//! Whether a job fits: a load or capture begins only when what it writes has room, else it waits and says so.
//!
//! The decision is a pure function. What jobs under way have been promised counts as taken, as far as they have not
//! written it yet: ten captures that begin together must not each be shown the same free space.

use crate::node::{Node, Refusal};
use vcl_types::{ByteSize, CaptureInto, Computer, JobRequest};

/// What a load may write at first: an overlay's own tables, a console, firmware variables. What a guest writes later is
/// the host's to watch, and no load waits for it.
const LOAD: u64 = 64 * 1024 * 1024;

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
        place: String,
    },
}

impl Admission {
    /// What is to say of a job that waits.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Admitted => None,
            Self::Waits { needs, has, place } => Some(format!(
                "{} are needed in {place}, which can give {} now; it goes on when there is room",
                ByteSize(*needs),
                ByteSize(*has)
            )),
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
            return Admission::Waits { needs: *bytes, has, place: place.name.clone() };
        }
    }
    Admission::Admitted
}

impl Node {
    /// Whether a request fits now.
    ///
    /// # Errors
    /// What it names is not there, or a place cannot be measured.
    pub async fn admission(&self, request: &JobRequest) -> Result<Admission, Refusal> {
        let mut demands = Vec::new();
        match request {
            JobRequest::Load { computer, .. } => {
                let row = self.queue.computer(computer).await?;
                demands.extend(self.on_backend(&row.computer, LOAD).await?);
            }
            JobRequest::Capture { computer, into: CaptureInto::Next | CaptureInto::New(_), .. } => {
                let row = self.queue.computer(computer).await?;
                if let Some(loaded) = row.loaded {
                    // Whole, until the backend tells how much was changed: a copy holds no more than the parent and
                    // what lies over it.
                    let parent = self.queue.revision(&loaded.image).await?.size.bytes();
                    demands.push(self.in_library(parent)?);
                }
            }
            JobRequest::Import { path, .. } => {
                let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
                demands.push(self.in_library(bytes)?);
            }
            JobRequest::CreateFromVm { backend, vm, .. } => {
                let preview = self.preview(backend, vm).await?;
                demands.push(self.in_library(preview.to_copy.bytes())?);
            }
            JobRequest::Flatten { image } | JobRequest::Fetch { image, .. } => {
                let known = self.queue.revision(image).await?;
                demands.push(self.in_library(known.size.bytes())?);
            }
            JobRequest::Unload { .. }
            | JobRequest::Export { .. }
            | JobRequest::Verify { .. }
            | JobRequest::Undelete { .. }
            | JobRequest::Prune { .. }
            | JobRequest::Backup { .. }
            | JobRequest::Unknown(_)
            | JobRequest::DeleteImage { .. } => {}
        }
        Ok(admit(&demands))
    }

    fn in_library(&self, bytes: u64) -> Result<Demand, Refusal> {
        let free = self.library.space()?.free;
        let keep_free = self.config.library.keep_free.bytes();
        Ok(Demand { place: Place { name: "the library".into(), free, promised: 0, keep_free }, bytes })
    }

    async fn on_backend(&self, computer: &Computer, bytes: u64) -> Result<Option<Demand>, Refusal> {
        let free = self.backend(&computer.backend)?.free_space().await?;
        let name = format!("the backend {}", computer.backend);
        Ok(free.map(|free| Demand { place: Place { name, free, promised: 0, keep_free: 0 }, bytes }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn demand(bytes: u64, free: u64, promised: u64, keep_free: u64) -> Demand {
        Demand { place: Place { name: "the library".into(), free, promised, keep_free }, bytes }
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
            "4.0 GiB are needed in backend kvm, which can give 2.0 GiB now; it goes on when there is room"
        );
        assert_eq!(admit(&[]).reason(), None);
    }
}
