//! The site's hooks on the management node: which there are, what is in them, and their secrets. How they are run is each
//! system's own.

use crate::{Error, ErrorKind, Result};
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::Metadata;
use vcl_job::Kind;

/// The stage of a capture.
pub(crate) const PRE_CAPTURE: &str = "pre_capture";
/// The stage of a load.
pub(crate) const POST_LOAD: &str = "post_load";
/// Bytes of one.
pub(crate) const LARGEST: u64 = 1024 * 1024;
/// What a hook gets on its standard input stands beside it in a file with this ending.
pub(crate) const SECRET: &str = ".secret";
/// Bytes of one.
const LARGEST_SECRET: u64 = 64 * 1024;

/// What a file in a directory of hooks is to one system.
pub(crate) enum Verdict {
    /// One of its hooks.
    Hook,
    /// None of them, and not meant to be.
    Other,
    /// It would be one under another name; the words say what a name may be.
    Misnamed(&'static str),
}

/// Whether a hook's name may have these letters.
pub(crate) fn sound(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
}

/// The names of a stage's hooks, in order. Without a directory there are none. `is_hook` tells by a file's name and data whether
/// it is one; `told` hears of files that only their names keep from it.
pub(crate) fn list(
    hooks: Option<&Utf8Path>,
    stage: &str,
    is_hook: impl Fn(&str, &Metadata) -> Verdict,
    told: &dyn Fn(String),
) -> Result<Vec<String>, vcl_job::Error> {
    let Some(hooks) = hooks else { return Ok(Vec::new()) };
    let directory = hooks.join(format!("{stage}.d"));
    let failed = |e: std::io::Error| vcl_job::Error::caused(Kind::Fatal, format!("reading {directory}"), e);
    let entries = match directory.read_dir_utf8() {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let data = match std::fs::metadata(entry.path()) {
            Ok(data) => data,
            // A link to nothing.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(failed(e)),
        };
        if !data.is_file() {
            continue;
        }
        match is_hook(entry.file_name(), &data) {
            Verdict::Hook => names.push(entry.file_name().to_owned()),
            Verdict::Other => {}
            Verdict::Misnamed(why) => told(format!("{} is not run: {why}", entry.path())),
        }
    }
    names.sort();
    Ok(names)
}

/// What is in one.
pub(crate) async fn read(hook: &Utf8Path) -> Result<Vec<u8>> {
    let failed = |e| Error::caused(ErrorKind::Local, format!("reading hook {hook}"), e);
    let length = tokio::fs::metadata(hook).await.map_err(failed)?.len();
    if length > LARGEST {
        let context = format!("hook {hook} has {length} bytes; more than {LARGEST} are not sent to a guest");
        return Err(Error::new(ErrorKind::Local, context));
    }
    tokio::fs::read(hook).await.map_err(failed)
}

/// What the hook is to get on its standard input, as a line of base64. It goes to the guest for this run alone: what is kept
/// there to undo a hook has it not.
pub(crate) async fn secret(hook: &Utf8Path) -> Result<String> {
    use base64::Engine as _;
    let path = Utf8PathBuf::from(format!("{hook}{SECRET}"));
    let failed = |e| Error::caused(ErrorKind::Local, format!("reading {path}"), e);
    match tokio::fs::metadata(&path).await {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok("\n".to_owned()),
        Ok(data) if data.len() <= LARGEST_SECRET => {}
        Ok(_) => {
            let context = format!("{path} has more than {LARGEST_SECRET} bytes, which no hook is sent");
            return Err(Error::new(ErrorKind::Local, context));
        }
        Err(e) => return Err(failed(e)),
    }
    let bytes = tokio::fs::read(&path).await.map_err(failed)?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes) + "\n")
}
