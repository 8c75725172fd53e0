//! Files that go to the target through the run's connection, as `scp` would put them there.

use crate::channel::Batch;
use crate::error::{Error, Result};
use crate::target::quoted;
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// One file, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) file: Utf8PathBuf,
    pub(crate) to: String,
}

impl Copy {
    /// Of `$__remote_copy SOURCE HOST:PATH`, called in this directory. `None`: it is something else that `scp` can do.
    pub(crate) fn of(directory: &Utf8Path, source: &str, to: &str) -> Option<Self> {
        let to = behind_host(to).filter(|path| !path.contains('\n'))?;
        let file = directory.join(source);
        let plain = !source.starts_with('-') && fs::metadata(&file).is_ok_and(|m| m.is_file());
        plain.then(|| Self { file, to: to.to_owned() })
    }
    /// Adds it to a batch, where nothing after it in the sequence runs when it fails, or by itself.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn add(&self, batch: &mut Batch, base: &str, in_sequence: bool) -> Result<()> {
        let Self { file, to } = self;
        let failed = |error| Error::io(format!("reading {file}"), error);
        let content = fs::read(file).map_err(failed)?;
        let mode = fs::metadata(file).map_err(failed)?.permissions().mode() & 0o777;
        let landing = format!("{base}/.copied");
        batch.put(&landing, &content);
        let word = |text: &str| String::from_utf8_lossy(&quoted(text.as_bytes())).into_owned();
        let (landing, path, name) = (word(&landing), word(to), word(file.file_name().unwrap_or_default()));
        // As scp has it: into a directory under its own name, and with its own mode where it is new.
        let sh = format!(
            "umask 022; d={path}; [ -d \"$d\" ] && d=\"${{d%/}}\"/{name}; [ -e \"$d\" ] || n=1; cat {landing} >\"$d\" && \
             {{ [ -z \"$n\" ] || chmod {mode:o} \"$d\"; }}; r=$?; rm -f {landing}; exit $r"
        );
        let what = format!("copying {file} to {to}");
        if in_sequence {
            batch.line_in_sequence(sh.as_bytes(), &what);
        } else {
            batch.line(sh.as_bytes(), &what);
        }
        Ok(())
    }
}

/// What code for this machine copies, where it does that and nothing else: lines of `COMMAND "SOURCE" "HOST:PATH"` with nothing in
/// the words that a shell would look at twice. Such code needs no shell here, and no word from the target before the next.
pub(crate) fn nothing_but_copies(code: &str, command: &str) -> Option<Vec<Copy>> {
    let mut all = Vec::new();
    for line in code.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = line.strip_prefix(command)?.strip_prefix(' ')?.strip_prefix('"')?.strip_suffix('"')?;
        let (source, to) = words.split_once("\" \"")?;
        let special = |word: &str| word.contains(['"', '$', '`', '\\']);
        if special(source) || special(to) || !source.starts_with('/') {
            return None;
        }
        all.push(Copy::of(Utf8Path::new("/"), source, to)?);
    }
    Some(all).filter(|all| !all.is_empty())
}

/// The path in `host:path` and `[::1]:path`.
fn behind_host(to: &str) -> Option<&str> {
    let behind = match to.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").map(|(_, path)| path),
        None => to.split_once(':').filter(|(host, _)| !host.contains('/')).map(|(_, path)| path),
    };
    behind.filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    #[test]
    fn only_what_a_shell_would_do_the_same_with_is_done_without() {
        let kept = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(kept.path()).unwrap().join("a file");
        fs::write(&file, "x").unwrap();
        let copies = |code: &str| nothing_but_copies(&code.replace("FILE", file.as_str()), "/c/copy");
        let copy = |to: &str| Copy { file: file.clone(), to: to.into() };
        assert_eq!(
            copies("/c/copy \"FILE\" \"h:/x y\"\n\n/c/copy \"FILE\" \"[::1]:z\"\n"),
            Some(vec![copy("/x y"), copy("z")])
        );
        for other in [
            "",
            "/c/copy \"FILE\" \"h:/x\" || true",
            "/c/copy \"FILE\" \"h:/x\"; true",
            "/c/copy \"FILE\" \"h:/$x\"",
            "/c/copy \"FILE\" \"h:/x\" \"y\"",
            "/c/copy FILE h:/x",
            "/c/copy \"/nowhere\" \"h:/x\"",
            "/c/copy \"FILE\" \"/x\"",
            "/c/copy-else \"FILE\" \"h:/x\"",
            "true\n/c/copy \"FILE\" \"h:/x\"",
        ] {
            assert_eq!(copies(other), None, "{other}");
        }
    }
}
