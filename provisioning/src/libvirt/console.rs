//! A machine's serial console: its last lines for people, and the host keys that a guest prints on it.
//!
//! What is on a console is untrusted. A guest's user can write anything there, after the guest has booted.

use super::Libvirt;
use camino::Utf8Path;
use vcl_types::HostKey;

/// The host keys that a guest printed on its console since it was started, the last of each algorithm.
pub(super) fn printed_keys(console: &str) -> Vec<HostKey> {
    let mut keys: Vec<HostKey> = Vec::new();
    for line in console.lines() {
        let Some((_, rest)) = line.split_once("vcld-host-key: ") else { continue };
        if let Some(key) = HostKey::parse(rest.trim()) {
            keys.retain(|k| k.algorithm != key.algorithm);
            keys.push(key);
        }
    }
    keys.truncate(8);
    keys
}

/// The last lines of a console, with what could drive a terminal taken out.
pub(super) fn last_lines(console: &str, lines: usize) -> String {
    let clean: Vec<String> =
        console.lines().map(|line| strip_escapes(line.trim_end())).filter(|line| !line.is_empty()).collect();
    clean[clean.len().saturating_sub(lines)..].join("\n")
}

/// Takes out ANSI escape sequences and control characters.
fn strip_escapes(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            } else {
                chars.next();
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// How much of a console is read for an error's last lines.
const SHOWN: u64 = 16 * 1024;

impl Libvirt {
    /// The error with the console's last lines: what an admin would look at next.
    pub(super) async fn with_console(&self, error: vcl_job::Error, console: &Utf8Path) -> vcl_job::Error {
        with_text(&error, self.read_console(console, SHOWN).await.map_err(|e| e.chain()))
    }
}

fn with_text(error: &vcl_job::Error, text: Result<Option<String>, String>) -> vcl_job::Error {
    let failure = error.failure();
    let shown = match text.map(|text| last_lines(&text.unwrap_or_default(), 12)) {
        Err(e) => format!("its console cannot be read: {e}"),
        Ok(shown) if shown.is_empty() => {
            "its console has shown nothing yet: it is still in its firmware, has no boot \
             loader, or no console on ttyS0"
                .to_owned()
        }
        Ok(shown) => format!("the last lines of its console:\n{shown}"),
    };
    vcl_job::Error::new(failure.kind, format!("{}; {shown}", failure.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_read_from_among_what_a_guest_prints() {
        let console = "[    1.0] boot\r\nvcld-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFOLD000\r\nnoise\n\
            vcld-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINEW0000 root@a\r\nvcld-host-key: rubbish\n";
        let keys = printed_keys(console);
        assert_eq!(keys.len(), 1);
        assert!(keys[0].key.ends_with("INEW0000"));
    }

    #[test]
    fn a_console_cannot_drive_the_terminal_it_is_shown_on() {
        let console = "a\n\u{1b}[2J\u{1b}[1;31mpanic\u{7}\u{1b}[0m\n\n\u{1b}]0;title\n";
        assert_eq!(last_lines(console, 2), "panic\n0;title");
    }
}
