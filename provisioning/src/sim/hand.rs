//! Who is doing something to the world: the step of a job, or somebody by hand.

use super::machine::Hand;

/// Who does something, as a log's line has it.
#[derive(Debug, Clone, Default)]
pub(super) struct By {
    /// The lease, where the job has a number and one.
    pub(super) hand: Option<Hand>,
    /// The step; `None` for what is done by hand.
    pub(super) key: Option<String>,
    /// Whether it is being undone.
    pub(super) undoing: bool,
}

/// The step that the current task is in.
///
/// # Errors
/// There is none: something would happen to the world of which no journal tells.
pub(super) fn by() -> Result<By, &'static str> {
    let Some(doing) = vcl_job::doing() else {
        return Err("it would happen outside of any step, and no journal would tell of it");
    };
    let hand = (doing.job > 0).then(|| Hand { job: doing.job.to_string(), token: doing.token });
    Ok(By { hand, key: Some(doing.key), undoing: doing.undoing })
}
