//! Jobs: asked for, watched, looked at.

use crate::cli::{CaptureArguments, JobVerb, Submission};
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::follow::Follower;
use crate::outage::Patience;
use crate::render;
use crate::screen::Screen;
use tokio::signal::unix::{Signal, SignalKind, signal};
use vcl_types::api::{Action, JobView};
use vcl_types::state::job::State;
use vcl_types::{CaptureInto, JobId, JobRequest};

/// What is wanted of jobs.
pub(super) async fn run(verb: JobVerb, client: &Client, screen: &mut Screen) -> Result<()> {
    match verb {
        JobVerb::List { state, limit } => {
            screen.answer(&client.jobs(state, limit).await?, |jobs, clock| render::jobs::list(jobs, clock))
        }
        JobVerb::Show { id } => screen.answer(&client.job(id).await?, render::jobs::one),
        JobVerb::Watch { id } => {
            let interrupt = interrupt()?;
            watch(client, screen, id, interrupt, Patience::default()).await
        }
        JobVerb::Retry { id, dry_run: true } => would(client, screen, Action::Retry { job: id }).await,
        JobVerb::Retry { id, dry_run: false } => screen.answer(&client.retry(id).await?, |_, _| {
            format!("job {id} is tried again: vclctl job watch {id}")
        }),
        JobVerb::Undo { id, dry_run: true } => would(client, screen, Action::Undo { job: id }).await,
        JobVerb::Undo { id, dry_run: false } => screen
            .answer(&client.undo(id).await?, |_, _| format!("job {id} is taken back: vclctl job watch {id}")),
        JobVerb::Evidence { id, name, output, attempt } => {
            super::evidence::run(client, screen, id, name, output, attempt).await
        }
        JobVerb::Abandon { id, dry_run: true } => would(client, screen, Action::Abandon { job: id }).await,
        JobVerb::Abandon { id, dry_run: false } => screen.answer(&client.abandon(id).await?, |_, _| {
            format!("job {id} is given up; what it could not take back stays: vclctl job show {id}")
        }),
        JobVerb::Cancel { id, dry_run: true } => would(client, screen, Action::Cancel { job: id }).await,
        JobVerb::Cancel { id, dry_run: false } => {
            screen.answer(&client.cancel(id).await?, |job, _| match job.state {
                State::Cancelled => format!("job {id} is cancelled"),
                state if state.is_final() => format!("job {id} had ended: it is {state}"),
                _ => format!("job {id} is told to stop and take back what it did: vclctl job watch {id}"),
            })
        }
    }
}

/// What an action would do.
pub(super) async fn would(client: &Client, screen: &mut Screen, action: Action) -> Result<()> {
    screen.answer(&client.plan_action(&action).await?, |plan, _| render::jobs::plan(plan))
}

/// `capture`.
pub(super) async fn capture(client: &Client, screen: &mut Screen, asked: CaptureArguments) -> Result<()> {
    let request = JobRequest::Capture {
        computer: asked.computer,
        into: asked.new.map_or(CaptureInto::Next, CaptureInto::New),
        after: asked.after.into(),
        power_on: asked.power_on,
        note: asked.note,
        whole: asked.whole,
    };
    submit(client, screen, request, asked.submission).await
}

/// Asks for a job, or for what it would do, and watches it unless that is not wanted.
pub(super) async fn submit(
    client: &Client,
    screen: &mut Screen,
    request: JobRequest,
    how: Submission,
) -> Result<()> {
    match followed(client, screen, request, how).await? {
        Some(job) => tell(client, screen, &job).await,
        None => Ok(()),
    }
}

/// The same without telling how it ended: the job as it ended, or `None` when nobody waits for that.
pub(super) async fn followed(
    client: &Client,
    screen: &mut Screen,
    request: JobRequest,
    how: Submission,
) -> Result<Option<JobView>> {
    if how.dry_run {
        screen.answer(&client.plan(&request).await?, |plan, _| render::jobs::plan(plan))?;
        return Ok(None);
    }
    // From here on Ctrl-C leaves the job alone, also while it is being queued.
    let interrupt = interrupt()?;
    let submitted = client.submit_as(&request, how.wait).await?;
    if how.detach {
        screen.answer(&submitted, |submitted, _| submitted.job.to_string())?;
        return Ok(None);
    }
    follow(client, screen, submitted.job, interrupt, Patience::default()).await
}

fn interrupt() -> Result<Signal> {
    signal(SignalKind::interrupt())
        .map_err(|cause| Error::caused(ErrorKind::Local, "cannot listen for Ctrl-C", cause))
}

/// Watches a job until it ends or until `interrupt` comes, and tells how it did.
///
/// # Errors
/// When the job did not do what it should, or cannot be watched.
pub async fn watch(
    client: &Client,
    screen: &mut Screen,
    id: JobId,
    interrupt: Signal,
    patience: Patience,
) -> Result<()> {
    match follow(client, screen, id, interrupt, patience).await? {
        Some(job) => tell(client, screen, &job).await,
        None => Ok(()),
    }
}

/// Follows a job to its end, or until `interrupt` comes, which is told.
async fn follow(
    client: &Client,
    screen: &mut Screen,
    id: JobId,
    mut interrupt: Signal,
    patience: Patience,
) -> Result<Option<JobView>> {
    let ended = {
        let mut display = screen.display(id);
        tokio::select! {
            ended = Follower::new(client, id, display.as_mut(), patience).run() => Some(ended?),
            _ = interrupt.recv() => {
                display.close();
                None
            }
        }
    };
    if ended.is_none() {
        detached(client, screen, id).await?;
    }
    Ok(ended)
}

/// Ctrl-C: the job goes on, and whoever pressed it learns how to find it again.
async fn detached(client: &Client, screen: &mut Screen, id: JobId) -> Result<()> {
    let told = format!("detached: job {id} goes on; vclctl job watch {id}");
    if !screen.json {
        return screen.print(&told);
    }
    screen.say(&told);
    screen.print_json(&client.job(id).await?)
}

/// Tells how a job ended.
pub(super) async fn tell(client: &Client, screen: &mut Screen, job: &JobView) -> Result<()> {
    let failed = render::jobs::failure(job);
    if screen.json {
        screen.print_json(job)?;
    } else if failed.is_none() {
        // Where it can be reached stands with the computer. That it cannot be asked does not make the load a failure.
        let computer = match &job.request {
            JobRequest::Load { computer, .. } => client.computer(computer).await.ok(),
            _ => None,
        };
        screen.print(&render::jobs::done(job, computer.as_ref()))?;
    }
    match failed {
        Some(failed) => {
            Err(Error::new(ErrorKind::Job, format!("{failed}; its steps: vclctl job show {}", job.id)))
        }
        None => Ok(()),
    }
}
