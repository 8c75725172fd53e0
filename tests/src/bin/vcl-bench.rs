//! Benches: `vcl-bench NAME [CASE]` prints one JSON object a line and what it is about on standard error.
//!
//! Each pair of ours and peer alternates in one run; what is printed are medians. A ratio is ours ÷ peer.

use anyhow::{Result, bail};
use vcl_tests::bench;

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    match names.first().map(String::as_str) {
        Some("capture") => bench::capture::run(),
        Some("load") => bench::load::run(),
        Some("pickup") => bench::pickup::run(),
        Some("queue") => bench::queue::run(names.get(1).map(String::as_str)),
        other => bail!("no bench {other:?}; there are capture, load, pickup and queue"),
    }
}
