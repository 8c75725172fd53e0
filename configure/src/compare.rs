//! What two runs for a machine have found and made, side by side: the use of what is kept of them, in cdist's layout.
//!
//! Compared is what says something about the machine and the configuration: the machine's explorers, which objects there are, and
//! of each its parameters, stdin, explorers and code. What is one run's own (its marker, its directory, its messages' order) is
//! not. Values are shown by their first line, shortened, for they may be whole files.

use crate::error::{Error, ErrorKind, Result};
use crate::scripts::read;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// How much of a value is shown, in characters.
const SHOWN: usize = 120;
/// What of an object is compared, with whether it is a directory of values.
const PARTS: [(&str, bool); 5] = [
    ("parameter", true),
    ("stdin", false),
    ("explorer", true),
    ("code-local", false),
    ("code-remote", false),
];

/// A thing that is not the same in both runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The object; empty for what is the machine's.
    pub object: String,
    /// What of it: `explorer/os`, `parameter/mode`, `code-remote`; empty for the object itself.
    pub part: String,
    /// What the older run has; `None` where it has none.
    pub before: Option<String>,
    /// What the newer has.
    pub after: Option<String>,
}

/// Everything in the kept files of two runs that is not the same, the machine's first, then object by object.
///
/// # Errors
/// [`ErrorKind::NotFound`] where nothing of a run is kept; or it cannot be read.
pub fn compare(older: &Utf8Path, newer: &Utf8Path) -> Result<Vec<Change>> {
    let (older, newer) = (Kept::read(older)?, Kept::read(newer)?);
    let mut changes = Vec::new();
    values("", "explorer", &older.explorers, &newer.explorers, &mut changes);
    let objects: BTreeSet<&String> = older.objects.keys().chain(newer.objects.keys()).collect();
    for object in objects {
        match (older.objects.get(object), newer.objects.get(object)) {
            (Some(before), Some(after)) => values(object, "", before, after, &mut changes),
            (before, after) => changes.push(Change {
                object: object.clone(),
                part: String::new(),
                before: before.map(|_| "defined".to_owned()),
                after: after.map(|_| "defined".to_owned()),
            }),
        }
    }
    Ok(changes)
}

type Values = BTreeMap<String, Vec<u8>>;

/// What is kept of a run.
struct Kept {
    explorers: Values,
    objects: BTreeMap<String, Values>,
}

impl Kept {
    fn read(global: &Utf8Path) -> Result<Self> {
        let file = global.join("object_marker");
        if !file.is_file() {
            let context = format!(
                "{global} has nothing of a run: it is what --keep has made, or cdist's cache of a host"
            );
            return Err(Error::new(ErrorKind::NotFound, context));
        }
        let marker = String::from_utf8_lossy(&read(&file)?).trim().to_owned();
        let mut kept = Self { explorers: files(&global.join("explorer"), "")?, objects: BTreeMap::new() };
        let top = global.join("object");
        let mut open = vec![top.clone()];
        while let Some(directory) = open.pop() {
            for below in directories(&directory)? {
                if below.file_name() != Some(marker.as_str()) {
                    open.push(below);
                    continue;
                }
                let name = directory.strip_prefix(&top).unwrap_or(&directory).to_string();
                kept.objects.insert(name, Self::object(&below, &marker)?);
            }
        }
        Ok(kept)
    }
    fn object(directory: &Utf8Path, marker: &str) -> Result<Values> {
        let mut all = Values::new();
        for (name, several) in PARTS {
            let path = directory.join(name);
            if several {
                all.extend(files(&path, &format!("{name}/"))?);
            } else if path.is_file() {
                all.insert(name.to_owned(), without(&read(&path)?, marker));
            }
        }
        Ok(all)
    }
}

/// What follows upon the directory of a run's files, of which it does not say itself where it was.
const INSIDE: [&str; 3] = ["/data/object/", "/data/conf/", "/bin/vcl-remote-"];

/// A text without what is one run's own: its directory, its marker, and the numbers of processes that types put behind that.
fn without(text: &[u8], marker: &str) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    let mut parts = text.split(marker);
    let mut words = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        words.push_str("MARKER");
        let digits =
            part.strip_prefix('.').map_or(0, |rest| rest.bytes().take_while(u8::is_ascii_digit).count());
        let rest = if digits > 0 { &part[1 + digits..] } else { part };
        words.push_str(if digits > 0 { ".PID" } else { "" });
        words.push_str(rest);
    }
    for inside in INSIDE {
        let mut out = String::new();
        let mut rest = words.as_str();
        while let Some(at) = rest.find(inside) {
            let before = |c: char| c.is_whitespace() || "\"'=:".contains(c);
            let begins = rest[..at].rfind(before).map_or(0, |at| at + 1);
            out.push_str(&rest[..begins]);
            out.push_str("RUN");
            out.push_str(inside);
            rest = &rest[at + inside.len()..];
        }
        out.push_str(rest);
        words = out;
    }
    words.into_bytes()
}

fn values(object: &str, kind: &str, before: &Values, after: &Values, changes: &mut Vec<Change>) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let part = if kind.is_empty() { name.clone() } else { format!("{kind}/{name}") };
        let (mut old, mut new) = (old.map(|value| shown(value)), new.map(|value| shown(value)));
        if old == new {
            // What differs is further down.
            old = old.map(|text| format!("{text} (as it was)"));
            new = new.map(|text| format!("{text} (another further down)"));
        }
        changes.push(Change { object: object.to_owned(), part, before: old, after: new });
    }
}

/// The first line of a value, and of how many.
fn shown(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    let first = text.lines().next().unwrap_or_default();
    let mut line: String = first.chars().take(SHOWN).collect();
    if line.len() < first.len() {
        line.push('…');
    }
    match text.lines().count() {
        0 | 1 => line,
        lines => format!("{line} (of {lines} lines)"),
    }
}

fn directories(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    Ok(entries(directory)?.into_iter().filter(|path| path.is_dir() && !path.is_symlink()).collect())
}

fn files(directory: &Utf8Path, before: &str) -> Result<Values> {
    let mut all = Values::new();
    for path in entries(directory)?.into_iter().filter(|path| path.is_file()) {
        all.insert(format!("{before}{}", path.file_name().unwrap_or_default()), read(&path)?);
    }
    Ok(all)
}

fn entries(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let failed = |error| Error::io(format!("looking at {directory}"), error);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if let Ok(path) = Utf8PathBuf::from_path_buf(path) {
            all.push(path);
        }
    }
    Ok(all)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    fn run(root: &Utf8Path, name: &str, marker: &str, files: &[(&str, &str)]) -> Utf8PathBuf {
        let global = root.join(name);
        for (file, text) in [("object_marker", marker), ("explorer/os", "debian\n")].iter().chain(files) {
            let file = global.join(file.replace("MARKER", marker));
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text.replace("MARKER", marker)).unwrap();
        }
        global
    }

    #[test]
    fn what_is_another_is_told_and_what_is_one_run_s_own_is_not() {
        let kept = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(kept.path()).unwrap();
        let old = run(
            root,
            "old",
            ".cdist-aaaa",
            &[
                ("object/__file/etc/motd/MARKER/parameter/mode", "0644\n"),
                (
                    "object/__file/etc/motd/MARKER/code-local",
                    "/tmp/x/bin/vcl-remote-copy /tmp/x/data/object/__file/etc/motd/MARKER/stdin y.MARKER.41\n",
                ),
                ("object/__line/a/MARKER/parameter/line", "x\n"),
                ("object/__motd/MARKER/explorer/there", "yes\n"),
                ("object/__motd/MARKER/code-remote", "one\ntwo\n"),
            ],
        );
        let new = run(
            root,
            "new",
            ".cdist-bbbb",
            &[
                ("explorer/os", "devuan\n"),
                ("object/__file/etc/motd/MARKER/parameter/mode", "0600\n"),
                (
                    "object/__file/etc/motd/MARKER/code-local",
                    "/tmp/y/bin/vcl-remote-copy /tmp/y/data/object/__file/etc/motd/MARKER/stdin y.MARKER.7\n",
                ),
                ("object/__motd/MARKER/explorer/there", "yes\n"),
                ("object/__motd/MARKER/code-remote", "one\nthree\n"),
            ],
        );
        let told = |change: &Change| {
            let Change { object, part, before, after } = change;
            let of = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            format!("{object} {part}: {} > {}", of(before), of(after))
        };
        let all: Vec<String> = compare(&old, &new).unwrap().iter().map(told).collect();
        assert_eq!(
            all,
            [
                " explorer/os: debian > devuan",
                "__file/etc/motd parameter/mode: 0644 > 0600",
                "__line/a : defined > -",
                "__motd code-remote: one (of 2 lines) (as it was) > one (of 2 lines) (another further down)",
            ]
        );
        assert_eq!(compare(&old, &old).unwrap(), []);
        assert_eq!(compare(&old, root).unwrap_err().kind, ErrorKind::NotFound);
    }
}
