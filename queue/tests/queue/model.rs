//! Whatever is done in whatever order: a computer has one job, what is over stays over, tokens only grow.

use super::world::{NODE, World, load, unload};
use proptest::prelude::*;
use std::collections::HashMap;
use vcl_queue::{CancelOutcome, Claim, ClaimLimits, JobFilter, Kind};
use vcl_types::JobId;
use vcl_types::state::job::{Event, State};

#[derive(Debug, Clone)]
enum Do {
    Submit(usize, bool),
    Claim,
    /// Ends the n-th claim ever made, good or stale.
    Finish(usize, Event),
    Append(usize),
    Cancel(usize),
    Retry(usize),
    Abandon(usize),
    Recover,
    Reopen,
}

fn doing() -> impl Strategy<Value = Do> {
    let ends =
        prop::sample::select(vec![Event::Done, Event::Fail, Event::RolledBack, Event::Stick, Event::Lost]);
    prop_oneof![
        4 => (0..3usize, any::<bool>()).prop_map(|(n, load)| Do::Submit(n, load)),
        4 => Just(Do::Claim),
        4 => (0..12usize, ends).prop_map(|(n, event)| Do::Finish(n, event)),
        2 => (0..12usize).prop_map(Do::Append),
        2 => (0..12usize).prop_map(Do::Cancel),
        1 => (0..12usize).prop_map(Do::Retry),
        1 => (0..12usize).prop_map(Do::Abandon),
        1 => Just(Do::Recover),
        1 => Just(Do::Reopen),
    ]
}

#[derive(Default)]
struct Seen {
    claims: Vec<Claim>,
    states: HashMap<JobId, State>,
    tokens: HashMap<JobId, i64>,
}

impl Seen {
    /// What must be true of a database at any time.
    async fn check(&mut self, world: &World, did: &Do) {
        let jobs = world.queue.jobs(&JobFilter::default()).await.unwrap();
        let mut holders: HashMap<String, JobId> = HashMap::new();
        for job in &jobs {
            let computer = job.request.computer().unwrap();
            let holds = !matches!(job.state, State::Done | State::Failed | State::Cancelled);
            if holds {
                let other = holders.insert(computer.to_string(), job.id);
                assert_eq!(other, None, "two jobs hold {computer} after {did:?}");
            }
            let before = self.states.insert(job.id, job.state);
            if let Some(before) = before.filter(|b| b.is_final() && *b != job.state) {
                assert!(
                    matches!(did, Do::Retry(_) | Do::Abandon(_)),
                    "{} was {before} and is {} after {did:?}",
                    job.id,
                    job.state
                );
            }
            let token = self.tokens.insert(job.id, job.token).unwrap_or(0);
            assert!(token <= job.token);
            assert_eq!(job.ended.is_some(), job.state.is_final(), "{job:?}");
        }
        for computer in world.queue.computers().await.unwrap() {
            let name = &computer.computer.name;
            assert_eq!(computer.job, holders.get(name.as_str()).copied());
            let holder = world.queue.holder(name).await.unwrap();
            assert_eq!(holder.map(|j| j.id), computer.job);
        }
    }

    async fn act(&mut self, world: &mut World, what: &Do) {
        let job = |n: usize| JobId(i64::try_from(n).unwrap() + 1);
        let state = |id: &JobId| self.states.get(id).copied();
        match what {
            Do::Submit(n, is_load) => {
                let computer = ["a", "b", "c"][*n];
                let held = world.queue.computer(&super::world::name(computer)).await.unwrap().job.is_some();
                let request = if *is_load { load(computer, "debian") } else { unload(computer) };
                let submitted = world.submit(request).await;
                assert_eq!(submitted.is_err(), held);
                assert!(submitted.err().is_none_or(|e| e.kind == Kind::Busy));
            }
            Do::Claim => {
                let limits = ClaimLimits { node_max: 2, ..ClaimLimits::default() };
                let claim = world.queue.claim(NODE, &limits).await.unwrap();
                let running = self.states.values().filter(|s| **s == State::Running).count();
                let queued = self.states.values().filter(|s| **s == State::Queued).count();
                assert_eq!(claim.is_some(), running < 2 && queued > 0);
                self.claims.extend(claim);
            }
            Do::Finish(n, event) => {
                let Some(claim) = self.claims.get(*n) else { return };
                let good =
                    state(&claim.id()) == Some(State::Running) && self.tokens[&claim.id()] == claim.token;
                let ended = world.queue.finish(claim, *event, None, None).await;
                assert_eq!(ended.is_ok(), good);
                assert!(ended.err().is_none_or(|e| e.kind == Kind::LeaseLost));
            }
            Do::Append(n) => {
                let Some(claim) = self.claims.get(*n) else { return };
                let good =
                    state(&claim.id()) == Some(State::Running) && self.tokens[&claim.id()] == claim.token;
                let record = vcl_job::Record::Finished { error: None };
                assert_eq!(world.queue.journal(claim).append(&record).await.is_ok(), good);
            }
            Do::Cancel(n) => match (world.queue.cancel(job(*n)).await, state(&job(*n))) {
                (Err(e), None) => assert_eq!(e.kind, Kind::NotFound),
                (Ok(CancelOutcome::Already(said)), Some(was)) => assert!(said == was && was.is_final()),
                (Ok(CancelOutcome::Cancelled), was) => assert_eq!(was, Some(State::Queued)),
                (Ok(CancelOutcome::Wish), was) => {
                    assert!(matches!(was, Some(State::Running | State::Queued)));
                }
                (other, was) => panic!("{other:?} of {was:?}"),
            },
            Do::Retry(n) => {
                let retried = world.queue.retry(job(*n)).await;
                match state(&job(*n)) {
                    Some(State::Stuck) => retried.unwrap(),
                    Some(State::Failed) => assert!(retried.err().is_none_or(|e| e.kind == Kind::Busy)),
                    _ => assert!(retried.is_err()),
                }
            }
            Do::Abandon(n) => {
                let given_up = world.queue.abandon(job(*n), "given up").await;
                assert_eq!(given_up.is_ok(), state(&job(*n)) == Some(State::Stuck));
            }
            Do::Recover => {
                let running = self.states.values().filter(|s| **s == State::Running).count();
                assert_eq!(world.queue.recover(NODE).await.unwrap().len(), running);
            }
            Do::Reopen => world.reopen().await,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn the_invariants_hold(sequence in prop::collection::vec(doing(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            let mut seen = Seen::default();
            for what in &sequence {
                seen.act(&mut world, what).await;
                seen.check(&world, what).await;
            }
            world.queue.close().await;
        });
    }
}
