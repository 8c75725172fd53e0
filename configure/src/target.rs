//! Where a configuration is applied, and how one gets a shell there.
//!
//! There is one connection to a target, and on it a small loop of POSIX sh ([`crate::channel`]). What starts that loop is a
//! program: OpenSSH's `ssh`, with everything that a user's `ssh_config` says of keys, jump hosts and names; `chroot`; a shell of
//! this machine; or whatever a site has instead of them, called as cdist calls its `--remote-exec`.

use camino::Utf8PathBuf;
use std::ffi::OsString;

/// How to get a shell on a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// This machine.
    Local,
    /// A root directory of this machine, as root.
    Chroot(Utf8PathBuf),
    /// A machine over ssh.
    Ssh {
        /// What `ssh` is called with before the host, as in `-p 2222 -i key`.
        options: Vec<String>,
        /// The host, as in `root@gis-01`.
        host: String,
    },
    /// A command line to which host and command are added, as cdist's `--remote-exec` has it.
    Command {
        /// Its words.
        words: Vec<String>,
        /// The host.
        host: String,
    },
}

impl Transport {
    /// The program and its arguments that run a line of sh there. The line has no `'` and no newline in it.
    #[must_use]
    pub fn shell(&self, line: &str) -> Vec<OsString> {
        let sh = ["/bin/sh", "-c", line];
        // Whatever shell the account has, it takes one word in single quotes.
        let quoted = format!("exec /bin/sh -c '{line}'");
        match self {
            Self::Local => sh.map(OsString::from).to_vec(),
            Self::Chroot(root) => {
                ["chroot", root.as_str()].into_iter().chain(sh).map(OsString::from).collect()
            }
            Self::Ssh { options, host } => {
                let fixed = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"];
                let words = fixed.into_iter().chain(options.iter().map(String::as_str));
                words.chain(["--", host, &quoted]).map(OsString::from).collect()
            }
            Self::Command { words, host } => {
                words.iter().map(String::as_str).chain([host.as_str(), &quoted]).map(OsString::from).collect()
            }
        }
    }
    /// The command line that runs words there with the streams of whoever starts it, as `ssh HOST WORDS` does: it is the
    /// shell there that takes the words apart. The first of the words is the host.
    #[must_use]
    pub fn exec(&self, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let rest = words.get(1..).unwrap_or_default();
        let of = |fixed: &[&str]| fixed.iter().map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
        match self {
            Self::Local => [of(&["/bin/sh", "-c"]), vec![rest.join(&b' ')]].concat(),
            Self::Chroot(root) => {
                [of(&["chroot", root.as_str(), "/bin/sh", "-c"]), vec![rest.join(&b' ')]].concat()
            }
            Self::Ssh { options, .. } => {
                let options: Vec<&str> = options.iter().map(String::as_str).collect();
                [of(&["ssh", "-o", "BatchMode=yes"]), of(&options), words.to_vec()].concat()
            }
            Self::Command { words: fixed, .. } => {
                let fixed: Vec<&str> = fixed.iter().map(String::as_str).collect();
                [of(&fixed), words.to_vec()].concat()
            }
        }
    }
    /// The command line that copies as `scp` does, with these arguments of it.
    #[must_use]
    pub fn copy(&self, arguments: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let program = match self {
            Self::Ssh { options, .. } => {
                // scp's name for the port is another.
                let options = options.iter().map(|word| if word == "-p" { "-P" } else { word.as_str() });
                ["scp", "-q", "-o", "BatchMode=yes"]
                    .into_iter()
                    .chain(options)
                    .map(|w| w.as_bytes().to_vec())
                    .collect()
            }
            // A copy within this machine: what stands before the colon is nobody's.
            Self::Local | Self::Chroot(_) | Self::Command { .. } => vec![b"cp".to_vec()],
        };
        let root = match self {
            Self::Chroot(root) => root.as_str(),
            _ => "",
        };
        let bare =
            arguments.iter().map(|argument| match (self, argument.iter().position(|byte| *byte == b':')) {
                (Self::Ssh { .. }, _) | (_, None) => argument.clone(),
                (_, Some(at)) => [root.as_bytes(), &argument[at + 1..]].concat(),
            });
        [program, bare.collect()].concat()
    }
    /// What the target is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Local => "this machine".into(),
            Self::Chroot(root) => root.to_string(),
            Self::Ssh { host, .. } | Self::Command { host, .. } => host.clone(),
        }
    }
}

/// A value as one word of sh, whatever bytes are in it. There can be no NUL in it.
#[must_use]
pub fn quoted(value: &[u8]) -> Vec<u8> {
    let mut word = vec![b'\''];
    for byte in value {
        match byte {
            b'\'' => word.extend(b"'\\''"),
            other => word.push(*other),
        }
    }
    word.push(b'\'');
    word
}
