//! What keeps revisions, and the trash.

use super::table::{maybe, quiet};
use super::{Clock, Table, text};
use vcl_types::api::{TrashView, WhyKept};

/// What is in the trash, a line each, the oldest first.
#[must_use]
pub fn trash(all: &[TrashView], clock: &Clock) -> String {
    let mut table = Table::new(&["REVISION", "WHY", "SINCE", "UNTIL", "TAKES"], "the trash is empty");
    for thing in all {
        table.row([
            quiet(&thing.image),
            quiet(&thing.why),
            quiet(clock.ago(thing.since)),
            maybe(thing.until.map(|until| until.format("%F %H:%M UTC").to_string())),
            quiet(thing.size),
        ]);
    }
    table.text()
}

/// Why a revision stays.
#[must_use]
pub fn why(why: &WhyKept) -> String {
    let image = &why.image;
    if why.reasons.is_empty() {
        return format!("nothing keeps {image}: vclctl image delete {image}");
    }
    let reasons: Vec<String> =
        why.reasons.iter().map(|reason| format!("  {}", text::one_line(reason))).collect();
    format!("{image} stays:\n{}", reasons.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn the_trash_and_why_a_revision_stays() {
        let thing = |image: &str, word: &str, until: Option<&str>| TrashView {
            image: image.parse().unwrap(),
            why: word.into(),
            since: "2026-02-27T12:00:00Z".parse().unwrap(),
            until: until.map(|t| t.parse().unwrap()),
            size: vcl_types::ByteSize(1 << 30),
        };
        let all =
            [thing("debian@1", "deleted", Some("2026-03-06T12:00:00Z")), thing("gis@9", "exchanged", None)];
        let kept = WhyKept {
            image: "debian@2".parse().unwrap(),
            reasons: vec!["in production".into(), "loaded on a, b".into()],
        };
        let free = WhyKept { image: "debian@3".parse().unwrap(), reasons: Vec::new() };
        let clock = fixtures::clock();
        insta::assert_snapshot!(
            [trash(&all, &clock), trash(&[], &clock), why(&kept), why(&free)].join("\n\n")
        );
    }
}
