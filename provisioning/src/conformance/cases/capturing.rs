//! Capture and resume.

use crate::conformance::deed::Process;
use crate::conformance::journals::{Ear, Numbered};
use crate::conformance::kit::{Kit, Verdict, ensure, failed, is_error, refused, skipped};
use crate::conformance::stand_in::{Counter, Manner};
use crate::{Capability, ErrorKind, VmTarget};
use std::time::Duration;
use vcl_images::Staging;
use vcl_job::{Control, Kind};
use vcl_types::api::PowerState;
use vcl_types::{Computer, Endpoint};

/// A loaded computer and a staging.
async fn ready(kit: &Kit<'_>) -> Verdict<(Computer, Endpoint, Staging)> {
    let computer = kit.computer()?;
    let at = kit.load(&computer).await?;
    Ok((computer, at, kit.staging()?))
}
/// The names of the files in a staging.
pub(super) fn files(staging: &Staging) -> Verdict<Vec<String>> {
    let mut names = Vec::new();
    for file in staging.directory().read_dir()? {
        names.push(file?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
fn empty(staging: &Staging) -> Verdict {
    let names = files(staging)?;
    ensure!(names.is_empty(), "left in the staging: {names:?}");
    Ok(())
}

pub(super) async fn contract(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let deed = kit.capture_of(&computer, &at, &staging);
    kit.captured(&deed).await?;
    let calls = deed.counter.calls();
    let end = kit.backend.end_state();
    ensure!(
        calls.pre_capture == [end],
        "pre_capture was called with {:?} instead of once with {end:?}",
        calls.pre_capture
    );
    ensure!(
        calls.captured_at.as_ref() == Some(&at),
        "pre_capture was called for {:?} instead of {at}",
        calls.captured_at
    );
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::Off, "after a capture the computer is {state:?}");
    Ok(())
}

pub(super) async fn equals_source(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let written = kit.write(&computer).await?;
    let captured = kit.captured(&kit.capture_of(&computer, &at, &staging)).await?;
    let (disks, were) = (captured.disks.len(), kit.revision.manifest.disks.len());
    ensure!(disks == were, "{disks} disks were captured of {were}");
    let (got, expected) = (kit.got(&staging, &captured).await?, kit.expected(&computer).await?);
    let loaded = kit.revision.manifest.disks.first().map(|disk| &disk.content_digest);
    ensure!(!written || loaded != Some(&expected), "the world itself: what it wrote is not on the disk");
    ensure!(got == expected, "the capture holds {got}, its source {expected}");
    Ok(())
}

pub(super) async fn unpublished(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let before: Vec<_> = kit.library.revisions()?.revisions;
    let captured = kit.captured(&kit.capture_of(&computer, &at, &staging)).await?;
    let mut named: Vec<String> = captured.disks.iter().map(|disk| disk.file.clone()).collect();
    named.extend(captured.firmware.iter().map(|firmware| firmware.file.clone()));
    if let Some(boot) = &captured.boot {
        named.push(boot.kernel.clone());
        named.extend(boot.initrd.clone());
    }
    named.sort();
    let there = files(&staging)?;
    ensure!(there == named, "the staging holds {there:?}, and answered is {named:?}");
    let scan = kit.library.revisions()?;
    ensure!(scan.revisions == before, "the library's revisions are others after a capture");
    ensure!(scan.findings.is_empty(), "in the library there is now: {:?}", scan.findings);
    Ok(())
}

pub(super) async fn refused_by_guest(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let deed = kit.capture_of(&computer, &at, &staging).manner(Manner::NotCaptured);
    let why =
        refused("a capture of a guest that cannot be captured", kit.run(&deed).await, &[Kind::Refused])?;
    ensure!(why.contains("cannot be captured"), "the guest's reason is lost: {why}");
    let times = deed.counter.calls().pre_capture.len();
    ensure!(times == 1, "pre_capture was called {times} times");
    empty(&staging)?;
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "a computer that could not be captured is {state:?}");
    Ok(())
}

pub(super) async fn of_nothing(kit: &Kit<'_>) -> Verdict {
    let (computer, staging) = (kit.computer()?, kit.staging()?);
    let elsewhere = Endpoint {
        address: [127, 0, 0, 1].into(),
        port: 9,
        user: "root".into(),
        host_keys: vcl_types::HostKeys::first_use(),
    };
    let mut deed = kit.capture_of(&computer, &elsewhere, &staging);
    deed.endpoint = None;
    refused("a capture without an endpoint", kit.run(&deed).await, &[Kind::Refused])?;
    if kit.makes() {
        let deed = kit.capture_of(&computer, &elsewhere, &staging);
        let kinds = [Kind::NotFound, Kind::Refused];
        refused("a capture of a computer whose machine is gone", kit.run(&deed).await, &kinds)?;
    }
    empty(&staging)?;
    kit.nothing_left().await
}

pub(super) async fn deadline(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let mut deed = kit.capture_of(&computer, &at, &staging);
    deed.limits.copy = Duration::ZERO;
    refused("a capture with no time to copy", kit.run(&deed).await, &[Kind::Deadline])?;
    empty(&staging)
}

pub(super) async fn cancelled_in_mid_copy(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    let deed = kit.capture_of(&computer, &at, &staging);
    let control = Control::default();
    let ear = Ear::at_bytes(&control.cancel);
    let journal = Numbered::new(kit.job());
    let process = Process { backend: kit.open().await?, journal, observer: ear.clone(), control };
    let ended = kit.live(process, &deed).await;
    if !ear.counted() {
        return skipped("it copied without telling of its progress");
    }
    refused("a capture that is called off in mid-copy", ended, &[Kind::Cancelled])?;
    empty(&staging)
}

pub(super) async fn resume(kit: &Kit<'_>) -> Verdict {
    let (computer, at, staging) = ready(kit).await?;
    kit.captured(&kit.capture_of(&computer, &at, &staging)).await?;
    let deed = kit.resume_of(&computer, &at);
    let again = kit.endpoint(&deed).await?;
    let calls = deed.counter.calls();
    ensure!(calls.post_load == 1, "post_load was called {} times", calls.post_load);
    ensure!(again.port != 0, "it answers nowhere");
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "a resumed computer is {state:?}");
    let known = !at.host_keys.keys.is_empty() && !again.host_keys.keys.is_empty();
    ensure!(!known || at.host_keys != again.host_keys, "it lost its identity and has its host keys still");
    kit.unload(&computer).await?;
    kit.nothing_left().await
}

pub(super) async fn vm_refused(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let vms = kit.backend.vms().await?;
    let own = vms.iter().find(|vm| vm.managed.as_ref() == Some(&computer.name));
    if own.is_none() && kit.can(Capability::Vms) {
        return failed(format!("{computer} is loaded and not listed"));
    }
    let counter = Counter::default();
    let os = crate::conformance::stand_in::Lent { inner: None, manner: Manner::Well, counter };
    let nobody = crate::conformance::stand_in::NoRemotes;
    let limits = kit.world.limits();
    let target = |vm| VmTarget { vm, os: &os, remotes: &nobody, user: "root", hooks: None, limits };
    let gone = "kit-no-such-machine";
    is_error("a preview of nothing", kit.backend.preview_vm(target(gone)).await, &[ErrorKind::NotFound])?;
    if let Some(own) = own {
        let preview = kit.backend.preview_vm(target(&own.name)).await;
        is_error("a preview of vcld's own", preview, &[ErrorKind::Refused])?;
    }
    let staging = kit.staging()?;
    let own = own.map(|own| (own.name.as_str(), [Kind::Refused]));
    for (vm, kinds) in std::iter::once((gone, [Kind::NotFound])).chain(own) {
        let deed = kit.capture_vm_of(&computer, vm, &staging);
        refused(&format!("an image of {vm}"), kit.run(&deed).await, &kinds)?;
        empty(&staging)?;
    }
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "vcld's own is {state:?} after an image of it was refused");
    Ok(())
}
