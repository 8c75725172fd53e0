//! The suite on SQLite, and what only a file can be asked.

/// The engine under test.
pub const ENGINE: vcl_queue::Engine = vcl_queue::Engine::Sqlite;

#[path = "children.rs"]
mod children;
#[path = "claims.rs"]
mod claims;
#[path = "computers.rs"]
mod computers;
#[path = "damage.rs"]
mod damage;
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
#[path = "opening.rs"]
mod opening;
#[path = "people.rs"]
mod people;
#[path = "reservations.rs"]
mod reservations;
#[path = "retention.rs"]
mod retention;
#[path = "speed.rs"]
mod speed;
#[path = "wal.rs"]
mod wal;
#[path = "world.rs"]
mod world;

/// The database's file.
fn path(world: &world::World) -> std::path::PathBuf {
    std::path::PathBuf::from(&world.address)
}
