//! The connection to one server: one session, shared by everything that an instance does.
//!
//! A session is made by the first call, kept alive every [`KEEP_ALIVE`], made anew once when a call is told that it is
//! over, and ended by [`Client::close`]. Whether it still lives is never assumed: the server says so. A server of the
//! other kind than was configured is refused before anybody logs in.

use super::dom::Element;
use super::fault::Fault;
use super::request::{Reference, Request};
use super::tls::{self, Trust};
use crate::{Error, ErrorKind, Result};
use reqwest::header::{COOKIE, HeaderValue, SET_COOKIE};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use vcl_types::Secret;

/// How long an ordinary call may take. A step that is told to stop in one still has time to call its task off: after a
/// minute it is given up.
pub(super) const CALL: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// A session ends after 30 minutes in which nothing is asked.
const KEEP_ALIVE: Duration = Duration::from_secs(300);
/// How long an answer may be, in bytes.
const LONGEST: usize = 64 << 20;

/// Which of the two kinds of server there is at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerKind {
    /// A vCenter.
    VirtualCenter,
    /// An ESXi host.
    HostAgent,
}

impl ServerKind {
    const fn api_type(self) -> &'static str {
        match self {
            Self::VirtualCenter => "VirtualCenter",
            Self::HostAgent => "HostAgent",
        }
    }
    const fn noun(self) -> &'static str {
        match self {
            Self::VirtualCenter => "a vCenter",
            Self::HostAgent => "an ESXi host",
        }
    }
    const fn backend(self) -> &'static str {
        match self {
            Self::VirtualCenter => "vmware",
            Self::HostAgent => "esx",
        }
    }
}

/// Where a server is and how it is logged in to.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its host name or address, with a port where it is not 443.
    pub address: String,
    /// The account.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// How the server shows that it is the one.
    pub trust: Trust,
}

/// What a server says of itself.
#[derive(Debug, Clone)]
pub(crate) struct About {
    /// Product, version and build in one line.
    pub(crate) full_name: String,
    /// The version of its API.
    pub(crate) api: String,
}

/// The managed objects that everything begins with.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    pub(crate) about: About,
    pub(crate) root: Reference,
    pub(crate) properties: Reference,
    pub(crate) views: Reference,
    pub(crate) sessions: Reference,
    pub(crate) disks: Reference,
    pub(crate) files: Reference,
}

/// A session that a server has given us.
pub(crate) struct Session {
    pub(crate) content: Content,
    pub(super) cookie: HeaderValue,
}

/// A server, seen by one instance.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    server: Server,
    kind: ServerKind,
    http: reqwest::Client,
    session: Mutex<Option<Arc<Session>>>,
    stop: CancellationToken,
}
impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// What came of one request.
enum Answer {
    Body(Element),
    Fault(Fault),
}

impl Client {
    /// Makes ready. Nothing is connected yet.
    pub(crate) fn new(server: Server, kind: ServerKind) -> Result<Self> {
        // reqwest looks for it. Another one that is installed already is the same.
        let _ = rustls::crypto::CryptoProvider::install_default(rustls::crypto::ring::default_provider());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::config(&server.trust)?)
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(|e| Error::caused(ErrorKind::Failed, "making an HTTP client", e))?;
        let (session, stop) = (Mutex::new(None), CancellationToken::new());
        Ok(Self(Arc::new(Inner { server, kind, http, session, stop })))
    }
    /// The server's address as it is configured.
    pub(crate) fn address(&self) -> &str {
        &self.0.server.address
    }
    pub(crate) fn kind(&self) -> ServerKind {
        self.0.kind
    }
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.0.http
    }

    /// The session that there is, or a new one.
    pub(crate) async fn session(&self) -> Result<Arc<Session>> {
        // Who waits for a server that is away does not keep the slot from others.
        match self.session_now().await {
            Err(e) => Err(self.outlast(e).await),
            session => session,
        }
    }
    async fn session_now(&self) -> Result<Arc<Session>> {
        let mut slot = self.0.session.lock().await;
        if let Some(session) = &*slot {
            return Ok(session.clone());
        }
        let session = Arc::new(self.log_in().await?);
        *slot = Some(session.clone());
        self.keep_alive(&session);
        Ok(session)
    }
    /// Forgets a session that the server says is over, unless another has been made meanwhile.
    pub(super) async fn renew(&self, over: &Arc<Session>) -> Result<Arc<Session>> {
        self.forget(over).await;
        self.session().await
    }

    /// Calls a method. `what` says what is being done, for the error. A session that is over is renewed once. In a step,
    /// a server that is away is waited for; whether what was asked for is done nobody knows then, and it is an error.
    pub(crate) async fn call(
        &self,
        what: &str,
        make: impl Fn(&Content) -> Request + Send,
    ) -> Result<Element> {
        match self.call_now(what, make, || Ok(())).await {
            Err(e) => Err(self.outlast(e).await),
            answer => answer,
        }
    }
    /// The same for a method that changes something. Before it come waits, for a turn, for another task, for the server:
    /// a process that stood still meanwhile and was given up must not touch what is another's by now. So it is asked
    /// again with the session in hand, at the last moment before the request goes.
    pub(crate) async fn change(
        &self,
        what: &str,
        make: impl Fn(&Content) -> Request + Send,
    ) -> Result<Element> {
        match self.call_now(what, make, || held(what)).await {
            Err(e) => Err(self.outlast(e).await),
            answer => answer,
        }
    }
    async fn call_now(
        &self,
        what: &str,
        make: impl Fn(&Content) -> Request + Send,
        may: impl Fn() -> Result<()> + Send,
    ) -> Result<Element> {
        let mut session = self.session().await?;
        let mut renewed = false;
        loop {
            may()?;
            match self.call_in(what, &session, &make(&session.content), CALL).await {
                Err(e) if is_over(&e) && !renewed => {
                    renewed = true;
                    session = self.renew(&session).await?;
                }
                result => return result,
            }
        }
    }
    /// Calls a method in this session and no other: what it is about lives no longer than the session.
    pub(super) async fn call_in(
        &self,
        what: &str,
        session: &Session,
        request: &Request,
        limit: Duration,
    ) -> Result<Element> {
        match self.send(what, Some(&session.cookie), request, limit).await?.0 {
            Answer::Body(body) => Ok(body),
            Answer::Fault(fault) => Err(failed(what, fault)),
        }
    }

    /// Whether the server answers, without a session.
    pub(super) async fn answers(&self, limit: Duration) -> bool {
        let answer = self.send("asking whether it answers", None, &greeting(), limit).await;
        !answer.is_err_and(|e| e.kind == ErrorKind::Unreachable)
    }

    /// Ends the session.
    pub(crate) async fn close(&self) {
        self.0.stop.cancel();
        let Some(session) = self.0.session.lock().await.take() else { return };
        let logout = Request::new("Logout", &session.content.sessions, |_| {});
        let limit = Duration::from_secs(5);
        if let Err(e) = self.call_in("logging out", &session, &logout, limit).await {
            tracing::debug!(error = e.chain(), server = self.address(), "the session ends by itself");
        }
    }

    async fn log_in(&self) -> Result<Session> {
        let (address, kind) = (self.address(), self.kind());
        let what = format!("asking {address} what it is");
        let (answer, first) = self.send(&what, None, &greeting(), CALL).await?;
        let body = match answer {
            Answer::Body(body) => body,
            Answer::Fault(fault) => return Err(failed(&what, fault)),
        };
        let content = body.child("returnval").and_then(content).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{address} answers, and not as a VMware server does"))
        })?;
        let is = body.text_at("returnval/about/apiType").unwrap_or_default();
        if is != kind.api_type() {
            let other =
                [ServerKind::VirtualCenter, ServerKind::HostAgent].into_iter().find(|k| k.api_type() == is);
            let (backend, full) = (kind.backend(), &content.about.full_name);
            let way_out = match other {
                Some(other) => format!("write type = \"{}\"", other.backend()),
                None => "no backend of vcld is for such".to_owned(),
            };
            let is = other.map_or("another kind of server", ServerKind::noun);
            let message = format!(
                "{address} is {is} ({full}), and a backend of type {backend} is for {}; {way_out}",
                kind.noun()
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let server = &self.0.server;
        let login = Request::new("Login", &content.sessions, |x| {
            x.text("userName", &server.user).text("password", server.password.expose());
        });
        let what = format!("logging in at {address} as {}", server.user);
        let (answer, second) = self.send(&what, first.as_ref(), &login, CALL).await?;
        if let Answer::Fault(fault) = answer {
            return Err(failed(&what, fault));
        }
        let cookie = second
            .or(first)
            .ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("{what}: the server gave no session")))?;
        Ok(Session { content, cookie })
    }

    /// Asks something small in a session every few minutes, for as long as the client is there and has that session.
    fn keep_alive(&self, session: &Arc<Session>) {
        let (inner, stop): (Weak<Inner>, _) = (Arc::downgrade(&self.0), self.0.stop.clone());
        let session = Arc::downgrade(session);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(KEEP_ALIVE) => {} // why: a session that nobody uses ends
                }
                // The next session has a task like this of its own.
                let (Some(client), Some(session)) = (inner.upgrade().map(Client), session.upgrade()) else {
                    return;
                };
                if !client.has(&session).await {
                    return;
                }
                let instance = Reference::new("ServiceInstance", "ServiceInstance");
                let time = Request::new("CurrentTime", &instance, |_| {});
                let asked = client.call_in("keeping the session alive", &session, &time, CALL).await;
                if asked.as_ref().is_err_and(is_over) {
                    client.forget(&session).await;
                    return;
                }
            }
        });
    }
    async fn has(&self, session: &Arc<Session>) -> bool {
        self.0.session.lock().await.as_ref().is_some_and(|now| Arc::ptr_eq(now, session))
    }
    /// Forgets a session that is over, unless another has been made meanwhile.
    async fn forget(&self, over: &Arc<Session>) {
        let mut slot = self.0.session.lock().await;
        if slot.as_ref().is_some_and(|now| Arc::ptr_eq(now, over)) {
            *slot = None;
        }
    }

    async fn send(
        &self,
        what: &str,
        cookie: Option<&HeaderValue>,
        request: &Request,
        limit: Duration,
    ) -> Result<(Answer, Option<HeaderValue>)> {
        let address = self.address();
        let mut sending = self
            .http()
            .post(format!("https://{address}/sdk"))
            .header("Content-Type", "text/xml; charset=utf-8")
            .header("SOAPAction", "urn:vim25/6.5")
            .timeout(limit)
            .body(request.envelope());
        if let Some(cookie) = cookie {
            sending = sending.header(COOKIE, cookie.clone());
        }
        let mut answer = sending.send().await.map_err(|e| self.trouble(what, e))?;
        let status = answer.status();
        let cookie = session_cookie(&answer);
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|e| self.trouble(what, e))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LONGEST {
                let message = format!("{what}: {address} answers with more than {LONGEST} bytes");
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
        }
        // A fault comes with status 500; anything else that is no success is not the API's.
        if !status.is_success() && status.as_u16() != 500 {
            let kind = match status.as_u16() {
                401 | 403 => ErrorKind::Denied,
                502..=504 => ErrorKind::Unreachable,
                _ => ErrorKind::Failed,
            };
            return Err(Error::new(kind, format!("{what}: {address} answers HTTP {status}")));
        }
        let text = String::from_utf8_lossy(&bytes);
        let envelope = Element::parse(&text)
            .map_err(|e| Error::caused(ErrorKind::Corrupt, format!("{what}: the answer of {address}"), e))?;
        if let Some(fault) = Fault::of_call(&envelope) {
            return Ok((Answer::Fault(fault), cookie));
        }
        let body = envelope.children.into_iter().find(|c| c.name == "Body");
        let body = body.and_then(|b| b.children.into_iter().next()).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{what}: {address} answers HTTP {status} and no SOAP"))
        })?;
        Ok((Answer::Body(body), cookie))
    }

    /// An error of the connection.
    pub(super) fn trouble(&self, what: &str, error: reqwest::Error) -> Error {
        let address = self.address();
        let text = vcl_job::chain(&error);
        if let Some(at) = text.find(tls::REFUSED) {
            let said = &text[at..];
            let way_out =
                "if that is the right server, write it as `fingerprint`; if not, somebody is in between";
            return Error::new(
                ErrorKind::Denied,
                format!("{what}: {address} is not trusted: {said}; {way_out}"),
            );
        }
        if text.to_ascii_lowercase().contains("certificate") {
            let way_out = "look at `ca`, or pin the certificate with `fingerprint`";
            let message = format!("{what}: {address} is not trusted: {text}; {way_out}");
            return Error::new(ErrorKind::Denied, message);
        }
        // One that takes a connection and says nothing is as far away as one that takes none.
        let how = if error.is_timeout() { "has not answered in time" } else { "does not answer" };
        Error::caused(ErrorKind::Unreachable, format!("{what}: {address} {how}"), error)
    }
}

/// Whether the job that this task does something for is still ours.
pub(super) fn held(what: &str) -> Result<()> {
    vcl_job::held().map_err(|e| Error::caused(ErrorKind::LeaseLost, what, e))
}

/// The one question that everybody may ask.
fn greeting() -> Request {
    let instance = Reference::new("ServiceInstance", "ServiceInstance");
    Request::new("RetrieveServiceContent", &instance, |_| {})
}

/// Whether an error says that the session is over.
pub(super) fn is_over(error: &Error) -> bool {
    fault_of(error) == Some("NotAuthenticated")
}

/// The name of the fault that an error comes from.
pub(crate) fn fault_of(error: &Error) -> Option<&str> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<Fault>().map(|fault| fault.name.as_str())
}

/// A fault as an error.
pub(super) fn failed(what: &str, fault: Fault) -> Error {
    let context = match fault.way_out() {
        Some(way_out) => format!("{what} ({way_out})"),
        None => what.to_owned(),
    };
    Error::caused(fault.kind(), context, fault)
}

fn content(element: &Element) -> Option<Content> {
    let about = element.child("about")?;
    let said = |name: &str| {
        let text: String = about.text_at(name).unwrap_or_default().chars().take(200).collect();
        text
    };
    Some(Content {
        about: About { full_name: said("fullName"), api: said("apiVersion") },
        root: element.reference_at("rootFolder")?,
        properties: element.reference_at("propertyCollector")?,
        views: element.reference_at("viewManager")?,
        sessions: element.reference_at("sessionManager")?,
        disks: element.reference_at("virtualDiskManager")?,
        files: element.reference_at("fileManager")?,
    })
}

fn session_cookie(answer: &reqwest::Response) -> Option<HeaderValue> {
    let cookies = answer.headers().get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.filter_map(|cookie| cookie.split(';').next().map(str::trim));
    let found = pairs.rfind(|pair| pair.starts_with("vmware_soap_session="))?;
    let mut value = HeaderValue::from_str(found).ok()?;
    value.set_sensitive(true);
    Some(value)
}
