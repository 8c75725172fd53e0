//! The fault matrix of every kind of job, on simulated machines: killed, failed, cut off, called off, stopped, frozen at
//! each of its points, and killed again after that. Each kind is one line.
//!
//! `cargo test -p vcld --lib flow::matrix -- --nocapture` plays a sample, which `FAULTS_SEED` changes, and prints for each
//! kind how many points it has and how many histories were played. `VCL_FULL=1` plays all with one fault and 300 of each
//! kind with more, `FAULTS=N` N of these, `FAULTS=full` all. `HISTORY` plays one as a violation prints it.

#![expect(clippy::unwrap_used, reason = "a test that cannot make its world is to end")]

mod scene;

use crate::exchange::Exchange;
use crate::exchange::tests::world::{MIB, World, publish};
use camino::{Utf8Path, Utf8PathBuf};
use scene::{Lab, Played};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use vcl_job::faults::{Budget, Matrix, Report};
use vcl_types::{After, CaptureInto, ImageRef, JobRequest};

/// How much of each matrix is played: a sample that is another for each seed, or what the environment says.
fn budget() -> Budget {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("FAULTS_SEED").unwrap_or(3);
    let all = usize::MAX;
    let of = |each, one| Budget { each, one, seed };
    match std::env::var("FAULTS").as_deref() {
        Ok("full") => Budget::FULL,
        Ok(number) => of(number.parse().unwrap(), all),
        Err(_) if std::env::var_os("VCL_FULL").is_some() => of(300, all),
        Err(_) => of(2, 3),
    }
}

/// Plays the matrix of one kind of job, on a world that these jobs prepare.
async fn matrix(
    name: &str,
    prepare: impl AsyncFn(&Lab),
    request: impl Fn(&Utf8Path) -> JobRequest,
    restores: bool,
) -> Report {
    matrix_with(name, None, prepare, request, restores).await
}

/// The same on a node that other nodes can be asked from.
async fn matrix_with(
    name: &str,
    exchange: Option<Arc<Exchange>>,
    prepare: impl AsyncFn(&Lab),
    request: impl Fn(&Utf8Path) -> JobRequest,
    restores: bool,
) -> Report {
    let memory = std::path::Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let root = Utf8PathBuf::try_from(directory.path().to_owned()).unwrap();
    let prepared = Lab::open(&root.join("prepared"), exchange).await;
    prepared.done(from_vm("debian", "template")).await;
    prepare(&prepared).await;
    prepared.node.queue.close().await;
    let (count, prepared, root) = (AtomicUsize::new(0), &prepared, &root);
    let make = async |points| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let lab = prepared.copy_to(&root.join(n.to_string())).await;
        let request = request(&lab.root);
        Played::new(lab, request, points, restores).await
    };
    let matrix = Matrix::of(name, make).budget(budget()).hasty();
    if let Ok(history) = std::env::var("HISTORY") {
        println!("{:#?}", matrix.replay(&history).await.unwrap());
    }
    let report = matrix.run().await;
    let Report { steps, journal_points: journal, effect_points: effects, histories, lives, .. } = &report;
    let (points, took, wrong) = (journal + effects, report.took.as_secs_f64(), report.violations.len());
    println!(
        "{name:<28} {steps:>2} steps  {points:>3} points ({journal:>3} journal + {effects:>2} effects)  \
         {histories:>5} histories  {lives:>5} lives  {wrong} violations  {took:.1} s"
    );
    if report.seed == 0 || wrong > 0 {
        println!("{report}");
    }
    report.expect_clean()
}

fn image(text: &str) -> ImageRef {
    text.parse().unwrap()
}
fn from_vm(image: &str, vm: &str) -> JobRequest {
    let (image, backend) = (image.parse().unwrap(), "sim".parse().unwrap());
    JobRequest::CreateFromVm { image, backend, vm: vm.into(), os: vcl_types::OsName::Linux, note: None }
}
fn load(text: &str) -> JobRequest {
    JobRequest::Load { computer: "a".parse().unwrap(), image: image(text) }
}
fn capture(into: CaptureInto, after: After, whole: bool) -> JobRequest {
    let computer = "a".parse().unwrap();
    JobRequest::Capture { computer, into, after, power_on: false, note: None, whole }
}
fn delete(text: &str, now: bool) -> JobRequest {
    JobRequest::DeleteImage { image: image(text), now }
}
async fn loaded(lab: &Lab) {
    lab.done(load("debian")).await;
}
async fn nothing(_: &Lab) {}
/// Makes two more revisions.
async fn three(lab: &Lab) {
    for _ in 0..2 {
        loaded(lab).await;
        lab.done(capture(CaptureInto::Next, After::Release, true)).await;
    }
}

#[tokio::test]
async fn a_load_survives_whatever_happens() {
    let report = matrix("load", nothing, |_| load("debian"), true).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn a_load_over_another_image_survives_whatever_happens() {
    let prepare = async |lab: &Lab| {
        lab.done(from_vm("other", "two-disks")).await;
        loaded(lab).await;
    };
    let report = matrix("load over another", prepare, |_| load("other"), false).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn a_capture_survives_whatever_happens() {
    let request = |_: &Utf8Path| capture(CaptureInto::Next, After::Release, false);
    let report = matrix("capture", loaded, request, true).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn a_capture_that_resumes_survives_whatever_happens() {
    let request = |_: &Utf8Path| capture(CaptureInto::Next, After::Resume, false);
    let report = matrix("capture and resume", loaded, request, true).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn a_capture_that_keeps_the_computer_off_survives_whatever_happens() {
    let request = |_: &Utf8Path| capture(CaptureInto::Next, After::KeepOff, true);
    let report = matrix("capture and keep off, whole", loaded, request, true).await;
    assert!(report.steps >= 8, "{report}");
}
#[tokio::test]
async fn a_capture_into_a_new_image_survives_whatever_happens() {
    let request = |_: &Utf8Path| capture(CaptureInto::New("fresh".parse().unwrap()), After::Release, false);
    let report = matrix("capture into a new image", loaded, request, true).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn an_unload_survives_whatever_happens() {
    let request = |_: &Utf8Path| JobRequest::Unload { computer: "a".parse().unwrap() };
    let report = matrix("unload", loaded, request, false).await;
    assert!(report.steps >= 4, "{report}");
}
#[tokio::test]
async fn an_import_survives_whatever_happens() {
    let prepare = async |lab: &Lab| {
        std::fs::write(lab.root.join("disk.raw"), crate::exchange::tests::world::noise(256 << 10, 7))
            .unwrap();
    };
    let request = |root: &Utf8Path| JobRequest::Import {
        image: "mine".parse().unwrap(),
        path: root.join("disk.raw").into(),
        boot: None,
        hardware: None,
        os: vcl_types::OsName::Linux,
        note: None,
    };
    let report = matrix("import", prepare, request, true).await;
    assert!(report.steps >= 5, "{report}");
}
#[tokio::test]
async fn an_image_from_a_machine_survives_whatever_happens() {
    let report = matrix("create from a machine", nothing, |_| from_vm("web", "old-web"), true).await;
    assert!(report.steps >= 10, "{report}");
}
#[tokio::test]
async fn an_export_survives_whatever_happens() {
    let request = |root: &Utf8Path| JobRequest::Export {
        image: image("debian"),
        path: root.join("out/debian.vmdk").into(),
        format: "vmdk".into(),
    };
    let report = matrix("export", nothing, request, true).await;
    assert!(report.steps >= 1, "{report}");
}
#[tokio::test]
async fn a_verification_survives_whatever_happens() {
    let report = matrix("verify", nothing, |_| JobRequest::Verify { image: image("debian") }, true).await;
    assert!(report.steps >= 1, "{report}");
}
#[tokio::test]
async fn a_deletion_survives_whatever_happens() {
    let report = matrix("delete into the trash", nothing, |_| delete("debian@1", false), true).await;
    assert!(report.steps >= 2, "{report}");
}
#[tokio::test]
async fn a_deletion_for_good_survives_whatever_happens() {
    let report = matrix("delete for good", nothing, |_| delete("debian@1", true), true).await;
    assert!(report.steps >= 3, "{report}");
}
#[tokio::test]
async fn an_undeletion_survives_whatever_happens() {
    let prepare = async |lab: &Lab| lab.done(delete("debian@1", false)).await;
    let request = |_: &Utf8Path| JobRequest::Undelete { image: image("debian@1") };
    let report = matrix("undelete", prepare, request, true).await;
    assert!(report.steps >= 2, "{report}");
}
#[tokio::test]
async fn a_flattening_survives_whatever_happens() {
    let prepare = async |lab: &Lab| scene::publish_delta(lab, "debian").await;
    let request = |_: &Utf8Path| JobRequest::Flatten { image: image("debian@2") };
    let report = matrix("flatten", prepare, request, true).await;
    assert!(report.steps >= 6, "{report}");
}
fn prune(now: bool) -> impl Fn(&Utf8Path) -> JobRequest {
    let image = "debian".parse().unwrap();
    let request = JobRequest::Prune { image, keep: Some(1), older_than_s: None, owner: None, now };
    move |_| request.clone()
}
#[tokio::test]
async fn a_pruning_survives_whatever_happens() {
    let report = matrix("prune", three, prune(false), true).await;
    assert!(report.steps >= 4, "{report}");
}
#[tokio::test]
async fn a_pruning_for_good_survives_whatever_happens() {
    let report = matrix("prune for good", three, prune(true), true).await;
    assert!(report.steps >= 6, "{report}");
}
#[tokio::test]
async fn a_backup_survives_whatever_happens() {
    let request =
        |root: &Utf8Path| JobRequest::Backup { directory: root.join("out/backup").into(), node: None };
    let report = matrix("backup", nothing, request, false).await;
    assert!(report.steps >= 6, "{report}");
}
/// What was fetched whole stays, whatever becomes of the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fetch_survives_whatever_happens() {
    let world = World::new();
    let other = world.library("other");
    let manifest = publish(&other, "far@2", MIB / 4, 1).await;
    let nobody = "127.0.0.1:1".parse().unwrap();
    let server = world.serve(world.end("node2", &[("node1", nobody)]), &other, "127.0.0.2").await;
    let end = world.end("node1", &[("node2", server.address)]);
    let prepare = async |lab: &Lab| {
        lab.node.queue.rebuild_from(std::slice::from_ref(&manifest)).await.map(drop).unwrap();
    };
    let request = |_: &Utf8Path| JobRequest::Fetch { image: image("far@2"), node: Some("node1".into()) };
    let report = matrix_with("fetch", Some(end), prepare, request, false).await;
    assert!(report.steps >= 2, "{report}");
}
