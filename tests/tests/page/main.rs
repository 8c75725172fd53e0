//! The page in a real browser, against a real daemon: what people do with it. On simulated machines, but for `real.rs`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod looks;
mod many;
mod real;

use anyhow::{Context as _, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use vcl_tests::browser::{Browser, Driver};
use vcl_tests::certificates::certificates;
use vcl_tests::daemon::{Daemon, Setup, Simulated};

const PASSWORD: &str = "correct horse battery staple";

/// A daemon with a TLS door, with an image, and with people.
struct Site {
    daemon: Daemon,
    port: u16,
    directory: Utf8PathBuf,
    _kept: tempfile::TempDir,
}

impl Site {
    /// With simulated machines, two images, and people.
    fn new() -> Result<Self> {
        Self::furnished(Self::of(|_, setup| setup)?)
    }
    fn furnished(site: Self) -> Result<Self> {
        let disk = site.directory.join("disk.qcow2");
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "16M"]).status()?;
        ensure!(made.success(), "qemu-img");
        for (image, note) in [("gis", "QGIS on Debian"), ("cad", "FreeCAD")] {
            site.root(&["image", "import", image, disk.as_str(), "--note", note])?;
        }
        site.people()?;
        Ok(site)
    }
    /// The daemon alone, with whatever is to be otherwise.
    fn of(change: impl FnOnce(&Utf8Path, Setup) -> Setup) -> Result<Self> {
        let kept = tempfile::Builder::new().prefix("vcl-page-").tempdir()?;
        let directory = Utf8Path::from_path(kept.path()).unwrap().to_owned();
        Self::at(directory, kept, change)
    }
    fn at(
        directory: Utf8PathBuf,
        kept: tempfile::TempDir,
        change: impl FnOnce(&Utf8Path, Setup) -> Setup,
    ) -> Result<Self> {
        let key = directory.join("id");
        let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
        ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen");
        certificates(&directory)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut setup = Setup::new(&directory, &key, &[]);
        // So slow that what goes on can be seen, and no slower.
        setup.simulated = Some(Simulated { at_once: 8, delay: "120ms" });
        setup.more_computers =
            "\"gis-[01-12]\" = { backend = \"kvm\", cpus = 2, memory = \"4G\", networks = [\"net\"], tags = [\"room-b12\"] }\n\
             \"cad-[01-04]\" = { backend = \"kvm\", cpus = 8, memory = \"16G\", networks = [\"net\"], tags = [\"room-c3\"] }\n"
                .into();
        setup.api = format!(
            "listen = \"127.0.0.1:{port}\"\ncertificate = \"{directory}/server.pem\"\n\
             key = {{ file = \"{directory}/server.key\" }}\nfiles = \"{directory}\"\n"
        );
        let setup = change(&directory, setup);
        Ok(Self { daemon: Daemon::start(setup)?, port, directory, _kept: kept })
    }
    /// One who works, one who teaches, one who looks after everything.
    fn people(&self) -> Result<()> {
        self.person("alice", &[("reserve", "all"), ("imaging", "all")])?;
        self.person("teacher", &[("reserve", "all"), ("classes", "all")])?;
        self.person("boss", &[("administer", "all")])
    }
    /// Changes what the daemon has written down, while it is down.
    fn rewrite(&mut self, sql: &str) -> Result<()> {
        self.daemon.stop()?;
        let database = self.daemon.directory().join("vcld.db");
        let done = Command::new("sqlite3").arg(database).arg(sql).output().context("sqlite3")?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        self.daemon.up()
    }
    fn root(&self, arguments: &[&str]) -> Result<Value> {
        self.daemon.json(arguments)
    }
    fn person(&self, name: &str, grants: &[(&str, &str)]) -> Result<()> {
        self.root(&["user", "add", name])?;
        let mut command = self.daemon.command(&["user", "set", name, "--password", "--password-stdin"])?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes())?;
        ensure!(child.wait()?.success(), "no password for {name}");
        let group = format!("{name}s");
        self.root(&["group", "add", &group])?;
        self.root(&["group", "member", "add", &group, name])?;
        for (verb, scope) in grants {
            self.root(&["grant", "add", &group, verb, scope])?;
        }
        Ok(())
    }
    fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
    async fn browser(&self, driver: &Driver, name: &str) -> Result<Browser> {
        let browser =
            Browser::open(driver, &self.directory.join(format!("browser-{name}")), &self.url()).await?;
        browser.sign_in(name, PASSWORD).await?;
        Ok(browser)
    }
}

/// Nothing was complained of, and nothing but the site was asked.
async fn content(browser: &Browser) -> Result<()> {
    let complaints = browser.complaints().await?;
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_why_a_job_failed_and_tries_it_again() -> Result<()> {
    let (mut site, driver) = (Site::new()?, Driver::start()?);
    let boss = site.browser(&driver, "boss").await?;
    // Where it is to be written there is no directory yet.
    let place = site.directory.join("missing");
    let file = place.join("gis.qcow2");
    let exported = site.daemon.command(&["image", "export", "gis", file.as_str()])?.output()?;
    ensure!(!exported.status.success(), "it was exported");
    boss.goto("/queue?state=failed").await?;
    boss.click("#queue tbody td a").await?;
    boss.wait_for("#job .head .state", "failed").await?;
    boss.wait_for("#job .said", "missing").await?;
    std::fs::create_dir(&place)?;
    boss.confirm("#verb-retry").await?;
    boss.wait_for("#job .head .state", "done").await?;
    ensure!(file.exists(), "{file}");
    content(&boss).await?;

    // The daemon goes away, which the page says, and comes back, and it goes on.
    boss.goto("/queue").await?;
    site.daemon.kill()?;
    boss.wait("the notice", "return !document.getElementById('away').hidden").await?;
    site.daemon.up()?;
    boss.wait("the notice's end", "return document.getElementById('away').hidden").await?;
    site.root(&["load", "cad-01", "cad"])?;
    boss.wait_for("#queue", "cad-01").await?;
    boss.quit().await?;
    site.daemon.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teacher_sees_a_class_load() -> Result<()> {
    let (mut site, driver) = (Site::new()?, Driver::start()?);
    let teacher = site.browser(&driver, "teacher").await?;
    teacher.goto("/classes").await?;
    teacher.fill("#name", "GIS 101").await?;
    teacher.fill("#seats", "3").await?;
    // One that goes on now, whatever day it is, and whichever it becomes meanwhile.
    teacher.fill("#weekly", "Mon,Tue,Wed,Thu,Fri,Sat,Sun 0-24").await?;
    teacher.web.execute("document.getElementById('image').value = 'gis'", vec![]).await?;
    teacher.click("form[action^='/classes'] button.first").await?;
    teacher.wait_for(".said", "its seats are being booked").await?;
    let ready = "return [...document.querySelectorAll('.tile')].filter((t) => t.classList.contains('free')).length === 3";
    teacher.wait("three seats that are ready", ready).await?;
    content(&teacher).await?;
    teacher.quit().await?;
    site.daemon.stop()
}
