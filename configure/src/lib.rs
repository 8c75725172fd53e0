//! cdist's stages: what a machine is made to be, from what is explored of it to the code that runs on it.
//!
//! A *manifest* calls *types* as commands, and each call defines an *object*, `__file/etc/motd`. An object's type explores the
//! machine, may define further objects in a manifest of its own, and generates the code that makes the machine what the object
//! says. Types, explorers and manifests are cdist's, as sites have them; what they may count on is cdist 7.0.0's.
//!
//! What needs no machine: what types are ([`definition`]), layered from configuration directories ([`conf`]), how their commands are
//! taken apart ([`arguments`]) and define objects ([`emulator`]) in a tree of files ([`tree`]), in which order objects can be done
//! ([`order`]), and what scripts find ([`environment`]). The machine: how to get there ([`target`]), the one connection
//! ([`channel`]) and the next when it breaks ([`link`]), and what scripts of this machine call, from either end ([`command`], [`server`]). A [`run`] is all of it.
//!
//! This crate knows nothing of backends, queues and the daemon.

pub mod arguments;
pub mod channel;
pub mod command;
pub mod compare;
pub mod conf;
mod copies;
pub mod definition;
pub mod emulator;
pub mod environment;
mod error;
pub mod link;
pub mod local;
mod memo;
pub mod name;
mod notes;
pub mod order;
pub mod outcome;
pub mod run;
mod scripts;
mod secrets;
pub mod server;
mod stages;
pub mod target;
pub mod tree;

pub use error::{Error, ErrorKind, Result};
