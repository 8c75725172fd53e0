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
