//! Classes, and one of them with its seats.

use crate::Frame;
use crate::show::{self, Tone};
use askama::Template;
use vcl_types::api::ReservationView;
use vcl_types::lending::{ClassTime, ClassView};

/// What is asked for in the form of a new class.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct ClassAsked {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// How many seats.
    pub seats: String,
    /// When.
    pub weekly: String,
    /// Tags of its computers, with commas between.
    pub tags: String,
    /// Whose members may take a seat.
    pub group: String,
    /// Its last day.
    pub until: String,
}

/// All classes that the reader may see.
#[derive(Template)]
#[template(path = "classes.html")]
pub struct Classes<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// They.
    pub classes: &'a [ClassView],
    /// The images that a class can be of.
    pub images: Vec<&'a str>,
    /// What stands in the form.
    pub asked: &'a ClassAsked,
    /// Why one could not be made.
    pub problem: Option<String>,
}

/// One of a class's times.
#[derive(Debug)]
pub struct Time<'a> {
    /// It.
    pub time: &'a ClassTime,
    /// How many of its seats can be used now, as far as the reader sees them.
    pub ready: Option<usize>,
    /// Its beginning as it is asked for.
    pub stamp: String,
}

/// One class.
#[derive(Template)]
#[template(path = "class.html")]
pub struct Class<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// It.
    pub class: &'a ClassView,
    /// Its times.
    pub times: Vec<Time<'a>>,
    /// The seats that go on, as far as the reader sees them.
    pub seats: Vec<&'a ReservationView>,
    /// Whether the reader may change it.
    pub changes: bool,
}

impl<'a> Class<'a> {
    /// From what the API says of it, and all open reservations that the reader may see.
    #[must_use]
    pub fn new(
        frame: Frame<'a>,
        class: &'a ClassView,
        reservations: &'a [ReservationView],
        changes: bool,
    ) -> Self {
        let of = |r: &&ReservationView| r.class.as_deref() == Some(class.name.as_str());
        let all: Vec<&ReservationView> = reservations.iter().filter(of).collect();
        let time = |time: &'a ClassTime| {
            // A seat's beginning is moved to when it gets its computer; its end stays.
            let at: Vec<_> = all.iter().filter(|r| r.end == Some(time.end)).collect();
            let ready = at.iter().filter(|r| crate::reservations::usable(r)).count();
            let stamp = time.start.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            Time { time, ready: (!at.is_empty()).then_some(ready), stamp }
        };
        let times: Vec<Time<'a>> = class.times.iter().map(time).collect();
        let now = frame.now;
        let mut seats = all;
        // Those of the next time only, or of the one that goes on.
        let next = class.times.iter().find(|time| time.end > now && !time.called_off).map(|time| time.end);
        seats.retain(|r| r.end == next);
        seats.sort_by_key(|r| r.id);
        Self { frame, class, times, seats, changes }
    }
}
