//! A real OpenID Connect provider: discovery, keys, the code flow and the device flow, and tokens that are none.

use super::*;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Child;
use vcl_tests::browser::{Browser, Driver};

struct Provider {
    child: Child,
    port: u16,
    directory: Utf8PathBuf,
}

impl Provider {
    fn start(directory: &Utf8Path, page: Option<&str>) -> Result<Self> {
        let tools = tools();
        ensure!(
            tools.join("node_modules/oidc-provider").exists(),
            "there is no oidc-provider in {tools}: .ci/people-tools {tools}"
        );
        let port = free_port()?;
        let script = Utf8Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/people/provider.mjs");
        let log = std::fs::File::create(directory.join("provider.out"))?;
        let mut child = Command::new("node")
            .args([script.as_str(), &port.to_string()])
            .args([
                directory.join("server.pem").as_str(),
                directory.join("server.key").as_str(),
                tools.as_str(),
            ])
            .args(page.map(|page| format!("{page}/sign-in/end")))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("node")?;
        let up = wait_for(port, &mut child);
        up.with_context(|| std::fs::read_to_string(directory.join("provider.out")).unwrap_or_default())?;
        Ok(Self { child, port, directory: directory.to_owned() })
    }
    /// What a browser is shown at an address, all redirects followed; the address where it ended.
    fn browse(&self, url: &str, form: &[&str]) -> Result<(String, String)> {
        let jar = self.directory.join("cookies");
        let mut command = Command::new("curl");
        command.args(["-sS", "-L", "--max-time", "30", "--cacert", self.directory.join("ca.pem").as_str()]);
        command.args(["-b", jar.as_str(), "-c", jar.as_str(), "-w", "\n%{url_effective}"]);
        for field in form {
            command.args(["--data-urlencode", field]);
        }
        let output = command.arg(url).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (page, end) = text.rsplit_once('\n').context("curl said nothing")?;
        Ok((page.to_owned(), end.to_owned()))
    }
    /// Goes through the provider's pages as somebody: signs in, and agrees.
    fn sign_in(&self, url: &str, name: &str) -> Result<String> {
        let (mut page, mut at) = self.browse(url, &[])?;
        for _ in 0..6 {
            if !at.starts_with(&format!("https://localhost:{}", self.port)) {
                break;
            }
            let Some(action) = page.split("action=\"").nth(1).and_then(|rest| rest.split('"').next()) else {
                break;
            };
            let action = action.replace("&amp;", "&");
            let form: Vec<String> = if page.contains("name=\"login\"") {
                vec!["prompt=login".into(), format!("login={name}"), "password=x".into()]
            } else if page.contains("value=\"consent\"") {
                vec!["prompt=consent".into()]
            } else {
                // The device's code is shown once more, to be confirmed.
                hidden(&page)
            };
            let form: Vec<&str> = form.iter().map(String::as_str).collect();
            (page, at) = self.browse(&action, &form)?;
        }
        Ok(page)
    }
    fn mint(&self, query: &str) -> Result<String> {
        Ok(self.browse(&format!("https://localhost:{}/test/mint?{query}", self.port), &[])?.0)
    }
}

/// The hidden fields of a form.
fn hidden(page: &str) -> Vec<String> {
    let attribute = |tag: &str, name: &str| {
        tag.split(&format!("{name}=\"")).nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned)
    };
    let inputs = page.split("<input").skip(1).filter_map(|rest| rest.split('>').next());
    let named =
        inputs.filter_map(|tag| Some(format!("{}={}", attribute(tag, "name")?, attribute(tag, "value")?)));
    named.collect()
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site() -> Result<(Site, Provider)> {
    site_with(false)
}

/// With a page that leads to the provider, or for vclctl.
fn site_with(page: bool) -> Result<(Site, Provider)> {
    let mut started = None;
    let site = Site::new("", |directory, port| {
        let page = page.then(|| format!("https://127.0.0.1:{port}"));
        let provider = Provider::start(directory, page.as_deref()).unwrap();
        let secret = "the provider knows vcld by this";
        std::fs::write(directory.join("credentials/oidc"), secret).unwrap();
        let page = page.map(|url| format!("[page]\nurl = \"{url}\"\n")).unwrap_or_default();
        let table = format!(
            "{page}[api.oidc]\nissuer = \"https://localhost:{}\"\nclient_id = \"vcld\"\nca = \"{directory}/ca.pem\"\n\
             client_secret = {{ credential = \"oidc\" }}\n",
            provider.port
        );
        started = Some(provider);
        table
    })?;
    Ok((site, started.unwrap()))
}

/// `vclctl login` as somebody types it, with whatever he does in a browser.
fn login(
    site: &Site,
    home: &str,
    words: &[&str],
    browser: impl FnOnce(&str) -> Result<()>,
) -> Result<Output> {
    let mut command = site.remote(home)?;
    command.args(["--json", "login"]).args(words);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    let url = loop {
        let mut line = String::new();
        ensure!(said.read_line(&mut line)? > 0, "vclctl says no address: {text}");
        text.push_str(&line);
        let found = line.split_whitespace().rfind(|word| word.starts_with("https://") && word.contains('?'));
        if let Some(found) = found {
            break found.to_owned();
        }
    };
    browser(&url)?;
    let mut output = child.wait_with_output()?;
    said.read_to_string(&mut text)?;
    output.stderr = text.into_bytes();
    Ok(output)
}

#[test]
fn a_provider_vouches_in_a_browser_here_and_on_another_device() -> Result<()> {
    let (mut site, provider) = site()?;
    site.root(&["group", "add", "gis-course"])?;
    site.root(&["grant", "add", "gis-course", "look", "computers:b12"])?;
    let said = login(&site, "alice", &[], |url| {
        let page = provider.sign_in(url, "Alice")?;
        ensure!(page.contains("This can be closed"), "{page}");
        Ok(())
    })?;
    assert!(said.status.success(), "{}{}", String::from_utf8_lossy(&said.stderr), site.daemon.log_tail());
    let who = site.json("alice", &["whoami"])?;
    assert_eq!((who["name"].as_str(), who["via"].as_str()), (Some("alice"), Some("token")));
    assert_eq!(names(&site.json("alice", &["computer", "list"])?, "/computer/name"), ["a"]);
    let user = site.root(&["user", "show", "alice"])?;
    assert_eq!((&user["source"], &user["mail"]), (&"oidc".into(), &"alice@example.org".into()));
    assert_eq!(names(&user["groups"], "/name"), ["gis-course", "staff"]);

    let said = login(&site, "device", &["--device"], |url| {
        provider.sign_in(url, "Alice")?;
        Ok(())
    })?;
    assert!(said.status.success(), "{}{}", String::from_utf8_lossy(&said.stderr), site.daemon.log_tail());
    assert_eq!(site.json("device", &["whoami"])?["name"], "alice");

    // A provider's user cannot be this machine's root, nor somebody whom another vouches for.
    std::fs::remove_file(site.directory.join("cookies"))?;
    let said = login(&site, "root", &[], |url| provider.sign_in(url, "root").map(|_| ()))?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("nobody else's name"), "{said}");
    site.root(&["user", "set", "alice", "--source", "local"])?;
    std::fs::remove_file(site.directory.join("cookies"))?;
    let said = login(&site, "alice", &[], |url| provider.sign_in(url, "Alice").map(|_| ()))?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("there is a user alice of local already"), "{said}");
    site.nowhere("the provider knows vcld by this")?;
    site.daemon.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_vouches_for_who_reads_the_page() -> Result<()> {
    let (mut site, _provider) = site_with(true)?;
    site.root(&["group", "add", "gis-course"])?;
    site.root(&["grant", "add", "gis-course", "reserve", "all"])?;
    let driver = Driver::start()?;
    let browser = Browser::open(&driver, &site.directory.join("browser"), &site.url()).await?;
    browser.goto("/classes").await?;
    ensure!(browser.path().await? == "/sign-in", "nobody sees {}", browser.path().await?);
    browser.click("a[href^='/sign-in/provider']").await?;
    browser.wait("the provider's form", "return !!document.querySelector('input[name=login]')").await?;
    browser.fill("input[name=login]", "Alice").await?;
    browser.fill("input[name=password]", "x").await?;
    browser.click("button[type=submit]").await?;
    browser.wait("its question", "return !!document.querySelector('input[value=consent]')").await?;
    browser.click("button[type=submit]").await?;
    // Back where she wanted to go, as who she is there.
    let back = "return location.pathname === '/classes' && document.querySelector('.who bdi')?.textContent === 'alice'";
    browser.wait("the page", back).await?;
    let token = site.root(&["token", "list", "--all"])?;
    ensure!(token.to_string().contains("\"label\":\"browser\""), "{token}");
    browser.click("form[action='/sign-out'] button").await?;
    browser.wait("the way in", "return location.pathname === '/sign-in'").await?;
    browser.goto("/classes").await?;
    ensure!(browser.path().await? == "/sign-in", "signed out and sees {}", browser.path().await?);
    browser.quit().await?;
    site.daemon.stop()
}

#[test]
fn a_providers_token_is_taken_when_it_is_one_and_not_otherwise() -> Result<()> {
    let (mut site, provider) = site()?;
    let status = |token: &str| -> Result<u16> {
        Ok(site.curl("/v1/whoami", &["-H", &format!("Authorization: Bearer {token}")])?.0)
    };
    let good = provider.mint("")?;
    assert_eq!(status(&good)?, 200, "{}", site.daemon.log_tail());
    assert_eq!(status(&good)?, 200);
    for wrong in [
        "aud=another",
        "iss=https://localhost:1",
        "exp=-120",
        "text-exp=1",
        "alg=none",
        "alg=HS256",
        "by=stranger",
        "by=second&kid=second",
        "kid=unknown",
    ] {
        assert_eq!(status(&provider.mint(wrong)?)?, 401, "{wrong}");
    }
    let cut = good.rsplit_once('.').unwrap().0;
    for wrong in
        [format!("{cut}."), format!("{cut}.AAAA"), "a.b.c".into(), format!("{good}x"), "x".repeat(20_000)]
    {
        assert_eq!(status(&wrong)?, 401);
    }
    // A key that came after we had looked is found when a token names it.
    provider.browse(&format!("https://localhost:{}/test/rotate", provider.port), &[])?;
    let until = Instant::now() + Duration::from_secs(20);
    let rotated = provider.mint("by=second&kid=second")?;
    while status(&rotated)? != 200 {
        ensure!(Instant::now() < until, "the new key is not found");
        std::thread::sleep(Duration::from_millis(200)); // why: keys are looked for every few seconds at most
    }
    site.nowhere(&good)?;
    site.daemon.stop()
}
