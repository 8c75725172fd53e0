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
use crate::command::{REMOTE_COPY, REMOTE_EXEC};
use crate::conf::Conf;
use crate::emulator::Emulator;
use crate::environment::{Environment, Host, Script, Variables};
use crate::error::{Error, ErrorKind, Result};
use crate::local::Runner;
use crate::name::ObjectName;
use crate::order::Graph;
use crate::scripts::{Scripts, ended_line, read, token, write};
use crate::server::{Desk, Server};
use crate::target::Transport;
use crate::tree::{State, Tree};
use camino::{Utf8Path, Utf8PathBuf};
use futures::{StreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
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
    desk: Arc<Desk>,
    scripts: Scripts,
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
    let tree = prepared(&wish)?;
    let bin = wish.directory.join("bin");
    let channel = Channel::open(&wish.transport, &wish.base, &token()?).await?;
    let desk = Arc::new(Desk {
        emulator: Emulator::new(tree.clone()),
        channel,
        transport: wish.transport.clone(),
        name: wish.host.name.clone(),
        limit: wish.limit,
    });
    let server = Server::begin(wish.directory.join("socket"), desk.clone())?;
    let environment = Environment {
        host: wish.host.clone(),
        tree,
        base: wish.base.clone(),
        dry_run: wish.dry_run,
        remote_exec: bin.join(REMOTE_EXEC).into_string(),
        remote_copy: bin.join(REMOTE_COPY).into_string(),
        socket: server.path().to_owned(),
        path: std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()),
    };
    let runner = Runner { limit: wish.limit, stop: wish.stop.clone() };
    let scripts = Scripts { environment, runner, directory: wish.directory.clone() };
    let (sent, postponed, report) = (BTreeSet::new(), BTreeMap::new(), Report::default());
    let mut run = Run { wish, desk, scripts, sent, postponed, report };
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

/// Makes the files that a run begins with.
fn prepared(wish: &Wish) -> Result<Tree> {
    // Parameters may be secrets.
    fs::set_permissions(&wish.directory, fs::Permissions::from_mode(0o700))
        .map_err(|error| Error::io(format!("making {} private", wish.directory), error))?;
    let (global, bin) = (wish.directory.join("data"), wish.directory.join("bin"));
    let inside = ["explorer", "object", "stdout", "stderr"].map(|name| global.join(name));
    for directory in inside.iter().chain([&bin]) {
        fs::create_dir_all(directory).map_err(|error| Error::io(format!("making {directory}"), error))?;
    }
    for name in [REMOTE_EXEC, REMOTE_COPY] {
        std::os::unix::fs::symlink(&wish.command, bin.join(name))
            .map_err(|error| Error::io(format!("linking {bin}/{name}"), error))?;
    }
    let marker = format!(".cdist-{}", &token()?[..8]);
    write(&global.join("messages"), b"")?;
    write(&global.join("object_marker"), format!("{marker}\n").as_bytes())?;
    wish.conf.link(&global, &wish.command)?;
    Ok(Tree::new(global, marker, wish.conf.types().clone()))
}

impl Run {
    fn tell(&self, progress: Progress) {
        if let Some(listener) = &self.wish.progress {
            let _ = listener.send(progress);
        }
    }

    fn environment(&self) -> &Environment {
        &self.scripts.environment
    }

    fn tree(&self) -> &Tree {
        &self.environment().tree
    }

    async fn stages(&mut self) -> Result<()> {
        self.explore().await?;
        let ended = self.scripts.initial_manifest(&self.wish.manifest).await;
        self.desk.emulator.manifest_ended(None)?;
        ended?;
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
                self.prepare(preparable).await?;
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
    async fn explore(&self) -> Result<()> {
        let at = format!("{}/conf/explorer", self.wish.base);
        let mut batch = Batch::default();
        batch.sh(
            b"rm -rf \"$b/conf\" \"$b/object\"; mkdir -p \"$b/conf/explorer\" \"$b/conf/type\" \"$b/object\"",
        );
        let explorers: Vec<(&str, &Utf8Path)> = self.wish.conf.explorers().collect();
        for (name, path) in &explorers {
            batch.put(&format!("{at}/{name}"), &read(path)?);
        }
        if !explorers.is_empty() {
            batch.executable(&at);
        }
        let variables = self.environment().of(Script::Explorer, None);
        for (name, _) in &explorers {
            batch.run(&pairs(&variables), &format!("{at}/{name}"));
        }
        for ((name, _), answer) in explorers.iter().zip(self.send(batch).await?) {
            let said = checked(&format!("the explorer {name}"), answer)?.stdout;
            write(&self.tree().global().join("explorer").join(name), &said)?;
        }
        self.tell(Progress::Explored { explorers: explorers.len() });
        Ok(())
    }

    /// Stages 3 and 4: what the machine is as far as objects want to know, and what they define.
    async fn prepare(&mut self, mut objects: Vec<ObjectName>) -> Result<()> {
        let failed = self.explore_for(&objects).await?;
        objects.retain(|object| !failed.contains_key(object));
        for object in &objects {
            self.postponed.remove(object);
        }
        let done = self.report.objects.len();
        self.postponed.extend(failed.into_iter().map(|(object, error)| (object, (done, error))));
        let manifests = stream::iter(&objects).map(|object| self.scripts.manifest(object));
        let ended: Vec<Result<()>> = manifests.buffered(self.wish.jobs.max(1)).collect().await;
        // What they defined is noted in their order, whichever ended first.
        for (object, ended) in objects.iter().zip(ended) {
            self.desk.emulator.manifest_ended(Some(object))?;
            ended?;
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
                    let script = read(&of.directory.join("explorer").join(name))?;
                    batch.put(&format!("{explorers}/{name}"), &script);
                }
                batch.executable(&explorers);
            }
            let parameters = self.tree().parameters(object)?;
            let there = self.there(object);
            batch.directory(&if parameters.is_empty() {
                there.clone()
            } else {
                format!("{there}/parameter")
            });
            for (name, value) in parameters {
                batch.put(&format!("{there}/parameter/{name}"), &value);
            }
            let into = self.tree().directory(object).join("explorer");
            fs::create_dir_all(&into).map_err(|error| Error::io(format!("making {into}"), error))?;
            let variables = self.environment().of(Script::TypeExplorer(object), None);
            for name in &of.explorers {
                batch.run(&pairs(&variables), &format!("{explorers}/{name}"));
                asked.push((object, name.clone(), into.join(name)));
            }
        }
        let mut failed = BTreeMap::new();
        for ((object, name, file), answer) in asked.into_iter().zip(self.send(batch).await?) {
            match checked(&format!("{object}: the explorer {name}"), answer) {
                Ok(answer) => write(&file, &ended_line(answer.stdout))?,
                Err(error) => {
                    failed.entry(object.clone()).or_insert(error);
                }
            }
        }
        Ok(failed)
    }

    /// Stages 5 and 6: the code that makes it so.
    async fn do_them(&mut self, objects: &[ObjectName]) -> Result<()> {
        let scripts = &self.scripts;
        let generated = stream::iter(objects).map(async |object| {
            let begun = Instant::now();
            (scripts.generate(object).await, begun.elapsed())
        });
        let generated: Vec<_> = generated.buffered(self.wish.jobs.max(1)).collect().await;
        for (object, (messages, generating)) in objects.iter().zip(generated) {
            let messages = messages?;
            let begun = Instant::now();
            let changed = self.code(object).await?;
            self.tree().set_state(object, State::Done)?;
            let done = Done { object: object.clone(), changed, messages, took: generating + begun.elapsed() };
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
            self.scripts.code(object).await?;
        }
        if remote {
            let there = self.there(object);
            let mut batch = Batch::default();
            batch.directory(&there);
            batch.put(&format!("{there}/code-remote"), &read(&directory.join("code-remote"))?);
            let variables = self.environment().of(Script::CodeRemote(object), None);
            batch.run(&pairs(&variables), &format!("{there}/code-remote"));
            for answer in self.send(batch).await? {
                write(&directory.join("stdout/code-remote"), &answer.stdout)?;
                write(&directory.join("stderr/code-remote"), &answer.stderr)?;
                checked(&format!("{object}: code-remote"), answer)?;
            }
        }
        Ok(local || remote)
    }

    /// An object's directory on the target.
    fn there(&self, object: &ObjectName) -> String {
        self.environment().below(object, &format!("{}/object/", self.wish.base))
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
