//! A world runs its command, keeps its libvirtd through a restart, and leaves nothing behind. As root.

use std::fs;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vcl_tests::world::World;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");

/// Processes whose command line mentions the directory; all of a world's daemons do.
fn processes_of(directory: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(directory) {
            found.push(line);
        }
    }
    found
}

fn assert_nothing_left(directory: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !processes_of(directory).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(50));
    }
    assert_eq!(processes_of(directory), Vec::<String>::new(), "processes of the world outlived it");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    assert!(!mounts.contains(directory), "mounts of the world outlived it");
}

/// Starts a world that would not end by itself, and waits until its command runs.
fn endless(directory: &str) -> Result<Child> {
    let child = Command::new(VCL_WORLD)
        .args(["--dir", directory, "--", "sh", "-c", "touch \"$VCL_WORLD/runs\"; sleep 1000 & sleep 1000"])
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(format!("{directory}/runs")).is_err() {
        ensure!(Instant::now() < deadline, "the command never ran");
        sleep(Duration::from_millis(50));
    }
    Ok(child)
}

#[test]
fn passes_the_exit_code_and_leaves_nothing() -> Result<()> {
    let script = "virsh list --all >&2; sleep 1000 & ip -brief link; echo \"$VCL_WORLD\"; exit 7";
    let output = Command::new(VCL_WORLD).args(["--", "sh", "-c", script]).output()?;
    let text = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(7), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "an interface beside lo, or no directory: {text}");
    assert_nothing_left(lines[1]);
    assert!(fs::metadata(lines[1]).is_err(), "{} is still there", lines[1]);
    Ok(())
}

#[test]
fn ends_on_signals_and_admits_one_at_a_time() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    let directory = temporary.path().to_str().context("path")?;
    for signal in ["-TERM", "-KILL"] {
        let _ = fs::remove_file(temporary.path().join("runs"));
        let mut world = endless(directory)?;
        let second = Command::new(VCL_WORLD).args(["--dir", directory, "--", "true"]).output()?;
        assert_eq!(second.status.code(), Some(125));
        Command::new("kill").args([signal, &world.id().to_string()]).status()?;
        let status = world.wait()?;
        if signal == "-TERM" {
            assert_eq!(status.code(), Some(143));
        }
        assert_nothing_left(directory);
    }
    Ok(())
}

#[test]
fn libvirtd_finds_domains_again() -> Result<()> {
    let Some(world) = World::around_test(VCL_WORLD, "libvirtd_finds_domains_again")? else { return Ok(()) };
    let network = world.libvirt_network("lab", Ipv4Addr::new(192, 168, 70, 0))?;
    let directory = world.directory();
    let machine = "<type arch='x86_64' machine='q35'>hvm</type>";
    let tpm = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>";
    let chosen = "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
                  <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'/>";
    for (name, os, tpm) in [
        ("bios", format!("<os>{machine}</os>"), ""),
        ("uefi", format!("<os firmware='efi'>{machine}</os>"), tpm),
        ("uefi-chosen", format!("<os>{machine}{chosen}</os>"), ""),
    ] {
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>128</memory>{os}<features><acpi/></features>\
             <devices><interface type='network'><source network='{}'/><model type='virtio'/></interface>\
             <serial type='file'><source path='{directory}/{name}.serial'/><log file='{directory}/{name}.log'/></serial>\
             <graphics type='vnc' autoport='yes' listen='127.0.0.1'/><video><model type='vga'/></video>\
             <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
             <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>{tpm}</devices></domain>",
            network.name
        );
        let file = directory.join(format!("{name}.xml"));
        fs::write(&file, xml)?;
        world.virsh(&["define", file.as_str()])?;
        world.virsh(&["start", name])?;
        world.virsh(&["domdisplay", name])?;
    }

    let before = world.libvirtd_pid().context("libvirtd does not run")?;
    world.kill_libvirtd()?;
    assert_eq!(world.libvirtd_pid(), None);
    world.start_libvirtd()?;
    assert_ne!(world.libvirtd_pid(), Some(before));
    world.stop_libvirtd()?;
    world.start_libvirtd()?;
    for name in ["bios", "uefi", "uefi-chosen"] {
        assert_eq!(world.virsh(&["domstate", name])?.trim(), "running");
    }
    assert_eq!(world.virsh(&["net-list", "--name"])?.trim(), "lab");
    Ok(())
}
