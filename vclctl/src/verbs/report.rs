//! Reports.

use crate::cli::ReportVerb;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::usage;
use crate::screen::Screen;

/// `report`.
pub(super) async fn run(verb: ReportVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    let ReportVerb::Usage(asked) = verb;
    if asked.csv && screen.json {
        let context = "--csv and --json are two ways to print a report; leave one of them out";
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let report = client.usage(asked.by, asked.from, asked.until, asked.owner.as_deref()).await?;
    if asked.csv { screen.print(&report.csv()) } else { screen.answer(&report, usage::report) }
}
