//! What a guest's script says, and how it is read. All of it is untrusted, so it is bounded and cleaned here.

use crate::{Error, ErrorKind, Output, Result};
use vcl_types::{Endpoint, HostKey};

/// What a script said: lines of words between tabs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    lines: Vec<Vec<String>>,
}

impl Answer {
    /// Reads what a script left behind.
    ///
    /// # Errors
    /// It failed: the error names what was done and has its last words.
    pub(crate) fn of(output: Output, to: &Endpoint, what: &str) -> Result<Self> {
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
    pub(crate) fn told<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a str> {
        let of_kind = move |line: &&Vec<String>| line.first().is_some_and(|k| k == kind);
        self.lines.iter().filter(of_kind).filter_map(|line| line.get(1)).map(String::as_str)
    }
    /// The first two words behind each line of that kind.
    pub(crate) fn pairs<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let of_kind = move |line: &&Vec<String>| line.first().is_some_and(|k| k == kind);
        self.lines
            .iter()
            .filter(of_kind)
            .filter_map(|line| Some((line.get(1)?.as_str(), line.get(2)?.as_str())))
    }
    /// The same as texts, each once.
    pub(crate) fn texts(&self, kind: &str) -> Vec<String> {
        let mut texts: Vec<String> = Vec::new();
        for text in self.told(kind) {
            if !texts.iter().any(|t| t == text) {
                texts.push(text.to_owned());
            }
        }
        texts
    }
    /// The same, counted: `machine-id`, `3 ssh host keys`.
    pub(crate) fn summary(&self, kind: &str) -> Vec<String> {
        let count = |text: &String| match self.told(kind).filter(|t| t == text).count() {
            1 => text.clone(),
            n => format!("{n} {}", plural(text)),
        };
        self.texts(kind).iter().map(count).collect()
    }
    /// The host keys that it told.
    pub(crate) fn host_keys(&self) -> Vec<HostKey> {
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
pub(crate) fn last_lines(output: &Output, most: usize) -> String {
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
}
