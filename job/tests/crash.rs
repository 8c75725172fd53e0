//! A small world whose effects survive a crash, jobs that change it, and a process that dies at every point.
//!
//! A point is a journal write (before it is durable, and just after) or an effect of the world (before and after). The
//! "process" dies there: its future is dropped and never goes on. Then it dies again at every later point, and in the
//! end the world must look as if nothing had happened.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use async_trait::async_trait;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use vcl_job::*;

#[derive(Default)]
struct Faults {
    count: Mutex<usize>,
    crash_at: Mutex<Option<usize>>,
    crashed: tokio::sync::Notify,
    fail: Mutex<Option<String>>,
    cancel_at: Mutex<Option<usize>>,
    control: Mutex<Control>,
}
impl Faults {
    async fn point(&self) {
        let n = {
            let mut count = self.count.lock().unwrap();
            *count += 1;
            *count
        };
        if *self.cancel_at.lock().unwrap() == Some(n) {
            self.control.lock().unwrap().cancel.cancel();
        }
        let hit = self.crash_at.lock().unwrap().take_if(|at| *at == n).is_some();
        if hit {
            self.crashed.notify_one();
            std::future::pending::<()>().await;
        }
    }
}

#[derive(Default)]
struct World {
    things: Mutex<BTreeSet<String>>,
    made: Mutex<Vec<String>>,
    faults: Faults,
}
impl World {
    async fn make(&self, what: &str) -> Result<bool> {
        self.faults.point().await;
        let fresh = self.things.lock().unwrap().insert(what.to_owned());
        if fresh {
            self.made.lock().unwrap().push(what.to_owned());
        }
        self.faults.point().await;
        if self.faults.fail.lock().unwrap().as_deref() == Some(what) {
            return Err(Error::new(Kind::Fatal, format!("{what} failed"))); // half done: the thing is there
        }
        Ok(fresh)
    }
    async fn unmake(&self, what: &str) -> Result<()> {
        let has = |p: &str| self.things.lock().unwrap().iter().any(|t| t.starts_with(p));
        // As libvirt does: no overlay deleted under a defined domain, no running one undefined.
        let early =
            what.starts_with("overlay") && has("domain") || what.starts_with("domain") && has("running");
        if early {
            return Err(Error::new(Kind::Fatal, format!("{what} is in use")));
        }
        self.faults.point().await;
        self.things.lock().unwrap().remove(what);
        self.faults.point().await;
        Ok(())
    }
    fn left(&self) -> Vec<String> {
        self.things.lock().unwrap().iter().filter(|t| !t.starts_with("os-")).map(|t| plain(t)).collect()
    }
}

struct DyingJournal {
    inner: MemoryJournal,
    world: Arc<World>,
}
#[async_trait]
impl Journal for DyingJournal {
    async fn append(&self, record: &Record) -> Result<()> {
        self.world.faults.point().await;
        self.inner.append(record).await?;
        self.world.faults.point().await;
        Ok(())
    }
    async fn read(&self) -> Result<Vec<Record>> {
        self.inner.read().await
    }
}

struct Host {
    world: Arc<World>,
    nonce: Mutex<u32>,
}
const CLONE: Step<Host, String> =
    Step::new("clone").undo(|on, n| Box::pin(async move { on.world.unmake(&n).await }));
const OVERLAY: Step<Host, String> =
    Step::new("overlay").retry(TRANSIENT).undo(|on, n| Box::pin(async move { on.world.unmake(&n).await }));
const DEFINE: Step<Host, String> =
    Step::new("define").undo(|on, n| Box::pin(async move { on.world.unmake(&format!("domain-{n}")).await }));
const START: Step<Host, String> =
    Step::new("start").undo(|on, n| Box::pin(async move { on.world.unmake(&format!("running-{n}")).await }));
const COPY: Step<Host, String> =
    Step::new("copy").undo(|on, n| Box::pin(async move { on.world.unmake(&n).await }));
const HOST: &[&dyn AnyStep<Host>] = &[&CLONE, &OVERLAY, &DEFINE, &START, &COPY];
#[async_trait]
impl Undo for Host {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        undo_in(HOST, self, step, intent).await
    }
}
impl Host {
    async fn load(&self, job: &mut Job, guest: &Guest, computer: &str) -> Result<String> {
        let clone = job
            .step(self, &CLONE, format!("clone-{computer}"))
            .attempt(async |n, _| {
                self.world.make(&n).await?;
                Err::<(), _>(Error::new(Kind::Refused, "no clones here"))
            })
            .await?;
        assert_eq!(clone.unwrap_err().kind, Kind::Refused);
        let fresh = {
            let mut n = self.nonce.lock().unwrap();
            *n += 1;
            format!("overlay-{computer}-{n}")
        };
        let overlay = job
            .step(self, &OVERLAY, fresh)
            .run(async |path, cx| {
                cx.check().await?;
                self.world.make(&path).await?;
                Ok(path)
            })
            .await?;
        job.step(self, &DEFINE, computer.into())
            .run(async |n, _| self.world.make(&format!("domain-{n}")).await)
            .await?;
        job.step(self, &START, computer.into())
            .run(async |n, _| self.world.make(&format!("running-{n}")).await)
            .await?;
        let part = &mut job.part("post_load");
        for k in ["name", "keys"] {
            part.step(guest, &SET, format!("os-{k}"))
                .key(k)
                .run(async |n, _| self.world.make(&n).await)
                .await?;
        }
        let (mut a, mut b) = (job.part("disk 0"), job.part("disk 1"));
        let copy = async |part: &mut Job, n: &str| {
            part.step(self, &COPY, format!("copy-{n}")).run(async |n, _| self.world.make(&n).await).await
        };
        let (x, y) = tokio::join!(copy(&mut a, "0"), copy(&mut b, "1"));
        x?;
        y?;
        Ok(overlay)
    }
}
struct Guest {
    world: Arc<World>,
}
const SET: Step<Guest, String> = Step::new("set");
#[async_trait]
impl Undo for Guest {
    async fn undo(&self, step: &str, intent: Value) -> Result<()> {
        let _ = &self.world;
        undo_in(&[&SET], self, step, intent).await
    }
}

struct Case {
    world: Arc<World>,
    journal: Arc<DyingJournal>,
    host: Host,
    guest: Guest,
}
impl Case {
    fn new(fail: Option<&str>) -> Self {
        let world = Arc::new(World::default());
        *world.faults.fail.lock().unwrap() = fail.map(str::to_owned);
        Self {
            journal: Arc::new(DyingJournal { inner: MemoryJournal::default(), world: world.clone() }),
            host: Host { world: world.clone(), nonce: Mutex::new(0) },
            guest: Guest { world: world.clone() },
            world,
        }
    }
    /// One life of the process; `None` if it died.
    async fn live(&self) -> Option<Outcome<String>> {
        let control = Control::default();
        *self.world.faults.control.lock().unwrap() = control.clone();
        let parts: [(&str, &dyn Undo); 2] = [("load", &self.host), ("post_load", &self.guest)];
        let run = Run {
            journal: self.journal.clone(),
            observer: Arc::new(Silent),
            control,
            owners: Owners { flow: &self.host, parts: &parts },
        };
        let flow = Flow { name: "load", version: 1, deadline: None };
        let begin = async { Ok("c1".to_owned()) };
        let work = async |mut job: Job, computer: String| {
            self.host.load(&mut job.part("load"), &self.guest, &computer).await
        };
        tokio::select! {
            biased;
            () = self.world.faults.crashed.notified() => None,
            outcome = execute(run, flow, begin, work) => Some(outcome),
        }
    }
    fn points(&self) -> usize {
        *self.world.faults.count.lock().unwrap()
    }
    fn crash_at(&self, n: usize) {
        *self.world.faults.count.lock().unwrap() = 0;
        *self.world.faults.crash_at.lock().unwrap() = Some(n);
    }
}
/// A random name differs between lives that died before it was durable.
fn plain(text: &str) -> String {
    (1..9).fold(text.to_owned(), |t, n| t.replace(&format!("overlay-c1-{n}"), "overlay-c1-N"))
}

#[tokio::test]
async fn dying_at_every_point_twice_changes_nothing_in_the_end() {
    let mut histories = 0;
    for fail in [None, Some("running-c1"), Some("domain-c1"), Some("os-keys"), Some("copy-1")] {
        let calm = Case::new(fail);
        let want = plain(&format!("{:?}", calm.live().await.unwrap()));
        if fail.is_some() {
            assert!(calm.world.left().is_empty(), "{fail:?} left {:?}", calm.world.left());
        }
        let made: BTreeSet<_> = calm.world.made.lock().unwrap().iter().map(|m| plain(m)).collect();
        for first in 1..=calm.points() {
            for second in 0..=calm.points() {
                let case = Case::new(fail);
                case.crash_at(first);
                assert!(case.live().await.is_none());
                if second > 0 {
                    case.crash_at(second);
                    if case.live().await.is_some() {
                        continue; // it needed fewer points than that to recover
                    }
                }
                let got = plain(&format!("{:?}", case.live().await.unwrap()));
                assert_eq!(got, want, "{fail:?} dying at {first}, {second}");
                assert_eq!(case.world.left(), calm.world.left(), "{fail:?} dying at {first}, {second}");
                let again: Vec<_> = case.world.made.lock().unwrap().iter().map(|m| plain(m)).collect();
                assert_eq!(
                    again.len(),
                    made.len(),
                    "{fail:?} {first}, {second}: something was made twice: {again:?}"
                );
                histories += 1;
            }
        }
    }
    assert!(histories > 1000, "{histories}");
}

#[tokio::test]
async fn called_off_at_every_point_and_then_dying_at_every_point() {
    let calm = Case::new(None);
    calm.live().await;
    for point in 1..=calm.points() {
        for death in 0..=calm.points() + 40 {
            let case = Case::new(None);
            *case.world.faults.cancel_at.lock().unwrap() = Some(point);
            *case.world.faults.crash_at.lock().unwrap() = (death > 0).then_some(death);
            let outcome = match case.live().await {
                Some(outcome) => outcome,
                None => {
                    // The wish itself was not durable here: either end is right.
                    *case.world.faults.cancel_at.lock().unwrap() = None;
                    case.live().await.unwrap()
                }
            };
            match outcome {
                Outcome::RolledBack(f) => {
                    assert_eq!(f.kind, Kind::Cancelled);
                    assert!(case.world.left().is_empty(), "{point} {death} left {:?}", case.world.left());
                }
                Outcome::Done(_) => assert_eq!(case.world.left(), calm.world.left(), "{point} {death}"),
                other => panic!("{point} {death}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_stopping_daemon_leaves_the_job_where_the_next_start_takes_it_up() {
    let case = Case::new(None);
    case.crash_at(20);
    assert!(case.live().await.is_none());
    // The next life is told to stop before it begins anything new.
    let control = Control::default();
    control.drain.cancel();
    let parts: [(&str, &dyn Undo); 2] = [("load", &case.host), ("post_load", &case.guest)];
    let owners = Owners { flow: &case.host, parts: &parts };
    let run = Run { journal: case.journal.clone(), observer: Arc::new(Silent), control, owners };
    let work = async |mut job: Job, c: String| case.host.load(&mut job.part("load"), &case.guest, &c).await;
    let outcome =
        execute(run, Flow { name: "load", version: 1, deadline: None }, async { Ok("c1".to_owned()) }, work)
            .await;
    assert_eq!(outcome, Outcome::Interrupted);
    assert!(matches!(case.live().await.unwrap(), Outcome::Done(_)));
}
