//! What this node lacks.

use crate::node::Node;
use vcl_types::ByteSize;
use vcl_types::api::{Finding, FindingLevel};

impl Node {
    /// Looks at everything that a job may need: tools, library, database, hooks, backends. Never fails.
    pub async fn doctor(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |what: &str, level, found: String, way_out: Option<String>| {
            findings.push(Finding { what: what.into(), level, found, way_out });
        };
        match version("qemu-img").await {
            Ok(line) => add("qemu-img", FindingLevel::Ok, line, None),
            Err(e) => add("qemu-img", FindingLevel::Error, e, Some("apt install qemu-utils".into())),
        }
        let root = self.library.root().display();
        match self.library.space() {
            Ok(space) => {
                let free = ByteSize(space.free);
                let found = format!("{root}: {free} free of {}", ByteSize(space.total));
                if free < self.config.library.keep_free {
                    let way_out =
                        "delete revisions that nobody needs (vclctl image delete), or give it more room";
                    add("library", FindingLevel::Error, found, Some(way_out.into()));
                } else {
                    add("library", FindingLevel::Ok, found, None);
                }
            }
            Err(e) => {
                add("library", FindingLevel::Error, e.to_string(), Some("look at [library] path".into()));
            }
        }
        match self.library.revisions() {
            Ok(scan) => {
                let unknown = self.unknown_revisions(&scan.revisions).await;
                for finding in scan.findings {
                    let way_out = "restore it from a copy, or move it out of the library";
                    let found = format!("{}: {}", finding.path.display(), finding.problem);
                    add("library", FindingLevel::Warning, found, Some(way_out.into()));
                }
                for image in unknown {
                    let way_out = "vclctl doctor --rescan";
                    let found = format!("{image} is in the library and not in the database");
                    add("library", FindingLevel::Warning, found, Some(way_out.into()));
                }
            }
            Err(e) => add("library", FindingLevel::Error, e.to_string(), None),
        }
        add("ssh key", FindingLevel::Ok, format!("guests must let this key in: {}", self.public_key), None);
        for stage in ["pre_capture", "post_load", "reserve", "method"] {
            let directory = self.config.hooks.directory.join(format!("{stage}.d"));
            let count = std::fs::read_dir(&directory).map_or(0, |d| d.flatten().count());
            add("hooks", FindingLevel::Ok, format!("{count} files in {directory} for {stage}"), None);
        }
        match self.insight.orphans() {
            0 => {}
            n => {
                let found = format!("{n} things belong to nobody, or should be there and are not");
                add(
                    "orphans",
                    FindingLevel::Warning,
                    found,
                    Some("look at them: vclctl orphans list".into()),
                );
            }
        }
        for backend in self.backends.values() {
            findings.extend(backend.findings().await);
        }
        if let Some(exchange) = &self.exchange {
            findings.extend(exchange.findings().await);
        }
        findings.extend(self.replica_findings().await);
        findings.extend(self.notice_findings().await);
        findings.extend(self.gate_findings().await);
        findings.extend(self.gateway_findings());
        findings
    }

    async fn unknown_revisions(&self, held: &[vcl_types::Revision]) -> Vec<vcl_types::ImageRef> {
        let known = self.queue.images().await.unwrap_or_default();
        let known: std::collections::BTreeSet<_> =
            known.iter().flat_map(|i| i.revisions.iter().map(|r| r.manifest.image_ref())).collect();
        held.iter().map(|r| r.manifest.image_ref()).filter(|r| !known.contains(r)).collect()
    }
}

async fn version(program: &str) -> Result<String, String> {
    let run = tokio::process::Command::new(program).arg("--version").output();
    match tokio::time::timeout(std::time::Duration::from_secs(10), run).await {
        Ok(Ok(output)) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
        }
        Ok(Ok(output)) => Err(format!("{program} --version failed: {}", output.status)),
        Ok(Err(e)) => Err(format!("{program} cannot be run: {e}")),
        Err(_) => Err(format!("{program} --version does not return")),
    }
}
