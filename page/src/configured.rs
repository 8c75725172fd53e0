//! What a configuration run has made of a computer: its objects, what they wait for, and what became of each.

use crate::graph::{self, Graph};
use crate::show;
use crate::{Frame, Texts};
use askama::Template;
use askama::filters::Safe;
use std::collections::HashMap;
use vcl_types::{ObjectReport, ObjectState, RunReport};

/// What an object waits for.
pub struct Other<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its number, if it is in the run.
    pub number: Option<usize>,
}

/// An object.
pub struct Row<'a> {
    /// It.
    pub view: &'a ObjectReport,
    /// Its number in the run.
    pub number: usize,
    /// What became of it, as the style sheet calls it.
    pub class: &'static str,
    /// The same for people.
    pub badge: Safe<String>,
    /// How long it took, in milliseconds.
    pub took: u64,
    /// What it waits for.
    pub waits_for: Vec<Other<'a>>,
}

/// A run.
#[derive(Template)]
#[template(path = "configured.html")]
pub struct Configured<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The job that it was of.
    pub job: i64,
    /// Its manifest.
    pub manifest: &'a str,
    /// What it says.
    pub report: &'a RunReport,
    /// Where that is as text.
    pub as_text: String,
    /// Its objects, as a picture.
    pub graph: Graph,
    /// One by one.
    pub rows: Vec<Row<'a>>,
}

/// By which manifest the run was that a piece of evidence tells of, if it does of one.
#[must_use]
pub fn manifest(evidence: &str) -> Option<&str> {
    evidence.strip_prefix("configure-")?.strip_suffix(".json")
}

/// What may become of objects, the worst first, and how it looks.
const CLASSES: [(&str, &str); 4] =
    [("failed", "bad"), ("changed", "busy"), ("same", "free"), ("open", "off")];

impl<'a> Configured<'a> {
    /// From what a run has said.
    #[must_use]
    pub fn new(
        frame: Frame<'a>,
        job: i64,
        manifest: &'a str,
        report: &'a RunReport,
        as_text: String,
    ) -> Self {
        let number: HashMap<&str, usize> =
            report.objects.iter().enumerate().map(|(n, object)| (object.object.as_str(), n)).collect();
        let texts = frame.texts;
        let row = |(n, view): (usize, &'a ObjectReport)| {
            let made = view.defines.iter().filter(|name| !view.requires.contains(name));
            let others = view.requires.iter().chain(made);
            Row {
                view,
                number: n,
                class: graph::class(view),
                badge: badge(texts, graph::class(view)),
                took: milliseconds(view.seconds),
                waits_for: others
                    .map(|name| Other { name, number: number.get(name.as_str()).copied() })
                    .collect(),
            }
        };
        Self {
            graph: graph::draw(&report.objects, &texts.say("configured-picture"), |n| format!("#o-{n}")),
            rows: report.objects.iter().enumerate().map(row).collect(),
            frame,
            job,
            manifest,
            report,
            as_text,
        }
    }
    fn took(&self) -> u64 {
        milliseconds(self.report.seconds)
    }
    /// How many there are of each kind.
    fn sums(&self) -> Vec<Safe<String>> {
        let count = |class: &str| self.rows.iter().filter(|row| row.class == class).count();
        let counted = CLASSES.iter().map(|(class, tone)| (*class, *tone, count(class)));
        let said = |(class, tone, count)| {
            show::badge(tone, format!("{count} {}", self.frame.texts.word("object", class)))
        };
        counted.filter(|(_, _, count)| *count > 0).map(said).collect()
    }
}

fn badge(texts: Texts<'_>, class: &str) -> Safe<String> {
    let tone = CLASSES.iter().find(|(name, _)| *name == class).map_or("off", |(_, tone)| *tone);
    show::badge(tone, texts.word("object", class))
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_of_a_run_is_known_by_its_name() {
        assert_eq!(manifest("configure-lab.json"), Some("lab"));
        assert_eq!((manifest("configure-play.txt"), manifest("screen.png")), (None, None));
    }
}
