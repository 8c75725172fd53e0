//! The page in a real browser, against a real daemon on simulated machines: what people do with it, from the first sign-in to
//! a revision in production.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod looks;

use anyhow::{Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use serde_json::Value;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};
use thirtyfour::Key;
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
    fn new() -> Result<Self> {
        let kept = tempfile::Builder::new().prefix("vcl-page-").tempdir()?;
        let directory = Utf8Path::from_path(kept.path()).unwrap().to_owned();
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
        let site = Self { daemon: Daemon::start(setup)?, port, directory, _kept: kept };
        let disk = site.directory.join("disk.qcow2");
        let made =
            Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "16M"]).status()?;
        ensure!(made.success(), "qemu-img");
        for (image, note) in [("gis", "QGIS on Debian"), ("cad", "FreeCAD")] {
            site.root(&["image", "import", image, disk.as_str(), "--note", note])?;
        }
        site.person("alice", &[("reserve", "all"), ("imaging", "all")])?;
        site.person("teacher", &[("reserve", "all"), ("classes", "all")])?;
        site.person("boss", &[("administer", "all")])?;
        Ok(site)
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
async fn from_the_first_sign_in_to_a_revision_in_production() -> Result<()> {
    let (mut site, driver) = (Site::new()?, Driver::start()?);
    let alice = site.browser(&driver, "alice").await?;
    ensure!(alice.path().await? == "/reservations", "whoever reserves begins at what he has");

    // The form, by the keyboard alone: image, begin, hours, purpose, and the button.
    alice.goto("/reserve?image=gis").await?;
    alice.web.execute("document.getElementById('image').focus()", vec![]).await?;
    let focused = "return document.activeElement.id || document.activeElement.value";
    let mut seen = Vec::new();
    for _ in 0..20 {
        let at = alice.web.execute(focused, vec![]).await?;
        let at = at.json().as_str().unwrap_or_default().to_owned();
        match at.as_str() {
            "hours" => alice.keys("2").await?,
            "purpose" => alice.keys("imaging").await?,
            _ => {}
        }
        seen.push(at.clone());
        if at == "reserve" {
            break;
        }
        alice.keys(Key::Tab).await?;
    }
    ensure!(seen.last().is_some_and(|at| at == "reserve"), "the button is not reached by Tab: {seen:?}");
    alice.keys(Key::Enter).await?;

    // The bar moves, and the reservation becomes usable, without a key being pressed.
    alice.wait("the reservation", "return location.pathname.startsWith('/reservations/')").await?;
    let watch = "window.seen = window.seen || new Set(); const note = () => { \
                 const b = document.querySelector('#bar'); if (b) window.seen.add(b.value); }; note(); \
                 new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributes: true }); \
                 return true";
    alice.wait("an observer", watch).await?;
    alice.wait_for("#state", "ready").await?;
    let moved = alice.web.execute("return window.seen.size", vec![]).await?;
    ensure!(moved.json().as_u64() >= Some(2), "the bar was at {} places", moved.json());
    let id: i64 = alice.path().await?.rsplit('/').next().unwrap().parse()?;
    alice.click("#do-connect").await?;
    alice.wait_for("#connection pre", "alice@").await?;
    let command = alice.text("#connection pre").await?;
    ensure!(command.starts_with("ssh "), "{command}");
    content(&alice).await?;

    // What she made becomes a revision when she gives it back.
    alice.confirm("#verb-release").await?;
    alice.wait_for("#state", "over").await?;
    alice.goto("/images/gis").await?;
    alice.wait_for("#revision-2", "gis@2").await?;
    ensure!(site.root(&["job", "list"])?.to_string().contains(&format!("\"reservation\":{id}")), "{id}");
    content(&alice).await?;
    alice.quit().await?;

    // Whoever looks after images has it tested and promotes it.
    let boss = site.browser(&driver, "boss").await?;
    ensure!(boss.path().await? == "/wall", "whoever looks after the site begins at its computers");
    boss.goto("/images/gis").await?;
    boss.confirm("#verb-test-2").await?;
    boss.wait_for("#job .head .state", "done").await?;
    boss.goto("/images/gis").await?;
    boss.wait_for("#revision-2", "test passed").await?;
    boss.confirm("#verb-promote-2").await?;
    boss.wait_for(".said", "is in production").await?;
    boss.wait_for("#revision-2", "in production").await?;
    content(&boss).await?;
    boss.quit().await?;
    site.daemon.stop()
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
    // One that goes on now: all day, today.
    let day = chrono::Utc::now().format("%a").to_string();
    teacher.fill("#weekly", &format!("{day} 0-24")).await?;
    teacher.web.execute("document.getElementById('image').value = 'gis'", vec![]).await?;
    teacher.click("form[action='/classes'] button.first").await?;
    teacher.wait_for(".said", "its seats are being booked").await?;
    let ready = "return [...document.querySelectorAll('.tile')].filter((t) => t.classList.contains('free')).length === 3";
    teacher.wait("three seats that are ready", ready).await?;
    content(&teacher).await?;
    teacher.quit().await?;
    site.daemon.stop()
}
