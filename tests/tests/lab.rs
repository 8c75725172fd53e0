//! A lab PC from end to end: a real sshd with processes, files and a network of its own, lent by a real daemon. As root.
//!
//! The PC is one of `vcl_tests::pc`. It comes back when a wake-on-LAN packet for its MAC address has been seen.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Result, ensure};
use camino::Utf8Path;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::{Duration, Instant};
use vcl_tests::daemon::{Daemon, Setup, Simulated};
use vcl_tests::pc::{self, Pc};
use vcl_tests::world::World;
use vcl_types::api::{BackendView, ComputerView, JobView, PowerState};
use vcl_types::state::job::State;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
const MAC: &str = "00:16:3e:4a:00:01";
const LONG: Duration = Duration::from_secs(60);

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
    let key = path.join("id");
    pc::keygen(&key)?;
    let at = Pc::made(path, &path.join("id.pub"))?;
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
