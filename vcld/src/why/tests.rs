//! Every situation has its sentence: what, since when, how long usually, what next, who can do what.

use super::*;
use vcl_types::api::Progress;
use vcl_types::{Computer, Endpoint, HostKeys, JobRequest, Loaded};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
}
fn now() -> DateTime<Utc> {
    at(100)
}
fn job(state: job::State, reason: Option<&str>) -> JobRow {
    JobRow {
        id: JobId(12),
        request: JobRequest::Load { computer: "a".parse().unwrap(), image: "debian@2".parse().unwrap() },
        requester: "alice".into(),
        backend: Some("kvm".parse().unwrap()),
        host: None,
        revision: None,
        state,
        reason: reason.map(str::to_owned),
        result: (state == job::State::Done).then(|| "debian@2 on a".into()),
        node: Some("mn1".into()),
        bound_to: None,
        protocol: 1,
        waits_for: None,
        held_since: None,
        token: 1,
        attempt: 1,
        cancel_wanted: false,
        submitted: at(0),
        claimed: Some(at(10)),
        started: Some(at(10)),
        ended: state.is_final().then(|| at(40)),
    }
}
fn step(name: &str, state: StepState) -> StepView {
    let ended = (state != StepState::Running).then(|| at(60));
    StepView {
        name: name.into(),
        state,
        started: Some(at(60)),
        ended,
        progress: None,
        error: None,
        usual: None,
    }
}
fn history() -> History {
    let steps = [("define", 1_000), ("boot", 50_000), ("record", 2_000)];
    let run = (Some(53_000), steps.map(|(n, t)| (n.to_owned(), t)).to_vec());
    History::of(vec![run.clone(), run.clone(), run])
}
fn situation(state: job::State, reason: Option<&str>, steps: Vec<StepView>) -> JobSituation {
    JobSituation {
        job: job(state, reason),
        steps,
        history: history(),
        before: 2,
        limit: None,
        evidence: false,
    }
}

#[test]
fn every_state_of_a_job_has_its_sentence() {
    use job::State as S;
    let done = || step("define", StepState::Done);
    let full = "backend kvm runs 4 of at most 4 jobs (jobs 1, 2, 3, 4)";
    let mut queued = situation(S::Queued, None, vec![]);
    queued.limit = Some(full.into());
    let mut first = situation(S::Queued, Some("the daemon stopped"), vec![done()]);
    first.before = 0;
    let mut copying = step("boot", StepState::Running);
    copying.progress = Some(Progress { done: 5, total: 10 });
    let mut young = situation(S::Running, None, vec![done(), step("boot", StepState::Running)]);
    young.history = History::default();
    let mut failed = situation(S::Failed, Some("no ssh server spoke"), vec![step("boot", StepState::Undone)]);
    failed.evidence = true;
    let cases: Vec<(JobSituation, &str, &[&str])> = vec![
        (
            queued,
            "job 12 (load a debian@2) has waited 1 min 40 s for its turn; 2 jobs are before it: backend kvm runs 4 of at \
             most 4 jobs (jobs 1, 2, 3, 4)",
            &["job cancel 12"],
        ),
        (
            first,
            "job 12 (load a debian@2) has waited 1 min 30 s for its turn, again after: the daemon stopped; it is the \
             next: a node that takes it",
            &["job cancel 12"],
        ),
        (
            situation(S::Waiting, Some("3 GiB are needed in the library, 1 GiB is free"), vec![]),
            "job 12 (load a debian@2) has waited 1 min 30 s: 3 GiB are needed in the library, 1 GiB is free; it goes on \
             by itself when that is there",
            &["job cancel 12"],
        ),
        (
            situation(S::Running, None, vec![done(), copying]),
            "job 12 (load a debian@2) is in `boot` on mn1 for 40 s (50 %), which usually takes 50 s (19 of 20 at most 50 \
             s, by 3 runs); then comes `record`; about 12 s are left of the whole job",
            &["job watch 12", "job cancel 12"],
        ),
        (young, "job 12 (load a debian@2) is in `boot` on mn1 for 40 s", &["job watch 12"]),
        (
            situation(S::Running, None, vec![done()]),
            "job 12 (load a debian@2) is between two steps on mn1, which has had it for 1 min 30 s; about 52 s are left \
             of the whole job",
            &["job watch 12"],
        ),
        (
            situation(S::Running, None, vec![done(), step("boot", StepState::Failed)]),
            "job 12 (load a debian@2) is taking back what it did on mn1, which has had it for 1 min 30 s",
            &["job watch 12"],
        ),
        (
            situation(
                S::Stuck,
                Some("undoing `define`: no answer"),
                vec![step("define", StepState::Failed), step("boot", StepState::Undone)],
            ),
            "job 12 (load a debian@2) has been stuck for 1 min: `define` could not be taken back (undoing `define`: no \
             answer); 1 steps are open, and somebody has to look",
            &["job retry 12", "job undo 12", "job abandon 12"],
        ),
        (
            failed,
            "job 12 (load a debian@2) failed 1 min ago and has taken back what it did: no ssh server spoke",
            &["job evidence 12", "job retry 12"],
        ),
        (
            situation(S::Cancelled, Some("called off"), vec![]),
            "job 12 (load a debian@2) was called off 1 min ago and has taken back what it did: called off",
            &[],
        ),
        (situation(S::Done, None, vec![]), "job 12 (load a debian@2) was done 1 min ago: debian@2 on a", &[]),
    ];
    let mut states: Vec<job::State> = cases.iter().map(|(s, _, _)| s.job.state).collect();
    states.dedup();
    for state in S::ALL {
        assert!(states.contains(state), "{state} has no case");
    }
    for (situation, sentence, ways) in cases {
        let why = of_job(&situation, now());
        // What a past run took to fail is not in the sentence; everything that is must be.
        assert!(why.sentence.starts_with(sentence), "{}\nexpected\n{sentence}", why.sentence);
        for way in ways {
            assert!(why.ways.iter().any(|w| w.contains(way)), "{way} is not in {:?}", why.ways);
        }
        if matches!(situation.job.state, S::Queued | S::Waiting | S::Stuck) {
            assert!(why.waits_for.is_some() && why.since.is_some() && why.next.is_some(), "{why:?}");
        }
    }
}

fn row(state: computer::State, reason: Option<&str>, loaded: bool) -> ComputerRow {
    let computer = Computer {
        name: "a".parse().unwrap(),
        backend: "kvm".parse().unwrap(),
        cpus: None,
        memory: None,
        nics: Vec::new(),
        tags: Vec::new(),
    };
    let endpoint = Endpoint {
        address: [127, 0, 0, 1].into(),
        port: 22,
        user: "root".into(),
        host_keys: HostKeys::first_use(),
    };
    let loaded = loaded.then(|| Loaded { image: "debian@2".parse().unwrap(), endpoint, since: at(40) });
    let reservation = loaded.is_some().then_some(ReservationId(3));
    ComputerRow {
        computer,
        state,
        reason: reason.map(str::to_owned),
        loaded,
        tainted: false,
        job: None,
        reservation,
        node: None,
    }
}

#[test]
fn every_state_of_a_computer_has_its_sentence() {
    use computer::State as S;
    let cases: [(ComputerRow, Option<PowerState>, &str, &str); 9] = [
        (row(S::Available, None, false), None, "a is available and waits for nobody", "vclctl load a"),
        (row(S::Loading, None, false), None, "a is loading and no job has it", "orphans list"),
        (
            row(S::Reserved, None, true),
            Some(PowerState::On),
            "a is reserved by reservation 3 and has held debian@2 for 1 min",
            "vclctl unload a",
        ),
        (
            row(S::Reserved, Some("off since 12:00"), true),
            Some(PowerState::Off),
            "a is reserved by reservation 3 and has held debian@2 for 1 min (off since 12:00); its machine is off",
            "vclctl computer power a on",
        ),
        (
            row(S::InUse, None, true),
            None,
            "a is in use by reservation 3 and has held debian@2",
            "vclctl unload a",
        ),
        (
            row(S::InUse, None, true),
            Some(PowerState::Paused),
            "a is in use by reservation 3 and has held debian@2 for 1 min; its machine stands still",
            "reset",
        ),
        (
            row(S::Reserved, None, true),
            Some(PowerState::Absent),
            "a is reserved by reservation 3 and has held debian@2 for 1 min; its machine is gone",
            "unload a",
        ),
        (
            row(S::Maintenance, Some("disk errors"), true),
            None,
            "a is in maintenance: disk errors; it is given no work until somebody gives it back",
            "vclctl unload a",
        ),
        (row(S::Broken, None, false), None, "a is broken: nobody said why", "vclctl unload a"),
    ];
    for state in S::ALL {
        assert!(cases.iter().any(|(row, ..)| row.state == *state), "{state} has no case");
    }
    for (row, power, sentence, way) in cases {
        let why = of_computer(&row, power, None, now());
        assert!(why.sentence.starts_with(sentence), "{}\nexpected\n{sentence}", why.sentence);
        assert!(why.ways.iter().any(|w| w.contains(way)), "{way} is not in {:?}", why.ways);
    }
    // One that a job has says what the job says.
    let steps = vec![step("boot", StepState::Running)];
    let held = of_job(&situation(job::State::Running, None, steps), now());
    let why = of_computer(&row(S::Loading, None, false), None, Some(&held), now());
    assert!(
        why.sentence.starts_with("a is loading and waits for a job: job 12 (load a debian@2) is in `boot`")
    );
    assert_eq!((why.next.as_deref(), why.since), (Some("record"), Some(at(60))));
}

#[test]
fn a_reservation_says_what_its_computer_says() {
    use reservation::State as S;
    let computer = of_computer(&row(computer::State::Reserved, None, true), None, None, now());
    for state in S::ALL {
        let row: ReservationView = serde_json::from_value(serde_json::json!({
            "id": 3, "owner": "alice", "purpose": "use", "computer": "a", "image": "debian@2", "state": state,
            "since": at(40), "connect": [], "ended_because": (*state == S::Ended).then_some("the load failed"),
        }))
        .unwrap();
        let why = of_reservation(&row, Some(&computer), now());
        assert!(why.sentence.starts_with("reservation 3 of alice (debian@2 on a) "), "{}", why.sentence);
        assert_eq!(
            why.sentence.ends_with("is over: the load failed"),
            *state == S::Ended,
            "{}",
            why.sentence
        );
    }
}

#[test]
fn spans_are_as_exact_as_people_need() {
    for (ms, told) in [
        (0, "0 ms"),
        (350, "350 ms"),
        (35_900, "35 s"),
        (60_000, "1 min"),
        (245_000, "4 min 5 s"),
        (7_800_000, "2 h 10 min"),
        (260_000_000, "3 days"),
    ] {
        assert_eq!(span(ms), told);
    }
}
