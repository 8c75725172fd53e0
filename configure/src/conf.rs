//! Configuration directories, one over the other.
//!
//! Each may have `explorer/`, `files/`, `manifest/` and `type/`. What is in a later one takes the place of what has the same name
//! in an earlier one: a type, an explorer, a directory of files as a whole, never in parts (cdist's `conf_dir`). A run has all
//! of it as links in its own `conf/`.
//!
//! A directory that has `set/`, as skonfig's have, has the directories in there below its own things, the first of them on top.

use crate::definition::{Type, listed};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::Types;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs::hard_link;
use std::os::unix::fs::symlink;
use std::sync::Arc;

/// What a configuration directory may have.
const PARTS: [&str; 4] = ["explorer", "files", "manifest", "type"];

/// What configuration directories have between them.
#[derive(Debug, Clone)]
pub struct Conf {
    /// Part, name, and where it is.
    entries: BTreeMap<(&'static str, String), Utf8PathBuf>,
    types: Arc<Types>,
}

impl Conf {
    /// Lays directories one over the other, the first at the bottom, and reads their types.
    ///
    /// # Errors
    /// A directory is not there ([`ErrorKind::NotFound`]), or a type in it cannot be read.
    pub fn layer(directories: &[Utf8PathBuf]) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut whole = Vec::new();
        for directory in directories {
            let set = directory.join("set");
            let members = listed(&set)?.into_iter().rev().map(|name| set.join(name));
            whole.extend(members.filter(|member| member.is_dir()));
            whole.push(directory.clone());
        }
        for directory in &whole {
            if !directory.is_dir() {
                let context = format!("there is no configuration directory {directory}");
                return Err(Error::new(ErrorKind::NotFound, context));
            }
            let whole = directory
                .canonicalize_utf8()
                .map_err(|error| Error::io(format!("looking at {directory}"), error))?;
            for part in PARTS {
                for name in listed(&whole.join(part))? {
                    entries.insert((part, name.clone()), whole.join(part).join(&name));
                }
            }
        }
        let mut types = Types::new();
        for ((_, name), directory) in entries.iter().filter(|((part, _), _)| *part == "type") {
            // A file beside the types is no type.
            if directory.is_dir() {
                types.insert(name.clone(), Arc::new(Type::read(name, directory)?));
            }
        }
        Ok(Self { entries, types: Arc::new(types) })
    }
    /// The types.
    #[must_use]
    pub fn types(&self) -> &Arc<Types> {
        &self.types
    }
    /// The explorers of machines, by their names, in order.
    pub fn explorers(&self) -> impl Iterator<Item = (&str, &Utf8Path)> {
        self.entries
            .iter()
            .filter(|((part, _), _)| *part == "explorer")
            .map(|((_, name), path)| (name.as_str(), path.as_path()))
    }
    /// The manifest that a run begins with where none is named: `manifest/init`.
    #[must_use]
    pub fn initial_manifest(&self) -> Option<&Utf8Path> {
        self.entries.get(&("manifest", "init".to_owned())).map(Utf8PathBuf::as_path)
    }
    /// Makes the links that scripts of a run find it by, below `conf/` of this directory, and a command for each type in `bin/`.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn link(&self, global: &Utf8Path, command: &Utf8Path) -> Result<()> {
        let failed = |error| Error::io(format!("linking the configuration into {global}"), error);
        for part in PARTS {
            std::fs::create_dir_all(global.join("conf").join(part)).map_err(failed)?;
        }
        std::fs::create_dir_all(global.join("bin")).map_err(failed)?;
        for ((part, name), path) in &self.entries {
            symlink(path, global.join("conf").join(part).join(name)).map_err(failed)?;
        }
        let mut first: Option<Utf8PathBuf> = None;
        for name in self.types.keys() {
            let link = global.join("bin").join(name);
            // One link by many names is one file to make; where there is no such thing, each is a link of its own.
            if first.as_ref().is_none_or(|first| hard_link(first, &link).is_err()) {
                symlink(command, &link).map_err(failed)?;
                first = Some(link);
            }
        }
        Ok(())
    }
}
