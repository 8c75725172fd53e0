//! The connection to one libvirt host, on threads of its own.
//!
//! libvirt's calls block, for minutes if the hypervisor likes. So a few named threads own them: a call is a closure
//! sent over a channel, and its answer comes back over another. libvirt multiplexes calls over one connection, which
//! all threads share; when it breaks it is dropped and the next call opens a new one. A call that does not come back
//! within its limit is given up on: its thread stays with it and the connection is replaced.

use crate::{Error, ErrorKind, Result};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use virt::connect::Connect;
use virt::error::ErrorNumber;

/// How long an ordinary call may take.
pub(super) const CALL: Duration = Duration::from_secs(60);
const THREADS: usize = 4;

type Call = Box<dyn FnOnce(&Shared) + Send>;

struct Shared {
    uri: String,
    connect: Mutex<Option<Arc<Connect>>>,
}

/// A libvirt host.
pub(super) struct Connection {
    shared: Arc<Shared>,
    calls: std_mpsc::Sender<Call>,
}

impl Shared {
    fn get(&self) -> Result<Arc<Connect>, virt::error::Error> {
        let mut slot = self.connect.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connect) = slot.as_ref() {
            if connect.is_alive().unwrap_or(false) {
                return Ok(connect.clone());
            }
            *slot = None;
        }
        let connect = Arc::new(Connect::open(Some(&self.uri))?);
        *slot = Some(connect.clone());
        Ok(connect)
    }
    fn drop_connection(&self) {
        self.connect.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Connection {
    /// Starts the threads. Nothing is connected before the first call.
    pub(super) fn new(name: &str, uri: &str) -> std::io::Result<Self> {
        // Without this libvirt prints every error to standard error, whoever handles it.
        virt::error::clear_error_callback();
        let shared = Arc::new(Shared { uri: uri.to_owned(), connect: Mutex::new(None) });
        let (calls, queue) = std_mpsc::channel::<Call>();
        let queue = Arc::new(Mutex::new(queue));
        for n in 0..THREADS {
            let (queue, shared) = (queue.clone(), shared.clone());
            std::thread::Builder::new().name(format!("libvirt-{name}-{n}")).spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(call) = next else { return };
                    // The binding panics where it should answer an error; one call's panic is one call's error.
                    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| call(&shared)));
                    if caught.is_err() {
                        tracing::error!("a libvirt call panicked");
                    }
                }
            })?;
        }
        Ok(Self { shared, calls })
    }

    /// The host's URI.
    pub(super) fn uri(&self) -> &str {
        &self.shared.uri
    }

    /// Calls libvirt. `what` says what is being done, for the error.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        limit: Duration,
        work: impl FnOnce(&Connect) -> Result<T, virt::error::Error> + Send + 'static,
    ) -> Result<T> {
        let what = what.into();
        let (answer, answered) = oneshot::channel();
        let call: Call = Box::new(move |shared| {
            let result = shared.get().map_err(|e| (true, e)).and_then(|c| work(&c).map_err(|e| (false, e)));
            let _ = answer.send(result);
        });
        let gone = || Error::new(ErrorKind::Failed, format!("{what}: the libvirt thread is gone"));
        self.calls.send(call).map_err(|_| gone())?;
        match tokio::time::timeout(limit, answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err((connecting, e)))) => Err(self.explain(what, connecting, e)),
            Ok(Err(_)) => Err(gone()),
            Err(_) => {
                self.shared.drop_connection();
                let uri = self.uri();
                Err(Error::new(ErrorKind::Deadline, format!("{what}: {uri} has not answered for {limit:?}")))
            }
        }
    }

    fn explain(&self, what: String, connecting: bool, e: virt::error::Error) -> Error {
        let code = match e.code() {
            virt::enumutil::Enum::Known(code) => Some(code),
            virt::enumutil::Enum::Unknown(_) => None,
        };
        let text = e.message().to_lowercase();
        let broken =
            ["broken pipe", "end of file", "connection reset", "client socket is closed", "keepalive"];
        let kind = match code {
            _ if connecting || broken.iter().any(|b| text.contains(b)) => ErrorKind::Unreachable,
            Some(ErrorNumber::NoConnect | ErrorNumber::InvalidConn) => ErrorKind::Unreachable,
            Some(ErrorNumber::NoDomain | ErrorNumber::NoNetwork) => ErrorKind::NotFound,
            Some(ErrorNumber::NoSupport | ErrorNumber::ConfigUnsupported) => ErrorKind::Unsupported,
            _ => ErrorKind::Failed,
        };
        if kind == ErrorKind::Unreachable {
            self.shared.drop_connection();
            let uri = self.uri();
            let context = format!(
                "{what}: libvirtd at {uri} does not answer; is it running? (systemctl status libvirtd)"
            );
            return Error::caused(kind, context, Said(e.message().to_owned()));
        }
        Error::caused(kind, what, Said(e.message().to_owned()))
    }
}

/// libvirt's own words, without the codes that its binding puts around them.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Said(String);

/// `None` for a thing that is not there, where that is no error.
pub(super) fn maybe<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
