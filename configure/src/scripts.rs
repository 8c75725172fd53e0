//! The scripts of a run that run on this machine, with what they say, and with the messages that they send each other.

use crate::environment::{Environment, Script};
use crate::error::{Error, Result};
use crate::local::Runner;
use crate::name::ObjectName;
use crate::tree::List;
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::io::Write as _;

/// What runs them, beside each other.
#[derive(Debug)]
pub(crate) struct Scripts {
    pub(crate) environment: Environment,
    pub(crate) runner: Runner,
    /// Where their own copies of the messages lie.
    pub(crate) directory: Utf8PathBuf,
}

impl Scripts {
    /// Stage 2.
    pub(crate) async fn initial_manifest(&self, manifest: &Utf8Path) -> Result<()> {
        let global = self.environment.tree.global();
        let (stdout, stderr) = (global.join("stdout/init"), global.join("stderr/init"));
        let ended =
            self.told(Script::InitialManifest(manifest), manifest, &stdout, &stderr, "initialmanifest").await;
        ended.map(|_| ()).map_err(|error| with_output(&error, "the initial manifest", &stderr))
    }
    /// Stage 4: the manifest of an object's type, if there is one.
    pub(crate) async fn manifest(&self, object: &ObjectName) -> Result<()> {
        self.of_type(Script::Manifest(object), object, "manifest").await.map(drop)
    }
    /// Stage 5: what there is of a type's two scripts that generate code. Answers with the messages.
    pub(crate) async fn generate(&self, object: &ObjectName) -> Result<Vec<String>> {
        let mut messages = Vec::new();
        let directory = self.environment.tree.directory(object);
        for (script, code) in [("gencode-local", "code-local"), ("gencode-remote", "code-remote")] {
            let Some(told) = self.of_type(Script::Gencode(object), object, script).await? else { continue };
            messages.extend(told);
            let said = directory.join("stdout").join(script);
            let text = ended_line(read(&said)?);
            if !text.is_empty() {
                write(&directory.join(code), &text)?;
            }
            let _ = fs::remove_file(&said);
        }
        Ok(messages)
    }
    /// Stage 6, as far as it is here.
    pub(crate) async fn code(&self, object: &ObjectName) -> Result<()> {
        let directory = self.environment.tree.directory(object);
        let name = "code-local";
        let (stdout, stderr) = (directory.join("stdout").join(name), directory.join("stderr").join(name));
        let variables = self.environment.of(Script::CodeLocal(object), None);
        let ended = self.runner.run(&directory.join(name), &variables, &stdout, &stderr).await;
        ended.map_err(|error| self.about(&error, object, name))
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
        let (stdout, stderr) = (directory.join("stdout").join(name), directory.join("stderr").join(name));
        let told = self.told(script, &path, &stdout, &stderr, &object.to_string()).await;
        told.map(Some).map_err(|error| self.about(&error, object, name))
    }
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
        let mine = self.directory.join(format!("messages-{}", token()?));
        let (theirs, written) = (mine.with_extension("in"), mine.with_extension("out"));
        fs::copy(&all, &theirs).map_err(|error| Error::io(format!("copying {all}"), error))?;
        write(&written, b"")?;
        let variables = self.environment.of(script, Some((&theirs, &written)));
        let ended = self.runner.run(path, &variables, stdout, stderr).await;
        let said = read(&written)?;
        let lines: Vec<String> = String::from_utf8_lossy(&said).lines().map(str::to_owned).collect();
        let text: String = lines.iter().map(|line| format!("{prefix}:{line}\n")).collect();
        let appended = fs::OpenOptions::new().append(true).open(&all);
        let appended = appended.and_then(|mut file| file.write_all(text.as_bytes()));
        appended.map_err(|error| Error::io(format!("writing {all}"), error))?;
        let _ = (fs::remove_file(&theirs), fs::remove_file(&written));
        ended.map(|()| lines)
    }
    fn about(&self, error: &Error, object: &ObjectName, name: &str) -> Error {
        let tree = &self.environment.tree;
        let source = tree.list(object, List::Source).unwrap_or_default().join(" and ");
        let what = format!("{object}, defined in {source}: {name}");
        with_output(error, &what, &tree.directory(object).join("stderr").join(name))
    }
}

/// The same error, with what it is about before it and what the script complained behind it.
fn with_output(error: &Error, what: &str, stderr: &Utf8Path) -> Error {
    let said = fs::read(stderr).unwrap_or_default();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    let context = format!("{what}: {}", error.chain());
    Error::new(error.kind, if said.is_empty() { context } else { format!("{context}: {said}") })
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
