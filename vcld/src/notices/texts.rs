//! The texts of notices: built in, or the site's own files.
//!
//! A text is a template of minijinja; its first line is the subject. `GROUP/KIND.txt` of the directory counts for
//! reservations of that group, `KIND.txt` for all others. Every fact is there in every text, an empty one where there is
//! nothing to say, and a name that is none is an error: found when the daemon starts, not when the notice is sent.

use anyhow::{Context as _, bail, ensure};
use camino::{Utf8Path, Utf8PathBuf};
use chrono::DateTime;
use minijinja::{Environment, UndefinedBehavior};
use std::collections::BTreeMap;
use vcl_queue::NoticeRow;
use vcl_types::notices::NoticeKind;

/// What texts may speak of.
pub(super) const FACTS: &[&str] = &[
    "reservation",
    "owner",
    "group",
    "purpose",
    "image",
    "computer",
    "start",
    "end",
    "left_s",
    "because",
    "job",
    "title",
    "by",
    "class",
    "seats",
    "found",
];
/// How large a text may be, in bytes, and how much work one may make.
const LARGEST: u64 = 64 * 1024;
const FUEL: u64 = 100_000;
/// How long a subject may be, in characters.
const SUBJECT: usize = 200;

/// The built-in text.
fn built_in(kind: NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Ready => {
            "Your computer {{ computer }} is ready\n\
             Reservation {{ reservation }} of {{ image }} can be used now: {{ computer }} is ready\
             {% if end %}, until {{ end|when }}{% endif %}.\n\n\
             Get to it: vclctl connect {{ reservation }}\n\n\
             If nobody comes, the computer is given to somebody else after a while.\n"
        }
        NoticeKind::NotAcknowledged => {
            "Reservation {{ reservation }} has ended: you did not come\n\
             {{ computer }} was ready with {{ image }}, and you did not say that you come. It was given back.\n\n\
             Reserve again when you need it: vclctl reserve {{ image }}\n"
        }
        NoticeKind::NotConnected => {
            "Reservation {{ reservation }} has ended: you did not connect\n\
             {{ computer }} was ready with {{ image }}, and you did not connect to it. It was given back.\n\n\
             Reserve again when you need it: vclctl reserve {{ image }}\n"
        }
        NoticeKind::Inactive => {
            "Reservation {{ reservation }} has ended: nobody was connected\n\
             Nobody was connected to {{ computer }} with {{ image }} any more. It was given back, and what was on it is gone.\n\n\
             Reserve again when you need it: vclctl reserve {{ image }}\n"
        }
        NoticeKind::EndsSoon => {
            "Reservation {{ reservation }} ends in {{ left_s|span }}\n\
             Your reservation of {{ image }} on {{ computer }} ends at {{ end|when }}, in {{ left_s|span }}.\n\n\
             Save your work elsewhere: what is on the computer is gone then. If nobody has it after you, you may keep it \
             longer: vclctl extend {{ reservation }} --by 1h\n"
        }
        NoticeKind::Ended => {
            "Reservation {{ reservation }} has ended\n\
             Your reservation of {{ image }}{% if computer %} on {{ computer }}{% endif %} has ended: {{ because }}.\n"
        }
        NoticeKind::GivenUp => {
            "Reservation {{ reservation }} could not be loaded\n\
             Your reservation of {{ image }} has ended before it could be used: {{ because }}.\n\n\
             The administrators can see why: vclctl why reservation:{{ reservation }}\n"
        }
        NoticeKind::SeatsMissing => {
            "Class {{ class }} lacks seats\n\
             The class {{ class }} at {{ start|when }} with {{ image }} has {{ found }} of its {{ seats }} seats: \
             there are no more computers for that time.\n"
        }
        NoticeKind::Captured => {
            "{{ image }} was captured\n\
             {{ image }} is there, made of what {{ computer }} held (job {{ job }}).\n\n\
             New reservations get it once it is in production: vclctl image promote {{ image }}\n"
        }
        NoticeKind::Promoted => {
            "{{ image }} is in production\n\
             {{ by }} has put {{ image }} in production: new reservations get it.\n"
        }
        NoticeKind::JobStuck => {
            "CRITICAL: job {{ job }} is stuck\n\
             Job {{ job }} ({{ title }}) of {{ owner }} could not be taken back{% if computer %}; {{ computer }} is kept from others{% endif %}.\n\n\
             {{ because }}\n\n\
             Look at it: vclctl job show {{ job }}\n"
        }
        NoticeKind::Maintenance => {
            "CRITICAL: {{ computer }} is out of use\n\
             {{ computer }} needs somebody: {{ because }} (job {{ job }} of {{ owner }}).\n\n\
             Look at it: vclctl why {{ computer }}\n"
        }
    }
}

/// What a notice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text {
    /// One line.
    pub(super) subject: String,
    /// The rest.
    pub(super) body: String,
}

/// All texts of a site.
pub(super) struct Texts {
    environment: Environment<'static>,
    /// The site's own, by group and kind; those of no group are everybody's.
    own: BTreeMap<(Option<String>, NoticeKind), String>,
}

impl Texts {
    /// Reads the texts of a directory and tries every one of them.
    ///
    /// # Errors
    /// A file that is no text of a kind, or names what there is not.
    pub(super) fn read(directory: Option<&Utf8Path>, timezone: chrono_tz::Tz) -> anyhow::Result<Self> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(50);
        environment.add_filter("when", move |text: &str| match DateTime::parse_from_rfc3339(text) {
            Ok(at) => at.with_timezone(&timezone).format("%a %Y-%m-%d %H:%M %Z").to_string(),
            Err(_) => text.to_owned(),
        });
        environment.add_filter("span", |text: &str| match text.parse::<u64>() {
            Ok(seconds) => crate::why::span(seconds.saturating_mul(1000)),
            Err(_) => text.to_owned(),
        });
        let own = directory.map(files).transpose()?.unwrap_or_default();
        let texts = Self { environment, own: BTreeMap::new() };
        for (path, key, source) in &own {
            // With everything, and with nothing: a text has to stand both.
            for facts in [sample(), BTreeMap::new()] {
                texts.make(key.1, source, &facts).map_err(|why| anyhow::anyhow!("{path}: {why}"))?;
            }
        }
        Ok(Self { own: own.into_iter().map(|(_, key, source)| (key, source)).collect(), ..texts })
    }

    /// What a notice says.
    ///
    /// # Errors
    /// Why nothing can be made of its text.
    pub(super) fn of(&self, row: &NoticeRow) -> Result<Text, String> {
        let of_group = row.group.as_ref().and_then(|group| self.own.get(&(Some(group.clone()), row.kind)));
        let own = of_group.or_else(|| self.own.get(&(None, row.kind)));
        let facts = row.facts.iter().map(|(name, text)| (name.as_str(), text.clone())).collect();
        self.make(row.kind, own.map_or_else(|| built_in(row.kind), String::as_str), &facts)
    }

    fn make(&self, kind: NoticeKind, source: &str, facts: &BTreeMap<&str, String>) -> Result<Text, String> {
        let mut all: BTreeMap<&str, String> = FACTS.iter().map(|name| (*name, String::new())).collect();
        all.extend(facts.iter().map(|(name, text)| (*name, text.clone())));
        all.insert("kind", kind.to_string());
        let said = self.environment.render_str(source, &all).map_err(|e| {
            let line = e.line().map(|line| format!(" in line {line}")).unwrap_or_default();
            format!("the text for `{kind}` cannot be made{line}: {e}")
        })?;
        let (subject, body) = said.split_once('\n').unwrap_or((said.as_str(), ""));
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let subject: String = subject.trim().chars().map(plain).take(SUBJECT).collect();
        if subject.is_empty() {
            return Err(format!("the text for `{kind}` has no subject in its first line"));
        }
        let body =
            body.trim_start_matches('\n').chars().filter(|c| *c == '\n' || *c == '\t' || !c.is_control());
        Ok(Text { subject, body: body.collect() })
    }
}

/// What every text is tried with.
fn sample() -> BTreeMap<&'static str, String> {
    let value = |name: &str| match name {
        "start" | "end" => "2026-11-23T08:00:00Z".to_owned(),
        "left_s" => "600".to_owned(),
        other => other.to_owned(),
    };
    FACTS.iter().map(|name| (*name, value(name))).collect()
}

type File = (Utf8PathBuf, (Option<String>, NoticeKind), String);

/// The texts below a directory, one level of groups deep.
fn files(directory: &Utf8Path) -> anyhow::Result<Vec<File>> {
    let mut found = Vec::new();
    let here = |path: &Utf8Path| format!("reading {path}");
    for entry in directory.read_dir_utf8().with_context(|| here(directory))? {
        let entry = entry.with_context(|| here(directory))?;
        let path = entry.path();
        if !path.is_dir() {
            found.extend(file(path, None)?);
            continue;
        }
        for below in path.read_dir_utf8().with_context(|| here(path))? {
            let below = below.with_context(|| here(path))?;
            found.extend(file(below.path(), Some(entry.file_name().to_owned()))?);
        }
    }
    Ok(found)
}

fn file(path: &Utf8Path, group: Option<String>) -> anyhow::Result<Option<File>> {
    // Editors leave other things lying about.
    if path.extension() != Some("txt") || path.is_dir() {
        return Ok(None);
    }
    let kind = path.file_stem().unwrap_or_default().parse::<NoticeKind>();
    let kind = match kind {
        Ok(kind) => kind,
        Err(why) => bail!("{path} is no text of a notice: {why}"),
    };
    let size = path.metadata().with_context(|| format!("reading {path}"))?.len();
    ensure!(size <= LARGEST, "{path} is larger than {} KiB", LARGEST / 1024);
    let source = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(Some((path.to_owned(), (group, kind), source)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: NoticeKind, group: Option<&str>, facts: &[(&str, &str)]) -> NoticeRow {
        NoticeRow {
            id: 7,
            kind,
            to: None,
            group: group.map(str::to_owned),
            facts: facts.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            at: DateTime::UNIX_EPOCH,
            tries: 0,
            mailed: false,
            hooked: false,
        }
    }

    #[test]
    fn every_built_in_text_is_whole_with_every_fact_and_with_none() {
        let texts = Texts::read(None, chrono_tz::Europe::Berlin).unwrap();
        let mut all = String::new();
        for kind in NoticeKind::ALL {
            let text = texts.make(*kind, built_in(*kind), &sample()).unwrap();
            all.push_str(&format!("== {kind}\n{}\n\n{}\n", text.subject, text.body));
            texts.make(*kind, built_in(*kind), &BTreeMap::new()).unwrap();
        }
        assert!(all.contains("ends in 10 min") || all.contains("10 m"), "{all}");
        assert!(all.contains("Mon 2026-11-23 09:00 CET"), "{all}");
        assert!(!all.contains("{{") && !all.contains("{%"), "{all}");
    }

    #[test]
    fn a_group_has_its_own_text_before_the_sites_and_that_before_the_built_in_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(directory.path()).unwrap();
        std::fs::create_dir(root.join("gis")).unwrap();
        std::fs::write(root.join("ready.txt"), "Site {{ computer }}\nHello\n").unwrap();
        std::fs::write(root.join("gis/ready.txt"), "Geo {{ computer }}\nGrüße").unwrap();
        std::fs::write(root.join("README"), "{{ nonsense").unwrap();
        let texts = Texts::read(Some(root), chrono_tz::UTC).unwrap();
        let facts = [("computer", "c1\r\nBcc: eve@x.org")];
        let subject = |group| texts.of(&row(NoticeKind::Ready, group, &facts)).unwrap().subject;
        assert_eq!(subject(Some("gis")), "Geo c1");
        assert_eq!(subject(Some("other")), "Site c1");
        assert!(texts.of(&row(NoticeKind::Ended, Some("gis"), &[])).unwrap().subject.ends_with("has ended"));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_found_when_it_is_read() {
        for (name, source, named) in [
            ("ready.txt", "Hi {{ passwort }}\n", "line 1"),
            ("ready.txt", "Hi\n{% if end %}", "ready.txt"),
            ("redy.txt", "Hi", "redy"),
            ("ended.txt", "\nbody", "subject"),
            ("ended.txt", "{% for i in range(100000) %}{{ i }}{% endfor %}", "ended"),
            ("ended.txt", "x\n{% include \"/etc/passwd\" %}", "ended"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let root = Utf8Path::from_path(directory.path()).unwrap();
            std::fs::write(root.join(name), source).unwrap();
            let why =
                Texts::read(Some(root), chrono_tz::UTC).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(why.contains(named), "{name} {source}: {why}");
        }
    }
}
