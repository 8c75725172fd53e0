//! Disks out of directories, without a loop device, a mount or a partition that the kernel knows.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;

use super::tree::Tree;
use crate::command::output_of;

const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// Modules that grub needs to read its menu, the kernel and the initrd from an ext4 root.
const GRUB_MODULES: [&str; 6] = ["ext2", "configfile", "linux", "normal", "search", "search_fs_uuid"];

/// The fast guest's: a file system and nothing around it.
pub(super) fn plain(tree: &Utf8Path, working: &Utf8Path, made: &Utf8Path) -> Result<()> {
    let raw = working.join("disk.raw");
    root_file_system(tree, &raw, 0, 1024 * MIB, &random_uuid()?)?;
    to_qcow2(&raw, made)
}

/// MBR, one partition, grub in the gap before it.
pub(super) fn bios(tree: &Utf8Path, working: &Utf8Path, made: &Utf8Path) -> Result<()> {
    let raw = working.join("disk.raw");
    let size = 2048 * MIB;
    let uuid = random_uuid()?;
    write_boot_files(&Tree(tree), &uuid, "")?;

    sized_file(&raw, size)?;
    partition(&raw, "label: dos\nstart=1MiB, type=83, bootable\n")?;
    root_file_system(tree, &raw, MIB, size - MIB, &uuid)?;

    let core = in_chroot(tree, &["biosdisk", "part_msdos"], "i386-pc", "(hd0,msdos1)/boot/grub")?;
    let boot =
        fs::read(tree.join("usr/lib/grub/i386-pc/boot.img")).context("failed to read grub's boot.img")?;
    ensure!(core.len() as u64 <= MIB - SECTOR, "grub's core does not fit before the partition");
    // What follows byte 440 of the first sector is the disk's identifier and the partition table.
    write_at(&raw, 0, boot.get(..440).context("grub's boot.img is too short")?)?;
    write_at(&raw, SECTOR, &core)?;
    to_qcow2(&raw, made)
}

/// GPT with an ESP at the path that firmware tries without a boot entry, because a copied disk has none.
pub(super) fn uefi(tree: &Utf8Path, working: &Utf8Path, made: &Utf8Path) -> Result<()> {
    let raw = working.join("disk.raw");
    let esp_size = 48 * MIB;
    // The last MiB holds the second partition table.
    let root = (MIB + esp_size, 2048 * MIB - esp_size - 2 * MIB);
    let uuid = random_uuid()?;
    // Eight hexadecimal digits, which is all that FAT has.
    let serial = &random_uuid()?[..8];
    let esp_id = format!("{}-{}", &serial[..4], &serial[4..]).to_uppercase();
    write_boot_files(&Tree(tree), &uuid, &format!("UUID={esp_id} /boot/efi vfat umask=0077 0 0\n"))?;
    fs::create_dir_all(tree.join("boot/efi"))?;

    let loader = in_chroot(tree, &["part_gpt", "fat"], "x86_64-efi", "/EFI/debian")?;
    let esp = working.join("esp.img");
    sized_file(&esp, esp_size)?;
    let files = working.join("esp");
    fs::create_dir_all(files.join("EFI/BOOT"))?;
    fs::create_dir_all(files.join("EFI/debian"))?;
    fs::write(files.join("EFI/BOOT/BOOTX64.EFI"), loader)?;
    fs::write(
        files.join("EFI/debian/grub.cfg"),
        format!("search --fs-uuid --set=root {uuid}\nconfigfile ($root)/boot/grub/grub.cfg\n"),
    )?;
    output_of(Command::new("mformat").args(["-i", esp.as_str(), "-F", "-N", serial, "::"]))?;
    output_of(Command::new("mcopy").args(["-s", "-i", esp.as_str(), files.join("EFI").as_str(), "::"]))?;

    sized_file(&raw, 2048 * MIB)?;
    partition(
        &raw,
        &format!(
            "label: gpt\nstart=1MiB, size={}, type=uefi\nstart={}, size={}, type=linux\n",
            esp_size / SECTOR,
            root.0 / SECTOR,
            root.1 / SECTOR
        ),
    )?;
    write_at(&raw, MIB, &fs::read(&esp)?)?;
    root_file_system(tree, &raw, root.0, root.1, &uuid)?;
    to_qcow2(&raw, made)
}

/// `/etc/fstab` and grub's menu. Debian's links to the newest kernel are in `/`, so the menu outlives an upgrade.
fn write_boot_files(tree: &Tree<'_>, uuid: &str, more_mounts: &str) -> Result<()> {
    tree.write("etc/fstab", 0o644, &format!("UUID={uuid} / ext4 errors=remount-ro 0 1\n{more_mounts}"))?;
    tree.write(
        "boot/grub/grub.cfg",
        0o644,
        &format!(
            "set default=0\nset timeout=0\nmenuentry 'Debian' {{\n  search --fs-uuid --set=root {uuid}\n  \
             linux /vmlinuz root=UUID={uuid} ro console=tty0 console=ttyS0 quiet\n  initrd /initrd.img\n}}\n"
        ),
    )
}

/// Makes grub's core with the modules and the tool of the tree, so the builder's host needs no grub.
fn in_chroot(tree: &Utf8Path, modules: &[&str], platform: &str, prefix: &str) -> Result<Vec<u8>> {
    let core = "/tmp/grub-core";
    output_of(
        Command::new("chroot")
            .args([tree.as_str(), "grub-mkimage", "-O", platform, "-p", prefix, "-o", core])
            .args(modules)
            .args(GRUB_MODULES),
    )?;
    let made = tree.join(core.trim_start_matches('/'));
    let bytes = fs::read(&made).with_context(|| format!("failed to read {made}"))?;
    fs::remove_file(&made)?;
    Ok(bytes)
}

/// Puts `tree` into an ext4 file system at `offset` of `raw`.
fn root_file_system(tree: &Utf8Path, raw: &Utf8Path, offset: u64, size: u64, uuid: &str) -> Result<()> {
    output_of(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-L", "root", "-U", uuid, "-d", tree.as_str()])
            // A guest would spend its first minutes zeroing inode tables that a sparse file has zeroed already.
            .args(["-E", &format!("offset={offset},lazy_itable_init=0,lazy_journal_init=0")])
            .args([raw.as_str(), &format!("{}k", size / 1024)]),
    )
    .map(drop)
}

fn partition(raw: &Utf8Path, table: &str) -> Result<()> {
    let mut sfdisk = Command::new("sfdisk")
        .args(["--quiet", raw.as_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("failed to run sfdisk (package fdisk)")?;
    sfdisk.stdin.take().context("sfdisk has no standard input")?.write_all(table.as_bytes())?;
    let status = sfdisk.wait()?;
    ensure!(status.success(), "sfdisk: {status}");
    Ok(())
}

fn to_qcow2(raw: &Utf8Path, made: &Utf8Path) -> Result<()> {
    let disk = made.join("disk.qcow2");
    output_of(Command::new("qemu-img").args(["convert", "-O", "qcow2", raw.as_str(), disk.as_str()]))?;
    fs::remove_file(raw).with_context(|| format!("failed to remove {raw}"))
}

fn sized_file(path: &Utf8Path, size: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("failed to make {path}"))?;
    file.set_len(size).with_context(|| format!("failed to size {path}"))
}

fn write_at(path: &Utf8Path, offset: u64, bytes: &[u8]) -> Result<()> {
    let mut file =
        OpenOptions::new().write(true).open(path).with_context(|| format!("failed to open {path}"))?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(bytes).with_context(|| format!("failed to write {path}"))
}

fn random_uuid() -> Result<String> {
    let mut uuid = String::new();
    File::open("/proc/sys/kernel/random/uuid")?.read_to_string(&mut uuid)?;
    Ok(uuid.trim().to_owned())
}
