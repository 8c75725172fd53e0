//! The REST service of an xCAT management node.
//!
//! The service is a CGI that starts a Perl and asks xcatd over TLS: a call costs a second or more, and minutes where a
//! service processor is dead. A call that gets to service processors names one node: one's failure hides the others' answers.
//! The token is renewed when it is refused; when it expires cannot be read from what the service says.
//!
//! What the service answers is untrusted and bounded. No body is ever logged: a node's attributes hold passwords.

use super::Settings;
use super::answer::{Fault, Trouble, of_node, of_xcatd, texts, trouble, way_out};
use crate::{Error, ErrorKind, Result};
use reqwest::{Method, StatusCode};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore};
use vcl_types::Secret;

/// How many nodes' tables are looked at in one call: their names stand in its path.
const TOGETHER: usize = 50;
/// How long it may take until a connection stands.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an answer may be, in bytes.
const LONGEST: usize = 8 << 20;
/// How many calls there may be at once: each is a Perl on the management node.
const CALLS: usize = 8;
/// How often a call is made whose service processor does not answer.
const TRIES: u32 = 3;

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Attributes {
    /// What it boots next: `boot`, `install IMAGE`, `runimage=URL` …
    pub(super) currstate: String,
    /// What it was last heard to do: `powering-on`, `installing`, `booted` …
    pub(super) status: String,
    /// When that was, by the management node's clock and in its own way of writing it: only ever compared with itself.
    pub(super) statustime: String,
    /// Its address.
    pub(super) ip: String,
}

/// The service.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    user: String,
    password: Secret,
    token: Mutex<Option<Secret>>,
    calls: Semaphore,
}

impl Client {
    /// A client that believes only certificates of the authority that it is given. Nothing is connected yet.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let failed = |what: &str, e: Box<dyn std::error::Error + Send + Sync>| {
            Error::caused(ErrorKind::Refused, format!("{what} for {}", settings.url), e)
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&settings.ca) {
            let certificate = certificate.map_err(|e| failed("reading `ca`", Box::new(e)))?;
            roots.add(certificate).map_err(|e| failed("believing `ca`", Box::new(e)))?;
        }
        if roots.is_empty() {
            return Err(Error::new(ErrorKind::Refused, "`ca` holds no certificate in PEM"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| failed("setting TLS up", Box::new(e)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Where several crates use rustls, it wants to be told whose cryptography is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .timeout(settings.call)
            .build()
            .map_err(|e| failed("making an HTTP client", Box::new(e)))?;
        Ok(Self {
            http,
            base: settings.url.clone(),
            user: settings.user.clone(),
            password: settings.password.clone(),
            token: Mutex::new(None),
            calls: Semaphore::new(CALLS),
        })
    }

    /// Sends a request. The path is ours and made of names that were checked.
    async fn send(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        token: Option<&Secret>,
    ) -> Result<(StatusCode, String), Fault> {
        let away = |said: String| {
            let what = format!("{what}: xCAT's REST service at {} does not answer", self.base);
            Fault { trouble: Trouble::Away, what, said }
        };
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = token {
            request = request.header("X-Auth-Token", token.expose());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut answer = request.send().await.map_err(|e| away(said(&e)))?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|e| away(said(&e)))? {
            if bytes.len() + piece.len() > LONGEST {
                let what = format!("{what}: the answer is longer than {LONGEST} bytes");
                return Err(Fault { trouble: Trouble::Nonsense, what, said: "it was not read".into() });
            }
            bytes.extend_from_slice(&piece);
        }
        // It says ISO-8859-1; what matters is ASCII.
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// A token other than `refused`, asking for one where there is none.
    async fn login(&self, refused: Option<&Secret>) -> Result<Secret, Fault> {
        let mut held = self.token.lock().await;
        match (&*held, refused) {
            (Some(held), None) => return Ok(held.clone()),
            // Somebody else has renewed it meanwhile.
            (Some(held), Some(refused)) if held.expose() != refused.expose() => return Ok(held.clone()),
            _ => {}
        }
        let what = format!("logging in to xCAT as {}", self.user);
        let body = json!({ "userName": self.user, "userPW": self.password.expose() });
        let (status, text) = self.send(&what, Method::POST, "/tokens", Some(&body), None).await?;
        if !status.is_success() {
            return Err(refusal(&what, status, &text));
        }
        let answer: Option<Value> = serde_json::from_str(&text).ok();
        let id = answer.as_ref().and_then(|v| v.get("token")?.get("id")?.as_str());
        let fine = |id: &&str| (8..=200).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        let Some(id) = id.filter(fine) else {
            return Err(Fault { trouble: Trouble::Nonsense, what, said: "the answer has no token".into() });
        };
        let token = Secret::new(id.to_owned());
        *held = Some(token.clone());
        Ok(token)
    }

    /// Calls the service: logs in where that is needed, once more if the token is refused.
    pub(super) async fn call(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Fault> {
        // What waits and what only looks stops when the job does; what changes something is waited for, since xcatd does it
        // whether anybody listens or not.
        let _place = unless_stopped(what, async { Ok(self.calls.acquire().await) }).await?;
        let mut token = unless_stopped(what, self.login(None)).await?;
        let mut renewed = false;
        loop {
            let (status, text) = if method == Method::GET {
                unless_stopped(what, self.send(what, method.clone(), path, None, Some(&token))).await?
            } else {
                // Others' calls and a login may have taken minutes since the step asked.
                vcl_job::held().map_err(|e| Fault {
                    trouble: Trouble::NotOurs,
                    what: what.to_owned(),
                    said: e.to_string(),
                })?;
                self.send(what, method.clone(), path, body.as_ref(), Some(&token)).await?
            };
            if status == StatusCode::UNAUTHORIZED && !renewed {
                renewed = true;
                token = unless_stopped(what, self.login(Some(&token))).await?;
                continue;
            }
            if !status.is_success() {
                return Err(refusal(what, status, &text));
            }
            // What changes something answers with nothing.
            if text.trim().is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_str(&text).map_err(|e| {
                let what = format!("{what}: the answer cannot be read");
                Fault { trouble: Trouble::Nonsense, what, said: e.to_string() }
            });
        }
    }

    /// The same for what asks a service processor, which may be busy or slow: tried a few times.
    async fn ask_bmc(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, Fault> {
        let mut tries = 1;
        loop {
            match self.call(what, method.clone(), path, body.clone()).await {
                Err(fault) if fault.trouble == Trouble::Bmc && tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(500)).await; // why: a busy service processor tells nobody when it is free
                }
                result => return result,
            }
        }
    }

    /// The names of all nodes.
    pub(super) async fn nodes(&self) -> Result<Vec<String>, Fault> {
        let answer = self.call("listing xCAT's nodes", Method::GET, "/nodes", None).await?;
        Ok(super::answer::names(&answer))
    }

    /// The names of all osimages.
    pub(super) async fn osimages(&self) -> Result<Vec<String>, Fault> {
        let answer = self.call("listing xCAT's osimages", Method::GET, "/osimages", None).await?;
        Ok(super::answer::names(&answer))
    }

    /// What xCAT knows of a node, as it is: with its passwords.
    pub(super) async fn definition(&self, node: &str) -> Result<Value, Fault> {
        self.call(&format!("reading the definition of {node}"), Method::GET, &format!("/nodes/{node}"), None)
            .await
    }

    /// What a node does.
    pub(super) async fn attributes(&self, node: &str) -> Result<Attributes, Fault> {
        let what = format!("looking at {node}");
        let path = format!("/nodes/{node}/attrs/currstate,status,statustime,ip");
        let answer = self.call(&what, Method::GET, &path, None).await?;
        if answer.get(node).is_none() {
            let said = "the answer is not about it".into();
            return Err(Fault { trouble: Trouble::Nonsense, what, said });
        }
        let text = |name| of_node(&answer, node, name).unwrap_or_default().chars().take(500).collect();
        Ok(Attributes {
            currstate: text("currstate"),
            status: text("status"),
            statustime: text("statustime"),
            ip: text("ip"),
        })
    }

    /// The `currstate` of all nodes. They are asked for by their names: a group, `all` too, is no object that has attributes.
    pub(super) async fn states(&self) -> Result<Vec<(String, String)>, Fault> {
        let mut states = Vec::new();
        for some in self.nodes().await?.chunks(TOGETHER) {
            let path = format!("/nodes/{}/attrs/currstate", some.join(","));
            let answer = self.call("looking at what nodes boot next", Method::GET, &path, None).await?;
            let each = answer.as_object().into_iter().flatten();
            states.extend(
                each.filter_map(|(node, v)| Some((node.clone(), v.get("currstate")?.as_str()?.to_owned()))),
            );
        }
        Ok(states)
    }

    /// Whether a node is on.
    pub(super) async fn power(&self, node: &str) -> Result<bool, Fault> {
        let what = format!("asking for the power of {node}");
        let answer = self.ask_bmc(&what, Method::GET, &format!("/nodes/{node}/power"), None).await?;
        match of_node(&answer, node, "power") {
            Some("on") => Ok(true),
            Some("off") => Ok(false),
            other => {
                let said: String = other.unwrap_or("nothing").chars().take(80).collect();
                Err(Fault {
                    trouble: Trouble::Nonsense,
                    what,
                    said: format!("it is neither on nor off: {said}"),
                })
            }
        }
    }

    /// Changes a node's power. The answer says that it was asked, not that it happened.
    pub(super) async fn set_power(&self, node: &str, action: &str) -> Result<(), Fault> {
        let what = format!("changing the power of {node} ({action})");
        let body = Some(json!({ "action": action }));
        self.ask_bmc(&what, Method::PUT, &format!("/nodes/{node}/power"), body).await.map(drop)
    }

    /// Says what a node boots next and from then on. `state` is not logged: it may hold a box's URL.
    pub(super) async fn set_bootstate(&self, node: &str, state: Value) -> Result<(), Fault> {
        let what = format!("setting what {node} boots next");
        self.call(&what, Method::PUT, &format!("/nodes/{node}/bootstate"), Some(state)).await.map(drop)
    }

    /// Tells a node's service processor to boot once from the network.
    pub(super) async fn boot_net_once(&self, node: &str) -> Result<(), Fault> {
        let what = format!("telling {node} to boot from the network once");
        let body = Some(json!({ "order": "net" }));
        self.ask_bmc(&what, Method::PUT, &format!("/nodes/{node}/nextboot"), body).await.map(drop)
    }
}

/// Waits for something, but no longer than the step that this task runs may.
async fn unless_stopped<T>(
    what: &str,
    work: impl Future<Output = Result<T, Fault>> + Send,
) -> Result<T, Fault> {
    let Some(doing) = vcl_job::doing() else { return work.await };
    tokio::select! {
        biased;
        result = work => result,
        () = doing.stopped() => Err(Fault {
            trouble: Trouble::Stopped,
            what: what.to_owned(),
            said: doing.stop_error().to_string(),
        }),
    }
}

fn refusal(what: &str, status: StatusCode, body: &str) -> Fault {
    let said = texts(body);
    let trouble = trouble(status.as_u16(), &said, of_xcatd(body));
    Fault {
        trouble,
        what: format!("{what}{}", way_out(trouble)),
        said: format!("xCAT says: {said} ({status})"),
    }
}

/// What went wrong on the way, without the URL: it may hold a box's.
fn said(e: &reqwest::Error) -> String {
    let mut text = if e.is_timeout() { "no answer in time".to_owned() } else { String::new() };
    let mut next = std::error::Error::source(e);
    while let Some(cause) = next {
        text.push_str(if text.is_empty() { "" } else { ": " });
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if text.is_empty() { "the connection failed".to_owned() } else { text }
}
