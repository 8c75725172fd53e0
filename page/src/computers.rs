//! The wall of all computers, and one of them.

use crate::show::{self, Tone};
use crate::{Frame, Verb};
use askama::Template;
use chrono::{DateTime, Utc};
use std::collections::{BTreeSet, HashMap};
use vcl_types::ReservationId;
use vcl_types::api::{ComputerView, PowerState, ReservationView, Why};
use vcl_types::state::computer::State;

/// What is looked for on the wall. What is not said is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct WallAsked {
    /// A part of the name of a computer or of its user.
    pub q: String,
    /// A tag: a room, a group.
    pub tag: String,
    /// A backend instance.
    pub backend: String,
    /// An image.
    pub image: String,
    /// A state.
    pub state: String,
}

impl WallAsked {
    /// The wall with the same filters and another state.
    #[must_use]
    pub fn with_state(&self, state: &str) -> String {
        Self { state: state.to_owned(), ..self.clone() }.path()
    }
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> String {
        let parts = [
            ("q", &self.q),
            ("tag", &self.tag),
            ("backend", &self.backend),
            ("image", &self.image),
            ("state", &self.state),
        ];
        let said: Vec<String> = parts
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("{name}={}", show::segment(value)))
            .collect();
        if said.is_empty() { "/wall".into() } else { format!("/wall?{}", said.join("&")) }
    }
}

/// How many computers are in a state.
#[derive(Debug)]
pub struct Sum {
    /// The state's word.
    pub word: &'static str,
    /// How it looks.
    pub tone: &'static str,
    /// How many.
    pub count: usize,
}

/// One computer on the wall.
#[derive(Debug)]
pub struct Tile<'a> {
    /// Its name.
    pub name: &'a str,
    /// How its state looks.
    pub tone: &'static str,
    /// Its state in words.
    pub state: String,
    /// The image that it holds.
    pub image: Option<String>,
    /// Who has it.
    pub owner: &'a str,
    /// Until when.
    pub end: Option<DateTime<Utc>>,
    /// All of it in a line.
    pub title: String,
}

/// The wall.
#[derive(Template)]
#[template(path = "wall.html")]
pub struct Wall<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// What is looked for.
    pub asked: &'a WallAsked,
    /// All tags.
    pub tags: BTreeSet<&'a str>,
    /// All backend instances.
    pub backends: BTreeSet<&'a str>,
    /// All images that are loaded.
    pub images: BTreeSet<&'a str>,
    /// How many computers there are.
    pub all: usize,
    /// How many of them are looked for, in whatever state.
    pub total: usize,
    /// How many of what is looked for are in each state.
    pub sums: Vec<Sum>,
    /// Those that are looked for.
    pub tiles: Vec<Tile<'a>>,
}

impl<'a> Wall<'a> {
    /// From all computers, and all open reservations that the reader may see.
    #[must_use]
    pub fn new(
        frame: Frame<'a>,
        asked: &'a WallAsked,
        computers: &'a [ComputerView],
        reservations: &'a [ReservationView],
    ) -> Self {
        let by_id: HashMap<ReservationId, &ReservationView> =
            reservations.iter().map(|r| (r.id, r)).collect();
        let texts = frame.texts;
        let words: HashMap<&'static str, String> = State::ALL
            .iter()
            .map(|state| (state.as_str(), texts.word("computer", state).into_owned()))
            .collect();
        let q = asked.q.to_lowercase();
        let image_of = |view: &'a ComputerView| view.loaded.as_ref().map(|loaded| loaded.image.name.as_str());
        let reservation = |view: &ComputerView| view.reservation.and_then(|id| by_id.get(&id).copied());
        let found: Vec<&ComputerView> = computers
            .iter()
            .filter(|view| asked.tag.is_empty() || view.computer.tags.contains(&asked.tag))
            .filter(|view| asked.backend.is_empty() || view.computer.backend.as_str() == asked.backend)
            .filter(|view| asked.image.is_empty() || image_of(view) == Some(&asked.image))
            .filter(|view| {
                let owner = || reservation(view).is_some_and(|r| r.owner.to_lowercase().contains(&q));
                q.is_empty() || view.computer.name.as_str().contains(&q) || owner()
            })
            .collect();
        let sum = |state: &State| Sum {
            word: state.as_str(),
            tone: state.tone(),
            count: found.iter().filter(|view| view.state == *state).count(),
        };
        let tiles = found
            .iter()
            .filter(|view| asked.state.is_empty() || view.state.as_str() == asked.state)
            .map(|view| {
                let reservation = reservation(view);
                let owner = reservation.map_or("", |r| r.owner.as_str());
                let state = words.get(view.state.as_str()).cloned().unwrap_or_default();
                let image = view.loaded.as_ref().map(|loaded| loaded.image.to_string());
                let name = view.computer.name.as_str();
                let parts = [
                    name,
                    &state,
                    image.as_deref().unwrap_or_default(),
                    owner,
                    view.reason.as_deref().unwrap_or_default(),
                ];
                let title = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ");
                let end = reservation.and_then(|r| r.end);
                Tile { name, tone: view.state.tone(), state, image, owner, end, title }
            })
            .collect();
        Self {
            asked,
            tags: computers.iter().flat_map(|view| &view.computer.tags).map(String::as_str).collect(),
            backends: computers.iter().map(|view| view.computer.backend.as_str()).collect(),
            images: computers.iter().filter_map(image_of).collect(),
            all: computers.len(),
            total: found.len(),
            sums: State::ALL.iter().map(sum).filter(|sum| sum.count > 0 || asked.state == sum.word).collect(),
            tiles,
            frame,
        }
    }
}

/// One computer.
#[derive(Template)]
#[template(path = "computer.html")]
pub struct Computer<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// It.
    pub view: &'a ComputerView,
    /// Whose it is.
    pub owner: Option<String>,
    /// Why it is as it is.
    pub why: Option<&'a Why>,
    /// What can be done to it.
    pub verbs: Vec<Verb>,
    /// Whether its screen and its console may be looked at.
    pub console: bool,
}

impl Computer<'_> {
    fn power(&self) -> Option<&'static str> {
        self.view.power.map(|power| match power {
            PowerState::On => "on",
            PowerState::Off => "off",
            PowerState::Paused => "paused",
            PowerState::Absent => "absent",
        })
    }
}

/// What a machine or a script has said: a console, a piece of evidence.
#[derive(Template)]
#[template(path = "console.html")]
pub struct Said<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// Whose it is.
    pub name: &'a str,
    /// What it is.
    pub what: String,
    /// It.
    pub text: &'a str,
    /// Where it goes back to.
    pub back: String,
}
