//! The conformance kit on backends that need more than their crate's own tests have, each in a private world. As root.
//!
//! What they came to is kept in `docs/conformance/`; `UPDATE=1` writes it anew. The VMware backends' are beside their double.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod lab;
mod libvirt;
mod xcat;

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;
use vcl_job::{Cx, MemoryJournal};

const VCL_WORLD: &str = env!("CARGO_BIN_EXE_vcl-world");

/// Whether every point is tried and every guest booted.
fn full() -> bool {
    std::env::var_os("VCL_FULL").is_some_and(|full| !full.is_empty() && full != "0")
}

/// Where a report is kept.
fn record(file: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance")).join(file)
}

/// One of two, by whether it is the whole run: that keeps a report of its own.
fn by_run(short: &'static str, whole: &'static str) -> &'static str {
    if full() { whole } else { short }
}

fn cx() -> Cx {
    Cx::detached(std::sync::Arc::new(MemoryJournal::default()), <_>::default(), Duration::from_secs(600))
}

/// Says at these addresses what an ssh server says first, and no more, until the world ends.
fn banner(at: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let listener = TcpListener::bind(at)?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"SSH-2.0-nobody\r\n");
        }
    });
    Ok(())
}
