//! Two clones of a revision on real guests: whether they are two machines.

use crate::Case;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use vcl_tests::daemon::Daemon;
use vcl_tests::guest::Kind;
use vcl_types::api::{ComputerView, RevisionView};
use vcl_types::lending::ReservationView;
use vcl_types::state::computer::State;
use vcl_types::state::job::State::Done;
use vcl_types::{ImageTest, item_in_words};

const ID: &str = "0123456789abcdef0123456789abcdef";
/// What somebody who wants a licence to go on working puts into an image: whenever the guest boots, it is who it was.
const PUT_BACK: &str = "mkdir -p /etc/systemd/system/ssh.service.d && \
    printf '[Service]\\nExecStartPre=/bin/sh -c \"echo ID >/etc/machine-id\"\\n' \
    >/etc/systemd/system/ssh.service.d/zz-same-id.conf && sync";

#[test]
fn clones_that_share_a_machine_id_keep_their_revision_from_production() -> Result<()> {
    let test = "clones::clones_that_share_a_machine_id_keep_their_revision_from_production";
    let Some(case) = Case::enter(test, Kind::Fast)? else { return Ok(()) };
    let mut setup = case.setup(&["a", "b"]);
    let scripts = case.path().join("tests");
    setup.more.push_str(&format!(
        "[reservations]\nafter_use = \"nothing\"\npromote_needs_test = true\ntests = \"{scripts}\"\n"
    ));
    fs::create_dir_all(&scripts)?;
    let script = scripts.join("10-who");
    fs::write(
        &script,
        "#!/bin/sh\nset -eu\n[ \"$(hostname)\" = \"$VCLD_COMPUTER\" ]\n\
        [ \"$VCLD_OTHER_COMPUTER\" != \"$VCLD_COMPUTER\" ]\n\
        echo \"$VCLD_STAGE of $VCLD_IMAGE on clone $VCLD_CLONE as $(id -un)\"\n",
    )?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let daemon = Daemon::start(setup)?;
    case.import(&daemon, "debian", "")?;
    // Until a revision has passed its test the one in production is given out, whatever is newer.
    let _: RevisionView = daemon.json(&["promote", "debian@1", "--force"])?;

    // Two captures of one image, side by side: what somebody who did not know better has put into one of them is all that
    // tells them apart.
    let both = |of: [&[&str]; 2]| -> Result<()> {
        let jobs = [daemon.queue(of[0])?, daemon.queue(of[1])?];
        for job in jobs {
            let ended = daemon.wait_end(job, crate::LONG)?;
            ensure!(ended.state == Done, "{ended:#?}");
        }
        Ok(())
    };
    both([&["load", "a", "debian"], &["load", "b", "debian"]])?;
    daemon.ssh("b", &PUT_BACK.replace("ID", ID))?;
    both([&["capture", "a"], &["capture", "b", "--new", "bad"]])?;

    // A good one passes, its scripts ran in both, and it is promoted.
    assert!(daemon.refused(&["promote", "debian@2"])?.contains("vclctl image test debian@2"));
    let passed: ImageTest = daemon.json(&["image", "test", "debian@2"])?;
    assert!(passed.passed, "{passed:#?}");
    for item in ["machine-id", "ssh-host-key", "hostname"] {
        let compared = passed.compared.iter().find(|one| one.item == item).context(item)?;
        assert!(compared.first > 0 && compared.second > 0, "{compared:?}");
    }
    let said: Vec<&str> = passed.scripts.iter().map(|run| run.said.as_str()).collect();
    assert_eq!(said, ["test of debian@2 on clone 1 as root", "test of debian@2 on clone 2 as root"]);
    let promoted: RevisionView = daemon.json(&["promote", "debian@2"])?;
    assert!(promoted.production);
    let reserved: ReservationView = daemon.json(&["reserve", "debian"])?;
    assert_eq!(reserved.image.to_string(), "debian@2");
    let released: ReservationView = daemon.json(&["release", &reserved.id.to_string()])?;
    let taken_back = daemon.wait_end(released.job.context("nobody takes it back")?, crate::LONG)?;
    ensure!(taken_back.state == Done, "{taken_back:#?}");
    for name in ["a", "b"] {
        let view: ComputerView = daemon.computer(name)?;
        assert_eq!((view.state, view.loaded), (State::Available, None));
    }

    let refused = daemon.refused(&["image", "test", "bad@1"])?;
    assert!(
        refused.contains(&format!("both clones have {}: {ID}", item_in_words("machine-id"))),
        "{refused}"
    );
    let failed = daemon.image("bad")?.revisions[0].tested.clone().context("it was not tested")?;
    let shared: Vec<_> = failed.shared.iter().map(|one| (one.item.as_str(), one.value.as_str())).collect();
    assert_eq!(shared, [("machine-id", ID)]);
    assert!(failed.problems.is_empty() && failed.scripts.iter().all(|run| run.status == 0), "{failed:#?}");
    let refused = daemon.refused(&["promote", "bad@1"])?;
    assert!(refused.contains("the machine-id") && refused.contains("vclctl image test bad@1"), "{refused}");
    ensure!(!daemon.image("bad")?.revisions[0].production);
    case.nothing_left(&daemon)
}
