//! The crate against a real `qemu-img`, on real file systems.
#![allow(clippy::unwrap_used)]

mod deltas;
mod digests;
mod fixture;
mod full_disk;
mod hostile;
mod library;
mod moving;
mod publishing;
mod tool;
mod years;
