//! A PC with an ssh server, made out of the host it runs on, for a lab. In a world, as root.
//!
//! It is a set of namespaces: its own /etc, /home and /tmp over the host's programs, process 1 an sshd. It is off when that
//! has ended. There is one in a world, at [`ADDRESS`].

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};

/// Where it answers when it is on.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 11);

/// Makes the PC out of the host it runs on. $1 is its directory; what it is to keep over its power being off lies there.
const PC: &str = r#"
set -e
cd "$1"
mkdir -p upper work keep/home/ada keep/root
[ -e keep/tmp ] || mkdir -m 1777 keep/tmp
mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" etc /etc
grep -q ^ada: /etc/passwd || echo 'ada:x:1001:1001::/home/ada:/bin/sh' >> /etc/passwd
rm -f /etc/ssh/ssh_host_*
cp host_key /etc/ssh/ssh_host_ed25519_key
cp host_key.pub /etc/ssh/ssh_host_ed25519_key.pub
cp id.pub /etc/pc_authorized_root
chmod 600 /etc/ssh/ssh_host_ed25519_key
for at in /var/tmp /dev/shm /var/mail /run; do mount -t tmpfs tmpfs $at; done
mkdir -p /run/sshd
chown 1001:1001 keep/home/ada
mount --bind keep/home /home
mount --bind keep/root /root
hostname pc-before
# A network namespace is new; the other end of the cable is put in by whoever started it.
echo made
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip link set eth0 up
ip addr add 10.99.0.11/24 dev eth0
mount --bind keep/tmp /tmp
exec /usr/sbin/sshd -D -e -o Port=22 -o 'AuthorizedKeysFile=/etc/pc_authorized_%u .ssh/authorized_keys' -o StrictModes=no -o UsePAM=no \
    -o PermitRootLogin=yes -o PidFile=none -o HostKey=/etc/ssh/ssh_host_ed25519_key -f /dev/null
"#;

/// A PC that is on. It is off when this is dropped.
#[derive(Debug)]
pub struct Pc {
    directory: Utf8PathBuf,
    child: Child,
}

impl Pc {
    /// Makes the directory of a PC below `path`, whose root can be logged into with this public key, and the network that it
    /// is plugged into, which is there also when it is off. Its host key is `host_key.pub` in it.
    ///
    /// # Errors
    ///
    /// When that cannot be made: not as root, or not in a world.
    pub fn made(path: &Utf8Path, public_key: &Utf8Path) -> Result<Utf8PathBuf> {
        let at = path.join("pc");
        fs::create_dir(&at)?;
        // An overlay's upper directory may not lie on an overlay, as a container's root does.
        ensure!(Command::new("mount").args(["-t", "tmpfs", "tmpfs", at.as_str()]).status()?.success());
        keygen(&at.join("host_key"))?;
        fs::copy(public_key, at.join("id.pub"))?;
        let lan =
            "ip link add lan0 type bridge && ip addr add 10.99.0.1/24 brd + dev lan0 && ip link set lan0 up";
        ensure!(Command::new("sh").args(["-c", lan]).status()?.success(), "no network");
        Ok(at)
    }

    /// Powers on the PC of this directory.
    ///
    /// # Errors
    ///
    /// When it does not come up; its sshd's last words are in the error.
    pub fn start(directory: &Utf8Path) -> Result<Self> {
        let words = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"];
        let mut child = Command::new("unshare")
            .args(words)
            .args(["sh", "-c", PC, "pc", directory.as_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut said = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut said)?;
        let mut log = BufReader::new(child.stderr.take().context("no log")?).lines();
        ensure!(said == "made\n", "the PC was not made: {:?}", log.next());
        let inside = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id()))?;
        let cable = format!(
            "ip link del pc0 2>/dev/null; ip link add pc0 type veth peer name eth0 netns {} && ip link set pc0 master lan0 up",
            inside.trim()
        );
        ensure!(Command::new("sh").args(["-c", &cable]).status()?.success(), "no cable: {cable}");
        let listens = log.by_ref().map_while(Result::ok).any(|line| line.contains("Server listening"));
        ensure!(listens, "the PC's ssh server did not start");
        // Nobody else reads what it has to say.
        std::thread::spawn(move || log.for_each(drop));
        Ok(Self { directory: directory.to_owned(), child })
    }
    /// Cuts its power: everything in it is gone but what is on its disk.
    ///
    /// # Errors
    ///
    /// When it has ended already.
    pub fn cut(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
    /// Where something lies that it keeps over its power being off: `tmp/…`, `home/…`, `root/…`.
    #[must_use]
    pub fn kept(&self, path: &str) -> Utf8PathBuf {
        self.directory.join("keep").join(path)
    }
}
impl Drop for Pc {
    fn drop(&mut self) {
        let _ = self.cut();
    }
}

/// Makes a key pair: `file` and `file.pub`.
///
/// # Errors
///
/// When `ssh-keygen` is not there, or the file is.
pub fn keygen(file: &Utf8Path) -> Result<()> {
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", file.as_str()];
    ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "no key was made in {file}");
    Ok(())
}
