//! Who is doing something to the world: the step of a job, or somebody by hand.

use super::machine::Hand;

/// The step that something happens in.
#[derive(Debug, Clone)]
pub(super) struct Doing {
    pub(super) hand: Option<Hand>,
    pub(super) key: Option<String>,
    pub(super) undoing: bool,
}

/// The step that the current task is in.
///
/// # Errors
/// There is none: something happens to the world of which no journal will tell.
#[expect(clippy::unnecessary_wraps, reason = "the executor will tell")]
pub(super) fn doing() -> Result<Doing, String> {
    Ok(Doing { hand: None, key: None, undoing: false })
}
