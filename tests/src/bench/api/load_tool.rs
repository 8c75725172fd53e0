//! `wrk`, the load tool: Debian's package of that name.

use super::{ASKED, CONNECTIONS};
use crate::command::output_of;
use anyhow::{Context, Result, ensure};
use camino::Utf8Path;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

/// What it says of one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    /// Answers per second.
    pub(super) rate: f64,
    /// In milliseconds.
    pub(super) p50_ms: f64,
    /// In milliseconds.
    pub(super) p99_ms: f64,
}

pub(super) struct Tool(());

impl Tool {
    /// # Errors
    /// It is not installed.
    pub(super) fn find() -> Result<Self> {
        // It ends with 1 when it is asked what it is.
        let asked = Command::new("wrk").arg("--version").output();
        asked.context("the bench api measures with wrk, which is not installed: .ci/needs bench")?;
        Ok(Self(()))
    }

    /// Asks for `url` as fast as it is answered.
    ///
    /// # Errors
    /// It fails, or not all answers were good ones.
    pub(super) fn ask(&self, directory: &Utf8Path, url: &str, token: Option<&str>) -> Result<Measured> {
        // In a file, because anybody may read a command line.
        let script = directory.join("ask.lua");
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&script)?;
        match token {
            Some(token) => writeln!(file, "wrk.headers[\"Authorization\"] = \"Bearer {token}\"")?,
            None => writeln!(file, "-- nobody in particular")?,
        }
        let said = output_of(
            Command::new("wrk")
                .args(["--threads", "1", "--connections", &CONNECTIONS.to_string(), "--latency"])
                .args(["--duration", &format!("{}s", ASKED.as_secs()), "--timeout", "10s"])
                .args(["--script", script.as_str(), url]),
        )?;
        read(&said).with_context(|| format!("wrk said of {url}:\n{said}"))
    }
}

/// What stands in its report.
fn read(said: &str) -> Result<Measured> {
    let after = |label: &str| {
        let line = said.lines().find_map(|line| line.trim_start().strip_prefix(label));
        line.map(str::trim).with_context(|| format!("nothing about {label}"))
    };
    ensure!(after("Non-2xx").is_err() && after("Socket errors").is_err(), "not every answer was a good one");
    Ok(Measured {
        rate: after("Requests/sec:")?.parse()?,
        p50_ms: milliseconds(after("50%")?)?,
        p99_ms: milliseconds(after("99%")?)?,
    })
}

fn milliseconds(text: &str) -> Result<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).context("no unit")?;
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "us" => 0.001,
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        _ => anyhow::bail!("the unit of {text}"),
    };
    Ok(number.parse::<f64>()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_report_is_read_and_one_of_bad_answers_is_not() -> Result<()> {
        let good = "Running 5s test @ https://127.0.0.1:1/healthz\n  1 threads and 8 connections\n\
            \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   635.91us    0.89ms  12.92ms   93.69%\n\
            \x20 Latency Distribution\n     50%  635.00us\n     75%  712.00us\n     90%    1.04ms\n     99%    1.23s \n\
            \x20 70000 requests in 5.00s, 9.00MB read\nRequests/sec:  14000.25\nTransfer/sec:      1.80MB\n";
        let measured = read(good)?;
        assert_eq!((measured.rate, measured.p50_ms, measured.p99_ms), (14000.25, 0.635, 1230.0));
        assert!(read(&good.replace("Requests/sec", "  Non-2xx or 3xx responses: 3\nRequests/sec")).is_err());
        Ok(())
    }
}
