use super::*;
use proptest::prelude::*;

#[test]
fn an_account_is_a_person_s_on_every_system() {
    for good in ["alice", "a", "b2", "anna_kurz-2", &"x".repeat(32)] {
        assert!(good.parse::<AccountName>().is_ok(), "{good}");
    }
    let long = "x".repeat(33);
    for bad in [
        "",
        "root",
        "Alice",
        "administrator",
        "1a",
        "-a",
        "a-",
        "a b",
        "a/b",
        "..",
        "ä",
        "a\n",
        "a:b",
        "a$",
        "com1",
        "nul",
        "www-data",
        "systemd-network",
        "a;id",
        &long,
    ] {
        assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<AccountName>(bad.into()).is_err(), "{bad:?}");
    }
    let message = "root".parse::<AccountName>().unwrap_err().to_string();
    assert!(
        message.starts_with("`root` is not a account name:") && message.ends_with("as in `alice`"),
        "{message}"
    );
}

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF1s7";

#[test]
fn a_key_with_options_is_none() {
    assert_eq!(ssh_key(&format!(" {KEY}  alice at  home\n")).unwrap(), format!("{KEY} alice at home"));
    assert_eq!(ssh_key(KEY).unwrap(), KEY);
    for bad in [
        format!("command=\"rm -rf /\" {KEY}"),
        format!("{KEY}\n{KEY}"),
        format!("no-pty {KEY}"),
        "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned(),
        "ssh-ed25519".to_owned(),
        String::new(),
    ] {
        assert!(ssh_key(&bad).is_err(), "{bad}");
    }
}

fn access() -> Access {
    Access {
        reservation: ReservationId(7),
        accounts: vec![Account {
            name: "alice".parse().unwrap(),
            ssh_keys: vec![KEY.into()],
            sudo: true,
            uid: None,
        }],
        methods: vec![ConnectMethod { name: "ssh".into(), port: 22, service: None, script: None }],
        from: Reach::Only(vec!["10.0.0.9/32".parse().unwrap()]),
        keep: Vec::new(),
        facts: BTreeMap::from([("owner".to_owned(), "Alice; $(id)".to_owned())]),
        user_data: Some(UserData::new(b"hello".to_vec()).unwrap()),
    }
}

#[test]
fn access_is_read_back_as_it_was_written() {
    let written = serde_json::to_value(access()).unwrap();
    assert_eq!(written["from"], serde_json::json!({ "only": ["10.0.0.9/32"] }));
    assert_eq!(written["user_data"], "aGVsbG8=");
    assert_eq!(serde_json::from_value::<Access>(written).unwrap(), access());
    assert!(serde_json::from_value::<UserData>("?".into()).is_err());
    assert!(UserData::new(vec![0; UserData::MOST + 1]).is_err());
}

#[test]
fn what_cannot_be_given_to_a_guest_is_said() {
    assert_eq!(access().check(), Ok(()));
    let refused = |change: fn(&mut Access), part: &str| {
        let mut access = access();
        change(&mut access);
        let message = access.check().unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    };
    refused(|a| a.accounts[0].uid = Some(0), "user id");
    refused(|a| a.accounts.push(a.accounts[0].clone()), "name each account once");
    refused(|a| a.accounts[0].ssh_keys.push("x".into()), "public ssh key");
    refused(|a| a.methods[0].name = "s;h".into(), "connect method");
    refused(|a| a.methods[0].port = 0, "port");
    refused(|a| a.methods[0].service = Some("-x".into()), "service");
    refused(|a| a.methods[0].script = Some("../x".into()), "script");
    refused(|a| drop(a.facts.insert("PATH".into(), String::new())), "fact");
    refused(|a| drop(a.facts.insert("a=b".into(), String::new())), "fact");
    refused(|a| drop(a.facts.insert("a".into(), "x".repeat(5000))), "4096");
}

#[test]
fn what_says_nothing_may_be_the_same() {
    let mut one = Identity::default();
    for (item, value) in [
        ("machine-id", ""),
        ("machine-id", "uninitialized"),
        ("machine-id", "00000000000000000000000000000000"),
        ("hostname", "localhost"),
        ("host-id", "007f0101"),
        ("mac", "00:00:00:00:00:00"),
        ("mac", "ff:ff:ff:ff:ff:ff"),
    ] {
        one.add(item, value);
    }
    assert_eq!(one.shared(&one.clone()), []);
    one.add("machine-id", "11112222333344445555666677778888");
    let expected = SharedItem { item: "machine-id".into(), value: "11112222333344445555666677778888".into() };
    assert_eq!(one.shared(&one.clone()), [expected]);
}

fn identity() -> impl Strategy<Value = Identity> {
    let item = prop::sample::select(vec!["machine-id", "hostname", "mac", "ssh-host-key", "host-id"]);
    let value = prop_oneof!["[ab]{0,3}", Just("localhost".to_owned()), ".{0,4}"];
    prop::collection::vec((item, value), 0..12).prop_map(|pairs| {
        let mut identity = Identity::default();
        pairs.into_iter().for_each(|(item, value)| identity.add(item, value));
        identity
    })
}

proptest! {
    /// Whoever is compared with whom: exactly what stands in both, and tells something, is shared.
    #[test]
    fn what_is_shared_is_what_both_have(one in identity(), two in identity()) {
        let shared = one.shared(&two);
        prop_assert_eq!(&shared, &two.shared(&one));
        for SharedItem { item, value } in &shared {
            prop_assert!(one.of(item).contains(&value.as_str()) && two.of(item).contains(&value.as_str()));
            prop_assert!(tells(item, value));
        }
        for (item, values) in one.items() {
            for value in values.iter().filter(|v| two.of(item).contains(&v.as_str()) && tells(item, v)) {
                let expected = SharedItem { item: item.to_owned(), value: value.clone() };
                prop_assert!(shared.contains(&expected));
            }
        }
        prop_assert_eq!(Identity::default().shared(&two), vec![]);
    }

    /// Whatever it is, a name that is taken is safe in a path, a shell, a sudoers file and on Windows.
    #[test]
    fn no_account_name_means_something_to_anybody(text in "\\PC{0,40}|[a-z0-9_.$-]{0,40}") {
        if let Ok(name) = text.parse::<AccountName>() {
            prop_assert!(name.as_str().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b)));
            prop_assert!(name.as_str().starts_with(|c: char| c.is_ascii_lowercase()) && name.as_str().len() <= 32);
            prop_assert!(name.as_str() != "root");
        }
    }

    /// What is taken for a key is one line without options.
    #[test]
    fn a_key_that_is_taken_is_one_line(text in "(ssh-ed25519 |x )?[A-Za-z0-9+/=]{0,30}[ \\PC\n\r\t\"]{0,20}") {
        if let Ok(key) = ssh_key(&text) {
            prop_assert!(!key.contains(char::is_control) && key.starts_with("ssh-"));
            prop_assert_eq!(ssh_key(&key).unwrap(), key);
        }
    }
}
