//! What jobs do: one function a kind, made of durable steps.
//!
//! A flow owns the daemon's side of a job: what stands in the queue and in the library. What happens on hypervisors
//! and in guests is the backend's, which it calls with a part of the job. The capture flow calls no OS method at all
//! (VCL-94, point 2).
//!
//! Parts are named after whom they belong to, so that a job can be undone from its journal alone: `load`, `capture`,
//! `resume` and `unload` are the backend's, `post_load` and `pre_capture` inside them the OS module's, and the rest is
//! the flow's own.

mod backup;
mod capture;
mod configure;
mod fetch;
mod give_back;
mod image;
pub(crate) mod keep;
mod lend;
mod load;
#[cfg(all(test, feature = "sim"))]
mod matrix;
pub(crate) mod nat;
mod publish;
mod recovery;
mod test_image;
#[cfg(test)]
mod tests;
mod unload;

pub(crate) use test_image::CLONES;

use crate::node::{Guests, Node, Refusal, RefusalKind};
use std::future::Future;
use std::sync::Arc;
use vcl_job::{
    AnyStep, Control, Error, Flow, Job, Journal, Kind, Observer, Outcome, Owners, Run, Undo, execute, undo_in,
};
use vcl_os::Os;
use vcl_provisioning::Provisioning;
use vcl_queue::Claim;
use vcl_types::{BackendName, JobRequest};

/// One job under way, and the owner of the flow's own steps.
pub(crate) struct Running {
    node: Arc<Node>,
    claim: Claim,
}

/// Every step of the daemon's own, those no longer used included.
const STEPS: &[&dyn AnyStep<Running>] = &[
    &load::TAKE,
    &load::RECORD,
    &unload::RELEASE,
    &lend::GIVE,
    &lend::TAKE,
    &lend::FILLED,
    &lend::USABLE,
    &lend::TAINT,
    &lend::LOOK,
    &give_back::END,
    &nat::ALLOT,
    &nat::OPEN,
    &nat::CLOSE,
    &test_image::START,
    &test_image::LOADED,
    &test_image::IDENTITY,
    &test_image::SCRIPT,
    &test_image::RECORD,
    &test_image::GIVE_BACK,
    &publish::STAGE,
    &publish::SEAL,
    &publish::PUBLISH,
    &publish::RECORD,
    &capture::HOLD,
    &capture::NOTE_ENDPOINT,
    &capture::MAINTENANCE,
    &image::IMPORT,
    &image::IMPORT_BOOT,
    &image::EXPORT,
    &image::VERIFY,
    &keep::DELETE_ROW,
    &keep::DELETE_FILES,
    &keep::DISCARD,
    &keep::FREE,
    &keep::BRING_BACK,
    &keep::REMEMBER,
    &keep::COPY_WHOLE,
    &keep::DIGEST_WHOLE,
    &keep::SWAP,
    &keep::REPLACE,
    &keep::RETIRE,
    &fetch::FETCH,
    &fetch::HOLD,
    &backup::SNAPSHOT,
    &backup::PIN,
    &backup::DUMP,
    &backup::COPY,
    &backup::COMPLETE,
    &backup::UNPIN,
    &configure::CONFIGURE,
    &configure::CHANGED,
];

#[async_trait::async_trait]
impl Undo for Running {
    async fn undo(&self, step: &str, intent: serde_json::Value) -> vcl_job::Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.kind {
            RefusalKind::NotFound => Kind::NotFound,
            RefusalKind::Forbidden | RefusalKind::Refused | RefusalKind::Invalid => Kind::Refused,
            RefusalKind::Busy => Kind::Busy,
            RefusalKind::Unavailable => Kind::Unreachable,
            RefusalKind::Internal => Kind::Fatal,
        };
        Self::new(kind, refusal.message)
    }
}

/// What a job that ended well has to say: what it made, such as `debian@2`.
type Made = Option<String>;

/// Runs a claimed job to its end or to where it must stop.
pub(crate) async fn run(
    node: Arc<Node>,
    claim: Claim,
    observer: Arc<dyn Observer>,
    control: Control,
) -> Outcome<Made> {
    let journal = node.queue.journal(&claim);
    run_on(journal, node, claim, observer, control).await
}

/// The same, with another journal than the queue's own around it.
async fn run_on(
    journal: Arc<dyn Journal>,
    node: Arc<Node>,
    claim: Claim,
    observer: Arc<dyn Observer>,
    control: Control,
) -> Outcome<Made> {
    let running = Running { node, claim };
    let request = running.claim.job.request.clone();
    // The newest revision is the one that was the newest when the job was queued: that one is kept for it.
    let settled = |image: vcl_types::ImageRef| running.claim.job.revision.clone().unwrap_or(image);
    let stage = Stage { running: &running, journal, observer, control };
    match request.clone() {
        JobRequest::Load { computer, image } => {
            let flow = Flow { name: "load", version: 1, deadline: None };
            stage
                .play(flow, running.begin_load(&computer, &settled(image)), async |job, input| {
                    running.load(job, input).await
                })
                .await
        }
        JobRequest::Unload { computer } => {
            let flow = Flow { name: "unload", version: 1, deadline: None };
            stage
                .play(flow, running.begin_unload(&computer), async |job, input| {
                    running.unload(job, input).await
                })
                .await
        }
        JobRequest::Configure { computer, manifest, dry_run } => {
            let flow = Flow { name: "configure", version: 1, deadline: None };
            let begin = running.begin_configure(&computer, &manifest, dry_run);
            stage.play(flow, begin, async |job, input| running.configure(job, input).await).await
        }
        JobRequest::Prepare { computer, image } => {
            let flow = Flow { name: "prepare", version: 1, deadline: None };
            let image = settled(image);
            let begin = running.begin_lend(&computer, &image, None, false);
            stage.play(flow, begin, async |job, input| running.prepare(job, input).await).await
        }
        JobRequest::Lend { reservation, computer, image, anew } => {
            let flow = Flow { name: "lend", version: 1, deadline: None };
            let image = settled(image);
            let begin = running.begin_lend(&computer, &image, Some(reservation), anew);
            stage.play(flow, begin, async |job, input| running.lend(job, input).await).await
        }
        JobRequest::Admit { reservation, computer } => {
            let flow = Flow { name: "admit", version: 1, deadline: None };
            let begin = running.begin_admit(&computer, reservation);
            stage.play(flow, begin, async |job, input| running.admit(job, input).await).await
        }
        JobRequest::Return { reservation, computer } => {
            let flow = Flow { name: "return", version: 1, deadline: None };
            let begin = running.begin_return(&computer, reservation);
            stage.play(flow, begin, async |job, input| running.give_back(job, input).await).await
        }
        JobRequest::Capture { computer, into, after, power_on, note, whole } => {
            let flow = Flow { name: "capture", version: 1, deadline: None };
            let begin = running.begin_capture(&computer, &into, after, power_on, note, whole);
            stage.play(flow, begin, async |job, input| running.capture(job, input).await).await
        }
        JobRequest::Import { image, path, boot, hardware, os, note } => {
            let flow = Flow { name: "import", version: 1, deadline: None };
            let begin = running.begin_import(&image, path, boot, hardware, (os, note));
            stage.play(flow, begin, async |job, input| running.import(job, input).await).await
        }
        JobRequest::CreateFromVm { image, backend, vm, os, note } => {
            let flow = Flow { name: "create-from-vm", version: 1, deadline: None };
            let begin = running.begin_from_vm(&image, backend, vm, os, note);
            stage.play(flow, begin, async |job, input| running.image_from_vm(job, input).await).await
        }
        JobRequest::Export { image, path, format } => {
            let flow = Flow { name: "export", version: 1, deadline: None };
            stage
                .play(flow, running.begin_export(&settled(image), path, &format), async |job, input| {
                    running.export(job, input).await
                })
                .await
        }
        JobRequest::Verify { image } => {
            let flow = Flow { name: "verify", version: 1, deadline: None };
            stage
                .play(flow, running.begin_verify(&settled(image)), async |job, input| {
                    running.verify(job, input).await
                })
                .await
        }
        JobRequest::TestImage { image, wait } => {
            let flow = Flow { name: "test-image", version: 1, deadline: None };
            let drain = stage.control.drain.clone();
            let image = settled(image);
            let begin = running.begin_test(&image, wait);
            stage.play(flow, begin, async |job, input| running.test_image(job, input, &drain).await).await
        }
        JobRequest::Fetch { image, .. } => {
            let flow = Flow { name: "fetch", version: 1, deadline: None };
            stage
                .play(flow, running.begin_fetch(&settled(image)), async |job, input| {
                    running.fetch(job, input).await
                })
                .await
        }
        JobRequest::Backup { directory, .. } => {
            let flow = Flow { name: "backup", version: 1, deadline: None };
            stage
                .play(flow, running.begin_backup(&directory), async |job, input| {
                    running.backup(job, input).await
                })
                .await
        }
        JobRequest::DeleteImage { image, now } => {
            let flow = Flow { name: "delete-image", version: 2, deadline: None };
            stage
                .play(flow, running.begin_delete(&image, now), async |job, input| {
                    running.delete(job, input).await
                })
                .await
        }
        JobRequest::Undelete { image } => {
            let flow = Flow { name: "undelete", version: 1, deadline: None };
            stage
                .play(flow, running.begin_undelete(&image), async |job, input| {
                    running.undelete(job, input).await
                })
                .await
        }
        JobRequest::Flatten { image } => {
            let flow = Flow { name: "flatten", version: 1, deadline: None };
            stage
                .play(flow, running.begin_flatten(&image), async |job, input| {
                    running.flatten(job, input).await
                })
                .await
        }
        JobRequest::Prune { image, keep, older_than_s, owner, now } => {
            let flow = Flow { name: "prune", version: 1, deadline: None };
            let rules = keep::rules(keep, older_than_s, owner);
            let begin = running.begin_prune(&image, &rules, now);
            stage.play(flow, begin, async |job, input| running.prune(job, input).await).await
        }
        // The queue gives none out. A newer program, or the next version of this one, goes on with it.
        JobRequest::Unknown(_) => {
            Outcome::Lost(Error::new(Kind::Refused, format!("this vcld does not know `{request}`")).failure())
        }
    }
}

struct Stage<'a> {
    running: &'a Running,
    journal: Arc<dyn Journal>,
    observer: Arc<dyn Observer>,
    control: Control,
}

impl Stage<'_> {
    async fn play<In, B, F, Fut>(self, flow: Flow, begin: B, work: F) -> Outcome<Made>
    where
        In: serde::Serialize + serde::de::DeserializeOwned,
        B: Future<Output = vcl_job::Result<In>>,
        F: FnOnce(Job, In) -> Fut,
        Fut: Future<Output = vcl_job::Result<Made>>,
    {
        let Running { node, claim } = self.running;
        // A job of a backend that is no longer configured can still run what needs none, and be undone as far as that.
        let backend = claim.job.backend.as_ref().and_then(|name| node.backends.get(name));
        let guests = Guests(node);
        let os: &dyn Undo = match backend.and_then(|backend| backend.os()) {
            Some(own) => own,
            None => &guests,
        };
        let mut parts: Vec<(&str, &dyn Undo)> =
            vec![("post_load", os), ("pre_capture", os), ("sanitize", os), ("access", os)];
        if let Some(backend) = backend {
            let backend: &dyn Undo = &**backend;
            parts.extend(["load", "capture", "resume", "unload"].map(|part| (part, backend)));
        }
        let run = Run {
            journal: self.journal,
            observer: self.observer,
            control: self.control,
            owners: Owners { flow: self.running, parts: &parts },
        };
        execute(run, flow, begin, work).await
    }
}

impl Running {
    fn backend(&self, name: &BackendName) -> vcl_job::Result<&dyn Provisioning> {
        Ok(&**self.node.backend(name)?)
    }
    fn os(&self, name: vcl_types::OsName) -> vcl_job::Result<&dyn Os> {
        Ok(&**self.node.os(name)?)
    }
    fn job(&self) -> vcl_types::JobId {
        self.claim.id()
    }
}
