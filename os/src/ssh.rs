//! Connections over ssh2.
//!
//! ```text
//!  SshRemotes ── connect ──► idle connection to that endpoint? ──yes──► lease
//!                                │ no
//!                                ▼
//!                    dial: TCP + the server's greeting (async, cheap: what a machine that boots is asked)
//!                                ▼
//!                    one thread per connection: handshake, host key, login, then a command at a time
//! ```
//!
//! * A session of libssh2 is one lock, so each activity has a connection of its own; a [`Remote`](crate::Remote) is a
//!   lease on one and gives it back when it is dropped. Commands on one lease run one after another.
//! * A command is given up by shutting the socket down: nothing else ends a blocked call. That costs the connection.
//! * Host keys are checked here and nowhere else: libssh2 does not look at them.

mod connection;
mod dial;
mod key;
mod pool;
mod session;

pub use key::{SshKey, fingerprint};
pub use pool::SshRemotes;
