//! The queue from outside: every promise that its methods make, on each engine.
//!
//! A test's file is written once and is a module of each engine's suite, whose `ENGINE` its `world` opens. A database
//! of its own for each test; one private MariaDB server for all of them, which ends with this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![expect(clippy::duplicate_mod, reason = "one suite, two engines")]

mod on_mariadb;
mod on_sqlite;
