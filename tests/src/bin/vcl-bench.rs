//! Benches: `vcl-bench NAME [CASE]` prints one JSON object a line and what it is about on standard error.
//!
//! Each pair of ours and peer alternates in one run; what is printed are medians. A ratio is ours ÷ peer.

use anyhow::{Result, bail};
use vcl_tests::bench;

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    match names.first().map(String::as_str) {
        Some("capture") => match names.get(1).map(String::as_str) {
            None => bench::capture::run().and_then(|()| bench::capture::delta::run()),
            Some("delta") => bench::capture::delta::run(),
            Some(other) => {
                bail!("the bench capture has no case {other}; it has delta, and all without a word")
            }
        },
        Some("load") => bench::load::run(),
        Some("pickup") => bench::pickup::run(),
        Some("queue") => bench::queue::run(names.get(1).map(String::as_str)),
        other => bail!("no bench {other:?}; there are capture, load, pickup and queue"),
    }
}
