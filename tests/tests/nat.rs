//! A computer behind a NAT host, from end to end: a PC of namespaces, a host of a namespace of its own with a real sshd and the
//! kernel's nftables, users in a third from which no way leads to the PC but that host's ports. As root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup};
use vcl_tests::pc::{self, Pc};
use vcl_tests::world::World;
use vcl_types::ReservationId;
use vcl_types::api::{Finding, JobView};
use vcl_types::lending::{Connection, ReservationView};
use vcl_types::state::reservation;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
const LONG: Duration = Duration::from_secs(120);
/// The host, as users see it and as the computers do.
const PUBLIC: &str = "192.0.2.7";
const INSIDE: &str = "10.99.0.5";
/// Where she sits, and where somebody else does.
const HERS: &str = "192.0.2.2";
const OTHERS: &str = "192.0.2.3";

/// Looks until it is as wanted. What moves on its own is looked for where no stream tells of it.
fn until<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < end, "{what} did not come within {limit:?}");
        std::thread::sleep(Duration::from_millis(200)); // why: see above
    }
}

/// A network of its own. It ends with its last process.
struct Net(Child);

impl Net {
    fn new() -> Result<Self> {
        let child = Command::new("unshare").args(["--net", "sleep", "infinity"]).spawn()?;
        let own = fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", child.id());
        until(LONG, "a network", || Ok((fs::read_link(&path)? != own).then_some(())))?;
        Ok(Self(child))
    }
    fn pid(&self) -> u32 {
        self.0.id()
    }
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program).stdin(Stdio::null());
        command
    }
    /// Runs a shell's words in it and answers what it said.
    fn sh(&self, script: &str) -> Result<String> {
        let output = self.command("sh").args(["-c", script]).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{script}: {said}{}", String::from_utf8_lossy(&output.stderr));
        Ok(said)
    }
}
impl Drop for Net {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The site: users, the host between, and vcld with the PC behind it.
struct Site {
    users: Net,
    host: Net,
    sshd: Child,
}

impl Site {
    /// After the PC's network is there.
    fn new(path: &Utf8Path) -> Result<Self> {
        let (users, host) = (Net::new()?, Net::new()?);
        pc::keygen(&path.join("nat_host"))?;
        let cables = format!(
            "ip link add in0 type veth peer name inside netns {0} && ip link set in0 master lan0 up && \
             ip link add outside netns {0} type veth peer name eth0 netns {1}",
            host.pid(),
            users.pid()
        );
        ensure!(Command::new("sh").args(["-c", &cables]).status()?.success(), "no cables: {cables}");
        host.sh(&format!(
            "ip link set lo up && ip addr add {INSIDE}/24 dev inside && ip link set inside up && \
             ip addr add {PUBLIC}/24 dev outside && ip link set outside up"
        ))?;
        users.sh(&format!(
            "ip link set lo up && ip addr add {HERS}/24 dev eth0 && ip addr add {OTHERS}/24 dev eth0 && ip link set eth0 up"
        ))?;
        // A host that forwards what others may not send through it, as many do.
        host.sh("nft add table inet site && \
             nft 'add chain inet site through { type filter hook forward priority 0; policy drop; }'")?;
        fs::create_dir_all("/run/sshd")?;
        let mut sshd = host.command("/usr/sbin/sshd");
        sshd.args([
            "-D",
            "-e",
            "-f",
            "/dev/null",
            "-o",
            "UsePAM=no",
            "-o",
            "StrictModes=no",
            "-o",
            "PidFile=none",
        ]);
        sshd.args(["-o", &format!("ListenAddress={INSIDE}"), "-o", &format!("HostKey={path}/nat_host")]);
        sshd.args(["-o", &format!("AuthorizedKeysFile={path}/id.pub"), "-o", "PermitRootLogin=yes"]);
        let sshd = sshd.stderr(Stdio::null()).spawn()?;
        Ok(Self { users, host, sshd })
    }
    /// ssh as a user from one of their addresses, with the host keys that `connect` says and no others.
    fn ssh(&self, from: &str, connection: &Connection, key: &Utf8Path, script: &str) -> Result<Output> {
        let mut known = tempfile::NamedTempFile::new()?;
        for line in &connection.host_keys {
            writeln!(known, "{line}")?;
        }
        let port = connection.methods.iter().find(|way| way.method == "ssh").context("no ssh")?.port;
        let mut ssh = self.users.command("ssh");
        ssh.args(["-b", from, "-F", "none", "-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
        ssh.args(["-o", &format!("UserKnownHostsFile={}", known.path().display()), "-o", "ConnectTimeout=3"]);
        ssh.args(["-i", key.as_str(), "-p", &port.to_string(), "-l", &connection.account]);
        Ok(ssh.args([&connection.address.to_string(), script]).output()?)
    }
    fn gets_in(&self, from: &str, connection: &Connection, key: &Utf8Path) -> Result<bool> {
        let said = self.ssh(from, connection, key, "id -un")?;
        ensure!(!said.status.success() || said.stdout == b"alice\n", "{said:?}");
        Ok(said.status.success())
    }
    /// The ports that have rules on the host, of nftables or of iptables.
    fn rules(&self) -> Result<Vec<String>> {
        let rules = self.host.sh("nft list ruleset; iptables-save")?;
        let behind = rules.split("vcld_nat-").skip(1);
        let ports = behind.map(|text| text.chars().take_while(char::is_ascii_digit).collect::<String>());
        // A chain of iptables is called `vcld_nat-in`.
        let mut ports: Vec<String> = ports.filter(|port| !port.is_empty()).collect();
        ports.sort();
        ports.dedup();
        Ok(ports)
    }
}
impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn state(daemon: &Daemon, id: ReservationId, wanted: reservation::State) -> Result<ReservationView> {
    until(LONG, &format!("state {wanted}"), || {
        let view: ReservationView = daemon.json(&["reservation", "show", &id.to_string()])?;
        Ok((view.state == wanted).then_some(view))
    })
}

fn given_out(daemon: &Daemon) -> Result<String> {
    let findings: Vec<Finding> = daemon.json(&["doctor"])?;
    Ok(findings
        .into_iter()
        .find(|finding| finding.what == "nat")
        .context("no finding of the NAT host")?
        .found)
}

#[test]
fn users_come_by_ports_of_a_nat_host_and_nobody_else_does() -> Result<()> {
    let Some(_world) =
        World::around_test(VCL_WORLD, "users_come_by_ports_of_a_nat_host_and_nobody_else_does")?
    else {
        return Ok(());
    };
    let directory = tempfile::Builder::new().prefix("vcl-nat-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    let key = path.join("id");
    pc::keygen(&key)?;
    let alice = path.join("alice");
    pc::keygen(&alice)?;
    let at = Pc::made(path, &path.join("id.pub"))?;
    let _pc = Pc::start(&at)?;
    let site = Site::new(path)?;
    let host_key = fs::read_to_string(path.join("nat_host.pub"))?;
    let mut setup = Setup::new(path, &key, &[]);
    setup.network = "bridge = \"br0\"".into();
    setup.backend = Some(format!("type = \"sim\"\ndirectory = \"{path}/sim\""));
    setup.more = format!(
        "[backend.pcs]\ntype = \"lab\"\n[network.lab]\nbridge = \"lab\"\naddress = \"static\"\n\
         [deadlines]\nboot = \"60s\"\n[reservations]\ncheck = \"2s\"\nafter_use = \"nothing\"\n\
         [nat.campus]\naddress = \"{PUBLIC}\"\nssh = \"{INSIDE}\"\ninside = \"{INSIDE}\"\nports = \"10000-10009\"\n\
         host_key = \"{}\"\n\
         [computers.lab-01]\nbackend = \"pcs\"\nnetworks = [\"lab\"]\naddress = \"10.99.0.11\"\nnat = \"campus\"\n",
        host_key.trim()
    );
    let mut daemon = Daemon::start(setup)?;
    let _: JobView = daemon.json(&["image", "create", "lab-linux", "--from-vm", "pcs/10.99.0.11"])?;
    let public = format!("{alice}.pub");
    let reserve = || -> Result<ReservationView> {
        daemon.json(&["reserve", "lab-linux", "--for", "alice", "--length", "1h", "--key", &public])
    };
    let view = reserve()?;
    let id = view.id.to_string();
    assert_eq!(view.state, reservation::State::Ready);
    let [line] = &view.connect[..] else { panic!("{:?}", view.connect) };
    assert!(line.starts_with("ssh -p 100") && line.ends_with(" alice@192.0.2.7"), "{line}");

    // One address is let in, and another one after that instead.
    let connect = |daemon: &Daemon, from: &str| -> Result<Connection> {
        daemon.json(&["connect", &id, "--print", "--from", from])
    };
    let other = connect(&daemon, OTHERS)?;
    assert_eq!(other.address.to_string(), PUBLIC);
    assert!(site.gets_in(OTHERS, &other, &alice)? && !site.gets_in(HERS, &other, &alice)?);
    let here = connect(&daemon, HERS)?;
    assert_eq!(here.methods, other.methods, "the port stays hers");
    assert!(site.gets_in(HERS, &here, &alice)? && !site.gets_in(OTHERS, &here, &alice)?);
    let rdp = daemon.refused(&["connect", &id, "--rdp", "x.rdp"])?;
    assert!(rdp.contains("no remote desktop"), "{rdp}");
    assert_eq!(given_out(&daemon)?, "campus answers; 1 of 10 ports are given out");
    let port = here.methods[0].port.to_string();
    assert_eq!(site.rules()?, [port.as_str()]);

    // While vcld is dead the host is booted and loses its rules; and there is one that nobody needs.
    daemon.kill()?;
    site.host.sh("nft flush ruleset && nft add table ip vcld_nat && \
         nft 'add chain ip vcld_nat input { type filter hook input priority -10; }' && \
         nft 'add rule ip vcld_nat input tcp dport 10009 drop comment \"vcld_nat-10009\"'")?;
    assert!(!site.gets_in(HERS, &here, &alice)?);
    daemon.up()?;
    until(LONG, "her rules", || Ok((site.rules()? == [port.as_str()]).then_some(())))?;
    until(LONG, "her way in", || Ok(site.gets_in(HERS, &here, &alice)?.then_some(())))?;
    assert!(!site.gets_in(OTHERS, &here, &alice)?);

    // She is seen, by the account and not by the address, which is the host's.
    let script = "echo $SSH_CONNECTION";
    let said = site.ssh(HERS, &here, &alice, script)?;
    assert!(said.stdout.starts_with(INSIDE.as_bytes()), "{said:?}");

    // Killed while it takes the computer back, it comes to the same end.
    let _: ReservationView = daemon.json(&["release", &id])?;
    daemon.kill()?;
    daemon.up()?;
    state(&daemon, view.id, reservation::State::Ended)?;
    assert_eq!(site.rules()?, [""; 0]);
    assert!(!site.gets_in(HERS, &here, &alice)?);
    assert_eq!(given_out(&daemon)?, "campus answers; 0 of 10 ports are given out");

    // A host that is away when somebody leaves holds nothing up; its port is nobody's until the rule is gone.
    // This time the host is ruled by iptables.
    site.host.sh("nft flush ruleset && iptables -P FORWARD DROP")?;
    let next: ReservationView =
        daemon.json(&["reserve", "lab-linux", "--for", "alice", "--length", "1h", "--key", &public])?;
    let there: Connection = daemon.json(&["connect", &next.id.to_string(), "--print", "--from", HERS])?;
    assert!(site.gets_in(HERS, &there, &alice)? && !site.gets_in(OTHERS, &there, &alice)?);
    let by = site.host.sh("iptables-save -t nat")?;
    assert!(by.contains("-j DNAT") && !site.host.sh("nft list tables")?.contains("vcld_nat"), "{by}");
    assert_ne!(there.methods, here.methods, "a port that was just somebody's rests");
    site.host.sh(
        "nft add table inet away && nft 'add chain inet away input { type filter hook input priority 0; }' && \
         nft add rule inet away input tcp dport 22 reject with tcp reset",
    )?;
    let _: ReservationView = daemon.json(&["release", &next.id.to_string()])?;
    let over = state(&daemon, next.id, reservation::State::Ended)?;
    let events = daemon.events(over.job.context("no job")?)?;
    assert!(events.iter().any(|event| event.kind == "nat-rules-left"), "{events:?}");
    assert_eq!(site.rules()?.len(), 1);
    site.host.sh("nft delete table inet away")?;
    until(LONG, "the end of the rule", || Ok(site.rules()?.is_empty().then_some(())))?;
    until(LONG, "a free port", || {
        Ok((given_out(&daemon)? == "campus answers; 0 of 10 ports are given out").then_some(()))
    })?;
    daemon.stop()?;
    ensure!(Command::new("umount").arg(at.as_str()).status()?.success());
    Ok(())
}
