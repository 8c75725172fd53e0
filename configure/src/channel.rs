//! The one connection to a target: a loop of POSIX sh that takes batches of work and says what came of each.
//!
//! A batch is a length, so many bytes of sh, and the contents of files that the sh reads from the same stream. The loop puts the
//! sh into a file and reads it in; nothing but `head` (or `dd`, where `head -c` takes more than it should) is needed there. What
//! a batch answers is text between lines with a boundary that nobody can guess; so no output has to be counted, and none can be
//! taken for an answer. Batches may be sent before earlier ones are answered; they are done in their order.
//!
//! A script that was sent in a batch has no input, for the input is the next batch. What a batch could not put there, for want of
//! room or of a directory, keeps its scripts from running. One that does not end is not waited for: whoever waits gives the time
//! that one script may take, and [`Channel::kill`] ends everything that the loop has started, by a connection of its own.

use crate::error::{Error, ErrorKind, Result};
use crate::target::{Transport, quoted};
use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot, watch};

/// The loop. `f` takes so many bytes of the stream, `a` answers, `b` is where it works, `m` the boundary, `i` which life of the
/// system it is, `w` what went wrong in a batch, `s` what went wrong in a sequence.
///
/// A `head` that reads more than it was told to has taken `def` with the `abc`, and the next line is `end`.
const LOOP: &str = "umask 077; IFS= read -r b; IFS= read -r m; mkdir -p \"$b\" && chmod 0700 \"$b\" && cd / || exit 1; \
    i=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null); \
    if [ -f \"$b/.loop\" ] && read -r g j <\"$b/.loop\" && [ \"$j\" = \"$i\" ]; then k=0; while kill -0 \"$g\" 2>/dev/null; do \
    k=$((k+1)); if [ $k = 4 ]; then echo \"$m another run is at work in $b: process $g\"; exit 1; fi; sleep 1; done; fi; \
    echo \"$$ $i\" >\"$b/.loop\"; x=$(head -c 3); echo \"$m $$ $i\"; IFS= read -r y; \
    if [ \"$y\" = def ]; then read -r y; f() { head -c \"$1\"; }; \
    else f() { dd ibs=1 obs=65536 count=\"$1\" 2>/dev/null; }; fi; echo \"$m $y\"; exec 3>&1; s=; \
    a() { [ -s \"$b/.out$1\" ] && cat \"$b/.out$1\"; echo; echo \"$m $r\"; [ -s \"$b/.err$1\" ] && cat \"$b/.err$1\"; \
    [ -z \"$w$2\" ] || echo \"$w$2\"; echo; echo \"$m\"; }; \
    while read -r n; do w=; f \"$n\" >\"$b/.batch\" || { echo; echo \"$m cannot write $b/.batch\"; exit 1; }; . \"$b/.batch\"; done; rm -f \"$b/.loop\"";
/// How much one script may say.
const MOST: usize = 16 << 20;
/// A value of this size stands in the sh; a larger one behind it.
const INLINE: usize = 2048;
/// How many directories are made by one process.
const AT_ONCE: usize = 16;
/// How long opening and closing may take.
const OPEN: Duration = Duration::from_secs(60);

/// Variables, each a name and a value.
pub type Pairs<'a> = Vec<(&'a str, &'a [u8])>;

/// Work for a target.
#[derive(Debug, Default)]
pub struct Batch {
    sh: Vec<u8>,
    contents: Vec<u8>,
    /// What there will be answers of, in their order.
    asked: Vec<String>,
}

/// What came of one script of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code.
    pub code: u8,
    /// What it said.
    pub stdout: Vec<u8>,
    /// What it complained.
    pub stderr: Vec<u8>,
}

impl Batch {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sh.is_empty()
    }
    /// Adds sh as it is. What it says outside of a script is nobody's.
    pub fn sh(&mut self, line: &[u8]) -> &mut Self {
        self.sh.extend(line);
        self.sh.push(b'\n');
        self
    }
    /// Puts a file there. Its directory has to be.
    pub fn put(&mut self, path: &str, content: &[u8]) -> &mut Self {
        let (file, size) = (quoted(path.as_bytes()), content.len());
        let wrong = quoted(format!("cannot write {path}").as_bytes());
        if let Some(says) = says(content) {
            return self.sh(&[&says[..], b" >", &file, b" || w=", &wrong].concat());
        }
        self.contents.extend(content);
        // Where it cannot be written, what was sent is taken off the stream all the same; and a disk that is full in the
        // middle ends the connection, since nobody knows how much of it is still to come.
        let take = format!(" 2>/dev/null; then f {size} >");
        let broke = b" || { echo; printf '%s %s\\n' \"$m\" ";
        let skip = format!("; exit 1; }}; else f {size} >/dev/null; w=");
        self.sh(&[
            b"if true >>",
            &file[..],
            take.as_bytes(),
            &file,
            broke,
            &wrong,
            skip.as_bytes(),
            &wrong,
            b"; fi",
        ]
        .concat())
    }
    /// Makes directories, and those that they lie in, where they are not there yet.
    pub fn directories(&mut self, paths: &[String]) -> &mut Self {
        // Looking costs nothing there, and a process for many no more than one for one.
        for some in paths.chunks(AT_ONCE) {
            let mut sh = b"set --".to_vec();
            for path in some {
                let path = quoted(path.as_bytes());
                sh.extend([b"; [ -d ", &path[..], b" ] || set -- \"$@\" ", &path].concat());
            }
            let wrong = match some {
                [one] => format!("cannot make {one}"),
                _ => format!("cannot make a directory of {} to {}", some[0], some[some.len() - 1]),
            };
            sh.extend([b"; [ $# = 0 ] || mkdir -p \"$@\" || w=", &quoted(wrong.as_bytes())[..]].concat());
            self.sh(&sh);
        }
        self
    }
    /// Lets all files of a directory be run: explorers call each other.
    pub fn executable(&mut self, directory: &str) -> &mut Self {
        let wrong = quoted(format!("cannot change the modes in {directory}").as_bytes());
        self.sh(&[b"chmod 0700 ", &quoted(directory.as_bytes())[..], b"/* || w=", &wrong].concat())
    }
    /// Runs a script with these variables besides those of the target, and answers with what came of it.
    pub fn run(&mut self, variables: &[(&str, &[u8])], script: &str) -> &mut Self {
        self.line(&started(variables, script), script)
    }
    /// Runs scripts, each with its variables, so many of them at the same time. Those that ran together are answered together:
    /// what they have said, and what stands between, is sent by one `cat`, for on the target nothing costs as much as a process.
    pub fn beside(&mut self, scripts: &[(Pairs<'_>, String)], at_once: usize) -> &mut Self {
        for some in scripts.chunks(at_once.max(1)) {
            for (n, (variables, script)) in some.iter().enumerate() {
                // Which of them it is that does not end nobody knows before all have.
                let others = some.iter().skip(1).map(|(_, other)| other.as_str());
                let others = if n == 0 { others.collect::<Vec<_>>().join(", ") } else { String::new() };
                self.asked.push(match others.is_empty() {
                    true => script.clone(),
                    false => format!("{script} (or what runs beside it: {others})"),
                });
                let sh = inside(&started(variables, script), "w", &n.to_string());
                self.sh(&[&sh[..], format!(" & p{n}=$!").as_bytes()].concat());
            }
            self.sh(b"z=");
            let (mut all, mut one_by_one) = (String::from("cat"), String::new());
            for n in 0..some.len() {
                self.sh(format!(
                    "wait \"$p{n}\"; r{n}=$?; {{ echo && echo \"$m $r{n}\"; }} >\"$b/.mid{n}\" && \
                     {{ {{ [ -z \"$w\" ] || echo \"$w\"; }} && echo && echo \"$m\"; }} >\"$b/.end{n}\" && [ -f \"$b/.err{n}\" ] || z=full"
                ).as_bytes());
                all.push_str(&format!(" \"$b/.out{n}\" \"$b/.mid{n}\" \"$b/.err{n}\" \"$b/.end{n}\""));
                one_by_one.push_str(&format!("r=$r{n}; a {n}; "));
            }
            // A disk that is full takes nothing of it; then each is told by itself.
            self.sh(format!("if [ -z \"$z\" ]; then {all}; else {one_by_one}fi").as_bytes());
        }
        self
    }
    /// The same as [`run`](Self::run), and where it fails nothing runs that is sent after it in this manner.
    pub fn run_in_sequence(&mut self, variables: &[(&str, &[u8])], script: &str) -> &mut Self {
        self.line_in_sequence(&started(variables, script), script)
    }
    /// Runs a line of sh, and answers with what came of it. `what` it is stands in messages.
    pub fn line(&mut self, sh: &[u8], what: &str) -> &mut Self {
        self.asked.push(what.to_owned());
        self.sh(&inside(sh, "w", ""));
        self.sh(b"r=$?; a")
    }
    /// The same as [`line`](Self::line), and where it fails nothing runs that is sent after it in this manner.
    pub fn line_in_sequence(&mut self, sh: &[u8], what: &str) -> &mut Self {
        self.asked.push(what.to_owned());
        self.sh(&inside(sh, "w$s", ""));
        self.sh(b"r=$?; a \"\" \"$s\"; [ $r = 0 ] || s=\"what was to be done before has failed\"")
    }
}

/// What says this content, by the shell alone; `None` where it is too large for that, or no text.
pub(crate) fn says(content: &[u8]) -> Option<Vec<u8>> {
    let fits = content.len() <= INLINE && !content.contains(&0);
    fits.then(|| [b"printf %s ", &quoted(content)[..]].concat())
}

/// A script with its variables.
fn started(variables: &[(&str, &[u8])], script: &str) -> Vec<u8> {
    let mut sh = Vec::new();
    for (name, value) in variables {
        sh.extend([name.as_bytes(), b"=", &quoted(value), b"; export ", name.as_bytes(), b"; "].concat());
    }
    sh.extend(b"exec /bin/sh -e ");
    sh.extend(quoted(script.as_bytes()));
    sh
}

/// What runs sh in a shell of its own, unless one of these variables says that something went wrong. What it says goes to files:
/// what a script leaves running keeps these open, and says nothing into the stream.
fn inside(sh: &[u8], unless: &str, place: &str) -> Vec<u8> {
    let streams = format!("\n) </dev/null >\"$b/.out{place}\" 2>\"$b/.err{place}\" 3>&-");
    [format!("( [ -z \"${unless}\" ] || exit 125; ").as_bytes(), sh, streams.as_bytes()].concat()
}

/// A batch that is under way.
#[derive(Debug)]
struct UnderWay {
    asked: Vec<String>,
    answers: Vec<Answer>,
    tell: oneshot::Sender<Result<Vec<Answer>>>,
}

/// How it is with a connection.
#[derive(Debug)]
enum Standing {
    /// It is there, and this is under way, in the order of the batches.
    Open(VecDeque<UnderWay>),
    /// There will be no answers any more, and why.
    Ended(ErrorKind, String),
}

type Waiting = Arc<Mutex<Standing>>;

/// A connection to a target.
#[derive(Debug)]
pub struct Channel {
    transport: Transport,
    base: String,
    started: Started,
    child: tokio::sync::Mutex<Child>,
    /// Until it is closed.
    batches: Mutex<Option<mpsc::UnboundedSender<Vec<u8>>>>,
    waiting: Waiting,
    /// Changes with each answer.
    heard: watch::Receiver<()>,
}

impl Channel {
    /// Connects. What has to lie on the target lies in the directory `base`, which is made.
    ///
    /// # Errors
    /// Nobody lets us in, there is no POSIX sh, or it takes too long.
    pub async fn open(transport: &Transport, base: &str, boundary: &str) -> Result<Self> {
        let failed =
            |what: String| Error::new(ErrorKind::Unreachable, format!("{}: {what}", transport.name()));
        if base.contains('\n') {
            return Err(failed("the directory to work in has a newline in its name".into()));
        }
        let mut words = transport.shell(LOOP).into_iter();
        let program = words.next().unwrap_or_default();
        let mut command = Command::new(&program);
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("{} does not start: {error}", program.display())))?;
        let (Some(stdin), Some(stdout), Some(mut stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed("its streams are gone".into()));
        };
        let begun = tokio::time::timeout(OPEN, begin(stdin, stdout, base, boundary)).await;
        let (stdin, stdout, started) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => {
                let mut said = Vec::new();
                let _ = tokio::time::timeout(Duration::from_secs(1), stderr.read_to_end(&mut said)).await;
                let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
                return Err(failed(if said.is_empty() { error } else { format!("{error}: {said}") }));
            }
            Err(_) => return Err(failed(format!("there is no shell after {} s", OPEN.as_secs()))),
        };
        let waiting = Waiting::new(Mutex::new(Standing::Open(VecDeque::new())));
        let (batches, queue) = mpsc::unbounded_channel();
        tokio::spawn(write(stdin, queue));
        let (hear, heard) = watch::channel(());
        tokio::spawn(read(stdout, boundary.to_owned(), waiting.clone(), hear, transport.name()));
        // What a connection says besides is for whoever looks for why it broke.
        tokio::spawn(async move {
            let mut said = Vec::new();
            let _ = stderr.read_to_end(&mut said).await;
            if !said.is_empty() {
                tracing::debug!(said = %String::from_utf8_lossy(&said), "the connection said");
            }
        });
        let (child, batches) = (tokio::sync::Mutex::new(child), Mutex::new(Some(batches)));
        let (transport, base) = (transport.clone(), base.to_owned());
        Ok(Self { transport, base, started, child, batches, waiting, heard })
    }
    /// The directory on the target.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }
    /// Sends a batch and waits for its answers: [`post`](Self::post) and [`Pending::answers`].
    ///
    /// # Errors
    /// As theirs.
    pub async fn send(&self, batch: Batch, limit: Duration) -> Result<Vec<Answer>> {
        self.post(batch)?.answers(limit).await
    }
    /// Sends a batch; it is done when those before it are.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn post(&self, batch: Batch) -> Result<Pending> {
        let mut bytes = format!("{}\n", batch.sh.len()).into_bytes();
        bytes.extend(batch.sh);
        bytes.extend(batch.contents);
        let (tell, answers) = oneshot::channel();
        // The answers come in the order in which the batches were sent.
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Standing::Open(open) = &mut *waiting else { return Err(gone(&self.transport, &waiting)) };
        // Where nobody takes it any more, whoever reads the answers finds the end of them.
        let batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = batches.as_ref().map(|batches| batches.send(bytes));
        if batch.asked.is_empty() {
            let _ = tell.send(Ok(Vec::new()));
        } else {
            open.push_back(UnderWay { asked: batch.asked, answers: Vec::new(), tell });
        }
        let (waiting, heard) = (self.waiting.clone(), self.heard.clone());
        Ok(Pending { transport: self.transport.clone(), waiting, heard, answers })
    }
    /// Whether it has broken: what ended was the connection, and not the loop by a reason of its own.
    #[must_use]
    pub fn broken(&self) -> bool {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*waiting, Standing::Ended(ErrorKind::Unreachable, _))
    }
    /// What it has started on the target.
    #[must_use]
    pub fn started(&self) -> Started {
        self.started.clone()
    }
    /// Ends everything that was started by it, on the target too, and the connection. It says whether the target was there.
    pub async fn kill(&self) -> bool {
        let there = self.started.kill(&self.transport, &self.base).await;
        let mut child = self.child.lock().await;
        let _ = child.start_kill();
        let _ = tokio::time::timeout(OPEN, child.wait()).await;
        there
    }
    /// Ends the connection when everything was done.
    pub async fn close(&self) {
        drop(self.batches.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = tokio::time::timeout(OPEN, self.child.lock().await.wait()).await;
    }
}

/// The processes that a connection has started on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// The process group of the loop.
    group: u32,
    /// Which life of the system the group is of, where it says so.
    life: String,
}

impl Started {
    /// As [`line`](Self::line) has it.
    #[must_use]
    pub fn read(line: &str) -> Option<Self> {
        let (group, life) = line.trim_end().split_once(' ')?;
        // It becomes part of a line of sh.
        let known = life.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let group = group.parse().ok().filter(|group| known && *group > 1)?;
        Some(Self { group, life: life.to_owned() })
    }
    /// As a line.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.group, self.life)
    }
    /// Ends them, by a connection of its own, unless their loop has come to its end: then the number may be somebody else's by
    /// now, as it is in another life of the system. `base` is where the loop works. It says whether the target was there.
    pub async fn kill(&self, transport: &Transport, base: &str) -> bool {
        let Self { group, life } = self;
        // Shells differ in how they take a group.
        let line = format!(
            "IFS= read -r b; if [ \"$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)\" = \"{life}\" ] && [ -f \"$b/.loop\" ] && \
             read -r g j <\"$b/.loop\" && [ \"$g $j\" = \"{group} {life}\" ]; then \
             kill -s KILL -- -{group} 2>/dev/null || kill -KILL -{group} 2>/dev/null; rm -f \"$b/.loop\"; fi; exit 0"
        );
        let mut words = transport.shell(&line).into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let Ok(mut child) = command.spawn() else { return false };
        let ended = async {
            if let Some(mut stdin) = child.stdin.take() {
                // Where nobody reads it the exit code says so.
                let _ = stdin.write_all(format!("{base}\n").as_bytes()).await;
            }
            child.wait().await
        };
        matches!(tokio::time::timeout(OPEN, ended).await, Ok(Ok(status)) if status.success())
    }
}

/// A batch that was sent.
#[derive(Debug)]
pub struct Pending {
    transport: Transport,
    waiting: Waiting,
    heard: watch::Receiver<()>,
    answers: oneshot::Receiver<Result<Vec<Answer>>>,
}

impl Pending {
    /// Waits for the answers. `limit` is how long one script may take.
    ///
    /// # Errors
    /// The connection is gone, or there is no answer for `limit`: then [`ErrorKind::Deadline`], and the connection is to be
    /// killed, for what it does now is not known.
    pub async fn answers(mut self, limit: Duration) -> Result<Vec<Answer>> {
        let gone = || gone(&self.transport, &self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        loop {
            tokio::select! {
                biased;
                answers = &mut self.answers => return answers.unwrap_or_else(|_| Err(gone())),
                // Whatever was answered meanwhile, this script has its whole time from there.
                again = tokio::time::timeout(limit, self.heard.changed()) => match again {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return self.answers.await.unwrap_or_else(|_| Err(gone())),
                    Err(_) => return Err(self.too_long(limit)),
                },
            }
        }
    }
    /// Says what has not ended.
    fn too_long(&self, limit: Duration) -> Error {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let first = if let Standing::Open(waiting) = &*waiting { waiting.front() } else { None };
        let what = first.and_then(|first| first.asked.get(first.answers.len())).map_or("it", String::as_str);
        let context = format!("{}: {what} has not ended after {} s", self.transport.name(), limit.as_secs());
        Error::new(ErrorKind::Deadline, context)
    }
}

/// Why there is no answer.
fn gone(transport: &Transport, standing: &Standing) -> Error {
    let (kind, why) = match standing {
        Standing::Open(_) => (ErrorKind::Unreachable, "the connection is gone"),
        Standing::Ended(kind, why) => (*kind, why.as_str()),
    };
    Error::new(kind, format!("{}: {why}", transport.name()))
}

/// Says where it works, and finds out what `head` does there.
async fn begin(
    mut stdin: ChildStdin,
    mut stdout: ChildStdout,
    base: &str,
    boundary: &str,
) -> Result<(ChildStdin, ChildStdout, Started), String> {
    let broke = |error: std::io::Error| format!("the connection broke while it was begun ({error})");
    stdin.write_all(format!("{base}\n{boundary}\nabcdef\n").as_bytes()).await.map_err(broke)?;
    let first = line(&mut stdout, boundary).await?;
    let started = Started::read(&first);
    let started = started.ok_or_else(|| match first.as_str() {
        other if other.starts_with("another run") => other.to_owned(),
        other => format!("the shell there says `{other}`"),
    })?;
    stdin.write_all(b"end\n").await.map_err(broke)?;
    let second = line(&mut stdout, boundary).await?;
    if second != "end" {
        return Err(format!("the shell there says `{second}`"));
    }
    Ok((stdin, stdout, started))
}

/// What stands behind the boundary in the first line that has it; a login shell may greet before.
async fn line(from: &mut ChildStdout, boundary: &str) -> Result<String, String> {
    let mut said = Vec::new();
    loop {
        let mut byte = [0];
        let got = from.read(&mut byte).await.map_err(|error| error.to_string())?;
        if got == 0 {
            return Err("the shell there ended at once".into());
        }
        if byte == *b"\n" {
            let text = String::from_utf8_lossy(&said).into_owned();
            if let Some((_, rest)) = text.split_once(boundary) {
                return Ok(rest.trim().to_owned());
            }
            said.clear();
        } else if said.len() < MOST {
            said.extend(byte);
        }
    }
}

async fn write(mut to: ChildStdin, mut queue: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(batch) = queue.recv().await {
        // Whoever waits for the answer learns that the connection is gone from there.
        if to.write_all(&batch).await.is_err() {
            return;
        }
    }
}

/// Gives the answers to whoever waits for them, until the stream ends.
async fn read(
    mut from: ChildStdout,
    boundary: String,
    waiting: Waiting,
    hear: watch::Sender<()>,
    target: String,
) {
    let mut stream = Answers { boundary: format!("\n{boundary}").into_bytes(), ..Answers::default() };
    let mut bytes = vec![0; 65536];
    let (kind, why) = 'stream: loop {
        let got = match from.read(&mut bytes).await {
            Ok(0) => break (ErrorKind::Unreachable, "the connection is gone".to_owned()),
            Ok(got) => got,
            Err(error) => break (ErrorKind::Unreachable, format!("the connection broke: {error}")),
        };
        stream.pending.extend(&bytes[..got]);
        loop {
            match stream.next() {
                Ok(Some(answer)) => answered(&waiting, answer),
                Ok(None) => break,
                Err(why) => break 'stream (ErrorKind::Failed, why),
            }
            let _ = hear.send(());
        }
    };
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let ended = Standing::Ended(kind, why.clone());
    let Standing::Open(all) = std::mem::replace(&mut *waiting, ended) else { return };
    for batch in all {
        let _ = batch.tell.send(Err(Error::new(kind, format!("{target}: {why}"))));
    }
}

/// Notes an answer, and gives the batch's to whoever waits for them when it was the last.
fn answered(waiting: &Waiting, answer: Answer) {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    let Standing::Open(waiting) = &mut *waiting else { return };
    let Some(first) = waiting.front_mut() else { return };
    first.answers.push(answer);
    if first.answers.len() == first.asked.len()
        && let Some(UnderWay { answers, tell, .. }) = waiting.pop_front()
    {
        let _ = tell.send(Ok(answers));
    }
}

/// Takes the stream of answers apart.
#[derive(Debug, Default)]
struct Answers {
    boundary: Vec<u8>,
    pending: Vec<u8>,
    /// What was looked at already and has no boundary.
    seen: usize,
    /// The first half of an answer.
    half: Option<(u8, Vec<u8>)>,
}

impl Answers {
    fn next(&mut self) -> Result<Option<Answer>, String> {
        loop {
            let from = self.seen.saturating_sub(self.boundary.len());
            let found =
                self.pending[from..].windows(self.boundary.len()).position(|window| window == self.boundary);
            let Some(at) = found.map(|at| at + from) else {
                self.seen = self.pending.len();
                if self.pending.len() > MOST {
                    return Err(format!("a script said more than {} MiB", MOST >> 20));
                }
                return Ok(None);
            };
            let rest = at + self.boundary.len();
            let Some(end) = self.pending[rest..].iter().position(|byte| *byte == b'\n') else {
                self.seen = at;
                return Ok(None);
            };
            let text = self.pending[..at].to_vec();
            let code = String::from_utf8_lossy(&self.pending[rest..rest + end]).trim().to_owned();
            self.pending.drain(..rest + end + 1);
            self.seen = 0;
            match self.half.take() {
                // Where the loop ends of itself it says why in the code's place.
                None => self.half = Some((code.parse().map_err(|_| code)?, text)),
                Some((code, stdout)) => return Ok(Some(Answer { code, stdout, stderr: text })),
            }
        }
    }
}
