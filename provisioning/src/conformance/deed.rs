//! One job of a backend's, as the kit asks for it.

use super::journals::Ear;
use super::stand_in::{Counter, Manner};
use crate::{Captured, Limits};
use std::sync::Arc;
use vcl_images::Staging;
use vcl_job::{Journal, Outcome};
use vcl_types::{Computer, Endpoint, Revision};

/// What is asked of the backend.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Load,
    Capture(Staging),
    Resume,
    Unload,
    CaptureVm { vm: String, staging: Staging },
}

/// What is asked, on what.
#[derive(Debug, Clone)]
pub(super) struct Deed {
    pub(super) work: Work,
    pub(super) computer: Computer,
    pub(super) revision: Revision,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) limits: Limits,
    pub(super) manner: Manner,
    /// Whether the world's guest is behind it, with its OS module.
    pub(super) guest: bool,
    pub(super) counter: Counter,
}

impl Deed {
    pub(super) fn at(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = Some(endpoint.clone());
        self
    }
    pub(super) fn manner(mut self, manner: Manner) -> Self {
        self.manner = manner;
        self
    }
}

/// What a backend answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Made {
    Endpoint(Endpoint),
    Captured(Captured),
    Nothing,
}

/// In what a job runs: the process that it lives in.
pub(super) struct Process {
    pub(super) backend: Arc<dyn crate::Provisioning>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) observer: Arc<Ear>,
    pub(super) control: vcl_job::Control,
}

pub(super) type Ended = Outcome<Made>;
