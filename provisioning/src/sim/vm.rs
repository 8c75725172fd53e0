//! Machines of the world that are not vcld's, and images of them: as an admin's own on a hypervisor.

use super::capture::Source;
use super::load::{NewDomain, NewOverlay, refused};
use super::machine::{Content, Domain, Effect, Identity, Machine, Overlay};
use super::world::World;
use super::{Sim, look};
use crate::{Captured, Provisioning, Result, VmTarget};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use vcl_images::Staging;
use vcl_job::{Job, Step, TRANSIENT};
use vcl_types::api::{PowerState, VmDisk, VmPreview, VmView};
use vcl_types::{ByteSize, Hardware};

/// How large the disks of the founded machines are, in bytes.
const SIZE: u64 = 4 << 20;

/// A source as it was when the job began.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SourceMachine {
    machine: Machine,
    ran: bool,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SourcePower {
    vm: String,
    ran: bool,
}

pub(super) const READ_SOURCE: Step<Sim, String> = Step::new("read source").retry(TRANSIENT);
pub(super) const SHUT_SOURCE: Step<Sim, SourcePower> =
    Step::new("shut source down").retry(TRANSIENT).undo(|sim, source| {
        Box::pin(async move {
            if source.ran {
                sim.put(&source.vm, Effect::Start).await?;
            }
            Ok(())
        })
    });
pub(super) const START_SOURCE: Step<Sim, String> = Step::new("start source again").retry(TRANSIENT);

/// Gives a new world its machines that are not vcld's: a server that runs, a template that does not, and one with two
/// disks. They are written down as done by hand, before anybody else is in the world.
pub(super) fn found(world: &World) -> io::Result<()> {
    const FOUND: [(&str, bool, u32, &[&str]); 3] = [
        ("old-web", true, 1, &["/etc/nginx.conf", "/home/alice/notes", "/srv/www/index.html"]),
        ("template", false, 1, &["/etc/motd"]),
        ("two-disks", false, 2, &["/home/bob/thesis"]),
    ];
    world.found(|put| {
        for (name, runs, disks, files) in FOUND {
            put(name, Effect::MakePlace)?;
            for disk in 0..disks {
                let mut content = Content { base: format!("{name}, disk {disk}"), ..Content::default() };
                if disk == 0 {
                    content.identity = Some(Identity::of(name, 0));
                    content.hostname = Some(name.to_owned());
                    let text = |path: &&str| ((*path).to_owned(), format!("{path} of {name}"));
                    content.files = files.iter().map(text).collect();
                }
                let overlay = Overlay { on: format!("{name}, as it was installed"), size: SIZE, content };
                put(name, Effect::MakeOverlay { disk, overlay })?;
            }
            put(name, Effect::Define { disks: (0..disks).collect(), owner: None })?;
            if runs {
                put(name, Effect::Start)?;
            }
        }
        Ok(())
    })
}

impl Sim {
    pub(super) async fn capture_source(
        &self,
        job: &mut Job,
        target: VmTarget<'_>,
        staging: &Staging,
    ) -> vcl_job::Result<Captured> {
        let source = job
            .step(self, &READ_SOURCE, target.vm.to_owned())
            .run(async |vm, cx| {
                self.pace(&cx, &vm, READ_SOURCE.name()).await?;
                Ok(self.read_source(&vm).await?)
            })
            .await?;
        // The throw-away machine is named after the staging, which is this job's alone.
        let machine = format!("vcl-capture-{}", staging.name());
        job.step(self, &SHUT_SOURCE, SourcePower { vm: target.vm.to_owned(), ran: source.ran })
            .run(async |source, cx| {
                self.pace(&cx, &source.vm, SHUT_SOURCE.name()).await?;
                self.put(&source.vm, Effect::CutPower).await
            })
            .await?;
        // A part of its own: it is shut down again in this job, and then nobody must start it anew.
        let mut throw_away = job.part("throw-away");
        let making = &mut throw_away;
        self.prepare(making, &machine).await?;
        let mut disks = Vec::new();
        for disk in source.machine.domain.iter().flat_map(|d| &d.disks) {
            let Some(there) = source.machine.overlays.get(disk) else { continue };
            disks.push(self.overlay_on(making, &machine, *disk, target.vm, there).await?);
        }
        let owner = format!("throw-away copy of {}", target.vm);
        self.define(making, NewDomain { machine: machine.clone(), owner, disks: disks.clone() }).await?;
        self.start(making, &machine).await?;
        self.find_address(making, &machine, None).await?;
        self.host_keys(making, &machine).await?;
        let hooks = vcl_os::linux::hooks_of(target.hooks, super::os::PRE_CAPTURE)?;
        let mut part = job.part("pre_capture");
        self.os.generalise_machine(&mut part, &machine, hooks, self.end_state()).await?;
        self.off(job, &machine).await?;
        let hardware = Hardware::default();
        let source_of = Source { machine: &machine, disks, variables: None, boot: None, hardware };
        let captured = self.copy_machine(job, source_of, staging, target.limits.copy).await?;
        self.take_away(job, &machine).await?;
        if source.ran {
            job.step(self, &START_SOURCE, target.vm.to_owned())
                .run(async |vm, cx| {
                    self.pace(&cx, &vm, START_SOURCE.name()).await?;
                    self.put(&vm, Effect::Start).await
                })
                .await?;
        }
        Ok(captured)
    }

    /// An overlay on another machine's disk, as it is when the step runs.
    async fn overlay_on(
        &self,
        job: &mut Job,
        machine: &str,
        disk: u32,
        vm: &str,
        there: &Overlay,
    ) -> vcl_job::Result<u32> {
        let new = NewOverlay {
            machine: machine.to_owned(),
            disk,
            on: format!("disk {disk} of {vm}"),
            format: "machine".into(),
            size: there.size,
            base: String::new(),
        };
        job.step(self, &super::load::OVERLAY, new)
            .key(disk)
            .run(async |new, cx| {
                self.pace(&cx, &new.machine, super::load::OVERLAY.name()).await?;
                let overlay = Overlay { on: new.on, size: new.size, content: there.content.clone() };
                self.put(&new.machine, Effect::MakeOverlay { disk: new.disk, overlay }).await?;
                Ok(new.disk)
            })
            .await
    }

    async fn read_source(&self, vm: &str) -> Result<SourceMachine> {
        let machine = self.machine(vm).await?;
        let Some(domain) = &machine.domain else {
            let context = format!(
                "the simulated world has no machine `{vm}`; see: vclctl vm list {}",
                self.settings.name
            );
            return Err(crate::Error::new(crate::ErrorKind::NotFound, context));
        };
        if let Some(owner) = &domain.owner {
            return refused(format!(
                "{vm} is vcld's own machine for {owner}; capture it with: vclctl capture {owner}"
            ));
        }
        let ran = domain.running;
        Ok(SourceMachine { machine, ran })
    }

    pub(super) async fn preview_source(&self, vm: &str) -> Result<VmPreview> {
        let source = self.read_source(vm).await?;
        let view = view(vm, &source.machine);
        let files = source.machine.content().map(|c| c.files.clone()).unwrap_or_default();
        let mut preview = VmPreview {
            to_copy: ByteSize(view.disks.iter().filter_map(|d| d.allocated).map(ByteSize::bytes).sum()),
            vm: view,
            free: ByteSize(0),
            would_change: vec!["machine-id".into(), "1 ssh host key".into(), "hostname".into()],
            would_keep: users(&files),
            missing: Vec::new(),
            notes: vec!["it is simulated: the image will not boot on a real machine".into()],
        };
        if source.ran {
            let minute = "it is shut down and started again as it was; it is off until the copy is done";
            preview.notes.push(minute.into());
        }
        Ok(preview)
    }

    pub(super) async fn list(&self) -> Result<Vec<VmView>> {
        let mut views = Vec::new();
        for name in self.all_names()? {
            let machine = self.machine(&name).await?;
            if machine.domain.is_some() {
                views.push(view(&name, &machine));
            }
        }
        Ok(views)
    }

    pub(super) fn all_names(&self) -> Result<Vec<String>> {
        self.world.is_there()?;
        self.world.names().map_err(|e| {
            let context = format!("reading the simulated world in {}", self.world.directory());
            crate::Error::caused(crate::ErrorKind::Failed, context, e)
        })
    }
}

/// The accounts that have something at home.
pub(super) fn users(files: &BTreeMap<String, String>) -> Vec<String> {
    let homes = files.keys().filter_map(|path| path.strip_prefix("/home/")?.split('/').next());
    let mut users: Vec<String> = homes.map(|user| format!("user {user}")).collect();
    users.dedup();
    users
}

fn view(name: &str, machine: &Machine) -> VmView {
    let domain = machine.domain.as_ref();
    let disk = |n: &u32| {
        let overlay = machine.overlays.get(n)?;
        Some(VmDisk {
            source: overlay.on.clone(),
            format: "qcow2".into(),
            virtual_size: Some(ByteSize(overlay.size)),
            allocated: Some(ByteSize(overlay.content.files.values().map(|t| t.len() as u64).sum())),
        })
    };
    let state = if look::power_state(machine) == PowerState::On { "running" } else { "shut off" };
    VmView {
        name: name.to_owned(),
        state: state.to_owned(),
        disks: domain.map(|d| d.disks.iter().filter_map(disk).collect()).unwrap_or_default(),
        hardware: Hardware::default(),
        managed: domain.and_then(|d: &Domain| d.owner.as_ref()?.parse().ok()),
    }
}
