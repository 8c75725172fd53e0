//! What must not go with a reservation, and what must: files of another machine's, homes that were there before, what its user
//! built; and a grant that was cut off anywhere is made whole by the next.
//!
//! The file server is bindfs: the kernel here has no NFS, and a file system of the type `fuse` is taken for another machine's
//! as one of the type `nfs` is.

use crate::namespace::{Namespace, USER, around};
use crate::{Bench, access, program};
use vcl_job::Outcome;
use vcl_os::{Linux, Os as _};
use vcl_types::Reach;

/// Has a directory of the guest come from a file server. Answers where the server has it.
fn server(guest: &Namespace, at: &str) -> String {
    let place = format!("/opt/server{at}");
    guest.inside(&format!("mkdir -p {place} {at} && chmod 1777 {place} && bindfs -o nonempty {place} {at}"));
    assert!(guest.inside("cat /proc/mounts").contains(&format!(" {at} fuse ")), "{at} is a server's");
    place
}

#[test]
fn what_she_built_and_what_a_file_server_has_is_there_afterwards() {
    if !around("remains::what_she_built_and_what_a_file_server_has_is_there_afterwards") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    let places = ["/srv", "/var/tmp", "/var/mail"].map(|at| server(guest, at));
    bench.grant(&access(guest, &[("alice", true)], Reach::Everybody));
    guest.inside("mkdir -p /opt/tool && echo built >/opt/tool/file && chown -R alice /opt/tool");
    for place in &places {
        guest.inside(&format!("echo precious >{place}/alice && chown alice {place}/alice"));
    }
    guest.login(USER, "alice", "echo x >/tmp/hers; echo x >/dev/shm/hers").unwrap();
    bench.sanitize();
    assert_eq!(guest.inside("cat /opt/tool/file"), "built\n");
    for place in &places {
        assert_eq!(guest.inside(&format!("cat {place}/alice")), "precious\n", "{place}");
    }
    for gone in ["/tmp/hers", "/dev/shm/hers", "/home/alice"] {
        assert!(!guest.path(gone).exists(), "{gone}");
    }
}

#[test]
fn a_home_that_is_not_ours_stays_without_our_keys() {
    if !around("remains::a_home_that_is_not_ours_stays_without_our_keys") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    // It was there before anybody came.
    guest.inside(
        "mkdir -p /home/alice/.ssh && echo '# mine' >/home/alice/.ssh/authorized_keys && chown -R 4242 /home/alice",
    );
    let mut wanted = access(guest, &[("alice", false)], Reach::Everybody);
    wanted.accounts[0].uid = Some(4242);
    bench.grant(&wanted);
    assert_eq!(guest.login(USER, "alice", "id -u; echo work >thesis").unwrap(), "4242");
    // Whoever goes first goes the same way as whoever goes last.
    let nobody = access(guest, &[("bob", false)], Reach::Everybody);
    for leave in [true, false] {
        if leave {
            bench.grant(&nobody);
        } else {
            bench.grant(&wanted);
            bench.sanitize();
        }
        assert_eq!(guest.inside("cat /home/alice/.ssh/authorized_keys"), "# mine\n");
        assert_eq!(guest.inside("cat /home/alice/thesis; grep -c alice /etc/passwd || true"), "work\n0\n");
    }

    // All homes are a file server's.
    let place = server(guest, "/home");
    bench.grant(&nobody);
    guest.login(USER, "bob", "echo work >thesis").unwrap();
    bench.sanitize();
    assert_eq!(
        guest.inside(&format!("cat {place}/bob/thesis; cat {place}/bob/.ssh/authorized_keys")),
        "work\n"
    );
    assert!(!guest.inside("cat /etc/passwd").contains("bob"));
    guest.inside("umount /home");

    // An account of a directory: what it has elsewhere than in places for everybody is its own.
    guest.inside(
        "sed -i 's/^passwd:.*/passwd: files extrausers/' /etc/nsswitch.conf && mkdir -p /var/lib/extrausers
        echo dora:x:5000:100::/home/dora:/bin/sh >/var/lib/extrausers/passwd
        rm -rf /home/dora && id dora",
    );
    let directory = access(guest, &[("alice", false)], Reach::Everybody);
    let mut directory = vcl_types::Access { accounts: directory.accounts, ..nobody.clone() };
    directory.accounts[0].name = "dora".parse().unwrap();
    bench.grant(&directory);
    guest.inside(
        "for d in /home/dora /var/spool/dora; do mkdir $d; echo work >$d/file; chown -R dora $d; done
        echo x >/tmp/hers; chown dora /tmp/hers",
    );
    bench.sanitize();
    assert_eq!(guest.inside("cat /home/dora/file /var/spool/dora/file"), "work\nwork\n");
    assert!(!guest.path("/tmp/hers").exists());
}

/// Anybody may name a program as he likes, and the kernel shows the name as it is.
#[test]
fn a_name_with_a_line_end_in_it_stops_nobody() {
    if !around("remains::a_name_with_a_line_end_in_it_stops_nobody") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    bench.grant(&access(guest, &[("alice", false)], Reach::Everybody));
    let begun = guest.inside(
        "f=\"/run/a\nb\"; cp /bin/sleep \"$f\"; \"$f\" 1000 >/dev/null 2>&1 & echo $!
        f=\"/run/a\nb\"; setpriv --reuid 4711 --clear-groups \"$f\" 1000 >/dev/null 2>&1 & echo $!",
    );
    let of: Vec<&str> = begun.lines().collect();
    let runs = |pid: &str| guest.try_inside(&format!("kill -0 {pid}")).status.success();
    let named = || guest.inside(&format!("head -n 1 /proc/{}/stat", of[1])).trim().ends_with("(a");
    crate::namespace::until("they have their names", named);
    bench.runtime.block_on(Linux.tell(guest.guest(), "ten minutes left")).unwrap();
    let changed = bench.sanitize();
    assert!(changed.contains("process"), "{changed}");
    assert!(runs(of[0]), "root's are the system's");
    crate::namespace::until("a user's is ended", || !runs(of[1]));
    assert_eq!(bench.sanitize(), "[]");
}

/// Each tool that a grant uses, cut off after each of its uses.
#[test]
fn a_grant_that_was_cut_off_anywhere_is_made_whole_by_the_next() {
    if !around("remains::a_grant_that_was_cut_off_anywhere_is_made_whole_by_the_next") {
        return;
    }
    let bench = Bench::new();
    let guest = &bench.guest;
    let wanted = access(guest, &[("alice", true)], Reach::Everybody);
    let mut cuts = 0;
    for tool in ["useradd", "id", "chmod", "chown", "mkdir", "mv", "su", "nft"] {
        for n in 1.. {
            assert!(n < 40, "{tool} is used without end");
            let wrapper = format!(
                "#!/bin/sh\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n{tool} \"$@\"; s=$?\necho x >>/tmp/uses\n\
                 [ $(wc -l </tmp/uses) -ne {n} ] || kill -9 $PPID\nexit $s\n"
            );
            guest.inside("rm -f /tmp/uses && : >/tmp/uses && chmod 666 /tmp/uses");
            program(guest, &format!("/usr/local/sbin/{tool}"), &wrapper);
            let outcome = bench.try_grant(&wanted);
            guest.inside(&format!("rm /usr/local/sbin/{tool}"));
            let uses: usize = guest.inside("wc -l </tmp/uses").trim().parse().unwrap();
            if uses >= n {
                cuts += 1;
                assert_eq!(bench.try_grant(&wanted), Outcome::Done(()), "{tool} {n}, after {outcome:?}");
            } else {
                assert_eq!(outcome, Outcome::Done(()), "{tool} was used {uses} times");
            }
            assert_eq!(guest.login(USER, "alice", "sudo -n id -un").unwrap(), "root", "{tool} {n}");
            let home =
                guest.inside("stat -c '%U %a' /home/alice /home/alice/.ssh /home/alice/.ssh/authorized_keys");
            assert_eq!(home, "alice 700\nalice 700\nalice 600\n", "{tool} {n}");
            bench.sanitize();
            assert!(!guest.path("/home/alice").exists() && !guest.path("/var/lib/vcld/access").exists());
            if uses < n {
                break;
            }
        }
    }
    assert!(cuts >= 12, "it was cut off {cuts} times only");
}
