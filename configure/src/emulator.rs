//! What a type's command does: it defines an object.
//!
//! A manifest calls types as commands, `require=__directory/etc/x __file /etc/x/y --source -`. Each call is taken apart
//! ([`arguments`]), and the object noted: its parameters, where it is defined, its stdin, what it requires.
//! Whoever starts manifests keeps an [`Emulator`] for the run and hands each call to it, with the variables that the command
//! had; [`Emulator::define`] and [`Emulator::connect`] are the two halves between which the command's stdin is stored, since a
//! call that is refused must not take the input of the loop it stands in.
//!
//! What a call does follows cdist 7.0.0 (`emulator.py`), with these differences: what is defined again is compared by its
//! values and not by lines, so that a value of several lines may be given twice; and by `CDIST_ORDER_DEPENDENCY` an object does
//! not come to require itself, and does come to require the one before it although what it requires besides has that one's name
//! in its own.

use crate::arguments::{self, Given};
use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::secrets::Secrets;
use crate::tree::{List, Tree};
use camino::Utf8PathBuf;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// The variables that a call reads, besides those that have to be there.
pub const READ: [&str; 4] = ["require", "CDIST_OVERRIDE", "CDIST_ORDER_DEPENDENCY", "__object_name"];
/// The variables without which a command was not called from a manifest.
pub const NEEDED: [&str; 7] = [
    "__global",
    "__target_host",
    "__target_hostname",
    "__target_fqdn",
    "__cdist_manifest",
    "__cdist_type_base_path",
    "__cdist_object_marker",
];

/// A call of a type's command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Call {
    /// The name that it was called by, without its directory.
    pub name: String,
    /// What follows the name.
    pub arguments: Vec<Vec<u8>>,
    /// What it has of [`READ`] and [`NEEDED`].
    pub variables: BTreeMap<String, String>,
}

/// What is being defined by a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The object.
    pub object: ObjectName,
    /// The object in whose manifest it is defined.
    parent: Option<ObjectName>,
    /// What it requires, as far as this call says so.
    require: Vec<ObjectName>,
}

/// Which objects of a manifest follow each other because of `CDIST_ORDER_DEPENDENCY`.
#[derive(Debug, Default)]
struct Order {
    /// In which manifests that is wanted now.
    on: BTreeSet<Option<ObjectName>>,
    /// Of the initial manifest, and of each object's.
    defined: BTreeMap<Option<ObjectName>, Vec<ObjectName>>,
    /// What manifests that run beside each other have defined, each for itself: see [`Emulator::manifest_ended`].
    noted: BTreeMap<Option<ObjectName>, Vec<ObjectName>>,
}

/// The types' commands of a run.
#[derive(Debug)]
pub struct Emulator {
    tree: Tree,
    /// What no object may have in its name.
    secrets: Secrets,
    /// Whoever has it defines an object: manifests that run beside each other may define the same one.
    order: Mutex<Order>,
}

impl Emulator {
    /// Of a run with these objects.
    #[must_use]
    pub fn new(tree: Tree) -> Self {
        Self { tree, secrets: Secrets::default(), order: Mutex::default() }
    }
    /// The same, of a run with secrets.
    pub(crate) fn with_secrets(self, secrets: Secrets) -> Self {
        Self { secrets, ..self }
    }
    /// The objects.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }
    /// Notes the object that a call defines, all but what it requires, and says where its stdin belongs.
    ///
    /// # Errors
    /// The call is wrong ([`ErrorKind::Usage`]), its id is not one, or the object is there with other parameters
    /// ([`ErrorKind::Conflict`]). Then nothing was noted.
    pub fn define(&self, call: &Call) -> Result<(Definition, Utf8PathBuf)> {
        for name in NEEDED {
            if !call.variables.contains_key(name) {
                let context =
                    format!("{}: the variable {name} is missing: a type is called by a manifest", call.name);
                return Err(Error::new(ErrorKind::NotFound, context));
            }
        }
        let of = self.tree.of(&call.name)?;
        let given = arguments::parse(of, &call.arguments)?;
        let id = String::from_utf8(given.id.clone().unwrap_or_default());
        let id = id.map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("{}: an object id is UTF-8, and this is not", call.name))
        })?;
        if let Some(secret) = self.secrets.in_id(&id) {
            let context =
                format!("{}: the secret `{secret}` is in an object's id, which stands everywhere", call.name);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let object = ObjectName::new(of, &id, self.tree.marker())?;
        let parent = match call.variables.get("__object_name").filter(|name| !name.is_empty()) {
            Some(name) => Some(self.tree.named(name)?),
            None => None,
        };
        let replace = call.variables.contains_key("CDIST_OVERRIDE");
        let source = call.variables.get("__cdist_manifest").map_or("", String::as_str);
        // What it requires is looked at before anything is noted; cdist finds it out afterwards.
        let require = call.variables.get("require").map_or("", String::as_str);
        let mut require = self.required(&object, require, source)?;
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        self.note(&object, &given, replace, source)?;
        order.noted.entry(parent.clone()).or_default().push(object.clone());
        if let Some(parent) = &parent {
            self.tree.append(parent, List::Typeorder, &object.to_string())?;
        }
        let wanted = call.variables.contains_key("CDIST_ORDER_DEPENDENCY");
        let before = order.follows(wanted, &object, parent.as_ref());
        require.extend(before.filter(|before| !replace && !require.contains(before)));
        self.tree.append(&object, List::Source, source)?;
        let stdin = self.tree.directory(&object).join("stdin");
        Ok((Definition { object, parent, require }, stdin))
    }
    /// Notes what the object requires, and to whom it belongs.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn connect(&self, definition: &Definition) -> Result<()> {
        let (tree, object) = (&self.tree, &definition.object);
        let _one = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        for required in &definition.require {
            tree.append(object, List::Require, &required.to_string())?;
        }
        let Some(parent) = &definition.parent else { return Ok(()) };
        // An object waits for what its manifest defines, unless that is to wait for the object.
        if !tree.list(object, List::Require)?.contains(&parent.to_string()) {
            tree.append(parent, List::Autorequire, &object.to_string())?;
        }
        for (whose, list, other) in [(parent, List::Children, object), (object, List::Parents, parent)] {
            if !tree.list(whose, list)?.contains(&other.to_string()) {
                tree.append(whose, list, &other.to_string())?;
            }
        }
        Ok(())
    }
    /// A manifest is over, an object's or the initial one: what it had of `CDIST_ORDER_DEPENDENCY` is forgotten, and what it
    /// defined comes behind what was defined before. Of manifests that ran beside each other, whoever ran them says the order.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn manifest_ended(&self, parent: Option<&ObjectName>) -> Result<()> {
        let noted = {
            let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
            order.on.remove(&parent.cloned());
            order.defined.remove(&parent.cloned());
            order.noted.remove(&parent.cloned()).unwrap_or_default()
        };
        noted.iter().try_for_each(|object| self.tree.append_typeorder(object))
    }

    /// The objects that a list of requirements names.
    fn required(&self, object: &ObjectName, require: &str, source: &str) -> Result<Vec<ObjectName>> {
        let names = require.split([' ', '\t', '\n']).filter(|name| !name.is_empty());
        names
            .map(|name| {
                self.tree.named(name).map_err(|error| {
                    Error::new(
                        error.kind,
                        format!("{object} requires `{name}`, in {source}: {}", error.context),
                    )
                })
            })
            .collect()
    }

    fn note(&self, object: &ObjectName, given: &Given, replace: bool, source: &str) -> Result<()> {
        if replace || !self.tree.exists(object) {
            self.tree.create(object)?;
            return self.tree.set_parameters(object, &given.parameters);
        }
        let there = self.tree.parameters(object)?;
        let now: BTreeMap<String, Vec<u8>> =
            given.parameters.iter().map(|(name, value)| (name.clone(), value.file())).collect();
        if there == now {
            return Ok(());
        }
        let earlier = self.tree.list(object, List::Source)?.join(" ");
        let differ = there.keys().chain(now.keys()).filter(|name| there.get(*name) != now.get(*name));
        let differ: BTreeSet<&String> = differ.collect();
        let told: Vec<String> = differ
            .into_iter()
            .map(|name| format!("--{name} was {} and is {}", shown(there.get(name)), shown(now.get(name))))
            .collect();
        let context = format!(
            "{object} is defined in {earlier} and again, with other parameters, in {source}: {}",
            told.join("; ")
        );
        Err(Error::new(ErrorKind::Conflict, context))
    }
}

impl Order {
    /// The object that was defined before this one, where each is to follow the other.
    fn follows(
        &mut self,
        wanted: bool,
        object: &ObjectName,
        parent: Option<&ObjectName>,
    ) -> Option<ObjectName> {
        let manifest = parent.cloned();
        if !wanted {
            // The initial manifest begins anew when it wants it again; an object's goes on where it was.
            if self.on.remove(&manifest) && manifest.is_none() {
                self.defined.remove(&manifest);
            }
            return None;
        }
        self.on.insert(manifest.clone());
        let defined = self.defined.entry(manifest).or_default();
        let before = defined.last().cloned();
        defined.push(object.clone());
        before.filter(|before| before != object)
    }
}

fn shown(file: Option<&Vec<u8>>) -> String {
    match file {
        None => "not given".into(),
        Some(text) => format!("`{}`", String::from_utf8_lossy(text).trim_end_matches('\n').escape_debug()),
    }
}
