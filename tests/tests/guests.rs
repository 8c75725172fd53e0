//! The test guests are what the tests of vcld take them for. As root, and with a Debian mirror the first time.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use camino::Utf8PathBuf;
use vcl_tests::guest::{Guest, Kind, Machine, cache_directory, cached_key};
use vcl_tests::world::World;

#[path = "guests/lent.rs"]
mod lent;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");

fn make(kind: Kind) -> Result<(Guest, Utf8PathBuf)> {
    let cache = cache_directory();
    let key = cached_key(&cache)?;
    let public = fs::read_to_string(format!("{key}.pub"))?;
    Ok((Guest::make(kind, &cache, &public, &mut |progress| println!("{progress:?}"))?, key))
}

const IDENTITY: &str = "cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_*_key.pub";

fn wait_for_other_boot(machine: &mut Machine, boot: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    while machine.ssh("cat /proc/sys/kernel/random/boot_id").ok().as_deref().unwrap_or(boot) == boot {
        ensure!(Instant::now() < deadline, "the guest did not come back from its reboot");
        sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// What holds of each kind: nobody's identity in the image, one of its own after the first boot, kept over a reboot.
fn check(kind: Kind) -> Result<()> {
    let (guest, key) = make(kind)?;
    let mut machine = Machine::start(&guest, &key)?;
    println!("login after {:.1} s", machine.wait_for_login()?.as_secs_f32());
    assert_eq!(machine.ssh("hostname")?.trim(), "debian");
    assert_eq!(machine.ssh("id -u alice; stat -c %U /home/alice")?, "1000\nalice\n");
    let first = machine.ssh(IDENTITY)?;
    assert_eq!(first.lines().count(), 2, "a machine-id and one host key: {first}");
    assert_eq!(first.lines().next().map(str::len), Some(32), "{first}");
    let boot = machine.ssh("cat /proc/sys/kernel/random/boot_id")?;
    machine.ssh("systemctl reboot")?;
    wait_for_other_boot(&mut machine, &boot)?;
    assert_eq!(machine.ssh(IDENTITY)?, first, "identity changed by a reboot");
    println!("power button to off {:.1} s", machine.press_power_button()?.as_secs_f32());

    let mut other = Machine::start(&guest, &key)?;
    other.wait_for_login()?;
    let second = other.ssh(IDENTITY)?;
    for (one, another) in first.lines().zip(second.lines()) {
        assert_ne!(one, another, "two machines of one image share it");
    }
    other.ssh("systemctl poweroff")?;
    println!("systemctl poweroff to off {:.1} s", other.wait_for_power_off()?.as_secs_f32());
    Ok(())
}

#[test]
fn fast() -> Result<()> {
    check(Kind::Fast)
}

#[test]
#[ignore = "boots an ordinary Debian three times on an emulated CPU: five minutes"]
fn grub() -> Result<()> {
    check(Kind::Grub)
}

#[test]
#[ignore = "boots an ordinary Debian three times on an emulated CPU: five minutes"]
fn uefi() -> Result<()> {
    check(Kind::Uefi)
}

/// Starts `guest` on a libvirt network and returns the address that it was leased.
fn start_on_network(world: &World, guest: &Guest) -> Result<String> {
    let network = world.libvirt_network("lab", Ipv4Addr::new(192, 168, 70, 0))?;
    let directory = world.directory();
    let disk = directory.join("disk.qcow2");
    let created = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([guest.disk().canonicalize_utf8()?.as_str(), disk.as_str()])
        .status()?;
    ensure!(created.success(), "qemu-img: {created}");
    let mut os = match guest.kind() {
        Kind::Uefi => {
            // Without these words libvirt chooses a firmware that only boots what Microsoft signed.
            "<os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type><firmware>\
             <feature enabled='no' name='secure-boot'/></firmware></os>"
        }
        _ => "<os><type arch='x86_64' machine='q35'>hvm</type></os>",
    }
    .to_owned();
    if let Some(boot) = guest.direct_boot()? {
        os = format!(
            "<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
             <cmdline>{}</cmdline></os>",
            boot.kernel.canonicalize_utf8()?,
            boot.initrd.canonicalize_utf8()?,
            boot.cmdline
        );
    }
    let xml = format!(
        "<domain type='qemu'><name>g</name><memory unit='MiB'>512</memory>{os}<features><acpi/></features><devices>\
         <disk type='file'><driver name='qemu' type='qcow2'/><source file='{disk}'/><target dev='vda' bus='virtio'/>\
         </disk><interface type='network'><source network='{}'/><model type='virtio'/></interface>\
         <serial type='file'><source path='{directory}/console'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng></devices></domain>",
        network.name
    );
    let file = directory.join("g.xml");
    fs::write(&file, xml)?;
    world.virsh(&["define", file.as_str()])?;
    world.virsh(&["start", "g"])?;
    let deadline = Instant::now() + Duration::from_secs(300);
    while Instant::now() < deadline {
        let leases = world.virsh(&["net-dhcp-leases", &network.name])?;
        if let Some(address) = leases.split_whitespace().find_map(|word| word.strip_suffix("/24")) {
            return Ok(address.to_owned());
        }
        sleep(Duration::from_millis(100));
    }
    bail!("no lease; the console: {}", fs::read_to_string(directory.join("console")).unwrap_or_default())
}

fn wait_for_login(address: &str, key: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let output = Command::new("ssh")
            .args(["-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=5"])
            .args([&format!("root@{address}"), "true"])
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "no login: {}", String::from_utf8_lossy(&output.stderr));
        sleep(Duration::from_millis(200));
    }
}

fn on_libvirt(test: &str, kind: Kind) -> Result<()> {
    // Made before the world, which has no way to a mirror.
    let (guest, key) = make(kind)?;
    let Some(world) = World::around_test(VCL_WORLD, test)? else { return Ok(()) };
    let start = Instant::now();
    let address = start_on_network(&world, &guest)?;
    println!("lease of {address} after {:.1} s", start.elapsed().as_secs_f32());
    wait_for_login(&address, key.as_str())?;
    println!("login after {:.1} s", start.elapsed().as_secs_f32());
    if kind != Kind::Fast {
        let deadline = Instant::now() + Duration::from_secs(120);
        while world.virsh(&["qemu-agent-command", "g", "{\"execute\":\"guest-ping\"}"]).is_err() {
            ensure!(Instant::now() < deadline, "the guest agent does not answer");
            sleep(Duration::from_millis(500));
        }
        println!("agent after {:.1} s", start.elapsed().as_secs_f32());
    }
    let start = Instant::now();
    world.virsh(&["shutdown", "g", "--mode", "acpi"])?;
    while world.virsh(&["domstate", "g"])?.trim() != "shut off" {
        ensure!(start.elapsed() < Duration::from_secs(120), "still on");
        sleep(Duration::from_millis(100));
    }
    println!("shut off after {:.1} s", start.elapsed().as_secs_f32());
    Ok(())
}

#[test]
fn fast_on_libvirt() -> Result<()> {
    on_libvirt("fast_on_libvirt", Kind::Fast).context("fast guest on a libvirt network")
}

#[test]
#[ignore = "boots an ordinary Debian on an emulated CPU: two minutes"]
fn grub_on_libvirt() -> Result<()> {
    on_libvirt("grub_on_libvirt", Kind::Grub)
}

#[test]
#[ignore = "boots an ordinary Debian on an emulated CPU: two minutes"]
fn uefi_on_libvirt() -> Result<()> {
    on_libvirt("uefi_on_libvirt", Kind::Uefi)
}
