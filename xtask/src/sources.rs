//! Rules for files: not too long, named by what is in them, nothing of the machine they were written on.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::output_of;

/// How many lines of code a file may have; comments, empty lines and the tests at its end are not counted.
const MOST_LINES: usize = 500;

/// Code that knows no backend and no OS. Getting a machine ready for its capture, and in which end state, is between these two:
/// nobody here calls `pre_capture`.
const CORE: &[&str] = &["config/", "images/", "job/", "queue/", "types/", "vcld/"];

/// Names that say nothing of what is in a module.
const NAMELESS: &[&str] = &["common", "helper", "helpers", "misc", "util", "utils"];

/// What is against the rules in the files that git keeps, or would keep.
pub(crate) fn problems(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(root);
    let list = String::from_utf8(output_of(&mut git)?).context("a file's name is not UTF-8")?;
    let mut problems = Vec::new();
    let here = root.to_string_lossy();
    for name in list.split_terminator('\0') {
        // One that is deleted and not committed yet is still listed.
        let Ok(bytes) = fs::read(root.join(name)) else { continue };
        problems.extend(judge(name, &String::from_utf8_lossy(&bytes), &here));
    }
    Ok(problems)
}

fn judge(name: &str, text: &str, here: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let path = Path::new(name);
    if path.extension().is_some_and(|e| e == "rs") {
        let lines = lines_of_code(text);
        if lines > MOST_LINES {
            problems.push(format!("{name}: {lines} lines of code; split it along a seam"));
        }
        let directory = path.parent().and_then(Path::file_name);
        for stem in [path.file_stem(), directory].into_iter().flatten().filter_map(|s| s.to_str()) {
            if NAMELESS.contains(&stem) {
                problems.push(format!("{name}: `{stem}` does not say what is in it"));
            }
        }
    }
    if path.extension().is_some_and(|e| e == "rs") && CORE.iter().any(|part| name.starts_with(part)) {
        let calls = text.lines().enumerate().filter(|(_, line)| calls_pre_capture(line));
        problems.extend(calls.map(|(at, _)| {
            format!("{name}:{}: core code does not call `pre_capture`: it is for backends", at + 1)
        }));
    }
    if name.ends_with(".snap.new") {
        problems.push(format!("{name}: a snapshot that nobody has looked at"));
    }
    for (at, line) in text.lines().enumerate() {
        // A path such as `/src` would be everywhere; one of two parts is somebody's.
        if here.matches('/').count() > 1 && line.contains(here) {
            problems.push(format!("{name}:{}: a path of this machine, {here}", at + 1));
        }
    }
    problems
}

/// Whether a line calls the OS module's `pre_capture`, or names it to have it called. The directory of hooks that has its name
/// takes no arguments.
fn calls_pre_capture(line: &str) -> bool {
    let comment = line.trim_start().starts_with("//");
    let called = line.split(".pre_capture(").skip(1).any(|rest| !rest.starts_with(')'));
    !comment && (called || line.contains("::pre_capture"))
}

fn lines_of_code(text: &str) -> usize {
    let code = text.lines().map(str::trim_end).take_while(|line| !line.starts_with("#[cfg(test)]"));
    code.map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with("//")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_problem() {
        let long = "x();\n".repeat(MOST_LINES + 1);
        let documented = format!("{}{}", "// why\n\n".repeat(MOST_LINES), "x();\n".repeat(MOST_LINES));
        let tested = format!("x();\n#[cfg(test)]\nmod tests {{}}\n{long}");
        for (name, text, expected) in [
            ("os/src/linux.rs", long.as_str(), 1),
            ("os/src/linux.rs", &documented, 0),
            ("os/src/linux.rs", &tested, 0),
            ("os/src/utils.rs", "", 1),
            ("os/src/common/mod.rs", "", 1),
            ("os/src/shell.rs", "", 0),
            ("a/snapshots/a.snap.new", "", 1),
            ("README.md", "see /somebody/checkout/README.md", 1),
            ("README.md", "see /etc/vcld", 0),
            ("vcld/src/flow.rs", "os.pre_capture(job, guest, end).await?;", 1),
            ("queue/src/jobs.rs", "os\n    .pre_capture(\n        job,", 1),
            ("job/src/run.rs", "let ready = Os::pre_capture;", 1),
            ("vcld/src/doctor.rs", "let hooks = config.hooks.pre_capture();", 0),
            ("vcld/src/flow.rs", "//! [`Os::pre_capture`] is the backend's to call", 0),
            ("vcld/src/flow.rs", "vec![(\"pre_capture\", os)]", 0),
            ("provisioning/src/sim/capture.rs", "os.pre_capture(job, guest, end).await?;", 0),
        ] {
            let found = judge(name, text, "/somebody/checkout");
            assert_eq!(found.len(), expected, "{name}: {found:?}");
        }
    }
}
