//! The scripts as text: that they are PowerShell, and that nothing becomes part of them that should not.
//!
//! No PowerShell runs here. What is parsed is parsed by a grammar, which knows what a program looks like and nothing of
//! what it does.

use super::script::{self, ALL, Script, WORKER};
use super::{STEPS, Settings, Windows};
use crate::{EndState, Os};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// Everything that a guest's PowerShell gets to read, each with its name.
fn texts() -> Vec<(String, String)> {
    let mut texts: Vec<_> = ALL.iter().map(|s| (s.name.to_owned(), s.whole())).collect();
    texts.push(("sysprep-worker".into(), WORKER.into()));
    texts.push(("bootstrap".into(), include_str!("bootstrap.ps1").into()));
    texts
}

fn parse(text: &str) -> tree_sitter::Tree {
    let mut parser = tree_sitter::Parser::new();
    parser.set_language(&tree_sitter_powershell::LANGUAGE.into()).unwrap();
    parser.parse(text, None).unwrap()
}

/// The first place that is no PowerShell.
fn mistake(text: &str) -> Option<String> {
    fn first(node: tree_sitter::Node<'_>, text: &str) -> Option<String> {
        if node.is_error() || node.is_missing() {
            let line = node.start_position().row;
            return Some(format!("line {}: {}", line + 1, text.lines().nth(line).unwrap_or_default()));
        }
        let mut cursor = node.walk();
        node.children(&mut cursor).find_map(|child| first(child, text))
    }
    first(parse(text).root_node(), text)
}

#[test]
fn every_script_parses() {
    for (name, text) in texts() {
        assert_eq!(mistake(&text), None, "{name}");
    }
    // The parser does find mistakes.
    for wrong in ["if ($x { 1 }", "function A { ", "foreach ($a in $b { }", "$x = @('a', 'b'", "try { 1 }}"] {
        assert!(mistake(wrong).is_some(), "{wrong}");
    }
}

/// Windows PowerShell 5.1 takes a script for one in its code page, and knows nothing of what came with 7.
#[test]
fn every_script_is_one_for_the_powershell_that_every_windows_has() {
    let all = texts().into_iter().chain([("unattend".to_owned(), include_str!("unattend.xml").to_owned())]);
    for (name, text) in all {
        assert!(text.is_ascii(), "{name} has letters that a code page may change");
        assert!(!text.contains('\t'), "{name}");
        for (n, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#')) {
            for newer in [" ?? ", "??=", "?.", " && ", " || ", "-Parallel", "-AsHashtable", "clean {"] {
                // cmd.exe has its own language, in a comment of it or in the unattend file.
                assert!(!line.contains(newer), "{name}:{}: {newer}: {line}", n + 1);
            }
            // It ends a script that an error ends; `Invoke-Quietly` is for that.
            assert!(!line.contains("2>") || line.trim() == "& $What 2>$null", "{name}:{}: {line}", n + 1);
            for dangerous in ["Invoke-Expression", "iex ", "DownloadString", "Invoke-WebRequest"] {
                assert!(!line.contains(dangerous), "{name}:{}: {line}", n + 1);
            }
        }
    }
}

/// A parameter that a script reads and nobody sends ends it: it runs in strict mode.
#[test]
fn every_parameter_that_is_read_is_sent() {
    let sent = |name: &str| match name {
        "state" | "sysprep-look" | "identity" | "journal" => json!({}),
        "check" => json!({ "skip_rearm": false }),
        "clean" => json!({ "dry": false, "user": "x" }),
        "sysprep" => json!({ "unattend": "", "worker": "", "end": "off" }),
        "setup" => {
            json!({ "name": "", "computer": "", "user": "", "port": 22, "generalised": true, "identity": false })
        }
        "activate" => json!({ "key": null, "host": null, "port": null }),
        "hook" => {
            json!({ "name": "", "content": "", "secret": "", "stage": "", "computer": "", "seconds": 1 })
        }
        "grant" => {
            let everything = super::access::parameters(&access(), "accounts open");
            assert!(everything["accounts"][0]["keys"].is_array());
            everything
        }
        "access-hook" => {
            json!({ "name": "", "content": "", "secret": "", "environment": [], "stage": "", "seconds": 1 })
        }
        "password" => json!({ "name": "", "password": "" }),
        "tell" => json!({ "text": "" }),
        "sessions" | "identify" => json!({}),
        "sanitize" => json!({ "user": "" }),
        "power" => json!({ "end": "off", "boot": null }),
        other => panic!("{other} is not in this test"),
    };
    for script in ALL {
        let parameters = sent(script.name);
        for (at, _) in script.text.match_indices("$P.") {
            let word: String = script.text[at + 3..]
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            assert!(parameters.get(&word).is_some(), "{} reads {word}", script.name);
        }
    }
}

#[test]
fn the_command_line_means_the_same_to_every_shell_and_is_short_enough_for_all() {
    let line = script::line();
    assert!(line.len() < 4000, "cmd.exe takes 8191 characters, this has {}", line.len());
    assert!(line.bytes().all(|b| b.is_ascii_alphanumeric() || b" .-+/=".contains(&b)), "{line}");
    let encoded = line.rsplit(' ').next().unwrap();
    let wide = STANDARD.decode(encoded).unwrap();
    let wide: Vec<u16> = wide.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let bootstrap = String::from_utf16(&wide).unwrap();
    assert!(bootstrap.starts_with("$ErrorActionPreference = 'Stop'\n"), "{bootstrap}");
    assert_eq!(mistake(&bootstrap), None);
}

/// Whatever is in a parameter, it comes back as it was, and the program is the same.
#[test]
fn nothing_in_a_parameter_becomes_part_of_the_program() {
    let nasty = "'; Remove-Item C:\\ -Recurse #\r\n$(calc.exe)`\"\u{0}\u{2019}ä€😀 @'\n'@ %PATH% & del ^ |";
    let read = |command: crate::Command| -> Value {
        let lines = String::from_utf8(command.input).unwrap();
        assert!(lines.is_ascii() && lines.ends_with('\n') && lines.lines().all(|line| line.len() <= 1000));
        let joined: String = lines.lines().collect();
        serde_json::from_slice(&STANDARD.decode(joined).unwrap()).unwrap()
    };
    let script = Script { name: "x", text: "Say $P.a" };
    let (one, two) = (script.command(&json!({ "a": nasty })), script.command(&json!({ "a": "plain" })));
    assert_eq!(one.line, two.line);
    let (one, two) = (read(one), read(two));
    assert_eq!(one["parameters"]["a"], nasty);
    assert_eq!(one["script"], two["script"]);
}

/// Whatever is cut off, it is not read as a whole.
#[test]
fn half_a_script_is_no_script() {
    let whole = script::STATE.command(&json!({})).input;
    let reads = |input: &[u8]| {
        let joined: String = String::from_utf8_lossy(input).lines().collect();
        STANDARD.decode(joined).is_ok_and(|bytes| serde_json::from_slice::<Value>(&bytes).is_ok())
    };
    assert!(reads(&whole));
    for cut in 0..whole.len() - 1 {
        assert!(!reads(&whole[..cut]), "cut at {cut}");
    }
}

#[test]
fn the_unattend_file_is_xml() {
    let mut reader = quick_xml::Reader::from_str(include_str!("unattend.xml"));
    reader.config_mut().check_end_names = true;
    let (mut depth, mut passes) = (0, Vec::new());
    loop {
        match reader.read_event().unwrap() {
            quick_xml::events::Event::Start(e) => {
                depth += 1;
                if e.name().as_ref() == "settings" {
                    let pass = e.try_get_attribute("pass").unwrap().unwrap();
                    passes.push(pass.value.into_owned());
                }
            }
            quick_xml::events::Event::End(_) => depth -= 1,
            quick_xml::events::Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!((depth, passes), (0, vec!["generalize".to_owned(), "specialize".into(), "oobeSystem".into()]));
}

#[test]
fn every_planned_step_is_one_of_the_module_and_sysprep_is_the_last() {
    let settings = Settings { kms_host: Some("kms".into()), ..Settings::default() };
    let windows = Windows::new(settings);
    for end in [None, Some(EndState::Off), Some(EndState::On), Some(EndState::Reboot)] {
        let plan = windows.plan(end);
        assert!(plan.iter().all(|(name, _)| Windows::has_step(name)), "{plan:?}");
        if end.is_some() {
            assert_eq!(plan.last().unwrap().0, "sysprep");
            assert!(plan.iter().any(|(name, _)| *name == windows.unmaking()));
        }
    }
    assert!(!Windows::default().plan(None).iter().any(|(name, _)| *name == "activate"));
    assert_eq!(STEPS.len(), 16);
    assert!(windows.plan_grant().iter().all(|(name, _)| Windows::has_step(name)));
}

/// A product key does not come out of what is shown of the settings.
#[test]
fn the_product_key_is_never_shown() {
    let key = "AAAAA-BBBBB-CCCCC-DDDDD-EEEEE";
    let settings = Settings { product_key: Some(vcl_types::Secret::new(key.into())), ..Settings::default() };
    assert!(!format!("{:?}", Windows::new(settings)).contains(key));
}

/// Everything that may be in one, and nothing that a program could take for its own.
fn access() -> vcl_types::Access {
    serde_json::from_value(json!({
        "reservation": 7,
        "accounts": [{ "name": "alice", "sudo": true, "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7 '; calc"] }],
        "methods": [{ "name": "rdp", "port": 3389, "service": "TermService" }, { "name": "ssh", "port": 22 }],
        "from": { "only": ["10.0.0.9/32", "fd00::1/64"] },
        "facts": { "owner": "$(calc)" },
        "user_data": "aGVsbG8=",
    }))
    .unwrap()
}

#[test]
fn what_is_granted_goes_there_as_data() {
    let access = access();
    assert_eq!(access.check(), Ok(()));
    let parameters = super::access::parameters(&access, "open");
    assert_eq!(parameters["allow"], json!(["10.0.0.9/32", "fd00::/64"]));
    assert_eq!(parameters["accounts"][0]["keys"][0], "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7 '; calc");
    assert_eq!((&parameters["from"], &parameters["services"]), (&json!("only"), &json!(["TermService"])));
    // Nothing of it stands on the command line, a password least of all.
    let secret = script::PASSWORD.command(&json!({ "name": "alice", "password": "hunter2" }));
    let other = script::PASSWORD.command(&json!({ "name": "alice", "password": "x" }));
    assert_eq!(secret.line, other.line);
}
