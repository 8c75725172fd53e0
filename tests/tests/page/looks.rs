//! How the views look: each of them in light, dark and on a phone, looked at by axe-core and, where `UPDATE=1` says so, kept as
//! a picture in `docs/page`.

use super::{Browser, Driver, Site};
use anyhow::{Context, Result, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use std::path::Path;

/// The widths that are looked at, and the themes, each with its name in the pictures' names. Whoever takes pictures or checks
/// everything has each view in all of them; others have it in the first or in the second, by turns.
pub(super) const LOOKS: [(&str, u32, &str); 3] =
    [("dark", 1280, "dark"), ("narrow", 390, "light"), ("light", 1280, "light")];

/// What is done in a view before it is looked at.
enum Then {
    Nothing,
    /// A link opens its preview.
    Dialog(&'static str),
    /// Fields are filled in, something is pressed, and something comes of it.
    Press(&'static [(&'static str, &'static str)], &'static str, (&'static str, &'static str)),
}
use Then::{Dialog, Nothing, Press};

/// The views, each with its name, who looks at it, and what is done there.
const VIEWS: [(&str, &str, &str, Then); 43] = [
    ("sign-in", "/sign-in", "nobody", Nothing),
    (
        "sign-in-wrong",
        "/sign-in",
        "nobody",
        Press(
            &[("#name", "alice"), ("#password", "not hers")],
            "form[action='/sign-in'] button",
            ("main", "is wrong"),
        ),
    ),
    ("reservations", "/reservations", "alice", Nothing),
    ("reserve", "/reserve?image=gis&tags=room-b12", "alice", Nothing),
    (
        "reserve-try",
        "/reserve?image=gis&tags=room-b12",
        "alice",
        Press(&[], "button[value=try]", ("#prospect", "gis-")),
    ),
    (
        "reserve-wrong",
        "/reserve?image=gis&computer=No%20Such%20One",
        "alice",
        Press(&[], "button[value=reserve]", (".said.bad", "No Such One")),
    ),
    ("reservation", "/reservations/1", "alice", Nothing),
    ("connection", "/reservations/1", "alice", Press(&[], "#do-connect", ("#connection pre", "alice@"))),
    ("reservation-waits", "/reservations/2", "alice", Nothing),
    ("release", "/reservations/1/release", "alice", Nothing),
    ("release-dialog", "/reservations/1", "alice", Dialog("#verb-release")),
    ("not-allowed", "/operations", "alice", Nothing),
    ("not-there", "/jobs/99999", "boss", Nothing),
    ("reservations-empty", "/reservations", "boss", Nothing),
    ("wall", "/wall", "boss", Nothing),
    ("wall-empty", "/wall?q=nobody-at-all", "boss", Nothing),
    ("computer", "/computers/gis-01", "boss", Nothing),
    ("computer-power", "/computers/gis-01", "boss", Dialog("#verb-power-off")),
    ("console", "/computers/gis-01/console", "boss", Nothing),
    ("queue", "/queue", "boss", Nothing),
    ("queue-empty", "/queue?state=stuck", "boss", Nothing),
    ("job", "/jobs/1", "boss", Nothing),
    (
        "job-failed",
        "/queue?state=failed",
        "boss",
        Press(&[], "#queue tbody td a[href^='/jobs/']", ("#job .head .state", "failed")),
    ),
    ("images", "/images", "boss", Nothing),
    ("image", "/images/gis", "boss", Nothing),
    ("image-odd", "/images/odd", "boss", Nothing),
    ("image-test", "/images/gis", "boss", Dialog("#verb-test-1")),
    ("image-promote", "/images/gis", "boss", Dialog("#verb-promote-2")),
    ("image-prune", "/images/gis/prune?keep=1", "boss", Nothing),
    ("image-new", "/images/new?backend=kvm", "boss", Nothing),
    ("classes", "/classes", "teacher", Nothing),
    (
        "classes-wrong",
        "/classes",
        "teacher",
        Press(
            &[("#name", "GIS 102"), ("#seats", "3"), ("#weekly", "Someday 10-12")],
            "form[action^='/classes'] button.first",
            (".said.bad", "Someday"),
        ),
    ),
    ("class", "/classes/GIS%20101", "teacher", Nothing),
    ("class-end", "/classes/GIS%20101", "teacher", Dialog("#verb-end-class")),
    ("charts", "/charts?days=7", "boss", Nothing),
    ("charts-own", "/charts?days=7", "alice", Nothing),
    ("operations", "/operations", "boss", Nothing),
    ("drain", "/operations", "boss", Dialog("a[href$='/drain']")),
    ("orphans", "/operations/orphans", "boss", Nothing),
    ("orphan-delete", "/operations/orphans", "boss", Dialog("a[href*='orphans/delete']")),
    ("maintenance", "/operations/maintenance", "boss", Nothing),
    ("audit", "/operations/audit", "boss", Nothing),
    ("audit-empty", "/operations/audit?who=nobody-at-all", "boss", Nothing),
];

/// What looks at a view as somebody would who does not see it.
pub(super) fn axe() -> Result<String> {
    let root = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate lies nowhere")?;
    let cache = std::env::var("VCL_CACHE").map_or_else(|_| root.join(".cache"), Utf8PathBuf::from);
    let axe = cache.join("people/node_modules/axe-core/axe.min.js");
    std::fs::read_to_string(&axe).with_context(|| format!("{axe}; .ci/people-tools installs it"))
}

/// What axe-core found, and what does not fit into the window.
pub(super) async fn faults(browser: &Browser, axe: &str) -> Result<Vec<String>> {
    browser.web.execute(axe, vec![]).await?;
    let run = "const done = arguments[0]; axe.run(document, { resultTypes: ['violations'] }).then(
        (r) => done(r.violations.map((v) => v.id + ': ' + v.nodes.map((n) => n.target.join(' ')).join(', '))),
        (e) => done(['axe: ' + e]))";
    let found = browser.web.execute_async(run, vec![]).await?;
    let mut faults: Vec<String> = serde_json::from_value(found.json().clone())?;
    // Nothing is wider than the window but what scrolls by itself, and no text is cut off by what is around it.
    let wide = "const w = document.documentElement.clientWidth; const faults = [];
        const say = (what, e) => faults.push(what + ': ' + e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 40));
        if (document.documentElement.scrollWidth > w + 1)
            for (const e of [...document.querySelectorAll('body *')].filter((e) =>
                e.getBoundingClientRect().right > w + 1 && !e.closest('.scroll, pre, nav')).slice(0, 5)) say('too wide', e);
        for (const e of document.querySelectorAll('main *')) {
            const s = getComputedStyle(e);
            if (e.closest('.scroll, pre, svg, select, thead, .unseen') || s.overflowX === 'visible' || s.textOverflow === 'ellipsis') continue;
            if (e.scrollWidth > e.clientWidth + 2 && e.clientWidth > 0 && !/auto|scroll/.test(s.overflowX)
                && !/^(INPUT|TEXTAREA)$/.test(e.tagName)) say('cut off', e);
        }
        return faults";
    let wide = browser.web.execute(wide, vec![]).await?;
    faults.extend(serde_json::from_value::<Vec<String>>(wide.json().clone())?);
    Ok(faults)
}

impl Then {
    async fn done(&self, browser: &Browser) -> Result<()> {
        match self {
            Nothing => Ok(()),
            Dialog(link) => {
                browser.click(link).await?;
                browser.wait("the preview", "return document.getElementById('dialog').open").await
            }
            Press(fields, button, (css, words)) => {
                for (field, text) in *fields {
                    browser.fill(field, text).await?;
                }
                browser.click(button).await?;
                browser.wait_for(css, words).await
            }
        }
    }
}

/// A site where pictures are taken lies where one would: its pictures show the place.
fn site(pictures: bool) -> Result<Site> {
    if !pictures {
        return Site::new();
    }
    let directory = Utf8PathBuf::from("/srv/vcl-pictures");
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory)?;
    Site::furnished(Site::at(directory, tempfile::tempdir()?, |_, setup| setup)?)
}

/// Something to look at: what is used, waits, has failed, is booked, is nobody's.
async fn furnish(site: &Site, alice: &Browser) -> Result<()> {
    alice.goto("/reserve?image=gis").await?;
    alice.click("button[value=reserve]").await?;
    alice.wait_for("#state", "ready").await?;
    site.root(&["reserve", "cad", "--for", "alice", "--start", "+3h"])?;
    site.root(&["load", "gis-02", "gis"])?;
    site.root(&["capture", "gis-02"])?;
    let _ = site.daemon.command(&["image", "export", "gis", "/nonexistent/gis.qcow2"])?.output()?;
    let disk = site.directory.join("disk.qcow2");
    let note = "Geoinformationssysteme ".repeat(12) + "مرحبا بالعالم <b>not bold</b>";
    site.root(&["image", "import", "odd", disk.as_str(), "--note", &note])?;
    let staging = site.daemon.library().join(".staging/job999-token1");
    std::fs::create_dir(&staging)?;
    std::fs::write(staging.join("disk0.qcow2"), vec![1; 8192])?;
    site.root(&["maintenance", "add", "gis-12", "--reason", "a new power supply"])?;
    let weekly = "Mon,Tue,Wed,Thu,Fri,Sat,Sun 0-24";
    site.root(&["class", "add", "GIS 101", "--seats", "3", "--image", "gis", "--weekly", weekly])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_view_is_for_everybody() -> Result<()> {
    let axe = axe()?;
    let said = |name: &str| std::env::var(name).is_ok_and(|value| !value.is_empty() && value != "0");
    let (pictures, full) = (said("UPDATE"), said("VCL_FULL"));
    let (mut site, driver) = (site(pictures)?, Driver::start()?);
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/page");
    let nobody = Browser::open(&driver, &site.directory.join("browser-nobody"), &site.url()).await?;
    let alice = site.browser(&driver, "alice").await?;
    let teacher = site.browser(&driver, "teacher").await?;
    let boss = site.browser(&driver, "boss").await?;
    furnish(&site, &alice).await?;
    let all = [&nobody, &alice, &teacher, &boss];
    let looks = if pictures || full { &LOOKS[..] } else { &LOOKS[..2] };
    let mut wrong: Vec<String> = Vec::new();
    for (at, (look, width, theme)) in looks.iter().enumerate() {
        for browser in all {
            browser.web.set_window_rect(0, 0, *width, 900).await?;
            browser.goto("/sign-in").await?;
            let cookie = format!("document.cookie = 'vcld-theme={theme}; path=/; secure'");
            browser.web.execute(cookie, vec![]).await?;
        }
        for (view, (name, path, who, then)) in VIEWS.iter().enumerate() {
            // Every second view is looked at in the one way, the others in the other.
            if !(pictures || full || view % looks.len() == at) {
                continue;
            }
            let browser = match *who {
                "nobody" => &nobody,
                "alice" => &alice,
                "teacher" => &teacher,
                _ => &boss,
            };
            browser.goto(path).await?;
            then.done(browser).await.with_context(|| format!("{name}, {look}"))?;
            for fault in faults(browser, &axe).await? {
                wrong.push(format!("{name}, {look}: {fault}"));
            }
            if pictures {
                std::fs::create_dir_all(&place)?;
                browser.web.screenshot(&place.join(format!("{name}-{look}.png"))).await?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // That something is refused is an answer that a browser notes.
    let refused = ["/operations", "/jobs/99999", "/sign-in", "/reserve?", "/classes?"];
    for browser in all {
        let mut complaints = browser.complaints().await?;
        complaints
            .retain(|line| !(line.contains("status of 4") && refused.iter().any(|path| line.contains(path))));
        ensure!(complaints.is_empty(), "{complaints:#?}");
    }
    if pictures {
        boss.goto("/queue").await?;
        site.daemon.kill()?;
        boss.wait("the notice", "return !document.getElementById('away').hidden").await?;
        boss.web.screenshot(&place.join("away-light.png")).await?;
    }
    for browser in [nobody, alice, teacher, boss] {
        browser.quit().await?;
    }
    if pictures {
        std::fs::remove_dir_all(&site.directory)?;
        return Ok(());
    }
    site.daemon.stop()
}
