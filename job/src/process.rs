//! Child processes of a step: in a group of their own, in the journal before they do anything, ended with everything
//! they started.
//!
//! The child is held at a gate until its process group and start time are durable: a shell that waits for one line on
//! its standard input and then becomes the program. If the daemon dies first, the line never comes and the shell ends.
//! If it dies later, whoever runs the step next finds the group in the journal and ends it before it starts another,
//! so that two of them never write to one file.

use crate::{Cx, Error, Kind, Result};
use std::ffi::{OsStr, OsString};
use std::io;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;

/// What a process left behind when it ended well.
#[derive(Debug, Clone, Default)]
pub struct ChildOutput {
    /// Its standard output, at most a mebibyte.
    pub stdout: Vec<u8>,
    /// Its standard error, at most 64 KiB.
    pub stderr: String,
}

/// A program to be run by a step.
#[derive(Debug, Clone)]
pub struct Process {
    program: OsString,
    args: Vec<OsString>,
    limit: Option<Duration>,
}

impl Process {
    /// A program of the search path, or an absolute path.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { program: program.as_ref().to_owned(), args: Vec::new(), limit: None }
    }
    /// One argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }
    /// Several arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }
    /// How long it may take. Past that its whole process group is ended.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }
    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Runs it to its end. `on_line` gets what it prints, piece by piece: a piece ends with a newline or a carriage
    /// return, as progress lines do. When the step is told to stop, the whole process group is ended first.
    ///
    /// # Errors
    /// [`Kind::Deadline`] when it takes longer than its limit, [`Kind::NotFound`] when there is no such program, [`Kind::Cancelled`] when the step was told to stop,
    /// [`Kind::NoSpace`] when the program said so, otherwise [`Kind::Fatal`] with the last lines of its standard error.
    pub async fn run(&self, cx: &Cx, mut on_line: impl FnMut(&str) + Send) -> Result<ChildOutput> {
        cx.check().await?;
        let name = self.name();
        let mut child = tokio::process::Command::new("/bin/sh")
            .arg("-c")
            .arg("read -r go && exec \"$@\" </dev/null")
            .arg("sh")
            .arg(&self.program)
            .args(&self.args)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| Error::caused(Kind::Fatal, format!("starting {name}"), e))?;
        let group = child.id().map_or(0, u32::cast_signed);
        let opened = async {
            let start =
                start_time(group).ok_or_else(|| Error::new(Kind::Fatal, format!("{name} ended at once")))?;
            cx.record_process(group, start).await?;
            let mut gate = child.stdin.take().ok_or_else(|| Error::new(Kind::Fatal, "no standard input"))?;
            gate.write_all(b"go\n")
                .await
                .map_err(|e| Error::caused(Kind::Fatal, format!("starting {name}"), e))?;
            Ok::<_, Error>(start)
        }
        .await;
        let start = match opened {
            Ok(start) => start,
            Err(e) => {
                let _ = child.kill().await;
                return Err(e);
            }
        };
        let late = async {
            match self.limit {
                Some(limit) => tokio::time::sleep(limit).await, // why: it is the limit
                None => std::future::pending().await,
            }
        };
        tokio::pin!(late);
        let too_late = || {
            let limit = self.limit.unwrap_or_default();
            Error::new(Kind::Deadline, format!("{name} has not ended after {limit:?}"))
        };
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let mut output = ChildOutput::default();
        let mut stderr = Vec::new();
        let mut piece = Vec::new();
        let (mut out_buffer, mut err_buffer) = (vec![0; 16 * 1024], vec![0; 4 * 1024]);
        while out.is_some() || err.is_some() {
            tokio::select! {
                biased;
                () = cx.stopped() => return Err(stop(&mut child, group, start, &name, cx.stop_error()).await),
                () = &mut late => return Err(stop(&mut child, group, start, &name, too_late()).await),
                n = read_some(&mut out, &mut out_buffer) => {
                    for byte in &out_buffer[..n] {
                        if matches!(byte, b'\n' | b'\r') {
                            on_line(&String::from_utf8_lossy(&piece));
                            piece.clear();
                        } else if piece.len() < 4096 {
                            piece.push(*byte);
                        }
                    }
                    let room = (1024 * 1024usize).saturating_sub(output.stdout.len());
                    output.stdout.extend_from_slice(&out_buffer[..n.min(room)]);
                }
                n = read_some(&mut err, &mut err_buffer) => {
                    let room = (64 * 1024usize).saturating_sub(stderr.len());
                    stderr.extend_from_slice(&err_buffer[..n.min(room)]);
                }
            }
        }
        // It may have closed both and still be at work.
        let waited = tokio::select! {
            biased;
            status = child.wait() => Ok(status),
            () = cx.stopped() => Err(cx.stop_error()),
            () = &mut late => Err(too_late()),
        };
        let status = match waited {
            Ok(status) => status,
            Err(why) => return Err(stop(&mut child, group, start, &name, why).await),
        };
        let status = status.map_err(|e| Error::caused(Kind::Fatal, format!("waiting for {name}"), e))?;
        output.stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        if status.success() {
            return Ok(output);
        }
        let said = if output.stderr.is_empty() { "it said nothing".to_owned() } else { output.stderr };
        let kind = if said.contains("No space left on device") {
            Kind::NoSpace
        } else if status.code() == Some(127) && said.contains("not found") {
            Kind::NotFound
        } else {
            Kind::Fatal
        };
        Err(Error::new(kind, format!("{name} failed ({status}): {said}")))
    }
}

/// Ends a program of a step that was told to stop, or that takes too long, with all it started.
async fn stop(child: &mut Child, group: i32, start: u64, name: &str, why: Error) -> Error {
    let ended = end_group(group, start).await;
    let _ = child.wait().await;
    match ended {
        Ok(()) => why,
        Err(e) => Error::caused(Kind::UndoFailed, format!("ending {name}"), e),
    }
}

async fn read_some<R: tokio::io::AsyncRead + Unpin>(from: &mut Option<R>, buffer: &mut [u8]) -> usize {
    let Some(reader) = from else { return std::future::pending().await };
    match reader.read(buffer).await {
        Ok(n) if n > 0 => n,
        _ => {
            *from = None;
            0
        }
    }
}

/// A process's start time in clock ticks since boot, from field 22 of `/proc/PID/stat`; `None` when it is not there.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything, so count from the last parenthesis.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Which boot of which machine this is.
#[must_use]
pub fn boot_id() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned());
    BOOT.get_or_init(read).as_deref()
}

/// A process group as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) id: i32,
    pub(crate) started: u64,
    pub(crate) boot: Option<String>,
}
impl Group {
    /// Ends it, unless it was one of another boot or another machine: its id may be a stranger's here.
    pub(crate) async fn end(&self) -> io::Result<()> {
        if self.boot.is_some() && self.boot.as_deref() != boot_id() {
            return Ok(());
        }
        end_group(self.id, self.started).await
    }
}

/// Ends a process group and waits until all of its processes are gone. One whose first process has another start time is
/// not that group any more and is left alone.
///
/// # Errors
/// When it may not be signalled, or is still there after ten seconds.
pub async fn end_group(group: i32, started: u64) -> io::Result<()> {
    let Some(pid) = rustix::process::Pid::from_raw(group).filter(|_| group > 1) else { return Ok(()) };
    if start_time(group) != Some(started) {
        return Ok(());
    }
    let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::TERM);
    // Of the machine's clock, which is the one that the processes live by.
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut killed = false;
    // Its id is not given to another group while it has members.
    while has_members(group) {
        let now = Instant::now();
        if now > deadline {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("process group {group} does not end"),
            ));
        }
        if !killed && now > deadline - Duration::from_secs(7) {
            killed = true;
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
        // why: nobody tells us of the end of a process that is not our child.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Whether a process of the group still runs. One that has ended and waits for its parent to ask does not.
fn has_members(group: i32) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let (state, _parent, of) = (fields.next(), fields.next(), fields.next());
        !matches!(state, None | Some("Z" | "X")) && of.and_then(|g| g.parse().ok()) == Some(group)
    })
}
