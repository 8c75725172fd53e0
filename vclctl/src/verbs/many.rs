//! Verbs for several computers: so many at once, a line for each as it ends, and an error when one of them did not.

use crate::cli::{Chosen, Submission};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::{Change, Display, Follower};
use crate::outage::Patience;
use crate::render;
use crate::render::computers::powered;
use crate::screen::Screen;
use futures::stream::{self, StreamExt as _};
use serde_json::{Value, json};
use vcl_types::api::{Action, ComputerView, JobView, PowerAction, Progress};
use vcl_types::{ComputerName, JobRequest};

/// How many are asked for at once where nobody says: what waits for its turn waits in vcld's queue.
const AT_ONCE: usize = 64;

/// A display of nothing: of many jobs only the ends are told.
struct Quiet;
impl Display for Quiet {
    fn change(&mut self, _: Change) {}
    fn progress(&mut self, _: &str, _: Progress) {}
}

/// Whether somebody is sure of doing that to all of them.
pub(super) fn sure(screen: &mut Screen, chosen: &Chosen, what: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    let all = chosen.in_words();
    if !screen.interactive {
        let context = format!("this would {what} {all}; add --yes where nobody can be asked");
        return Err(Error::new(ErrorKind::Usage, context));
    }
    let sure = screen.ask(&format!("{what} {all}?"))?;
    if !sure {
        screen.say("nothing was done");
    }
    Ok(sure)
}

/// The computers that are meant.
async fn those(client: &Client, chosen: &Chosen) -> Result<Vec<ComputerName>> {
    let fits = |view: &ComputerView| chosen.tags.iter().all(|tag| view.computer.tags.contains(tag));
    let names: Vec<ComputerName> =
        client.computers().await?.into_iter().filter(fits).map(|view| view.computer.name).collect();
    if names.is_empty() {
        let context =
            format!("there is none: {}; `vclctl computer list` shows what there is", chosen.in_words());
        return Err(Error::new(ErrorKind::Usage, context));
    }
    Ok(names)
}

/// What came of one of them: a line for people, what a program gets, and whether it is well.
struct Outcome {
    line: String,
    value: Value,
    well: bool,
}
impl Outcome {
    fn failed(name: &ComputerName, error: &Error) -> Self {
        let line = error.line();
        Self {
            value: json!({ "computer": name, "error": line }),
            line: format!("{name}: {line}"),
            well: false,
        }
    }
    fn of(name: &ComputerName, job: &JobView) -> Result<Self> {
        let failed = render::jobs::failure(job);
        let well = failed.is_none();
        let line = failed.unwrap_or_else(|| render::jobs::done(job, None));
        Ok(Self { value: json!({ "computer": name, "job": job }), line: format!("{name}: {line}"), well })
    }
}

/// Does something for each computer, so many at once, and tells of each as it ends.
async fn each<F>(
    client: &Client,
    screen: &mut Screen,
    chosen: &Chosen,
    what: impl Fn(ComputerName) -> F,
) -> Result<()>
where
    F: Future<Output = (ComputerName, Result<Outcome>)>,
{
    let names = those(client, chosen).await?;
    let (all, mut not) = (names.len(), 0);
    let at_once = chosen.max.map_or(AT_ONCE, std::num::NonZeroUsize::get);
    let mut values = Vec::new();
    let mut outcomes = stream::iter(names.into_iter().map(what)).buffer_unordered(at_once);
    loop {
        let outcome = tokio::select! {
            outcome = outcomes.next() => outcome,
            _ = tokio::signal::ctrl_c() => {
                screen.say("detached: what was asked for goes on, and nothing more is asked for; vclctl job list");
                break;
            }
        };
        let Some((name, outcome)) = outcome else { break };
        let Outcome { line, value, well } = outcome.unwrap_or_else(|error| Outcome::failed(&name, &error));
        not += usize::from(!well);
        match (screen.json, well) {
            (true, _) => values.push(value),
            (false, true) => screen.print(&line)?,
            (false, false) => screen.complain(&line),
        }
    }
    if screen.json {
        screen.print_json(&values)?;
    }
    match not {
        0 => Ok(()),
        _ => Err(Error::new(ErrorKind::Job, format!("{not} of {all} computers did not do it"))),
    }
}

/// Queues a job for each computer and waits for their ends, unless only their plans or numbers are wanted.
pub(super) async fn submit(
    client: &Client,
    screen: &mut Screen,
    chosen: &Chosen,
    how: Submission,
    request: impl Fn(ComputerName) -> JobRequest,
) -> Result<()> {
    let one = |name: ComputerName| {
        let request = request(name.clone());
        async move {
            let doing = async {
                if how.dry_run {
                    let plan = client.plan(&request).await?;
                    let line = render::jobs::plan(&plan);
                    return Ok(Outcome {
                        value: json!({ "computer": name, "plan": plan }),
                        line,
                        well: true,
                    });
                }
                let submitted = client.submit_as(&request, how.wait).await?;
                if how.detach {
                    let (job, value) = (submitted.job, json!({ "computer": name, "job": submitted.job }));
                    return Ok(Outcome { line: format!("{name}: job {job}"), value, well: true });
                }
                let mut quiet = Quiet;
                let job = Follower::new(client, submitted.job, &mut quiet, Patience::default()).run().await?;
                Outcome::of(&name, &job)
            };
            let outcome = doing.await;
            (name, outcome)
        }
    };
    each(client, screen, chosen, one).await
}

/// Switches each computer.
pub(super) async fn power(
    client: &Client,
    screen: &mut Screen,
    chosen: &Chosen,
    power: PowerAction,
    dry_run: bool,
) -> Result<()> {
    let one = |name: ComputerName| async move {
        let doing = async {
            if dry_run {
                let plan = client.plan_action(&Action::Power { computer: name.clone(), power }).await?;
                let line = render::jobs::plan(&plan);
                return Ok(Outcome { value: json!({ "computer": name, "plan": plan }), line, well: true });
            }
            let view = client.power(&name, power).await?;
            Ok(Outcome { line: powered(&view), value: json!(view), well: true })
        };
        let outcome = doing.await;
        (name, outcome)
    };
    each(client, screen, chosen, one).await
}
