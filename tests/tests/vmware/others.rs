//! What is another's: machines that somebody has made, or has taken for himself under another name. Nothing of vcld's
//! changes them, and what is to be undone is undone without them.

use crate::bench::{Bench, Way, done, failed, flat, settings};
use crate::curl::Client;
use camino::Utf8Path;
use serde_json::json;
use vcl_job::Kind;
use vcl_provisioning::vmware::CaptureTo;
use vcl_tests::vcsim::Vcsim;
use vcl_types::api::PowerState;

fn rename(bench: &Bench, from: &str, to: &str) {
    let id = bench.double.machine(from).unwrap().unwrap().id;
    Client::of(&bench.double).done(&format!(
        "<Rename_Task xmlns='urn:vim25'><_this type='VirtualMachine'>{id}</_this><newName>{to}</newName></Rename_Task>"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_renamed_to_keep_it_keeps_its_disks() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    done(bench.load("a", &first).await);
    let machine = bench.double.machine("vcl-a").unwrap().unwrap();
    Client::of(&bench.double).done(&Client::of_machine("PowerOffVM_Task", &machine.id));
    rename(&bench, "vcl-a", "keep-this");
    let failure = failed(bench.load("a", &first).await);
    assert_eq!(failure.kind, Kind::Exists);
    assert!(failure.message.contains("the machine keep-this lies in [LocalDS_0] vcl-a"), "{failure}");
    // What an interrupted load has copied is undone, unless it has become another's.
    let copied =
        json!({ "from": "vcl-images/x/disk.vmdk", "to": "vcl-a/disk0.vmdk", "size": crate::bench::DISK });
    bench.backend.undo("copy disk at host", copied).await.unwrap();
    assert!(flat(&bench.double.datastore_directory(), &machine.disks[0]).exists());
    assert_eq!(bench.double.machine("keep-this").unwrap().unwrap().path, machine.path);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_which_a_machine_has_no_more_than_a_disk_is_not_cleared() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    let blank = Utf8Path::from_path(bench.directory.path()).unwrap().join("blank");
    std::fs::write(&blank, vec![7; 1 << 20]).unwrap();
    let disk = bench.double.put_disk("vcl-a/data", &blank).unwrap();
    let client = Client::of(&bench.double);
    client.done(&client.create("elsewhere", &disk, "02:00:00:00:02:03"));
    let failure = failed(bench.load("a", &first).await);
    assert!(failure.message.contains("the machine elsewhere lies in [LocalDS_0] vcl-a"), "{failure}");
    assert!(flat(&bench.double.datastore_directory(), &disk).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computer_that_is_called_as_the_directory_of_images_does_not_clear_it() {
    let mut bench = Bench::new(Way::Esx);
    let mut settings = settings(&bench.double, Utf8Path::from_path(bench.directory.path()).unwrap());
    settings.images = "vcl-a".into();
    bench.backend = Way::Esx.open(settings);
    let first = bench.import("debian").await;
    done(bench.load("b", &first).await);
    let failure = failed(bench.load("a", &first).await);
    assert_eq!(failure.kind, Kind::Exists);
    assert!(failure.message.contains("holds vcld's images"), "{failure}");
    let content = first.manifest.disks[0].content_digest.to_string();
    assert!(bench.double.datastore_directory().join("vcl-a").join(content).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_leaves_what_is_anothers_and_is_done() {
    let bench = Bench::new(Way::Clone(CaptureTo::Template));
    let blank = Utf8Path::from_path(bench.directory.path()).unwrap().join("blank");
    std::fs::write(&blank, vec![7; 1 << 20]).unwrap();
    let client = Client::of(&bench.double);
    let disk = bench.double.put_disk("vcl-a/disk0", &blank).unwrap();
    client.done(&client.create("vcl-a", &disk, "02:00:00:00:02:04"));
    client.done(&Client::of_machine("PowerOnVM_Task", &bench.double.machine("vcl-a").unwrap().unwrap().id));
    let before = bench.double.machine("vcl-a").unwrap().unwrap();
    let made = json!({ "machine": "vcl-a", "directory": "vcl-a" });
    let cloned = json!({ "from": "vcl-image-x", "machine": "vcl-a" });
    for (step, intent) in [
        ("prepare host", made.clone()),
        ("copy disk at host", json!({ "from": "x", "to": "vcl-a/disk0.vmdk", "size": 1 << 20 })),
        ("create machine", made.clone()),
        ("start", json!("vcl-a")),
        ("make template", made),
        ("clone template", cloned.clone()),
        ("clone captured machine", cloned),
    ] {
        bench.backend.undo(step, intent).await.unwrap_or_else(|e| panic!("{step}: {}", e.failure()));
        let after = bench.double.machine("vcl-a").unwrap().unwrap();
        assert_eq!(format!("{after:?}"), format!("{before:?}"), "{step}");
        assert_eq!(
            std::fs::read(flat(&bench.double.datastore_directory(), &disk)).unwrap(),
            vec![7; 1 << 20]
        );
    }
    let computer = &bench.computers["a"];
    assert_eq!(bench.backend.state(computer).await.unwrap(), PowerState::Absent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_got_the_name_of_another_computers_is_not_that_computers() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    done(bench.load("b", &first).await);
    rename(&bench, "vcl-b", "vcl-a");
    assert_eq!(bench.backend.state(&bench.computers["a"]).await.unwrap(), PowerState::Absent);
    let failure = failed(bench.load("a", &first).await);
    assert_eq!(failure.kind, Kind::Exists);
    assert!(failure.message.contains("was made for b; give it its name back: vcl-b"), "{failure}");
    rename(&bench, "vcl-a", "vcl-b");
    assert_eq!(bench.backend.state(&bench.computers["b"]).await.unwrap(), PowerState::On);
    done(bench.load("a", &first).await);
    bench.unload("a").await;
    bench.unload("b").await;
    bench.nothing_left().await;
}

/// Captures with `hook` done to `vcl-a` when a step begins, and answers how that failed.
async fn meddled(
    way: Way,
    step: &'static str,
    hook: impl Fn(&Vcsim) + Send + 'static,
) -> (Bench, vcl_job::Failure) {
    let bench = Bench::new(way);
    let first = bench.import("debian").await;
    let at = done(bench.load("a", &first).await);
    let staging = bench.library.staging("job2-token1").unwrap();
    bench.when_begins(step, hook);
    let failure = failed(bench.capture("a", &first, &at, &staging).await);
    assert_eq!(failure.kind, Kind::Refused, "{failure}");
    (bench, failure)
}
fn to_machine(double: &Vcsim, method: &str, more: &str) {
    let id = double.machine("vcl-a").unwrap().unwrap().id;
    let request = Client::of_machine(method, &id).replace("</_this>", &format!("</_this>{more}"));
    Client::of(double).done(&request);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_somebody_turns_on_before_its_disks_are_copied_is_not_captured() {
    for (way, step) in
        [(Way::Esx, "copy captured disk"), (Way::Clone(CaptureTo::Template), "clone captured machine")]
    {
        let on = |double: &Vcsim| to_machine(double, "PowerOnVM_Task", "");
        let (bench, failure) = meddled(way, step, on).await;
        assert!(failure.message.contains("vcl-a was turned on by somebody"), "{failure}");
        bench.unload("a").await;
        bench.nothing_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_snapshot_is_not_captured() {
    const SNAPSHOT: &str = "<name>backup</name><memory>false</memory><quiesce>false</quiesce>";
    for (way, step, touched) in [
        (Way::Esx, "read machine", false),
        (Way::Esx, "read machine again", true),
        (Way::Esx, "copy captured disk", true),
        (Way::Clone(CaptureTo::Template), "clone captured machine", true),
    ] {
        let snapshot = |double: &Vcsim| to_machine(double, "CreateSnapshot_Task", SNAPSHOT);
        let (bench, failure) = meddled(way, step, snapshot).await;
        assert!(failure.message.contains("vcl-a has a snapshot"), "{step}: {failure}");
        assert_eq!(!bench.ghost.ends.lock().unwrap().is_empty(), touched, "{step}");
        bench.unload("a").await;
        bench.nothing_left().await;
    }
}
