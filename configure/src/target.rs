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
    /// shell there that takes the words apart. Among them is the host as scripts know it, `name`; what stands before it are
    /// options of ssh's, as `rsync` gives them.
    #[must_use]
    pub fn exec(&self, name: &str, words: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let at = words.iter().position(|word| word == name.as_bytes()).unwrap_or(0);
        let (before, rest) = (words.get(..at).unwrap_or_default(), words.get(at + 1..).unwrap_or_default());
        match self {
            Self::Local => [of(["/bin/sh", "-c"]), vec![rest.join(&b' ')]].concat(),
            Self::Chroot(root) => {
                [of(["chroot", root.as_str(), "/bin/sh", "-c"]), vec![rest.join(&b' ')]].concat()
            }
            Self::Ssh { options, host } => {
                let ssh =
                    of(["ssh", "-o", "BatchMode=yes"].into_iter().chain(options.iter().map(String::as_str)));
                [&ssh, before, &of([host.as_str()]), rest].concat()
            }
            Self::Command { words, host } => {
                [&of(words.iter().map(String::as_str)), before, &of([host.as_str()]), rest].concat()
            }
        }
    }
    /// The command line that copies as `scp` does, with these arguments of it; `None` where nothing does.
    #[must_use]
    pub fn copy(&self, name: &str, arguments: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        let (program, host) = match self {
            Self::Ssh { options, host } => {
                // scp's name for the port is another.
                let options = options.iter().map(|word| match word.strip_prefix("-p") {
                    Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => format!("-P{port}"),
                    _ => word.clone(),
                });
                let options: Vec<Vec<u8>> = options.map(String::into_bytes).collect();
                ([of(["scp", "-q", "-o", "BatchMode=yes"]), options].concat(), format!("{host}:"))
            }
            Self::Local => (of(["cp"]), String::new()),
            // What is copied by the host's `cp` into a root directory follows links out of it.
            Self::Chroot(_) | Self::Command { .. } => return None,
        };
        let there = arguments.iter().map(|argument| {
            let bare = [format!("{name}:"), format!("[{name}]:")];
            let path = bare.iter().find_map(|host| argument.strip_prefix(host.as_bytes()));
            path.map_or_else(|| argument.clone(), |path| [host.as_bytes(), path].concat())
        });
        Some(program.into_iter().chain(there).collect())
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

fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Vec<u8>> {
    words.into_iter().map(|word| word.as_bytes().to_vec()).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn text(words: &[Vec<u8>]) -> String {
        words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn scripts_know_a_host_by_its_name_and_reach_it_as_its_user() {
        let ssh = Transport::Ssh {
            options: vec!["-p".into(), "22".into(), "-p23".into()],
            host: "root@192.0.2.7".into(),
        };
        assert_eq!(
            text(&ssh.exec("gis-01", &of(["gis-01", "rsync", "--server"]))),
            "ssh -o BatchMode=yes -p 22 -p23 root@192.0.2.7 rsync --server"
        );
        assert_eq!(
            text(&ssh.exec("gis-01", &of(["-l", "joe", "gis-01", "x"]))),
            "ssh -o BatchMode=yes -p 22 -p23 -l joe root@192.0.2.7 x"
        );
        let copied = ssh.copy("gis-01", &of(["-r", "a:b", "gis-01:/c", "[gis-01]:/d"]));
        let scp = "scp -q -o BatchMode=yes -P 22 -P23 -r a:b root@192.0.2.7:/c root@192.0.2.7:/d";
        assert_eq!(copied.as_deref().map(text).as_deref(), Some(scp));
        let local = Transport::Local.copy("here", &of(["-r", "a", "here:/c"]));
        assert_eq!(local.as_deref().map(text).as_deref(), Some("cp -r a /c"));
        assert_eq!(Transport::Chroot("/srv/root".into()).copy("x", &of(["a", "x:/c"])), None);
    }
}
