//! A connection as the async side sees it: a thread behind a channel, and the socket to cut it off with.

use super::dial::dial;
use super::key::SshKey;
use super::session::{self, Failed};
use crate::{Command, Error, ErrorKind, Output, Result};
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use vcl_types::{Endpoint, HostKey};

/// The socket that a connection's thread works on.
struct Line {
    stream: TcpStream,
    cut: AtomicBool,
}

impl Line {
    /// Ends whatever the thread is blocked in, and the thread.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        // One that is shut down already, or was never connected, is as it should be.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
    fn is_whole(&self) -> bool {
        // libssh2 has made the socket non-blocking.
        let heard = || match self.stream.peek(&mut [0]) {
            Ok(n) => n > 0,
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        };
        !self.cut.load(Ordering::SeqCst) && heard()
    }
}

/// Cuts the line unless it is told that all went well: what is dropped in the middle of a call is given up.
struct CutUnlessDone<'a>(&'a Line, bool);
impl Drop for CutUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.cut();
        }
    }
}

struct Order {
    command: Command,
    until: Instant,
    reply: oneshot::Sender<Result<Output, Failed>>,
}

/// One connection to one guest.
pub(super) struct Connection {
    orders: SyncSender<Order>,
    line: Arc<Line>,
    host_key: HostKey,
}

impl Connection {
    /// Dials, starts the thread and waits until it is logged in.
    pub(super) async fn open(
        to: &Endpoint,
        key: &SshKey,
        idle: Duration,
        until: Instant,
        cancel: &CancellationToken,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self> {
        let given_up = || Error::new(ErrorKind::Cancelled, format!("connecting to {to} was given up"));
        let stream = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(given_up()),
            stream = dial(to, until) => stream?,
        };
        let failed =
            |e: io::Error| Error::caused(ErrorKind::Local, format!("starting a connection to {to}"), e);
        let line =
            Arc::new(Line { stream: stream.try_clone().map_err(failed)?, cut: AtomicBool::new(false) });
        let (orders, inbox) = sync_channel(1);
        let (ready, opened) = oneshot::channel();
        let thread = Thread {
            stream,
            line: line.clone(),
            to: to.clone(),
            key: key.clone(),
            idle,
            until: until.into_std(),
            _permit: permit,
        };
        std::thread::Builder::new()
            .name(format!("ssh {}", to.address))
            .spawn(move || thread.work(ready, &inbox))
            .map_err(failed)?;
        let mut guard = CutUnlessDone(&line, false);
        let host_key = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(given_up()),
            opened = opened => opened.unwrap_or_else(|_| Err(ended(to)))?,
            () = sleep_until(until) => {
                let context = format!("{to} greets, and does not let us in in time");
                return Err(Error::new(ErrorKind::Deadline, context));
            }
        };
        guard.1 = true;
        drop(guard);
        Ok(Self { orders, line, host_key })
    }
    /// The key that the server showed.
    pub(super) fn host_key(&self) -> &HostKey {
        &self.host_key
    }
    /// Whether it still can be used, as far as can be told without asking the guest.
    pub(super) fn is_whole(&self) -> bool {
        self.line.is_whole()
    }
    /// Ends it, also in the middle of a command.
    pub(super) fn cut(&self) {
        self.line.cut();
    }
    /// Runs a command. When it is given up, takes too long or this is dropped, the connection is cut.
    pub(super) async fn run(
        &self,
        to: &Endpoint,
        command: Command,
        until: Instant,
    ) -> Result<Output, Failed> {
        let (reply, answer) = oneshot::channel();
        let (cancel, limit) = (command.cancel.clone(), command.limit);
        match self.orders.try_send(Order { command, until, reply }) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(_) | TrySendError::Full(_)) => {
                return Err(Failed { sent: false, error: ended(to) });
            }
        }
        let failed = |kind, context| Err(Failed { sent: true, error: Error::new(kind, context) });
        let mut guard = CutUnlessDone(&self.line, false);
        tokio::select! {
            biased;
            () = cancel.cancelled() => failed(ErrorKind::Cancelled, format!("the command on {to} was given up")),
            answer = answer => {
                // The thread ended without an answer: it was idle for too long just now and has taken no order.
                let answer = answer.unwrap_or_else(|_| Err(Failed { sent: false, error: ended(to) }));
                guard.1 = answer.is_ok();
                answer
            }
            () = sleep_until(until) => {
                failed(ErrorKind::Deadline, format!("the command took longer than {limit:?} on {to}"))
            }
        }
    }
}
impl Drop for Connection {
    fn drop(&mut self) {
        self.line.cut();
    }
}

fn ended(to: &Endpoint) -> Error {
    Error::new(ErrorKind::Lost, format!("the connection to {to} is closed"))
}

struct Thread {
    stream: TcpStream,
    line: Arc<Line>,
    to: Endpoint,
    key: SshKey,
    idle: Duration,
    until: std::time::Instant,
    _permit: OwnedSemaphorePermit,
}

impl Thread {
    fn work(self, ready: oneshot::Sender<Result<HostKey>>, orders: &Receiver<Order>) {
        let session = match session::open(&self.stream, &self.to, &self.key, self.until) {
            Ok((session, host_key)) => {
                // Nobody waits any more: the line is cut.
                if ready.send(Ok(host_key)).is_err() {
                    return;
                }
                session
            }
            Err(e) => {
                let _ = ready.send(Err(e));
                self.line.cut();
                return;
            }
        };
        while let Ok(order) = orders.recv_timeout(self.idle) {
            let Order { command, until, reply } = order;
            let result = session::run(&session, &self.stream, &self.to, &command, until.into_std());
            let whole = result.is_ok();
            let _ = reply.send(result);
            if !whole || self.line.cut.load(Ordering::SeqCst) {
                break;
            }
        }
        self.line.cut();
    }
}
