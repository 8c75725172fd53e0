//! Who is connected to a guest, from what its scripts say. All of it is untrusted: bounded, and never believed further than
//! that somebody is there.

use crate::answer::Answer;
use chrono::{DateTime, Utc};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use vcl_types::{Identity, Session};

/// As many are told.
const MOST: usize = 256;
/// As many items of an identity, and values in all.
const VALUES: usize = 500;

/// A connection to one of the ports.
struct Socket {
    port: u16,
    from: IpAddr,
    inode: u64,
}

/// A process that has one open.
struct Holder {
    pid: u32,
    uid: Option<u32>,
    ticks: u64,
    name: String,
}

/// What `sessions.sh` said.
#[derive(Default)]
pub(crate) struct Sockets {
    boot: Option<i64>,
    methods: HashMap<u16, String>,
    accounts: HashMap<u32, String>,
    sockets: Vec<Socket>,
    holders: HashMap<u64, Vec<Holder>>,
}

impl Sockets {
    pub(crate) fn read(answer: &Answer) -> Self {
        let mut all =
            Self { boot: answer.told("boot").next().and_then(|t| t.parse().ok()), ..Self::default() };
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for line in answer.told("method").map(words) {
            if let [name, port] = &line[..]
                && let Ok(port) = port.parse()
            {
                all.methods.entry(port).or_insert_with(|| name.clone());
            }
        }
        for line in answer.told("account").map(words) {
            if let [name, uid] = &line[..]
                && let Ok(uid) = uid.parse()
            {
                all.accounts.insert(uid, name.clone());
            }
        }
        for line in answer.told("socket").map(words) {
            if let [local, remote, inode] = &line[..]
                && let (Some((_, port)), Some((from, _)), Ok(inode)) =
                    (address(local), address(remote), inode.parse())
            {
                all.sockets.push(Socket { port, from, inode });
            }
        }
        for line in answer.told("holder") {
            let mut parts = line.splitn(5, ' ');
            let mut next = || parts.next().unwrap_or_default();
            let (inode, pid, uid, ticks, name) = (next(), next(), next(), next(), next());
            if let (Ok(inode), Ok(pid), Ok(ticks)) = (inode.parse(), pid.parse(), ticks.parse()) {
                let holder = Holder { pid, uid: uid.parse().ok(), ticks, name: name.to_owned() };
                all.holders.entry(inode).or_default().push(holder);
            }
        }
        all
    }

    /// Who is there. An ssh connection is somebody's once a process of that account holds it; of any other kind one that is
    /// made is taken for a session, as the program that answers is not the user's. `manager` is the account that vcld logs in as.
    pub(crate) fn sessions(&self, manager: &str) -> Vec<Session> {
        let mut sessions = Vec::new();
        for socket in &self.sockets {
            let Some(method) = self.methods.get(&socket.port) else { continue };
            let holders = self.holders.get(&socket.inode).map_or(&[][..], Vec::as_slice);
            let of_user = holders
                .iter()
                .filter_map(|h| Some((h, self.accounts.get(&h.uid?)?)))
                .max_by_key(|(h, _)| h.pid);
            let ssh = holders.iter().any(|h| h.name.starts_with("sshd"));
            let (account, holder) = match of_user {
                Some((holder, account)) if account != manager => (Some(account.clone()), Some(holder)),
                Some(_) => continue,
                // Nobody has logged in by it, or somebody who has no account of the reservation: vcld itself.
                None if ssh || (holders.is_empty() && method == "ssh") => continue,
                None => (None, holders.iter().max_by_key(|h| h.pid)),
            };
            // A guest's own programs are no user.
            if account.is_none() && socket.from.is_loopback() {
                continue;
            }
            let since = holder.and_then(|h| self.since(h.ticks));
            sessions.push(Session { account, from: Some(socket.from), method: method.clone(), since });
            if sessions.len() == MOST {
                break;
            }
        }
        sessions
    }

    fn since(&self, ticks: u64) -> Option<DateTime<Utc>> {
        // What the kernel tells everybody, whatever its own clock has.
        const PER_SECOND: u64 = 100;
        let seconds = self.boot?.checked_add(i64::try_from(ticks / PER_SECOND).ok()?)?;
        DateTime::from_timestamp(seconds, 0)
    }
}

/// `0100007F:0016`, as `/proc/net/tcp` has it: each word of 32 bits in the machine's own order, which is little on all that
/// are lent here.
fn address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |n: usize| u32::from_str_radix(address.get(n * 8..n * 8 + 8)?, 16).ok();
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.swap_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?.to_le_bytes());
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}

/// What of a text is written on a terminal: printable characters and ends of lines, and not more than a screen of them.
pub(crate) fn notice(text: &str) -> String {
    const MOST: usize = 2000;
    let plain = |c: char| if c == '\n' || !c.is_control() { c } else { ' ' };
    text.chars().take(MOST).map(plain).collect::<String>().trim_end().to_owned()
}

/// What `identify.sh` said.
pub(crate) fn identity(answer: &Answer) -> Identity {
    let mut identity = Identity::default();
    for (item, value) in answer.pairs("item").take(VALUES) {
        if !item.is_empty() && !value.is_empty() {
            identity.add(item, value);
        }
    }
    identity
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Output;
    use vcl_types::{Endpoint, HostKeys};

    fn answer(text: &str) -> Answer {
        let to = Endpoint {
            address: "10.0.0.5".parse().unwrap(),
            port: 22,
            user: "root".into(),
            host_keys: HostKeys::first_use(),
        };
        let output = Output { status: 0, stdout: format!("{text}done\n").into(), stderr: Vec::new() };
        Answer::of(output, &to, "x").unwrap()
    }

    #[test]
    fn an_address_is_read_as_the_kernel_writes_it() {
        let read = |text| address(text).map(|(ip, port)| (ip.to_string(), port));
        assert_eq!(read("0100007F:0016"), Some(("127.0.0.1".into(), 22)));
        assert_eq!(read("0500000A:0D3D"), Some(("10.0.0.5".into(), 3389)));
        let mapped = "0000000000000000FFFF00000500000A:0016";
        assert_eq!(read(mapped), Some(("10.0.0.5".into(), 22)));
        assert_eq!(read("B80D0120000000000000000001000000:0016"), Some(("2001:db8::1".into(), 22)));
        for bad in ["", ":", "0100007F", "0100007F:G", "01:1", "ä100007F:0016", "0100007:00161"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    const SAID: &str = "method\tssh 22\nmethod\trdp 3389\naccount\talice 1001\naccount\tbob -\nboot\t1700000000\n\
        socket\t0500000A:0016 0900000A:C350 77\nsocket\t0500000A:0016 0800000A:C351 78\n\
        socket\t0500000A:0D3D 0700000A:C352 79\nsocket\t0500000A:0016 0600000A:C353 80\n\
        holder\t77 10 0 500 sshd\nholder\t77 12 1001 700 sshd\nholder\t78 13 0 500 sshd\n\
        holder\t79 20 115 900 xrdp\n";

    #[test]
    fn who_holds_a_connection_is_who_is_connected() {
        let sessions = Sockets::read(&answer(SAID)).sessions("root");
        let at = |seconds| DateTime::from_timestamp(seconds, 0);
        let session = |account: Option<&str>, from: &str, method: &str, since| Session {
            account: account.map(str::to_owned),
            from: Some(from.parse().unwrap()),
            method: method.into(),
            since: at(since),
        };
        // The second is vcld's own, or somebody who types his password; the last has ended while it was looked at.
        let expected = [
            session(Some("alice"), "10.0.0.9", "ssh", 1_700_000_007),
            session(None, "10.0.0.7", "rdp", 1_700_000_009),
        ];
        assert_eq!(sessions, expected);
        assert_eq!(Sockets::read(&answer(SAID)).sessions("alice").len(), 1);
    }

    #[test]
    fn a_guest_that_says_much_or_nonsense_is_cut_short() {
        let mut said =
            "method\tssh 22\nmethod\tx\nmethod\ty 99999\naccount\ta 1\nboot\t9223372036854775807\n"
                .to_owned();
        for n in 0..1500 {
            said.push_str(&format!("socket\t0500000A:0016 0900000A:C350 {n}\n"));
        }
        said.push_str("holder\t1 1 1 18446744073709551615 sshd\nholder\tx\nholder\t2 1 1 1 sshd \u{7} evil\nsocket\ta b c\n");
        let sessions = Sockets::read(&answer(&said)).sessions("root");
        assert_eq!(sessions.len(), 2);
        assert!(sessions.iter().all(|s| s.since.is_none()));
        assert!(Sockets::read(&answer(&said.replace("ssh 22", "rdp 22"))).sessions("root").len() <= MOST);
        assert!(Sockets::read(&answer("")).sessions("root").is_empty());
    }

    #[test]
    fn a_notice_steers_no_terminal() {
        assert_eq!(notice("one\ntwo\u{1b}[2J\u{7}\r\n"), "one\ntwo [2J");
        assert_eq!(notice(&"x".repeat(5000)).len(), 2000);
    }

    #[test]
    fn an_identity_is_read_by_item_and_value() {
        let said = answer(
            "item\tmachine-id\tabc def\nitem\tmac\t\nitem\t\tx\nitem\tssh-host-key\tssh-ed25519 AAAA\n",
        );
        let identity = identity(&said);
        assert_eq!(identity.of("machine-id"), ["abc def"]);
        assert_eq!(identity.of("ssh-host-key"), ["ssh-ed25519 AAAA"]);
        assert_eq!(identity.items().count(), 2);
    }
}
