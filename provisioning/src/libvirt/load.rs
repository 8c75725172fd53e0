//! Loading: overlays on the revision, a domain over them, power, an address, host keys, `post_load`.

use super::Libvirt;
use super::away::STEP;
use super::boot;
use super::definition::{DefinedDisk, DefinedNic, Definition, NicPlug};
use super::pool::bring::CHOOSE;
use super::pool::copies::SEND;
use super::pool::named::files;
use crate::{Error, ErrorKind, Plug, Result, Target, Work};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use vcl_job::{Job, Kind, Step, TRANSIENT};
use vcl_types::api::PlannedStep;
use vcl_types::{Accelerator, Computer, Endpoint, Firmware, Hardware};

/// What stands for a file is told in [`disks`](super::disks).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) domain: String,
    pub(super) directory: Utf8PathBuf,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Overlay {
    pub(super) path: String,
    pub(super) backing: String,
    pub(super) format: String,
}
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct FileCopy {
    pub(super) from: String,
    pub(super) to: String,
}

/// Makes the machine's directory, and clears away what an earlier machine of that name left.
pub(super) const PREPARE: Step<Libvirt, Place> =
    Step::new("prepare host").deadline(STEP).retry(TRANSIENT).undo(|host, place| {
        Box::pin(async move {
            host.waiting(|| host.remove_if_ours(&place.domain)).await?;
            host.clear_place(&place.directory).await
        })
    });
pub(super) const OVERLAY: Step<Libvirt, Overlay> = Step::new("create overlay")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, overlay| Box::pin(async move { host.discard(&overlay.path).await }));
pub(super) const VARIABLES: Step<Libvirt, FileCopy> = Step::new("copy firmware variables")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, copy| Box::pin(async move { host.discard(&copy.to).await }));
/// Chooses free ports for user networking. Nothing to undo: a port is taken when the machine starts.
pub(super) const PORTS: Step<Libvirt, usize> = Step::new("choose ports");
pub(super) const DEFINE: Step<Libvirt, String> = Step::new("define domain")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, domain| Box::pin(async move { host.waiting(|| host.remove_if_ours(&domain)).await }));
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) domain: String,
    pub(super) console: Utf8PathBuf,
}
pub(super) const START: Step<Libvirt, Start> = Step::<Libvirt, Start>::new("start")
    .deadline(STEP)
    .retry(TRANSIENT)
    .undo(|host, start| Box::pin(async move { host.waiting(|| host.cut_power(&start.domain)).await }))
    .holds(|host, start, _| {
        Box::pin(async move {
            use vcl_types::api::PowerState;
            Ok(host.waiting(|| host.power_state(&start.domain)).await? == PowerState::On)
        })
    });

impl Libvirt {
    pub(super) async fn load_computer(&self, job: &mut Job, target: Target<'_>) -> vcl_job::Result<Endpoint> {
        let computer = target.computer;
        let manifest = &target.revision.manifest;
        let domain = Self::domain_name(&computer.name);
        let place = self.computer_place(&computer.name);
        let hardware = machine_hardware(computer, &manifest.hardware);

        let at = self.prepare(job, &domain, &place).await?;
        let brought = self.bring(job, target.revision).await?;
        let mut disks = Vec::new();
        for (n, (disk, backing)) in manifest.disks.iter().zip(&brought.disks).enumerate() {
            let overlay = Overlay {
                path: Self::file(&place, &format!("disk{n}.qcow2")),
                backing: backing.clone(),
                format: disk.format.clone(),
            };
            disks.push(self.overlay(job, n, overlay).await?);
        }
        let variables = match &manifest.firmware {
            Some(record) => {
                Some(self.copy_variables(job, &target.revision.path(&record.file), &place).await?)
            }
            None if hardware.firmware == Firmware::Bios => None,
            // A revision that was imported without its variables: the host's template makes new ones there.
            None => Some(Self::host_path(at.as_deref(), &Self::file(&place, "variables"))),
        };
        let plugs: Vec<_> = computer
            .nics
            .iter()
            .map(|nic| Ok((nic, self.network(&nic.network)?.plug.clone())))
            .collect::<Result<_>>()?;
        let nics = self
            .plug_in(job, plugs.iter().map(|(nic, plug)| (nic.mac.clone(), plug.clone())).collect())
            .await?;
        let definition = Definition {
            domain: domain.clone(),
            owner: computer.name.to_string(),
            kvm: self.kvm().await?,
            hardware,
            disks,
            nics: nics.clone(),
            console: Self::host_path(at.as_deref(), Self::console_file(&place).as_str()),
            variables,
            boot: brought.boot.clone(),
        };
        self.define_step(job, definition).await?;
        // The domain names what the machine lies on.
        drop(brought);
        let management = computer.management().and_then(|nic| nics.iter().find(|n| n.mac == nic.mac));
        self.boot(job, target, &domain, &place, management).await
    }

    /// Powers a computer on that is defined already, and makes it ready again.
    pub(super) async fn resume_computer(
        &self,
        job: &mut Job,
        target: Target<'_>,
    ) -> vcl_job::Result<Endpoint> {
        let domain = Self::domain_name(&target.computer.name);
        let place = self.computer_place(&target.computer.name);
        let nics = match target.endpoint {
            // User networking has its port in the definition; the endpoint knows it.
            Some(e) if e.address.is_loopback() => {
                let mac = target.computer.management().map(|n| n.mac.clone()).unwrap_or_default();
                Some(DefinedNic { mac, plug: NicPlug::User(e.port) })
            }
            _ => None,
        };
        self.boot(job, target, &domain, &place, nics.as_ref()).await
    }

    /// Answers the pool's directory on the host, where the machine's files are in one.
    pub(super) async fn prepare(
        &self,
        job: &mut Job,
        domain: &str,
        place: &Utf8Path,
    ) -> vcl_job::Result<Option<String>> {
        let place = Place { domain: domain.to_owned(), directory: place.to_owned() };
        job.step(self, &PREPARE, place)
            .run(async |place, cx| {
                cx.check().await?;
                if self.waiting(|| self.ours(&place.domain)).await?.is_some() {
                    cx.event(
                        "cleared-leftover",
                        format!("domain {} was there from an earlier load and is removed", place.domain),
                    );
                    self.waiting(|| self.remove(&place.domain)).await?;
                }
                self.make_place(&place.directory).await
            })
            .await
    }

    pub(super) async fn overlay(
        &self,
        job: &mut Job,
        n: usize,
        overlay: Overlay,
    ) -> vcl_job::Result<DefinedDisk> {
        job.step(self, &OVERLAY, overlay)
            .key(n)
            .run(async |overlay, cx| self.make_overlay(&cx, overlay).await)
            .await
    }

    pub(super) async fn copy_variables(
        &self,
        job: &mut Job,
        from: &str,
        place: &Utf8Path,
    ) -> vcl_job::Result<String> {
        let copy = FileCopy { from: from.to_owned(), to: Self::file(place, "variables") };
        job.step(self, &VARIABLES, copy).run(async |copy, cx| self.put(&cx, copy).await).await
    }

    /// Gives each card its plug; user networking gets a free port.
    pub(super) async fn plug_in(
        &self,
        job: &mut Job,
        cards: Vec<(String, Plug)>,
    ) -> vcl_job::Result<Vec<DefinedNic>> {
        let wanted = cards.iter().filter(|(_, plug)| *plug == Plug::User).count();
        let mut ports = Vec::new();
        if wanted > 0 && !self.settings.local {
            let context = format!(
                "user networking forwards a port of its host's 127.0.0.1, and {} is another host; give the computer a network with a bridge or a libvirt network",
                self.settings.uri
            );
            return Err(vcl_job::Error::new(Kind::Refused, context));
        }
        if wanted > 0 {
            ports = job.step(self, &PORTS, wanted).run(async |wanted, _| free_ports(wanted)).await?;
        }
        let plugged = cards.into_iter().map(|(mac, plug)| {
            let plug = match plug {
                // The configuration gives a computer of libvirt no port group.
                Plug::Bridge(name) | Plug::PortGroup(name) => NicPlug::Bridge(name),
                Plug::Libvirt(name) => NicPlug::Network(name),
                Plug::User => NicPlug::User(ports.pop().unwrap_or_default()),
            };
            DefinedNic { mac, plug }
        });
        Ok(plugged.collect())
    }

    pub(super) async fn define_step(&self, job: &mut Job, definition: Definition) -> vcl_job::Result<()> {
        job.step(self, &DEFINE, definition.domain.clone())
            .run(async |_, cx| {
                cx.check().await?;
                self.waiting(|| self.define(&definition)).await?;
                // Disks have been looked for when their overlays were made; these have none.
                let boot =
                    definition.boot.iter().flat_map(|b| [Some(&b.kernel), b.initrd.as_ref()]).flatten();
                let boot: Vec<_> = boot.map(String::as_str).filter(|_| self.pool.is_some()).collect();
                self.waiting(|| self.still_there(&boot)).await
            })
            .await
    }

    pub(super) async fn start_step(
        &self,
        job: &mut Job,
        domain: &str,
        place: &Utf8Path,
    ) -> vcl_job::Result<()> {
        let start = Start { domain: domain.to_owned(), console: Self::console_file(place) };
        job.step(self, &START, start)
            .run(async |start, cx| {
                cx.check().await?;
                let power = self.waiting(|| self.power_state(&start.domain)).await?;
                if power != vcl_types::api::PowerState::On {
                    self.new_console(&start.console).await?;
                }
                self.waiting(|| self.start(&start.domain)).await.map(drop)
            })
            .await
    }

    /// Whether processors are run by KVM.
    pub(super) async fn kvm(&self) -> Result<bool> {
        let flag = || {
            let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let flags = info.lines().find(|l| l.starts_with("flags")).unwrap_or_default();
            flags.split_ascii_whitespace().any(|f| f == "vmx" || f == "svm")
        };
        // libvirt lists KVM wherever /dev/kvm is; without the processor's flag guests hang on it.
        let there = match self.settings.accelerator {
            Accelerator::Tcg => false,
            _ if self.settings.local => Utf8Path::new("/dev/kvm").exists() && flag(),
            _ => self.host_has_kvm().await?,
        };
        match self.settings.accelerator {
            Accelerator::Tcg => Ok(false),
            Accelerator::Auto => Ok(there),
            Accelerator::Kvm if there => Ok(true),
            Accelerator::Kvm => Err(Error::new(
                ErrorKind::Refused,
                "accelerator = \"kvm\", and this host has no KVM (no /dev/kvm, or neither vmx nor svm in /proc/cpuinfo); use \"auto\"",
            )),
        }
    }

    pub(super) fn planned(&self, work: Work, target: &Target<'_>) -> Vec<PlannedStep> {
        let step = |name: &str, what: String| PlannedStep { name: name.into(), what };
        let domain = Self::domain_name(&target.computer.name);
        let manifest = &target.revision.manifest;
        let guest = |end| {
            let part = if end { "pre_capture" } else { "post_load" };
            let steps = target.os.plan(end.then(|| crate::Provisioning::end_state(self)));
            steps
                .into_iter()
                .map(move |(name, what)| PlannedStep { name: format!("{part}/{name}"), what: what.into() })
        };
        let boot = || {
            let mut steps = vec![step(START.name(), format!("power {domain} on"))];
            if target
                .computer
                .management()
                .is_some_and(|n| self.network(&n.network).is_ok_and(|n| n.plug != Plug::User))
            {
                steps.push(step(boot::ADDRESS.name(), "wait for its address".into()));
            }
            steps.push(step(
                boot::HOST_KEYS.name(),
                format!("wait for its ssh server, at most {} s", target.limits.boot.as_secs()),
            ));
            steps
        };
        match work {
            Work::Load => {
                let directory = self.computer_place(&target.computer.name);
                let hardware = machine_hardware(target.computer, &manifest.hardware);
                let mut steps = vec![step(PREPARE.name(), format!("make {directory}"))];
                if self.pool.is_some() {
                    let what = format!("of {} and what it lies on", manifest.image_ref());
                    steps.push(step(CHOOSE.name(), what));
                    for file in files(std::slice::from_ref(manifest)) {
                        let what =
                            format!("{} ({}), if it has none", file.copy, vcl_types::ByteSize(file.size));
                        steps.push(step(SEND.name(), what));
                    }
                }
                for disk in &manifest.disks {
                    steps.push(step(
                        OVERLAY.name(),
                        format!("on {} ({})", target.revision.path(&disk.file), disk.virtual_size),
                    ));
                }
                if manifest.firmware.is_some() {
                    steps.push(step(VARIABLES.name(), "of the revision, for this machine".into()));
                }
                steps.push(step(DEFINE.name(), format!("{domain}: {hardware}")));
                steps.into_iter().chain(boot()).chain(guest(false)).collect()
            }
            Work::Resume => boot().into_iter().chain(guest(false)).collect(),
            Work::Capture => {
                let mut steps: Vec<_> = guest(true).collect();
                steps.push(step(
                    "wait for power off",
                    format!("at most {} s, then cut it", target.limits.shutdown.as_secs()),
                ));
                for (n, disk) in manifest.disks.iter().enumerate() {
                    steps.push(step(
                        &format!("copy disk[{n}]"),
                        format!("{} at most, into the library's staging", disk.virtual_size),
                    ));
                }
                steps
            }
            Work::Unload => vec![
                step("power off", format!("cut the power of {domain}")),
                step("undefine domain", domain.clone()),
                step("delete files", self.computer_place(&target.computer.name).into()),
            ],
        }
    }
}

/// The revision's hardware with what the computer says otherwise.
fn machine_hardware(computer: &Computer, hardware: &Hardware) -> Hardware {
    Hardware {
        cpus: computer.cpus.unwrap_or(hardware.cpus),
        memory: computer.memory.unwrap_or(hardware.memory),
        ..hardware.clone()
    }
}

/// Free ports of 127.0.0.1. All are held until all are found, so that they differ.
fn free_ports(wanted: usize) -> vcl_job::Result<Vec<u16>> {
    let bound: std::io::Result<Vec<_>> =
        (0..wanted).map(|_| std::net::TcpListener::bind(("127.0.0.1", 0))).collect();
    let ports = bound.and_then(|b| b.iter().map(|l| Ok(l.local_addr()?.port())).collect());
    ports.map_err(|e| vcl_job::Error::caused(Kind::Transient, "looking for a free port on 127.0.0.1", e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let ports = free_ports(3).unwrap();
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }
}
