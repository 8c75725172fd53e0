//! Who comes in by which door, and as whom.

use super::*;

/// vclctl over the socket as another account.
fn as_account(site: &Site, account: &str, group: &str, arguments: &[&str]) -> Result<Output> {
    let socket = site.daemon.directory().join("vcld.sock");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", account, "--regid", group, "--clear-groups"]);
    command.arg(binary("vclctl")?).args(["--json", "--socket", socket.as_str()]).args(arguments);
    Ok(command.env("HOME", "/nonexistent").stdin(Stdio::null()).output()?)
}

#[test]
fn the_socket_knows_its_callers_and_refuses_the_others() -> Result<()> {
    let mut site = Site::new("group = \"daemon\"\nusers_group = \"games\"\n", |_, _| String::new())?;
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let list = |output: Output| -> Result<usize> {
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let all: Value = serde_json::from_slice(&output.stdout)?;
        Ok(all.as_array().unwrap().len())
    };
    // Neither root, nor in one of the groups.
    let nobody = as_account(&site, "nobody", "nogroup", &["computer", "list"])?;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(said(&nobody).contains("usermod -aG games"), "{}", said(&nobody));
    let tried = as_account(&site, "nobody", "nogroup", &["user", "add", "eve"])?;
    assert!(!tried.status.success());
    // In the group of administrators, whoever it is.
    assert_eq!(list(as_account(&site, "bin", "daemon", &["computer", "list"])?)?, 2);
    // In the group of users: under the account's own name, with what grants give.
    assert_eq!(list(as_account(&site, "games", "games", &["computer", "list"])?)?, 0);
    let refused = as_account(&site, "games", "games", &["node", "drain", "test"])?;
    assert!(said(&refused).contains("games has no right to `administer`"), "{}", said(&refused));
    site.root(&["group", "add", "players"])?;
    site.root(&["group", "member", "add", "players", "games"])?;
    site.root(&["grant", "add", "players", "operate", "computers:b12"])?;
    assert_eq!(list(as_account(&site, "games", "games", &["computer", "list"])?)?, 1);
    site.root(&["user", "disable", "games"])?;
    assert!(!as_account(&site, "games", "games", &["computer", "list"])?.status.success());
    // All of it was recorded, and what was only tried.
    let audit = site.root(&["audit", "--limit", "100"])?;
    let told: Vec<String> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|d| format!("{} {} {}", d["who"].as_str().unwrap(), d["action"].as_str().unwrap(), d["status"]))
        .collect();
    for wanted in ["games POST /v1/nodes/{name}/drain 403", "root POST /v1/grants 201"] {
        assert!(told.iter().any(|line| line == wanted), "{wanted}: {told:#?}");
    }
    // Who is nobody fills no record; the log names the account.
    assert!(!told.iter().any(|line| line.starts_with('-')), "{told:#?}");
    let log = std::fs::read_to_string(site.daemon.log())?;
    assert!(log.contains("may not use vcld came to its socket") && log.contains("nobody"));
    site.daemon.stop()
}

#[test]
fn over_tls_somebody_signs_in_does_what_he_may_and_signs_out() -> Result<()> {
    let mut site = Site::new("", |_, _| String::new())?;
    let password = "correct horse battery staple";
    site.user("alice", password, &[("operate", "computers:b12")])?;
    let (code, said) = site.refused("alice", &["computer", "list"])?;
    assert!(code == 3 && said.contains("vclctl login"), "{code} {said}");
    let wrong = site.login("alice", "alice", "wrong")?;
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("the name or the password is wrong"));
    let right = site.login("alice", "alice", password)?;
    assert!(right.status.success(), "{}", String::from_utf8_lossy(&right.stderr));
    let file = site.directory.join("alice/.config/vcld/tokens.json");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let signed_in = kept[site.url()].as_str().unwrap().to_owned();

    let who = site.json("alice", &["whoami"])?;
    assert_eq!((who["name"].as_str(), who["via"].as_str()), (Some("alice"), Some("token")));
    assert_eq!(names(&site.json("alice", &["computer", "list"])?, "/computer/name"), ["a"]);
    let (code, said) = site.refused("alice", &["computer", "power", "b", "on"])?;
    assert!(code == 1 && said.contains("alice has no right to `operate` on computer b"), "{said}");
    // What is hers is made for programs: a token that can do less.
    let made = site.json("alice", &["token", "create", "monitoring", "--scope", "look"])?;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let mut program = site.remote("program")?;
    program.env("VCLD_TOKEN", &secret).args(["--json", "computer", "power", "a", "on"]);
    let refused = program.output()?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("this token is for look alone"));

    // What others would find who took the database, the log or the configuration.
    for secret in [&secret, &signed_in] {
        site.nowhere(secret)?;
        site.nowhere(secret.rsplit('_').next().unwrap())?;
    }
    site.nowhere(password)?;
    let hidden =
        site.written()?.iter().any(|(_, bytes)| bytes.windows(9).any(|window| window == b"$argon2id"));
    assert!(hidden, "the password's digest stands in the database");

    // Logging out takes back the token that is forgotten, whatever the environment has.
    let mut out = site.remote("alice")?;
    out.env("VCLD_TOKEN", &secret).args(["--json", "logout"]);
    assert!(out.output()?.status.success());
    let mut other = site.remote("program")?;
    other.env("VCLD_TOKEN", &secret).args(["whoami"]);
    assert!(other.output()?.status.success(), "the other token stays");
    assert_eq!(site.refused("alice", &["whoami"])?.0, 3);
    let mut again = site.remote("program")?;
    again.env("VCLD_TOKEN", &signed_in).args(["whoami"]);
    assert_eq!(again.output()?.status.code(), Some(3), "the token was taken back, not only forgotten");

    // Not without TLS, and not to somebody else's certificate.
    let plain = Command::new("curl")
        .args(["-sS", "--max-time", "10", &format!("http://127.0.0.1:{}/v1/status", site.port)])
        .output()?;
    assert!(!plain.status.success() || !String::from_utf8_lossy(&plain.stdout).contains("version"));
    let mut other = site.remote("alice")?;
    other.env_remove("VCLD_CA").args(["whoami"]);
    assert_eq!(other.output()?.status.code(), Some(3));
    site.daemon.stop()
}

#[test]
fn a_proxy_brings_people_and_nobody_else_can_say_he_is_the_proxy() -> Result<()> {
    let port = free_port()?;
    let mut site = Site::new("", |directory, _| {
        std::fs::write(directory.join("credentials/proxy-secret"), "between the two of us").unwrap();
        format!(
            "[api.proxy]\nlisten = \"127.0.0.1:{port}\"\nsecret = {{ credential = \"proxy-secret\" }}\n\
             socket = \"{directory}/proxy.sock\"\naccount = \"www-data\"\n"
        )
    })?;
    site.root(&["group", "add", "staff"])?;
    site.root(&["grant", "add", "staff", "look", "all"])?;
    let ask = |more: &[&str]| -> Result<(u16, Value)> {
        let output = Command::new("curl").args(["-sS", "-w", "\n%{http_code}"]).args(more).output()?;
        let text = String::from_utf8(output.stdout)?;
        let (body, status) = text.rsplit_once('\n').unwrap();
        Ok((status.parse()?, serde_json::from_str(body)?))
    };
    let url = format!("http://127.0.0.1:{port}/v1/whoami");
    let (user, groups, secret) = (
        "X-Remote-User: Carol@example.org",
        "X-Remote-Groups: staff;students",
        "X-Vcld-Proxy: between the two of us",
    );
    let (status, who) = ask(&["-H", user, "-H", groups, "-H", secret, &url])?;
    assert_eq!(
        (status, who["name"].as_str(), who["via"].as_str()),
        (200, Some("carol@example.org"), Some("proxy"))
    );
    assert_eq!(names(&Value::Array(who["grants"].as_array().unwrap().clone()), "/verb"), ["look"]);
    for headers in [
        &["-H", user][..],
        &["-H", user, "-H", "X-Vcld-Proxy: guessed"],
        &["-H", secret],
        &["-H", secret, "-H", user, "-H", "X-Remote-User: root"],
        &["-H", secret, "-H", "X-Remote-User: "],
    ] {
        let mut all = headers.to_vec();
        all.push(&url);
        assert_eq!(ask(&all)?.0, 401, "{headers:?}");
    }
    let root = ask(&["-H", secret, "-H", "X-Remote-User: root", &url])?;
    assert_eq!(root.0, 403, "{root:?}");
    // The same headers on the doors that are everybody's say nothing.
    let tls = site.curl("/v1/whoami", &["-H", user, "-H", secret])?;
    assert_eq!(tls.0, 401, "{tls:?}");
    // At the socket it is the account that counts.
    let socket = site.directory.join("proxy.sock");
    let words = ["--unix-socket", socket.as_str(), "-H", user, "http://x/v1/whoami"];
    let as_proxy = Command::new("setpriv")
        .args(["--reuid", "www-data", "--regid", "www-data", "--clear-groups", "curl", "-sS"])
        .args(words)
        .output()?;
    assert!(String::from_utf8_lossy(&as_proxy.stdout).contains("carol@example.org"), "{as_proxy:?}");
    assert_eq!(ask(&words)?.0, 403, "root is not the proxy");
    site.daemon.stop()
}
