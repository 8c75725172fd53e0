//! Watching a job: streams that end, that miss something, and a daemon that restarts.

use crate::fake::{Asked, End, Fake, Reply, event, job, ok, problem};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vcl_types::JobId;
use vcl_types::api::{JobView, Progress, StepState};
use vcl_types::state::job::State;
use vclctl::follow::{Change, Display, Follower};
use vclctl::{Client, ErrorKind, Patience};

/// Remembers what it was shown.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    fn shown(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
    fn add(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}
impl Display for Recorder {
    fn change(&mut self, change: Change) {
        self.add(match change {
            Change::Waits { state, .. } => format!("waits {state}"),
            Change::Began { step, .. } => format!("began {step}"),
            Change::Ended { step, state: StepState::Done, .. } => format!("done {step}"),
            Change::Ended { step, state, .. } => format!("{state:?} {step}"),
            Change::Note(note) => note,
        });
    }
    fn progress(&mut self, step: &str, progress: Progress) {
        self.add(format!("{step} {}/{}", progress.done, progress.total));
    }
    fn close(&mut self) {
        self.add("closed".into());
    }
}

const SHORT: Patience = Patience {
    total: Duration::from_secs(10),
    first: Duration::from_millis(20),
    most: Duration::from_millis(100),
};

fn follow(socket: &Path, patience: Patience) -> (Result<JobView, vclctl::Error>, Vec<String>) {
    let recorder = Recorder::default();
    let mut display = recorder.clone();
    let client = Client::new(socket).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(Follower::new(&client, JobId(12), &mut display, patience).run());
    (ended, recorder.shown())
}

/// Answers with one job after the other, and with the last again and again.
fn one_after_the_other(
    jobs: Vec<Value>,
    stream: impl Fn() -> Reply + Send + Sync,
) -> impl Fn(&Asked) -> Reply + Send + Sync {
    let next = AtomicUsize::new(0);
    move |asked| match asked.what.as_str() {
        "GET /v1/stream?job=12" => stream(),
        "GET /v1/jobs/12" => {
            let n = next.fetch_add(1, Ordering::SeqCst).min(jobs.len() - 1);
            ok(jobs[n].clone())
        }
        what => problem(404, "not-found", what),
    }
}

fn a_load() -> Vec<Value> {
    vec![
        job("queued", &[]),
        job("running", &[("create overlay", "done"), ("copy disk", "running"), ("start", "planned")]),
        job("running", &[("create overlay", "done"), ("copy disk", "done"), ("start", "running")]),
        job("done", &[("create overlay", "done"), ("copy disk", "done"), ("start", "done")]),
    ]
}

const SHOWN: [&str; 6] =
    ["waits queued", "done create overlay", "began copy disk", "done copy disk", "began start", "done start"];

#[test]
fn events_say_when_to_look_and_the_job_says_what_is_so() {
    let directory = tempfile::tempdir().unwrap();
    let progress = |done: u64| json!({ "type": "progress", "job": 12, "step": "copy disk", "progress": { "done": done, "total": 10 } });
    let items = vec![
        event("job-started", "load b debian"),
        progress(4),
        progress(9),
        event("forced-off", "b did not shut down in 60 s"),
        event("step-done", "start"),
    ];
    let fake = Fake::start(
        directory.path(),
        one_after_the_other(a_load(), move || Reply::Events(items.clone(), End::Open)),
    );
    let begun = std::time::Instant::now();
    let (ended, shown) = follow(&fake.socket, SHORT);
    assert_eq!(ended.unwrap().state, State::Done);
    assert!(begun.elapsed() < Duration::from_secs(2), "the events were not heeded");
    let expected = [
        "waits queued",
        "done create overlay",
        "began copy disk",
        "copy disk 4/10",
        "copy disk 9/10",
        "b did not shut down in 60 s",
        "done copy disk",
        "began start",
        "done start",
        "closed",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_stream_that_says_nothing_or_ends_or_is_refused_loses_nothing() {
    let streams: [fn() -> Reply; 4] = [
        || Reply::Events(vec![], End::Open),
        || Reply::Events(vec![], End::Closed),
        || {
            Reply::Events(
                vec![json!({ "type": "missed" }), json!({ "type": "from the future" })],
                End::Closed,
            )
        },
        || problem(404, "not-found", "no such stream"),
    ];
    std::thread::scope(|scope| {
        for stream in streams {
            scope.spawn(move || {
                let directory = tempfile::tempdir().unwrap();
                let fake = Fake::start(directory.path(), one_after_the_other(a_load(), stream));
                let (ended, shown) = follow(&fake.socket, SHORT);
                assert_eq!(ended.unwrap().state, State::Done);
                assert_eq!(shown, [&SHOWN[..], &["closed"]].concat());
            });
        }
    });
}

#[test]
fn a_job_survives_a_daemon_that_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let quiet = || Reply::Events(vec![], End::Open);
    let first = Fake::start(&path, one_after_the_other(a_load()[1..2].to_vec(), quiet));
    let socket = first.socket.clone();
    let restarts = std::thread::spawn(move || {
        while first.count("GET /v1/jobs/12") == 0 {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(first);
        std::thread::sleep(Duration::from_millis(300));
        let starting = Fake::start(&path, |_| problem(503, "unavailable", "vcld is starting"));
        while starting.asked().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(starting);
        Fake::start(&path, one_after_the_other(a_load()[2..].to_vec(), quiet))
    });
    let (ended, shown) = follow(&socket, SHORT);
    let last = restarts.join().unwrap();
    assert_eq!(ended.unwrap().state, State::Done);
    assert_eq!(shown[..2], ["done create overlay", "began copy disk"]);
    assert!(shown[2].ends_with("waiting for it, job 12 survives this"), "{shown:?}");
    assert_eq!(shown[3..], ["vcld is back", "done copy disk", "began start", "done start", "closed"]);
    assert!(last.count("GET /v1/jobs/12") >= 2);
}

#[test]
fn a_daemon_that_does_not_come_back_ends_the_watching_and_not_the_job() {
    let directory = tempfile::tempdir().unwrap();
    let patience = Patience { total: Duration::from_millis(300), ..SHORT };
    let (ended, shown) = follow(&directory.path().join("none.sock"), patience);
    let error = ended.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Unreachable, 3));
    assert!(error.line().contains("vclctl job watch 12"), "{}", error.line());
    assert_eq!(shown.len(), 2, "said once, then closed: {shown:?}");
}

#[test]
fn a_job_that_does_not_exist_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let fake = Fake::start(directory.path(), |_| problem(404, "not-found", "there is no job 12"));
    let (ended, shown) = follow(&fake.socket, SHORT);
    let error = ended.unwrap_err();
    assert_eq!((error.kind(), error.line()), (ErrorKind::NotFound, "there is no job 12".to_owned()));
    assert_eq!(shown, ["closed"]);
}

#[test]
fn a_failure_is_shown_before_what_it_took_back() {
    let directory = tempfile::tempdir().unwrap();
    let jobs = vec![
        job("running", &[("create overlay", "done"), ("copy disk", "running")]),
        job("failed", &[("create overlay", "undone"), ("copy disk", "failed")]),
    ];
    let fake = Fake::start(directory.path(), one_after_the_other(jobs, || Reply::Events(vec![], End::Open)));
    let (ended, shown) = follow(&fake.socket, SHORT);
    assert_eq!(ended.unwrap().state, State::Failed);
    let expected =
        ["done create overlay", "began copy disk", "Failed copy disk", "Undone create overlay", "closed"];
    assert_eq!(shown, expected);
}
