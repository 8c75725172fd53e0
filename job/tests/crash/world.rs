//! A small world whose effects survive a crash, and a load that changes it: steps in a row, one that is refused so that
//! another way is taken, one with a random name, one that holds until the host reboots, a part, and two disks at once.

use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use vcl_job::faults::{Ended, FaultyJournal, Fence, Life, Points, Scene};
use vcl_job::*;

pub(crate) struct World {
    things: Mutex<BTreeSet<String>>,
    /// Calls that have not returned, with the token of who made them.
    calls: Mutex<BTreeSet<(i64, String)>>,
    /// What must never be.
    broken: Mutex<Vec<String>>,
    fence: Fence,
    nonce: AtomicU32,
    /// Whether the host reboots each time the process dies.
    reboots: bool,
    points: Points,
    journal: Arc<MemoryJournal>,
    guest: Guest,
}

const COMPUTER: &str = "c1";
const CLONE: Step<World, String> =
    Step::new("clone").undo(|on, n| Box::pin(async move { on.unmake(&n).await }));
const OVERLAY: Step<World, String> =
    Step::new("overlay").retry(TRANSIENT).undo(|on, n| Box::pin(async move { on.unmake(&n).await }));
const DEFINE: Step<World, String> =
    Step::new("define").undo(|on, n| Box::pin(async move { on.unmake(&format!("domain-{n}")).await }));
const START: Step<World, String> = Step::<World, String>::new("start")
    .undo(|on, n| Box::pin(async move { on.unmake(&format!("running-{n}")).await }))
    .holds(|on, n, _| Box::pin(async move { Ok(on.runs(&n)) }));
const COPY: Step<World, String> =
    Step::new("copy").undo(|on, n| Box::pin(async move { on.unmake(&n).await }));
const NOTE: Step<World, ()> = Step::new("note");
const STEPS: &[&dyn AnyStep<World>] = &[&CLONE, &OVERLAY, &DEFINE, &START, &COPY, &NOTE];
#[async_trait]
impl Undo for World {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(STEPS, self, step, intent).await
    }
}

/// Settings in the guest go with its disk.
struct Guest;
const SET: Step<Guest, String> = Step::new("set");
#[async_trait]
impl Undo for Guest {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(&[&SET], self, step, intent).await
    }
}

impl World {
    pub(crate) fn new(points: Points, reboots: bool) -> Self {
        Self {
            things: Mutex::default(),
            calls: Mutex::default(),
            broken: Mutex::default(),
            fence: Fence::default(),
            nonce: AtomicU32::new(0),
            reboots,
            points,
            journal: Arc::default(),
            guest: Guest,
        }
    }
    fn runs(&self, computer: &str) -> bool {
        self.things.lock().unwrap().contains(&format!("running-{computer}"))
    }
    async fn make(&self, what: &str) -> Result<bool> {
        doing().unwrap().check().await?;
        let change = async || {
            self.fence.enter(COMPUTER)?;
            Ok(self.things.lock().unwrap().insert(what.to_owned()))
        };
        self.points.effect(COMPUTER, &format!("make {}", plain(what)), change).await
    }
    async fn unmake(&self, what: &str) -> Result<()> {
        let doing = doing().unwrap();
        doing.check().await?;
        if self.calls.lock().unwrap().iter().any(|(token, _)| *token == doing.token) {
            self.broken
                .lock()
                .unwrap()
                .push(format!("{} unmade under a call that has not returned", plain(what)));
        }
        let change = async || {
            self.fence.enter(COMPUTER)?;
            let mut things = self.things.lock().unwrap();
            let has = |p: &str| things.iter().any(|t| t.starts_with(p));
            // As libvirt does: no overlay deleted under a defined domain, no running one undefined.
            let early =
                what.starts_with("overlay") && has("domain") || what.starts_with("domain") && has("running");
            if early {
                return Err(Error::new(Kind::Fatal, format!("{} is in use", plain(what))));
            }
            things.remove(what);
            if what.starts_with("overlay") {
                things.retain(|t| !t.starts_with("os-"));
            }
            Ok(())
        };
        self.points.effect(COMPUTER, &format!("unmake {}", plain(what)), change).await
    }

    async fn load(&self, job: &mut Job, computer: &str) -> Result<String> {
        let clone = job
            .step(self, &CLONE, format!("clone-{computer}"))
            .attempt(async |n, _| {
                self.make(&n).await?;
                Err::<(), _>(Error::new(Kind::Refused, "no clones here"))
            })
            .await?;
        assert!(clone.is_err());
        let fresh = format!("overlay-{computer}-{}", self.nonce.fetch_add(1, Ordering::SeqCst));
        let overlay = job
            .step(self, &OVERLAY, fresh)
            .run(async |path, cx| {
                cx.check().await?;
                self.make(&path).await?;
                Ok(path)
            })
            .await?;
        job.step(self, &DEFINE, computer.into())
            .run(async |n, _| self.make(&format!("domain-{n}")).await.map(|_| "defined".to_owned()))
            .await?;
        job.step(self, &START, computer.into())
            .run(async |n, _| {
                // A call that must not be abandoned: who drops it leaves it at work.
                let call = (doing().unwrap().token, format!("start {n}"));
                self.calls.lock().unwrap().insert(call.clone());
                let started = self.make(&format!("running-{n}")).await;
                self.calls.lock().unwrap().remove(&call);
                started.map(|_| ())
            })
            .await?;
        let mut part = job.part("post_load");
        for k in ["name", "keys"] {
            let set = part.step(&self.guest, &SET, format!("os-{k}")).key(k);
            set.run(async |n, _| self.make(&n).await.map(|_| ())).await?;
        }
        drop(part);
        let (mut a, mut b) = (job.part("disk 0"), job.part("disk 1"));
        let copy = async |part: &mut Job, n: &str| {
            let copy = part.step(self, &COPY, format!("copy-{n}"));
            copy.run(async |n, _| self.make(&n).await.map(|_| ())).await
        };
        let (x, y) = tokio::join!(copy(&mut a, "0"), copy(&mut b, "1"));
        x?;
        y?;
        drop((a, b));
        // What it goes by is what was recorded, whatever was true today.
        if !self.things.lock().unwrap().contains(&overlay) {
            self.broken.lock().unwrap().push(format!("{} is not what was made", plain(&overlay)));
        }
        Ok(overlay)
    }
}

#[async_trait]
impl Scene for World {
    async fn live(&self, life: &Life) -> Ended {
        let records = self.journal.read().await.unwrap();
        // Once it has left the load behind, the job does not look after the machine any more.
        let over = |r: &Record| {
            matches!(r, Record::Finished { .. } | Record::Unwinding { .. }) || r.key() == Some("note")
        };
        if self.reboots && life.number > 0 && !records.iter().any(over) {
            self.things.lock().unwrap().retain(|t| !t.starts_with("running"));
        }
        let parts: [(&str, &dyn Undo); 2] = [("load", self), ("post_load", &self.guest)];
        let run = Run {
            journal: Arc::new(FaultyJournal::new(life.claim(self.journal.clone()), self.points.clone())),
            observer: Arc::new(Silent),
            control: life.control.clone(),
            owners: Owners { flow: self, parts: &parts },
        };
        let flow = Flow { name: "load", version: 1, deadline: None };
        let work = async |mut job: Job, computer: String| {
            let overlay = self.load(&mut job.part("load"), &computer).await?;
            job.step(self, &NOTE, ()).run(async |(), _| Ok(())).await?;
            Ok(plain(&overlay))
        };
        execute(run, flow, async { Ok(COMPUTER.to_owned()) }, work).await.into()
    }
    async fn world(&self) -> Value {
        json!(self.things.lock().unwrap().iter().map(|t| plain(t)).collect::<Vec<_>>())
    }
    async fn left(&self, _: &Ended) -> Vec<String> {
        let mut left = self.broken.lock().unwrap().clone();
        left.extend(self.things.lock().unwrap().iter().filter(|t| t.starts_with("clone")).cloned());
        left
    }
    async fn records(&self) -> Result<Vec<Record>> {
        self.journal.read().await
    }
    fn reruns(&self) -> bool {
        self.reboots
    }
}

/// A random name differs between lives that died before it was durable.
fn plain(text: &str) -> String {
    match text.strip_prefix("overlay-c1-") {
        Some(_) => "overlay-c1-N".to_owned(),
        None => text.to_owned(),
    }
}
