//! The whole API by its document: schemathesis makes requests of it, right ones and wrong ones.

use super::*;

const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";

#[test]
fn every_answer_is_documented_and_none_is_a_fault() -> Result<()> {
    let mut site = Site::new("", |_, _| String::new())?;
    let disk = site.directory.join("tiny.qcow2");
    let made =
        Command::new("qemu-img").args(["create", "-q", "-f", "qcow2", disk.as_str(), "8M"]).status()?;
    ensure!(made.success(), "qemu-img");
    site.root(&["image", "import", "tiny", disk.as_str()])?;
    site.root(&["load", "a", "tiny"])?;
    site.user("tester", "correct horse battery", &[("administer", "all")])?;
    let token = site.root(&["token", "create", "schemathesis", "--owner", "tester"])?;
    let program = tools().join("venv/bin/schemathesis");
    ensure!(program.exists(), "there is no schemathesis in {}: .ci/people-tools {0}", tools());
    let examples = if std::env::var_os("VCL_FULL").is_some() { "50" } else { "6" };
    let header = format!("Authorization: Bearer {}", token["secret"].as_str().unwrap());
    let output = Command::new(&program)
        .current_dir(&site.directory)
        .env("NO_COLOR", "1")
        .args(["run", &format!("{}/v1/openapi.json", site.url()), "--header", &header])
        .args(["--tls-verify", site.directory.join("ca.pem").as_str()])
        .args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", examples])
        .args([
            "--seed",
            "1",
            "--generation-database",
            "none",
            "--request-timeout",
            "60",
            "--continue-on-failure",
        ])
        // Two end the token that all is asked with, one has no end of its own.
        .args(["--exclude-path", "/v1/sign-out", "--exclude-path", "/v1/tokens/{id}"])
        .args(["--exclude-path", "/v1/stream"])
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let tail: Vec<&str> = said.lines().rev().take(12).collect();
    println!("{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    assert!(
        !std::fs::read_to_string(site.daemon.log())?.contains("a request failed"),
        "a fault of the daemon's"
    );
    assert!(site.root(&["status"])?.is_object(), "the daemon still answers");
    // The token was good to the end, or little was asked.
    let made = site.curl("/v1/whoami", &["-H", &header])?;
    assert_eq!(made.0, 200, "{}", made.1);
    site.daemon.stop()
}
