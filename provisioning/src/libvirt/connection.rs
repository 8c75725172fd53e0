//! The connection to one libvirt host, on threads of its own.
//!
//! libvirt's calls block, for minutes if the hypervisor likes. So a few named threads own them: a call is a closure
//! sent over a channel, and its answer comes back over another. libvirt multiplexes calls over one connection, which
//! all threads share; when it breaks it is dropped and the next call opens a new one. A call that does not come back
//! within its limit is given up on: its thread stays with it and the connection is replaced. One that was given up on
//! before it began is not begun any more.
//!
//! A stream carries gigabytes and has a thread and a connection of its own, so that no call waits behind it. It has no
//! limit as a whole; one that stands still is given up on. To a host that is reached over a network each side asks the
//! other whether it is there (keepalive, which takes libvirt's event loop): a cable that is pulled ends in an error
//! within half a minute, and not in a call that never comes back.

use crate::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use virt::connect::Connect;
use virt::enumutil::Enum;
use virt::error::ErrorNumber;

/// How long an ordinary call may take.
pub(super) const CALL: Duration = Duration::from_secs(60);
const THREADS: usize = 4;
/// How long a stream may stand still.
const QUIET: Duration = Duration::from_secs(90);
/// How long a stream that was told to stop may take to notice: a step has a minute to return.
const STOPPING: Duration = Duration::from_secs(30);
/// How often it is looked whether a stream moves.
const LOOK: Duration = Duration::from_millis(250);
/// Seconds between two questions whether the other side is there, and how many may stay without an answer.
const KEEPALIVE: (i32, u32) = (5, 5);

type Call = Box<dyn FnOnce(&Shared) + Send>;

struct Shared {
    uri: String,
    /// Whether a network lies between.
    far: bool,
    connect: Mutex<Option<Arc<Connect>>>,
}

/// A libvirt host.
pub(super) struct Connection {
    shared: Arc<Shared>,
    calls: std_mpsc::Sender<Call>,
}

/// What a stream's thread tells while it runs, and what it is told.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    moved: AtomicU64,
    stop: AtomicBool,
}

impl Pulse {
    /// So many more bytes have gone through.
    ///
    /// # Errors
    /// [`Broken::Stopped`] when it is to stop.
    pub(super) fn beat(&self, bytes: u64) -> Result<(), Broken> {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) { Err(Broken::Stopped) } else { Ok(()) }
    }
}

/// Tells a stream to stop when nobody waits for it any more.
struct Heard(Arc<Pulse>);
impl Drop for Heard {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Why a stream ended before its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// libvirt says so.
    Virt(virt::error::Error),
    /// The file on this side.
    Io(std::io::Error),
    /// It was told to.
    Stopped,
    /// What came is not what should have come.
    Wrong(String),
}
impl From<virt::error::Error> for Broken {
    fn from(e: virt::error::Error) -> Self {
        Self::Virt(e)
    }
}
impl From<std::io::Error> for Broken {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

/// Runs libvirt's event loop for as long as the process lives. To be called before the first connection is opened that
/// is to be kept alive.
fn run_events() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if virt::event::event_register_default_impl().is_err() {
            tracing::warn!("libvirt's event loop cannot be had; a host that goes silent is noticed late");
            return;
        }
        let turn = || {
            while virt::event::event_run_default_impl().is_ok() {}
            tracing::error!("libvirt's event loop has ended");
        };
        if let Err(error) = std::thread::Builder::new().name("libvirt-events".into()).spawn(turn) {
            tracing::error!(%error, "no thread for libvirt's event loop");
        }
    });
}

impl Shared {
    fn open(&self) -> Result<Connect, virt::error::Error> {
        let connect = Connect::open(Some(&self.uri))?;
        if self.far {
            // Where the driver knows none, a dead host is noticed by the limits alone.
            let _ = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
        }
        Ok(connect)
    }
    fn get(&self) -> Result<Arc<Connect>, virt::error::Error> {
        let mut slot = self.connect.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connect) = slot.as_ref() {
            if connect.is_alive().unwrap_or(false) {
                return Ok(connect.clone());
            }
            *slot = None;
        }
        let connect = Arc::new(self.open()?);
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
        let far = uri.split_once("://").is_some_and(|(_, rest)| !rest.starts_with('/'));
        if far {
            run_events();
        }
        let shared = Arc::new(Shared { uri: uri.to_owned(), far, connect: Mutex::new(None) });
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
            if answer.is_closed() {
                return;
            }
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

    /// Lets bytes flow, on a thread and over a connection of their own. `progress` is told how many have. Told to stop
    /// it waits for the thread, which notices at the next bytes or when the connection breaks; one that does not within
    /// [`STOPPING`] is left alone and stops when it notices.
    pub(super) async fn stream<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        stop: &CancellationToken,
        progress: impl Fn(u64) + Send,
        work: impl FnOnce(&Connect, &Pulse) -> Result<T, Broken> + Send + 'static,
    ) -> Result<T> {
        let what = what.into();
        let (answer, mut answered) = oneshot::channel();
        let (pulse, shared) = (Arc::new(Pulse::default()), self.shared.clone());
        let (beat, heard) = (pulse.clone(), Heard(pulse.clone()));
        let flow = move || {
            let result = match shared.open() {
                Ok(connect) => work(&connect, &beat).map_err(|e| (false, e)),
                Err(e) => Err((true, Broken::Virt(e))),
            };
            let _ = answer.send(result);
        };
        std::thread::Builder::new()
            .name("libvirt-stream".into())
            .spawn(flow)
            .map_err(|e| Error::caused(ErrorKind::Failed, format!("{what}: starting a thread"), e))?;
        let (mut moved, mut quiet_since) = (0, tokio::time::Instant::now());
        let mut told: Option<tokio::time::Instant> = None;
        let result = loop {
            tokio::select! {
                result = &mut answered => break result,
                () = stop.cancelled(), if told.is_none() => {
                    pulse.stop.store(true, Ordering::Relaxed);
                    told = Some(tokio::time::Instant::now());
                }
                () = tokio::time::sleep(LOOK) => {} // why: the thread counts and does not signal
            }
            if told.is_some_and(|told| told.elapsed() > STOPPING) {
                let context = format!("{what}: told to stop, and nothing moved for {STOPPING:?}");
                return Err(Error::new(ErrorKind::Cancelled, context));
            }
            let now = pulse.moved.load(Ordering::Relaxed);
            if now != moved {
                (moved, quiet_since) = (now, tokio::time::Instant::now());
                progress(moved);
            } else if quiet_since.elapsed() > QUIET {
                let uri = self.uri();
                let context = format!("{what}: not one byte went to or from {uri} for {QUIET:?}");
                return Err(Error::new(ErrorKind::Deadline, context));
            }
        };
        drop(heard);
        match result {
            Ok(Ok(value)) => {
                progress(pulse.moved.load(Ordering::Relaxed));
                Ok(value)
            }
            Ok(Err((connecting, Broken::Virt(e)))) => Err(self.explain(what, connecting, e)),
            Ok(Err((_, Broken::Io(e)))) => {
                let full = e.kind() == std::io::ErrorKind::StorageFull;
                let kind = if full { ErrorKind::NoSpace } else { ErrorKind::Failed };
                Err(Error::caused(kind, what, e))
            }
            Ok(Err((_, Broken::Stopped))) => {
                Err(Error::new(ErrorKind::Failed, format!("{what}: told to stop")))
            }
            Ok(Err((_, Broken::Wrong(why)))) => Err(Error::new(ErrorKind::Failed, format!("{what}: {why}"))),
            Err(_) => Err(Error::new(ErrorKind::Failed, format!("{what}: the stream's thread panicked"))),
        }
    }

    fn explain(&self, what: String, connecting: bool, e: virt::error::Error) -> Error {
        let code = match e.code() {
            virt::enumutil::Enum::Known(code) => Some(code),
            virt::enumutil::Enum::Unknown(_) => None,
        };
        let text = e.message().to_lowercase();
        let broken = [
            "broken pipe",
            "end of file",
            "connection reset",
            "client socket is closed",
            "keepalive",
            "hangup",
            "no route to host",
            "connection timed out",
            "cannot recv data",
            "cannot write data",
        ];
        let kind = match code {
            _ if connecting || broken.iter().any(|b| text.contains(b)) => ErrorKind::Unreachable,
            Some(ErrorNumber::NoConnect | ErrorNumber::InvalidConn) => ErrorKind::Unreachable,
            _ if text.contains("no space left on device") => ErrorKind::NoSpace,
            // A pool in which a volume is being made is not looked through.
            _ if text.contains("asynchronous jobs running") => ErrorKind::Busy,
            Some(ErrorNumber::NoDomain | ErrorNumber::NoNetwork | ErrorNumber::NoStorageVolume) => {
                ErrorKind::NotFound
            }
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

/// Whether libvirt's error is this one.
pub(super) fn is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    matches!(error.code(), Enum::Known(code) if code == number)
}
