//! All images, one with its revisions, and making a new one.

use crate::picture;
use crate::show;
use crate::{Frame, Texts, Verb};
use askama::Template;
use askama::filters::Safe;
use vcl_types::api::{ImageView, RevisionView, TrashView, VmPreview, VmView};

/// An image in the list.
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its revision in production.
    pub production: Option<u32>,
    /// How many revisions it has.
    pub revisions: usize,
    /// What they take together, in bytes.
    pub size: u64,
    /// What the newest test of that revision found.
    pub test: Safe<String>,
    /// How many computers hold it.
    pub users: usize,
    /// What is said of that revision.
    pub note: Option<&'a str>,
}

/// All images.
#[derive(Template)]
#[template(path = "images.html")]
pub struct Images<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// They.
    pub rows: Vec<Row<'a>>,
    /// What can be brought back.
    pub trash: &'a [TrashView],
}

/// The revision that new reservations get: the one in production, or the newest.
#[must_use]
pub fn given(view: &ImageView) -> Option<&RevisionView> {
    view.revisions.iter().find(|revision| revision.production).or_else(|| view.revisions.last())
}

fn test(texts: Texts<'_>, revision: Option<&RevisionView>) -> Safe<String> {
    match revision.and_then(|revision| revision.tested.as_ref()) {
        None => show::badge("off", texts.say("image-untested")),
        Some(test) if test.passed => show::badge("free", texts.say("image-passed")),
        Some(_) => show::badge("bad", texts.say("image-failed")),
    }
}

impl<'a> Images<'a> {
    /// From all images that the reader may see.
    #[must_use]
    pub fn new(frame: Frame<'a>, images: &'a [ImageView], trash: &'a [TrashView]) -> Self {
        let row = |view: &'a ImageView| {
            let given = given(view);
            Row {
                name: view.name.as_str(),
                production: view.revisions.iter().find(|r| r.production).map(|r| r.manifest.revision),
                revisions: view.revisions.len(),
                size: view.revisions.iter().map(|r| r.size.0).sum(),
                test: test(frame.texts, given),
                users: view.revisions.iter().map(|r| r.used_by.len()).sum(),
                note: given.and_then(|r| r.manifest.note.as_deref()),
            }
        };
        let rows = images.iter().map(row).collect();
        Self { frame, rows, trash }
    }
}

/// A revision, with what can be done to it.
#[derive(Debug)]
pub struct Revision<'a> {
    /// It.
    pub view: &'a RevisionView,
    /// What can be done.
    pub verbs: Vec<Verb>,
    /// Whether it is stored as what differs from another.
    pub delta: bool,
}

/// One image.
#[derive(Template)]
#[template(path = "image.html")]
pub struct Image<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// It.
    pub view: &'a ImageView,
    /// Its revisions, the newest first.
    pub rows: Vec<Revision<'a>>,
    /// Which came of which.
    pub lineage: Safe<String>,
    /// Whether the reader may reserve it.
    pub reserves: bool,
    /// Whether he may change it.
    pub changes: bool,
}

impl<'a> Image<'a> {
    /// From what the API says of it.
    #[must_use]
    pub fn new(frame: Frame<'a>, view: &'a ImageView, reserves: bool, changes: bool) -> Self {
        let row = |revision: &'a RevisionView| {
            let mut verbs = Vec::new();
            if changes {
                if !revision.production {
                    verbs.push(Verb::plain("promote"));
                }
                verbs.push(Verb::plain("test"));
                verbs.push(Verb::plain("verify"));
                verbs.push(Verb::danger("delete"));
            }
            Revision { view: revision, verbs, delta: revision.manifest.lies_on().is_some() }
        };
        let lineage = picture::lineage(view, &frame.texts.of("image-lineage-of", &view.name));
        let rows = view.revisions.iter().rev().map(row).collect();
        Self { frame, view, rows, lineage, reserves, changes }
    }
}

/// What is asked for in the forms of a new image.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct NewAsked {
    /// The backend instance with the machine.
    pub backend: String,
    /// The machine.
    pub vm: String,
    /// The new image's name.
    pub image: String,
    /// A line for people.
    pub note: String,
    /// The file to import.
    pub path: String,
    /// `look` or `make`.
    pub r#do: String,
}

/// Making a new image.
#[derive(Template)]
#[template(path = "image_new.html")]
pub struct NewImage<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// What stands in the forms.
    pub asked: &'a NewAsked,
    /// The backend instances.
    pub backends: Vec<&'a str>,
    /// The machines of the one that was chosen.
    pub vms: Option<Vec<&'a VmView>>,
    /// What an image made of the chosen one would be.
    pub preview: Option<&'a VmPreview>,
    /// Why it could not be done.
    pub problem: Option<String>,
}
