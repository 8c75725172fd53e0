//! A file system that has every item in it that `generalise.sh` knows, and how the scripts are run on it.

use crate::linux::script::{self, FINISH, GENERALISE, Script};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What becomes of a file.
pub(super) enum After {
    Gone,
    Empty,
    Same,
    Is(&'static str),
}
use After::{Empty, Gone, Is, Same};

pub(super) const OLD_ID: &str = "11111111111111111111111111111111";

/// Every item: where, what is in it, under which word it is told, and what becomes of it.
pub(super) const ITEMS: &[(&str, &str, &str, After)] = &[
    ("var/lib/dbus/machine-id", "1111\n", "D-Bus machine-id", Same),
    ("var/lib/systemd/random-seed", "seed", "random seed", Gone),
    ("var/lib/urandom/random-seed", "seed", "random seed", Gone),
    ("var/lib/seedrng/seed.credit", "seed", "random seed", Gone),
    ("boot/efi/loader/random-seed", "seed", "random seed", Gone),
    ("var/lib/systemd/credential.secret", "s", "systemd credential secret", Gone),
    ("var/lib/NetworkManager/secret_key", "s", "NetworkManager secret key", Gone),
    ("var/lib/NetworkManager/timestamps", "s", "NetworkManager trace", Gone),
    ("etc/hostid", "abcd", "host id", Gone),
    ("etc/nvme/hostnqn", "nqn", "NVMe host name", Gone),
    ("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.x\n", "iSCSI initiator name", Gone),
    ("var/lib/dhcp/dhclient.eth0.leases", "lease {}", "DHCP lease", Gone),
    ("var/lib/dhclient/dhclient--eth0.lease", "x", "DHCP lease", Gone),
    ("var/lib/dhcpcd/eth0.lease", "x", "DHCP lease", Gone),
    ("var/lib/dhcpcd/duid", "00:01", "DHCP client id", Gone),
    ("etc/dhcpcd.duid", "00:01", "DHCP client id", Gone),
    ("var/lib/NetworkManager/internal-1-eth0.lease", "x", "DHCP lease", Gone),
    ("var/lib/systemd/network/dhcp-server-lease/eth0", "x", "DHCP lease", Gone),
    ("var/lib/cloud/instances/i-1/sem/x", "x", "cloud-init state", Gone),
    ("var/lib/cloud/data/instance-id", "i-1", "cloud-init state", Gone),
    ("var/lib/cloud/seed/nocloud/meta-data", "instance-id: x", "", Same),
    ("etc/udev/rules.d/70-persistent-net.rules", "SUBSYSTEM", "persistent interface name", Gone),
    (
        "etc/systemd/network/10-lan.link",
        "[Match]\nMACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n",
        "pinned MAC",
        Is("[Match]\nType=ether\n# vcld: was MACAddress=52:54:00:00:00:01\n[Link]\nName=lan0\n"),
    ),
    (
        "etc/systemd/network/20-lan.network",
        "[Match]\nPermanentMACAddress = 52:54:00:00:00:01\n\n[Link]\nMACAddress=02:00:00:00:00:01\n[Network]\nDHCP=yes\n",
        "pinned MAC",
        Is(
            "[Match]\nType=ether\n# vcld: was PermanentMACAddress = 52:54:00:00:00:01\n\n[Link]\n# vcld: was MACAddress=02:00:00:00:00:01\n[Network]\nDHCP=yes\n",
        ),
    ),
    ("etc/systemd/network/30-other.network", "[Match]\nName=en*\n[Network]\nDHCP=yes\n", "", Same),
    (
        "etc/netplan/50-cloud-init.yaml",
        "network:\n  version: 2\n  ethernets:\n    eth0:\n      match:\n        macaddress: \"52:54:00:00:00:01\"\n      set-name: eth0\n      dhcp4: true\n    eth1:\n      macaddress: 02:00:00:00:00:01\n      match:\n        name: en*\n        macaddress: 52:54:00:00:00:02\n    eth2:\n      match: {macaddress: '52:54:00:00:00:03'}\n",
        "pinned MAC",
        Is(
            "network:\n  version: 2\n  ethernets:\n    eth0:\n      match:\n        name: \"e*\"\n        # vcld: was macaddress: \"52:54:00:00:00:01\"\n      set-name: eth0\n      dhcp4: true\n    eth1:\n      # vcld: was macaddress: 02:00:00:00:00:01\n      match:\n        name: en*\n        # vcld: was macaddress: 52:54:00:00:00:02\n    eth2:\n      match: {name: \"e*\"}\n      # vcld: was match: {macaddress: '52:54:00:00:00:03'}\n",
        ),
    ),
    (
        "etc/network/interfaces",
        "auto eth0\niface eth0 inet dhcp\n\thwaddress ether 52:54:00:00:00:01\n",
        "pinned MAC",
        Is("auto eth0\niface eth0 inet dhcp\n\t# vcld: was hwaddress ether 52:54:00:00:00:01\n"),
    ),
    (
        "etc/NetworkManager/system-connections/lan.nmconnection",
        "[ethernet]\nmac-address=52:54:00:00:00:01\ncloned-mac-address=02:00:00:00:00:01\n[wifi]\ncloned-mac-address=stable\n",
        "pinned MAC",
        Is(
            "[ethernet]\n# vcld: was mac-address=52:54:00:00:00:01\n# vcld: was cloned-mac-address=02:00:00:00:00:01\n[wifi]\ncloned-mac-address=stable\n",
        ),
    ),
    (
        "etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nHWADDR=52:54:00:00:00:01\n",
        "pinned MAC",
        Is("DEVICE=eth0\n# vcld: was HWADDR=52:54:00:00:00:01\n"),
    ),
    ("var/log/syslog", "line\n", "log", Empty),
    ("var/log/app/deep/own.log", "line\n", "log", Empty),
    ("var/log/wtmp", "x", "log", Empty),
    ("var/log/lastlog", "x", "log", Empty),
    ("var/log/syslog.1", "x", "old log", Gone),
    ("var/log/syslog.2.gz", "x", "old log", Gone),
    ("var/log/messages-20260101", "x", "old log", Gone),
    ("var/log/journal/1111/system.journal", "x", "journal", Gone),
    ("var/lib/wtmpdb/wtmp.db", "x", "login record", Gone),
    ("root/.bash_history", "ls", "shell history", Gone),
    ("root/.ssh/known_hosts", "h", "known hosts of root", Gone),
    ("root/.ssh/authorized_keys", "# ours\nssh-ed25519 AAAA vcld\n", "", Same),
    ("home/alice/.zsh_history", "ls", "shell history", Gone),
    ("home/alice/.local/share/fish/fish_history", "ls", "shell history", Gone),
    ("home/alice/.viminfo", "x", "shell history", Gone),
    ("home/alice/.ssh/known_hosts", "h", "", Same),
    ("home/alice/.ssh/authorized_keys", "ssh-ed25519 AAAA alice@home", "", Same),
    ("home/alice/work.txt", "work", "", Same),
    ("home/daemon/.bash_history", "not a person's", "", Same),
    ("tmp/x", "x", "temporary file", Gone),
    ("tmp/.hidden/x", "x", "temporary file", Gone),
    ("var/tmp/y", "x", "temporary file", Gone),
    ("tmp/systemd-private-1-x/tmp/z", "x", "", Same),
    ("var/mail/alice", "mail", "mailbox", Empty),
    ("var/crash/core", "x", "crash dump", Gone),
    ("var/lib/systemd/coredump/core.1", "x", "crash dump", Gone),
    ("etc/vcld/loaded", "computer gis-01\n", "record of the load", Gone),
    ("var/lib/vcld/hook.abc/hook", "x", "rest of a hook", Gone),
    ("etc/hostname", "gis-01\n", "hostname", Is("localhost\n")),
    (
        "etc/hosts",
        "127.0.0.1\tlocalhost\n127.0.1.1\tgis-01\n10.0.0.9 nas\n",
        "hostname in /etc/hosts",
        Is("127.0.0.1\tlocalhost\n10.0.0.9 nas\n"),
    ),
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/home/daemon:/usr/sbin/nologin\n\
    alice:x:1000:1000:Alice,,,:/home/alice:/bin/zsh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";

pub(super) struct Root {
    _dir: tempfile::TempDir,
    pub(super) path: Utf8PathBuf,
    shell: &'static str,
}

impl Root {
    pub(super) fn bare(shell: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().join("it's a root")).unwrap();
        let root = Self { _dir: dir, path, shell };
        root.write("etc/passwd", PASSWD);
        root.write("etc/machine-id", &format!("{OLD_ID}\n"));
        root.write("lib/systemd/systemd", "");
        root.link("sbin/init", "../lib/systemd/systemd");
        root.write("etc/ssh/sshd_config", "Port 22\n");
        for kind in ["ed25519", "ecdsa"] {
            let file = root.path.join(format!("etc/ssh/ssh_host_{kind}_key"));
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", "old", "-f", file.as_str()])
                .status()
                .unwrap();
            assert!(made.success());
        }
        root
    }
    pub(super) fn full(shell: &'static str) -> Self {
        let root = Self::bare(shell);
        for (path, content, ..) in ITEMS {
            root.write(path, content);
        }
        root
    }
    pub(super) fn write(&self, path: &str, content: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    pub(super) fn link(&self, path: &str, to: &str) {
        let path = self.path.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
    }
    pub(super) fn read(&self, path: &str) -> Option<String> {
        let bytes = std::fs::read(self.path.join(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
    pub(super) fn has(&self, path: &str) -> bool {
        self.path.join(path).symlink_metadata().is_ok()
    }
    pub(super) fn key(&self, kind: &str) -> String {
        self.read(&format!("etc/ssh/ssh_host_{kind}_key.pub")).unwrap()
    }
    /// Everything there is, to see that nothing changed.
    pub(super) fn all(&self) -> BTreeMap<Utf8PathBuf, Vec<u8>> {
        fn walk(directory: &Utf8Path, all: &mut BTreeMap<Utf8PathBuf, Vec<u8>>) {
            for entry in directory.read_dir_utf8().unwrap() {
                let path = entry.unwrap().path().to_owned();
                let data = path.symlink_metadata().unwrap();
                if data.is_dir() {
                    walk(&path, all);
                } else if data.is_symlink() {
                    all.insert(path.clone(), path.read_link_utf8().unwrap().as_str().into());
                } else {
                    all.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.path, &mut all);
        all
    }
    pub(super) fn shell(&self, input: &str) -> (Option<i32>, String, String) {
        let mut words = self.shell.split(' ');
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .arg("-s")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let out = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (out.status.code(), text(out.stdout), text(out.stderr))
    }
    /// Runs a script to its end and answers the lines it said.
    pub(super) fn run(&self, script: &Script, parameters: &[(&str, String)]) -> Vec<String> {
        let (status, out, err) = self.shell(&script.input(self.path.as_str(), parameters));
        assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
        let mut lines: Vec<_> = out.lines().map(str::to_owned).collect();
        assert_eq!(lines.pop().as_deref(), Some("done"));
        lines
    }
    pub(super) fn generalise(&self) -> Vec<String> {
        self.run(&GENERALISE, &script::generalise(false))
    }
    pub(super) fn take(&self) -> Vec<String> {
        self.run(&FINISH, &[("IDENTITY", "take".into()), ("END", "none".into())])
    }
    /// A copy of the disk that boots.
    pub(super) fn boot(&self) -> String {
        let out = Command::new("sh")
            .arg(self.path.join("usr/local/lib/vcld/first-boot"))
            .env("ROOT", &self.path)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(String::from_utf8_lossy(&out.stderr), "");
        String::from_utf8(out.stdout).unwrap()
    }
    pub(super) fn copy(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().join("copy")).unwrap();
        let copied = Command::new("cp").args(["-a", self.path.as_str(), path.as_str()]).status().unwrap();
        assert!(copied.success());
        Self { _dir: dir, path, shell: self.shell }
    }
}
