//! The management node of the tests answers what a real one answered, and its nodes do what real ones do. As root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod faults;
mod nodes;
mod recorded;

use anyhow::{Context, Result, ensure};
use std::process::Command;
use vcl_tests::xcatd::Xcatd;

/// A call with curl, which knows nothing of either side: status, content type and body.
fn call(
    xcatd: &Xcatd,
    request: &str,
    headers: &[(String, String)],
    sent: Option<&str>,
) -> Result<(u16, String, String)> {
    let (method, path) = request.split_once(' ').context("no method")?;
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--show-error",
        "--max-time",
        "60",
        "--path-as-is",
        "--cacert",
        xcatd.ca().as_str(),
    ])
    .args(["--request", method, "--write-out", "\n%{http_code} %{content_type}"]);
    for (name, value) in headers {
        curl.args(["--header", &format!("{name}: {value}")]);
    }
    if let Some(sent) = sent {
        curl.args(["--data-binary", sent]);
        if !headers.iter().any(|(name, _)| name == "Content-Type") {
            curl.args(["--header", "Content-Type:"]);
        }
    }
    let output = curl.arg(format!("https://{}{path}", xcatd.address())).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let (body, end) = text.rsplit_once('\n').context("curl wrote no end")?;
    let (status, content_type) = end.split_once(' ').context("curl wrote no status")?;
    Ok((status.parse()?, content_type.to_owned(), body.to_owned()))
}

/// The same as a client of the interface: with a token, and JSON both ways. An empty body is `null`.
fn ask(xcatd: &Xcatd, token: &str, request: &str, sent: Option<&str>) -> Result<(u16, serde_json::Value)> {
    let (method, path) = request.split_once(' ').context("no method")?;
    let mut headers = Vec::new();
    if !token.is_empty() {
        headers.push(("X-Auth-Token".to_owned(), token.to_owned()));
    }
    if sent.is_some() {
        headers.push(("Content-Type".into(), "application/json".into()));
    }
    let (status, _, body) = call(xcatd, &format!("{method} /xcatws{path}"), &headers, sent)?;
    let body = if body.is_empty() { serde_json::Value::Null } else { serde_json::from_str(&body)? };
    Ok((status, body))
}

/// A token of the usual account.
fn log_in(xcatd: &Xcatd) -> Result<String> {
    let sent = format!(r#"{{"userName": "{}", "userPW": "{}"}}"#, xcatd.user(), xcatd.password());
    let (status, body) = ask(xcatd, "", "POST /tokens", Some(&sent))?;
    ensure!(status == 201, "{status} {body}");
    Ok(body["token"]["id"].as_str().context("no token")?.to_owned())
}
