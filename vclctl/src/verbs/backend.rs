//! Backend instances.

use crate::cli::BackendVerb;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::{backends, text};
use crate::screen::Screen;
use vcl_types::api::FindingLevel;

/// What is wanted of backends.
pub(super) async fn run(verb: BackendVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        BackendVerb::List => screen.answer(&client.backends().await?, |all, _| backends::list(all)),
        BackendVerb::Validate { names } => {
            let mut all = Vec::new();
            if names.is_empty() {
                all = client.backends().await?;
            }
            for name in &names {
                all.push(client.backend(name).await?);
            }
            screen.answer(&all, |all, _| backends::each(all))?;
            let findings = all.iter().flat_map(|backend| &backend.findings);
            let wrong = findings.filter(|finding| finding.level == FindingLevel::Error).count() as u64;
            if wrong == 0 {
                return Ok(());
            }
            Err(Error::new(ErrorKind::Findings, format!("{} will not work", text::counted(wrong, "thing"))))
        }
    }
}
