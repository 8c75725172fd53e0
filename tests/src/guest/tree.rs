//! What all kinds have in common: who may log in, no identity of their own, and the traces of a past.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};

use anyhow::{Context, Result};
use camino::{Utf8Path, Utf8PathBuf};

const ALICE: u32 = 1000;

/// Makes the host key when there is none: a captured image must come without, and each machine made from it with its
/// own. Only ed25519, because an emulated CPU takes seconds over an RSA key.
const HOST_KEY_UNIT: &str = "\
[Unit]
Description=Host key of this machine
DefaultDependencies=no
After=local-fs.target
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key
RemainAfterExit=yes
";

/// Turns a tree fresh from mmdebstrap into one that an image could have been made of by hand.
pub(super) fn settle(tree: &Utf8Path, authorized_key: &str) -> Result<()> {
    let tree = Tree(tree);
    forget_builder(&tree)?;

    tree.write("root/.ssh/authorized_keys", 0o600, &format!("{authorized_key}\n"))?;
    fs::set_permissions(tree.path("root/.ssh"), fs::Permissions::from_mode(0o700))?;
    tree.write(
        "etc/ssh/sshd_config.d/guest.conf",
        0o644,
        "HostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n",
    )?;
    tree.unit("ssh-host-key.service", "multi-user.target", HOST_KEY_UNIT)?;

    add_alice(&tree)?;
    leave_traces(&tree)
}

/// mmdebstrap copies some of the host, and packages make keys when they are installed.
fn forget_builder(tree: &Tree<'_>) -> Result<()> {
    tree.write("etc/hostname", 0o644, "debian\n")?;
    tree.write("etc/hosts", 0o644, "127.0.0.1 localhost\n127.0.1.1 debian\n")?;
    tree.write("etc/resolv.conf", 0o644, "")?;
    tree.write("etc/machine-id", 0o444, "")?;
    for entry in tree.path("etc/ssh").read_dir_utf8()? {
        let entry = entry?;
        if entry.file_name().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// An account of a person, as somebody who builds an image by hand leaves one in it.
fn add_alice(tree: &Tree<'_>) -> Result<()> {
    tree.append("etc/passwd", &format!("alice:x:{ALICE}:{ALICE}:Alice,,,:/home/alice:/bin/bash\n"))?;
    tree.append("etc/group", &format!("alice:x:{ALICE}:\n"))?;
    tree.append("etc/shadow", "alice:*:19700:0:99999:7:::\n")?;
    tree.append("etc/gshadow", "alice:!::\n")?;
    tree.write("home/alice/notes.txt", 0o644, "Ask Bob for the licence file.\n")?;
    tree.write("home/alice/.bash_history", 0o600, "vi notes.txt\nssh bob@build\nsudo -i\n")?;
    for path in ["home/alice", "home/alice/notes.txt", "home/alice/.bash_history"] {
        chown(tree.path(path), Some(ALICE), Some(ALICE))
            .with_context(|| format!("failed to give {path} to alice"))?;
    }
    Ok(())
}

/// Files that clean-up finds on a used machine and takes out of an image of it.
fn leave_traces(tree: &Tree<'_>) -> Result<()> {
    tree.write("root/.bash_history", 0o600, "apt-get install openssh-server\nexport TOKEN=not-a-secret\n")?;
    tree.write("var/log/auth.log", 0o640, "Jan  1 10:00:00 debian sshd[1]: Accepted publickey for root\n")?;
    tree.write(
        "var/log/syslog.1",
        0o640,
        "Jan  1 10:00:00 debian systemd[1]: Started a service of the past.\n",
    )?;
    tree.write(
        "var/lib/dhcp/dhclient.eth0.leases",
        0o644,
        "lease {\n  interface \"eth0\";\n  fixed-address 192.0.2.10;\n}\n",
    )?;
    // The address is of nobody's interface, so the rule only waits to be found.
    tree.write(
        "etc/udev/rules.d/70-persistent-net.rules",
        0o644,
        "SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"02:00:00:00:00:01\", NAME=\"eth0\"\n",
    )?;
    tree.write("tmp/left-behind", 0o644, "scratch\n")?;
    tree.write("var/tmp/left-behind", 0o644, "scratch\n")
}

/// A directory that is some machine's root.
pub(super) struct Tree<'a>(pub(super) &'a Utf8Path);

impl Tree<'_> {
    pub(super) fn path(&self, inside: &str) -> Utf8PathBuf {
        self.0.join(inside)
    }

    /// Writes a file, with the directories above it.
    pub(super) fn write(&self, inside: &str, mode: u32, content: &str) -> Result<()> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("failed to make {parent}"))?;
        }
        // Never through a link: in a tree that is not this machine's root, an absolute one leads out of it.
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("failed to replace {path}"))?;
        }
        fs::write(&path, content).with_context(|| format!("failed to write {path}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))
            .with_context(|| format!("failed to open up {path}"))
    }

    pub(super) fn append(&self, inside: &str, line: &str) -> Result<()> {
        let path = self.path(inside);
        let mut file =
            OpenOptions::new().append(true).open(&path).with_context(|| format!("failed to open {path}"))?;
        file.write_all(line.as_bytes()).with_context(|| format!("failed to write {path}"))
    }

    /// Makes a link; what it replaces goes.
    pub(super) fn link(&self, inside: &str, target: &str) -> Result<()> {
        let path = self.path(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("failed to make {parent}"))?;
        }
        if path.symlink_metadata().is_ok() {
            fs::remove_file(&path).with_context(|| format!("failed to replace {path}"))?;
        }
        std::os::unix::fs::symlink(target, &path).with_context(|| format!("failed to make the link {path}"))
    }

    /// Adds a systemd unit that `target` wants.
    pub(super) fn unit(&self, name: &str, target: &str, content: &str) -> Result<()> {
        self.write(&format!("etc/systemd/system/{name}"), 0o644, content)?;
        self.link(
            &format!("etc/systemd/system/{target}.wants/{name}"),
            &format!("/etc/systemd/system/{name}"),
        )
    }
}
