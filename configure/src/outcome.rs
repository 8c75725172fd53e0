//! What became of every object of a run, also of one that failed, as its tree says it.

use crate::error::Result;
use crate::name::ObjectName;
use crate::run::Done;
use crate::scripts::{Calls, defined_in, shortened_to};
use crate::secrets::Secrets;
use crate::tree::{List, State, Tree};
use camino::Utf8Path;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

/// How much is told of what one script has said, or of one parameter, in bytes.
const SAID: usize = 2048;
/// Scripts whose standard output is meant for people; that of the others is code, or what was found.
const SPEAKING: [&str; 3] = ["manifest", "code-local", "code-remote"];

/// What became of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// It.
    pub object: ObjectName,
    /// How far the run came with it.
    pub state: State,
    /// Whether the run failed with it.
    pub failed: bool,
    /// Whether there was code to run, so that it was not what it should be.
    pub changed: bool,
    /// What it told others.
    pub messages: Vec<String>,
    /// How long its own scripts took.
    pub took: Duration,
    /// What has to be done before it, because somebody said so.
    pub requires: Vec<ObjectName>,
    /// What its manifest has defined.
    pub defines: Vec<ObjectName>,
    /// Where it is defined: files, with the lines of them that may be it.
    pub defined_in: Vec<String>,
    /// Its parameters.
    pub parameters: BTreeMap<String, String>,
    /// What its scripts have said, by their names.
    pub output: BTreeMap<String, String>,
}

/// Of all objects: first those that are done, in the order in which they were. It has no secrets in it.
pub(crate) fn of_all(
    tree: &Tree,
    done: &[Done],
    failed: Option<&ObjectName>,
    secrets: &Secrets,
) -> Result<Vec<Outcome>> {
    let order: BTreeMap<&ObjectName, usize> =
        done.iter().enumerate().map(|(n, done)| (&done.object, n)).collect();
    let mut objects: Vec<ObjectName> = tree.objects()?;
    objects.sort_by_key(|object| order.get(object).copied().unwrap_or(usize::MAX));
    let mut calls = Calls::new();
    let text = |bytes: &[u8]| shortened_to(&secrets.masked(&String::from_utf8_lossy(bytes)), SAID);
    // Of a long text the ends are told. A secret at a cut would not be found: as much as one can be is left out there.
    let ends = |bytes: &[u8]| {
        let longest = secrets.longest();
        let kept = SAID + 2 * longest;
        if bytes.len() <= 2 * kept {
            return text(bytes);
        }
        let whole =
            |bytes: &[u8]| secrets.masked(&String::from_utf8_lossy(bytes)).chars().collect::<Vec<char>>();
        let (head, tail) = (whole(&bytes[..kept]), whole(&bytes[bytes.len() - kept..]));
        let head = &head[..head.len().saturating_sub(longest).min(SAID / 2)];
        let tail = &tail[tail.len() - tail.len().saturating_sub(longest).min(SAID / 2)..];
        format!("{} … {}", head.iter().collect::<String>(), tail.iter().collect::<String>())
    };
    objects
        .into_iter()
        .map(|object| {
            // A script may have put anything there.
            let names = |list| {
                let lines = tree.list(&object, list).unwrap_or_default();
                let names: BTreeSet<ObjectName> =
                    lines.iter().filter_map(|line| tree.named(line).ok()).collect();
                names.into_iter().collect()
            };
            let directory = tree.directory(&object);
            let mut output: BTreeMap<String, String> = BTreeMap::new();
            let parameters = tree
                .parameters(&object)
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name, text(value.strip_suffix(b"\n").unwrap_or(&value))))
                .collect();
            for (stream, all) in [("stdout", false), ("stderr", true)] {
                for (script, said) in spoken(&directory.join(stream)) {
                    if all || SPEAKING.contains(&script.as_str()) {
                        output.entry(script).or_default().push_str(&ends(&said));
                    }
                }
            }
            let of = order.get(&object).and_then(|n| done.get(*n));
            Ok(Outcome {
                state: tree.state(&object)?,
                failed: failed == Some(&object),
                changed: of.is_some_and(|of| of.changed),
                messages: of
                    .map(|of| of.messages.iter().map(|line| secrets.masked(line)).collect())
                    .unwrap_or_default(),
                took: of.map(|of| of.took).unwrap_or_default(),
                requires: names(List::Require),
                defines: names(List::Autorequire),
                defined_in: defined_in(tree, &object, &mut calls),
                parameters,
                output,
                object,
            })
        })
        .collect()
}

/// What is not empty of what scripts have said there. That something cannot be read is no reason to tell nothing.
fn spoken(directory: &Utf8Path) -> Vec<(String, Vec<u8>)> {
    let entries = directory.read_dir_utf8().into_iter().flatten().flatten();
    let read = entries.filter_map(|entry| Some((entry.file_name().to_owned(), fs::read(entry.path()).ok()?)));
    read.filter(|(_, said)| !said.is_empty()).collect()
}
