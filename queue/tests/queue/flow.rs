//! A job of `vcl-job` over this journal: it dies, the database is opened anew, it goes on.

use super::world::{NODE, World, load, name};
use serde_json::Value;
use std::sync::{Arc, Mutex};
use vcl_job::{
    AnyStep, Control, Error, Flow, Job, Kind, Outcome, Owners, Result, Run, Silent, Step, Undo, execute,
    undo_in,
};
use vcl_queue::{CancelOutcome, Claim, Queue};
use vcl_types::api::StepState;
use vcl_types::state::{computer, job};

/// The daemon's side: what a load changes in the queue, with an outside world of names.
struct Site {
    queue: Queue,
    claim: Claim,
    world: Arc<Mutex<Vec<String>>>,
    dies_in: Option<&'static str>,
    fails_in: Option<&'static str>,
}

const BEGIN: Step<Site, ()> = Step::new("begin")
    .undo(|on, ()| Box::pin(async move { on.event("begin", computer::Event::LoadFailed).await.map(|_| ()) }));
const OVERLAY: Step<Site, String> = Step::new("overlay").undo(|on, what| {
    Box::pin(async move {
        on.world.lock().unwrap().retain(|w| *w != what);
        Ok(())
    })
});
const END: Step<Site, ()> = Step::new("end");
const STEPS: &[&dyn AnyStep<Site>] = &[&BEGIN, &OVERLAY, &END];

#[async_trait::async_trait]
impl Undo for Site {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

impl Site {
    async fn event(&self, key: &str, event: computer::Event) -> Result<computer::State> {
        Ok(self.queue.computer_event(&self.claim, key, &name("a"), event).await?)
    }
    /// A point where the process may die or the step may fail.
    async fn point(&self, here: &str) -> Result<()> {
        if self.dies_in == Some(here) {
            self.world.lock().unwrap().push("died".into());
            std::future::pending::<()>().await;
        }
        if self.fails_in == Some(here) {
            return Err(Error::new(Kind::Fatal, format!("{here} failed")));
        }
        Ok(())
    }
    async fn load(&self, mut job: Job, nonce: u32) -> Result<String> {
        let begin = async |(), _| {
            self.event("begin", computer::Event::Load).await?;
            self.point("begin").await
        };
        job.step(self, &BEGIN, ()).run(begin).await?;
        let mut part = job.part("disk");
        let overlay = part
            .step(self, &OVERLAY, format!("overlay-{nonce}"))
            .run(|what: String, cx| async move {
                cx.check().await?;
                let mut world = self.world.lock().unwrap().clone();
                if !world.contains(&what) {
                    world.push(what.clone());
                    *self.world.lock().unwrap() = world;
                }
                self.point("overlay").await?;
                Ok(what)
            })
            .await?;
        job.step(self, &END, ())
            .run(|(), _| async move {
                self.event("end", computer::Event::Loaded).await?;
                self.point("end").await
            })
            .await?;
        Ok(overlay)
    }
    async fn run(&self, nonce: u32, control: Control) -> Outcome<String> {
        let run = Run {
            journal: self.queue.journal(&self.claim),
            observer: Arc::new(Silent),
            control,
            owners: Owners { flow: self, parts: &[] },
        };
        let flow = Flow { name: "load", version: 1, deadline: None };
        execute(run, flow, async { Ok(nonce) }, |job, nonce| self.load(job, nonce)).await
    }
}

#[tokio::test]
async fn it_dies_at_each_step_and_goes_on_after_a_restart() {
    for dies_in in ["begin", "overlay", "end"] {
        let mut world = World::new().await;
        let outside = Arc::new(Mutex::new(Vec::new()));
        let first = world.running(load("a", "debian")).await;
        {
            let site = Site {
                queue: world.queue.clone(),
                claim: first,
                world: outside.clone(),
                dies_in: Some(dies_in),
                fails_in: None,
            };
            let run = site.run(1, Control::default());
            tokio::pin!(run);
            // Until the step hangs; then the future is dropped in the middle of it.
            while !outside.lock().unwrap().contains(&"died".to_owned()) {
                tokio::select! {
                    biased;
                    outcome = &mut run => panic!("{outcome:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
        }
        world.reopen().await;
        assert_eq!(world.queue.recover(NODE).await.unwrap().len(), 1);
        let claim = world.claim().await.unwrap();
        let id = claim.id();
        let site = Site {
            queue: world.queue.clone(),
            claim: claim.clone(),
            world: outside.clone(),
            dies_in: None,
            fails_in: None,
        };
        // Another number would be drawn now; the recorded one counts.
        let outcome = site.run(2, Control::default()).await;
        assert_eq!(outcome, Outcome::Done("overlay-1".to_owned()), "died in {dies_in}");
        let mut left = outside.lock().unwrap().clone();
        left.retain(|w| w != "died");
        assert_eq!(left, ["overlay-1"]);
        world.queue.finish(&claim, job::Event::Done, None, Some("a")).await.unwrap();
        let steps = world.queue.steps(id).await.unwrap();
        let told: Vec<_> = steps.iter().map(|s| (s.name.as_str(), s.state)).collect();
        let done = StepState::Done;
        assert_eq!(told, [("begin", done), ("disk/overlay", done), ("end", done)]);
        assert_eq!(world.queue.computer(&name("a")).await.unwrap().state, computer::State::Reserved);
    }
}

#[tokio::test]
async fn it_fails_and_everything_is_taken_back() {
    let world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let site = Site {
        queue: world.queue.clone(),
        claim: claim.clone(),
        world: Arc::default(),
        dies_in: None,
        fails_in: Some("overlay"),
    };
    let Outcome::RolledBack(failure) = site.run(1, Control::default()).await else { panic!("it fails") };
    world.queue.finish(&claim, job::Event::Fail, Some(&failure.message), None).await.unwrap();
    assert!(site.world.lock().unwrap().is_empty());
    let row = world.queue.computer(&name("a")).await.unwrap();
    assert_eq!((row.state, row.job), (computer::State::Available, None));
    let steps = world.queue.steps(claim.id()).await.unwrap();
    assert!(steps.iter().all(|s| s.state == StepState::Undone), "{steps:?}");
    assert_eq!(steps[1].error.as_deref(), Some("overlay failed"));
}

#[tokio::test]
async fn it_is_called_off_while_its_node_is_down() {
    let mut world = World::new().await;
    let claim = world.running(load("a", "debian")).await;
    let site =
        Site { queue: world.queue.clone(), claim, world: Arc::default(), dies_in: None, fails_in: None };
    let control = Control::default();
    control.drain.cancel();
    assert_eq!(site.run(1, control).await, Outcome::Interrupted);
    drop(site);
    world.reopen().await;
    let [id] = world.queue.recover(NODE).await.unwrap()[..] else { panic!("one job") };
    assert_eq!(world.queue.cancel(id).await.unwrap(), CancelOutcome::Wish);
    let claim = world.claim().await.unwrap();
    let control = Control::default();
    world.queue.cancel_wish(id).await.unwrap();
    control.cancel.cancel();
    let site = Site {
        queue: world.queue.clone(),
        claim: claim.clone(),
        world: Arc::default(),
        dies_in: None,
        fails_in: None,
    };
    let Outcome::RolledBack(failure) = site.run(2, control).await else { panic!("it is taken back") };
    assert_eq!(failure.kind, Kind::Cancelled);
    let state =
        world.queue.finish(&claim, job::Event::RolledBack, Some(&failure.message), None).await.unwrap();
    assert_eq!(state, job::State::Cancelled);
}
