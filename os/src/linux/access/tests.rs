//! That nothing in what is granted becomes part of a program, and who runs what in which order.

use super::*;
use crate::linux::script::{GRANT, PASSWORD, Script, TELL};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command as Process, Stdio};
use vcl_types::{Account, ConnectMethod, ReservationId};

fn shell(input: &str) -> (Option<i32>, Vec<u8>) {
    let mut child = Process::new("sh")
        .arg("-s")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.code(), out.stdout)
}

/// A fact's name, and anything at all for its value.
fn facts() -> impl Strategy<Value = BTreeMap<String, String>> {
    let value = prop_oneof![
        any::<String>(),
        "['\"`$();&|<>\\\\\n\r\t{}*?~#! a]{0,20}",
        Just("'; touch /tmp/vcld-was-injected; '".to_owned())
    ];
    prop::collection::btree_map("[a-z][a-z0-9_]{0,8}", value, 0..4)
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7";

fn access(facts: BTreeMap<String, String>, comment: &str) -> Access {
    Access {
        reservation: ReservationId(7),
        accounts: vec![Account {
            name: "alice".parse().unwrap(),
            ssh_keys: vec![format!("{KEY} {comment}")],
            sudo: true,
            uid: None,
        }],
        methods: vec![ConnectMethod { name: "ssh".into(), port: 22, service: None, script: None }],
        from: Reach::Only(vec!["10.0.0.9/32".parse().unwrap(), "10.1.2.3/8".parse().unwrap()]),
        keep: Vec::new(),
        facts,
        user_data: None,
    }
}

fn borrowed(parameters: &[(String, String)]) -> Vec<(&str, String)> {
    parameters.iter().map(|(name, value)| (name.as_str(), value.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a fact, a key's comment, a password or a notice is, a shell has it as it was, and nothing else happens.
    #[test]
    fn what_is_granted_is_data(facts in facts(), comment in "[^\\p{Cc}]{0,20}|'; exit 3; '", text in any::<String>()) {
        let access = access(facts, &comment);
        prop_assert_eq!(access.check(), Ok(()));
        let mut given = parameters(&access, "gis-01", "accounts open");
        given.push(("TEXT".into(), text.clone()));
        // The script shows each of them and what the hooks would have in their environment.
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        let show: String = names.iter().map(|name| format!("printf '%s\\0' \"${name}\"\n")).collect();
        let variables = variables(&access, "gis-01");
        let environment: String =
            variables.iter().map(|(name, _)| format!("printf '%s\\0' \"${name}\"\n")).collect();
        let script = format!("{show}eval \"$ENVIRONMENT\"\n{environment}");
        let script = Script::of_text(Box::leak(script.into_boxed_str()));
        let (status, out) = shell(&script.input("", &borrowed(&given)));
        prop_assert_eq!(status, Some(0));
        let expected: Vec<u8> = given
            .iter()
            .chain(&variables)
            .flat_map(|(_, value)| [value.replace('\0', "").as_bytes(), b"\0"].concat())
            .chain(*b"done\n")
            .collect();
        prop_assert_eq!(out, expected);
        prop_assert!(!std::path::Path::new("/tmp/vcld-was-injected").exists());
    }
}

#[test]
fn a_fact_takes_no_variable_of_ours_and_nets_are_written_once() {
    let facts = BTreeMap::from([
        ("owner".to_owned(), "Ada's".to_owned()),
        ("account".to_owned(), "root".to_owned()),
        ("methods".to_owned(), "x".to_owned()),
    ]);
    let mut access = access(facts, "");
    access.keep = vec!["10.0.0.0/9".parse().unwrap(), "fd00::1/128".parse().unwrap()];
    let of: BTreeMap<_, _> = variables(&access, "gis-01").into_iter().collect();
    assert_eq!(of["VCLD_OWNER"], "Ada's");
    assert_eq!((of["VCLD_ACCOUNT"].as_str(), of["VCLD_METHODS"].as_str()), ("alice", "ssh:22"));
    assert_eq!((of["VCLD_COMPUTER"].as_str(), of["VCLD_RESERVATION"].as_str()), ("gis-01", "7"));
    let given: BTreeMap<_, _> = parameters(&access, "gis-01", "accounts").into_iter().collect();
    assert_eq!((given["FROM"].as_str(), given["ALLOW4"].as_str()), ("only", "10.0.0.0/8"));
    assert_eq!(given["ALLOW6"], "fd00::1");
    assert_eq!((given["KEEP4"].as_str(), given["KEEP6"].as_str()), ("10.0.0.0/9", "fd00::1"));
    assert_eq!(given["KEYS_1"], KEY);
    assert_eq!(given["ACCOUNTS"], "alice yes -\n");
}

/// A password is in what a shell reads from its standard input, and in no word that another user could see.
#[test]
fn a_password_is_on_no_command_line() {
    let to = vcl_types::Endpoint {
        address: "10.0.0.5".parse().unwrap(),
        port: 22,
        user: "admin".into(),
        host_keys: vcl_types::HostKeys::first_use(),
    };
    let secret = [("NAME", "alice".to_owned()), ("PASSWORD", "hunter2".to_owned())];
    let command = PASSWORD.command(&to, &secret);
    assert_eq!(command.line, "sudo -n sh -s");
    assert!(String::from_utf8_lossy(&command.input).contains("hunter2"));
    let text = include_str!("../password.sh");
    let uses: Vec<&str> = text.lines().filter(|l| l.contains("$PASSWORD")).collect();
    assert_eq!(uses.len(), 1, "{uses:?}");
    assert!(uses[0].trim().starts_with("printf "), "a word of the shell's own");
    let command = GRANT.command_from(&to, &[]);
    assert_eq!(command.line, "sudo -n env VCLD_PEER=\"$SSH_CONNECTION\" sh -s");
    let notice = TELL.command(&to, &[("TEXT", "$(id)".to_owned())]);
    assert!(String::from_utf8_lossy(&notice.input).contains("TEXT='$(id)'"));
}
