//! Benches: `vcl-bench NAME [CASE]` prints one JSON object a line and what it is about on standard error.
//!
//! Each pair of ours and peer alternates in one run; what is printed are medians. A ratio is ours ÷ peer.

use anyhow::{Result, bail};
use vcl_tests::bench;

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.iter().any(|name| name == "--help" || name == "-h") {
        print!("{}", help());
        return Ok(());
    }
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
        Some("transfer") => bench::transfer::run(names.get(1).map(String::as_str)),
        Some(other) => {
            bail!("no bench {other}; there are capture, load, pickup, queue and transfer (--help)")
        }
        None => bail!("which bench? There are capture, load, pickup, queue and transfer (--help)"),
    }
}

fn help() -> String {
    let mut text = String::from(
        "vcl-bench NAME [CASE]: prints one JSON object a line; without a case, all of the bench.\n\n\
         capture            from guest-off to published, against the same commands by hand\n\
         \x20 delta            the same where little has changed since the parent\n\
         load               what vcld adds to a load on a hypervisor\n\
         pickup             from a submit to the job's first step\n\
         queue              what the queue costs, on simulated machines that take no time\n",
    );
    for (name, what) in bench::queue::CASES {
        text.push_str(&format!("  {name:<16} {what}\n"));
    }
    text.push_str("transfer           a disk to and from a VMware datastore, against curl\n");
    for (name, what) in bench::transfer::CASES {
        text.push_str(&format!("  {name:<16} {what}\n"));
    }
    text
}
