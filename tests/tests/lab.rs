//! A lab PC from end to end: a real sshd with processes, files and a network of its own, lent by a real daemon. As root.
//!
//! The PC is a set of namespaces: its own /etc, /home and /tmp over the host's programs, process 1 an sshd. It is off
//! when that has ended, and it comes back when a wake-on-LAN packet for its MAC address has been seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_tests::world::World;
use vcl_types::api::{BackendView, ComputerView, JobView, PowerState};
use vcl_types::state::job::State;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
const MAC: &str = "00:16:3e:4a:00:01";
const LONG: Duration = Duration::from_secs(60);

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
cp id.pub /etc/pc_authorized
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
exec /usr/sbin/sshd -D -e -o Port=22 -o AuthorizedKeysFile=/etc/pc_authorized -o StrictModes=no -o UsePAM=no \
    -o PermitRootLogin=yes -o PidFile=none -o HostKey=/etc/ssh/ssh_host_ed25519_key -f /dev/null
"#;

struct Pc {
    directory: Utf8PathBuf,
    child: Child,
}

impl Pc {
    fn start(directory: &Utf8Path) -> Result<Self> {
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
    fn cut(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
    fn kept(&self, path: &str) -> Utf8PathBuf {
        self.directory.join("keep").join(path)
    }
}
impl Drop for Pc {
    fn drop(&mut self) {
        let _ = self.cut();
    }
}

fn keygen(file: &Utf8Path) {
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", file.as_str()];
    assert!(Command::new("ssh-keygen").args(words).status().unwrap().success());
}

fn processes_of_users(daemon: &Daemon) -> Result<String> {
    daemon.ssh("lab-01", "for p in /proc/[0-9]*; do grep -l '^Uid:.1001' $p/status; done 2>/dev/null; true")
}

#[test]
fn a_pc_is_lent_cleaned_and_woken() -> Result<()> {
    let Some(_world) = World::around_test(VCL_WORLD, "a_pc_is_lent_cleaned_and_woken")? else {
        return Ok(());
    };
    let directory = tempfile::Builder::new().prefix("vcl-lab-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    let at = path.join("pc");
    fs::create_dir(&at)?;
    let key = path.join("id");
    keygen(&key);
    // An overlay's upper directory may not lie on an overlay, as a container's root does.
    ensure!(Command::new("mount").args(["-t", "tmpfs", "tmpfs", at.as_str()]).status()?.success());
    keygen(&at.join("host_key"));
    fs::copy(path.join("id.pub"), at.join("id.pub"))?;
    // The network that the PC is plugged into is there also when it is off.
    let lan =
        "ip link add lan0 type bridge && ip addr add 10.99.0.1/24 brd + dev lan0 && ip link set lan0 up";
    ensure!(Command::new("sh").args(["-c", lan]).status()?.success(), "no network");
    let mut pc = Pc::start(&at)?;

    let mut setup = Setup::new(path, &key, &["sim-01"]);
    setup.simulated = Some(Simulated { at_once: 4, delay: "0s" });
    setup.network = "bridge = \"br0\"".into();
    setup.more = format!(
        "[backend.pcs]\ntype = \"lab\"\nwake = \"10.99.0.255\"\n[network.lab]\nbridge = \"lab\"\naddress = \"static\"\n\
         [deadlines]\nboot = \"60s\"\n\
         [computers.lab-01]\nbackend = \"pcs\"\nnetworks = [\"lab\"]\naddress = \"10.99.0.11\"\nmac = \"{MAC}\"\n"
    );
    let mut daemon = Daemon::start(setup)?;

    // What it can do is declared, and what it cannot is refused before anything is begun.
    let backends: Vec<BackendView> = daemon.json(&["backend", "list"])?;
    let pcs = backends.iter().find(|backend| backend.kind == "lab").unwrap();
    assert!(pcs.reachable && pcs.shared && pcs.computers == 1, "{pcs:?}");
    let capture = pcs.capabilities.iter().find(|one| one.name == "capture").unwrap();
    assert!(capture.lacks.as_ref().unwrap().contains("lent as it is"), "{capture:?}");
    let said = daemon.refused(&["vm", "list", "pcs"])?;
    assert!(said.contains("lacks `vms`"), "{said}");

    // An image of what is installed there has no disks, and goes nowhere but to a lab.
    let made: JobView = daemon.json(&["image", "create", "lab-linux", "--from-vm", "pcs/10.99.0.11"])?;
    assert_eq!(made.result.as_deref(), Some("lab-linux@1"));
    assert!(daemon.image("lab-linux")?.revisions[0].manifest.disks.is_empty());
    let disk = path.join("tiny.qcow2");
    let words = ["create", "-q", "-f", "qcow2", disk.as_str(), "8M"];
    assert!(Command::new("qemu-img").args(words).status()?.success());
    let _: JobView = daemon.json(&["image", "import", "tiny", disk.as_str()])?;
    let said = daemon.refused(&["load", "lab-01", "tiny"])?;
    assert!(said.contains("puts none on lab-01") && said.contains("image create"), "{said}");
    let said = daemon.refused(&["load", "sim-01", "lab-linux"])?;
    assert!(said.contains("lab-linux@1 has no disks"), "{said}");
    let said = daemon.refused(&["image", "export", "lab-linux", path.join("x.raw").as_str()])?;
    assert!(said.contains("has no disks"), "{said}");
    let _: JobView = daemon.json(&["image", "verify", "lab-linux"])?;

    // Lent: it has its name, it kept its host key, and that is pinned.
    let job: JobView = daemon.json(&["load", "lab-01", "lab-linux"])?;
    assert!(job.result.as_ref().unwrap().contains("10.99.0.11"), "{:?}", job.result);
    assert_eq!(daemon.ssh("lab-01", "hostname")?.trim(), "lab-01");
    let key = fs::read_to_string(at.join("host_key.pub"))?;
    let pinned = daemon.endpoint("lab-01")?.host_keys.keys;
    assert!(pinned.iter().any(|one| key.starts_with(&one.to_string())), "{pinned:?} {key}");
    assert_eq!(daemon.computer("lab-01")?.power, Some(PowerState::On));
    let said = daemon.refused(&["capture", "lab-01"])?;
    assert!(said.contains("lacks `capture`"), "{said}");
    assert_eq!(daemon.computer("lab-01")?.state.to_string(), "reserved", "a refused capture changes nothing");

    // A user leaves something behind and something running.
    daemon.ssh(
        "lab-01",
        "echo secret > /home/ada/.bash_history; echo secret > /tmp/left; echo work > /home/ada/work; \
        setsid setpriv --reuid 1001 --regid 1001 --clear-groups sleep 1000 </dev/null >/dev/null 2>&1 & true",
    )?;
    assert!(processes_of_users(&daemon)?.contains("/proc/"));
    assert!(pc.kept("tmp/left").exists());
    let _: JobView = daemon.json(&["unload", "lab-01"])?;
    assert!(!pc.kept("tmp/left").exists() && !pc.kept("home/ada/.bash_history").exists());
    assert!(pc.kept("home/ada/work").exists(), "files in homes stay");
    assert_eq!(daemon.computer("lab-01")?.power, Some(PowerState::On), "it stays on");

    // Another image on it takes the traces of the last user off as well.
    let _: JobView = daemon.json(&["load", "lab-01", "lab-linux"])?;
    daemon.ssh("lab-01", "echo secret > /tmp/left")?;
    let _: JobView = daemon.json(&["load", "lab-01", "lab-linux"])?;
    assert!(!pc.kept("tmp/left").exists());
    daemon.ssh("lab-01", "echo secret > /tmp/left")?;

    // Its power is cut. It is taken back all the same, and cleaned when it has been woken.
    pc.cut()?;
    assert_eq!(daemon.computer("lab-01")?.power, Some(PowerState::Off));
    let taken: JobView = daemon.json(&["unload", "lab-01"])?;
    let events = daemon.events(taken.id)?;
    assert!(events.iter().any(|event| event.kind == "not-sanitized"), "{events:?}");
    assert!(pc.kept("tmp/left").exists());
    let card = UdpSocket::bind("0.0.0.0:9")?;
    card.set_read_timeout(Some(LONG))?;
    let job = daemon.queue(&["load", "lab-01", "lab-linux"])?;
    let mut packet = [0; 200];
    let (length, _) = card.recv_from(&mut packet)?;
    let mac: Vec<u8> = MAC.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert_eq!(packet[..length], [vec![0xff; 6], mac.repeat(16)].concat());
    let mut pc = Pc::start(&at)?;
    let ended = daemon.wait_end(job, LONG)?;
    assert_eq!(ended.state, State::Done, "{ended:#?}");
    assert!(!pc.kept("tmp/left").exists());

    // Nobody reaches its switch: its power cannot be cut.
    let said = daemon.refused(&["computer", "power", "lab-01", "force-off"])?;
    assert!(said.contains("lacks `power`"), "{said}");
    pc.cut()?;
    let began = Instant::now();
    let view: ComputerView = daemon.json(&["computer", "power", "lab-01", "on"])?;
    assert!(view.power == Some(PowerState::Off) && began.elapsed() < LONG);
    assert!(card.recv_from(&mut packet).is_ok());
    let _: JobView = daemon.json(&["unload", "lab-01"])?;
    daemon.stop()?;
    ensure!(Command::new("umount").arg(at.as_str()).status()?.success());
    Ok(())
}
