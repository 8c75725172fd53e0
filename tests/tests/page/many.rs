//! Ten thousand jobs, names of two hundred letters, from the right to the left, and with HTML in them.

use super::looks::{axe, faults};
use super::{Browser, Driver, Site, content};
use anyhow::{Result, ensure};

const HTML: &str =
    "<img src=x onerror=window.harmed=1><script>window.harmed=1;\"'><svg onload=window.harmed=1>";
const RIGHT_TO_LEFT: &str = "מערכת מידע גאוגרפית \u{202e}12 نظم المعلومات";

/// Something of two hundred letters without a place to break it at.
fn long() -> String {
    "Geoinformationssystemeinführung".chars().cycle().take(200).collect()
}

/// The views that have names in them.
const VIEWS: [&str; 13] = [
    "/queue",
    "/queue?state=failed",
    "/jobs/10001",
    "/jobs/10002",
    "/jobs/10003",
    "/classes",
    "/images",
    "/images/gis",
    "/operations",
    "/operations/maintenance",
    "/operations/audit",
    "/charts",
    "/wall",
];

async fn many(site: &mut Site) -> Result<()> {
    site.root(&["load", "cad-01", "cad"])?;
    let note = [HTML, RIGHT_TO_LEFT, &long()].join(" ");
    site.root(&["image", "import", "odd", site.directory.join("disk.qcow2").as_str(), "--note", &note])?;
    for (n, name) in [HTML.to_owned(), RIGHT_TO_LEFT.into(), long()].iter().enumerate() {
        let name = format!("{n}{name}").chars().take(200).collect::<String>();
        let class: String = name.chars().take(100).collect();
        site.root(&["class", "add", &class, "--seats", "1", "--image", "gis", "--weekly", "Mon 10-12"])?;
        site.root(&["maintenance", "add", "gis-12", "--reason", &name])?;
        site.root(&["group", "add", &name.chars().take(60).collect::<String>()])?;
    }
    site.root(&["host", "drain", "kvm", "--reason", &note])?;
    // Whoever may reserve is somebody of a directory that has its own ideas of names.
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (html, right, long) = (quoted(HTML), quoted(RIGHT_TO_LEFT), quoted(&long()));
    site.rewrite(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10000) \
         INSERT INTO jobs (kind, request, requester, backend, host, computer, image, revision, state, reason, result, node, \
             token, submitted_at, claimed_at, started_at, ended_at) \
         SELECT kind, request, CASE i % 3 WHEN 0 THEN {html} WHEN 1 THEN {right} ELSE {long} END, backend, host, computer, \
             image, revision, CASE i % 4 WHEN 0 THEN 'failed' ELSE 'done' END, \
             CASE i % 4 WHEN 0 THEN {html} || {right} || {long} END, result, node, token, submitted_at, claimed_at, \
             started_at, ended_at FROM n, (SELECT * FROM jobs WHERE kind = 'load' ORDER BY id LIMIT 1) WHERE TRUE; \
         UPDATE events SET message = message || {html} || {long};"
    ))
}

/// The view is whole, and nothing of a name was done.
async fn whole(browser: &Browser, path: &str, axe: &str) -> Result<Vec<String>> {
    browser.goto(path).await?;
    let mut wrong = faults(browser, axe).await?;
    let harmed =
        "return !!window.harmed || !!document.querySelector('img[src=\"x\"], svg[onload], main script')";
    if browser.web.execute(harmed, vec![]).await?.json().as_bool() != Some(false) {
        wrong.push("a name was taken for markup".into());
    }
    Ok(wrong.into_iter().map(|fault| format!("{path}: {fault}")).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_and_odd_names() -> Result<()> {
    let axe = axe()?;
    let mut site = Site::new()?;
    many(&mut site).await?;
    let driver = Driver::start()?;
    let boss = site.browser(&driver, "boss").await?;
    let mut wrong = Vec::new();
    for width in [1280, 390] {
        boss.web.set_window_rect(0, 0, width, 900).await?;
        for path in VIEWS {
            wrong.extend(whole(&boss, path, &axe).await?);
        }
    }
    // The names are there, as they are.
    boss.goto("/classes").await?;
    for name in [HTML, RIGHT_TO_LEFT] {
        boss.wait_for("main", name).await?;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Of ten thousand a part is shown, with a way to those before.
    boss.goto("/queue").await?;
    let rows = boss.web.execute("return document.querySelectorAll('#queue tbody tr').length", vec![]).await?;
    ensure!((20..=500).contains(&rows.json().as_u64().unwrap_or(0)), "{} rows", rows.json());
    let oldest = "return Math.min(...[...document.querySelectorAll('#queue tbody td a[href^=\"/jobs/\"]')]
        .map((a) => Number(a.getAttribute('href').split('/').pop())))";
    let before = boss.web.execute(oldest, vec![]).await?.json().as_f64().unwrap_or(0.0);
    boss.click("a[href*='before=']").await?;
    let further = format!(
        "return document.body.dataset.ready === 'yes' && (() => {{ {oldest} }})() < {before} && location.search.includes('before')"
    );
    boss.wait("those before", &further).await?;
    content(&boss).await?;
    boss.quit().await?;
    site.daemon.stop()
}
