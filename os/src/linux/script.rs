//! The scripts that run in a guest, and how they get there.

use crate::shell::quote;
use crate::{Command, EndState};
use std::fmt::Write as _;
use vcl_types::Endpoint;

/// A script: a file of this folder.
pub(super) struct Script {
    text: &'static str,
}

pub(super) const IDENTITY: Script = Script { text: include_str!("identity.sh") };
pub(super) const FINISH: Script = Script { text: include_str!("finish.sh") };
pub(super) const SESSIONS: Script = Script { text: include_str!("sessions.sh") };
pub(super) const TELL: Script = Script { text: include_str!("tell.sh") };
pub(super) const NAT: Script = Script { text: include_str!("nat.sh") };
pub(super) const IDENTIFY: Script = Script { text: include_str!("identify.sh") };

/// A script that knows what a reservation has put into a guest.
macro_rules! with_access {
    ($name:literal) => {
        Script { text: concat!(include_str!("access.sh"), include_str!("firewall.sh"), include_str!($name)) }
    };
}
pub(super) const SETUP: Script = with_access!("setup.sh");
pub(super) const GENERALISE: Script = with_access!("generalise.sh");
pub(super) const SANITIZE: Script = with_access!("sanitize.sh");
pub(super) const GRANT: Script = with_access!("grant.sh");
pub(super) const PASSWORD: Script = with_access!("password.sh");

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
    /// One with this text, for tests of how parameters get to it.
    #[cfg(test)]
    pub(super) const fn of_text(text: &'static str) -> Self {
        Self { text }
    }
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
    /// The same, telling it where this connection comes from: `sudo` would keep that to itself.
    pub(super) fn command_from(&self, to: &Endpoint, parameters: &[(&str, String)]) -> Command {
        let line = as_root(to, "env VCLD_PEER=\"$SSH_CONNECTION\" sh -s");
        Command::new(line).input(self.input("", parameters))
    }
}

/// A command line as root, whoever we log in as.
pub(super) fn as_root(to: &Endpoint, line: &str) -> String {
    if to.user == "root" { line.to_owned() } else { format!("sudo -n {line}") }
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
