//! Metrics, in the text form that Prometheus reads.
//!
//! What the tables say (jobs, reservations, computers, the outbox) is read when somebody asks; what passes by (requests,
//! steps, waits) is counted as it does. Labels are words that vcld itself has: states, kinds, routes with their
//! placeholders, names of steps without their keys, backends of the configuration. Nothing that a caller, a user or a guest
//! chooses becomes a label.

use crate::node::{Node, Refusal, RefusalKind};
use chrono::Utc;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use vcl_types::state::{computer, job, reservation};

type Labels = Vec<(&'static str, String)>;
type Number = Gauge<f64, AtomicU64>;
type Numbers = Family<Labels, Number>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// How many names of steps become labels; a binary has some hundred.
const STEPS: usize = 500;

/// A metric as the documentation lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Described {
    /// As it is written in a query; a histogram has `_bucket`, `_sum` and `_count` behind it.
    pub(crate) name: String,
    /// `gauge`, `counter` or `histogram`.
    pub(crate) kind: &'static str,
    /// Its labels.
    pub(crate) labels: &'static [&'static str],
    /// What it says.
    pub(crate) help: &'static str,
}

/// All metrics of a node.
pub(crate) struct Metrics {
    registry: Registry,
    #[cfg_attr(not(test), expect(dead_code, reason = "the documentation is made of it, by a test"))]
    described: Vec<Described>,
    /// One at a time fills in what the tables say.
    reading: tokio::sync::Mutex<()>,
    jobs: Numbers,
    queue_length: Number,
    queue_oldest: Number,
    reservations: Numbers,
    computers: Numbers,
    backends: Numbers,
    orphans: Number,
    library: Numbers,
    notices: Numbers,
    notices_oldest: Number,
    ready: Number,
    sent: Family<Labels, Counter>,
    requests: Family<Labels, Counter>,
    request_seconds: Histograms,
    step_seconds: Histograms,
    wait_seconds: Histogram,
    steps: Mutex<BTreeSet<String>>,
}

fn of_requests() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
    ])
}
fn of_steps() -> Histogram {
    Histogram::new([
        0.1,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        1800.0,
        3600.0,
        4.0 * 3600.0,
    ])
}
fn of_waits() -> Histogram {
    Histogram::new([2.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 4.0 * 3600.0, 86_400.0])
}

/// Enters metrics and remembers what they are.
#[derive(Default)]
struct Book {
    registry: Registry,
    described: Vec<Described>,
}

impl Book {
    fn enter<M>(
        &mut self,
        (name, kind, labels): (&str, &'static str, &'static [&'static str]),
        help: &'static str,
        metric: M,
    ) -> M
    where
        M: prometheus_client::registry::Metric + Clone,
    {
        let end = if kind == "counter" { "_total" } else { "" };
        self.described.push(Described { name: format!("vcld_{name}{end}"), kind, labels, help });
        // It writes the full stop itself.
        self.registry.register(format!("vcld_{name}"), help.trim_end_matches('.'), metric.clone());
        metric
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut book = Book::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        book.registry.register("vcld_build", "Which vcld this is", build);
        book.described.push(Described {
            name: "vcld_build_info".into(),
            kind: "gauge",
            labels: &["version"],
            help: "Which vcld this is.",
        });
        let b = &mut book;
        let gauge = "gauge";
        Self {
            jobs: b.enter(
                ("jobs", gauge, &["kind", "state"]),
                "Jobs, all that are kept.",
                Numbers::default(),
            ),
            queue_length: b.enter(
                ("queue_length", gauge, &[]),
                "Jobs that wait to be claimed.",
                Number::default(),
            ),
            queue_oldest: b.enter(
                ("queue_oldest_seconds", gauge, &[]),
                "How long the oldest job has waited that is queued; 0 when none is.",
                Number::default(),
            ),
            reservations: b.enter(
                ("reservations", gauge, &["state"]),
                "Reservations that have not ended.",
                Numbers::default(),
            ),
            computers: b.enter(("computers", gauge, &["state"]), "Computers.", Numbers::default()),
            backends: b.enter(
                ("backend_up", gauge, &["backend"]),
                "Whether the backend answered when it was last asked.",
                Numbers::default(),
            ),
            orphans: b.enter(
                ("orphans", gauge, &[]),
                "Things that belong to nobody, or should be there and are not.",
                Number::default(),
            ),
            library: b.enter(
                ("library_bytes", gauge, &["what"]),
                "The file system of the library: free, used and total.",
                Numbers::default(),
            ),
            notices: b.enter(
                ("notices", gauge, &["state"]),
                "Notices in the outbox: waiting, or given up.",
                Numbers::default(),
            ),
            notices_oldest: b.enter(
                ("notices_oldest_seconds", gauge, &[]),
                "How long the oldest notice has waited; 0 when none does.",
                Number::default(),
            ),
            ready: b.enter(("ready", gauge, &[]), "Whether /readyz says yes.", Number::default()),
            sent: b.enter(
                ("notices_sent", "counter", &["channel", "outcome"]),
                "Notices that were handed to a channel, or not taken by it.",
                Family::default(),
            ),
            requests: b.enter(
                ("http_requests", "counter", &["method", "route", "status"]),
                "Requests to the API that were answered.",
                Family::default(),
            ),
            request_seconds: b.enter(
                ("http_request_duration_seconds", "histogram", &["method", "route"]),
                "How long answers took to begin.",
                Family::new_with_constructor(of_requests as fn() -> Histogram),
            ),
            step_seconds: b.enter(
                ("step_duration_seconds", "histogram", &["kind", "step"]),
                "How long steps of jobs took that came to their end.",
                Family::new_with_constructor(of_steps as fn() -> Histogram),
            ),
            wait_seconds: b.enter(
                ("reservation_wait_seconds", "histogram", &[]),
                "How long reservations waited from when they were to begin until they could be used.",
                of_waits(),
            ),
            steps: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            registry: book.registry,
            described: book.described,
        }
    }
}

/// The name of a step without the parts it is in and its key: `hold > disk 1/copy[2]` is `copy`.
fn step_name(key: &str) -> &str {
    let name = key.split_once('[').map_or(key, |(name, _)| name);
    let name = name.rsplit(" > ").next().unwrap_or(name);
    name.rsplit('/').next().unwrap_or(name)
}

impl Metrics {
    /// A step has come to its end.
    pub(crate) fn stepped(&self, kind: &str, key: &str, took: Duration) {
        let mut step = step_name(key).to_owned();
        {
            let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
            if !steps.contains(&step) {
                if steps.len() < STEPS {
                    steps.insert(step.clone());
                } else {
                    step = "other".into();
                }
            }
        }
        let labels = vec![("kind", kind.to_owned()), ("step", step)];
        self.step_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }
    /// A reservation has become usable.
    pub(crate) fn waited(&self, span: chrono::TimeDelta) {
        self.wait_seconds.observe(span.num_milliseconds().max(0) as f64 / 1000.0);
    }
    /// A notice was handed to a channel, or was not taken.
    pub(crate) fn noticed(&self, channel: &'static str, good: bool) {
        let outcome = if good { "sent" } else { "failed" };
        let labels = vec![("channel", channel.to_owned()), ("outcome", outcome.to_owned())];
        self.sent.get_or_create(&labels).inc();
    }
    /// A request was answered. `route` is the path with its placeholders.
    pub(crate) fn answered(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = if known.contains(&method) { method } else { "other" };
        let of_route = vec![("method", method.to_owned()), ("route", route.unwrap_or("none").to_owned())];
        self.request_seconds.get_or_create(&of_route).observe(took.as_secs_f64());
        let labels = [of_route, vec![("status", status.to_string())]].concat();
        self.requests.get_or_create(&labels).inc();
    }
    /// What there is, for the documentation.
    #[cfg(test)]
    pub(crate) fn described(&self) -> &[Described] {
        &self.described
    }
}

fn label(name: &'static str, value: impl ToString) -> Labels {
    vec![(name, value.to_string())]
}

impl Node {
    /// All metrics as Prometheus reads them.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn metrics_text(&self) -> Result<String, Refusal> {
        let metrics = &self.insight.metrics;
        let _one = metrics.reading.lock().await;
        let now = Utc::now();
        let jobs = self.queue.job_census().await?;
        let computers = self.queue.computer_counts().await?;
        let open = self.queue.reservations_open().await?;
        let outbox = self.queue.outbox().await?;
        metrics.jobs.clear();
        let mut queued = 0;
        for (kind, state, count) in &jobs.counts {
            let labels = vec![("kind", kind.to_string()), ("state", state.to_string())];
            metrics.jobs.get_or_create(&labels).set(*count as f64);
            queued += if *state == job::State::Queued { *count } else { 0 };
        }
        metrics.queue_length.set(queued as f64);
        let age = |since: Option<chrono::DateTime<Utc>>| {
            since.map_or(0.0, |at| (now - at).num_milliseconds().max(0) as f64 / 1000.0)
        };
        metrics.queue_oldest.set(age(jobs.oldest_queued));
        for state in reservation::State::ALL.iter().filter(|s| **s != reservation::State::Ended) {
            let count = open.iter().filter(|row| row.state == *state).count();
            metrics.reservations.get_or_create(&label("state", state)).set(count as f64);
        }
        for state in computer::State::ALL {
            let count = computers.iter().find(|(s, _)| s == state).map_or(0, |(_, count)| *count);
            metrics.computers.get_or_create(&label("state", state)).set(count as f64);
        }
        for (backend, up) in self.insight.backends_up() {
            metrics.backends.get_or_create(&label("backend", backend)).set(f64::from(u8::from(up)));
        }
        metrics.orphans.set(self.insight.orphans() as f64);
        if let Ok(space) = self.library.space() {
            let used = space.total.saturating_sub(space.free);
            for (what, bytes) in [("free", space.free), ("used", used), ("total", space.total)] {
                metrics.library.get_or_create(&label("what", what)).set(bytes as f64);
            }
        }
        metrics.notices.get_or_create(&label("state", "waiting")).set(outbox.waiting as f64);
        metrics.notices.get_or_create(&label("state", "given-up")).set(outbox.given_up as f64);
        metrics.notices_oldest.set(age(outbox.oldest));
        metrics.ready.set(f64::from(u8::from(self.readiness().await.ready)));
        let mut text = String::new();
        encode(&mut text, &metrics.registry).map_err(|e| {
            Refusal::new(RefusalKind::Internal, format!("the metrics cannot be written: {e}"))
        })?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: &str = "<!-- metrics -->\n";
    const END: &str = "<!-- end of metrics -->\n";

    #[test]
    fn a_steps_label_is_its_name_without_parts_and_keys() {
        for (key, name) in
            [("hand over", "hand over"), ("disk 1/copy[a/b]", "copy"), ("hold > resume/start", "start")]
        {
            assert_eq!(step_name(key), name);
        }
        let metrics = Metrics::default();
        for n in 0..2 * STEPS {
            metrics.stepped("load", &format!("s{n}"), Duration::from_secs(1));
        }
        assert_eq!(metrics.steps.lock().unwrap().len(), STEPS);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        assert_eq!(text.matches("vcld_step_duration_seconds_count{").count(), STEPS + 1, "and `other`");
    }

    /// `UPDATE=1` writes the table anew.
    #[test]
    fn the_documentation_lists_what_there_is() {
        let mut table = String::from("| metric | kind | labels | what it says |\n|---|---|---|---|\n");
        for Described { name, kind, labels, help } in Metrics::default().described() {
            let labels = labels.iter().map(|l| format!("`{l}`")).collect::<Vec<_>>().join(", ");
            table.push_str(&format!("| `{name}` | {kind} | {labels} | {help} |\n"));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (before, rest) = text.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let new = format!("{before}{BEGIN}{table}{END}{after}");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, &new).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == new,
            "UPDATE=1 cargo test writes docs/metrics.md anew"
        );
    }

    /// The names of metrics in a text.
    fn named(text: &str) -> BTreeSet<String> {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        text.split(word).filter(|w| w.starts_with("vcld_")).map(str::to_owned).collect()
    }

    #[test]
    fn every_query_of_the_dashboard_asks_for_a_metric_that_there_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/grafana/vcld.json");
        let board: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let metrics = Metrics::default();
        let mut there = BTreeSet::new();
        for Described { name, kind, .. } in metrics.described() {
            match *kind {
                "histogram" => there.extend(["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}"))),
                _ => drop(there.insert(name.clone())),
            }
        }
        let mut queries = 0;
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let asked = named(target["expr"].as_str().unwrap());
                assert!(!asked.is_empty(), "{target}");
                assert!(asked.is_subset(&there), "{target}");
                queries += 1;
            }
        }
        assert!(queries >= 12, "{queries}");
        // What is written is what is listed.
        metrics.answered("GET", None, 200, Duration::ZERO);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        for (name, kind) in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split_once(' ')) {
            let listed = |d: &&Described| {
                d.name == name
                    || d.name.trim_end_matches("_total") == name
                    || d.name == format!("{name}_info")
            };
            assert!(metrics.described().iter().any(|d| listed(&d)), "{name} {kind}");
        }
    }
}
