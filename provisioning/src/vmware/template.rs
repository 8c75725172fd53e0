//! Templates: made over images at the datastore, cloned into machines, and made from captured machines.
//!
//! A template is called `vcl-image-KEY`; `KEY` tells the content of all its disks and what firmware and bus they are
//! for. It is a cache, as images on the datastore are: whoever deletes one costs the next load some time.

use crate::vim25::{
    BECOMING, FETCH_DISK, IMAGE, JOB, LONG, Machine, MachineSpec, Made, PATIENT, Patience, Request,
    SEND_IMAGE, Site, TEMPLATE, Watcher, busy, extra, fault_of, loaded, unless_others,
};
use crate::{Captured, CapturedDisk, Error, ErrorKind, Result, Target};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use vcl_images::Staging;
use vcl_job::{Cx, Job, Kind, Step};
use vcl_types::api::PlannedStep;
use vcl_types::{Digest, Hardware, Manifest, OsName};

/// A machine that is made from another.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Cloned {
    from: String,
    machine: String,
}

/// Of what a machine is cloned.
#[derive(Debug, Clone, Copy)]
enum Source {
    Template,
    /// A computer's machine, which must be off and as it was made ready.
    Rest,
}

pub(super) const FIND: Step<Site, String> = Step::new("find template").deadline(LONG).retry(PATIENT);
/// What is half made of a template is no template yet, and lies over an image that others use: it is forgotten by the
/// server, and the image stays.
pub(super) const MAKE: Step<Site, Made> =
    Step::new("make template").deadline(LONG).retry(PATIENT).undo(|site, made| {
        Box::pin(async move {
            vcl_job::held()?;
            match site.ours(&made.machine).await {
                Ok(Some(machine)) if !machine.template => {
                    Ok(site.unregister(&made.machine, &machine).await?)
                }
                found => Ok(unless_others(found.map(drop))?),
            }
        })
    });
pub(super) const CLONE: Step<Site, Cloned> =
    Step::new("clone template").deadline(LONG).retry(PATIENT).undo(|site, cloned| {
        Box::pin(async move {
            vcl_job::held()?;
            Ok(site.undo_clone(&cloned.machine).await?)
        })
    });
/// Nothing to undo: the machine goes with the cloning.
pub(super) const CONFIGURE: Step<Site, String> = Step::new("configure machine").deadline(LONG).retry(PATIENT);
pub(super) const KEEP: Step<Site, Cloned> =
    Step::new("clone captured machine").deadline(LONG).retry(PATIENT).undo(|site, cloned| {
        Box::pin(async move {
            vcl_job::held()?;
            Ok(site.undo_clone(&cloned.machine).await?)
        })
    });
pub(super) const ENTER: Step<Site, Cloned> = Step::new("enter template").deadline(LONG).retry(PATIENT);

/// What tells templates apart: the content of all disks, and of a machine's hardware what a clone has from its template for
/// ever. An image that is imported again for another firmware is another template's.
fn key(contents: &[String], os: OsName, hardware: &Hardware) -> String {
    let all = serde_json::json!([contents, os, hardware.disk_bus, hardware.firmware]);
    Digest::from_bytes(Sha256::digest(all.to_string()).into()).to_string()
}
fn key_of(manifest: &Manifest) -> String {
    let contents: Vec<_> = manifest.disks.iter().map(|disk| disk.content_digest.to_string()).collect();
    key(&contents, manifest.os, &manifest.hardware)
}
/// 74 characters; a machine's name has at most 80.
fn template_name(key: &str) -> String {
    format!("{TEMPLATE}{key}")
}

impl Site {
    fn template_tags(&self, key: &str) -> Vec<(String, String)> {
        let mut tags = self.tags_for("vcld-image");
        tags.push((IMAGE.to_owned(), key.to_owned()));
        tags
    }

    /// Whether there is a template, whole. Of one that has lost a disk by somebody's hand the server is told to forget
    /// the rest.
    async fn find_template(&self, name: &str, cx: &Cx) -> vcl_job::Result<bool> {
        let Some(machine) = self.ours(name).await?.filter(|machine| machine.template) else {
            return Ok(false);
        };
        let mut directories = Vec::new();
        for (path, size) in machine.disks() {
            let Some(disk) = self.name_of(&path) else { continue };
            if !self.has_disk(disk, size).await? {
                cx.event("template-broken", format!("{name} lacks its disk {path} and is made anew"));
                cx.check().await?;
                self.unregister(name, &machine).await?;
                return Ok(false);
            }
            directories.extend(disk.rsplit_once('/').map(|(directory, _)| directory.to_owned()));
        }
        directories.dedup();
        for directory in directories {
            self.note_use(&directory).await;
        }
        Ok(true)
    }

    /// The name of the template for a revision, which is made if it is not there; `None` at a server that has none.
    pub(super) async fn template(
        &self,
        job: &mut Job,
        target: &Target<'_>,
    ) -> vcl_job::Result<Option<String>> {
        let manifest = &target.revision.manifest;
        let key = key_of(manifest);
        let name = template_name(&key);
        let there = job
            .step(self, &FIND, name.clone())
            .run(async |name, cx| self.find_template(&name, &cx).await)
            .await?;
        let mut disks = Vec::new();
        for (n, disk) in manifest.disks.iter().enumerate() {
            disks.push(self.send_image(job, target, n, disk, !there).await?);
        }
        // It lives beside its first disk.
        let directory =
            disks.first().and_then(|disk| disk.rsplit_once('/')).map_or("", |(d, _)| d).to_owned();
        job.step(self, &MAKE, Made { machine: name, directory })
            .run(async |made, cx| {
                if there {
                    return Ok(Some(made.machine));
                }
                let lock = self.making(&made.machine);
                let _alone = tokio::select! {
                    alone = lock.lock() => alone,
                    () = cx.stopped() => return Err(cx.stop_error()),
                };
                let spec = MachineSpec {
                    name: made.machine.clone(),
                    directory: made.directory,
                    tags: self.template_tags(&key),
                    note: format!("vcld: template of {}", manifest.image_ref()),
                    os: manifest.os,
                    hardware: manifest.hardware.clone(),
                    disks: disks.clone(),
                    cards: Vec::new(),
                };
                cx.check().await?;
                self.create_machine(&spec, &Watcher::of(&cx)).await?;
                match self.mark_as_template(&made.machine).await {
                    Err(e) if e.kind == ErrorKind::Unsupported => {
                        let machine = self.must(&made.machine).await?;
                        self.unregister(&made.machine, &machine).await?;
                        cx.event("clone-unsupported", without(&e));
                        Ok(None)
                    }
                    marked => Ok(Some(marked.map(|()| made.machine)?)),
                }
            })
            .await
    }

    /// Makes a computer's machine from a template; `false` where the server does not clone.
    pub(super) async fn machine_by_clone(
        &self,
        job: &mut Job,
        target: &Target<'_>,
        template: &str,
        machine: &str,
    ) -> vcl_job::Result<bool> {
        let cloned = Cloned { from: template.to_owned(), machine: machine.to_owned() };
        let limit = target.limits.copy;
        let done = job
            .step(self, &CLONE, cloned)
            .run(async |cloned, cx| {
                let watcher = Watcher::of(&cx).within(limit);
                cx.check().await?;
                let tags = self.tags_for(target.computer.name.as_str());
                let mut patience = Patience::of(&cx, &watcher, limit);
                loop {
                    match self.clone_anew(&cloned, Source::Template, &tags, &watcher).await {
                        Ok(()) => return Ok(true),
                        Err(e) if e.kind == ErrorKind::Unsupported => {
                            cx.event("clone-unsupported", without(&e));
                            return Ok(false);
                        }
                        Err(e) => patience.outwait(e).await?,
                    }
                }
            })
            .await?;
        if done {
            job.step(self, &CONFIGURE, machine.to_owned())
                .run(async |name, cx| {
                    let (spec, machine) = (self.spec(target).await?, self.must(&name).await?);
                    cx.check().await?;
                    Ok(self.reconfigure(&machine, &spec, &Watcher::of(&cx)).await?)
                })
                .await?;
        }
        Ok(done)
    }

    /// Captures a computer into a template, and its disks into the staging.
    pub(super) async fn capture_to_template(
        &self,
        job: &mut Job,
        target: Target<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        loaded(&target)?;
        let machine = Self::machine_name(&target.computer.name);
        let described = self.pre_capture(job, target, &machine).await?;
        // What it is of stands in its tags: a machine's name has room for 80 characters.
        let growing = format!("vcl-new-{}", uuid::Uuid::now_v7().simple());
        let mut tags = self.tags_for(target.computer.name.as_str());
        tags.push((IMAGE.to_owned(), BECOMING.to_owned()));
        tags.push((JOB.to_owned(), job.number().to_string()));
        let limit = target.limits.copy;
        let kept = job
            .step(self, &KEEP, Cloned { from: machine, machine: growing })
            .run(async |cloned, cx| {
                let watcher = Watcher::of(&cx).within(limit);
                cx.check().await?;
                let mut patience = Patience::of(&cx, &watcher, limit);
                loop {
                    match self.clone_anew(&cloned, Source::Rest, &tags, &watcher).await {
                        Ok(()) => break,
                        Err(e) if e.kind == ErrorKind::Unsupported => {
                            cx.event("clone-unsupported", without(&e));
                            return Ok(None);
                        }
                        Err(e) => patience.outwait(e).await?,
                    }
                }
                let disks = self.must(&cloned.machine).await?.disks();
                let disks = disks.into_iter().filter_map(|(path, _)| self.name_of(&path).map(str::to_owned));
                Ok(Some((cloned.machine, disks.collect::<Vec<_>>())))
            })
            .await?;
        let Some((growing, paths)) = kept else {
            // A server that does not clone still copies disks.
            return self.capture_disks(job, &target, &described, staging).await;
        };
        if paths.len() != described.disks.len() {
            let (has, source) = (paths.len(), described.disks.len());
            let message = format!("{growing} has {has} disks on this datastore, and its source {source}");
            return Err(vcl_job::Error::new(Kind::Corrupt, message));
        }
        let (mut disks, mut contents) = (Vec::new(), Vec::new());
        for (n, (path, (_, size))) in paths.iter().zip(&described.disks).enumerate() {
            contents.push(self.fetch_disk(job, &target, n, (path, *size), staging).await?);
            disks.push(CapturedDisk { file: Staging::disk_name(n), format: "qcow2".into() });
        }
        let manifest = &target.revision.manifest;
        let key = key(&contents, manifest.os, &manifest.hardware);
        job.step(self, &ENTER, Cloned { from: growing, machine: template_name(&key) })
            .run(async |entering, cx| {
                cx.check().await?;
                Ok(self.enter_template(&target, &entering, &key, &Watcher::of(&cx)).await?)
            })
            .await?;
        Ok(self.captured(&target, &described, disks))
    }

    /// Makes what was cloned from a captured machine the template of its content.
    async fn enter_template(
        &self,
        target: &Target<'_>,
        entering: &Cloned,
        key: &str,
        watcher: &Watcher,
    ) -> Result<()> {
        let name = &entering.machine;
        let manifest = &target.revision.manifest;
        if self.ours(name).await?.is_some() {
            // Somebody has captured the same before; or this is a second try, and nothing is left under the old name.
            self.remove_machine(&entering.from, watcher).await?;
        } else {
            let growing = self.must(&entering.from).await?;
            let spec = MachineSpec {
                name: name.clone(),
                directory: String::new(),
                tags: self.template_tags(key),
                note: format!("vcld: template captured from {}", target.computer.name),
                os: manifest.os,
                hardware: manifest.hardware.clone(),
                disks: Vec::new(),
                cards: Vec::new(),
            };
            self.reconfigure(&growing, &spec, watcher).await?;
            self.rename_machine(&growing, name, watcher).await?;
        }
        self.mark_as_template(name).await
    }

    /// Clones a machine. What an earlier try left under the new name is removed first: whether it is whole nobody can tell.
    async fn clone_anew(
        &self,
        cloned: &Cloned,
        of: Source,
        tags: &[(String, String)],
        watcher: &Watcher,
    ) -> Result<()> {
        self.remove_machine(&cloned.machine, watcher).await?;
        let from = match of {
            Source::Template => self.must(&cloned.from).await?,
            Source::Rest => self.at_rest(&cloned.from).await?,
        };
        self.clone_machine(&from, &cloned.machine, tags, watcher).await.map_err(busy)
    }
    async fn undo_clone(&self, name: &str) -> Result<()> {
        let watcher = Watcher::doing();
        let mut patience = Patience::undoing(&watcher);
        while let Err(e) = unless_others(self.remove_machine(name, &watcher).await) {
            patience.outwait(e).await?;
        }
        Ok(())
    }

    async fn clone_machine(
        &self,
        from: &Machine,
        name: &str,
        tags: &[(String, String)],
        watcher: &Watcher,
    ) -> Result<()> {
        let size = from.disks().iter().map(|(_, size)| size).sum();
        let (place, watcher) = (self.place().await?, watcher.clone().bytes(size));
        let _turn = self.turn(&watcher).await?;
        let what = format!("cloning {} as {name}", from.reference);
        let cloned = self.client.task(&what, &watcher, |_| {
            Request::new("CloneVM_Task", &from.reference, |x| {
                x.reference("folder", &place.folder).text("name", name);
                x.element("spec", |x| {
                    x.element("location", |x| {
                        x.reference("datastore", &place.datastore).reference("pool", &place.pool);
                    });
                    x.text("template", false);
                    x.element("config", |x| extra(x, tags));
                    x.text("powerOn", false);
                });
            })
        });
        cloned.await.map(drop)
    }

    async fn mark_as_template(&self, name: &str) -> Result<()> {
        let machine = self.must(name).await?;
        if machine.template {
            return Ok(());
        }
        let what = format!("making {name} a template");
        let mark = |_: &_| Request::new("MarkAsTemplate", &machine.reference, |_| {});
        self.client.change(&what, mark).await.map(drop)
    }

    /// Makes the server forget a machine whose files stay.
    async fn unregister(&self, name: &str, machine: &Machine) -> Result<()> {
        let what = format!("forgetting the machine {name}");
        let forget = |_: &_| Request::new("UnregisterVM", &machine.reference, |_| {});
        match self.client.change(&what, forget).await {
            Err(e) if e.kind == ErrorKind::NotFound => {}
            gone => drop(gone?),
        }
        // Another cannot be made where this file is.
        match self.name_of(&machine.file) {
            Some(file) => self.delete(file, &Watcher::doing()).await,
            None => Ok(()),
        }
    }

    async fn rename_machine(&self, machine: &Machine, name: &str, watcher: &Watcher) -> Result<()> {
        let what = format!("naming {} {name}", machine.reference);
        let named = self.client.task(&what, watcher, |_| {
            Request::new("Rename_Task", &machine.reference, |x| {
                x.text("newName", name);
            })
        });
        named.await.map(drop)
    }
}

fn without(e: &Error) -> String {
    let fault = fault_of(e).unwrap_or("refused");
    format!("the server does not clone ({fault}): the disks are copied instead")
}

pub(super) fn planned_clone(target: &Target<'_>) -> Vec<PlannedStep> {
    let machine = Site::machine_name(&target.computer.name);
    let template = template_name(&key_of(&target.revision.manifest));
    let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
    let mut steps = vec![step(FIND.name(), template.clone())];
    for (n, disk) in target.revision.manifest.disks.iter().enumerate() {
        let what = format!("{} ({}), unless the template is there", disk.file, disk.virtual_size);
        steps.push(step(&format!("{}[{n}]", SEND_IMAGE.name()), what));
    }
    steps.push(step(MAKE.name(), "over these disks, unless it is there".into()));
    steps.push(step(CLONE.name(), format!("{template} as {machine}")));
    steps.push(step(CONFIGURE.name(), machine));
    steps
}

pub(super) fn planned_capture(target: &Target<'_>) -> Vec<PlannedStep> {
    let machine = Site::machine_name(&target.computer.name);
    let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
    let mut steps = vec![step(KEEP.name(), machine)];
    for (n, disk) in target.revision.manifest.disks.iter().enumerate() {
        let what = format!("{} into the library's staging", disk.virtual_size);
        steps.push(step(&format!("{}[{n}]", FETCH_DISK.name()), what));
    }
    steps.push(step(ENTER.name(), "under the digest of its content".into()));
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_types::{DiskBus, Firmware};

    #[test]
    fn a_templates_name_fits_and_tells_all_disks() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let hardware = Hardware::default();
        let one = key(std::slice::from_ref(&a), OsName::Linux, &hardware);
        let two = key(&[a.clone(), b.clone()], OsName::Linux, &hardware);
        assert_eq!((one.len(), two.len()), (64, 64));
        assert_ne!(one, two);
        assert_ne!(two, key(&[b, a.clone()], OsName::Linux, &hardware));
        for other in [
            Hardware { firmware: Firmware::Uefi, ..hardware.clone() },
            Hardware { disk_bus: DiskBus::Ide, ..hardware.clone() },
        ] {
            assert_ne!(one, key(std::slice::from_ref(&a), OsName::Linux, &other));
        }
        assert_ne!(one, key(std::slice::from_ref(&a), OsName::Windows, &hardware));
        // What a clone is given of its own is no matter.
        let cpus = Hardware { cpus: 7, ..hardware };
        assert_eq!(one, key(&[a], OsName::Linux, &cpus));
        assert!(template_name(&two).len() <= 80);
    }
}
