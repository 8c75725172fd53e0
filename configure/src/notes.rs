//! What a run notes beside its tree, so that another process can go on with it where this one was killed.
//!
//! `of` says what is configured and by which manifest, `connection` which processes it has started there; `defined` is there when
//! the initial manifest has ended; `begun` has a line for each object whose code was begun, and `done` one for each that is done. A line that was cut off is one that was not written: its object is done again, and then there
//! is nothing to do for it. What generates code may leave files in its object's directory, and expects to find none; so what a
//! manifest left there is copied before, and put back when code is generated again.

use crate::channel::Started;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::run::Done;
use crate::scripts::{read, write};
use crate::tree::{List, Tree};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::time::Duration;

/// What is in an object's directory whoever its type is.
const USUAL: [&str; 12] = [
    "parameter",
    "explorer",
    "stdin",
    "state",
    "stdout",
    "stderr",
    List::Require.file(),
    List::Autorequire.file(),
    List::Source.file(),
    List::Typeorder.file(),
    List::Children.file(),
    List::Parents.file(),
];

#[derive(serde::Serialize, serde::Deserialize)]
struct Line {
    object: String,
    changed: bool,
    messages: Vec<String>,
    seconds: f64,
}

/// The notes of a run.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    directory: Utf8PathBuf,
}

impl Notes {
    /// In the directory of a run.
    pub(crate) fn of(directory: &Utf8Path) -> Self {
        Self { directory: directory.to_owned() }
    }
    /// Notes what the run is of.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`]: the notes are of another run.
    pub(crate) fn begin_with(&self, what: &str) -> Result<()> {
        let file = self.directory.join("of");
        let noted = if file.exists() { read(&file)? } else { Vec::new() };
        // What has no word in it was cut off before anything was done.
        if noted.is_empty() {
            return write(&file, what.as_bytes());
        }
        if noted == what.as_bytes() {
            return Ok(());
        }
        let noted = String::from_utf8_lossy(&noted).into_owned();
        let context = format!(
            "{} has what was noted of another run: of {noted}, and this one is of {what}",
            self.directory
        );
        Err(Error::new(ErrorKind::Conflict, context))
    }
    /// What was started on the target by the latest connection.
    pub(crate) fn connection(&self) -> Option<Started> {
        Started::read(self.lines("connection").ok()?.first()?)
    }
    pub(crate) fn set_connection(&self, started: &Started) -> Result<()> {
        write(&self.directory.join("connection"), format!("{}\n", started.line()).as_bytes())
    }
    /// Whether the initial manifest has ended.
    pub(crate) fn defined(&self) -> bool {
        self.directory.join("defined").exists()
    }
    pub(crate) fn set_defined(&self) -> Result<()> {
        write(&self.directory.join("defined"), b"")
    }
    /// Whose code was begun.
    pub(crate) fn begun(&self, tree: &Tree) -> Result<BTreeSet<ObjectName>> {
        Ok(self.lines("begun")?.iter().filter_map(|line| tree.named(line).ok()).collect())
    }
    pub(crate) fn begin(&self, object: &ObjectName) -> Result<()> {
        self.append("begun", &object.to_string())
    }
    /// What is done, in order.
    pub(crate) fn done(&self, tree: &Tree) -> Result<Vec<Done>> {
        let mut all: Vec<Done> = Vec::new();
        for line in self.lines("done")? {
            let Ok(line) = serde_json::from_str::<Line>(&line) else { continue };
            let (object, took) = (tree.named(&line.object)?, Duration::from_secs_f64(line.seconds.max(0.0)));
            all.retain(|done| done.object != object);
            all.push(Done { object, changed: line.changed, messages: line.messages, took });
        }
        Ok(all)
    }
    pub(crate) fn end(&self, done: &Done) -> Result<()> {
        let line = Line {
            object: done.object.to_string(),
            changed: done.changed,
            messages: done.messages.clone(),
            seconds: done.took.as_secs_f64(),
        };
        let line =
            serde_json::to_string(&line).map_err(|error| Error::new(ErrorKind::Failed, error.to_string()))?;
        self.append("done", &line)
    }
    /// Keeps what a manifest left in its object's directory.
    pub(crate) fn keep(&self, tree: &Tree, object: &ObjectName) -> Result<()> {
        let unusual = unusual(&tree.directory(object))?;
        if unusual.is_empty() { Ok(()) } else { copy(&unusual, &self.kept(tree, object)) }
    }
    /// Removes what an interrupted manifest left there.
    pub(crate) fn forget(&self, tree: &Tree, object: &ObjectName) -> Result<()> {
        let kept = self.kept(tree, object);
        if kept.exists() {
            removed(&kept)?;
        }
        unusual(&tree.directory(object))?.iter().try_for_each(|path| removed(path))
    }
    /// Removes what generating code has left there, and puts back what was kept.
    pub(crate) fn restore(&self, tree: &Tree, object: &ObjectName) -> Result<()> {
        let directory = tree.directory(object);
        unusual(&directory)?.iter().try_for_each(|path| removed(path))?;
        let kept = self.kept(tree, object);
        if kept.is_dir() { copy(&unusual(&kept)?, &directory) } else { Ok(()) }
    }

    fn kept(&self, tree: &Tree, object: &ObjectName) -> Utf8PathBuf {
        self.directory.join("kept").join(object.of()).join(object.id()).join(tree.marker())
    }
    fn lines(&self, name: &str) -> Result<Vec<String>> {
        let file = self.directory.join(name);
        match fs::read_to_string(&file) {
            // What has no end was cut off.
            Ok(text) => Ok(text
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .map(str::to_owned)
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io(format!("reading {file}"), error)),
        }
    }
    fn append(&self, name: &str, line: &str) -> Result<()> {
        let file = self.directory.join(name);
        let written =
            OpenOptions::new().create(true).read(true).append(true).open(&file).and_then(|mut to| {
                // What was cut off stays a line of its own.
                let mut last = [b'\n'];
                if to.metadata()?.len() > 0 {
                    to.seek(io::SeekFrom::End(-1))?;
                    to.read_exact(&mut last)?;
                }
                let end = if last == *b"\n" { "" } else { "\n" };
                to.write_all(format!("{end}{line}\n").as_bytes())
            });
        written.map_err(|error| Error::io(format!("writing {file}"), error))
    }
}

/// What a manifest, or what generates code, has left in an object's directory: all that is not what every object has. The code itself
/// is among it.
pub(crate) fn unusual(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let failed = |error| Error::io(format!("looking at {directory}"), error);
    let mut all = Vec::new();
    for entry in directory.read_dir_utf8().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !USUAL.contains(&entry.file_name()) {
            all.push(entry.path().to_owned());
        }
    }
    Ok(all)
}

fn removed(path: &Utf8Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|error| Error::io(format!("removing {path}"), error))
}

fn copy(paths: &[Utf8PathBuf], into: &Utf8Path) -> Result<()> {
    let failed = |error| Error::io(format!("copying into {into}"), error);
    fs::create_dir_all(into).map_err(failed)?;
    let output = std::process::Command::new("cp")
        .arg("-a")
        .arg("--")
        .args(paths)
        .arg(into)
        .output()
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}
