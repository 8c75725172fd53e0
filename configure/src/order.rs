//! In which order objects can be done.
//!
//! An object is *prepared* (explored, and its manifest run) when everything that it requires is done, and *done* (its code
//! generated and run) when besides that everything is that its manifest defined. Since preparing one may define others, and may
//! give others something to wait for, the graph is read anew after each step; see "requirements" in cdist's `config.py`.

use crate::error::{Error, ErrorKind, Result};
use crate::name::ObjectName;
use crate::tree::{List, State, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// What one object waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// How far it is.
    pub state: State,
    /// What somebody said it requires.
    pub require: Vec<ObjectName>,
    /// What its manifest defined.
    pub autorequire: Vec<ObjectName>,
}

/// An object on a way through the graph, where else one can go from it, and why one went on.
type Stop<'a> = (&'a ObjectName, Vec<(&'a ObjectName, Why)>, Why);

/// All objects of a run and what they wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// In the order in which they were defined.
    order: Vec<ObjectName>,
    needs: BTreeMap<ObjectName, Needs>,
}

/// Why an object waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Requires,
    Defines,
}

impl Graph {
    /// As the objects of a run say it now.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(tree: &Tree) -> Result<Self> {
        let mut graph = Self::default();
        for object in tree.objects()? {
            let named = |list| {
                tree.list(&object, list)?.iter().map(|line| tree.named(line)).collect::<Result<Vec<_>>>()
            };
            let needs = Needs {
                state: tree.state(&object)?,
                require: named(List::Require)?,
                autorequire: named(List::Autorequire)?,
            };
            graph.push(object, needs);
        }
        Ok(graph)
    }
    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
    /// Adds an object at the end of the order.
    pub fn push(&mut self, object: ObjectName, needs: Needs) {
        if self.needs.insert(object.clone(), needs).is_none() {
            self.order.push(object);
        }
    }
    /// What can be prepared now, in the order in which it was defined.
    #[must_use]
    pub fn preparable(&self) -> Vec<&ObjectName> {
        self.those(|needs| needs.state == State::Defined && self.done(&needs.require))
    }
    /// What can be done now, in the order in which it was defined.
    #[must_use]
    pub fn runnable(&self) -> Vec<&ObjectName> {
        self.those(|needs| {
            needs.state == State::Prepared && self.done(&needs.require) && self.done(&needs.autorequire)
        })
    }
    /// What is prepared and not done.
    pub fn prepared(&self) -> impl Iterator<Item = &ObjectName> {
        self.those(|needs| needs.state == State::Prepared).into_iter()
    }
    /// Whether all is done but what is left out.
    #[must_use]
    pub fn is_done_but(&self, left_out: impl Fn(&ObjectName) -> bool) -> bool {
        self.needs.iter().all(|(object, needs)| needs.state == State::Done || left_out(object))
    }
    /// Whether objects wait for each other in a ring.
    ///
    /// # Errors
    /// [`ErrorKind::Unresolvable`]: some do; the ring is named in full.
    pub fn check(&self) -> Result<()> {
        let Some(ring) = self.ring() else { return Ok(()) };
        let mut text = String::new();
        for (object, why) in &ring {
            let why = match why {
                Why::Requires => "requires",
                Why::Defines => "defines, and so waits for,",
            };
            text.push_str(&format!("{object} {why} "));
        }
        let first = ring.first().map(|(object, _)| object.to_string()).unwrap_or_default();
        let context = format!("objects wait for each other: {text}{first}");
        Err(Error::new(ErrorKind::Unresolvable, context))
    }
    /// Why nothing can be done although not all is.
    #[must_use]
    pub fn stuck(&self) -> Error {
        let mut lines = Vec::new();
        for object in &self.order {
            let Some(needs) = self.needs.get(object).filter(|needs| needs.state != State::Done) else {
                continue;
            };
            let waits = needs.require.iter().chain(&needs.autorequire);
            let waits: BTreeSet<&ObjectName> = waits.filter(|other| !self.is(other)).collect();
            // One that is left out waits for nothing.
            if waits.is_empty() {
                continue;
            }
            let told: Vec<String> = waits
                .into_iter()
                .map(|other| {
                    let absent = !self.needs.contains_key(other);
                    if absent { format!("{other}, which nothing defines") } else { other.to_string() }
                })
                .collect();
            lines.push(format!("{object} waits for {}", told.join(" and ")));
        }
        let context = format!("not all objects can be done: {}", lines.join("; "));
        Error::new(ErrorKind::Unresolvable, context)
    }

    fn those(&self, wanted: impl Fn(&Needs) -> bool) -> Vec<&ObjectName> {
        self.order.iter().filter(|object| self.needs.get(*object).is_some_and(&wanted)).collect()
    }
    fn is(&self, object: &ObjectName) -> bool {
        self.needs.get(object).is_some_and(|needs| needs.state == State::Done)
    }
    fn done(&self, objects: &[ObjectName]) -> bool {
        objects.iter().all(|object| self.is(object))
    }
    fn next(&self, object: &ObjectName) -> Vec<(&ObjectName, Why)> {
        let Some(needs) = self.needs.get(object) else { return Vec::new() };
        let required = needs.require.iter().map(|other| (other, Why::Requires));
        required.chain(needs.autorequire.iter().map(|other| (other, Why::Defines))).collect()
    }

    /// The first ring that is found, each object with why it waits for the next; without recursion, for a chain of objects may be
    /// as long as a manifest.
    fn ring(&self) -> Option<Vec<(&ObjectName, Why)>> {
        let mut finished: BTreeSet<&ObjectName> = BTreeSet::new();
        for start in &self.order {
            let mut path: Vec<Stop<'_>> = Vec::new();
            let mut on_path: BTreeSet<&ObjectName> = BTreeSet::new();
            if !finished.contains(start) {
                on_path.insert(start);
                path.push((start, self.next(start), Why::Requires));
            }
            while let Some((object, rest, why)) = path.last_mut() {
                let Some((next, by)) = rest.pop() else {
                    finished.insert(object);
                    on_path.remove(object);
                    path.pop();
                    continue;
                };
                *why = by;
                if on_path.contains(next) {
                    let from = path.iter().position(|(object, ..)| *object == next)?;
                    return Some(path[from..].iter().map(|(object, _, why)| (*object, *why)).collect());
                }
                if !finished.contains(next) {
                    on_path.insert(next);
                    path.push((next, self.next(next), Why::Requires));
                }
            }
        }
        None
    }
}
