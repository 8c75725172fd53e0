//! The whole life of nodes of an xCAT management node, through a real daemon: what is on their disks is real, and so is the
//! imaging task that puts it there and takes it off. As root. What goes wrong with a guest takes its time to be noticed, and
//! is tried with `VCL_FULL=1`.

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;
use vcl_tests::daemon::{Daemon, Setup, import_arguments};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;
use vcl_tests::xcatd::{self, Boot, Fault, NodeSetup, Osimage, Xcatd};
use vcl_types::api::{JobView, PowerState};

/// The program that makes a world.
const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
/// How long a job may take here: emulation on a busy machine is slow.
const LONG: Duration = Duration::from_secs(900);
const OSIMAGE: &str = "debian12-x86_64-install-compute";

/// A management node with two nodes whose disks are blank, and a daemon that has them as `n1` and `b`.
struct Case {
    daemon: Daemon,
    xcatd: Xcatd,
    guest: Guest,
    disk: Utf8PathBuf,
    path: Utf8PathBuf,
    _directory: tempfile::TempDir,
}

impl Case {
    /// `None` after the test was run in a world. `more` are further lines of the backend's table.
    fn enter(test: &str, more: &str) -> Result<Option<Self>> {
        Self::with(test, more, Guest::small_disk)
    }

    /// The same, with another disk to import than a guest's.
    fn with(
        test: &str,
        more: &str,
        disk: impl FnOnce(&Guest, &Utf8Path) -> Result<Utf8PathBuf>,
    ) -> Result<Option<Self>> {
        let cache = guest::cache_directory();
        let key = guest::cached_key(&cache)?;
        let public = fs::read_to_string(format!("{key}.pub"))?;
        let guest = Guest::make(Kind::Fast, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
        if World::around_test(VCL_WORLD, test)?.is_none() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("vcl-xcat-").tempdir()?;
        let path = Utf8PathBuf::try_from(directory.path().to_owned())?;
        let boot = guest.direct_boot()?.context("a fast guest boots directly")?;
        let small = disk(&guest, &path)?;
        let mut setup = xcatd::Setup::new(&path);
        for (name, last) in [("n1", 11), ("n2", 12)] {
            let disk = path.join(format!("{name}.qcow2"));
            blank(&disk)?;
            let node = NodeSetup::new(name, &disk, Ipv4Addr::new(127, 0, 1, last));
            setup.nodes.push(node.direct_boot(boot.clone()));
        }
        setup.osimages = vec![Osimage::new(OSIMAGE, Some(&small))];
        setup.genesis = Some(boot);
        let xcatd = Xcatd::start(setup)?;

        let credentials = path.join("credentials");
        fs::create_dir(&credentials)?;
        fs::write(credentials.join("xcat-password"), xcatd.password())?;
        let mut setup = Setup::new(&path.join("node"), &key, &["n1", "b"]);
        let (url, ca, user) = (xcatd.url(), xcatd.ca(), xcatd.user());
        setup.backend = Some(format!(
            "type = \"xcat\"\nurl = \"{url}\"\nca = \"{ca}\"\nuser = \"{user}\"\npoll = \"500ms\"\n\
             password = {{ credential = \"xcat-password\" }}\nnodes = {{ b = \"n2\" }}\n\
             osimages = {{ installed = \"{OSIMAGE}\" }}\n{more}"
        ));
        setup.network = "bridge = \"none\"".into();
        setup.more = format!(
            "[deadlines]\nboot = \"10m\"\n[inbox]\nlisten = \"127.0.0.1:8481\"\nurl = \"http://10.0.2.2:8481\"\n\
             directory = \"{path}/inbox\"\n"
        );
        setup.environment = vec![("CREDENTIALS_DIRECTORY".into(), credentials.into_string())];
        let daemon = Daemon::start(setup)?;
        Ok(Some(Self { daemon, xcatd, guest, disk: small, path, _directory: directory }))
    }

    /// Imports the guest's small disk.
    fn import(&self, image: &str) -> Result<()> {
        let mut words = import_arguments(&self.guest, image, "")?;
        let theirs = self.guest.disk();
        let disk = words.iter_mut().find(|word| **word == theirs).context("no disk is imported")?;
        self.disk.as_str().clone_into(disk);
        let _: JobView = self.daemon.json(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(())
    }

    fn done(&self, arguments: &[&str]) -> Result<JobView> {
        let id = self.daemon.queue(arguments)?;
        let job = self.daemon.wait_end(id, LONG)?;
        let state = job.state;
        ensure!(
            state == vcl_types::state::job::State::Done,
            "{arguments:?} is {state}: {:?}\n{}",
            job.reason,
            self.told()
        );
        Ok(job)
    }

    /// What a failed test is read from: what the nodes booted, the ends of their consoles and of the log.
    fn told(&self) -> String {
        let node = |node| {
            let console = self.xcatd.console(node);
            let from = console.len().saturating_sub(4000);
            let end = console.get(from..).unwrap_or(&console);
            format!("{node} booted {:?}\n{end}\n", self.xcatd.boots(node))
        };
        format!("{}{}{}", node("n1"), node("n2"), self.daemon.log_tail())
    }

    /// Why a job failed.
    fn failed(&self, arguments: &[&str]) -> Result<String> {
        let id = self.daemon.queue(arguments)?;
        let job = self.daemon.wait_end(id, LONG)?;
        let state = job.state;
        ensure!(
            state == vcl_types::state::job::State::Failed,
            "{arguments:?} is {state}: {:?}\n{}",
            job.reason,
            self.told()
        );
        job.reason.context("it failed without a reason")
    }

    /// No box is left, no node is armed, and no secret was told.
    fn nothing_left(&self) -> Result<()> {
        let boxes: Vec<_> = fs::read_dir(self.path.join("inbox"))?.flatten().map(|e| e.file_name()).collect();
        ensure!(boxes.is_empty(), "boxes left: {boxes:?}");
        for node in ["n1", "n2"] {
            let armed = self.xcatd.attribute(node, "currstate").unwrap_or_default();
            ensure!(armed == "boot", "{node} is armed: {armed}");
        }
        let log = fs::read_to_string(self.daemon.log())?;
        ensure!(!log.contains(self.xcatd.password()), "the password is in the log");
        Ok(())
    }
}

/// Whether what takes long is tried too.
fn full() -> bool {
    std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0")
}

/// A disk of a few MiB that no machine could boot: for loads that do not come as far.
fn little(_: &Guest, path: &Utf8Path) -> Result<Utf8PathBuf> {
    let disk = path.join("little.raw");
    let bytes: Vec<u8> = (0..9u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&disk, bytes)?;
    Ok(disk)
}

/// A disk of zeros, somewhat larger than the guest's.
fn blank(disk: &Utf8Path) -> Result<()> {
    let size = (guest::SMALL + 9) << 20;
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", disk.as_str(), &size.to_string()])
        .status()?;
    ensure!(made.success(), "qemu-img failed");
    Ok(())
}

#[test]
fn a_node_is_loaded_captured_and_another_has_what_was_on_it() -> Result<()> {
    let Some(case) = Case::enter("a_node_is_loaded_captured_and_another_has_what_was_on_it", "")? else {
        return Ok(());
    };
    case.import("guest")?;
    case.done(&["load", "n1", "guest"])?;
    assert_eq!(case.xcatd.boots("n1"), [Boot::Genesis, Boot::Disk]);
    case.daemon.ssh("n1", "echo found-me > /root/marker && sync")?;

    let asked = case.xcatd.requests().len();
    let capture = case.done(&["capture", "n1"])?;
    assert_eq!(case.daemon.journal()?.end_state(capture.id)?, "reboot");
    // The guest itself rebooted into the task: nobody touched the power before the disk had come.
    let requests = case.xcatd.requests();
    let power: Vec<_> =
        requests[asked..].iter().filter(|r| r.method == "PUT" && r.path.ends_with("/power")).collect();
    let boots = case.xcatd.boots("n1");
    assert_eq!(boots[..3], [Boot::Genesis, Boot::Disk, Boot::Genesis], "{power:?}");
    assert_eq!(power.len(), 1, "it is powered off once, at the end: {power:?}");
    assert!(!case.xcatd.is_on("n1"));
    let image = case.daemon.image("guest")?;
    assert_eq!(image.revisions.len(), 2);

    case.done(&["load", "b", "guest@2"])?;
    assert_eq!(case.daemon.ssh("b", "cat /root/marker")?.trim(), "found-me");
    assert_eq!(case.xcatd.boots("n2"), [Boot::Genesis, Boot::Disk]);
    let view = case.daemon.computer("b")?;
    assert_eq!(view.power, Some(PowerState::On));
    case.done(&["unload", "b"])?;
    assert!(!case.xcatd.is_on("n2"));
    case.nothing_left()
}

#[test]
fn an_osimage_is_installed_by_xcat() -> Result<()> {
    let Some(case) = Case::enter("an_osimage_is_installed_by_xcat", "")? else { return Ok(()) };
    case.import("installed")?;
    case.done(&["load", "n1", "installed"])?;
    assert_eq!(case.xcatd.boots("n1"), [Boot::Installer, Boot::Disk]);
    assert_eq!(case.xcatd.attribute("n1", "status").as_deref(), Some("booted"));
    case.daemon.ssh("n1", "true")?;
    case.nothing_left()
}

#[test]
fn a_load_that_goes_wrong_at_the_node_is_said_and_leaves_nothing() -> Result<()> {
    let test = "a_load_that_goes_wrong_at_the_node_is_said_and_leaves_nothing";
    let Some(case) = Case::with(test, "contact = \"1m\"", little)? else { return Ok(()) };
    case.import("guest")?;
    let node = || "n1".to_owned();
    let refused = "ERROR: Insufficient privilege level";
    // These are told from a node that is slow only by how long it has not been heard of.
    let unheard = [
        (Fault::TaskRefused { node: node(), times: 1 }, "refuses the task"),
        (Fault::NetbootFails { node: node(), times: 1 }, "is armed still"),
    ];
    let faults = [
        // What xcatd answers 403 to is told in its own words, and with what it means where that is known.
        (Fault::Bmc { node: node(), text: refused.into(), times: 9 }, refused),
        (Fault::BmcPassword { node: node() }, "look at bmcusername and bmcpassword"),
        (Fault::BmcDead { node: node() }, "does the node's service processor answer?"),
        (Fault::TaskLost { node: node(), times: 1 }, "without having imaged"),
        (Fault::WrongDigests { node: node(), times: 1 }, "not what its digests say"),
    ];
    for (fault, told) in faults.into_iter().chain(unheard.into_iter().filter(|_| full())) {
        let name = format!("{fault:?}");
        case.xcatd.fault(fault);
        let why = case.failed(&["load", "n1", "guest"])?;
        case.xcatd.mend();
        assert!(why.contains(told), "{name}: {why}");
        ensure!(!case.xcatd.is_on("n1"), "{name}: the node is left on");
        let left = case.daemon.leftovers()?;
        ensure!(left.is_empty(), "{name}: {left:?}");
        case.nothing_left().context(name)?;
    }
    Ok(())
}

#[test]
fn what_goes_wrong_is_said_and_leaves_nothing() -> Result<()> {
    if !full() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let test = "what_goes_wrong_is_said_and_leaves_nothing";
    let Some(case) = Case::enter(test, "contact = \"2m\"")? else { return Ok(()) };
    case.import("guest")?;
    let node = || "n1".to_owned();
    // Another token is asked for in the middle, and a service processor that is busy for a while is asked again.
    case.xcatd.fault(Fault::TokensExpire);
    case.xcatd.fault(Fault::Bmc { node: node(), text: "ERROR: Node busy".into(), times: 2 });
    case.done(&["load", "n1", "guest"])?;
    case.xcatd.mend();
    // A node that boots back without having imaged: it is said, and the computer goes on as it was.
    case.xcatd.fault(Fault::TaskLost { node: node(), times: 1 });
    let why = case.failed(&["capture", "n1"])?;
    assert!(why.contains("without having imaged"), "{why}");
    case.daemon.ssh("n1", "true")?;
    // One that reports a wrong digest: nothing of what came is kept, and the computer goes on here too.
    case.xcatd.fault(Fault::WrongDigests { node: node(), times: 1 });
    let why = case.failed(&["capture", "n1"])?;
    assert!(why.contains("not what its digests say"), "{why}");
    case.daemon.ssh("n1", "true")?;
    assert_eq!(case.daemon.image("guest")?.revisions.len(), 1);
    case.nothing_left()
}
