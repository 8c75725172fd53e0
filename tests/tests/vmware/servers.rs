//! Which servers are spoken to, and what is found wrong with one.

use crate::bench::{Bench, Way, settings};
use camino::Utf8Path;
use vcl_provisioning::esx::Esx;
use vcl_provisioning::vim25::Trust;
use vcl_provisioning::vmware::{CaptureTo, Method, Vmware};
use vcl_provisioning::{ErrorKind, Provisioning};
use vcl_tests::vcsim::{Mode, Vcsim};
use vcl_types::api::FindingLevel;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_certificate_is_not_logged_in_to() {
    let directory = tempfile::tempdir().unwrap();
    let directory = Utf8Path::from_path(directory.path()).unwrap();
    let double = Vcsim::start(Mode::Esx).unwrap();
    let wrong = "00".repeat(32);
    for (trust, well) in [
        (Trust::Fingerprint(wrong.parse().unwrap()), false),
        (Trust::Fingerprint(double.sha1().parse().unwrap()), true),
        (Trust::Ca(double.ca_file()), true),
    ] {
        let mut settings = settings(&double, directory);
        settings.server.trust = trust;
        let answer = Esx::new(settings).unwrap().powers().await;
        if well {
            assert_eq!(answer.unwrap().len(), 0);
            continue;
        }
        let error = answer.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
        let text = error.chain();
        assert!(text.contains(double.sha256()) && text.contains("`fingerprint`"), "{text}");
        assert_eq!(double.count("Login").unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_the_other_kind_is_refused_with_the_way_out() {
    let directory = tempfile::tempdir().unwrap();
    let directory = Utf8Path::from_path(directory.path()).unwrap();
    let (host, centre) = (Vcsim::start(Mode::Esx).unwrap(), Vcsim::start(Mode::VCenter).unwrap());
    let centre_on_host = Vmware::new(settings(&host, directory), Method::Clone, CaptureTo::Disk).unwrap();
    let host_on_centre = Esx::new(settings(&centre, directory)).unwrap();
    for (error, way_out) in [
        (centre_on_host.powers().await.unwrap_err(), "type = \"esx\""),
        (host_on_centre.powers().await.unwrap_err(), "type = \"vmware\""),
    ] {
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.chain().contains(way_out), "{}", error.chain());
    }
    assert_eq!((host.count("Login").unwrap(), centre.count("Login").unwrap()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_licence_and_a_missing_network_are_found_before_any_job() {
    let well = Bench::new(Way::Esx);
    let findings = well.backend.findings().await;
    assert!(findings.iter().all(|f| f.level == FindingLevel::Ok), "{findings:#?}");
    let double = Vcsim::builder(Mode::Esx).read_only_licence().start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(&double, Utf8Path::from_path(directory.path()).unwrap());
    let mut elsewhere = settings.networks.values().next().unwrap().clone();
    elsewhere.plug = vcl_provisioning::Plug::PortGroup("Nowhere".into());
    settings.networks.insert("far".parse().unwrap(), elsewhere);
    let findings = Esx::new(settings).unwrap().findings().await;
    let wrong: Vec<_> = findings.iter().filter(|f| f.level == FindingLevel::Error).collect();
    assert_eq!(wrong.len(), 2, "{findings:#?}");
    assert!(wrong[0].what.ends_with("licence") && wrong[0].found.contains("RestrictedVersion"), "{wrong:?}");
    assert!(wrong[1].what.ends_with("network far") && wrong[1].found.contains("`Nowhere`"), "{wrong:?}");
}
