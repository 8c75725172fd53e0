//! The rules of the executor that the crash matrix does not show.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::*;

#[derive(Default)]
struct Host {
    log: Mutex<Vec<String>>,
    up: std::sync::atomic::AtomicBool,
}
impl Host {
    fn say(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
}
const A: Step<Host, String> = Step::new("a").undo(|h, n| {
    Box::pin(async move {
        h.say(format!("undo {n}"));
        Ok(())
    })
});
const B: Step<Host, String> =
    Step::new("b").undo(|_, _| Box::pin(async { Err(Error::new(Kind::Fatal, "will not")) }));
const UP: Step<Host, ()> =
    Step::new("up").holds(|h, (), _| Box::pin(async move { Ok(h.up.load(Ordering::SeqCst)) }));
const SLOW: Step<Host, ()> = Step::new("slow").deadline(seconds(3));
const FLAKY: Step<Host, ()> = Step::new("flaky").retry(TRANSIENT);
#[async_trait::async_trait]
impl Undo for Host {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(&[&A, &B, &UP, &SLOW, &FLAKY], self, step, intent).await
    }
}
fn run<'a>(host: &'a Host, journal: &Arc<MemoryJournal>) -> Run<'a> {
    Run {
        journal: journal.clone(),
        observer: Arc::new(Silent),
        control: Control::default(),
        owners: Owners { flow: host, parts: &[] },
    }
}
const FLOW: Flow = Flow { name: "test", version: 2, deadline: None };
async fn nothing() -> Result<Value> {
    Ok(Value::Null)
}

#[tokio::test]
async fn the_input_of_the_first_life_is_the_input_of_all() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let fail = async |_: Job, n: u32| Err::<u32, _>(Error::new(Kind::LeaseLost, format!("{n}")));
    let first = execute(run(&host, &journal), FLOW, async { Ok(1u32) }, fail).await;
    assert!(matches!(first, Outcome::Lost(_)));
    let second =
        execute(run(&host, &journal), FLOW, async { panic!("asked again") }, async |_, n: u32| Ok(n)).await;
    assert_eq!(second, Outcome::Done(1));
}

#[tokio::test]
async fn a_journal_of_a_newer_flow_is_left_alone() {
    let host = Host::default();
    let begun = Record::Begun { flow: "test".into(), version: 3, input: Value::Null, at: None };
    let journal = Arc::new(MemoryJournal::of(vec![begun]));
    let outcome = execute(run(&host, &journal), FLOW, nothing(), async |_, _: Value| Ok(())).await;
    assert!(matches!(outcome, Outcome::Stuck(f) if f.kind == Kind::Diverged));
}

#[tokio::test]
async fn an_older_binary_s_job_is_taken_back_from_the_journal_alone() {
    let host = Host::default();
    let started =
        |key: &str, intent: &str| Record::Started { key: key.into(), intent: json!(intent), at: None };
    let journal = Arc::new(MemoryJournal::of(vec![
        Record::Begun { flow: "test".into(), version: 1, input: Value::Null, at: None },
        started("a", "one"),
        Record::Done { key: "a".into(), output: Value::Null },
        started("disk 0/a[7/8]", "two"),
        Record::Unwinding { cause: Failure { kind: Kind::Fatal, message: "x".into() } },
    ]));
    let never = async |_: Job, _: Value| -> Result<()> { panic!("called") };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), never).await;
    assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
    assert_eq!(*host.log.lock().unwrap(), ["undo two", "undo one"]);
}

#[tokio::test]
async fn a_function_that_takes_other_steps_than_the_journal_is_stopped() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let started = Record::Started { key: "a".into(), intent: json!("one"), at: None };
    journal
        .append(&Record::Begun { flow: "test".into(), version: 2, input: Value::Null, at: None })
        .await
        .unwrap();
    journal.append(&started).await.unwrap();
    let other = async |mut job: Job, _: Value| job.step(&host, &UP, ()).run(async |(), _| Ok(())).await;
    let outcome = execute(run(&host, &journal), FLOW, nothing(), other).await;
    assert!(
        matches!(outcome, Outcome::Stuck(ref f) if f.message.contains("`up`") && f.message.contains("`a`")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn an_undo_that_fails_leaves_the_job_stuck_and_says_which() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let work = async |mut job: Job, _: Value| {
        job.step(&host, &A, "one".into()).run(async |_, _| Ok(())).await?;
        job.step(&host, &B, "two".into())
            .run(async |_, _| Err::<(), _>(Error::new(Kind::Fatal, "broke")))
            .await
    };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
    assert!(matches!(outcome, Outcome::Stuck(ref f) if f.message.contains("undoing `b`")), "{outcome:?}");
    assert!(host.log.lock().unwrap().is_empty(), "nothing before it was undone");
    let records = journal.read().await.unwrap();
    assert!(matches!(records.last(), Some(Record::Stuck { key, .. }) if key == "b"));
}

#[tokio::test]
async fn a_step_whose_effect_no_longer_holds_runs_again() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let runs = AtomicU32::new(0);
    let life = async |end: Kind| {
        let work = async |mut job: Job, _: Value| {
            let count = async |(), _| Ok(runs.fetch_add(1, Ordering::SeqCst));
            job.step(&host, &UP, ()).run(count).await?;
            Err::<(), _>(Error::new(end, "end of this life"))
        };
        execute(run(&host, &journal), FLOW, nothing(), work).await
    };
    life(Kind::LeaseLost).await;
    life(Kind::LeaseLost).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    host.up.store(true, Ordering::SeqCst);
    life(Kind::LeaseLost).await;
    assert_eq!(runs.load(Ordering::SeqCst), 2, "it held");
}

#[tokio::test]
async fn a_job_that_has_committed_is_not_called_off_any_more() {
    for commits in [false, true] {
        let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
        let run = run(&host, &journal);
        let cancel = run.control.cancel.clone();
        let work = async |mut job: Job, _: Value| {
            job.step(&host, &A, "made".into()).run(async |_, _| Ok(())).await?;
            if commits {
                job.commit();
            }
            cancel.cancel();
            job.step(&host, &FLAKY, ()).run(async |(), cx| cx.check().await).await
        };
        let outcome = execute(run, FLOW, nothing(), work).await;
        assert_eq!(outcome == Outcome::Done(()), commits, "{outcome:?}");
        assert_eq!(host.log.lock().unwrap().is_empty(), commits);
    }
}

#[tokio::test]
async fn what_a_part_did_is_not_asked_after_once_the_job_has_left_it() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let runs = AtomicU32::new(0);
    let life = async || {
        let work = async |mut job: Job, _: Value| {
            let count = async |(), _| Ok(runs.fetch_add(1, Ordering::SeqCst));
            job.part("boot").step(&host, &UP, ()).run(count).await?;
            // It is shut down here, on purpose.
            job.step(&host, &A, "off".into()).run(async |_, _| Ok(())).await?;
            Err::<(), _>(Error::new(Kind::LeaseLost, "end of this life"))
        };
        execute(run(&host, &journal), FLOW, nothing(), work).await
    };
    life().await;
    life().await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_step_past_its_deadline_is_told_to_stop_and_waited_for() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let work = async |mut job: Job, _: Value| {
        job.step(&host, &SLOW, ())
            .run(async |(), cx| {
                cx.stopped().await;
                tokio::time::sleep(Duration::from_secs(5)).await; // why: it takes a while to put its tools down
                host.say("put down");
                Err::<(), _>(cx.stop_error())
            })
            .await
    };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
    assert!(
        matches!(outcome, Outcome::RolledBack(ref f) if f.kind == Kind::Deadline && f.message == "not done within 3 s"),
        "{outcome:?}"
    );
    assert_eq!(*host.log.lock().unwrap(), ["put down"]);
}

#[tokio::test(start_paused = true)]
async fn only_what_passes_by_itself_is_tried_again() {
    for (kind, tries) in [(Kind::Transient, 4), (Kind::Fatal, 1)] {
        let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
        let again = Mutex::new(Vec::new());
        let work = async |mut job: Job, _: Value| {
            let fail = async |(), cx: Cx| {
                again.lock().unwrap().push(cx.again());
                Err::<(), _>(Error::new(kind, "no"))
            };
            job.step(&host, &FLAKY, ()).run(fail).await
        };
        execute(run(&host, &journal), FLOW, nothing(), work).await;
        assert_eq!(again.lock().unwrap().len(), tries);
        assert!(!again.lock().unwrap()[0]);
        assert!(again.lock().unwrap()[1..].iter().all(|a| *a));
    }
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_before_the_step_runs() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let work = async |mut job: Job, _: Value| {
        job.step(&host, &A, "x".repeat(RECORD_LIMIT)).run(async |_, _| -> Result<()> { panic!("ran") }).await
    };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
    assert!(
        matches!(outcome, Outcome::RolledBack(ref f) if f.message.contains("journal record")),
        "{outcome:?}"
    );
}

fn cx(limit: u64) -> (Cx, CancellationToken, Arc<MemoryJournal>) {
    let (journal, token) = (Arc::new(MemoryJournal::default()), CancellationToken::new());
    (Cx::detached(journal.clone(), token.clone(), Duration::from_secs(limit)), token, journal)
}

#[tokio::test]
async fn a_process_is_in_the_journal_before_it_does_anything() {
    let (cx, _token, journal) = cx(10);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("made");
    let mut lines = Vec::new();
    let script = format!("printf '1/2\\r2/2\\n'; echo $$ > {}", file.display());
    let out = Process::new("sh").args(["-c", &script]).run(&cx, |l| lines.push(l.to_owned())).await.unwrap();
    assert_eq!(lines, ["1/2", "2/2"]);
    assert_eq!(out.stdout, b"1/2\r2/2\n");
    let pid: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let records = journal.read().await.unwrap();
    assert!(matches!(records[..], [Record::Process { group, .. }] if group == pid), "{records:?}");
}

#[tokio::test]
async fn a_process_that_is_called_off_ends_with_its_children() {
    let (cx, token, _journal) = cx(10);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    let script = format!("sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; echo up; wait", file.display());
    let error = Process::new("sh").args(["-c", &script]).run(&cx, |_| token.cancel()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Cancelled);
    let child: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[tokio::test]
async fn a_process_that_takes_too_long_ends_with_its_children() {
    let (cx, _token, _journal) = cx(60);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("child");
    // The first ends at once when it is told to, and the other does not listen.
    let script = format!("(trap '' TERM; exec sleep 1000) & echo $! > {}; wait", file.display());
    let process = Process::new("sh").args(["-c", &script]).limit(Duration::from_secs(1));
    let error = process.run(&cx, |_| {}).await.unwrap_err();
    assert_eq!((error.kind, error.context.as_str()), (Kind::Deadline, "sh has not ended after 1s"));
    let child: i32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[tokio::test]
async fn a_process_that_fails_says_what_it_said() {
    let (cx, _token, _journal) = cx(10);
    let error =
        Process::new("sh").args(["-c", "echo no luck >&2; exit 3"]).run(&cx, |_| {}).await.unwrap_err();
    assert!(error.context.contains("no luck") && error.context.contains('3'), "{}", error.context);
    let error = Process::new("no-such-program").run(&cx, |_| {}).await.unwrap_err();
    assert_eq!(error.kind, Kind::NotFound);
}

#[tokio::test]
async fn what_an_earlier_life_left_running_is_ended_before_the_step_runs_again() {
    let host = Host::default();
    let mut left = tokio::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
    let group = left.id().unwrap().cast_signed();
    let journal = Arc::new(MemoryJournal::of(vec![
        Record::Begun { flow: "test".into(), version: 2, input: Value::Null, at: None },
        Record::Started { key: "slow".into(), intent: Value::Null, at: None },
        Record::Process { key: "slow".into(), group, start_time: start_time(group).unwrap(), boot: None },
    ]));
    let work = async |mut job: Job, _: Value| {
        let ended = async |(), cx: Cx| {
            assert!(cx.again());
            // A zombie until its parent, which is us here, asks for it.
            let stat = std::fs::read_to_string(format!("/proc/{group}/stat")).unwrap_or_default();
            Ok(stat.is_empty() || stat.contains(") Z "))
        };
        job.step(&host, &SLOW, ()).run(ended).await
    };
    assert_eq!(execute(run(&host, &journal), FLOW, nothing(), work).await, Outcome::Done(true));
    left.wait().await.unwrap();
}
