//! `image test`: a job, and what it found out.

use super::jobs;
use crate::cli::Submission;
use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::render::image_tests;
use crate::screen::Screen;
use vcl_types::{ImageRef, JobRequest};

/// Tests a revision and shows what was compared. One that does not pass is an error.
pub(super) async fn run(
    client: &Client,
    screen: &mut Screen,
    image: ImageRef,
    submission: Submission,
) -> Result<()> {
    let request = JobRequest::TestImage { image: image.clone(), wait: submission.wait };
    let Some(job) = jobs::followed(client, screen, request, submission).await? else { return Ok(()) };
    let view = client.image(&image.name).await?;
    let mut revisions = view.revisions.iter();
    let found = revisions.find(|one| one.tested.as_ref().is_some_and(|test| test.job == job.id));
    // It ended before it had found out anything: too few computers were spare, it was called off.
    let Some((revision, test)) = found.and_then(|one| Some((one, one.tested.as_ref()?))) else {
        return jobs::tell(client, screen, &job).await;
    };
    let tested = revision.manifest.image_ref();
    screen.answer(test, |test, _| image_tests::result(&tested, test))?;
    if test.passed && job.state == vcl_types::state::job::State::Done {
        return Ok(());
    }
    let why = match test.verdict() {
        Some(why) => format!("{tested} did not pass: {why}"),
        None => {
            crate::render::jobs::failure(&job).unwrap_or_else(|| format!("job {} is {}", job.id, job.state))
        }
    };
    Err(Error::new(ErrorKind::Job, why))
}
