//! What goes wrong at a site: each is recovered from or told plainly, and leaves nothing.

use crate::bench::{Bench, DISK, MARKER_AT, Way, done, failed};
use std::time::Duration;
use vcl_job::{Control, Kind};
use vcl_provisioning::vmware::CaptureTo;
use vcl_tests::vcsim::{Fault, Mode, PutRange, Vcsim};
use vcl_types::ImageRef;

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_by_itself_is_waited_for() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    bench.double.inject(Fault::on("PowerOnVM_Task").soap("FileLocked").times(2)).unwrap();
    bench.double.inject(Fault::on("CopyVirtualDisk_Task").task("TaskInProgress")).unwrap();
    bench.double.inject(Fault::on("CreateVM_Task").lose_answer()).unwrap();
    bench.double.inject(Fault::on("MoveDatastoreFile_Task").lose_answer()).unwrap();
    done(bench.load("a", &first).await);
    bench.same("a", &first);
    bench.unload("a").await;
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_in_the_middle_of_a_task_is_renewed_and_the_task_goes_on() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    bench.double.task_time("CopyVirtualDisk_Task", Duration::from_secs(1)).unwrap();
    bench.double.inject(Fault::on("CopyVirtualDisk_Task").expire_sessions()).unwrap();
    bench.double.inject(Fault::on("PUT").expire_sessions()).unwrap();
    done(bench.load("a", &first).await);
    assert_eq!(bench.double.count("CopyVirtualDisk_Task").unwrap(), 1);
    assert_eq!(bench.double.count("Login").unwrap(), 3);
    bench.same("a", &first);
    bench.unload("a").await;
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_clone_is_worked_with_by_copies() {
    let bench = Bench::new(Way::Clone(CaptureTo::Template));
    let first = bench.import("debian").await;
    bench.double.inject(Fault::on("CloneVM_Task").soap("NotSupported").always()).unwrap();
    let at = done(bench.load("a", &first).await);
    bench.same("a", &first);
    assert_eq!(bench.events("clone-unsupported").len(), 1);
    let staging = bench.library.staging("job2-token1").unwrap();
    let captured = done(bench.capture("a", &first, &at, &staging).await);
    let parent = ImageRef::new("debian".parse().unwrap(), 1);
    let second = bench.publish("debian", 2, Some(parent), &staging, captured.hardware).await;
    bench.unload("a").await;
    done(bench.load("b", &second).await);
    bench.same("b", &second);
    bench.unload("b").await;
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_datastore_fails_the_load_and_leaves_nothing() {
    for fault in [
        Fault::on("PUT").status(507),
        Fault::on("CopyVirtualDisk_Task").task("NoDiskSpace"),
        Fault::on("CreateVM_Task").task("NoDiskSpace"),
    ] {
        let bench = Bench::new(Way::Esx);
        let first = bench.import("debian").await;
        bench.double.inject(fault.always()).unwrap();
        let failure = failed(bench.load("a", &first).await);
        assert_eq!(failure.kind, Kind::NoSpace, "{failure}");
        assert!(failure.message.contains("make room on the datastore"), "{failure}");
        bench.double.clear_faults().unwrap();
        bench.nothing_left().await;
    }
}

/// An image of the bench takes somewhat less than 10 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_datastore_with_too_little_room_for_the_image_or_its_copy_fails_the_load_and_leaves_nothing() {
    for (mebibytes, images) in [(6, 0), (14, 1)] {
        let double = Vcsim::builder(Mode::Esx).capacity(mebibytes << 20).start().unwrap();
        let bench = Bench::on(Way::Esx, double);
        let first = bench.import("debian").await;
        let failure = failed(bench.load("a", &first).await);
        assert_eq!(failure.kind, Kind::NoSpace, "{failure}");
        assert!(failure.message.contains("make room on the datastore"), "{failure}");
        bench.nothing_left().await;
        let kept = bench.double.datastore_directory().join("vcl-images").read_dir_utf8().unwrap().count();
        assert_eq!(kept, images, "what was sent whole is there for the next load");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_datastore_that_is_full_at_the_capture_keeps_the_machine_and_nothing_else() {
    for way in [Way::Esx, Way::Clone(CaptureTo::Disk), Way::Clone(CaptureTo::Template)] {
        let mode = if way == Way::Esx { Mode::Esx } else { Mode::VCenter };
        let double = Vcsim::builder(mode).capacity(23 << 20).start().unwrap();
        let bench = Bench::on(way, double);
        let first = bench.import("debian").await;
        let at = done(bench.load("a", &first).await);
        let before = bench.double.machines().unwrap().len();
        let staging = bench.library.staging("job2-token1").unwrap();
        let failure = failed(bench.capture("a", &first, &at, &staging).await);
        assert_eq!(failure.kind, Kind::NoSpace, "{failure}");
        assert!(failure.message.contains("make room on the datastore"), "{failure}");
        assert!(!staging.disk(0).exists(), "{way:?}");
        assert_eq!(bench.double.machines().unwrap().len(), before, "{way:?}");
        // What it was is on its disk still, to be captured when there is room.
        assert_eq!(bench.bytes("a", MARKER_AT, 5), b"first");
        bench.unload("a").await;
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_goes_on_where_ranges_work_and_begins_again_where_they_do_not() {
    for (ranges, resumed) in
        [(PutRange::Refused, false), (PutRange::Ignored, false), (PutRange::Honoured, true)]
    {
        let double = Vcsim::builder(Mode::Esx).put_range(ranges).start().unwrap();
        let bench = Bench::on(Way::Esx, double);
        let first = bench.import("debian").await;
        bench.double.inject(Fault::on("PUT").drop_after(10 << 20)).unwrap();
        done(bench.load("a", &first).await);
        bench.same("a", &first);
        let said = bench.events("upload-broken");
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(said[0].contains(&format!("at byte 0 of {DISK}")), !resumed, "{said:?}");
        bench.unload("a").await;
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_goes_on_where_it_broke() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    let at = done(bench.load("a", &first).await);
    bench.double.inject(Fault::on("GET").drop_after(7 << 20).times(2)).unwrap();
    let staging = bench.library.staging("job2-token1").unwrap();
    let captured = done(bench.capture("a", &first, &at, &staging).await);
    assert_eq!(bench.events("download-broken").len(), 2);
    let second = bench.publish("other", 1, None, &staging, captured.hardware).await;
    bench.unload("a").await;
    done(bench.load("b", &second).await);
    bench.same("b", &second);
    bench.unload("b").await;
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_called_off_in_the_middle_of_a_copy_leaves_nothing() {
    for (way, task) in [
        (Way::Esx, "CopyVirtualDisk_Task"),
        (Way::Copy, "CopyVirtualDisk_Task"),
        (Way::Clone(CaptureTo::Disk), "CloneVM_Task"),
    ] {
        let bench = Bench::new(way);
        let first = bench.import("debian").await;
        bench.double.task_time(task, Duration::from_secs(120)).unwrap();
        let control = Control::default();
        let begun = async {
            while bench.double.count(task).unwrap() == 0 {
                tokio::task::yield_now().await;
            }
            control.cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(bench.load_within(control.clone(), "a", &first), begun);
        let failure = failed(outcome);
        assert_eq!(failure.kind, Kind::Cancelled, "{failure}");
        assert_eq!(bench.double.count("CancelTask").unwrap(), 1);
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_the_server_has_forgotten_is_not_taken_for_done() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    done(bench.load("a", &first).await);
    // The server begins to remove the machine, is restarted, and knows of no task when it is asked how that went; which
    // the client does twice, the second time with a collector of its own. The first task is the one that cuts the power.
    bench.double.inject(Fault::on("Destroy_Task").task("InvalidState")).unwrap();
    bench.double.inject(Fault::on("CreateFilter").soap("ManagedObjectNotFound").after(1).times(2)).unwrap();
    bench.unload("a").await;
    assert_eq!(bench.double.count("Destroy_Task").unwrap(), 2);
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_a_datastore_that_is_not_mounted_is_not_taken_for_gone() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    done(bench.load("a", &first).await);
    bench.double.inject(Fault::on("DeleteDatastoreFile_Task").task("InvalidDatastore")).unwrap();
    let leftover = bench.double.datastore_directory().join("vcl-a/leftover");
    std::fs::write(&leftover, "left").unwrap();
    bench.double.forget_calls().unwrap();
    bench.unload("a").await;
    assert_eq!(bench.double.count("DeleteDatastoreFile_Task").unwrap(), 2);
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_an_earlier_try_has_taken_is_waited_for() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    bench.double.inject(Fault::on("CopyVirtualDisk_Task").task("FileAlreadyExists").times(2)).unwrap();
    bench.double.inject(Fault::on("CreateVM_Task").task("DuplicateName")).unwrap();
    done(bench.load("a", &first).await);
    bench.same("a", &first);
    assert_eq!(bench.events("host-busy").len(), 1);
    bench.unload("a").await;
    bench.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_try_still_makes_is_waited_for_before_it_is_undone() {
    let bench = Bench::new(Way::Clone(CaptureTo::Disk));
    let first = bench.import("debian").await;
    let copied = |to: &str| serde_json::json!({ "from": "x/disk.vmdk", "to": to, "size": DISK });
    let cloned = serde_json::json!({ "from": "x", "machine": "vcl-a" });
    for (step, intent, method, fault) in [
        ("clone template", cloned.clone(), "PowerOffVM_Task", "TaskInProgress"),
        ("clone captured machine", cloned, "Destroy_Task", "TaskInProgress"),
        ("copy disk at host", copied("vcl-b/disk0.vmdk"), "DeleteVirtualDisk_Task", "FileLocked"),
        (
            "copy captured disk",
            copied("vcl-images/new-job1-x-a/disk.vmdk"),
            "DeleteDatastoreFile_Task",
            "FileLocked",
        ),
    ] {
        if step.starts_with("clone") {
            done(bench.load("a", &first).await);
        }
        bench.double.forget_calls().unwrap();
        bench.double.inject(Fault::on(method).task(fault).times(2)).unwrap();
        bench.backend.undo(step, intent).await.unwrap_or_else(|e| panic!("{step}: {}", e.failure()));
        assert!(bench.double.count(method).unwrap() >= 3, "{step}");
    }
    bench.nothing_left().await;
}
