//! A Linux guest made out of the host it runs on: namespaces of its own over an overlay of the host's file system, a real
//! sshd as process 1, a network with a manager, a user and a stranger in it. As root.
//!
//! A test is run again in a mount and network namespace of its own ([`around`]), so that nothing of this is to be seen on
//! the host: neither interfaces nor mounts.

use camino::{Utf8Path, Utf8PathBuf};
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use vcl_job::{Control, Flow, Job, MemoryJournal, Observer, Outcome, Owners, Record, Run, execute};
use vcl_os::ssh::{SshKey, SshRemotes};
use vcl_os::{Guest, Limits, Linux};
use vcl_types::{Computer, Endpoint, HostKey, HostKeys, KeySource};

/// Where vcld is.
pub const MANAGER: &str = "10.99.0.1";
/// Where the user sits.
pub const USER: &str = "10.99.0.2";
pub const USER6: &str = "fd99::2";
/// Where somebody else sits.
pub const STRANGER: &str = "10.99.0.3";
pub const GUEST: &str = "10.99.0.11";
pub const GUEST6: &str = "fd99::b";

const INSIDE: &str = "VCL_TEST_INSIDE";

/// Whether the test is to go on here. Outside it is run again in namespaces of its own, and its outcome is this one's.
pub fn around(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    assert!(rustix::process::geteuid().is_root(), "this test makes namespaces: run it as root");
    let status = Command::new("timeout")
        .args(["--kill-after", "5", "300", "unshare"])
        .args(["--mount", "--net", "--propagation", "private", "--fork", "--kill-child"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespaces");
    false
}

/// What is outside of the guest, and the guest's file system.
const WORLD: &str = r#"
set -e
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
ip link set lo up
ip link add lan0 type bridge
echo 0 >/proc/sys/net/ipv6/conf/lan0/accept_dad
for n in 1 2 3; do
    ip addr add 10.99.0.$n/24 dev lan0
    ip addr add fd99::$n/64 dev lan0 nodad
done
ip link set lan0 up
"#;

/// The guest, as process 1 of its namespaces.
const BOOT: &str = r#"
set -e
cd /
r=/mnt/root
mount --rbind /dev $r/dev
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts $r/dev/pts
mount --bind $r/dev/pts/ptmx $r/dev/ptmx
for at in dev/shm tmp var/tmp run home var/mail var/lib/vcld; do mkdir -p $r/$at; mount -t tmpfs -o mode=1777 tmpfs $r/$at; done
chmod 755 $r/run $r/home $r/var/lib/vcld
mount -t proc proc $r/proc
mount --rbind /sys $r/sys
hostname guest
echo made
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
ip link set lo up
echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
ip addr add 10.99.0.11/24 dev eth0
ip addr add fd99::b/64 dev eth0 nodad
ip link set eth0 up
mkdir -p $r/run/sshd $r/root/.ssh
exec chroot $r sh -c '
rm -f /etc/ssh/ssh_host_*
cp /mnt-keys/host /etc/ssh/ssh_host_ed25519_key
cp /mnt-keys/host.pub /etc/ssh/ssh_host_ed25519_key.pub
cp /mnt-keys/id.pub /root/.ssh/authorized_keys
chmod 600 /etc/ssh/ssh_host_ed25519_key /root/.ssh/authorized_keys
sed -i "s/^UsePAM .*/UsePAM no/" /etc/ssh/sshd_config
echo "HostKey /etc/ssh/ssh_host_ed25519_key" >>/etc/ssh/sshd_config
echo "PasswordAuthentication no" >>/etc/ssh/sshd_config
exec /usr/sbin/sshd -D -e -o SetEnv=SHLVL=2'
"#;

/// A guest that runs. It ends when this is dropped.
pub struct Namespace {
    child: Child,
    pid: u32,
    pub keys: Utf8PathBuf,
    pub computer: Computer,
    pub endpoint: Endpoint,
    pub remotes: SshRemotes,
    pub hooks: Option<Utf8PathBuf>,
    pub told: Arc<Told>,
}

/// What jobs told.
#[derive(Default)]
pub struct Told(std::sync::Mutex<Vec<(String, String)>>);
impl Observer for Told {
    fn recorded(&self, record: &Record) {
        if let Record::Done { key, output } = record {
            let mut said = self.0.lock().unwrap();
            said.push((format!("done {}", key.rsplit('/').next().unwrap()), output.to_string()));
        }
    }
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, kind: &str, message: &str) {
        self.0.lock().unwrap().push((kind.to_owned(), message.to_owned()));
    }
}
impl Told {
    pub fn of(&self, kind: &str) -> Vec<String> {
        self.0.lock().unwrap().iter().filter(|(k, _)| k == kind).map(|(_, m)| m.clone()).collect()
    }
    /// What the last run of that step changed.
    pub fn changed(&self, step: &str) -> String {
        self.of(&format!("done {step}")).pop().unwrap_or_default()
    }
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

impl Namespace {
    pub fn boot() -> Self {
        sh(WORLD);
        let keys = Utf8PathBuf::from("/mnt/root/mnt-keys");
        std::fs::create_dir(&keys).unwrap();
        for name in ["host", "id", "alice", "bob"] {
            let file = keys.join(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file.as_str()])
                .status();
            assert!(made.unwrap().success());
        }
        let words = ["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"];
        let mut child = Command::new("unshare")
            .args(words)
            .args(["sh", "-c", BOOT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        assert_eq!(said, "made\n", "{:?}", log.next());
        let inside = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
        let pid: u32 = inside.trim().parse().unwrap();
        sh(&format!(
            "ip link add guest0 type veth peer name eth0 netns {pid} && ip link set guest0 master lan0 up"
        ));
        let mut before = Vec::new();
        let listens = log.by_ref().map_while(Result::ok).any(|line| {
            before.push(line.clone());
            line.contains("Server listening")
        });
        assert!(listens, "its ssh server did not start: {before:?}");
        std::thread::spawn(move || {
            for line in log.map_while(Result::ok) {
                if std::env::var_os("VCL_TEST_SSHD").is_some() {
                    eprintln!("sshd: {line}");
                }
            }
        });
        let text = std::fs::read_to_string(keys.join("host.pub")).unwrap();
        let host_keys = HostKeys { keys: vec![HostKey::parse(&text).unwrap()], source: KeySource::Console };
        Self {
            child,
            pid,
            computer: Computer {
                name: "gis-01".parse().unwrap(),
                backend: "kvm1".parse().unwrap(),
                cpus: None,
                memory: None,
                nics: Vec::new(),
                tags: Vec::new(),
            },
            endpoint: Endpoint { address: GUEST.parse().unwrap(), port: 22, user: "root".into(), host_keys },
            remotes: SshRemotes::new(SshKey::load(keys.join("id")).unwrap()),
            keys,
            hooks: None,
            told: Arc::default(),
        }
    }
    pub fn guest(&self) -> Guest<'_> {
        Guest {
            computer: &self.computer,
            endpoint: &self.endpoint,
            remotes: &self.remotes,
            hooks: self.hooks.as_deref(),
            limits: Limits { boot: Duration::from_secs(60), command: Duration::from_secs(120) },
            generalised: true,
        }
    }
    pub async fn job<T: Send + 'static>(
        &self,
        work: impl AsyncFnOnce(Job) -> Result<T, vcl_job::Error>,
    ) -> Outcome<T> {
        self.job_on(Arc::default(), work).await
    }
    /// A job that goes on from what a journal has.
    pub async fn job_on<T: Send + 'static>(
        &self,
        journal: Arc<MemoryJournal>,
        work: impl AsyncFnOnce(Job) -> Result<T, vcl_job::Error>,
    ) -> Outcome<T> {
        let run = Run {
            journal,
            observer: self.told.clone(),
            control: Control::default(),
            owners: Owners { flow: &Linux, parts: &[] },
        };
        execute(run, Flow { name: "test", version: 1, deadline: None }, async { Ok(()) }, |job, ()| work(job))
            .await
    }
    /// Runs a shell's words in the guest, as its root, and answers what it said.
    pub fn inside(&self, script: &str) -> String {
        let output = self.try_inside(script);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {text}{errors}");
        text
    }
    pub fn try_inside(&self, script: &str) -> Output {
        let enter = ["-m", "-p", "-n", "-u", "-i", "-r", "-w", "-t"];
        Command::new("nsenter")
            .args(enter)
            .arg(self.pid.to_string())
            .args(["sh", "-c", script])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
    /// A file of the guest.
    pub fn path(&self, path: &str) -> Utf8PathBuf {
        Utf8Path::new(&format!("/proc/{}/root", self.pid)).join(path.trim_start_matches('/'))
    }
    pub fn public_key(&self, name: &str) -> String {
        std::fs::read_to_string(self.keys.join(format!("{name}.pub"))).unwrap().trim().to_owned()
    }
    /// What OpenSSH's client runs there, from where somebody sits.
    pub fn ssh(&self, from: &str, account: &str, key: &str, words: &[&str]) -> Command {
        let to = if from.contains(':') { GUEST6 } else { GUEST };
        let mut command = Command::new("ssh");
        command
            .args([
                "-F",
                "/dev/null",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=4",
                "-o",
                "LogLevel=ERROR",
            ])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args([
                "-o",
                "IdentitiesOnly=yes",
                "-o",
                "IdentityAgent=none",
                "-i",
                self.keys.join(key).as_str(),
            ])
            .args(["-b", from, "-l", account])
            .args(words.iter().take_while(|w| w.starts_with('-')))
            .arg(to)
            .args(words.iter().skip_while(|w| w.starts_with('-')))
            .stdin(Stdio::null());
        command
    }
    /// The same, to its end: what it said, or why it did not get in.
    pub fn login(&self, from: &str, account: &str, script: &str) -> Result<String, String> {
        let output = self.ssh(from, account, account, &[script]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
    /// Whether a connection from there to that port is taken.
    pub fn reaches(&self, from: &str, port: u16) -> bool {
        let local: IpAddr = from.parse().unwrap();
        let to: IpAddr = if local.is_ipv6() { GUEST6 } else { GUEST }.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connect = async {
            let socket = match local {
                IpAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
                IpAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
            }
            .unwrap();
            socket.bind((local, 0).into()).unwrap();
            socket.connect((to, port).into()).await
        };
        let result =
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(700), connect).await });
        matches!(result, Ok(Ok(_)))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that another process does, and fails when it never does.
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        // why: another process tells nobody
        std::thread::sleep(Duration::from_millis(50));
    }
}
