//! Nodes that are guests: what they boot is what they are armed with, and a task runs in a real imaging environment.

use super::{ask, log_in};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;
use vcl_tests::xcatd::{Boot, Fault, NodeSetup, Osimage, Setup, Xcatd};
use vcl_types::Digest;

/// The program that makes a world.
const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
/// How long a guest may take over anything: emulation on a busy machine is slow.
const LONG: Duration = Duration::from_secs(300);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 11);
const STATUS: &str = "status";

/// A management node with one node, and what it takes to look into that.
struct Case {
    xcatd: Xcatd,
    token: String,
    key: Utf8PathBuf,
    disk: Utf8PathBuf,
    tasks: Tasks,
    _directory: tempfile::TempDir,
}

impl Case {
    /// `None` after the test was run in a world, in which port 22 is nobody else's.
    fn enter(test: &str, blank: bool, node: fn(NodeSetup) -> NodeSetup) -> Result<Option<Self>> {
        let cache = guest::cache_directory();
        let key = guest::cached_key(&cache)?;
        let public = fs::read_to_string(format!("{key}.pub"))?;
        let guest = Guest::make(Kind::Fast, &cache, &public, &mut |p| eprintln!("{p:?}"))?;
        if World::around_test(VCL_WORLD, test)?.is_none() {
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("vcl-xcatd-").tempdir()?;
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let disk = path.join("n1.qcow2");
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q", "-f", "qcow2"]);
        if !blank {
            create.args(["-F", "qcow2", "-b", guest.disk().canonicalize_utf8()?.as_str()]);
        }
        create.arg(&disk).args(blank.then_some("1G"));
        ensure!(create.status()?.success(), "qemu-img failed");

        let mut setup = Setup::new(path);
        let boot = guest.direct_boot()?.context("a fast guest boots directly")?;
        setup.nodes = vec![node(NodeSetup::new("n1", &disk, ADDRESS).direct_boot(boot.clone()))];
        setup.osimages = vec![Osimage::new("debian12-x86_64-install-compute", Some(&guest.disk()))];
        setup.genesis = Some(boot);
        let xcatd = Xcatd::start(setup)?;
        let token = log_in(&xcatd)?;
        Ok(Some(Self { xcatd, token, key, disk, tasks: Tasks::serve()?, _directory: directory }))
    }

    /// A call that has to go well.
    fn put(&self, resource: &str, sent: &str) -> Result<()> {
        let request = format!("PUT /nodes/n1/{resource}");
        let (status, body) = ask(&self.xcatd, &self.token, &request, Some(sent))?;
        ensure!(status == 200, "{resource} {sent}: {status} {body}");
        Ok(())
    }

    fn nodestat(&self) -> Result<String> {
        let (_, body) = ask(&self.xcatd, &self.token, "GET /nodes/n1/nodestat", None)?;
        Ok(body["n1"]["nodestat"].as_str().context("no nodestat")?.to_owned())
    }

    fn arm(&self, script: &str) -> Result<()> {
        let url = self.tasks.put(script)?;
        self.put("bootstate", &format!(r#"{{"state": "runimage={url},boot"}}"#))
    }

    fn is(&self, attribute: &str) -> String {
        self.xcatd.attribute("n1", attribute).unwrap_or_default()
    }

    /// Runs a command in the node as root.
    fn ssh(&self, command: &str) -> Result<String> {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-i", self.key.as_str()]);
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=60",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
        ] {
            ssh.args(["-o", option]);
        }
        let output = ssh.arg(format!("root@{ADDRESS}")).arg(command).output()?;
        ensure!(output.status.success(), "ssh: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits for a login.
    fn login(&self) -> Result<()> {
        self.xcatd.wait("n1", "a login", LONG, |_| self.ssh("true").is_ok())
    }

    /// Waits until this was booted, in this order, since it was set up.
    fn booted(&self, boots: &[Boot]) -> Result<()> {
        self.xcatd.wait("n1", &format!("{boots:?}"), LONG, |xcatd| xcatd.boots("n1") == boots)
    }

    /// The digest of the disk's first MiB, as the guest sees it.
    fn first_mebibyte(&self) -> Result<String> {
        let raw = self.disk.with_extension("raw");
        let status = Command::new("qemu-img")
            .args(["dd", "-U", "-f", "qcow2", "-O", "raw", "bs=1M", "count=1"])
            .arg(format!("if={}", self.disk))
            .arg(format!("of={raw}"))
            .status()?;
        ensure!(status.success(), "qemu-img dd failed");
        Ok(Digest::from_bytes(Sha256::digest(fs::read(raw)?).into()).into())
    }
}

impl Drop for Case {
    /// What a failed test is read from.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{:?}\n{}", self.xcatd.boots("n1"), self.xcatd.console("n1"));
        }
    }
}

/// A server of one task, which keeps what tasks report.
struct Tasks {
    port: u16,
    archive: Arc<Mutex<Vec<u8>>>,
    reports: Arc<Mutex<Vec<String>>>,
}

impl Tasks {
    fn serve() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let tasks = Self { port, archive: Arc::default(), reports: Arc::default() };
        let (archive, reports) = (tasks.archive.clone(), tasks.reports.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away is no concern of the next.
                let _ = answer(stream, &archive, &reports);
            }
        });
        Ok(tasks)
    }

    /// Packs a script as a task, and returns its address as a node sees it.
    fn put(&self, script: &str) -> Result<String> {
        let directory = tempfile::tempdir()?;
        let script = script.replace("REPORT", &format!("http://10.0.2.2:{}/report", self.port));
        fs::write(directory.path().join("runme.sh"), format!("#!/bin/sh\n{script}"))?;
        let tar = Command::new("sh")
            .args(["-c", "chmod 755 runme.sh && tar czf - runme.sh"])
            .current_dir(&directory)
            .output()?;
        *self.archive.lock().unwrap() = tar.stdout;
        Ok(format!("http://10.0.2.2:{}/task.tgz", self.port))
    }

    fn reports(&self) -> Vec<String> {
        self.reports.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, archive: &Mutex<Vec<u8>>, reports: &Mutex<Vec<String>>) -> Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_lowercase());
    }
    let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let request = lines.first().context("no request")?;
    let file = archive.lock().unwrap().clone();
    let mut head = |status: &str, length: usize| {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())
    };
    if request.contains(" /task.tgz ") && !file.is_empty() {
        head("200 OK", file.len())?;
        if request.starts_with("get ") {
            stream.write_all(&file)?;
        }
    } else if request.starts_with("post /report ") {
        let mut body = String::new();
        reader.take(length.unwrap_or(0)).read_to_string(&mut body)?;
        reports.lock().unwrap().push(body.trim().to_owned());
        head("200 OK", 0)?;
    } else {
        head("404 Not Found", 0)?;
    }
    Ok(())
}

/// Reports the digest of the disk's first MiB, and what of a task is not there in genesis.
const DIGEST: &str = "\
dd if=/dev/vda bs=1M count=1 2>/dev/null | openssl dgst -sha256 -r | cut -d' ' -f1 >report
for tool in curl sha256sum python3 busybox; do type $tool >/dev/null 2>&1 && echo $tool >>report; done
wget -q -O - --post-file=report REPORT
exit 7
";

#[test]
fn a_node_boots_its_disk_and_is_switched() -> Result<()> {
    if std::env::var_os("VCL_FULL").is_none() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let Some(case) =
        Case::enter("nodes::a_node_boots_its_disk_and_is_switched", false, NodeSetup::tells_booted)?
    else {
        return Ok(());
    };
    assert_eq!(case.nodestat()?, "noping");
    case.put("power", r#"{"action": "reset"}"#)?;
    assert!(!case.xcatd.is_on("n1"), "a reset of a node that is off does nothing");
    case.put("power", r#"{"action": "on"}"#)?;
    assert_eq!(case.is(STATUS), "powering-on");
    case.login()?;
    case.xcatd.wait("n1", "sshd", LONG, |_| case.nodestat().is_ok_and(|it| it == "sshd"))?;
    case.xcatd.wait("n1", "status booted", LONG, |_| case.is(STATUS) == "booted")?;
    let first = case.ssh("cat /proc/sys/kernel/random/boot_id")?;
    case.ssh("echo kept >/root/marker; sync; systemctl reboot")?;
    case.booted(&[Boot::Disk, Boot::Disk])?;
    case.login()?;
    assert_ne!(case.ssh("cat /proc/sys/kernel/random/boot_id")?, first);
    assert_eq!(case.ssh("cat /root/marker")?, "kept\n");
    case.put("power", r#"{"action": "off"}"#)?;
    assert_eq!((case.xcatd.is_on("n1"), case.is(STATUS)), (false, "powering-off".into()));
    case.put("power", r#"{"action": "boot"}"#)?;
    case.login()?;
    case.ssh("systemctl poweroff")?;
    case.xcatd.wait("n1", "its end", LONG, |xcatd| !xcatd.is_on("n1"))?;
    assert_eq!(case.xcatd.boots("n1").len(), 3);
    Ok(())
}

#[test]
fn a_running_node_restarts_into_a_task_and_then_boots_its_disk() -> Result<()> {
    let test = "nodes::a_running_node_restarts_into_a_task_and_then_boots_its_disk";
    let Some(case) = Case::enter(test, false, |node| node)? else { return Ok(()) };
    let nothing = ask(
        &case.xcatd,
        &case.token,
        "PUT /nodes/n1/bootstate",
        Some(&format!(r#"{{"state": "runimage=http://10.0.2.2:{}/task.tgz,boot"}}"#, case.tasks.port)),
    )?;
    let url = format!("http://10.0.2.2:{}/task.tgz", case.tasks.port);
    let said = serde_json::json!([format!("Cannot wget {url}. Verify it's downloadable.")]);
    assert_eq!((nothing.0, &nothing.1["error"]), (403, &said));

    case.put("power", r#"{"action": "on"}"#)?;
    case.login()?;
    case.arm(DIGEST)?;
    assert_eq!((case.is("currstate"), case.is("currchain")), (format!("runimage={url}"), "boot".into()));
    case.ssh("sync; systemctl reboot")?;
    case.booted(&[Boot::Disk, Boot::Genesis, Boot::Disk])?;
    // Nothing was written since, except by the next boot, whose first MiB is the file system's beginning.
    let reports = case.tasks.reports();
    assert_eq!(reports.len(), 1, "{reports:?}");
    assert!(reports[0].len() == 64, "a tool that genesis may lack: {reports:?}");
    case.login()?;
    assert_eq!((case.is("currstate"), case.is("currchain")), ("boot".into(), "boot".into()));
    assert_eq!(case.is(STATUS), "powering-on", "a task tells xCAT nothing");
    Ok(())
}

#[test]
fn tasks_get_lost_are_refused_and_report_what_is_wrong() -> Result<()> {
    if std::env::var_os("VCL_FULL").is_none() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let test = "nodes::tasks_get_lost_are_refused_and_report_what_is_wrong";
    let Some(case) = Case::enter(test, true, |node| node)? else { return Ok(()) };
    let digest = case.first_mebibyte()?;
    let go = |boots: &[Boot]| -> Result<()> {
        case.arm(DIGEST)?;
        case.put("power", r#"{"action": "boot"}"#)?;
        case.booted(boots)?;
        case.put("power", r#"{"action": "off"}"#)
    };
    let (disk, genesis) = (Boot::Disk, Boot::Genesis);
    go(&[genesis, disk])?;
    assert_eq!(case.tasks.reports(), std::slice::from_ref(&digest));

    case.xcatd.fault(Fault::WrongDigests { node: "n1".into(), times: 1 });
    go(&[genesis, disk, genesis, disk])?;
    let reports = case.tasks.reports();
    assert!(reports.len() == 2 && reports[1] != digest && reports[1].len() == 64, "{reports:?}");

    case.xcatd.fault(Fault::TaskLost { node: "n1".into(), times: 1 });
    go(&[genesis, disk, genesis, disk, genesis, disk])?;
    assert_eq!(case.is("currstate"), "boot", "it has moved on all the same");

    case.xcatd.fault(Fault::NetbootFails { node: "n1".into(), times: 1 });
    go(&[genesis, disk, genesis, disk, genesis, disk, disk])?;
    assert!(case.is("currstate").starts_with("runimage="), "{}", case.is("currstate"));

    case.xcatd.fault(Fault::TaskRefused { node: "n1".into(), times: 1 });
    case.put("power", r#"{"action": "boot"}"#)?;
    let refused = |xcatd: &Xcatd| xcatd.console("n1").contains("not supported");
    case.xcatd.wait("n1", "the refusal", LONG, refused)?;
    assert!(case.is("currstate").starts_with("runimage="), "{}", case.is("currstate"));
    assert_eq!(case.tasks.reports().len(), 2);
    Ok(())
}

#[test]
fn an_osimage_is_installed_as_recorded() -> Result<()> {
    if std::env::var_os("VCL_FULL").is_none() {
        println!("left out: VCL_FULL=1 or ./check --full has it");
        return Ok(());
    }
    let Some(case) = Case::enter("nodes::an_osimage_is_installed_as_recorded", true, |node| node)? else {
        return Ok(());
    };
    case.put("bootstate", r#"{"osimage": "debian12-x86_64-install-compute"}"#)?;
    let armed = "install debian12-x86_64-compute";
    assert_eq!((case.is("currstate"), case.is("currchain")), (armed.into(), "boot".into()));
    case.put("power", r#"{"action": "boot"}"#)?;
    let mut seen = Vec::new();
    case.xcatd.wait("n1", "status booted", LONG, |xcatd| {
        let now = (case.is("currstate"), case.is(STATUS));
        if seen.last() != Some(&now) {
            seen.push(now);
        }
        xcatd.attribute("n1", STATUS).as_deref() == Some("booted")
    })?;
    let life = [(armed, "powering-on"), (armed, "installing"), ("boot", "booting"), ("boot", "booted")];
    assert_eq!(seen, life.map(|(state, status)| (state.to_owned(), status.to_owned())));
    assert_eq!(case.xcatd.boots("n1"), [Boot::Installer, Boot::Disk]);
    case.login()?;
    assert_eq!(case.ssh("hostname")?, "debian\n");
    Ok(())
}
