//! The conformance kit on both backends, in each way in which computers are made.

use crate::bench::Way;
use crate::world::{VcsimWorld, full};
use std::path::Path;
use vcl_provisioning::conformance;
use vcl_provisioning::vmware::CaptureTo;

/// With `VCL_FULL` set guests boot, and what passed is compared with what is kept.
fn conforms(name: &'static str, way: Way, report: &str) {
    let report = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance").join(report);
    conformance::check(async { VcsimWorld::new(name, way) }, full().then_some(report.as_path()));
}

#[test]
fn a_vcenter_that_clones_does_what_a_backend_has_to() {
    conforms("vmware (clone)", Way::Clone(CaptureTo::Template), "vmware-clone.json");
}
#[test]
fn a_vcenter_that_copies_does_what_a_backend_has_to() {
    conforms("vmware (copy)", Way::Copy, "vmware-copy.json");
}
#[test]
fn an_esxi_host_does_what_a_backend_has_to() {
    conforms("esx", Way::Esx, "esx.json");
}

/// The kit's loads find the disk at the datastore from the second on. Here they do not, and are interrupted while it is
/// sent and while a template is made of it.
async fn interrupted_without_images(way: Way) {
    const CASES: &str =
        "load-killed,load-stopped,load-lease-lost,load-called-off,undo-twice,things-find-leaks,plan-is";
    let report = conformance::run(&VcsimWorld::without_images(way), Some(CASES)).await.unwrap();
    assert_eq!(report.failed(), Vec::<String>::new());
    assert_eq!(report.cases.iter().filter(|row| row.verdict.word() == "passed").count(), 10, "{report}");
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_sends_its_disk_is_interrupted_as_any_other() {
    interrupted_without_images(Way::Esx).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_makes_its_template_is_interrupted_as_any_other() {
    interrupted_without_images(Way::Clone(CaptureTo::Disk)).await;
}
