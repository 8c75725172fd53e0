//! What two computers must not share: names, MAC addresses, addresses on a network.

use crate::problem::{Findings, Position};
use crate::tree::Entry;
use std::collections::BTreeMap;
use std::collections::hash_map::{Entry as Slot, HashMap};
use std::net::IpAddr;
use vcl_types::{ComputerName, NetworkName};

/// Notes who has what. Two ranges that overlap make one problem, not one for each name.
pub(crate) struct Clashes<'a> {
    findings: &'a Findings,
    entries: Vec<(String, &'a str, Position)>,
    /// What is taken, by which entry, and by which of its computers.
    taken: HashMap<String, (usize, ComputerName)>,
    /// By kind, first entry and second entry.
    found: BTreeMap<(Kind, usize, usize), Clash>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Name,
    Mac,
    Address,
}

struct Clash {
    what: String,
    first: ComputerName,
    second: ComputerName,
    more: usize,
}

impl<'a> Clashes<'a> {
    pub fn new(findings: &'a Findings) -> Self {
        Self { findings, entries: Vec::new(), taken: HashMap::new(), found: BTreeMap::new() }
    }
    /// What is noted from here on belongs to this entry.
    pub fn enter(&mut self, entry: &'a Entry, path: &str) {
        self.entries.push((path.to_owned(), &entry.key, entry.at));
    }
    /// Notes a name, and answers whether it was free: the rest of a computer that is there twice is no news.
    pub fn name(&mut self, name: &ComputerName) -> bool {
        self.note(Kind::Name, format!("name {name}"), name.to_string(), name)
    }
    pub fn mac(&mut self, computer: &ComputerName, mac: &str) {
        self.note(Kind::Mac, format!("mac {mac}"), mac.to_owned(), computer);
    }
    pub fn address(&mut self, computer: &ComputerName, network: &NetworkName, address: IpAddr) {
        let what = format!("{address} on network {network}");
        self.note(Kind::Address, format!("address {network} {address}"), what, computer);
    }
    fn note(&mut self, kind: Kind, key: String, what: String, computer: &ComputerName) -> bool {
        let here = self.entries.len() - 1;
        match self.taken.entry(key) {
            Slot::Vacant(slot) => {
                slot.insert((here, computer.clone()));
                true
            }
            Slot::Occupied(slot) => {
                let (there, first) = slot.get();
                let clash = || Clash { what, first: first.clone(), second: computer.clone(), more: 0 };
                self.found
                    .entry((kind, *there, here))
                    .and_modify(|clash| clash.more += 1)
                    .or_insert_with(clash);
                false
            }
        }
    }
    /// Reports what was found, each at the second of the two entries.
    pub fn report(self) {
        for ((kind, there, here), Clash { what, first, second, more }) in &self.found {
            let (path, _, at) = &self.entries[*here];
            let (_, other, place) = &self.entries[*there];
            let other = match (kind, there == here) {
                (Kind::Name, true) => "by the same entry".to_owned(),
                (Kind::Name, false) => format!("by \"{other}\" in line {}", place.line),
                (_, true) => format!("{first} and {second} of this entry"),
                (_, false) => format!("{first} (\"{other}\" in line {}) and {second}", place.line),
            };
            let more = if *more == 0 { String::new() } else { format!(", and {more} more like it") };
            let (message, way_out) = match kind {
                Kind::Name => (
                    format!("`{what}` is made a second time, first {other}{more}"),
                    "rename one, or change a range",
                ),
                Kind::Mac => (
                    format!("`{what}` is the MAC address of both {other}{more}"),
                    "give one of them another `mac`, in an entry of its own",
                ),
                Kind::Address => (
                    format!("`{what}` is the address of both {other}{more}"),
                    "give one of them another address",
                ),
            };
            self.findings.report(*at, path, message, way_out);
        }
    }
}
