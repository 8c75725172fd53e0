//! Secrets, which systemd hands over as files in a directory of the service's own.
//!
//! The unit says `LoadCredential=NAME:/path`, systemd sets `$CREDENTIALS_DIRECTORY`, and the file is called NAME.

use crate::error::{Error, ErrorKind};
use crate::values::CredentialName;
use camino::{Utf8Path, Utf8PathBuf};
use std::fs::File;
use std::io::{self, Read as _};
use vcl_types::Secret;

/// systemd passes no more than this.
const LARGEST: u64 = 1024 * 1024;

/// The directory in `$CREDENTIALS_DIRECTORY`, if it is set.
pub fn directory() -> Option<Utf8PathBuf> {
    std::env::var("CREDENTIALS_DIRECTORY").ok().filter(|path| !path.is_empty()).map(Utf8PathBuf::from)
}

/// Reads a credential from a directory. Its newline at the end is taken off, except from a key in PEM form.
///
/// # Errors
///
/// There is no directory, no such credential, or it cannot be read, is empty, larger than 1 MiB or not UTF-8.
pub fn read(directory: Option<&Utf8Path>, name: &CredentialName) -> Result<Secret, Error> {
    let Some(directory) = directory else {
        let what = format!(
            "the credential `{name}` cannot be read, because CREDENTIALS_DIRECTORY is not set: add \
             LoadCredential={name}:/path/of/the/file to the unit, or, where vcld is started by hand, set \
             CREDENTIALS_DIRECTORY to a directory that has a file `{name}`"
        );
        return Err(Error::new(ErrorKind::NoCredentials, what));
    };
    let path = directory.join(name.as_str());
    let unreadable =
        |why: &str| Error::new(ErrorKind::Unreadable, format!("the credential `{name}` in `{path}` {why}"));
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(LARGEST + 1).read_to_string(&mut text));
    let mut text = Secret::new(text);
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let what = format!(
                "there is no credential `{name}` in `{directory}`: add LoadCredential={name}:/path/of/the/file to the \
                 unit, or, where vcld is started by hand, put the file there"
            );
            return Err(Error::new(ErrorKind::NotFound, what).because(error));
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Err(unreadable("is not UTF-8 text"));
        }
        Err(error) => return Err(unreadable("cannot be read").because(error)),
        Ok(length) if length as u64 > LARGEST => return Err(unreadable("is larger than 1 MiB")),
        Ok(_) => {}
    }
    if !text.expose().starts_with("-----BEGIN") {
        let line = text.expose();
        let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        text = Secret::new(line.to_owned());
    }
    if text.expose().is_empty() {
        return Err(unreadable("is empty"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_credential_is_read_and_never_shown() {
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(directory.path()).unwrap();
        for (name, content, value) in [
            ("password", "hunter2\n", "hunter2"),
            ("crlf", "hunter2\r\n", "hunter2"),
            ("bare", "hun\nter2", "hun\nter2"),
            ("key", "-----BEGIN X-----\nabc\n-----END X-----\n", "-----BEGIN X-----\nabc\n-----END X-----\n"),
        ] {
            std::fs::write(directory.join(name), content).unwrap();
            let secret = read(Some(directory), &name.parse().unwrap()).unwrap();
            assert_eq!(secret.expose(), value);
            assert!(!format!("{secret:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_way_out() {
        let name = "database-password".parse().unwrap();
        let error = read(None, &name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoCredentials);
        assert!(error.to_string().contains("LoadCredential=database-password:"), "{error}");
        assert!(error.to_string().contains("CREDENTIALS_DIRECTORY"), "{error}");
        let error = read(Some(Utf8Path::new("/nonexistent")), &name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("`database-password` in `/nonexistent`"), "{error}");
        assert!(error.source().is_some());
        let directory = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(directory.path()).unwrap();
        for (content, why) in
            [(&b"\n"[..], "empty"), (&b"\xff"[..], "UTF-8"), (&[b'x'; 1024 * 1024 + 1][..], "1 MiB")]
        {
            std::fs::write(directory.join("database-password"), content).unwrap();
            let error = read(Some(directory), &name).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unreadable);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_name_cannot_lead_out_of_the_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "/etc/shadow", "a b", "a\n"] {
            assert!(bad.parse::<CredentialName>().is_err(), "{bad:?}");
        }
    }
}
