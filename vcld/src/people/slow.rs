//! Failed sign-ins make the next ones wait, for the name and for the address they came from.
//!
//! A try counts as failed until it has succeeded, so that a thousand at once are no way around. A name waits less than an
//! address: nobody is kept out for long by somebody who guesses at his. Behind an address a whole room may sit, in which
//! somebody mistypes now and then: it has more tries, and one a minute is forgiven it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many tries are free, for a name and for an address.
const FREE: [u32; 2] = [6, 60];
/// How long is waited at most, for a name and for an address.
const LONGEST: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// In what time one failure is forgiven, if it is.
const LEAK: [Option<Duration>; 2] = [None, Some(Duration::from_secs(60))];
/// How long a failure is remembered.
const FORGOTTEN: Duration = Duration::from_secs(3600);
/// How many names and how many addresses are remembered.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
    /// Up to when what is forgiven by time is taken off.
    forgiven: Instant,
}

impl Failures {
    /// What is left of them now.
    fn left(self, now: Instant, leak: Option<Duration>) -> Self {
        if now.duration_since(self.last) >= FORGOTTEN {
            return Self { count: 0, last: now, forgiven: now };
        }
        let Some(leak) = leak else { return self };
        let times = now.duration_since(self.forgiven).as_secs() / leak.as_secs();
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        Self { count: self.count.saturating_sub(times), forgiven: self.forgiven + leak * times, ..self }
    }
}

/// Who failed lately.
#[derive(Default)]
pub(crate) struct Slow(Mutex<[HashMap<String, Failures>; 2]>);

/// The address as far as it is one caller's: of IPv6 the network, of which anybody has many addresses.
pub(super) fn caller(from: IpAddr) -> String {
    match from {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => address
            .to_ipv4_mapped()
            .map_or_else(|| format!("{:x?}", &address.segments()[..4]), |v4| v4.to_string()),
    }
}

fn wait(count: u32, which: usize) -> Duration {
    match count.checked_sub(FREE[which]) {
        None => Duration::ZERO,
        Some(over) => Duration::from_secs(1 << over.min(20)).min(LONGEST[which]),
    }
}

/// Under what a try is counted: its name and, unless it comes from this machine, its address.
fn keys(name: &str, from: Option<IpAddr>) -> impl Iterator<Item = (usize, String)> {
    std::iter::once((0, name.to_owned())).chain(from.map(|from| (1, caller(from))))
}

impl Slow {
    /// Begins a try; an error is how long to wait first.
    pub(crate) fn begin(&self, name: &str, from: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = |(n, key): (usize, String)| {
            let failures = maps[n].get(&key)?.left(now, LEAK[n]);
            wait(failures.count, n).checked_sub(now.duration_since(failures.last))
        };
        let waits = keys(name, from).filter_map(left).filter(|wait| !wait.is_zero());
        if let Some(longest) = waits.max() {
            return Err(longest);
        }
        for (n, key) in keys(name, from) {
            let map = &mut maps[n];
            if map.len() >= REMEMBERED && !map.contains_key(&key) {
                map.retain(|_, f| f.left(now, LEAK[n]).count > 0);
                // Those that have failed least are forgotten first.
                for least in 1.. {
                    if map.len() < REMEMBERED {
                        break;
                    }
                    map.retain(|_, f| f.count > least);
                }
            }
            let new = Failures { count: 0, last: now, forgiven: now };
            let failures = map.entry(key).or_insert(new);
            let left = failures.left(now, LEAK[n]);
            // Time forgives from the first failure on, not from before.
            let forgiven = if left.count == 0 { now } else { left.forgiven };
            *failures = Failures { count: left.count.saturating_add(1), last: now, forgiven };
        }
        Ok(())
    }

    /// The try that was begun came to no end that says anything of the password.
    pub(crate) fn forgiven(&self, name: &str, from: Option<IpAddr>) {
        let mut maps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, key) in keys(name, from) {
            if let Some(failures) = maps[n].get_mut(&key) {
                failures.count = failures.count.saturating_sub(1);
            }
        }
    }

    /// The try that was begun has succeeded.
    pub(crate) fn succeeded(&self, name: &str, from: Option<IpAddr>) {
        // Others may sit behind the address, and one of them may guess.
        self.forgiven(name, from);
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[0].remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> Option<IpAddr> {
        Some(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn guessing_gets_slow_and_a_good_word_takes_it_back() {
        let (slow, start) = (Slow::default(), Instant::now());
        for _ in 0..FREE[0] {
            assert_eq!(slow.begin("alice", at(1), start), Ok(()));
        }
        let wait = slow.begin("alice", at(2), start).unwrap_err();
        assert!(wait <= Duration::from_secs(1));
        // The name waits wherever it comes from, the address whatever name it tries.
        for n in FREE[0]..FREE[1] {
            assert_eq!(slow.begin(&format!("u{n}"), at(1), start), Ok(()));
        }
        assert!(slow.begin("bob", at(1), start).is_err());
        assert_eq!(slow.begin("bob", at(2), start), Ok(()));
        let mut now = start;
        for _ in 0..30 {
            now += Duration::from_secs(901);
            assert_eq!(slow.begin("alice", at(1), now), Ok(()), "nobody waits longer than the longest");
        }
        assert_eq!(slow.begin("alice", at(3), now).unwrap_err(), LONGEST[0]);
        slow.succeeded("alice", at(3));
        assert_eq!(slow.begin("alice", at(3), now), Ok(()));
        assert_eq!(slow.begin("x", at(1), now + FORGOTTEN), Ok(()), "an hour later all is forgotten");
    }
    #[test]
    fn a_room_behind_one_address_in_which_somebody_mistypes_is_not_kept_out() {
        let (slow, start) = (Slow::default(), Instant::now());
        // A whole day, in which one of many fails each minute.
        for minute in 0..1440_u32 {
            let now = start + Duration::from_secs(60) * minute;
            assert_eq!(slow.begin(&format!("u{minute}"), at(1), now), Ok(()), "minute {minute}");
        }
        // Whoever goes on guessing gets in no more tries than are forgiven.
        let (mut now, mut tries) = (start + Duration::from_secs(86_400), 0);
        let end = now + Duration::from_secs(3600);
        for n in 0.. {
            match slow.begin(&format!("x{n}"), at(1), now) {
                Ok(()) => tries += 1,
                Err(wait) => now += wait,
            }
            if now > end {
                break;
            }
        }
        assert!((60..140).contains(&tries), "{tries} in an hour");
    }
    #[test]
    fn this_machine_is_no_address_that_waits() {
        let (slow, now) = (Slow::default(), Instant::now());
        for n in 0..2 * FREE[1] {
            assert_eq!(slow.begin(&format!("u{n}"), None, now), Ok(()));
        }
    }
    #[test]
    fn a_million_names_take_no_more_room_than_ten_thousand() {
        let (slow, now) = (Slow::default(), Instant::now());
        for _ in 0..FREE[0] {
            let _ = slow.begin("alice", at(7), now);
        }
        for n in 0..30_000_u32 {
            let _ = slow.begin(&format!("u{n}"), at(1000 + n), now);
        }
        let maps = slow.0.lock().unwrap();
        assert!(maps.iter().all(|map| map.len() <= REMEMBERED));
        assert!(
            maps[0].contains_key("alice"),
            "who has guessed a lot is not forgotten for those who guess once"
        );
    }
    #[test]
    fn a_network_of_ipv6_is_one_caller() {
        let a = caller("2001:db8::1".parse().unwrap());
        assert_eq!(a, caller("2001:db8:0:0:ffff::2".parse().unwrap()));
        assert_ne!(a, caller("2001:db8:1::1".parse().unwrap()));
        assert_eq!(caller("::ffff:10.0.0.1".parse().unwrap()), "10.0.0.1");
    }
}
