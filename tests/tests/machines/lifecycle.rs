//! Load, capture, load the capture; and everything a person does around it.

use crate::Case;
use anyhow::{Context, Result, ensure};
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{ComputerView, Console, JobView, PowerState};
use vcl_types::state::computer::State;

fn identity(daemon: &Daemon, computer: &str) -> Result<(String, String)> {
    let keys = daemon.ssh(computer, "cat /etc/ssh/ssh_host_*_key.pub | cut -d' ' -f1,2")?;
    Ok((daemon.ssh(computer, "cat /etc/machine-id")?, keys))
}

#[test]
fn a_guest_s_whole_life() -> Result<()> {
    let Some(case) = Case::enter("lifecycle::a_guest_s_whole_life", Kind::Fast)? else { return Ok(()) };
    let daemon = Daemon::start(case.setup(&["a", "b"]))?;
    case.import(&daemon, "debian", "")?;

    // Loaded: ready, reachable, its own name, its host keys pinned.
    let job: JobView = daemon.json(&["load", "a", "debian"])?;
    assert!(job.steps.iter().any(|s| s.name == "load/start"), "{:#?}", job.steps);
    let a: ComputerView = daemon.computer("a")?;
    assert_eq!((a.state, a.power), (State::Reserved, Some(PowerState::On)));
    assert!(!a.loaded.context("not loaded")?.endpoint.host_keys.keys.is_empty());
    assert_eq!(daemon.ssh("a", "hostname; cat /etc/hostname")?, "a\na");
    let first = identity(&daemon, "a")?;

    // Looked at.
    daemon.ssh("a", "printf '\\033[31mhello console\\n' > /dev/ttyS0")?;
    let console: Console = daemon.json(&["computer", "console", "a"])?;
    assert!(console.text.contains("hello console") && !console.text.contains('\u{1b}'), "{:?}", console.text);
    let picture = case.path().join("a.png");
    assert!(daemon.vclctl(&["computer", "screenshot", "a", "-o", picture.as_str()])?.status.success());
    assert_eq!(&std::fs::read(&picture)?[1..4], b"PNG");

    // Two computers of one revision that nobody generalised share no identity either.
    let _: JobView = daemon.json(&["load", "b", "debian@1"])?;
    let other = identity(&daemon, "b")?;
    assert!(first.0 != other.0 && first.1 != other.1, "{first:?} {other:?}");
    assert!(daemon.refused(&["image", "delete", "debian@1", "--yes"])?.contains("loaded on a, b"));
    let _: JobView = daemon.json(&["unload", "b"])?;

    // Captured as a new image, and given back.
    daemon.ssh("a", "echo kept > /root/marker; echo secret > /root/.bash_history; sync")?;
    let capture: JobView = daemon.json(&["capture", "a", "--new", "lab", "--note", "with a marker"])?;
    assert_eq!(daemon.journal()?.end_state(capture.id)?, "off");
    let a = daemon.computer("a")?;
    assert_eq!((a.state, a.power, a.loaded), (State::Available, Some(PowerState::Absent), None));
    let lab = daemon.image("lab")?;
    assert_eq!(
        lab.revisions[0].manifest.parent.as_ref().map(ToString::to_string).as_deref(),
        Some("debian@1")
    );
    assert!(lab.revisions[0].manifest.generalised);

    // The capture holds what was made and nothing that tells who it was.
    let _: JobView = daemon.json(&["load", "b", "lab"])?;
    assert_eq!(daemon.ssh("b", "cat /root/marker")?, "kept");
    assert_eq!(daemon.ssh("b", "test -s /root/.bash_history && echo there || echo gone")?, "gone");
    assert_eq!(daemon.ssh("b", "hostname")?, "b");
    let new = identity(&daemon, "b")?;
    assert!(new.0 != first.0 && new.1 != first.1);

    // Kept off after a capture; off is refused, unless it may be powered on.
    let _: JobView = daemon.json(&["capture", "b", "--after", "keep-off"])?;
    assert_eq!(daemon.computer("b")?.power, Some(PowerState::Off));
    let job = crate::failed(&daemon, &["capture", "b"])?;
    let reason = job.reason.unwrap_or_default();
    assert!(reason.contains("--power-on") && reason.contains("vclctl computer power b on"), "{reason}");
    let _: JobView = daemon.json(&["capture", "b", "--power-on"])?;
    assert_eq!(daemon.image("lab")?.revisions.len(), 3);

    // Verified, exported, imported again with the same content.
    let _: JobView = daemon.json(&["image", "verify", "lab@3"])?;
    let out = case.path().join("lab.raw");
    let _: JobView = daemon.json(&["image", "export", "lab@3", out.as_str(), "--format", "raw"])?;
    let again: JobView = daemon.json(&["image", "import", "copy", out.as_str()])?;
    assert_eq!(again.result.as_deref(), Some("copy@1"));
    let content = |name: &str, n: usize| -> Result<_> {
        Ok(daemon.image(name)?.revisions[n].manifest.disks[0].content_digest.clone())
    };
    assert_eq!(content("copy", 0)?, content("lab", 2)?);
    assert!(daemon.refused(&["image", "export", "lab@3", out.as_str()])?.contains("lab.raw"));
    // Each is stored over the one that it was loaded from.
    assert!(daemon.refused(&["image", "delete", "lab@1", "--now", "--yes"])?.contains("stored over lab@1"));
    for revision in ["copy@1", "lab@3", "lab@2", "lab@1", "debian@1"] {
        let _: JobView = daemon.json(&["image", "delete", revision, "--now", "--yes"])?;
    }
    case.nothing_left(&daemon)
}

#[test]
fn an_ordinary_debian_disk_is_loaded_and_captured() -> Result<()> {
    let test = "lifecycle::an_ordinary_debian_disk_is_loaded_and_captured";
    let Some(case) = Case::enter(test, Kind::Grub)? else { return Ok(()) };
    let mut setup = case.setup(&["a"]);
    setup.more = "[deadlines]\nboot = \"9m\"\nshutdown = \"4m\"\n".into();
    // On a network of libvirt's with DHCP, as a site would have it.
    let network = case.world.libvirt_network("lab", std::net::Ipv4Addr::new(192, 168, 70, 0))?;
    setup.network = format!("libvirt = \"{}\"\naddress = \"lease\"", network.name);
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    let _: JobView = daemon.json(&["load", "a", "debian"])?;
    let before = identity(&daemon, "a")?;
    ensure!(daemon.endpoint("a")?.address.to_string().starts_with("192.168.70."));
    daemon.ssh("a", "echo kept > /root/marker; sync")?;
    let _: JobView = daemon.json(&["capture", "a"])?;
    // What the capture holds is proven with the machines that an admin made, which are of the same kind.
    let manifest = daemon.image("debian")?.revisions[1].manifest.clone();
    ensure!(manifest.generalised && before.0.len() == 32);
    case.nothing_left(&daemon)
}
