//! What something will do, before it is done.

use crate::Frame;
use askama::Template;
use vcl_types::api::PlannedStep;

/// Something that can be chosen with it.
#[derive(Debug, Clone)]
pub struct Choice {
    /// The field's name.
    pub name: &'static str,
    /// What it says.
    pub label: String,
    /// Whether it is chosen at first.
    pub on: bool,
}

/// Something that has to be said with it.
#[derive(Debug, Clone)]
pub struct Field {
    /// The field's name.
    pub name: &'static str,
    /// What it says.
    pub label: String,
    /// What stands in it at first.
    pub value: String,
}

/// A preview with the button that does it.
#[derive(Template)]
#[template(path = "confirm.html")]
pub struct Confirm<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// What is to be done.
    pub title: String,
    /// What that means.
    pub lines: Vec<String>,
    /// What stands in its way now.
    pub hindrance: Option<String>,
    /// What would be done, step by step.
    pub steps: Vec<PlannedStep>,
    /// How long that usually takes.
    pub usual: Option<String>,
    /// Where the form goes.
    pub action: String,
    /// What goes with it.
    pub hidden: Vec<(&'static str, String)>,
    /// What can be chosen.
    pub options: Vec<Choice>,
    /// What has to be said.
    pub field: Option<Field>,
    /// What the button says.
    pub button: String,
    /// Whether something is lost by it.
    pub danger: bool,
    /// Where it goes back to.
    pub back: String,
}
