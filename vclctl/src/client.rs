//! The daemon's HTTP API over its unix socket, typed.

use crate::error::{Error, ErrorKind, Result};
use crate::sse;
use reqwest::{Method, RequestBuilder, Response, Url};
use serde::{Serialize, de::DeserializeOwned};
use std::error::Error as StdError;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vcl_types::api::{
    Action, Applied, Asked, BackendView, ComputerView, Console, EventView, EvidenceView, Finding, ImageView,
    JobView, LeaseView, NodeView, OrphanRequest, Orphans, Plan, PowerAction, PowerRequest, Problem,
    RevisionView, Status, StreamItem, Submitted, TrashView, VmPreview, VmView, Why, WhyKept,
};
use vcl_types::state::job;
use vcl_types::{BackendName, ComputerName, ImageName, ImageRef, JobId, JobRequest};

/// For what the daemon answers from its own memory and database.
const QUICK: Duration = Duration::from_secs(30);
/// For what makes it ask a hypervisor or a guest first.
const SLOW: Duration = Duration::from_secs(600);
/// The longest text of a foreign error that is shown.
const SHOWN: usize = 300;

type Query<'a> = &'a [(&'a str, String)];

/// A client of one daemon. It holds no connection between requests, so a daemon that restarts is no concern of it.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`. Nothing is connected yet.
    ///
    /// # Errors
    /// When the HTTP library cannot be set up.
    pub fn new(socket: &Path) -> Result<Self> {
        let broken = |cause: Box<dyn StdError + Send + Sync>| {
            Error::caused(ErrorKind::Local, "cannot set up the HTTP client", cause)
        };
        // Built beside the daemon the HTTP library has TLS in it, and wants to know whose even for a unix socket. Another
        // part of the process may have said so before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("vclctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|cause| broken(cause.into()))?;
        let base = Url::parse("http://vcld/v1").map_err(|cause| broken(cause.into()))?;
        Ok(Self { http, base, socket: socket.to_owned() })
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
    /// Puts a revision in production.
    pub async fn promote(&self, image: &ImageRef) -> Result<RevisionView> {
        let number = image.revision.unwrap_or_default().to_string();
        self.post(&["images", image.name.as_str(), &number, "promote"], &[], &()).await
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
        let what = self
            .request(Method::POST, &["jobs"], if wait { &turn } else { &[] })?
            .json(request)
            .timeout(QUICK);
        let answer = self.send(what).await.map_err(doubtful)?;
        self.read(answer).await.map_err(doubtful)
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

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Query<'_>,
        deadline: Duration,
    ) -> Result<T> {
        let request = self.request(Method::GET, path, query)?.timeout(deadline);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: Query<'_>,
        body: &impl Serialize,
    ) -> Result<T> {
        let request = self.request(Method::POST, path, query)?.json(body).timeout(SLOW);
        let answer = self.send(request).await?;
        self.read(answer).await
    }
    fn request(&self, method: Method, path: &[&str], query: Query<'_>) -> Result<RequestBuilder> {
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
        Ok(self.http.request(method, url))
    }
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let answer = request.send().await.map_err(|cause| self.lost(cause))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|cause| self.lost(cause))?;
        let Ok(problem) = serde_json::from_slice::<Problem>(&body) else {
            let said: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
            let kind = if status.as_u16() == 503 { ErrorKind::Unavailable } else { ErrorKind::Refused };
            let (from, said) = (self.socket.display(), said.trim());
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Err(Error::new(kind, format!("{from} answered {status}{said}")));
        };
        let kind = match problem.kind.as_str() {
            "unavailable" => ErrorKind::Unavailable,
            "not-found" => ErrorKind::NotFound,
            _ => ErrorKind::Refused,
        };
        Err(Error::new(kind, problem.message))
    }
    async fn read<T: DeserializeOwned>(&self, answer: Response) -> Result<T> {
        let path = answer.url().path().to_owned();
        let bytes = answer.bytes().await.map_err(|cause| self.lost(cause))?;
        serde_json::from_slice(&bytes).map_err(|cause| {
            let context =
                format!("vcld's answer to {path} is not understood; are vcld and vclctl of one version?");
            Error::caused(ErrorKind::Malformed, context, cause)
        })
    }

    fn silent(&self) -> Error {
        let socket = self.socket.display();
        Error::new(ErrorKind::Unreachable, format!("vcld does not answer on {socket}"))
    }
    fn lost(&self, cause: reqwest::Error) -> Error {
        let socket = self.socket.display();
        if cause.is_timeout() && !cause.is_connect() {
            return self.silent();
        }
        if cause.is_builder() {
            return Error::caused(ErrorKind::Local, "cannot make the request", cause.without_url());
        }
        let os = io_kind(&cause);
        if os == Some(io::ErrorKind::PermissionDenied) {
            let context = format!("{socket} is not open to you: {}", who_may(&self.socket));
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
        let context = format!("cannot reach vcld on {socket}{why}; is vcld running? (systemctl status vcld)");
        match os {
            Some(_) => Error::new(ErrorKind::Unreachable, context),
            None => Error::caused(ErrorKind::Unreachable, context, cause.without_url()),
        }
    }
}

/// A request to queue a job that was cut off may have been heard.
fn doubtful(error: Error) -> Error {
    if error.kind() == ErrorKind::Unreachable && !error.to_string().starts_with("cannot reach") {
        error.because(|context| format!("{context}; the job may have been queued: see `vclctl job list`"))
    } else {
        error
    }
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
