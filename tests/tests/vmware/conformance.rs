//! The conformance kit on both backends, in each way in which computers are made.

use crate::bench::Way;
use crate::world::VcsimWorld;
use vcl_provisioning::conformance;
use vcl_provisioning::vmware::CaptureTo;

conformance!(
    a_vcenter_that_clones_does_what_a_backend_has_to,
    VcsimWorld::new("vmware (clone)", Way::Clone(CaptureTo::Template)),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance/vmware-clone.json")
);
conformance!(
    a_vcenter_that_copies_does_what_a_backend_has_to,
    VcsimWorld::new("vmware (copy)", Way::Copy),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance/vmware-copy.json")
);
conformance!(
    an_esxi_host_does_what_a_backend_has_to,
    VcsimWorld::new("esx", Way::Esx),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/conformance/esx.json")
);

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
