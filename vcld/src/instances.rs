//! Backend instances: what each can do, whether it answers, and what is wrong with it.

use crate::node::{Node, Refusal, chain};
use std::sync::Arc;
use std::time::Duration;
use vcl_os::EndState;
use vcl_provisioning::{Capability, Provisioning};
use vcl_types::BackendName;
use vcl_types::api::{BackendView, CapabilityView, Finding, FindingLevel};

/// How long a backend may take to say how it is. One that is slower does not answer.
const LOOK: Duration = Duration::from_secs(60);

impl Node {
    /// All backend instances, asked at the same time.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn backend_views(&self) -> Result<Vec<BackendView>, Refusal> {
        let asked = self.backends.iter().map(|(name, backend)| self.look_at_backend(name, backend));
        futures::future::try_join_all(asked).await
    }

    /// One backend instance.
    ///
    /// # Errors
    /// There is no such backend, or the database does not answer.
    pub async fn backend_view(&self, name: &BackendName) -> Result<BackendView, Refusal> {
        self.look_at_backend(name, self.backend(name)?).await
    }

    /// Says in the log how each backend instance is, when the daemon starts.
    pub(crate) async fn log_backends(&self) {
        let views = match self.backend_views().await {
            Ok(views) => views,
            Err(refusal) => {
                return tracing::warn!(error = refusal.message, "nobody could look at the backends");
            }
        };
        for BackendView { name, kind, reachable, version, findings, .. } in views {
            tracing::info!(backend = %name, kind, reachable, version, "backend");
            for Finding { what, level, found, way_out } in findings {
                match level {
                    FindingLevel::Ok => tracing::debug!(what, found, "finding"),
                    FindingLevel::Warning => tracing::warn!(what, found, way_out, "finding"),
                    FindingLevel::Error => tracing::error!(what, found, way_out, "finding"),
                }
            }
        }
    }

    async fn look_at_backend(
        &self,
        name: &BackendName,
        backend: &Arc<dyn Provisioning>,
    ) -> Result<BackendView, Refusal> {
        let rows = self.queue.computers().await?;
        let computers = rows.iter().filter(|row| row.computer.backend == *name).count() as u64;
        let look = async { tokio::join!(backend.version(), backend.findings()) };
        let (version, mut findings) = match tokio::time::timeout(LOOK, look).await {
            Ok((version, findings)) => (version.map_err(|e| chain(&e)), findings),
            Err(_) => (Err(format!("it did not answer within {} s", LOOK.as_secs())), Vec::new()),
        };
        self.insight.see_backend(name, version.is_ok());
        let finding = |level, found: String, way_out: &str| Finding {
            what: format!("backend {name}"),
            level,
            found,
            way_out: Some(way_out.to_owned()),
        };
        let wrong = findings.iter().any(|f| f.level == FindingLevel::Error);
        if let Err(why) = &version
            && !wrong
        {
            findings.push(finding(
                FindingLevel::Error,
                why.clone(),
                "see whether it runs, and whether this machine reaches it",
            ));
        }
        if computers == 0 {
            let way_out = "give it some under [computers], and then: vclctl computer apply";
            findings.push(finding(FindingLevel::Warning, "no computer is of this backend".into(), way_out));
        }
        let shared = self.sharing().get(name).copied().unwrap_or(false);
        if self.config.backends.get(name).is_some_and(|table| table.shared == Some(true)) && self.alone() {
            let way_out = "leave `shared` out, or name the database of all nodes as [database] url";
            let found = "it is shared with other nodes, and this node's database is its own";
            findings.push(finding(FindingLevel::Warning, found.into(), way_out));
        }
        let capabilities = backend.capabilities();
        let end_state = match backend.end_state() {
            EndState::Off => "off",
            EndState::On => "on",
            EndState::Reboot => "reboot",
        };
        Ok(BackendView {
            name: name.clone(),
            kind: backend.kind().to_owned(),
            reachable: version.is_ok(),
            version: version.ok().flatten(),
            host: backend.host(),
            shared,
            max_jobs: self.config.backends.get(name).map_or(0, |table| table.max_jobs as u64),
            computers,
            end_state: capabilities.has(Capability::Capture).then(|| end_state.to_owned()),
            capabilities: Capability::ALL
                .into_iter()
                .map(|what| CapabilityView {
                    name: what.to_string(),
                    what: what.explained().to_owned(),
                    lacks: capabilities.lacks(what).map(str::to_owned),
                })
                .collect(),
            findings,
        })
    }
}
