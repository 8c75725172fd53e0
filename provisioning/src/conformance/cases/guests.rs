//! The few cases that boot a guest.

use super::capturing::files;
use crate::Capability;
use crate::conformance::deed::{Deed, Process};
use crate::conformance::disk;
use crate::conformance::journals::{Cut, Ear, Numbered};
use crate::conformance::kit::{Kit, Verdict, done, ensure, failed, refused, skipped};
use crate::conformance::stand_in::{Lent, Manner};
use crate::conformance::world::GuestImage;
use std::time::Duration;
use vcl_images::{StagedDisk, seal, seal_boot, seal_firmware};
use vcl_job::{Control, Kind};
use vcl_os::{Command, Guest, Os};
use vcl_types::api::{PowerAction, PowerState};
use vcl_types::{Computer, Endpoint, HostKey, HostKeys, KeySource, Manifest, Revision};

/// The loaded guest, for questions to its OS module.
struct Inside<'a> {
    kit: &'a Kit<'a>,
    image: &'a GuestImage,
    computer: &'a Computer,
    endpoint: &'a Endpoint,
}

impl Inside<'_> {
    fn os(&self) -> Verdict<&dyn Os> {
        match self.image.os.as_deref().or(self.kit.backend.os()) {
            Some(os) => Ok(os),
            None => failed("the world has a guest and no OS module for it"),
        }
    }
    fn guest(&self) -> Guest<'_> {
        Guest {
            computer: self.computer,
            endpoint: self.endpoint,
            remotes: &*self.image.remotes,
            hooks: None,
            limits: vcl_os::Limits { boot: self.image.limits.boot, command: self.image.limits.command },
            generalised: self.image.revision.manifest.generalised,
        }
    }
    async fn run(&self, line: &str, input: &str) -> Verdict<String> {
        let command = Command::new(line).input(input).limit(self.image.limits.command);
        let output = self.os()?.exec(self.guest(), command).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status == 0, "`{line}` in the guest ends with {}: {said}", output.status);
        Ok(output.text().trim().to_owned())
    }
}

fn loading<'k>(kit: &'k Kit<'_>) -> Verdict<(&'k GuestImage, Computer, Deed)> {
    let image = kit.guest()?;
    let computer = kit.guest_computer()?;
    let deed = kit.with_guest(kit.load_of(&computer))?;
    Ok((image, computer, deed))
}

pub(super) async fn answers(kit: &Kit<'_>) -> Verdict {
    let (image, computer, deed) = loading(kit)?;
    let at = kit.endpoint(&deed).await?;
    let inside = Inside { kit, image, computer: &computer, endpoint: &at };
    let name = inside.run("hostname", "").await?;
    ensure!(name == computer.name.as_str(), "the guest of {computer} calls itself `{name}`");
    ensure!(!at.host_keys.keys.is_empty(), "the guest has answered, and none of its host keys is pinned");
    let stranger = HostKey {
        algorithm: "ssh-ed25519".into(),
        key: format!("AAAAC3NzaC1lZDI1NTE5AAAAI{}", "A".repeat(43)),
    };
    let other = HostKeys { keys: vec![stranger], source: KeySource::Pinned };
    let wrong = Endpoint { host_keys: other, ..at.clone() };
    let inside = Inside { endpoint: &wrong, ..inside };
    let answer = inside.os()?.exec(inside.guest(), Command::new("hostname")).await;
    match answer {
        Err(e) if e.kind == vcl_os::ErrorKind::HostKeyChanged => {}
        other => {
            return failed(format!("pinned to another host key, it is connected to all the same: {other:?}"));
        }
    }
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

/// Publishes what was captured, as the daemon does.
async fn publish(
    kit: &Kit<'_>,
    of: &Manifest,
    staging: &vcl_images::Staging,
    captured: crate::Captured,
) -> Verdict<Revision> {
    let cx = disk::cx();
    let mut staged = Vec::new();
    for disk in &captured.disks {
        staged.push(StagedDisk { file: disk.file.clone(), format: disk.format.parse()? });
    }
    let disks = seal(&cx, staging, &staged).await?;
    let firmware = match &captured.firmware {
        Some(firmware) => Some(seal_firmware(&cx, staging, &firmware.file, firmware.format.parse()?).await?),
        None => None,
    };
    let boot_files = match &captured.boot {
        Some(boot) => seal_boot(&cx, staging, boot).await?,
        None => Vec::new(),
    };
    let manifest = Manifest {
        version: Manifest::version_for(&disks),
        image: "kit-captured".parse()?,
        revision: 1,
        parent: Some(of.image_ref()),
        generalised: true,
        hardware: captured.hardware,
        disks,
        firmware,
        boot: captured.boot,
        boot_files,
        backend: None,
        job: None,
        note: None,
        ..of.clone()
    };
    Ok(kit.library.publish(&cx, staging.name(), &manifest).await?)
}

pub(super) async fn captured(kit: &Kit<'_>) -> Verdict {
    let (image, source, deed) = loading(kit)?;
    const MARKER: (&str, &str) = ("/root/conformance-marker", "captured by the kit");
    let at = kit.endpoint(&deed).await?;
    Inside { kit, image, computer: &source, endpoint: &at }
        .run(&format!("tee {}", MARKER.0), MARKER.1)
        .await?;
    let staging = kit.staging()?;
    let capture = kit.with_guest(kit.capture_of(&source, &at, &staging))?;
    let made = kit.captured(&capture).await?;
    let calls = capture.counter.calls().pre_capture;
    ensure!(calls == [kit.backend.end_state()], "pre_capture was called with {calls:?}");
    let state = kit.backend.state(&source).await?;
    ensure!(state == PowerState::Off, "after a capture the computer is {state:?}");
    let got = kit.got(&staging, &made).await?;
    if let Some(expected) =
        kit.world.on_disk(&source).await.map_err(|e| crate::conformance::kit::Stop::Failed(e.to_string()))?
    {
        ensure!(got == expected, "the capture holds {got}, its source {expected}");
    }
    let revision = publish(kit, &deed.revision.manifest, &staging, made).await?;

    // Where there is one computer alone, the capture is loaded on it again.
    let elsewhere = match kit.world.only() {
        Some(names) if names.len() < 2 => None,
        _ => Some(kit.guest_computer()?),
    };
    if let Some(elsewhere) = &elsewhere {
        let mut deed = kit.with_guest(kit.load_of(elsewhere))?;
        deed.revision = revision.clone();
        let there = kit.endpoint(&deed).await?;
        let inside = Inside { kit, image, computer: elsewhere, endpoint: &there };
        let text = inside.run(&format!("cat {}", MARKER.0), "").await?;
        ensure!(text == MARKER.1, "the marker reads `{text}` on {elsewhere}");
        let name = inside.run("hostname", "").await?;
        ensure!(name == elsewhere.name.as_str(), "the guest of {elsewhere} calls itself `{name}`");
        ensure!(there.host_keys.keys != at.host_keys.keys, "two machines with one host key");
        if kit.can(Capability::Console) {
            let console = kit.backend.console(elsewhere, 100).await?;
            ensure!(!console.trim().is_empty(), "a guest that was captured says nothing on its console");
        }
        kit.unload(elsewhere).await?;
    }
    let mut resume = kit.with_guest(kit.resume_of(&source, &at))?;
    resume.revision.manifest.generalised = true;
    let again = kit.endpoint(&resume).await?;
    let inside = Inside { kit, image, computer: &source, endpoint: &again };
    let text = inside.run(&format!("cat {}", MARKER.0), "").await?;
    ensure!(text == MARKER.1, "the marker reads `{text}` on the source after it was resumed");
    kit.unload(&source).await?;
    if elsewhere.is_none() {
        let mut deed = deed;
        deed.revision = revision;
        let there = kit.endpoint(&deed).await?;
        let inside = Inside { kit, image, computer: &source, endpoint: &there };
        let text = inside.run(&format!("cat {}", MARKER.0), "").await?;
        ensure!(text == MARKER.1, "the marker reads `{text}` on {source} when it was loaded anew");
        kit.unload(&source).await?;
    }
    kit.nothing_left().await
}

pub(super) async fn killed(kit: &Kit<'_>) -> Verdict {
    let (image, computer, deed) = loading(kit)?;
    let journal = Numbered::new(kit.job());
    let ended = kit.run_until(Cut::booting(journal.clone()), &deed).await?;
    ensure!(ended.is_none(), "the load ended before its guest was waited for: {ended:?}");
    let begun = kit.left().await?;
    let endpoint = match done(kit.run_on(journal, &deed).await)? {
        crate::conformance::deed::Made::Endpoint(at) => at,
        other => return failed(format!("no endpoint but {other:?}")),
    };
    let now = kit.left().await?;
    ensure!(begun.len() == now.len(), "there was {begun:?} before the process died, and is {now:?}");
    let inside = Inside { kit, image, computer: &computer, endpoint: &endpoint };
    let name = inside.run("hostname", "").await?;
    ensure!(name == computer.name.as_str(), "the guest of {computer} calls itself `{name}`");
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn called_off(kit: &Kit<'_>) -> Verdict {
    let (_, _, deed) = loading(kit)?;
    let (journal, control) = (Numbered::new(kit.job()), Control::default());
    let watched = Cut::called_off_booting(journal, &control.cancel);
    let process = Process { backend: kit.open().await?, journal: watched, observer: Ear::new(), control };
    let began = tokio::time::Instant::now();
    refused(
        "a load that is called off while its guest boots",
        kit.live(process, &deed).await,
        &[Kind::Cancelled],
    )?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(120), "it took {} s to be called off", took.as_secs());
    kit.nothing_left().await
}

pub(super) async fn power_off(kit: &Kit<'_>) -> Verdict {
    let (image, computer, deed) = loading(kit)?;
    kit.endpoint(&deed).await?;
    kit.backend.power(&computer, PowerAction::Off).await?;
    let deadline = tokio::time::Instant::now() + image.limits.shutdown.max(Duration::from_secs(60));
    while kit.backend.state(&computer).await? != PowerState::Off {
        ensure!(tokio::time::Instant::now() < deadline, "it was told to power off and is still on");
        // why: a power state is asked for, it does not tell itself
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn image_of_vm(kit: &Kit<'_>) -> Verdict {
    let image = kit.guest()?;
    let (source, computer) = (kit.source().await?, kit.guest_computer()?);
    let seen = async || -> Verdict<Vec<String>> {
        let vms = kit.backend.vms().await?.into_iter().filter(|vm| vm.managed.is_none());
        Ok(vms.map(|vm| format!("{} {} {:?}", vm.name, vm.state, vm.disks)).collect())
    };
    let before = seen().await?;
    let staging = kit.staging()?;
    let deed = kit.with_guest(kit.capture_vm_of(&computer, &source, &staging))?;
    let os = Lent {
        inner: image.os.as_deref().or(kit.backend.os()),
        manner: Manner::Well,
        counter: <_>::default(),
    };
    let target = crate::VmTarget {
        vm: &source,
        os: &os,
        remotes: &*image.remotes,
        user: &image.user,
        hooks: None,
        limits: image.limits,
    };
    let preview = kit.backend.preview_vm(target).await?;
    ensure!(preview.vm.name == source, "a preview of {source} is one of {}", preview.vm.name);
    ensure!(seen().await? == before, "a preview changed the machines of others");
    let made = kit.captured(&deed).await?;
    let names = files(&staging)?;
    let empty = made.disks.is_empty();
    ensure!(empty != kit.can(Capability::Imaging), "an image of {} disks", made.disks.len());
    ensure!(made.disks.iter().all(|disk| names.contains(&disk.file)), "the staging holds {names:?}");
    ensure!(seen().await? == before, "the machines of others were {before:?} and are {:?}", seen().await?);
    kit.nothing_left().await
}

/// Behind all that boot a guest.
pub(super) async fn keys_known(kit: &Kit<'_>) -> Verdict {
    let sources = kit.keys();
    if sources.is_empty() {
        return skipped("no guest that makes itself new host keys was booted before");
    }
    let first = sources.iter().filter(|source| **source == KeySource::FirstUse).count();
    let all = sources.len();
    ensure!(first == 0, "{first} of {all} guests are handed over to be trusted at the first connection");
    Ok(())
}
