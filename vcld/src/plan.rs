//! What a job would do, found out without doing any of it.

mod keep;
mod test_image;

use crate::node::{Node, Refusal, RefusalKind};
use vcl_provisioning::{Capability, Provisioning, Work};
use vcl_types::api::{Plan, PlannedStep};
use vcl_types::{After, CaptureInto, Computer, ImageRef, JobRequest, Revision};

fn step(name: &str, what: impl Into<String>) -> PlannedStep {
    PlannedStep { name: name.into(), what: what.into() }
}
fn part(name: &str, steps: Vec<PlannedStep>) -> impl Iterator<Item = PlannedStep> {
    steps.into_iter().map(move |s| PlannedStep { name: format!("{name}/{}", s.name), what: s.what })
}

impl Node {
    /// The steps that a request would take now.
    ///
    /// # Errors
    /// The request would be refused, for the reason that is given.
    pub async fn plan(&self, request: &JobRequest) -> Result<Plan, Refusal> {
        let mut steps = Vec::new();
        match request {
            JobRequest::Load { computer, image }
            | JobRequest::Prepare { computer, image }
            | JobRequest::Lend { computer, image, .. } => {
                let row = self.queue.computer(computer).await?;
                let revision = self.here_or_coming(&mut steps, image).await?;
                self.check_imaging(&row.computer, &revision.manifest)?;
                if let Some(loaded) = &row.loaded {
                    let old = self.held(&loaded.image).await?;
                    steps.extend(part("unload", self.backend_plan(Work::Unload, &row.computer, &old)?));
                    steps.push(step("release computer", format!("{} is taken off it", loaded.image)));
                }
                steps.push(step("take computer", format!("{computer} becomes loading")));
                steps.extend(part("load", self.backend_plan(Work::Load, &row.computer, &revision)?));
                let image = revision.manifest.image_ref();
                for named in self.recipes(&row.computer, &image, revision.manifest.os)? {
                    steps.push(step(&format!("configure[{}]", named.name), named.recipe.in_words()));
                }
                steps
                    .push(step("record load", format!("{computer} holds {}", revision.manifest.image_ref())));
            }
            JobRequest::Configure { computer, manifest, dry_run } => {
                let row = self.queue.computer(computer).await?;
                let Some(loaded) = &row.loaded else {
                    let message =
                        format!("{computer} holds no image; load one first: vclctl load {computer} IMAGE");
                    return Err(Refusal::new(RefusalKind::Refused, message));
                };
                let os = self.queue.manifest(&loaded.image).await?.os;
                let dry = if *dry_run { ", and nothing is changed" } else { "" };
                let what =
                    format!("{}{dry}", self.recipe_for(manifest, &loaded.image, os)?.recipe.in_words());
                steps.push(step(&format!("configure[{manifest}]"), what));
            }
            JobRequest::Unload { computer } => {
                let row = self.queue.computer(computer).await?;
                let held = match &row.loaded {
                    Some(loaded) => Some(self.held(&loaded.image).await?),
                    None => None,
                };
                match held {
                    Some(old) => {
                        steps.extend(part("unload", self.backend_plan(Work::Unload, &row.computer, &old)?));
                    }
                    None => {
                        steps.push(step("unload", "it holds nothing; leftovers of its machine are removed"));
                    }
                }
                steps.push(step("release computer", format!("{computer} becomes available")));
            }
            JobRequest::Admit { reservation, computer } => {
                steps.push(step("mark as used", format!("nobody else gets {computer} as it is")));
                steps.push(step("access", format!("the users of reservation {reservation} are let in")));
                if let Some((nat, _)) = self.config.nats.of(computer) {
                    steps.push(step("open public ports", format!("on NAT host {nat}, for them alone")));
                }
            }
            JobRequest::Return { reservation, computer } => {
                if let Some((nat, _)) = self.config.nats.of(computer) {
                    steps.push(step("close public ports", format!("on NAT host {nat}")));
                }
                steps.push(step("sanitize", format!("the users' traces are taken off {computer}")));
                steps.push(step("unload", "unless nobody has used it"));
                steps.push(step("end reservation", format!("reservation {reservation} is over")));
            }
            JobRequest::Capture { computer, into, after, whole, .. } => {
                let row = self.queue.computer(computer).await?;
                let Some(loaded) = row.loaded else {
                    let message =
                        format!("{computer} holds no image; load one first: vclctl load {computer} IMAGE");
                    return Err(Refusal::new(RefusalKind::Refused, message));
                };
                let backend = &row.computer.backend;
                let capabilities = self.backend(backend)?.capabilities();
                capabilities.require(Capability::Capture, &format!("backend {backend}"))?;
                let revision = self.held(&loaded.image).await?;
                let image = match into {
                    CaptureInto::Next => &loaded.image.name,
                    CaptureInto::New(image) => image,
                };
                let number = self.queue.next_revision(image).await?;
                steps.push(step("hold computer", format!("{computer} is brought back if the capture fails")));
                let base = self.library.base(&loaded.image).ok().filter(|_| !whole);
                let stored = match base {
                    Some(_) => format!("in the library; what differs from {} is stored", loaded.image),
                    None => "in the library; the disks are stored whole".to_owned(),
                };
                steps.push(step("make staging", stored));
                steps.extend(part("capture", self.backend_plan(Work::Capture, &row.computer, &revision)?));
                self.publish_plan(&mut steps, &format!("{image}@{number}"));
                match after {
                    After::KeepOff => {}
                    After::Release => {
                        steps.extend(part(
                            "unload",
                            self.backend_plan(Work::Unload, &row.computer, &revision)?,
                        ));
                        steps.push(step("release computer", format!("{computer} becomes available")));
                    }
                    After::Resume => {
                        steps.extend(part(
                            "after/resume",
                            self.backend_plan(Work::Resume, &row.computer, &revision)?,
                        ));
                        steps.push(step("record endpoint", "with its new host keys"));
                    }
                }
            }
            JobRequest::Import { image, path, boot, hardware, .. } => {
                let found = vcl_images::sniff::sniff(path.as_ref())?;
                let number = self.queue.next_revision(image).await?;
                let hardware = hardware.clone().unwrap_or_default();
                steps.push(step("make staging", "in the library"));
                steps.push(step("import disk", format!("{path} ({})", found.format)));
                if boot.is_some() {
                    steps.push(step("import boot file", "kernel and initrd"));
                }
                self.publish_plan(&mut steps, &format!("{image}@{number} on {hardware}"));
            }
            JobRequest::CreateFromVm { image, backend, vm, os, .. } => {
                let preview = self.preview(backend, vm, *os).await?;
                steps.push(step("make staging", "in the library"));
                steps.push(step("capture/shut source down", format!("{vm}, which is {}", preview.vm.state)));
                steps.push(step("capture/define domain", "a throw-away machine over throw-away overlays"));
                steps.push(step("capture/pre_capture", "generalise the copy"));
                steps.push(step("capture/copy disk", format!("{}", preview.to_copy)));
                steps.push(step("capture/start source again", "if it ran"));
                self.publish_plan(&mut steps, &format!("{image}@1"));
            }
            JobRequest::Export { image, path, format } => {
                let known = self.queue.revision(image).await?;
                let exact = known.manifest.image_ref();
                for disk in &known.manifest.disks {
                    steps.push(step("export disk", format!("{exact} {} to {path} as {format}", disk.file)));
                }
            }
            JobRequest::Verify { image } => {
                let known = self.queue.revision(image).await?;
                steps.push(step("read again", format!("{}, {}", known.manifest.image_ref(), known.size)));
            }
            JobRequest::TestImage { image, .. } => self.test_plan(image, &mut steps).await?,
            JobRequest::Fetch { image, .. } => {
                let revision = self.here_or_coming(&mut steps, image).await?;
                if steps.is_empty() {
                    steps.push(step("nothing", format!("{} is here", revision.manifest.image_ref())));
                }
            }
            JobRequest::Backup { directory, .. } => {
                let revisions = self.library.revisions()?.revisions.len();
                steps.push(step("pin revisions", format!("{revisions}, so that none goes away meanwhile")));
                steps.push(step("copy database", "as it is at one moment"));
                steps.push(step("copy files", format!("those that {directory} does not have yet")));
                steps.push(step("complete", "the snapshot counts from here on"));
            }
            JobRequest::DeleteImage { .. }
            | JobRequest::Undelete { .. }
            | JobRequest::Flatten { .. }
            | JobRequest::Prune { .. } => self.keep_plan(request, &mut steps).await?,
            JobRequest::Unknown(_) => {
                return Err(Refusal::new(
                    RefusalKind::Refused,
                    format!("this vcld does not know `{request}`"),
                ));
            }
        }
        let (usual, hindrance) = self.prospects(request).await;
        Ok(Plan { title: request.to_string(), steps, usual, hindrance })
    }

    /// A revision as it lies here, or will after the steps that are added.
    async fn here_or_coming(
        &self,
        steps: &mut Vec<PlannedStep>,
        image: &ImageRef,
    ) -> Result<Revision, Refusal> {
        let known = self.queue.revision(image).await?;
        let exact = known.manifest.image_ref();
        match self.library.get(&exact) {
            Err(e) if e.kind == vcl_images::ErrorKind::NotFound && self.exchange.is_some() => {
                let holders = self.queue.holders(&exact).await?.join(", ");
                let from = if holders.is_empty() { "any node that has it".to_owned() } else { holders };
                steps.push(step("fetch/fetch revision", format!("{exact}, {}, from {from}", known.size)));
                steps.push(step("fetch/record holding", format!("{} holds {exact}", self.name)));
                Ok(self.library.future(&known.manifest)?)
            }
            here => Ok(here?),
        }
    }

    /// The revision that a computer was loaded from. Its files may lie on another node alone: what is planned needs
    /// what the manifest says.
    async fn held(&self, image: &ImageRef) -> Result<Revision, Refusal> {
        match self.library.get(image) {
            Err(e) if e.kind == vcl_images::ErrorKind::NotFound => {
                Ok(self.library.future(&self.queue.revision(image).await?.manifest)?)
            }
            here => Ok(here?),
        }
    }

    fn backend_plan(
        &self,
        work: Work,
        computer: &Computer,
        revision: &Revision,
    ) -> Result<Vec<PlannedStep>, Refusal> {
        let backend: &dyn Provisioning = &**self.backend(&computer.backend)?;
        Ok(backend.plan(work, &self.target(computer, revision, None)?))
    }

    fn publish_plan(&self, steps: &mut Vec<PlannedStep>, image: &str) {
        steps.push(step("verify and digest", "what was written"));
        steps.push(step("publish", format!("{image}, in {}", self.library.root().display())));
        steps.push(step("record revision", image));
    }
}
