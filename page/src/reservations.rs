//! One's reservations, what can be reserved, and one reservation from the wish to the end.

use crate::show::{self, Tone};
use crate::{Frame, Verb};
use askama::Template;
use vcl_types::api::{Connection, ReservationView};
use vcl_types::state::reservation::State;

/// An image that can be reserved.
#[derive(Debug)]
pub struct Offer<'a> {
    /// Its name.
    pub name: &'a str,
    /// What is said of its revision in production.
    pub note: Option<&'a str>,
}

/// A reservation that goes on.
#[derive(Debug)]
pub struct Item<'a> {
    /// It.
    pub view: &'a ReservationView,
    /// How far its load is.
    pub percent: Option<u32>,
    /// Whether it begins later.
    pub begins: bool,
    /// Whether it can be used.
    pub usable: bool,
}

/// Whether a reservation can be used.
#[must_use]
pub fn usable(view: &ReservationView) -> bool {
    matches!(view.state, State::Ready | State::InUse)
}

/// One's reservations, and what can be reserved with one press.
#[derive(Template)]
#[template(path = "reservations.html")]
pub struct Mine<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// Those that go on, the newest first.
    pub open: Vec<Item<'a>>,
    /// Those that are over, the newest first.
    pub past: &'a [ReservationView],
    /// What can be reserved.
    pub offers: Vec<Offer<'a>>,
    /// How long a reservation is unless it is said otherwise, in seconds.
    pub length_s: u64,
    /// Whether one of them waits.
    pub waits: bool,
    /// Whether one of them is being loaded.
    pub loads: bool,
}

/// What is wished for, as it stands in the form. What is not said is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Asked {
    /// The image.
    pub image: String,
    /// When it begins, on the reader's clock.
    pub start: String,
    /// The zone of the reader's clock.
    pub zone: String,
    /// How many hours.
    pub hours: String,
    /// What for.
    pub purpose: String,
    /// A certain computer.
    pub computer: String,
    /// Tags that it has, with commas between.
    pub tags: String,
    /// How many processors at least.
    pub cpus: String,
    /// How much memory at least.
    pub memory: String,
    /// For which group.
    pub group: String,
    /// Who else is let in.
    pub with: String,
    /// Keys besides one's own.
    pub keys: String,
    /// Whether one may become root: `true`.
    pub sudo: Option<String>,
    /// `reserve`, or `try` to see what would come of it.
    pub r#do: String,
}

impl Asked {
    fn has_more(&self) -> bool {
        let more =
            [&self.computer, &self.tags, &self.cpus, &self.memory, &self.group, &self.with, &self.keys];
        self.sudo.is_some() || more.into_iter().any(|field| !field.is_empty())
    }
    fn sudo(&self) -> bool {
        self.sudo.is_some()
    }
}

/// The whole form.
#[derive(Template)]
#[template(path = "reserve.html")]
pub struct Reserve<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// What stands in it.
    pub asked: &'a Asked,
    /// The images that can be reserved.
    pub images: Vec<&'a str>,
    /// The purposes that there are.
    pub purposes: Vec<&'static str>,
    /// The reader's groups.
    pub groups: Vec<&'a str>,
    /// The tags of the computers that he may have.
    pub tags: Vec<&'a str>,
    /// How long it is unless it is said otherwise.
    pub usual_hours: String,
    /// Why it could not be had.
    pub problem: Option<String>,
    /// What would come of it.
    pub prospect: Option<String>,
}

/// One reservation.
#[derive(Template)]
#[template(path = "reservation.html")]
pub struct Reservation<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// It.
    pub view: &'a ReservationView,
    /// How far its load is.
    pub percent: Option<u32>,
    /// The step that is being done for it.
    pub step: Option<String>,
    /// How long what is left usually takes.
    pub left: Option<String>,
    /// Why it is as it is.
    pub why: Option<String>,
    /// What can be done to it.
    pub verbs: Vec<Verb>,
    /// Whether it can be used.
    pub usable: bool,
    /// Whether it is the reader's.
    pub own: bool,
    /// Whether it can be given another end.
    pub extends: bool,
}

/// How to get to a reservation.
#[derive(Template)]
#[template(path = "connection.html")]
pub struct Way<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// The reservation.
    pub id: i64,
    /// How.
    pub to: Option<&'a Connection>,
    /// Commands, each with the name of its method.
    pub commands: Vec<(&'a str, String)>,
    /// Whether there is a file for a remote desktop.
    pub rdp: bool,
    /// Where it is to be had in the browser.
    pub guacamole: Option<&'a str>,
    /// Why it is not to be had.
    pub problem: Option<&'a str>,
}
