//! A run: the stages, one after the other, for one target.
//!
//! The machine is explored; the initial manifest defines objects; then, as long as there are objects that can be, they are
//! prepared (explored for, and their types' manifests run) and done (their code generated and run). What can be done at the same
//! time is: the explorers of all objects that wait for nothing travel together, and manifests and what generates code run beside
//! each other. Code runs in the order in which its objects were defined, one after the other, so that what a manifest says first
//! happens first wherever nothing else was said.
//!
//! The files of a run are its own until it is over; whoever started it owns them then. A run that fails ends with the first
//! object that failed, and leaves everything that was generated for whoever looks.

use crate::channel::{Answer, Batch, Channel};
use crate::conf::Conf;
use crate::emulator::Emulator;
use crate::environment::{Environment, Host, Script, Variables};
use crate::error::{Error, ErrorKind, Result};
use crate::local::Runner;
use crate::name::ObjectName;
use crate::order::Graph;
use crate::server::{Desk, Server};
use crate::target::Transport;
use crate::tree::{List, State, Tree};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Whom it is for.
    pub host: Host,
    /// How to get there.
    pub transport: Transport,
    /// The configuration.
    pub conf: Conf,
    /// The manifest that it begins with.
    pub manifest: Utf8PathBuf,
    /// An empty directory for its files.
    pub directory: Utf8PathBuf,
    /// The directory on the target.
    pub base: String,
    /// The program that is the types' commands: see [`crate::command::run`].
    pub command: Utf8PathBuf,
    /// How many scripts of this machine run at the same time.
    pub jobs: usize,
    /// Code is generated and not run.
    pub dry_run: bool,
    /// Types for installing are used, and no others; without it, these are left out.
    pub install: bool,
    /// How long a script may take.
    pub limit: Duration,
    /// Ends the run.
    pub stop: CancellationToken,
    /// Who is told how it goes. Whoever does not listen is not waited for.
    pub progress: Option<mpsc::UnboundedSender<Progress>>,
}

/// How a run goes.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// The machine was explored.
    Explored {
        /// With so many explorers.
        explorers: usize,
    },
    /// Manifests have defined so many objects so far.
    Defined {
        /// All of them.
        objects: usize,
    },
    /// An object is done.
    Done(Done),
}

/// What became of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The object.
    pub object: ObjectName,
    /// Whether there was code to run, so that it was not what it should be.
    pub changed: bool,
    /// What it told others.
    pub messages: Vec<String>,
    /// How long its own scripts took.
    pub took: Duration,
}

/// What came of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The objects, in the order in which they were done.
    pub objects: Vec<Done>,
}

struct Run {
    wish: Wish,
    environment: Environment,
    desk: Arc<Desk>,
    runner: Runner,
    /// Types whose explorers are on the target.
    sent: BTreeSet<String>,
    /// Objects that could not be explored for, with how many were done then, and why.
    postponed: BTreeMap<ObjectName, (usize, Error)>,
    report: Report,
}

/// Does what is wished.
///
/// # Errors
/// The first thing that went wrong, with the object and the script that it was.
pub async fn run(wish: Wish) -> Result<Report> {
    let marker = token();
    // Parameters may be secrets.
    fs::set_permissions(&wish.directory, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(|error| Error::io(format!("making {} private", wish.directory), error))?;
    let global = wish.directory.join("data");
    let made = |what: &str| {
        fs::create_dir_all(global.join(what))
            .map_err(|error| Error::io(format!("making {global}/{what}"), error))
    };
    for directory in ["explorer", "object", "stdout", "stderr"] {
        made(directory)?;
    }
    let write = |file: &str, text: &str| {
        fs::write(global.join(file), text)
            .map_err(|error| Error::io(format!("writing {global}/{file}"), error))
    };
    write("messages", "")?;
    write("object_marker", &format!(".cdist-{}\n", &marker[..8]))?;
    wish.conf.link(&global, &wish.command)?;
    let tree = Tree::new(global.clone(), format!(".cdist-{}", &marker[..8]), wish.conf.types().clone());
    let bin = wish.directory.join("bin");
    fs::create_dir_all(&bin).map_err(|error| Error::io(format!("making {bin}"), error))?;
    for name in [crate::command::REMOTE_EXEC, crate::command::REMOTE_COPY] {
        std::os::unix::fs::symlink(&wish.command, bin.join(name))
            .map_err(|error| Error::io(format!("linking {bin}/{name}"), error))?;
    }
    let channel = Channel::open(&wish.transport, &wish.base, &marker).await?;
    let desk = Arc::new(Desk {
        emulator: Emulator::new(tree.clone()),
        channel,
        transport: wish.transport.clone(),
        limit: wish.limit,
    });
    let server = Server::begin(wish.directory.join("socket"), desk.clone())?;
    let environment = Environment {
        host: wish.host.clone(),
        tree,
        base: wish.base.clone(),
        dry_run: wish.dry_run,
        remote_exec: bin.join(crate::command::REMOTE_EXEC).into_string(),
        remote_copy: bin.join(crate::command::REMOTE_COPY).into_string(),
        socket: server.path().to_owned(),
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()),
    };
    let runner = Runner { limit: wish.limit, stop: wish.stop.clone() };
    let mut run = Run {
        wish,
        environment,
        desk,
        runner,
        sent: BTreeSet::new(),
        postponed: BTreeMap::new(),
        report: Report::default(),
    };
    let ended = run.stages().await;
    server.end().await;
    let Run { desk, report, .. } = run;
    // Nobody else has it: whoever called is answered or gone.
    if let Some(desk) = Arc::into_inner(desk) {
        match &ended {
            Ok(()) => desk.channel.close().await,
            Err(_) => desk.channel.kill().await,
        }
    }
    ended.map(|()| report)
}

impl Run {
    fn tell(&self, progress: Progress) {
        if let Some(listener) = &self.wish.progress {
            let _ = listener.send(progress);
        }
    }
    fn tree(&self) -> &Tree {
        &self.environment.tree
    }

    async fn stages(&mut self) -> Result<()> {
        self.explore().await?;
        self.initial_manifest().await?;
        let mut defined = 0;
        loop {
            let graph = Graph::read(self.tree())?;
            graph.check()?;
            if graph.len() != defined {
                defined = graph.len();
                self.tell(Progress::Defined { objects: defined });
            }
            let wanted = |object: &&ObjectName| {
                self.tree().of(object.of()).is_ok_and(|of| of.install == self.wish.install)
            };
            // Somebody's code may have to run first, although nobody said so: cdist, which does one object after the other,
            // lets that happen by chance.
            let done = self.report.objects.len();
            let again =
                |object: &&ObjectName| self.postponed.get(*object).is_none_or(|(then, _)| *then < done);
            let preparable: Vec<ObjectName> =
                graph.preparable().into_iter().filter(wanted).filter(again).cloned().collect();
            let runnable: Vec<ObjectName> = graph.runnable().into_iter().filter(wanted).cloned().collect();
            if !preparable.is_empty() {
                self.prepare(&preparable).await?;
            } else if !runnable.is_empty() {
                self.do_them(&runnable).await?;
            } else if graph.is_done_but(|object| !wanted(&object)) {
                return Ok(());
            } else if let Some((_, (_, error))) = self.postponed.pop_first() {
                return Err(error);
            } else {
                return Err(graph.stuck());
            }
        }
    }

    async fn send(&self, batch: Batch) -> Result<Vec<Answer>> {
        tokio::select! {
            answers = self.desk.channel.send(batch, self.wish.limit) => answers,
            () = self.wish.stop.cancelled() => Err(Error::new(ErrorKind::Cancelled, "the run was called off")),
        }
    }

    /// Stage 1: what the machine is.
    async fn explore(&mut self) -> Result<()> {
        let at = format!("{}/conf/explorer", self.wish.base);
        let mut batch = Batch::default();
        batch.sh(
            b"rm -rf \"$b/conf\" \"$b/object\"; mkdir -p \"$b/conf/explorer\" \"$b/conf/type\" \"$b/object\"",
        );
        let variables = self.environment.of(Script::Explorer, None);
        let explorers: Vec<(String, Utf8PathBuf)> =
            self.wish.conf.explorers().map(|(name, path)| (name.to_owned(), path.to_owned())).collect();
        for (name, path) in &explorers {
            batch.put(&format!("{at}/{name}"), &read(path)?);
        }
        if !explorers.is_empty() {
            batch.executable(&at);
        }
        for (name, _) in &explorers {
            batch.run(&pairs(&variables), &format!("{at}/{name}"));
        }
        for ((name, _), answer) in explorers.iter().zip(self.send(batch).await?) {
            let what = format!("the explorer {name}");
            let file = self.tree().global().join("explorer").join(name);
            write(&file, &checked(&what, answer)?.stdout)?;
        }
        self.tell(Progress::Explored { explorers: explorers.len() });
        Ok(())
    }

    /// Stage 2: what it is to be.
    async fn initial_manifest(&self) -> Result<()> {
        let manifest = &self.wish.manifest;
        let global = self.tree().global();
        let (stdout, stderr) = (global.join("stdout/init"), global.join("stderr/init"));
        let ended = self
            .script(Script::InitialManifest(manifest), manifest, &stdout, &stderr, "initialmanifest")
            .await;
        self.desk.emulator.manifest_ended(None)?;
        ended.map(|_| ()).map_err(|error| with_output(error, "the initial manifest", &stderr))
    }

    /// Stages 3 and 4: what the machine is as far as objects want to know, and what they define.
    async fn prepare(&mut self, objects: &[ObjectName]) -> Result<()> {
        let failed = self.explore_for(objects).await?;
        let done = self.report.objects.len();
        let objects: Vec<ObjectName> =
            objects.iter().filter(|object| !failed.contains_key(*object)).cloned().collect();
        for object in &objects {
            self.postponed.remove(object);
        }
        self.postponed.extend(failed.into_iter().map(|(object, error)| (object, (done, error))));
        let mut set = JoinSet::new();
        let permits = Arc::new(tokio::sync::Semaphore::new(self.wish.jobs.max(1)));
        let mut manifests = Vec::new();
        for object in &objects {
            let manifest = self.tree().of(object.of())?.directory.join("manifest");
            if manifest.exists() {
                manifests.push((object.clone(), manifest));
            }
        }
        let one = Arc::new(self.scripts());
        for (at, (object, manifest)) in manifests.iter().cloned().enumerate() {
            let (one, permits) = (one.clone(), permits.clone());
            set.spawn(async move {
                let _permit = permits.acquire_owned().await;
                (at, one.of_object(Script::Manifest(&object), &manifest, &object, "manifest").await)
            });
        }
        let mut ended: Vec<Option<Result<Vec<String>>>> = manifests.iter().map(|_| None).collect();
        while let Some(joined) = set.join_next().await {
            let (at, result) =
                joined.map_err(|error| Error::new(ErrorKind::Failed, format!("a manifest: {error}")))?;
            ended[at] = Some(result);
        }
        // What they defined is noted in their order, whichever ended first.
        for ((object, _), result) in manifests.iter().zip(ended) {
            self.desk.emulator.manifest_ended(Some(object))?;
            if let Some(result) = result {
                result?;
            }
        }
        for object in &objects {
            self.tree().set_state(object, State::Prepared)?;
        }
        Ok(())
    }

    /// Explores for objects, and says for which it could not.
    async fn explore_for(&mut self, objects: &[ObjectName]) -> Result<BTreeMap<ObjectName, Error>> {
        let mut batch = Batch::default();
        let mut asked = Vec::new();
        for object in objects {
            let of = self.tree().of(object.of())?.clone();
            let explorers = format!("{}/conf/type/{}/explorer", self.wish.base, of.name);
            if !of.explorers.is_empty() && self.sent.insert(of.name.clone()) {
                batch.directory(&explorers);
                for name in &of.explorers {
                    batch.put(
                        &format!("{explorers}/{name}"),
                        &read(&of.directory.join("explorer").join(name))?,
                    );
                }
                batch.executable(&explorers);
            }
            let parameters = self.tree().parameters(object)?;
            let directory = self.environment.below(object, &format!("{}/object/", self.wish.base));
            batch.directory(&if parameters.is_empty() {
                directory.clone()
            } else {
                format!("{directory}/parameter")
            });
            for (name, value) in parameters {
                batch.put(&format!("{directory}/parameter/{name}"), &value);
            }
            let variables = self.environment.of(Script::TypeExplorer(object), None);
            let into = self.tree().directory(object).join("explorer");
            fs::create_dir_all(&into).map_err(|error| Error::io(format!("making {into}"), error))?;
            for name in &of.explorers {
                batch.run(&pairs(&variables), &format!("{explorers}/{name}"));
                asked.push((object, name.clone(), into.join(name)));
            }
        }
        let mut failed = BTreeMap::new();
        for ((object, name, file), answer) in asked.into_iter().zip(self.send(batch).await?) {
            let mut said = match checked(&format!("{object}: the explorer {name}"), answer) {
                Ok(answer) => answer.stdout,
                Err(error) => {
                    failed.entry(object.clone()).or_insert(error);
                    continue;
                }
            };
            if !said.is_empty() && !said.ends_with(b"\n") {
                said.push(b'\n');
            }
            write(&file, &said)?;
        }
        Ok(failed)
    }

    /// Stages 5 and 6: the code that makes it so.
    async fn do_them(&mut self, objects: &[ObjectName]) -> Result<()> {
        let mut set = JoinSet::new();
        let permits = Arc::new(tokio::sync::Semaphore::new(self.wish.jobs.max(1)));
        let one = Arc::new(self.scripts());
        for (at, object) in objects.iter().cloned().enumerate() {
            let of = self.tree().of(object.of())?.directory.clone();
            let (one, permits) = (one.clone(), permits.clone());
            set.spawn(async move {
                let _permit = permits.acquire_owned().await;
                let begun = Instant::now();
                (at, one.generate(&object, &of).await, begun.elapsed())
            });
        }
        let mut generated: Vec<Option<(Result<Vec<String>>, Duration)>> =
            objects.iter().map(|_| None).collect();
        while let Some(joined) = set.join_next().await {
            let (at, result, took) =
                joined.map_err(|error| Error::new(ErrorKind::Failed, format!("generating code: {error}")))?;
            generated[at] = Some((result, took));
        }
        for (object, generated) in objects.iter().zip(generated) {
            let Some((messages, mut took)) = generated else { continue };
            let messages = messages?;
            let begun = Instant::now();
            let changed = self.code(object).await?;
            took += begun.elapsed();
            self.tree().set_state(object, State::Done)?;
            let done = Done { object: object.clone(), changed, messages, took };
            self.tell(Progress::Done(done.clone()));
            self.report.objects.push(done);
        }
        Ok(())
    }

    /// Runs what was generated for an object, and says whether there was anything.
    async fn code(&self, object: &ObjectName) -> Result<bool> {
        let directory = self.tree().directory(object);
        let has = |name: &str| fs::metadata(directory.join(name)).is_ok_and(|m| m.len() > 0);
        let (local, remote) = (has("code-local"), has("code-remote"));
        if self.wish.dry_run {
            return Ok(local || remote);
        }
        if local {
            self.scripts()
                .of_object(Script::CodeLocal(object), &directory.join("code-local"), object, "code-local")
                .await?;
        }
        if remote {
            let there = self.environment.below(object, &format!("{}/object/", self.wish.base));
            let mut batch = Batch::default();
            batch.directory(&there);
            batch.put(&format!("{there}/code-remote"), &read(&directory.join("code-remote"))?);
            let variables = self.environment.of(Script::CodeRemote(object), None);
            batch.run(&pairs(&variables), &format!("{there}/code-remote"));
            let answer = self.send(batch).await?.into_iter().next();
            let answer =
                answer.ok_or_else(|| Error::new(ErrorKind::Failed, format!("{object}: no answer")))?;
            write(&directory.join("stdout/code-remote"), &answer.stdout)?;
            write(&directory.join("stderr/code-remote"), &answer.stderr)?;
            checked(&format!("{object}: code-remote"), answer)?;
        }
        Ok(local || remote)
    }

    fn scripts(&self) -> Scripts {
        Scripts {
            environment: self.environment.clone(),
            runner: self.runner.clone(),
            directory: self.wish.directory.clone(),
        }
    }
    async fn script(
        &self,
        script: Script<'_>,
        path: &Utf8Path,
        stdout: &Utf8Path,
        stderr: &Utf8Path,
        prefix: &str,
    ) -> Result<Vec<String>> {
        self.scripts().told(script, path, stdout, stderr, prefix).await
    }
}

/// What runs scripts of this machine, beside each other.
struct Scripts {
    environment: Environment,
    runner: Runner,
    directory: Utf8PathBuf,
}

impl Scripts {
    /// Runs a script with messages to read and to write, and gives what it wrote to everybody: also when it failed.
    async fn told(
        &self,
        script: Script<'_>,
        path: &Utf8Path,
        stdout: &Utf8Path,
        stderr: &Utf8Path,
        prefix: &str,
    ) -> Result<Vec<String>> {
        let all = self.environment.tree.global().join("messages");
        let mine = self.directory.join(format!("messages-{}", token()));
        let (read, written) = (mine.with_extension("in"), mine.with_extension("out"));
        fs::copy(&all, &read).map_err(|error| Error::io(format!("copying {all}"), error))?;
        write(&written, b"")?;
        let variables = self.environment.of(script, Some((&read, &written)));
        let ended = self.runner.run(path, &variables, stdout, stderr).await;
        let said = fs::read(&written).map_err(|error| Error::io(format!("reading {written}"), error))?;
        let lines: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
        let text: String = lines.iter().map(|line| format!("{prefix}:{line}\n")).collect();
        append(&all, &text)?;
        let _ = (fs::remove_file(&read), fs::remove_file(&written));
        ended.map(|()| lines)
    }
    async fn of_object(
        &self,
        script: Script<'_>,
        path: &Utf8Path,
        object: &ObjectName,
        name: &str,
    ) -> Result<Vec<String>> {
        let directory = self.environment.tree.directory(object);
        let (stdout, stderr) = (directory.join("stdout").join(name), directory.join("stderr").join(name));
        let ended = match script {
            Script::CodeLocal(_) => {
                let variables = self.environment.of(script, None);
                self.runner.run(path, &variables, &stdout, &stderr).await.map(|()| Vec::new())
            }
            _ => self.told(script, path, &stdout, &stderr, &object.to_string()).await,
        };
        ended.map_err(|error| {
            let source = self.environment.tree.list(object, List::Source).unwrap_or_default();
            with_output(error, &format!("{object}, defined in {}: {name}", source.join(" and ")), &stderr)
        })
    }
    /// Stage 5: both scripts of a type's that there are.
    async fn generate(&self, object: &ObjectName, of: &Utf8Path) -> Result<Vec<String>> {
        let mut messages = Vec::new();
        let directory = self.environment.tree.directory(object);
        for (script, code) in [("gencode-local", "code-local"), ("gencode-remote", "code-remote")] {
            let path = of.join(script);
            if !path.exists() {
                continue;
            }
            messages.extend(self.of_object(Script::Gencode(object), &path, object, script).await?);
            let said = directory.join("stdout").join(script);
            let mut text = read(&said)?;
            if !text.is_empty() {
                if !text.ends_with(b"\n") {
                    text.push(b'\n');
                }
                write(&directory.join(code), &text)?;
            }
            let _ = fs::remove_file(&said);
        }
        Ok(messages)
    }
}

fn pairs(variables: &Variables) -> Vec<(&str, &[u8])> {
    variables.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

fn checked(what: &str, answer: Answer) -> Result<Answer> {
    if answer.code == 0 {
        return Ok(answer);
    }
    let said = String::from_utf8_lossy(&answer.stderr).trim().to_owned();
    Err(Error::new(ErrorKind::Failed, format!("{what}: exit code {}: {said}", answer.code)))
}

/// The same error, with what it is about before it and what the script complained behind it.
fn with_output(error: Error, what: &str, stderr: &Utf8Path) -> Error {
    let said = fs::read(stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let context = format!("{what}: {}", error.chain());
    Error::new(error.kind, if said.is_empty() { context } else { format!("{context}: {said}") })
}

fn read(file: &Utf8Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| Error::io(format!("reading {file}"), error))
}

fn write(file: &Utf8Path, content: &[u8]) -> Result<()> {
    fs::write(file, content).map_err(|error| Error::io(format!("writing {file}"), error))
}

fn append(file: &Utf8Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    let written =
        options.append(true).create(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| Error::io(format!("writing {file}"), error))
}

/// Thirty-two letters that nobody can guess.
fn token() -> String {
    let mut bytes = [0u8; 16];
    // The kernel gives so few at once, and always.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
