//! Revisions over the years, through the daemon's own flows: stored over their parents, rewritten whole, deleted, brought
//! back, pruned. The backend is a mock that leaves an overlay's copy in the staging; library and database are real.

use super::*;
use crate::reconcile;
use vcl_images::{Discarded, Format, Progress};
use vcl_job::{Cx, MemoryJournal};
use vcl_types::{ByteSize, ImageName, JobId};

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}

fn run_tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a capture of a computer that changed a few bytes leaves in the staging: a delta over the newest revision.
fn write_delta(staging: &std::path::Path) -> Captured {
    let library = staging.parent().unwrap().parent().unwrap();
    let revisions = std::fs::read_dir(library.join("debian")).unwrap();
    let newest =
        revisions.map(|e| e.unwrap().file_name().to_string_lossy().parse::<u32>().unwrap()).max().unwrap();
    let disk = staging.join("disk0.qcow2");
    let (disk, parent) = (disk.to_str().unwrap(), format!("../../debian/{newest}/disk0.qcow2"));
    run_tool("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &parent, disk]);
    run_tool("qemu-io", &["-f", "qcow2", "-c", &format!("write -P {newest} 64k 4k"), disk]);
    let disks = vec![CapturedDisk { file: "disk0.qcow2".into(), format: "qcow2".into() }];
    Captured { disks, firmware: None, boot: None, hardware: Hardware::default() }
}

/// A node with `debian@1` whole and so many revisions, each over the one before.
async fn chain(captures: usize, text: &str) -> Case {
    let mut backend = MockProvisioning::default();
    backend.calls.expect_load().returning(|_, _| Ok(endpoint()));
    backend.calls.expect_state().returning(|_| PowerState::On);
    backend.calls.expect_unload().returning(|_| Ok(()));
    backend.calls.expect_capture().times(captures).returning(|_, staging| Ok(write_delta(staging)));
    let case = Case::with(backend, untouched_os(), text).await;
    for _ in 0..captures {
        case.load().await;
        let job = case.capture(After::Release).await;
        assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
    }
    case
}

impl Case {
    async fn done(&self, request: JobRequest) -> String {
        let job = self.run(request).await;
        assert_eq!(job.state, job::State::Done, "{:?}", job.reason);
        job.result.unwrap()
    }
    async fn verified(&self, text: &str) {
        let said = self.done(JobRequest::Verify { image: image(text) }).await;
        assert!(said.contains("as it was published"), "{said}");
    }
    async fn refused(&self, request: JobRequest) -> String {
        match self.node.submit(request.clone(), "tester").await {
            Err(refusal) => refusal.message,
            Ok(_) => panic!("{request} was not refused"),
        }
    }
    fn delete(&self, text: &str, now: bool) -> JobRequest {
        JobRequest::DeleteImage { image: image(text), now }
    }
    async fn names(&self) -> Vec<String> {
        let images = self.node.images().await.unwrap();
        images.iter().flat_map(|i| &i.revisions).map(|r| r.manifest.image_ref().to_string()).collect()
    }
    /// What a guest sees of a revision.
    async fn shows(&self, text: &str) -> vcl_types::Digest {
        let revision = self.node.library.get(&image(text)).unwrap();
        let cx = Cx::detached(
            Arc::new(MemoryJournal::default()),
            <_>::default(),
            std::time::Duration::from_secs(60),
        );
        let (path, scratch) = (revision.path("disk0.qcow2"), self.node.library.root());
        vcl_images::digest::content(&cx, path.as_ref(), Format::Qcow2, scratch, &Progress::none())
            .await
            .unwrap()
            .digest()
    }
}

fn prune(keep: Option<u32>, now: bool) -> JobRequest {
    JobRequest::Prune { image: "debian".parse().unwrap(), keep, older_than_s: None, owner: None, now }
}

#[tokio::test]
async fn a_capture_is_stored_over_its_parent_unless_it_is_wanted_whole_or_the_parent_is_not_at_hand() {
    let case = chain(1, "").await;
    let made = case.node.library.get(&image("debian@2")).unwrap().manifest;
    assert_eq!((made.lies_on(), made.parent.clone()), (Some(&image("debian@1")), Some(image("debian@1"))));
    assert!(made.disks[0].file_size < ByteSize(1 << 20));
    case.verified("debian@2").await;
    let why = case.node.why_kept(&image("debian@1")).await.unwrap();
    assert_eq!(why.reasons, ["parent of debian@2"]);
    assert!(case.refused(case.delete("debian@1", false)).await.contains("debian@2 is stored over debian@1"));

    // A backend that leaves a delta where nobody lent it a parent is refused: nothing is published.
    let mut backend = MockProvisioning::default();
    loading(&mut backend);
    backend.calls.expect_capture().times(1).returning(|_, staging| Ok(write_delta(staging)));
    let mut os = untouched_os();
    os.expect_wait_ready().returning(|guest, _| Ok(guest.endpoint.clone()));
    let case = Case::new(backend, os).await;
    case.load().await;
    let request = JobRequest::Capture {
        computer: "a".parse().unwrap(),
        into: CaptureInto::Next,
        after: After::Release,
        power_on: false,
        note: None,
        whole: true,
    };
    let job = case.run(request).await;
    assert!(job.reason.unwrap().contains("still lies on"));
    assert_eq!(case.names().await, ["debian@1"]);
}

#[tokio::test]
async fn a_long_chain_is_rewritten_whole_by_itself_and_shows_the_same() {
    let case = chain(4, "chain_limit = 2\n").await;
    let before = [case.shows("debian@3").await, case.shows("debian@5").await];
    // A machine that was loaded before keeps what was exchanged in the trash.
    case.load().await;
    for _ in 0..3 {
        reconcile::once(&case.node).await;
        case.drain().await;
    }
    let depth = |n: u32| case.node.library.ancestry(&image(&format!("debian@{n}"))).unwrap().len();
    assert_eq!([1, 2, 3, 4, 5].map(depth), [1, 2, 1, 2, 1]);
    assert_eq!([case.shows("debian@3").await, case.shows("debian@5").await], before);
    for n in 1..=5 {
        case.verified(&format!("debian@{n}")).await;
    }
    assert!(case.node.library.leftovers().unwrap().is_empty());
    let trash = case.node.trash().await.unwrap();
    assert!(trash.iter().all(|t| t.why == "exchanged" && t.until.is_none()) && trash.len() == 2, "{trash:?}");
    // The parents may go now, as far as no other lies on them.
    case.done(case.delete("debian@2", true)).await;
    case.verified("debian@3").await;
    assert!(case.done(JobRequest::Flatten { image: image("debian@3") }).await.contains("whole already"));
}

#[tokio::test]
async fn what_is_deleted_comes_back_with_its_row_and_never_without_its_parent() {
    let case = chain(2, "").await;
    let digest = case.shows("debian@3").await;
    case.done(case.delete("debian@3", false)).await;
    case.done(case.delete("debian@2", false)).await;
    assert_eq!(case.names().await, ["debian@1"]);
    assert_eq!(case.node.trash().await.unwrap().len(), 2);
    // What is not over its time stays through any number of looks.
    reconcile::once(&case.node).await;
    let job = case.run(JobRequest::Undelete { image: image("debian@3") }).await;
    assert!(
        job.state == job::State::Failed && job.reason.clone().unwrap().contains("debian@2"),
        "{:?}",
        job.reason
    );
    for text in ["debian@2", "debian@3"] {
        assert_eq!(case.done(JobRequest::Undelete { image: image(text) }).await, text);
    }
    assert_eq!(case.shows("debian@3").await, digest);
    case.verified("debian@3").await;
    assert!(case.refused(JobRequest::Undelete { image: image("debian@3") }).await.contains("is not deleted"));
    // For good is for good.
    case.done(case.delete("debian@3", true)).await;
    assert!(case.node.trash().await.unwrap().is_empty());
    let job = case.run(JobRequest::Undelete { image: image("debian@3") }).await;
    assert!(job.reason.unwrap().contains("not in the trash"));
    let next = case.node.queue.next_revision(&"debian".parse::<ImageName>().unwrap()).await.unwrap();
    assert_eq!(next, 4, "a number is never given out twice");
}

#[tokio::test]
async fn pruning_lets_go_what_nothing_keeps_and_says_before_what_it_would_do() {
    let case = chain(3, "").await;
    case.done(JobRequest::Flatten { image: image("debian@3") }).await;
    case.node.promote(&image("debian@1"), "ada").await.unwrap();
    let plan = case.node.plan(&prune(Some(1), false)).await.unwrap();
    let said: Vec<String> = plan.steps.iter().map(|s| format!("{}: {}", s.name, s.what)).collect();
    assert!(said[1].starts_with("move to trash: debian@2, "), "{said:#?}");
    assert_eq!(said[2], "stays: debian@4: one of the newest 1");
    assert_eq!(said[3], "stays: debian@3: parent of debian@4");
    assert_eq!(
        said[4],
        "stays: debian@1: in production; parent of debian@2".replace("; parent of debian@2", "")
    );
    assert!(said[5].starts_with("in all: 1 go, which frees "), "{said:#?}");
    assert_eq!(case.names().await.len(), 4, "a plan changes nothing");
    let result = case.done(prune(Some(1), false)).await;
    assert!(result.starts_with("debian: 1 deleted, 3 kept"), "{result}");
    assert_eq!(case.names().await, ["debian@1", "debian@3", "debian@4"]);
    case.verified("debian@4").await;
    case.node.promote(&image("debian@4"), "ada").await.unwrap();
    case.load().await;
    let result = case.done(prune(Some(0), true)).await;
    assert!(result.starts_with("debian: 1 deleted, 2 kept"), "{result}");
    assert_eq!(case.names().await, ["debian@3", "debian@4"]);
    let why = case.node.why_kept(&image("debian@4")).await.unwrap();
    assert_eq!(why.reasons, ["in production", "loaded on a"]);
    assert!(
        case.node.plan(&case.delete("debian@4", false)).await.unwrap_err().message.contains("loaded on a")
    );
    let empty = case.run(prune(None, false)).await;
    assert!(empty.reason.unwrap().contains("--keep N"));
}

#[tokio::test]
async fn configured_retention_prunes_and_the_trash_is_emptied_by_age() {
    let case = chain(0, "trash_days = 0\nretention = { keep = 1 }\n").await;
    let disk = case.node.config_path.parent().unwrap().join("disk.raw");
    for _ in 0..2 {
        let (image, path) = ("debian".parse().unwrap(), disk.to_string());
        case.done(JobRequest::Import {
            image,
            path,
            boot: None,
            hardware: None,
            os: vcl_types::OsName::Linux,
            note: None,
        })
        .await;
    }
    let library = &case.node.library;
    let name = vcl_images::TrashName {
        image: image("old@1"),
        why: Discarded::Exchanged,
        at: chrono::DateTime::from_timestamp(1, 0).unwrap(),
        job: JobId(999),
    };
    std::fs::create_dir(library.trash_path(&name)).unwrap();
    reconcile::once(&case.node).await;
    case.drain().await;
    reconcile::once(&case.node).await;
    assert_eq!(case.names().await, ["debian@3"]);
    assert!(library.trash().unwrap().is_empty());
}
