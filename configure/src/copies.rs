//! Files that go to the target through the run's connection, as `scp` would put them there.

use crate::channel::{Batch, says};
use crate::error::{Error, Result};
use crate::target::quoted;
use camino::{Utf8Path, Utf8PathBuf};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

/// One file, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) file: Utf8PathBuf,
    pub(crate) to: String,
}

impl Copy {
    /// Of `$__remote_copy SOURCE HOST:PATH`, called in this directory. `None`: it is something else that `scp` can do.
    pub(crate) fn of(directory: &Utf8Path, source: &str, to: &str) -> Option<Self> {
        let to = behind_host(to).filter(|path| !path.contains('\n'))?;
        let file = directory.join(source);
        let plain = !source.starts_with('-') && fs::metadata(&file).is_ok_and(|m| m.is_file());
        plain.then(|| Self { file, to: to.to_owned() })
    }
    /// Adds it to a batch, where nothing after it in the sequence runs when it fails, or by itself.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn add(&self, batch: &mut Batch, base: &str, in_sequence: bool) -> Result<()> {
        let Self { file, to } = self;
        let failed = |error| Error::io(format!("reading {file}"), error);
        let content = fs::read(file).map_err(failed)?;
        let mode = fs::metadata(file).map_err(failed)?.permissions().mode() & 0o777;
        let word = |text: &str| String::from_utf8_lossy(&quoted(text.as_bytes())).into_owned();
        // What does not begin at the root begins at home.
        let (home, to) = if to.starts_with('/') { ("", to.clone()) } else { ("cd; ", format!("./{to}")) };
        let (path, name) = (word(&to), word(file.file_name().unwrap_or_default()));
        let (says, after) = match says(&content) {
            Some(says) => (says, String::new()),
            None => {
                let landing = format!("{base}/.copied");
                batch.put(&landing, &content);
                let landing = word(&landing);
                (format!("cat {landing}").into_bytes(), format!("r=$?; rm -f {landing}; exit $r"))
            }
        };
        // As scp has it: into a directory under its own name, and with its own mode where it is new. It never has more than that.
        let (mask, executable) = (0o777 & !mode, mode & 0o111 != 0);
        let before = format!(
            "{home}d={path}; [ -d \"$d\" ] && d=\"${{d%/}}\"/{name}; n=; [ -e \"$d\" ] || n=1; umask {mask:03o}; "
        );
        let behind = match executable {
            true => format!(" >\"$d\" && {{ [ -z \"$n\" ] || chmod {mode:o} \"$d\"; }}; {after}"),
            false => format!(" >\"$d\"; {after}"),
        };
        let sh = [before.as_bytes(), &says, behind.as_bytes()].concat();
        let what = format!("copying {file} to {to}");
        if in_sequence {
            batch.line_in_sequence(&sh, &what);
        } else {
            batch.line(&sh, &what);
        }
        Ok(())
    }
}

/// What code for this machine copies, where it does that and nothing else: lines of `COMMAND "SOURCE" "HOST:PATH"` with nothing in
/// the words that a shell would look at twice. Such code needs no shell here, and no word from the target before the next.
pub(crate) fn nothing_but_copies(code: &str, command: &str) -> Option<Vec<Copy>> {
    let mut all = Vec::new();
    for line in code.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words = line.strip_prefix(command)?.strip_prefix(' ')?.strip_prefix('"')?.strip_suffix('"')?;
        let (source, to) = words.split_once("\" \"")?;
        let special = |word: &str| word.contains(['"', '$', '`', '\\']);
        if special(source) || special(to) || !source.starts_with('/') {
            return None;
        }
        all.push(Copy::of(Utf8Path::new("/"), source, to)?);
    }
    Some(all).filter(|all| !all.is_empty())
}

/// The path in `host:path` and `[::1]:path`.
fn behind_host(to: &str) -> Option<&str> {
    let behind = match to.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").map(|(_, path)| path),
        None => to.split_once(':').filter(|(host, _)| !host.contains('/')).map(|(_, path)| path),
    };
    behind.filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;
    use crate::channel::Channel;
    use crate::target::Transport;
    use std::time::Duration;

    #[tokio::test]
    async fn a_file_comes_where_scp_would_put_it_and_has_its_mode_from_the_first() {
        let kept = tempfile::tempdir().unwrap();
        let at = Utf8Path::from_path(kept.path()).unwrap();
        let (from, home) = (at.join("it's $a `file`"), at.join("home"));
        fs::create_dir_all(home.join("a directory")).unwrap();
        fs::write(home.join("there"), "a longer one that was there").unwrap();
        fs::set_permissions(home.join("there"), fs::Permissions::from_mode(0o604)).unwrap();
        let sh = format!("HOME={home}; export HOME; umask 022; eval \"$1\"");
        let words = ["/bin/sh".to_owned(), "-c".to_owned(), sh];
        let transport = Transport::Command { words: words.to_vec(), host: "h".into() };
        let base = at.join("base").into_string();
        let channel = Channel::open(&transport, &base, "7f3a9c51d2e84b06").await.unwrap();
        let into = |name: &str| home.join(name).into_string();
        for content in [&b"%s \\n it's\n\n"[..], b"", b"a\0b", &[b'x'; 100_000]] {
            for (to, place, mode, expected) in [
                (into("new"), "new", 0o640, 0o640),
                (into("all"), "all", 0o666, 0o666),
                (into("run"), "run", 0o751, 0o751),
                (into("there"), "there", 0o755, 0o604),
                (into("a directory"), "a directory/it's $a `file`", 0o600, 0o600),
                (into("a directory/"), "a directory/it's $a `file`", 0o600, 0o600),
                ("- at home".into(), "- at home", 0o711, 0o711),
            ] {
                fs::write(&from, content).unwrap();
                fs::set_permissions(&from, fs::Permissions::from_mode(mode)).unwrap();
                let mut batch = Batch::default();
                Copy { file: from.clone(), to }.add(&mut batch, &base, false).unwrap();
                let answer = channel.send(batch, Duration::from_secs(60)).await.unwrap().remove(0);
                assert_eq!(
                    (answer.code, String::from_utf8_lossy(&answer.stderr).as_ref()),
                    (0, ""),
                    "{place}"
                );
                let file = home.join(place);
                assert_eq!(fs::read(&file).unwrap(), content, "{place}");
                assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, expected, "{place}");
                if place != "there" {
                    fs::remove_file(file).unwrap();
                }
            }
            let mut batch = Batch::default();
            let nowhere = Copy { file: from.clone(), to: into("no/where") };
            nowhere.add(&mut batch, &base, false).unwrap();
            let answer = channel.send(batch, Duration::from_secs(60)).await.unwrap().remove(0);
            assert_ne!(answer.code, 0);
        }
        channel.close().await;
        assert!(!at.join("base/.copied").exists());
    }

    #[test]
    fn only_what_a_shell_would_do_the_same_with_is_done_without() {
        let kept = tempfile::tempdir().unwrap();
        let file = Utf8Path::from_path(kept.path()).unwrap().join("a file");
        fs::write(&file, "x").unwrap();
        let copies = |code: &str| nothing_but_copies(&code.replace("FILE", file.as_str()), "/c/copy");
        let copy = |to: &str| Copy { file: file.clone(), to: to.into() };
        assert_eq!(
            copies("/c/copy \"FILE\" \"h:/x y\"\n\n/c/copy \"FILE\" \"[::1]:z\"\n"),
            Some(vec![copy("/x y"), copy("z")])
        );
        for other in [
            "",
            "/c/copy \"FILE\" \"h:/x\" || true",
            "/c/copy \"FILE\" \"h:/x\"; true",
            "/c/copy \"FILE\" \"h:/$x\"",
            "/c/copy \"FILE\" \"h:/x\" \"y\"",
            "/c/copy FILE h:/x",
            "/c/copy \"/nowhere\" \"h:/x\"",
            "/c/copy \"FILE\" \"/x\"",
            "/c/copy-else \"FILE\" \"h:/x\"",
            "true\n/c/copy \"FILE\" \"h:/x\"",
        ] {
            assert_eq!(copies(other), None, "{other}");
        }
    }
}
