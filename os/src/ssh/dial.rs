//! TCP and the server's greeting: the cheap half of a connection, which a machine that boots is asked again and again.
//!
//! A hypervisor's user networking accepts connections long before the guest's ssh server runs and keeps them waiting;
//! one that was made too early may wait for many seconds more when the server is there. So a silent connection is not
//! waited for alone: every two seconds another is tried beside it, three at once, and the first that greets wins. The
//! very first is kept to the end, for a server that only is slow.

use crate::{Error, ErrorKind, Result};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use vcl_types::Endpoint;

/// After how long a server that says nothing is tried once more; each time it is twice as long. Each try costs a server that
/// is slow, because its machine has much to do, a process more.
const AGAIN: Duration = Duration::from_secs(2);
/// The longest of these times.
const RARELY: Duration = Duration::from_secs(10);
const AT_ONCE: usize = 3;
/// How long a server may take for the rest of its greeting once it has begun to speak.
const GREETING: Duration = Duration::from_secs(1);

/// A connection whose server has greeted as ssh servers do. The greeting has not been read. Every try ends at `until`.
pub(super) async fn dial(endpoint: &Endpoint, until: Instant) -> Result<std::net::TcpStream> {
    let address = SocketAddr::new(endpoint.address, endpoint.port);
    let mut tries: JoinSet<Result<TcpStream, Reason>> = JoinSet::new();
    let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
    let mut newest: Option<Id> = None;
    let mut next = Instant::now();
    let mut pause = AGAIN;
    loop {
        tokio::select! {
            biased;
            Some(done) = tries.join_next_with_id() => match done {
                Ok((_, Ok(stream))) => return finish(endpoint, stream),
                // One that waits from before the server was there tells nothing about now.
                Ok((id, Err(_))) if newest != Some(id) => waiting.retain(|w| w.id() != id),
                Ok((_, Err(reason))) => return Err(reason.into_error(endpoint)),
                Err(_) => {}
            },
            () = sleep_until(next) => {
                if waiting.len() == AT_ONCE && let Some(old) = waiting.remove(1) {
                    old.abort();
                }
                let handle = tries.spawn(greeted(address, until));
                newest = Some(handle.id());
                waiting.push_back(handle);
                next = Instant::now() + pause;
                pause = (pause * 2).min(RARELY);
            }
        }
    }
}

enum Reason {
    Connect(io::Error),
    Slow,
    Silent,
    Closed(Option<io::Error>),
    NotSsh(Vec<u8>),
}

impl Reason {
    fn into_error(self, to: &Endpoint) -> Error {
        match self {
            Self::Connect(e) if e.kind() == io::ErrorKind::ConnectionRefused => Error::caused(
                ErrorKind::Refused,
                format!("{to} refuses connections: it is still booting, or its ssh server does not run"),
                e,
            ),
            Self::Connect(e) => Error::caused(
                ErrorKind::NoRoute,
                format!("there is no way to {to}: it is off, or its network is not the one we are in"),
                e,
            ),
            Self::Slow => Error::new(
                ErrorKind::NoRoute,
                format!("{to} does not answer: it is off or booting, or a firewall drops what we send"),
            ),
            Self::Silent => Error::new(
                ErrorKind::Handshake,
                format!(
                    "{to} accepts connections and says nothing: it is still booting, or this is no ssh server"
                ),
            ),
            Self::Closed(cause) => {
                let context =
                    format!("{to} closes connections without a greeting: its ssh server is not there yet");
                match cause {
                    Some(e) => Error::caused(ErrorKind::Handshake, context, e),
                    None => Error::new(ErrorKind::Handshake, context),
                }
            }
            Self::NotSsh(said) => Error::new(
                ErrorKind::Handshake,
                format!("{to} is no ssh server; it says `{}`", said[..said.len().min(60)].escape_ascii()),
            ),
        }
    }
}

async fn greeted(address: SocketAddr, until: Instant) -> Result<TcpStream, Reason> {
    let stream = match timeout_at(until, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(e)) => return Err(Reason::Connect(e)),
        Err(_) => return Err(Reason::Slow),
    };
    let mut since = None;
    let mut said = [0; 1024];
    loop {
        let n = match timeout_at(until, stream.peek(&mut said)).await {
            Ok(Ok(n)) => n,
            Ok(Err(e)) => return Err(Reason::Closed(Some(e))),
            Err(_) => return Err(Reason::Silent),
        };
        let so_far = &said[..n];
        if n == 0 {
            return Err(Reason::Closed(None));
        }
        // A server may say other lines before its greeting.
        if so_far.starts_with(b"SSH-") || so_far.windows(5).any(|w| w == b"\nSSH-") {
            return Ok(stream);
        }
        if *since.get_or_insert_with(Instant::now) + GREETING < Instant::now() || n == said.len() {
            return Err(Reason::NotSsh(so_far.to_vec()));
        }
        // why: what was peeked at stays readable, so nothing wakes us for the rest of it.
        sleep(Duration::from_millis(10)).await;
    }
}

fn finish(endpoint: &Endpoint, stream: TcpStream) -> Result<std::net::TcpStream> {
    let ready = || {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(stream)
    };
    ready().map_err(|e: io::Error| Error::caused(ErrorKind::Local, format!("connecting to {endpoint}"), e))
}
