//! Every recorded request again, in its order: status, content type and body are what they were.
//!
//! What differs from one run to the next is compared by its form: tokens, and when they end. One recording is not
//! among them, `debug=2`, whose body is a dump of the CGI program's variables.

use anyhow::{Context, Result};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use vcl_tests::xcatd::{Bmc, NodeSetup, Osimage, Setup, Xcatd};

#[derive(Debug, Deserialize)]
struct Recording {
    exchanges: Vec<Exchange>,
}

#[derive(Debug, Deserialize)]
struct Exchange {
    name: String,
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    sent: Option<String>,
    status: u16,
    content_type: String,
    answered: String,
}

/// The three nodes of the recordings.
fn nodes() -> [NodeSetup; 3] {
    let node = |number: u32| {
        NodeSetup::hollow(&format!("n{number}"))
            .with("ip", &format!("10.77.0.10{number}"))
            .with("mac", &format!("52:54:00:00:01:0{number}"))
    };
    let (n1, mut n2, mut n3) = (node(1), node(2), node(3));
    n2.bmc = Bmc::WrongPassword;
    n3.bmc = Bmc::Dead;
    [n1, n2, n3]
}

fn setup(directory: &tempfile::TempDir) -> Setup {
    Setup::new(camino::Utf8Path::from_path(directory.path()).unwrap())
}

/// Bodies as they are compared: JSON without the order of its keys, dates and tokens by their form.
fn comparable(body: &str) -> Value {
    let token = Regex::new(r#""id":"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}""#).unwrap();
    let end = Regex::new(r#""expire":"\d{4}-\d{1,2}-\d{1,2} \d{1,2}:\d{1,2}:\d{1,2}""#).unwrap();
    let body = token.replace(body, r#""id":"TOKEN""#);
    let body = end.replace(&body, r#""expire":"DATE""#);
    serde_json::from_str(&body).unwrap_or_else(|_| Value::String(body.into_owned()))
}

/// Plays a recording; what came out differently.
fn play(xcatd: &Xcatd, recording: &str) -> Result<Vec<String>> {
    let recording: Recording = serde_json::from_str(recording)?;
    assert!(recording.exchanges.len() > 20, "recordings are missing");
    let mut differences = Vec::new();
    let mut token = String::new();
    for exchange in recording.exchanges {
        let headers: Vec<(String, String)> = exchange
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.replace("TOKEN", &token)))
            .collect();
        let (status, content_type, body) =
            super::call(xcatd, &exchange.request, &headers, exchange.sent.as_deref())
                .with_context(|| exchange.name.clone())?;
        if status == 201
            && token.is_empty()
            && let Ok(made) = serde_json::from_str::<Value>(&body)
        {
            token = made["token"]["id"].as_str().unwrap_or_default().to_owned();
        }
        let same_form = exchange.request.contains("pretty=1") <= (body == exchange.answered)
            && body.ends_with('\n') == exchange.answered.ends_with('\n');
        if (status, &content_type) != (exchange.status, &exchange.content_type)
            || comparable(&body) != comparable(&exchange.answered)
            || !same_form
        {
            differences.push(format!(
                "{}: {} {:?}\n  recorded {} {:?}\n  answered {status} {body:?} ({content_type})",
                exchange.name, exchange.request, exchange.sent, exchange.status, exchange.answered
            ));
        }
    }
    Ok(differences)
}

#[test]
fn a_bare_management_node_answers_as_recorded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut setup = setup(&directory);
    setup.users.insert("root".into(), "cluster".into());
    setup.dhcp = false;
    let [mut n1, n2, n3] = nodes();
    for (attribute, value) in [
        ("os", "image"),
        ("profile", "foo"),
        ("provmethod", "foo"),
        ("currstate", "offline"),
        ("status", "powering-off"),
        ("statustime", "11-21-2026 19:18:00"),
    ] {
        n1 = n1.with(attribute, value);
    }
    n1.bmc = Bmc::NoBootOrder;
    n1.answers = Some("https".into());
    setup.nodes = vec![n1, n2.with("currstate", ""), n3.with("currstate", "")];
    let xcatd = Xcatd::start(setup)?;
    let differences = play(&xcatd, include_str!("../../src/xcatd/recorded/bare.json"))?;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

#[test]
fn a_management_node_with_osimages_answers_as_recorded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut setup = setup(&directory);
    let [n1, n2, n3] = nodes();
    // `nodestat -u` had written the boot state into the status.
    let n1 = n1
        .with("status", "install rocky9.4-x86_64-compute")
        .with("statustime", "11-21-2026 19:28:19")
        .with("currchain", "boot");
    setup.nodes = vec![n1, n2, n3];
    let mut install = Osimage::new("rocky9.4-x86_64-install-compute", None);
    for (attribute, end) in [("pkglist", "pkglist"), ("template", "tmpl")] {
        let file = format!("/opt/xcat/share/xcat/install/rocky/compute.rocky9.{end}");
        install.attributes.insert(attribute.into(), file);
    }
    setup.osimages = vec![install, Osimage::new("rocky9.4-x86_64-netboot-compute", None)];
    setup.spider = vec![("10.77.0.1:80".into(), a_file_at_an_address()?)];
    let xcatd = Xcatd::start(setup)?;
    let differences = play(&xcatd, include_str!("../../src/xcatd/recorded/images.json"))?;
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// A server that has whatever it is asked for, for as long as the test runs.
fn a_file_at_an_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(address.to_string())
}
