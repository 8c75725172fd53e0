//! Load, capture, load what was captured elsewhere: in each way that there is.

use crate::bench::{Bench, MARKER_AT, Way, done};
use vcl_os::EndState;
use vcl_provisioning::vmware::CaptureTo;
use vcl_types::ImageRef;
use vcl_types::api::PowerState;

async fn round(way: Way) {
    let bench = Bench::new(way);
    let first = bench.import("debian").await;
    let at = done(bench.load("a", &first).await);
    let machine = bench.double.machine("vcl-a").unwrap().unwrap();
    assert_eq!((machine.power.as_str(), machine.template), ("poweredOn", false));
    assert_eq!(machine.macs, [bench.computers["a"].nics[0].mac.clone()]);
    assert_eq!(bench.backend.state(&bench.computers["a"]).await.unwrap(), PowerState::On);
    assert_eq!(bench.backend.powers().await.unwrap()[&"a".parse().unwrap()], PowerState::On);
    let listed = bench.backend.vms().await.unwrap();
    let listed = listed.iter().find(|vm| vm.name == "vcl-a").unwrap();
    assert_eq!(listed.managed.as_ref().map(|c| c.as_str()), Some("a"));
    assert_eq!(listed.hardware.cpus, 2);
    bench.same("a", &first);

    // Captured as a delta over what it was loaded from, with what the guest wrote.
    *bench.ghost.marker.lock().unwrap() = b"what the guest wrote".to_vec();
    let parent = ImageRef::new("debian".parse().unwrap(), 1);
    let staging = bench.library.staging("job2-token1").unwrap();
    let staging = staging.over(bench.library.base(&parent).unwrap());
    let captured = done(bench.capture("a", &first, &at, &staging).await);
    assert_eq!(*bench.ghost.ends.lock().unwrap(), [EndState::Off]);
    assert_eq!(captured.hardware.cpus, 2);
    assert_eq!(bench.backend.state(&bench.computers["a"]).await.unwrap(), PowerState::Off);
    let second = bench.publish("debian", 2, Some(parent), &staging, captured.hardware).await;
    let disk = &second.manifest.disks[0];
    assert!(disk.over.is_some() && disk.file_size.bytes() < 2 << 20, "{disk:?}");
    bench.unload("a").await;
    bench.nothing_left().await;

    // The datastore has it already, under the digest that the library has found by itself: nothing is sent.
    bench.double.forget_calls().unwrap();
    done(bench.load("b", &second).await);
    bench.same("b", &second);
    assert_eq!(bench.bytes("b", MARKER_AT, 20), b"what the guest wrote");
    // The word that an image was used is a file of no bytes.
    let sent = bench.double.count("PUT").unwrap();
    assert!(sent <= 1, "{sent} files were sent: {:?}", bench.double.calls().unwrap());
    bench.unload("b").await;
    bench.unload("b").await;
    bench.nothing_left().await;
    bench.backend.close().await;
    assert_eq!(bench.double.sessions().unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_is_found_elsewhere_on_an_esxi_host() {
    round(Way::Esx).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_is_found_elsewhere_on_a_vcenter_that_copies() {
    round(Way::Copy).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_is_found_elsewhere_on_a_vcenter_that_clones_and_captures_disks() {
    round(Way::Clone(CaptureTo::Disk)).await;
}
#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_wrote_is_found_elsewhere_on_a_vcenter_that_clones_and_captures_templates() {
    round(Way::Clone(CaptureTo::Template)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_loads_of_one_revision_send_it_once() {
    let bench = Bench::new(Way::Esx);
    let first = bench.import("debian").await;
    let (a, b) = tokio::join!(bench.load("a", &first), bench.load("b", &first));
    done(a);
    done(b);
    bench.same("a", &first);
    bench.same("b", &first);
    // The flat file, its descriptor, and a word that it was used by each of the two.
    assert_eq!(bench.double.count("PUT").unwrap(), 4);
    bench.unload("a").await;
    bench.unload("b").await;
    bench.nothing_left().await;
}
