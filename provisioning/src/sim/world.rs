//! The world: what there is, in files, so that it outlives the daemon and several daemons can share it.
//!
//! ```text
//!  DIRECTORY/machines/NAME.log    what was done to a machine: one line of JSON for each effect, only ever longer
//!  DIRECTORY/machines/NAME.json   what came of it, with how much of the log is in it
//!  DIRECTORY/refused.log          what was tried and cannot be, one line each
//! ```
//!
//! The log is the truth. The state beside it spares folding it: a process that finds it behind, because another died
//! between the two, folds the rest; one that finds it torn folds all. Each effect is made under an exclusive `flock` of
//! the machine's log, which the kernel lets go when a process dies. Nothing is flushed to the disk: this world survives
//! its processes, not its host.
//!
//! Steps of jobs come in by [`effect`](World::effect), and by no other way. It asks which step the task is in, refuses
//! what no real machine would do and what a lease does after another has followed it, and writes both down.

use super::hand::{By, by};
use super::machine::{Effect, Hand, Machine};
use crate::{Error, ErrorKind};
use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use vcl_job::{BoxFuture, Kind};

/// How long another process may hold a machine: it may be stopped in the middle of an effect.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether an effect is about to happen or has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Nothing has happened yet.
    Before,
    /// It is in the world.
    After,
}

/// Called around each effect of a step with the machine's name. An error before it keeps it from happening; one after
/// it is the effect's answer although it has happened.
pub type Hook =
    Arc<dyn for<'a> Fn(Moment, &'a str, &'a Effect) -> BoxFuture<'a, vcl_job::Result<()>> + Send + Sync>;

/// A line of a machine's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Under which lease; `None` for something done by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand: Option<Hand>,
    /// In which step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether the step was being undone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undoing: bool,
    /// What.
    #[serde(flatten)]
    pub effect: Effect,
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The machine.
    pub machine: String,
    /// Why.
    pub why: String,
    /// What.
    pub line: Line,
}

/// A machine's state as its file has it.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    /// How many bytes of the log are in it.
    applied: u64,
    machine: Machine,
}

/// A world of simulated machines.
pub struct World {
    directory: Utf8PathBuf,
    known: Mutex<HashMap<String, Stored>>,
    hook: Mutex<Option<Hook>>,
}

impl World {
    /// The world in that directory, which is made if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn open(directory: impl AsRef<Utf8Path>) -> io::Result<Arc<Self>> {
        let directory = directory.as_ref().to_owned();
        std::fs::create_dir_all(directory.join("machines"))?;
        Ok(Arc::new(Self { directory, known: Mutex::default(), hook: Mutex::default() }))
    }
    /// Where it lives.
    #[must_use]
    pub fn directory(&self) -> &Utf8Path {
        &self.directory
    }
    /// Has this called around each effect of a step, in place of what was called before.
    pub fn on_effect(&self, hook: Hook) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(hook);
    }

    /// Does something to a machine in a step of a job; says whether it changed anything.
    ///
    /// # Errors
    /// [`Kind::Fatal`] when it cannot be, when it happens in no step, or when another lease has been at the machine
    /// since; [`Kind::Busy`] when another process holds the machine; and what the hook says.
    pub(super) async fn effect(&self, machine: &str, effect: Effect) -> vcl_job::Result<bool> {
        match by() {
            Ok(by) => self.effect_by(by, machine, effect).await,
            Err(why) => Err(self.refuse(machine, &line(By::default(), effect), why.into())),
        }
    }

    pub(super) async fn effect_by(&self, by: By, machine: &str, effect: Effect) -> vcl_job::Result<bool> {
        self.told(Moment::Before, machine, &effect).await?;
        let line = line(by, effect);
        let done = {
            let mut held = self.hold(machine).await?;
            // With the machine in hand, so that nobody else has it between this and the effect.
            vcl_job::held()?;
            held.put(&line)
        };
        match done {
            Ok(Put::Changed(changed)) => {
                self.told(Moment::After, machine, &line.effect).await?;
                Ok(changed)
            }
            Ok(Put::Refused(why)) => Err(self.refuse(machine, &line, why)),
            Err(e) => Err(failed(machine, e)),
        }
    }

    /// Does something to a machine outside of any job: somebody presses its power button, a user writes a file.
    ///
    /// # Errors
    /// It cannot be, or the world cannot be written.
    pub async fn by_hand(&self, machine: &str, effect: Effect) -> crate::Result<bool> {
        let line = line(By::default(), effect);
        match self.hold(machine).await?.put(&line) {
            Ok(Put::Changed(changed)) => Ok(changed),
            Ok(Put::Refused(why)) => Err(Error::new(ErrorKind::Refused, format!("{machine}: {why}"))),
            Err(e) => Err(world_failed(machine, e)),
        }
    }

    /// A machine as it is; one of which there is nothing is the default.
    ///
    /// # Errors
    /// The world cannot be read.
    pub async fn machine(&self, machine: &str) -> crate::Result<Machine> {
        if !self.log_path(machine).exists() {
            self.is_there()?;
            return Ok(Machine::default());
        }
        let held = self.hold(machine).await?;
        Ok(held.stored.machine.clone())
    }

    /// Writes what is on a machine's disk as a raw image, blocking: what a copy of it has to hold.
    ///
    /// # Errors
    /// There is no such disk, or it cannot be written.
    pub fn lay_out(&self, machine: &str, disk: u32, to: &Utf8Path) -> io::Result<()> {
        let machine = self.read(machine)?;
        let overlay = machine.overlays.get(&disk).ok_or(io::ErrorKind::NotFound)?;
        super::disk::write(to, overlay.size, &overlay.content)
    }

    /// The names of all machines that ever were.
    ///
    /// # Errors
    /// The world cannot be read.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in self.directory.join("machines").read_dir_utf8()? {
            if let Some(name) = entry?.file_name().strip_suffix(".log") {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// All that there is, by name, blocking. What may differ between two histories that come to the same is left out:
    /// how many effects it took, under which leases, and which identities came of it beyond whether there are any.
    ///
    /// # Errors
    /// The world cannot be read.
    pub fn snapshot(&self) -> io::Result<BTreeMap<String, serde_json::Value>> {
        let mut all = BTreeMap::new();
        for name in self.names()? {
            let machine = self.read(&name)?;
            if !machine.is_absent() {
                all.insert(name.clone(), normal(machine)?);
            }
        }
        Ok(all)
    }

    /// What was done to a machine, from its log, blocking.
    ///
    /// # Errors
    /// The world cannot be read.
    pub fn log(&self, machine: &str) -> io::Result<Vec<Line>> {
        let Some(file) = self.lock_blocking(machine)? else { return Ok(Vec::new()) };
        lines(&file, 0).map(|(lines, _)| lines)
    }

    /// What was tried and cannot be, the oldest first.
    ///
    /// # Errors
    /// The world cannot be read.
    pub fn refusals(&self) -> io::Result<Vec<Refusal>> {
        match std::fs::read_to_string(self.directory.join("refused.log")) {
            Ok(text) => text.lines().map(|l| serde_json::from_str(l).map_err(io::Error::other)).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    }

    /// The machines whose state is not what folding their log gives, blocking. There is never one.
    ///
    /// # Errors
    /// The world cannot be read, or a log has an effect that cannot be.
    pub fn differing(&self) -> io::Result<Vec<String>> {
        let mut wrong = Vec::new();
        for name in self.names()? {
            let state = self.read(&name)?;
            if fold(&name, &self.log(&name)?)? != state {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }

    /// Calls this once in a world's life, with what puts something into it, by hand and blocking.
    pub(super) fn found(
        &self,
        make: impl FnOnce(&mut dyn FnMut(&str, Effect) -> io::Result<()>) -> io::Result<()>,
    ) -> io::Result<()> {
        match File::create_new(self.directory.join("founded")) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            Err(e) => return Err(e),
        }
        make(&mut |machine, effect| {
            let file =
                OpenOptions::new().read(true).append(true).create(true).open(self.log_path(machine))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            let line = line(By::default(), effect);
            match self.caught_up(machine, file)?.put(&line)? {
                Put::Changed(_) => Ok(()),
                Put::Refused(why) => Err(io::Error::other(why)),
            }
        })
    }

    /// A world that was taken away is a host that does not answer, and not one without machines.
    pub(super) fn is_there(&self) -> crate::Result<()> {
        if self.directory.join("machines").is_dir() {
            return Ok(());
        }
        let context = format!("the simulated world in {0} is not there; is {0} mounted?", self.directory);
        Err(Error::new(ErrorKind::Unreachable, context))
    }

    fn log_path(&self, machine: &str) -> Utf8PathBuf {
        self.directory.join(format!("machines/{machine}.log"))
    }

    async fn told(&self, moment: Moment, machine: &str, effect: &Effect) -> vcl_job::Result<()> {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match hook {
            Some(hook) => hook(moment, machine, effect).await,
            None => Ok(()),
        }
    }

    fn refuse(&self, machine: &str, line: &Line, why: String) -> vcl_job::Error {
        let refusal = Refusal { machine: machine.to_owned(), why, line: line.clone() };
        let written = || -> io::Result<()> {
            let mut text = serde_json::to_vec(&refusal)?;
            text.push(b'\n');
            let path = self.directory.join("refused.log");
            OpenOptions::new().append(true).create(true).open(path)?.write_all(&text)
        };
        if let Err(e) = written() {
            tracing::error!(error = %e, machine, "a refusal of the simulated world could not be written down");
        }
        vcl_job::Error::new(Kind::Fatal, format!("the simulated machine {machine} refuses: {}", refusal.why))
    }

    /// Takes a machine for the time of one effect.
    async fn hold(&self, machine: &str) -> crate::Result<Held<'_>> {
        let open = || OpenOptions::new().read(true).append(true).create(true).open(self.log_path(machine));
        let file = open().map_err(|e| world_failed(machine, e))?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut wait = Duration::from_micros(100);
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(wait).await; // why: a lock that is let go tells nobody
                    wait = (wait * 2).min(Duration::from_millis(20));
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let way_out = format!(
                        "another process holds {machine} of the simulated world; is one stopped in the middle of an effect?"
                    );
                    return Err(Error::new(ErrorKind::Unreachable, way_out));
                }
                Err(e) => return Err(world_failed(machine, e.into())),
            }
        }
        self.caught_up(machine, file).map_err(|e| world_failed(machine, e))
    }

    /// The state of a machine whose log is held.
    fn caught_up(&self, machine: &str, file: File) -> io::Result<Held<'_>> {
        let length = file.metadata()?.len();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(machine);
        let path = self.directory.join(format!("machines/{machine}.json"));
        let mut stored = match known {
            Some(stored) if stored.applied == length => stored,
            _ => read_state(&path)
                .filter(|s| s.applied <= length)
                .unwrap_or(Stored { applied: 0, machine: Machine::default() }),
        };
        if stored.applied < length {
            let (rest, whole) = lines(&file, stored.applied)?;
            for line in &rest {
                again(machine, &mut stored.machine, line)?;
            }
            stored.applied = whole;
            if whole < length {
                // A process died while it wrote the last line. What it says has not happened.
                file.set_len(whole)?;
            }
        }
        Ok(Held { world: self, name: machine.to_owned(), file, path, stored })
    }

    fn lock_blocking(&self, machine: &str) -> io::Result<Option<File>> {
        match OpenOptions::new().read(true).append(true).open(self.log_path(machine)) {
            Ok(file) => {
                rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
                Ok(Some(file))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }
    fn read(&self, machine: &str) -> io::Result<Machine> {
        match self.lock_blocking(machine)? {
            Some(file) => Ok(self.caught_up(machine, file)?.stored.machine.clone()),
            None => Ok(Machine::default()),
        }
    }
}

/// What became of an effect.
enum Put {
    Changed(bool),
    Refused(String),
}

/// A machine that this task holds. Dropping it lets go.
struct Held<'a> {
    world: &'a World,
    name: String,
    file: File,
    path: Utf8PathBuf,
    stored: Stored,
}

impl Held<'_> {
    fn put(&mut self, line: &Line) -> io::Result<Put> {
        let mut machine = self.stored.machine.clone();
        if let Some(hand) = &line.hand
            && let Err(why) = machine.admit(hand)
        {
            return Ok(Put::Refused(why));
        }
        if let Effect::BeginCopy { to, .. } = &line.effect
            && let Err(why) = unwritten(to.as_ref())
        {
            return Ok(Put::Refused(why));
        }
        let changed = match machine.apply(&self.name, &line.effect) {
            Err(why) => return Ok(Put::Refused(why)),
            Ok(false) if machine.hand == self.stored.machine.hand => return Ok(Put::Changed(false)),
            Ok(changed) => changed,
        };
        let mut text = if changed {
            serde_json::to_vec(line)?
        } else {
            serde_json::to_vec(&Line { effect: Effect::Taken, ..line.clone() })?
        };
        text.push(b'\n');
        // One call, so that a process that dies leaves all of the line or a piece without its end.
        self.file.write_all(&text)?;
        self.stored = Stored { applied: self.stored.applied + text.len() as u64, machine };
        write_state(&self.path, &self.stored)?;
        Ok(Put::Changed(changed))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut known = self.world.known.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing = Stored { applied: 0, machine: Machine::default() };
        known.insert(std::mem::take(&mut self.name), std::mem::replace(&mut self.stored, nothing));
    }
}

/// Folds a log: what a machine must be after these effects.
///
/// # Errors
/// One of them cannot be.
pub fn fold(machine: &str, lines: &[Line]) -> io::Result<Machine> {
    let mut state = Machine::default();
    for line in lines {
        again(machine, &mut state, line)?;
    }
    Ok(state)
}

fn again(name: &str, machine: &mut Machine, line: &Line) -> io::Result<()> {
    let admitted = line.hand.as_ref().map_or(Ok(()), |hand| machine.admit(hand));
    admitted
        .and_then(|()| machine.apply(name, &line.effect))
        .map(drop)
        .map_err(|why| io::Error::other(format!("the log of {name} has what cannot be: {why}")))
}

/// The whole lines of a log from an offset, and where they end.
fn lines(file: &File, from: u64) -> io::Result<(Vec<Line>, u64)> {
    let length = file.metadata()?.len().saturating_sub(from);
    let mut text = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut text, from)?;
    let whole = text.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
    let lines = text[..whole]
        .split(|b| *b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).map_err(io::Error::other))
        .collect::<io::Result<_>>()?;
    Ok((lines, from + whole as u64))
}

/// The file is written in place. It ends with the number that it begins with, and one that does not is not read.
fn write_state(path: &Utf8Path, stored: &Stored) -> io::Result<()> {
    let mut text = serde_json::to_vec(stored)?;
    text.extend_from_slice(format!("\n{}\n", stored.applied).as_bytes());
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&text, 0)?;
    if file.metadata()?.len() > text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

fn read_state(path: &Utf8Path) -> Option<Stored> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut parts = text.splitn(3, '\n');
    let stored: Stored = serde_json::from_str(parts.next()?).ok()?;
    (parts.next()?.parse() == Ok(stored.applied)).then_some(stored)
}

/// Whether nobody writes to a file: qemu's tools hold locks on what they have open.
fn unwritten(path: &Utf8Path) -> Result<(), String> {
    let Ok(file) = OpenOptions::new().read(true).write(true).open(path) else { return Ok(()) };
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(_) => Err(format!("{path} would have two writers")),
    }
}

fn line(by: By, effect: Effect) -> Line {
    let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = u64::try_from(at.as_millis()).unwrap_or_default();
    Line { at, hand: by.hand, key: by.key, undoing: by.undoing, effect }
}

fn normal(mut machine: Machine) -> io::Result<serde_json::Value> {
    (machine.effects, machine.hand) = (0, None);
    machine.past.clear();
    machine.copying.values_mut().for_each(|hand| *hand = None);
    let plain = |identity: &mut Option<super::machine::Identity>| {
        if let Some(identity) = identity {
            (identity.machine_id, identity.host_key) = ("some".into(), "some".into());
        }
    };
    for overlay in machine.overlays.values_mut() {
        plain(&mut overlay.content.identity);
    }
    if let Some(domain) = &mut machine.domain {
        plain(&mut domain.booted);
    }
    Ok(serde_json::to_value(machine)?)
}

fn world_failed(machine: &str, e: io::Error) -> Error {
    Error::caused(ErrorKind::Failed, format!("reading or writing {machine} in the simulated world"), e)
}
fn failed(machine: &str, e: io::Error) -> vcl_job::Error {
    let kind = if e.kind() == io::ErrorKind::StorageFull { Kind::NoSpace } else { Kind::Fatal };
    vcl_job::Error::caused(kind, format!("writing {machine} in the simulated world"), e)
}
