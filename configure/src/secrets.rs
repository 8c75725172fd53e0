//! Values that stand in nothing that leaves a run: passwords, licences, keys.
//!
//! Each is a file that whoever starts the run names. Scripts of this machine read it as `$__vcl_secrets/NAME`; so a manifest says
//! `--password "$(cat "$__vcl_secrets/db")"`, and types need not know. From there it goes where parameters go: into the files of the
//! run, which are its owner's alone, and to the machine. What leaves the run has `<secret NAME>` in its place: errors, messages,
//! progress, and the files that are kept of a run that came to its end. What was on the machine of objects is removed then.
//!
//! Found is the value as it is, without blanks at its ends, as shells and errors quote it, and line by line; what a script makes of
//! it (in base64, hashed) is not. In an object's name there can be none: names stand everywhere. A run that is gone on with has the
//! secrets that it began with.

use crate::error::{Error, ErrorKind, Result};
use crate::run::{Done, Progress};
use crate::target::quoted;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};

/// The shortest there may be, in bytes: what is shorter would be found everywhere.
const SHORTEST: usize = 4;
/// The shortest line of one that is looked for by itself.
const SHORTEST_LINE: usize = 8;
/// The largest, in bytes.
const LARGEST: u64 = 64 * 1024;

/// The secrets of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Secrets {
    /// Where scripts find them.
    directory: Option<Utf8PathBuf>,
    /// What is looked for, the longest first, and what stands in its place.
    words: Vec<(Vec<u8>, String)>,
    /// They themselves, with their names.
    values: Vec<(String, String)>,
}

impl Secrets {
    /// Reads them, and puts them where scripts find them, below a run's directory.
    ///
    /// # Errors
    /// A name is none, or a file cannot be read, is no text, or too short. [`ErrorKind::Conflict`]: the run has begun with others.
    pub(crate) fn read(
        files: &BTreeMap<String, Utf8PathBuf>,
        run: &Utf8Path,
        has_begun: bool,
    ) -> Result<Self> {
        let directory = run.join("secrets");
        if has_begun {
            begun_with(files, &directory)?;
        } else if directory.exists() {
            // Of a try that came to nothing.
            fs::remove_dir_all(&directory)
                .map_err(|error| Error::io(format!("removing {directory}"), error))?;
        }
        if files.is_empty() {
            return Ok(Self::default());
        }
        let failed = |error| Error::io(format!("making {directory}"), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let (mut words, mut values) = (Vec::new(), Vec::new());
        for (name, file) in files {
            let wrong = |why: &str| Error::new(ErrorKind::Invalid, format!("the secret `{name}`: {why}"));
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(wrong("its name is letters, digits, `-` and `_`"));
            }
            let unreadable = |error| Error::io(format!("the secret `{name}`: reading {file}"), error);
            if fs::metadata(file).map_err(unreadable)?.len() > LARGEST {
                return Err(wrong("it has more than 64 KiB"));
            }
            let text = fs::read_to_string(file).map_err(unreadable)?;
            let value = text.strip_suffix('\n').unwrap_or(&text);
            if value.trim().len() < SHORTEST {
                return Err(wrong("it is shorter than four characters, and would be found in everything"));
            }
            let put = directory.join(name);
            // What a run has begun with is there as it should be, and stays so whenever this ends.
            if !has_begun {
                let written = fs::write(&put, &text)
                    .and_then(|()| fs::set_permissions(&put, fs::Permissions::from_mode(0o600)));
                written.map_err(|error| Error::io(format!("writing {put}"), error))?;
            }
            let shown = format!("<secret {name}>");
            values.push((value.trim().to_owned(), name.clone()));
            let lines = value.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
            for text in [value, value.trim()].into_iter().chain(lines) {
                words.extend(forms(text).into_iter().map(|form| (form, shown.clone())));
            }
        }
        words.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        words.dedup();
        Ok(Self { directory: Some(directory), words, values })
    }
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }
    /// Where scripts find them.
    pub(crate) fn directory(&self) -> Option<&Utf8Path> {
        self.directory.as_deref()
    }
    /// Which of them an object's id has in it: as a whole, for parts of a secret of several lines may be words of every day.
    pub(crate) fn in_id(&self, id: &str) -> Option<&str> {
        self.values.iter().find(|(value, _)| id.contains(value)).map(|(_, name)| name.as_str())
    }
    /// The length of the longest that is looked for.
    pub(crate) fn longest(&self) -> usize {
        self.words.first().map_or(0, |(word, _)| word.len())
    }
    /// Whether one of them is in a text.
    pub(crate) fn are_in(&self, text: &str) -> bool {
        self.words.iter().any(|(word, _)| find(text.as_bytes(), word).is_some())
    }
    /// A text without them.
    pub(crate) fn masked(&self, text: &str) -> String {
        match self.without(text.as_bytes()) {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => text.to_owned(),
        }
    }
    /// An error that does not tell them.
    pub(crate) fn mask_error(&self, error: Error) -> Error {
        if self.is_empty() {
            return error;
        }
        Error::new(error.kind, self.masked(&error.chain()))
    }
    /// What became of an object, without them.
    pub(crate) fn mask_done(&self, mut done: Done) -> Done {
        for message in &mut done.messages {
            *message = self.masked(message);
        }
        done
    }
    /// What is told of a run, without them.
    pub(crate) fn mask_progress(&self, progress: Progress) -> Progress {
        match progress {
            Progress::Done(done) => Progress::Done(self.mask_done(done)),
            Progress::Lost { why } => Progress::Lost { why: self.masked(&why) },
            other => other,
        }
    }
    /// Takes them out of all files below a directory. Links are not followed: they lead to the configuration.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub(crate) fn mask_files(&self, directory: &Utf8Path) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let failed = |path: &Utf8Path| {
            let context = format!("taking secrets out of {path}");
            move |error| Error::io(context, error)
        };
        for entry in directory.read_dir_utf8().map_err(failed(directory))? {
            let entry = entry.map_err(failed(directory))?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(failed(entry.path()))?);
            if kind.is_dir() {
                self.mask_files(path)?;
            } else if kind.is_file() {
                // Scripts may have shut out even their owner.
                let mode = entry.metadata().map_err(failed(path))?.permissions().mode();
                let shut = mode & 0o600 != 0o600;
                let open = |mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode));
                if shut {
                    open(mode | 0o600).map_err(failed(path))?;
                }
                let text = fs::read(path).map_err(failed(path))?;
                if let Some(without) = self.without(&text) {
                    fs::write(path, without).map_err(failed(path))?;
                }
                if shut {
                    open(mode).map_err(failed(path))?;
                }
            }
        }
        Ok(())
    }

    /// `None` where there are none in it.
    fn without(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut found: Option<Vec<u8>> = None;
        for (word, shown) in &self.words {
            let text = found.as_deref().unwrap_or(text);
            let Some(mut at) = find(text, word) else { continue };
            let (mut out, mut rest) = (Vec::new(), text);
            loop {
                out.extend(&rest[..at]);
                out.extend(shown.as_bytes());
                rest = &rest[at + word.len()..];
                match find(rest, word) {
                    Some(next) => at = next,
                    None => break,
                }
            }
            out.extend(rest);
            found = Some(out);
        }
        found
    }
}

/// As it may stand in what scripts and errors say: as it is, quoted by sh in either way, and escaped.
fn forms(text: &str) -> [Vec<u8>; 4] {
    let as_word = quoted(text.as_bytes());
    let inside = as_word.get(1..as_word.len() - 1).unwrap_or_default().to_vec();
    let traced = text.replace('\'', "'\"'\"'").into_bytes();
    [text.as_bytes().to_vec(), inside, traced, text.escape_debug().to_string().into_bytes()]
}

/// Checks that a run that is gone on with has the secrets that it began with: what it has noted has those in it.
fn begun_with(files: &BTreeMap<String, Utf8PathBuf>, directory: &Utf8Path) -> Result<()> {
    let failed = |error| Error::io(format!("reading {directory}"), error);
    let mut before: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    if directory.exists() {
        for entry in directory.read_dir_utf8().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            before.insert(entry.file_name().to_owned(), fs::read(entry.path()).map_err(failed)?);
        }
    }
    let other = |name: &String| {
        let now = files.get(name).and_then(|file| fs::read(file).ok());
        now.as_deref() != before.get(name).map(Vec::as_slice)
    };
    match before.keys().chain(files.keys()).find(|name| other(name)) {
        None => Ok(()),
        Some(name) => {
            let context = format!(
                "the secret `{name}` is another than when the run began, or was not given both times; begin the run anew"
            );
            Err(Error::new(ErrorKind::Conflict, context))
        }
    }
}

fn find(text: &[u8], word: &[u8]) -> Option<usize> {
    text.windows(word.len()).position(|window| window == word)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_as_it_is_as_sh_quotes_it_and_by_its_lines() {
        let kept = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(kept.path()).unwrap();
        let file = |name: &str, text: &str| {
            fs::write(root.join(name), text).unwrap();
            (name.to_owned(), root.join(name))
        };
        let files = [
            file("db", "it's me\n"),
            file("key", "-----BEGIN-----\nabcdefgh\n-----END-----\n"),
            file("padded", " padded1\t\n\n"),
        ];
        let files = files.into_iter().collect();
        let secrets = Secrets::read(&files, root, false).unwrap();
        for (text, masked) in [
            ("x it's me, it's me", "x <secret db>, <secret db>"),
            ("echo 'it'\\''s me'", "echo '<secret db>'"),
            ("one abcdefgh two", "one <secret key> two"),
            ("a -----BEGIN-----\nabcdefgh\n-----END----- b", "a <secret key> b"),
            ("+ echo 'it'\"'\"'s me'", "+ echo '<secret db>'"),
            ("--password was `it\\'s me`", "--password was `<secret db>`"),
            ("blank at its end: padded1\r\n", "blank at its end: <secret padded>\r\n"),
            ("nothing", "nothing"),
        ] {
            assert_eq!(secrets.masked(text), masked);
            assert_eq!(secrets.are_in(text), text != masked);
        }
        assert_eq!(Secrets::read(&files, root, true).unwrap().words, secrets.words);
        for (name, text) in [("db", Some("another\n")), ("key", None)] {
            let mut others = files.clone();
            match text {
                Some(text) => drop(others.insert(name.into(), file("other", text).1)),
                None => drop(others.remove(name)),
            }
            assert_eq!(Secrets::read(&others, root, true).unwrap_err().kind, ErrorKind::Conflict);
        }
        let put = secrets.directory().unwrap().join("db");
        assert_eq!(fs::read_to_string(&put).unwrap(), "it's me\n");
        assert_eq!(fs::metadata(&put).unwrap().permissions().mode() & 0o777, 0o600);
        for (name, text, why) in [
            ("short", "abc\n", "shorter than four"),
            ("../x", "long enough", "its name is"),
            ("none", "", "shorter"),
            ("blank", "\n\n\n\n\n\n", "shorter"),
        ] {
            let one = root.join("one");
            fs::write(&one, text).unwrap();
            let error =
                Secrets::read(&[(name.to_owned(), one)].into_iter().collect(), root, false).unwrap_err();
            assert!(error.kind == ErrorKind::Invalid && error.context.contains(why), "{error}");
        }
    }
}
