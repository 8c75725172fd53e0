//! A headless Chromium, driven by chromedriver over WebDriver; what it complained of and where it asked.

use anyhow::{Context, Result, bail, ensure};
use camino::Utf8Path;
use serde_json::Value;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use thirtyfour::common::capabilities::chromium::ChromiumLikeCapabilities as _;
use thirtyfour::prelude::*;

/// How long anything may take that the page is to show.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same where a real guest boots, is captured, or is compared with another.
const GUEST: Duration = Duration::from_secs(420);

/// The driver's process; it ends with this.
#[derive(Debug)]
pub struct Driver {
    child: Child,
    port: u16,
}

impl Driver {
    /// Starts it on a port of its own.
    ///
    /// # Errors
    /// It is not installed, or does not listen within half a minute.
    pub fn start() -> Result<Self> {
        // The client of WebDriver asks for one, and another test may have brought it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("chromedriver")
            .args([format!("--port={port}"), "--log-level=SEVERE".into()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver (package chromium-driver)")?;
        let driver = Self { child, port };
        let until = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < until, "chromedriver does not listen");
            std::thread::sleep(Duration::from_millis(20)); // why: it tells nobody when it listens
        }
        Ok(driver)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One window, of one person.
#[derive(Debug)]
pub struct Browser {
    /// What drives it.
    pub web: WebDriver,
    base: String,
}

impl Browser {
    /// Opens one on the site at `base`; `profile` is a directory that does not exist yet.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn open(driver: &Driver, profile: &Utf8Path, base: &str) -> Result<Self> {
        let mut wanted = DesiredCapabilities::chrome();
        for argument in [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            // The site's certificate is of an authority that was made for this test.
            "--ignore-certificate-errors",
            "--force-prefers-reduced-motion",
            "--lang=en-GB",
            "--window-size=1280,900",
            "--disable-search-engine-choice-screen",
        ] {
            wanted.add_arg(argument)?;
        }
        wanted.add_arg(&format!("--user-data-dir={profile}"))?;
        wanted.set("goog:loggingPrefs", serde_json::json!({ "browser": "ALL", "performance": "ALL" }))?;
        let web = WebDriver::new(format!("http://127.0.0.1:{}", driver.port), wanted).await?;
        Ok(Self { web, base: base.to_owned() })
    }
    /// Goes to a path of the site, and waits until the page's scripts have run.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn goto(&self, path: &str) -> Result<()> {
        self.web.goto(format!("{}{path}", self.base)).await?;
        self.wait("the scripts have run", "return document.body.dataset.ready === 'yes'").await
    }
    /// Where it is.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn path(&self) -> Result<String> {
        Ok(self.web.current_url().await?.path().to_owned())
    }
    /// Waits until something that the page's script says is so.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn wait(&self, what: &str, script: &str) -> Result<()> {
        self.wait_within(PATIENCE, what, script).await
    }
    async fn wait_within(&self, limit: Duration, what: &str, script: &str) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            // A page that is being left answers nothing.
            if let Ok(value) = self.web.execute(script, vec![]).await
                && value.json().as_bool() == Some(true)
            {
                return Ok(());
            }
            if Instant::now() > until {
                let text = self.text("main").await.unwrap_or_default();
                bail!("{what} did not happen at {}; it shows: {text}", self.web.current_url().await?);
            }
            tokio::time::sleep(Duration::from_millis(30)).await; // why: a driver is asked, it tells nothing by itself
        }
    }
    /// Waits until an element of the page has these words.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn wait_for(&self, css: &str, words: &str) -> Result<()> {
        self.wait_for_within(PATIENCE, css, words).await
    }
    /// The same where a real guest has to boot before.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within some minutes.
    pub async fn wait_long(&self, css: &str, words: &str) -> Result<()> {
        self.wait_for_within(GUEST, css, words).await
    }
    async fn wait_for_within(&self, limit: Duration, css: &str, words: &str) -> Result<()> {
        let script = format!(
            "const e = document.querySelector({}); return !!e && e.textContent.includes({})",
            Value::from(css),
            Value::from(words)
        );
        self.wait_within(limit, &format!("`{words}` in {css}"), &script).await
    }
    /// What stands in an element.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn text(&self, css: &str) -> Result<String> {
        Ok(self.web.find(By::Css(css.to_owned())).await?.text().await?)
    }
    /// Clicks on an element, once it is there.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn click(&self, css: &str) -> Result<()> {
        self.wait(css, &format!("return !!document.querySelector({})", Value::from(css))).await?;
        self.web.find(By::Css(css.to_owned())).await?.click().await.with_context(|| css.to_owned())
    }
    /// Puts a text into a field.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn fill(&self, css: &str, text: &str) -> Result<()> {
        let field = self.web.find(By::Css(css.to_owned())).await?;
        field.clear().await?;
        Ok(field.send_keys(text).await?)
    }
    /// Presses keys where the focus is.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn keys(&self, keys: impl Into<TypingData>) -> Result<()> {
        Ok(self.web.active_element().await?.send_keys(keys.into()).await?)
    }
    /// Presses a button of a preview that opens in the dialog, after what opens it.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn confirm(&self, opens: &str) -> Result<()> {
        self.click(opens).await?;
        self.wait("the preview", "return document.getElementById('dialog').open").await?;
        self.click("#dialog form button").await
    }
    /// Signs somebody in by name and password.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn sign_in(&self, name: &str, password: &str) -> Result<()> {
        self.goto("/").await?;
        self.fill("#name", name).await?;
        self.fill("#password", password).await?;
        self.click("form[action='/sign-in'] button").await?;
        self.wait("the page", "return !!document.querySelector('.who bdi')").await
    }
    /// What it complained of since it was asked last, and every place it asked that is not the site.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        for entry in self.web.browser_log().await? {
            // What a new window shows is the browser's own.
            if entry.message.starts_with("chrome://") {
                continue;
            }
            all.push(format!("{}: {}", entry.level, entry.message));
        }
        for entry in self.web.get_log("performance").await? {
            let event: Value = serde_json::from_str(&entry.message)?;
            if event["message"]["method"] != "Network.requestWillBeSent" {
                continue;
            }
            let url = event["message"]["params"]["request"]["url"].as_str().unwrap_or_default();
            // A new window shows a page of the browser's own.
            let own = ["data:", "chrome:", "about:"].iter().any(|scheme| url.starts_with(scheme));
            if !own && !url.starts_with(&format!("{}/", self.base)) {
                all.push(format!("it asked {url}"));
            }
        }
        Ok(all)
    }
    /// Closes it.
    ///
    /// # Errors
    /// The browser does not do it, or it does not happen within a minute.
    pub async fn quit(self) -> Result<()> {
        Ok(self.web.quit().await?)
    }
}
