//! A real guest that is lent to a person: who gets in from outside, who is seen there, and that nothing of it stays.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Stdio;
use std::sync::Arc;

use super::*;
use vcl_job::{Control, Flow, Job, MemoryJournal, Outcome, Owners, Run, Silent, execute};
use vcl_os::{Guest as Machine, Limits, Linux, Os, SshKey, SshRemotes};
use vcl_types::{Access, Account, Computer, ConnectMethod, Endpoint, HostKeys, Reach, ReservationId, Secret};

/// Where the user sits; vcld is at the gateway, `.1`.
const USER: &str = "192.168.70.2";
const STRANGER: &str = "192.168.70.3";

struct Lent {
    computer: Computer,
    endpoint: Endpoint,
    remotes: SshRemotes,
    keys: Utf8PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Lent {
    fn guest(&self) -> Machine<'_> {
        Machine {
            computer: &self.computer,
            endpoint: &self.endpoint,
            remotes: &self.remotes,
            hooks: None,
            limits: Limits::default(),
            generalised: true,
        }
    }
    fn job(&self, work: impl AsyncFnOnce(Job) -> vcl_job::Result<()>) -> Result<f32> {
        let run = Run {
            journal: Arc::new(MemoryJournal::default()),
            observer: Arc::new(Silent),
            control: Control::default(),
            owners: Owners { flow: &Linux, parts: &[] },
        };
        let start = Instant::now();
        let flow = Flow { name: "test", version: 1, deadline: None };
        let outcome = self.runtime.block_on(execute(run, flow, async { Ok(()) }, |job, ()| work(job)));
        ensure!(outcome == Outcome::Done(()), "{outcome:?}");
        Ok(start.elapsed().as_secs_f32())
    }
    fn grant(&self, sudo: bool, from: Reach) -> Result<f32> {
        let key = fs::read_to_string(self.keys.join("carol.pub"))?;
        let account =
            Account { name: "carol".parse()?, ssh_keys: vec![key.trim().to_owned()], sudo, uid: None };
        let access = Access {
            reservation: ReservationId(7),
            accounts: vec![account],
            methods: vec![ConnectMethod { name: "ssh".into(), port: 22, service: None, script: None }],
            from,
            keep: Vec::new(),
            facts: BTreeMap::new(),
            user_data: None,
        };
        self.job(async |mut job: Job| Linux.grant(&mut job, self.guest(), &access).await)
    }
    fn sanitize(&self) -> Result<f32> {
        self.job(async |mut job: Job| Linux.sanitize(&mut job, self.guest()).await)
    }
    fn sessions(&self) -> Result<Vec<String>> {
        let sessions = self.runtime.block_on(Linux.sessions(self.guest()))?;
        Ok(sessions.iter().map(|s| format!("{:?} {} {:?}", s.account, s.method, s.from)).collect())
    }
    fn ssh(&self, from: &str, user: &str, key: &str, options: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-o", "IdentitiesOnly=yes", "-i", key])
            .args(options)
            .args(["-b", from, "-l", user, &self.endpoint.address.to_string()])
            .args(words)
            .stdin(Stdio::null());
        command
    }
    fn carol(&self, from: &str, script: &str) -> Result<String, String> {
        let key = self.keys.join("carol");
        let output = self.ssh(from, "carol", key.as_str(), &["-o", "BatchMode=yes"], &[script]).output();
        let output = output.map_err(|e| e.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }
    fn root(&self, script: &str) -> Result<String> {
        let command = vcl_os::Command::new(script).limit(Duration::from_secs(120));
        let output = self.runtime.block_on(Linux.exec(self.guest(), command))?;
        Ok(output.text())
    }
    fn with_password(&self, word: &str) -> Result<bool> {
        let askpass = self.keys.join("askpass");
        fs::write(&askpass, "#!/bin/sh\nprintf '%s\\n' \"$WORD\"\n")?;
        fs::set_permissions(&askpass, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let options = ["-o", "PreferredAuthentications=password", "-o", "NumberOfPasswordPrompts=1"];
        let mut ssh = self.ssh(USER, "carol", "/dev/null", &options, &["true"]);
        ssh.env("SSH_ASKPASS", askpass).env("SSH_ASKPASS_REQUIRE", "force").env("WORD", word);
        Ok(ssh.output()?.status.success())
    }
}

/// Everything that can be left of somebody.
const TRACES: &str = "cat /etc/passwd /etc/group /etc/shadow /etc/passwd- /etc/shadow- /etc/subuid 2>/dev/null | grep carol; \
    ls -d /home/carol /var/mail/carol /var/lib/vcld/access /etc/sudoers.d/vcld-* /etc/ssh/sshd_config.d/*vcld* \
    /tmp/hers /var/tmp/hers /dev/shm/hers 2>/dev/null; ps -eo user= | grep carol; \
    ! command -v nft >/dev/null || nft list ruleset";

fn life(test: &str, kind: Kind) -> Result<()> {
    let (guest, key) = make(kind)?;
    let Some(world) = World::around_test(VCL_WORLD, test)? else { return Ok(()) };
    let address = start_on_network(&world, &guest)?;
    wait_for_login(&address, key.as_str())?;
    for at in [USER, STRANGER] {
        let added =
            Command::new("ip").args(["addr", "add", &format!("{at}/24"), "dev", "vb-lab"]).status()?;
        ensure!(added.success(), "no address {at}");
    }
    let keys = world.directory().to_owned();
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "carol", "-f", keys.join("carol").as_str()])
        .status()?;
    ensure!(made.success(), "ssh-keygen");
    let lent = Lent {
        computer: Computer {
            name: "gis-01".parse()?,
            backend: "kvm1".parse()?,
            cpus: None,
            memory: None,
            nics: Vec::new(),
            tags: Vec::new(),
        },
        endpoint: Endpoint {
            address: address.parse()?,
            port: 22,
            user: "root".into(),
            host_keys: HostKeys::first_use(),
        },
        remotes: SshRemotes::new(SshKey::load(&key)?),
        keys,
        runtime: tokio::runtime::Runtime::new()?,
    };
    let before = lent.root(
        "sha256sum /etc/passwd /etc/group /etc/sudoers /etc/ssh/sshd_config; ls -A /home /etc/sudoers.d",
    )?;
    assert_eq!(lent.root(TRACES)?, "");
    assert!(lent.carol(USER, "true").is_err());

    println!("granted in {:.1} s", lent.grant(kind != Kind::Fast, Reach::Everybody)?);
    assert_eq!(lent.carol(USER, "id -un").as_deref(), Ok("carol"));
    if kind == Kind::Fast {
        assert!(lent.carol(USER, "sudo -n true").is_err(), "there is no sudo in it");
    } else {
        assert_eq!(lent.carol(USER, "sudo -n id -un").as_deref(), Ok("root"));
    }
    println!("granted again in {:.1} s", lent.grant(kind != Kind::Fast, Reach::Everybody)?);

    let carol = lent.keys.join("carol");
    let mut terminal = lent
        .ssh(USER, "carol", carol.as_str(), &["-tt", "-o", "BatchMode=yes"], &["echo here; exec sleep 1000"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut screen = terminal.stdout.take().context("no screen")?;
    let mut seen = String::new();
    let mut read_until = |word: &str| -> Result<()> {
        let mut byte = [0];
        while !seen.contains(word) {
            ensure!(screen.read(&mut byte)? == 1, "the terminal closed: {seen:?}");
            seen.push(char::from(byte[0]));
        }
        Ok(())
    };
    read_until("here")?;
    assert_eq!(lent.sessions()?, [format!("Some(\"carol\") ssh Some({USER})")]);
    lent.runtime.block_on(Linux.tell(lent.guest(), "Ten minutes left; save `$(your)` work."))?;
    read_until("Ten minutes left; save `$(your)` work.")?;

    // Her address is known, and she may not do everything any more.
    println!("narrowed in {:.1} s", lent.grant(false, Reach::Only(vec![format!("{USER}/32").parse()?]))?);
    assert!(lent.carol(USER, "sudo -n true").is_err());
    if kind != Kind::Fast {
        // The fast guest's kernel has no firewall.
        assert!(lent.carol(STRANGER, "true").is_err(), "a stranger's address is kept out");
        drop(terminal.kill());
        let boot = lent.root("cat /proc/sys/kernel/random/boot_id")?;
        lent.runtime.block_on(Linux.reboot(lent.guest()))?;
        let deadline = Instant::now() + Duration::from_secs(300);
        while lent.root("cat /proc/sys/kernel/random/boot_id").is_ok_and(|now| now == boot)
            || lent.carol(USER, "true").is_err()
        {
            ensure!(Instant::now() < deadline, "she does not get in after a reboot");
            sleep(Duration::from_millis(500));
        }
        assert!(lent.carol(STRANGER, "true").is_err(), "also after a reboot");
    }
    assert_eq!(
        lent.carol(USER, "echo x >/tmp/hers; echo x >/var/tmp/hers; echo x >/dev/shm/hers; id -un")
            .as_deref(),
        Ok("carol")
    );

    assert!(!lent.with_password("correct horse")?);
    lent.runtime.block_on(Linux.password(
        lent.guest(),
        &"carol".parse()?,
        &Secret::new("correct horse".into()),
    ))?;
    assert!(lent.with_password("correct horse")?);
    assert!(!lent.with_password("wrong horse")?);

    println!("sanitized in {:.1} s", lent.sanitize()?);
    terminal.wait()?;
    assert!(lent.carol(USER, "true").is_err());
    assert!(!lent.with_password("correct horse")?);
    assert_eq!(lent.root(TRACES)?, "");
    let after = lent.root(
        "sha256sum /etc/passwd /etc/group /etc/sudoers /etc/ssh/sshd_config; ls -A /home /etc/sudoers.d",
    )?;
    assert_eq!(after, before);
    assert_eq!(lent.sessions()?, Vec::<String>::new());
    println!("sanitized again in {:.1} s", lent.sanitize()?);

    let identity = lent.runtime.block_on(Linux.identity(lent.guest()))?;
    assert_eq!(identity.of("machine-id"), [lent.root("cat /etc/machine-id")?.trim()]);
    assert_eq!(identity.of("mac").len(), 1);
    Ok(())
}

#[test]
fn fast() -> Result<()> {
    life("lent::fast", Kind::Fast)
}

#[test]
#[ignore = "boots an ordinary Debian on an emulated CPU: two minutes"]
fn grub() -> Result<()> {
    life("lent::grub", Kind::Grub)
}
