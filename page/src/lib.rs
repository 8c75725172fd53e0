//! The web page's views: from what the API answers to HTML.
//!
//! A view is a struct with what it shows, as the API has it, and a template of the same name in `templates/`. Nothing here
//! asks anybody for anything, knows a right or the time: whoever renders a view brings all of it. So a view can be tried
//! with any names and any states there are, without a daemon.
//!
//! * [`frame`] is what is around every view, [`texts`] what the page says, [`assets`] its style sheet and scripts.
//! * [`show`] writes times, sizes and states; [`picture`] draws the charts and an image's lineage, [`graph`] what objects of a
//!   configuration wait for.
//! * The other modules are the views.
//!
//! Everything is escaped where it is written into a page, by the template or by [`show::escaped`]. There is no inline script or
//! style, so that a policy can forbid both.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should stop"))]

pub mod assets;
pub mod charts;
pub mod classes;
pub mod computers;
pub mod configured;
pub mod confirm;
pub mod frame;
pub mod graph;
pub mod images;
pub mod jobs;
pub mod operations;
pub mod picture;
pub mod reservations;
pub mod show;
pub mod texts;
pub mod way_in;

pub use askama::Template;
pub use frame::{Frame, Place, Powers, Said};
pub use texts::{Catalogue, InvalidTexts, Texts};

/// Something that can be done to what a view shows: a link to its preview.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verb {
    /// Its name, in the path and in the catalogue: `verb-NAME`.
    pub name: &'static str,
    /// Whether something is lost by it.
    pub danger: bool,
}

impl Verb {
    /// One that loses nothing.
    #[must_use]
    pub const fn plain(name: &'static str) -> Self {
        Self { name, danger: false }
    }
    /// One by which something is lost.
    #[must_use]
    pub const fn danger(name: &'static str) -> Self {
        Self { name, danger: true }
    }
}
