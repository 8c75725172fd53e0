//! The imaging environment that an xCAT node boots from the network, as far as a task can see it.
//!
//! The real one ("genesis") is a dracut image with bash, GNU tools and no more of them than its list of programs names. A task that
//! relies on others works here by luck and there not at all, so this one has programs of that list alone: no curl, no
//! `sha256sum`, no Python. It is the fast guest's kernel and initrd with a second archive behind the first, which brings those
//! programs from this host, the libraries that they are linked with, and an `init` that does what genesis does
//! (`genesis/doxcat.sh`). The busybox that `init` itself uses lies outside of `PATH`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use super::DirectBoot;
use super::cpio::Archive;
use super::packages::FAST_MODULES;
use crate::command::output_of;

/// What a task finds, of the list in genesis' dracut module and in dracut's own base. All of it lies in `/bin`.
const PROGRAMS: [&str; 52] = [
    "awk", "basename", "bash", "blkid", "blockdev", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df",
    "dirname", "dmesg", "expr", "find", "flock", "free", "grep", "gzip", "head", "hostname", "ip", "kill",
    "ln", "logger", "ls", "mkdir", "mkfifo", "mknod", "mount", "mv", "openssl", "ps", "readlink", "rm",
    "sed", "setsid", "sfdisk", "sleep", "sort", "tail", "tar", "timeout", "touch", "tr", "umount", "uniq",
    "wc", "wget", "whoami",
];

const INIT: &str = include_str!("genesis/init.sh");
const DOXCAT: &str = include_str!("genesis/doxcat.sh");

/// Kernel and initrd of the imaging environment.
#[derive(Debug, Clone)]
pub struct Genesis(DirectBoot);

impl Genesis {
    /// Makes it in `directory` from a fast guest's kernel and initrd and this host's programs.
    ///
    /// # Errors
    ///
    /// When a program is not installed here, or a file cannot be read or written.
    pub fn make(base: &DirectBoot, directory: &Utf8Path) -> Result<Self> {
        let mut archive = Archive::default();
        for directory in ["bin", "genesis", "proc", "sys", "tmp", "run", "etc"] {
            archive.directory(directory);
        }
        let programs = PROGRAMS.iter().map(|name| program(name)).collect::<Result<Vec<_>>>()?;
        for (name, path) in PROGRAMS.iter().zip(&programs) {
            archive.file(&format!("bin/{name}"), &read(path)?);
        }
        archive.file("bin/sh", &read(&program("bash")?)?);
        let mut made = BTreeSet::new();
        for library in libraries(&programs)? {
            let inside = library.as_str().trim_start_matches('/').to_owned();
            for above in Utf8Path::new(&inside).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
                if !above.as_str().is_empty() && made.insert(above.to_string()) {
                    archive.directory(above.as_str());
                }
            }
            archive.file(&inside, &read(&library)?);
        }
        archive.file("genesis/doxcat", DOXCAT.as_bytes());
        archive.file("init", INIT.replace("MODULES", &FAST_MODULES.join(" ")).as_bytes());

        let mut initrd = read(&base.initrd)?;
        initrd.resize(initrd.len().next_multiple_of(512), 0);
        initrd.extend(archive.finish());
        let path = directory.join("genesis.img");
        fs::write(&path, initrd).with_context(|| format!("failed to write {path}"))?;
        Ok(Self(DirectBoot { kernel: base.kernel.clone(), initrd: path, cmdline: base.cmdline.clone() }))
    }

    /// What it is booted with. Its command line wants `xcatd=HOST:PORT` and `destiny=STATE` behind it.
    #[must_use]
    pub fn boot(&self) -> &DirectBoot {
        &self.0
    }
}

fn read(path: &Utf8Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("failed to read {path}"))
}

/// Where a program of this host is.
fn program(name: &str) -> Result<Utf8PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
    let found = places.iter().map(|place| Utf8Path::new(place).join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not installed here, and the imaging environment has it"))
}

/// The libraries that programs are linked with, the loader among them, as the loader looks for them.
fn libraries(programs: &[Utf8PathBuf]) -> Result<BTreeSet<Utf8PathBuf>> {
    let listed = output_of(Command::new("ldd").args(programs).env("LC_ALL", "C"))?;
    let paths = listed.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split_whitespace().next()?;
        (path.starts_with('/') && !path.ends_with(':')).then(|| Utf8PathBuf::from(path))
    });
    Ok(paths.collect())
}
