//! The scripts of a run that run on this machine, with what they say, and with the messages that they send each other.

use crate::definition::listed;
use crate::environment::{Environment, Script, Variables};
use crate::error::{Error, ErrorKind, Result};
use crate::local::Runner;
use crate::memo::{Given, Memo, left_in};
use crate::name::ObjectName;
use crate::secrets::Secrets;
use crate::tree::{List, Tree};
use camino::{Utf8Path, Utf8PathBuf};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

/// What runs them, beside each other.
#[derive(Debug, Clone)]
pub(crate) struct Scripts {
    pub(crate) environment: Environment,
    pub(crate) runner: Runner,
    /// Where their own copies of the messages lie.
    pub(crate) directory: Utf8PathBuf,
    /// The last of those copies.
    pub(crate) told: Arc<Mutex<Option<Arc<Told>>>>,
    /// What was generated before, when the machine is explored and somebody wants that.
    pub(crate) memo: Option<Arc<Memo>>,
    pub(crate) secrets: Secrets,
}

/// A copy of the messages that scripts read. Those that begin before there are more have the same one: few runs have messages, and
/// new files are most of what a run costs on a file system that has lost many lately.
#[derive(Debug)]
pub(crate) struct Told {
    length: u64,
    file: Utf8PathBuf,
}

impl Drop for Told {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Scripts {
    /// Stage 2.
    pub(crate) async fn initial_manifest(&self, manifest: &Utf8Path) -> Result<()> {
        let streams = Streams::of(self.environment.tree.global(), "init");
        let ended = self.told(Script::InitialManifest(manifest), manifest, &streams, "initialmanifest").await;
        ended.map(drop).map_err(|error| streams.with_output(&error, &self.secrets, "the initial manifest"))
    }
    /// Stage 4: the manifest of an object's type, if there is one.
    pub(crate) async fn manifest(&self, object: &ObjectName) -> Result<()> {
        self.of_type(Script::Manifest(object), object, "manifest").await.map(drop)
    }
    /// Stage 5: what there is of a type's two scripts that generate code, or what they gave before. Answers with the messages.
    pub(crate) async fn generate(&self, object: &ObjectName) -> Result<Vec<String>> {
        let directory = self.environment.tree.directory(object);
        let key = match &self.memo {
            Some(memo) => memo.key(&self.environment, object)?.map(|key| (memo, key)),
            None => None,
        };
        if let Some(given) = key.as_ref().and_then(|(memo, key)| memo.get(key)) {
            for (name, text) in &given.code {
                write(&directory.join(name), text.as_bytes())?;
            }
            self.tell(&given.messages, &object.to_string())?;
            return Ok(given.messages);
        }
        let before = if key.is_some() { left_in(&directory)? } else { Vec::new() };
        let mut given = Given::default();
        let mut text_only = true;
        for (script, code) in [("gencode-local", "code-local"), ("gencode-remote", "code-remote")] {
            let Some(told) = self.of_type(Script::Gencode(object), object, script).await? else { continue };
            given.messages.extend(told);
            let said = directory.join("stdout").join(script);
            let text = ended_line(read(&said)?);
            if !text.is_empty() {
                write(&directory.join(code), &text)?;
                match String::from_utf8(text) {
                    Ok(text) => drop(given.code.insert(code.to_owned(), text)),
                    Err(_) => text_only = false,
                }
            }
            let _ = fs::remove_file(&said);
        }
        if let Some((memo, key)) = key
            && text_only
            && !given.code.values().chain(&given.messages).any(|text| self.secrets.are_in(text))
            && left_in(&directory)? == before
        {
            memo.put(&key, &given)?;
        }
        Ok(given.messages)
    }
    /// Stage 6, as far as it is here.
    pub(crate) async fn code(&self, object: &ObjectName) -> Result<()> {
        let directory = self.environment.tree.directory(object);
        let name = "code-local";
        let streams = Streams::of(&directory, name);
        let variables = self.environment.of(Script::CodeLocal(object), None);
        let ended =
            self.runner.run(&directory.join(name), &variables, &streams.stdout, &streams.stderr, false).await;
        ended.map_err(|error| self.about(&error, object, name, &streams))
    }

    /// Runs a script of an object's type, where the type has it, and answers with the messages.
    async fn of_type(
        &self,
        script: Script<'_>,
        object: &ObjectName,
        name: &str,
    ) -> Result<Option<Vec<String>>> {
        let tree = &self.environment.tree;
        let (path, directory) = (tree.of(object.of())?.directory.join(name), tree.directory(object));
        if !path.exists() {
            return Ok(None);
        }
        let streams = Streams::of(&directory, name);
        let told = self.told(script, &path, &streams, &object.to_string()).await;
        told.map(Some).map_err(|error| self.about(&error, object, name, &streams))
    }
    /// Runs a script with messages to read and to write, and gives what it wrote to everybody: also when it failed.
    async fn told(
        &self,
        script: Script<'_>,
        path: &Utf8Path,
        streams: &Streams,
        prefix: &str,
    ) -> Result<Vec<String>> {
        let theirs = self.messages()?;
        let written = self.directory.join(format!("messages-{}.out", token()?));
        write(&written, b"")?;
        let variables = self.environment.of(script, Some((&theirs.file, &written)));
        let ended = self.all_of(path, variables, streams).await;
        let said = read(&written)?;
        let lines: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
        self.tell(&lines, prefix)?;
        let _ = fs::remove_file(&written);
        ended.map(|()| lines)
    }
    /// A copy of what messages there are.
    fn messages(&self) -> Result<Arc<Told>> {
        let all = self.environment.tree.global().join("messages");
        let mut last = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        // Messages are only ever added to.
        let length = fs::metadata(&all).map_err(|error| Error::io(format!("looking at {all}"), error))?.len();
        if let Some(last) = last.as_ref().filter(|last| last.length == length) {
            return Ok(last.clone());
        }
        let file = self.directory.join(format!("messages-{}.in", token()?));
        let length = fs::copy(&all, &file).map_err(|error| Error::io(format!("copying {all}"), error))?;
        let told = Arc::new(Told { length, file });
        *last = Some(told.clone());
        Ok(told)
    }
    /// Runs a script, or what stands for one as a directory.
    async fn all_of(&self, path: &Utf8Path, mut variables: Variables, streams: &Streams) -> Result<()> {
        for (n, part) in parts(path)?.iter().enumerate() {
            let written = variables.get("__messages_out").map(Utf8PathBuf::from);
            for file in [Some(streams.stdout.clone()), written].into_iter().flatten().filter(|_| n > 0) {
                // The next begins a line of its own.
                let text = read(&file)?;
                if text.last().is_some_and(|last| *last != b'\n') {
                    write(&file, &ended_line(text))?;
                }
            }
            if let Some(manifest) = variables.get_mut("__cdist_manifest") {
                *manifest = if part == path { std::mem::take(manifest) } else { part.to_string() };
            }
            self.runner.run(part, &variables, &streams.stdout, &streams.stderr, n > 0).await?;
        }
        Ok(())
    }
    /// Gives messages to everybody.
    fn tell(&self, lines: &[String], prefix: &str) -> Result<()> {
        let all = self.environment.tree.global().join("messages");
        let text: String = lines.iter().map(|line| format!("{prefix}:{line}\n")).collect();
        let appended = fs::OpenOptions::new().append(true).open(&all);
        let appended = appended.and_then(|mut file| file.write_all(text.as_bytes()));
        appended.map_err(|error| Error::io(format!("writing {all}"), error))
    }
    fn about(&self, error: &Error, object: &ObjectName, name: &str, streams: &Streams) -> Error {
        streams.with_output(
            error,
            &self.secrets,
            &format!("{}: {name}", told_of(&self.environment.tree, object, &self.secrets)),
        )
    }
}

/// The scripts that are run for one: itself; or, of a directory, `init`, or all that there are in order, as skonfig has it.
fn parts(path: &Utf8Path) -> Result<Vec<Utf8PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let init = path.join("init");
    if init.is_file() {
        return Ok(vec![init]);
    }
    let all: Vec<Utf8PathBuf> =
        listed(path)?.iter().map(|name| path.join(name)).filter(|part| part.is_file()).collect();
    if all.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("{path} is a directory without a script in it")));
    }
    Ok(all)
}

/// An object, with where it is defined, and by which parameters.
pub(crate) fn told_of(tree: &Tree, object: &ObjectName, secrets: &Secrets) -> String {
    let parameters = tree.parameters(object).unwrap_or_default().into_iter();
    let words = parameters.map(|(name, value)| {
        // A part of a secret would not be found.
        let value = secrets.masked(&String::from_utf8_lossy(&value));
        let line: String = value.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!(" --{name} {}", shortened_to(&line, PARAMETER))
    });
    let words: String = words.collect();
    let with = if words.is_empty() { String::new() } else { format!(" with{words}") };
    format!("{object}, defined in {}{with}", defined_in(tree, object, &mut Calls::new()).join(" and "))
}

/// The lines that call a type, by file and type, each with its number.
pub(crate) type Calls = BTreeMap<(String, String), Vec<(usize, String)>>;

/// Where an object is defined: the files, and the lines of them that call its type with its id in them, where there are any, or else
/// those that call its type. What was read is kept for the next.
pub(crate) fn defined_in(tree: &Tree, object: &ObjectName, read_before: &mut Calls) -> Vec<String> {
    let mut sources = tree.list(object, List::Source).unwrap_or_default();
    sources.dedup();
    let told = sources.into_iter().map(|source| {
        let of_it = (source.clone(), object.of().to_owned());
        let calls = read_before.entry(of_it).or_insert_with(|| {
            let text = fs::read(&source).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let words = |line: &str| {
                line.split([' ', '\t', ';', '\'', '"', '(', '{']).any(|word| word == object.of())
            };
            let lines = text.lines().enumerate().filter(|(_, line)| words(line));
            lines.map(|(n, line)| (n + 1, line.to_owned())).collect()
        });
        let with_id = calls.iter().filter(|(_, line)| line.contains(object.id()));
        let mut lines: Vec<usize> = with_id.map(|(n, _)| *n).collect();
        if lines.is_empty() {
            lines = calls.iter().map(|(n, _)| *n).collect();
        }
        let more = lines.len().saturating_sub(LINES);
        let mut told: Vec<String> = lines.iter().take(LINES).map(usize::to_string).collect();
        told.extend((more > 0).then(|| format!("{more} more")));
        if told.is_empty() { source } else { format!("{source}:{}", told.join(" or ")) }
    });
    told.collect()
}

/// Where a script's two streams go.
struct Streams {
    stdout: Utf8PathBuf,
    stderr: Utf8PathBuf,
}

impl Streams {
    fn of(directory: &Utf8Path, name: &str) -> Self {
        Self { stdout: directory.join("stdout").join(name), stderr: directory.join("stderr").join(name) }
    }
    /// The same error, with what it is about before it and what the script complained behind it.
    fn with_output(&self, error: &Error, secrets: &Secrets, what: &str) -> Error {
        let read = |file: &Utf8Path| {
            let said = fs::read(file).unwrap_or_default();
            shortened(secrets.masked(&String::from_utf8_lossy(&said)).trim())
        };
        let complained = read(&self.stderr);
        // Some say on the other stream why they refuse.
        let said = if complained.is_empty() { last_lines(&read(&self.stdout)) } else { complained };
        let context = format!("{what}: {}", error.chain());
        Error::new(error.kind, if said.is_empty() { context } else { format!("{context}: {said}") })
    }
}

/// How much of what a script says an error has, in bytes.
const SAID: usize = 16 * 1024;
/// How many lines are told that may define an object.
const LINES: usize = 5;
/// How much of a parameter it has.
const PARAMETER: usize = 120;

/// A text without its middle, where it is long.
pub(crate) fn shortened(text: &str) -> String {
    shortened_to(text, SAID)
}

/// A text of about so many bytes, without its middle where it is longer.
pub(crate) fn shortened_to(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let cut = |mut at: usize| {
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let (head, tail) = (cut(most / 2), cut(text.len() - most / 2));
    format!("{} … {}", &text[..head], &text[tail..])
}

/// What there is at the end of a text: what comes before it was not meant for people.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(3)..).unwrap_or_default().join("; ")
}

/// The same, with an end of its last line.
pub(crate) fn ended_line(mut text: Vec<u8>) -> Vec<u8> {
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    text
}

pub(crate) fn read(file: &Utf8Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| Error::io(format!("reading {file}"), error))
}

pub(crate) fn write(file: &Utf8Path, content: &[u8]) -> Result<()> {
    fs::write(file, content).map_err(|error| Error::io(format!("writing {file}"), error))
}

/// Thirty-two letters that nobody can guess.
///
/// # Errors
/// The kernel has no randomness.
pub(crate) fn token() -> Result<String> {
    let mut bytes = [0u8; 16];
    let failed = |error: rustix::io::Errno| Error::io("asking the kernel for randomness", error.into());
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
