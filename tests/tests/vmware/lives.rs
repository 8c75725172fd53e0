//! Load, marker, capture, load elsewhere, marker found: with a real guest's bytes, through a real daemon. The guest boots
//! from its machine's own file on the double's datastore; only its kernel comes from beside it, which spares a minute of
//! grub. As root. Captures into templates are tried with `VCL_FULL=1`.

use crate::bench::{flat, template};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;
use vcl_tests::daemon::{Daemon, Setup};
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::vcsim::{self, Guests, Mode, Vcsim};
use vcl_tests::world::World;
use vcl_types::api::{JobView, Orphans, PowerState, RevisionView};

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
/// How long a job may take here: emulation on a busy machine is slow.
const LONG: Duration = Duration::from_secs(600);
/// The computers: a name, a card, an address of the world's own.
const COMPUTERS: [(&str, &str, Ipv4Addr); 2] = [
    ("a", "02:00:00:00:07:01", Ipv4Addr::new(10, 99, 7, 1)),
    ("b", "02:00:00:00:07:02", Ipv4Addr::new(10, 99, 7, 2)),
];

/// A server whose machines are real guests, and a daemon that has it as a backend.
struct Site {
    daemon: Daemon,
    double: Vcsim,
    path: Utf8PathBuf,
    _directory: tempfile::TempDir,
}

impl Site {
    /// `None` after the test was run in a world. `more` are further lines of the backend's table.
    fn enter(test: &str, mode: Mode, more: &str) -> Result<Option<Self>> {
        let cache = guest::cache_directory();
        let key = guest::cached_key(&cache)?;
        let public = fs::read_to_string(format!("{key}.pub"))?;
        let guest = Guest::make(Kind::Fast, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
        vcsim::program()?;
        if World::around_test(VCL_WORLD, test)?.is_none() {
            return Ok(None);
        }
        let mut guests = Guests::of(&guest)?;
        for (_, mac, address) in COMPUTERS {
            guests = guests.at(mac, address);
            let add = ["address", "add", &format!("{address}/32"), "dev", "lo"];
            ensure!(Command::new("ip").args(add).status()?.success(), "the world does not get {address}");
        }
        let double = Vcsim::builder(mode).login("vcl", "a-long-secret").guests(guests).start()?;

        let directory = tempfile::Builder::new().prefix("vcl-vmware-").tempdir()?;
        let path = Utf8PathBuf::try_from(directory.path().to_owned())?;
        let credentials = path.join("credentials");
        fs::create_dir(&credentials)?;
        fs::write(credentials.join("server"), double.password())?;
        let mut setup = Setup::new(&path.join("node"), &key, &[]);
        let (kind, cluster) = match mode {
            Mode::VCenter => ("vmware", "cluster = \"DC0_C0\"\n"),
            Mode::Esx => ("esx", ""),
        };
        let (server, user, sha256, datastore) =
            (double.address(), double.user(), double.sha256(), double.datastore());
        setup.backend = Some(format!(
            "type = \"{kind}\"\nserver = \"{server}\"\nuser = \"{user}\"\npassword = {{ credential = \"server\" }}\n\
             fingerprint = \"{sha256}\"\ndatastore = \"{datastore}\"\ndirectory = \"{path}/scratch\"\n{cluster}{more}"
        ));
        setup.network = "portgroup = \"VM Network\"\naddress = \"static\"".into();
        for (name, mac, address) in COMPUTERS {
            setup.more_computers.push_str(&format!(
                "\"{name}\" = {{ backend = \"kvm\", memory = \"256M\", mac = \"{mac}\", address = \"{address}\", \
                 networks = [\"net\"] }}\n"
            ));
        }
        setup.more = "[deadlines]\nboot = \"5m\"\nshutdown = \"90s\"\n".into();
        setup.environment = vec![("CREDENTIALS_DIRECTORY".into(), credentials.into_string())];
        let daemon = Daemon::start(setup)?;
        // Without a kernel beside it: what a VMware machine starts is its disk.
        let disk = guest.small_disk(&path)?;
        let import = ["image", "import", "debian", disk.as_str(), "--memory", "256M"];
        let _: JobView = daemon.json(&import)?;
        Ok(Some(Self { daemon, double, path, _directory: directory }))
    }

    fn done(&self, arguments: &[&str]) -> Result<JobView> {
        let id = self.daemon.queue(arguments)?;
        self.daemon.wait_end(id, LONG).and_then(|job| {
            let (state, reason) = (job.state, &job.reason);
            ensure!(
                state == vcl_types::state::job::State::Done,
                "{arguments:?} is {state}: {reason:?}\n{}\n{}",
                self.daemon.log_tail(),
                self.double.log()
            );
            Ok(job)
        })
    }

    /// What tells a guest from all others: its machine-id, and its host keys.
    fn identity(&self, computer: &str) -> Result<(String, String)> {
        let keys = "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2";
        Ok((self.daemon.ssh(computer, "cat /etc/machine-id")?, self.daemon.ssh(computer, keys)?))
    }

    /// Whether a computer's machine is on, with the bytes of its own file on the datastore as its disk.
    fn lives_on_the_datastore(&self, computer: &str) -> Result<()> {
        let machine = self.double.machine(&format!("vcl-{computer}"))?.context("there is no machine")?;
        ensure!(machine.power == "poweredOn" && !machine.template, "{machine:?}");
        let disk = flat(&self.double.datastore_directory(), &machine.disks[0]);
        ensure!(disk.as_str().contains(&format!("/vcl-{computer}/")), "its disk is {disk}");
        let log = self.double.log();
        ensure!(
            log.contains(&format!("format=raw,cache=unsafe,file={disk}")),
            "{disk} is not what boots:\n{log}"
        );
        ensure!(self.daemon.computer(computer)?.power == Some(PowerState::On), "vcld says it is off");
        Ok(())
    }

    /// Only what is kept for later loads is there: the images of these contents, or templates over them.
    fn only_images_left(&self, revisions: &[RevisionView]) -> Result<()> {
        let content = |r: &RevisionView| r.manifest.disks[0].content_digest.to_string();
        let contents: BTreeSet<String> = revisions.iter().map(content).collect();
        let templates: BTreeSet<String> =
            revisions.iter().map(|r| template(&content(r), &r.manifest.hardware)).collect();
        let names = |directory: &Utf8Path| -> Result<BTreeSet<String>> {
            directory.read_dir_utf8()?.map(|entry| Ok(entry?.file_name().to_owned())).collect()
        };
        let datastore = self.double.datastore_directory();
        let mut may = BTreeSet::from(["vcl-images".to_owned()]);
        for machine in self.double.machines()? {
            ensure!(machine.template && templates.contains(&machine.name), "left at the server: {machine:?}");
            let path = machine.path.split_once("] ").map_or("", |(_, path)| path);
            may.extend(path.split_once('/').map(|(directory, _)| directory.to_owned()));
        }
        let there = names(&datastore)?;
        ensure!(there.is_subset(&may), "left on the datastore: {there:?}, where {may:?} may be");
        let images = names(&datastore.join("vcl-images"))?;
        ensure!(images.is_subset(&contents), "left among the images: {images:?}, which are of {contents:?}");
        ensure!(names(&self.path.join("scratch"))?.is_empty(), "left in the scratch directory");
        let left = self.daemon.leftovers()?;
        ensure!(left.is_empty(), "left in the library: {left:?}");
        let orphans: Orphans = self.daemon.json(&["orphans", "list"])?;
        ensure!(orphans.found.is_empty() && orphans.unseen.is_empty(), "{orphans:?}");
        Ok(())
    }
}

fn round(test: &str, mode: Mode, more: &str) -> Result<()> {
    let Some(mut site) = Site::enter(test, mode, more)? else { return Ok(()) };
    site.done(&["load", "a", "debian"])?;
    site.lives_on_the_datastore("a")?;
    let first = site.identity("a")?;
    site.daemon.ssh("a", "echo found-me > /root/marker && sync")?;

    site.double.forget_calls()?;
    let capture = site.done(&["capture", "a"])?;
    assert_eq!(site.daemon.journal()?.end_state(capture.id)?, "off");
    // The guest itself did it: nobody cut its power or asked anything of it through the server.
    for method in ["PowerOffVM_Task", "ShutdownGuest", "RebootGuest", "ResetVM_Task"] {
        assert_eq!(site.double.count(method)?, 0, "{method}");
    }
    assert!(site.daemon.events(capture.id)?.iter().all(|event| event.kind != "forced-off"));
    assert_eq!(site.double.machine("vcl-a")?, None);
    let image = site.daemon.image("debian")?;
    assert_eq!(image.revisions.len(), 2);

    // Another computer has what was written, and is another.
    site.done(&["load", "b", "debian@2"])?;
    site.lives_on_the_datastore("b")?;
    assert_eq!(site.daemon.ssh("b", "cat /root/marker")?, "found-me");
    assert_eq!(site.daemon.ssh("b", "hostname")?, "b");
    let second = site.identity("b")?;
    assert!(first.0 != second.0 && first.1 != second.1, "{first:?} {second:?}");
    site.done(&["unload", "b"])?;
    for revision in ["debian@2", "debian@1"] {
        let _: JobView = site.daemon.json(&["image", "delete", revision, "--now", "--yes"])?;
    }
    site.only_images_left(&image.revisions)?;

    site.daemon.stop()?;
    assert_eq!(site.double.sessions()?, 0);
    let log = fs::read_to_string(site.daemon.log())?;
    assert!(!log.contains(site.double.password()), "the password is in the log");
    Ok(())
}

#[test]
fn a_marker_goes_from_clone_to_clone() -> Result<()> {
    round("lives::a_marker_goes_from_clone_to_clone", Mode::VCenter, "method = \"clone\"\n")
}

#[test]
fn a_marker_goes_through_a_captured_template() -> Result<()> {
    let test = "lives::a_marker_goes_through_a_captured_template";
    if !std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0") {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    round(test, Mode::VCenter, "method = \"clone\"\ncapture = \"template\"\n")
}

#[test]
fn a_marker_goes_from_copy_to_copy_at_a_vcenter() -> Result<()> {
    round("lives::a_marker_goes_from_copy_to_copy_at_a_vcenter", Mode::VCenter, "method = \"copy\"\n")
}

#[test]
fn a_marker_goes_from_copy_to_copy_at_a_host() -> Result<()> {
    round("lives::a_marker_goes_from_copy_to_copy_at_a_host", Mode::Esx, "")
}
