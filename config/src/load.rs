//! Reading the file: the one place of this crate that opens it.

use crate::backend::Known;
use crate::config::{Config, parse};
use crate::error::{Error, ErrorKind};
use camino::Utf8Path;
use std::fs::File;
use std::io::{self, Read as _};

/// A file larger than this is not a configuration.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Reads and checks the file at `path`. Nothing else is opened, and no path in it is looked at.
///
/// # Errors
///
/// It cannot be read, or it has [`Error::problems`].
pub fn load(path: &Utf8Path, known: &Known<'_>) -> Result<Config, Error> {
    let text = read(path)?;
    parse(&text, path.as_str(), known).map_err(|problems| {
        let what = match problems.0.len() {
            1 => format!("`{path}` has a problem"),
            count => format!("`{path}` has {count} problems"),
        };
        Error::new(ErrorKind::Invalid, what).because(problems)
    })
}

fn read(path: &Utf8Path) -> Result<String, Error> {
    let unreadable =
        |why: &str| Error::new(ErrorKind::Unreadable, format!("the configuration `{path}` {why}"));
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text)) {
        Ok(length) if length as u64 > LARGEST => Err(unreadable("is larger than 16 MiB")),
        Ok(_) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!("there is no configuration `{path}`: write one, or name another");
            Err(Error::new(ErrorKind::NotFound, what).because(error))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(unreadable("is not UTF-8 text")),
        Err(error) => Err(unreadable("cannot be read").because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_it_is_said_why_not() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(directory.path()).unwrap();
        let load = |path: &Utf8Path| load(path, &Known::default());
        let kind = |path: &Utf8Path| load(path).unwrap_err().kind();
        assert_eq!(kind(directory), ErrorKind::Unreadable);
        let path = directory.join("vcld.toml");
        assert_eq!(kind(&path), ErrorKind::NotFound);
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(kind(&path), ErrorKind::Unreadable);
        std::fs::write(&path, "[library]\npath = 1\nkeep_free = 2\n").unwrap();
        let error = load(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert_eq!(error.problems().unwrap().0.len(), 2);
        std::fs::write(&path, "[library]\npath = \"/srv/vcl\"\n").unwrap();
        assert_eq!(load(&path).unwrap().library.path, "/srv/vcl");
    }
}
