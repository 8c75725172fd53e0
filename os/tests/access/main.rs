//! What a person is given in a Linux guest: logins from outside by a real ssh client, each firewall for real, and that nothing
//! of it stays. The guest is made of namespaces, so these tests take root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod firewalls;
mod hooks;
mod namespace;
mod remains;

use namespace::{MANAGER, Namespace, STRANGER, USER, USER6, around, until};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;
use vcl_job::{Job, MemoryJournal, Outcome};
use vcl_os::{Linux, Os};
use vcl_types::{Access, Account, ConnectMethod, Reach, ReservationId, Secret, UserData};

fn method(name: &str, port: u16) -> ConnectMethod {
    ConnectMethod { name: name.into(), port, service: None, script: None }
}

fn access(guest: &Namespace, accounts: &[(&str, bool)], from: Reach) -> Access {
    let account = |(name, sudo): &(&str, bool)| Account {
        name: name.parse().unwrap(),
        ssh_keys: vec![guest.public_key(name)],
        sudo: *sudo,
        uid: None,
    };
    Access {
        reservation: ReservationId(7),
        accounts: accounts.iter().map(account).collect(),
        methods: vec![method("ssh", 22), method("vnc", 5901)],
        from,
        keep: Vec::new(),
        facts: BTreeMap::from([("owner".to_owned(), "alice@example.org".to_owned())]),
        user_data: None,
    }
}

fn only(nets: &[&str]) -> Reach {
    Reach::Only(nets.iter().map(|net| net.parse().unwrap()).collect())
}

/// Puts a program into the guest.
fn program(guest: &Namespace, path: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(guest.path(path), text).unwrap();
    std::fs::set_permissions(guest.path(path), std::fs::Permissions::from_mode(0o755)).unwrap();
}

struct Bench {
    guest: Namespace,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        Self { guest: Namespace::boot(), runtime: tokio::runtime::Runtime::new().unwrap() }
    }
    fn try_grant(&self, access: &Access) -> Outcome<()> {
        self.grant_on(Arc::default(), access)
    }
    /// The same, going on from what an earlier life has left.
    fn grant_on(&self, journal: Arc<MemoryJournal>, access: &Access) -> Outcome<()> {
        let guest = &self.guest;
        let grant = async |mut job: Job| Linux.grant(&mut job, guest.guest(), access).await;
        self.runtime.block_on(guest.job_on(journal, grant))
    }
    fn grant(&self, access: &Access) -> String {
        assert_eq!(self.try_grant(access), Outcome::Done(()));
        self.guest.told.changed("grant access")
    }
    fn try_sanitize(&self) -> Outcome<()> {
        let guest = &self.guest;
        let sanitize = async |mut job: Job| Linux.sanitize(&mut job, guest.guest()).await;
        self.runtime.block_on(guest.job(sanitize))
    }
    fn sanitize(&self) -> String {
        assert_eq!(self.try_sanitize(), Outcome::Done(()));
        self.guest.told.changed("sanitize")
    }
    fn sessions(&self) -> Vec<String> {
        let sessions = self.runtime.block_on(Linux.sessions(self.guest.guest())).unwrap();
        let show = |s: vcl_types::Session| {
            let age = s.since.map(|since| (chrono::Utc::now() - since).num_seconds());
            assert!(age.is_none_or(|age| (-2..600).contains(&age)), "{age:?}");
            format!("{} {} {}", s.account.unwrap_or_else(|| "?".into()), s.method, s.from.unwrap())
        };
        sessions.into_iter().map(show).collect()
    }
}

/// The whole of it, on a guest whose firewall is nftables and has no rules.
#[test]
fn a_person_is_let_in_is_seen_is_told_and_is_gone() {
    if !around("a_person_is_let_in_is_seen_is_told_and_is_gone") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    let before = guest.inside("cat /etc/passwd /etc/shadow /etc/group; ls -A /home /etc/sudoers.d /etc/ssh/sshd_config.d; nft list ruleset");

    let mut wanted = access(guest, &[("alice", true), ("bob", false)], Reach::Everybody);
    wanted.user_data = Some(UserData::new(b"\x00one\xfftwo\n".to_vec()).unwrap());
    let changed = bench.grant(&wanted);
    assert!(changed.contains("2 accounts") && changed.contains("firewall rules"), "{changed}");
    assert_eq!(guest.login(USER, "alice", "id -un; sudo -n id -un").unwrap(), "alice\nroot");
    assert_eq!(guest.login(USER6, "bob", "id -un").unwrap(), "bob");
    assert!(guest.login(USER, "bob", "sudo -n true").is_err(), "bob may not do everything");
    assert!(guest.ssh(USER, "alice", "bob", &["true"]).output().unwrap().status.code() == Some(255));
    assert_eq!(std::fs::read(guest.path("/etc/vcld/user-data")).unwrap(), b"\x00one\xfftwo\n");
    assert_eq!(bench.grant(&wanted), "[]", "granting again changes nothing");
    assert_eq!(bench.sessions(), Vec::<String>::new());

    // Somebody sits at a terminal.
    let mut terminal = guest
        .ssh(USER, "alice", "alice", &["-tt", "echo here; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut screen = terminal.stdout.take().unwrap();
    let mut seen = String::new();
    let mut read_until = |word: &str, seen: &mut String| {
        let mut byte = [0];
        while !seen.contains(word) {
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{seen:?}");
            seen.push(char::from(byte[0]));
        }
    };
    read_until("here", &mut seen);
    assert_eq!(bench.sessions(), [format!("alice ssh {USER}")]);
    let notice = "10 minutes left; $(id) `id` 'quoted'\nsave your work";
    bench.runtime.block_on(Linux.tell(guest.guest(), notice)).unwrap();
    read_until("save your work\r", &mut seen);
    assert!(seen.contains("\n10 minutes left; $(id) `id` 'quoted'\r"), "{seen:?}");

    // Her address is known now, and bob is no longer one of them.
    std::fs::write(guest.path("/home/bob/file"), "x").unwrap();
    let narrow = access(guest, &[("alice", false)], only(&["10.99.0.2/32", "fd99::2/128"]));
    let changed = bench.grant(&narrow);
    assert!(changed.contains("account") && changed.contains("sudo right"), "{changed}");
    assert!(changed.contains("user data") && !guest.path("/etc/vcld/user-data").exists(), "{changed}");
    assert!(guest.login(USER, "alice", "sudo -n true").is_err());
    assert_eq!(guest.login(USER6, "alice", "cat .ssh/authorized_keys | wc -l").unwrap(), "3");
    assert!(!guest.reaches(STRANGER, 22) && guest.reaches(USER, 22) && guest.reaches(MANAGER, 22));
    assert!(!guest.path("/home/bob").exists());
    assert!(!guest.inside("cat /etc/passwd /etc/passwd- /etc/shadow- /etc/group").contains("bob"));
    assert_eq!(bench.grant(&narrow), "[]");

    // What she has put there herself stays while she may stay.
    guest.login(USER, "alice", "echo '# mine' >>.ssh/authorized_keys; echo x >/tmp/hers; mkdir -p /var/tmp/d; echo y >/var/tmp/d/e").unwrap();
    let mut other_key = narrow.clone();
    other_key.accounts[0].ssh_keys = vec![guest.public_key("bob")];
    assert!(bench.grant(&other_key).contains("set of ssh keys"));
    assert!(guest.login(USER, "alice", "true").is_err(), "her first key was taken back");
    let hers = guest.ssh(USER, "alice", "bob", &["cat .ssh/authorized_keys"]).output().unwrap();
    let hers = String::from_utf8(hers.stdout).unwrap();
    assert!(hers.contains("# mine\n") && hers.contains(&guest.public_key("bob")), "{hers}");

    // A password, once it is set.
    let with_password = |password: &str| {
        let askpass = "#!/bin/sh\nprintf '%s\\n' \"$WORD\"\n";
        std::fs::write("/mnt/askpass", askpass).unwrap();
        std::fs::set_permissions("/mnt/askpass", std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
        let output = std::process::Command::new("ssh")
            .args(["-F", "/dev/null", "-o", "ConnectTimeout=4", "-o", "StrictHostKeyChecking=no"])
            .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "PreferredAuthentications=password"])
            .args(["-o", "NumberOfPasswordPrompts=1", "-b", USER, "alice@10.99.0.11", "id -un"])
            .env("SSH_ASKPASS", "/mnt/askpass")
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("WORD", password)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        output.status.success()
    };
    assert!(!with_password("correct horse"));
    let set = |password: &str| {
        let password = Secret::new(password.to_owned());
        bench.runtime.block_on(Linux.password(guest.guest(), &"alice".parse().unwrap(), &password))
    };
    set("correct horse").unwrap();
    assert!(with_password("correct horse") && !with_password("wrong horse"));
    set("'; touch /tmp/x; '$(id)").unwrap();
    assert!(with_password("'; touch /tmp/x; '$(id)") && !guest.path("/tmp/x").exists());
    assert!(set("two\nlines").is_err());
    let nobody = bench.runtime.block_on(Linux.password(
        guest.guest(),
        &"cloudsdk".parse().unwrap(),
        &Secret::new("x".into()),
    ));
    assert!(nobody.unwrap_err().to_string().contains("no account of a reservation"));

    let changed = bench.sanitize();
    assert!(
        changed.contains("account") && changed.contains("home") && changed.contains("firewall"),
        "{changed}"
    );
    until("her terminal is closed", || terminal.try_wait().unwrap().is_some());
    assert!(guest.login(USER, "alice", "true").is_err());
    assert!(guest.reaches(STRANGER, 22), "what was open before is open again");
    let after = guest.inside("cat /etc/passwd /etc/shadow /etc/group; ls -A /home /etc/sudoers.d /etc/ssh/sshd_config.d; nft list ruleset");
    assert_eq!(after, before);
    assert!(!guest.inside("cat /etc/shadow- /etc/passwd- /etc/gshadow- 2>/dev/null; true").contains("alice"));
    for gone in ["/home/alice", "/var/lib/vcld/access", "/tmp/hers", "/var/tmp/d", "/etc/vcld/user-data"] {
        assert!(!guest.path(gone).exists(), "{gone}");
    }
    assert_eq!(guest.inside("ps -eo user= | grep -c alice || true").trim(), "0");
    assert_eq!(bench.sanitize(), "[]", "sanitizing again finds nothing");
}

/// An image of a machine that was lent has nobody's account in it for longer than its first load takes.
#[test]
fn a_load_begins_with_nobody_let_in() {
    if !around("a_load_begins_with_nobody_let_in") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    bench.grant(&access(guest, &[("alice", true)], Reach::Everybody));
    assert_eq!(guest.login(USER, "alice", "id -un").unwrap(), "alice");
    let load = async |mut job: Job| Linux.post_load(&mut job, guest.guest()).await;
    assert!(matches!(bench.runtime.block_on(guest.job(load)), Outcome::Done(_)));
    assert!(guest.login(USER, "alice", "true").is_err());
    assert!(!guest.path("/home/alice").exists() && !guest.path("/var/lib/vcld/access").exists());
    assert_eq!(guest.inside("nft list ruleset"), "");
    assert_eq!(bench.sanitize(), "[]");

    // Who it is, is told and not shown: what is secret comes as a digest.
    guest.inside(
        "mkdir -p /var/lib/systemd && echo seed >/var/lib/systemd/random-seed; mkdir -p /etc/netplan
        printf 'a: 52:54:00:AA:bb:01\n# b: 52:54:00:00:00:02\n' >/etc/netplan/x.yaml",
    );
    let identity = bench.runtime.block_on(Linux.identity(guest.guest())).unwrap();
    assert_eq!(identity.of("hostname"), ["gis-01"]);
    assert_eq!(identity.of("mac-in-file"), ["52:54:00:aa:bb:01"]);
    let key = guest.public_key("host");
    assert_eq!(identity.of("ssh-host-key"), [key.rsplit_once(' ').unwrap().0]);
    assert_eq!(identity.of("random-seed")[0].len(), 64);
    assert_eq!(identity.of("machine-id").len(), 1);
    assert_eq!(identity.shared(&vcl_types::Identity::default()), []);
    let items: Vec<String> = identity.shared(&identity.clone()).into_iter().map(|s| s.item).collect();
    assert!(
        items.contains(&"random-seed".to_owned()) && items.contains(&"machine-id".to_owned()),
        "{items:?}"
    );
}
