//! What a type is: the parameters that it takes and how its objects are treated, read once from its directory.
//!
//! A type is a directory `type/__NAME` of a configuration directory. What is in it, and what an empty line or a missing file
//! means, is cdist's (`core/cdist_type.py` of 7.0.0, and its manual's `cdist-type(7)`).

use crate::error::{Error, ErrorKind, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::io;

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// One value; the last one counts.
    One,
    /// Values, in their order.
    Many,
    /// None: it is given or it is not.
    Nothing,
}

/// A parameter of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, without the two hyphens.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// Whether each object has to have it.
    pub required: bool,
    /// What it is where nobody gives it. Only an optional one that takes values has it.
    pub default: Option<Value>,
    /// What is told whoever gives it.
    pub deprecated: Option<String>,
}

/// What a parameter is given: bytes, for a value may be anything that a file may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Given, without a value.
    Nothing,
    /// One.
    One(Vec<u8>),
    /// Several, in their order.
    Many(Vec<Vec<u8>>),
}

impl Value {
    /// As it stands in a parameter's file: each value ends with one newline; nothing, and an empty value, is an empty file.
    #[must_use]
    pub fn file(&self) -> Vec<u8> {
        match self {
            Self::Nothing => Vec::new(),
            Self::One(value) if value.is_empty() || value.ends_with(b"\n") => value.clone(),
            Self::One(value) => [value, &b"\n"[..]].concat(),
            Self::Many(values) => values.iter().flat_map(|value| [value, &b"\n"[..]].concat()).collect(),
        }
    }
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Type {
    /// Its name, with the two underscores.
    pub name: String,
    /// Its directory, in the configuration directory that it comes from.
    pub directory: Utf8PathBuf,
    /// Its parameters: required ones first, then optional ones, then those that take nothing.
    pub parameters: Vec<Parameter>,
    /// The names of its explorers, in order.
    pub explorers: Vec<String>,
    /// There is one object of it at most, which has no id.
    pub singleton: bool,
    /// No two objects of it run at the same time.
    pub nonparallel: bool,
    /// It is for machines that are being installed, and left out of a configuration.
    pub install: bool,
    /// What is told whoever uses it.
    pub deprecated: Option<String>,
}

impl Type {
    /// Reads the type in a directory. Its name is the directory's, which may be a link.
    ///
    /// # Errors
    /// There is no directory, or something in it cannot be read: [`ErrorKind::NotFound`] and [`ErrorKind::Failed`]. A
    /// parameter stands in two lists: [`ErrorKind::Invalid`].
    pub fn read(name: &str, directory: &Utf8Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no type {name}: {directory} is no directory"),
            ));
        }
        let lists = [
            ("required", Takes::One, true),
            ("required_multiple", Takes::Many, true),
            ("optional", Takes::One, false),
            ("optional_multiple", Takes::Many, false),
            ("boolean", Takes::Nothing, false),
        ];
        let at = directory.join("parameter");
        let mut parameters: Vec<Parameter> = Vec::new();
        for (list, takes, required) in lists {
            for parameter in names(&at.join(list))? {
                if let Some(other) = parameters.iter().find(|p| p.name == parameter) {
                    let context = format!("{}: `{}` stands in two of the lists in {at}", name, other.name);
                    return Err(Error::new(ErrorKind::Invalid, context));
                }
                let default = match read(&at.join("default").join(&parameter))? {
                    Some(text) if !required && takes != Takes::Nothing => Some(default(&text, takes)),
                    _ => None,
                };
                let deprecated = read(&at.join("deprecated").join(&parameter))?.map(|text| words(&text));
                parameters.push(Parameter { name: parameter, takes, required, default, deprecated });
            }
        }
        let has = |marker: &str| directory.join(marker).is_file();
        Ok(Self {
            name: name.to_owned(),
            parameters,
            explorers: listed(&directory.join("explorer"))?,
            singleton: has("singleton"),
            nonparallel: has("nonparallel"),
            install: has("install"),
            deprecated: read(&directory.join("deprecated"))?.map(|text| words(&text)),
            directory: directory.to_owned(),
        })
    }
    /// A parameter by its name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }
}

/// White space around it is nobody's; of several values each has a line.
fn default(text: &[u8], takes: Takes) -> Value {
    let text = text.trim_ascii();
    match takes {
        Takes::Many => Value::Many(text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()),
        _ => Value::One(text.to_vec()),
    }
}

fn words(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().to_owned()
}

/// The names in a list, one a line; a list that is not there has none.
fn names(file: &Utf8Path) -> Result<Vec<String>> {
    let text = read(file)?.unwrap_or_default();
    let text = String::from_utf8(text).map_err(|_| {
        Error::new(ErrorKind::Invalid, format!("{file}: a parameter's name is UTF-8, and this is not"))
    })?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

fn read(file: &Utf8Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_nothing(&error) => Ok(None),
        Err(error) => Err(Error::io(format!("reading {file}"), error)),
    }
}

/// What is in a directory, in order, without what is hidden; nothing where there is none.
///
/// # Errors
/// It cannot be read, or a name in it is not UTF-8.
pub(crate) fn listed(directory: &Utf8Path) -> Result<Vec<String>> {
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(error) if is_nothing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(format!("reading {directory}"), error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::io(format!("reading {directory}"), error))?;
        if !entry.file_name().starts_with('.') {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn is_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}
