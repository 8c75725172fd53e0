//! The suite on SQLite, and what only a file can be asked.

/// The engine under test.
pub const ENGINE: vcl_queue::Engine = vcl_queue::Engine::Sqlite;

#[path = "claims.rs"]
mod claims;
#[path = "computers.rs"]
mod computers;
#[path = "damage.rs"]
mod damage;
#[path = "events.rs"]
mod events;
#[path = "flow.rs"]
mod flow;
#[path = "images.rs"]
mod images;
#[path = "jobs.rs"]
mod jobs;
#[path = "journal.rs"]
mod journal;
#[path = "kill.rs"]
mod kill;
#[path = "lives.rs"]
mod lives;
#[path = "model.rs"]
mod model;
#[path = "nodes.rs"]
mod nodes;
#[path = "opening.rs"]
mod opening;
#[path = "reservations.rs"]
mod reservations;
#[path = "speed.rs"]
mod speed;
#[path = "world.rs"]
mod world;
