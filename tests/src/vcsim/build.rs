//! Builds the Go program from Debian's packages, once.
//!
//! The first build compiles the API's types, which takes one to three minutes; after that Go's own cache makes a change
//! of the program a matter of seconds. What is built lies under a digest of all that went in.

use std::fs::{self, File};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

use crate::command::output_of;
use crate::guest::{WORKING, cache_directory, digest, lock};

macro_rules! sources {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!("../../vcsim/", $name)))),+]
    };
}

/// The program's files.
const SOURCES: &[(&str, &str)] = sources![
    "clone.go",
    "control.go",
    "disks.go",
    "faults.go",
    "files.go",
    "front.go",
    "guests.go",
    "identity.go",
    "machines.go",
    "main.go",
    "power.go",
    "soap.go",
    "tasks.go",
];

/// Whose versions count beside the sources.
const PACKAGES: [&str; 2] = ["golang-go", "golang-github-vmware-govmomi-dev"];

/// How long a program that nobody starts any more is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The program, built if it is not there.
///
/// # Errors
///
/// When a package is missing (`.ci/needs check` installs them) or Go fails.
pub fn program() -> Result<Utf8PathBuf> {
    let tools = cache_directory().with_file_name("tools").join("vcsim");
    let versions =
        output_of(Command::new("dpkg-query").args(["-W", "-f=${Package} ${Version}\n"]).args(PACKAGES))
            .context("the double of VMware's servers is built with Go; .ci/needs check installs it")?;
    let mut parts = vec![versions.as_str()];
    for (name, text) in SOURCES {
        parts.extend([name, text]);
    }
    let directory = tools.join(digest(&parts));
    let program = directory.join("vcsim");
    if !program.exists() {
        fs::create_dir_all(&tools).with_context(|| format!("failed to make {tools}"))?;
        let _lock = lock(&tools)?;
        if !program.exists() {
            build(&tools, &directory)?;
            remove_unused(&tools, &directory)?;
        }
    }
    // It counts as used today. Another user's cache may be read only, and is no worse for it.
    if let Ok(mark) = File::options().append(true).open(directory.join("used")) {
        mark.set_modified(SystemTime::now())?;
    }
    Ok(program)
}

fn build(tools: &Utf8Path, directory: &Utf8Path) -> Result<()> {
    let working = tempfile::Builder::new().prefix(WORKING).tempdir_in(tools)?;
    let working = Utf8Path::from_path(working.path()).context("the cache directory's path is not UTF-8")?;
    let source = working.join("source");
    fs::create_dir(&source)?;
    for (name, text) in SOURCES {
        fs::write(source.join(name), text)?;
    }
    let made = working.join("made");
    fs::create_dir(&made)?;
    fs::write(made.join("used"), "")?;
    // Debian's packages are a GOPATH; nothing is asked of the network.
    output_of(
        Command::new("go")
            .args(["build", "-trimpath", "-o", made.join("vcsim").as_str(), "."])
            .current_dir(&source)
            .env("GO111MODULE", "off")
            .env("GOFLAGS", "")
            .env("GOPATH", "/usr/share/gocode")
            .env("CGO_ENABLED", "0")
            .env("GOCACHE", tools.join("go-build").as_str()),
    )?;
    fs::rename(&made, directory).with_context(|| format!("failed to name {directory}"))
}

/// Removes programs of other sources that nobody started in a day; another checkout may share the cache.
fn remove_unused(tools: &Utf8Path, kept: &Utf8Path) -> Result<()> {
    for entry in tools.read_dir_utf8()? {
        let path = entry?.into_path();
        let Ok(used) = fs::metadata(path.join("used")) else { continue };
        if path != kept && used.modified()?.elapsed().is_ok_and(|unused| unused > KEPT) {
            fs::remove_dir_all(&path).with_context(|| format!("failed to remove {path}"))?;
        }
    }
    Ok(())
}
