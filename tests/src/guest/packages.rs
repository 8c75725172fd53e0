//! The package tree of a guest: mmdebstrap, with a cache of packages that all kinds share.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use camino::Utf8Path;

use super::Kind;

const RELEASE: &str = "bookworm";
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What of `/usr/share` nobody reads in a test guest.
const UNREAD: [&str; 5] = ["doc", "man", "info", "locale", "lintian"];

/// A tree in memory is installed in half the time that it takes on a disk, and takes about this much, in KiB, with
/// its packages.
const MEMORY_TAKEN: u64 = 3 << 20;
const IN_MEMORY: &str = "[ -z \"$IN_MEMORY\" ] || mount -t tmpfs tmpfs \"$TMPDIR\"; exec mmdebstrap \"$@\"";

/// Modules of the kernel that the fast guest's initrd loads, in the order of their dependencies.
pub(super) const FAST_MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio-rng",
    // The ACPI power button, by which a hypervisor asks for a shutdown.
    "button",
];

/// Which packages make up a tree, and how much of its kernel.
pub(super) struct Recipe {
    variant: &'static str,
    packages: &'static [&'static str],
    /// Take only the kernel and a few modules out of its package, instead of installing it: that saves its 90 MB of
    /// modules, and the initramfs generator.
    bare_kernel: bool,
}

impl Recipe {
    pub(super) fn of(kind: Kind) -> Self {
        match kind {
            Kind::Fast => Self {
                variant: "essential",
                packages: &[
                    "systemd-sysv",
                    "openssh-server",
                    "iproute2",
                    "mount",
                    "procps",
                    "busybox-static",
                    "acpid",
                ],
                bare_kernel: true,
            },
            // One tree for both, as Debian's own images do it: it has the loaders of both firmwares.
            Kind::Grub | Kind::Uefi => Self {
                variant: "minbase",
                packages: &[
                    "systemd-sysv",
                    "udev",
                    "dbus",
                    "libpam-systemd",
                    "openssh-server",
                    "iproute2",
                    "iputils-ping",
                    "procps",
                    "kmod",
                    "sudo",
                    "nftables",
                    "less",
                    "qemu-guest-agent",
                    "linux-image-cloud-amd64",
                    "initramfs-tools",
                    "grub2-common",
                    "grub-pc-bin",
                    "grub-efi-amd64-bin",
                ],
                bare_kernel: false,
            },
        }
    }

    /// How much of Debian is the base; no two recipes share one.
    pub(super) fn variant(&self) -> &'static str {
        self.variant
    }

    /// Everything that this recipe depends on beside its code.
    pub(super) fn describe(&self) -> String {
        format!("{} {} {} {} {}", mirror(), RELEASE, self.variant, self.packages.join(","), self.bare_kernel)
    }

    /// Installs the packages below `working` and writes the tree to `tarball`, whole or not at all. Packages come
    /// from `cache` where it has them, and go there.
    pub(super) fn install(&self, working: &Utf8Path, cache: &Utf8Path, tarball: &Utf8Path) -> Result<()> {
        fs::create_dir_all(cache).with_context(|| format!("failed to make {cache}"))?;
        let unfinished = working.join("tree.tar");
        let chroots = working.join("chroots");
        fs::create_dir(&chroots).with_context(|| format!("failed to make {chroots}"))?;
        let include = format!("--include={}", self.packages.join(","));
        // In namespaces that end with this process, so that however it ends nothing runs on or stays mounted.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["--mount", "--propagation", "private", "sh", "-c", IN_MEMORY, "sh"])
            .env("IN_MEMORY", if memory_available()? >= MEMORY_TAKEN { "yes" } else { "" })
            .env("TMPDIR", &chroots)
            .env("CACHE", cache)
            .args(["--mode=root", "--format=tar", "--variant", self.variant, &include])
            .arg(format!("--keyring={KEYRING}"))
            // Spares the package that would merge /usr later, and Perl with it.
            .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
            .arg("--aptopt=APT::Install-Recommends \"false\"")
            // The tree is thrown away if the machine dies, so nothing in it needs to reach the disk early.
            .arg("--dpkgopt=force-unsafe-io")
            .args(UNREAD.map(|part| format!("--dpkgopt=path-exclude=/usr/share/{part}/*")))
            // mmdebstrap would delete the packages before the hook below keeps them.
            .args(["--skip=download/empty", "--skip=essential/unlink"])
            .arg(
                "--setup-hook=archives=\"$1/var/cache/apt/archives\"; mkdir -p \"$archives\"; \
                 find \"$CACHE\" -name '*.deb' -exec cp -n -t \"$archives\" {} +",
            )
            .arg(
                "--customize-hook=find \"$1/var/cache/apt/archives\" -maxdepth 1 -name '*.deb' -size +0 \
                 -exec cp -n -t \"$CACHE\" {} +",
            );
        if self.bare_kernel {
            command.arg(format!("--customize-hook={}", bare_kernel_hook()));
        }
        command.args([RELEASE, unfinished.as_str(), &mirror()]);
        let output = command.output().context("failed to run setpriv (package util-linux)")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let lines: Vec<&str> = said.lines().collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            bail!("mmdebstrap with the mirror {} (VCL_DEBIAN_MIRROR): {}\n{last}", mirror(), output.status);
        }
        fs::rename(&unfinished, tarball).with_context(|| format!("failed to name {tarball}"))
    }
}

/// Shell that takes the kernel and [`FAST_MODULES`] out of the kernel's package into the tree `$1`.
fn bare_kernel_hook() -> String {
    let modules: Vec<String> = FAST_MODULES.iter().map(|module| format!("'*/{module}.ko'")).collect();
    format!(
        "set -e; export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"; cd \"$CACHE\"; \
         package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p'); \
         apt-get -q -o APT::Sandbox::User=root download \"$package\"; \
         file=$(ls -t \"$package\"_*.deb | head -n1); \
         dpkg-deb --fsys-tarfile \"$file\" | \
         tar -x -C \"$1\" --keep-directory-symlink --wildcards './boot/vmlinuz-*' {}",
        modules.join(" ")
    )
}

fn mirror() -> String {
    env::var("VCL_DEBIAN_MIRROR")
        .ok()
        .filter(|mirror| !mirror.is_empty())
        .unwrap_or_else(|| DEFAULT_MIRROR.into())
}

/// In KiB.
fn memory_available() -> Result<u64> {
    let information = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
    let available = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let available = available.context("/proc/meminfo does not tell the available memory")?;
    available.trim().trim_end_matches(" kB").parse().context("/proc/meminfo's available memory is no number")
}
