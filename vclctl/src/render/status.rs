//! Everything on one screen.

use super::table::{maybe, quiet};
use super::{Clock, Table, jobs, text};
use std::fmt::Write as _;
use vcl_types::api::{Count, Status};

fn counts(counts: &[Count], none: &str) -> String {
    let some: Vec<String> = counts
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| format!("{} {}", count.count, text::one_line(&count.name)))
        .collect();
    if some.is_empty() { none.to_owned() } else { some.join(", ") }
}

/// The screen.
#[must_use]
pub fn screen(status: &Status, clock: &Clock) -> String {
    let mut shown = String::new();
    let (version, node) = (text::one_line(&status.version), text::one_line(&status.node));
    let _ = writeln!(shown, "vcld {version} on {node}, up {}", clock.since(status.since));
    // One node alone is what the first line says.
    if status.nodes.len() > 1 {
        let nodes: Vec<String> = status.nodes.iter().map(super::nodes::brief).collect();
        let _ = writeln!(shown, "nodes      {}", nodes.join(", "));
    }
    let revisions = text::counted(status.revisions, "revision");
    let _ =
        writeln!(shown, "library    {}: {revisions}, {} free", text::one_line(&status.library), status.free);
    let width = status.backends.iter().map(|backend| backend.name.chars().count()).max().unwrap_or(0);
    if status.backends.is_empty() {
        let _ = writeln!(shown, "backends   none; a [backend.NAME] in vcld.toml makes one");
    }
    for (number, backend) in status.backends.iter().enumerate() {
        let label = if number == 0 { "backends" } else { "" };
        let mark = if backend.reachable { "✓" } else { "✗" };
        let (name, kind, detail) =
            (text::one_line(&backend.name), text::one_line(&backend.kind), text::one_line(&backend.detail));
        let line = format!("{label:9}  {mark} {name:width$}  {kind:8} {detail}");
        let _ = writeln!(shown, "{}", line.trim_end());
    }
    let _ = writeln!(shown, "computers  {}", counts(&status.computers, "none"));
    let _ = writeln!(shown, "jobs       {}", counts(&status.jobs, "none"));
    if !status.running.is_empty() {
        let mut table = Table::new(&["JOB", "WHAT", "FOR", "LEFT", "NOW"], "");
        for job in &status.running {
            let now = jobs::running_step(job).or_else(|| job.reason.clone());
            table.row([
                quiet(job.id),
                quiet(&job.title),
                maybe(job.started.map(|at| clock.since(at))),
                maybe(job.left.map(|left| {
                    super::took(chrono::TimeDelta::milliseconds(
                        i64::try_from(left.p50_ms).unwrap_or(i64::MAX / 2),
                    ))
                })),
                quiet(now.unwrap_or_else(|| job.state.to_string())),
            ]);
        }
        let _ = writeln!(shown, "\n{}", table.text());
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_busy_node() {
        insta::assert_snapshot!(screen(&fixtures::status(), &fixtures::clock()));
    }
    #[test]
    fn an_empty_node() {
        let mut status = fixtures::status();
        (status.backends, status.computers, status.jobs, status.running) = Default::default();
        insta::assert_snapshot!(screen(&status, &fixtures::clock()));
    }
}
