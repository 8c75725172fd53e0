//! What came of a configuration run: what `vclctl configure --json` and `--report` tell, and the page draws.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// What was configured, as it is called.
    pub target: String,
    /// Whether code was only generated.
    pub dry_run: bool,
    /// How long it took.
    pub seconds: f64,
    /// The objects: first those that are done, in the order in which they were, then the others.
    pub objects: Vec<ObjectReport>,
    /// Why it did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RunError>,
}

/// Why a run did not come to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// The kind of error, as in `unreachable`.
    pub kind: String,
    /// In words.
    pub message: String,
}

/// How far a run came with an object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectState {
    /// It is defined.
    #[default]
    Defined,
    /// It was explored for, and its manifest has run.
    Prepared,
    /// Its code has run, if there was any.
    Done,
    /// The run failed with it.
    Failed,
}

/// What became of an object. What there is none of is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Its name, as in `__file/etc/motd`.
    pub object: String,
    /// How far the run came with it.
    pub state: ObjectState,
    /// Whether there was code to run, so that it was not what it should be.
    pub changed: bool,
    /// How long its own scripts took.
    pub seconds: f64,
    /// What it told others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
    /// What has to be done before it, because somebody said so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// What its manifest has defined, and so has to be done before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defines: Vec<String>,
    /// Where it is defined: files with lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defined_in: Vec<String>,
    /// Its parameters, without what is a secret.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
    /// What its scripts have said, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub output: BTreeMap<String, String>,
}
