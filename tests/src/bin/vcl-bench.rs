//! Benches: `vcl-bench NAME [CASE]` prints one JSON object a line and what it is about on standard error.
//!
//! Each pair of ours and peer alternates in one run; what is printed are medians. A ratio is ours ÷ peer.

use anyhow::{Result, bail};
use vcl_tests::bench;

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.first().is_some_and(|name| name == "configure") {
        // It has options and a help of its own.
        return bench::configure::run(&names[1..]);
    }
    if names.iter().any(|name| name == "--help" || name == "-h") {
        print!("{}", help());
        return Ok(());
    }
    let case = names.get(1).map(String::as_str);
    match names.first().map(String::as_str) {
        Some("api") => bench::api::run(case),
        Some("capture") => match case {
            None => bench::capture::run().and_then(|()| bench::capture::delta::run()),
            Some("delta") => bench::capture::delta::run(),
            Some(other) => {
                bail!("the bench capture has no case {other}; it has delta, and all without a word")
            }
        },
        Some("class") => bench::class::run(case),
        Some("load") => bench::load::run(),
        Some("page") => bench::page::run(case),
        Some("pickup") => bench::pickup::run(),
        Some("queue") => bench::queue::run(case),
        Some("transfer") => bench::transfer::run(case),
        Some(other) => {
            bail!(
                "no bench {other}; there are api, capture, class, configure, load, page, pickup, queue and transfer (--help)"
            )
        }
        None => {
            bail!(
                "which bench? There are api, capture, class, configure, load, page, pickup, queue and transfer (--help)"
            )
        }
    }
}

fn help() -> String {
    let mut text = String::from(
        "vcl-bench NAME [CASE]: prints one JSON object a line; without a case, all of the bench.\n\n",
    );
    let mut bench = |name: &str, what: &str, cases: &[(&str, &str)]| {
        text.push_str(&format!("{name:<18} {what}\n"));
        for (name, what) in cases {
            text.push_str(&format!("  {name:<16} {what}\n"));
        }
    };
    bench(
        "api",
        "what lists and streams cost over TCP, measured by wrk and 200 subscribers",
        bench::api::CASES,
    );
    bench(
        "capture",
        "from guest-off to published, against the same commands by hand",
        &[("delta", "the same where little has changed since the parent")],
    );
    bench("class", "until the last of a class's seats is loaded", bench::class::CASES);
    bench(
        "configure",
        "vclctl configure against cdist; configure --help has its options",
        bench::configure::CASES,
    );
    bench("load", "what vcld adds to a load on a hypervisor", &[]);
    bench("page", "what the web page costs, in a real browser", bench::page::CASES);
    bench("pickup", "from a submit to the job's first step", &[]);
    bench("queue", "what the queue costs, on simulated machines that take no time", bench::queue::CASES);
    bench("transfer", "a disk to and from a VMware datastore, against curl", &bench::transfer::CASES);
    text
}
