//! Real guests that are configured by the daemon: as jobs, before anybody gets them, and over its death.

use crate::Case;
use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::{self, Kind};
use vcl_types::api::{ComputerView, ConfiguredView, EvidenceView, JobView};
use vcl_types::lending::ReservationView;
use vcl_types::state::computer::State;
use vcl_types::state::job::State::{Cancelled, Done, Failed};

/// A type whose objects are lines of a file, and one whose code comes to its end when it is told to. Both say in a log when
/// their code runs.
const TYPES: &[(&str, &str)] = &[
    (
        "type/__noted/explorer/there",
        "grep -qx -- \"$__object_id\" /root/noted 2>/dev/null && echo yes; exit 0",
    ),
    (
        "type/__noted/gencode-remote",
        "[ \"$(cat \"$__object/explorer/there\")\" = yes ] && exit 0\n\
         echo \"echo $__object_id >>/root/noted; echo $__object_id >>/root/log\"",
    ),
    ("type/__waits/explorer/gone", "[ -e /root/gone ] && echo yes; exit 0"),
    (
        "type/__waits/gencode-remote",
        "[ \"$(cat \"$__object/explorer/gone\")\" = yes ] && exit 0\n\
         echo 'echo waits >>/root/log; until [ -e /root/go ]; do sleep 0.2; done; touch /root/gone'",
    ),
    ("type/__fails/gencode-remote", "echo 'echo no such licence >&2; exit 3'"),
    ("manifest/lab", "__noted lab"),
    ("manifest/long", "export CDIST_ORDER_DEPENDENCY=1\n__noted first\n__waits here\n__noted last"),
    ("manifest/bad", "__noted before\nrequire=__noted/before __fails licence"),
    ("manifest/wanted", "__noted wanted"),
];
/// A playbook: it reaches the computer by what it is told, and knows nothing of the daemon.
const PLAYBOOK: &str = "#!/bin/sh\nset -eu\nenv >\"$HOME/../../environment\"\necho \"for $VCLD_COMPUTER with tags $VCLD_TAGS\"\n\
    ssh -F \"$VCLD_SSH_CONFIG\" \"$VCLD_COMPUTER\" 'echo played >>/root/log'\n";
/// One that Ansible plays. `raw` needs no Python on the computer.
const ANSIBLE: &str =
    "- hosts: all\n  gather_facts: false\n  tasks:\n  - name: say so\n    raw: echo ansible >>/root/log\n";
/// Whether code of an object still runs in a guest. Its own command line is not what it looks for.
const RUNS: &str = "grep -ls 'code-remot[e]' /proc/[0-9]*/cmdline | grep -q .";

fn write(conf: &Utf8Path, name: &str, text: &str) -> Result<()> {
    let path = conf.join(name);
    fs::create_dir_all(path.parent().context("no directory")?)?;
    fs::write(&path, text)?;
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
}

/// Waits until a line of sh succeeds in a guest.
fn until(daemon: &Daemon, line: &str) -> Result<()> {
    let begun = Instant::now();
    while daemon.ssh("a", line).is_err() {
        ensure!(begun.elapsed() < crate::LONG, "`{line}` does not become true; {}", daemon.log_tail());
    }
    Ok(())
}

/// The program that configures, as the daemon has started it.
fn engine() -> Result<Pid> {
    for process in fs::read_dir("/proc")? {
        let process = process?;
        let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if words.contains(&b"--lines".as_slice())
            && words.first().is_some_and(|word| word.ends_with(b"vclctl"))
        {
            let pid = process.file_name().to_string_lossy().parse()?;
            return Pid::from_raw(pid).context("no number of a process");
        }
    }
    anyhow::bail!("nothing configures")
}

/// Whether a connection of Ansible's is kept.
fn connected() -> Result<bool> {
    for process in fs::read_dir("/proc")? {
        let line = fs::read(process?.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.starts_with("ssh: ") && line.contains(".ansible/cp/") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn log(daemon: &Daemon) -> Result<Vec<String>> {
    Ok(daemon.ssh("a", "cat /root/log")?.lines().map(str::to_owned).collect())
}

#[test]
fn a_computer_is_configured_before_anybody_gets_it_and_by_jobs_that_outlive_the_daemon() -> Result<()> {
    let test =
        "configured::a_computer_is_configured_before_anybody_gets_it_and_by_jobs_that_outlive_the_daemon";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&[]);
    setup.more.push_str(
        "[reservations]\nafter_use = \"nothing\"\n[image.debian]\nconfigure = \"lab\"\n[image.ill]\nconfigure = \"bad\"\n\
         [tag.played]\nconfigure = \"play\"\n",
    );
    setup.more_computers =
        "\"a\" = { backend = \"kvm\", memory = \"256M\", networks = [\"net\"], tags = [\"played\"] }\n"
            .into();
    let mut daemon = Daemon::prepare(setup)?;
    let conf = daemon.directory().join("conf");
    for (name, text) in TYPES {
        write(&conf, name, text)?;
    }
    write(&conf, "playbook/play", PLAYBOOK)?;
    write(&conf, "playbook/site.yml", ANSIBLE)?;
    write(&conf, "playbook/ansible.cfg", "[defaults]\ndisplay_args_to_stdout = true\n")?;
    let kept = daemon.directory().join("configure");
    let ansible = guest::cache_directory().with_file_name("people").join("ansible-venv/bin");
    let path = format!("{ansible}:{}", std::env::var("PATH")?);
    daemon.set_environment(&[("SECRET_OF_THE_DAEMON", "x"), ("PATH", &path)]);
    daemon.up()?;
    case.import(&daemon, "debian", "")?;
    case.import(&daemon, "ill", "")?;

    // What cannot be configured nobody gets.
    let job = daemon.queue(&["load", "a", "ill"])?;
    let ended = daemon.wait_end(job, crate::LONG)?;
    ensure!(ended.state == Failed, "{ended:#?}");
    let reason = ended.reason.context("no reason")?;
    for part in ["manifest `bad`", "__fails/licence", "exit code 3", "no such licence", "manifest/bad:2"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let view: ComputerView = daemon.computer("a")?;
    assert_eq!((view.state, view.loaded), (State::Available, None));

    // The image's manifest, then the tag's playbook, then it is somebody's.
    let loaded: JobView = daemon.json(&["load", "a", "debian"])?;
    ensure!(loaded.state == Done, "{loaded:#?}");
    assert_eq!(log(&daemon)?, ["lab", "played"]);
    let environment = fs::read_to_string(kept.join("environment"))?;
    assert!(!environment.contains("SECRET_OF_THE_DAEMON") && environment.contains("VCLD_TAGS=played"));
    let evidence: Vec<EvidenceView> = daemon.json(&["job", "evidence", &loaded.id.to_string()])?;
    let names: Vec<&str> = evidence.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["configure-lab.json", "configure-play.txt"]);

    // A job of its own; what is as it should be is left alone, and a dry run changes nothing.
    let again: JobView = daemon.json(&["configure", "a", "-i", "lab"])?;
    assert_eq!(again.result.as_deref(), Some("1 object, 0 changed"));
    let dry: JobView = daemon.json(&["configure", "a", "-i", "wanted", "--dry-run"])?;
    assert_eq!(dry.result.as_deref(), Some("1 object, 1 would change"));
    assert_eq!(log(&daemon)?.len(), 2);
    let unknown = daemon.refused(&["configure", "a", "-i", "nothing"])?;
    assert!(unknown.contains("there are: bad, lab, long, play, site, wanted"), "{unknown}");

    // Ansible itself plays on it, and no connection of it stays.
    let played: JobView = daemon.json(&["configure", "a", "-i", "site"])?;
    ensure!(played.state == Done, "{played:#?}");
    assert_eq!(log(&daemon)?, ["lab", "played", "ansible"]);
    let said = daemon.vclctl(&["job", "evidence", &played.id.to_string(), "configure-site.txt"])?.stdout;
    let said = String::from_utf8(said)?;
    assert!(said.contains("TASK [say so _raw_params=echo ansible") && said.contains("changed=1"), "{said}");
    assert!(!connected()?, "Ansible is still connected");
    let dry: JobView = daemon.json(&["configure", "a", "-i", "site", "--dry-run"])?;
    ensure!(dry.state == Done && log(&daemon)?.len() == 3, "{dry:#?}");

    // What the last run has found that the one before had not.
    let seen: Vec<ConfiguredView> = daemon.json(&["configure", "diff", "a"])?;
    let [lab] = seen.as_slice() else { anyhow::bail!("{seen:#?}") };
    ensure!(lab.manifest.as_str() == "lab" && lab.before.is_some(), "{seen:#?}");
    let parts: Vec<&str> = lab.changes.iter().map(|change| change.part.as_str()).collect();
    assert_eq!(parts, ["code-remote", "explorer/there"]);

    // The daemon dies in the middle of an object's code. What was done before is not done again.
    let job = daemon.queue(&["configure", "a", "-i", "long"])?;
    until(&daemon, "grep -qx waits /root/log")?;
    daemon.kill()?;
    daemon.up()?;
    until(&daemon, "[ $(grep -cx waits /root/log) = 2 ]")?;
    daemon.ssh("a", "touch /root/go")?;
    let ended = daemon.wait_end(job, crate::LONG)?;
    ensure!(ended.state == Done, "{ended:#?}");
    assert_eq!(ended.result.as_deref(), Some("3 objects, 3 changed"));
    assert_eq!(log(&daemon)?, ["lab", "played", "ansible", "first", "waits", "waits", "last"]);
    assert!(daemon.ssh("a", RUNS).is_err(), "the first life's code still runs");

    // Called off, it ends there too.
    daemon.ssh("a", "rm /root/go /root/gone; : >/root/log")?;
    let job = daemon.queue(&["configure", "a", "-i", "long"])?;
    until(&daemon, "grep -qx waits /root/log")?;
    let _: JobView = daemon.json(&["job", "cancel", &job.to_string()])?;
    let ended = daemon.wait_end(job, crate::LONG)?;
    ensure!(ended.state == Cancelled, "{ended:#?}");
    assert!(daemon.ssh("a", RUNS).is_err(), "what was called off still runs");
    let left: Vec<_> = fs::read_dir(kept.join("runs"))?.collect();
    assert!(left.is_empty(), "{left:?}");

    // The program that does it is killed: what it has left there is ended by its notes.
    daemon.ssh("a", ": >/root/log")?;
    let job = daemon.queue(&["configure", "a", "-i", "long"])?;
    until(&daemon, "grep -qx waits /root/log")?;
    kill_process(engine()?, Signal::KILL)?;
    let ended = daemon.wait_end(job, crate::LONG)?;
    ensure!(ended.state == Failed, "{ended:#?}");
    assert!(daemon.ssh("a", RUNS).is_err(), "what nobody waits for still runs");

    // What somebody asks for with a reservation is there before they come.
    let _: JobView = daemon.json(&["unload", "a"])?;
    let reserved: ReservationView = daemon.json(&["reserve", "debian", "--configure", "wanted"])?;
    assert_eq!(log(&daemon)?, ["lab", "played", "wanted"]);
    assert!(daemon.refused(&["reserve", "debian", "--configure", "x"])?.contains("`configure`"));
    let released: ReservationView = daemon.json(&["release", &reserved.id.to_string()])?;
    let back = daemon.wait_end(released.job.context("nobody takes it back")?, crate::LONG)?;
    ensure!(back.state == Done, "{back:#?}");
    case.nothing_left(&daemon)
}
