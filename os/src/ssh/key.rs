//! Our own key, and how keys are shown to people.

use crate::{Error, ErrorKind, Result};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use camino::{Utf8Path, Utf8PathBuf};
use sha2::{Digest as _, Sha256};
use std::fmt;
use vcl_types::{HostKey, Secret};

/// The key pair that vcld logs in with.
#[derive(Clone)]
pub struct SshKey {
    private: Secret,
    public: HostKey,
    file: Option<Utf8PathBuf>,
}

const MAKE_ONE: &str = "make one: ssh-keygen -t ed25519 -N '' -f FILE";

impl SshKey {
    /// Reads a private key as `ssh-keygen` writes it: a block `BEGIN OPENSSH PRIVATE KEY`, without a passphrase. The
    /// public key stands in it.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] when it is something else, with the way to a key that will do.
    pub fn from_text(private: Secret) -> Result<Self> {
        let public = public_of(private.expose())
            .map_err(|why| Error::new(ErrorKind::Local, format!("the ssh key {why}; {MAKE_ONE}")))?;
        Ok(Self { private, public, file: None })
    }
    /// Reads it from a file, which nobody else may be able to read.
    ///
    /// # Errors
    /// [`ErrorKind::Local`] when the file cannot be read, others can read it, or it holds no such key.
    pub fn load(file: impl AsRef<Utf8Path>) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = file.as_ref();
        let failed = |e: std::io::Error| {
            Error::caused(ErrorKind::Local, format!("reading the ssh key {file}; {MAKE_ONE}"), e)
        };
        let mode = std::fs::metadata(file).map_err(failed)?.permissions().mode();
        if mode & 0o007 != 0 {
            let context = format!("everybody can read the ssh key {file}: chmod 600 {file}");
            return Err(Error::new(ErrorKind::Local, context));
        }
        let text = std::fs::read_to_string(file).map_err(failed)?;
        let key = Self::from_text(Secret::new(text))
            .map_err(|e| Error::new(ErrorKind::Local, format!("{file}: {e}")))?;
        Ok(Self { file: Some(file.to_owned()), ..key })
    }
    /// The public key as a line of `authorized_keys`.
    #[must_use]
    pub fn public_line(&self) -> String {
        format!("{} vcld", self.public)
    }
    /// Its fingerprint, as `ssh-keygen -l` shows it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.public)
    }
    pub(super) fn private(&self) -> &str {
        self.private.expose()
    }
    /// What a person types so that an account takes this key.
    pub(super) fn how_to_add(&self, user: &str, address: std::net::IpAddr, port: u16) -> String {
        match self.file.as_ref().map(|f| format!("{f}.pub")) {
            // `-f`: ssh-copy-id otherwise tries the private key that belongs to it and finds that it does not work.
            Some(public) if Utf8Path::new(&public).exists() => {
                format!("ssh-copy-id -f -i {public} -p {port} {user}@{address}")
            }
            _ => format!("put this line into its .ssh/authorized_keys: {}", self.public_line()),
        }
    }
}
impl fmt::Debug for SshKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SshKey").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

/// A key's fingerprint as OpenSSH shows it: `SHA256:` and base64.
#[must_use]
pub fn fingerprint(key: &HostKey) -> String {
    let bytes = STANDARD_NO_PAD.decode(key.key.trim_end_matches('=')).unwrap_or_default();
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(bytes)))
}

/// A key from the bytes that go over the wire, which begin with its algorithm's name.
pub(super) fn from_wire(bytes: &[u8]) -> Option<HostKey> {
    let algorithm = std::str::from_utf8(Reader(bytes).string()?).ok()?;
    HostKey::parse(&format!("{algorithm} {}", STANDARD.encode(bytes)))
}

/// The public half of an OpenSSH private key, which stands before the secret one and is never enciphered.
fn public_of(text: &str) -> Result<HostKey, &'static str> {
    const HEAD: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
    const TAIL: &str = "-----END OPENSSH PRIVATE KEY-----";
    const NO_KEY: &str = "is cut off or damaged";
    let Some((_, rest)) = text.split_once(HEAD) else {
        return Err(if text.contains("PRIVATE KEY-----") {
            "is in the old PEM format (ssh-keygen -p -N '' -f FILE rewrites it)"
        } else {
            "is not a private key"
        });
    };
    let (body, _) = rest.split_once(TAIL).ok_or(NO_KEY)?;
    let body: String = body.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(body).map_err(|_| NO_KEY)?;
    let mut reader = Reader(bytes.strip_prefix(b"openssh-key-v1\0").ok_or(NO_KEY)?);
    let cipher = reader.string().ok_or(NO_KEY)?;
    if cipher != b"none" {
        return Err("has a passphrase, which nobody would be there to type (ssh-keygen -p -N '' removes it)");
    }
    let (_kdf, _options, _count) =
        (reader.string().ok_or(NO_KEY)?, reader.string().ok_or(NO_KEY)?, reader.number().ok_or(NO_KEY)?);
    from_wire(reader.string().ok_or(NO_KEY)?).ok_or(NO_KEY)
}

/// Reads lengths and strings as ssh writes them.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }
    fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn keygen(arguments: &[&str]) -> String {
        let out = Command::new("ssh-keygen").args(arguments).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn a_key_of_ssh_keygen_is_known_by_its_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        for kind in ["ed25519", "ecdsa", "rsa"] {
            let file = Utf8PathBuf::try_from(dir.path().join(kind)).unwrap();
            keygen(&["-q", "-t", kind, "-N", "", "-f", file.as_str()]);
            let key = SshKey::load(&file).unwrap();
            let shown = keygen(&["-l", "-f", file.as_str()]);
            assert!(shown.contains(&key.fingerprint()), "{shown} {}", key.fingerprint());
            let public = std::fs::read_to_string(format!("{file}.pub")).unwrap();
            assert!(public.starts_with(key.public_line().trim_end_matches(" vcld")));
            assert!(key.how_to_add("root", "10.0.0.5".parse().unwrap(), 22).contains(&format!("{file}.pub")));
        }
    }

    #[test]
    fn what_will_not_do_says_what_would() {
        let dir = tempfile::tempdir().unwrap();
        let file = Utf8PathBuf::try_from(dir.path().join("k")).unwrap();
        keygen(&["-q", "-t", "ed25519", "-N", "a passphrase", "-f", file.as_str()]);
        let message = SshKey::load(&file).unwrap_err().to_string();
        assert!(message.contains("passphrase") && message.contains(file.as_str()), "{message}");
        let text = std::fs::read_to_string(&file).unwrap();
        for cut in [text.len() / 2, 50, 10, 0] {
            let error = SshKey::from_text(Secret::new(text[..cut].to_owned())).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Local);
        }
        assert_eq!(SshKey::load("/nonexistent/key").unwrap_err().kind, ErrorKind::Local);
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(SshKey::load(&file).unwrap_err().to_string().contains("chmod 600"));
        assert!(!format!("{:?}", Secret::new(text)).contains("OPENSSH"));
    }
}
