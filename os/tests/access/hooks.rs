//! The site's hooks of a reservation, those that are shipped included: what they are told, and that what they did is undone.

use crate::namespace::{MANAGER, Namespace, STRANGER, USER, around, until};
use crate::{Bench, access, only, program};
use camino::Utf8PathBuf;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use vcl_job::{Journal as _, MemoryJournal, Outcome, Record};
use vcl_types::Reach;

/// A directory of hooks, each a path below it with its text.
fn site(guest: &mut Namespace, hooks: &[(&str, &str)]) -> Utf8PathBuf {
    let directory = Utf8PathBuf::from("/mnt/hooks");
    for (path, text) in hooks {
        let file = directory.join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    guest.hooks = Some(directory.clone());
    directory
}

fn shipped(name: &str) -> String {
    let path = Utf8PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../hooks").join(name);
    std::fs::read_to_string(path).unwrap()
}

const TELLS: &str = "#!/bin/sh\n{ echo \"$0 $* stage=$VCLD_STAGE computer=$VCLD_COMPUTER reservation=$VCLD_RESERVATION\"
echo \"account=$VCLD_ACCOUNT accounts=$VCLD_ACCOUNTS sudo=$VCLD_SUDO_ACCOUNTS methods=$VCLD_METHODS from=$VCLD_FROM\"
echo \"method=$VCLD_METHOD:$VCLD_PORT data=$VCLD_USER_DATA owner=$VCLD_OWNER\"; echo \"stdin=$(cat)\"; } >>/home/ran\n";

#[test]
fn hooks_are_told_all_that_is_documented_and_are_undone_the_last_first() {
    if !around("hooks::hooks_are_told_all_that_is_documented_and_are_undone_the_last_first") {
        return;
    }
    let mut bench = Bench::new();
    let failing = "#!/bin/sh\n[ \"$1\" != undo ] || { echo cannot undo; exit 3; }\n";
    let directory = site(
        &mut bench.guest,
        &[
            ("reserve.d/10-first", TELLS),
            ("reserve.d/20-second", TELLS),
            ("reserve.d/20-second.secret", "pass\nword$(id)"),
            ("method.d/desktop", TELLS),
        ],
    );
    let guest = &bench.guest;
    let mut wanted = access(guest, &[("alice", true), ("bob", false)], Reach::Everybody);
    wanted.facts.insert("owner".into(), "O'Neil; $(touch /home/injected)\n`x`".into());
    wanted.methods[1].script = Some("desktop".into());
    wanted.user_data = Some(vcl_types::UserData::new(b"x".to_vec()).unwrap());
    bench.grant(&wanted);
    let ran = guest.inside("cat /home/ran; rm /home/ran");
    let lines: Vec<&str> = ran.lines().collect();
    assert_eq!(
        lines[0],
        "/var/lib/vcld/access/hooks/1.10-first  stage=reserve computer=gis-01 reservation=7"
    );
    assert_eq!(
        lines[1],
        "account=alice accounts=alice bob sudo=alice methods=ssh:22 vnc:5901 from=everybody"
    );
    assert_eq!(lines[2], "method=: data=/etc/vcld/user-data owner=O'Neil; $(touch /home/injected)");
    assert_eq!((lines[3], lines[4]), ("`x`", "stdin="));
    assert_eq!((lines[9], lines[10]), ("stdin=pass", "word$(id)"), "{ran}");
    assert!(
        lines[11].contains("2.vnc.desktop  stage=method") && lines[13].starts_with("method=vnc:5901 "),
        "{ran}"
    );
    assert!(!guest.path("/home/injected").exists());
    let kept = guest.inside("cat /var/lib/vcld/access/hooks/* /var/lib/vcld/access/environment");
    assert!(!kept.contains("pass") && !kept.contains("cGFzc"), "a secret is kept nowhere in the guest");

    // They are on the management node no more, and are undone all the same.
    std::fs::remove_dir_all(&directory).unwrap();
    let changed = bench.sanitize();
    assert!(changed.contains("3 hooks"), "{changed}");
    let ran = guest.inside("cat /home/ran; rm /home/ran");
    let undone: Vec<&str> = ran.lines().filter(|l| l.contains(" undo ")).collect();
    assert_eq!(undone.len(), 3, "{ran}");
    assert!(undone[0].contains("2.vnc.desktop undo stage=sanitize computer=gis-01 reservation=7"), "{ran}");
    assert!(undone[1].contains("1.20-second undo") && undone[2].contains("1.10-first undo"), "{ran}");
    assert_eq!(bench.sanitize(), "[]");

    // One that cannot be undone keeps the machine from going on to anybody.
    site(&mut bench.guest, &[("reserve.d/10-first", failing)]);
    bench.grant(&access(&bench.guest, &[("alice", false)], Reach::Everybody));
    let failure = bench.try_sanitize();
    let Outcome::RolledBack(failure) = failure else { panic!("{failure:?}") };
    assert!(
        failure.message.contains("hook 1.10-first undo failed with status 3: cannot undo"),
        "{}",
        failure.message
    );
    bench.guest.inside("sed -i s/exit.3/exit\\ 0/ /var/lib/vcld/access/hooks/1.10-first");
    assert!(bench.sanitize().contains("account"));
    assert!(bench.guest.login(USER, "alice", "true").is_err());
}

#[test]
fn nobody_is_let_in_by_a_reservation_whose_hook_fails() {
    if !around("hooks::nobody_is_let_in_by_a_reservation_whose_hook_fails") {
        return;
    }
    let mut bench = Bench::new();
    site(
        &mut bench.guest,
        &[("reserve.d/10-no", "#!/bin/sh\n[ \"$1\" = undo ] || { echo no licence; exit 5; }\n")],
    );
    let failure = bench.try_grant(&access(&bench.guest, &[("alice", true)], Reach::Everybody));
    let Outcome::RolledBack(failure) = failure else { panic!("{failure:?}") };
    assert!(failure.message.contains("10-no failed with status 5") && failure.message.contains("no licence"));
    assert!(bench.guest.path("/home/alice").exists() && !bench.guest.reaches(USER, 22));
    // What was begun is undone by whoever gives up.
    assert!(bench.sanitize().contains("account"));
    let mut wanted = access(&bench.guest, &[("alice", true)], Reach::Everybody);
    wanted.methods[0].script = Some("nowhere".into());
    let Outcome::RolledBack(failure) = bench.try_grant(&wanted) else { panic!() };
    assert!(failure.message.contains("method.d/nowhere, which is not in /mnt/hooks"), "{}", failure.message);
    // An account of the image's own is left alone.
    bench.guest.inside("useradd -m bob && echo mine >/home/bob/file");
    let Outcome::RolledBack(failure) =
        bench.try_grant(&access(&bench.guest, &[("bob", true)], Reach::Nobody))
    else {
        panic!()
    };
    assert!(failure.message.contains("an account bob of its own"), "{}", failure.message);
    bench.sanitize();
    assert_eq!(bench.guest.inside("cat /home/bob/file"), "mine\n");
}

/// The account is there, with its keys, while they run: what keeps her out is the firewall.
#[test]
fn nobody_is_let_in_while_hooks_run_and_whoever_is_in_is_not_cut_off() {
    if !around("hooks::nobody_is_let_in_while_hooks_run_and_whoever_is_in_is_not_cut_off") {
        return;
    }
    let mut bench = Bench::new();
    let waits = "#!/bin/sh\n[ \"$1\" != undo ] || exit 0\n: >/run/begun\nuntil [ -e /run/go-on ]; do sleep 0.05; done\n\
                 rm /run/begun /run/go-on\n";
    site(&mut bench.guest, &[("reserve.d/10-waits", waits)]);
    let guest = &bench.guest;
    let wanted = access(guest, &[("alice", true)], only(&["10.99.0.2/32"]));
    assert!(guest.reaches(USER, 22), "nothing is shut before");
    for first in [true, false] {
        let (outcome, there) = std::thread::scope(|scope| {
            let grant = scope.spawn(|| bench.try_grant(&wanted));
            until("its hook runs", || guest.path("/run/begun").exists());
            let there = (
                guest.path("/home/alice/.ssh/authorized_keys").exists(),
                guest.login(USER, "alice", "true").is_ok(),
                guest.reaches(STRANGER, 22),
                guest.reaches(MANAGER, 22),
            );
            std::fs::write(guest.path("/run/go-on"), "").unwrap();
            (grant.join().unwrap(), there)
        });
        assert_eq!(outcome, Outcome::Done(()));
        assert_eq!(there, (true, !first, false, true), "first: {first}");
        assert_eq!(guest.login(USER, "alice", "id -un").unwrap(), "alice");
        assert!(!guest.reaches(STRANGER, 22));
    }
    bench.sanitize();
    assert!(guest.reaches(STRANGER, 22), "what was open before is open again");
}

/// Whatever becomes of the directory while the daemon is away.
#[test]
fn the_hooks_that_a_grant_has_found_are_those_that_it_goes_on_with() {
    if !around("hooks::the_hooks_that_a_grant_has_found_are_those_that_it_goes_on_with") {
        return;
    }
    let mut bench = Bench::new();
    let hook = "#!/bin/sh\necho $1 >>/home/ran\n";
    let directory = site(&mut bench.guest, &[("method.d/none", hook)]);
    std::fs::create_dir_all(directory.join("reserve.d")).unwrap();
    let wanted = access(&bench.guest, &[("alice", false)], Reach::Everybody);
    for with in [false, true] {
        let file = directory.join("reserve.d/10-hook");
        let put = |there: bool, bench: &mut Bench| match there {
            true => drop(site(&mut bench.guest, &[("reserve.d/10-hook", hook)])),
            false => drop(std::fs::remove_file(&file)),
        };
        put(with, &mut bench);
        let journal = Arc::new(MemoryJournal::default());
        assert_eq!(bench.grant_on(journal.clone(), &wanted), Outcome::Done(()));
        let records = bench.runtime.block_on(journal.read()).unwrap();
        let done = |step: &str| {
            let is = |r: &Record| matches!(r, Record::Done { key, .. } if key.ends_with(step));
            records.iter().position(is).map(|n| n + 1)
        };
        let (found, ran) = (done("find hooks").unwrap(), done("run reserve hooks"));
        assert_eq!(ran.is_some(), with);
        put(!with, &mut bench);
        for cut in found..records.len() {
            bench.sanitize();
            bench.guest.inside("rm -f /home/ran");
            let life = Arc::new(MemoryJournal::of(records[..cut].to_vec()));
            let outcome = bench.grant_on(life.clone(), &wanted);
            if with && cut < ran.unwrap() {
                let Outcome::RolledBack(failure) = outcome else { panic!("{cut}: {outcome:?}") };
                assert!(failure.message.contains("reading hook"), "{cut}: {}", failure.message);
                continue;
            }
            assert_eq!(outcome, Outcome::Done(()), "{with} {cut}");
            assert!(!bench.guest.path("/home/ran").exists(), "{with} {cut}: no hook that it did not find");
            let again = bench.runtime.block_on(life.read()).unwrap();
            assert_eq!(again.len(), records.len(), "{with} {cut}: the same steps");
        }
    }
}

/// The kernel here has no NFS, so `mount.nfs` is one that mounts an overlay of that name: all the rest is real.
#[test]
fn homes_of_a_file_server_come_and_go_and_keep_what_is_in_them() {
    if !around("hooks::homes_of_a_file_server_come_and_go_and_keep_what_is_in_them") {
        return;
    }
    let mut bench = Bench::new();
    program(
        &bench.guest,
        "/sbin/mount.nfs",
        "#!/bin/sh\necho \"$@\" >>/run/nfs.log\na=${1##*/}; d=/home/export/$a; mkdir -p $d/lower $d/upper $d/work; chown $a $d/upper\n\
         exec mount -i -t overlay -o lowerdir=$d/lower,upperdir=$d/upper,workdir=$d/work \"$1\" \"$2\"\n",
    );
    site(&mut bench.guest, &[("reserve.d/50-nfs-homes", &shipped("nfs-homes"))]);
    let guest = &bench.guest;
    let (fstab, sshd) = (guest.inside("cat /etc/fstab || true"), guest.inside("ls /etc/ssh/sshd_config.d"));
    let wanted = access(guest, &[("alice", false)], Reach::Everybody);
    bench.grant(&wanted);
    assert_eq!(guest.login(USER, "alice", "echo work >thesis; pwd; ls -A").unwrap(), "/home/alice\nthesis");
    assert!(guest.inside("cat /run/nfs.log").contains("nfs.example.org:/export/homes/alice /home/alice"));
    // Again, with another key: nothing is mounted twice, and no key is written to the server.
    let mut other = wanted.clone();
    other.accounts[0].ssh_keys = vec![guest.public_key("bob")];
    bench.grant(&other);
    assert!(guest.login(USER, "alice", "true").is_err());
    assert!(guest.ssh(USER, "alice", "bob", &["true"]).output().unwrap().status.success());
    assert_eq!(guest.inside("wc -l </run/nfs.log").trim(), "1");
    assert_eq!(guest.inside("ls -A /home/export/alice/upper"), "thesis\n");

    // Somebody stands in it to the last.
    let mut stays = guest.ssh(USER, "alice", "bob", &["sleep 1000"]).spawn().unwrap();
    until("she stands there", || guest.inside("ps -eo args").contains("sleep 1000"));
    bench.sanitize();
    stays.wait().unwrap();
    assert_eq!(
        guest.inside("cat /home/export/alice/upper/thesis"),
        "work\n",
        "the server's files are the server's"
    );
    assert!(!guest.path("/home/alice").exists() && !guest.path("/etc/vcld/keys").exists());
    assert_eq!(guest.inside("grep -c nfs.example /proc/mounts || true").trim(), "0");
    assert_eq!(guest.inside("ls /etc/ssh/sshd_config.d"), sshd);
    assert_eq!(guest.inside("cat /etc/fstab || true"), fstab);

    // Whatever a hook forgets, what is mounted is never deleted with a home.
    std::fs::remove_file("/mnt/hooks/reserve.d/50-nfs-homes").unwrap();
    let forgets = "#!/bin/sh\n[ \"$1\" = undo ] || mount -i -t tmpfs other /home/alice/\n";
    site(&mut bench.guest, &[("reserve.d/50-forgets", forgets)]);
    let guest = &bench.guest;
    guest.inside("mkdir -p /run/keep && echo precious >/run/keep/file");
    bench.grant(&wanted);
    guest.inside("mkdir -p /home/alice/deep && mount --bind /run/keep /home/alice/deep");
    bench.sanitize();
    assert_eq!(guest.inside("cat /run/keep/file"), "precious\n");
    assert!(!guest.path("/home/alice").exists());
}

/// Against stand-ins of `realm` and `adcli`: what they are asked, how they get the password, and that a guest leaves.
#[test]
fn a_guest_joins_a_domain_once_and_leaves_it() {
    if !around("hooks::a_guest_joins_a_domain_once_and_leaves_it") {
        return;
    }
    let mut bench = Bench::new();
    program(
        &bench.guest,
        "/usr/bin/realm",
        "#!/bin/sh\necho \"$@\" >>/run/realm.log\ncase $1 in list) cat /run/joined 2>/dev/null ;;\n\
         join) read -r word; [ \"$word\" = 'join me!' ] && echo example.org >/run/joined ;;\nleave) rm /run/joined ;; esac\n",
    );
    site(
        &mut bench.guest,
        &[
            ("reserve.d/30-domain-join", &shipped("domain-join")),
            ("reserve.d/30-domain-join.secret", "join me!\n"),
        ],
    );
    let guest = &bench.guest;
    let wanted = access(guest, &[("alice", false)], Reach::Everybody);
    bench.grant(&wanted);
    bench.grant(&wanted);
    let asked = guest.inside("cat /run/realm.log; rm /run/realm.log");
    let expected = "list --name-only\njoin --unattended --user=vcl-join example.org\nlist --name-only\n";
    assert_eq!(asked, expected);
    assert!(!guest.inside("cat /var/lib/vcld/access/hooks/*").contains("join me"));
    bench.sanitize();
    assert_eq!(guest.inside("cat /run/realm.log"), "list --name-only\nleave example.org\n");
    assert!(!guest.path("/run/joined").exists());
}
