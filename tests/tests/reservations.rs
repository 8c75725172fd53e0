//! Reservations on real guests: somebody reserves through vclctl, comes by ssh as themselves, is seen, stays longer, leaves,
//! and nothing of them is left. As root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_job::Record;
use vcl_tests::daemon::{Daemon, Setup};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::journal::describe;
use vcl_tests::pc::{self, Pc};
use vcl_tests::world::World;
use vcl_types::ReservationId;
use vcl_types::api::JobView;
use vcl_types::lending::{Connection, ReservationView};
use vcl_types::state::{computer, reservation};

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
const LONG: Duration = Duration::from_secs(120);
/// How many records the job that takes a computer back has when the guest is clean: what it begins with, and a step.
const CLEANED: usize = 3;

/// Looks until it is as wanted. What moves on its own is looked for where no stream tells of it: inside a guest.
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

fn state(daemon: &Daemon, id: ReservationId, wanted: reservation::State) -> Result<ReservationView> {
    until(LONG, &format!("state {wanted}"), || {
        let view: ReservationView = daemon.json(&["reservation", "show", &id.to_string()])?;
        Ok((view.state == wanted).then_some(view))
    })
}

/// ssh as a user with a key of their own, by what `connect` says; from one of this machine's addresses.
fn ssh_from(from: Option<&str>, connection: &Connection, key: &Utf8Path, command: &str) -> Command {
    let mut ssh = Command::new("ssh");
    ssh.args(from.map(|from| ["-b", from]).into_iter().flatten());
    ssh.args(["-F", "none", "-q", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]);
    ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=10", "-i", key.as_str()]);
    let port = connection.methods.iter().find(|way| way.method == "ssh").map_or(22, |way| way.port);
    ssh.args(["-p", &port.to_string(), "-l", &connection.account, &connection.address.to_string(), command]);
    ssh.stdin(Stdio::null());
    ssh
}

/// A session that stays until it is dropped.
struct Session(Child);
impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_user_comes_is_seen_stays_longer_and_leaves_nothing() -> Result<()> {
    let Some(_world) = World::around_test(VCL_WORLD, "a_user_comes_is_seen_stays_longer_and_leaves_nothing")?
    else {
        return Ok(());
    };
    let directory = tempfile::Builder::new().prefix("vcl-lend-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    let key = path.join("id");
    pc::keygen(&key)?;
    let users = path.join("carol");
    pc::keygen(&users)?;
    let at = Pc::made(path, &path.join("id.pub"))?;
    let _pc = Pc::start(&at)?;
    let mut setup = Setup::new(path, &key, &[]);
    setup.network = "bridge = \"br0\"".into();
    setup.backend = Some(format!("type = \"sim\"\ndirectory = \"{path}/sim\""));
    setup.more = "[backend.pcs]\ntype = \"lab\"\n[network.lab]\nbridge = \"lab\"\naddress = \"static\"\n\
                  [deadlines]\nboot = \"60s\"\n\
                  [reservations]\ncheck = \"2s\"\nafter_use = \"nothing\"\n\
                  [computers.lab-01]\nbackend = \"pcs\"\nnetworks = [\"lab\"]\naddress = \"10.99.0.11\"\n"
        .into();
    let mut daemon = Daemon::start(setup)?;
    let _: JobView = daemon.json(&["image", "create", "lab-linux", "--from-vm", "pcs/10.99.0.11"])?;

    // root reserves for carol and brings her key along.
    let public = format!("{users}.pub");
    let tried = daemon.vclctl(&["reserve", "lab-linux", "--dry-run"])?;
    let tried = String::from_utf8_lossy(&tried.stdout).into_owned();
    assert!(tried.starts_with("it would be lab-01: "), "{tried}");
    let view: ReservationView = daemon.json(&[
        "reserve",
        "lab-linux",
        "--for",
        "carol",
        "--length",
        "1h",
        "--sudo",
        "--key",
        &public,
    ])?;
    assert_eq!((view.state, view.owner.as_str()), (reservation::State::Ready, "carol"));
    let lan = Lan { interface: "lan0", hers: "10.99.0.2", other: "10.99.0.3", firewall: true };
    let here = life(&mut daemon, &view, &users, &lan, &key)?;
    assert_eq!(daemon.computer("lab-01")?.state, computer::State::Available);
    nothing_of_her(&here, &key)
}

/// Where a user sits: on addresses of this machine that are not vcld's, which is always let in.
struct Lan {
    interface: &'static str,
    hers: &'static str,
    other: &'static str,
    /// Whether the guest's kernel has a firewall.
    firewall: bool,
}

/// Nothing of carol is in the guest.
fn nothing_of_her(here: &Connection, root: &Utf8Path) -> Result<()> {
    let look = "getent passwd carol; ls -d /home/carol /var/mail/carol /etc/sudoers.d/*vcld* /var/lib/vcl/access 2>/dev/null; \
                ps -eo user:20 2>/dev/null | grep carol; nft list ruleset 2>/dev/null | grep -i vcld; \
                iptables-save 2>/dev/null | grep -i vcld; true";
    let as_root = Connection { account: "root".into(), ..here.clone() };
    let left = ssh_from(None, &as_root, root, look).output()?;
    assert!(left.status.success(), "{}", String::from_utf8_lossy(&left.stderr));
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{}", String::from_utf8_lossy(&left.stderr));
    Ok(())
}

/// From the first address that she says to the end of her time. The daemon is killed twice: while she works, and when her
/// traces have just been taken off.
fn life(
    daemon: &mut Daemon,
    view: &ReservationView,
    users: &Utf8Path,
    lan: &Lan,
    root: &Utf8Path,
) -> Result<Connection> {
    let (id, name) = (view.id, view.computer.clone().context("it has no computer")?);
    let named = id.to_string();
    for address in [lan.hers, lan.other] {
        let add = ["addr", "add", &format!("{address}/24"), "dev", lan.interface];
        ensure!(Command::new("ip").args(add).status()?.success(), "no address {address}");
    }
    let ssh = |connection: &Connection, key: &Utf8Path, command: &str| {
        ssh_from(Some(lan.hers), connection, key, command)
    };
    if lan.firewall {
        let away: Connection = daemon.json(&["connect", &named, "--print", "--from", lan.other])?;
        assert!(!ssh(&away, users, "true").status()?.success(), "another address was let in");
    }
    let here: Connection = daemon.json(&["connect", &named, "--print", "--from", lan.hers])?;
    assert_eq!(here.account, "carol");
    let said = ssh(&here, users, "id -un; pwd; ! command -v sudo >/dev/null || sudo -n id -u").output()?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(text.starts_with("carol\n/home/carol\n"), "{text} {}", String::from_utf8_lossy(&said.stderr));

    // She is seen, and the computer is in use; what she writes is hers.
    let session = Session(ssh(&here, users, "echo mine > ~/work; cat").stdin(Stdio::piped()).spawn()?);
    let view = state(daemon, id, reservation::State::InUse)?;
    assert!(view.connected.is_some() && view.seen.is_some());
    assert_eq!(daemon.computer(name.as_str())?.state, computer::State::InUse);
    let before = view.end.context("no end")?;
    let longer: ReservationView = daemon.json(&["extend", &named, "--by", "30m"])?;
    assert_eq!((longer.end.unwrap() - before).num_minutes(), 30);
    drop(session);
    state(daemon, id, reservation::State::Ready)?;

    // Killed in the middle of everything, the daemon knows all of it afterwards.
    daemon.kill()?;
    daemon.up()?;
    let again: ReservationView = daemon.json(&["reservation", "show", &named])?;
    assert_eq!((again.owner, again.end, again.connected), (longer.owner, longer.end, view.connected));

    // Its end comes while she sits there: her session ends, and nothing of her is left when the next step has not begun.
    let mut session = Session(ssh(&here, users, "cat").stdin(Stdio::piped()).spawn()?);
    state(daemon, id, reservation::State::InUse)?;
    let mut journal = daemon.journal()?;
    let takes = journal.next_job()?;
    journal.gate(takes, CLEANED)?;
    let soon = (chrono::Utc::now() + chrono::TimeDelta::seconds(4)).to_rfc3339();
    let _: ReservationView = daemon.json(&["extend", &named, "--until", &soon])?;
    until(LONG, "the end of her session", || Ok(session.0.try_wait()?))?;
    until(LONG, "the cleaning", || {
        Ok((journal.count(takes)? == CLEANED && journal.is_held()?).then_some(()))
    })?;
    let last = journal.records(takes)?.pop().context("no record")?;
    assert!(matches!(&last, Record::Done { key, .. } if key.starts_with("sanitize/")), "{}", describe(&last));
    assert!(!ssh(&here, users, "true").status()?.success(), "she is still let in");
    nothing_of_her(&here, root)?;
    daemon.kill()?;
    journal.open_gate()?;
    daemon.up()?;
    let over = state(daemon, id, reservation::State::Ended)?;
    assert_eq!(over.ended_because.as_deref(), Some("its time is over"));
    Ok(here)
}

fn guest_and_world(test: &str, kind: Kind) -> Result<Option<(World, Guest, Utf8PathBuf)>> {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(kind, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
    Ok(World::around_test(VCL_WORLD, test)?.map(|world| (world, guest, key)))
}

#[test]
fn a_warm_virtual_machine_is_usable_within_two_seconds_and_lent_to_its_end() -> Result<()> {
    let test = "a_warm_virtual_machine_is_usable_within_two_seconds_and_lent_to_its_end";
    // The fast guest's kernel has no firewall; an ordinary one takes two minutes to boot on an emulated processor.
    let kind = if std::env::var_os("VCL_FULL").is_some() { Kind::Grub } else { Kind::Fast };
    let Some((world, guest, key)) = guest_and_world(test, kind)? else { return Ok(()) };
    world.libvirt_network("lab", "192.168.70.0".parse()?)?;
    let directory = tempfile::Builder::new().prefix("vcl-warm-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap().join("node");
    fs::create_dir(&path)?;
    let users = path.join("carol");
    pc::keygen(&users)?;
    let mut setup = Setup::new(&path, &key, &["a", "b"]);
    setup.network = "libvirt = \"lab\"\naddress = \"lease\"".into();
    setup.more = "[reservations]\ncheck = \"2s\"\nafter_use = \"nothing\"\n[image.debian]\nwarm = 1\n".into();
    let mut daemon = Daemon::start(setup)?;
    let cmdline = guest.direct_boot()?.map(|boot| boot.cmdline).unwrap_or_default();
    daemon.import(&guest, "debian", &cmdline)?;
    let warm = until(LONG * 3, "a warm computer", || {
        for name in ["a", "b"] {
            let view = daemon.computer(name)?;
            if view.state == computer::State::Available && view.loaded.is_some() && view.job.is_none() {
                return Ok(Some(name));
            }
        }
        Ok(None)
    })?;
    let public = format!("{users}.pub");
    let begun = Instant::now();
    let view: ReservationView =
        daemon.json(&["reserve", "debian", "--for", "carol", "--length", "1h", "--key", &public])?;
    let took = begun.elapsed();
    assert_eq!(view.computer.as_ref().unwrap().as_str(), warm);
    let usable = view.usable.unwrap() - view.since;
    println!(
        "{{\"bench\":\"warm\",\"reserve_to_usable_ms\":{},\"vclctl_ms\":{}}}",
        usable.num_milliseconds(),
        took.as_millis()
    );
    // Of a busy machine more is not asked than that nothing was loaded.
    let job = daemon.job(view.job.unwrap())?;
    assert!(job.steps.iter().all(|step| !step.name.starts_with("load/")), "{:?}", job.steps);
    until(LONG * 3, "another warm computer", || {
        let other = if warm == "a" { "b" } else { "a" };
        let view = daemon.computer(other)?;
        Ok((view.loaded.is_some() && view.job.is_none()).then_some(()))
    })?;
    let lan = Lan {
        interface: "vb-lab",
        hers: "192.168.70.2",
        other: "192.168.70.3",
        firewall: kind != Kind::Fast,
    };
    life(&mut daemon, &view, &users, &lan, &key)?;

    // What was used is not given to the next as it is.
    assert!(
        daemon.computer(warm)?.loaded.is_none() || daemon.computer(warm)?.loaded.unwrap().since > view.since
    );
    Ok(())
}
