//! Capturing: the guest reboots into the imaging task, which sends the disk; what came is checked and stored.

use super::Xcat;
use super::away::STEP;
use super::boot::LONG;
use super::load::{Node, run_image};
use super::task;
use crate::inbox::{Place, Report, Takes, disk_list};
use crate::{Captured, CapturedDisk, Provisioning, Target};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use vcl_images::{Format, Progress, Staging, digest, qemu_img, with_room};
use vcl_job::{Cx, Error, Job, Kind, Result, Step, TRANSIENT};
use vcl_types::Digest;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Copy {
    from: String,
    to: String,
}

pub(super) const SEND: Step<Xcat, Place> = Step::new("send disk").deadline(LONG);
/// There is no way back but forward: a node that is to be used again is resumed.
pub(super) const POWER_OFF: Step<Xcat, Node> = Step::new("power off").deadline(STEP).retry(TRANSIENT);
pub(super) const CHECK: Step<Xcat, Place> = Step::new("check disk").deadline(LONG);
pub(super) const STORE: Step<Xcat, Copy> =
    Step::new("store disk").deadline(LONG).undo(|_, copy| Box::pin(async move { remove(&copy.to) }));

fn remove(path: &str) -> Result<()> {
    vcl_job::held()?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::caused(Kind::Fatal, format!("removing {path}"), e))
        }
        _ => Ok(()),
    }
}

impl Xcat {
    pub(super) async fn capture_computer(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> Result<Captured> {
        let computer = &target.computer.name;
        let node = self.node(computer);
        let Some(endpoint) = target.endpoint else {
            let message = format!("{computer} is not loaded; there is nothing to capture");
            return Err(Error::new(Kind::Refused, message));
        };
        let inbox = self.lent()?;
        let takes = Takes { disk: self.settings.largest_disk.bytes() };
        let place = self.open_box(job, inbox, computer.as_str(), takes).await?;
        job.step(self, &super::load::PACK, place.clone())
            .run(async |place, _| self.pack(inbox, &place, takes, task::Work::Capture(takes.disk)).await)
            .await?;
        let before = self.look_before(job, &node).await?;
        self.arm(job, &node, || run_image(inbox, &place, takes)).await?;
        let end = Provisioning::end_state(self);
        target.os.pre_capture(&mut job.part("pre_capture"), target.guest(endpoint), end).await?;
        let limit = target.limits.copy;
        let report = job
            .step(self, &SEND, place.clone())
            .run(async |place, cx| self.watch(&cx, inbox, (&node, &place), &before, limit).await)
            .await?;
        self.disarm(job, &node).await?;
        self.power_off(job, node.clone()).await?;
        job.step(self, &CHECK, place.clone())
            .run(async |place, cx| self.check(&cx, &node, &place, &report).await)
            .await?;
        let to = staging.disk(0);
        let to = to.to_str().ok_or_else(|| Error::new(Kind::Fatal, format!("{to:?} is not UTF-8")))?;
        let copy = Copy { from: place.disk().into_string(), to: to.to_owned() };
        job.step(self, &STORE, copy)
            .run(async |copy, cx| {
                let needs = async || {
                    let map = qemu_img::map(&cx, copy.from.as_ref(), Format::Raw).await.ok()?;
                    Some(map.iter().filter(|e| e.data && !e.zero).map(|e| e.length).sum())
                };
                with_room(&cx, staging.directory(), needs, || store(&cx, &copy)).await
            })
            .await?;
        self.close_box(job, place).await?;
        let disks = vec![CapturedDisk { file: Staging::disk_name(0), format: "qcow2".into() }];
        let hardware = target.revision.manifest.hardware.clone();
        Ok(Captured { disks, firmware: None, boot: None, hardware })
    }

    pub(super) async fn power_off(&self, job: &mut Job, node: String) -> Result<()> {
        job.step(self, &POWER_OFF, Node { node, cut: false })
            .run(async |what, cx| {
                cx.check().await?;
                self.switch(&what.node, false).await
            })
            .await
    }

    /// Compares what came with what the node says its disk is.
    async fn check(&self, cx: &Cx, node: &str, place: &Place, report: &Report) -> Result<()> {
        let most = self.settings.largest_disk;
        if report.size == 0 || report.size > most.bytes() {
            let message =
                format!("{node} says that its disk has {} bytes; at most {most} are taken", report.size);
            return Err(Error::new(Kind::Corrupt, message));
        }
        let path = place.disk();
        // A disk of zeros is one of which nothing came.
        let sized =
            std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).and_then(
                |file| match file.metadata()?.len() {
                    0 => file.set_len(report.size).map(|()| report.size),
                    size => Ok(size),
                },
            );
        let size = sized.map_err(|e| Error::caused(Kind::Fatal, format!("looking at {path}"), e))?;
        if size != report.size {
            let message = format!("{node} says that its disk has {} bytes, and {size} came", report.size);
            return Err(Error::new(Kind::Corrupt, message));
        }
        let (raw, scratch) = (path.as_std_path(), place.directory.join("in"));
        let content = digest::content(cx, raw, Format::Raw, scratch.as_std_path(), &Progress::of(cx)).await?;
        let came = Digest::from_bytes(Sha256::digest(disk_list(size, &content.chunks)).into());
        if came.as_str() == report.digest {
            return Ok(());
        }
        let message = format!(
            "{node} says that its disk is {}, and what came is {came}: nothing of it is kept; was the disk written to while it was read?",
            report.digest
        );
        Err(Error::new(Kind::Corrupt, message))
    }
}

async fn store(cx: &Cx, copy: &Copy) -> Result<()> {
    // What an earlier life began is worth nothing: qemu-img cannot go on in the middle.
    remove(&copy.to)?;
    let (from, to): (&Path, &Path) = (copy.from.as_ref(), copy.to.as_ref());
    let from = qemu_img::ConvertFrom { path: from, format: Format::Raw };
    let options = qemu_img::ConvertOptions::default();
    let stored = qemu_img::convert(cx, from, to, Format::Qcow2, &Progress::of(cx), &options).await;
    if let Err(e) = stored {
        remove(&copy.to)?;
        return Err(e.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xcat::tests::settings;
    use std::sync::Arc;
    use std::time::Duration;
    use vcl_job::MemoryJournal;

    #[tokio::test]
    async fn a_disk_that_is_not_what_its_node_reports_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let directory = camino::Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
        let place = Place { name: "x-n1-job1-token1".into(), directory };
        std::fs::create_dir_all(place.directory.join("in")).unwrap();
        let bytes: Vec<u8> = (0..9u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(place.disk(), &bytes).unwrap();
        let chunks: Vec<[u8; 32]> =
            bytes.chunks(crate::inbox::CHUNK as usize).map(|c| Sha256::digest(c).into()).collect();
        let digest = Digest::from_bytes(Sha256::digest(disk_list(bytes.len() as u64, &chunks)).into()).into();
        let report = Report { ok: true, size: bytes.len() as u64, digest, text: String::new() };

        let (journal, stop) = (Arc::new(MemoryJournal::default()), <_>::default());
        let cx = Cx::detached(journal, stop, Duration::from_secs(60));
        let xcat = Xcat::new(settings("x", &[])).unwrap();
        xcat.check(&cx, "n1", &place, &report).await.unwrap();
        let wrong = "0".repeat(64);
        for (report, said) in [
            (Report { digest: wrong.clone(), ..report.clone() }, format!("n1 says that its disk is {wrong}")),
            (Report { size: report.size + 512, ..report.clone() }, "9437184 came".into()),
            (Report { size: 0, ..report.clone() }, "has 0 bytes".into()),
            (Report { size: 2 << 30, ..report.clone() }, "at most 1".into()),
        ] {
            let error = xcat.check(&cx, "n1", &place, &report).await.unwrap_err();
            assert_eq!(error.kind, Kind::Corrupt, "{report:?}");
            let text = error.failure().message;
            assert!(text.contains(&said), "{report:?}: {text}");
        }
        assert_eq!(std::fs::read(place.disk()).unwrap(), bytes, "nothing is mended either");
    }
}
