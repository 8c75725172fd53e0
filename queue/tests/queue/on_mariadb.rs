//! The suite on MariaDB, and what only a server can be asked.

/// The engine under test.
pub const ENGINE: vcl_queue::Engine = vcl_queue::Engine::MariaDb;

#[path = "children.rs"]
mod children;
#[path = "claims.rs"]
mod claims;
#[path = "computers.rs"]
mod computers;
#[path = "dump.rs"]
mod dump;
#[path = "events.rs"]
mod events;
#[path = "flow.rs"]
mod flow;
#[path = "forsaken.rs"]
mod forsaken;
#[path = "holdings.rs"]
mod holdings;
#[path = "images.rs"]
mod images;
#[path = "insight.rs"]
mod insight;
#[path = "jobs.rs"]
mod jobs;
#[path = "journal.rs"]
mod journal;
#[path = "kill.rs"]
mod kill;
#[path = "lending.rs"]
mod lending;
#[path = "lives.rs"]
mod lives;
#[path = "model.rs"]
mod model;
#[path = "nat_ports.rs"]
mod nat_ports;
#[path = "nodes.rs"]
mod nodes;
#[path = "people.rs"]
mod people;
#[path = "reservations.rs"]
mod reservations;
#[path = "retention.rs"]
mod retention;
#[path = "server.rs"]
mod server;
#[path = "speed.rs"]
mod speed;
#[path = "world.rs"]
mod world;
