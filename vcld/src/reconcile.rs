//! Reconcilers: each keeps one thing as it should be. They have no input, run by a timer, and may run twice.

pub(crate) mod nodes;
