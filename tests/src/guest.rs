//! Test guests made from Debian packages: nothing is downloaded but packages, and nothing is fetched from a gallery.
//!
//! | kind | boots | for |
//! |---|---|---|
//! | [`Kind::Fast`] | its kernel directly, no partitions, next to no services | everything that needs *a* guest |
//! | [`Kind::Grub`] | BIOS, MBR, grub, stock initrd, full systemd | the proof that an ordinary disk works |
//! | [`Kind::Uefi`] | the same tree from a GPT with an ESP | the same under UEFI |
//!
//! Each is made in two steps. The package tree (`packages`) takes most of the time and depends on nothing but the
//! list of packages; the disk (`tree`, `fast`, `ordinary`, `disk`) takes seconds and depends on the authorized key as well. Both
//! steps are cached under a digest of what went in, the code of this module included, so an edit here is never hidden
//! by a cache.

use std::env;
use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};

use crate::command::output_of;

mod cpio;
mod disk;
mod fast;
mod genesis;
mod machine;
mod ordinary;
mod packages;
mod small;
mod tree;

pub use genesis::Genesis;
pub use machine::Machine;
pub use small::SMALL;

/// The code that decides what a guest contains.
const RECIPE: &[&str] = &[
    include_str!("guest/packages.rs"),
    include_str!("guest/tree.rs"),
    include_str!("guest/fast.rs"),
    include_str!("guest/ordinary.rs"),
    include_str!("guest/cpio.rs"),
    include_str!("guest/disk.rs"),
];

/// What sort of guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Boots in the fewest seconds that an emulated CPU allows: direct kernel boot, tiny initrd, units masked.
    Fast,
    /// An ordinary Debian that grub boots from an MBR disk under BIOS.
    Grub,
    /// The same Debian on a GPT disk, booted by UEFI from its ESP. It is not signed for Secure Boot.
    Uefi,
}

impl Kind {
    /// The word for it on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Grub => "grub",
            Self::Uefi => "uefi",
        }
    }

    /// The kind that `name` is the word for.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "fast" => Ok(Self::Fast),
            "grub" => Ok(Self::Grub),
            "uefi" => Ok(Self::Uefi),
            other => bail!("no kind of guest {other:?}; there are fast, grub and uefi"),
        }
    }
}

/// What trees of a recipe begin with, and what the one of today's recipe is called.
fn tree_name(recipe: &packages::Recipe) -> (String, String) {
    let kind = format!("tree-{}-", recipe.variant());
    let name = format!("{kind}{}", digest(&[&recipe.describe(), RECIPE[0]]));
    (kind, name)
}

/// The tree of packages that a kind of guest begins as, from the cache or made now.
fn packages(
    recipe: &packages::Recipe,
    cache: &Utf8Path,
    working: &Utf8Path,
    stages: &mut Stages<'_>,
) -> Result<Utf8PathBuf> {
    let (kind, name) = tree_name(recipe);
    let tarball = cache.join(format!("{name}.tar"));
    if !tarball.exists() {
        stages.run("Debian packages", || recipe.install(working, &cache.join("packages"), &tarball))?;
        remove_outdated(cache, &kind, Some(&tarball))?;
    }
    Ok(tarball)
}

/// What the making of a guest tells while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Progress<'a> {
    /// A stage began.
    Started(&'a str),
    /// A stage ended well and took this long.
    Finished(&'a str, Duration),
}

/// A guest's files in one directory: `disk.qcow2`, and for [`Kind::Fast`] `vmlinux`, `initrd.img` and `cmdline`.
#[derive(Debug, Clone)]
pub struct Guest {
    kind: Kind,
    directory: Utf8PathBuf,
}

impl Guest {
    /// Makes a guest that lets the owner of `authorized_key` (a line of an `authorized_keys` file) in as root, or
    /// finds it under `cache` at once. See [`cache_directory`] for the usual `cache`.
    ///
    /// What it returns is the cached guest itself: put an overlay over its disk or [`copy`](Self::copy_to) it.
    ///
    /// # Errors
    ///
    /// When a tool or the Debian mirror fails. What was begun is removed; what was whole before stays.
    pub fn make(
        kind: Kind,
        cache: &Utf8Path,
        authorized_key: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Self> {
        let authorized_key = authorized_key.trim();
        ensure!(
            authorized_key.lines().count() == 1 && !authorized_key.contains("PRIVATE"),
            "the authorized key is not one line of an authorized_keys file"
        );
        let recipe = packages::Recipe::of(kind);
        let (_, tree_name) = tree_name(&recipe);
        let guest_name = format!(
            "{}-{}",
            kind.name(),
            digest(&[kind.name(), &tree_name, &RECIPE.concat(), authorized_key])
        );
        let guest = Self { kind, directory: cache.join(&guest_name) };
        if guest.is_found()? {
            return Ok(guest);
        }

        ensure!(rustix::process::geteuid().is_root(), "making a guest takes root, for its files' owners");
        fs::create_dir_all(cache).with_context(|| format!("failed to make {cache}"))?;
        let _lock = lock(cache)?;
        if guest.is_found()? {
            return Ok(guest);
        }
        let mut stages = Stages { progress };
        let working = tempfile::Builder::new().prefix(WORKING).tempdir_in(cache)?;
        let working =
            Utf8Path::from_path(working.path()).context("the cache directory's path is not UTF-8")?;

        let tarball = packages(&recipe, cache, working, &mut stages)?;
        let tree = working.join("tree");
        stages.run("system tree", || {
            fs::create_dir(&tree)?;
            output_of(Command::new("tar").args(["-xpf", tarball.as_str(), "-C", tree.as_str()]))?;
            tree::settle(&tree, authorized_key)?;
            if kind == Kind::Fast { Ok(()) } else { ordinary::prepare(&tree) }
        })?;
        let made = working.join("made");
        fs::create_dir(&made)?;
        match kind {
            Kind::Fast => {
                stages.run("kernel and initrd", || fast::prepare(&tree, &made))?;
                stages.run("disk", || disk::plain(&tree, working, &made))?;
            }
            Kind::Grub => stages.run("disk", || disk::bios(&tree, working, &made))?,
            Kind::Uefi => stages.run("disk", || disk::uefi(&tree, working, &made))?,
        }
        fs::write(made.join("kind"), kind.name())?;
        fs::rename(&made, &guest.directory).with_context(|| format!("failed to name {}", guest.directory))?;
        remove_outdated(cache, &format!("{}-", kind.name()), None)?;
        Ok(guest)
    }

    /// Puts the files of a kind of guest into a directory as its packages have them, for what runs in them without booting.
    ///
    /// # Errors
    ///
    /// The packages cannot be had, or root is needed and this is not.
    pub fn unpack(kind: Kind, cache: &Utf8Path, into: &Utf8Path) -> Result<()> {
        ensure!(rustix::process::geteuid().is_root(), "unpacking a guest takes root, for its files' owners");
        fs::create_dir_all(cache).with_context(|| format!("failed to make {cache}"))?;
        let _lock = lock(cache)?;
        let working = tempfile::Builder::new().prefix(WORKING).tempdir_in(cache)?;
        let working =
            Utf8Path::from_path(working.path()).context("the cache directory's path is not UTF-8")?;
        let recipe = packages::Recipe::of(kind);
        let tarball = packages(&recipe, cache, working, &mut Stages { progress: &mut |_| {} })?;
        output_of(Command::new("tar").args(["-xpf", tarball.as_str(), "-C", into.as_str()]))?;
        Ok(())
    }

    /// Whether it is in the cache; if so, it counts as used today.
    fn is_found(&self) -> Result<bool> {
        let found = self.directory.exists();
        if found && rustix::process::geteuid().is_root() {
            let mark = self.directory.join("kind");
            let file =
                File::options().append(true).open(&mark).with_context(|| format!("failed to open {mark}"))?;
            file.set_modified(SystemTime::now()).with_context(|| format!("failed to mark {mark}"))?;
        }
        Ok(found)
    }

    /// A guest that was made into `directory`.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn open(directory: &Utf8Path) -> Result<Self> {
        let kind = fs::read_to_string(directory.join("kind"))
            .with_context(|| format!("{directory} has no guest"))?;
        Ok(Self { kind: Kind::from_name(kind.trim())?, directory: directory.to_owned() })
    }

    /// Copies the guest's files into `directory`, which is made if need be.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn copy_to(&self, directory: &Utf8Path) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("failed to make {directory}"))?;
        let from = format!("{}/.", self.directory);
        output_of(Command::new("cp").args([
            "-r",
            "--reflink=auto",
            "--sparse=always",
            &from,
            directory.as_str(),
        ]))?;
        Ok(Self { kind: self.kind, directory: directory.to_owned() })
    }

    /// What sort of guest it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where its files are.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }

    /// Its disk, a qcow2 without a backing file.
    #[must_use]
    pub fn disk(&self) -> Utf8PathBuf {
        self.directory.join("disk.qcow2")
    }

    /// What it boots with, if it boots directly: kernel, initrd and command line.
    ///
    /// # Errors
    ///
    /// When the command line cannot be read.
    pub fn direct_boot(&self) -> Result<Option<DirectBoot>> {
        if self.kind != Kind::Fast {
            return Ok(None);
        }
        let cmdline = self.directory.join("cmdline");
        Ok(Some(DirectBoot {
            kernel: self.directory.join("vmlinux"),
            initrd: self.directory.join("initrd.img"),
            cmdline: fs::read_to_string(&cmdline)
                .with_context(|| format!("failed to read {cmdline}"))?
                .trim()
                .to_owned(),
        }))
    }
}

/// What a machine needs to boot a kernel without a boot loader.
#[derive(Debug, Clone)]
pub struct DirectBoot {
    /// The uncompressed kernel, with the PVH note that qemu enters it by.
    pub kernel: Utf8PathBuf,
    /// The initial RAM disk.
    pub initrd: Utf8PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
}

/// Where guests are cached: `VCL_CACHE`, or else `.cache/guests` in the workspace.
#[must_use]
pub fn cache_directory() -> Utf8PathBuf {
    env::var("VCL_CACHE").ok().filter(|directory| !directory.is_empty()).map_or_else(
        || Utf8Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".cache").join("guests"),
        |directory| Utf8PathBuf::from(directory).join("guests"),
    )
}

/// A key pair that stays in `cache`, so that guests made for it are found again: the private key's path. The public
/// one lies beside it, with `.pub` at its end. It opens test guests on this machine and nothing else.
///
/// # Errors
///
/// When `ssh-keygen` fails.
pub fn cached_key(cache: &Utf8Path) -> Result<Utf8PathBuf> {
    fs::create_dir_all(cache).with_context(|| format!("failed to make {cache}"))?;
    let key = cache.join("id");
    let _lock = lock(cache)?;
    if !key.exists() {
        output_of(Command::new("ssh-keygen").args([
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            "guests",
            "-f",
            key.as_str(),
        ]))?;
    }
    Ok(key)
}

/// Names of directories that a maker works in, and that one which was killed leaves behind.
pub(crate) const WORKING: &str = "making-";

/// One maker at a time: two would fetch the same packages, and there are few CPUs. The second finds what the first
/// made.
pub(crate) fn lock(cache: &Utf8Path) -> Result<File> {
    let path = cache.join("lock");
    let file = File::create(&path).with_context(|| format!("failed to make {path}"))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("failed to lock {path}"))?;
    for entry in cache.read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with(WORKING) {
            fs::remove_dir_all(entry.path()).with_context(|| format!("failed to remove {}", entry.path()))?;
        }
    }
    Ok(file)
}

/// Removes what the cache has of one sort beside what was just made: of trees all but `keep`, of guests those that
/// nobody asked for in a day, because a younger one may be under somebody's overlay.
fn remove_outdated(cache: &Utf8Path, prefix: &str, keep: Option<&Utf8Path>) -> Result<()> {
    for entry in cache.read_dir_utf8()? {
        let path = entry?.into_path();
        if !path.file_name().is_some_and(|name| name.starts_with(prefix)) || keep == Some(&path) {
            continue;
        }
        if keep.is_some() {
            fs::remove_file(&path).with_context(|| format!("failed to remove {path}"))?;
            continue;
        }
        let used = fs::metadata(path.join("kind"))?.modified()?;
        if used.elapsed().is_ok_and(|unused| unused > Duration::from_secs(24 * 3600)) {
            fs::remove_dir_all(&path).with_context(|| format!("failed to remove {path}"))?;
        }
    }
    Ok(())
}

struct Stages<'a> {
    progress: &'a mut dyn FnMut(Progress<'_>),
}

impl Stages<'_> {
    fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        (self.progress)(Progress::Started(name));
        let start = Instant::now();
        work().with_context(|| format!("failed at the guest's {name}"))?;
        (self.progress)(Progress::Finished(name, start.elapsed()));
        Ok(())
    }
}

/// A short name for everything in `parts`.
pub(crate) fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // The lengths keep ("ab", "c") and ("a", "bc") apart.
        hasher.update(part.len().to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
