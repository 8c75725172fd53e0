//! What makes the fast guest fast: a kernel that needs no unpacking, an initrd of eleven modules, no idle services.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

use super::cpio::Archive;
use super::packages::FAST_MODULES;
use super::tree::Tree;

/// `random.trust_cpu`, `tsc` and `no_timer_check` spare waiting, the rest spares work. `apparmor=0` is missing on
/// purpose: with it no ssh came up.
const COMMAND_LINE: &str = "root=/dev/vda rw console=ttyS0 quiet loglevel=3 mitigations=off nokaslr no_timer_check \
    cryptomgr.notests random.trust_cpu=on 8250.nr_uarts=1 audit=0 lsm=capability rcupdate.rcu_expedited=1 \
    net.ifnames=0 tsc=reliable";

/// Units of Debian that the fast guest starts; all others that a target wants are masked.
const KEPT: [&str; 1] = ["ssh.service"];

/// Process 1 of the initrd. The disk may take a moment to appear, because virtio probes in the background.
const INIT: &str = "\
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in MODULES; do /bin/busybox insmod /modules/$module.ko; done
until [ -b /dev/vda ]; do /bin/busybox sleep 0.05; done
/bin/busybox mount -t ext4 /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /sbin/init
";

/// One udhcpc for each card, for as long as the guest runs. Nothing waits for it: sshd listens on addresses to come.
const NETWORK: &str = "\
#!/bin/busybox sh
for card in /sys/class/net/eth*; do
    busybox udhcpc -f -S -t 60 -T 1 -A 3 -i \"${card##*/}\" -s /etc/guest/lease &
done
wait
";

const LEASE: &str = "\
#!/bin/busybox sh
case $1 in
deconfig)
    ip link set \"$interface\" up
    ;;
bound | renew)
    ip address replace \"$ip/${mask:-24}\" dev \"$interface\"
    [ -z \"$router\" ] || ip route replace default via \"${router%% *}\" dev \"$interface\"
    : >/etc/resolv.conf
    for server in $dns; do echo \"nameserver $server\" >>/etc/resolv.conf; done
    ;;
esac
";

const NETWORK_UNIT: &str = "\
[Unit]
Description=Addresses by DHCP
DefaultDependencies=no
After=local-fs.target
Conflicts=shutdown.target

[Service]
ExecStart=/etc/guest/network
";

const POWER_BUTTON_UNIT: &str = "\
[Unit]
Description=Power off when the button is pressed
DefaultDependencies=no
After=local-fs.target
Conflicts=shutdown.target

[Service]
ExecStart=/usr/sbin/acpid --foreground --logevents
";

/// Makes `tree` boot fast and writes `vmlinux`, `initrd.img` and `cmdline` to `made`.
pub(super) fn prepare(tree: &Utf8Path, made: &Utf8Path) -> Result<()> {
    let tree = Tree(tree);
    mask_units(&tree)?;
    tree.write("etc/guest/network", 0o755, NETWORK)?;
    tree.write("etc/guest/lease", 0o755, LEASE)?;
    tree.unit("guest-network.service", "sysinit.target", NETWORK_UNIT)?;
    tree.unit("power-button.service", "multi-user.target", POWER_BUTTON_UNIT)?;
    tree.write("etc/acpi/events/power", 0o644, "event=button[ /]power\naction=/bin/systemctl poweroff\n")?;
    // PAM looks for logind and sessions, and `sshd -t` checks again what sshd checks anyway.
    tree.write("etc/ssh/sshd_config.d/fast.conf", 0o644, "UsePAM no\nPrintMotd no\nPrintLastLog no\n")?;
    tree.write("etc/systemd/system/ssh.service.d/fast.conf", 0o644, "[Service]\nExecStartPre=\n")?;
    tree.link("etc/systemd/system/default.target", "/lib/systemd/system/multi-user.target")?;

    write_kernel(&tree, made)?;
    fs::write(made.join("initrd.img"), initrd(&tree)?).context("failed to write the initrd")?;
    fs::write(made.join("cmdline"), format!("{COMMAND_LINE}\n")).context("failed to write the command line")
}

/// Masks what any target wants, and all generators: each would be a process or a wait, and none serves a guest that
/// lives for minutes on an emulated CPU. Read from the tree, so that a later systemd's new units are masked as well.
fn mask_units(tree: &Tree<'_>) -> Result<()> {
    let mut wanted = BTreeSet::new();
    for directory in ["lib/systemd/system", "etc/systemd/system"] {
        for entry in tree.path(directory).read_dir_utf8()? {
            let entry = entry?;
            // Only of targets: getty@.service and the like are instances of what is masked anyway.
            if entry.file_name().ends_with(".target.wants") {
                for unit in entry.path().read_dir_utf8()? {
                    wanted.insert(unit?.file_name().to_owned());
                }
            }
        }
    }
    // Own units of the guest stay, and they were put there by name.
    wanted.retain(|unit| !KEPT.contains(&unit.as_str()) && unit != "ssh-host-key.service");
    for unit in &wanted {
        tree.link(&format!("etc/systemd/system/{unit}"), "/dev/null")?;
    }
    for generator in tree.path("lib/systemd/system-generators").read_dir_utf8()? {
        tree.link(&format!("etc/systemd/system-generators/{}", generator?.file_name()), "/dev/null")?;
    }
    Ok(())
}

/// Unpacks the kernel from its self-extracting image, so that the guest does not spend a second on it at each boot.
///
/// The header fields are those of the kernel's `Documentation/arch/x86/boot.rst`.
fn write_kernel(tree: &Tree<'_>, made: &Utf8Path) -> Result<()> {
    let image = only_file(&tree.path("boot"), "vmlinuz-")?;
    let bytes = fs::read(&image).with_context(|| format!("failed to read {image}"))?;
    let field = |at: usize| -> Result<usize> {
        let field = bytes
            .get(at..at + 4)
            .and_then(|field| field.try_into().ok())
            .context("kernel image is too short")?;
        Ok(u32::from_le_bytes(field) as usize)
    };
    ensure!(bytes.get(0x202..0x206) == Some(b"HdrS"), "{image} is no kernel image");
    let setup_sectors = usize::from(bytes[0x1f1]);
    let start = (setup_sectors + 1) * 512 + field(0x248)?;
    // The last four bytes tell the unpacked size, which lz4 would take for one more block.
    let payload =
        bytes.get(start..start + field(0x24c)? - 4).context("kernel image ends before its payload")?;
    ensure!(payload.starts_with(&[0x02, 0x21, 0x4c, 0x18]), "the kernel in {image} is not packed with LZ4");

    let kernel = made.join("vmlinux");
    let mut lz4 = Command::new("lz4")
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(File::create(&kernel).with_context(|| format!("failed to make {kernel}"))?)
        .spawn()
        .context("failed to run lz4; is its package installed?")?;
    lz4.stdin
        .take()
        .context("lz4 has no standard input")?
        .write_all(payload)
        .context("failed to feed lz4")?;
    let status = lz4.wait().context("failed to wait for lz4")?;
    ensure!(status.success(), "lz4: {status}");
    Ok(())
}

fn initrd(tree: &Tree<'_>) -> Result<Vec<u8>> {
    let versions = tree.path("lib/modules");
    let mut modules = Vec::new();
    collect_modules(&versions, &mut modules)?;
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "modules", "root"] {
        archive.directory(directory);
    }
    let busybox = tree.path("bin/busybox");
    archive.file("bin/busybox", &fs::read(&busybox).with_context(|| format!("failed to read {busybox}"))?);
    for name in FAST_MODULES {
        let file = format!("{name}.ko");
        let path = modules
            .iter()
            .find(|path| path.file_name() == Some(file.as_str()))
            .with_context(|| format!("the kernel has no module {name}"))?;
        archive.file(
            &format!("modules/{file}"),
            &fs::read(path).with_context(|| format!("failed to read {path}"))?,
        );
    }
    archive.file("init", INIT.replace("MODULES", &FAST_MODULES.join(" ")).as_bytes());
    Ok(archive.finish())
}

fn collect_modules(directory: &Utf8Path, found: &mut Vec<Utf8PathBuf>) -> Result<()> {
    for entry in directory.read_dir_utf8().with_context(|| format!("failed to list {directory}"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_modules(entry.path(), found)?;
        } else if entry.path().extension() == Some("ko") {
            found.push(entry.path().to_owned());
        }
    }
    Ok(())
}

fn only_file(directory: &Utf8Path, prefix: &str) -> Result<Utf8PathBuf> {
    let mut found = None;
    for entry in directory.read_dir_utf8().with_context(|| format!("failed to list {directory}"))? {
        let entry = entry?;
        if entry.file_name().starts_with(prefix) {
            ensure!(found.is_none(), "{directory} has more than one {prefix}*");
            found = Some(entry.path().to_owned());
        }
    }
    found.with_context(|| format!("{directory} has no {prefix}*"))
}
