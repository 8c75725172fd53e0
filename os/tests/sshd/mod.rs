//! A private, real sshd on 127.0.0.1 with host keys and an authorized key of its own.

use camino::{Utf8Path, Utf8PathBuf};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vcl_os::ssh::{SshKey, SshRemotes};
use vcl_types::{Endpoint, HostKey, HostKeys, KeySource};

pub struct Sshd {
    pub port: u16,
    pub dir: Utf8PathBuf,
    _dir: tempfile::TempDir,
    child: Child,
}

pub fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

pub fn keygen(file: &Utf8Path, kind: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", "", "-C", "test", "-f", file.as_str()])
        .status()
        .unwrap();
    assert!(made.success());
}

impl Sshd {
    /// One with an ed25519 and an ecdsa host key.
    pub fn start() -> Self {
        Self::with("")
    }
    pub fn with(more: &str) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Utf8PathBuf::try_from(temporary.path().to_owned()).unwrap();
        for kind in ["ed25519", "ecdsa"] {
            keygen(&dir.join(format!("host_{kind}")), kind);
        }
        keygen(&dir.join("id"), "ed25519");
        std::fs::copy(dir.join("id.pub"), dir.join("authorized_keys")).unwrap();
        // Nothing holds the port between here and there; the range is not the one the kernel takes from by itself.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // What a person's shell does when it starts is not looked at here, and one that is killed there may leave locks behind:
        // bash leaves its start-up file out where it is not the first shell. sshd knows one such line only.
        let level = if more.contains("SetEnv") { "" } else { "SetEnv SHLVL=2" };
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {dir}/host_ed25519\nHostKey {dir}/host_ecdsa\nPidFile none\n\
             AuthorizedKeysFile {dir}/authorized_keys\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\nPrintMotd no\n{level}\n{more}\n"
        );
        std::fs::write(dir.join("sshd_config"), config).unwrap();
        if rustix::process::geteuid().is_root() {
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let mut sshd = Self { port, child: spawn(&dir), dir, _dir: temporary };
        sshd.listening();
        sshd
    }
    fn listening(&mut self) {
        let mut said = String::new();
        for line in BufReader::new(self.child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("Server listening") {
                return;
            }
            said.push_str(&line);
            said.push('\n');
        }
        panic!("sshd did not start: {said}");
    }
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: "127.0.0.1".parse().unwrap(),
            port: self.port,
            user: user(),
            host_keys: HostKeys::first_use(),
        }
    }
    pub fn host_key(&self, kind: &str) -> HostKey {
        let text = std::fs::read_to_string(self.dir.join(format!("host_{kind}.pub"))).unwrap();
        HostKey::parse(&text).unwrap()
    }
    pub fn pinned(&self, kinds: &[&str]) -> Endpoint {
        let keys = kinds.iter().map(|k| self.host_key(k)).collect();
        Endpoint { host_keys: HostKeys { keys, source: KeySource::Console }, ..self.endpoint() }
    }
    pub fn remotes(&self) -> SshRemotes {
        SshRemotes::new(self.key())
    }
    pub fn key(&self) -> SshKey {
        SshKey::load(self.dir.join("id")).unwrap()
    }
    /// Kills it with every process it has started, as the machine's power being cut would.
    pub fn kill(&mut self) {
        for pid in family(self.child.id().cast_signed()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        let _ = self.child.wait();
    }
    /// Starts again at the same port, with new host keys.
    pub fn restart_with_new_keys(&mut self) {
        self.kill();
        for kind in ["ed25519", "ecdsa"] {
            std::fs::remove_file(self.dir.join(format!("host_{kind}"))).unwrap();
            keygen(&self.dir.join(format!("host_{kind}")), kind);
        }
        self.restart();
    }
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.dir);
        self.listening();
    }
}
impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(dir: &Utf8Path) -> Child {
    let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|p| Path::new(p).exists()).unwrap();
    Command::new(sshd)
        .args(["-D", "-e", "-f", dir.join("sshd_config").as_str()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A process and all that descend from it, the eldest first: a server that outlives its command would tell of its end.
fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for child in children.split_ascii_whitespace().filter_map(|c| c.parse().ok()) {
        all.extend(family(child));
    }
    all
}

/// Waits for something that another thread or process does, and fails when it never does.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(20), async {
        while !is() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("never: {what}"));
}
