//! A Debian that has what more types of cdist's work on: apt with a mirror of its own, cron, locales, sshd, certificates.

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::{self, File};
use std::process::Command;

const RELEASE: &str = "bookworm";
const PACKAGES: &str = "cron,locales,tzdata,openssh-server,ssl-cert,procps,debconf-utils,hostname,rsync,util-linux-extra,systemd,libreadline8,unattended-upgrades";
/// Packages that are not installed, in a mirror that takes no network.
const MIRRORED: &str = "bc";
/// With the new root in `$1`.
const MIRROR: &str = r#"set -e
mkdir -p "$1/srv/repo"
cd "$1/srv/repo"
APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get -q -o APT::Sandbox::User=root download MIRRORED
for f in *.deb; do
    dpkg-deb -f "$f"
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$f" "$(stat -c %s "$f")" "$(sha256sum "$f" | cut -d' ' -f1)"
done >Packages
echo 'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true";' >"$1/etc/apt/apt.conf.d/99local"
rm -f "$1/etc/apt/sources.list" "$1"/etc/apt/sources.list.d/*
echo 'deb [trusted=yes] file:/srv/repo ./' >"$1/etc/apt/sources.list"
rm -rf "$1/var/lib/apt/lists"/*
chroot "$1" apt-get -q update
rm -f "$1"/var/log/*.log "$1"/var/log/apt/* "$1"/etc/ssl/private/* "$1"/etc/ssl/certs/ssl-cert-snakeoil.pem
: >"$1/etc/machine-id"
"#;

/// Its tree as a tar, from the cache or made now, which takes a mirror of Debian's.
///
/// # Errors
/// The mirror fails, or this is not root.
pub fn tree(cache: &Utf8Path) -> Result<Utf8PathBuf> {
    let tarball = cache.join("tree-stock.tar");
    let lock = File::create(cache.join("stock.lock"))?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)?;
    let recipe = format!("{RELEASE} {PACKAGES} {MIRRORED}\n{MIRROR}");
    let made_by = cache.join("tree-stock.recipe");
    if tarball.exists() && fs::read_to_string(&made_by).is_ok_and(|text| text == recipe) {
        return Ok(tarball);
    }
    let working = tempfile::tempdir()?;
    let unfinished = working.path().join("tree.tar");
    let mirror = std::env::var("VCL_DEBIAN_MIRROR").ok().filter(|mirror| !mirror.is_empty());
    let output = Command::new("mmdebstrap")
        .args(["--mode=root", "--format=tar", "--variant=minbase", &format!("--include={PACKAGES}")])
        .arg("--keyring=/usr/share/keyrings/debian-archive-keyring.gpg")
        .arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr")
        .args([
            "--aptopt=APT::Install-Recommends \"false\"",
            "--dpkgopt=force-unsafe-io",
            "--skip=cleanup/apt/lists",
        ])
        .arg(format!("--customize-hook={}", MIRROR.replace("MIRRORED", MIRRORED)))
        .arg(RELEASE)
        .arg(&unfinished)
        .arg(mirror.as_deref().unwrap_or("http://deb.debian.org/debian"))
        .env("TMPDIR", working.path())
        .output()
        .context("failed to run mmdebstrap")?;
    ensure!(output.status.success(), "mmdebstrap: {}", String::from_utf8_lossy(&output.stderr));
    fs::copy(&unfinished, &tarball)?;
    fs::write(&made_by, recipe)?;
    Ok(tarball)
}
