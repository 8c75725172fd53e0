//! Looking at machines and at the instance.

use crate::conformance::kit::{Kit, Stop, Verdict, ensure, failed, is_error, refused, skipped, within};
use crate::conformance::stand_in::{Counter, Lent, Manner, NoRemotes};
use crate::conformance::world::Offer;
use crate::{Capability, ErrorKind, VmTarget};
use vcl_job::Kind;
use vcl_types::api::{FindingLevel, PowerAction, PowerState};

/// How many bytes of a console there may be.
const MOST: usize = 256 * 1024;

pub(super) async fn console(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    for lines in [0, 1, 3, usize::MAX] {
        let text = kit.backend.console(&computer, lines).await?;
        kit.read("a console", &text);
        let count = text.lines().count();
        ensure!(count <= lines, "asked for {lines} lines it gives {count}");
        ensure!(text.len() <= MOST, "{} bytes of console", text.len());
        let drives = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
        ensure!(drives.is_none(), "a console with {drives:?} in it");
    }
    Ok(())
}

pub(super) async fn screenshot(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let picture = kit.backend.screenshot(&computer).await?;
    ensure!(picture.starts_with(b"\x89PNG\r\n\x1a\n"), "a display that is no PNG");
    kit.backend.power(&computer, PowerAction::ForceOff).await?;
    let dark = kit.backend.screenshot(&computer).await.map(|png| png.len());
    is_error("the display of a machine that is off", dark, &[ErrorKind::Refused])
}

pub(super) async fn description(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let text = kit.backend.description(&computer).await?;
    kit.read("a description", &text);
    ensure!(text.contains(computer.name.as_str()), "a description that does not name its machine: {text}");
    Ok(())
}

pub(super) async fn free_space(kit: &Kit<'_>) -> Verdict {
    let Some(free) = kit.backend.free_space().await? else {
        return failed("it declares that it knows, and does not");
    };
    ensure!((1 << 20..1 << 60).contains(&free), "{free} bytes free");
    Ok(())
}

pub(super) async fn written(kit: &Kit<'_>) -> Verdict {
    let computer = kit.computer()?;
    kit.load(&computer).await?;
    let Some(bytes) = kit.backend.written(&computer).await? else {
        return failed("it declares that it knows, and does not");
    };
    ensure!(bytes < 1 << 40, "a machine that has just been loaded has written {bytes} bytes");
    kit.unload(&computer).await?;
    let bytes = kit.backend.written(&computer).await?;
    ensure!(bytes.unwrap_or(0) == 0, "a machine that is gone has written {bytes:?}");
    Ok(())
}

pub(super) async fn findings(kit: &Kit<'_>) -> Verdict {
    let findings = within("looking at the instance", 120, kit.backend.findings()).await?;
    ensure!(!findings.is_empty(), "it finds nothing, not even that it is well");
    for finding in &findings {
        kit.read("a finding", &format!("{finding:?}"));
        ensure!(finding.level != FindingLevel::Error, "{}: {}", finding.what, finding.found);
    }
    Ok(())
}

pub(super) async fn unreachable(kit: &Kit<'_>) -> Verdict {
    let backend = kit.world.unreachable().await.map_err(|e| Stop::Failed(e.to_string()))?;
    let Some(backend) = backend else { return kit.without(Offer::Unreachable) };
    let (computer, kinds) = (kit.computer()?, [ErrorKind::Unreachable]);
    const SOON: u64 = 90;
    is_error("a power state", within("a power state", SOON, backend.state(&computer)).await?, &kinds)?;
    if kit.can(Capability::Power) {
        let answer = within("a power call", SOON, backend.power(&computer, PowerAction::On)).await?;
        is_error("a power call", answer, &kinds)?;
    }
    if kit.can(Capability::Vms) {
        is_error("the list of machines", within("the list of machines", SOON, backend.vms()).await?, &kinds)?;
        is_error("the list of powers", within("the list of powers", SOON, backend.powers()).await?, &kinds)?;
    }
    if kit.can(Capability::Things) {
        is_error("the list of things", within("the list of things", SOON, backend.things()).await?, &kinds)?;
    }
    let findings = within("looking at the instance", SOON, backend.findings()).await?;
    findings.iter().for_each(|finding| kit.read("a finding", &format!("{finding:?}")));
    let mut wrong = findings.iter().filter(|finding| finding.level == FindingLevel::Error);
    ensure!(
        wrong.any(|finding| finding.way_out.as_ref().is_some_and(|way| !way.is_empty())),
        "no finding says that it does not answer and what to do: {findings:?}"
    );
    Ok(())
}

/// What it says that it lacks is so, and it says that when it is asked for it.
pub(super) async fn lacking(kit: &Kit<'_>) -> Verdict {
    let capabilities = kit.backend.capabilities();
    let lacks = Capability::ALL.into_iter().filter_map(|what| Some((what, capabilities.lacks(what)?)));
    let lacks: Vec<_> = lacks.collect();
    if lacks.is_empty() {
        return skipped("it lacks nothing");
    }
    let computer = kit.computer()?;
    let at = kit.load(&computer).await?;
    let there = kit.left().await?;
    for (what, why) in lacks {
        ensure!(!why.is_empty(), "it lacks `{what}` for no reason");
        let unsupported = |call: &str, answer: crate::Result<()>| match answer {
            Err(e) if e.kind == ErrorKind::Unsupported && e.chain().contains(why) => Ok(()),
            Err(e) => failed(format!("{call} is not refused as unsupported for `{why}`: {}", e.chain())),
            Ok(()) => failed(format!("{call} is answered, and it says that it lacks `{what}`")),
        };
        let backend = &kit.backend;
        match what {
            // What a load does, and no call.
            Capability::Imaging | Capability::HostKeys => {}
            Capability::Capture => {
                let staging = kit.staging()?;
                let capture = kit.run(&kit.capture_of(&computer, &at, &staging)).await;
                let said = refused("a capture", capture, &[Kind::Refused])?;
                ensure!(said.contains(why), "a capture is refused for another reason than `{why}`: {said}");
            }
            Capability::CaptureVm => {
                let os = Lent { inner: None, manner: Manner::Well, counter: Counter::default() };
                let limits = kit.world.limits();
                let (vm, user) = ("kit-no-such-machine", "root");
                let target = VmTarget { vm, os: &os, remotes: &NoRemotes, user, hooks: None, limits };
                unsupported("a preview", backend.preview_vm(target).await.map(drop))?;
            }
            Capability::Vms => {
                let vms = backend.vms().await?;
                ensure!(vms.is_empty(), "it lacks `{what}` and lists {vms:?}");
            }
            Capability::Power => {
                for action in [PowerAction::Off, PowerAction::ForceOff, PowerAction::Reset] {
                    let answer = backend.power(&computer, action).await.map(drop);
                    unsupported(&format!("{action:?}"), answer)?;
                }
            }
            Capability::Console => unsupported("a console", backend.console(&computer, 3).await.map(drop))?,
            Capability::Screenshot => {
                unsupported("a display", backend.screenshot(&computer).await.map(drop))?;
            }
            Capability::Description => {
                unsupported("a description", backend.description(&computer).await.map(drop))?;
            }
            Capability::Things => {
                let things = backend.things().await?;
                ensure!(things.is_empty(), "it lacks `{what}` and has {things:?}");
            }
            Capability::FreeSpace => {
                let free = backend.free_space().await?;
                ensure!(free.is_none(), "it lacks `{what}` and knows {free:?}");
            }
            Capability::Written => {
                let written = backend.written(&computer).await?;
                ensure!(written.is_none(), "it lacks `{what}` and knows {written:?}");
            }
        }
        let now = kit.left().await?;
        ensure!(now == there, "asked for `{what}`, which it lacks, it changed {there:?} into {now:?}");
    }
    let state = kit.backend.state(&computer).await?;
    ensure!(state == PowerState::On, "the loaded computer is {state:?} after all that");
    Ok(())
}

/// The last case: what all the others have read.
pub(super) async fn secrets(kit: &Kit<'_>) -> Verdict {
    let leaks = kit.leaks();
    ensure!(leaks.is_empty(), "credentials stand in {}", leaks.join(", "));
    if kit.world.secrets().is_empty() {
        return kit.without(Offer::Secrets);
    }
    Ok(())
}
