//! The objects of a run as files, in cdist's own layout, for that is the interface of its types: their scripts read and write
//! there (`$__object/parameter/x`, `$__object/files`), and what is kept of a run is read with people's own tools.
//!
//! An object is the directory `object/__type/ID/MARKER`. The marker is one run's, so that no id's part can be taken for what is
//! in an object. Lists are lines; each is read when it is needed, because a script may have changed it.

use crate::definition::{Type, Value};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::sync::Arc;

/// How far an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is defined.
    Defined,
    /// Its explorers and its manifest ran.
    Prepared,
    /// Its code ran.
    Done,
}

/// A list of an object's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    /// What has to be done before it, because somebody said so.
    Require,
    /// What has to be done before it, because its own manifest defines it.
    Autorequire,
    /// Where it is defined: one line each time.
    Source,
    /// What its manifest defines, in order, each time.
    Typeorder,
    /// What its manifest defines.
    Children,
    /// Whose manifests define it.
    Parents,
}

impl List {
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Require => "require",
            Self::Autorequire => "autorequire",
            Self::Source => "source",
            Self::Typeorder => "typeorder",
            Self::Children => "children",
            Self::Parents => "parents",
        }
    }
}

/// The types of a run, by their names.
pub type Types = BTreeMap<String, Arc<Type>>;

/// The objects of a run.
#[derive(Debug, Clone)]
pub struct Tree {
    global: Utf8PathBuf,
    marker: String,
    types: Arc<Types>,
}

impl Tree {
    /// Of a run whose files are in this directory, with objects of these types.
    #[must_use]
    pub fn new(global: Utf8PathBuf, marker: String, types: Arc<Types>) -> Self {
        Self { global, marker, types }
    }
    /// The directory of the run: `$__global`.
    #[must_use]
    pub fn global(&self) -> &Utf8Path {
        &self.global
    }
    /// What each object's directory is called.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }
    /// A type.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn of(&self, name: &str) -> Result<&Arc<Type>> {
        let unknown = || {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no type {name} in the configuration directories"),
            )
        };
        self.types.get(name).ok_or_else(unknown)
    }
    /// The object that a text names, as in `require="__file/etc/motd"`.
    ///
    /// # Errors
    /// There is no such type, or the id is not one of its.
    pub fn named(&self, text: &str) -> Result<ObjectName> {
        let (of, id) = ObjectName::split(text);
        ObjectName::new(self.of(of)?, id, &self.marker)
    }
    /// Where an object is.
    #[must_use]
    pub fn directory(&self, object: &ObjectName) -> Utf8PathBuf {
        let mut directory = self.global.join("object").join(object.of());
        if !object.id().is_empty() {
            directory.push(object.id());
        }
        directory.join(&self.marker)
    }
    /// Whether somebody has defined it.
    #[must_use]
    pub fn exists(&self, object: &ObjectName) -> bool {
        self.directory(object).exists()
    }
    /// Makes its directories.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn create(&self, object: &ObjectName) -> Result<()> {
        let directory = self.directory(object);
        for name in ["parameter", "stdout", "stderr"] {
            let made = fs::create_dir_all(directory.join(name));
            made.map_err(|error| Error::io(format!("making {directory}/{name} for {object}"), error))?;
        }
        Ok(())
    }
    /// What its parameters' files have.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn parameters(&self, object: &ObjectName) -> Result<BTreeMap<String, Vec<u8>>> {
        let directory = self.directory(object).join("parameter");
        let failed = |error| Error::io(format!("reading the parameters of {object}"), error);
        let mut all = BTreeMap::new();
        for entry in directory.read_dir_utf8().map_err(failed)? {
            let entry = entry.map_err(failed)?;
            all.insert(entry.file_name().to_owned(), fs::read(entry.path()).map_err(failed)?);
        }
        Ok(all)
    }
    /// Gives it these parameters and no others.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_parameters(&self, object: &ObjectName, parameters: &[(String, Value)]) -> Result<()> {
        let directory = self.directory(object).join("parameter");
        for name in self.parameters(object)?.into_keys() {
            let file = directory.join(name);
            fs::remove_file(&file).map_err(|error| Error::io(format!("removing {file}"), error))?;
        }
        for (name, value) in parameters {
            let file = directory.join(name);
            fs::write(&file, value.file()).map_err(|error| Error::io(format!("writing {file}"), error))?;
        }
        Ok(())
    }
    /// The lines of one of its lists.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn list(&self, object: &ObjectName, list: List) -> Result<Vec<String>> {
        lines(&self.directory(object).join(list.file()))
    }
    /// Puts a line at the end of one of its lists.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn append(&self, object: &ObjectName, list: List, line: &str) -> Result<()> {
        append(&self.directory(object).join(list.file()), line)
    }
    /// Puts a line at the end of what was defined, in order, each time.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn append_typeorder(&self, object: &ObjectName) -> Result<()> {
        append(&self.global.join("typeorder"), &object.to_string())
    }
    /// How far it is.
    ///
    /// # Errors
    /// Its state cannot be read, or is none.
    pub fn state(&self, object: &ObjectName) -> Result<State> {
        match lines(&self.directory(object).join("state"))?.first().map(String::as_str) {
            None => Ok(State::Defined),
            Some("prepared") => Ok(State::Prepared),
            Some("done") => Ok(State::Done),
            Some(other) => Err(Error::new(
                ErrorKind::Invalid,
                format!("the state of {object} is `{other}`, which is none"),
            )),
        }
    }
    /// Notes how far it is.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn set_state(&self, object: &ObjectName, state: State) -> Result<()> {
        let word = match state {
            State::Defined => "",
            State::Prepared => "prepared\n",
            State::Done => "done\n",
        };
        let written = fs::write(self.directory(object).join("state"), word);
        written.map_err(|error| Error::io(format!("noting how far {object} is"), error))
    }
    /// All objects, in the order in which they were first defined: a legal order of many, the same in each run, and the one
    /// that whoever wrote the manifest has in mind. (cdist walks its directories in the order of the file system.)
    ///
    /// # Errors
    /// The order cannot be read.
    pub fn objects(&self) -> Result<Vec<ObjectName>> {
        let mut seen = std::collections::BTreeSet::new();
        let mut all = Vec::new();
        for line in lines(&self.global.join("typeorder"))? {
            let object = self.named(&line)?;
            if seen.insert(object.clone()) {
                all.push(object);
            }
        }
        Ok(all)
    }
}

fn lines(file: &Utf8Path) -> Result<Vec<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("reading {file}"), error)),
    }
}

fn append(file: &Utf8Path, line: &str) -> Result<()> {
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    written.map_err(|error| Error::io(format!("writing {file}"), error))
}
