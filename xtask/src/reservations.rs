//! The page of a reservation's life: its diagram and the meaning of its states from the code that decides them, and the table of
//! every state and event from the snapshot that the code's own test compares.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Where the page goes.
pub(crate) const PAGE: &str = "docs/reservations.md";
const CODE: &str = "types/src/state/reservation.rs";
const TABLE: &str = "types/src/state/snapshots/vcl_types__state__reservation__tests__every_cell.snap";

const HEAD: &str = "\
# The life of a reservation

<!-- Made by `cargo xtask docs` from types/src/state/reservation.rs and its snapshot; do not edit it by hand. -->

A reservation is in one of seven states, and one pure function says what it becomes. Everything that happens to it, asked for by
a person or due by the clock, is one of the events below; whoever ends it, why it ended is stored beside the state.

";

/// The lines of a doc comment's drawing.
fn diagram(code: &str) -> Option<String> {
    let drawing = code.split_once("//! ```text\n")?.1.split_once("//! ```\n")?.0;
    let lines = drawing.lines().map(|line| line.trim_start_matches("//!").trim_end().to_owned() + "\n");
    Some(lines.collect())
}

/// Words and what they mean, of the `words!` that declares this type.
fn words(code: &str, name: &str) -> Vec<(String, String)> {
    let Some((_, rest)) = code.split_once(&format!("{name} {{\n")) else { return Vec::new() };
    let body = rest.split_once("\n    }").map_or(rest, |(body, _)| body);
    let (mut all, mut meaning) = (Vec::new(), String::new());
    for line in body.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            meaning = format!("{meaning} {text}").trim().to_owned();
        } else if let Some((_, word)) = line.split_once(" = \"") {
            all.push((word.trim_end_matches(['"', ',']).to_owned(), std::mem::take(&mut meaning)));
        }
    }
    all
}

fn section(page: &mut String, title: &str, words: &[(String, String)]) {
    let _ = write!(page, "\n## {title}\n\n| word | meaning |\n|---|---|\n");
    for (word, meaning) in words {
        let _ = writeln!(page, "| `{word}` | {meaning} |");
    }
}

/// The page, from the files under `root`.
///
/// # Errors
/// One of them is not there or not as it should be.
pub(crate) fn page(root: &Path) -> Result<String> {
    let read =
        |name: &str| fs::read_to_string(root.join(name)).with_context(|| format!("failed to read {name}"));
    let (code, table) = (read(CODE)?, read(TABLE)?);
    let diagram = diagram(&code).with_context(|| format!("{CODE} has no drawing"))?;
    let (states, events) = (words(&code, "ReservationState"), words(&code, "ReservationEvent"));
    ensure!(!states.is_empty() && !events.is_empty(), "{CODE} declares no states or no events");
    let table = table.splitn(3, "---\n").nth(2).with_context(|| format!("{TABLE} is no snapshot"))?;
    let mut page = format!("{HEAD}```text\n{diagram}```\n");
    section(&mut page, "States", &states);
    section(&mut page, "Events", &events);
    page.push_str("\n## Every state and event\n\nWhat is refused is refused with this text.\n\n```text\n");
    page.push_str(table.trim_end());
    page.push_str("\n```\n");
    Ok(page)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_drawing_all_words_and_all_cells() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = page(root).unwrap();
        assert!(page.contains("scheduled ──due──► queued"), "{page}");
        for word in ["`queued` | It waits for a computer.", "`reload` | Its user wants"] {
            assert!(page.contains(word), "{word}");
        }
        assert_eq!(page.matches("is not possible while the reservation is").count(), 49);
    }
}
