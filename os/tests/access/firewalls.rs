//! Each firewall that a guest may have, for real: whom it lets in, whom it keeps out, and what is left of it.

use crate::namespace::{MANAGER, Namespace, STRANGER, USER, USER6, around, until};
use crate::{Bench, access, only};
use vcl_types::Reach;

/// What a guest's firewall has before, how its rules are shown, and what is to be had in it already.
struct Firewall {
    name: &'static str,
    /// Brings it up in the guest.
    up: &'static str,
    /// Shows all its rules, ours included.
    show: &'static str,
    /// Whether a stranger gets to port 22 before anything is granted.
    open_before: bool,
}

const FIREWALLS: [Firewall; 7] = [
    Firewall { name: "nft", up: "true", show: "nft list ruleset", open_before: true },
    Firewall {
        name: "nft",
        up: "nft -f - <<'X'
table inet filter {
    set mine { type ipv4_addr; elements = { 10.99.0.1 } }
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        ip saddr @mine accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
        tcp dport 8080 accept
    }
    chain forward { type filter hook forward priority 0; policy drop; }
}
table ip other {
    chain in {
        type filter hook input priority 10; policy accept;
        tcp dport 23 drop
    }
}
X",
        show: "nft list ruleset",
        open_before: false,
    },
    Firewall {
        name: "iptables",
        up: "update-alternatives --set iptables /usr/sbin/iptables-nft >/dev/null; update-alternatives --set ip6tables /usr/sbin/ip6tables-nft >/dev/null
             for c in iptables ip6tables; do $c -A INPUT -i lo -j ACCEPT; $c -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
                 $c -A INPUT -p tcp --dport 8080 -j ACCEPT; $c -A INPUT -p ipv6-icmp -j ACCEPT; done 2>/dev/null
             iptables -A INPUT -s 10.99.0.1 -j ACCEPT; iptables -P INPUT DROP; ip6tables -P INPUT DROP",
        show: "iptables -S; ip6tables -S",
        open_before: false,
    },
    Firewall {
        name: "iptables-legacy",
        up: "for c in iptables-legacy ip6tables-legacy; do $c -A INPUT -i lo -j ACCEPT; $c -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
                 $c -A INPUT -p tcp --dport 8080 -j ACCEPT; $c -A INPUT -p ipv6-icmp -j ACCEPT; done 2>/dev/null
             iptables-legacy -A INPUT -s 10.99.0.1 -j ACCEPT; iptables-legacy -P INPUT DROP; ip6tables-legacy -P INPUT DROP",
        show: "iptables-legacy -S; ip6tables-legacy -S",
        open_before: false,
    },
    Firewall {
        name: "ufw",
        up: "ufw --force reset >/dev/null; ufw allow from 10.99.0.1 >/dev/null; ufw allow 8080/tcp comment 'of the image' >/dev/null
             ufw --force enable >/dev/null",
        show: "ufw status verbose; ufw show added",
        open_before: false,
    },
    Firewall {
        name: "firewalld",
        up: "mkdir -p /run/dbus; dbus-daemon --system --fork >/dev/null 2>&1
             (firewalld --nofork --nopid >/run/firewalld.log 2>&1 &)
             for i in $(seq 100); do firewall-cmd --quiet --state 2>/dev/null && break; sleep 0.2; done
             for p in '' --permanent; do firewall-cmd -q $p --remove-service=ssh; firewall-cmd -q $p --add-port=8080/tcp
                 firewall-cmd -q $p --add-rich-rule='rule family=ipv4 source address=10.99.0.1 accept'; done",
        show: "for p in '' --permanent; do firewall-cmd $p --list-all; done",
        open_before: false,
    },
    Firewall {
        name: "none",
        up: "rm -f /usr/sbin/nft /usr/sbin/*tables* /usr/sbin/ufw /usr/bin/firewall-cmd",
        show: "true",
        open_before: true,
    },
];

/// Each firewall lets in whom it should, on the ports it should, and is what it was afterwards.
fn firewall_does_its_part(firewall: &Firewall) {
    let bench = Bench::new();
    let guest = &bench.guest;
    guest.inside(firewall.up);
    // Something listens beside the ssh server.
    for port in [5901, 8080, 9000] {
        let line = format!("python3 -c 'import socket,time
for f,a in ((socket.AF_INET6,\"::\"),):
    s=socket.socket(f); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind((a,{port})); s.listen(50)
time.sleep(1000)' >/dev/null 2>&1 &");
        guest.inside(&line);
    }
    until("they listen", || guest.inside("ss -Htln | wc -l").trim().parse::<u32>().unwrap() >= 5);
    let others = |guest: &Namespace| {
        (guest.reaches(USER, 8080), guest.reaches(STRANGER, 8080), guest.reaches(USER, 9000))
    };
    let (before, others_before) = (guest.inside(firewall.show), others(guest));
    assert_eq!(guest.reaches(STRANGER, 22), firewall.open_before, "{}", firewall.name);
    assert!(guest.reaches(MANAGER, 22));

    let grant = |from: Reach| {
        let changed = bench.grant(&access(guest, &[("alice", false)], from));
        assert!(guest.reaches(MANAGER, 22), "{}: vcld is never shut out", firewall.name);
        changed
    };
    let told = std::fs::read_to_string(guest.path("/proc/1/comm")).unwrap();
    assert!(told.starts_with("sshd"));
    grant(Reach::Nobody);
    if firewall.name == "none" {
        let notes = guest.told.of("access-note");
        assert!(notes[0].contains("no firewall") && notes[0].contains("22"), "{notes:?}");
        assert!(guest.reaches(STRANGER, 22));
        return;
    }
    let kind = std::fs::read_to_string(guest.path("/var/lib/vcld/access/firewall")).unwrap();
    assert_eq!(kind.trim(), firewall.name);
    assert!(!guest.reaches(USER, 22) && !guest.reaches(USER6, 5901), "{}: nobody", firewall.name);

    // Her connection is opened before the rules are narrowed to her address.
    grant(Reach::Everybody);
    assert!(
        guest.reaches(USER, 22) && guest.reaches(USER6, 5901) && guest.reaches(STRANGER, 22),
        "{}: everybody",
        firewall.name
    );
    assert_eq!(guest.login(USER, "alice", "id -un").unwrap(), "alice");

    let changed = grant(only(&["10.99.0.2/32", "fd99::2/128"]));
    assert!(changed.contains("firewall rules"), "{changed}");
    for port in [22, 5901] {
        assert!(
            guest.reaches(USER, port) && guest.reaches(USER6, port),
            "{}: {port}: the user",
            firewall.name
        );
        assert!(
            !guest.reaches(STRANGER, port) && !guest.reaches("fd99::3", port),
            "{}: {port}: a stranger",
            firewall.name
        );
    }
    assert_eq!(others(guest), others_before, "{}: other ports are none of ours", firewall.name);
    assert_eq!(
        bench.grant(&access(guest, &[("alice", false)], only(&["10.99.0.2/32", "fd99::2/128"]))),
        "[]"
    );

    // After a reboot of hers the rules that do not come back by themselves are brought back.
    if firewall.name.starts_with("ip") || firewall.name == "nft" {
        let lost = match firewall.name {
            "nft" => "nft delete table inet vcld".to_owned(),
            c => format!("{c} -D INPUT -j vcld-access; ip6{0} -D INPUT -j vcld-access", &c[2..]),
        };
        guest.inside(&format!("{lost} && sh /var/lib/vcld/access/at-boot 2>/dev/null || true"));
        assert!(guest.reaches(USER, 22) && !guest.reaches(STRANGER, 22), "{}: after a boot", firewall.name);
        guest.inside(&lost);
        assert!(
            bench.grant(&access(guest, &[("alice", false)], only(&["10.99.0.2/32", "fd99::2/128"]))) != "[]"
        );
        assert!(guest.reaches(USER, 22) && !guest.reaches(STRANGER, 22), "{}: granted again", firewall.name);
    }

    // Fewer ports, another address.
    let mut moved = access(guest, &[("alice", false)], only(&["10.99.0.3/32"]));
    moved.methods.pop();
    bench.grant(&moved);
    assert!(!guest.reaches(USER, 22) && guest.reaches(STRANGER, 22), "{}: moved", firewall.name);
    assert_eq!(
        guest.reaches(USER, 5901),
        firewall.open_before,
        "{}: a port that is no method any more",
        firewall.name
    );

    // Where ssh is no way to connect, its port is vcld's alone, whatever keys the user has.
    let mut desktop = access(guest, &[("alice", false)], Reach::Everybody);
    desktop.methods.remove(0);
    for _ in 0..2 {
        bench.grant(&desktop);
        assert!(guest.reaches(USER, 5901) && guest.reaches(MANAGER, 22), "{}: desktop", firewall.name);
        assert!(!guest.reaches(USER, 22) && !guest.reaches(USER6, 22), "{}: ssh is no method", firewall.name);
        desktop.methods.pop();
        bench.grant(&desktop);
        assert!(!guest.reaches(USER, 22) && guest.reaches(MANAGER, 22), "{}: no method", firewall.name);
        assert_eq!(guest.reaches(USER, 5901), firewall.open_before, "{}: no method", firewall.name);
        assert_eq!(bench.grant(&desktop), "[]", "{}", firewall.name);
        desktop.methods = vec![crate::method("vnc", 5901)];
    }

    let changed = bench.sanitize();
    assert!(changed.contains("firewall rules"), "{changed}");
    assert_eq!(guest.inside(firewall.show), before, "{}: it is what it was", firewall.name);
    assert_eq!(guest.reaches(STRANGER, 22), firewall.open_before);
    assert_eq!(others(guest), others_before);
    assert_eq!(bench.sanitize(), "[]");
}

macro_rules! firewalls {
    ($($test:ident: $n:literal)*) => {
        $(#[test]
        fn $test() {
            if around(concat!("firewalls::", stringify!($test))) {
                firewall_does_its_part(&FIREWALLS[$n]);
            }
        })*
    };
}
firewalls! {
    nftables_without_rules: 0
    nftables_whose_own_chains_drop: 1
    iptables_over_nftables: 2
    iptables_legacy: 3
    ufw: 4
    firewalld: 5
    no_firewall_at_all: 6
}
