//! A machine that an admin installed by hand becomes an image and stays as it is.

use crate::Case;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::process::Command;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{JobView, StepState, VmPreview, VmView};

/// As virt-manager writes them.
fn xml(case: &Case, uefi: bool) -> String {
    let disk = case.path().join("source.qcow2");
    let firmware = if uefi { " firmware='efi'" } else { "" };
    let features = if uefi {
        "<firmware><feature enabled='no' name='enrolled-keys'/><feature enabled='no' name='secure-boot'/></firmware>"
    } else {
        ""
    };
    format!(
        "<domain type='qemu'><name>debian-gis</name>\
         <metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
         <libosinfo:os id='http://debian.org/debian/12'/></libosinfo:libosinfo></metadata>\
         <memory unit='KiB'>524288</memory><currentMemory unit='KiB'>524288</currentMemory><vcpu placement='static'>1</vcpu>\
         <os{firmware}><type arch='x86_64' machine='q35'>hvm</type>{features}<boot dev='hd'/></os>\
         <features><acpi/><apic/></features><cpu mode='maximum'/><clock offset='utc'/>\
         <devices><disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
         <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         <interface type='network'><mac address='52:54:00:aa:bb:01'/><source network='lab'/><model type='virtio'/></interface>\
         <serial type='pty'><target port='0'/></serial><console type='pty'><target type='serial' port='0'/></console>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>"
    )
}

fn digest(case: &Case) -> Result<String> {
    let output = Command::new("sha256sum").arg(case.path().join("source.qcow2")).output()?;
    ensure!(output.status.success());
    Ok(String::from_utf8(output.stdout)?)
}

fn becomes_an_image(case: &Case, uefi: bool) -> Result<()> {
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"9m\"\nshutdown = \"5m\"\n".into();
    case.world.libvirt_network("lab", std::net::Ipv4Addr::new(192, 168, 70, 0))?;
    setup.network = "libvirt = \"lab\"\naddress = \"lease\"".into();
    setup.computers = vec!["a".into()];
    let daemon = Daemon::start(setup)?;
    fs::copy(case.guest.disk(), case.path().join("source.qcow2"))?;
    let file = case.path().join("source.xml");
    fs::write(&file, xml(case, uefi))?;
    case.world.virsh(&["define", file.as_str()])?;
    case.world.virsh(&["start", "debian-gis"])?;
    let described = case.world.virsh(&["dumpxml", "--inactive", "debian-gis"])?;

    let vms: Vec<VmView> = daemon.json(&["vm", "list", "kvm"])?;
    let vm = vms.iter().find(|v| v.name == "debian-gis").context("not listed")?;
    assert_eq!((vm.state.as_str(), &vm.managed), ("running", &None));

    // What would happen: asked of the running machine until it has booted far enough to answer.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(400);
    let preview = loop {
        let preview: VmPreview =
            daemon.json(&["image", "create", "gis", "--from-vm", "kvm/debian-gis", "--dry-run"])?;
        if !preview.would_change.is_empty() {
            break preview;
        }
        ensure!(std::time::Instant::now() < deadline, "it cannot be looked into: {preview:#?}");
    };
    assert!(preview.would_change.iter().any(|c| c.contains("machine-id")), "{preview:#?}");
    assert!(preview.would_keep.iter().any(|k| k.contains("alice")), "{preview:#?}");

    // The disk of a running machine changes by itself, so it is compared from when the job has shut the source down to
    // when it has started it again: an emulated machine takes many seconds from there to its first write.
    let id = daemon.queue(&["image", "create", "gis", "--from-vm", "kvm/debian-gis", "--note", "by hand"])?;
    daemon.wait_job(id, crate::LONG, |job| {
        job.steps.iter().any(|s| s.name == "capture/throw-away/prepare host" && s.state == StepState::Done)
    })?;
    assert_eq!(case.world.virsh(&["domstate", "debian-gis"])?.trim(), "shut off");
    let before = digest(case)?;
    let job = daemon.wait_end(id, 2 * crate::LONG)?;
    assert_eq!(digest(case)?, before, "the source's disk changed");
    assert_eq!(job.result.as_deref(), Some("gis@1"), "{:?}", job.reason);
    assert_eq!(case.world.virsh(&["domstate", "debian-gis"])?.trim(), "running", "it runs again");
    assert_eq!(
        case.world.virsh(&["dumpxml", "--inactive", "debian-gis"])?,
        described,
        "its definition changed"
    );
    let manifest = daemon.image("gis")?.revisions[0].manifest.clone();
    assert_eq!(manifest.firmware.is_some(), uefi);
    case.nothing_left(&daemon)?;
    // Two guests would only slow each other down from here on.
    case.world.virsh(&["destroy", "debian-gis"])?;

    // And the image loads.
    let _: JobView = daemon.json(&["load", "a", "gis"])?;
    assert_eq!(daemon.ssh("a", "hostname; id -un alice")?, "a\nalice");
    let _: JobView = daemon.json(&["unload", "a"])?;
    case.nothing_left(&daemon)
}

#[test]
fn a_bios_machine_becomes_an_image() -> Result<()> {
    let Some(case) = Case::enter("from_vm::a_bios_machine_becomes_an_image", Kind::Grub)? else {
        return Ok(());
    };
    becomes_an_image(&case, false)
}

#[test]
fn a_uefi_machine_becomes_an_image() -> Result<()> {
    let Some(case) = Case::enter("from_vm::a_uefi_machine_becomes_an_image", Kind::Uefi)? else {
        return Ok(());
    };
    becomes_an_image(&case, true)
}
