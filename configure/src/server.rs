//! The run's end of what scripts call: see [`crate::command`].
//!
//! Calls come from scripts that run beside each other, each on a connection of its own. What a call defines is noted at once, in
//! this process; where `$__remote_copy` copies a file, it goes through the run's one connection to the target. What neither can do
//! (a directory, an option of scp's, a stream for `rsync`) is left to the program that the transport is.

use crate::channel::Batch;
use crate::command::{decode, encode, fitting};
use crate::copies::Copy;
use crate::emulator::{Call, Emulator};
use crate::error::{Error, ErrorKind, Result};
use crate::link::Link;
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long nobody is let in when that failed.
const AGAIN: Duration = Duration::from_millis(50);

/// What calls need of the run.
#[derive(Debug)]
pub struct Desk {
    /// The types' commands.
    pub emulator: Emulator,
    /// The connection.
    pub link: Link,
    /// What scripts know the target as.
    pub name: String,
    /// How long a copy may take.
    pub limit: Duration,
}

/// Answers calls until it is dropped.
#[derive(Debug)]
pub struct Server {
    path: Utf8PathBuf,
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Server {
    /// Begins to answer at a socket.
    ///
    /// # Errors
    /// There can be none at that path.
    pub fn begin(path: Utf8PathBuf, desk: Arc<Desk>) -> Result<Self> {
        let listener =
            UnixListener::bind(&path).map_err(|error| Error::io(format!("listening at {path}"), error))?;
        let (stop, tracker) = (CancellationToken::new(), TaskTracker::new());
        let (until, calls) = (stop.clone(), tracker.clone());
        tracker.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = until.cancelled() => return,
                };
                let Ok((stream, _)) = accepted else {
                    // why: there is no descriptor left for it, and nobody tells when there is one again
                    tokio::time::sleep(AGAIN).await;
                    continue;
                };
                let (desk, until) = (desk.clone(), until.clone());
                calls.spawn(async move {
                    tokio::select! {
                        // A caller that has gone away has no use for an answer.
                        _ = answer(stream, &desk) => {}
                        () = until.cancelled() => {}
                    }
                });
            }
        });
        Ok(Self { path, stop, tracker })
    }
    /// Where it answers.
    #[must_use]
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }
    /// Ends it, calls that are being answered too.
    pub async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(mut stream: UnixStream, desk: &Desk) -> io::Result<()> {
    let mut parts = receive(&mut stream).await?.into_iter();
    let (what, first) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match what.as_slice() {
        b"define" => define(&mut stream, desk, first, parts.collect()).await,
        b"copy" => {
            let arguments: Vec<Vec<u8>> = parts.collect();
            let said = copy(desk, &first, &arguments).await;
            send(&mut stream, &said).await
        }
        b"exec" => {
            let words: Vec<Vec<u8>> = desk.link.transport().exec(&desk.name, &parts.collect::<Vec<_>>());
            send(&mut stream, &[vec![b"run".to_vec()], words].concat()).await
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn define(stream: &mut UnixStream, desk: &Desk, name: Vec<u8>, rest: Vec<Vec<u8>>) -> io::Result<()> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(io::Error::other);
    let mut rest = rest.into_iter();
    let count: usize = text(rest.next().unwrap_or_default())?.parse().map_err(io::Error::other)?;
    let mut variables = BTreeMap::new();
    for _ in 0..count {
        // A variable that is not UTF-8 is none that a run has set.
        let variable = String::from_utf8_lossy(&rest.next().unwrap_or_default()).into_owned();
        if let Some((name, value)) = variable.split_once('=') {
            variables.insert(name.to_owned(), value.to_owned());
        }
    }
    let call = Call { name: text(name)?, arguments: rest.collect(), variables };
    let (definition, stdin) = match desk.emulator.define(&call) {
        Ok(defined) => defined,
        Err(error) => return send(stream, &refused(&error)).await,
    };
    send(stream, &[b"stdin".to_vec(), stdin.as_str().as_bytes().to_vec()]).await?;
    let _ = receive(stream).await?;
    match desk.emulator.connect(&definition) {
        Ok(()) => send(stream, &ended(0, "")).await,
        Err(error) => send(stream, &refused(&error)).await,
    }
}

/// `$__remote_copy SOURCE HOST:PATH`.
async fn copy(desk: &Desk, from: &[u8], arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let words: Option<Vec<&str>> = arguments.iter().map(|word| std::str::from_utf8(word).ok()).collect();
    let one = match (std::str::from_utf8(from), words.as_deref()) {
        (Ok(from), Some([source, to])) => Copy::of(Utf8Path::new(from), source, to),
        _ => None,
    };
    match one {
        Some(one) => match upload(desk, &one).await {
            Ok(()) => ended(0, ""),
            Err(error) => ended(1, &error.chain()),
        },
        None => match desk.link.transport().copy(&desk.name, arguments) {
            Some(words) => [vec![b"run".to_vec()], words].concat(),
            None => ended(1, "one file can be copied here, and nothing else: use $__remote_exec"),
        },
    }
}

async fn upload(desk: &Desk, copy: &Copy) -> Result<()> {
    let mut batch = Batch::default();
    let channel = desk.link.now();
    copy.add(&mut batch, channel.base(), false)?;
    for answer in channel.send(batch, desk.limit).await? {
        if answer.code != 0 {
            let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
            let target = desk.link.transport().name();
            let context = format!("copying {} to {} on {target}: {said}", copy.file, copy.to);
            return Err(Error::new(ErrorKind::Failed, context));
        }
    }
    Ok(())
}

fn refused(error: &Error) -> Vec<Vec<u8>> {
    ended(error.exit_code(), &error.chain())
}

fn ended(code: u8, text: &str) -> Vec<Vec<u8>> {
    vec![b"ended".to_vec(), code.to_string().into_bytes(), text.as_bytes().to_vec()]
}

async fn send(stream: &mut UnixStream, message: &[Vec<u8>]) -> io::Result<()> {
    stream.write_all(&encode(message)?).await
}

async fn receive(stream: &mut UnixStream) -> io::Result<Vec<Vec<u8>>> {
    let mut bytes = vec![0; fitting(stream.read_u32().await?)?];
    stream.read_exact(&mut bytes).await?;
    decode(&bytes)
}
