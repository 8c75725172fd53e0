//! What signing in gave: a token for each place, in one file that is its user's alone.

use crate::error::{Error, ErrorKind, Result};
use crate::place::Place;
use std::collections::BTreeMap;
use std::io::{ErrorKind as Io, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The variable with a token, which goes before the file.
pub const VARIABLE: &str = "VCLD_TOKEN";

/// Where the file is: `$XDG_CONFIG_HOME/vcld/tokens.json`, or in `~/.config`; `None` for whoever has no home.
#[must_use]
pub fn file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")))?;
    Some(config.join("vcld").join("tokens.json"))
}

fn failed(what: &str, path: &Path, cause: std::io::Error) -> Error {
    Error::caused(ErrorKind::Local, format!("cannot {what} the tokens in `{}`", path.display()), cause)
}

fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == Io::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(failed("read", path, e)),
    };
    let mode = std::fs::metadata(path).map_err(|e| failed("look at", path, e))?.mode();
    if mode & 0o077 != 0 {
        let shown = path.display();
        let context = format!("`{shown}` has tokens in it and is open to others: chmod 600 {shown}");
        return Err(Error::new(ErrorKind::Local, context));
    }
    serde_json::from_str(&text).map_err(|e| failed("understand", path, e.into()))
}

/// The token for a place, if one is kept.
///
/// # Errors
/// The file is damaged, or others can read it.
pub fn kept(path: &Path, place: &Place) -> Result<Option<String>> {
    // In a home that is not open to this account there is nothing of its own: who came by `sudo -u` has root's.
    if std::fs::File::open(path).is_err_and(|e| e.kind() == Io::PermissionDenied) {
        return Ok(None);
    }
    Ok(read(path)?.remove(&place.to_string()))
}

/// Keeps a token for a place, or forgets it. The file appears whole or stays as it was.
///
/// # Errors
/// The file cannot be written.
pub fn keep(path: &Path, place: &Place, token: Option<&str>) -> Result<()> {
    let mut all = read(path)?;
    match token {
        Some(token) => all.insert(place.to_string(), token.to_owned()),
        None => all.remove(&place.to_string()),
    };
    let text = serde_json::to_string_pretty(&all).map_err(|e| failed("write", path, e.into()))?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|e| failed("make the directory of", path, e))?;
    }
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let written = || {
        let _ = std::fs::remove_file(&new);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    written().map_err(|e| failed("write", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_is_kept_for_its_place_and_for_its_user_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/tokens.json");
        let (here, there) =
            (Place::Socket("/run/vcld.sock".into()), Place::Url { url: "https://x".into(), ca: None });
        assert_eq!(kept(&path, &here).unwrap(), None);
        keep(&path, &here, Some("one")).unwrap();
        keep(&path, &there, Some("two")).unwrap();
        assert_eq!(kept(&path, &here).unwrap().as_deref(), Some("one"));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        keep(&path, &here, None).unwrap();
        assert_eq!(kept(&path, &here).unwrap(), None);
        assert_eq!(kept(&path, &there).unwrap().as_deref(), Some("two"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(kept(&path, &there).unwrap_err().to_string().contains("chmod 600"));
    }
}
