//! Several lives that claim, work, die and come back in any order: each job ends once, tokens rise, nobody shares.

use super::world::{World, computer, unload};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use vcl_queue::{Admission, Claim, ClaimLimits, JobFilter, Membership, NewJob, NewNode, PROTOCOL, Process};
use vcl_types::JobId;
use vcl_types::state::job::{Event, State};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const COMPUTERS: [&str; 4] = ["p", "q", "r", "s"];

#[derive(Debug, Clone)]
enum Do {
    Submit(usize),
    Claim(usize, u32),
    /// Ends the n-th claim ever made, whosever it is by now.
    End(usize, bool),
    /// Somebody gives the node up, rightly or not: it may be frozen only, and come back.
    Bury(usize),
    Renew(usize),
    Join(usize),
    Leave(usize),
}

fn doing() -> impl Strategy<Value = Do> {
    prop_oneof![
        6 => (0..4usize).prop_map(Do::Submit),
        6 => (0..3usize, 1..4u32).prop_map(|(n, most)| Do::Claim(n, most)),
        6 => (0..30usize, any::<bool>()).prop_map(|(n, well)| Do::End(n, well)),
        2 => (0..3usize).prop_map(Do::Bury),
        1 => (0..3usize).prop_map(Do::Renew),
        2 => (0..3usize).prop_map(Do::Join),
        1 => (0..3usize).prop_map(Do::Leave),
    ]
}

fn node(n: usize) -> NewNode {
    NewNode {
        name: NODES[n].into(),
        lease: Duration::from_secs(3600),
        version: "1".into(),
        protocol: PROTOCOL,
        process: Process::this(),
        address: None,
        backends: BTreeMap::from([("kvm1".parse().unwrap(), true)]),
        alone: false,
    }
}

#[derive(Default)]
struct Model {
    lives: HashMap<usize, Membership>,
    claims: Vec<Claim>,
    ended: HashMap<JobId, u32>,
    tokens: HashMap<JobId, i64>,
}

impl Model {
    async fn act(&mut self, world: &World, what: &Do) {
        match what {
            Do::Submit(n) => {
                let request = unload(COMPUTERS[*n]);
                let new = NewJob { request, requester: "ann".into(), backend: None, host: None };
                world.queue.submit_as(new, Admission { wait: true, bound_to: None }).await.unwrap();
            }
            Do::Claim(n, most) => {
                let Some(member) = self.lives.get(n) else { return };
                let limits = ClaimLimits { node_max: 3, ..ClaimLimits::default() };
                let Ok(claims) = member.claim_up_to(*most, &limits).await else { return };
                for claim in &claims {
                    let before = self.tokens.insert(claim.id(), claim.token).unwrap_or(0);
                    assert!(claim.token > before, "{claim:?} after token {before}");
                    assert_eq!(self.ended.get(&claim.id()), None, "it was over");
                }
                self.claims.extend(claims);
            }
            Do::End(n, well) => {
                let Some(claim) = self.claims.get(*n) else { return };
                let event = if *well { Event::Done } else { Event::Fail };
                if world.queue.finish(claim, event, None, None).await.is_ok() {
                    assert_eq!(self.tokens[&claim.id()], claim.token, "an old claim ended a job");
                    *self.ended.entry(claim.id()).or_default() += 1;
                }
            }
            Do::Bury(n) => {
                if let Ok(row) = world.queue.node(NODES[*n]).await {
                    world.queue.bury(NODES[*n], row.life, row.beat).await.unwrap();
                }
            }
            Do::Renew(n) => {
                if let Some(member) = self.lives.get(n) {
                    member.renew().await.unwrap();
                }
            }
            Do::Join(n) => {
                let (member, _) = world.queue.join(&node(*n)).await.unwrap();
                self.lives.insert(*n, member);
            }
            Do::Leave(n) => {
                if let Some(member) = self.lives.remove(n) {
                    member.leave().await.unwrap();
                }
            }
        }
    }

    async fn check(&self, world: &World) {
        let jobs = world.queue.jobs(&JobFilter::default()).await.unwrap();
        let mut held = HashSet::new();
        for job in &jobs {
            let computer = job.request.computer().unwrap().to_string();
            if matches!(job.state, State::Queued | State::Running) {
                assert!(held.insert(computer), "two jobs have one computer: {job:?}");
            }
            assert!(self.ended.get(&job.id).is_none_or(|times| *times == 1 && job.state.is_final()));
        }
        for job in jobs.iter().filter(|job| job.state == State::Waiting) {
            let computer = job.request.computer().unwrap().to_string();
            assert!(held.contains(&computer), "{} waits for nobody", job.id);
        }
        let leases = world.queue.leases().await.unwrap();
        assert_eq!(leases.len(), held.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn each_job_ends_once_whoever_dies(sequence in prop::collection::vec(doing(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new().await;
            let computers = COMPUTERS.map(|name| computer(name, "kvm1"));
            world.queue.apply_computers(&computers, false).await.unwrap();
            let mut model = Model::default();
            for what in &sequence {
                model.act(&world, what).await;
                model.check(&world).await;
            }
            // Whatever happened: one node that lives ends everything.
            for n in 1..3 {
                model.act(&world, &Do::Bury(n)).await;
            }
            model.act(&world, &Do::Join(0)).await;
            loop {
                let before = model.claims.len();
                model.act(&world, &Do::Claim(0, 3)).await;
                if model.claims.len() == before {
                    break;
                }
                for n in before..model.claims.len() {
                    model.act(&world, &Do::End(n, true)).await;
                }
                model.check(&world).await;
            }
            let jobs = world.queue.jobs(&JobFilter { limit: 1000, ..JobFilter::default() }).await.unwrap();
            assert!(jobs.iter().all(|job| job.state.is_final() && model.ended[&job.id] == 1), "{jobs:?}");
            world.queue.close().await;
        });
    }
}

/// Run as a measurement: `cargo test -p vcl-queue --release -- --ignored --nocapture claiming`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn claiming_among_ten_thousand_that_wait_and_a_thousand_that_run() {
    let world = World::new().await;
    let names: Vec<String> = (0..11_000).map(|n| format!("m{n}")).collect();
    let computers: Vec<_> = names.iter().map(|name| computer(name, "kvm1")).collect();
    world.queue.apply_computers(&computers, false).await.unwrap();
    let submits = names
        .chunks(200)
        .map(|chunk| futures::future::join_all(chunk.iter().map(|n| world.submit(unload(n)))));
    for submit in submits {
        for id in submit.await {
            id.unwrap();
        }
    }
    let (member, _) = world.queue.join(&node(0)).await.unwrap();
    let limits = ClaimLimits { node_max: 100_000, ..ClaimLimits::default() };
    let mut running = Vec::new();
    while running.len() < 1000 {
        running.extend(member.claim_up_to(100, &limits).await.unwrap());
    }
    for most in [1, 8, 64] {
        let begin = std::time::Instant::now();
        let mut claimed = 0;
        while claimed < 128 {
            let claims = member.claim_up_to(most, &limits).await.unwrap();
            assert!(!claims.is_empty());
            claimed += claims.len();
        }
        println!("{most:3} at once: {:.0?} a claim", begin.elapsed() / u32::try_from(claimed).unwrap());
    }
}
