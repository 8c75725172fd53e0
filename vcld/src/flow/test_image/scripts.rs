//! The site's own test scripts: `[reservations] tests` of the configuration, run in both clones in the order of their names.

use crate::node::{Node, Refusal, RefusalKind};
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::PermissionsExt as _;
use vcl_os::Output;
use vcl_types::OsName;

/// What stands in a script's `VCLD_STAGE`.
pub(super) const STAGE: &str = "test";
/// A directory with more is taken for another directory.
const MOST: usize = 64;
/// The largest there may be, in bytes.
const LARGEST: u64 = 1024 * 1024;
/// How much of what each says stands in the result, in characters.
const TAIL: usize = 2000;

/// One of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TestScript {
    /// Its file name.
    pub(crate) name: String,
    /// Where it lies on the management node.
    pub(super) path: Utf8PathBuf,
}

impl Node {
    /// The scripts for guests of an operating system, in order: none where the site has no directory of them. For Linux
    /// they are named as `run-parts` names what it runs, and may be executed; for Windows they end with `.ps1` or `.cmd`.
    ///
    /// # Errors
    /// The directory cannot be read, or has more than a site's tests are.
    pub(crate) fn test_scripts(&self, os: OsName) -> Result<Vec<TestScript>, Refusal> {
        let Some(directory) = &self.config.lending.tests else { return Ok(Vec::new()) };
        list(directory, os)
            .map_err(|why| Refusal::new(RefusalKind::Refused, format!("`reservations.tests`: {why}")))
    }
}

fn list(directory: &Utf8Path, os: OsName) -> Result<Vec<TestScript>, String> {
    let failed = |e: std::io::Error| format!("{directory} cannot be read: {e}");
    let mut scripts = Vec::new();
    for entry in directory.read_dir_utf8().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, name) = (entry.path(), entry.file_name());
        let Ok(data) = std::fs::metadata(path) else { continue }; // a link to nothing
        let plain = |stem: &str| {
            !stem.is_empty() && stem.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
        };
        let runs = match os {
            OsName::Linux => plain(name) && data.permissions().mode() & 0o111 != 0,
            OsName::Windows => matches!(name.rsplit_once('.'), Some((stem, "ps1" | "cmd")) if plain(stem)),
        };
        if !data.is_file() || !runs {
            continue;
        }
        if data.len() > LARGEST {
            return Err(format!("{path} has {} bytes; a script has at most {LARGEST}", data.len()));
        }
        scripts.push(TestScript { name: name.to_owned(), path: path.to_owned() });
    }
    scripts.sort_by(|a, b| a.name.cmp(&b.name));
    if scripts.len() > MOST {
        return Err(format!("{directory} has {} scripts; at most {MOST} are run", scripts.len()));
    }
    Ok(scripts)
}

/// The end of what a script said, for a terminal: whole lines where there is more than fits, and nothing that steers one.
pub(super) fn said(output: &Output) -> String {
    let text = output.text();
    let clean: String = text.chars().map(|c| if c == '\n' || !c.is_control() { c } else { ' ' }).collect();
    let clean = clean.trim();
    let Some((at, _)) = clean.char_indices().rev().nth(TAIL - 1) else { return clean.to_owned() };
    let tail = &clean[at..];
    tail.split_once('\n').map_or(tail, |(_, whole)| whole).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_found_as_run_parts_finds_them_and_for_the_guest_s_own_system() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        for (name, mode) in
            [("20-net", 0o755), ("10-licence", 0o755), ("off", 0o644), ("a.sh", 0o755), ("w-1.ps1", 0o644)]
        {
            std::fs::write(root.join(name), "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(root.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let names = |os| -> Vec<String> { list(root, os).unwrap().into_iter().map(|s| s.name).collect() };
        assert_eq!(names(OsName::Linux), ["10-licence", "20-net"]);
        assert_eq!(names(OsName::Windows), ["w-1.ps1"]);
        assert!(list(&root.join("nowhere"), OsName::Linux).unwrap_err().contains("nowhere"));
    }

    #[test]
    fn of_what_a_script_says_the_end_is_kept_in_whole_lines_and_cannot_steer_a_terminal() {
        let said = |text: &str| said(&Output { status: 0, stdout: text.into(), stderr: vec![] });
        assert_eq!(said("\u{1b}[2Jhello\nyou\n"), "[2Jhello\nyou");
        let long = said(&"0123456789 äöü\n".repeat(1000));
        assert!(long.chars().count() < TAIL && long.starts_with("0123456789"), "{long}");
        assert_eq!(said(&"x".repeat(10_000)).len(), TAIL);
    }
}
