//! `vcld.toml`, read and checked.
//!
//! [`parse`] turns text into a [`Config`] in which everything has its type and every reference leads somewhere, or
//! into [`Problems`]: all of them at once, each with its place, its key, what is wrong and what to write instead. It
//! does no I/O; [`load`] reads the file, and [`Config::credential`] a secret.
//!
//! The file is parsed into a tree that keeps places (`tree`), and the tree is walked by readers that collect problems
//! (`section`, `field`). What keys there are stands in one table (`keys`), from which come the readers' defaults and
//! limits, the suggestions for typing mistakes, the JSON schema ([`schema`]) and the reference ([`reference()`]).
//!
//! A program with other backends passes their types in [`Known`]; a [`BackendType`] brings its own keys and a reader.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that cannot go on should panic"))]

mod api;
mod backend;
mod clash;
mod computers;
mod config;
mod configure;
pub mod credentials;
mod error;
mod exchange;
mod field;
mod guacamole;
mod inbox;
pub mod keys;
mod lab;
mod lending;
mod load;
mod nat;
mod nearest;
mod network;
mod notices;
mod page;
mod problem;
mod range;
mod reference;
mod schema;
mod section;
mod sim;
mod tree;
mod upkeep;
mod values;
mod vmware;
mod windows;
mod xcat;

#[cfg(test)]
mod tests;

pub use api::{Api, ApiTls, Ldap, LdapPeople, Oidc, Proxy};
pub use backend::{BackendConfig, BackendType, Backends, Known, Libvirt};
pub use computers::derived_mac;
pub use config::{Config, Database, Deadlines, Hooks, Library, Log, LogFormat, Node, Retention, Ssh, parse};
pub use configure::Configure;
pub use error::{Error, ErrorKind};
pub use exchange::Exchange;
pub use guacamole::Guacamole;
pub use inbox::Inbox;
pub use keys::{Key, Kind, Presence};
pub use lab::{KEYS as LAB_KEYS, Lab};
pub use lending::{AfterUse, Lending, OpenTo, Warm};
pub use load::load;
pub use nat::{NatHost, Nats};
pub use network::{Link, Network, Networks};
pub use notices::{Notices, Security, Smtp, Webhook};
pub use page::Page;
pub use problem::{Position, Problem, Problems};
pub use range::MOST_COMPUTERS;
pub use reference::reference;
pub use schema::schema;
pub use section::Section;
pub use sim::{KEYS as SIM_KEYS, Sim, SimEndState, SimFailures};
pub use upkeep::Upkeep;
pub use values::{CredentialName, InvalidCredentialName, KeySource};
pub use vmware::{ESX_KEYS, Esx, VMWARE_KEYS, Vmware, VmwareCapture, VmwareMethod, VmwareTrust};
pub use windows::Windows;
pub use xcat::{KEYS as XCAT_KEYS, Xcat};
