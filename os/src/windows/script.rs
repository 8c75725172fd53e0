//! The scripts that run in a guest, and how they get there.
//!
//! # How a script gets there
//!
//! On the command line stands `bootstrap.ps1` alone, as `-EncodedCommand`: its letters mean the same to cmd.exe, to
//! PowerShell and to a POSIX shell, whichever of them the guest's ssh server starts, and it is far shorter than the 8191
//! characters that cmd.exe takes. Script and parameters come on standard input, as base64 of JSON:
//!
//! * nothing in a parameter can become part of a program, and no secret stands on a command line;
//! * the guest's code page does not matter, nor does a line that is long;
//! * what is cut off in the middle is no JSON, so it does nothing.
//!
//! `powershell -Command -` would be shorter, and reads its input a line at a time: a function whose braces stand on several
//! lines wants an empty line after it, and half of what was sent is run when a connection breaks.
//!
//! PowerShell itself reads standard input for `$input`, so a script must not read it by other means.

use crate::Command;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A script: a file of this folder.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

macro_rules! script {
    ($name:literal) => {
        Script { name: $name, text: include_str!(concat!($name, ".ps1")) }
    };
}

/// One that knows what a reservation has put into a guest.
macro_rules! with_access {
    ($name:literal) => {
        Script {
            name: $name,
            text: concat!(include_str!("access.ps1"), "\n", include_str!(concat!($name, ".ps1"))),
        }
    };
}

pub(super) const STATE: Script = script!("state");
pub(super) const CHECK: Script = script!("check");
pub(super) const CLEAN: Script = with_access!("clean");
pub(super) const SYSPREP: Script = script!("sysprep");
pub(super) const SYSPREP_LOOK: Script = script!("sysprep-look");
pub(super) const IDENTITY: Script = script!("identity");
pub(super) const SETUP: Script = with_access!("setup");
pub(super) const ACTIVATE: Script = script!("activate");
pub(super) const HOOK: Script = script!("hook");
pub(super) const SANITIZE: Script = with_access!("sanitize");
pub(super) const JOURNAL: Script = script!("journal");
pub(super) const POWER: Script = script!("power");
pub(super) const GRANT: Script = with_access!("grant");
pub(super) const ACCESS_HOOK: Script = with_access!("access-hook");
pub(super) const PASSWORD: Script = with_access!("password");
pub(super) const SESSIONS: Script = with_access!("sessions");
pub(super) const TELL: Script = script!("tell");
pub(super) const IDENTIFY: Script = script!("identify");

/// What `sysprep.ps1` hands to the task that it makes.
pub(super) const WORKER: &str = include_str!("sysprep-worker.ps1");
const BOOTSTRAP: &str = include_str!("bootstrap.ps1");
const PRELUDE: &str = include_str!("prelude.ps1");

impl Script {
    /// The whole of what PowerShell runs. Its last word is `done`, which a script that did not come to its end does not
    /// say.
    pub(super) fn whole(&self) -> String {
        format!("param($P)\n{PRELUDE}\n{}\nSay 'done'\n", self.text)
    }
    /// The command that runs it on the guest. `parameters` is an object.
    pub(super) fn command(&self, parameters: &Value) -> Command {
        Command::new(line()).input(self.input(parameters))
    }
    fn input(&self, parameters: &Value) -> String {
        const LINE: usize = 1000;
        let sent = json!({ "name": self.name, "script": self.whole(), "parameters": parameters });
        let encoded = STANDARD.encode(sent.to_string());
        let mut text = String::with_capacity(encoded.len() + encoded.len() / LINE + 2);
        for (n, c) in encoded.chars().enumerate() {
            if n > 0 && n % LINE == 0 {
                text.push('\n');
            }
            text.push(c);
        }
        text.push('\n');
        text
    }
}

/// The command line: PowerShell with the bootstrap.
pub(super) fn line() -> String {
    let short: String = BOOTSTRAP
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .fold(String::new(), |text, line| text + line + "\n");
    let wide: Vec<u8> = short.encode_utf16().flat_map(u16::to_le_bytes).collect();
    // The formats are named: PowerShell would take what is encoded for a sign that another PowerShell started it, and
    // write its errors as XML.
    format!(
        "powershell.exe -NoLogo -NoProfile -NonInteractive -ExecutionPolicy Bypass -InputFormat Text -OutputFormat Text \
         -EncodedCommand {}",
        STANDARD.encode(wide)
    )
}

/// Every script, for tests that go over all of them.
#[cfg(test)]
pub(super) const ALL: [Script; 18] = [
    STATE,
    CHECK,
    CLEAN,
    SYSPREP,
    SYSPREP_LOOK,
    IDENTITY,
    SETUP,
    ACTIVATE,
    HOOK,
    SANITIZE,
    JOURNAL,
    POWER,
    GRANT,
    ACCESS_HOOK,
    PASSWORD,
    SESSIONS,
    TELL,
    IDENTIFY,
];
