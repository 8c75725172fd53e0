//! What is done: manifests, and the same hundred files as a playbook and a deploy.

use anyhow::{Context, Result};
use camino::Utf8Path;
use std::fs;
use std::time::Duration;

/// Where files go.
pub(super) const DIRECTORY: &str = "/srv/bench";
/// Nothing at all.
pub(super) const EMPTY: &str = ":\n";
/// A type without explorers, a manifest and code, so that what it costs is its call.
pub(super) const TYPE: &str = "__bench_nothing";
/// How many times nine objects, and the one that one of them defines, [`mixed`] has.
const MIXED: usize = 30;

/// What is in a file.
pub(super) fn content(n: usize) -> String {
    format!("content of {n}\n")
}

/// Files, each with content and a mode. Nothing but the type's command is started for it.
pub(super) fn files(count: usize) -> String {
    let text = content(0).replace('0', "$i");
    format!(
        "i=0\nwhile [ \"$i\" -lt {count} ]; do i=$((i + 1))\n\
         __file \"{DIRECTORY}/f$i\" --source - --mode 0640 <<X\n{text}X\ndone\n"
    )
}

/// 300 objects of nine types. What a user or group changes is one file, so they have an order.
pub(super) fn mixed() -> String {
    format!(
        "i=0\nwhile [ \"$i\" -lt {MIXED} ]; do i=$((i + 1)); d={DIRECTORY}/d$i\n\
         __directory \"$d\" --mode 0755\n\
         export require=\"__directory$d\"\n\
         __file \"$d/file\" --source - --mode 0640 <<X\ncontent of $i\nX\n\
         __link \"$d/link\" --source /etc/passwd --type symbolic\n\
         __config_file \"$d/config\" --source - --onchange \"touch $d/changed\" <<X\ntext $i\nX\n\
         __file \"$d/lines\" --state exists\n\
         require=\"__file$d/lines\" __line \"line-$i\" --file \"$d/lines\" --line \"added by $i\"\n\
         require=\"__config_file$d/config\" __check_messages \"check-$i\" --pattern \"^__config_file$d/config\" --execute true\n\
         require=\"$before\" __group \"g$i\" --gid \"$((2000 + i))\"\n\
         require=\"__group/g$i\" __user \"u$i\" --uid \"$((2000 + i))\" --gid \"g$i\" --shell /bin/sh\n\
         before=__user/u$i\nunset require\ndone\n"
    )
}

/// What [`mixed`] leaves on the machine, as paths of its root.
pub(super) fn left_by_mixed() -> impl Iterator<Item = String> {
    let names = ["file", "link", "config", "changed", "lines"];
    (1..=MIXED).flat_map(move |n| names.map(|name| format!("{DIRECTORY}/d{n}/{name}")))
}

/// Calls of a type that has nothing to do. When they begin and end, the manifest itself notes in a directory.
pub(super) fn calls(count: usize, notes: &Utf8Path) -> String {
    format!(
        "date +%s%N >{notes}/begun\n\
         i=0\nwhile [ \"$i\" -lt {count} ]; do i=$((i + 1)); {TYPE} \"$i\"; done\n\
         date +%s%N >{notes}/ended\n"
    )
}

/// How long the calls took that a manifest has noted; it is taken away, so that no other run's is.
pub(super) fn calls_took(notes: &Utf8Path) -> Result<Duration> {
    let noted = |name: &str| -> Result<u64> {
        let file = notes.join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("the manifest has not noted {file}"))?;
        fs::remove_file(&file)?;
        Ok(text.trim().parse()?)
    };
    let (begun, ended) = (noted("begun")?, noted("ended")?);
    Ok(Duration::from_nanos(ended.checked_sub(begun).context("the clock was set back")?))
}

/// The files as a playbook.
pub(super) fn playbook(count: usize) -> String {
    let text = content(0).replace('0', "{{ item }}").replace('\n', "\\n");
    format!(
        "- hosts: all\n  tasks:\n    - copy:\n        content: \"{text}\"\n        \
         dest: \"{DIRECTORY}/f{{{{ item }}}}\"\n        mode: \"0640\"\n      \
         loop: \"{{{{ range(1, {count} + 1) | list }}}}\"\n"
    )
}

/// The files as a deploy of pyinfra's.
pub(super) fn deploy(count: usize) -> String {
    let text = content(0).replace('0', "{n}").replace('\n', "\\n");
    format!(
        "from io import StringIO\nfrom pyinfra.operations import files\n\nfor n in range(1, {count} + 1):\n    \
         files.put(src=StringIO(f\"{text}\"), dest=f\"{DIRECTORY}/f{{n}}\", mode=\"640\")\n"
    )
}
