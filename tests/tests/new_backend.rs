//! `cargo xtask new-backend`: the crate that it makes outside of the checkout is formatted, builds without a network,
//! passes the conformance kit, and is a daemon that loads a machine of it.
//!
//! It is built into the workspace's own target directory: what the two have in common is built once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vcl_tests::daemon::binary;
use vcl_types::api::{BackendView, JobView};

struct Ended(Child);
impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    Ok(out.into_owned())
}

#[test]
fn a_backend_of_somebody_elses_is_made_tried_and_run() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("vcl-new-").tempdir()?;
    let path = Utf8Path::from_path(directory.path()).unwrap();
    run(Command::new(binary("xtask")?).args(["new-backend", "demo", "--path", path.as_str()]))?;
    let here = path.join("demo");
    let target = binary("xtask")?.parent().unwrap().join("..").canonicalize_utf8()?;
    let cargo = |words: &[&str]| {
        let mut command = Command::new("cargo");
        // What this test was built with says nothing about that crate.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_")) {
            command.env_remove(name);
        }
        command.current_dir(&here).args(words).env("CARGO_TARGET_DIR", &target);
        command.env_remove("RUSTC_WORKSPACE_WRAPPER").env_remove("CARGO_MANIFEST_DIR");
        command
    };
    run(&mut cargo(&["fmt", "--check"]))?;
    let table = run(&mut cargo(&["test", "--offline", "--test", "conformance", "--", "--nocapture"]))?;
    ensure!(table.contains("load-killed") && table.contains("test result: ok"), "{table}");
    println!("{table}");
    // A test of a crate has its program built.
    let daemon = target.join("debug/demo");
    let linked = run(Command::new("ldd").arg(&daemon))?;
    ensure!(!linked.contains("virt"), "a daemon without the libvirt backend links {linked}");
    lends(path, &daemon)
}

/// The daemon lends a machine of the backend and takes it back.
fn lends(path: &Utf8Path, daemon: &Utf8PathBuf) -> Result<()> {
    let (key, socket) = (path.join("id"), path.join("vcld.sock"));
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()]))?;
    let disk = path.join("tiny.qcow2");
    run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"]))?;
    let configuration = format!(
        "[library]\npath = \"{path}/library\"\nkeep_free = \"0\"\n[database]\nurl = \"sqlite:{path}/vcld.db\"\n\
         [api]\nsocket = \"{socket}\"\n[ssh]\nkey = {{ file = \"{key}\" }}\n[hooks]\ndirectory = \"{path}/hooks\"\n\
         [backend.toys]\ntype = \"demo\"\ndirectory = \"{path}/machines\"\n[network.net]\nbridge = \"br0\"\n\
         [computers]\n\"demo-01\" = {{ backend = \"toys\", networks = [\"net\"] }}\n"
    );
    let file = path.join("vcld.toml");
    fs::create_dir(path.join("library"))?;
    fs::write(&file, configuration)?;
    run(Command::new(daemon).args(["check-config", file.as_str()]))?;
    let log = fs::File::create(path.join("log"))?;
    let _running = Ended(Command::new(daemon).args(["--config", file.as_str()]).stderr(log).spawn()?);
    let ask = |words: &[&str]| {
        run(Command::new(binary("vclctl")?).args(["--json", "--socket", socket.as_str()]).args(words))
    };
    let began = Instant::now();
    while let Err(e) = ask(&["status"]) {
        let said = fs::read_to_string(path.join("log"))?;
        ensure!(began.elapsed() < Duration::from_secs(60), "{e:#}\n{said}");
        std::thread::sleep(Duration::from_millis(50)); // why: without systemd nobody is told that it is ready
    }
    ask(&["image", "import", "tiny", disk.as_str()])?;
    let loaded: JobView = serde_json::from_str(&ask(&["load", "demo-01", "tiny"])?)?;
    assert!(loaded.result.unwrap().starts_with("tiny@1 on demo-01"));
    assert!(path.join("machines/demo-01/disk").exists());
    let backends: Vec<BackendView> = serde_json::from_str(&ask(&["backend", "list"])?)?;
    assert_eq!((backends.len(), &*backends[0].kind, backends[0].reachable), (1, "demo", true));
    let refused = ask(&["capture", "demo-01"]).unwrap_err().to_string();
    assert!(refused.contains("lacks `capture`") && refused.contains("it is a demo"), "{refused}");
    ask(&["unload", "demo-01"])?;
    assert!(!path.join("machines/demo-01").exists());
    Ok(())
}
