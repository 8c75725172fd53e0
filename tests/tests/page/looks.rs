//! How the views look: each of them in light, dark and on a phone, looked at by axe-core and, where `UPDATE=1` says so, kept as
//! a picture in `docs/page`.

use super::{Browser, Driver, Site};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::path::Path;

/// The widths that are looked at, and the themes, each with its name in the pictures' names.
const LOOKS: [(&str, u32, &str); 3] =
    [("light", 1280, "light"), ("dark", 1280, "dark"), ("narrow", 390, "light")];

/// The views, each with its name and who looks at it.
const VIEWS: [(&str, &str, &str); 19] = [
    ("reservations", "/reservations", "alice"),
    ("reserve", "/reserve?image=gis&tags=room-b12", "alice"),
    ("reservation", "/reservations/1", "alice"),
    ("release", "/reservations/1/release", "alice"),
    ("not-allowed", "/operations", "alice"),
    ("wall", "/wall", "boss"),
    ("wall-empty", "/wall?q=nobody-at-all", "boss"),
    ("computer", "/computers/gis-01", "boss"),
    ("queue", "/queue", "boss"),
    ("job", "/jobs/1", "boss"),
    ("job-failed", "/queue?state=failed", "boss"),
    ("images", "/images", "boss"),
    ("image", "/images/gis", "boss"),
    ("image-new", "/images/new?backend=kvm", "boss"),
    ("classes", "/classes", "boss"),
    ("charts", "/charts?days=7", "boss"),
    ("operations", "/operations", "boss"),
    ("maintenance", "/operations/maintenance", "boss"),
    ("audit", "/operations/audit", "boss"),
];

/// What axe-core found, and what does not fit into the window.
async fn faults(browser: &Browser, axe: &str) -> Result<Vec<String>> {
    browser.web.execute(axe, vec![]).await?;
    let run = "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(
        (r) => done(r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target.join(' ')).join(', '))),
        (e) => done(['axe: ' + e]))";
    let found = browser.web.execute_async(run, vec![]).await?;
    let mut faults: Vec<String> = serde_json::from_value(found.json().clone())?;
    // Nothing is wider than the window but what scrolls by itself.
    let wide = "const w = document.documentElement.clientWidth; return document.documentElement.scrollWidth > w + 1
        ? [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > w + 1
            && !e.closest('.scroll, pre, nav')).slice(0, 5).map((e) => 'too wide: ' + e.tagName + '.' + e.className)
        : []";
    let wide = browser.web.execute(wide, vec![]).await?;
    faults.extend(serde_json::from_value::<Vec<String>>(wide.json().clone())?);
    Ok(faults)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_is_for_everybody() -> Result<()> {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies nowhere")?;
    let cache = std::env::var("VCL_CACHE").map_or_else(|_| root.join(".cache"), Utf8PathBuf::from);
    let axe = cache.join("people/node_modules/axe-core/axe.min.js");
    let axe =
        std::fs::read_to_string(&axe).with_context(|| format!("{axe}; .ci/people-tools installs it"))?;
    let (mut site, driver) = (Site::new()?, Driver::start()?);
    let pictures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/page");
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    // Something to look at.
    let alice = site.browser(&driver, "alice").await?;
    alice.goto("/reserve?image=gis").await?;
    alice.click("button[value=reserve]").await?;
    alice.wait_for("#state", "ready").await?;
    site.root(&["load", "cad-01", "cad"])?;
    let _ = site.daemon.command(&["image", "export", "gis", "/nonexistent/gis.qcow2"])?.output()?;
    let boss = site.browser(&driver, "boss").await?;
    let mut wrong: Vec<String> = Vec::new();
    for (look, width, theme) in LOOKS {
        for browser in [&alice, &boss] {
            browser.web.set_window_rect(0, 0, width, 900).await?;
            let cookie = format!("document.cookie = 'vcld-theme={theme}; path=/; secure'");
            browser.web.execute(cookie, vec![]).await?;
        }
        for (name, path, who) in VIEWS {
            let browser = if who == "alice" { &alice } else { &boss };
            browser.goto(path).await?;
            if name == "job-failed" {
                browser.click("#queue tbody td a").await?;
                browser.wait_for("#job .head .state", "failed").await?;
            }
            for fault in faults(browser, &axe).await? {
                wrong.push(format!("{name}, {look}: {fault}"));
            }
            if update {
                std::fs::create_dir_all(&pictures)?;
                browser.web.screenshot(&pictures.join(format!("{name}-{look}.png"))).await?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut complaints = boss.complaints().await?;
    complaints.extend(alice.complaints().await?);
    // That a view is not for her is an answer that a browser notes.
    complaints.retain(|line| !line.contains("403"));
    ensure!(complaints.is_empty(), "{complaints:#?}");
    alice.quit().await?;
    boss.quit().await?;
    site.daemon.stop()
}
