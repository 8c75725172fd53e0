//! `[configure]` and `[tag.NAME]`, and `configure` of `[image.NAME]`: what loaded computers are made to be.

use crate::keys::{Key, Kind};
use crate::problem::shown;
use crate::section::{self, Section};
use crate::tree::Value;
use crate::values::CredentialName;
use camino::Utf8PathBuf;
use std::collections::BTreeMap;
use std::time::Duration;
use vcl_types::{ImageName, ManifestName};

/// Where the Debian package cdist has the types that come with it, and where a site has its own.
const DIRECTORIES: &str = "/usr/lib/python3/dist-packages/cdist/conf /etc/vcld/configure";

/// What `[configure]` has.
pub(crate) const KEYS: &[Key] = &[
    Key::default(
        "directories",
        Kind::Text,
        DIRECTORIES,
        "Configuration directories as cdist has them, with blanks between them, a later one over an earlier one. `manifest` in one has the manifests that computers are configured by, `playbook` what is used instead: files `NAME.yml` for ansible-playbook, and executables. Directories that are not there are left out.",
    ),
    Key::default(
        "directory",
        Kind::Path,
        "/var/lib/vcld/configure",
        "Where the files of runs are, and what each computer's last two runs have found and made.",
    ),
    Key::default(
        "deadline",
        Kind::Duration { min: 1000 },
        "1h",
        "How long it may take to configure a computer by one manifest, or playbook.",
    ),
    Key::optional(
        "jobs",
        Kind::Integer { min: 1, max: 256 },
        "as many as there are processors, and four at least",
        "How many scripts of one run go at the same time.",
    ),
    Key::default(
        "memo",
        Kind::Boolean,
        "false",
        "Whether generated code is kept, and generated again only where something has changed that goes into it.",
    ),
    Key::optional(
        "secrets",
        Kind::Text,
        "none",
        "systemd credentials that manifests may read, by their names with blanks between them: `$(cat \"$__vcl_secrets/NAME\")`. They stand in nothing that is said or kept.",
    ),
];

/// What a credential is called that scripts find under its name.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// What `configure` of an image or a tag is.
pub(crate) const fn manifest(about: &'static str) -> Key {
    Key::optional("configure", Kind::Text, "it is left as it was captured", about)
}

/// `[tag.NAME]`.
pub(crate) const TAG: &[Key] = &[manifest(
    "The manifest, or playbook, by which computers with this tag are configured whenever they are loaded, after that of their image.",
)];

/// What loaded computers are made to be, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configure {
    /// Configuration directories, a later one over an earlier one. They need not be there.
    pub directories: Vec<Utf8PathBuf>,
    /// Where the files of runs are.
    pub directory: Utf8PathBuf,
    /// How long a run may take.
    pub deadline: Duration,
    /// How many scripts of a run go at the same time.
    pub jobs: Option<u32>,
    /// Whether generated code is kept.
    pub memo: bool,
    /// Credentials that manifests may read.
    pub secrets: Vec<CredentialName>,
    images: BTreeMap<ImageName, ManifestName>,
    tags: BTreeMap<String, ManifestName>,
}

impl Configure {
    /// What an image itself is configured by.
    #[must_use]
    pub fn of_image(&self, image: &ImageName) -> Option<&ManifestName> {
        self.images.get(image)
    }
    /// By which manifests a computer with these tags is configured after this image is loaded, in order, each once.
    #[must_use]
    pub fn manifests(&self, image: &ImageName, tags: &[String]) -> Vec<ManifestName> {
        let tagged = self.tags.iter().filter(|(tag, _)| tags.contains(tag)).map(|(_, manifest)| manifest);
        let mut all: Vec<ManifestName> = Vec::new();
        for manifest in self.images.get(image).into_iter().chain(tagged) {
            if !all.contains(manifest) {
                all.push(manifest.clone());
            }
        }
        all
    }
}

pub(crate) fn read(root: &Section<'_>) -> Option<Configure> {
    let (images, tags) = (of_images(root), of_tags(root));
    let table = root.section("configure")?;
    let directories = table.text("directories").and_then(|text| absolute(&table, "directories", &text));
    let directory = table.path("directory").filter(|path| {
        let good = !path.as_str().contains(char::is_whitespace);
        if !good {
            let message = format!("`{}` has a blank in it", shown(path.as_str()));
            table.report("directory", message, "ssh is told of files there: name a directory without blanks");
        }
        good
    });
    let (deadline, memo) = (table.duration("deadline"), table.boolean("memo"));
    let secrets = table.optional("secrets", |table| {
        let text = table.text("secrets")?;
        let names: Option<Vec<CredentialName>> =
            text.split_whitespace().map(|word| word.parse().ok().filter(|_| is_plain(word))).collect();
        if names.is_none() {
            let message = format!("`{}` are not names of credentials", shown(&text));
            table.report(
                "secrets",
                message,
                "write words of letters, digits, `-` and `_` with blanks between them",
            );
        }
        names
    });
    let jobs = table.optional("jobs", |table| table.integer("jobs"));
    Some(Configure {
        directories: directories?,
        directory: directory?,
        deadline: deadline?,
        jobs: jobs?,
        memo: memo?,
        secrets: secrets?.unwrap_or_default(),
        images: images?,
        tags: tags?,
    })
}

fn absolute(table: &Section<'_>, key: &str, text: &str) -> Option<Vec<Utf8PathBuf>> {
    let all: Vec<Utf8PathBuf> = text.split_whitespace().map(Utf8PathBuf::from).collect();
    if let Some(bad) = all.iter().find(|path| !path.is_absolute()) {
        let message = format!("`{}` is not an absolute path", shown(bad.as_str()));
        table.report(
            key,
            message,
            format!("write absolute paths with blanks between them, as in \"{DIRECTORIES}\""),
        );
        return None;
    }
    Some(all)
}

/// `configure` of a table that has it.
fn named(table: &Section<'_>) -> Option<Option<ManifestName>> {
    table.optional("configure", |table| {
        let text = table.text("configure")?;
        text.parse()
            .map_err(|bad: vcl_types::InvalidName| table.report("configure", bad.to_string(), bad.rule))
            .ok()
    })
}

/// That an image's name is none, and what else is in its table, is others' to report.
fn of_images(root: &Section<'_>) -> Option<BTreeMap<ImageName, ManifestName>> {
    let (mut all, mut good) = (BTreeMap::new(), true);
    for (path, entry) in root.named_entries("image") {
        let (Ok(image), Value::Table(entries)) = (entry.key.parse::<ImageName>(), &entry.node.value) else {
            continue;
        };
        let table = Section::unchecked(
            root.findings(),
            (path, entry.at),
            entries,
            [crate::keys::lending::IMAGE, &[]],
        );
        match named(&table) {
            Some(manifest) => all.extend(manifest.map(|manifest| (image, manifest))),
            None => good = false,
        }
    }
    good.then_some(all)
}

fn of_tags(root: &Section<'_>) -> Option<BTreeMap<String, ManifestName>> {
    let (mut all, mut good) = (BTreeMap::new(), true);
    for (path, entry) in root.named_entries("tag") {
        let findings = root.findings();
        let read = section::table(findings, &path, entry).and_then(|entries| {
            named(&Section::open(findings, (path.clone(), entry.at), entries, [TAG, &[]]))
        });
        match read {
            Some(manifest) => all.extend(manifest.map(|manifest| (entry.key.clone(), manifest))),
            None => good = false,
        }
    }
    good.then_some(all)
}
