//! Whether the database and the library say the same: after a restore of either, and at every start.
//!
//! A revision without a row gets one: its manifest has all that the row needs. A row without files here is no fault
//! where another node has them. Where none has, the revision is lost, and whoever asks for it is told so.

use crate::node::Node;
use std::collections::BTreeMap;
use vcl_images::ErrorKind;
use vcl_types::ImageRef;
use vcl_types::api::{Finding, FindingLevel, PowerState};

/// What comparing them came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rescan {
    /// Revisions that had no row and have one now.
    pub(crate) added: Vec<ImageRef>,
    /// Revisions that were deleted and whose files are here all the same.
    pub(crate) deleted: Vec<ImageRef>,
    /// Rows without files here, each with the nodes that are known to have them.
    pub(crate) lacking: BTreeMap<ImageRef, Vec<String>>,
}

impl Rescan {
    /// Those that no node is known to have.
    pub(crate) fn lost(&self) -> Vec<&ImageRef> {
        self.lacking.iter().filter(|(_, nodes)| nodes.is_empty()).map(|(image, _)| image).collect()
    }

    /// As the doctor says it. `alone` is whether there is no other node to ask.
    pub(crate) fn findings(&self, alone: bool) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |level, found: String, way_out: Option<String>| {
            findings.push(Finding { what: "library".into(), level, found, way_out });
        };
        for image in &self.added {
            add(
                FindingLevel::Warning,
                format!("{image} was in the library and not in the database; it is now"),
                None,
            );
        }
        for image in &self.deleted {
            let way_out = "remove its directory from the library, or restore a database that still has it";
            add(
                FindingLevel::Warning,
                format!("{image} was deleted, and its files are in the library"),
                Some(way_out.into()),
            );
        }
        for (image, nodes) in &self.lacking {
            if !nodes.is_empty() {
                let found = format!("{image} is not here; {} can give it", nodes.join(", "));
                add(FindingLevel::Ok, found, Some(format!("vclctl image fetch {image}")));
                continue;
            }
            let (level, found) = match alone {
                true => (FindingLevel::Error, format!("{image} is in the database and its files are lost")),
                false => {
                    (FindingLevel::Warning, format!("{image} is not here, and no node is known to have it"))
                }
            };
            let way_out = format!(
                "bring its files back from a backup (vcld restore DIR --merge), or give it up: vclctl image delete {image}"
            );
            add(level, found, Some(way_out));
        }
        findings
    }
}

impl Node {
    /// Compares rows with manifests, makes the rows that are missing, and says anew what this node holds.
    pub(crate) async fn rescan(&self) -> Result<Rescan, vcl_job::Error> {
        let looked = chrono::Utc::now();
        let manifests: Vec<_> = self.library.revisions()?.revisions.into_iter().map(|r| r.manifest).collect();
        let held: Vec<_> = manifests.iter().map(vcl_types::Manifest::image_ref).collect();
        let mut rebuilt = self.queue.rebuild_from(&manifests).await?;
        // What another lies on here is needed, whatever the database says of it.
        rebuilt.deleted.retain(|image| manifests.iter().all(|m| m.lies_on() != Some(image)));
        self.queue.set_holdings(&self.name, &held, looked).await?;
        let mut lacking = BTreeMap::new();
        for revision in self.queue.images().await?.into_iter().flat_map(|image| image.revisions) {
            let image = revision.manifest.image_ref();
            match self.library.get(&image) {
                Err(e) if e.kind == ErrorKind::NotFound => {
                    let holders = self.queue.holders(&image).await?;
                    lacking.insert(image, holders);
                }
                // What is here and damaged is the library's own finding.
                _ => {}
            }
        }
        Ok(Rescan { added: rebuilt.added, deleted: rebuilt.deleted, lacking })
    }

    /// The same at the start, told in events.
    pub(crate) async fn rescan_at_start(&self) -> Result<(), vcl_job::Error> {
        let found = self.rescan().await?;
        for image in &found.added {
            let message = format!("{image} was in the library and not in the database; it is now");
            self.queue.event("revision-added", None, None, &message).await?;
        }
        for image in &found.deleted {
            let message =
                format!("{image} was deleted, and its files are in the library; see vclctl doctor --rescan");
            self.queue.event("revision-left", None, None, &message).await?;
        }
        if self.exchange.is_none() {
            for image in found.lost() {
                let message =
                    format!("{image} is in the database and its files are lost; see vclctl doctor --rescan");
                self.queue.event("revision-lost", None, None, &message).await?;
            }
        }
        Ok(())
    }

    /// What `doctor --rescan` says: the library against the database, and loaded computers against their backends.
    pub(crate) async fn rescan_findings(&self) -> Vec<Finding> {
        let failed = |found: String| {
            let way_out = Some("look at the message, then try again".to_owned());
            vec![Finding { what: "rescan".into(), level: FindingLevel::Error, found, way_out }]
        };
        let mut findings = match self.rescan().await {
            Ok(found) => found.findings(self.exchange.is_none()),
            Err(e) => return failed(e.failure().message),
        };
        let computers = match self.queue.computers().await {
            Ok(computers) => computers,
            Err(e) => return failed(e.to_string()),
        };
        for row in computers {
            let Some(loaded) = &row.loaded else { continue };
            let (name, backend) = (&row.computer.name, self.backends.get(&row.computer.backend));
            let Some(backend) = backend else { continue };
            if let Ok(PowerState::Absent) = backend.state(&row.computer).await {
                let found = format!(
                    "{name} holds {} in the database, and its backend has no machine for it",
                    loaded.image
                );
                let way_out = Some(format!("vclctl unload {name}"));
                findings.push(Finding {
                    what: "computer".into(),
                    level: FindingLevel::Warning,
                    found,
                    way_out,
                });
            }
        }
        if findings.is_empty() {
            let found = "the database, the library and the backends say the same".to_owned();
            findings.push(Finding { what: "rescan".into(), level: FindingLevel::Ok, found, way_out: None });
        }
        findings
    }
}
