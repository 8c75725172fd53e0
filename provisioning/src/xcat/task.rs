//! The imaging task: `runme.sh` with what it is to do, as the archive that a node's service system fetches and runs.

use crate::inbox::{CHUNK, Opened};
use crate::{Error, ErrorKind, Result};
use std::fmt::Write as _;
use std::time::Duration;

/// The archive's name in a box: what it is called decides in which directory it is unpacked.
pub const FILE: &str = "task.tgz";
const SCRIPT: &str = include_str!("runme.sh");

/// What the task is to do.
#[derive(Debug, Clone, Copy)]
pub enum Work<'a> {
    /// Send the disk, which has at most so many bytes.
    Capture(u64),
    /// Write a disk of so many bytes whose chunks have these digests.
    Restore(u64, &'a [[u8; 32]]),
}

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub struct Manners {
    /// How often it tries to reach the daemon, and how long it waits in between.
    pub tries: u32,
    /// The wait.
    pub pause: Duration,
    /// How long it stays at its end, for its power to be cut.
    pub stay: Duration,
}
impl Default for Manners {
    /// For ten minutes, in which a daemon is restarted; two minutes at its end.
    fn default() -> Self {
        Self { tries: 120, pause: Duration::from_secs(5), stay: Duration::from_secs(120) }
    }
}

/// Makes the archive, a gzip'ed ustar. It holds the box's key.
///
/// # Errors
/// It cannot be packed.
pub fn pack(opened: &Opened, disk: Option<&str>, work: Work<'_>, manners: Manners) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::caused(ErrorKind::Failed, "packing the imaging task", e);
    let key = opened.key.expose();
    let padded = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key.bytes()).for_each(|(b, k)| *b ^= k);
        block
    };
    let (mode, most, size, sums) = match work {
        Work::Capture(most) => ("capture", most, 0, None),
        Work::Restore(size, chunks) => ("restore", 0, size, Some(crate::inbox::lines(chunks))),
    };
    let mut text = String::new();
    // Every value is made here or was checked when the configuration was read: none has a quote.
    let numbers = [
        ("CHUNK", CHUNK),
        ("MOST", most),
        ("SIZE", size),
        ("TRIES", manners.tries.into()),
        ("PAUSE", manners.pause.as_secs()),
        ("WAIT", manners.stay.as_secs()),
    ];
    for (name, value) in numbers {
        let _ = writeln!(text, "{name}={value}");
    }
    for (name, value) in
        [("MODE", mode), ("URL", opened.url.expose()), ("KEY", key), ("DISK", disk.unwrap_or_default())]
    {
        if value.contains('\'') {
            let what = format!("`{name}` of an imaging task has a quote");
            return Err(Error::new(ErrorKind::Refused, what));
        }
        let _ = writeln!(text, "{name}='{value}'");
    }
    let (inner, outer) = (padded(0x36), padded(0x5c));
    let mut files: Vec<(&str, u32, &[u8])> = vec![
        ("runme.sh", 0o755, SCRIPT.as_bytes()),
        ("task", 0o600, text.as_bytes()),
        ("inner.key", 0o600, &inner),
        ("outer.key", 0o600, &outer),
    ];
    files.extend(sums.as_ref().map(|sums| ("sums", 0o600, sums.as_bytes())));
    archive(&files).map_err(failed)
}

/// These files, each with its mode; nothing in it tells who packed it and when.
fn archive(files: &[(&str, u32, &[u8])]) -> std::io::Result<Vec<u8>> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, mode, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(*mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, *bytes)?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use vcl_types::Secret;

    #[test]
    fn tar_lists_what_was_packed_and_unpacks_it() {
        let opened =
            Opened { url: Secret::new("http://mn:1/inbox/x/y".into()), key: Secret::new("5e".repeat(32)) };
        let archive = pack(&opened, None, Work::Restore(512, &[[0xab; 32]]), Manners::default()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(FILE);
        std::fs::write(&file, archive).unwrap();
        let tar = |words: &[&str]| {
            let mut tar = Command::new("tar");
            let tar = tar.current_dir(directory.path()).args(words).arg(&file).stderr(Stdio::inherit());
            let output = tar.output().unwrap();
            assert!(output.status.success(), "{words:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let listed = tar(&["--utc", "--numeric-owner", "-tvzf"]);
        let listed: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let script = SCRIPT.len().to_string();
        let task = listed[1][2].to_owned();
        let line = |mode, size, name| vec![mode, "0/0", size, "1970-01-01", "00:00", name];
        assert_eq!(
            listed,
            [
                line("-rwxr-xr-x", &script, "runme.sh"),
                line("-rw-------", &task, "task"),
                line("-rw-------", "64", "inner.key"),
                line("-rw-------", "64", "outer.key"),
                line("-rw-------", "65", "sums"),
            ]
        );
        tar(&["-xzf"]);
        let read = |name: &str| std::fs::read(directory.path().join(name)).unwrap();
        assert_eq!(read("runme.sh"), SCRIPT.as_bytes());
        assert_eq!(read("sums"), ("ab".repeat(32) + "\n").as_bytes());
        let task = String::from_utf8(read("task")).unwrap();
        assert!(task.contains("MODE='restore'\n") && task.contains("SIZE=512\n"), "{task}");
        assert_eq!(read("inner.key")[..2], [b'5' ^ 0x36, b'e' ^ 0x36]);
    }
}
