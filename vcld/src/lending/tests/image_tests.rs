//! Tests of revisions, and what becomes of one that is made production.

use super::scene::Scene;
use std::os::unix::fs::PermissionsExt as _;
use vcl_provisioning::sim::Effect;
use vcl_types::api::{RevisionView, StreamItem};
use vcl_types::state::{computer, job, reservation};
use vcl_types::{After, CaptureInto, ComputerName, ImageRef, ImageTest, JobKind, JobRequest};

const NEEDED: &str = "[reservations]\nafter_use = \"nothing\"\npromote_needs_test = true\n";
const ID: &str = "0123456789abcdef0123456789abcdef";

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}
fn test(text: &str) -> JobRequest {
    JobRequest::TestImage { image: image(text), wait: false }
}

/// What the next event of a kind says.
async fn told(stream: &mut tokio::sync::broadcast::Receiver<StreamItem>, kind: &str) -> String {
    loop {
        if let StreamItem::Event(event) = stream.recv().await.unwrap()
            && event.kind == kind
        {
            return event.message;
        }
    }
}

impl Scene {
    /// Makes the next revision of `gis` on `c1`, with this in its file `/etc/machine-id`.
    async fn revision(&self, machine_id: &str) {
        let computer: ComputerName = "c1".parse().unwrap();
        self.job(JobRequest::Load { computer: computer.clone(), image: image("gis@1") }).await;
        let put = Effect::Write { path: "/etc/machine-id".into(), text: machine_id.into() };
        self.world.by_hand("vcl-c1", put).await.unwrap();
        let (into, after) = (CaptureInto::Next, After::Release);
        let request =
            JobRequest::Capture { computer, into, after, power_on: false, note: None, whole: false };
        self.job(request).await;
    }
    async fn tested(&self, text: &str) -> Option<ImageTest> {
        self.node.queue.revision(&image(text)).await.unwrap().tested
    }
    /// The jobs of a kind, oldest first.
    async fn jobs(&self, kind: JobKind) -> Vec<vcl_types::api::JobView> {
        let mut jobs = self.node.jobs(None, 1000).await.unwrap();
        jobs.retain(|job| job.request.kind() == kind);
        jobs.sort_by_key(|job| job.id);
        jobs
    }
    /// No computer is anybody's.
    async fn all_given_back(&self) {
        for row in self.node.queue.computers().await.unwrap() {
            let name = &row.computer.name;
            assert_eq!(
                (row.state, row.reservation, row.job),
                (computer::State::Available, None, None),
                "{name}"
            );
        }
        assert_eq!(self.node.queue.reservations_of(None, true, None, 10).await.unwrap(), []);
        assert_eq!(self.world.refusals().unwrap(), []);
    }
    async fn last(&self) -> vcl_types::api::JobView {
        self.jobs(JobKind::TestImage).await.pop().unwrap()
    }
    async fn promote(&self, text: &str) -> Result<RevisionView, String> {
        self.node.promote(&image(text), "ada").await.map_err(|no| no.message)
    }
}

#[tokio::test]
async fn clones_that_share_an_identity_keep_their_revision_from_production_and_good_ones_do_not() {
    let scene = Scene::with(3, NEEDED).await;
    scene.revision(ID).await;
    scene.revision("").await;
    let untested = scene.promote("gis@2").await.unwrap_err();
    assert!(
        untested.contains("was not tested") && untested.contains("vclctl image test gis@2"),
        "{untested}"
    );

    scene.job(test("gis@2")).await;
    let bad = scene.tested("gis@2").await.unwrap();
    assert!(!bad.passed);
    let shared: Vec<_> = bad.shared.iter().map(|s| (s.item.as_str(), s.value.as_str())).collect();
    assert_eq!(shared, [("machine-id", ID)]);
    assert!(
        bad.compared.iter().any(|c| (c.item.as_str(), c.first, c.second) == ("hostname", 1, 1)),
        "{bad:?}"
    );
    let ended = scene.last().await;
    assert_eq!(ended.state, job::State::Failed);
    let reason = ended.reason.unwrap();
    assert!(reason.contains("both clones have the machine-id") && reason.contains(ID), "{reason}");
    assert_eq!(
        scene.promote("gis@2").await.unwrap_err(),
        format!(
            "gis@2 did not pass its test (job {}): both clones have the machine-id: {ID}; mend it and test what was \
         mended: vclctl image test gis@2",
            ended.id
        )
    );
    scene.all_given_back().await;

    scene.job(test("gis@3")).await;
    let good = scene.tested("gis@3").await.unwrap();
    assert!(good.passed, "{good:?}");
    assert_eq!(scene.last().await.result.as_deref(), Some("gis@3 passed"));
    assert!(scene.promote("gis@3").await.unwrap().production);
    scene.all_given_back().await;
    let id = scene.reserve(scene.wish(), "alice").await;
    let got = scene.node.queue.reservation(id).await.unwrap();
    assert_eq!((got.state, got.image), (reservation::State::Ready, image("gis@3")));

    // Whoever may, does it all the same, and that is said.
    let mut stream = scene.node.queue.subscribe();
    let forced = scene.node.promote_as(&image("gis@2"), "root", true).await.unwrap();
    assert!(forced.production && !forced.tested.unwrap().passed);
    let said = told(&mut stream, "promoted").await;
    assert_eq!(said, "gis@2 is in production, says root, although it has passed no test");
    scene.close().await;
}

#[tokio::test]
async fn a_promotion_reloads_idle_computers_a_few_at_a_time_and_the_next_reservation_gets_it() {
    let scene = Scene::with(6, "[reservations]\nafter_use = \"nothing\"\n").await;
    scene.revision("").await;
    scene.promote("gis@1").await.unwrap();
    for n in 1..=5 {
        let computer = format!("c{n}").parse().unwrap();
        scene.job(JobRequest::Prepare { computer, image: image("gis@1") }).await;
    }
    let before = scene.jobs(JobKind::Prepare).await.len();
    scene.promote("gis@2").await.unwrap();
    scene.node.look_at_reservations().await.unwrap();
    assert_eq!(scene.jobs(JobKind::Prepare).await.len() - before, 3, "three at once of the five");
    scene.quiet().await;
    for n in 1..=5 {
        let row = scene.computer(&format!("c{n}")).await;
        assert_eq!(row.loaded.unwrap().image, image("gis@2"));
        assert!(!row.tainted);
    }
    assert_eq!(scene.jobs(JobKind::Prepare).await.len() - before, 5);
    let id = scene.reserve(scene.wish(), "alice").await;
    assert_eq!(scene.node.queue.reservation(id).await.unwrap().image, image("gis@2"));
    assert_eq!(scene.jobs(JobKind::Load).await.len(), 1, "it was there already");
    scene.close().await;
}

#[tokio::test]
async fn the_site_s_scripts_run_in_both_and_one_that_fails_is_named_with_what_it_said() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("10-name", "#!/bin/sh\nhostname\n");
    let lines = format!("{NEEDED}tests = {:?}\n", directory.path());
    let scene = Scene::with(2, &lines).await;
    scene.job(test("gis")).await;
    let test_of = scene.tested("gis@1").await.unwrap();
    assert!(test_of.passed, "{test_of:?}");
    let runs: Vec<_> =
        test_of.scripts.iter().map(|r| (r.name.as_str(), r.computer.as_str(), r.said.as_str())).collect();
    assert_eq!(runs, [("10-name", "c1", "c1"), ("10-name", "c2", "c2")]);

    write("20-licence", "#!/bin/sh\ncat /etc/licence\n");
    scene.job(test("gis@1")).await;
    let job = scene.last().await;
    let reason = job.reason.unwrap();
    assert!(
        reason.contains("the script 20-licence failed on c1 with status 1: cat: /etc/licence"),
        "{reason}"
    );
    let kept = scene.node.queue.evidence_part(job.id, "c2-20-licence.txt", None).await.unwrap();
    assert!(String::from_utf8(kept.bytes).unwrap().contains("No such file"));
    let refused = scene.promote("gis@1").await.unwrap_err();
    assert!(refused.contains("20-licence"), "the newest test counts: {refused}");
    scene.all_given_back().await;
    scene.close().await;
}

#[tokio::test]
async fn with_too_few_spare_computers_it_says_how_many_there_are_or_waits_for_more() {
    let scene = Scene::new(2).await;
    let mine = JobRequest::Load { computer: "c2".parse().unwrap(), image: image("gis") };
    scene.job(mine).await;
    scene.job(test("gis")).await;
    let reason = scene.last().await.reason.unwrap();
    let wanted = "a test of gis@1 takes two spare computers, and there is one, c1; c2: it is reserved; free one, or wait \
                  for them: vclctl image test gis@1 --wait";
    assert!(reason.starts_with(wanted), "{reason}");
    assert_eq!(scene.tested("gis@1").await, None, "nothing was found out");

    let waits = JobRequest::TestImage { image: image("gis"), wait: true };
    let mut stream = scene.node.queue.subscribe();
    scene.node.submit(waits, "admin").await.unwrap();
    let waits = told(&mut stream, "test-waits").await;
    assert!(waits.contains("there is one, c1"), "{waits}");
    assert_eq!(scene.jobs(JobKind::Load).await.len(), 1, "none is taken while there is one");
    scene.job(JobRequest::Unload { computer: "c2".parse().unwrap() }).await;
    assert_eq!(scene.last().await.state, job::State::Done);
    scene.all_given_back().await;
    scene.close().await;
}

#[tokio::test]
async fn a_clone_that_is_not_loaded_is_a_revision_that_did_not_pass() {
    let scene = Scene::new(2).await;
    scene.break_next_load("c2");
    scene.job(test("gis")).await;
    let found = scene.tested("gis@1").await.unwrap();
    assert!(!found.passed);
    let [problem] = &found.problems[..] else { panic!("{found:?}") };
    assert!(
        problem.starts_with("c2 was not loaded: job ") && problem.contains("broken by the test"),
        "{problem}"
    );
    assert!(scene.last().await.reason.unwrap().contains(problem));
    scene.all_given_back().await;
    scene.close().await;
}

#[tokio::test]
async fn one_that_is_called_off_calls_its_loads_off_and_gives_the_computers_back() {
    let scene = Scene::new(2).await;
    let mut changes = scene.node.queue.submitted();
    let job = scene.node.submit(test("gis"), "admin").await.unwrap().job;
    while scene.node.queue.children(job).await.unwrap().is_empty() {
        changes.changed().await.unwrap();
    }
    scene.node.cancel(job, "admin").await.unwrap();
    scene.quiet().await;
    let ended = scene.last().await;
    assert!(matches!(ended.state, job::State::Cancelled | job::State::Done), "{ended:?}");
    scene.all_given_back().await;
    scene.close().await;
}
