//! A typed client of vcld's HTTP API: over its unix socket, or over TLS with a token.
//!
//! [`Client`] has a method for each endpoint, [`Place`] says where the daemon is, and [`tokens`] keeps what signing in gave,
//! in a file that is its user's alone. Every request has a deadline, and its error says what was wanted.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test that unwraps fails where it should"))]

mod client;
mod error;
mod people;
mod place;
mod sse;
pub mod tokens;

pub use client::{Client, Stream};
pub use error::{Error, ErrorKind, Result};
pub use place::Place;
