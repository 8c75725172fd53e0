//! The conformance kit: whether a backend does what [`Provisioning`](crate::Provisioning) says, tried case by case.
//!
//! The author of a backend describes a [`World`]: how an instance is opened, what lies around in it. The
//! kit does the rest: it lends the backend computers, a library with a revision in it and jobs on a journal in memory, and
//! has those jobs killed, called off, stopped, and followed by another process at each of their journal writes.
//!
//! ```text
//!  World ─ open ──► backend instance, again for each "process"          the author's
//!        ─ left ──► what there is of it, looked at from outside
//!  Kit   ─ CASES, one after another ──► jobs ──► backend                 the kit's
//!        after each: taken back, and nothing may be left
//!  Report           capability × case: passed, failed and why, skipped and why; as text, as JSON
//! ```
//!
//! * Most cases need no guest. Where the backend brings no OS module of its own, a stand-in answers for the guest: with it a
//!   load is over when the backend has done its part. Six cases at most boot one, where the world has one to boot.
//! * What is tried is what the backend's own [`capabilities`](crate::Provisioning::capabilities) declare; a case of what it
//!   lacks is skipped with the reason that stands there. Nothing else is skipped but what the world cannot offer, which says
//!   why ([`World::why_not`], [`World::leaves_out`]).
//! * Every case runs on computers of its own, or on the few that there are, and leaves them as it found them.
//!
//! ```ignore
//! // tests/conformance.rs of a backend's crate
//! vcl_provisioning::conformance!(ToyWorld::new());
//! ```
//!
//! `cargo test --test conformance -- --nocapture` prints the table. `CONFORMANCE_CASE=unload,names` runs the
//! cases that have one of these in their name; `CONFORMANCE_REPORT=FILE` writes the report as JSON.

mod cases;
mod deed;
mod disk;
mod journals;
mod kit;
mod play;
mod report;
mod stand_in;
mod world;

pub use cases::{CASES, Case};
pub use report::{Report, Row, Verdict};
pub use stand_in::NoRemotes;
pub use world::{Foreign, GuestImage, Offer, Result, World};

use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Duration;

/// Makes a test of a world: it runs all cases, prints the table, and fails if one failed. The expression is evaluated in an
/// `async` block inside a tokio runtime. A name before it names the test, `conforms` otherwise; a path after it is a file
/// in which the report stands that the run must come to (`UPDATE=1` writes it).
#[macro_export]
macro_rules! conformance {
    ($world:expr) => {
        $crate::conformance!(conforms, $world);
    };
    ($name:ident, $world:expr) => {
        #[test]
        fn $name() {
            $crate::conformance::check(async { $world }, None);
        }
    };
    ($name:ident, $world:expr, $record:expr) => {
        #[test]
        fn $name() {
            $crate::conformance::check(async { $world }, Some(::std::path::Path::new($record)));
        }
    };
}

/// How long a case may take, and one that boots a guest.
const LIMITS: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(1800));

/// Runs all cases on a world, or those that have `only` in their name: one word, or several with commas between them.
///
/// # Errors
/// The world cannot be opened, or the kit cannot make its revision.
pub async fn run(world: &dyn World, only: Option<&str>) -> Result<Report> {
    let kit = kit::Kit::new(world).await?;
    let mut rows = Vec::new();
    let wanted = |case: &&Case| only.is_none_or(|only| only.split(',').any(|word| case.name.contains(word)));
    for case in CASES.iter().filter(wanted) {
        let began = std::time::Instant::now();
        let verdict = one(&kit, case).await;
        let (took, why) = (began.elapsed().as_secs_f64(), verdict.why().unwrap_or_default());
        eprintln!("{took:>7.1} s  {} {} {why}", case.name, verdict.word());
        rows.push(Row::of(case, verdict));
    }
    let points = Some(world.points()).filter(|points| *points != usize::MAX);
    Ok(Report {
        world: world.name().to_owned(),
        kind: kit.kind().to_owned(),
        tree: None,
        points,
        cases: rows,
    })
}

async fn one(kit: &kit::Kit<'_>, case: &Case) -> Verdict {
    if let Some(why) = kit.left_out(case) {
        return Verdict::Skipped(why);
    }
    kit.enter(case);
    let limit = if case.boots { LIMITS.1 } else { LIMITS.0 };
    let caught = AssertUnwindSafe((case.run)(kit)).catch_unwind();
    let verdict = match tokio::time::timeout(limit, caught).await {
        Ok(Ok(Ok(()))) => Verdict::Passed,
        Ok(Ok(Err(kit::Stop::Failed(why)))) => Verdict::Failed(why),
        Ok(Ok(Err(kit::Stop::Skipped(why)))) => Verdict::Skipped(why),
        Ok(Err(panic)) => Verdict::Failed(format!("panicked: {}", kit::said(panic.as_ref()))),
        Err(_) => Verdict::Failed(format!("not done within {} s", limit.as_secs())),
    };
    let left = match tokio::time::timeout(LIMITS.0, kit.tidy()).await {
        Ok(left) => left,
        Err(_) => Err(kit::Stop::Failed("taking everything back does not end".into())),
    };
    if left.is_err() {
        kit.accept().await;
    }
    match (verdict, left) {
        (Verdict::Passed, Err(kit::Stop::Failed(why) | kit::Stop::Skipped(why))) => {
            Verdict::Failed(format!("after it: {why}"))
        }
        (verdict, _) => verdict,
    }
}

/// What [`conformance!`](crate::conformance!) does.
///
/// # Panics
/// When a case failed, or the report is not the one in `record`.
pub fn check<W: World>(world: impl Future<Output = W>, record: Option<&Path>) {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let only = variable("CONFORMANCE_CASE");
    let done = runtime.map_err(Into::into).and_then(|runtime| {
        // The world ends outside of the runtime: what it is made of may wait for its own end.
        let (_world, done) = runtime.block_on(async {
            let world = world.await;
            let done = run(&world, only.as_deref()).await;
            (world, done)
        });
        done
    });
    let report = done.unwrap_or_else(|e| panic!("the world cannot be opened: {e}"));
    println!("{report}");
    if let Some(file) = variable("CONFORMANCE_REPORT") {
        std::fs::write(&file, report.json()).unwrap_or_else(|e| panic!("writing {file}: {e}"));
    }
    let failed = report.failed();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed:\n{}",
        failed.len(),
        report.cases.len(),
        failed.join("\n")
    );
    if let (Some(record), None) = (record, &only) {
        report.settle(record).unwrap_or_else(|why| panic!("{why}"));
    }
}
