//! What is around every view: the way to the others, who is signed in, what was just said.

use crate::assets;
use crate::texts::Texts;
use chrono::{DateTime, Utc};

/// The places of the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// One's reservations.
    Reservations,
    /// Classes.
    Classes,
    /// All computers.
    Wall,
    /// Who waits, and what works.
    Queue,
    /// Images.
    Images,
    /// Charts.
    Charts,
    /// Hosts, orphans, nodes, maintenance, the record.
    Operations,
    /// None of them.
    Elsewhere,
}

impl Place {
    const ALL: [Self; 7] = [
        Self::Reservations,
        Self::Classes,
        Self::Wall,
        Self::Queue,
        Self::Images,
        Self::Charts,
        Self::Operations,
    ];
    fn key(self) -> &'static str {
        match self {
            Self::Reservations => "nav-reservations",
            Self::Classes => "nav-classes",
            Self::Wall => "nav-wall",
            Self::Queue => "nav-queue",
            Self::Images => "nav-images",
            Self::Charts => "nav-charts",
            Self::Operations => "nav-operations",
            Self::Elsewhere => "nav-elsewhere",
        }
    }
    fn path(self) -> &'static str {
        match self {
            Self::Reservations | Self::Elsewhere => "/reservations",
            Self::Classes => "/classes",
            Self::Wall => "/wall",
            Self::Queue => "/queue",
            Self::Images => "/images",
            Self::Charts => "/charts",
            Self::Operations => "/operations",
        }
    }
}

/// Something that was said about what the reader has just done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Whether it could not be done.
    pub bad: bool,
    /// What.
    pub text: String,
}

/// What somebody who reads a page may do at all; what one may not is not offered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Powers {
    /// Sees everything: hosts, nodes, the record of usage.
    pub look: bool,
    /// Operates everything.
    pub operate: bool,
    /// Operates some computers at least.
    pub operates: bool,
    /// May do everything.
    pub administer: bool,
    /// Sees who did what.
    pub people: bool,
    /// Makes classes, of some images at least.
    pub classes: bool,
    /// Makes images.
    pub images: bool,
}

/// What is around a view.
#[derive(Debug, Clone)]
pub struct Frame<'a> {
    /// The texts in the reader's language.
    pub texts: Texts<'a>,
    /// Who reads; nobody on the way in.
    pub reader: Option<String>,
    /// What he may.
    pub powers: Powers,
    /// Whether he came with a word that can be taken back: a proxy's user signs out there.
    pub may_leave: bool,
    /// Where he is.
    pub place: Place,
    /// `light` or `dark`, where he does not want what his system has.
    pub theme: Option<&'static str>,
    /// What is said about what he has just done.
    pub said: Option<Said>,
    /// The path of the view, with what is asked of it.
    pub here: String,
    /// The daemon's time.
    pub now: DateTime<Utc>,
    /// The management node's name.
    pub node: &'a str,
    /// What the view's forms are known by: one that is sent twice is done once.
    pub key: String,
}

/// A link of the navigation.
#[derive(Debug)]
pub struct Link {
    /// Where it leads.
    pub path: &'static str,
    /// Its key in the catalogue.
    pub key: &'static str,
    /// Whether this is where one is.
    pub here: bool,
}

impl Frame<'_> {
    /// The links of the navigation.
    #[must_use]
    pub fn links(&self) -> Vec<Link> {
        let shown = |place: &Place| match place {
            Place::Operations => self.powers.look || self.powers.people || self.powers.operates,
            _ => true,
        };
        let path = |place: Place| match place {
            // The first of its views that the reader may see.
            Place::Operations if !self.powers.look && self.powers.operates => "/operations/maintenance",
            Place::Operations if !self.powers.look => "/operations/audit",
            place => place.path(),
        };
        let link = |place: Place| Link { path: path(place), key: place.key(), here: place == self.place };
        Place::ALL.into_iter().filter(shown).map(link).collect()
    }
    /// Where a part of the page is.
    #[must_use]
    pub fn asset(&self, name: &str) -> &'static str {
        assets::path(name)
    }
    /// The other theme than the one that was chosen last.
    #[must_use]
    pub fn next_theme(&self) -> &'static str {
        match self.theme {
            None => "dark",
            Some("dark") => "light",
            _ => "system",
        }
    }
    /// What follows a form's address, so that it is done once however often it is sent.
    #[must_use]
    pub fn once(&self) -> String {
        format!("?once={}", self.key)
    }
    /// Its time as the script reads it.
    #[must_use]
    pub fn stamp(&self) -> String {
        self.now.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
    }
}
