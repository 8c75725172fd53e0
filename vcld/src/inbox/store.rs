//! A box's files. Everything here blocks; what came from a machine has been checked by the caller as far as it says.

use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use vcl_provisioning::inbox::{CHUNK, Place, Report, Seen};

/// What is remembered of a machine's words.
const WORDS: usize = 500;

/// Why a chunk is not taken.
#[derive(Debug)]
pub(super) enum Refused {
    /// The disk has another size than it had.
    Size(u64),
    /// How it ended has been told already, or the box is closed.
    Over,
    /// The file system.
    Io(std::io::Error),
}
impl From<std::io::Error> for Refused {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::NotFound { Self::Over } else { Self::Io(e) }
    }
}

/// Writes a chunk of a disk of `size` bytes, and then notes that it is there.
pub(super) fn put(place: &Place, number: u64, size: u64, bytes: &[u8], digest: &str) -> Result<(), Refused> {
    let inside = place.directory.join("in");
    let mut have = OpenOptions::new().read(true).append(true).create(true).open(inside.join("have"))?;
    // One at a time: a machine that was reset may send beside an older self's last request.
    rustix::fs::flock(&have, rustix::fs::FlockOperation::LockExclusive).map_err(std::io::Error::from)?;
    if inside.join("result.json").exists() {
        return Err(Refused::Over);
    }
    let mut options = OpenOptions::new();
    let disk = options.read(true).write(true).create(true).truncate(false).open(place.disk())?;
    match disk.metadata()?.len() {
        0 => disk.set_len(size)?,
        there if there == size => {}
        there => return Err(Refused::Size(there)),
    }
    disk.write_all_at(bytes, number * CHUNK)?;
    // What is noted is there, also after a loss of power.
    disk.sync_data()?;
    let mut line = format!("{number} {digest}\n");
    if !ends_a_line(&mut have)? {
        line.insert(0, '\n');
    }
    have.write_all(line.as_bytes())?;
    Ok(())
}

/// Whether what was written last is a whole line.
fn ends_a_line(file: &mut File) -> std::io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// The chunks that are there, by number, each with its digest as it was last sent.
pub(super) fn have(place: &Place) -> std::io::Result<BTreeMap<u64, String>> {
    let text = match std::fs::read_to_string(place.directory.join("in/have")) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let line = |line: &str| {
        let (number, digest) = line.split_once(' ')?;
        Some((number.parse().ok()?, digest.to_owned())).filter(|(_, digest)| digest.len() == 64)
    };
    // A line that the daemon did not get to finish has no digest of full length.
    Ok(text.lines().filter_map(line).collect())
}

/// The same as a machine asks for it.
pub(super) fn have_lines(place: &Place) -> std::io::Result<String> {
    let mut text = String::new();
    for (number, digest) in have(place)? {
        let _ = writeln!(text, "{number} {digest}");
    }
    Ok(text)
}

/// Notes that something was fetched.
pub(super) fn fetched(place: &Place) -> std::io::Result<()> {
    File::create(place.directory.join("in/fetched")).map(drop)
}

/// Notes that a machine that has the key told a digest that was not that of what it sent.
pub(super) fn wrong(place: &Place) -> std::io::Result<()> {
    let path = place.directory.join("in/wrong");
    OpenOptions::new().append(true).create(true).open(path)?.write_all(b".")
}

/// Notes how far a machine is. Nonsense is no progress.
pub(super) fn at(place: &Place, body: &str) -> Result<bool, Refused> {
    let Some(_) = progress(body) else { return Ok(false) };
    std::fs::write(place.directory.join("in/at"), body)?;
    Ok(true)
}

fn progress(text: &str) -> Option<(u64, u64)> {
    let (done, total) = text.trim().split_once(' ')?;
    Some((done.parse().ok()?, total.parse().ok()?))
}

/// Notes how it ended; what was said first stands.
pub(super) fn result(place: &Place, body: &str) -> Result<bool, Refused> {
    let Some(report) = report(body) else { return Ok(false) };
    let inside = place.directory.join("in");
    let path = inside.join("result.json");
    if path.exists() {
        return Ok(true);
    }
    let growing = inside.join("result.new");
    let mut file = File::create(&growing)?;
    file.write_all(&serde_json::to_vec(&report).map_err(std::io::Error::from)?)?;
    file.sync_all()?;
    std::fs::rename(&growing, &path)?;
    Ok(true)
}

fn report(body: &str) -> Option<Report> {
    let mut report = Report { ok: false, size: 0, digest: String::new(), text: String::new() };
    let mut said = false;
    for line in body.lines() {
        let (key, value) = line.split_once(' ')?;
        match key {
            "result" => {
                said = true;
                report.ok = value == "ok";
            }
            "size" => report.size = value.parse().ok()?,
            "digest" if value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit()) => {
                report.digest = value.to_owned();
            }
            "text" => {
                report.text = value.chars().filter(|c| !c.is_control()).take(WORDS).collect();
            }
            _ => return None,
        }
    }
    said.then_some(report)
}

/// What has happened to a box.
pub(super) fn seen(place: &Place) -> Seen {
    let inside = place.directory.join("in");
    let when = |name: &str| {
        let changed = std::fs::metadata(inside.join(name)).and_then(|m| m.modified());
        changed.ok().map(DateTime::<Utc>::from)
    };
    let read = |name: &str| std::fs::read_to_string(inside.join(name)).ok();
    Seen {
        fetched: inside.join("fetched").exists(),
        wrong: std::fs::metadata(inside.join("wrong")).map_or(0, |m| m.len()),
        last: ["fetched", "have", "at", "result.json"].into_iter().filter_map(when).max(),
        progress: read("at").as_deref().and_then(progress),
        report: read("result.json").and_then(|text| serde_json::from_str(&text).ok()),
    }
}
