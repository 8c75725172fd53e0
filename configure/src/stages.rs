//! The stages of a run, from where its notes say it is.

use crate::channel::{Answer, Batch, Pairs, Pending};
use crate::copies::{Copy, nothing_but_copies};
use crate::environment::{Environment, Script, Variables};
use crate::error::{Error, ErrorKind, Result};
use crate::memo::Memo;
use crate::name::ObjectName;
use crate::notes::Notes;
use crate::order::Graph;
use crate::run::{Done, Progress, Report, Wish};
use crate::scripts::{Scripts, ended_line, read, shortened, told_of, write};
use crate::secrets::Secrets;
use crate::server::Desk;
use crate::tree::{State, Tree};
use camino::Utf8Path;
use futures::{StreamExt as _, stream};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// How many objects' code is under way to the target at the same time.
const UNDER_WAY: usize = 16;
/// How long is waited between two tries to reach a target again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often a connection may break while nothing comes to be done.
const LOSSES: usize = 3;

pub(crate) struct Run {
    pub(crate) wish: Wish,
    pub(crate) desk: Arc<Desk>,
    pub(crate) scripts: Scripts,
    pub(crate) notes: Notes,
    /// Types whose explorers are on the target.
    pub(crate) sent: BTreeSet<String>,
    /// Objects that could not be explored for, with how many were done then, and why.
    pub(crate) postponed: BTreeMap<ObjectName, (usize, Error)>,
    /// Prepared objects that were explored for before the connection broke.
    pub(crate) again: BTreeSet<ObjectName>,
    /// Objects whose code was begun, once or more.
    pub(crate) begun: BTreeSet<ObjectName>,
    /// How many objects were done when connections broke.
    pub(crate) losses: Vec<usize>,
    /// The object that the run failed with, if it was one.
    pub(crate) failing: Option<ObjectName>,
    pub(crate) report: Report,
}

impl Run {
    pub(crate) fn tell(&self, progress: Progress) {
        if let Some(listener) = &self.wish.progress {
            let _ = listener.send(self.scripts.secrets.mask_progress(progress));
        }
    }

    fn environment(&self) -> &Environment {
        &self.scripts.environment
    }

    /// Removes what is on the machine of objects: there are secrets in it.
    pub(crate) async fn forget(&mut self) -> Result<()> {
        let objects = crate::target::quoted(format!("{}/object", self.wish.base).as_bytes());
        let mut batch = Batch::default();
        batch.line(&[b"rm -rf -- ", &objects[..]].concat(), "removing what has secrets in it");
        for answer in self.send(batch).await? {
            checked(&self.scripts.secrets, answer, || "removing what has secrets in it".into())?;
        }
        Ok(())
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.environment().tree
    }

    /// The stages, from where they are, over as many connections as it takes.
    pub(crate) async fn all(&mut self) -> Result<()> {
        loop {
            self.again = Graph::read(self.tree())?.prepared().cloned().collect();
            match self.stages().await {
                Err(error) if self.desk.link.now().broken() && !self.wish.stop.is_cancelled() => {
                    self.reach_again(error).await?;
                }
                ended => return ended,
            }
        }
    }

    /// Connects again after the connection broke.
    async fn reach_again(&mut self, why: Error) -> Result<()> {
        let done = self.report.objects.len();
        self.losses.retain(|then| *then == done);
        self.losses.push(done);
        if self.losses.len() > LOSSES || self.wish.patience.is_zero() {
            return Err(why);
        }
        self.tell(Progress::Lost { why: why.chain() });
        let until = Instant::now() + self.wish.patience;
        loop {
            let error = tokio::select! {
                ended = self.desk.link.again() => match ended {
                    Ok(()) => break,
                    Err(error) => error,
                },
                () = self.wish.stop.cancelled() => return Err(called_off()),
            };
            if Instant::now() >= until {
                let context =
                    format!("{}; after {} s: {}", why.chain(), self.wish.patience.as_secs(), error.chain());
                return Err(Error::new(ErrorKind::Unreachable, context));
            }
            tokio::select! {
                // why: nobody tells when a machine can be reached again
                () = tokio::time::sleep(AGAIN) => {}
                () = self.wish.stop.cancelled() => return Err(called_off()),
            }
        }
        self.notes.set_connection(&self.desk.link.now().started())?;
        self.sent.clear();
        self.postponed.clear();
        self.failing = None;
        Ok(())
    }

    async fn stages(&mut self) -> Result<()> {
        self.explore().await?;
        if !self.notes.defined() {
            let ended = self.scripts.initial_manifest(&self.wish.manifest).await;
            self.desk.emulator.manifest_ended(None)?;
            ended?;
            self.notes.set_defined()?;
        }
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
            } else if let Some((object, (_, error))) = self.postponed.pop_first() {
                self.failing = Some(object);
                return Err(error);
            } else {
                return Err(graph.stuck());
            }
        }
    }

    async fn send(&self, batch: Batch) -> Result<Vec<Answer>> {
        self.answers(self.desk.link.now().post(batch)?).await
    }

    async fn answers(&self, pending: Pending) -> Result<Vec<Answer>> {
        tokio::select! {
            answers = pending.answers(self.wish.limit) => answers,
            () = self.wish.stop.cancelled() => Err(called_off()),
        }
    }

    /// Stage 1: what the machine is.
    async fn explore(&mut self) -> Result<()> {
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
        let scripts: Vec<_> =
            explorers.iter().map(|(name, _)| (pairs(&variables), format!("{at}/{name}"))).collect();
        batch.beside(&scripts, self.wish.jobs);
        for ((name, _), answer) in explorers.iter().zip(self.send(batch).await?) {
            let said = checked(&self.scripts.secrets, answer, || format!("the explorer {name}"))?.stdout;
            write(&self.tree().global().join("explorer").join(name), &said)?;
        }
        let explorers = explorers.len();
        if let Some(directory) = &self.wish.memo {
            self.scripts.memo =
                Some(Arc::new(Memo::open(directory, &self.wish.directory, &self.scripts.environment)?));
        }
        self.tell(Progress::Explored { explorers });
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
        for object in &objects {
            self.notes.forget(self.tree(), object)?;
        }
        let manifests = stream::iter(&objects).map(|object| self.scripts.manifest(object));
        let ended: Vec<Result<()>> = manifests.buffered(self.wish.jobs.max(1)).collect().await;
        // What they defined is noted in their order, whichever ended first.
        for (object, ended) in objects.iter().zip(ended) {
            self.desk.emulator.manifest_ended(Some(object))?;
            ended.inspect_err(|_| self.failing = Some(object.clone()))?;
            self.notes.keep(self.tree(), object)?;
            self.tree().set_state(object, State::Prepared)?;
        }
        Ok(())
    }

    /// Explores for objects, and says for which it could not.
    async fn explore_for(&mut self, objects: &[ObjectName]) -> Result<BTreeMap<ObjectName, Error>> {
        let mut batch = Batch::default();
        let (mut asked, mut scripts) = (Vec::new(), Vec::new());
        let (mut directories, mut values) = (Vec::new(), Vec::new());
        for object in objects {
            let of = self.tree().of(object.of())?.clone();
            let explorers = format!("{}/conf/type/{}/explorer", self.wish.base, of.name);
            if !of.explorers.is_empty() && self.sent.insert(of.name.clone()) {
                batch.directories(std::slice::from_ref(&explorers));
                for name in &of.explorers {
                    let script = read(&of.directory.join("explorer").join(name))?;
                    batch.put(&format!("{explorers}/{name}"), &script);
                }
                batch.executable(&explorers);
            }
            let parameters = self.tree().parameters(object)?;
            let there = self.there(object);
            directories.push(if parameters.is_empty() {
                there.clone()
            } else {
                format!("{there}/parameter")
            });
            for (name, value) in parameters {
                values.push((format!("{there}/parameter/{name}"), value));
            }
            let into = self.tree().directory(object).join("explorer");
            fs::create_dir_all(&into).map_err(|error| Error::io(format!("making {into}"), error))?;
            let variables = self.environment().of(Script::TypeExplorer(object), None);
            for name in &of.explorers {
                asked.push((object, name.clone(), into.join(name)));
                scripts.push((variables.clone(), format!("{explorers}/{name}")));
            }
        }
        batch.directories(&directories);
        for (path, value) in values {
            batch.put(&path, &value);
        }
        let scripts: Vec<_> =
            scripts.iter().map(|(variables, script)| (pairs(variables), script.clone())).collect();
        batch.beside(&scripts, self.wish.jobs);
        let mut failed = BTreeMap::new();
        for ((object, name, file), answer) in asked.into_iter().zip(self.send(batch).await?) {
            match checked(&self.scripts.secrets, answer, || {
                format!("{}: the explorer {name}", told_of(self.tree(), object, &self.scripts.secrets))
            }) {
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
        let lost: Vec<ObjectName> =
            objects.iter().filter(|object| self.again.contains(*object)).cloned().collect();
        if !lost.is_empty() {
            if let Some((object, error)) = self.explore_for(&lost).await?.pop_first() {
                self.failing = Some(object);
                return Err(error);
            }
            for object in &lost {
                self.notes.restore(self.tree(), object)?;
                self.again.remove(object);
            }
        }
        let mut generated = self.generated(objects);
        let mut under_way = VecDeque::new();
        for object in objects {
            let Some((messages, generating)) = generated.next().await else {
                return Err(Error::new(
                    ErrorKind::Failed,
                    format!("{object}: what generates its code has ended"),
                ));
            };
            let messages = match messages {
                Ok(messages) => messages,
                Err(error) => {
                    self.all_done(&mut under_way, 0).await?;
                    self.failing = Some(object.clone());
                    return Err(error);
                }
            };
            let code = self.code_of(object)?;
            let changed = code != Code::default() || self.begun.contains(object);
            let begun = Instant::now();
            let mut done = Done { object: object.clone(), changed, messages, took: generating };
            let pending = if self.wish.dry_run || code == Code::default() {
                None
            } else {
                if code.local {
                    self.all_done(&mut under_way, 0).await?;
                }
                self.notes.begin(object)?;
                self.begun.insert(object.clone());
                if code.local {
                    let ended = self.scripts.code(object).await;
                    ended.inspect_err(|_| self.failing = Some(object.clone()))?;
                    done.took += begun.elapsed();
                }
                self.post(object, &code).inspect_err(|error| {
                    // Where the connection is gone nothing of it was done.
                    if error.kind != ErrorKind::Unreachable {
                        self.failing = Some(object.clone());
                    }
                })?
            };
            under_way.push_back((done, pending));
            self.all_done(&mut under_way, UNDER_WAY).await?;
        }
        self.all_done(&mut under_way, 0).await
    }

    /// Generates the code of objects, some at the same time, while that of those before them runs.
    fn generated(&self, objects: &[ObjectName]) -> Generated {
        let (scripts, jobs) = (self.scripts.clone(), self.wish.jobs.max(1));
        let objects = objects.to_vec();
        let (tell, results) = mpsc::channel(UNDER_WAY);
        let task = tokio::spawn(async move {
            let each = stream::iter(objects).map(async |object| {
                let begun = Instant::now();
                (scripts.generate(&object).await, begun.elapsed())
            });
            let mut each = std::pin::pin!(each.buffered(jobs));
            while let Some(one) = each.next().await {
                // Whoever wanted it has ended.
                if tell.send(one).await.is_err() {
                    return;
                }
            }
        });
        Generated { results, _task: AbortOnDropHandle::new(task) }
    }

    /// What was generated for an object.
    fn code_of(&self, object: &ObjectName) -> Result<Code> {
        let directory = self.tree().directory(object);
        let text = |name: &str| {
            let file = directory.join(name);
            if file.exists() { read(&file) } else { Ok(Vec::new()) }
        };
        let (local, remote) = (text("code-local")?, text("code-remote")?);
        let command = &self.environment().remote_copy;
        let copies = std::str::from_utf8(&local).ok().and_then(|code| nothing_but_copies(code, command));
        Ok(Code { local: copies.is_none() && !local.is_empty(), copies: copies.unwrap_or_default(), remote })
    }

    /// Sends an object's code, and the files that it copies.
    fn post(&self, object: &ObjectName, code: &Code) -> Result<Option<Pending>> {
        let mut batch = Batch::default();
        for copy in &code.copies {
            copy.add(&mut batch, &self.wish.base, true)?;
        }
        if !code.remote.is_empty() {
            let there = self.there(object);
            batch.directories(std::slice::from_ref(&there));
            batch.put(&format!("{there}/code-remote"), &code.remote);
            let variables = self.environment().of(Script::CodeRemote(object), None);
            batch.run_in_sequence(&pairs(&variables), &format!("{there}/code-remote"));
        }
        if batch.is_empty() { Ok(None) } else { self.desk.link.now().post(batch).map(Some) }
    }

    /// Waits until no more than so many are under way.
    async fn all_done(
        &mut self,
        under_way: &mut VecDeque<(Done, Option<Pending>)>,
        left: usize,
    ) -> Result<()> {
        while under_way.len() > left {
            let Some((mut done, pending)) = under_way.pop_front() else { break };
            let begun = Instant::now();
            if let Some(pending) = pending {
                let object = &done.object;
                let directory = self.tree().directory(object);
                let answers = self.answers(pending).await.map_err(|error| {
                    if error.kind == ErrorKind::Deadline {
                        self.failing = Some(object.clone());
                        let told = told_of(self.tree(), object, &self.scripts.secrets);
                        return Error::new(error.kind, format!("{told}: {}", error.chain()));
                    }
                    error
                })?;
                let of_code = answers.len() - usize::from(directory.join("code-remote").exists());
                for (n, answer) in answers.into_iter().enumerate() {
                    if n == of_code {
                        write(&directory.join("stdout/code-remote"), &answer.stdout)?;
                        write(&directory.join("stderr/code-remote"), &answer.stderr)?;
                    }
                    let what = if n == of_code { "code-remote" } else { "copying a file" };
                    let ended = checked(&self.scripts.secrets, answer, || {
                        format!("{}: {what}", told_of(self.tree(), object, &self.scripts.secrets))
                    });
                    ended.inspect_err(|_| self.failing = Some(object.clone()))?;
                }
            }
            done.took += begun.elapsed();
            self.notes.end(&done)?;
            self.tree().set_state(&done.object, State::Done)?;
            self.tell(Progress::Done(done.clone()));
            self.report.objects.push(done);
        }
        Ok(())
    }

    /// An object's directory on the target.
    fn there(&self, object: &ObjectName) -> String {
        self.environment().below(object, &format!("{}/object/", self.wish.base))
    }
}

/// What makes an object so.
#[derive(Debug, Default, PartialEq)]
struct Code {
    /// Whether there is code to run on this machine.
    local: bool,
    /// What that would copy, where that is all.
    copies: Vec<Copy>,
    /// What runs on the target.
    remote: Vec<u8>,
}

/// What is being generated, in the order in which it was asked for. It ends with whoever wants it.
struct Generated {
    results: mpsc::Receiver<(Result<Vec<String>>, Duration)>,
    _task: AbortOnDropHandle<()>,
}

impl Generated {
    async fn next(&mut self) -> Option<(Result<Vec<String>>, Duration)> {
        self.results.recv().await
    }
}

fn called_off() -> Error {
    Error::new(ErrorKind::Cancelled, "the run was called off")
}

fn pairs(variables: &Variables) -> Pairs<'_> {
    variables.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

/// An answer of a script that has ended well; otherwise an error that begins with what it was.
fn checked(secrets: &Secrets, answer: Answer, what: impl FnOnce() -> String) -> Result<Answer> {
    if answer.code == 0 {
        return Ok(answer);
    }
    let said = shortened(secrets.masked(&String::from_utf8_lossy(&answer.stderr)).trim());
    Err(Error::new(ErrorKind::Failed, format!("{}: exit code {}: {said}", what(), answer.code)))
}
