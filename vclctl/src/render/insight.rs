//! What goes wrong: evidence, why, orphans.

use super::table::{maybe, quiet};
use super::{Clock, Table, Tone, text, took};
use chrono::TimeDelta;
use std::fmt::Write as _;
use vcl_types::ByteSize;
use vcl_types::JobId;
use vcl_types::api::{EvidenceView, Mismatch, Orphans, Usual, Why};

/// How long something usually takes: `35 s (at most 60 s in 19 of 20)`.
#[must_use]
pub fn usual(usual: &Usual) -> String {
    let time = |ms: u64| took(TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2)));
    format!("{} (19 of 20 at most {}, {} runs)", time(usual.p50_ms), time(usual.p95_ms), usual.runs)
}

/// What was kept of a job.
#[must_use]
pub fn evidence(id: JobId, parts: &[EvidenceView], clock: &Clock) -> String {
    let mut table = Table::new(&["NAME", "WHAT", "SIZE", "TAKEN", "ATTEMPT"], "nothing was kept of this job");
    for part in parts {
        table.row([
            quiet(&part.name),
            quiet(&part.media_type),
            quiet(part.size),
            quiet(clock.full(part.taken)),
            quiet(part.attempt),
        ]);
    }
    let mut shown = table.text();
    if let Some(first) = parts.first() {
        let name = text::one_line(&first.name);
        let _ = write!(shown, "\n\nshow one: vclctl job evidence {id} {name}; save it: -o FILE");
    }
    shown
}

/// Why something is where it is.
#[must_use]
pub fn why(why: &Why, _: &Clock) -> String {
    let mut shown = text::one_line(&why.sentence);
    for (number, way) in why.ways.iter().enumerate() {
        let _ = write!(shown, "\n{}{}", if number == 0 { "\n  " } else { "  " }, text::one_line(way));
    }
    shown
}

/// What belongs to nobody.
#[must_use]
pub fn orphans(orphans: &Orphans, clock: &Clock) -> String {
    let empty = "nothing is there that belongs to nobody, and nothing is missing";
    let mut table = Table::new(&["WHICH", "HOW", "SIZE", "SINCE", "WHY", "IGNORED"], empty);
    for one in &orphans.found {
        let how = match one.mismatch {
            Mismatch::LeftOver => ("left over".to_owned(), Tone::Busy),
            Mismatch::Missing => ("missing".to_owned(), Tone::Bad),
        };
        table.row([
            quiet(&one.id),
            how,
            maybe(one.thing.bytes.map(|bytes| ByteSize(bytes).to_string())),
            quiet(clock.ago(one.since)),
            quiet(&one.why),
            maybe(one.ignored.as_ref().map(|i| format!("by {}: {}", i.by, i.reason))),
        ]);
    }
    let mut shown = table.text();
    for unseen in &orphans.unseen {
        let _ = write!(shown, "\n\nnot looked at: {}", text::one_line(unseen));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;
    use serde_json::json;

    #[test]
    fn what_goes_wrong() {
        let clock = fixtures::clock();
        let parts: Vec<EvidenceView> = serde_json::from_value(json!([
            { "name": "console.txt", "media_type": "text/plain", "size": 5000, "taken": "2026-03-01T11:00:00Z", "attempt": 1 }
        ])).unwrap();
        let found: Orphans = serde_json::from_value(json!({ "found": [
            { "id": "kvm1/domain/vcl-a", "place": "kvm1", "mismatch": "left-over", "why": "a is available and holds nothing",
              "thing": { "kind": "domain", "name": "vcl-a", "computer": "a", "job": null, "bytes": null },
              "since": "2026-03-01T11:00:00Z", "ignored": { "by": "bob", "reason": "mine\u{1b}[2J", "at": "2026-03-01T11:00:00Z" } },
            { "id": "kvm1/machine/b", "place": "kvm1", "mismatch": "missing", "why": "b is loaded and has no machine there",
              "thing": { "kind": "machine", "name": "b", "computer": "b", "job": null, "bytes": 1_048_576 },
              "since": "2026-03-01T11:00:00Z", "ignored": null }
        ], "unseen": ["backend esx1: no route to host"] })).unwrap();
        let reason: Why = serde_json::from_value(json!({
            "about": "job 12", "sentence": "job 12 has been stuck for 1 min", "waits_for": "a person", "since": null,
            "usual": null, "next": null, "ways": ["vclctl job retry 12", "vclctl job undo 12"], "job": 12
        })).unwrap();
        insta::assert_snapshot!(
            [
                evidence(JobId(12), &parts, &clock),
                evidence(JobId(12), &[], &clock),
                orphans(&found, &clock),
                orphans(&Orphans::default(), &clock),
                why(&reason, &clock),
                usual(&Usual { p50_ms: 35_000, p95_ms: 60_000, runs: 12 }),
            ]
            .join("\n----\n")
        );
    }
}
