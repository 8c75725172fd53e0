//! Names that become paths.

use crate::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use vcl_types::JobId;

/// The manifest's file name in a revision.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The staging name of a job's life: the fencing token in it keeps a process that lost its lease out of its
/// successor's files.
#[must_use]
pub fn staging_name(job: JobId, token: i64) -> String {
    format!("job{job}-token{token}")
}

/// The job in a [`staging_name`].
pub(crate) fn job_of(name: &str) -> Option<JobId> {
    let (job, token) = name.strip_prefix("job")?.split_once("-token")?;
    token.parse::<i64>().ok()?;
    job.parse().ok()
}

/// Checks a name of one file in a directory: nothing that a path could mean something by, nothing hidden.
pub(crate) fn file_name(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    if (1..=120).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-']) {
        return Ok(name);
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::refused(format!(
        "`{shown}` is not a file name: use up to 120 letters, digits, `.`, `-`, `_` and `+`, as in `disk0.qcow2`"
    )))
}

/// Where the chunk digests of a disk lie: beside it, the last suffix replaced.
pub(crate) fn chunks_name(disk: &str) -> String {
    let stem = disk.rsplit_once('.').map_or(disk, |(stem, _)| stem);
    format!("{stem}.chunks")
}

/// The path as text, which revisions and qemu need.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::refused(format!("the path {} is not UTF-8", path.display())))
}

/// The unfinished file beside an export's target.
pub(crate) fn part_of(target: &Path) -> Result<PathBuf> {
    match (target.parent(), target.file_name()) {
        (Some(parent), Some(name)) if target.is_absolute() => {
            let mut part = std::ffi::OsString::from(".");
            part.push(name);
            part.push(".part");
            Ok(parent.join(part))
        }
        _ => Err(Error::refused(format!("{} is not the absolute path of a file", target.display()))),
    }
}

/// Names and paths in a directory.
pub(crate) fn entries(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let failed = |e| Error::io(format!("reading {}", directory.display()), e);
    let mut found = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(found)
}

/// Tells apart names that are made at one time.
pub(crate) fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", since.as_nanos(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_names_one_file_in_its_directory() {
        for good in ["disk0.qcow2", "OVMF_VARS.fd", "vmlinuz-6.1.0+deb12"] {
            assert!(file_name(good).is_ok(), "{good}");
        }
        for bad in
            ["", ".", "..", "a/b", "/etc/passwd", ".hidden", "-rf", "a b", "a\n", "ä", "a\0", "json:{}"]
        {
            assert!(file_name(bad).is_err(), "{bad:?}");
        }
        assert!(file_name(&"x".repeat(121)).is_err());
    }

    #[test]
    fn a_staging_name_tells_its_job() {
        assert_eq!(job_of(&staging_name(JobId(12), 3)), Some(JobId(12)));
        for other in ["job12", "jobx-token1", "job1-tokenx", "import"] {
            assert_eq!(job_of(other), None, "{other}");
        }
        assert_eq!(chunks_name("disk0.qcow2"), "disk0.chunks");
    }
}
