//! Names of objects: a type and an id, as in `__file/etc/motd`; a singleton has no id, as in `__hostname/`.

use crate::definition::Type;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;

/// The name of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    of: String,
    id: String,
}

impl ObjectName {
    /// The object of a type that has this id: one slash at its beginning and one at its end are nobody's.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`]: a singleton has an id or another has none, or the id is not one. Beyond what cdist refuses
    /// (`//`, `.`, `/`, the marker as a part) these are refused: a part `..`, which would lead out of the tree of objects; a
    /// part `.`, with which two ids would be one directory; and a newline, for what an object requires is a list of lines.
    pub fn new(of: &Type, id: &str, marker: &str) -> Result<Self> {
        let name = &of.name;
        let refuse = |why: &str| {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("{name}: the object id `{}` {why}", id.escape_debug()),
            ))
        };
        if of.singleton {
            if !id.is_empty() {
                return refuse("is too much: there is one object of this type, which has none");
            }
            return Ok(Self { of: name.clone(), id: String::new() });
        }
        if id.is_empty() {
            let context = format!("{name} requires an object id, as in `{name} NAME`: it is no singleton");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        if id.split('/').any(|part| part == marker) {
            return refuse("has the marker of this run's objects as a part");
        }
        if id.contains("//") {
            return refuse("has two slashes one after the other");
        }
        if id.contains('\n') {
            return refuse("has a newline in it");
        }
        let bare = id.strip_prefix('/').unwrap_or(id);
        let bare = bare.strip_suffix('/').unwrap_or(bare);
        if matches!(bare, "" | ".") {
            return refuse("names nothing");
        }
        if bare.split('/').any(|part| part == "..") {
            return refuse("leads out of the tree of objects");
        }
        if bare.split('/').any(|part| part == ".") {
            return refuse("has a part `.`, so that two ids would be one object");
        }
        Ok(Self { of: name.clone(), id: bare.to_owned() })
    }
    /// The type's name.
    #[must_use]
    pub fn of(&self) -> &str {
        &self.of
    }
    /// The id; a singleton's is empty.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }
    /// `__type/id` apart, as cdist takes it apart: at the first slash.
    #[must_use]
    pub fn split(text: &str) -> (&str, &str) {
        text.split_once('/').unwrap_or((text, ""))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.of, self.id)
    }
}
