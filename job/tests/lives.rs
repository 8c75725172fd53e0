//! How a job is told to stop, what its deadlines count, who looks at its failures, and what old journals mean.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use serde_json::{Value, json};
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use vcl_job::*;

#[derive(Default)]
struct Host {
    log: Mutex<Vec<String>>,
    /// How often the undo of `flaky` still fails.
    fails: AtomicU32,
    holds: Mutex<Option<Result<bool>>>,
}
impl Host {
    fn say(&self, what: impl Into<String>) {
        self.log.lock().unwrap().push(what.into());
    }
    fn said(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}
const MADE: Step<Host, String> = Step::new("made").undo(|h, n| {
    Box::pin(async move {
        let doing = doing().unwrap();
        assert!(doing.undoing);
        h.say(format!("undo {n} of {} under {}", doing.key, doing.token));
        doing.event("note", format!("undoing {n}"));
        Ok(())
    })
});
const FLAKY: Step<Host, ()> = Step::new("flaky").undo(|h, ()| {
    Box::pin(async move {
        if h.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::new(Kind::Unreachable, "the host is away"));
        }
        h.say("undone");
        Ok(())
    })
});
const WAITS: Step<Host, ()> = Step::new("waits").undo(|h, ()| {
    Box::pin(async move {
        let doing = doing().unwrap();
        doing.stopped().await;
        h.say("undo told to stop");
        Err(doing.stop_error())
    })
});
const LONG: Step<Host, ()> = Step::new("long").deadline(minutes(5)).in_all(minutes(20));
const UP: Step<Host, ()> = Step::new("up")
    .holds(|h, (), _| Box::pin(async move { h.holds.lock().unwrap().take().unwrap_or(Ok(true)) }));
#[async_trait::async_trait]
impl Undo for Host {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(&[&MADE, &FLAKY, &WAITS, &LONG, &UP], self, step, intent).await
    }
}

const FLOW: Flow = Flow { name: "test", version: 1, deadline: None };
async fn nothing() -> Result<Value> {
    Ok(Value::Null)
}
fn run<'a>(host: &'a Host, journal: &Arc<MemoryJournal>) -> Run<'a> {
    Run {
        journal: journal.clone(),
        observer: Arc::new(Silent),
        control: Control::default(),
        owners: Owners { flow: host, parts: &[] },
    }
}
/// The journal's records, by their names.
async fn names(journal: &MemoryJournal) -> Vec<String> {
    let name = |r: &Record| serde_json::to_value(r).unwrap()["record"].as_str().unwrap().to_owned();
    journal.read().await.unwrap().iter().map(name).collect()
}

#[tokio::test]
async fn a_lost_lease_stops_the_step_and_nothing_is_undone_or_recorded() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let run = run(&host, &journal);
    let lost = run.control.lost.clone();
    let work = async |mut job: Job, _: Value| {
        job.step(&host, &MADE, "one".into()).run(async |_, _| Ok(())).await?;
        let stopped = async |_, cx: Cx| {
            lost.cancel();
            cx.stopped().await;
            host.say("put down");
            assert_eq!(cx.check().await.unwrap_err().kind, Kind::LeaseLost);
            Err::<(), _>(cx.stop_error())
        };
        let _ = job.step(&host, &MADE, "two".into()).key(2).run(stopped).await;
        // An author who goes on all the same gets nowhere.
        job.step(&host, &MADE, "three".into()).key(3).run(async |_, _| -> Result<()> { panic!("ran") }).await
    };
    let outcome = execute(run, FLOW, nothing(), work).await;
    assert!(matches!(outcome, Outcome::Lost(ref f) if f.kind == Kind::LeaseLost), "{outcome:?}");
    assert_eq!(host.said(), ["put down"]);
    assert_eq!(names(&journal).await, ["begun", "started", "done", "started"]);
}

#[tokio::test]
async fn the_processes_of_a_step_are_gone_when_its_lease_is() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let run = run(&host, &journal);
    let lost = run.control.lost.clone();
    let work = async |mut job: Job, _: Value| {
        let leaves_it = async |(), cx: Cx| {
            // A step that forgets what it started.
            let child = tokio::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
            let group = child.id().unwrap().cast_signed();
            cx.record_process(group, start_time(group).unwrap()).await?;
            *host.log.lock().unwrap() = vec![group.to_string()];
            lost.cancel();
            cx.stopped().await;
            Err::<(), _>(cx.stop_error())
        };
        job.step(&host, &LONG, ()).run(leaves_it).await
    };
    assert!(matches!(execute(run, FLOW, nothing(), work).await, Outcome::Lost(_)));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", host.said()[0])).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
}

#[tokio::test]
async fn a_process_of_another_boot_is_a_stranger() {
    for (boot, ends) in [(Some("of another machine"), false), (boot_id(), true), (None, true)] {
        let host = Host::default();
        let mut child = tokio::process::Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let group = child.id().unwrap().cast_signed();
        let start_time = start_time(group).unwrap();
        let boot = boot.map(str::to_owned);
        let journal = Arc::new(MemoryJournal::of(vec![
            Record::Begun { flow: "test".into(), version: 1, input: Value::Null, at: None },
            Record::Started { key: "long".into(), intent: Value::Null, at: None },
            Record::Process { key: "long".into(), group, start_time, boot },
        ]));
        let work = async |mut job: Job, _: Value| job.step(&host, &LONG, ()).run(async |(), _| Ok(())).await;
        assert_eq!(execute(run(&host, &journal), FLOW, nothing(), work).await, Outcome::Done(()));
        if !ends {
            assert!(child.try_wait().unwrap().is_none(), "it was ended");
            child.start_kill().unwrap();
        }
        child.wait().await.unwrap();
    }
}

/// As the first versions wrote them.
const OLD: &str = r#"[
    {"record":"begun","flow":"test","version":1,"input":null},
    {"record":"started","key":"made","intent":"one"},
    {"record":"done","key":"made","output":7},
    {"record":"started","key":"long","intent":null},
    {"record":"process","key":"long","group":2147483000,"start_time":12345}
]"#;

#[tokio::test]
async fn a_journal_of_the_first_version_goes_on() {
    let records: Vec<Record> = serde_json::from_str(OLD).unwrap();
    let written = serde_json::to_value(&records).unwrap();
    assert_eq!(written, serde_json::from_str::<Value>(OLD).unwrap(), "and is written as it was");
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::of(records)));
    let work = async |mut job: Job, _: Value| {
        let seven =
            job.step(&host, &MADE, "today".into()).run(async |_, _| -> Result<u32> { panic!() }).await?;
        job.step(&host, &LONG, ()).run(async |(), cx| Ok(cx.again())).await.map(|again| (seven, again))
    };
    let flow = Flow { deadline: Some(minutes(1)), ..FLOW };
    assert_eq!(execute(run(&host, &journal), flow, nothing(), work).await, Outcome::Done((7, true)));
}

fn ms_ago(minutes: i64) -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap() - minutes * 60_000
}

#[tokio::test(start_paused = true)]
async fn a_step_s_lives_count_together_where_it_says_so() {
    // Begun 17 minutes ago: 3 of its 20 are left, where a life may have 5. One of the future has no more than 5.
    for (ago, took, message) in [(17, 180, "not done within 20 min"), (-600, 300, "not done within 5 min")] {
        let host = Host::default();
        let journal = Arc::new(MemoryJournal::of(vec![
            Record::Begun { flow: "test".into(), version: 1, input: Value::Null, at: None },
            Record::Started { key: "long".into(), intent: Value::Null, at: Some(ms_ago(ago)) },
        ]));
        let began = tokio::time::Instant::now();
        let work = async |mut job: Job, _: Value| {
            let waits = async |(), cx: Cx| {
                cx.stopped().await;
                Err::<(), _>(cx.stop_error())
            };
            job.step(&host, &LONG, ()).run(waits).await
        };
        let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
        let failure = Failure { kind: Kind::Deadline, message: message.into() };
        assert_eq!(outcome, Outcome::RolledBack(failure));
        let seconds = began.elapsed().as_secs();
        assert!((took - 2..=took).contains(&seconds), "{seconds}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_past_its_deadline_is_taken_back_whatever_its_author_catches() {
    for (begun, at_once) in [(None, false), (Some(ms_ago(31)), true), (Some(i64::MAX), false)] {
        let host = Host::default();
        let begun = begun.map(|at| Record::Begun {
            flow: "test".into(),
            version: 1,
            input: Value::Null,
            at: Some(at),
        });
        let journal = Arc::new(MemoryJournal::of(begun.into_iter().collect()));
        let work = async |mut job: Job, _: Value| {
            job.step(&host, &MADE, "one".into()).run(async |_, _| Ok(())).await?;
            for n in 0..20 {
                let waits = async |(), cx: Cx| {
                    cx.stopped().await;
                    Err::<(), _>(cx.stop_error())
                };
                let _ = job.step(&host, &LONG, ()).key(n).attempt(waits).await;
            }
            Ok(())
        };
        let flow = Flow { deadline: Some(minutes(30)), ..FLOW };
        let outcome = execute(run(&host, &journal), flow, nothing(), work).await;
        let message = "the job was not done within 30 min".to_owned();
        assert_eq!(outcome, Outcome::RolledBack(Failure { kind: Kind::Deadline, message }));
        assert_eq!(host.said().len(), usize::from(!at_once));
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_and_its_undo_know_what_they_do_it_for() {
    struct Claimed(MemoryJournal);
    #[async_trait::async_trait]
    impl Journal for Claimed {
        async fn append(&self, record: &Record) -> Result<()> {
            self.0.append(record).await
        }
        async fn read(&self) -> Result<Vec<Record>> {
            self.0.read().await
        }
        fn token(&self) -> i64 {
            42
        }
    }
    let host = Host::default();
    let journal: Arc<dyn Journal> = Arc::new(Claimed(MemoryJournal::default()));
    let watcher = Arc::new(Watcher::default());
    let run = Run {
        journal,
        observer: watcher.clone(),
        control: Control::default(),
        owners: Owners { flow: &host, parts: &[] },
    };
    let work = async |mut job: Job, _: Value| {
        assert!(doing().is_none(), "between steps");
        let inside = async |_, _: Cx| {
            let doing = doing().unwrap();
            assert_eq!((doing.key.as_str(), doing.token, doing.undoing), ("part/made[1]", 42, false));
            Err::<(), _>(Error::new(Kind::Fatal, "no"))
        };
        job.part("part").step(&host, &MADE, "x".into()).key(1).run(inside).await
    };
    let outcome = execute(run, FLOW, nothing(), work).await;
    assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
    assert_eq!(host.said(), ["undo x of part/made[1] under 42"]);
    assert!(watcher.0.lock().unwrap().contains(&"note: undoing x".to_owned()));
}

#[derive(Default)]
struct Watcher(Mutex<Vec<String>>, bool);
#[async_trait::async_trait]
impl Observer for Watcher {
    fn progress(&self, _: &str, _: u64, _: u64) {}
    fn event(&self, kind: &str, message: &str) {
        self.0.lock().unwrap().push(format!("{kind}: {message}"));
    }
    fn recorded(&self, record: &Record) {
        let name = serde_json::to_value(record).unwrap()["record"].as_str().unwrap().to_owned();
        self.0.lock().unwrap().push(name);
        assert!(!self.1, "an observer that panics");
    }
    async fn failing(&self, step: &str, failure: &Failure) {
        self.0.lock().unwrap().push(format!("failing {step}: {failure}"));
        assert!(!self.1, "an observer that panics");
        pending::<()>().await; // and one that hangs
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_watches_sees_a_failure_before_it_is_taken_back_and_does_no_harm() {
    for panics in [false, true] {
        let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
        let watcher = Arc::new(Watcher(Mutex::default(), panics));
        let run = Run { observer: watcher.clone(), ..run(&host, &journal) };
        let work = async |mut job: Job, _: Value| {
            job.step(&host, &MADE, "x".into()).run(async |_, _| Ok(())).await?;
            let no = async |(), _| Err::<(), _>(Error::new(Kind::Fatal, "no"));
            job.step(&host, &FLAKY, ()).run(no).await
        };
        let outcome = execute(run, FLOW, nothing(), work).await;
        assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
        let seen = watcher.0.lock().unwrap().clone();
        let tail = ["failed", "failing flaky: no", "undone", "unwinding", "failing : no", "note: undoing x"];
        assert_eq!(seen[4..10], tail, "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_waits_for_what_passes_by_itself() {
    for (fails, ends) in [(4, true), (5, false)] {
        let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
        host.fails.store(fails, Ordering::SeqCst);
        let no = async |mut job: Job, _: Value| {
            let no = async |(), _| Err::<(), _>(Error::new(Kind::Fatal, "no"));
            job.step(&host, &FLAKY, ()).run(no).await
        };
        let outcome = execute(run(&host, &journal), FLOW, nothing(), no).await;
        assert_eq!(matches!(outcome, Outcome::RolledBack(_)), ends, "{outcome:?}");
        assert_eq!(matches!(outcome, Outcome::Stuck(_)), !ends);
        // Stuck is not the end: somebody has it tried again.
        let outcome = unwind(run(&host, &journal), Failure { kind: Kind::Fatal, message: "no".into() }).await;
        assert!(matches!(outcome, Outcome::RolledBack(_)), "{outcome:?}");
        assert_eq!(host.said(), ["undone"]);
    }
}

#[tokio::test]
async fn an_undo_that_waits_is_told_that_the_daemon_stops_and_the_next_life_goes_on_with_it() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let run = run(&host, &journal);
    let stop = run.control.stop.clone();
    let work = async |mut job: Job, _: Value| {
        let no = async |(), _| {
            let stop = stop.clone();
            tokio::spawn(async move { stop.cancel() });
            Err::<(), _>(Error::new(Kind::Fatal, "no"))
        };
        job.step(&host, &WAITS, ()).run(no).await
    };
    assert_eq!(execute(run, FLOW, nothing(), work).await, Outcome::Interrupted);
    assert_eq!(host.said(), ["undo told to stop"]);
    assert_eq!(names(&journal).await, ["begun", "started", "failed"]);
}

#[tokio::test]
async fn a_step_that_panics_has_failed() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let work = async |mut job: Job, _: Value| {
        job.step(&host, &MADE, "x".into()).run(async |_, _| -> Result<()> { panic!("ouch {}", 1) }).await
    };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
    assert!(matches!(outcome, Outcome::RolledBack(ref f) if f.message == "panicked: ouch 1"), "{outcome:?}");
    assert_eq!(host.said().len(), 1);
}

#[tokio::test]
async fn a_step_that_is_dropped_half_way_leaves_the_job_stuck() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let work = async |mut job: Job, _: Value| {
        let never = job.step(&host, &MADE, "x".into()).run(async |_, _| pending::<Result<()>>().await);
        tokio::select! {
            biased;
            _ = never => {}
            () = tokio::task::yield_now() => {}
        }
        Ok(())
    };
    let outcome = execute(run(&host, &journal), FLOW, nothing(), work).await;
    assert!(
        matches!(outcome, Outcome::Stuck(ref f) if f.message.contains("`made` was dropped")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_job_that_has_ended_does_not_end_again_and_is_not_taken_back() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    for _ in 0..2 {
        let work = async |mut job: Job, _: Value| {
            job.step(&host, &UP, ()).run(async |(), _| Ok(1)).await?;
            job.step(&host, &MADE, "x".into()).run(async |_, _| Ok(2)).await
        };
        assert_eq!(execute(run(&host, &journal), FLOW, nothing(), work).await, Outcome::Done(2));
        *host.holds.lock().unwrap() = Some(Ok(false));
    }
    let cause = Failure { kind: Kind::Cancelled, message: "too late".into() };
    assert_eq!(unwind(run(&host, &journal), cause).await, Outcome::Done(()));
    assert_eq!(names(&journal).await.iter().filter(|n| *n == "finished").count(), 1);
    assert!(host.said().is_empty());
}

#[tokio::test]
async fn a_function_that_ends_without_a_recorded_step_is_not_the_one_that_wrote_the_journal() {
    let host = Host::default();
    let journal = Arc::new(MemoryJournal::of(vec![
        Record::Begun { flow: "test".into(), version: 1, input: Value::Null, at: None },
        Record::Started { key: "made".into(), intent: json!("x"), at: None },
    ]));
    let outcome = execute(run(&host, &journal), FLOW, nothing(), async |_, _: Value| Ok(())).await;
    assert!(matches!(outcome, Outcome::Stuck(ref f) if f.message.contains("`made`")), "{outcome:?}");
}

#[tokio::test]
async fn a_step_that_cannot_be_asked_whether_it_holds_runs_again() {
    let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
    let runs = AtomicU32::new(0);
    let life = async |end: Result<(), Kind>| {
        let work = async |mut job: Job, _: Value| {
            // The parts are held side by side: the second does not end the first.
            let (mut a, mut b) = (job.part("a"), job.part("b"));
            let count = async |(), _| Ok(runs.fetch_add(1, Ordering::SeqCst));
            a.step(&host, &UP, ()).run(count).await?;
            b.step(&host, &MADE, "b".into()).run(async |_, _| Ok(())).await?;
            end.map_err(|kind| Error::new(kind, "end of this life"))
        };
        execute(run(&host, &journal), FLOW, nothing(), work).await
    };
    life(Err(Kind::LeaseLost)).await;
    *host.holds.lock().unwrap() = Some(Err(Error::new(Kind::Unreachable, "who knows")));
    assert_eq!(life(Ok(())).await, Outcome::Done(()));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

/// A journal that is out of reach for one record.
struct Cut(MemoryJournal, AtomicU32, u32);
#[async_trait::async_trait]
impl Journal for Cut {
    async fn append(&self, record: &Record) -> Result<()> {
        if self.1.fetch_add(1, Ordering::SeqCst) == self.2 {
            return Err(Error::new(Kind::Transient, "the database is away"));
        }
        self.0.append(record).await
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.0.read().await
    }
}

#[tokio::test]
async fn a_journal_out_of_reach_is_no_failure_of_the_step_and_nobody_goes_another_way() {
    for at in 0..4 {
        let host = Host::default();
        let journal = Arc::new(Cut(MemoryJournal::default(), AtomicU32::new(0), at));
        let life = async || {
            let owners = Owners { flow: &host, parts: &[] };
            let (observer, control) = (Arc::new(Silent), Control::default());
            let run = Run { journal: journal.clone(), observer, control, owners };
            let work = async |mut job: Job, _: Value| {
                job.step(&host, &MADE, "x".into()).attempt(async |_, _| Ok(1)).await?
            };
            execute(run, FLOW, nothing(), work).await
        };
        let outcome = life().await;
        assert!(matches!(outcome, Outcome::Lost(ref f) if f.kind == Kind::Transient), "{at}: {outcome:?}");
        assert_eq!(life().await, Outcome::Done(1), "{at}");
        assert!(host.said().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_stop_is_waited_for_and_only_calling_off_makes_the_job_stuck() {
    for (which, stuck) in [("cancel", true), ("stop", false), ("lost", false)] {
        let (host, journal) = (Host::default(), Arc::new(MemoryJournal::default()));
        let run = run(&host, &journal);
        let control = run.control.clone();
        let told: CancellationToken = match which {
            "cancel" => control.cancel,
            "stop" => control.stop,
            _ => control.lost,
        };
        let work = async |mut job: Job, _: Value| {
            let deaf = async |_, _| {
                told.cancel();
                tokio::time::sleep(Duration::from_secs(600)).await; // why: a call that cannot be stopped
                host.say("returned");
                Err::<(), _>(Error::new(Kind::Fatal, "no"))
            };
            job.step(&host, &MADE, "x".into()).run(deaf).await
        };
        let outcome = execute(run, FLOW, nothing(), work).await;
        assert_eq!(matches!(outcome, Outcome::Stuck(_)), stuck, "{which}: {outcome:?}");
        assert_eq!(host.said(), ["returned"]);
        assert_eq!(names(&journal).await.contains(&"stuck".to_owned()), stuck);
    }
}

#[test]
fn an_error_is_told_with_its_causes_once() {
    let inner = Error::new(Kind::Fatal, "inner");
    let outer = Error::caused(Kind::Fatal, "outer, that is inner", inner).within("top");
    assert_eq!(chain(&outer), "top: outer, that is inner");
}
