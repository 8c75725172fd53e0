//! `docs/first-steps.md`: a newcomer's transcript, made by doing what it says.
//!
//! `UPDATE=1` writes the page; without it the test compares. What differs from run to run (times, digests, ports,
//! identities, the directory) is replaced by what a reader needs of it.

use crate::Case;
use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use vcl_tests::daemon::{Daemon, binary};
use vcl_tests::guest::Kind;

/// The page: text, and commands that are run where it has `$` lines.
const PAGE: &str = include_str!("first-steps.md.in");

struct Newcomer<'a> {
    case: &'a Case,
    daemon: &'a Daemon,
    /// The ports that the computers have had, and what the page calls them.
    ports: RefCell<BTreeMap<String, &'static str>>,
}

impl Newcomer<'_> {
    /// Runs a line as a shell would, with the binaries and names of this test.
    fn run(&self, line: &str) -> Result<String> {
        let directory = self.case.path();
        let boot = self.case.guest.direct_boot()?.context("no kernel")?;
        let a = self.daemon.endpoint("a").map(|e| e.port.to_string()).unwrap_or_default();
        let b = self.daemon.endpoint("b").map(|e| e.port.to_string()).unwrap_or_default();
        let ssh = format!(
            "ssh -F none -q -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -i {}",
            self.case.key
        );
        let line = line
            .replace("/srv/guests/debian.qcow2", self.case.guest.disk().as_str())
            .replace("/srv/guests/vmlinux", boot.kernel.as_str())
            .replace("/srv/guests/initrd.img", boot.initrd.as_str())
            .replace("\"$(cat /srv/guests/cmdline)\"", &format!("'{}'", boot.cmdline))
            .replace("/etc/vcld/vcld.toml", directory.join("vcld.toml").as_str())
            .replace("ssh -p 40001 ", &format!("{ssh} -p {a} "))
            .replace("ssh -p 40002 ", &format!("{ssh} -p {b} "));
        let path = format!("{}:{}", binary("vcld")?.parent().context("nowhere")?, std::env::var("PATH")?);
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1; {line}")])
            .env("PATH", path)
            .env("VCLD_SOCKET", directory.join("vcld.sock"))
            .env("NO_COLOR", "1")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "`{line}` failed: {said}\n{}", self.daemon.log_tail());
        self.plain(&said)
    }

    fn plain(&self, said: &str) -> Result<String> {
        let mut text = said.to_owned();
        let directory = self.case.path();
        for (from, to) in [
            (self.case.guest.disk().as_str(), "/srv/guests/debian.qcow2"),
            (directory.join("library").as_str(), "/srv/vcl"),
            (directory.join("machines").as_str(), "/var/lib/vcld/kvm"),
            (directory.join("hooks").as_str(), "/etc/vcld/hooks"),
            (directory.join("vcld.toml").as_str(), "/etc/vcld/vcld.toml"),
            (directory.as_str(), "/var/lib/vcld"),
        ] {
            text = text.replace(from, to);
        }
        for (name, called) in [("a", "40001"), ("b", "40002")] {
            if let Ok(endpoint) = self.daemon.endpoint(name) {
                self.ports.borrow_mut().insert(endpoint.port.to_string(), called);
            }
        }
        for (port, called) in self.ports.borrow().iter() {
            text = text.replace(&format!("-p {port} "), &format!("-p {called} "));
            text = text.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{called}"));
        }
        for (pattern, to) in [
            // Progress by bytes comes or not, as fast as the machine is.
            (r"(?m)^.*\d+ % .*\n", ""),
            // Whether these are seen hangs on who is faster.
            (r"(?m)^.* job \d+ (queued|.* is (ready on|published:) .*)\n", ""),
            (r"\d\d:\d\d:\d\d", "14:03:05"),
            (r"\d{4}-\d\d-\d\d", "2026-11-21"),
            (r"\b\d+(\.\d+)? s\b", "… s"),
            (r"\b[0-9a-f]{64}\b", "9f3c…"),
            (r"\b[0-9a-f]{8}…", "9f3c…"),
            (r"\b[0-9a-f]{32}\b", "7d1e…"),
            (r"SHA256:[A-Za-z0-9+/]{43}", "SHA256:…"),
            (r"AAAA[A-Za-z0-9+/=]{20,}", "AAAA…"),
            (r"\d+(\.\d+)? [KMGT]iB", "… MiB"),
            (r"\d+(\.\d+)?/\d+(\.\d+)?[MG]", "…/…G"),
            (r"qemu \d+\.\d+\.\d+", "qemu 10.0.2"),
            (r"libvirt \d+\.\d+\.\d+", "libvirt 9.0.0"),
            (r"qemu-img version .*", "qemu-img version 10.0.2"),
            (r"(\d+|…) (s|min|h) ago|\bnow\b", "… ago"),
            // Columns are as wide as what stands in them.
            (r"(?m)([^ \n])  +", "$1  "),
            (r"(?m)[ \t]+$", ""),
        ] {
            text = Regex::new(pattern)?.replace_all(&text, to).into_owned();
        }
        Ok(text)
    }
}

#[test]
fn the_first_steps_are_as_the_page_says() -> Result<()> {
    let test = "first_steps::the_first_steps_are_as_the_page_says";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let daemon = Daemon::start(case.setup(&["a", "b"]))?;
    let newcomer = Newcomer { case: &case, daemon: &daemon, ports: RefCell::default() };
    let mut page = String::new();
    for line in PAGE.lines() {
        let _ = writeln!(page, "{line}");
        if let Some(command) = line.strip_prefix("    $ ") {
            for said in newcomer.run(command)?.lines() {
                let _ = writeln!(page, "{}", format!("    {said}").trim_end());
            }
        }
    }
    case.nothing_left(&daemon)?;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/first-steps.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &page)?;
        return Ok(());
    }
    let committed = fs::read_to_string(&file).unwrap_or_default();
    if committed != page {
        let differs = committed.lines().zip(page.lines()).find(|(x, y)| x != y);
        bail!(
            "docs/first-steps.md is not what happens; UPDATE=1 writes it anew. First difference: {differs:?}\n{page}"
        );
    }
    Ok(())
}
