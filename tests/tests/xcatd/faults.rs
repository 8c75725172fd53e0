//! What goes wrong on demand, as a client sees it.

use anyhow::Result;
use serde_json::json;
use vcl_tests::xcatd::{Fault, NodeSetup, Setup, Xcatd};

fn started(directory: &tempfile::TempDir) -> Result<(Xcatd, String)> {
    let mut setup = Setup::new(camino::Utf8Path::from_path(directory.path()).unwrap());
    setup.nodes = vec![NodeSetup::hollow("n1"), NodeSetup::hollow("n2")];
    let xcatd = Xcatd::start(setup)?;
    let token = super::log_in(&xcatd)?;
    Ok((xcatd, token))
}

const POWER: &str = "PUT /nodes/n1/power";
const ON: Option<&str> = Some(r#"{"action": "on"}"#);

#[test]
fn a_bmc_refuses_so_often_and_then_obeys() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (xcatd, token) = started(&directory)?;
    xcatd.fault(Fault::Bmc { node: "n1".into(), text: "ERROR: Node busy".into(), times: 2 });
    for _ in 0..2 {
        let answer = super::ask(&xcatd, &token, POWER, ON)?;
        assert_eq!(answer, (403, json!({"error": ["n1: ERROR: Node busy"], "errorcode": "1"})));
    }
    assert!(!xcatd.is_on("n1"));
    assert_eq!(super::ask(&xcatd, &token, POWER, ON)?.0, 200);
    assert!(xcatd.is_on("n1"));
    assert_eq!(xcatd.attribute("n1", "status").as_deref(), Some("powering-on"));
    let asked = xcatd.requests();
    assert_eq!(asked.iter().filter(|asked| asked.status == Some(403)).count(), 2, "{asked:?}");
    Ok(())
}

#[test]
fn a_dead_bmc_stays_dead_until_it_is_mended() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (xcatd, token) = started(&directory)?;
    xcatd.fault(Fault::BmcDead { node: "n1".into() });
    for _ in 0..3 {
        let (status, body) = super::ask(&xcatd, &token, "GET /nodes/n1,n2/power", None)?;
        assert_eq!((status, &body["error"]), (403, &json!(["n1: ERROR: timeout"])));
    }
    xcatd.mend();
    let (status, body) = super::ask(&xcatd, &token, "GET /nodes/n1,n2/power", None)?;
    assert_eq!((status, body), (200, json!({"n1": {"power": "off"}, "n2": {"power": "off"}})));
    Ok(())
}

#[test]
fn a_bmc_says_yes_and_does_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (xcatd, token) = started(&directory)?;
    xcatd.fault(Fault::PowerIgnored { node: "n1".into(), times: 1 });
    assert_eq!(super::ask(&xcatd, &token, POWER, ON)?.0, 200);
    assert!(!xcatd.is_on("n1"));
    assert_eq!(super::ask(&xcatd, &token, POWER, ON)?.0, 200);
    assert!(xcatd.is_on("n1"));
    Ok(())
}

#[test]
fn expired_tokens_let_nobody_in() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (xcatd, token) = started(&directory)?;
    assert_eq!(super::ask(&xcatd, &token, "GET /nodes", None)?, (200, json!(["n1", "n2"])));
    xcatd.fault(Fault::TokensExpire);
    let (status, body) = super::ask(&xcatd, &token, "GET /nodes", None)?;
    assert_eq!((status, body), (401, json!({"error": "Authentication failure", "errorcode": "2"})));
    let token = super::log_in(&xcatd)?;
    assert_eq!(super::ask(&xcatd, &token, "GET /nodes", None)?.0, 200);
    Ok(())
}

#[test]
fn a_dropped_connection_may_have_done_its_work() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (xcatd, token) = started(&directory)?;
    for (after, on) in [(false, false), (true, true)] {
        xcatd.fault(Fault::Drop { path: "/nodes/n1/power".into(), after, times: 1 });
        let error = super::ask(&xcatd, &token, POWER, ON).unwrap_err();
        assert!(error.to_string().contains("curl"), "{error}");
        assert_eq!(xcatd.is_on("n1"), on);
    }
    assert_eq!(super::ask(&xcatd, &token, POWER, ON)?.0, 200);
    Ok(())
}
