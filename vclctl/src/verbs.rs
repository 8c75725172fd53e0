//! What each verb does.

mod acceptance;
mod backend;
mod class;
mod computer;
mod configure;
mod events;
mod evidence;
mod image;
mod image_test;
mod jobs;
mod local;
mod login;
mod many;
mod node;
mod orphans;
mod people;
mod report;
mod reservation;

pub use computer::appended;
pub use jobs::watch;

use crate::cli::{LoadArguments, UnloadArguments, Verb, VmVerb};
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
        Verb::Reserve(asked) => reservation::reserve(asked, client, screen).await,
        Verb::Extend(asked) => reservation::extend(asked, client, screen).await,
        Verb::Release { id, discard } => reservation::release(id, discard, client, screen).await,
        Verb::Connect(asked) => reservation::connect(asked, client, screen).await,
        Verb::Reservation(verb) => reservation::run(verb, client, screen).await,
        Verb::Load(asked) => {
            let LoadArguments { computer, image, chosen, submission } = asked;
            let load = |computer| JobRequest::Load { computer, image: image.clone() };
            match computer {
                Some(computer) => jobs::submit(client, screen, load(computer), submission).await,
                None => many::submit(client, screen, &chosen, submission, load).await,
            }
        }
        Verb::Capture(asked) => jobs::capture(client, screen, asked).await,
        Verb::Unload(asked) => {
            let UnloadArguments { computer, chosen, yes, submission } = asked;
            let unload = |computer| JobRequest::Unload { computer };
            match computer {
                Some(computer) => jobs::submit(client, screen, unload(computer), submission).await,
                None if many::sure(screen, &chosen, "take back", yes || submission.dry_run)? => {
                    many::submit(client, screen, &chosen, submission, unload).await
                }
                None => Ok(()),
            }
        }
        Verb::Image(verb) => image::run(verb, client, screen).await,
        Verb::Promote(asked) => image::promote(client, screen, asked).await,
        Verb::Computer(verb) => computer::run(verb, client, screen).await,
        Verb::Backend(verb) => backend::run(verb, client, screen).await,
        Verb::Vm(VmVerb::List { backend }) => {
            screen.answer(&client.vms(&backend).await?, |vms, _| render::vms::list(vms))
        }
        Verb::Job(verb) => jobs::run(verb, client, screen).await,
        Verb::Why { what } => screen.answer(&client.why(&what).await?, render::insight::why),
        Verb::Orphans(verb) => orphans::run(verb, client, screen).await,
        Verb::Class(verb) => class::run(verb, client, screen).await,
        Verb::Maintenance(verb) => class::maintenance(verb, client, screen).await,
        Verb::Host(verb) => class::host(verb, client, screen).await,
        Verb::Node(verb) => node::run(verb, client, screen).await,
        Verb::Report(verb) => report::run(verb, client, screen).await,
        Verb::Lease(verb) => node::leases(verb, client, screen).await,
        Verb::Login(asked) => login::login(asked, client, screen).await,
        Verb::Logout => login::logout(client, screen).await,
        Verb::Whoami => login::whoami(client, screen).await,
        Verb::User(verb) => people::users(verb, client, screen).await,
        Verb::Group(verb) => people::groups(verb, client, screen).await,
        Verb::ImageGroup(verb) => people::image_groups(verb, client, screen).await,
        Verb::Grant(verb) => people::grants(verb, client, screen).await,
        Verb::Token(verb) => people::tokens(verb, client, screen).await,
        Verb::Audit { who, subject, limit } => {
            let deeds = client.audit(who.as_deref(), subject.as_deref(), limit).await?;
            screen.answer(&deeds, |deeds, clock| render::people::audit(deeds, clock))
        }
        Verb::Events(asked) => events::run(asked, client, screen).await,
        Verb::Doctor { rescan } => doctor(client, screen, rescan).await,
        Verb::Backup { directory, submission } => {
            let directory = directory.to_string_lossy().into_owned();
            jobs::submit(client, screen, JobRequest::Backup { directory, node: None }, submission).await
        }
        Verb::Acceptance(asked) => acceptance::run(asked, client, screen).await,
        Verb::Configure(asked) => configure::run(asked, client, screen).await,
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
