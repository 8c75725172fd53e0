//! A backend's virtual machines, and what making an image from one would do.

use super::table::{maybe, quiet};
use super::{Table, text};
use std::fmt::Write as _;
use vcl_types::api::{VmPreview, VmView};
use vcl_types::{ByteSize, Firmware, Hardware, ImageName};

/// The name of a unit of 1024, and how many of it there are.
fn in_unit(bytes: u64) -> (u32, &'static str) {
    match bytes {
        0..1_048_576 => (10, "K"),
        1_048_576..1_073_741_824 => (20, "M"),
        1_073_741_824..1_099_511_627_776 => (30, "G"),
        _ => (40, "T"),
    }
}

fn number(bytes: u64, shift: u32) -> String {
    let value = bytes as f64 / (1u64 << shift) as f64;
    if value < 9.95 && value.fract() >= 0.05 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// `6.1/20G`: what a disk takes of what the guest sees.
fn share(allocated: Option<u64>, total: Option<u64>) -> String {
    let (shift, unit) = in_unit(total.or(allocated).unwrap_or(0));
    let shown = |bytes: Option<u64>| bytes.map_or_else(|| "?".to_owned(), |bytes| number(bytes, shift));
    format!("{}/{}{unit}", shown(allocated), shown(total))
}

/// `6.1G`, `512M`: as sizes stand in the configuration.
fn size(size: ByteSize) -> String {
    let (shift, unit) = in_unit(size.bytes());
    format!("{}{unit}", number(size.bytes(), shift))
}

fn disks(vm: &VmView) -> String {
    let sum = |each: fn(&vcl_types::api::VmDisk) -> Option<ByteSize>| {
        vm.disks.iter().map(|disk| each(disk).map(ByteSize::bytes)).sum::<Option<u64>>()
    };
    let Some(first) = vm.disks.first() else { return String::new() };
    let one_format = vm.disks.iter().all(|disk| disk.format == first.format);
    let format = if one_format { first.format.as_str() } else { "mixed" };
    let many = if vm.disks.len() > 1 { format!(" in {}", vm.disks.len()) } else { String::new() };
    format!("{} {format}{many}", share(sum(|disk| disk.allocated), sum(|disk| disk.virtual_size)))
}

fn firmware(hardware: &Hardware) -> String {
    let firmware = match hardware.firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
        Firmware::UefiSecure => "UEFI+SB",
    };
    format!("{firmware}{}", if hardware.tpm { "+TPM" } else { "" })
}

/// All machines of a backend, a line each.
#[must_use]
pub fn list(vms: &[VmView]) -> String {
    let mut table =
        Table::new(&["NAME", "STATE", "DISK", "FIRMWARE", "MANAGED"], "no virtual machines there");
    for vm in vms {
        table.row([
            quiet(&vm.name),
            quiet(&vm.state),
            quiet(disks(vm)),
            quiet(firmware(&vm.hardware)),
            maybe(Some(vm.managed.as_ref().map_or("no", |computer| computer.as_str()))),
        ]);
    }
    table.text()
}

/// What making `image` from a machine would do.
#[must_use]
pub fn preview(image: &ImageName, preview: &VmPreview) -> String {
    let hardware = &preview.vm.hardware;
    let mut shown = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(shown, " {name:12}  {}", text::one_line(what));
    };
    line(
        "hardware",
        &format!(
            "{} {} {} {} {}: stored with the image",
            hardware.machine,
            firmware(hardware),
            hardware.disk_bus.as_str(),
            text::counted(hardware.cpus.into(), "cpu"),
            size(hardware.memory)
        ),
    );
    line("disk", &format!("{} to copy, library has {}", size(preview.to_copy), size(preview.free)));
    if preview.to_copy > preview.free {
        line("", "the library is too small for it");
    }
    if preview.missing.is_empty() {
        line("missing", "nothing");
    }
    for missing in &preview.missing {
        // `login: root@… refused our key` says by itself what it is about.
        match missing.split_once(": ").filter(|(about, _)| about.len() <= 12 && !about.contains(' ')) {
            Some((about, what)) => line(&text::one_line(about), what),
            None => line("missing", missing),
        }
    }
    let listed = |items: &[String]| if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
    line("would change", &format!("in the copy: {}", listed(&preview.would_change)));
    line("would keep", &listed(&preview.would_keep));
    let (vm, missing) = (text::one_line(&preview.vm.name), preview.missing.len() as u64);
    for note in &preview.notes {
        let _ = writeln!(shown, " {}", text::one_line(note));
    }
    if missing > 0 {
        let things = text::counted(missing, "thing");
        let _ = writeln!(shown, " {image} cannot be made from {vm} yet: {things} missing");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&fixtures::vms()));
    }
    #[test]
    fn a_preview() {
        let mut ready = fixtures::vm_preview();
        let missing = preview(&"gis".parse().unwrap(), &ready);
        ready.missing.clear();
        ready.would_keep.clear();
        ready.free = ByteSize::gibibytes(2);
        insta::assert_snapshot!([missing, preview(&"gis".parse().unwrap(), &ready)].join("\n"));
    }
}
