//! What each verb does.

mod acceptance;
mod backend;
mod computer;
mod events;
mod evidence;
mod image;
mod jobs;
mod local;
mod node;
mod orphans;

pub use computer::appended;
pub use jobs::watch;

use crate::cli::{Verb, VmVerb};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::{self, text};
use crate::screen::Screen;
use vcl_types::JobRequest;
use vcl_types::api::FindingLevel;

/// Does one verb.
///
/// # Errors
/// Whatever kept it from being done.
pub async fn run(verb: Verb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        Verb::Status => screen.answer(&client.status().await?, render::status::screen),
        Verb::Load(asked) => {
            let request = JobRequest::Load { computer: asked.computer, image: asked.image };
            jobs::submit(client, screen, request, asked.submission).await
        }
        Verb::Capture(asked) => jobs::capture(client, screen, asked).await,
        Verb::Unload(asked) => {
            jobs::submit(client, screen, JobRequest::Unload { computer: asked.computer }, asked.submission)
                .await
        }
        Verb::Image(verb) => image::run(verb, client, screen).await,
        Verb::Computer(verb) => computer::run(verb, client, screen).await,
        Verb::Backend(verb) => backend::run(verb, client, screen).await,
        Verb::Vm(VmVerb::List { backend }) => {
            screen.answer(&client.vms(&backend).await?, |vms, _| render::vms::list(vms))
        }
        Verb::Job(verb) => jobs::run(verb, client, screen).await,
        Verb::Why { what } => screen.answer(&client.why(&what).await?, render::insight::why),
        Verb::Orphans(verb) => orphans::run(verb, client, screen).await,
        Verb::Node(verb) => node::run(verb, client, screen).await,
        Verb::Lease(verb) => node::leases(verb, client, screen).await,
        Verb::Events(asked) => events::run(asked, client, screen).await,
        Verb::Doctor { rescan } => doctor(client, screen, rescan).await,
        Verb::Backup { directory, submission } => {
            let directory = directory.to_string_lossy().into_owned();
            jobs::submit(client, screen, JobRequest::Backup { directory, node: None }, submission).await
        }
        Verb::Acceptance(asked) => acceptance::run(asked, client, screen).await,
        Verb::Completions { shell } => local::completions(shell, screen),
        Verb::Man { directory } => local::man(&directory),
    }
}

async fn doctor(client: &Client, screen: &mut Screen, rescan: bool) -> Result<()> {
    let findings = client.doctor(rescan).await?;
    screen.answer(&findings, |findings, _| render::events::findings(findings))?;
    let wrong = findings.iter().filter(|finding| finding.level == FindingLevel::Error).count() as u64;
    if wrong == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Findings, format!("{} will not work", text::counted(wrong, "thing"))))
}
