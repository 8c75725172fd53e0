//! What types of cdist's look for before they agree to work, made up: programs and files, and what explorers say.

use crate::stock::Claim;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// What types look for on a machine and a bare Debian has not: a path, and the file, which is a program if it begins as one.
pub(crate) const STAND_INS: &[(&str, &str)] = &[
    ("/etc/adjtime", "0 0 0\n0\nUTC\n"),
    ("/etc/hosts", "127.0.0.1 localhost\n"),
    ("/etc/lsb-release", "DISTRIB_CODENAME=bookworm\n"),
    ("/etc/openwrt_release", "DISTRIB_RELEASE=21.02.3\n"),
    ("/etc/rc.conf", "# a stand-in\n"),
    ("/etc/apache2/conf-available/xymon.conf", "# a stand-in\n"),
    ("/etc/consul/conf.d/kept.json", "# a stand-in\n"),
    ("/etc/default/slapd", "# a stand-in\n"),
    ("/etc/xymon/clientlaunch.cfg", "# a stand-in\n"),
    ("/usr/bin/equery", "#!/bin/sh\n"),
    ("/usr/local/bin/apt-mark", "#!/bin/sh\n"),
    ("/usr/local/bin/blkid", "#!/bin/sh\necho '/dev/nodisk: UUID=\"7\" TYPE=\"ext4\"'\n"),
    (
        "/usr/local/bin/cat",
        "#!/bin/sh\nif [ \"$*\" = /proc/partitions ]; then echo '254 99 8388608 nodisk'; else exec /bin/cat \"$@\"; fi\n",
    ),
    ("/usr/local/bin/docker", "#!/bin/sh\n[ \"$1\" = info ] && echo ' Swarm: inactive'\n"),
    ("/usr/local/bin/dog", "#!/bin/sh\n"),
    (
        "/usr/local/bin/dpkg-query",
        "#!/bin/sh\ncase \"$*\" in (*Version*' apt') echo 2.6.1;; (*) exec /usr/bin/dpkg-query \"$@\";; esac\n",
    ),
    ("/usr/local/bin/getfacl", "#!/bin/sh\necho user::rwx\n"),
    ("/usr/local/bin/go", "#!/bin/sh\necho go version go1.19.3 linux/amd64\n"),
    (
        "/usr/local/bin/lsblk",
        "#!/bin/sh\ncase \"$*\" in (*nodisk) echo 'NAME=\"nodisk\" FSTYPE=\"\" LABEL=\"\" MOUNTPOINT=\"\"';; (*) exec /usr/bin/lsblk \"$@\";; esac\n",
    ),
    ("/usr/local/bin/mysql", "#!/bin/sh\n"),
    ("/usr/local/bin/pkg_info", "#!/bin/sh\n[ $# = 0 ] && echo 'pkg_info: no packages installed'\n"),
    ("/usr/local/bin/postconf", "#!/bin/sh\n"),
    (
        "/usr/local/bin/rpm",
        "#!/bin/sh\necho \"package $2 is not installed\"; echo \"no package provides $2\"; exit 1\n",
    ),
    (
        "/usr/local/bin/su",
        "#!/bin/sh\ncase \"$*\" in (*pg_settings*) echo default;; (*'SELECT 1'*) echo 1;; (*) exec /bin/su \"$@\";; esac\n",
    ),
];

/// Puts the stand-ins into a root directory.
pub(crate) fn stand_in(root: impl AsRef<Path>) -> io::Result<()> {
    for (path, text) in STAND_INS {
        let file = root.as_ref().join(path.trim_start_matches('/'));
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&file, text)?;
        let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes a directory the configuration that has nothing but a claim's explorers, to lie over cdist's own.
pub(crate) fn claim(claim: Claim, directory: impl AsRef<Path>) -> io::Result<()> {
    let explorers = directory.as_ref().join("explorer");
    fs::create_dir_all(&explorers)?;
    claim.iter().try_for_each(|(name, says)| fs::write(explorers.join(name), format!("echo '{says}'\n")))
}
