//! What becomes of revisions over the years: deleted into the trash, brought back, pruned, rewritten whole.
//!
//! Deleting and bringing back are each other's undo, so that a job that is called off in the middle leaves what was
//! there. Only emptying the trash has no way back; a job that does it commits first.

use super::publish::STAGE;
use super::{Made, Running};
use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use vcl_images::retention::{Kept, Pruning, Rules, TimeDeltaSeconds};
use vcl_images::{Discarded, Progress, StagedDisk, TrashName, copy_whole, retention, seal, with_disks};
use vcl_job::{Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_types::{ByteSize, ImageName, ImageRef, Manifest, Revision};

const LONG: Duration = Duration::from_secs(24 * 3600);

/// What a deletion starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeleteInput {
    name: TrashName,
}
/// What bringing back starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct UndeleteInput {
    name: TrashName,
    manifest: Manifest,
}
/// What a pruning starts from: what it found then. What has changed since, each deletion finds out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PruneInput {
    image: ImageName,
    goes: Vec<TrashName>,
    freed: ByteSize,
    stays: usize,
}
/// What rewriting whole starts from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FlattenInput {
    revision: Revision,
    size: ByteSize,
    staging: String,
    name: TrashName,
}

/// Says that the revision does not exist any more, if nothing needs it. Undone only where its files are in their place
/// (again): a row without files would be worse than none.
pub(super) const DELETE_ROW: Step<Running, ImageRef> =
    Step::new("forget revision").retry(TRANSIENT).undo(|run, image| {
        Box::pin(async move {
            if run.node.library.get(&image).is_ok() {
                run.node.queue.bring_back(&run.claim, &image).await?;
            }
            Ok(())
        })
    });
/// Deletes the files at once. Of an earlier version, which had no trash.
pub(super) const DELETE_FILES: Step<Running, ImageRef> = Step::new("delete files");
pub(super) const DISCARD: Step<Running, TrashName> = Step::new("move to trash").undo(|run, name| {
    Box::pin(async move {
        let library = &run.node.library;
        let there = library.trash()?.into_iter().find(|t| t.name.as_ref() == Some(&name));
        if let Some(manifest) = there.and_then(|t| t.manifest) {
            library.bring_back(&name, &manifest).await?;
        }
        if library.get(&name.image).is_ok() {
            run.holds(&name.image).await?;
        }
        Ok(())
    })
});
/// Frees what is in the trash. There is no way back.
pub(super) const FREE: Step<Running, TrashName> = Step::new("delete for good");
pub(super) const BRING_BACK: Step<Running, TrashName> = Step::new("bring files back").undo(|run, name| {
    Box::pin(async move {
        run.node.library.discard(&name).await?;
        run.no_longer_holds(&name.image).await
    })
});
pub(super) const REMEMBER: Step<Running, ImageRef> =
    Step::new("remember revision").retry(TRANSIENT).undo(|run, image| {
        Box::pin(async move {
            run.node.queue.delete_revision(&run.claim, &image).await?;
            Ok(())
        })
    });
/// Copies a disk with all that it lies on. What it writes goes with the staging.
pub(super) const COPY_WHOLE: Step<Running, PathBuf> = Step::new("copy whole").deadline(LONG);
pub(super) const DIGEST_WHOLE: Step<Running, String> = Step::new("digest whole").deadline(LONG);

/// The exchange of a revision's directory with the staging that holds it whole.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Exchange {
    staging: String,
    new: Manifest,
}
pub(super) const SWAP: Step<Running, Exchange> = Step::new("exchange").undo(|run, exchange| {
    Box::pin(async move {
        run.node.library.swap_back(&exchange.staging, &exchange.new).await?;
        Ok(())
    })
});

/// What the database is to say of a revision, and what it said.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Replacement {
    old: Manifest,
    old_size: ByteSize,
    new: Manifest,
    new_size: ByteSize,
}
pub(super) const REPLACE: Step<Running, Replacement> =
    Step::new("record files").retry(TRANSIENT).undo(|run, was| {
        Box::pin(async move {
            run.node.queue.replace_files(&run.claim, &was.old, was.old_size).await?;
            Ok(())
        })
    });

/// Where what an exchange has left goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Retirement {
    staging: String,
    name: TrashName,
}
pub(super) const RETIRE: Step<Running, Retirement> = Step::new("retire delta").undo(|run, retired| {
    Box::pin(async move {
        run.node.library.unretire(&retired.staging, &retired.name).await?;
        Ok(())
    })
});

impl crate::node::Node {
    /// What is known of all revisions before any of them is let go.
    pub(crate) async fn kept(&self) -> vcl_queue::Result<Vec<Kept>> {
        let standings = self.queue.standings().await?;
        let kept = standings.into_iter().map(|s| Kept {
            image: s.manifest.image_ref(),
            created: s.manifest.created,
            owner: s.owner,
            size: s.size,
            lies_on: s.manifest.lies_on().cloned(),
            production: s.production,
            loaded: s.loaded,
            readers: s.readers,
        });
        Ok(kept.collect())
    }

    /// What a pruning of an image would do now.
    pub(crate) async fn pruning(&self, image: &ImageName, rules: &Rules) -> vcl_queue::Result<Pruning> {
        Ok(retention::prune(&self.kept().await?, image, rules, Utc::now()))
    }

    /// Whether what is deleted can be brought back.
    pub(crate) fn deleting(&self, now: bool) -> Discarded {
        if now || self.config.library.trash_days == 0 { Discarded::ForGood } else { Discarded::Deleted }
    }
}

/// The rules of a request.
pub(crate) fn rules(keep: Option<u32>, older_than_s: Option<u64>, owner: Option<String>) -> Rules {
    Rules { keep, older_than: older_than_s.map(TimeDeltaSeconds), owner }
}

impl Running {
    /// Tells the other nodes that this one has a revision's files.
    pub(super) async fn holds(&self, image: &ImageRef) -> Result<()> {
        Ok(self.node.queue.hold_by(&self.claim, &self.node.name, image).await?)
    }
    /// And that it has them no more.
    pub(super) async fn no_longer_holds(&self, image: &ImageRef) -> Result<()> {
        Ok(self.node.queue.holds_no_more_by(&self.claim, &self.node.name, image).await?)
    }

    fn trash_name(&self, image: ImageRef, why: Discarded) -> TrashName {
        let at: DateTime<Utc> = Utc::now().trunc_subsecs(0);
        TrashName { image, why, at, job: self.job() }
    }

    pub(super) async fn begin_delete(&self, image: &ImageRef, now: bool) -> Result<DeleteInput> {
        let Some(_) = image.revision else {
            let message = format!("say which revision of {image} is to be deleted, as in `{image}@1`");
            return Err(Error::new(Kind::Refused, message));
        };
        self.node.queue.revision(image).await?;
        Ok(DeleteInput { name: self.trash_name(image.clone(), self.node.deleting(now)) })
    }

    pub(super) async fn delete(&self, mut job: Job, input: DeleteInput) -> Result<Made> {
        let job = &mut job;
        let name = input.name;
        let image = &name.image;
        self.forget(job, image).await?;
        if job.version() < 2 {
            job.step(self, &DELETE_FILES, image.clone())
                .run(async |image, cx| {
                    cx.check().await?;
                    self.node.library.delete(&image).await?;
                    self.no_longer_holds(&image).await?;
                    Ok(())
                })
                .await?;
            return Ok(Some(format!("{image} is deleted")));
        }
        self.discard(job, &name).await?;
        if name.why == Discarded::ForGood {
            job.commit();
            self.free(job, &name).await?;
            return Ok(Some(format!("{image} is deleted for good")));
        }
        let days = self.node.config.library.trash_days;
        Ok(Some(format!("{image} is in the trash for {days} days")))
    }

    async fn forget(&self, job: &mut Job, image: &ImageRef) -> Result<()> {
        job.step(self, &DELETE_ROW, image.clone())
            .key(image)
            .run(async |image, _| {
                // What another node has rewritten whole may still be a delta here.
                let here = self.node.library.revisions()?.revisions;
                if let Some(child) = here.iter().find(|r| r.manifest.lies_on() == Some(&image)) {
                    let child = child.manifest.image_ref();
                    let way_out =
                        format!("{child} is stored over {image} in this node's library; delete that first");
                    return Err(Error::new(Kind::Refused, way_out));
                }
                Ok(self.node.queue.let_go(&self.claim, &image).await?)
            })
            .await
    }

    async fn discard(&self, job: &mut Job, name: &TrashName) -> Result<()> {
        job.step(self, &DISCARD, name.clone())
            .key(&name.image)
            .run(async |name, cx| {
                cx.check().await?;
                self.node.library.discard(&name).await?;
                self.no_longer_holds(&name.image).await?;
                Ok(())
            })
            .await
    }

    async fn free(&self, job: &mut Job, name: &TrashName) -> Result<()> {
        job.step(self, &FREE, name.clone())
            .key(&name.image)
            .run(async |name, cx| {
                cx.check().await?;
                self.node.library.remove_discarded(&self.node.library.trash_path(&name)).await?;
                Ok(())
            })
            .await
    }

    pub(super) async fn begin_undelete(&self, image: &ImageRef) -> Result<UndeleteInput> {
        let (name, manifest) = self.node.library.discarded(image)?;
        Ok(UndeleteInput { name, manifest })
    }

    pub(super) async fn undelete(&self, mut job: Job, input: UndeleteInput) -> Result<Made> {
        let UndeleteInput { name, manifest } = input;
        let image = name.image.clone();
        job.step(self, &BRING_BACK, name)
            .run(async |name, cx| {
                cx.check().await?;
                self.node.library.bring_back(&name, &manifest).await?;
                self.holds(&name.image).await
            })
            .await?;
        job.step(self, &REMEMBER, image.clone())
            .run(async |image, _| Ok(self.node.queue.bring_back(&self.claim, &image).await?))
            .await?;
        Ok(Some(image.to_string()))
    }

    pub(super) async fn begin_prune(
        &self,
        image: &ImageName,
        rules: &Rules,
        now: bool,
    ) -> Result<PruneInput> {
        if rules.is_empty() {
            let message = "say what may go: --keep N, --older-than AGE or --owner USER";
            return Err(Error::new(Kind::Refused, message));
        }
        let pruning = self.node.pruning(image, rules).await?;
        let why = self.node.deleting(now);
        let goes = pruning.goes.into_iter().map(|image| self.trash_name(image, why)).collect();
        Ok(PruneInput { image: image.clone(), goes, freed: pruning.freed, stays: pruning.stays.len() })
    }

    pub(super) async fn prune(&self, mut job: Job, input: PruneInput) -> Result<Made> {
        let job = &mut job;
        let PruneInput { image, goes, freed, stays } = input;
        let (mut gone, mut kept) = (Vec::new(), 0);
        for name in goes {
            match self.forget(job, &name.image).await {
                Ok(()) => {
                    self.discard(job, &name).await?;
                    gone.push(name);
                }
                // Somebody began to need it since the job began.
                Err(e) if matches!(e.kind, Kind::Refused | Kind::Busy) => {
                    kept += 1;
                    job.event("kept", format!("{} stays: {}", name.image, e.failure().message));
                }
                Err(e) => return Err(e),
            }
        }
        let count = gone.len();
        if gone.first().is_some_and(|name| name.why == Discarded::ForGood) {
            job.commit();
            for name in &gone {
                self.free(job, name).await?;
            }
        }
        let stays = stays + kept;
        Ok(Some(format!("{image}: {count} deleted, {stays} kept; at most {freed} to be freed")))
    }

    pub(super) async fn begin_flatten(&self, image: &ImageRef) -> Result<FlattenInput> {
        let known = self.node.queue.revision(image).await?;
        let exact = known.manifest.image_ref();
        let revision = self.node.library.get(&exact)?;
        // There is one row for all copies: another's would be a delta that nobody knows of any more.
        let mut others = self.node.queue.holders(&exact).await?;
        others.retain(|node| *node != self.node.name);
        if !others.is_empty() && !self.node.config.library.shared {
            let message = format!(
                "{exact} lies in the libraries of {} as well, and would stay a delta there; capture with --whole instead",
                others.join(", ")
            );
            return Err(Error::new(Kind::Refused, message));
        }
        Ok(FlattenInput {
            revision,
            size: known.size,
            staging: vcl_images::staging_name(self.job(), self.claim.token),
            name: self.trash_name(exact, Discarded::Exchanged),
        })
    }

    pub(super) async fn flatten(&self, mut job: Job, input: FlattenInput) -> Result<Made> {
        let job = &mut job;
        let FlattenInput { revision, size, staging: name, name: trash } = input;
        let (old, image) = (&revision.manifest, revision.manifest.image_ref());
        if old.lies_on().is_none() {
            return Ok(Some(format!("{image} is whole already")));
        }
        let library = &self.node.library;
        job.step(self, &STAGE, name.clone())
            .run(async |name, cx| {
                cx.check().await?;
                library.staging(&name)?;
                Ok(())
            })
            .await?;
        let disks: Vec<StagedDisk> = old
            .disks
            .iter()
            .map(|disk| StagedDisk { file: disk.file.clone(), format: vcl_images::Format::Qcow2 })
            .collect();
        for (n, disk) in disks.iter().enumerate() {
            let to = library.staging_made(&name)?.path(&disk.file)?;
            job.step(self, &COPY_WHOLE, to)
                .key(n)
                .run(async |_, cx| {
                    let staging = library.staging_made(&name)?;
                    Ok(copy_whole(&cx, &revision, n, &staging, &Progress::of(&cx)).await?)
                })
                .await?;
        }
        let records = job
            .step(self, &DIGEST_WHOLE, name.clone())
            .run(async |name, cx| Ok(seal(&cx, &library.staging_made(&name)?, &disks).await?))
            .await?;
        let new = with_disks(old, records)?;
        let new_size = ByteSize(new.disks.iter().map(|d| d.file_size.bytes()).sum());
        job.step(self, &SWAP, Exchange { staging: name.clone(), new: new.clone() })
            .run(async |exchange, cx| Ok(library.swap(&cx, &exchange.staging, &exchange.new).await?))
            .await?;
        let replacement = Replacement { old: old.clone(), old_size: size, new, new_size };
        job.step(self, &REPLACE, replacement)
            .run(async |r, _| Ok(self.node.queue.replace_files(&self.claim, &r.new, r.new_size).await?))
            .await?;
        job.step(self, &RETIRE, Retirement { staging: name, name: trash })
            .run(async |retired, cx| {
                cx.check().await?;
                library.retire(&retired.staging, &retired.name).await?;
                Ok(())
            })
            .await?;
        job.event("flattened", format!("{image} is stored whole: {new_size}, after {size}"));
        Ok(Some(image.to_string()))
    }
}
