//! Logs: to journald when systemd started us, else to standard error.

use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use vcl_config::{Log, LogFormat};

/// Starts logging as the configuration says; `RUST_LOG` wins over its filter.
pub(crate) fn start(log: &Log) -> anyhow::Result<()> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => EnvFilter::try_new(filter)?,
        Err(_) => EnvFilter::try_new(&log.filter).map_err(|e| {
            anyhow::anyhow!(
                "log.filter: `{}` is no filter ({e}); use `info` or `info,vcl_job=debug`",
                log.filter
            )
        })?,
    };
    // systemd sets JOURNAL_STREAM for what it has connected to the journal.
    let journald = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = match log.format {
        LogFormat::Journald => tracing_journald::layer()?.boxed(),
        LogFormat::Auto if journald => tracing_journald::layer()?.boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed(),
        LogFormat::Text | LogFormat::Auto => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).try_init()?;
    Ok(())
}
