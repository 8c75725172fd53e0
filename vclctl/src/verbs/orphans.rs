//! Orphans.

use crate::cli::OrphansVerb;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::{insight, jobs};
use crate::screen::Screen;
use vcl_types::api::{OrphanRequest, OrphanWish};

/// What is wanted of orphans.
pub(super) async fn run(verb: OrphansVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    let (id, wish, dry_run, told) = match verb {
        OrphansVerb::List { all } => return screen.answer(&client.orphans(all).await?, insight::orphans),
        OrphansVerb::Adopt { id, dry_run } => (id, OrphanWish::Adopt, dry_run, "is adopted"),
        OrphansVerb::Delete { id, yes, dry_run } => {
            if !yes && !dry_run {
                if !screen.interactive {
                    let context = format!("{id} would be gone for good; add --yes where nobody can be asked");
                    return Err(Error::new(ErrorKind::Usage, context));
                }
                if !screen.ask(&format!("delete {id} for good?"))? {
                    screen.say("nothing was deleted");
                    return Ok(());
                }
            }
            (id, OrphanWish::Delete, dry_run, "is deleted")
        }
        OrphansVerb::Ignore { id, reason, dry_run } => {
            (id, OrphanWish::Ignore { reason }, dry_run, "is ignored; vclctl orphans list --all shows it")
        }
    };
    let asked = OrphanRequest { id: id.clone(), wish, dry_run };
    screen.answer(&client.orphan(&asked).await?, |plan, _| {
        if dry_run { jobs::plan(plan) } else { format!("{id} {told}") }
    })
}
