//! The ports of a NAT host that are given out.

use crate::InvalidName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const RULE: &str = "write ranges of 1 to 65535, the lower number first and each port once, as in `10000-19999` or \
                    `5700-6500,9696-9701`";

/// Ports, in ranges that do not overlap: `5700-6500,9696-9701`. There is at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRanges(Vec<(u16, u16)>);

impl PortRanges {
    /// How many ports there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|(from, to)| u32::from(to - from) + 1).sum()
    }
    /// The port at that place, counted from 0 through all ranges.
    #[must_use]
    pub fn at(&self, place: u32) -> Option<u16> {
        let mut left = place;
        for (from, to) in &self.0 {
            let here = u32::from(to - from) + 1;
            match u16::try_from(left) {
                Ok(left) if u32::from(left) < here => return Some(from + left),
                _ => left -= here,
            }
        }
        None
    }
    /// Whether a port is one of them.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&port))
    }
    /// The first port that both have.
    #[must_use]
    pub fn shared(&self, other: &Self) -> Option<u16> {
        let both = |(a, b): &(u16, u16)| {
            let common = other.0.iter().map(|(c, d)| (*a.max(c), *b.min(d)));
            common.filter(|(from, to)| from <= to).map(|(from, _)| from).min()
        };
        self.0.iter().filter_map(both).min()
    }
}

impl FromStr for PortRanges {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let bad =
            || InvalidName { what: "range of ports", value: text.chars().take(80).collect(), rule: RULE };
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            let port = if plain { digits.parse::<u16>().ok() } else { None };
            port.filter(|port| *port > 0).ok_or_else(bad)
        };
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (number(from.trim())?, number(to.trim())?);
            if from > to || ranges.iter().any(|(a, b)| *a <= to && from <= *b) {
                return Err(bad());
            }
            ranges.push((from, to));
        }
        Ok(Self(ranges))
    }
}
impl TryFrom<String> for PortRanges {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}
impl From<PortRanges> for String {
    fn from(ranges: PortRanges) -> Self {
        ranges.to_string()
    }
}
impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (from, to)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            if from == to { write!(f, "{comma}{from}")? } else { write!(f, "{comma}{from}-{to}")? }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(text: &str) -> PortRanges {
        text.parse().unwrap()
    }

    #[test]
    fn every_port_of_the_ranges_has_a_place() {
        let ports = ranges(" 5700-5702, 9696,65534-65535");
        assert_eq!(ports.to_string(), "5700-5702,9696,65534-65535");
        let all: Vec<u16> = (0..ports.count()).filter_map(|place| ports.at(place)).collect();
        assert_eq!(all, [5700, 5701, 5702, 9696, 65534, 65535]);
        assert!(ports.at(6).is_none() && ports.at(u32::MAX).is_none());
        assert!(ports.contains(9696) && !ports.contains(9697));
        assert_eq!(ranges("1-65535").count(), 65535);
        assert_eq!(ranges("1-65535").at(65534), Some(65535));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in
            ["", ",", "0", "0-9", "9-1", "65536", "1-", "-1", "a", "1-2-3", "1-5,5", "7,1-9", "+1", "1,"]
        {
            assert!(bad.parse::<PortRanges>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ranges_that_overlap_say_where() {
        assert_eq!(ranges("10-20,40-50").shared(&ranges("45-60,15")), Some(15));
        assert_eq!(ranges("10-20").shared(&ranges("21-30")), None);
    }
}
