//! Events and findings.

use super::{Clock, text};
use std::fmt::Write as _;
use vcl_types::api::{EventView, Finding, FindingLevel};

/// One event, on one line.
#[must_use]
pub fn line(event: &EventView, clock: &Clock) -> String {
    let job = event.job.map(|job| format!("job {job}")).unwrap_or_default();
    let computer = event.computer.as_ref().map(ToString::to_string).unwrap_or_default();
    let about = [job, computer].into_iter().filter(|about| !about.is_empty()).collect::<Vec<_>>().join(" ");
    let shown = format!("{}  {:16}  {about:16}  {}", clock.short(event.at), event.kind, event.message);
    text::one_line(&shown)
}

/// Many of them.
#[must_use]
pub fn list(events: &[EventView], clock: &Clock) -> String {
    events.iter().map(|event| line(event, clock) + "\n").collect()
}

/// What the doctor found.
#[must_use]
pub fn findings(findings: &[Finding]) -> String {
    let width =
        findings.iter().map(|finding| text::one_line(&finding.what).chars().count()).max().unwrap_or(0);
    let mut shown = String::new();
    for finding in findings {
        let mark = match finding.level {
            FindingLevel::Ok => "✓",
            FindingLevel::Warning => "!",
            FindingLevel::Error => "✗",
        };
        let (what, found) = (text::one_line(&finding.what), text::one_line(&finding.found));
        let _ = writeln!(shown, "{mark} {what:width$}  {found}");
        if let Some(way_out) = &finding.way_out {
            let _ = writeln!(shown, "  {:width$}  → {}", "", text::one_line(way_out));
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn events() {
        insta::assert_snapshot!(list(&fixtures::events(), &fixtures::clock()));
    }
    #[test]
    fn a_doctors_findings() {
        insta::assert_snapshot!(findings(&fixtures::findings()));
    }
}
