//! Loading, resuming and unloading: what a node boots next, its power, and waiting for what comes of it.

use super::Xcat;
use super::away::STEP;
use super::boot::{ADDRESS, LONG, WAIT_FOR_SSH};
use super::capture::{CHECK, POWER_OFF, SEND, STORE};
use super::client::Attributes;
use super::imaging::{CHOOSE_BOX, CLOSE_BOX, OPEN_BOX, is_boot, is_booted, opened};
use super::task::{self, Manners};
use crate::inbox::{Inbox, Place, Takes};
use crate::{Error, ErrorKind, Provisioning, Target, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use vcl_images::{Format, Progress, digest, qemu_img, with_room};
use vcl_job::{Cx, Job, Kind, Result, Step, TRANSIENT};
use vcl_types::api::PlannedStep;
use vcl_types::{Computer, Endpoint};

/// How long a node's power may take to become what was asked for.
const POWER: Duration = Duration::from_secs(120);
/// The part of a load whose steps are behind the restoring.
const RESTORED: &str = "restored";

/// What a step does to a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Node {
    pub(super) node: String,
    /// Whether undoing it cuts the power.
    pub(super) cut: bool,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Flat {
    pub(super) from: String,
    pub(super) place: Place,
}

/// A raw copy of the revision's disk, for the node to fetch. It goes with its box.
pub(super) const FLATTEN: Step<Xcat, Flat> = Step::new("flatten disk").deadline(LONG);
pub(super) const PACK: Step<Xcat, Place> = Step::new("pack imaging task");
/// What xCAT says of the node before anything is changed: an old `booted` is not to be taken for a new one.
pub(super) const LOOK: Step<Xcat, String> = Step::new("look at node").deadline(STEP).retry(TRANSIENT);
pub(super) const ARM: Step<Xcat, Node> =
    Step::new("arm next boot").deadline(STEP).retry(TRANSIENT).undo(|host, what| {
        Box::pin(async move {
            host.waiting(|| host.client.set_bootstate(&what.node, json!({ "state": "boot" }))).await
        })
    });
/// Arms the node and boots it. Both in one, so that running it again arms again: a node moves on when it has begun.
pub(super) const BOOT_ARMED: Step<Xcat, Node> =
    Step::new("boot armed").deadline(STEP).retry(TRANSIENT).undo(|host, what| {
        Box::pin(async move {
            let state = || host.client.set_bootstate(&what.node, json!({ "state": "boot" }));
            host.waiting(state).await?;
            host.uncut(&what).await
        })
    });
pub(super) const INSTALL: Step<Xcat, Node> = Step::new("wait for installation").deadline(LONG);
/// Says that the node boots from its disk: nothing to undo, since that is what a node does that nobody uses.
pub(super) const DISARM: Step<Xcat, Node> = Step::new("boot from disk").deadline(STEP).retry(TRANSIENT);
/// Powers the node on.
pub(super) const POWER_ON: Step<Xcat, Node> = Step::new("power on")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, what| Box::pin(async move { host.uncut(&what).await }));
/// Powers the node off and on.
pub(super) const RESTART: Step<Xcat, Node> = Step::new("restart")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, what| Box::pin(async move { host.uncut(&what).await }));
pub(super) const RESTORE: Step<Xcat, Node> = Step::new("restore disk").deadline(LONG);

impl Xcat {
    async fn uncut(&self, what: &Node) -> Result<()> {
        if what.cut { self.switch(&what.node, false).await } else { Ok(()) }
    }

    /// Brings a node's power to what it should be, and sees that it is: service processors say yes to much.
    pub(super) async fn switch(&self, node: &str, on: bool) -> Result<()> {
        let began = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            if self.waiting(|| self.client.power(node)).await? == on {
                return Ok(());
            }
            // One that forgot is asked once more.
            if asked.is_none_or(|asked| asked.elapsed() > POWER / 3) {
                let action = if on { "on" } else { "off" };
                self.waiting(|| self.client.set_power(node, action)).await?;
                asked = Some(Instant::now());
                continue;
            }
            if began.elapsed() > POWER {
                let word = if on { "on" } else { "off" };
                let message = format!(
                    "{node} was told to power {word} and has not for {} s: its service processor says yes and does nothing",
                    POWER.as_secs()
                );
                return Err(vcl_job::Error::new(Kind::Unreachable, message));
            }
            let pause = self.settings.poll.min(Duration::from_secs(2));
            match vcl_job::doing() {
                Some(doing) => tokio::select! {
                    () = doing.stopped() => return Err(doing.stop_error()),
                    () = tokio::time::sleep(pause) => {} // why: a service processor tells nobody when it is done
                },
                None => tokio::time::sleep(pause).await, // why: the same, outside of any job
            }
        }
    }

    pub(super) async fn load_computer(&self, job: &mut Job, target: Target<'_>) -> Result<Endpoint> {
        let node = self.node(&target.computer.name);
        match self.settings.osimages.get(target.revision.manifest.image.as_str()) {
            Some(osimage) => self.install(job, node, osimage).await?,
            None => self.restore(job, node, target).await?,
        }
        self.boot(job, target).await
    }

    /// Has xCAT install an osimage.
    async fn install(&self, job: &mut Job, node: String, osimage: &str) -> Result<()> {
        let before = self.look_before(job, &node).await?;
        self.boot_armed(job, &node, || Ok(json!({ "osimage": osimage }))).await?;
        let what = Node { node, cut: false };
        job.step(self, &INSTALL, what)
            .run(async |what, cx| self.watch_install(&cx, &what.node, &before).await)
            .await
    }

    /// Waits until xCAT has installed a node: it left `install`, and has booted since we began.
    async fn watch_install(&self, cx: &Cx, node: &str, before: &Attributes) -> Result<()> {
        let (began, limit) = (Instant::now(), self.settings.install);
        let (mut last, mut changed) = (before.clone(), began);
        let mut heard = false;
        loop {
            let now = self.waiting(|| self.client.attributes(node)).await?;
            let installs =
                ["install", "netboot", "statelite"].iter().any(|word| now.currstate.starts_with(word));
            if !installs && is_booted(&now, before) {
                return Ok(());
            }
            if now.status == "failed" && now.statustime != before.statustime {
                let message = format!(
                    "xCAT says that the installation of {node} failed; its own log on the management node tells why"
                );
                return Err(vcl_job::Error::new(Kind::Fatal, message));
            }
            if now != last {
                let powering = now.status.starts_with("powering") || now.statustime == before.statustime;
                heard |= !powering;
                cx.event(
                    "installing",
                    format!("{node}: {} ({})", or_nothing(&now.status), or_nothing(&now.currstate)),
                );
                (last, changed) = (now, Instant::now());
            }
            let (patience, key) = match heard {
                true => (self.settings.no_progress, "no_progress"),
                false => (self.settings.contact, "contact"),
            };
            let quiet = changed.elapsed();
            if quiet > patience || began.elapsed() > limit {
                let (seconds, all) = (quiet.as_secs(), began.elapsed().as_secs());
                let message = format!(
                    "{node} is not installed after {all} s: nothing has changed for {seconds} s ({key}), it boots `{}` and xCAT last heard `{}`",
                    or_nothing(&last.currstate),
                    or_nothing(&last.status)
                );
                return Err(vcl_job::Error::new(Kind::Deadline, message));
            }
            tokio::select! {
                () = cx.stopped() => return Err(cx.stop_error()),
                () = tokio::time::sleep(self.settings.poll) => {} // why: xCAT tells nobody when a node has changed
            }
        }
    }

    /// Writes the revision's disk to the node's.
    async fn restore(&self, job: &mut Job, node: String, target: Target<'_>) -> Result<()> {
        let inbox = self.lent()?;
        let manifest = &target.revision.manifest;
        let refuse = |why: &str| {
            let image = manifest.image_ref();
            Err(vcl_job::Error::new(Kind::Refused, format!("{image} cannot be restored to {node}: {why}")))
        };
        let [disk] = manifest.disks.as_slice() else {
            return refuse("it has not exactly one disk, and a node has one that counts");
        };
        if disk.virtual_size.bytes() % 512 != 0 {
            return refuse("its disk's size is not one of whole sectors");
        }
        let takes = Takes { disk: 0 };
        let place = self.open_box(job, inbox, target.computer.name.as_str(), takes).await?;
        let flat = Flat { from: target.revision.path(&disk.file), place: place.clone() };
        let format = format(&disk.format)?;
        job.step(self, &FLATTEN, flat)
            .run(async |flat, cx| {
                let to = flat.place.out().join("disk0");
                let (from, to) = (flat.from.as_ref(), to.as_std_path());
                let from = qemu_img::ConvertFrom { path: from, format };
                let directory = flat.place.out();
                let work = || async {
                    let options = qemu_img::ConvertOptions::default();
                    let made =
                        qemu_img::convert(&cx, from, to, Format::Raw, &Progress::of(&cx), &options).await;
                    if made.is_err() {
                        let _ = std::fs::remove_file(to);
                    }
                    Ok(made?)
                };
                with_room(&cx, directory.as_std_path(), async || Some(disk.virtual_size.bytes()), work).await
            })
            .await?;
        job.step(self, &PACK, place.clone())
            .run(async |place, cx| {
                let (raw, scratch) = (place.out().join("disk0"), place.directory.join("in"));
                let progress = Progress::of(&cx);
                let content =
                    digest::content(&cx, raw.as_std_path(), Format::Raw, scratch.as_std_path(), &progress)
                        .await?;
                let work = task::Work::Restore(content.virtual_size, &content.chunks);
                self.pack(inbox, &place, takes, work).await
            })
            .await?;
        let before = self.look_before(job, &node).await?;
        self.boot_armed(job, &node, || run_image(inbox, &place, takes)).await?;
        let limit = target.limits.copy;
        job.step(self, &RESTORE, Node { node: node.clone(), cut: false })
            .run(async |what, cx| {
                self.watch(&cx, inbox, (&what.node, &place), &before, limit).await.map(drop)
            })
            .await?;
        self.disarm(job, &node).await?;
        self.restart(&mut job.part(RESTORED), &node).await?;
        self.close_box(job, place).await
    }

    /// Writes the task's archive where its node fetches it.
    pub(super) async fn pack(
        &self,
        inbox: &dyn Inbox,
        place: &Place,
        takes: Takes,
        work: task::Work<'_>,
    ) -> Result<()> {
        let opened = opened(inbox, place, takes)?;
        let archive = task::pack(&opened, self.settings.disk.as_deref(), work, Manners::default())?;
        let (to, growing) = (place.out().join(task::FILE), place.directory.join("task.new"));
        let written = async {
            tokio::fs::write(&growing, archive).await?;
            tokio::fs::rename(&growing, &to).await
        };
        written.await.map_err(|e| vcl_job::Error::caused(Kind::Fatal, format!("writing {to}"), e))
    }

    pub(super) async fn look_before(&self, job: &mut Job, node: &str) -> Result<Attributes> {
        let mut before: Attributes = job
            .step(self, &LOOK, node.to_owned())
            .run(async |node, _| {
                let mut known = self.waiting(|| self.client.attributes(&node)).await?;
                // It may hold the URL of an older box.
                if known.currstate.contains('/') {
                    known.currstate = "runimage".into();
                }
                Ok(known)
            })
            .await?;
        before.ip.clear();
        Ok(before)
    }

    /// Arms the node for when it reboots by itself. `state` may hold a box's URL, so it is no part of the intent.
    pub(super) async fn arm(
        &self,
        job: &mut Job,
        node: &str,
        state: impl Fn() -> Result<serde_json::Value> + Send + Sync,
    ) -> Result<()> {
        job.step(self, &ARM, Node { node: node.to_owned(), cut: false })
            .run(async |what, cx| {
                cx.check().await?;
                self.set_next(&cx, &what.node, state()?).await
            })
            .await
    }

    /// Arms the node and powers it off and on. A reset would be quicker, and is nothing where the node is off, nor where
    /// a service processor only says that it did it; so each half is seen to be true.
    async fn boot_armed(
        &self,
        job: &mut Job,
        node: &str,
        state: impl Fn() -> Result<serde_json::Value> + Send + Sync,
    ) -> Result<()> {
        let cut = self.settings.power_off;
        job.step(self, &BOOT_ARMED, Node { node: node.to_owned(), cut })
            .run(async |what, cx| {
                cx.check().await?;
                self.switch(&what.node, false).await?;
                cx.check().await?;
                self.set_next(&cx, &what.node, state()?).await?;
                cx.check().await?;
                self.switch(&what.node, true).await
            })
            .await
    }

    /// Says what the node boots next, and that it is to boot from the network.
    async fn set_next(&self, cx: &Cx, node: &str, state: serde_json::Value) -> Result<()> {
        self.waiting(|| self.client.set_bootstate(node, state.clone())).await?;
        if !self.settings.net_boot {
            return Ok(());
        }
        match self.waiting(|| self.client.boot_net_once(node)).await {
            // Not every service processor can; the network may be first in its order anyway.
            Err(e) if e.kind == Kind::Refused => {
                let why = e.failure().message;
                let message = format!(
                    "{node} does not take a boot order ({why}); it has to try the network first by itself"
                );
                cx.event("boot-order", message);
                Ok(())
            }
            result => result,
        }
    }

    pub(super) async fn disarm(&self, job: &mut Job, node: &str) -> Result<()> {
        job.step(self, &DISARM, Node { node: node.to_owned(), cut: false })
            .run(async |what, cx| {
                cx.check().await?;
                self.waiting(|| self.client.set_bootstate(&what.node, json!({ "state": "boot" }))).await
            })
            .await
    }

    /// Powers a node off and on.
    async fn restart(&self, job: &mut Job, node: &str) -> Result<()> {
        let cut = self.settings.power_off;
        job.step(self, &RESTART, Node { node: node.to_owned(), cut })
            .run(async |what, cx| {
                cx.check().await?;
                self.switch(&what.node, false).await?;
                cx.check().await?;
                self.switch(&what.node, true).await
            })
            .await
    }

    pub(super) async fn resume_computer(&self, job: &mut Job, target: Target<'_>) -> Result<Endpoint> {
        let node = self.node(&target.computer.name);
        self.disarm(job, &node).await?;
        job.step(self, &POWER_ON, Node { node, cut: false })
            .run(async |what, cx| {
                cx.check().await?;
                self.switch(&what.node, true).await
            })
            .await?;
        self.boot(job, target).await
    }

    pub(super) async fn unload_computer(&self, job: &mut Job, computer: &Computer) -> Result<()> {
        let node = self.node(&computer.name);
        self.disarm(job, &node).await?;
        if self.settings.power_off { self.power_off(job, node).await } else { Ok(()) }
    }

    pub(super) fn planned(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let node = self.node(&target.computer.name);
        let manifest = &target.revision.manifest;
        let guest = |end: bool| {
            let part = if end { "pre_capture" } else { "post_load" };
            let steps = target.os.plan(end.then(|| Provisioning::end_state(self)));
            steps
                .into_iter()
                .map(move |(name, what)| PlannedStep { name: format!("{part}/{name}"), what: what.into() })
        };
        let ssh = || {
            let limit = target.limits.boot.as_secs();
            [
                step(ADDRESS.name(), "as configured, or as xCAT has it".into()),
                step(WAIT_FOR_SSH.name(), format!("at most {limit} s")),
            ]
        };
        let open = || {
            [
                step(CHOOSE_BOX.name(), "by the computer and the job".into()),
                step(OPEN_BOX.name(), "in the daemon's inbox".into()),
            ]
        };
        let look = || step(LOOK.name(), "what xCAT says of it before it is changed".into());
        let close = || step(CLOSE_BOX.name(), "its URL leads nowhere then".into());
        let size =
            manifest.disks.first().map_or_else(String::new, |disk| format!(" ({})", disk.virtual_size));
        let mut steps = Vec::new();
        match work {
            Work::Load => {
                match self.settings.osimages.get(manifest.image.as_str()) {
                    Some(osimage) => {
                        steps.push(look());
                        steps.push(step(BOOT_ARMED.name(), format!("{node} installs osimage {osimage}")));
                        let limit = self.settings.install.as_secs();
                        steps.push(step(INSTALL.name(), format!("at most {limit} s")));
                    }
                    None => {
                        steps.extend(open());
                        steps.push(step(
                            FLATTEN.name(),
                            format!("the revision's disk{size}, raw, into the box"),
                        ));
                        steps.push(step(PACK.name(), "for the node to fetch".into()));
                        steps.push(look());
                        steps.push(step(BOOT_ARMED.name(), format!("{node} runs it")));
                        steps.push(step(RESTORE.name(), "what differs is fetched and written".into()));
                        steps.push(step(DISARM.name(), node.clone()));
                        let name = format!("{RESTORED}/{}", RESTART.name());
                        steps.push(step(&name, format!("power {node} off and on")));
                        steps.push(close());
                    }
                }
                steps.extend(ssh());
                steps.extend(guest(false));
            }
            Work::Resume => {
                steps.push(step(DISARM.name(), node.clone()));
                steps.push(step(POWER_ON.name(), node));
                steps.extend(ssh());
                steps.extend(guest(false));
            }
            Work::Capture => {
                steps.extend(open());
                steps.push(step(PACK.name(), "for the node to fetch".into()));
                steps.push(look());
                steps.push(step(ARM.name(), format!("{node} runs it at its next boot")));
                steps.extend(guest(true));
                let limit = target.limits.copy.as_secs();
                steps.push(step(
                    SEND.name(),
                    format!("{node} sends its disk{size} to the box, at most {limit} s"),
                ));
                steps.push(step(DISARM.name(), node.clone()));
                steps.push(step(POWER_OFF.name(), node));
                steps.push(step(CHECK.name(), "against the node's digest".into()));
                steps.push(step(STORE.name(), "into the library's staging".into()));
                steps.push(close());
            }
            Work::Unload => {
                steps.push(step(DISARM.name(), node.clone()));
                if self.settings.power_off {
                    steps.push(step(POWER_OFF.name(), node));
                }
            }
        }
        steps
    }
}

/// The state that has a node run what is in a box and then boot from its disk.
pub(super) fn run_image(inbox: &dyn Inbox, place: &Place, takes: Takes) -> Result<serde_json::Value> {
    let opened = opened(inbox, place, takes)?;
    let url = opened.url.expose();
    // xCAT takes the state apart at commas and at `=`, and the service system evaluates the URL in a shell.
    if !url.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_:/[]~".contains(&b)) {
        let what = "inbox.url has a character that xCAT takes for something else";
        return Err(Error::new(ErrorKind::Refused, what).into());
    }
    Ok(json!({ "state": format!("runimage={url}/{},boot", task::FILE) }))
}

fn format(name: &str) -> Result<Format> {
    name.parse().map_err(|_| {
        let message = format!("disks of format `{name}` are not known here: qcow2, raw and vmdk are");
        vcl_job::Error::new(Kind::Refused, message)
    })
}

fn or_nothing(text: &str) -> &str {
    if text.is_empty() {
        "nothing"
    } else if is_boot(text) {
        "its disk"
    } else {
        text
    }
}
