//! Images and their revisions.

use super::table::{maybe, quiet};
use super::{Clock, Facts, Table, Tone, image_tests};
use vcl_types::api::{ImageView, RevisionView};
use vcl_types::{ByteSize, OsName};

fn os(name: OsName) -> &'static str {
    match name {
        OsName::Linux => "linux",
        OsName::Windows => "windows",
    }
}

fn users(revision: &RevisionView) -> String {
    revision.used_by.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ")
}

/// All images, a line each.
#[must_use]
pub fn list(images: &[ImageView], clock: &Clock) -> String {
    let mut table = Table::new(
        &["NAME", "NEWEST", "OS", "DISK", "TAKES", "MADE", "PROD", "LOADED ON", "NOTE"],
        "no images; `vclctl image import` and `vclctl image create` make them",
    );
    for image in images {
        let newest = image.revisions.last();
        let manifest = newest.map(|newest| &newest.manifest);
        let takes = image.revisions.iter().map(|revision| revision.size.bytes()).sum();
        let production = image.revisions.iter().find(|r| r.production).map(|r| r.manifest.revision);
        let used: Vec<String> = image.revisions.iter().map(users).filter(|users| !users.is_empty()).collect();
        table.row([
            quiet(&image.name),
            maybe(manifest.map(|manifest| format!("@{}", manifest.revision))),
            maybe(manifest.map(|manifest| os(manifest.os))),
            maybe(
                manifest.map(|manifest| {
                    ByteSize(manifest.disks.iter().map(|disk| disk.virtual_size.bytes()).sum())
                }),
            ),
            quiet(ByteSize(takes)),
            maybe(manifest.map(|manifest| clock.ago(manifest.created))),
            maybe(production.map(|number| format!("@{number}"))),
            quiet(used.join(" ")),
            maybe(manifest.and_then(|manifest| manifest.note.as_ref())),
        ]);
    }
    table.text()
}

/// One image: its revisions, newest first.
#[must_use]
pub fn revisions(image: &ImageView, clock: &Clock) -> String {
    let mut table = Table::new(
        &["REVISION", "FROM", "OS", "DISK", "TAKES", "MADE", "JOB", "LOADED ON", "PROD", "HERE", "NOTE"],
        "no revisions",
    );
    for revision in image.revisions.iter().rev() {
        let manifest = &revision.manifest;
        let from = match (&manifest.parent, &manifest.backend) {
            (Some(parent), _) => parent.to_string(),
            (None, Some(backend)) => backend.to_string(),
            (None, None) => "import".into(),
        };
        let from = if manifest.lies_on().is_some() { format!("over {from}") } else { from };
        table.row([
            quiet(manifest.image_ref()),
            quiet(from),
            quiet(os(manifest.os)),
            quiet(ByteSize(manifest.disks.iter().map(|disk| disk.virtual_size.bytes()).sum())),
            quiet(revision.size),
            quiet(clock.ago(manifest.created)),
            maybe(manifest.job),
            quiet(users(revision)),
            maybe(revision.production.then_some("yes")),
            if revision.here { ("yes".into(), Tone::Quiet) } else { ("no".into(), Tone::Busy) },
            maybe(manifest.note.as_ref()),
        ]);
    }
    let held =
        image.lease.as_ref().map(|lease| format!("\n\nheld by {}", super::nodes::holder(lease, clock)));
    table.text() + &held.unwrap_or_default()
}

/// One revision.
#[must_use]
pub fn revision(revision: &RevisionView, clock: &Clock) -> String {
    let manifest = &revision.manifest;
    let mut facts = Facts::default();
    facts.add("revision", manifest.image_ref()).maybe("note", manifest.note.as_ref());
    facts.add("made", format!("{} ({})", clock.full(manifest.created), clock.ago(manifest.created)));
    facts.maybe("from", manifest.parent.as_ref()).maybe("backend", manifest.backend.as_ref());
    facts.maybe("job", manifest.job).add("os", os(manifest.os));
    facts.add(
        "generalised",
        if manifest.generalised {
            "yes: it makes itself a new identity"
        } else {
            "no: each load gives it a new identity"
        },
    );
    facts.add("hardware", &manifest.hardware).add("takes", revision.size);
    for disk in &manifest.disks {
        let (file, format, size, takes) = (&disk.file, &disk.format, disk.virtual_size, disk.file_size);
        facts.add("disk", format!("{file} {format} {size}, file {takes}"));
        facts.add("  file", format!("sha256 {}", disk.file_digest));
        facts.add("  content", &disk.content_digest);
        facts.maybe("  over", disk.over.as_ref().map(|over| format!("{} {}", over.image, over.file)));
    }
    facts.maybe(
        "firmware",
        manifest.firmware.as_ref().map(|firmware| format!("{} {}", firmware.file, firmware.format)),
    );
    if let Some(boot) = &manifest.boot {
        facts.add("kernel", &boot.kernel).maybe("initrd", boot.initrd.as_ref());
        facts.maybe("cmdline", (!boot.cmdline.is_empty()).then_some(&boot.cmdline));
    }
    let used = users(revision);
    facts.add("loaded on", if used.is_empty() { "-" } else { &used });
    facts.maybe("production", revision.production.then_some("yes"));
    facts.maybe("tested", revision.tested.as_ref().map(|test| image_tests::line(test, clock)));
    facts.add("here", if revision.here { "yes" } else { "no: this node's library does not hold it" });
    facts.text()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::fixtures;

    #[test]
    fn a_list() {
        insta::assert_snapshot!(list(&[fixtures::debian(), fixtures::gis()], &fixtures::clock()));
    }
    #[test]
    fn one_image() {
        insta::assert_snapshot!(revisions(&fixtures::debian(), &fixtures::clock()));
    }
    #[test]
    fn one_revision() {
        let [debian, gis] = [fixtures::debian().revisions.remove(1), fixtures::gis().revisions.remove(0)];
        let both = [debian, gis].map(|one| revision(&one, &fixtures::clock()));
        insta::assert_snapshot!(both.join("\n\n"));
    }
}
