//! What generating code gave, kept for the next run in which nothing that goes into it has changed.
//!
//! What goes into it, as far as types keep to what cdist gives them: the type's files, the object's name, parameters, stdin and
//! explorers, what its manifest left in its directory, the explorers of the machine, the messages so far, whom the run is for, the
//! configuration's `files`, and the content of local files that parameters name by whole paths. A type that looks at the clock, the
//! network, other objects, variables of whoever started the run or files that nobody names gives what it gave before; so a site
//! switches this on, and it is off otherwise.
//!
//! Kept are the two codes and the messages, with placeholders for what is one run's (its directory, its marker), below
//! a directory that is its owner's alone. What a script leaves in its object's directory cannot be given again, so of such scripts
//! nothing is kept: with cdist's types these are those that upload something.

use crate::environment::Environment;
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::notes::unusual;
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::sync::{Mutex, PoisonError};

/// What stands for the run's directory, and for its marker.
const PLACEHOLDERS: [&str; 2] = ["@vcl-run-directory@", "@vcl-object-marker@"];
/// What is larger is not looked at, and its object's code not kept.
const LARGE: u64 = 64 << 20;
/// What comes of it.
const CODE: [&str; 2] = ["code-local", "code-remote"];
/// Changes when what is kept, or what goes into it, does.
const FORMAT: &str = "vcl-configure memo 1";

/// What one object's scripts gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Given {
    /// Code by the name of its file.
    pub(crate) code: BTreeMap<String, String>,
    pub(crate) messages: Vec<String>,
}

/// What is kept for a run.
#[derive(Debug)]
pub(crate) struct Memo {
    directory: Utf8PathBuf,
    /// What is one run's.
    own: [String; 2],
    /// Of what all objects have in common.
    common: Vec<u8>,
    types: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Memo {
    /// Below this directory, for a run whose machine is explored.
    ///
    /// # Errors
    /// The directory cannot be made, or what goes into all code cannot be read.
    pub(crate) fn open(directory: &Utf8Path, run: &Utf8Path, environment: &Environment) -> Result<Self> {
        let failed = |error| Error::io(format!("making {directory}"), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        let own = [run.to_string(), environment.tree.marker().to_owned()];
        let mut digest = Digest::new(&own);
        let (host, global) = (&environment.host, environment.tree.global());
        for word in [
            FORMAT,
            &host.name,
            &host.hostname,
            &host.fqdn,
            &host.tags.join(","),
            &environment.base,
            &environment.path,
        ] {
            digest.add(word.as_bytes());
        }
        digest.add(&[u8::from(environment.dry_run)]);
        for (name, value) in std::env::vars().filter(|(name, _)| name == "LANG" || name.starts_with("LC_")) {
            digest.add(name.as_bytes());
            digest.add(value.as_bytes());
        }
        digest.tree(&global.join("explorer"))?;
        digest.listing(&global.join("conf/files"))?;
        let common = digest.end();
        Ok(Self { directory: directory.to_owned(), own, common, types: Mutex::default() })
    }
    /// By what an object's code is found; `None` where too much goes into it.
    ///
    /// # Errors
    /// What goes into it cannot be read.
    pub(crate) fn key(&self, environment: &Environment, object: &ObjectName) -> Result<Option<String>> {
        let (tree, mut digest) = (&environment.tree, Digest::new(&self.own));
        digest.add(&self.common);
        digest.add(object.to_string().as_bytes());
        digest.add(&self.of_type(&tree.of(object.of())?.directory, object.of())?);
        let all = tree.global().join("messages");
        digest.add(&fs::read(&all).map_err(|error| Error::io(format!("reading {all}"), error))?);
        let directory = tree.directory(object);
        for path in goes_in(&directory)? {
            digest.tree(&path)?;
        }
        for value in tree.parameters(object)?.into_values() {
            for line in String::from_utf8_lossy(&value).lines().filter(|line| line.starts_with('/')) {
                match fs::metadata(line) {
                    Ok(file) if file.is_file() && file.len() <= LARGE => digest.tree(Utf8Path::new(line))?,
                    Ok(_) => return Ok(None),
                    Err(error) => digest.add(error.kind().to_string().as_bytes()),
                }
            }
        }
        let key = digest.end();
        Ok(Some(key.iter().map(|byte| format!("{byte:02x}")).collect()))
    }
    /// What was kept.
    pub(crate) fn get(&self, key: &str) -> Option<Given> {
        let text = fs::read_to_string(self.file(key)).ok()?;
        let given: Given = serde_json::from_str(&text).ok()?;
        let own = |text: &String| {
            PLACEHOLDERS
                .iter()
                .zip(&self.own)
                .fold(text.clone(), |text, (place, own)| text.replace(place, own))
        };
        let code = given.code.iter().map(|(name, text)| (name.clone(), own(text))).collect();
        Some(Given { code, messages: given.messages.iter().map(own).collect() })
    }
    /// Keeps it.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn put(&self, key: &str, given: &Given) -> Result<()> {
        let texts = || given.code.values().chain(&given.messages);
        if texts().any(|text| PLACEHOLDERS.iter().any(|place| text.contains(place))) {
            return Ok(());
        }
        let placed = |text: &String| {
            PLACEHOLDERS
                .iter()
                .zip(&self.own)
                .fold(text.clone(), |text, (place, own)| text.replace(own, place))
        };
        let code = given.code.iter().map(|(name, text)| (name.clone(), placed(text))).collect();
        let given = Given { code, messages: given.messages.iter().map(placed).collect() };
        let text = serde_json::to_string(&given)
            .map_err(|error| Error::new(ErrorKind::Failed, error.to_string()))?;
        let (file, unfinished) =
            (self.file(key), self.directory.join(format!(".{key}-{}", std::process::id())));
        let kept = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &file));
        kept.map_err(|error| Error::io(format!("keeping {file}"), error))
    }

    fn file(&self, key: &str) -> Utf8PathBuf {
        self.directory.join(key)
    }
    fn of_type(&self, directory: &Utf8Path, name: &str) -> Result<Vec<u8>> {
        let mut types = self.types.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = types.get(name) {
            return Ok(known.clone());
        }
        let mut digest = Digest::new(&self.own);
        digest.tree(directory)?;
        let known = digest.end();
        types.insert(name.to_owned(), known.clone());
        Ok(known)
    }
}

/// What goes into an object's code of what is in its directory.
fn goes_in(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let usual = ["parameter", "explorer", "stdin"].map(|name| directory.join(name));
    let mut all: Vec<Utf8PathBuf> = usual.into_iter().chain(unusual(directory)?).collect();
    all.retain(|path| !path.file_name().is_some_and(|name| CODE.contains(&name)));
    all.sort();
    Ok(all)
}

/// For whoever wants to know whether a script has left something there.
pub(crate) fn left_in(directory: &Utf8Path) -> Result<Vec<u8>> {
    let nobodys = [String::new(), String::new()];
    let mut digest = Digest::new(&nobodys);
    for path in goes_in(directory)? {
        digest.listing(&path)?;
    }
    Ok(digest.end())
}

fn entries(directory: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    let failed = |error: io::Error| Error::io(format!("looking at {directory}"), error);
    let all =
        directory.read_dir_utf8().map_err(failed)?.map(|entry| entry.map(|entry| entry.path().to_owned()));
    let mut all = all.collect::<io::Result<Vec<_>>>().map_err(failed)?;
    all.sort();
    Ok(all)
}

struct Digest<'a> {
    sha: Sha256,
    own: &'a [String; 2],
}

impl<'a> Digest<'a> {
    fn new(own: &'a [String; 2]) -> Self {
        Self { sha: Sha256::new(), own }
    }
    /// Adds bytes, but for what is one run's, and says where they end.
    fn add(&mut self, bytes: &[u8]) {
        let common = match std::str::from_utf8(bytes) {
            Ok(text) if self.own.iter().any(|own| !own.is_empty() && text.contains(own.as_str())) => {
                let places = PLACEHOLDERS.iter().zip(self.own);
                places
                    .fold(text.to_owned(), |text, (place, own)| text.replace(own.as_str(), place))
                    .into_bytes()
            }
            _ => bytes.to_vec(),
        };
        self.sha.update((common.len() as u64).to_le_bytes());
        self.sha.update(&common);
    }
    /// Adds a file, or a directory with all that is below it.
    fn tree(&mut self, path: &Utf8Path) -> Result<()> {
        self.below(path, |digest, path| {
            let content = fs::read(path).map_err(|error| Error::io(format!("reading {path}"), error))?;
            digest.add(&content);
            Ok(())
        })
    }
    /// The same with when a file was changed and how long it is in place of its content.
    fn listing(&mut self, path: &Utf8Path) -> Result<()> {
        self.below(path, |digest, path| {
            let is = fs::metadata(path).map_err(|error| Error::io(format!("looking at {path}"), error))?;
            digest.add(format!("{} {} {} {}", is.len(), is.mtime(), is.mtime_nsec(), is.ino()).as_bytes());
            Ok(())
        })
    }
    fn below(&mut self, path: &Utf8Path, of_file: fn(&mut Self, &Utf8Path) -> Result<()>) -> Result<()> {
        self.add(path.as_str().as_bytes());
        if path.is_dir() {
            return entries(path)?.iter().try_for_each(|entry| self.below(entry, of_file));
        }
        // A link that leads nowhere has nothing to be read.
        if path.exists() { of_file(self, path) } else { Ok(()) }
    }
    fn end(self) -> Vec<u8> {
        self.sha.finalize().to_vec()
    }
}
