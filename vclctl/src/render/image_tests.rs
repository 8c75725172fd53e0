//! What a test of a revision found out.

use super::table::{maybe, quiet};
use super::{Clock, Table, Tone, text};
use std::fmt::Write as _;
use vcl_types::{ImageRef, ImageTest, item_in_words};

/// In one line: whether it passed, when, and why not.
#[must_use]
pub fn line(test: &ImageTest, clock: &Clock) -> String {
    let (ago, job) = (clock.ago(test.at), test.job);
    match test.verdict() {
        None => format!("passed ({ago}, job {job})"),
        Some(why) => text::one_line(&format!("did not pass ({ago}, job {job}): {why}")),
    }
}

/// All of it: what was compared on the two computers, what both have, how the scripts ended.
#[must_use]
pub fn result(image: &ImageRef, test: &ImageTest) -> String {
    let names: Vec<&str> = test.computers.iter().map(|name| name.as_str()).collect();
    let [first, second] = [0, 1].map(|n| names.get(n).copied().unwrap_or("-"));
    let mut shown = String::new();
    if !test.compared.is_empty() {
        let mut table = Table::new(&["COMPARED", first, second, "", "VALUE"], "");
        for item in &test.compared {
            let shared: Vec<&str> =
                test.shared.iter().filter(|s| s.item == item.item).map(|s| s.value.as_str()).collect();
            let verdict = match (shared.is_empty(), item.first.min(item.second)) {
                (false, _) => ("both have it".to_owned(), Tone::Bad),
                (true, 0) => ("only one has it".to_owned(), Tone::Quiet),
                (true, _) => ("different".to_owned(), Tone::Good),
            };
            let value = (!shared.is_empty()).then(|| shared.join(" "));
            table.row([quiet(&item.item), quiet(item.first), quiet(item.second), verdict, maybe(value)]);
        }
        let _ = writeln!(shown, "{}\n", table.text().trim_end());
    }
    if !test.scripts.is_empty() {
        let mut table = Table::new(&["SCRIPT", "ON", "TOOK", "", "SAID"], "");
        for run in &test.scripts {
            let verdict = match run.status {
                0 => ("passed".to_owned(), Tone::Good),
                124 => ("took too long".to_owned(), Tone::Bad),
                status => (format!("failed with {status}"), Tone::Bad),
            };
            let last = run.said.lines().rev().find(|line| !line.trim().is_empty());
            let took = format!("{:.1} s", run.took_ms as f64 / 1000.0);
            table.row([
                quiet(&run.name),
                quiet(&run.computer),
                quiet(took),
                verdict,
                maybe(last.map(|last| last.trim().to_owned())),
            ]);
        }
        let _ = writeln!(shown, "{}\n", table.text().trim_end());
    }
    for shared in &test.shared {
        let (what, value) = (item_in_words(&shared.item), &shared.value);
        let _ = writeln!(shown, "{}", text::one_line(&format!("both clones have {what}: {value}")));
    }
    for problem in &test.problems {
        let _ = writeln!(shown, "{}", text::one_line(problem));
    }
    let end = match test.passed {
        true => format!("{image} passed; make it production: vclctl promote {image}"),
        false => format!("{image} did not pass; all that scripts said: vclctl job evidence {}", test.job),
    };
    shown + &end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_revision_whose_clones_share_something_and_one_that_passed() {
        let bad: ImageTest = serde_json::from_value(serde_json::json!({
            "job": 12, "at": "2026-03-01T11:00:00Z", "passed": false, "computers": ["a", "gis-01"],
            "compared": [
                { "item": "hostname", "first": 1, "second": 1 },
                { "item": "machine-id", "first": 1, "second": 1 },
                { "item": "root-ssh-key", "first": 0, "second": 1 },
            ],
            "shared": [{ "item": "machine-id", "value": "3f1c0d7e" }],
            "scripts": [
                { "name": "10-licence", "computer": "a", "status": 0, "took_ms": 1250, "said": "" },
                { "name": "10-licence", "computer": "gis-01", "status": 3, "took_ms": 40, "said": "no\u{1b} licence\n" },
            ],
            "problems": []
        }))
        .unwrap();
        let good = ImageTest { passed: true, shared: vec![], scripts: vec![], ..bad.clone() };
        let image = "gis@3".parse().unwrap();
        let each =
            [&bad, &good].map(|test| format!("{}\n{}", result(&image, test), line(test, &fixtures::clock())));
        insta::assert_snapshot!(each.join("\n\n"));
    }
}
