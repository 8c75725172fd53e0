//! What a request is going to write, and where.

use super::{Admission, Demand, Place, admit};
use crate::node::{Node, Refusal};
use std::time::Duration;
use vcl_images::estimate;
use vcl_types::lending::Purpose;
use vcl_types::{BackendName, ByteSize, CaptureInto, ComputerName, ImageRef, JobRequest, Manifest};

/// What a load may write at first beside its overlays' tables: a console, firmware variables. What a guest writes later
/// is the host's to watch, and no load waits for it.
const LOAD: u64 = 64 * 1024 * 1024;
/// How long a backend may take to say how much room it has.
const ASKED: Duration = Duration::from_secs(10);
/// How many revisions may lie on each other.
const LONGEST_CHAIN: usize = 64;

/// Whose room it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum At {
    Library,
    Backend(BackendName),
}

/// What a request is going to write somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) at: At,
    pub(super) bytes: u64,
}

impl Node {
    /// Whether a request fits now.
    ///
    /// # Errors
    /// What it names is not there, or a place cannot be measured.
    pub async fn admission(&self, request: &JobRequest) -> Result<Admission, Refusal> {
        let needs = self.needs(request, None).await?;
        Ok(admit(&self.measured(&needs).await?))
    }

    /// The places that these are at, as they are now.
    pub(super) async fn measured(&self, needs: &[Need]) -> Result<Vec<Demand>, Refusal> {
        let mut demands = Vec::new();
        for Need { at, bytes } in needs {
            if let Some(place) = self.place(at).await? {
                demands.push(Demand { place, bytes: *bytes });
            }
        }
        Ok(demands)
    }

    async fn place(&self, at: &At) -> Result<Option<Place>, Refusal> {
        match at {
            At::Library => {
                let space = self.library.space()?;
                Ok(Some(Place {
                    name: format!("the library of node {}", self.name),
                    free: space.free,
                    promised: space.reserved,
                    keep_free: self.config.library.keep_free.bytes(),
                    way_out: "vclctl image prune IMAGE --keep N --now".into(),
                }))
            }
            At::Backend(name) => {
                let asked = tokio::time::timeout(ASKED, self.backend(name)?.free_space()).await;
                // One that does not answer is the job's to find out.
                let free = asked.ok().transpose()?.flatten();
                Ok(free.map(|free| Place {
                    name: format!("the backend {name}"),
                    free,
                    promised: self.insight.room.promised(name),
                    keep_free: 0,
                    way_out: "vclctl unload a computer of it".into(),
                }))
            }
        }
    }

    /// What a request is going to write. Nothing for one that makes room, and for one that writes elsewhere. `backend` is
    /// its computer's, where that is known.
    pub(super) async fn needs(
        &self,
        request: &JobRequest,
        backend: Option<&BackendName>,
    ) -> Result<Vec<Need>, Refusal> {
        let mut needs = Vec::new();
        let mut library = |bytes| needs.push(Need { at: At::Library, bytes });
        match request {
            JobRequest::Load { computer, image }
            | JobRequest::Prepare { computer, image }
            | JobRequest::Lend { computer, image, .. } => {
                let backend = match backend {
                    Some(backend) => backend.clone(),
                    None => self.queue.computer(computer).await?.computer.backend,
                };
                // Most of the time it is here, and says all by itself.
                let here = image.revision.and_then(|_| self.library.get(image).ok());
                let bytes = match here {
                    Some(revision) => estimate::load_overlay(&revision.manifest),
                    None => {
                        let manifest = self.queue.manifest(image).await?;
                        let bytes = estimate::load_overlay(&manifest);
                        library(self.lacking_bytes(manifest).await?);
                        bytes
                    }
                };
                let sent = self.bytes_to_send(&backend, image).await?;
                let bytes = bytes.saturating_add(LOAD).saturating_add(sent);
                needs.push(Need { at: At::Backend(backend), bytes });
            }
            JobRequest::Capture {
                computer, into: CaptureInto::Next | CaptureInto::New(_), whole, ..
            } => {
                if let Some(bytes) = self.capture_bytes(computer, *whole).await? {
                    library(bytes);
                }
            }
            JobRequest::Import { path, .. } => {
                use std::os::unix::fs::MetadataExt;
                // What is a hole there becomes none here.
                let data = |m: std::fs::Metadata| m.len().min(m.blocks().saturating_mul(512));
                library(estimate::import(ByteSize(std::fs::metadata(path).map_or(0, data))));
            }
            JobRequest::CreateFromVm { backend, vm, os, .. } => {
                library(estimate::import(self.preview(backend, vm, *os).await?.to_copy));
            }
            JobRequest::Flatten { image } => {
                let chain = self.chain(self.queue.manifest(image).await?).await?;
                library(estimate::flatten(&chain));
            }
            JobRequest::Fetch { image, .. } => {
                library(self.lacking_bytes(self.queue.manifest(image).await?).await?);
            }
            JobRequest::Return { reservation, computer } => {
                let row = self.queue.reservation(*reservation).await?;
                if row.purpose == Purpose::Imaging
                    && !row.discard
                    && let Some(bytes) = self.capture_bytes(computer, false).await?
                {
                    library(bytes);
                }
            }
            JobRequest::Unload { .. }
            | JobRequest::Configure { .. }
            | JobRequest::Admit { .. }
            | JobRequest::Export { .. }
            | JobRequest::Verify { .. }
            | JobRequest::TestImage { .. }
            | JobRequest::Undelete { .. }
            | JobRequest::Prune { .. }
            | JobRequest::Backup { .. }
            | JobRequest::Unknown(_)
            | JobRequest::DeleteImage { .. } => {}
        }
        needs.retain(|need| need.bytes > 0);
        Ok(needs)
    }

    /// What a load has to send to its backend's host first.
    async fn bytes_to_send(&self, backend: &BackendName, image: &ImageRef) -> Result<u64, Refusal> {
        let backend = self.backend(backend)?;
        if !backend.keeps_copies() {
            return Ok(0);
        }
        let chain = self.chain(self.queue.manifest(image).await?).await?;
        let asked = tokio::time::timeout(ASKED, backend.to_send(&chain)).await;
        // One that does not answer is the job's to find out.
        Ok(asked.ok().transpose()?.unwrap_or(0))
    }

    /// What a capture is going to store: what the computer wrote, where its backend tells and nobody wants it whole.
    async fn capture_bytes(&self, name: &ComputerName, whole: bool) -> Result<Option<u64>, Refusal> {
        let row = self.queue.computer(name).await?;
        let Some(loaded) = row.loaded else { return Ok(None) };
        let backend = self.backend(&row.computer.backend)?;
        let asked = tokio::time::timeout(ASKED, backend.written(&row.computer)).await;
        let written = asked.ok().transpose()?.flatten().map(ByteSize);
        let here = self.library.base(&loaded.image).is_ok();
        Ok(Some(match written {
            Some(written) if here && !whole => estimate::capture_delta(&[written]),
            // A copy holds no more than what is below the computer and what lies over that.
            _ => {
                let chain = self.chain(self.queue.manifest(&loaded.image).await?).await?;
                estimate::capture_whole(&chain, written.as_slice())
            }
        }))
    }

    /// A revision and what it lies on.
    async fn chain(&self, top: Manifest) -> Result<Vec<Manifest>, Refusal> {
        let mut chain = vec![top];
        while chain.len() < LONGEST_CHAIN
            && let Some(below) = chain.last().and_then(Manifest::lies_on).cloned()
        {
            chain.push(self.queue.manifest(&below).await?);
        }
        Ok(chain)
    }

    /// What has to come from other nodes before a revision can be read here.
    async fn lacking_bytes(&self, top: Manifest) -> Result<u64, Refusal> {
        let here = |image: &ImageRef| self.library.get(image).is_ok();
        if here(&top.image_ref()) {
            return Ok(0);
        }
        let chain = self.chain(top).await?;
        let lacking = chain.iter().take_while(|m| !here(&m.image_ref()));
        Ok(lacking.map(estimate::fetch).fold(0, u64::saturating_add))
    }
}
