//! The conformance kit on both backends, in each way in which computers are made.

use crate::bench::Way;
use crate::world::{VcsimWorld, full};
use std::path::Path;
use vcl_provisioning::conformance;
use vcl_provisioning::vmware::CaptureTo;

/// Runs all cases; the whole run (`VCL_FULL`) has a name and a report of its own.
fn conforms(way: Way, name: [&'static str; 2], file: &str) {
    let (name, more) = if full() { (name[1], "-whole") } else { (name[0], "") };
    let record = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/conformance/{file}{more}.json"));
    conformance::check(async { VcsimWorld::new(name, way) }, Some(&record));
}

#[test]
fn a_vcenter_that_clones_does_what_a_backend_has_to() {
    let name = ["vmware (clone)", "vmware (clone), whole"];
    conforms(Way::Clone(CaptureTo::Template), name, "vmware-clone");
}
#[test]
fn a_vcenter_that_copies_does_what_a_backend_has_to() {
    conforms(Way::Copy, ["vmware (copy)", "vmware (copy), whole"], "vmware-copy");
}
#[test]
fn an_esxi_host_does_what_a_backend_has_to() {
    conforms(Way::Esx, ["esx", "esx, whole"], "esx");
}

/// The kit's loads find the disk at the datastore from the second on. Here they do not, and are interrupted while it is
/// sent and while a template is made of it.
async fn interrupted_without_images(way: Way) {
    const CASES: &str = "load-killed,load-stopped,load-lease-lost,load-called-off,undo-twice,plan-is";
    let report = conformance::run(&VcsimWorld::without_images(way), Some(CASES)).await.unwrap();
    assert_eq!(report.failed(), Vec::<String>::new());
    assert_eq!(report.cases.iter().filter(|row| row.verdict.word() == "passed").count(), 9, "{report}");
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_sends_its_disk_is_interrupted_as_any_other() {
    interrupted_without_images(Way::Esx).await;
}
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_that_makes_its_template_is_interrupted_as_any_other() {
    interrupted_without_images(Way::Clone(CaptureTo::Disk)).await;
}
