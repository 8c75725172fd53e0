//! Signing in, and what cannot be shown.

use crate::Frame;
use crate::show;
use askama::Template;

/// The ways in.
#[derive(Template)]
#[template(path = "sign_in.html")]
pub struct SignIn<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// Whether a name and a password do.
    pub password: bool,
    /// The provider, where there is one.
    pub oidc: Option<&'a str>,
    /// Where somebody wanted to go.
    pub next: &'a str,
    /// The name that was given before.
    pub name: &'a str,
    /// Why somebody is not in.
    pub problem: Option<String>,
}

/// That something cannot be shown or done.
#[derive(Template)]
#[template(path = "problem.html")]
pub struct Problem<'a> {
    /// What is around it.
    pub frame: Frame<'a>,
    /// What kind of problem it is, as the API names it: `not-found`, `forbidden` …
    pub kind: &'a str,
    /// What is wrong, and the way out.
    pub message: &'a str,
    /// Where it goes back to.
    pub back: &'a str,
}
