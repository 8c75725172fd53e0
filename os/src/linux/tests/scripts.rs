//! The scripts against a file system that has every item in it.

use super::tree::After::{Empty, Gone, Is, Same};
use super::tree::{ITEMS, OLD_ID, Root};
use crate::linux::script::{self, GENERALISE, IDENTITY, SANITIZE, SETUP};
use camino::Utf8Path;
use std::process::Command;

#[rstest::rstest]
fn every_item_is_changed_once(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::full(shell);
    // As a running system has them.
    root.write("proc/mounts", "/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\n");
    let said = root.generalise();
    for (path, before, what, after) in ITEMS {
        let told = said.iter().any(|line| {
            line.strip_prefix(&format!("changed\t{what}\t/")).is_some_and(|p| path.starts_with(p))
        });
        assert!(told || what.is_empty(), "{path} was not told as `{what}`: {said:#?}");
        let now = root.read(path);
        match after {
            Gone => assert_eq!(now, None, "{path}"),
            Empty => assert_eq!(now.as_deref(), Some(""), "{path}"),
            Is(text) => assert_eq!(now.as_deref(), Some(*text), "{path}"),
            Same if what.is_empty() => {
                assert_eq!(now.as_deref(), Some(*before), "{path}");
                assert!(!said.iter().any(|line| line.contains(path)), "{path} was told");
            }
            Same => {}
        }
    }
    assert_eq!(
        root.path.join("var/lib/dbus/machine-id").read_link().unwrap().to_str(),
        Some("/etc/machine-id")
    );
    assert!(said.contains(&"keep\tuser alice".to_owned()), "{said:#?}");
    assert!(said.iter().any(|l| l.starts_with("note\t5 interfaces")), "{said:#?}");
    // What it needs to be talked to is taken last, by another script.
    assert_eq!(root.read("etc/machine-id").unwrap(), format!("{OLD_ID}\n"));
    assert!(root.has("etc/ssh/ssh_host_ed25519_key"));
    assert!(root.has("etc/systemd/system/sysinit.target.wants/vcld-first-boot.service"));

    let before = root.all();
    let changed: Vec<_> = root.generalise().into_iter().filter(|l| l.starts_with("changed")).collect();
    assert_eq!(changed, Vec::<String>::new(), "a second run finds nothing to do");
    assert_eq!(root.all(), before);
}

#[rstest::rstest]
fn a_look_changes_nothing_and_tells_all(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::full(shell);
    root.write("proc/mounts", "/dev/vda1 / ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n");
    root.write("etc/shadow", "root:$6$x:1:\nalice::1:\n");
    root.write("home/alice/.ssh/id_ed25519", "x");
    root.write("var/lib/tailscale/tailscaled.state", "x");
    let before = root.all();
    let said = root.run(&GENERALISE, &script::generalise(true));
    assert_eq!(root.all(), before);
    let kept: Vec<_> = said.iter().filter_map(|l| l.strip_prefix("keep\t")).collect();
    let expected = [
        "ssh key that may log in as root: vcld",
        "password of root",
        "user alice",
        "ssh key that may log in as alice: alice@home",
        "private ssh key of alice: id_ed25519",
        "alice needs no password",
        "registration with Tailscale: /var/lib/tailscale/tailscaled.state",
    ];
    assert_eq!(kept, expected);
    // The flag is not told: nobody misses it, and it goes again.
    let flag = |l: &String| l.starts_with("changed\tfirst-boot flag");
    let real: Vec<_> =
        root.generalise().into_iter().filter(|l| l.starts_with("changed") && !flag(l)).collect();
    let identity = |l: &&String| l.contains("\tmachine-id\t") || l.contains("\tssh host key\t");
    let looked: Vec<_> = said.iter().filter(|l| l.starts_with("changed") && !identity(l)).cloned().collect();
    assert_eq!(looked, real);
    assert_eq!(said.iter().filter(identity).count(), 3);
}

#[test]
fn what_the_guest_says_is_to_be_kept_is_kept() {
    let root = Root::full("sh");
    let keep =
        "# a comment\n/var/log/app\n/home/*/.viminfo\n/etc/ssh/ssh_host_ecdsa_key\n/tmp/\n/etc/hostname\n";
    root.write("etc/vcld/keep", keep);
    root.generalise();
    root.take();
    for (path, expected) in [
        ("var/log/app/deep/own.log", true),
        ("home/alice/.viminfo", true),
        ("tmp/x", true),
        ("etc/ssh/ssh_host_ecdsa_key", true),
        ("etc/ssh/ssh_host_ed25519_key", false),
        ("root/.bash_history", false),
        ("var/tmp/y", false),
    ] {
        assert_eq!(root.read(path).is_some_and(|c| !c.is_empty()), expected, "{path}");
    }
    assert_eq!(root.read("etc/hostname").unwrap(), "gis-01\n");
    let before = root.key("ecdsa");
    root.boot();
    assert_eq!(root.key("ecdsa"), before, "a key that is kept is not replaced by a copy either");
}

#[test]
fn what_lies_on_another_machine_or_is_mounted_is_left_alone() {
    let root = Root::full("sh");
    let mounts = "/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\ntmpfs /run tmpfs rw 0 0\nnas:/h /home nfs4 rw 0 0\n\
        nas:/x /var/tmp/y fuse.sshfs rw 0 0\ntmpfs /tmp tmpfs rw 0 0\ntmpfs /run/user/0 tmpfs rw 0 0\n";
    root.write("proc/mounts", mounts);
    root.generalise();
    for (path, left) in [
        ("home/alice/.zsh_history", true),
        ("home/alice/.viminfo", true),
        ("var/tmp/y", true),
        ("tmp/x", true),
        ("root/.bash_history", false),
        ("root/.ssh/known_hosts", false),
        ("var/crash/core", false),
    ] {
        assert_eq!(root.has(path), left, "{path}");
    }
    // The same look with and without mounts finds the same in what is here.
    assert_eq!(root.read("etc/hostname").as_deref(), Some("localhost\n"));
}

#[test]
fn links_are_removed_and_never_followed() {
    let root = Root::bare("sh");
    root.write("etc/precious", "keep me");
    root.link("root/.bash_history", "../etc/precious");
    root.link("var/log/evil.log", "../../etc/precious");
    root.link("var/log/evil.1", "../../etc/precious");
    root.write("var/log/two\nlines", "x");
    root.link("tmp/evil", "../etc");
    root.write("var/mail/x", "");
    root.link("var/spool/mail", "../../etc");
    root.generalise();
    assert_eq!(root.read("etc/precious").as_deref(), Some("keep me"));
    assert!(!root.has("root/.bash_history") && !root.has("tmp/evil"));
}

#[rstest::rstest]
#[case("systemd")]
#[case("openrc")]
#[case("sysv")]
fn each_init_system_makes_an_identity_at_boot(#[case] init: &str) {
    let root = Root::bare("sh");
    if init != "systemd" {
        std::fs::remove_file(root.path.join("sbin/init")).unwrap();
        root.write("etc/init.d/ssh", "");
    }
    if init == "openrc" {
        root.write("sbin/openrc-run", "");
    }
    root.generalise();
    let started = match init {
        "systemd" => "etc/systemd/system/sysinit.target.wants/vcld-first-boot.service",
        "openrc" => "etc/runlevels/default/vcld-first-boot",
        _ => "etc/rcS.d/S99vcld-first-boot",
    };
    assert!(root.has(started), "{started}");
}

#[test]
fn a_guest_that_could_not_make_itself_an_identity_is_refused() {
    let root = Root::bare("sh");
    std::fs::remove_file(root.path.join("sbin/init")).unwrap();
    let before = root.all();
    let (status, _, said) = root.shell(&GENERALISE.input(root.path.as_str(), &script::generalise(false)));
    assert_eq!(status, Some(1));
    assert!(said.contains("init system"), "{said}");
    assert_eq!(root.all(), before);
}

/// The whole life: captured, copied twice, booted.
#[rstest::rstest]
fn two_copies_share_no_identity(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::full(shell);
    let old = root.key("ed25519");
    root.generalise();
    let taken = root.take();
    assert_eq!(taken.len(), 3, "{taken:#?}");
    assert_eq!(root.take(), Vec::<String>::new(), "it may run again");
    assert_eq!(root.read("etc/machine-id").as_deref(), Some(""));
    assert!(!root.has("etc/ssh/ssh_host_ed25519_key") && !root.has("etc/ssh/ssh_host_ecdsa_key.pub"));

    let (a, b) = (root.copy(), root.copy());
    let mut seen = vec![old.clone()];
    for copy in [&a, &b] {
        let console = copy.boot();
        for kind in ["ed25519", "ecdsa"] {
            let key = copy.key(kind);
            assert!(console.contains(&format!("\nvcld-host-key: {}\n", key.trim())), "{console}");
            assert!(!seen.contains(&key));
            seen.push(key);
        }
        assert!(!copy.has("etc/ssh/ssh_host_rsa_key"), "only the kinds that there were");
        let id = copy.read("etc/machine-id").unwrap();
        assert!(id.len() == 33 && id.trim().bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
        assert!(!seen.contains(&id) && id.trim() != OLD_ID);
        seen.push(id);
        assert!(!copy.has("var/lib/vcld/first-boot"));
        assert_eq!(copy.read("var/lib/systemd/random-seed").map(|s| s.is_empty()), Some(false));
        // The next boot tells the same keys and changes nothing.
        let before = copy.all();
        assert_eq!(copy.boot(), console);
        assert_eq!(copy.all(), before);
    }
}

/// The power was cut before `finish`, or the machine stays on: the image still holds the old identity.
#[test]
fn a_copy_replaces_an_identity_that_was_not_taken() {
    let root = Root::full("sh");
    let old = (root.key("ed25519"), root.key("ecdsa"));
    root.generalise();
    let copy = root.copy();
    copy.boot();
    assert_ne!(copy.key("ed25519"), old.0);
    assert_ne!(copy.key("ecdsa"), old.1);
    assert_ne!(copy.read("etc/machine-id").unwrap().trim(), OLD_ID);
    // The machine itself goes on as who it is.
    root.run(&SETUP, &[("NAME", "gis-01".into())]);
    let before = root.all();
    root.boot();
    assert_eq!(root.all(), before);
    assert_eq!((root.key("ed25519"), root.key("ecdsa")), old);
}

#[rstest::rstest]
fn a_loaded_guest_gets_its_name_and_tells_its_keys(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::bare(shell);
    root.write("etc/hostname", "localhost\n");
    root.write(
        "etc/hosts",
        "127.0.0.1\tlocalhost\n127.0.1.1\told old.example\n127.0.1.1 twice\n::1 ip6-localhost",
    );
    root.write("etc/machine-id", "");
    root.write("var/lib/vcld/hook.abc/hook", "x");
    root.write("etc/ssh/sshd_config", "HostKey /etc/other_key\n hostkey /etc/missing\n");
    root.write("etc/other_key.pub", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIother x\n");
    let said = root.run(&SETUP, &[("NAME", "gis-02".into())]);
    assert_eq!(root.read("etc/hostname").as_deref(), Some("gis-02\n"));
    assert_eq!(
        root.read("etc/hosts").as_deref(),
        Some("127.0.0.1\tlocalhost\n127.0.1.1\tgis-02\n::1 ip6-localhost\n")
    );
    assert_eq!(root.read("etc/machine-id").unwrap().trim().len(), 32);
    assert_eq!(root.read("etc/vcld/loaded").as_deref(), Some("computer gis-02\n"));
    assert!(!root.has("var/lib/vcld/hook.abc"));
    let keys: Vec<_> = said.iter().filter_map(|l| l.strip_prefix("hostkey\t")).collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.contains(&root.key("ed25519").trim()) && keys[2].contains("other"), "{keys:?}");
    let before = root.all();
    let again = root.run(&SETUP, &[("NAME", "gis-02".into())]);
    assert!(!again.iter().any(|l| l.starts_with("changed")), "{again:?}");
    assert_eq!(root.all(), before);

    // Nobody had written it down before.
    let root = Root::bare(shell);
    root.run(&SETUP, &[("NAME", "gis-03".into())]);
    assert_eq!(root.read("etc/hosts").as_deref(), Some("127.0.1.1\tgis-03\n"));
}

#[rstest::rstest]
fn a_new_identity_is_made_beside_the_old_one(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::bare(shell);
    let old = (root.key("ed25519"), root.key("ecdsa"));
    let announced = root.run(&IDENTITY, &[]);
    assert_eq!(announced.len(), 2);
    assert_eq!(root.run(&IDENTITY, &[]), announced, "asked again it answers the same");
    assert_eq!((root.key("ed25519"), root.key("ecdsa")), old);
    // A run that was cut off is begun anew.
    std::fs::remove_file(root.path.join("etc/ssh/.vcld-identity/whole")).unwrap();
    let announced = root.run(&IDENTITY, &[]);

    let said = root.run(&SETUP, &[("NAME", "gis-02".into())]);
    let told: Vec<_> = said.iter().filter(|l| l.starts_with("hostkey")).cloned().collect();
    assert_eq!(told, announced);
    assert_ne!(root.key("ed25519"), old.0);
    assert_ne!(root.read("etc/machine-id").unwrap().trim(), OLD_ID);
    assert!(!root.has("etc/ssh/.vcld-identity"));
    let mode = std::fs::metadata(root.path.join("etc/ssh/ssh_host_ed25519_key")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
}

#[rstest::rstest]
fn a_user_s_traces_go_and_his_files_stay(#[values("sh", "bash --posix")] shell: &'static str) {
    let root = Root::full(shell);
    root.write("var/spool/cron/crontabs/alice", "x");
    root.write("var/spool/cron/crontabs/root", "x");
    root.write("var/lib/systemd/linger/alice", "");
    let said = root.run(&SANITIZE, &[("SELF", "root".into())]);
    for gone in [
        "home/alice/.zsh_history",
        "home/alice/.ssh/known_hosts",
        "root/.bash_history",
        "var/spool/cron/crontabs/alice",
        "var/lib/systemd/linger/alice",
        "tmp/x",
        "var/mail/alice",
    ] {
        assert!(!root.has(gone), "{gone}");
        assert!(said.iter().any(|l| l.ends_with(gone)), "{gone}: {said:#?}");
    }
    for kept in ["home/alice/work.txt", "home/alice/.ssh/authorized_keys", "var/spool/cron/crontabs/root"] {
        assert!(root.has(kept), "{kept}");
    }
    assert_eq!(root.run(&SANITIZE, &[("SELF", "root".into())]), Vec::<String>::new());
}

#[test]
fn every_script_says_what_it_does_and_is_a_script() {
    let folder = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("src/linux");
    let shellcheck = Command::new("shellcheck").arg("--version").output().is_ok();
    for entry in folder.read_dir_utf8().unwrap() {
        let path = entry.unwrap().path().to_owned();
        if !matches!(path.extension(), Some("sh" | "sysv")) {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().take(2).any(|l| l.starts_with("# ")), "{path} does not say what it does");
        let checked = Command::new("sh").args(["-n", path.as_str()]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        if shellcheck {
            let checked =
                Command::new("shellcheck").args(["-s", "sh", "-S", "warning", path.as_str()]).output();
            let checked = checked.unwrap();
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }
}
