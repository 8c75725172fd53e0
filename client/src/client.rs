//! The daemon's HTTP API, typed.

mod classes;
mod reservations;
mod usage;

use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use crate::sse;
use reqwest::{Certificate, Method, RequestBuilder, Response, Url};
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error as StdError;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;
use vcl_types::api::{
    Action, Applied, Asked, BackendView, ComputerView, ConfiguredView, Console, EventView, EvidenceView,
    Finding, ImageView, JobView, LeaseView, NodeView, OrphanRequest, Orphans, Plan, PowerAction,
    PowerRequest, Problem, RevisionView, Status, StreamItem, Submitted, TrashView, VmPreview, VmView, Why,
    WhyKept,
};
use vcl_types::state::job;
use vcl_types::{BackendName, ComputerName, ImageName, ImageRef, JobId, JobRequest};

/// For what the daemon answers from its own memory and database.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// For what makes it ask a hypervisor or a guest first.
pub(crate) const SLOW: Duration = Duration::from_secs(600);
/// After what time a request is asked again whose answer was lost.
const AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];
/// How much of a list is asked for at once.
const PART: usize = 1000;
/// The longest text of a foreign error that is shown.
const SHOWN: usize = 300;

type Query<'a> = &'a [(&'a str, String)];

/// A client of one daemon. It holds no connection between requests, so a daemon that restarts is no concern of it.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    place: Place,
    token: Option<String>,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Nothing is connected yet.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up.
    pub fn new(socket: &Path) -> Result<Self> {
        Self::at(Place::Socket(socket.to_owned()), None)
    }

    /// A client of the daemon at a place, which sends this token. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a place that is none, or one where a token would be sent in the clear; when the HTTP
    /// library cannot be set up, or the certificate authority cannot be read.
    pub fn at(place: Place, token: Option<String>) -> Result<Self> {
        let broken = |cause: Box<dyn StdError + Send + Sync>| {
            Error::caused(ErrorKind::Local, "cannot set up the HTTP client", cause)
        };
        // The HTTP library wants to know whose TLS even for a unix socket. Another part of the process may have said so
        // before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base = place.base()?;
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("vclctl/", env!("CARGO_PKG_VERSION")));
        match &place {
            Place::Socket(path) => http = http.unix_socket(path.as_path()),
            Place::Url { ca: None, .. } => {}
            Place::Url { ca: Some(path), .. } => {
                let shown = path.display();
                let unreadable = |cause: Box<dyn StdError + Send + Sync>| {
                    Error::caused(
                        ErrorKind::Local,
                        format!("no certificate authority can be read from `{shown}`"),
                        cause,
                    )
                };
                let text = std::fs::read(path).map_err(|cause| unreadable(cause.into()))?;
                let all = Certificate::from_pem_bundle(&text).map_err(|cause| unreadable(cause.into()))?;
                http = http.tls_certs_only(all);
            }
        }
        let http = http.build().map_err(|cause| broken(cause.into()))?;
        Ok(Self { http, base, place, token })
    }

    /// Where the daemon is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// One screen of everything.
    pub async fn status(&self) -> Result<Status> {
        self.get(&["status"], &[], QUICK).await
    }
    /// What the node lacks and what is wrong with it.
    pub async fn doctor(&self, rescan: bool) -> Result<Vec<Finding>> {
        let query: &[(&str, String)] = if rescan { &[("rescan", "true".to_owned())] } else { &[] };
        self.get(&["doctor"], query, SLOW).await
    }
    /// All backend instances.
    pub async fn backends(&self) -> Result<Vec<BackendView>> {
        self.get(&["backends"], &[], SLOW).await
    }
    /// One backend instance.
    pub async fn backend(&self, name: &BackendName) -> Result<BackendView> {
        self.get(&["backends", name.as_str()], &[], SLOW).await
    }
    /// All computers.
    pub async fn computers(&self) -> Result<Vec<ComputerView>> {
        self.get(&["computers"], &[], QUICK).await
    }
    /// One computer, with its power state.
    pub async fn computer(&self, name: &ComputerName) -> Result<ComputerView> {
        self.get(&["computers", name.as_str()], &[], QUICK).await
    }
    /// Does something to a computer's power.
    pub async fn power(&self, name: &ComputerName, action: PowerAction) -> Result<ComputerView> {
        self.post(&["computers", name.as_str(), "power"], &[], &PowerRequest { action }).await
    }
    /// The last lines of a computer's serial console.
    pub async fn console(&self, name: &ComputerName, lines: u32) -> Result<Console> {
        self.get(&["computers", name.as_str(), "console"], &[("lines", lines.to_string())], QUICK).await
    }
    /// What a computer's screen shows, as PNG.
    pub async fn screenshot(&self, name: &ComputerName) -> Result<Vec<u8>> {
        let request =
            self.request(Method::GET, &["computers", name.as_str(), "screenshot"], &[])?.timeout(SLOW);
        let answer = self.send(request).await?;
        let bytes = answer.bytes().await.map_err(|cause| self.lost(cause))?.to_vec();
        if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
            Ok(bytes)
        } else {
            Err(Error::new(ErrorKind::Malformed, "vcld's screenshot is not a PNG picture"))
        }
    }
    /// Lets the daemon read `[computers]` of its configuration again.
    pub async fn apply(&self, dry_run: bool) -> Result<Applied> {
        self.post(&["computers", "apply"], &[("dry_run", dry_run.to_string())], &()).await
    }
    /// What jobs have to themselves.
    pub async fn leases(&self) -> Result<Vec<LeaseView>> {
        self.get(&["leases"], &[], QUICK).await
    }
    /// All management nodes.
    pub async fn nodes(&self) -> Result<Vec<NodeView>> {
        self.get(&["nodes"], &[], QUICK).await
    }
    /// One management node.
    pub async fn node(&self, name: &str) -> Result<NodeView> {
        self.get(&["nodes", name], &[], QUICK).await
    }
    /// Lets a node take no new jobs, or take jobs again.
    pub async fn drain(&self, name: &str, drained: bool) -> Result<NodeView> {
        self.post(&["nodes", name, if drained { "drain" } else { "undrain" }], &[], &()).await
    }
    /// All images.
    pub async fn images(&self) -> Result<Vec<ImageView>> {
        self.get(&["images"], &[], QUICK).await
    }
    /// One image with its revisions.
    pub async fn image(&self, name: &ImageName) -> Result<ImageView> {
        self.get(&["images", name.as_str()], &[], QUICK).await
    }
    /// Why a revision cannot be deleted.
    pub async fn why_kept(&self, image: &ImageRef) -> Result<WhyKept> {
        let number = image.revision.unwrap_or_default().to_string();
        self.get(&["images", image.name.as_str(), &number, "why"], &[], QUICK).await
    }
    /// Puts a revision in production; with `force` although it has passed no test.
    pub async fn promote(&self, image: &ImageRef, force: bool) -> Result<RevisionView> {
        let number = image.revision.unwrap_or_default().to_string();
        let query: &[(&str, String)] = if force { &[("force", "true".to_owned())] } else { &[] };
        self.post(&["images", image.name.as_str(), &number, "promote"], query, &()).await
    }
    /// What is in the trash.
    pub async fn trash(&self) -> Result<Vec<TrashView>> {
        self.get(&["trash"], &[], SLOW).await
    }
    /// The virtual machines of a backend, ours or not.
    pub async fn vms(&self, backend: &BackendName) -> Result<Vec<VmView>> {
        self.get(&["backends", backend.as_str(), "vms"], &[], SLOW).await
    }
    /// What making an image from a virtual machine would do.
    pub async fn preview(&self, backend: &BackendName, vm: &str) -> Result<VmPreview> {
        self.get(&["backends", backend.as_str(), "vms", vm, "preview"], &[], SLOW).await
    }
    /// Queues a job.
    pub async fn submit(&self, request: &JobRequest) -> Result<Submitted> {
        self.submit_as(request, false).await
    }
    /// Queues a job; with `wait` it waits its turn when another has what it needs.
    pub async fn submit_as(&self, request: &JobRequest, wait: bool) -> Result<Submitted> {
        let turn = [("wait", "true".to_owned())];
        let query: Query<'_> = if wait { &turn } else { &[] };
        self.post_once((&["jobs"], query, QUICK), request, ("the job", "queued", "vclctl job list")).await
    }
    /// What a job would do.
    pub async fn plan(&self, request: &JobRequest) -> Result<Plan> {
        self.post(&["plan"], &[], request).await
    }
    /// The newest jobs, newest first.
    pub async fn jobs(&self, state: Option<job::State>, limit: u32) -> Result<Vec<JobView>> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(state.map(|state| ("state", state.to_string())));
        self.get(&["jobs"], &query, QUICK).await
    }
    /// One job with its steps.
    pub async fn job(&self, id: JobId) -> Result<JobView> {
        self.get(&["jobs", &id.to_string()], &[], QUICK).await
    }
    /// Wishes a job off.
    pub async fn cancel(&self, id: JobId) -> Result<JobView> {
        self.post(&["jobs", &id.to_string(), "cancel"], &[], &()).await
    }
    /// Tries a failed or stuck job again: a stuck one goes on where it was, a failed one begins anew.
    pub async fn retry(&self, id: JobId) -> Result<JobView> {
        self.post(&["jobs", &id.to_string(), "retry"], &[], &()).await
    }
    /// Gives a stuck job up as it is.
    pub async fn abandon(&self, id: JobId) -> Result<JobView> {
        self.post(&["jobs", &id.to_string(), "abandon"], &[], &()).await
    }
    /// Takes a stuck job back.
    pub async fn undo(&self, id: JobId) -> Result<JobView> {
        self.post(&["jobs", &id.to_string(), "undo"], &[], &()).await
    }
    /// What an action that is no job would do.
    pub async fn plan_action(&self, action: &Action) -> Result<Plan> {
        self.post(&["plan", "action"], &[], action).await
    }
    /// What was kept of a job's failure.
    pub async fn evidence(&self, id: JobId) -> Result<Vec<EvidenceView>> {
        self.get(&["jobs", &id.to_string(), "evidence"], &[], QUICK).await
    }
    /// One piece of it.
    pub async fn evidence_part(&self, id: JobId, name: &str, attempt: Option<u32>) -> Result<Vec<u8>> {
        let query: Vec<_> = attempt.map(|n| ("attempt", n.to_string())).into_iter().collect();
        let request = self.request(Method::GET, &["jobs", &id.to_string(), "evidence", name], &query)?;
        let answer = self.send(request.timeout(QUICK)).await?;
        Ok(answer.bytes().await.map_err(|cause| self.lost(cause))?.to_vec())
    }
    /// By which manifests a computer was configured, and what changed from the last run but one to the last.
    pub async fn configured(&self, name: &ComputerName) -> Result<Vec<ConfiguredView>> {
        self.get(&["computers", name.as_str(), "configured"], &[], QUICK).await
    }
    /// Why something is where it is.
    pub async fn why(&self, what: &Asked) -> Result<Why> {
        let (kind, name) = match what {
            Asked::Job(id) => ("jobs", id.to_string()),
            Asked::Computer(name) => ("computers", name.to_string()),
            Asked::Reservation(id) => ("reservations", id.to_string()),
        };
        self.get(&[kind, &name, "why"], &[], QUICK).await
    }
    /// What is there and belongs to nobody.
    pub async fn orphans(&self, all: bool) -> Result<Orphans> {
        self.get(&["orphans"], &[("all", all.to_string())], SLOW).await
    }
    /// Does something about one of them, or says what that would be.
    pub async fn orphan(&self, asked: &OrphanRequest) -> Result<Plan> {
        self.post(&["orphans"], &[], asked).await
    }
    /// Events of one job or of all, oldest first: those after one, or the newest.
    pub async fn events(&self, job: Option<JobId>, after: Option<i64>, limit: u32) -> Result<Vec<EventView>> {
        let mut query = vec![("limit", limit.to_string())];
        query.extend(job.map(|job| ("job", job.to_string())));
        query.extend(after.map(|after| ("after", after.to_string())));
        self.get(&["events"], &query, QUICK).await
    }
    /// Events as they happen, of one job or of all.
    pub async fn stream(&self, job: Option<JobId>, after: Option<i64>) -> Result<Stream> {
        let mut query = Vec::new();
        query.extend(job.map(|job| ("job", job.to_string())));
        query.extend(after.map(|after| ("after", after.to_string())));
        let request = self.request(Method::GET, &["stream"], &query)?.header("accept", "text/event-stream");
        // The answer's head comes at once or not at all; its body has no end.
        let answer = tokio::time::timeout(QUICK, self.send(request)).await.map_err(|_| self.silent())??;
        Ok(Stream { client: self.clone(), answer, parser: sse::Parser::default() })
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Query<'_>,
        deadline: Duration,
    ) -> Result<T> {
        let request = self.request(Method::GET, path, query)?.timeout(deadline);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Query<'_>,
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(Method::POST, path, query)?.json(body).timeout(SLOW);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    /// A request that makes something, under a key of its own: when the connection broke before the answer came it is asked
    /// again, and was done once. `made` is what it makes, how that is called, and what shows it: for whoever is told that
    /// nobody knows whether it was done.
    pub(crate) async fn post_once<T: DeserializeOwned>(
        &self,
        (path, query, deadline): (&[&str], Query<'_>, Duration),
        body: &impl Serialize,
        made: (&str, &str, &str),
    ) -> Result<T> {
        let key = uuid::Uuid::now_v7().to_string();
        let mut waits = AGAIN.into_iter();
        let mut first = None;
        loop {
            let request = self.request(Method::POST, path, query)?.header("idempotency-key", &key).json(body);
            let said = match self.send(request.timeout(deadline)).await {
                Ok(answer) => self.read(answer).await,
                Err(error) => Err(error),
            };
            let error = match said {
                Err(error) if error.kind() == ErrorKind::Unreachable => error,
                said => return said,
            };
            let heard = !error.to_string().starts_with("cannot reach");
            if first.is_none() && !heard {
                return Err(error);
            }
            // Whoever has waited in vain for an answer once would again.
            let silent = error.to_string().starts_with("vcld does not answer");
            let lost = first.take().unwrap_or(error);
            match waits.next().filter(|_| !silent) {
                // why: nothing tells when a daemon is back that has gone away
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(doubtful(lost, made)),
            }
            first = Some(lost);
        }
    }
    pub(crate) fn request(&self, method: Method, path: &[&str], query: Query<'_>) -> Result<RequestBuilder> {
        // A URL leaves such parts out, and the request would go to another address. A machine may be called so.
        if let Some(part) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("`{part}` is no name that vcld can be asked about"),
            ));
        }
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await.map_err(|cause| self.lost(cause))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|cause| self.lost(cause))?;
        let Ok(problem) = serde_json::from_slice::<Problem>(&body) else {
            let said: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
            let kind = if status.as_u16() == 503 { ErrorKind::Unavailable } else { ErrorKind::Refused };
            let (from, said) = (&self.place, said.trim());
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Err(Error::new(kind, format!("{from} answered {status}{said}")));
        };
        let kind = match problem.kind.as_str() {
            "unavailable" => ErrorKind::Unavailable,
            "not-found" => ErrorKind::NotFound,
            "unauthorized" => ErrorKind::Denied,
            _ => ErrorKind::Refused,
        };
        Err(Error::new(kind, problem.message))
    }
    pub(crate) async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T> {
        let path = answer.url().path().to_owned();
        let bytes = answer.bytes().await.map_err(|cause| self.lost(cause))?;
        serde_json::from_slice(&bytes).map_err(|cause| {
            let context =
                format!("vcld's answer to {path} is not understood; are vcld and vclctl of one version?");
            Error::caused(ErrorKind::Malformed, context, cause)
        })
    }

    /// A request whose answer is that it was done.
    pub(crate) async fn done(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&impl Serialize>,
    ) -> Result<()> {
        let mut request = self.request(method, path, &[])?.timeout(QUICK);
        if let Some(body) = body {
            request = request.json(body);
        }
        self.send(request).await.map(|_| ())
    }
    /// A whole list, part by part.
    pub(crate) async fn all<T: DeserializeOwned>(
        &self,
        path: &[&str],
        parameter: &str,
        key: impl Fn(&T) -> String,
    ) -> Result<Vec<T>> {
        self.pages(path, Vec::new(), parameter, key).await
    }
    /// The same with more in its query.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Vec<(&str, String)>,
        parameter: &str,
        key: impl Fn(&T) -> String,
    ) -> Result<Vec<T>> {
        let mut whole: Vec<T> = Vec::new();
        loop {
            let mut query = query.clone();
            query.push(("limit", PART.to_string()));
            query.extend(whole.last().map(|last| (parameter, key(last))));
            let part: Vec<T> = self.get(path, &query, QUICK).await?;
            let full = part.len() >= PART;
            whole.extend(part);
            if !full {
                return Ok(whole);
            }
        }
    }

    fn silent(&self) -> Error {
        let place = &self.place;
        Error::new(ErrorKind::Unreachable, format!("vcld does not answer on {place}"))
    }
    fn lost(&self, cause: reqwest::Error) -> Error {
        let socket = &self.place;
        if cause.is_timeout() && !cause.is_connect() {
            return self.silent();
        }
        if cause.is_builder() {
            return Error::caused(ErrorKind::Local, "cannot make the request", cause.without_url());
        }
        let os = io_kind(&cause);
        if let (Some(io::ErrorKind::PermissionDenied), Place::Socket(path)) = (os, &self.place) {
            let context = format!("{socket} is not open to you: {}", who_may(path));
            return Error::new(ErrorKind::Denied, context);
        }
        let why = match os {
            Some(io::ErrorKind::NotFound) => ": there is no such socket",
            Some(io::ErrorKind::ConnectionRefused) => ": nobody listens there",
            _ if cause.is_connect() => "",
            _ => {
                let context = format!("vcld on {socket} went away in the middle of an answer");
                return Error::caused(ErrorKind::Unreachable, context, cause.without_url());
            }
        };
        let running = match &self.place {
            Place::Socket(_) => "; is vcld running? (systemctl status vcld)",
            Place::Url { .. } => "",
        };
        let context = format!("cannot reach vcld on {socket}{why}{running}");
        match os {
            // The sentence has said it.
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Error::new(ErrorKind::Unreachable, context)
            }
            // A certificate that is not taken is told by what lies below.
            _ => Error::caused(ErrorKind::Unreachable, context, cause.without_url()),
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("place", &self.place).finish_non_exhaustive()
    }
}

/// A request that was cut off may have been heard.
fn doubtful(error: Error, (what, made, look): (&str, &str, &str)) -> Error {
    error.because(|context| format!("{context}; {what} may have been {made}: see `{look}`"))
}

/// What the operating system said, where it said something.
fn io_kind(error: &dyn StdError) -> Option<io::ErrorKind> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            return Some(cause.kind());
        }
        source = cause.source();
    }
    None
}

/// Who may use a socket: the members of its group, or of its directory's where that is closed too.
fn who_may(socket: &Path) -> String {
    let closest = socket.ancestors().find_map(|path| std::fs::metadata(path).ok());
    let gid = match closest.map(|found| found.gid()) {
        Some(0) => return "it is for root alone (sudo vclctl …)".into(),
        Some(gid) => gid,
        None => return "your user must be in the group it belongs to".into(),
    };
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(gid)).then(|| name.to_owned())
    });
    match name {
        Some(name) => {
            format!("your user must be in group {name} (sudo usermod -aG {name} $USER, then log in again)")
        }
        None => format!("your user must be in group {gid}"),
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Stream {
    client: Client,
    answer: Response,
    parser: sse::Parser,
}

impl Stream {
    /// The next one; `None` when the daemon has ended the stream. An item this version does not know counts as
    /// [`StreamItem::Missed`]. Giving up the wait for it loses nothing.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> Result<Option<StreamItem>> {
        loop {
            if let Some(data) = self.parser.next() {
                return Ok(Some(serde_json::from_str(&data).unwrap_or(StreamItem::Missed)));
            }
            match self.answer.chunk().await.map_err(|cause| self.client.lost(cause))? {
                Some(bytes) => self.parser.feed(&bytes).map_err(|cause| {
                    Error::caused(ErrorKind::Malformed, "vcld's event stream is not understood", cause)
                })?,
                None => return Ok(None),
            }
        }
    }
}
