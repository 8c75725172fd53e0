//! Which computers a verb is for, where it is for more than one.

use clap::Args;
use std::num::NonZeroUsize;

/// The computers that a verb is for, instead of one by its name.
#[derive(Debug, Clone, Default, Args)]
pub struct Chosen {
    /// Every computer with this tag; given more than once, those that have all of them.
    #[arg(short = 'l', long = "tag", value_name = "TAG", conflicts_with_all = ["computer", "all"])]
    pub tags: Vec<String>,
    /// Every computer there is.
    #[arg(long, conflicts_with = "computer")]
    pub all: bool,
    /// So many at once; without it, as many as vcld and its backends take.
    #[arg(long, value_name = "N", conflicts_with = "computer")]
    pub max: Option<NonZeroUsize>,
}

impl Chosen {
    /// What was asked for, in words.
    #[must_use]
    pub fn in_words(&self) -> String {
        match self.tags.as_slice() {
            [] => "every computer".into(),
            tags => format!("every computer tagged {}", tags.join(" and ")),
        }
    }
}
