//! Having a revision from another node: a job of its own, and the first part of a load on a node that lacks it.
//!
//! A revision that another lies on is fetched after that one. What was fetched whole stays, whatever becomes of the
//! job: it is what its manifest says, and the next load wants it too.

use super::{Made, Running};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use vcl_images::{ErrorKind, Library};
use vcl_job::{Error, Job, Kind, Result, Retry, Step, TRANSIENT};
use vcl_types::{ImageRef, Manifest, Revision};

/// How many revisions may lie on each other.
const LONGEST_CHAIN: usize = 64;

/// A revision that this node lacks, and where it is put together.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Lacking {
    manifest: Manifest,
    staging: String,
}
/// What a fetch starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FetchInput {
    image: ImageRef,
    /// What others lie on comes first.
    lacking: Vec<Lacking>,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FetchIntent {
    image: ImageRef,
    staging: String,
}

/// Fetches and publishes one revision. What is half fetched is taken up by the next run; giving up throws it away.
pub(super) const FETCH: Step<Running, FetchIntent> = Step::new("fetch revision")
    .deadline(Duration::from_secs(24 * 3600))
    .retry(Retry {
        times: 6,
        first: Duration::from_secs(2),
        kinds: &[Kind::Transient, Kind::Unreachable, Kind::Busy],
    })
    .undo(|run, intent| {
        Box::pin(async move {
            // Another job that fetches it, too, has the staging then, and it is that job's.
            if let Some(fetching) = run.node.library.fetching(&intent.staging)? {
                fetching.discard().await?;
            }
            Ok(())
        })
    });
/// Tells the other nodes that this one holds it.
pub(super) const HOLD: Step<Running, ImageRef> = Step::new("record holding").retry(TRANSIENT);

impl Running {
    /// Which revisions have to come before this one can be read here; none when it is here.
    pub(super) async fn lacking(&self, manifest: &Manifest) -> Result<Vec<Lacking>> {
        let mut lacking = Vec::new();
        let mut next = Some(manifest.clone());
        while let Some(manifest) = next {
            let image = manifest.image_ref();
            match self.node.library.get(&image) {
                Ok(_) => break,
                Err(e) if e.kind == ErrorKind::NotFound => {}
                Err(e) => return Err(e.into()),
            }
            if lacking.len() == LONGEST_CHAIN {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("more than {LONGEST_CHAIN} revisions lie on each other below {image}"),
                ));
            }
            next = match manifest.lies_on() {
                Some(below) => Some(self.node.queue.manifest(below).await?),
                None => None,
            };
            let staging = Library::fetch_name(&self.node.name, &image)?;
            lacking.push(Lacking { manifest, staging });
        }
        lacking.reverse();
        Ok(lacking)
    }

    /// The revision as it lies here or will, and what has to be fetched before.
    pub(super) async fn here_or_lacking(&self, manifest: &Manifest) -> Result<(Revision, Vec<Lacking>)> {
        let exact = manifest.image_ref();
        match self.node.library.get(&exact) {
            Ok(revision) => Ok((revision, Vec::new())),
            Err(e) if e.kind == ErrorKind::NotFound && self.node.exchange.is_some() => {
                Ok((self.node.library.future(manifest)?, self.lacking(manifest).await?))
            }
            Err(e) => {
                let way_out = "its files are lost here, and without [exchange] no other node is asked; restore them from a backup, or add [exchange]";
                Err(Error::from(e)
                    .within(format!("{exact} is known and this node's library does not hold it: {way_out}")))
            }
        }
    }

    pub(super) async fn begin_fetch(&self, image: &ImageRef) -> Result<FetchInput> {
        let manifest = self.node.queue.manifest(image).await?;
        let lacking = self.lacking(&manifest).await?;
        if !lacking.is_empty() && self.node.exchange.is_none() {
            let message = format!(
                "{} has no other node to have {image} from; add [exchange] to its configuration",
                self.node.name
            );
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(FetchInput { image: manifest.image_ref(), lacking })
    }

    pub(super) async fn fetch(&self, mut job: Job, input: FetchInput) -> Result<Made> {
        let image = input.image;
        if input.lacking.is_empty() {
            // Whoever asked may have done so because nobody was told that it is here.
            job.step(self, &HOLD, image.clone())
                .key(&image)
                .run(async |image, _| self.holds(&image).await)
                .await?;
            return Ok(Some(format!("{image} was here already")));
        }
        self.fetch_all(&mut job.part("fetch"), input.lacking, true).await?;
        Ok(Some(format!("{image} is here")))
    }

    /// Fetches them one after the other. Where that is `all` of the job, calling it off comes too late when the last is here.
    pub(super) async fn fetch_all(&self, job: &mut Job, lacking: Vec<Lacking>, all: bool) -> Result<()> {
        let count = lacking.len();
        for (n, Lacking { manifest, staging }) in lacking.into_iter().enumerate() {
            let image = manifest.image_ref();
            let from = job
                .step(self, &FETCH, FetchIntent { image: image.clone(), staging })
                .key(&image)
                .run(async |intent, cx| {
                    cx.check().await?;
                    let Some(exchange) = &self.node.exchange else {
                        return Err(Error::new(Kind::Refused, "[exchange] is not configured any more"));
                    };
                    // A hint of who to ask first. Without it everybody is asked.
                    let holders = self.node.queue.holders(&intent.image).await.unwrap_or_default();
                    exchange.fetch(&cx, &self.node.library, &manifest, &intent.staging, &holders).await
                })
                .await?;
            if all && n + 1 == count {
                job.commit();
            }
            job.step(self, &HOLD, image.clone())
                .key(&image)
                .run(async |image, _| self.holds(&image).await)
                .await?;
            if let Some(from) = from {
                job.event("fetched", format!("{image} came from {from}"));
            }
        }
        Ok(())
    }
}
