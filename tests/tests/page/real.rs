//! From the first sign-in to a revision in production, on a real guest of a real libvirt: reserved by the keyboard alone,
//! connected to with the command that the page says, captured, tested, promoted; and a machine that the daemon has forgotten is
//! adopted. As root.

use super::{Browser, Driver, Site, content, looks};
use anyhow::{Context as _, Result, ensure};
use camino::Utf8Path;
use std::process::{Command, Stdio};
use thirtyfour::Key;
use vcl_tests::daemon::Setup;
use vcl_tests::guest::{self, Guest, Kind};
use vcl_tests::world::World;
use vcl_types::api::JobView;
use vcl_types::state::computer::State;

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");
const TEST: &str = "real::from_the_first_sign_in_to_a_revision_in_production";

#[test]
fn from_the_first_sign_in_to_a_revision_in_production() -> Result<()> {
    let cache = guest::cache_directory();
    let key = guest::cached_key(&cache)?;
    let public = std::fs::read_to_string(format!("{key}.pub"))?;
    let guest = Guest::make(Kind::Fast, &cache, &public, &mut |_| {})?;
    let Some(_world) = World::around_test(VCL_WORLD, TEST)? else { return Ok(()) };
    let site = Site::of(|directory, setup| {
        let mut own = Setup::new(directory, &key, &["vm-1", "vm-2"]);
        own.api = setup.api;
        // What is free stays as it is: one of them is forgotten further down, and is to be found.
        own.more =
            "[deadlines]\nboot = \"4m\"\nshutdown = \"2m\"\n[reservations]\nafter_use = \"nothing\"\n".into();
        own
    })?;
    site.daemon.import(&guest, "debian", "")?;
    // The guest has an account of its own that is called alice.
    site.person("carol", &[("reserve", "all"), ("imaging", "all")])?;
    site.person("boss", &[("administer", "all")])?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(life(site, &key))
}

async fn life(mut site: Site, root: &Utf8Path) -> Result<()> {
    let driver = Driver::start()?;
    let carol = site.browser(&driver, "carol").await?;
    ensure!(carol.path().await? == "/reservations", "whoever reserves begins at what he has");
    let key = site.directory.join("carol");
    let words = ["-q", "-t", "ed25519", "-N", "", "-f", key.as_str()];
    ensure!(Command::new("ssh-keygen").args(words).status()?.success(), "ssh-keygen");
    reserve_by_keyboard(&carol, std::fs::read_to_string(format!("{key}.pub"))?.trim()).await?;

    // The bar moves, and the reservation becomes usable, without a key being pressed.
    carol.wait("the reservation", "return location.pathname.startsWith('/reservations/')").await?;
    let watch = "window.seen = window.seen || new Set(); const note = () => { \
                 const b = document.querySelector('#bar'); if (b) window.seen.add(b.value); }; note(); \
                 new MutationObserver(note).observe(document.body, { subtree: true, childList: true, attributes: true }); \
                 return true";
    carol.wait("an observer", watch).await?;
    carol.wait_long("#state", "ready").await?;
    let moved = carol.web.execute("return window.seen.size", vec![]).await?;
    ensure!(moved.json().as_u64() >= Some(2), "the bar was at {} places", moved.json());
    let id: i64 = carol.path().await?.rsplit('/').next().unwrap_or_default().parse()?;
    carol.click("#do-connect").await?;
    carol.wait_for("#connection pre", "carol@").await?;
    connects(&carol.text("#connection pre").await?, &key)?;
    content(&carol).await?;

    // What she made becomes a revision when she gives it back.
    carol.confirm("#verb-release").await?;
    carol.wait_long("#state", "over").await?;
    carol.goto("/images/debian").await?;
    carol.wait_for("#revision-2", "debian@2").await?;
    ensure!(site.root(&["job", "list"])?.to_string().contains(&format!("\"reservation\":{id}")), "{id}");
    content(&carol).await?;
    carol.quit().await?;

    // Whoever looks after images has it tested and promotes it.
    let boss = site.browser(&driver, "boss").await?;
    ensure!(boss.path().await? == "/wall", "whoever looks after the site begins at its computers");
    // A test takes two that are nobody's.
    for name in ["vm-1", "vm-2"] {
        boss.goto(&format!("/computers/{name}")).await?;
        boss.wait_long("#computer .head .state", "free").await?;
    }
    boss.goto("/images/debian").await?;
    boss.confirm("#verb-test-2").await?;
    boss.wait_long("#job .head .state", "done").await?;
    boss.goto("/images/debian").await?;
    boss.wait_for("#revision-2", "test passed").await?;
    boss.confirm("#verb-promote-2").await?;
    boss.wait_for(".said", "is in production").await?;
    boss.wait_for("#revision-2", "in production").await?;
    content(&boss).await?;
    adopt(&mut site, &boss).await?;
    content(&boss).await?;
    configure(&site, &boss).await?;
    content(&boss).await?;
    boss.quit().await?;
    let name = site.daemon.ssh("vm-1", "hostname");
    ensure!(name.as_ref().is_ok_and(|name| name == "vm-1"), "{name:?}, {root}");
    site.daemon.stop()
}

/// The form, by the keyboard alone: image, begin, hours, purpose, a key, and the button.
async fn reserve_by_keyboard(carol: &Browser, public: &str) -> Result<()> {
    carol.goto("/reserve?image=debian").await?;
    carol.web.execute("document.getElementById('image').focus()", vec![]).await?;
    let focused = "return document.activeElement.id || document.activeElement.value \
                   || document.activeElement.tagName.toLowerCase()";
    let mut seen = Vec::new();
    for _ in 0..30 {
        let at = carol.web.execute(focused, vec![]).await?;
        let at = at.json().as_str().unwrap_or_default().to_owned();
        match at.as_str() {
            "hours" => carol.keys("2").await?,
            "purpose" => carol.keys("imaging").await?,
            "keys" => carol.keys(public).await?,
            // More to fill in is folded away.
            "summary" => carol.keys(Key::Enter).await?,
            _ => {}
        }
        seen.push(at.clone());
        if at == "reserve" {
            break;
        }
        carol.keys(Key::Tab).await?;
    }
    ensure!(seen.iter().any(|at| at == "keys"), "the key's field is not reached by Tab: {seen:?}");
    ensure!(seen.last().is_some_and(|at| at == "reserve"), "the button is not reached by Tab: {seen:?}");
    carol.keys(Key::Enter).await
}

/// The command that the page says leads into the guest, as her.
fn connects(command: &str, key: &Utf8Path) -> Result<()> {
    let mut words = command.split_whitespace();
    ensure!(words.next() == Some("ssh"), "{command}");
    let said = Command::new("ssh")
        .args(words)
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-i", key.as_str()])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "id -un"])
        .stdin(Stdio::null())
        .output()?;
    let name = String::from_utf8_lossy(&said.stdout).trim().to_owned();
    ensure!(name == "carol", "`{command}` leads to `{name}`: {}", String::from_utf8_lossy(&said.stderr));
    Ok(())
}

/// The daemon has forgotten what it loaded, as after its database was put back from yesterday's backup: the operator sees the
/// machine among what is nobody's, and gives it back to its computer.
async fn adopt(site: &mut Site, boss: &Browser) -> Result<()> {
    let _: JobView = site.daemon.json(&["load", "vm-1", "debian", "--wait"])?;
    site.rewrite(
        "UPDATE computers SET state = 'available', loaded = NULL, loaded_image = NULL, loaded_revision = NULL; \
         UPDATE reservations SET state = 'ended';",
    )?;
    // It was away, which the browser noted.
    let _ = boss.complaints().await?;
    boss.goto("/operations/orphans").await?;
    boss.wait_for("main", "kvm/domain/vcl-vm-1").await?;
    let row = "const row = [...document.querySelectorAll('tr')].find((r) => r.textContent.includes('kvm/domain/vcl-vm-1')); \
               const link = row && row.querySelector('a[href*=\"/adopt\"]'); \
               if (link) link.id = 'adopt-it'; return !!link";
    boss.wait("a way to adopt it", row).await?;
    boss.confirm("#adopt-it").await?;
    boss.wait_for(".said", "vcl-vm-1").await?;
    ensure!(site.daemon.computer("vm-1")?.state == State::Reserved, "{:?}", site.daemon.computer("vm-1"));
    boss.goto("/computers/vm-1").await?;
    boss.wait_for("main", "debian@").await
}

/// What is configured: people, a directory and files in it, and at last one whose source is not there.
const MANIFEST: &str = "__user ada --home /home/ada --create-home\n\
    __directory /etc/course --mode 0755\n\
    for topic in maps projections rasters; do\n\
    require=__directory/etc/course __file \"/etc/course/$topic\" --source - <<X\nread $topic\nX\ndone\n\
    require=__file/etc/course/maps __link /etc/course/first --source maps --type symbolic\n\
    require=__user/ada __ssh_authorized_keys ada --key 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ'\n\
    require='__link/etc/course/first __file/etc/course/rasters' __file /etc/course/licence --source /nowhere/licence\n\
    __hostname\nrequire=__file/etc/course/licence __line course --file /etc/profile --line '# course'\n";

/// A computer is configured by cdist's own types; the page shows what waits for what, and what failed.
async fn configure(site: &Site, boss: &Browser) -> Result<()> {
    let conf = site.daemon.directory().join("conf");
    let venv = guest::cache_directory().with_file_name("people").join("cdist-venv/lib");
    let python = venv.read_dir_utf8()?.next().context("no Python in cdist-venv")??;
    let stock = python.path().join("site-packages/cdist/conf");
    std::fs::create_dir_all(conf.join("manifest"))?;
    for part in ["type", "explorer"] {
        std::os::unix::fs::symlink(stock.join(part), conf.join(part))?;
    }
    std::fs::write(conf.join("manifest/course"), MANIFEST)?;
    let job = site.daemon.queue(&["configure", "vm-1", "-i", "course"])?;
    boss.goto(&format!("/jobs/{job}")).await?;
    boss.wait_long("#job .head .state", "failed").await?;
    boss.click("a[href*='/configured/configure-course.json']").await?;
    boss.wait_for(".objects .failed title", "__file/etc/course/licence").await?;
    let count = |css: &str| format!("return document.querySelectorAll('{css}').length");
    let counted = async |css: &str| -> Result<u64> {
        Ok(boss.web.execute(count(css), vec![]).await?.json().as_u64().unwrap_or_default())
    };
    ensure!(counted(".objects .changed").await? >= 6, "few boxes");
    ensure!(counted(".objects path.made").await? >= 1, "nothing has defined anything");
    ensure!(counted(".objects .open").await? >= 1, "what waits for what failed is not done");
    // A box leads to where more is said of it.
    let lead = "const box = document.querySelector('.objects .failed').closest('a'); \
                const row = document.querySelector(box.getAttribute('href')); row.querySelector('details').open = true; \
                return row.textContent";
    let said = boss.web.execute(lead, vec![]).await?;
    let said = said.json().as_str().unwrap_or_default().to_owned();
    for part in ["manifest/course:", "/nowhere/licence", "does not exist"] {
        ensure!(said.contains(part), "`{part}` is not in: {said}");
    }
    let axe = looks::axe()?;
    for (look, width, theme) in looks::LOOKS {
        boss.web.set_window_rect(0, 0, width, 900).await?;
        let cookie = format!("document.cookie = 'vcld-theme={theme}; path=/; secure'");
        boss.web.execute(cookie, vec![]).await?;
        let here = boss.web.current_url().await?;
        boss.web.goto(here.as_str()).await?;
        let faults = looks::faults(boss, &axe).await?;
        ensure!(faults.is_empty(), "configured, {look}: {}", faults.join("\n"));
    }
    Ok(())
}
