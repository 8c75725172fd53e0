//! The page of what each backend can do and was seen to do: made from the reports that the tests of the backends keep in
//! `docs/conformance/`, and compare with what ran.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Where the page goes.
pub(crate) const PAGE: &str = "docs/conformance.md";
const REPORTS: &str = "docs/conformance";

const HEAD: &str = "\
# What the backends do

<!-- Made by `cargo xtask docs` from docs/conformance/*.json; do not edit it by hand. -->

Each backend is tried by the same cases, those of the conformance kit (`vcl_provisioning::conformance`). What a backend is tried
for is what it declares itself (`Provisioning::capabilities`). `✓` passed, `–` not tried (why stands below the table), `✗`
failed. A `●` marks the cases that boot a real guest where the world has one; no other case boots any.

A backend's test keeps its report in `docs/conformance/` and fails when what ran is something else; `UPDATE=1` writes it anew.
Each column is one run. Jobs are interrupted before and after the writes to their journals: at every such point, or at some that
are spread over all. Columns that say \"whole\" are of `./check --full`, the others of `./check`.

";

/// The page, from the reports under `root`.
///
/// # Errors
/// A report cannot be read or is not one.
pub(crate) fn page(root: &Path) -> Result<String> {
    let directory = root.join(REPORTS);
    let mut reports = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| format!("failed to read {REPORTS}"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let shown = path.display();
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read {shown}"))?;
        let report: Value = serde_json::from_str(&text).with_context(|| format!("{shown} is no JSON"))?;
        let world = word(&report, "world").with_context(|| format!("{shown} is no report"))?;
        ensure!(reports.insert(world.to_owned(), report.clone()).is_none(), "two reports of {world}");
    }
    render(&reports)
}

fn word<'a>(value: &'a Value, name: &str) -> Result<&'a str> {
    value[name].as_str().with_context(|| format!("no `{name}` in {value}"))
}

fn render(reports: &BTreeMap<String, Value>) -> Result<String> {
    // In the order of the kit: that of the longest report, and what only others have behind it.
    let mut order: Vec<&Value> = Vec::new();
    let mut lists: Vec<&Vec<Value>> = reports.values().filter_map(|r| r["cases"].as_array()).collect();
    lists.sort_by_key(|list| std::cmp::Reverse(list.len()));
    for row in lists.into_iter().flatten() {
        if !order.iter().any(|known| known["case"] == row["case"]) {
            order.push(row);
        }
    }
    let mut page = HEAD.to_owned();
    let worlds: Vec<&str> = reports.keys().map(String::as_str).collect();
    writeln!(page, "| run of | type | interrupted at | on commit |\n|---|---|---|---|")?;
    for (world, report) in reports {
        let points = match report.get("points") {
            None => "?".to_owned(),
            Some(Value::Null) => "every point".to_owned(),
            Some(points) => format!("{points} points of each job"),
        };
        let (kind, tree) = (word(report, "kind")?, report["tree"].as_str().unwrap_or("?"));
        writeln!(page, "| {world} | {kind} | {points} | {tree} |")?;
    }
    page.push_str("\nA `+` behind a commit: with changes that had not been committed.\n\n");
    writeln!(page, "| capability | case | | {} |", worlds.join(" | "))?;
    writeln!(page, "|---|---|---|{}", ":-:|".repeat(worlds.len()))?;
    let mut reasons: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    let mut before = "";
    for row in order {
        let (capability, case, shows) = (word(row, "capability")?, word(row, "case")?, word(row, "shows")?);
        let shown = if capability == before { "" } else { capability };
        before = capability;
        let boots = if row["boots"] == true { " ●" } else { "" };
        write!(page, "| {shown} | `{case}`{boots} | {shows} |")?;
        for (world, report) in reports {
            let there = report["cases"].as_array().into_iter().flatten().find(|r| r["case"] == case);
            let mark = match there.map(|row| row["verdict"].as_str()) {
                Some(Some("passed")) => "✓",
                Some(Some("failed")) => "✗",
                _ => "–",
            };
            write!(page, " {mark} |")?;
            if mark != "✓" {
                let why = there.map_or("not in its report", |row| row["why"].as_str().unwrap_or_default());
                reasons.entry((world, why)).or_default().push(case);
            }
        }
        page.push('\n');
    }
    if !reasons.is_empty() {
        page.push_str("\n## Not tried, or failed\n\n");
        for ((world, why), cases) in reasons {
            let cases: Vec<String> = cases.iter().map(|case| format!("`{case}`")).collect();
            writeln!(page, "- {world}: {why}: {}", cases.join(", "))?;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_row_for_each_case_and_a_reason_for_each_gap() -> Result<()> {
        let row = |case: &str, verdict: &str, why: Option<&str>| {
            serde_json::json!({
                "capability": "load", "case": case, "shows": "it works", "boots": case == "b", "verdict": verdict, "why": why
            })
        };
        let report =
            |rows: Vec<Value>| serde_json::json!({ "kind": "k", "points": 3, "tree": "abc+", "cases": rows });
        let reports = BTreeMap::from([
            ("one".to_owned(), report(vec![row("a", "passed", None), row("b", "skipped", Some("no guest"))])),
            ("two".to_owned(), report(vec![row("a", "failed", Some("it broke"))])),
        ]);
        let page = render(&reports)?;
        assert!(page.contains("| one | k | 3 points of each job | abc+ |"), "{page}");
        assert!(page.contains("| load | `a` | it works | ✓ | ✗ |"), "{page}");
        assert!(page.contains("|  | `b` ● | it works | – | – |"), "{page}");
        for reason in ["- one: no guest: `b`", "- two: it broke: `a`", "- two: not in its report: `b`"] {
            assert!(page.contains(reason), "{reason}\n{page}");
        }
        Ok(())
    }
}
