//! The scripts that run in a guest: how they get there, and how what they say is read.

use crate::shell::quote;
use crate::{Command, EndState, Error, ErrorKind, Output, Result};
use std::fmt::Write as _;
use vcl_types::{Endpoint, HostKey};

/// A script: a file of this folder.
pub(super) struct Script {
    text: &'static str,
}

pub(super) const IDENTITY: Script = Script { text: include_str!("identity.sh") };
pub(super) const SETUP: Script = Script { text: include_str!("setup.sh") };
pub(super) const GENERALISE: Script = Script { text: include_str!("generalise.sh") };
pub(super) const FINISH: Script = Script { text: include_str!("finish.sh") };
pub(super) const SANITIZE: Script = Script { text: include_str!("sanitize.sh") };

/// The parameters of `generalise.sh`.
pub(super) fn generalise(dry: bool) -> Vec<(&'static str, String)> {
    let end = |text: &str| text.trim_end().to_owned();
    vec![
        ("DRY", if dry { "1".to_owned() } else { String::new() }),
        ("FIRST_BOOT", end(include_str!("first-boot.sh"))),
        ("FIRST_BOOT_UNIT", end(include_str!("vcld-first-boot.service"))),
        ("HOST_KEYS_UNIT", end(include_str!("vcld-host-keys.service"))),
        ("SYSV", end(include_str!("vcld-first-boot.sysv"))),
        ("OPENRC", end(include_str!("vcld-first-boot.openrc"))),
    ]
}

/// The parameters of `finish.sh`.
pub(super) fn finish(identity: &str, end: EndState) -> [(&'static str, String); 2] {
    let end = match end {
        EndState::Off => "off",
        EndState::On => "on",
        EndState::Reboot => "reboot",
    };
    [("IDENTITY", identity.to_owned()), ("END", end.to_owned())]
}

impl Script {
    /// The whole input of a shell. It is one compound command: a shell reads that to its end before it does anything,
    /// so a connection that breaks while it is sent runs nothing rather than half of a line. Its last word is `done`, which
    /// a script that did not come to its end does not say.
    pub(super) fn input(&self, root: &str, parameters: &[(&str, String)]) -> String {
        let mut text = String::from("{\nset -u\nexport LC_ALL=C\numask 022\n");
        text.push_str("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
        let _ = writeln!(text, "ROOT={}", quote(root));
        for (name, value) in parameters {
            let _ = writeln!(text, "{name}={}", quote(value));
        }
        text.push_str(self.text);
        text.push_str("\necho done\nexit 0\n}\n");
        text
    }
    /// The command that runs it on the guest.
    pub(super) fn command(&self, to: &Endpoint, parameters: &[(&str, String)]) -> Command {
        Command::new(as_root(to, "sh -s")).input(self.input("", parameters))
    }
}

/// A command line as root, whoever we log in as.
pub(super) fn as_root(to: &Endpoint, line: &str) -> String {
    if to.user == "root" { line.to_owned() } else { format!("sudo -n {line}") }
}

/// What a script said: lines of words between tabs. All of it is untrusted, so it is bounded and cleaned here.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    lines: Vec<Vec<String>>,
}

impl Answer {
    /// Reads what a script left behind.
    ///
    /// # Errors
    /// It failed: the error names what was done and has its last words.
    pub(super) fn of(output: Output, to: &Endpoint, what: &str) -> Result<Self> {
        const LINES: usize = 2000;
        let text = output.text();
        if output.status != 0 || text.lines().next_back() != Some("done") {
            let said = last_lines(&output, 3);
            let (status, kind) = (output.status, kind_of(output.status));
            let context = if said.is_empty() {
                format!("{what} on {to} failed with status {status} and said nothing")
            } else {
                format!("{what} on {to} failed: {said}")
            };
            return Err(Error::new(kind, context));
        }
        let words = |line: &str| line.splitn(3, '\t').map(clean).collect();
        Ok(Self { lines: text.lines().take(LINES).map(words).collect() })
    }
    /// The first word behind each line of that kind.
    pub(super) fn told<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let of_kind = move |line: &&Vec<String>| line.first().is_some_and(|k| k == kind);
        self.lines.iter().filter(of_kind).filter_map(|line| line.get(1)).map(String::as_str)
    }
    /// The same as texts, each once.
    pub(super) fn texts(&self, kind: &str) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for text in self.told(kind) {
            if !texts.iter().any(|t| t == text) {
                texts.push(text.to_owned());
            }
        }
        texts
    }
    /// The same, counted: `machine-id`, `3 ssh host keys`.
    pub(super) fn summary(&self, kind: &str) -> Vec<String> {
        let count = |text: &String| match self.told(kind).filter(|t| t == text).count() {
            1 => text.clone(),
            n => format!("{n} {}", plural(text)),
        };
        self.texts(kind).iter().map(count).collect()
    }
    /// The host keys that it told.
    pub(super) fn host_keys(&self) -> Vec<HostKey> {
        const KEYS: usize = 16;
        let mut keys = Vec::new();
        for key in self.told("hostkey").filter_map(HostKey::parse) {
            if !keys.contains(&key) && keys.len() < KEYS {
                keys.push(key);
            }
        }
        keys
    }
}

/// What a script's exit status means: 4 is one of ours.
fn kind_of(status: i32) -> ErrorKind {
    if status == 4 { ErrorKind::Unsupported } else { ErrorKind::CommandFailed }
}

/// The last lines of what a command said, its errors rather than its output.
pub(super) fn last_lines(output: &Output, most: usize) -> String {
    let of = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines: Vec<_> = text.lines().map(clean).filter(|l| !l.is_empty() && l != "done").collect();
        lines[lines.len().saturating_sub(most)..].join(" / ")
    };
    let errors = of(&output.stderr);
    if errors.is_empty() { of(&output.stdout) } else { errors }
}

/// Without what could steer a terminal or fill a log.
fn clean(text: &str) -> String {
    const LIMIT: usize = 1000;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text.chars().take(LIMIT).map(printable).collect();
    text.trim().to_owned()
}

fn plural(text: &str) -> String {
    let (head, tail) = match text.split_once(" in ").or_else(|| text.split_once(" of ")) {
        Some((head, _)) => (head, &text[head.len()..]),
        None => (text, ""),
    };
    let consonant = |c: char| !"aeiou".contains(c);
    match head.strip_suffix('y') {
        Some(stem) if stem.ends_with(consonant) => format!("{stem}ies{tail}"),
        _ if head.ends_with('x') || head.ends_with('s') => format!("{head}es{tail}"),
        _ => format!("{head}s{tail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vcl_types::HostKeys;

    fn to() -> Endpoint {
        Endpoint {
            address: "10.0.0.5".parse().unwrap(),
            port: 22,
            user: "root".into(),
            host_keys: HostKeys::first_use(),
        }
    }
    fn output(status: i32, stdout: &str, stderr: &str) -> Output {
        Output { status, stdout: stdout.into(), stderr: stderr.into() }
    }

    #[test]
    fn what_changed_is_counted() {
        let said = "changed\tmachine-id\t/etc/machine-id\nchanged\tssh host key\t/a\nchanged\tssh host key\t/b\n\
            changed\tshell history\t/c\nchanged\tshell history\t/d\nkeep\tuser alice\nkeep\tuser alice\n\
            changed\tknown hosts of root\t/e\nchanged\tknown hosts of root\t/f\nchanged\tmailbox\ta\nchanged\tmailbox\tb\ndone\n";
        let answer = Answer::of(output(0, said, ""), &to(), "x").unwrap();
        let expected =
            ["machine-id", "2 ssh host keys", "2 shell histories", "2 known hostses of root", "2 mailboxes"];
        assert_eq!(answer.summary("changed"), expected);
        assert_eq!(answer.texts("keep"), ["user alice"]);
    }

    #[test]
    fn a_script_that_did_not_come_to_its_end_has_failed() {
        for (status, stdout) in [(0, ""), (0, "changed\ta\tb\n"), (1, "done\n"), (137, "")] {
            let error =
                Answer::of(output(status, stdout, "warning\nno room\n"), &to(), "generalise").unwrap_err();
            assert_eq!(error.kind, ErrorKind::CommandFailed);
            assert_eq!(error.to_string(), "generalise on root@10.0.0.5:22 failed: warning / no room");
        }
        let error = Answer::of(output(4, "", "it has no command poweroff"), &to(), "finish").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
    }

    #[test]
    fn what_a_guest_says_is_not_believed() {
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7";
        let said = format!(
            "hostkey\t{key} root@x\nhostkey\t{key} again\nhostkey\tnot a key\nhostkey\nchanged\t\u{1b}[31mred\u{7}\tx\n{}done\n",
            "changed\tx\ty\n".repeat(5000)
        );
        let answer = Answer::of(output(0, &said, ""), &to(), "x").unwrap();
        assert_eq!(answer.host_keys(), [HostKey::parse(key).unwrap()]);
        assert_eq!(answer.texts("changed")[0], "[31mred");
        assert_eq!(answer.lines.len(), 2000);
    }

    /// Whatever is cut off, nothing of it runs.
    #[test]
    fn half_a_script_does_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let script = Script { text: "touch \"$ROOT/ran\"\n" };
        let whole = script.input(dir.path().to_str().unwrap(), &[("A", "x'\n}\ntouch /".to_owned())]);
        let ran = |input: &str| {
            use std::io::Write as _;
            let mut child = std::process::Command::new("sh")
                .arg("-s")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
            child.wait().unwrap();
            dir.path().join("ran").exists()
        };
        for cut in (0..whole.len() - 3).step_by(3) {
            assert!(!ran(&whole[..cut]), "{}", &whole[..cut]);
        }
        assert!(ran(&whole));
    }

    #[test]
    fn who_is_not_root_becomes_root() {
        assert_eq!(as_root(&to(), "sh -s"), "sh -s");
        assert_eq!(as_root(&Endpoint { user: "admin".into(), ..to() }, "sh -s"), "sudo -n sh -s");
    }
}
